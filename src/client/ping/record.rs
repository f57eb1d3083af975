//! What is known of the probes of a ping, and its output.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::{Format, Options};
use crate::client::flow::check_socket;
use crate::client::probe::flows::{Flows, MOST_FLOWS};
use crate::client::probe::latency::{Latencies, Median};
use crate::client::probe::payload::Payload;
use crate::client::probe::timeline::Timeline;
use crate::client::probe::tracker::{Answer, Attribution, MOST_REMEMBERED, Tracker};
use crate::client::report::{
    AnswerLine, FlowReport, HdrLog, PingReport, ProbeObject, StatusLine, StreamOutcome, attribution_note,
};
use crate::client::{Error, cannot_write, linger, notify, print_json, wait_notice};
use crate::net::Egress;

/// The probes to one address, and the output for them.
pub(super) struct Record<'a> {
    pub(super) target: SocketAddr,
    pub(super) payload: Payload,
    pub(super) tracker: Tracker,
    options: Options,
    start: Instant,
    latencies: Latencies,
    timeline: Timeline,
    hdr: Option<HdrLog>,
    status_line: Option<StatusLine>,
    /// The port and the round trips of each flow, if they are to be reported.
    flows: Vec<(u16, Median)>,
    /// How answers were matched when that was last printed.
    printed: Option<Attribution>,
    /// Whether any answer came.
    heard: bool,
    refusal: Refusal,
    out: &'a mut dyn Write,
    errors: &'a mut dyn Write,
}

/// What a closed port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
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
        let start = Instant::now();
        let flows = Flows::new(options.flows.unwrap_or(MOST_FLOWS), options.flows.is_some());
        Self {
            target,
            payload: options.payload.clone().map_or_else(|| Payload::new(options.size), Payload::exact),
            tracker: Tracker::new(options.timeout, flows, MOST_REMEMBERED),
            options: options.clone(),
            start,
            latencies: Latencies::new(),
            timeline: Timeline::new(start, options.interval),
            hdr: None,
            status_line: options.live.map(|terminal| StatusLine::new(terminal, start)),
            flows: Vec::new(),
            printed: None,
            heard: false,
            refusal: Refusal::Counts,
            out,
            errors,
        }
    }

    /// Returns where probes leave.
    pub(super) fn egress(&self) -> &Egress {
        &self.options.egress
    }

    /// Returns the number of flows that was asked for.
    pub(super) fn fixed_flows(&self) -> Option<usize> {
        self.options.flows
    }

    /// Creates the log, if there is one, and prints the first line. `written` is the target as the user wrote it.
    pub(super) fn begin(&mut self, written: &str) -> Result<(), Error> {
        if let Some(path) = &self.options.hdr {
            self.hdr = Some(HdrLog::create(path, vec![self.target.to_string()], self.start)?);
        }
        if !matches!(self.options.format, Format::Text | Format::Summary) {
            return Ok(());
        }
        let (target, size) = (self.target, self.payload.size());
        let interval = humantime::format_duration(self.options.interval);
        write!(self.out, "UDP PING {written} ({target}): {size} bytes every {interval}").map_err(cannot_write)?;
        if !self.payload.is_tagged() && self.options.payload.is_none() {
            write!(self.out, ", too short to be recognised in an answer").map_err(cannot_write)?;
        }
        writeln!(self.out).and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Makes a closed port end the attempt, as long as nothing was heard, instead of counting.
    pub(super) fn expect_refusal(&mut self) {
        self.refusal = Refusal::Ends;
    }

    /// Returns whether the port was closed before anything was heard, and that was [expected](Self::expect_refusal).
    pub(super) fn is_refused(&self) -> bool {
        self.refusal == Refusal::Ended
    }

    /// Records that a socket was opened as a flow.
    pub(super) fn flow_opened(&mut self, flow: usize, port: u16) {
        self.tracker.flow_opened(flow);
        if self.options.flows.is_some() {
            self.flows.push((port, Median::new()));
        }
    }

    /// Records that the next probe was sent.
    pub(super) fn sent(&mut self, flow: usize, now: Instant) {
        self.tracker.record_sent(flow, now, now);
    }

    /// Records that a probe got no answer in time.
    fn lost(&mut self, sequence: u64, now: Instant) {
        self.timeline.lose(self.tracker.sent_at(sequence).unwrap_or(now));
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
                self.timeline.record(now.checked_sub(round_trip).unwrap_or(now), round_trip);
                self.hdr.as_mut().map_or(Ok(()), |hdr| hdr.record(0, round_trip, now))?;
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

    /// Records an error that ICMP reported on a flow, as that of its oldest probe in flight.
    pub(super) fn refused(&mut self, flow: usize, error: &io::Error, now: Instant) -> Result<(), Error> {
        let closed = error.kind() == io::ErrorKind::ConnectionRefused;
        if closed && !self.heard && self.refusal != Refusal::Counts {
            self.refusal = Refusal::Ended;
            return Ok(());
        }
        let sequence = self.tracker.refuse_oldest(flow, now);
        self.refuse(sequence, error, now)
    }

    /// Records that the last probe could not be sent.
    pub(super) fn refused_to_send(&mut self, error: &io::Error, now: Instant) -> Result<(), Error> {
        check_socket(error)?;
        let sequence = self.tracker.refuse_last(now);
        self.refuse(sequence, error, now)
    }

    fn refuse(&mut self, sequence: Option<u64>, error: &io::Error, now: Instant) -> Result<(), Error> {
        let Some(sequence) = sequence else {
            return Ok(());
        };
        self.lost(sequence, now);
        let (seq, target) = (sequence + 1, self.target);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                self.line(&format_args!("seq={seq} refused: nobody listens on {target} (port unreachable)"))?;
            }
            _ => self.line(&format_args!("seq={seq} refused: {error}"))?,
        }
        self.object(Some(sequence), StreamOutcome::Refused, |object| object)
    }

    /// Ends the probes of a flow that are past their timeout; everything that had arrived on it by `now` was received.
    pub(super) fn time_out(&mut self, flow: usize, now: Instant) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.time_out(flow, now) {
            self.lost(sequence, now);
            let timeout = humantime::format_duration(self.options.timeout);
            self.line(&format_args!("seq={} no answer within {timeout}", sequence + 1))?;
            self.object(Some(sequence), StreamOutcome::Timeout, |object| object)?;
        }
        self.tracker.forget(now);
        self.hdr.as_mut().map_or(Ok(()), |hdr| hdr.advance(now))
    }

    /// Prints that a shutdown leads to a wait, if it does.
    pub(super) fn stopping(&mut self) {
        self.clear_status_line();
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
        self.clear_status_line();
        let report = self.report(self.latencies.clone(), self.timeline.clone()).text(self.options.terminal);
        if matches!(self.options.format, Format::Json | Format::JsonStream) {
            let _ = write!(self.errors, "{report}");
            return Ok(());
        }
        write!(self.out, "{report}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Returns the report.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the log cannot be written.
    pub(super) fn into_report(mut self) -> Result<PingReport, Error> {
        self.hdr.take().map_or(Ok(()), |hdr| hdr.finish(Instant::now()))?;
        Ok(self.report(self.latencies.clone(), self.timeline.clone()))
    }

    /// Returns when the status line should be drawn.
    pub(super) fn next_status_line(&self) -> Option<Instant> {
        self.status_line.as_ref().map(StatusLine::next)
    }

    pub(super) fn draw_status_line(&mut self, now: Instant) {
        if let Some(line) = &mut self.status_line {
            line.draw(self.errors, self.tracker.counts(), &self.latencies, &self.timeline, now);
        }
    }

    pub(super) fn clear_status_line(&mut self) {
        if let Some(line) = &mut self.status_line {
            line.clear(self.errors);
        }
    }

    fn report(&self, latencies: Latencies, timeline: Timeline) -> PingReport {
        let flow = |(index, (port, median)): (usize, &(u16, Median))| {
            FlowReport::new(*port, self.tracker.flow_counts(index), median.millis())
        };
        let flows = self.options.flows.map(|_| self.flows.iter().enumerate().map(flow).collect());
        PingReport::new(self.target, &self.options, self.start.elapsed(), &self.tracker, latencies, timeline, flows)
    }

    fn line(&mut self, line: &dyn Display) -> Result<(), Error> {
        if self.options.format != Format::Text {
            return Ok(());
        }
        self.clear_status_line();
        if self.options.timestamps {
            let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            write!(self.out, "[{}.{:06}] ", time.as_secs(), time.subsec_micros()).map_err(cannot_write)?;
        }
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(cannot_write)?;
        self.draw_status_line(Instant::now());
        Ok(())
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
        self.clear_status_line();
        print_json(self.out, &object)?;
        self.draw_status_line(Instant::now());
        Ok(())
    }
}
