//! The inbox: one set of reusable buffers that a loop receives into, whatever socket it reads.
//!
//! It knows where each datagram lies and who sent it; it does not know how the datagrams got there.

use std::iter::{FusedIterator, Zip};
use std::net::SocketAddr;
use std::slice::{Chunks, Iter};

use super::Datagram;

/// Room for the largest datagram that a UDP header can announce; nothing is ever cut off.
const LARGEST: usize = 65_535;

/// The distance of two slots. An odd number of cache lines: at a power of two the beginnings of all slots, which
/// is all that small datagrams use, would share a few cache sets.
const STRIDE: usize = 1025 * 64;

/// How many messages one receive brings at the most. It bounds a turn: with 5 µs for each answer, a flood of single
/// datagrams on one socket delays the others by a fifth of a millisecond, one of coalesced messages (up to 128
/// datagrams each, which cost a tenth) by a few milliseconds.
pub(crate) const SLOTS: usize = 32;

/// An inbox that holds so many bytes counts as full: a few large messages are as much work as many small ones, and
/// memory that is never touched is never resident.
const FULL: usize = 512 << 10;

/// Less than Linux charges a receive buffer for the smallest message, in bytes (832 on Linux 6.18).
const SMALLEST_CHARGE: usize = 512;

/// Reusable memory for received datagrams: slots for whole messages, whose pages become resident only as far as
/// messages have filled them.
#[derive(Debug)]
pub struct ReceiveBatch {
    arena: Box<[u8]>,
    messages: Vec<Message>,
    bytes: usize,
    /// The batch is full with this many bytes.
    limit: usize,
}

/// What one receive from the system brought: one datagram, or several of one source that the kernel coalesced.
#[derive(Clone, Copy, Debug)]
struct Message {
    length: usize,
    /// Every datagram of the message has this length in bytes; the last one may be shorter.
    segment: usize,
    source: SocketAddr,
    local: Option<SocketAddr>,
}

impl ReceiveBatch {
    /// An empty inbox for whole batches.
    pub fn new() -> Self {
        Self::with_slots(SLOTS)
    }

    /// An empty inbox for so many messages at the most: one at least, a whole batch at the most.
    pub fn with_slots(slots: usize) -> Self {
        let slots = slots.clamp(1, SLOTS);
        let arena = vec![0; slots * STRIDE].into_boxed_slice();
        Self { arena, messages: Vec::with_capacity(slots), bytes: 0, limit: FULL }
    }

    /// Makes the batch full once it holds `limit` bytes: at least 1, and at most the 512 KiB that are the default. The
    /// message that reaches the limit may exceed it.
    pub fn with_limit(self, limit: usize) -> Self {
        Self { limit: limit.clamp(1, FULL), ..self }
    }

    /// The datagrams in the order of their arrival.
    pub fn datagrams(&self) -> Datagrams<'_> {
        Datagrams { messages: self.messages.iter().zip(self.arena.chunks(STRIDE)), rest: None }
    }

    /// What the messages took up in the kernel's receive buffer at the least, in bytes as the kernel charges them.
    pub fn charge(&self) -> usize {
        SMALLEST_CHARGE * self.messages.len() + self.bytes
    }

    /// Forgets what came before.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    /// How many messages have come.
    pub(crate) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// How many more messages may come.
    pub(crate) fn room(&self) -> usize {
        if self.bytes < self.limit { self.arena.len() / STRIDE - self.messages.len() } else { 0 }
    }

    /// The slots that the next messages may be written to, as many as there is room for, of at least 65,535 bytes
    /// each.
    pub(crate) fn slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let room = self.room();
        self.arena.chunks_mut(STRIDE).skip(self.messages.len()).take(room)
    }

    /// The slot that the next message may be written to; `None` when the inbox is full.
    pub(crate) fn slot(&mut self) -> Option<&mut [u8]> {
        self.slots().next()
    }

    /// Keeps the `length` bytes at the beginning of the next slot as datagrams of `segment` bytes.
    pub(crate) fn keep(&mut self, length: usize, segment: usize, source: SocketAddr, local: Option<SocketAddr>) {
        debug_assert!(length <= LARGEST && self.messages.len() < self.arena.len() / STRIDE);
        self.messages.push(Message { length, segment, source, local });
        self.bytes += length;
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// The datagrams of an [`ReceiveBatch`], made by [`ReceiveBatch::datagrams`].
#[derive(Clone, Debug)]
pub struct Datagrams<'a> {
    messages: Zip<Iter<'a, Message>, Chunks<'a, u8>>,
    /// What is left of the message at hand.
    rest: Option<(&'a Message, &'a [u8])>,
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = Datagram<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (message, bytes) = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let (message, slot) = self.messages.next()?;
                (message, &slot[..message.length])
            }
        };
        // An empty message is a datagram too; a segment size of 0 stands for one datagram.
        let end = if message.segment == 0 { bytes.len() } else { message.segment.min(bytes.len()) };
        let (payload, rest) = bytes.split_at(end);
        if !rest.is_empty() {
            self.rest = Some((message, rest));
        }
        Some(Datagram { source: message.source, local: message.local, payload })
    }
}

impl FusedIterator for Datagrams<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn put(inbox: &mut ReceiveBatch, bytes: &[u8], segment: usize, source: SocketAddr) {
        inbox.slot().expect("there is room")[..bytes.len()].copy_from_slice(bytes);
        inbox.keep(bytes.len(), segment, source, None);
    }

    #[test]
    fn a_coalesced_message_is_handed_out_as_the_datagrams_it_was_made_of() {
        let mut inbox = ReceiveBatch::new();
        put(&mut inbox, b"aabbc", 2, peer(1));
        put(&mut inbox, b"", 0, peer(2));
        put(&mut inbox, b"dd", 2, peer(3));
        let seen: Vec<_> = inbox.datagrams().map(|d| (d.source.port(), d.payload)).collect();
        assert_eq!(seen, [(1, &b"aa"[..]), (1, b"bb"), (1, b"c"), (2, b""), (3, b"dd")]);
    }

    #[test]
    fn every_slot_holds_the_largest_datagram_and_a_full_inbox_has_none() {
        let mut inbox = ReceiveBatch::new();
        while inbox.slot().is_some() {
            let number = inbox.messages.len() as u8;
            put(&mut inbox, &[number; LARGEST], LARGEST, peer(1));
        }
        assert_eq!(inbox.datagrams().count(), FULL.div_ceil(LARGEST));
        assert!((0..).zip(inbox.datagrams()).all(|(i, datagram)| datagram.payload == [i; LARGEST]));
        inbox.clear();
        assert_eq!((inbox.room(), inbox.datagrams().count()), (SLOTS, 0));
        (0..SLOTS).for_each(|_| put(&mut inbox, b"", 0, peer(1)));
        assert_eq!((inbox.room(), inbox.slots().count()), (0, 0));
        let mut inbox = ReceiveBatch::new().with_limit(1000);
        put(&mut inbox, &[1; 999], 999, peer(1));
        assert_eq!(inbox.room(), SLOTS - 1);
        put(&mut inbox, &[2; 500], 500, peer(1));
        assert_eq!(inbox.room(), 0, "full with 1,000 bytes");
        let mut inbox = ReceiveBatch::with_slots(1);
        put(&mut inbox, b"the only one", 12, peer(1));
        assert_eq!((inbox.room(), inbox.slots().count()), (0, 0));
    }
}
