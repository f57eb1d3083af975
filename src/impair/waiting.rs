//! A copy of a datagram that waits in a link.

/// What a datagram is charged besides its payload, in bytes: its entries in the tables of the link, each of which can
/// be half empty after it has grown, and what the allocator adds. The largest of these entries is that of a flow; a
/// flood from spoofed sources creates one for each datagram. The number is fixed, so that with the same seed the same
/// datagrams exceed the limit on every platform.
const OVERHEAD: usize = 512;

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

/// Returns how much memory a datagram with a payload of `length` bytes is charged, in bytes.
pub(super) fn charge(length: usize) -> usize {
    length + OVERHEAD
}
