//! The inbox: one set of reusable buffers that a loop receives into, whatever socket it reads.
//!
//! It knows where each datagram lies and who sent it; it does not know how the datagrams got there.

use std::iter::FusedIterator;
use std::net::SocketAddr;

use super::Datagram;

/// What one receive may fill at the most, in bytes. Big datagrams fill it with 8, small ones stop at [`BATCH`].
const ARENA: usize = 8 * LARGEST;

/// Room for the largest datagram that a UDP header can announce; nothing is ever cut off.
const LARGEST: usize = 65_535;

/// How many messages one receive brings at the most. It bounds a turn: at about 5 µs for each answer, a flood on
/// one socket delays the others, and Ctrl+C, by well under a millisecond a turn.
const BATCH: usize = 64;

/// Reusable memory for received datagrams, at least one and at most 64 messages of them at a time.
///
/// The messages lie close together in one arena rather than each in a slot of 64 KiB: small datagrams stay in
/// the processor's cache, and the pages that only large ones need are never touched without them.
#[derive(Debug)]
pub struct Inbox {
    arena: Box<[u8]>,
    used: usize,
    messages: Vec<Message>,
}

/// What one receive from the system brought: one datagram, or several of one source that the kernel coalesced.
#[derive(Clone, Copy, Debug)]
struct Message {
    offset: usize,
    length: usize,
    /// Every datagram of the message has this length in bytes; the last one may be shorter.
    segment: usize,
    source: SocketAddr,
    local: Option<SocketAddr>,
}

impl Inbox {
    /// An empty inbox. Its half megabyte becomes resident only as far as datagrams fill it.
    pub fn new() -> Self {
        Self { arena: vec![0; ARENA].into_boxed_slice(), used: 0, messages: Vec::with_capacity(BATCH) }
    }

    /// The datagrams in the order of their arrival.
    pub fn datagrams(&self) -> Datagrams<'_> {
        Datagrams { arena: &self.arena, messages: self.messages.iter(), rest: None }
    }

    /// Forgets what came before.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.messages.clear();
    }

    /// Where the next message may be written, at least 65,535 bytes; `None` when the inbox is full.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        let room = &mut self.arena[self.used..];
        (room.len() >= LARGEST && self.messages.len() < BATCH).then_some(room)
    }

    /// Keeps the `length` bytes just written at the beginning of [`Inbox::room`] as datagrams of `segment` bytes.
    pub(crate) fn keep(&mut self, length: usize, segment: usize, source: SocketAddr, local: Option<SocketAddr>) {
        self.messages.push(Message { offset: self.used, length, segment, source, local });
        self.used += length;
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

/// The datagrams of an [`Inbox`], made by [`Inbox::datagrams`].
#[derive(Clone, Debug)]
pub struct Datagrams<'a> {
    arena: &'a [u8],
    messages: std::slice::Iter<'a, Message>,
    /// What is left of the message at hand.
    rest: Option<(&'a Message, &'a [u8])>,
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = Datagram<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (message, bytes) = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let message = self.messages.next()?;
                (message, &self.arena[message.offset..message.offset + message.length])
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

    fn put(inbox: &mut Inbox, bytes: &[u8], segment: usize, source: SocketAddr) {
        inbox.room().expect("there is room")[..bytes.len()].copy_from_slice(bytes);
        inbox.keep(bytes.len(), segment, source, None);
    }

    #[test]
    fn a_coalesced_message_is_handed_out_as_the_datagrams_it_was_made_of() {
        let mut inbox = Inbox::new();
        put(&mut inbox, b"aabbc", 2, peer(1));
        put(&mut inbox, b"", 0, peer(2));
        put(&mut inbox, b"dd", 2, peer(3));
        let seen: Vec<_> = inbox.datagrams().map(|d| (d.source.port(), d.payload)).collect();
        assert_eq!(seen, [(1, &b"aa"[..]), (1, b"bb"), (1, b"c"), (2, b""), (3, b"dd")]);
    }

    #[test]
    fn a_full_inbox_has_no_room_until_it_is_cleared() {
        let mut inbox = Inbox::new();
        for _ in 0..BATCH {
            put(&mut inbox, b"x", 1, peer(1));
        }
        assert!(inbox.room().is_none());
        inbox.clear();
        for _ in 0..ARENA / LARGEST {
            put(&mut inbox, &[7; LARGEST], LARGEST, peer(1));
        }
        assert!(inbox.room().is_none());
        assert_eq!(inbox.datagrams().count(), ARENA / LARGEST);
    }
}
