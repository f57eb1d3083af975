//! Replies that wait for a later turn, mostly for their socket to become writable, in the order in which they were queued.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::reply::ReplyTemplate;
use crate::net::Outgoing;

/// The bound for what waits in all endpoints of a server together, in bytes, unless [`MIN_SHARE`] exceeds it.
const MAX_QUEUED: usize = 32 << 20;

/// What one receive can bring beyond the limit of its batch, in bytes: most of the last message, and the addresses of all.
const EXCESS: usize = 72 << 10;

/// The smallest limit of a receive batch, in bytes. It keeps small datagrams together, at the price of a higher bound for
/// more than 372 endpoints: 88 KiB for each.
const MIN_SHARE: usize = 16 << 10;

/// Returns the limit of a receive batch, in bytes, with which the queues of `endpoints` endpoints stay within the bound.
///
/// Each endpoint has a fixed share. With one account for all, some jammed endpoints could keep the others from receiving,
/// though their network may be fine.
pub fn receive_limit(endpoints: usize) -> usize {
    (MAX_QUEUED / endpoints.max(1)).saturating_sub(EXCESS).max(MIN_SHARE)
}

/// A queue of replies, each kept as the request that it is the reply to. Requests are copied, because the buffers that
/// they were received in are reused at once; what the template adds is not.
///
/// The queue has no limit of its own. While it holds a reply its socket is not read, so it never holds more than one
/// receive has brought, which [`receive_limit`] bounds for the process. Once it is empty, its memory is freed unless it is
/// small (invariant 3, defended by `server::simulation` and `tests/program/memory.rs`).
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

    /// Appends replies, whose second part is the request, as [`ReplyTemplate::reply`] returns them.
    pub fn extend(&mut self, replies: &[Outgoing<'_>]) {
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
                queue.extend(&replies);
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
        queue.extend(&replies);
        assert!(queue.allocated() < 10_000, "{}", queue.allocated());
        assert!(queue.iter(&template).eq(replies));
        queue.pop(4096);

        let request = [b'?'; 60_000];
        queue.extend(&[reply(1, &request, &template); 9]);
        assert!((540_000..550_000).contains(&queue.allocated()), "{}", queue.allocated());
        queue.pop(9);
        assert_eq!(queue.allocated(), 0);
    }

    #[test]
    fn shares_stay_within_the_bound() {
        for endpoints in [1, 2, 50, 200, 372] {
            assert!(endpoints * (receive_limit(endpoints) + EXCESS) <= MAX_QUEUED, "{endpoints}");
        }
        assert_eq!(receive_limit(373), MIN_SHARE);
        assert_eq!(receive_limit(usize::MAX), MIN_SHARE);
        assert!(receive_limit(0) > MIN_SHARE);
    }
}
