//! systemd, or what behaves like it: notifications to it, and the sockets that it passes.
//!
//! Written with the standard library. The crate sd-notify sends with a socket that blocks, which the event loop must
//! not, and knows no abstract addresses.

use std::net::UdpSocket;
use std::time::Duration;

use crate::net;

/// A service manager that wants to know how the service is doing (sd_notify(3)).
#[derive(Clone, Debug)]
pub struct ServiceManager {
    #[cfg(unix)]
    address: std::os::unix::net::SocketAddr,
    /// After this time without a notification it ends the service.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Returns the service manager that the environment names, if there is one.
    #[cfg(unix)]
    pub fn from_environment() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        let address = address_of(&path).inspect_err(|error| log::debug!("Cannot notify {path:?}: {error}")).ok()?;
        let variable = |name: &str| std::env::var(name).ok();
        let is_meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| is_meant).and_then(|time| time.parse().ok());
        let watchdog = watchdog.filter(|time| *time > 0).map(Duration::from_micros);
        Some(Self { address, watchdog })
    }

    /// Returns `None`: there is none on this platform.
    #[cfg(not(unix))]
    pub fn from_environment() -> Option<Self> {
        None
    }

    /// Returns how often to notify it that the service works: several times before it would end the service.
    pub fn watchdog_period(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 4)
    }

    /// Sends a notification, such as `READY=1`. One that cannot be delivered at once is lost: neither the event loop
    /// nor the service depends on it.
    #[cfg(unix)]
    pub fn notify(&self, state: &str) {
        use std::os::unix::net::UnixDatagram;
        let send = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.send_to_addr(state.as_bytes(), &self.address)
        };
        if let Err(error) = send() {
            log::debug!("Cannot notify the service manager: {error}");
        }
    }

    /// Does nothing.
    #[cfg(not(unix))]
    pub fn notify(&self, _: &str) {}
}

/// Returns the address of a path, or of an abstract name after `@`, which only Linux has.
#[cfg(unix)]
fn address_of(path: &std::ffi::OsStr) -> std::io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    match path.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        [b'/', ..] => SocketAddr::from_pathname(path),
        _ => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

/// A UDP socket that the service manager has bound and passed (sd_listen_fds(3)).
#[derive(Debug)]
pub struct InheritedSocket {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The socket.
    pub socket: UdpSocket,
}

/// Takes the sockets that the service manager has passed to this process; the second time there are none.
///
/// # Errors
///
/// A line about the first one that is not a bound UDP socket.
pub fn inherited_sockets() -> Result<Vec<InheritedSocket>, String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let names = variable("LISTEN_FDNAMES");
    let count = variable("LISTEN_FDS");
    let count = count.parse().map_err(|_| format!("LISTEN_FDS is {count:?}: it should be a number"))?;
    let files = net::take_inherited_files(count).map_err(|error| format!("cannot take inherited sockets: {error}"))?;
    let names = names.split(':').map(Some).chain(std::iter::repeat(None));
    (FIRST_FILE..)
        .zip(files)
        .zip(names)
        .map(|((number, file), name)| InheritedSocket::new(number, file, name))
        .collect()
}

/// The number of the first file that is passed, as an open file of this process.
const FIRST_FILE: u32 = 3;

impl InheritedSocket {
    /// Returns the name if it was chosen: by default systemd takes that of the unit, and other programs "unknown".
    pub fn chosen_name(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| *name != "unknown" && !name.ends_with(".socket"))
    }

    fn new(number: u32, file: socket2::Socket, name: Option<&str>) -> Result<Self, String> {
        let called = name.filter(|name| !name.is_empty()).map_or(String::new(), |name| format!(" ({name})"));
        let no_socket = |what| format!("the inherited socket {number}{called} is {what}: udpong needs a bound one");
        let address = file.local_addr().ok().and_then(|address| address.as_socket());
        let is_udp = file.r#type().is_ok_and(|kind| kind == socket2::Type::DGRAM);
        let Some(address) = address.filter(|_| is_udp) else { return Err(no_socket("no UDP socket")) };
        match (address.port(), file.peer_addr()) {
            (0, _) => Err(no_socket("not bound")),
            (_, Ok(_)) => Err(no_socket("connected")),
            _ => Ok(Self { name: name.filter(|name| !name.is_empty()).map(str::to_owned), socket: file.into() }),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn inherit(file: impl Into<OwnedFd>, name: Option<&str>) -> Result<InheritedSocket, String> {
        InheritedSocket::new(3, socket2::Socket::from(file.into()), name)
    }

    #[test]
    fn only_bound_udp_sockets_are_taken() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let error = inherit(tcp, Some("web")).expect_err("TCP");
        assert_eq!(error, "the inherited socket 3 (web) is no UDP socket: udpong needs a bound one");
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(inherit(file, None).expect_err("a file").starts_with("the inherited socket 3 is no UDP socket"));
        let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
        assert!(inherit(unbound, None).expect_err("not bound").contains("is not bound"));
        let connected = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        connected.connect("127.0.0.1:9").expect("a connected socket");
        assert!(inherit(connected, None).expect_err("connected").contains("is connected"));
    }

    #[test]
    fn name_that_nobody_chose_is_none() {
        for (name, own) in
            [(Some("echo"), Some("echo")), (Some("udpong.socket"), None), (Some("unknown"), None), (None, None)]
        {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            assert_eq!(inherit(socket, name).expect("a UDP socket").chosen_name(), own);
        }
    }
}
