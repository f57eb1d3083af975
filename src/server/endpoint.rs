//! One socket with its service: flush, receive, answer, send or queue.
//!
//! The only place that combines socket, guard, reply template and reply queue; none of them knows the others. Events
//! set the endpoint's state ([`note`](Endpoint::note)), and what a turn does follows from it:
//!
#![doc = include_str!("endpoint_states.svg")]
//!
//! A turn that has sent too many bytes, or in which too many sends have failed, queues the rest too and asks for
//! another turn: from *readable* to *flushing*.
//!
//! | | no reply waits | replies wait |
//! |---|---|---|
//! | readable event | note it; a turn is wanted | note it; nothing is read before the replies have left |
//! | writable event | note it | note it; a turn is wanted |
//! | a turn | receive, answer, send; queue what would block, or exceed the turn | send what waits; if all left, as on the left |
//! | receive: drained | not readable until the next event | (does not happen) |
//! | send: would block | not writable until the next event; the rest waits | the same |
//! | interest | READABLE | READABLE and WRITABLE |
//!
//! Where replies are impaired, they pass a link before they are sent. It holds those that are delayed, and in place of
//! the queue those that would block; its next deadline is the endpoint's.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{Level, info, log_enabled, warn};
use mio::Interest;

use super::replies::{add, count_datagrams, impair, put_back, remove, reply_to, within_turn};
use super::reply::ReplyTemplate;
use super::reply_queue::{ReplyQueue, Share};
use super::stamp::StampService;
use super::statistics::Statistics;
use crate::guard::{Guard, Refusal, Verdict};
use crate::impair::Link;
use crate::logging::DATAGRAM_LOG;
use crate::logging::bytes::Bytes;
use crate::logging::escape::Escaped;
use crate::logging::throttle::{Throttle, Times};
use crate::net::{self, Datagram, Outgoing, ReceiveBatch, Received, Run, SendBatch, Transport};
use crate::reactor::{Readiness, Wants};

/// After this many failed receives without a datagram in between, the socket counts as unusable.
///
/// Failed sends do not count: a stranger can cause any number of them, with spoofed sources that no route leads to.
const ERRORS_IN_A_ROW: u32 = 100;

/// At most this many replies that were delayed leave in one turn.
const DELAYED_PER_TURN: usize = 64;

/// The destination of a reply, and the local address that it leaves from.
pub type ReplyFlow = (SocketAddr, Option<SocketAddr>);

/// No further reply is sent in a turn after this many failures, because each costs a system call of its own; the rest
/// is queued for the next turn. Without this bound, a flood from spoofed sources without a route delays other endpoints
/// by over 100 ms.
pub(super) const TURN_FAILURES: usize = 64;

/// A turn sends no further reply after this many bytes, about a millisecond's work; the rest is queued for the next
/// turn.
///
/// Only replies much longer than their requests get there: a batch of requests, at most 576 KiB, can ask for 4,096
/// replies of 64 KB.
pub(super) const TURN_BYTES: usize = 1 << 20;

/// What the endpoints of one worker share, one turn at a time.
#[derive(Debug)]
pub struct Resources {
    /// Where datagrams are received.
    pub received: ReceiveBatch,
    /// Where replies are collected.
    pub replies: SendBatch,
    /// Decides which datagrams are answered.
    pub guard: Guard,
    /// How much may wait in each of them.
    pub share: Share,
}

/// A socket, the service on it, and the replies that wait for it.
///
/// - Readiness is state: an event sets it, and only a receive that drained the socket clears it. Polling is
///   edge-triggered, so nothing else would bring the rest of the backlog back (invariant 1).
/// - No datagram, and no error of a single datagram, ends the loop: it is counted, and the next one is served
///   (invariant 2).
/// - While replies wait the socket is not read, so memory is bounded, and the backlog stays in the kernel's receive
///   buffer, which counts what it drops (invariant 3).
/// - WRITABLE interest is registered exactly while replies wait, and no reply overtakes an earlier one to the same peer
///   (invariant 4).
/// - A turn handles at most one batch, and sends little more than 2 MiB, or 3 MiB through a link (invariant 5).
///
/// All of these are defended by `server::simulation`.
#[derive(Debug)]
pub struct Endpoint<S> {
    socket: S,
    address: SocketAddr,
    service: &'static str,
    /// What lines about datagrams end with: the service, if there are several.
    log_suffix: String,
    /// `None`: nothing is answered.
    template: Option<ReplyTemplate>,
    /// What makes the replies instead of the template, which then gives back what waited in the queue.
    stamp: Option<Box<StampService>>,
    /// A receive may be tried.
    readable: bool,
    /// A send may be tried. A new socket is writable, and raises no event for it until a send would have blocked.
    writable: bool,
    queue: ReplyQueue,
    /// What impairs the replies, and holds those that wait; `queue` stays empty then.
    link: Option<Box<Link<ReplyFlow>>>,
    /// How much may still be received after a stop was requested, in bytes as the kernel charges them.
    backlog: Option<usize>,
    /// Failed receives since the last datagram.
    receive_errors: u32,
    /// Why the socket is unusable.
    broken: Option<io::Error>,
    statistics: Statistics,
    /// Lines about single datagrams are enabled.
    logged: bool,
    throttle: Throttle,
}

impl<S: Transport> Endpoint<S> {
    /// Creates an endpoint on `socket`, which is bound to `address`. Without a template nothing is answered.
    pub fn new(socket: S, address: SocketAddr, service: &'static str, template: Option<ReplyTemplate>) -> Self {
        Self {
            socket,
            address,
            service,
            log_suffix: String::new(),
            template,
            stamp: None,
            readable: false,
            writable: true,
            queue: ReplyQueue::default(),
            link: None,
            backlog: None,
            receive_errors: 0,
            broken: None,
            statistics: Statistics::default(),
            logged: false,
            throttle: Throttle::default(),
        }
    }

    /// Lets every reply that the guard allows pass through a link, if there is one.
    pub fn with_link(self, link: Option<Link<ReplyFlow>>) -> Self {
        Self { link: link.map(Box::new), ..self }
    }

    /// Lets a Session-Reflector make the replies, if there is one; the template must be `{}`.
    pub fn with_stamp(self, stamp: Option<StampService>) -> Self {
        Self { stamp: stamp.map(Box::new), ..self }
    }

    /// Adds the service and the address to the log lines about datagrams.
    pub fn named_in_log(self) -> Self {
        Self { log_suffix: format!(" by {} on {}", self.service, self.address), ..self }
    }

    /// Checks whether the log takes lines about single datagrams. Call it before the first turn, when a logger is
    /// installed.
    pub fn start(&mut self) {
        self.logged = log_enabled!(target: DATAGRAM_LOG, Level::Info);
    }

    /// Records an event.
    pub fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
    }

    /// Returns a turn if it would do anything without a further event, the interest of the table above, and when the
    /// next delay ends.
    pub fn wants(&self) -> Wants {
        let waits = self.waits_for_socket();
        Wants {
            turn: self.may_receive() || (self.writable && waits),
            interest: Some(if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }),
            deadline: self.link.as_ref().and_then(|link| link.next_deadline()),
        }
    }

    /// Sends what waits; if nothing waits any more, receives one batch and answers it.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is unusable, so that trying again would spin.
    pub fn take_turn(&mut self, now: Instant, resources: &mut Resources) -> io::Result<()> {
        if let Some(link) = &mut self.link {
            link.advance(now);
        }
        self.flush(now, &mut resources.replies);
        if self.may_receive() {
            let received = self.socket.receive(&mut resources.received);
            self.backlog = self.backlog.map(|backlog| backlog.saturating_sub(resources.received.charge()));
            match self.stamp.take() {
                None => self.answer(now, resources),
                Some(stamp) => self.reflect(stamp, now, resources),
            }
            self.note_received(received, now);
            if self.link.is_some() {
                // Damaged replies are copies, and ready at once.
                self.flush(now, &mut resources.replies);
            }
        }
        self.broken.take().map_or(Ok(()), Err)
    }

    /// Limits what is received from now on to `receive_buffer` bytes, as the kernel charges them: what has already
    /// arrived, however fast new datagrams come.
    pub fn finish(&mut self, receive_buffer: usize) {
        self.readable = true;
        self.backlog = Some(receive_buffer);
    }

    /// Returns whether everything that had arrived was received, and every reply has left.
    pub fn is_settled(&self) -> bool {
        self.unsent() == 0 && !self.may_receive()
    }

    /// Returns how the datagrams so far have ended.
    pub fn statistics(&self) -> Statistics {
        let impaired = self.link.as_ref().map(|link| link.impaired());
        Statistics { unsent: self.unsent() as u64, impaired, ..self.statistics.clone() }
    }

    /// Returns how many datagrams were received.
    pub fn received(&self) -> u64 {
        self.statistics.received
    }

    /// Returns the name of the service.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Returns the address that the socket is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Returns the replies that wait.
    #[cfg(test)]
    pub fn queue(&self) -> &ReplyQueue {
        &self.queue
    }

    /// Returns the socket, for registering it.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    fn may_receive(&self) -> bool {
        self.readable && !self.waits_for_socket() && self.backlog != Some(0) && self.broken.is_none()
    }

    /// Returns whether replies wait to be sent, other than those that are delayed.
    fn waits_for_socket(&self) -> bool {
        !self.queue.is_empty() || self.link.as_ref().is_some_and(|link| link.is_ready())
    }

    /// Returns how many replies wait.
    fn unsent(&self) -> usize {
        self.queue.len() + self.link.as_ref().map_or(0, |link| link.waiting())
    }

    /// Sends what waits.
    fn flush(&mut self, now: Instant, batch: &mut SendBatch) {
        if !self.writable || !self.waits_for_socket() {
            return;
        }
        if let Some(mut link) = self.link.take() {
            let mut replies = batch.take();
            let ready = link.ready().take(DELAYED_PER_TURN);
            let ready = ready.map(|((to, from), payload)| Outgoing::new(to, from, [payload, b"", b""]));
            replies.extend(within_turn(ready));
            let done = self.send(&mut replies, now);
            batch.put_back(replies);
            link.release(done);
            self.link = Some(link);
            return;
        }
        // Taken out while the replies borrow them: `self` counts meanwhile.
        let Some(template) = self.template.take() else { return };
        let mut queue = std::mem::take(&mut self.queue);
        let mut replies = batch.take();
        replies.extend(within_turn(queue.iter(&template)));
        let tried = count_datagrams(&replies);
        let done = self.send(&mut replies, now);
        let ended = tried - count_datagrams(&replies[done..]);
        batch.put_back(replies);
        queue.pop(ended);
        self.queue = queue;
        self.template = Some(template);
    }

    fn answer(&mut self, now: Instant, resources: &mut Resources) {
        let Resources { received, replies: batch, guard, share } = resources;
        // Taken out while the replies borrow it: `self` counts meanwhile.
        let template = self.template.take();
        let mut link = self.link.take();
        // They arrived by now, and perhaps not yet when the turn began: no delay is shorter than asked for.
        let arrived = if link.is_some() { Instant::now() } else { now };
        let mut replies = batch.take();
        for mut run in received.runs() {
            self.receive_errors = 0;
            self.count(&run);
            loop {
                // All of the run at once, unless the guard decides differently for a part of it.
                let (reply, verdict) = reply_to(&run, template.as_ref(), guard, now);
                match &mut link {
                    None => add(&mut replies, reply),
                    Some(link) => reply.into_iter().flat_map(Outgoing::datagrams).for_each(|reply| {
                        replies.extend(impair(link, &reply, arrived));
                    }),
                }
                self.refuse(&run, &verdict, now);
                let decided = verdict.answered + verdict.refused;
                if decided == run.count() {
                    break;
                }
                run = run.slice(decided, run.count() - decided);
            }
        }
        self.send_or_queue(replies, link, batch, *share, now);
        self.template = template;
    }

    /// Answers as [`answer`](Self::answer) does, with the replies of a Session-Reflector.
    fn reflect(&mut self, mut stamp: Box<StampService>, now: Instant, resources: &mut Resources) {
        let Resources { received, replies: batch, guard, share } = resources;
        stamp.begin(now);
        for run in received.runs() {
            self.receive_errors = 0;
            self.count(&run);
            for datagram in run.datagrams() {
                if let Err(refusal) = stamp.reflect(&datagram, guard, now) {
                    self.refuse(&run, &Verdict::refuse(1, refusal), now);
                }
            }
        }
        let mut link = self.link.take();
        let mut replies = batch.take();
        match &mut link {
            None => replies.extend(stamp.transmit()),
            Some(link) => replies.extend(stamp.transmit().flat_map(|reply| impair(link, &reply, Instant::now()))),
        }
        self.send_or_queue(replies, link, batch, *share, now);
        self.stamp = Some(stamp);
    }

    /// Sends the replies of a turn; queues those that would block or exceed the turn.
    fn send_or_queue(
        &mut self,
        mut replies: Vec<Outgoing<'_>>,
        mut link: Option<Box<Link<ReplyFlow>>>,
        batch: &mut SendBatch,
        share: Share,
        now: Instant,
    ) {
        batch.group_by_peer(&mut replies);
        let turn = within_turn(replies.iter().copied()).count();
        let done = self.send(&mut replies[..turn], now);
        let rest = &replies[done..];
        let queued = match &mut link {
            None => self.queue.extend(rest, share),
            Some(link) => put_back(link, rest),
        };
        for reply in rest.iter().copied().flat_map(Outgoing::datagrams).skip(queued) {
            self.fail(&reply, "queue_full", &"too many replies wait", now);
        }
        self.statistics.waited += queued as u64;
        self.statistics.waiting_peak = self.statistics.waiting_peak.max(queued as u64);
        batch.put_back(replies);
        self.link = link;
    }

    fn count(&mut self, run: &Run<'_>) {
        self.statistics.received += run.count() as u64;
        self.statistics.received_bytes += run.bytes.len() as u64;
        if self.logged {
            self.log_received(run);
        }
    }

    fn log_received(&self, run: &Run<'_>) {
        for Datagram { source, payload, .. } in run.datagrams() {
            let text = Escaped::line([payload, b"", b""]);
            let (bytes, suffix) = (Bytes(payload.len()), &self.log_suffix);
            info!(target: DATAGRAM_LOG, "Received message from {source}: {text} ({bytes}){suffix}");
        }
    }

    fn log_sent(&self, replies: &Outgoing<'_>) {
        for reply in replies.datagrams() {
            let text = Escaped::line(reply.parts);
            let (bytes, suffix) = (Bytes(reply.length()), &self.log_suffix);
            info!(target: DATAGRAM_LOG, "Sent response to {}: {text} ({bytes}){suffix}", reply.to);
        }
    }

    fn refuse(&mut self, run: &Run<'_>, verdict: &Verdict, now: Instant) {
        let Some(refusal) = verdict.reason else { return };
        for _ in 0..verdict.refused {
            self.statistics.refused.increment(refusal.name());
            // Discarding is what the service is for, so it is not worth a warning.
            if refusal != Refusal::Discard
                && let Some(times) = self.throttle.note(refusal.name(), now)
            {
                warn!("Not answering {}: {refusal}{}", run.envelope.source, Times(times));
            }
        }
    }

    fn note_received(&mut self, received: Received, now: Instant) {
        match received {
            Received::More => {}
            Received::Drained => {
                self.readable = false;
                self.backlog = self.backlog.map(|_| 0);
            }
            Received::Failed(error) => {
                let name = net::error_name(&error);
                self.statistics.receive_errors.increment(name);
                self.receive_errors += 1;
                if net::is_broken(&error) || self.receive_errors >= ERRORS_IN_A_ROW {
                    self.broken = Some(error);
                } else if let Some(times) = self.throttle.note(name, now) {
                    warn!("Cannot receive on {}: {error}{}", self.address, Times(times));
                }
            }
        }
    }

    /// Sends in order until every reply has left or failed, the socket would block, or too many have failed for one
    /// turn; returns how many runs have left or failed. Of the next one, what is left of it remains in its place.
    fn send(&mut self, replies: &mut [Outgoing<'_>], now: Instant) -> usize {
        let (mut done, mut failures) = (0, 0);
        while done < replies.len() && failures < TURN_FAILURES {
            let sent = self.socket.send(&replies[done..]);
            self.statistics.answered += sent.count as u64;
            done += remove(&mut replies[done..], sent.count, |replies| {
                self.statistics.answered_bytes += replies.length() as u64;
                if self.logged {
                    self.log_sent(&replies);
                }
            });
            match sent.error {
                None => break,
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Some(error) if net::is_broken(&error) => {
                    self.broken = Some(error);
                    break;
                }
                // ENOBUFS included: the socket stays writable, so no event would follow, and trying again would spin.
                Some(error) => {
                    done += remove(&mut replies[done..], 1, |reply| {
                        self.fail(&reply, net::error_name(&error), &error, now);
                    });
                    failures += 1;
                }
            }
        }
        done
    }

    fn fail(&mut self, reply: &Outgoing<'_>, name: &'static str, error: &dyn Display, now: Instant) {
        self.statistics.failed.increment(name);
        if let Some(times) = self.throttle.note(name, now) {
            warn!("Cannot send {} to {}: {error}{}", Bytes(reply.length()), reply.to, Times(times));
        }
    }
}
