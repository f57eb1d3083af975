//! Where metrics are served: `HOST:PORT`, or `:PORT` on loopback.

use std::fmt::{self, Display, Formatter};
use std::net::TcpListener;
use std::str::FromStr;

use crate::host_port;
use crate::lookup::lookup;
use crate::parse_error::ParseError;
use crate::reactor::shutdown::Shutdown;

/// An address to serve metrics on, as the user wrote it. Without a host it is on 127.0.0.1, since metrics are
/// private. Port 0 stands for any free port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = host_port::split(text)?;
        let port = port.ok_or_else(|| ParseError::new(format!("{text:?} has no port: write HOST:PORT or :PORT")))?;
        Ok(Self { host: host.unwrap_or("127.0.0.1").to_owned(), port })
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Address {
    /// Listens on the first address of the host that this machine has. Looking up a host name blocks, until a shutdown
    /// is requested.
    ///
    /// # Errors
    ///
    /// One line, with a remedy where there is one.
    pub fn listen(&self, shutdown: &Shutdown) -> Result<TcpListener, String> {
        let failed = |why: &dyn Display| format!("cannot serve metrics on {self}: {why}");
        let found = lookup(&self.host, self.port, shutdown).ok_or_else(|| failed(&"stopped while looking it up"))?;
        let found = found.map_err(|error| failed(&format_args!("{error} (try an address such as 127.0.0.1)")))?;
        let listener = TcpListener::bind(&*found).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => failed(&"address already in use (choose another port)"),
            std::io::ErrorKind::PermissionDenied => failed(&"permission denied (choose a port from 1024)"),
            std::io::ErrorKind::AddrNotAvailable => failed(&"this machine has no such address"),
            _ => failed(&error),
        })?;
        listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_defaults_to_loopback_and_a_port_is_needed() {
        for (text, address) in
            [(":9100", "127.0.0.1:9100"), ("0.0.0.0:0", "0.0.0.0:0"), ("[::1]:9100", "[::1]:9100"), ("a:1", "a:1")]
        {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), address);
        }
        let error = |text: &str| text.parse::<Address>().expect_err(text).to_string();
        assert_eq!(error("localhost"), "\"localhost\" has no port: write HOST:PORT or :PORT");
        assert_eq!(error("9100"), "\"9100\" is a port without its colon: write :9100");
    }
}
