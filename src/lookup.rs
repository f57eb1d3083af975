//! Name look-ups that a shutdown ends: getaddrinfo(3) cannot be cancelled, so it runs on a thread that may be left
//! behind.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::reactor::shutdown::Shutdown;

/// How long a shutdown may go unnoticed.
const CHECK: Duration = Duration::from_millis(20);

/// Looks up the addresses of a host; returns `None` if a shutdown was requested before there was a result.
///
/// A host that is an address needs no look-up and no thread.
pub fn lookup(host: &str, port: u16, shutdown: &Shutdown) -> Option<io::Result<Vec<SocketAddr>>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Ok(vec![(address, port).into()]));
    }
    let host = host.to_owned();
    run(shutdown, move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
}

/// Runs a call that blocks, until it returns or a shutdown is requested.
fn run<T: Send + 'static>(
    shutdown: &Shutdown,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Option<io::Result<T>> {
    let (sender, result) = mpsc::channel();
    let thread = thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        // Fails if the result is no longer awaited.
        let _ = sender.send(call());
    });
    if let Err(error) = thread {
        return Some(Err(error));
    }
    while !shutdown.is_requested() {
        match result.recv_timeout(CHECK) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Some(Err(io::Error::other("the look-up failed"))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn addresses_and_names_are_looked_up() {
        let shutdown = Shutdown::new();
        let lookup = |host| lookup(host, 7, &shutdown).expect("no shutdown").expect("an address");
        assert_eq!(lookup("::1"), ["[::1]:7".parse().expect("an address")]);
        assert!(lookup("localhost").iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }

    #[test]
    fn shutdown_ends_a_call_that_blocks() {
        let shutdown = Shutdown::new();
        let start = Instant::now();
        let requested = shutdown.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            requested.request();
        });
        let result = run(&shutdown, || {
            thread::sleep(Duration::from_secs(30));
            Ok(())
        });
        assert!(result.is_none() && start.elapsed() < Duration::from_secs(10));
    }
}
