//! Replies that wait for a later turn, mostly for their socket to become writable, in the order in which they were
//! queued.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::reply::ReplyTemplate;
use crate::net::Outgoing;

/// The bound for what waits in all endpoints of a server together, in bytes. More than 372 endpoints have [`MIN_SHARE`]
/// each, whatever that adds up to.
const MAX_QUEUED: usize = 32 << 20;

/// The smallest share of an endpoint, in bytes: any message, and a batch of small ones.
const MIN_SHARE: usize = 88 << 10;

/// What a queue needs for addresses, in bytes.
const ADDRESSES: usize = 8 << 10;

/// The longest message, in bytes.
const LONGEST_MESSAGE: usize = 64 << 10;

/// How much the queue of an endpoint may hold.
///
/// Each endpoint has a fixed share of the bound. With one account for all, some jammed endpoints could keep the others
/// from receiving, though their network may be fine.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Of memory, at least [`ADDRESSES`].
    pub(super) bytes: usize,
}

impl Share {
    /// Returns the share of one of `endpoints` endpoints.
    pub fn of(endpoints: usize) -> Self {
        Self { bytes: (MAX_QUEUED / endpoints.max(1)).max(MIN_SHARE) }
    }

    /// Returns the limit of a receive batch, in bytes, with which the replies to all that it receives can wait, although
    /// the last message may exceed the limit. After many small messages, a system call is prepared for as many, and
    /// several large ones may exceed it; replies for which there is no room are then [not
    /// queued](ReplyQueue::extend).
    pub fn receive_limit(self) -> usize {
        self.requests() - LONGEST_MESSAGE
    }

    /// Returns how many bytes of requests fit.
    fn requests(self) -> usize {
        self.bytes - ADDRESSES
    }
}

/// A queue of replies, each kept as the request that it is the reply to. Requests are copied, because the buffers that
/// they were received in are reused at once; what the template adds is not.
///
/// While it holds a reply its socket is not read, so it holds what one receive has brought, and at most the endpoint's
/// [`Share`]. Once it is empty, its memory is freed unless it is small (invariant 3, defended by `server::simulation`
/// and `tests/program/memory.rs`).
#[derive(Debug, Default)]
pub struct ReplyQueue {
    /// The requests, one after the other.
    requests: Vec<u8>,
    /// Where the first request that still waits begins.
    start: usize,
    runs: VecDeque<Run>,
    length: usize,
}

/// Consecutive replies to one peer whose requests have one length; the last one may be shorter.
#[derive(Debug)]
struct Run {
    to: SocketAddr,
    from: Option<SocketAddr>,
    /// The length of the requests, and of all of them together; 0 if the template does not quote them.
    piece: usize,
    bytes: usize,
    count: usize,
}

impl ReplyQueue {
    /// The memory that an empty queue keeps at most, in bytes: enough for a batch of small requests.
    const KEPT: usize = 8 << 10;

    /// The runs of one receive: two for each of its 32 messages. Allocated at once, because the allocator (glibc's)
    /// caches small blocks, and these would keep it from returning the large ones next to them to the system.
    const RUNS: usize = 64;

    /// Appends the first of `replies`, as many as fit the share; returns their number. The second part of each is the
    /// request, as [`ReplyTemplate::reply`] returns them.
    pub fn extend(&mut self, replies: &[Outgoing<'_>], share: Share) -> usize {
        let room = share.requests().saturating_sub(self.requests.len());
        // Exactly, since growing by doubling would double the bound.
        self.requests.reserve_exact(replies.iter().map(|run| run.parts[1].len()).sum::<usize>().min(room));
        self.runs.reserve(Self::RUNS);
        let before = self.length;
        for run in replies {
            let room = share.requests().saturating_sub(self.requests.len());
            let fits = if run.parts[1].len() <= room { run.count } else { room / run.piece.max(1) };
            if fits > 0 {
                self.push(run.slice(0, fits));
            }
            if fits < run.count {
                break;
            }
        }
        self.length - before
    }

    fn push(&mut self, Outgoing { to, from, parts: [_, requests, _], count, piece }: Outgoing<'_>) {
        self.requests.extend_from_slice(requests);
        self.length += count;
        let (bytes, piece) = (requests.len(), if requests.is_empty() { 0 } else { piece });
        match self.runs.back_mut() {
            // Its last request is not shorter than the others.
            Some(run) if (run.to, run.from, run.piece) == (to, from, piece) && run.bytes == run.piece * run.count => {
                run.count += count;
                run.bytes += bytes;
            }
            _ => self.runs.push_back(Run { to, from, piece, bytes, count }),
        }
    }

    /// Returns the queued replies, oldest first, made from the template that they were made from before.
    pub fn iter<'a>(&'a self, template: &'a ReplyTemplate) -> impl Iterator<Item = Outgoing<'a>> {
        let mut rest = &self.requests[self.start..];
        self.runs.iter().flat_map(move |&Run { to, from, piece, bytes, count }| {
            let (requests, behind) = rest.split_at(bytes);
            rest = behind;
            Outgoing { to, from, parts: template.reply(requests), count, piece }.sends()
        })
    }

    /// Removes the oldest `count` replies, at most as many as are queued.
    pub fn pop(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        while left > 0
            && let Some(run) = self.runs.front_mut()
        {
            let popped = left.min(run.count);
            left -= popped;
            run.count -= popped;
            let bytes = run.bytes.min(popped * run.piece);
            run.bytes -= bytes;
            self.start += bytes;
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
        if self.is_empty() {
            self.requests.clear();
            self.start = 0;
            // All of it: a shrunken vector would be one of the small blocks that the allocator caches (see `RUNS`).
            if self.allocated() > Self::KEPT {
                *self = Self::default();
            }
        }
    }

    /// Returns the number of queued replies.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether no reply is queued.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns how much memory is allocated, in bytes.
    pub(super) fn allocated(&self) -> usize {
        self.requests.capacity() + self.runs.capacity() * size_of::<Run>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> SocketAddr {
        ([127, 0, 0, 1], 4000 + u16::from(number)).into()
    }

    fn reply<'a>(to: u8, request: &'a [u8], template: &'a ReplyTemplate) -> Outgoing<'a> {
        let from = (to == 0).then_some(peer(9));
        Outgoing::new(peer(to), from, template.reply(request))
    }

    /// Everything that is queued, as single datagrams.
    fn queued<'a>(queue: &'a ReplyQueue, template: &'a ReplyTemplate) -> VecDeque<Outgoing<'a>> {
        queue.iter(template).flat_map(singles).collect()
    }

    fn singles(run: Outgoing<'_>) -> impl Iterator<Item = Outgoing<'_>> {
        run.datagrams().map(|Outgoing { to, from, parts, .. }| Outgoing::new(to, from, parts))
    }

    proptest! {
        #[test]
        fn replies_leave_in_the_order_of_arrival(
            steps in vec((vec((0..3_u8, 0..3_usize, 1..4_usize, 0..2_usize), 0..8), 0..10_usize), 1..20),
            is_fixed: bool,
        ) {
            let template = if is_fixed { ReplyTemplate::fixed("x") } else { ReplyTemplate::around("Hello ", "!") };
            let requests: Vec<u8> = (0..=255).cycle().take(1_000).collect();
            let mut queue = ReplyQueue::default();
            let mut expected = VecDeque::new();
            for (replies, popped) in steps {
                let number = expected.len();
                let run = |&(to, piece, count, shorter): &(u8, usize, usize, usize)| {
                    let count = if piece == 0 { 1 } else { count };
                    let bytes = &requests[number..][..count * piece - shorter.min(piece.saturating_sub(1))];
                    Outgoing { count, piece, ..reply(to, bytes, &template) }
                };
                let runs: Vec<_> = replies.iter().map(run).collect();
                let all: Vec<_> = runs.iter().copied().flat_map(singles).collect();
                prop_assert_eq!(queue.extend(&runs, Share::of(1)), all.len());
                expected.extend(all);
                prop_assert_eq!(queued(&queue, &template), expected.clone());
                queue.pop(popped);
                expected.drain(..popped.min(expected.len()));
                prop_assert_eq!(queued(&queue, &template), expected.clone());
                prop_assert_eq!((queue.len(), queue.is_empty()), (expected.len(), expected.is_empty()));
            }
        }
    }

    #[test]
    fn run_that_does_not_fit_is_queued_in_part() {
        let template = ReplyTemplate::around("", "");
        let run = Outgoing { count: 20, piece: 1_000, ..reply(1, &[b'x'; 20_000], &template) };
        let mut queue = ReplyQueue::default();
        let share = Share { bytes: ADDRESSES + 50_500 };
        assert_eq!(queue.extend(&[run, run, run, reply(1, b"y", &template)], share), 50, "nothing overtakes the rest");
        assert_eq!(queue.len(), 50);
    }

    #[test]
    fn long_replies_to_short_requests_take_little_memory_and_give_it_back() {
        let template = ReplyTemplate::around([b'x'; 60_000], [b'y'; 1_000]);
        let mut queue = ReplyQueue::default();
        let replies = vec![reply(1, b"?", &template); 4096];
        queue.extend(&replies, Share::of(1));
        assert!(queue.allocated() < 10_000, "{}", queue.allocated());
        assert!(queued(&queue, &template).into_iter().eq(replies));
        queue.pop(4096);

        let request = [b'?'; 60_000];
        queue.extend(&[reply(1, &request, &template); 9], Share::of(1));
        assert!((540_000..550_000).contains(&queue.allocated()), "{}", queue.allocated());
        queue.pop(9);
        assert_eq!(queue.allocated(), 0);
    }

    #[test]
    fn shares_stay_within_the_bound() {
        let template = ReplyTemplate::around("", "");
        let request = [b'x'; LONGEST_MESSAGE];
        for endpoints in [1, 2, 50, 200, 372, 1_000] {
            let share = Share::of(endpoints);
            let mut queue = ReplyQueue::default();
            let queued = queue.extend(&vec![reply(1, &request, &template); 1_000], share);
            assert_eq!(queued, (share.receive_limit() + LONGEST_MESSAGE) / LONGEST_MESSAGE);
            assert!(queue.allocated() <= share.bytes && queued > 0, "{endpoints}");
            assert!(endpoints > 372 || endpoints * share.bytes <= MAX_QUEUED, "{endpoints}");
            assert!(share.receive_limit() >= 16 << 10);
        }
    }
}
