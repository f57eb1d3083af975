//! SIGQUIT (Ctrl+\) requests a report during a run, as with ping(8).
//!
//! The signal arrives as a byte on a socket that the poll watches, so it is an event like any other. `ctrlc` does not
//! handle SIGQUIT, and a signal handler in this crate would need `unsafe`; signal-hook has a safe one for this purpose.

use std::io::{self, Read};
use std::os::unix::net;

use mio::event::Source;
use mio::net::UnixStream;
use signal_hook::consts::SIGQUIT;
use signal_hook::low_level::pipe;

/// Receives the signal.
#[derive(Debug)]
pub struct StatusSignal {
    arrivals: UnixStream,
}

impl StatusSignal {
    /// Starts to receive SIGQUIT, which no longer ends the process.
    ///
    /// # Errors
    ///
    /// If the sockets or the handler cannot be created, typically `EMFILE`.
    pub fn new() -> io::Result<Self> {
        let (arrivals, handler) = net::UnixStream::pair()?;
        arrivals.set_nonblocking(true)?;
        pipe::register(SIGQUIT, handler)?;
        Ok(Self { arrivals: UnixStream::from_std(arrivals) })
    }

    /// Returns what becomes readable when the signal arrives; `None` where there is no such signal.
    pub fn source(&mut self) -> Option<&mut dyn Source> {
        Some(&mut self.arrivals)
    }

    /// Forgets the signals that have arrived. Several are one request.
    pub fn clear(&mut self) {
        while matches!(self.arrivals.read(&mut [0; 64]), Ok(1..)) {}
    }
}
