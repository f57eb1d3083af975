//! The client: sends datagrams to any UDP responder, and reports what comes back.
//!
//! What an answer means is decided in pure code, with time as an argument: [`probe`], `stamp` and [`report`]. Only
//! [`send`], [`ping`](mod@ping) and [`mod@bench`] hold sockets and clocks. The latter two return their results as
//! values:
//!
//! ```
//! use std::{io, net::UdpSocket, thread, time::Duration};
//! use udpong::client::{Limits, ping::{Options, ping}};
//! use udpong::reactor::shutdown::Shutdown;
//!
//! let responder = UdpSocket::bind("127.0.0.1:0")?;
//! let target = responder.local_addr()?.to_string();
//! thread::spawn(move || {
//!     let mut datagram = [0; 100];
//!     while let Ok((length, from)) = responder.recv_from(&mut datagram) {
//!         let _ = responder.send_to(&datagram[..length], from);
//!     }
//! });
//!
//! let options = Options { count: Some(3), interval: Duration::from_millis(10), ..Options::default() };
//! let report = ping(&target, &options, &Shutdown::new(), &mut io::sink(), &mut io::stderr())?;
//! assert_eq!(report.counts().answered, 3);
//! report.check(&Limits { loss: Some(0.0), ..Limits::default() })?;
//! println!("{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bench;
mod flow;
mod output;
pub mod ping;
mod probe;
mod report;
pub mod send;
mod stamp;
#[cfg_attr(not(unix), path = "no_status_signal.rs")]
mod status_signal;
mod target;

pub use crate::net::{Egress, EgressSource, LONGEST_PAYLOAD};
pub use bench::{Generator, Load, Shape};
pub use output::stdout;
pub use probe::limits::Limits;
pub use probe::outcome::OutcomeCounts;
pub use report::{BenchReport, Merge, MergedReport, PingReport, Terminal};
pub use stamp::{ReflectorKind, StampOptions, StampReport};
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
    /// A shutdown was requested before there was anything to report.
    Interrupted,
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) | Self::Unmet(message) => f.write_str(message),
            Self::Unread => f.write_str("the reader of the output has gone"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

/// Returns how long to wait for duplicates when nothing is in flight any more: twice the longest round trip, and at
/// least as long as a busy responder may need between two sends.
fn linger(latencies: &Latencies, timeout: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(50);
    latencies.max().saturating_mul(2).max(LEAST).min(timeout)
}

/// Writes a line for the user to stderr; if that is not possible, it is lost.
fn notify(errors: &mut dyn Write, message: &dyn Display) {
    let _ = writeln!(errors, "udpong: {message}").and_then(|()| errors.flush());
}

/// Returns the notice that a shutdown waits for what is in flight, `what`.
fn wait_notice(left: Duration, what: &str) -> String {
    // Rounded up: it is an upper bound.
    let millis = left.as_micros().div_ceil(1000);
    let time = if millis < 1000 { format!("{millis} ms") } else { format!("{} s", millis.div_ceil(1000)) };
    format!("waiting up to {time} for {what}; Ctrl+C again to stop now")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_below_a_second_is_in_milliseconds() {
        let shown = |micros| wait_notice(Duration::from_micros(micros), "1 probe");
        assert_eq!(shown(199_001), "waiting up to 200 ms for 1 probe; Ctrl+C again to stop now");
        assert!(shown(999_001).contains("up to 1 s") && shown(1_000_001).contains("up to 2 s"));
    }
}
