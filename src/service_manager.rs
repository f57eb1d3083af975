//! systemd, or what behaves like it: notifications to it, and the sockets that it passes.
//!
//! Written with the standard library. The crate sd-notify sends with a socket that blocks, which the event loop must not,
//! and knows no abstract addresses.

use std::time::Duration;

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

    /// Sends a notification, such as `READY=1`. One that cannot be delivered at once is lost: neither the event loop nor
    /// the service depends on it.
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
