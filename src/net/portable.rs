//! One datagram a system call, on every platform that mio runs on: recv_from, and send_to or send.
//!
//! It cannot learn which address a datagram was sent to, so on a wildcard address the system chooses where
//! replies leave from.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::{Inbox, Outgoing, Received, Sent, Transport};

/// A non-blocking UDP socket that moves one datagram at a time.
#[derive(Debug)]
pub struct Socket {
    socket: mio::net::UdpSocket,
    /// Whether it has one peer only, which all datagrams go to.
    connected: bool,
    /// Where a reply of several parts is put together: `send_to` takes one slice.
    assembled: Vec<u8>,
}

impl Socket {
    /// Takes over a bound or connected socket, which must be in non-blocking mode.
    pub fn new(socket: UdpSocket) -> Self {
        let connected = socket.peer_addr().is_ok();
        Self { socket: mio::net::UdpSocket::from_std(socket), connected, assembled: Vec::new() }
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// What getsockname(2) reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// How many datagrams the kernel threw away since the socket was bound, because the receive buffer was full;
    /// `None` where the system does not tell.
    pub fn kernel_drops(&self) -> Option<u64> {
        super::kernel_drops::kernel_drops(&self.socket)
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
    fn receive(&mut self, inbox: &mut Inbox) -> Received {
        inbox.clear();
        while let Some(room) = inbox.room() {
            match self.socket.recv_from(room) {
                // Ok(0) is an empty datagram: a datagram socket has no end of file.
                Ok((length, source)) => inbox.keep(length, length, source, None),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Received::Drained,
                    _ => return Received::Failed(error),
                },
            }
        }
        Received::More
    }

    fn send(&mut self, datagrams: &[Outgoing<'_>]) -> Sent {
        for (count, datagram) in datagrams.iter().enumerate() {
            if let Err(error) = self.send_one(datagram) {
                return Sent { count, error: Some(error) };
            }
        }
        Sent { count: datagrams.len(), error: None }
    }
}

impl Socket {
    fn send_one(&mut self, datagram: &Outgoing<'_>) -> io::Result<()> {
        let payload = match datagram.parts {
            [only, [], []] | [[], only, []] => only,
            parts => {
                self.assembled.clear();
                parts.iter().for_each(|part| self.assembled.extend_from_slice(part));
                &self.assembled
            }
        };
        loop {
            // The BSDs refuse an address for what is connected (EISCONN).
            let sent =
                if self.connected { self.socket.send(payload) } else { self.socket.send_to(payload, datagram.to) };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
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
