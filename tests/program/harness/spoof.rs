//! Sends datagrams from spoofed sources.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// A raw IPv4 socket; needs root, in a network namespace for one.
pub struct SpoofingSocket {
    socket: Socket,
    /// The UDP checksum, which is not computed here; 0 stands for none.
    pub checksum: u16,
}

impl SpoofingSocket {
    pub fn new() -> Self {
        // IPPROTO_RAW: the IP header is part of what is sent (raw(7)).
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
        Self { socket: socket.expect("a raw socket"), checksum: 0 }
    }

    pub fn send(&self, (source, port): ([u8; 4], u16), to: SocketAddr, message: &[u8]) {
        let IpAddr::V4(destination) = to.ip() else {
            panic!("{to} is not IPv4");
        };
        let length = 8 + u16::try_from(message.len()).expect("a short message");
        // The kernel fills in the length and the checksum of the IP header.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source);
        packet.extend(destination.octets());
        for field in [port, to.port(), length, self.checksum] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(message);
        self.socket.send_to(&packet, &to.into()).expect("sent");
    }
}
