//! Copies of the datagrams that wait inside a link, in buffers that are used again.

use slab::Slab;

/// Buffers up to this capacity are kept. Larger ones are freed, so that a burst of large datagrams does not keep its
/// memory.
const KEPT_CAPACITY: usize = 2 << 10;

/// What a datagram is charged beside its payload, in bytes: its entries here and in the queues of the link.
const OVERHEAD: usize = 128;

/// A copy of a datagram.
#[derive(Debug)]
pub(super) struct Waiting<F> {
    pub flow: F,
    /// The number of the arrival that it is a copy of.
    pub arrival: u64,
    /// Another copy of the same arrival leaves first.
    pub second: bool,
    /// The length of the IP packet, in bytes.
    pub packet_length: usize,
    pub payload: Vec<u8>,
}

impl<F> Waiting<F> {
    /// Returns how much memory the datagram is charged, in bytes.
    pub fn charge(&self) -> usize {
        charge(self.payload.len())
    }
}

/// Returns how much memory a datagram with a payload of `length` bytes is charged.
pub(super) fn charge(length: usize) -> usize {
    length + OVERHEAD
}

/// Holds datagrams by key. How many there may be is decided by the link.
#[derive(Debug)]
pub(super) struct Pool<F> {
    waiting: Slab<Waiting<F>>,
    spare: Vec<Vec<u8>>,
}

impl<F> Pool<F> {
    pub fn new() -> Self {
        Self { waiting: Slab::new(), spare: Vec::new() }
    }

    /// Returns a buffer with `length` bytes of `parts`.
    pub fn copy(&mut self, parts: [&[u8]; 3], length: usize) -> Vec<u8> {
        let mut payload = self.spare.pop().unwrap_or_default();
        payload.clear();
        parts.iter().for_each(|part| payload.extend_from_slice(part));
        payload.truncate(length);
        payload
    }

    pub fn insert(&mut self, datagram: Waiting<F>) -> usize {
        self.waiting.insert(datagram)
    }

    pub fn get(&self, key: usize) -> Option<&Waiting<F>> {
        self.waiting.get(key)
    }

    /// Removes a datagram and keeps its buffer.
    pub fn remove(&mut self, key: usize) {
        if let Some(Waiting { payload, .. }) = self.waiting.try_remove(key)
            && payload.capacity() <= KEPT_CAPACITY
        {
            self.spare.push(payload);
        }
        // Delays come to an end now and then, and with them the memory that they took.
        if self.waiting.is_empty() {
            self.waiting = Slab::new();
            self.spare.truncate(KEPT_BUFFERS);
        }
    }
}

/// How many buffers are kept when nothing waits.
const KEPT_BUFFERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_small_datagrams_are_used_again() {
        let mut pool = Pool::new();
        let insert = |pool: &mut Pool<()>, length: usize| {
            let payload = pool.copy([&vec![7; length], b"ab", b"c"], length + 1);
            assert_eq!(payload.len(), length + 1);
            let memory = payload.as_ptr();
            (pool.insert(Waiting { flow: (), arrival: 0, second: false, packet_length: 0, payload }), memory)
        };
        let (small, memory) = insert(&mut pool, 100);
        pool.remove(small);
        let (again, same) = insert(&mut pool, 100);
        assert_eq!(memory, same);
        let (large, _) = insert(&mut pool, 60_000);
        pool.remove(large);
        pool.remove(again);
        assert!(pool.get(again).is_none());
        assert_eq!(pool.spare.iter().map(Vec::capacity).filter(|capacity| *capacity > KEPT_CAPACITY).count(), 0);
    }
}
