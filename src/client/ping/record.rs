//! What is known of the probes of a ping to one target.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::metrics::ProbeMetrics;
use super::output::Output;
use super::{Format, Options};
use crate::client::flow::{Refusal, check_socket};
use crate::client::probe::flows::{Flows, MOST_FLOWS};
use crate::client::probe::latency::{Latencies, Median};
use crate::client::probe::outcome::Outcome;
use crate::client::probe::payload::Payload;
use crate::client::probe::timeline::{MOST_SLICES, Timeline};
use crate::client::probe::tracker::{Answer, Attribution, MOST_REMEMBERED, Tracker};
use crate::client::report::{AnswerLine, Clock, FlowReport, PingReport, ProbeObject, StreamOutcome, attribution_note};
use crate::client::stamp::{Session, StampReport, Trip};
use crate::client::{Error, linger};
use crate::net::{Datagram, ErrorReport, WallClock};
use crate::stamp::reflector::ClockQuality;

/// The probes to one address, and the output for them.
pub(super) struct Record<'a> {
    pub(super) target: SocketAddr,
    /// The number of the target, from 0, and whether there is no other one.
    index: usize,
    is_only: bool,
    pub(super) payload: Payload,
    stamp: Option<Session>,
    pub(super) tracker: Tracker,
    options: &'a Options,
    start: Instant,
    /// When the last probe had ended.
    ended: Option<Instant>,
    latencies: Latencies,
    timeline: Timeline,
    /// The port and the round trips of each flow, if they are to be reported.
    flows: Vec<(u16, Median)>,
    /// How answers were matched when that was last printed.
    printed: Option<Attribution>,
    /// Whether any answer came.
    heard: bool,
    closed_port: ClosedPort,
    clock: Clock,
    pub(super) metrics: ProbeMetrics,
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
    /// Creates the record of one target of several. `start` is about when its first probe is due.
    pub(super) fn new(target: SocketAddr, index: usize, targets: usize, options: &'a Options, start: Instant) -> Self {
        // All targets together have about as many sockets and slices as one, but each has some.
        let flows = (MOST_FLOWS * 16 / targets).clamp(2, MOST_FLOWS);
        // A session of STAMP has one source port; "rotating" over that one keeps it.
        let flows = match options.stamp {
            Some(_) => Flows::new(1, true),
            None => Flows::new(options.flows.unwrap_or(flows), options.flows.is_some()),
        };
        let stamp = options.stamp.as_ref().map(|stamp| Session::new(stamp, random_ssid(), options.egress.hop_limit));
        let payload = match &stamp {
            Some(session) => Some(session.packet(options.size)),
            None => options.payload.clone(),
        };
        Self {
            target,
            index,
            is_only: targets == 1,
            payload: payload.map_or_else(|| Payload::new(options.size), Payload::exact),
            stamp,
            tracker: Tracker::new(options.timeout, flows, MOST_REMEMBERED),
            options,
            start,
            ended: None,
            latencies: Latencies::new(),
            timeline: Timeline::new(start, options.interval, MOST_SLICES * 16 / targets),
            flows: Vec::new(),
            printed: None,
            heard: false,
            closed_port: ClosedPort::Counts,
            clock: Clock::User,
            metrics: ProbeMetrics::new(options.flows),
        }
    }

    /// Prints the first line. `written` is the target as the user wrote it.
    pub(super) fn begin(&self, written: &str, output: &mut Output<'_>) -> Result<(), Error> {
        let interval = humantime::format_duration(self.options.interval);
        if matches!(self.options.format, Format::Json | Format::JsonStream) {
            // 200m is easily written for 200ms, and would only be seen at the end.
            if self.options.interval >= Duration::from_secs(60) && self.index == 0 {
                output.notify(&format_args!("sending a probe every {interval}"));
            }
            return Ok(());
        }
        let (target, size) = (self.target, self.payload.size());
        let note = match (&self.stamp, self.payload.is_tagged() || self.options.payload.is_some()) {
            (Some(_), _) => ", STAMP",
            (None, true) => "",
            (None, false) => ", too short to be recognised in an answer",
        };
        let line = format!("UDP PING {written} ({target}): {size} bytes every {interval}{note}");
        output.text(&self.options.terminal.wrap(&line))
    }

    /// Makes a closed port end the attempt, as long as nothing was heard, instead of counting, if there is another
    /// address.
    pub(super) fn expect_refusal(&mut self, is_expected: bool) {
        self.closed_port = if is_expected { ClosedPort::Ends } else { ClosedPort::Counts };
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

    /// Writes the payload of the next probe into `probe`, a copy of the payload; returns the time, that of a STAMP
    /// packet.
    pub(super) fn write_probe(&mut self, clock: ClockQuality, probe: &mut [u8]) -> Instant {
        let sequence = self.tracker.next_sequence();
        let Some(session) = &mut self.stamp else {
            self.payload.write_sequence(sequence, probe);
            return Instant::now();
        };
        let time = WallClock::read();
        session.write(sequence, time.now(), clock, probe);
        time.instant()
    }

    /// Records that the next probe was sent.
    pub(super) fn sent(&mut self, flow: usize, now: Instant, output: &mut Output<'_>) {
        self.stamp.iter_mut().for_each(Session::sent);
        self.tracker.record_sent(flow, now, now);
        output.sent();
    }

    /// Counts the outcome of a probe for the metrics.
    fn count(&mut self, sequence: u64, outcome: Outcome) {
        self.tracker.flow_of(sequence).into_iter().for_each(|flow| self.metrics.count(flow, outcome));
    }

    /// Records that a probe got no answer in time.
    fn lost(&mut self, sequence: u64, now: Instant, output: &mut Output<'_>) {
        let sent = self.tracker.sent_at(sequence).unwrap_or(now);
        self.timeline.lose(sent);
        output.lost(sent);
    }

    /// Returns the object of a probe.
    fn object(&self, sequence: Option<u64>, outcome: StreamOutcome) -> ProbeObject {
        ProbeObject::new(sequence, self.target, outcome)
    }

    /// Matches an answer with its probe.
    pub(super) fn answer(
        &mut self,
        flow: usize,
        datagram: &Datagram<'_>,
        now: Instant,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        self.heard = true;
        let &Datagram { payload: bytes, hop_limit, .. } = datagram;
        let (answer, trip) = self.match_answer(flow, datagram, now);
        if let Answer::First { sequence, overdue: true, .. } = answer {
            self.timed_out(sequence, now, output)?;
        }
        let length = bytes.len();
        output.line(&AnswerLine { target: self.target, answer, bytes: length, hop_limit, trip })?;
        let attribution = self.tracker.attribution();
        if self.printed != attribution {
            self.printed = attribution;
            let prefix = self.prefix();
            let note = attribution.and_then(attribution_note);
            note.map_or(Ok(()), |note| output.line(&format_args!("{prefix}{note}")))?;
        }
        match answer {
            Answer::First { sequence, outcome, round_trip, reordered, .. } => {
                self.latencies.record(round_trip);
                self.count(sequence, outcome);
                self.metrics.record(round_trip);
                let sent = now.checked_sub(round_trip).unwrap_or(now);
                self.timeline.record(sent, round_trip);
                output.answered(self.index, sent, round_trip, now)?;
                if let Some((_, median)) = self.flows.get_mut(flow) {
                    median.record(round_trip);
                }
                let rtt_ms = Some(round_trip.as_nanos() as f64 / 1e6);
                let bytes = Some(length);
                output.object(|| ProbeObject {
                    rtt_ms,
                    bytes,
                    reordered,
                    hop_limit,
                    trip: trip.map(Into::into),
                    ..self.object(Some(sequence), StreamOutcome::from(outcome))
                })
            }
            Answer::Duplicate(sequence) => output.object(|| ProbeObject {
                bytes: Some(length),
                hop_limit,
                ..self.object(sequence, StreamOutcome::Duplicate)
            }),
            Answer::Unmatched => Ok(()),
        }
    }

    /// Matches an answer with its probe; for one of a STAMP reflector, returns what else it contains.
    fn match_answer(&mut self, flow: usize, datagram: &Datagram<'_>, now: Instant) -> (Answer, Option<Trip>) {
        let next = self.tracker.next_sequence();
        let Some(session) = &mut self.stamp else {
            let found = self.payload.find_in(datagram.payload, next);
            return (self.tracker.match_answer(flow, found, now), None);
        };
        let Some((found, reply)) = session.find_in(datagram.payload, next) else {
            return (self.tracker.note_unmatched(), None);
        };
        let mut answer = self.tracker.match_answer(flow, Some(found), now);
        let trip = session.answered(&mut answer, &reply, WallClock::read().at(now), datagram.hop_limit);
        (answer, trip)
    }

    /// Records an error that ICMP reported on a flow: of the probe that it repeats, or of the oldest one in flight.
    pub(super) fn refused(
        &mut self,
        flow: usize,
        refusal: &Refusal,
        now: Instant,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        let closed = refusal.error.kind() == io::ErrorKind::ConnectionRefused;
        if closed && !self.heard && self.closed_port != ClosedPort::Counts {
            self.closed_port = ClosedPort::Ended;
            return Ok(());
        }
        let next = self.tracker.next_sequence();
        let found = match &self.stamp {
            Some(session) => session.find_request(&refusal.payload, next),
            None => self.payload.find_in(&refusal.payload, next).and_then(|found| found.sequence),
        };
        let Some(sequence) = found else {
            let sequence = self.tracker.refuse_oldest(flow, now);
            return self.refuse(sequence, &refusal.error, now, output);
        };
        match self.tracker.refuse(sequence, now) {
            // A host that does not answer on its network is reported after three seconds.
            None => {
                let prefix = self.prefix();
                output.line(&format_args!("{prefix}seq={} was reported too late: {}", sequence + 1, refusal.error))
            }
            refused => self.refuse(refused, &refusal.error, now, output),
        }
    }

    /// Records that the last probe could not be sent.
    pub(super) fn refused_to_send(
        &mut self,
        error: &io::Error,
        now: Instant,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        check_socket(error)?;
        let sequence = self.tracker.refuse_last(now);
        self.refuse(sequence, error, now, output)
    }

    fn refuse(
        &mut self,
        sequence: Option<u64>,
        error: &io::Error,
        now: Instant,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        let Some(sequence) = sequence else {
            return Ok(());
        };
        self.count(sequence, Outcome::Refused);
        self.lost(sequence, now, output);
        self.stamp.iter_mut().for_each(|session| session.refused(sequence));
        let (seq, target) = (sequence + 1, self.target);
        let offender = ErrorReport::of(error).and_then(|report| report.offender);
        let is_elsewhere = offender.is_some_and(|offender| offender != target.ip());
        match error.kind() {
            io::ErrorKind::ConnectionRefused if !is_elsewhere => {
                output.line(&format_args!("seq={seq} refused: nobody listens on {target} (port unreachable)"))?;
            }
            _ => output.line(&format_args!("{}seq={seq} refused: {error}", self.prefix()))?,
        }
        output.object(|| self.object(Some(sequence), StreamOutcome::Refused))
    }

    /// Ends the probes of a flow that are past their timeout; everything that had arrived on it by `now` was received.
    pub(super) fn time_out(&mut self, flow: usize, now: Instant, output: &mut Output<'_>) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.time_out(flow, now) {
            self.timed_out(sequence, now, output)?;
        }
        self.tracker.forget(now);
        output.advance_log(now)
    }

    fn timed_out(&mut self, sequence: u64, now: Instant, output: &mut Output<'_>) -> Result<(), Error> {
        self.count(sequence, Outcome::Lost);
        self.lost(sequence, now, output);
        self.stamp.iter_mut().for_each(|session| session.lost(sequence));
        let timeout = humantime::format_duration(self.options.timeout);
        output.line(&format_args!("{}seq={} no answer within {timeout}", self.prefix(), sequence + 1))?;
        output.object(|| self.object(Some(sequence), StreamOutcome::Timeout))
    }

    /// Returns how long the probes in flight may still be answered in time.
    pub(super) fn wait(&self) -> Duration {
        let until = self.tracker.last_sent().and_then(|sent| sent.checked_add(self.options.timeout));
        until.map_or(self.options.timeout, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Records that every probe has ended at `now`, and none is to be sent.
    pub(super) fn end(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Returns how long to wait for duplicates once every probe has ended.
    pub(super) fn linger(&self) -> Duration {
        linger(&self.latencies, self.options.timeout)
    }

    /// Returns the report so far.
    pub(super) fn report(&self) -> PingReport {
        self.report_of((self.latencies.clone(), self.timeline.clone()))
    }

    /// Returns the report.
    pub(super) fn into_report(mut self) -> PingReport {
        // Not copies: with thousands of targets these would take a gigabyte.
        let latencies = std::mem::replace(&mut self.latencies, Latencies::new());
        let timeline = std::mem::replace(&mut self.timeline, Timeline::new(self.start, self.options.interval, 0));
        self.report_of((latencies, timeline))
    }

    /// Returns what STAMP has measured so far.
    pub(super) fn stamp_report(&self) -> Option<StampReport> {
        let counts = self.tracker.counts();
        self.stamp.as_ref().map(|session| session.report(counts.ended(), counts.lost))
    }

    fn report_of(&self, times: (Latencies, Timeline)) -> PingReport {
        let flow = |(index, (port, median)): (usize, &(u16, Median))| {
            FlowReport::new(*port, self.tracker.flow_counts(index), median.millis())
        };
        let flows = self.options.flows.map(|_| self.flows.iter().enumerate().map(flow).collect());
        let stamp = self.stamp_report();
        let duration = self.ended.unwrap_or_else(Instant::now).saturating_duration_since(self.start);
        PingReport::new(self.target, self.options, duration, &self.tracker, times, self.clock, flows).with_stamp(stamp)
    }

    /// Returns what stands before a line that does not name the target by itself.
    fn prefix(&self) -> String {
        if self.is_only { String::new() } else { format!("{}: ", self.target) }
    }
}

/// Returns an identifier for a session of STAMP, not 0.
fn random_ssid() -> u16 {
    (RandomState::new().hash_one(0) as u16).max(1)
}
