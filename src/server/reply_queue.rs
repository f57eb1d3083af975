//! Replies that wait for a later turn, mostly for their socket to become writable, in the order in which they were queued.

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
/// Each endpoint has a fixed share of the bound. With one account for all, some jammed endpoints could keep the others from
/// receiving, though their network may be fine.
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

    /// Returns the limit of a receive batch, in bytes, with which what it brings can wait: the last message may exceed
    /// the limit. Several large ones may after many small ones, for which the batch was prepared; what is too much then
    /// is [not queued](ReplyQueue::extend).
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
/// [`Share`]. Once it is empty, its memory is freed unless it is small (invariant 3, defended by `server::simulation` and `tests/program/memory.rs`).
#[derive(Debug, Default)]
pub struct ReplyQueue {
    /// The requests, one after the other.
    requests: Vec<u8>,
    /// Where the first request that still waits begins.
    start: usize,
    runs: VecDeque<Run>,
    length: usize,
}

/// Consecutive replies to one peer whose requests have one length.
#[derive(Debug)]
struct Run {
    to: SocketAddr,
    from: Option<SocketAddr>,
    request_length: usize,
    count: usize,
}

impl ReplyQueue {
    /// The memory that an empty queue keeps at most, in bytes: enough for a batch of small requests.
    const KEPT: usize = 8 << 10;

    /// The runs of one receive: two for each of its 32 messages. Allocated at once, because the allocator (glibc's) caches
    /// small blocks, and these would keep it from returning the large ones next to them to the system.
    const RUNS: usize = 64;

    /// Appends the first of `replies`, as many as fit the share; returns their number. The second part of each is the
    /// request, as [`ReplyTemplate::reply`] returns them.
    pub fn extend(&mut self, replies: &[Outgoing<'_>], share: Share) -> usize {
        let mut bytes = self.requests.len();
        let fits = |reply: &&Outgoing<'_>| {
            bytes += reply.parts[1].len();
            bytes <= share.requests()
        };
        let replies = &replies[..replies.iter().take_while(fits).count()];
        // Exactly, since growing by doubling would double the bound.
        self.requests.reserve_exact(replies.iter().map(|reply| reply.parts[1].len()).sum());
        self.runs.reserve(Self::RUNS);
        for &Outgoing { to, from, parts: [_, request, _] } in replies {
            self.requests.extend_from_slice(request);
            match self.runs.back_mut() {
                Some(run) if (run.to, run.from, run.request_length) == (to, from, request.len()) => run.count += 1,
                _ => self.runs.push_back(Run { to, from, request_length: request.len(), count: 1 }),
            }
        }
        self.length += replies.len();
        replies.len()
    }

    /// Returns the queued replies, oldest first, made from the template that they were made from before.
    pub fn iter<'a>(&'a self, template: &'a ReplyTemplate) -> impl Iterator<Item = Outgoing<'a>> {
        let mut rest = &self.requests[self.start..];
        self.runs.iter().flat_map(move |run| {
            let (requests, behind) = rest.split_at(run.request_length * run.count);
            rest = behind;
            (0..run.count).map(move |i| {
                let request = &requests[i * run.request_length..][..run.request_length];
                Outgoing { to: run.to, from: run.from, parts: template.reply(request) }
            })
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
            self.start += popped * run.request_length;
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
        if self.is_empty() {
            self.requests.clear();
            self.start = 0;
            // All of it, for the same reason: a shrunken vector is a small block.
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
        Outgoing { to: peer(to), from, parts: template.reply(request) }
    }

    proptest! {
        #[test]
        fn replies_leave_in_the_order_of_arrival(
            steps in vec((vec((0..3_u8, 0..3_usize), 0..8), 0..10_usize), 1..20),
            is_fixed: bool,
        ) {
            let template = if is_fixed { ReplyTemplate::fixed("x") } else { ReplyTemplate::around("Hello ", "!") };
            let requests: Vec<u8> = (0..=255).collect();
            let mut queue = ReplyQueue::default();
            let mut expected = VecDeque::new();
            for (replies, count) in steps {
                let number = expected.len();
                let replies: Vec<_> = replies.iter().map(|(to, length)| reply(*to, &requests[number..][..*length], &template)).collect();
                prop_assert_eq!(queue.extend(&replies, Share::of(1)), replies.len());
                expected.extend(replies);
                prop_assert_eq!(queue.iter(&template).collect::<VecDeque<_>>(), expected.clone());
                queue.pop(count);
                expected.drain(..count.min(expected.len()));
                prop_assert_eq!(queue.iter(&template).collect::<VecDeque<_>>(), expected.clone());
                prop_assert_eq!((queue.len(), queue.is_empty()), (expected.len(), expected.is_empty()));
            }
        }
    }

    #[test]
    fn long_replies_to_short_requests_take_little_memory_and_give_it_back() {
        let template = ReplyTemplate::around([b'x'; 60_000], [b'y'; 1_000]);
        let mut queue = ReplyQueue::default();
        let replies = vec![reply(1, b"?", &template); 4096];
        queue.extend(&replies, Share::of(1));
        assert!(queue.allocated() < 10_000, "{}", queue.allocated());
        assert!(queue.iter(&template).eq(replies));
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
