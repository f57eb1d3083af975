//! The portable implementation: one datagram per system call, on every platform that mio supports.
//!
//! It does not learn which local address a datagram was sent to, so the system chooses where replies from a wildcard
//! address leave from.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use mio::net::UdpSocket;

use super::{Delivery, Envelope, Outgoing, ReceiveBatch, Received, Sent, retry_interrupted};

/// Receives and sends one datagram per system call.
#[derive(Debug)]
pub struct Portable {
    pub(super) is_connected: bool,
    /// What kind of address the socket is bound to; unknown for every address of the host.
    pub(super) delivery: Delivery,
    /// Where a payload of several parts is assembled, because `send_to` takes one slice.
    payload: Vec<u8>,
}

impl Portable {
    /// Prepares for a bound or connected socket.
    pub fn new(socket: &UdpSocket) -> Self {
        Self {
            is_connected: socket.peer_addr().is_ok(),
            delivery: match (socket.peer_addr(), socket.local_addr()) {
                (Ok(_), _) => Delivery::Unicast,
                (Err(_), local) => local.map_or(Delivery::Unknown, |local| delivery_to(local.ip())),
            },
            payload: Vec::with_capacity(1_500),
        }
    }

    /// Returns whether received datagrams carry their local address.
    pub fn has_packet_info(&self) -> bool {
        false
    }

    /// See [`Socket::enable_timestamps`](super::Socket::enable_timestamps).
    pub fn enable_timestamps(&mut self, _: &UdpSocket) -> bool {
        false
    }

    /// See [`Socket::enable_hop_limits`](super::Socket::enable_hop_limits).
    pub fn enable_hop_limits(&mut self, _: &UdpSocket) -> bool {
        false
    }

    /// See [`Socket::describe`](super::Socket::describe).
    pub fn describe(&self) -> String {
        "one datagram per system call".to_owned()
    }

    /// See [`Transport::receive`](super::Transport::receive).
    pub fn receive(&mut self, socket: &UdpSocket, batch: &mut ReceiveBatch) -> Received {
        batch.clear();
        while let Some(slot) = batch.slot() {
            match retry_interrupted(|| socket.recv_from(slot)) {
                // A length of 0 is an empty datagram, not the end of a stream.
                Ok((length, source)) => {
                    let envelope = Envelope { delivery: self.delivery, ..source.into() };
                    batch.push(length, length, envelope);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Drained,
                Err(error) => return Received::Failed(error),
            }
        }
        Received::More
    }

    /// See [`Transport::send`](super::Transport::send).
    pub fn send(&mut self, socket: &UdpSocket, runs: &[Outgoing<'_>]) -> Sent {
        let mut count = 0;
        for datagram in runs.iter().flat_map(|run| run.datagrams()) {
            if let Err(error) = self.send_one(socket, &datagram) {
                return Sent { count, error: Some(error) };
            }
            count += 1;
        }
        Sent { count, error: None }
    }

    fn send_one(&mut self, socket: &UdpSocket, datagram: &Outgoing<'_>) -> io::Result<usize> {
        let payload = match datagram.parts {
            [only, [], []] | [[], only, []] => only,
            parts => {
                self.payload.clear();
                parts.iter().for_each(|part| self.payload.extend_from_slice(part));
                &self.payload
            }
        };
        // The BSDs refuse an address on a connected socket (EISCONN).
        retry_interrupted(|| match self.is_connected {
            true => socket.send(payload),
            false => socket.send_to(payload, datagram.to),
        })
    }
}

/// Returns the delivery of the datagrams that reach a socket bound to `local`.
fn delivery_to(local: IpAddr) -> Delivery {
    // The system does not list its broadcast addresses, but refuses to connect to one without `SO_BROADCAST`.
    let is_broadcast = || {
        let probe = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|probe| probe.connect((local, 9)));
        probe.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    match local {
        _ if local.is_unspecified() => Delivery::Unknown,
        _ if local.is_loopback() => Delivery::Unicast,
        _ if local.is_multicast() || (local.is_ipv4() && is_broadcast()) => Delivery::Group,
        _ => Delivery::Unicast,
    }
}
