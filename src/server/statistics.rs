//! Statistics: how the datagrams of each endpoint ended, as counters, as a line of text and as JSON.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use crate::counts::CountsByName;
use crate::impair::Impaired;

/// How the datagrams of one endpoint ended.
///
/// Every datagram ends in exactly one way: `received` = `answered` + `refused` + `failed` + `unsent`. Where replies are
/// impaired, `received` + `duplicated` = `answered` + `refused` + `failed` + `unsent` + `lost` + `over_limit`
/// (invariant 6, defended by `server::simulation` and `tests/program/overload.rs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Statistics {
    /// Datagrams received.
    pub received: u64,
    /// The total length of their payloads, in bytes.
    pub received_bytes: u64,
    /// Replies that the system accepted for sending.
    pub answered: u64,
    /// The total length of their payloads, in bytes.
    pub answered_bytes: u64,
    /// Datagrams that were deliberately not answered, by reason.
    pub refused: CountsByName,
    /// Replies that the system did not send, by error.
    pub failed: CountsByName,
    /// Errors that the system returned instead of a datagram, by error. Not part of the sum above.
    pub receive_errors: CountsByName,
    /// Replies that had to wait for a later turn, mostly until the socket was writable, however they ended.
    pub waited: u64,
    /// The largest number of replies of one socket that waited at the same time.
    pub waiting_peak: u64,
    /// Replies that are waiting now, for the socket or delayed; in the final report, those that were never sent.
    pub unsent: u64,
    /// What was done to replies on purpose; `None` if nothing is.
    pub impaired: Option<Impaired>,
}

/// The statistics of one endpoint. Displayed as a line for the log.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct EndpointReport {
    /// The name of the service.
    pub service: &'static str,
    /// The address that the endpoint is bound to.
    pub address: SocketAddr,
    /// How the datagrams that reached the endpoint ended.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub statistics: Statistics,
    /// Socket buffers that the kernel dropped before they were received, because the receive buffer was full or their
    /// checksum wrong; `None` if the system does not count them.
    ///
    /// If the kernel coalesced datagrams, a buffer holds several of them, up to 128. It coalesces those of senders that
    /// segment, and what a network device receives, unless [`IoBackend::Portable`](crate::net::IoBackend::Portable) is
    /// used. Where it coalesces nothing, `received` + `kernel_dropped` is the number of datagrams that reached the
    /// socket.
    pub kernel_dropped: Option<u64>,
}

impl EndpointReport {
    fn add(&mut self, other: &Self) {
        let (sum, new) = (&mut self.statistics, &other.statistics);
        sum.received += new.received;
        sum.received_bytes += new.received_bytes;
        sum.answered += new.answered;
        sum.answered_bytes += new.answered_bytes;
        sum.refused.add(&new.refused);
        sum.failed.add(&new.failed);
        sum.receive_errors.add(&new.receive_errors);
        sum.waited += new.waited;
        sum.waiting_peak = sum.waiting_peak.max(new.waiting_peak);
        sum.unsent += new.unsent;
        if let (Some(sum), Some(new)) = (&mut sum.impaired, &new.impaired) {
            sum.add(new);
        }
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
        if let Some(impaired) = &statistics.impaired {
            write!(f, ", {impaired}")?;
        }
        match kernel_dropped {
            Some(count) => write!(f, ", dropped by the kernel {count}"),
            None => Ok(()),
        }
    }
}

/// Returns the sum of all endpoints in a few words, for the service manager.
pub fn status(reports: &[EndpointReport]) -> String {
    let sum = |count: fn(&Statistics) -> u64| reports.iter().map(|report| count(&report.statistics)).sum::<u64>();
    let (received, answered) = (sum(|statistics| statistics.received), sum(|statistics| statistics.answered));
    let (refused, failed) = (sum(|statistics| statistics.refused.total()), sum(|statistics| statistics.failed.total()));
    format!("received {received}, answered {answered}, refused {refused}, failed {failed}")
}

/// Adds up the reports of several workers. All must have the same endpoints in the same order.
pub fn sum_of_workers(workers: impl IntoIterator<Item = Vec<EndpointReport>>) -> Vec<EndpointReport> {
    let sum = workers.into_iter().reduce(|mut sum, worker| {
        sum.iter_mut().zip(&worker).for_each(|(sum, report)| sum.add(report));
        sum
    });
    sum.unwrap_or_default()
}

/// What a server did. `serve --json` prints it in its serialized form.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// The version of the serialized form. Incremented when a field is removed or changes its meaning, not when one
    /// is added.
    pub schema: u32,
    /// The time since all services were listening, in seconds.
    pub seconds: f64,
    /// What all impairments follow from; `None` if there are none.
    pub seed: Option<u64>,
    /// Socket buffers that the system dropped since the start because a receive buffer was full, for all UDP sockets of
    /// the network namespace; `None` on platforms other than Linux.
    pub rcvbuf_errors: Option<u64>,
    /// Those that it dropped because of a wrong checksum, likewise.
    pub in_csum_errors: Option<u64>,
    /// One report for each address, in the order in which the services were given.
    pub endpoints: Vec<EndpointReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_workers_add_up() {
        let report = |received, reason, waiting_peak, kernel_dropped| {
            let mut statistics = Statistics { received, waiting_peak, unsent: 1, ..Statistics::default() };
            statistics.refused.increment(reason);
            EndpointReport { service: "hello", address: ([127, 0, 0, 1], 5000).into(), statistics, kernel_dropped }
        };
        let sum = sum_of_workers([vec![report(1, "a", 5, Some(1))], vec![report(2, "b", 3, Some(2))]]);
        assert_eq!(sum.len(), 1);
        let statistics = &sum[0].statistics;
        assert_eq!((statistics.received, statistics.waiting_peak, statistics.unsent), (3, 5, 2));
        assert_eq!(statistics.refused.to_string(), "2 (a 1, b 1)");
        assert_eq!((statistics.refused.get("a"), statistics.refused.get("c")), (1, 0));
        assert_eq!(sum[0].kernel_dropped, Some(3));
        assert!(sum_of_workers([]).is_empty());
    }

    #[test]
    fn a_line_leaves_out_rare_counts_that_are_zero() {
        let mut statistics =
            Statistics { received: 4, received_bytes: 40, answered: 1, answered_bytes: 16, ..Statistics::default() };
        statistics.refused.increment("own_port");
        statistics.failed.increment("EPERM");
        statistics.failed.increment("ENOBUFS");
        let address = ([127, 0, 0, 1], 5000).into();
        let mut report = EndpointReport { service: "hello", address, statistics, kernel_dropped: Some(7) };
        assert_eq!(
            report.to_string(),
            "hello on 127.0.0.1:5000: received 4 (40 bytes), answered 1 (16 bytes), refused 1 (own_port 1), \
             failed 2 (ENOBUFS 1, EPERM 1), unsent 0, dropped by the kernel 7"
        );
        report.statistics.waited = 3;
        report.statistics.waiting_peak = 2;
        report.statistics.receive_errors.increment("ECONNREFUSED");
        report.kernel_dropped = None;
        assert!(
            report
                .to_string()
                .ends_with(", receive errors 1 (ECONNREFUSED 1), waited 3 (at most 2 at a time), unsent 0")
        );
    }
}
