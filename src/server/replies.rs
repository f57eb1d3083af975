//! Lists of replies: how a run is answered, how much a turn may send, and what is left when a part has been sent. Pure.

use std::time::Instant;

use super::endpoint::{ReplyFlow, TURN_BYTES};
use super::reply::ReplyTemplate;
use crate::guard::{Guard, Refusal, Verdict};
use crate::impair::Link;
use crate::net::{Envelope, Outgoing, Run, header_length};

/// Asks the guard about the first datagrams of a run; returns the replies to those that may be answered, and its
/// verdict.
pub fn reply_to<'a>(
    run: &Run<'a>,
    template: Option<&'a ReplyTemplate>,
    guard: &Guard,
    now: Instant,
) -> (Option<Outgoing<'a>>, Verdict) {
    let Some(template) = template else { return (None, Verdict::refuse(run.count(), Refusal::Discard)) };
    let &Envelope { source: to, local: from, .. } = run.envelope;
    let reply = Outgoing { to, from, parts: template.reply(run.bytes), count: run.count(), piece: run.segment };
    let verdict = guard.check_run(run, &reply, now);
    ((verdict.answered > 0).then(|| reply.slice(0, verdict.answered)), verdict)
}

/// Adds a run, in parts that can leave as one send each: only between parts can a turn end ([`within_turn`]).
pub fn add<'a>(replies: &mut Vec<Outgoing<'a>>, run: Option<Outgoing<'a>>) {
    match run {
        Some(run) if run.is_one_send() => replies.push(run),
        run => replies.extend(run.into_iter().flat_map(Outgoing::sends)),
    }
}

/// Removes the first `count` datagrams from `runs`, and passes them to `each`; returns how many runs have none left.
pub fn remove<'a>(runs: &mut [Outgoing<'a>], mut count: usize, mut each: impl FnMut(Outgoing<'a>)) -> usize {
    let mut done = 0;
    while count > 0
        && let Some(run) = runs.get_mut(done)
    {
        let removed = count.min(run.count);
        each(run.slice(0, removed));
        count -= removed;
        if removed < run.count {
            *run = run.slice(removed, run.count - removed);
            break;
        }
        done += 1;
    }
    done
}

pub fn count_datagrams(runs: &[Outgoing<'_>]) -> usize {
    runs.iter().map(|run| run.count).sum()
}

/// Returns the copies of a reply that leave the link at once.
pub fn impair<'a>(
    link: &mut Link<ReplyFlow>,
    reply: &Outgoing<'a>,
    now: Instant,
) -> impl Iterator<Item = Outgoing<'a>> + use<'a> {
    let Outgoing { to, from, parts, .. } = *reply;
    let left = link.handle(now, (to, from), header_length(to.ip()), parts);
    left.into_iter().flatten().map(move |parts| Outgoing::new(to, from, parts))
}

/// Returns to the link what could not be sent, as much as it takes; returns the number of these replies. Each is a
/// single datagram.
pub fn put_back(link: &mut Link<ReplyFlow>, replies: &[Outgoing<'_>]) -> usize {
    let fits = link.room_for(replies.iter().map(Outgoing::length));
    for reply in replies[..fits].iter().rev() {
        link.put_back((reply.to, reply.from), reply.parts);
    }
    fits
}

/// Returns the first of the replies, as many as a turn may send.
pub fn within_turn<'a>(replies: impl Iterator<Item = Outgoing<'a>>) -> impl Iterator<Item = Outgoing<'a>> {
    let mut bytes = 0;
    replies.take_while(move |reply| {
        let has_room = bytes < TURN_BYTES;
        bytes += reply.length();
        has_room
    })
}
