//! SIGQUIT (Ctrl+\) asks for a report without an end, as with `ping`.
//!
//! The signal arrives as a byte in a socket that the poll watches, so it is an event like any other. `ctrlc` knows
//! no SIGQUIT, and a handler of our own would be `unsafe`; signal-hook has this very pipe.

use std::io::{self, Read};
use std::os::unix::net;

use mio::event::Source;
use mio::net::UnixStream;
use signal_hook::consts::SIGQUIT;
use signal_hook::low_level::pipe;

/// Where the signal arrives.
#[derive(Debug)]
pub struct StatusSignal {
    arrivals: UnixStream,
}

impl StatusSignal {
    /// Makes SIGQUIT an event; it does not end the process any more.
    ///
    /// # Errors
    ///
    /// Returns an error if the system refuses the socket pair or the handler.
    pub fn new() -> io::Result<Self> {
        let (arrivals, handler) = net::UnixStream::pair()?;
        arrivals.set_nonblocking(true)?;
        pipe::register(SIGQUIT, handler)?;
        Ok(Self { arrivals: UnixStream::from_std(arrivals) })
    }

    /// Returns what the poll should watch.
    pub fn source(&mut self) -> Option<&mut dyn Source> {
        Some(&mut self.arrivals)
    }

    /// Forgets the signals that came. Several may have come; one report is enough for all.
    pub fn clear(&mut self) {
        while matches!(self.arrivals.read(&mut [0; 64]), Ok(1..)) {}
    }
}
