//! A plain UDP client.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::{TIMEOUT, wait_until};

/// Returns a socket on a free port, connected to a server. A wildcard address is reached by loopback.
pub fn connect(mut server: SocketAddr) -> UdpSocket {
    let (any, loopback): (IpAddr, IpAddr) = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
    };
    if server.ip().is_unspecified() {
        server.set_ip(loopback);
    }
    connect_from(any, server)
}

/// Returns a socket on a free port of an address, connected to a server.
pub fn connect_from(ip: IpAddr, server: impl ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket.connect(server).expect("a connected socket");
    socket
}

/// Sends a datagram and waits for the reply.
pub fn request(socket: &UdpSocket, message: &[u8]) -> Vec<u8> {
    socket.send(message).expect("sent");
    receive(socket)
}

/// Sends requests of three bytes until one is answered, since a flooded receive buffer may have no room for them.
/// Returns how many were sent.
pub fn request_until_answered(server: SocketAddr) -> u64 {
    let socket = connect(server);
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut sent = 0;
    wait_until("a request is answered", || {
        socket.send(b"you").expect("sent");
        sent += 1;
        socket.recv(&mut [0; 10]).ok()
    });
    sent
}

/// Waits for a datagram.
pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut reply = vec![0; 65_535];
    let length = loop {
        match socket.recv(&mut reply) {
            // A test run that is stopped and continued.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result.expect("a reply"),
        }
    };
    reply.truncate(length);
    reply
}
