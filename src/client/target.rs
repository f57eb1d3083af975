//! Whom the client talks to: `HOST:PORT` becomes a connected socket.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::Error;
use crate::host_port;
use crate::net::{BufferSizes, IoBackend, Socket, connect};

/// Who is meant when no host, or no port, is named: `serve hello` on this machine.
const HOST: &str = "127.0.0.1";
const PORT: u16 = 5000;

/// Room for about 5,000 small answers in the kernel while this process does not run.
const BUFFERS: BufferSizes = BufferSizes { receive: 4 << 20, send: 4 << 20 };

/// Which addresses of a name are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All of them.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Finds the first address of `HOST:PORT`, `:PORT` or `HOST` that a route leads to. Looking up a name blocks.
///
/// # Errors
///
/// [`Error::Usage`] when the text is no address; [`Error::Failed`] when the name has none of that family, or no
/// route leads to any.
pub fn find(text: &str, family: Family) -> Result<SocketAddr, Error> {
    let (host, port) = host_port::split(text).map_err(|error| Error::Usage(error.to_string()))?;
    let (host, port) = (host.unwrap_or(HOST), port.unwrap_or(PORT));
    if port == 0 {
        return Err(Error::Usage(format!("nobody can listen on port 0: write a port from 1 to 65535 in {text:?}")));
    }
    let found = (host, port).to_socket_addrs().map_err(|error| {
        Error::Failed(format!("cannot look up {host:?}: {error} (check the name, or try an address)"))
    })?;
    let mut failure = None;
    for address in found.filter(|address| family.includes(address)) {
        match open(address, IoBackend::Auto) {
            Ok(_) => return Ok(address),
            Err(error) => failure = failure.or(Some(cannot_reach(address, &error))),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Failed(format!("{host:?} has no {} address", family.name()))))
}

/// Opens a socket on a free port, connected to `target`.
///
/// # Errors
///
/// As [`connect`].
pub fn open(target: SocketAddr, io: IoBackend) -> io::Result<Socket> {
    connect(target, BUFFERS).and_then(|socket| Socket::new(socket, io))
}

/// What the kernel's receive buffer of an [opened](open) socket holds at the most, in bytes as the kernel charges them.
pub fn receive_buffer(socket: &Socket) -> usize {
    socket.receive_buffer().unwrap_or(2 * BUFFERS.receive)
}

/// Says why nothing can be sent to `target`.
pub fn cannot_reach(target: SocketAddr, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => {
            format!("no route leads there ({error})")
        }
        _ => error.to_string(),
    };
    Error::Failed(format!("cannot reach {target}: {why}"))
}

impl Family {
    fn includes(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any => "usable",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        find(text, Family::Any).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn host_and_port_may_be_left_out() {
        assert_eq!(address("127.0.0.2:7"), "127.0.0.2:7");
        assert_eq!(address("127.0.0.2"), "127.0.0.2:5000");
        assert_eq!(address(":7"), "127.0.0.1:7");
    }

    #[test]
    fn what_is_no_target_is_told_apart() {
        let error = |text, family| find(text, family).expect_err("no target").to_string();
        assert!(error("127.0.0.1:0", Family::Any).contains("port 0"));
        assert!(error("::1", Family::Any).contains("brackets"));
        assert!(error("127.0.0.1", Family::V6).contains("has no IPv6 address"));
        assert!(error("name.invalid", Family::Any).contains("cannot look up \"name.invalid\""));
    }
}
