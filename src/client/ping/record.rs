//! What is known of the probes of a ping, and its output.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Format, Options};
use crate::client::flow::{Refusal, check_socket};
use crate::client::probe::flows::{Flows, MOST_FLOWS};
use crate::client::probe::latency::{Latencies, Median};
use crate::client::probe::payload::Payload;
use crate::client::probe::tracker::{Answer, Attribution, MOST_REMEMBERED, Tracker};
use crate::client::report::{AnswerLine, Clock, FlowReport, PingReport, ProbeObject, StreamOutcome, attribution_note};
use crate::client::{Error, cannot_write, linger, notify, print_json, wait_notice};
use crate::net::ErrorReport;

/// The probes to one address, and the output for them.
pub(super) struct Record<'a> {
    pub(super) target: SocketAddr,
    pub(super) payload: Payload,
    pub(super) tracker: Tracker,
    options: Options,
    start: Instant,
    latencies: Latencies,
    /// The port and the round trips of each flow, if they are to be reported.
    flows: Vec<(u16, Median)>,
    /// How answers were matched when that was last printed.
    printed: Option<Attribution>,
    /// Whether any answer came.
    heard: bool,
    closed_port: ClosedPort,
    clock: Clock,
    out: &'a mut dyn Write,
    errors: &'a mut dyn Write,
}

/// What a closed port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosedPort {
    /// The outcome of a probe.
    Counts,
    /// As long as nothing was heard: that another address should be tried.
    Ends,
    /// It has ended this attempt.
    Ended,
}

impl<'a> Record<'a> {
    pub(super) fn new(
        target: SocketAddr,
        options: &Options,
        out: &'a mut dyn Write,
        errors: &'a mut dyn Write,
    ) -> Self {
        let flows = Flows::new(options.flows.unwrap_or(MOST_FLOWS), options.flows.is_some());
        Self {
            target,
            payload: Payload::new(options.size),
            tracker: Tracker::new(options.timeout, flows, MOST_REMEMBERED),
            options: options.clone(),
            start: Instant::now(),
            latencies: Latencies::new(),
            flows: Vec::new(),
            printed: None,
            heard: false,
            closed_port: ClosedPort::Counts,
            clock: Clock::User,
            out,
            errors,
        }
    }

    /// Returns the number of flows that was asked for.
    pub(super) fn fixed_flows(&self) -> Option<usize> {
        self.options.flows
    }

    /// Prints the first line. `written` is the target as the user wrote it.
    pub(super) fn begin(&mut self, written: &str) -> Result<(), Error> {
        if !matches!(self.options.format, Format::Text | Format::Summary) {
            return Ok(());
        }
        let (target, size) = (self.target, self.payload.size());
        let interval = humantime::format_duration(self.options.interval);
        write!(self.out, "UDP PING {written} ({target}): {size} bytes every {interval}").map_err(cannot_write)?;
        if !self.payload.is_tagged() {
            write!(self.out, ", too short to be recognised in an answer").map_err(cannot_write)?;
        }
        writeln!(self.out).and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Makes a closed port end the attempt, as long as nothing was heard, instead of counting.
    pub(super) fn expect_refusal(&mut self) {
        self.closed_port = ClosedPort::Ends;
    }

    /// Returns whether the port was closed before anything was heard, and that was [expected](Self::expect_refusal).
    pub(super) fn is_refused(&self) -> bool {
        self.closed_port == ClosedPort::Ended
    }

    /// Records that a socket was opened as a flow, whose answers have times of this clock.
    pub(super) fn flow_opened(&mut self, flow: usize, port: u16, clock: Clock) {
        self.tracker.flow_opened(flow);
        self.clock = clock;
        if self.options.flows.is_some() {
            self.flows.push((port, Median::new()));
        }
    }

    /// Records that the next probe was sent.
    pub(super) fn sent(&mut self, flow: usize, now: Instant) {
        self.tracker.record_sent(flow, now, now);
    }

    /// Matches an answer with its probe.
    pub(super) fn answer(&mut self, flow: usize, bytes: &[u8], now: Instant) -> Result<(), Error> {
        self.heard = true;
        let found = self.payload.find_in(bytes, self.tracker.next_sequence());
        let answer = self.tracker.match_answer(flow, found, now);
        let length = bytes.len();
        self.line(&AnswerLine { target: self.target, answer, bytes: length })?;
        let attribution = self.tracker.attribution();
        if self.printed != attribution {
            self.printed = attribution;
            attribution.and_then(attribution_note).map_or(Ok(()), |note| self.line(&note))?;
        }
        match answer {
            Answer::First { sequence, outcome, round_trip, reordered } => {
                self.latencies.record(round_trip);
                if let Some((_, median)) = self.flows.get_mut(flow) {
                    median.record(round_trip);
                }
                let rtt_ms = Some(round_trip.as_nanos() as f64 / 1e6);
                let bytes = Some(length);
                self.object(Some(sequence), StreamOutcome::from(outcome), |object| ProbeObject {
                    rtt_ms,
                    bytes,
                    reordered,
                    ..object
                })
            }
            Answer::Duplicate(sequence) => {
                self.object(sequence, StreamOutcome::Duplicate, |object| ProbeObject { bytes: Some(length), ..object })
            }
            Answer::Unmatched => Ok(()),
        }
    }

    /// Records an error that ICMP reported on a flow: of the probe that it repeats, or of the oldest one in flight.
    pub(super) fn refused(&mut self, flow: usize, refusal: &Refusal, now: Instant) -> Result<(), Error> {
        let closed = refusal.error.kind() == io::ErrorKind::ConnectionRefused;
        if closed && !self.heard && self.closed_port != ClosedPort::Counts {
            self.closed_port = ClosedPort::Ended;
            return Ok(());
        }
        let found = self.payload.find_in(&refusal.payload, self.tracker.next_sequence());
        let Some(sequence) = found.and_then(|found| found.sequence) else {
            let sequence = self.tracker.refuse_oldest(flow, now);
            return self.refuse(sequence, &refusal.error);
        };
        match self.tracker.refuse(sequence, now) {
            // A host that does not answer on its network is reported after three seconds.
            None => self.line(&format_args!("seq={} was reported too late: {}", sequence + 1, refusal.error)),
            refused => self.refuse(refused, &refusal.error),
        }
    }

    /// Records that the last probe could not be sent.
    pub(super) fn refused_to_send(&mut self, error: &io::Error, now: Instant) -> Result<(), Error> {
        check_socket(error)?;
        let sequence = self.tracker.refuse_last(now);
        self.refuse(sequence, error)
    }

    fn refuse(&mut self, sequence: Option<u64>, error: &io::Error) -> Result<(), Error> {
        let Some(sequence) = sequence else {
            return Ok(());
        };
        let (seq, target) = (sequence + 1, self.target);
        let offender = ErrorReport::of(error).and_then(|report| report.offender);
        let is_elsewhere = offender.is_some_and(|offender| offender != target.ip());
        match error.kind() {
            io::ErrorKind::ConnectionRefused if !is_elsewhere => {
                self.line(&format_args!("seq={seq} refused: nobody listens on {target} (port unreachable)"))?;
            }
            _ => self.line(&format_args!("seq={seq} refused: {error}"))?,
        }
        self.object(Some(sequence), StreamOutcome::Refused, |object| object)
    }

    /// Ends the probes of a flow that are past their timeout; everything that had arrived on it by `now` was received.
    pub(super) fn time_out(&mut self, flow: usize, now: Instant) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.time_out(flow, now) {
            let timeout = humantime::format_duration(self.options.timeout);
            self.line(&format_args!("seq={} no answer within {timeout}", sequence + 1))?;
            self.object(Some(sequence), StreamOutcome::Timeout, |object| object)?;
        }
        self.tracker.forget(now);
        Ok(())
    }

    /// Prints that a shutdown leads to a wait, if it does.
    pub(super) fn stopping(&mut self) {
        let until = self.tracker.last_sent().and_then(|sent| sent.checked_add(self.options.timeout));
        let left = until.map_or(self.options.timeout, |until| until.saturating_duration_since(Instant::now()));
        match self.tracker.in_flight() {
            0 => {}
            1 => notify(self.errors, &wait_notice(left, "1 probe")),
            probes => notify(self.errors, &wait_notice(left, &format!("{probes} probes"))),
        }
    }

    /// Returns how long to wait for duplicates once every probe has ended.
    pub(super) fn linger(&self) -> Duration {
        linger(&self.latencies, self.options.timeout)
    }

    /// Prints the report so far: to stdout, or to stderr if stdout is for JSON only.
    pub(super) fn status(&mut self) -> Result<(), Error> {
        let report = self.report(self.latencies.clone());
        if matches!(self.options.format, Format::Json | Format::JsonStream) {
            let _ = write!(self.errors, "{report}");
            return Ok(());
        }
        write!(self.out, "{report}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Returns the report.
    pub(super) fn into_report(mut self) -> PingReport {
        let latencies = std::mem::replace(&mut self.latencies, Latencies::new());
        self.report(latencies)
    }

    fn report(&self, latencies: Latencies) -> PingReport {
        let flow = |(index, (port, median)): (usize, &(u16, Median))| {
            FlowReport::new(*port, self.tracker.flow_counts(index), median.millis())
        };
        let flows = self.options.flows.map(|_| self.flows.iter().enumerate().map(flow).collect());
        PingReport::new(self.target, &self.options, self.start.elapsed(), &self.tracker, latencies, self.clock, flows)
    }

    fn line(&mut self, line: &dyn Display) -> Result<(), Error> {
        if self.options.format != Format::Text {
            return Ok(());
        }
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    fn object(
        &mut self,
        sequence: Option<u64>,
        outcome: StreamOutcome,
        complete: impl FnOnce(ProbeObject) -> ProbeObject,
    ) -> Result<(), Error> {
        if self.options.format != Format::JsonStream {
            return Ok(());
        }
        let object = complete(ProbeObject::new(sequence, self.target, outcome));
        print_json(self.out, &object)
    }
}
