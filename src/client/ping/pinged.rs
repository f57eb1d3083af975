//! The part of one target in a ping: its flows, its schedule, and what is known of its probes.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::Options;
use super::metrics::metrics;
use super::output::Output;
use super::record::Record;
use crate::client::Error;
use crate::client::flow::Flow;
use crate::client::probe::schedule::IntervalSchedule;
use crate::metrics::{Exposition, Observed};
use crate::net::Outgoing;
use crate::reactor::Key;
use crate::stamp::reflector::ClockQuality;

/// The part of one target.
pub(super) struct Target<'a> {
    /// As the user wrote it.
    pub(super) written: &'a str,
    /// The other addresses of its name, in the order in which they are tried if the port is closed.
    pub(super) others: VecDeque<SocketAddr>,
    pub(super) record: Record<'a>,
    pub(super) flows: Vec<Flow>,
    /// The payload of the next probe.
    pub(super) probe: Vec<u8>,
    pub(super) schedule: IntervalSchedule,
    pub(super) schedule_key: Option<Key>,
    /// The flow of the next probe is not writable.
    pub(super) blocked: bool,
    pub(super) end: End,
}

/// When the part of a target is over, after its last probe has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Probes are due or in flight.
    NotYet,
    /// Duplicates are waited for until then; `None` if that is beyond the clock's range.
    At(Option<Instant>),
    /// What had arrived by then is received.
    Receiving(Instant),
    /// It is over.
    Over,
}

impl<'a> Target<'a> {
    /// Creates the part of a target as it was written, with at least one address: the one of this index, of `count`.
    pub(super) fn new(
        (written, mut others): (&'a str, VecDeque<SocketAddr>),
        (index, count): (usize, usize),
        options: &'a Options,
        start: Instant,
    ) -> Result<Self, Error> {
        let address = others.pop_front();
        let address = address.ok_or_else(|| Error::Failed(format!("{written:?} has no address")))?;
        // The probes to all targets are spread over the interval.
        let due = start + options.interval.mul_f64(index as f64 / count as f64);
        let mut record = Record::new(address, index, count, options, start);
        record.expect_refusal(!others.is_empty());
        Ok(Self {
            written,
            others,
            probe: record.payload.as_bytes().to_vec(),
            record,
            flows: Vec::new(),
            schedule: IntervalSchedule::new(due, options.interval, options.count, options.deadline),
            schedule_key: None,
            blocked: false,
            end: End::NotYet,
        })
    }

    pub(super) fn is_sending(&self, stopped: bool) -> bool {
        !stopped && self.schedule.next().is_some()
    }

    /// Returns when to send; `None` while a send would block.
    pub(super) fn next_probe(&self, stopped: bool) -> Option<Instant> {
        self.schedule.next().filter(|_| !self.blocked && !stopped)
    }

    pub(super) fn has_received(&self, end: Instant) -> bool {
        self.flows.iter().all(|flow| flow.received_by().is_some_and(|time| time >= end))
    }

    /// Sends the next probe on a flow; returns whether it left or failed.
    pub(super) fn send(&mut self, index: usize, clock: ClockQuality, output: &mut Output<'_>) -> Result<bool, Error> {
        let Self { record, flows, probe, .. } = self;
        let flow = &mut flows[index];
        let now = record.write_probe(clock, probe);
        let datagram = Outgoing::new(record.target, None, [probe, b"", b""]);
        match flow.send(&datagram, now).error {
            None => record.sent(index, now, output),
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                flow.would_block();
                return Ok(false);
            }
            Some(error) => {
                record.sent(index, now, output);
                record.refused_to_send(&error, now, output)?;
            }
        }
        Ok(true)
    }
}

/// What the monitor shows.
pub(super) struct Observation<'a>(pub(super) &'a [Target<'a>]);

impl Observed for Observation<'_> {
    fn metrics(&self) -> Exposition {
        metrics(self.0.iter().map(|Target { written, record, .. }| (*written, &record.metrics, record.stamp_report())))
    }

    fn status(&self) -> String {
        let counts = self.0.iter().map(|target| target.record.tracker.counts());
        let (answered, ended) = counts.fold((0, 0), |(a, e), counts| (a + counts.answered, e + counts.ended()));
        format!("{} targets: {answered} of {ended} probes answered", self.0.len())
    }
}
