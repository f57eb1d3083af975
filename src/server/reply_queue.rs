//! Replies that wait for their socket to become writable, in the order in which they were queued.

use std::net::SocketAddr;

use crate::net::Outgoing;

/// A queue of copied replies. They are copied because the buffers that they were made from are reused at once.
///
/// The queue has no limit of its own. While it holds a reply its socket is not read, so it never holds more than
/// the unsent rest of one turn (invariant 3, defended by `server::simulation`).
#[derive(Debug, Default)]
pub struct ReplyQueue {
    /// The payloads, one after the other.
    bytes: Vec<u8>,
    replies: Vec<QueuedReply>,
    /// How many of `replies` were popped. The buffers are reset when all were.
    popped: usize,
}

#[derive(Debug)]
struct QueuedReply {
    to: SocketAddr,
    from: Option<SocketAddr>,
    start: usize,
    end: usize,
}

impl ReplyQueue {
    /// Copies a reply to the end of the queue.
    pub fn push(&mut self, reply: &Outgoing<'_>) {
        let start = self.bytes.len();
        reply.parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.replies.push(QueuedReply { to: reply.to, from: reply.from, start, end: self.bytes.len() });
    }

    /// Returns the queued replies, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Outgoing<'_>> {
        self.replies[self.popped..].iter().map(|reply| Outgoing {
            to: reply.to,
            from: reply.from,
            parts: [&self.bytes[reply.start..reply.end], b"", b""],
        })
    }

    /// Removes the oldest `count` replies, at most as many as are queued.
    pub fn pop(&mut self, count: usize) {
        self.popped += count;
        if self.is_empty() {
            self.bytes.clear();
            self.replies.clear();
            self.popped = 0;
        }
    }

    /// Returns the number of queued replies.
    pub fn len(&self) -> usize {
        self.replies.len().saturating_sub(self.popped)
    }

    /// Returns whether no reply is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(port: u16, parts: [&[u8]; 3]) -> Outgoing<'_> {
        Outgoing { to: ([127, 0, 0, 1], port).into(), from: None, parts }
    }

    #[test]
    fn replies_leave_in_the_order_of_arrival() {
        let mut queue = ReplyQueue::default();
        queue.push(&reply(1, [b"Hello ", b"you", b"!"]));
        queue.push(&reply(2, [b"", b"", b""]));
        queue.push(&reply(3, [b"x", b"", b""]));
        assert_eq!(queue.iter().next(), Some(reply(1, [b"Hello you!", b"", b""])));
        queue.pop(1);
        let queued: Vec<_> = queue.iter().collect();
        assert_eq!(queued, [reply(2, [b"", b"", b""]), reply(3, [b"x", b"", b""])]);
        queue.pop(2);
        assert!(queue.is_empty() && queue.iter().next().is_none());
        queue.push(&reply(4, [b"again", b"", b""]));
        assert_eq!(queue.iter().next(), Some(reply(4, [b"again", b"", b""])));
    }
}
