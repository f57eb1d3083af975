//! The target of a client: resolves `HOST:PORT`, and opens sockets connected to it.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::Error;
use crate::host_port;
use crate::lookup::lookup;
use crate::net::{BufferSizes, Egress, IoBackend, Socket, connect};
use crate::reactor::shutdown::Shutdown;

/// The default target: `serve hello` on this machine.
const DEFAULT_HOST: &str = "127.0.0.1";
pub const DEFAULT_PORT: u16 = 5000;

/// The kernel's buffers hold about 10,000 small answers while this process does not run.
const BUFFER_SIZES: BufferSizes = BufferSizes { receive: 4 << 20, send: 4 << 20 };

/// The address family that a name is resolved to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 or IPv6.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    fn includes(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    /// Returns the adjective of an address in messages.
    fn name(self) -> &'static str {
        match self {
            Self::Any => "usable",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Resolves `HOST:PORT`, `:PORT` or `HOST` to the addresses to which there is a route, at least one, in the order in
/// which they should be tried. Blocks while a name is looked up, until a shutdown is requested.
///
/// # Errors
///
/// [`Error::Usage`] if the text is not an address, or one of a group of hosts. [`Error::Failed`] if the name has no
/// address of that family, or no route leads to any of them. [`Error::Interrupted`] at a shutdown.
pub fn resolve(text: &str, family: Family, egress: &Egress, shutdown: &Shutdown) -> Result<Vec<SocketAddr>, Error> {
    resolve_with_port(text, DEFAULT_PORT, family, egress, shutdown)
}

/// Does the same with another default port.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_with_port(
    text: &str,
    default_port: u16,
    family: Family,
    egress: &Egress,
    shutdown: &Shutdown,
) -> Result<Vec<SocketAddr>, Error> {
    let (host, port) = host_port::split_target(text).map_err(|error| Error::Usage(error.to_string()))?;
    let (host, port) = (host.unwrap_or(DEFAULT_HOST), port.unwrap_or(default_port));
    let found = lookup(host, port, shutdown).ok_or(Error::Interrupted)?.map_err(|error| {
        Error::Failed(format!("cannot look up {host:?}: {error} (check the name, or try an address)"))
    })?;
    let mut first_error = None;
    let mut addresses = Vec::new();
    for address in found.into_iter().filter(|address| family.includes(address)) {
        if address.ip().is_multicast() {
            return Err(not_a_host(address, "multicast"));
        }
        match open(address, IoBackend::Auto, egress) {
            Ok(_) if addresses.contains(&address) => {}
            Ok(_) => addresses.push(address),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_broadcast(address) => {
                return Err(not_a_host(address, "broadcast"));
            }
            Err(error) => first_error = first_error.or(Some(cannot_reach(address, &error))),
        }
    }
    if addresses.is_empty() {
        return Err(first_error.unwrap_or_else(|| Error::Failed(format!("{host:?} has no {} address", family.name()))));
    }
    Ok(addresses)
}

/// Returns the error for the address of a group: its members' answers do not reach a connected socket.
fn not_a_host(address: SocketAddr, kind: &str) -> Error {
    Error::Usage(format!("{} is a {kind} address, which is not supported: write the address of one host", address.ip()))
}

/// Returns whether an address to which the system refuses to connect is a broadcast address of one of its networks.
fn is_broadcast(address: SocketAddr) -> bool {
    UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.set_broadcast(true).and_then(|()| socket.connect(address)))
        .is_ok()
}

/// Opens a socket on a free port, connected to `target`, whose datagrams leave as `egress` says.
///
/// # Errors
///
/// As [`connect`].
pub fn open(target: SocketAddr, io: IoBackend, egress: &Egress) -> io::Result<Socket> {
    connect(target, BUFFER_SIZES, egress).and_then(|socket| Socket::new(socket, io))
}

/// Returns an upper bound for what the receive buffer of an [opened](open) socket holds, in bytes as the kernel
/// charges them.
pub fn receive_buffer(socket: &Socket) -> usize {
    socket.receive_buffer().unwrap_or(2 * BUFFER_SIZES.receive)
}

/// Returns the error for a `target` to which nothing can be sent.
pub fn cannot_reach(target: SocketAddr, error: &io::Error) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => {
            format!("no route leads there ({error})")
        }
        _ => error.to_string(),
    };
    Error::Failed(format!("cannot reach {target}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_optional() {
        let resolved = |text| resolve(text, Family::Any, &Egress::default(), &Shutdown::new());
        let address = |text: &str| Ok(vec![text.parse().expect("an address")]);
        assert_eq!(resolved("127.0.0.2:7"), address("127.0.0.2:7"));
        assert_eq!(resolved("127.0.0.2"), address("127.0.0.2:5000"));
        assert_eq!(resolved(":7"), address("127.0.0.1:7"));
    }

    #[test]
    fn error_names_what_is_wrong_with_target() {
        let error = |text, family| {
            resolve(text, family, &Egress::default(), &Shutdown::new()).expect_err("not a target").to_string()
        };
        assert!(error("127.0.0.1:0", Family::Any).contains("port 0"));
        assert!(error("::1", Family::Any).contains("brackets"));
        assert!(error("127.0.0.1", Family::V6).contains("has no IPv6 address"));
        assert!(error("239.1.2.3:5000", Family::Any).contains("is a multicast address, which is not supported"));
        assert!(error("[ff02::1]:5000", Family::Any).contains("is a multicast address, which is not supported"));
        assert!(error("255.255.255.255:7", Family::Any).contains("is a broadcast address, which is not supported"));
        assert!(error("name.invalid", Family::Any).contains("cannot look up \"name.invalid\""));
    }
}
