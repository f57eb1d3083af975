//! The receive batch: reusable memory that a loop receives into, whatever socket it reads.
//!
//! ```text
//!  messages   │ 1448, 1448, 10.0.0.1:40001 │ 4096, 64, 10.0.0.2:40002 │ …      length, segment length, source
//!                │                            │
//!  arena      │  ▼ slot 0                  │  ▼ slot 1                │ …      one slot every 65,600 bytes
//!             │ datagram · unused          │ 64 datagrams · unused    │
//! ```

use std::net::SocketAddr;
use std::time::Instant;

use super::{Datagram, Delivery, piece_of};

/// The longest message, in bytes: what the length field of a UDP header can express. No message is ever truncated.
const LONGEST_MESSAGE: usize = 65_535;

/// The distance between two slots, in bytes. It is an odd number of cache lines: at a power of two the beginnings of
/// all slots, which is all that small datagrams use, would share a few cache sets (2 to 4 % in batches of small
/// datagrams).
const STRIDE: usize = 1025 * 64;

/// The largest number of messages in a batch. It bounds a turn: at 5 µs per reply, a flood of single datagrams on one
/// socket delays the others by a fifth of a millisecond; a flood of coalesced messages (up to 128 datagrams each, which
/// cost a tenth) by a few milliseconds.
pub(super) const SLOTS: usize = 32;

/// A batch with this many bytes is full: a few long messages are as much work as many short ones, and should not evict
/// each other from the processor's cache (26 % in batches of 31 messages of 48 kB). A limit of 48 KiB makes more turns,
/// and an answer costs 2 to 10 % more. Slots that are never touched are never resident.
const FULL: usize = 512 << 10;

/// A lower bound of what Linux charges a receive buffer for a message, in bytes (832 for the shortest on Linux 6.18).
const SMALLEST_CHARGE: usize = 512;

/// A reusable buffer for received datagrams.
///
/// It has slots for up to 32 messages of the greatest length: 2 MiB of address space, of which only those pages become
/// resident that messages have filled. The sockets of one loop can share it, since its content is only needed until the
/// next receive.
#[derive(Debug)]
pub struct ReceiveBatch {
    arena: Box<[u8]>,
    messages: Vec<Message>,
    bytes: usize,
    /// The batch is full with about this many bytes.
    limit: usize,
}

/// What one slot holds: one datagram, or several of one source that the kernel coalesced.
#[derive(Clone, Copy, Debug)]
struct Message {
    /// In bytes.
    length: usize,
    /// The length of its datagrams in bytes; the last one may be shorter. Never 0.
    segment: usize,
    envelope: Envelope,
}

/// What a socket reports about a message besides its bytes; the fields are those of [`Datagram`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "documented at Datagram")]
pub struct Envelope {
    pub source: SocketAddr,
    pub local: Option<SocketAddr>,
    pub delivery: Delivery,
    pub arrival: Option<Instant>,
    pub hop_limit: Option<u8>,
}

impl From<SocketAddr> for Envelope {
    /// Creates an envelope of which only the source is known.
    fn from(source: SocketAddr) -> Self {
        Self { source, local: None, delivery: Delivery::Unknown, arrival: None, hop_limit: None }
    }
}

/// A received run: the datagrams of a message, borrowed from a [`ReceiveBatch`].
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What is known about each of its datagrams.
    pub envelope: &'a Envelope,
    /// The payloads, one after the other.
    pub bytes: &'a [u8],
    /// The length of the payloads in bytes; the last one may be shorter. Never 0.
    pub segment: usize,
}

impl<'a> Run<'a> {
    /// Returns the number of datagrams, at least 1.
    pub fn count(&self) -> usize {
        // An empty run is one empty datagram.
        if self.bytes.len() <= self.segment { 1 } else { self.bytes.len().div_ceil(self.segment) }
    }

    /// Returns the payload of a datagram.
    pub fn payload(&self, index: usize) -> &'a [u8] {
        piece_of(self.bytes, self.segment, index, 1)
    }

    /// Returns `count` datagrams of the run, from the one with this index on.
    #[must_use]
    pub fn slice(&self, index: usize, count: usize) -> Self {
        Self { bytes: piece_of(self.bytes, self.segment, index, count), ..*self }
    }

    /// Returns the payloads in order.
    pub fn payloads(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.count()).map(move |index| self.payload(index))
    }

    /// Returns the datagrams in order.
    pub fn datagrams(self) -> impl Iterator<Item = Datagram<'a>> {
        let &Envelope { source, local, delivery, arrival, hop_limit } = self.envelope;
        self.payloads().map(move |payload| Datagram { source, local, delivery, arrival, hop_limit, payload })
    }
}

impl ReceiveBatch {
    /// Creates an empty batch with all slots.
    pub fn new() -> Self {
        Self::with_slots(SLOTS)
    }

    /// Creates an empty batch with `slots` slots, but at least one and at most 32.
    pub fn with_slots(slots: usize) -> Self {
        let slots = slots.clamp(1, SLOTS);
        let arena = vec![0; slots * STRIDE].into_boxed_slice();
        Self { arena, messages: Vec::with_capacity(slots), bytes: 0, limit: FULL }
    }

    /// Makes the batch full once it holds about `limit` bytes: at least 1, and at most the 512 KiB that are the
    /// default.
    pub fn with_limit(self, limit: usize) -> Self {
        Self { limit: limit.clamp(1, FULL), ..self }
    }

    /// Returns the messages in the order of their arrival, each as a run.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let slots = self.messages.iter().zip(self.arena.chunks(STRIDE));
        slots.map(|(message, slot)| {
            let Message { length, segment, envelope } = message;
            Run { envelope, bytes: &slot[..*length], segment: *segment }
        })
    }

    /// Returns the datagrams in the order of their arrival.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.runs().flat_map(Run::datagrams)
    }

    /// Returns a lower bound of what the messages took up in the kernel's receive buffer, in bytes as the kernel
    /// charges them.
    pub fn charge(&self) -> usize {
        SMALLEST_CHARGE * self.messages.len() + self.bytes
    }

    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    /// Returns the slot for the next message, of at least 65,535 bytes; `None` if the batch is full.
    ///
    /// An implementation of [`Transport`](super::Transport) writes a message there and then [pushes](Self::push) it.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        let count = self.room().min(1);
        self.free_slots(count).next()
    }

    /// Adds the message that was written to the next [`slot`](Self::slot): `length` bytes, which are datagrams of
    /// `segment` bytes, the last one perhaps shorter. A `segment` of 0 stands for a single datagram.
    ///
    /// # Panics
    ///
    /// If the batch has no free slot, or `length` exceeds 65,535.
    pub fn push(&mut self, length: usize, segment: usize, envelope: impl Into<Envelope>) {
        assert!(length <= LONGEST_MESSAGE && self.messages.len() < self.arena.len() / STRIDE);
        let segment = if segment == 0 { length.max(1) } else { segment };
        self.messages.push(Message { length, segment, envelope: envelope.into() });
        self.bytes += length;
    }

    /// Returns how many messages the batch takes if more come that are as long as those in it, on average.
    pub(super) fn capacity(&self) -> usize {
        let slots = self.arena.len() / STRIDE;
        (self.messages.len() * self.limit).checked_div(self.bytes).map_or(slots, |messages| messages.clamp(1, slots))
    }

    /// Returns how many more messages the batch takes.
    pub(super) fn room(&self) -> usize {
        self.capacity().saturating_sub(self.messages.len())
    }

    /// Returns the slots for the next `count` messages, of at least 65,535 bytes each.
    pub(super) fn free_slots(&mut self, count: usize) -> impl Iterator<Item = &mut [u8]> {
        self.arena.chunks_mut(STRIDE).skip(self.messages.len()).take(count)
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn push(batch: &mut ReceiveBatch, bytes: &[u8], segment: usize, source: SocketAddr) {
        batch.slot().expect("a free slot")[..bytes.len()].copy_from_slice(bytes);
        batch.push(bytes.len(), segment, source);
    }

    #[test]
    fn coalesced_messages_are_split_into_their_datagrams() {
        let mut batch = ReceiveBatch::new();
        push(&mut batch, b"aabbc", 2, peer(1));
        push(&mut batch, b"", 0, peer(2));
        push(&mut batch, b"dd", 2, peer(3));
        push(&mut batch, b"ee", 0, peer(4));
        push(&mut batch, b"f", 9, peer(5));
        let seen: Vec<_> = batch.datagrams().map(|d| (d.source.port(), d.payload)).collect();
        assert_eq!(seen, [(1, &b"aa"[..]), (1, b"bb"), (1, b"c"), (2, b""), (3, b"dd"), (4, b"ee"), (5, b"f")]);
    }

    #[test]
    fn every_slot_takes_the_longest_message() {
        let mut batch = ReceiveBatch::new();
        while batch.slot().is_some() {
            let number = batch.messages.len() as u8;
            push(&mut batch, &[number; LONGEST_MESSAGE], LONGEST_MESSAGE, peer(1));
        }
        assert_eq!(batch.datagrams().count(), FULL / LONGEST_MESSAGE);
        assert!((0..).zip(batch.datagrams()).all(|(i, datagram)| datagram.payload == [i; LONGEST_MESSAGE]));
        batch.clear();
        assert_eq!((batch.room(), batch.datagrams().count()), (SLOTS, 0));
    }

    #[test]
    fn full_batch_has_no_slot() {
        for (wanted, slots) in [(0, 1), (1, 1), (5, 5), (SLOTS, SLOTS), (1000, SLOTS)] {
            let mut batch = ReceiveBatch::with_slots(wanted);
            (0..slots).for_each(|_| push(&mut batch, b"", 0, peer(1)));
            assert!(batch.room() == 0 && batch.slot().is_none());
            assert_eq!(batch.datagrams().count(), slots);
        }
    }

    #[test]
    fn limit_fills_a_batch_earlier() {
        let mut batch = ReceiveBatch::new().with_limit(1000);
        push(&mut batch, &[1; 500], 0, peer(1));
        assert!(batch.room() > 0);
        push(&mut batch, &[2; 500], 0, peer(1));
        assert_eq!(batch.room(), 0);
        // A message may exceed the limit, and the next receive still asks for one.
        let mut batch = ReceiveBatch::new().with_limit(1000);
        push(&mut batch, &[1; 60_000], 0, peer(1));
        assert_eq!((batch.room(), batch.capacity()), (0, 1));
    }
}
