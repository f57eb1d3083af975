//! A counter for each way in which a datagram can end, and how the counts are told: as a line and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use serde::Serialize;

/// Counts by name, for the reasons of refusals and the kinds of errors. The names are few and fixed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// Counts one more of `name`.
    pub fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, count)| *self.0.entry(name).or_default() += count);
    }

    /// How many of all names.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Shows `3`, or `3 (EPERM 1, ENOBUFS 2)`.
impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let mut before = " (";
        for (name, count) in &self.0 {
            write!(f, "{before}{name} {count}")?;
            before = ", ";
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What became of the datagrams of one endpoint.
///
/// Every datagram ends in exactly one way: `received` = `answered` + `refused` + `failed` + `unsent`
/// (invariant 6, defended by `server::simulation` and `tests/program/load.rs`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Datagrams that came.
    pub received: u64,
    /// Their payloads, in bytes.
    pub received_bytes: u64,
    /// Replies that the system took.
    pub answered: u64,
    /// Their payloads, in bytes.
    pub answered_bytes: u64,
    /// Datagrams that were not answered on purpose, by reason.
    pub refused: Counts,
    /// Replies that the system would not send, by error.
    pub failed: Counts,
    /// Errors that the system reported instead of a datagram, by error. They stand outside the sum above.
    pub receive_errors: Counts,
    /// Replies that had to wait until the socket was writable, whatever became of them.
    pub waited: u64,
    /// The most replies that waited at one time, for one socket.
    pub waiting_peak: u64,
    /// Replies that wait now; at the end, those that never left.
    pub unsent: u64,
}

/// The statistics of one endpoint, with what it belongs to.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointReport {
    /// The name of its service.
    pub service: &'static str,
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// What became of the datagrams that reached it.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// Datagrams that never reached it because the receive buffer was full; `None` where the system does not tell.
    pub kernel_dropped: Option<u64>,
}

impl EndpointReport {
    fn add(&mut self, other: &Self) {
        let (sum, statistics) = (&mut self.statistics, &other.statistics);
        sum.received += statistics.received;
        sum.received_bytes += statistics.received_bytes;
        sum.answered += statistics.answered;
        sum.answered_bytes += statistics.answered_bytes;
        sum.refused.add_all(&statistics.refused);
        sum.failed.add_all(&statistics.failed);
        sum.receive_errors.add_all(&statistics.receive_errors);
        sum.waited += statistics.waited;
        sum.waiting_peak = sum.waiting_peak.max(statistics.waiting_peak);
        sum.unsent += statistics.unsent;
        self.kernel_dropped = self.kernel_dropped.zip(other.kernel_dropped).map(|(a, b)| a + b);
    }
}

impl Display for EndpointReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { service, address, statistics, kernel_dropped } = self;
        write!(
            f,
            "{service} on {address}: received {} ({} bytes), answered {} ({} bytes), refused {}, failed {}",
            statistics.received,
            statistics.received_bytes,
            statistics.answered,
            statistics.answered_bytes,
            statistics.refused,
            statistics.failed
        )?;
        if statistics.receive_errors.total() > 0 {
            write!(f, ", receive errors {}", statistics.receive_errors)?;
        }
        if statistics.waited > 0 {
            write!(f, ", waited {} (at most {} at a time)", statistics.waited, statistics.waiting_peak)?;
        }
        write!(f, ", unsent {}", statistics.unsent)?;
        match kernel_dropped {
            Some(count) => write!(f, ", dropped by the kernel {count}"),
            None => Ok(()),
        }
    }
}

/// Adds up what several loops did, endpoint by endpoint; all have the same endpoints in the same order.
pub fn add_up(loops: impl Iterator<Item = Vec<EndpointReport>>) -> Vec<EndpointReport> {
    loops
        .reduce(|mut sum, reports| {
            sum.iter_mut().zip(&reports).for_each(|(sum, report)| sum.add(report));
            sum
        })
        .unwrap_or_default()
}

/// What a server did: `serve --json` prints it as it is serialized.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Counts up when a field changes its meaning or goes; new fields may come without.
    pub schema: u32,
    /// From the moment at which all services listened, in seconds.
    pub seconds: f64,
    /// One for each address, in the order in which the services were named.
    pub endpoints: Vec<EndpointReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_add_up() {
        let report = |received, reason, waiting_peak, kernel_dropped| {
            let mut statistics = Statistics { received, waiting_peak, unsent: 1, ..Statistics::default() };
            statistics.refused.add(reason);
            EndpointReport { service: "hello", address: ([127, 0, 0, 1], 5000).into(), statistics, kernel_dropped }
        };
        let sum = add_up([vec![report(1, "a", 5, Some(1))], vec![report(2, "b", 3, Some(2))]].into_iter());
        assert_eq!(sum.len(), 1);
        let statistics = &sum[0].statistics;
        assert_eq!((statistics.received, statistics.waiting_peak, statistics.unsent), (3, 5, 2));
        assert_eq!(statistics.refused.to_string(), "2 (a 1, b 1)");
        assert_eq!(sum[0].kernel_dropped, Some(3));
        assert!(add_up(std::iter::empty()).is_empty());
    }

    #[test]
    fn a_line_tells_what_happened_and_leaves_out_what_did_not() {
        let mut statistics =
            Statistics { received: 4, received_bytes: 40, answered: 1, answered_bytes: 16, ..Statistics::default() };
        statistics.refused.add("own_port");
        statistics.failed.add("EPERM");
        statistics.failed.add("ENOBUFS");
        let address = ([127, 0, 0, 1], 5000).into();
        let mut report = EndpointReport { service: "hello", address, statistics, kernel_dropped: Some(7) };
        assert_eq!(
            report.to_string(),
            "hello on 127.0.0.1:5000: received 4 (40 bytes), answered 1 (16 bytes), refused 1 (own_port 1), \
             failed 2 (ENOBUFS 1, EPERM 1), unsent 0, dropped by the kernel 7"
        );
        report.statistics.waited = 3;
        report.statistics.waiting_peak = 2;
        report.statistics.receive_errors.add("ECONNREFUSED");
        report.kernel_dropped = None;
        assert!(
            report
                .to_string()
                .ends_with(", receive errors 1 (ECONNREFUSED 1), waited 3 (at most 2 at a time), unsent 0")
        );
    }
}
