//! One datagram a system call, on every platform that mio runs on: recv_from, and send_to or send.
//!
//! It cannot learn which address a datagram was sent to, so on a wildcard address the system chooses where
//! replies leave from.

use std::io;

use mio::net::UdpSocket;

use super::datapath::Datapath;
use super::{Outgoing, ReceiveBatch, Received, Sent};

/// Moves one datagram at a time.
#[derive(Debug)]
pub struct Portable {
    connected: bool,
    /// Where a reply of several parts is put together: `send_to` takes one slice.
    assembled: Vec<u8>,
}

impl Datapath for Portable {
    fn receive(&mut self, socket: &UdpSocket, inbox: &mut ReceiveBatch) -> Received {
        inbox.clear();
        while let Some(slot) = inbox.slot() {
            match socket.recv_from(slot) {
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

    fn send(&mut self, socket: &UdpSocket, datagrams: &[Outgoing<'_>]) -> Sent {
        for (count, datagram) in datagrams.iter().enumerate() {
            if let Err(error) = self.send_one(socket, datagram) {
                return Sent { count, error: Some(error) };
            }
        }
        Sent { count: datagrams.len(), error: None }
    }

    fn knows_local_address(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "one datagram a system call".to_owned()
    }
}

impl Portable {
    /// The portable datapath for a socket, bound or connected.
    pub fn new(socket: &std::net::UdpSocket) -> Self {
        Self { connected: socket.peer_addr().is_ok(), assembled: Vec::new() }
    }

    /// The same, with memory at hand for putting together up to so many bytes.
    pub fn with_room(mut self, room: usize) -> Self {
        self.assembled.reserve(room);
        self
    }

    /// Sends one datagram, from whatever address the system chooses.
    pub fn send_one(&mut self, socket: &UdpSocket, datagram: &Outgoing<'_>) -> io::Result<()> {
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
            let sent = if self.connected { socket.send(payload) } else { socket.send_to(payload, datagram.to) };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }
}
