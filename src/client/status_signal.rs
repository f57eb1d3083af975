//! SIGQUIT (Ctrl+\) asks for a report without an end, as with `ping`.
//!
//! The signal arrives as a byte in a socket that the poll watches, so it is an event like any other. `ctrlc` knows
//! no SIGQUIT, and a handler of our own would be `unsafe`; signal-hook has this very pipe.

use std::io::{self, Read};
use std::os::unix::net;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::SIGQUIT;
use signal_hook::low_level::pipe;

/// Where the signal arrives.
#[derive(Debug)]
pub struct StatusSignal {
    arrivals: UnixStream,
}

impl StatusSignal {
    /// Makes SIGQUIT an event with this token. The process does not end by it any more.
    ///
    /// # Errors
    ///
    /// The system has no socket pair, or no handler, for us.
    pub fn register(registry: &Registry, token: Token) -> io::Result<Self> {
        let (arrivals, handler) = net::UnixStream::pair()?;
        arrivals.set_nonblocking(true)?;
        let mut arrivals = UnixStream::from_std(arrivals);
        registry.register(&mut arrivals, token, Interest::READABLE)?;
        pipe::register(SIGQUIT, handler)?;
        Ok(Self { arrivals })
    }

    /// Whether the signal came since this was last asked.
    pub fn came(&mut self) -> bool {
        let mut came = false;
        // Several signals may have come; all are answered by one report.
        while matches!(self.arrivals.read(&mut [0; 64]), Ok(1..)) {
            came = true;
        }
        came
    }
}
