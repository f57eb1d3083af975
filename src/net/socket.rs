//! A bound or connected socket as server and client hold it, whichever datapath moves its datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::datapath::Datapath;
use super::portable::Portable;
use super::{Outgoing, ReceiveBatch, Received, Sent, Transport, linux};

/// Which datapath moves the datagrams of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// Segmented where the system has it, else portable.
    #[default]
    Auto,
    /// One datagram a system call.
    Portable,
    /// As many datagrams a system call, and a way through the network stack, as can be. Linux only.
    Segmented,
}

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct Socket {
    socket: mio::net::UdpSocket,
    datapath: Box<dyn Datapath>,
}

impl Socket {
    /// Takes over a bound or connected socket, which must be in non-blocking mode.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] for [`IoBackend::Segmented`] elsewhere than on Linux, or what getsockname(2) reports.
    pub fn new(socket: UdpSocket, io: IoBackend) -> io::Result<Self> {
        let datapath = match io {
            IoBackend::Portable => Box::new(Portable::new(&socket)),
            IoBackend::Segmented => linux::datapath(&socket)?,
            IoBackend::Auto => match linux::datapath(&socket) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Box::new(Portable::new(&socket)),
                result => result?,
            },
        };
        Ok(Self { socket: mio::net::UdpSocket::from_std(socket), datapath })
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// What getsockname(2) reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether it learns which address a datagram was sent to even on a wildcard address, so that replies can leave
    /// from there.
    pub fn knows_local_address(&self) -> bool {
        self.datapath.knows_local_address()
    }

    /// How it moves datagrams, in a few words for the log.
    pub fn describe(&self) -> String {
        self.datapath.describe()
    }

    /// How many datagrams the kernel threw away since the socket was bound, because the receive buffer was full;
    /// `None` where the system does not tell.
    pub fn kernel_drops(&self) -> Option<u64> {
        linux::kernel_drops(&self.socket)
    }

    /// What the kernel's receive buffer holds at the most, in bytes as the kernel charges them.
    ///
    /// # Errors
    ///
    /// What getsockopt(2) reports.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        socket2::SockRef::from(&self.socket).recv_buffer_size()
    }
}

impl Transport for Socket {
    fn receive(&mut self, inbox: &mut ReceiveBatch) -> Received {
        self.datapath.receive(&self.socket, inbox)
    }

    fn arrange(&mut self, datagrams: &mut [Outgoing<'_>]) {
        self.datapath.arrange(datagrams);
    }

    fn send(&mut self, datagrams: &[Outgoing<'_>]) -> Sent {
        self.datapath.send(&self.socket, datagrams)
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
