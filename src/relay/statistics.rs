//! Statistics: how the datagrams of each direction ended, and how many sessions there were.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use crate::counts::CountsByName;
use crate::impair::Impaired;

/// How the datagrams of one direction ended.
///
/// Every datagram ends in exactly one way: `received` + `duplicated` = `forwarded` + `lost` + `over_limit` +
/// `refused` + `failed` + `unsent` (invariant 6, defended by `tests/program/relay.rs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Statistics {
    /// Datagrams received.
    pub received: u64,
    /// The total length of their payloads, in bytes.
    pub received_bytes: u64,
    /// Datagrams that the system accepted for sending.
    pub forwarded: u64,
    /// The total length of their payloads, in bytes.
    pub forwarded_bytes: u64,
    /// What was done to datagrams on purpose; `None` if nothing is.
    pub impaired: Option<Impaired>,
    /// Datagrams that were deliberately not forwarded, by reason.
    pub refused: CountsByName,
    /// Datagrams that the system did not send, by error.
    pub failed: CountsByName,
    /// Errors that the system returned instead of a datagram, by error: `ECONNREFUSED` for each ICMP message that the
    /// port of the target is closed. Not part of the sum above.
    pub receive_errors: CountsByName,
    /// Datagrams that are waiting now; in the final report, those that were never sent.
    pub unsent: u64,
    /// Socket buffers that the kernel dropped before they were received, mostly because the receive buffer was full;
    /// `None` if the system does not count them.
    pub kernel_dropped: Option<u64>,
}

impl Display for Statistics {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "received {} ({} bytes), forwarded {} ({} bytes), refused {}, failed {}",
            self.received, self.received_bytes, self.forwarded, self.forwarded_bytes, self.refused, self.failed
        )?;
        if self.receive_errors.total() > 0 {
            write!(f, ", receive errors {}", self.receive_errors)?;
        }
        write!(f, ", unsent {}", self.unsent)?;
        if let Some(impaired) = &self.impaired {
            write!(f, ", {impaired}")?;
        }
        match self.kernel_dropped {
            Some(count) => write!(f, ", dropped by the kernel {count}"),
            None => Ok(()),
        }
    }
}

/// How many sessions there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SessionCounts {
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that ended because nothing was received or sent for a time.
    pub expired: u64,
    /// Datagrams that opened no session because there were too many, or the system had no further socket.
    pub refused: u64,
    /// The largest number of sessions at the same time.
    pub peak: u64,
}

impl Display for SessionCounts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { opened, expired, refused, peak } = self;
        write!(f, "opened {opened}, expired {expired}, refused {refused} datagrams, at most {peak} at a time")
    }
}

/// What a relay did. `relay --json` prints it in its serialized form.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// The version of the serialized form. Incremented when a field is removed or changes its meaning, not when one is
    /// added.
    pub schema: u32,
    /// The time since the relay was listening, in seconds.
    pub seconds: f64,
    /// What all impairments follow from; `None` if there are none.
    pub seed: Option<u64>,
    /// The address that the relay listened on.
    pub listen: SocketAddr,
    /// The address that it forwarded to.
    pub target: SocketAddr,
    /// From the clients to the target.
    pub up: Statistics,
    /// From the target to the clients.
    pub down: Statistics,
    /// The sessions.
    pub sessions: SessionCounts,
}

impl Report {
    /// Returns the report as lines for the log.
    pub fn lines(&self) -> [String; 3] {
        [format!("up: {}", self.up), format!("down: {}", self.down), format!("sessions: {}", self.sessions)]
    }
}
