//! Datagrams in, datagrams out: the one contract that server and client talk to the system through.
//!
//! Above this module there are single [`Datagram`]s in order and single [`Outgoing`] ones in order. How many
//! of them a system call moves at once is known below it only. It knows sockets and buffers; it knows nothing
//! of services, templates or probes.
//!
//! The platform is chosen here and nowhere else in the crate.

pub mod bind;
mod datapath;
pub(crate) mod portable;
mod receive_batch;
mod send_batch;
mod socket;

#[cfg(test)]
mod contract;

#[cfg(target_os = "linux")]
mod cmsg;
#[cfg(target_os = "linux")]
pub(crate) mod gso;
#[cfg(target_os = "linux")]
pub(crate) mod linux;
#[cfg(target_os = "linux")]
mod sockaddr;

#[cfg(not(target_os = "linux"))]
mod linux {
    //! Elsewhere than on Linux the portable datapath is the only one.
    pub fn datapath(_: &std::net::UdpSocket) -> std::io::Result<Box<dyn super::datapath::Datapath>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// There is no such limit, or no way to raise it.
    pub fn raise_open_files_limit() {}

    /// Nobody counts for us.
    pub fn kernel_drops(_: &mio::net::UdpSocket) -> Option<u64> {
        None
    }
}

use std::io;
use std::net::SocketAddr;

#[cfg_attr(not(feature = "impair"), allow(unused_imports, reason = "for a relay"))]
pub(crate) use linux::raise_open_files_limit;
pub use receive_batch::ReceiveBatch;
pub use send_batch::SendBatch;
pub use socket::{IoBackend, Socket};

/// The longest payload that a UDP datagram over IPv4 can carry, in bytes: 65,535 less 20 of IP and 8 of UDP.
pub const LONGEST_PAYLOAD: usize = 65_507;

/// Linux counts its own bookkeeping into a socket buffer: it doubles the size asked for, and reports it doubled
/// (socket(7), `SO_RCVBUF`).
pub(crate) const BUFFER_SIZE_FACTOR: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

/// Lets the system spread peers over several sockets on one port.
#[cfg(unix)]
fn set_reuse_port(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}
#[cfg(not(unix))]
fn set_reuse_port(_: &socket2::Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A datagram that came, borrowed from the [`ReceiveBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it. Not to be believed: UDP sources can be forged.
    pub source: SocketAddr,
    /// The address that it was sent to, where the implementation knows it; a reply leaves from there.
    pub local: Option<SocketAddr>,
    /// What it says: 0 to 65,535 bytes, any bytes.
    pub payload: &'a [u8],
}

/// A datagram to send, borrowed from wherever its parts lie, so that sending an echo copies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// Where it goes; from a connected socket, always to its peer.
    pub to: SocketAddr,
    /// The local address that it should leave from; `None` leaves the choice to the system.
    pub from: Option<SocketAddr>,
    /// What it says: the parts, one after the other.
    pub parts: [&'a [u8]; 3],
}

impl Outgoing<'_> {
    /// The length of all parts together, in bytes.
    pub fn length(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// Why a [`Transport::receive`] came back.
#[derive(Debug)]
pub enum Received {
    /// The inbox is full, or the batch is: there may be more to receive.
    More,
    /// The socket was seen empty, or what is left has raised an event that is still to come. Polling is
    /// edge-triggered, so this is the only proof that an event will bring the next datagram. How each datapath knows:
    /// [`portable`] by `EAGAIN`, [`linux`] by a short batch too.
    Drained,
    /// The system reported an error. What came before it lies in the inbox; there may be more to receive.
    Failed(io::Error),
}

/// What a [`Transport::send`] achieved.
#[derive(Debug)]
pub struct Sent {
    /// How many of the datagrams left; they are the first of those given.
    pub count: usize,
    /// Why the next one did not leave; `None` when all did. After [`io::ErrorKind::WouldBlock`] it may be tried
    /// again when the socket is writable, after [`io::ErrorKind::ConnectionRefused`], which tells of an earlier one, at
    /// once; after anything else it is lost, and the one behind it may be tried at once.
    pub error: Option<io::Error>,
}

/// A non-blocking datagram socket: [`Socket`] in the program, a script in the tests.
pub trait Transport {
    /// Empties the inbox, then receives what has arrived, whole datagrams in the order of their arrival: as much as the
    /// inbox takes, or the datapath fetches at a time.
    ///
    /// Interrupted calls are repeated and never reported.
    fn receive(&mut self, inbox: &mut ReceiveBatch) -> Received;

    /// Brings datagrams into the order in which sending them costs least. Those that go to one peer keep their
    /// order.
    fn arrange(&mut self, datagrams: &mut [Outgoing<'_>]) {
        let _ = datagrams;
    }

    /// Sends `datagrams` in order until one cannot be sent.
    ///
    /// Interrupted calls are repeated and never reported.
    fn send(&mut self, datagrams: &[Outgoing<'_>]) -> Sent;
}

/// Whether an error says that the socket itself is unusable, so that trying again would spin for ever.
pub fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}

/// The symbolic name of an error as errno(3) lists it, for those that a datagram can meet; `"other"` for the rest.
pub fn error_name(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) => "EACCES",
        Some(libc::EADDRNOTAVAIL) => "EADDRNOTAVAIL",
        Some(libc::EBADF) => "EBADF",
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        Some(libc::ECONNRESET) => "ECONNRESET",
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::EIO) => "EIO",
        Some(libc::EMSGSIZE) => "EMSGSIZE",
        Some(libc::ENETDOWN) => "ENETDOWN",
        Some(libc::ENETUNREACH) => "ENETUNREACH",
        Some(libc::ENOBUFS) => "ENOBUFS",
        Some(libc::ENOMEM) => "ENOMEM",
        Some(libc::ENOTSOCK) => "ENOTSOCK",
        Some(libc::EPERM) => "EPERM",
        _ => "other",
    }
}
