//! UDP sockets for an edge-triggered loop: datagrams in, datagrams out, many per system call.
//!
//! [`bind()`] and [`connect`] make a non-blocking socket, and a [`Socket`] moves its datagrams: [`Transport::receive`]
//! fills a [`ReceiveBatch`], [`Transport::send`] sends a slice of [`Outgoing`] runs. How many datagrams a system call
//! moves is decided inside this module.
//!
//! A [`Socket`] is registered with a [`mio::Poll`], whose events are edge-triggered. After an event, including one that
//! reports only an error, the socket counts as readable until a receive returns [`Received::Drained`].
//!
//! # Terms
//!
//! - A *datagram* is one UDP payload with its addresses.
//! - A *message* is what one slot of a receive batch holds: one datagram, or several that the kernel coalesced.
//! - A *run* is a sequence of datagrams of one peer and one local address that have one length; the last one may be
//!   shorter. A single datagram is a run of one. A message arrives as a [`Run`], and a run of replies can leave as one
//!   segmented send; each datagram is a *segment* of it.
//!
//! # Files
//!
//! | file | responsibility |
//! |---|---|
//! | `bind` | making sockets, with the options that are set before they are bound |
//! | `socket` | [`Socket`], which is one of the two implementations below |
//! | [`portable`] | one datagram per system call, on every platform |
//! | [`linux`] | recvmmsg(2), sendmmsg(2), `UDP_GRO`, `UDP_SEGMENT`; the only `unsafe` code of the crate |
//! | [`gso`] | which datagrams one segmented send can carry |
//! | `cmsg`, `sockaddr` | control messages and addresses as the kernel lays them out |
//! | `receive_batch`, `send_batch` | reusable buffers |
//! | `udp_errors` | what the system dropped |
//! | `clock` | the time of day of an instant, and how good it is |
//! | `error` | the names of errors, and which of them break a socket |
//! | `error_report` | what ICMP errors mean |
//!
//! # Examples
//!
//! A socket that echoes what has arrived:
//!
//! ```
//! use mio::{Events, Interest, Poll, Token};
//! use udpong::net::{self, BufferSizes, IoBackend, Outgoing, PortSharing, ReceiveBatch, Received, Socket, Transport};
//!
//! let sizes = BufferSizes { receive: 1 << 20, send: 1 << 20 };
//! let (socket, _) = net::bind("127.0.0.1:0".parse()?, sizes, PortSharing::Exclusive, IoBackend::Auto)?;
//! let mut socket = Socket::new(socket, IoBackend::Auto)?;
//! let mut poll = Poll::new()?;
//! poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
//!
//! let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
//! peer.send_to(b"ping", socket.local_addr()?)?;
//!
//! let mut events = Events::with_capacity(8);
//! poll.poll(&mut events, None)?;
//! let mut batch = ReceiveBatch::new();
//! loop {
//!     let received = socket.receive(&mut batch);
//!     let echoes: Vec<_> = batch
//!         .datagrams()
//!         .map(|datagram| Outgoing::new(datagram.source, datagram.local, [datagram.payload, b"", b""]))
//!         .collect();
//!     assert_eq!(socket.send(&echoes).count, echoes.len());
//!     if let Received::Drained = received {
//!         break; // The next datagram raises an event.
//!     }
//! }
//! # let mut reply = [0; 8];
//! # assert_eq!(peer.recv(&mut reply)?, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bind;
mod clock;
mod error;
mod error_report;
pub(crate) mod portable;
mod receive_batch;
mod send_batch;
mod socket;
mod udp_errors;

#[cfg(test)]
mod contract;
#[cfg(all(test, target_os = "linux"))]
mod readiness;

// The platform is chosen here. Only `bind` has a condition of its own, for `SO_REUSEPORT`.
#[cfg(target_os = "linux")]
mod cmsg;
#[cfg(target_os = "linux")]
pub(crate) mod gso;
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and UDP socket options have no safe wrapper that passes coalesced messages"
)]
pub(crate) mod linux;
#[cfg(target_os = "linux")]
mod sockaddr;

#[cfg(not(target_os = "linux"))]
mod linux {
    //! Other platforms have the portable implementation only.

    pub use super::portable::Portable as Linux;

    pub const IS_AVAILABLE: bool = false;

    pub const BUFFER_SIZE_FACTOR: usize = 1;

    pub fn kernel_drops(_: &mio::net::UdpSocket) -> Option<u64> {
        None
    }

    /// Does nothing.
    pub fn expect_sockets(_: usize) {}

    /// Returns none.
    pub fn take_inherited_files(_: u16) -> std::io::Result<Vec<socket2::Socket>> {
        Ok(Vec::new())
    }

    /// Does nothing.
    pub fn disable_gro(_: &socket2::Socket) {}

    pub fn bind_device(_: &socket2::Socket, _: &str) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub fn set_traffic_class(_: &socket2::Socket, _: u32) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub fn dont_fragment(_: &socket2::Socket, _: bool) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub fn enable_error_reports(_: &mio::net::UdpSocket) -> bool {
        false
    }

    pub fn take_error_report(_: &mio::net::UdpSocket) -> Option<super::ErrorReport> {
        None
    }

    pub fn clock_error() -> Option<std::time::Duration> {
        None
    }
}

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

pub use bind::{BufferSizes, Egress, EgressSource, PortSharing, adopt, bind, connect};
pub use clock::{WallClock, clock_error};
pub use error::{BrokenSocket, ERROR_NAMES, error_name, is_broken};
pub use error_report::{ErrorReport, IcmpError};
pub use linux::expect_sockets;
pub(crate) use linux::take_inherited_files;
pub use receive_batch::{Envelope, ReceiveBatch, Run};
pub use send_batch::SendBatch;
pub use socket::{IoBackend, Socket};
pub use udp_errors::UdpErrors;

/// The longest payload that a UDP datagram over IPv4 can carry, in bytes: 65,535 less 20 of IP and 8 of UDP header.
pub const LONGEST_PAYLOAD: usize = 65_507;

/// The most datagrams that one segmented send carries on every kernel that supports it. Newer kernels take 128.
const MOST_SEGMENTS: usize = 64;

/// A received datagram, borrowed from a [`ReceiveBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The sender. It can be spoofed: nothing in UDP verifies it.
    ///
    /// An IPv6 socket on the unspecified address may receive from IPv4 peers too. Their sources are IPv4 addresses; an
    /// IPv4-mapped source was spoofed in an IPv6 packet.
    pub source: SocketAddr,
    /// The local address that the datagram was sent to, with port 0, if the socket learns it; see
    /// [`Socket::knows_local_address`]. A reply should leave [from](Outgoing::from) there.
    pub local: Option<SocketAddr>,
    /// What kind of address the datagram was sent to.
    pub delivery: Delivery,
    /// When the datagram arrived, by the kernel's clock; `None` unless [`Socket::enable_timestamps`] was called, and
    /// where the system's time was set meanwhile. A coalesced message has one time, that of its first datagram.
    pub arrival: Option<Instant>,
    /// The time to live (IPv4) or hop limit (IPv6) with which it arrived; `None` unless [`Socket::enable_hop_limits`]
    /// was called.
    pub hop_limit: Option<u8>,
    /// The payload: 0 to 65,535 arbitrary bytes.
    pub payload: &'a [u8],
}

/// What kind of address a datagram was sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// The socket does not learn it.
    #[default]
    Unknown,
    /// The address of one host.
    Unicast,
    /// A broadcast or multicast address: every socket on the port, here and on other hosts, receives a copy, also where
    /// a port is [shared](PortSharing::Shared).
    Group,
}

/// A run of datagrams to send, often one. Payloads are borrowed in up to three parts, so that a reply which quotes its
/// request copies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The destination. A connected socket ignores it and sends to its peer.
    pub to: SocketAddr,
    /// The local address to send from, whose port is ignored; `None` leaves the choice to the system. The portable
    /// implementation always does.
    pub from: Option<SocketAddr>,
    /// The parts that make up the payload, in order; any of them may be empty. In a run, each datagram has the first
    /// and the last part, and its piece of the second.
    pub parts: [&'a [u8]; 3],
    /// How many datagrams the run has, at least 1.
    pub count: usize,
    /// The length of the pieces of the second part in bytes; the last one may be shorter.
    pub piece: usize,
}

impl<'a> Outgoing<'a> {
    /// Creates a single datagram.
    pub fn new(to: SocketAddr, from: Option<SocketAddr>, parts: [&'a [u8]; 3]) -> Self {
        Self { to, from, parts, count: 1, piece: parts[1].len() }
    }

    /// Returns the payload of a datagram of the run, in its parts.
    pub fn payload(&self, index: usize) -> [&'a [u8]; 3] {
        [self.parts[0], piece_of(self.parts[1], self.piece, index, 1), self.parts[2]]
    }

    /// Returns the length of that payload in bytes.
    pub fn length_of(&self, index: usize) -> usize {
        self.payload(index).iter().map(|part| part.len()).sum()
    }

    /// Returns the length of all payloads in bytes.
    pub fn length(&self) -> usize {
        self.count * (self.parts[0].len() + self.parts[2].len()) + self.parts[1].len()
    }

    /// Returns `count` datagrams of the run, from the one with this index on.
    #[must_use]
    pub fn slice(&self, index: usize, count: usize) -> Self {
        if count == self.count {
            return *self;
        }
        let [before, pieces, after] = self.parts;
        Self { parts: [before, piece_of(pieces, self.piece, index, count), after], count, ..*self }
    }

    /// Splits the run into single datagrams.
    pub fn datagrams(self) -> impl DoubleEndedIterator<Item = Self> {
        (0..self.count).map(move |index| self.slice(index, 1))
    }

    /// Returns whether the whole run can leave as one send.
    pub fn is_one_send(&self) -> bool {
        self.count <= most_segments(self.length_of(0))
    }

    /// Splits the run into shorter ones, each of which can leave as one send.
    pub fn sends(self) -> impl Iterator<Item = Self> {
        let most = most_segments(self.length_of(0));
        (0..self.count).step_by(most).map(move |index| self.slice(index, most.min(self.count - index)))
    }
}

/// Returns how many datagrams of this length one segmented send carries at most; at least 1.
fn most_segments(length: usize) -> usize {
    (LONGEST_PAYLOAD / length.max(1)).clamp(1, MOST_SEGMENTS)
}

/// Returns `count` pieces of these bytes, from the one with this index on.
fn piece_of(bytes: &[u8], piece: usize, index: usize, count: usize) -> &[u8] {
    let start = bytes.len().min(index * piece);
    &bytes[start..bytes.len().min(start + count * piece)]
}

/// The result of a [`Transport::receive`]. In each case the batch holds the datagrams that were received before it.
#[derive(Debug)]
pub enum Received {
    /// The batch is full, or enough for one turn. More datagrams may wait, and no event will report them.
    More,
    /// The socket was seen empty: the next datagram raises a new event. [`linux`] concludes this from a short batch,
    /// [`portable`] from `EAGAIN`.
    Drained,
    /// The system reported an error. More datagrams may wait, and no event will report them.
    Failed(io::Error),
}

/// The result of a [`Transport::send`].
#[derive(Debug)]
pub struct Sent {
    /// How many datagrams left: the first `count` of those in the runs given.
    pub count: usize,
    /// Why the next datagram did not leave; `None` if all left.
    ///
    /// - [`WouldBlock`](io::ErrorKind::WouldBlock): it can be sent when the socket is writable.
    /// - [`ConnectionRefused`](io::ErrorKind::ConnectionRefused): an ICMP error that an earlier datagram caused,
    ///   reported by the first call after it. The datagram can be sent at once. With
    ///   [error reports](Socket::enable_error_reports), many other errors can belong to an earlier datagram, too.
    /// - Any other error: this datagram cannot be sent. The one after it can be tried at once, unless the error
    ///   [breaks](is_broken) the socket.
    pub error: Option<io::Error>,
}

/// A non-blocking datagram socket: a [`Socket`], or a replacement in tests.
pub trait Transport {
    /// Clears `batch`, then receives datagrams into it in the order of their arrival.
    ///
    /// Datagrams are never truncated. Interrupted system calls are repeated.
    fn receive(&mut self, batch: &mut ReceiveBatch) -> Received;

    /// Sends the datagrams of `runs` in order until one of them cannot be sent.
    ///
    /// Datagrams of equal length to one peer cost least if they follow each other, in one run or in several; see
    /// [`SendBatch::group_by_peer`]. Interrupted system calls are repeated.
    fn send(&mut self, runs: &[Outgoing<'_>]) -> Sent;
}

/// Returns the length of the headers of an unfragmented packet to `ip`, IP and UDP, in bytes.
pub fn header_length(ip: IpAddr) -> usize {
    if ip.to_canonical().is_ipv4() { 20 + 8 } else { 40 + 8 }
}

/// Repeats a system call for as long as signals interrupt it.
fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
