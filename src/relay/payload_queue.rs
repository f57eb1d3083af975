//! Payloads that wait until a socket is writable.

use std::collections::VecDeque;

/// A queue of copied payloads. It has no limit of its own: while it holds one, what would fill it is not received.
#[derive(Debug, Default)]
pub struct PayloadQueue {
    /// The payloads, one after the other.
    bytes: Vec<u8>,
    lengths: VecDeque<usize>,
    /// Where the first payload begins.
    start: usize,
}

impl PayloadQueue {
    pub fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.lengths.push_back(payload.len());
    }

    /// Returns the payloads, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[self.start..];
        self.lengths.iter().map(move |length| {
            let (payload, behind) = rest.split_at(*length);
            rest = behind;
            payload
        })
    }

    /// Removes the oldest `count` payloads, and the memory of the queue when nothing is left.
    pub fn pop(&mut self, count: usize) {
        self.start += self.lengths.drain(..count.min(self.lengths.len())).sum::<usize>();
        if self.is_empty() {
            *self = Self::default();
        }
    }

    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_leave_in_order() {
        let mut queue = PayloadQueue::default();
        for payload in [&b"first"[..], b"", b"third"] {
            queue.push(payload);
        }
        assert!(queue.iter().eq([&b"first"[..], b"", b"third"]));
        queue.pop(1);
        queue.push(b"fourth");
        assert!(queue.iter().eq([&b""[..], b"third", b"fourth"]) && queue.len() == 3);
        queue.pop(9);
        assert!(queue.is_empty() && queue.bytes.capacity() == 0);
    }
}
