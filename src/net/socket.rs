//! A bound or connected UDP socket, on one of the two implementations.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::linux::{self, Linux};
use super::portable::Portable;
use super::{ErrorReport, Outgoing, ReceiveBatch, Received, Sent, Transport};

/// The implementation that moves the datagrams of a [`Socket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// [`Segmented`](Self::Segmented) on Linux, [`Portable`](Self::Portable) elsewhere.
    #[default]
    Auto,
    /// One datagram per system call.
    Portable,
    /// Many datagrams per system call, coalesced and segmented by the kernel where it can. Linux only.
    Segmented,
}

impl IoBackend {
    /// Returns whether a socket on every address of the host learns which one a datagram was sent to, and so whether it
    /// arrived by IPv4 or IPv6. Very old kernels lack it.
    pub fn has_packet_info(self) -> bool {
        linux::IS_AVAILABLE && self != Self::Portable
    }
}

/// A non-blocking UDP socket that receives and sends in batches.
///
/// Received datagrams and those to be sent are described at [`Transport`], which it implements; readiness is reported
/// by a [`mio::Poll`] that it is registered with.
#[derive(Debug)]
pub struct Socket {
    socket: mio::net::UdpSocket,
    implementation: Implementation,
    /// What the kernel had dropped before: an inherited socket may be older than the process.
    dropped_before: Option<u64>,
}

#[derive(Debug)]
enum Implementation {
    Portable(Portable),
    Linux(Linux),
}

impl Socket {
    /// Takes over a bound or connected socket, which must be in non-blocking mode, as [`bind`](super::bind()) and
    /// [`connect`](super::connect) return it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] for [`IoBackend::Segmented`] on platforms other than Linux.
    pub fn new(socket: UdpSocket, io: IoBackend) -> io::Result<Self> {
        let socket = mio::net::UdpSocket::from_std(socket);
        let implementation = match io {
            IoBackend::Auto | IoBackend::Segmented if linux::IS_AVAILABLE => Implementation::Linux(Linux::new(&socket)),
            IoBackend::Auto | IoBackend::Portable => Implementation::Portable(Portable::new(&socket)),
            IoBackend::Segmented => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { dropped_before: linux::kernel_drops(&socket), socket, implementation })
    }

    /// Returns the address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns whether the local address of every received datagram is known: the socket is bound to one address, or
    /// [`Datagram::local`](super::Datagram::local) holds it.
    ///
    /// If it is not known, the system chooses the address that replies leave from, and a peer that sent to another
    /// address of this host will not recognise them.
    pub fn knows_local_address(&self) -> bool {
        let is_wildcard = self.local_addr().is_ok_and(|address| address.ip().is_unspecified());
        !is_wildcard
            || match &self.implementation {
                Implementation::Portable(portable) => portable.has_packet_info(),
                Implementation::Linux(linux) => linux.has_packet_info(),
            }
    }

    /// Asks the kernel to note when each datagram arrives ([`Datagram::arrival`](super::Datagram::arrival)); returns
    /// whether it does, which only [`IoBackend::Segmented`] can.
    ///
    /// Datagrams are not coalesced any more, so that each has a time of its own. The kernel begins to note times a
    /// moment later; until then, a datagram arrives when it is received.
    pub fn enable_timestamps(&mut self) -> bool {
        match &mut self.implementation {
            Implementation::Portable(portable) => portable.enable_timestamps(&self.socket),
            Implementation::Linux(linux) => linux.enable_timestamps(&self.socket),
        }
    }

    /// Asks the kernel for the hop limit of each datagram ([`Datagram::hop_limit`](super::Datagram::hop_limit));
    /// returns whether it reports them, which only [`IoBackend::Segmented`] can.
    pub fn enable_hop_limits(&mut self) -> bool {
        match &mut self.implementation {
            Implementation::Portable(portable) => portable.enable_hop_limits(&self.socket),
            Implementation::Linux(linux) => linux.enable_hop_limits(&self.socket),
        }
    }

    /// Asks the kernel to keep ICMP errors for [`take_error_report`](Self::take_error_report); returns whether it does,
    /// which only Linux can.
    ///
    /// Each of them, also those that would be ignored otherwise, is returned by one of the next calls as well, be it a
    /// receive or a send, and raises an event. So this is for connected sockets only: on another one, an error would be
    /// returned to a call that has nothing to do with it.
    pub fn enable_error_reports(&mut self) -> bool {
        linux::enable_error_reports(&self.socket)
    }

    /// Returns the oldest ICMP error that was not taken yet, if there is one. When all have been taken, none of them is
    /// returned by a call any more.
    pub fn take_error_report(&mut self) -> Option<ErrorReport> {
        linux::take_error_report(&self.socket)
    }

    /// Describes in a few words how datagrams are moved, for the log.
    pub fn describe(&self) -> String {
        match &self.implementation {
            Implementation::Portable(portable) => portable.describe(),
            Implementation::Linux(linux) => linux.describe(),
        }
    }

    /// Returns how many messages the kernel has dropped at this socket since [`new`](Self::new), because the receive
    /// buffer was full or a checksum wrong; `None` where the system does not report it.
    ///
    /// It counts messages: one that was coalesced from up to 128 datagrams counts once. The kernel does not report how
    /// many datagrams those were. It does not count datagrams of at most 68 bytes with a wrong checksum, which it drops
    /// before it looks for the socket.
    pub fn kernel_drops(&self) -> Option<u64> {
        let dropped = linux::kernel_drops(&self.socket)?;
        Some(dropped.saturating_sub(self.dropped_before.unwrap_or(0)))
    }

    /// Returns how much the kernel's receive buffer holds, in bytes as the kernel charges them: payload and
    /// bookkeeping.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn receive_buffer(&self) -> io::Result<usize> {
        socket2::SockRef::from(&self.socket).recv_buffer_size()
    }
}

impl Transport for Socket {
    fn receive(&mut self, batch: &mut ReceiveBatch) -> Received {
        match &mut self.implementation {
            Implementation::Portable(portable) => portable.receive(&self.socket, batch),
            Implementation::Linux(linux) => linux.receive(&self.socket, batch),
        }
    }

    fn send(&mut self, runs: &[Outgoing<'_>]) -> Sent {
        match &mut self.implementation {
            Implementation::Portable(portable) => portable.send(&self.socket, runs),
            Implementation::Linux(linux) => linux.send(&self.socket, runs),
        }
    }
}

impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interest)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}
