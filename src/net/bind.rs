//! Makes sockets: a bound one for a server, a connected one for a client, and the options that are set before that.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::IoBackend;
use super::linux::{self, BUFFER_SIZE_FACTOR};

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
/// The system reduces sizes above its limit without an error (`net.core.rmem_max` and `net.core.wmem_max` on Linux).
///
/// A socket on the unspecified IPv6 address receives from IPv4 peers too, whatever the system's default is, if `io`
/// learns how a datagram arrived. Otherwise it receives IPv6 only: its IPv4 peers could not be distinguished from
/// IPv4-mapped sources, which are spoofed.
///
/// # Errors
///
/// Those of socket(2), setsockopt(2) and bind(2), and [`io::ErrorKind::Unsupported`] for [`PortSharing::Shared`] on
/// platforms other than Unix.
pub fn bind(
    address: SocketAddr,
    wanted: BufferSizes,
    sharing: PortSharing,
    io: IoBackend,
) -> io::Result<(UdpSocket, BufferSizes)> {
    let socket = open(address, wanted)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified() || !io.has_packet_info())?;
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

/// Takes over a socket that was bound elsewhere, and enlarges its buffers to `wanted` if they are smaller; returns it
/// with the buffer sizes that it has.
///
/// # Errors
///
/// Those of fcntl(2) and setsockopt(2).
pub fn adopt(socket: UdpSocket, wanted: BufferSizes) -> io::Result<(UdpSocket, BufferSizes)> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(true)?;
    linux::disable_gro(&socket);
    if socket.recv_buffer_size()? / BUFFER_SIZE_FACTOR < wanted.receive {
        socket.set_recv_buffer_size(wanted.receive)?;
    }
    if socket.send_buffer_size()? / BUFFER_SIZE_FACTOR < wanted.send {
        socket.set_send_buffer_size(wanted.send)?;
    }
    let given = BufferSizes {
        receive: socket.recv_buffer_size()? / BUFFER_SIZE_FACTOR,
        send: socket.send_buffer_size()? / BUFFER_SIZE_FACTOR,
    };
    Ok((socket.into(), given))
}

/// Where the datagrams of a connected socket leave, and fields of their IP headers. `None` leaves it to the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// The local address or interface.
    pub source: Option<EgressSource>,
    /// The byte of differentiated services and congestion notification: DSCP is its first 6 bits (RFC 2474, RFC 3168).
    pub tos: Option<u8>,
    /// The time to live (IPv4) or hop limit (IPv6).
    pub hop_limit: Option<u8>,
    /// Whether datagrams are never fragmented: one that exceeds the known path MTU is an `EMSGSIZE`. Linux only.
    pub dont_fragment: bool,
}

/// What datagrams leave from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressSource {
    /// A local address.
    Address(IpAddr),
    /// A network interface, by its name. Linux only.
    Interface(String),
}

/// Connects a non-blocking UDP socket on a free port to `target`. Its buffers may come out smaller than `wanted`.
///
/// The kernel drops what other peers send to a connected socket, and reports the ICMP errors that its datagrams cause:
/// a closed port is an [`io::ErrorKind::ConnectionRefused`] on one of the next calls (udp(7)) instead of silence.
///
/// # Errors
///
/// Those of socket(2) and connect(2), such as [`io::ErrorKind::NetworkUnreachable`]. Nothing is sent yet, so a closed
/// port is not among them. The message of an error of setsockopt(2) or bind(2) names the part of `egress` that failed.
pub fn connect(target: SocketAddr, wanted: BufferSizes, egress: &Egress) -> io::Result<UdpSocket> {
    let socket = open(target, wanted)?;
    egress.apply(&socket, target.is_ipv4())?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

impl Egress {
    fn apply(&self, socket: &Socket, is_ipv4: bool) -> io::Result<()> {
        let cannot = |what: &str, error: io::Error| io::Error::other(format!("cannot {what}: {error}"));
        match &self.source {
            Some(EgressSource::Address(address)) => socket
                .bind(&SocketAddr::new(*address, 0).into())
                .map_err(|error| cannot(&format!("send from {address}"), error))?,
            Some(EgressSource::Interface(name)) => {
                linux::bind_device(socket, name).map_err(|error| cannot(&format!("send from {name}"), error))?;
            }
            None => {}
        }
        if let Some(tos) = self.tos.map(u32::from) {
            let set = if is_ipv4 { socket.set_tos_v4(tos) } else { linux::set_traffic_class(socket, tos) };
            set.map_err(|error| cannot("set the type of service", error))?;
        }
        if let Some(hops) = self.hop_limit.map(u32::from) {
            let set = if is_ipv4 { socket.set_ttl_v4(hops) } else { socket.set_unicast_hops_v6(hops) };
            set.map_err(|error| cannot("set the hop limit", error))?;
        }
        if self.dont_fragment {
            linux::dont_fragment(socket, is_ipv4).map_err(|error| cannot("forbid fragmentation", error))?;
        }
        Ok(())
    }
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
