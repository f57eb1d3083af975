//! The listener: the socket of the clients, and what waits for it.

use std::io;
use std::net::SocketAddr;

use mio::Interest;

use super::payload_queue::PayloadQueue;
use super::session::Client;
use crate::net::Socket;
use crate::reactor::{Key, Wants};

/// The socket of the clients.
#[derive(Debug)]
pub struct Listener {
    pub socket: Socket,
    pub address: SocketAddr,
    pub key: Option<Key>,
    /// A receive may be tried.
    pub is_readable: bool,
    /// A send may be tried.
    pub is_writable: bool,
    /// How many sessions have datagrams that wait for their sockets.
    pub blocked_sessions: usize,
    /// What waits until the listener is writable, and the client that it is for. No session is read meanwhile, so it is
    /// no more than the rest of one batch.
    pub waiting: (PayloadQueue, Option<Client>),
    /// The sessions that wait until the listener is writable.
    pub stalled: Vec<usize>,
    /// The link to the clients waits until the listener is writable.
    pub stalls_link: bool,
    /// How much may still be received after a stop was requested, in bytes as the kernel charges them.
    pub backlog: Option<usize>,
    /// Failed receives since the last datagram.
    pub receive_errors: u32,
    /// Why the socket is unusable.
    pub broken: Option<io::Error>,
}

impl Listener {
    /// Takes over a socket that is bound to `address`. A new socket is writable.
    pub fn new(socket: Socket, address: SocketAddr) -> Self {
        Self {
            socket,
            address,
            key: None,
            is_readable: false,
            is_writable: true,
            blocked_sessions: 0,
            waiting: (PayloadQueue::default(), None),
            stalled: Vec::new(),
            stalls_link: false,
            backlog: None,
            receive_errors: 0,
            broken: None,
        }
    }

    pub fn may_receive(&self) -> bool {
        self.is_readable && self.blocked_sessions == 0 && self.backlog != Some(0) && self.broken.is_none()
    }

    /// Returns whether anything waits until the listener is writable.
    pub fn stalls(&self) -> bool {
        self.stalls_link || !self.stalled.is_empty() || !self.waiting.0.is_empty()
    }

    /// Returns whether datagrams for clients can be sent at once.
    pub fn may_send(&self) -> bool {
        self.is_writable && self.waiting.0.is_empty()
    }

    pub fn wants(&self) -> Wants {
        Wants {
            turn: self.may_receive() || (self.is_writable && self.stalls()),
            interest: Some(if self.stalls() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }),
            deadline: None,
        }
    }
}
