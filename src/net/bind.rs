//! Makes sockets: a bound one for a server, a connected one for a client, and the options that are set before that.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::linux::BUFFER_SIZE_FACTOR;

/// Sizes of the kernel's buffers for a socket, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// For datagrams that have arrived and were not received yet (`SO_RCVBUF`).
    pub receive: usize,
    /// For datagrams that have not left the machine yet (`SO_SNDBUF`).
    pub send: usize,
}

/// Whether other sockets may be bound to the same address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSharing {
    /// A second socket is refused.
    Exclusive,
    /// The kernel spreads the peers over all sockets of this user that share the port (`SO_REUSEPORT`). Unix only.
    Shared,
}

/// Binds a non-blocking UDP socket to `address`; returns it with the buffer sizes that it got.
///
/// The system reduces sizes above its limit without an error (`net.core.rmem_max` and `net.core.wmem_max` on Linux). A
/// socket on the unspecified IPv6 address receives from IPv4 peers too, whatever the system's default is.
///
/// # Errors
///
/// Those of socket(2), setsockopt(2) and bind(2), and [`io::ErrorKind::Unsupported`] for [`PortSharing::Shared`] on
/// platforms other than Unix.
pub fn bind(address: SocketAddr, wanted: BufferSizes, sharing: PortSharing) -> io::Result<(UdpSocket, BufferSizes)> {
    let socket = open(address, wanted)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if sharing == PortSharing::Shared {
        share_port(&socket)?;
    }
    socket.bind(&address.into())?;
    let given = BufferSizes {
        receive: socket.recv_buffer_size()? / BUFFER_SIZE_FACTOR,
        send: socket.send_buffer_size()? / BUFFER_SIZE_FACTOR,
    };
    Ok((socket.into(), given))
}

/// Connects a non-blocking UDP socket on a free port to `target`. Its buffers may come out smaller than `wanted`.
///
/// The kernel drops what other peers send to a connected socket, and reports the ICMP errors that its datagrams cause:
/// a closed port is an [`io::ErrorKind::ConnectionRefused`] on one of the next calls (udp(7)) instead of silence.
///
/// # Errors
///
/// Those of socket(2) and connect(2), such as [`io::ErrorKind::NetworkUnreachable`]. Nothing is sent yet, so a closed
/// port is not among them.
pub fn connect(target: SocketAddr, wanted: BufferSizes) -> io::Result<UdpSocket> {
    let socket = open(target, wanted)?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

fn open(address: SocketAddr, wanted: BufferSizes) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Some systems refuse a size above their limit instead of reducing it; the default then remains.
    let _ = socket.set_recv_buffer_size(wanted.receive);
    let _ = socket.set_send_buffer_size(wanted.send);
    Ok(socket)
}

#[cfg(unix)]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
