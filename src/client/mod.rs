//! The client: sends datagrams to any UDP responder, and reports what comes back.
//!
//! What an answer means is decided in pure code, with time as an argument: [`probe`] and [`report`]. Only [`send`],
//! [`ping`](mod@ping) and [`mod@bench`] hold sockets and clocks.

pub mod bench;
pub mod ping;
pub(crate) mod probe;
pub(crate) mod report;
pub mod send;
#[cfg_attr(not(unix), path = "no_status_signal.rs")]
pub(crate) mod status_signal;
pub(crate) mod target;

pub use crate::net::LONGEST_PAYLOAD;
pub use bench::{Generator, Load, Shape};
pub use probe::limits::Limits;
pub use target::Family;

use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use probe::latency::Latencies;

/// Why a command was not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The options or the target make no sense.
    Usage(String),
    /// The system refused something, or the target cannot be reached at all.
    Failed(String),
    /// The command did its work, and the result does not meet the limits: no answer, for instance.
    Unmet(String),
    /// The reader of the output has gone, as in `| head`.
    Unread,
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) | Self::Unmet(message) => f.write_str(message),
            Self::Unread => f.write_str("the reader of the output has gone"),
        }
    }
}

impl std::error::Error for Error {}

/// Returns how long to wait for duplicates when nothing is in flight any more: twice the longest round trip, and at least
/// as long as a busy responder may need between two sends.
fn linger(latencies: &Latencies, timeout: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(50);
    latencies.max().saturating_mul(2).max(LEAST).min(timeout)
}

/// Converts the error of writing results.
fn cannot_write(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::Unread,
        _ => Error::Failed(format!("cannot write the results: {error}")),
    }
}

impl From<io::Error> for Error {
    /// Converts what the reactor reports.
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("cannot wait for the network: {error}"))
    }
}

/// Prints one JSON value and a line feed.
fn print_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Error> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from).map_err(cannot_write)?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(cannot_write)
}
