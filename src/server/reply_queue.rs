//! Replies that wait until their socket is writable again, first in, first out.

use std::net::SocketAddr;

use crate::net::Outgoing;

/// Copies of the replies that could not leave, since the buffer that they were made in is needed again.
///
/// It sets no limit of its own. While it holds anything its socket is not read, so it never holds more than the
/// unsent rest of one turn (invariant 3, defended by `server::simulation`).
#[derive(Debug, Default)]
pub struct ReplyQueue {
    /// The payloads, one behind the other.
    bytes: Vec<u8>,
    replies: Vec<Waiting>,
    /// How many of `replies` have gone.
    gone: usize,
}

#[derive(Debug)]
struct Waiting {
    to: SocketAddr,
    from: Option<SocketAddr>,
    start: usize,
    end: usize,
}

impl ReplyQueue {
    /// Copies a reply to the end.
    pub fn push(&mut self, reply: &Outgoing<'_>) {
        let start = self.bytes.len();
        reply.parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.replies.push(Waiting { to: reply.to, from: reply.from, start, end: self.bytes.len() });
    }

    /// The replies that wait, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Outgoing<'_>> {
        self.replies[self.gone..].iter().map(|reply| Outgoing {
            to: reply.to,
            from: reply.from,
            parts: [&self.bytes[reply.start..reply.end], b"", b""],
        })
    }

    /// Forgets the oldest `count` replies.
    pub fn pop(&mut self, count: usize) {
        self.gone += count;
        if self.is_empty() {
            self.bytes.clear();
            self.replies.clear();
            self.gone = 0;
        }
    }

    /// How many replies wait.
    pub fn len(&self) -> usize {
        self.replies.len().saturating_sub(self.gone)
    }

    /// Whether none waits.
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
    fn replies_come_out_as_they_went_in() {
        let mut queue = ReplyQueue::default();
        queue.push(&reply(1, [b"Hello ", b"you", b"!"]));
        queue.push(&reply(2, [b"", b"", b""]));
        queue.push(&reply(3, [b"x", b"", b""]));
        queue.pop(1);
        let waiting: Vec<_> = queue.iter().collect();
        assert_eq!(waiting, [reply(2, [b"", b"", b""]), reply(3, [b"x", b"", b""])]);
        queue.pop(2);
        assert!(queue.is_empty() && queue.iter().next().is_none());
        queue.push(&reply(4, [b"again", b"", b""]));
        assert_eq!(queue.iter().next(), Some(reply(4, [b"again", b"", b""])));
    }
}
