//! Makes sockets: a bound one as a server wants it, a connected one as a client does; which options are set before
//! that, and what the system made of them.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::{BUFFER_SIZE_FACTOR, set_reuse_port};

/// How large the kernel's buffers for a socket should be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// For datagrams that have arrived and were not read yet.
    pub receive: usize,
    /// For datagrams that have not left the machine yet.
    pub send: usize,
}

/// Whether other sockets may be bound to the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The port is the socket's alone: a second one on the same address is refused.
    Own,
    /// The system spreads the peers over all sockets of this user that share the port (`SO_REUSEPORT`).
    Shared,
}

/// Binds a non-blocking UDP socket to `address` and asks for buffers; says how large they really are.
///
/// An unspecified IPv6 address
/// takes IPv4 peers too, whatever the system's default is.
///
/// The system cuts buffer sizes to its limit without an error (`net.core.rmem_max` and `wmem_max` on Linux).
///
/// # Errors
///
/// What socket(2), setsockopt(2) and bind(2) report.
pub fn bind(address: SocketAddr, wanted: BufferSizes, port: Port) -> io::Result<(UdpSocket, BufferSizes)> {
    let socket = open(address, wanted)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if port == Port::Shared {
        set_reuse_port(&socket)?;
    }
    socket.bind(&address.into())?;
    let given = BufferSizes {
        receive: socket.recv_buffer_size()? / BUFFER_SIZE_FACTOR,
        send: socket.send_buffer_size()? / BUFFER_SIZE_FACTOR,
    };
    Ok((socket.into(), given))
}

/// Connects a non-blocking UDP socket on a free port to `target` and asks for buffers, which may come out smaller.
///
/// Connected, because the system then keeps away what others than the target send, and tells what ICMP brings: a
/// closed port is an [`io::ErrorKind::ConnectionRefused`] on the next call (udp(7)), not silence.
///
/// # Errors
///
/// What socket(2) and connect(2) report; the latter when no route leads to the target. Nothing is sent yet, so
/// whether anybody listens there remains to be seen.
pub fn connect(target: SocketAddr, wanted: BufferSizes) -> io::Result<UdpSocket> {
    let socket = open(target, wanted)?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

fn open(address: SocketAddr, wanted: BufferSizes) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Some systems refuse what is over their limit instead of cutting it: the default then stays.
    let _ = socket.set_recv_buffer_size(wanted.receive);
    let _ = socket.set_send_buffer_size(wanted.send);
    Ok(socket)
}
