//! What is known of the probes of a ping, and its output.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Format, Options};
use crate::client::probe::latency::Latencies;
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::Outcome;
use crate::client::probe::payload::Payload;
use crate::client::probe::tracker::{Answer, Tracker};
use crate::client::report::{AnswerLine, IN_ORDER, PingReport, ProbeObject};
use crate::client::{Error, cannot_write, linger, print_json};
use crate::net;

/// How long after its timeout an answer still counts as late.
const LATE_FOR: Duration = Duration::from_secs(60);

/// The probes, and the output for them.
pub(super) struct Record<'a> {
    pub(super) target: SocketAddr,
    format: Format,
    pub(super) payload: Payload,
    timeout: Duration,
    interval: Duration,
    pub(super) tracker: Tracker,
    latencies: Latencies,
    out: &'a mut dyn Write,
}

impl<'a> Record<'a> {
    pub(super) fn new(target: SocketAddr, options: &Options, out: &'a mut dyn Write) -> Self {
        Self {
            target,
            format: options.format,
            payload: Payload::new(options.size),
            timeout: options.timeout,
            interval: options.interval,
            tracker: Tracker::new(options.timeout, LATE_FOR),
            latencies: Latencies::new(),
            out,
        }
    }

    /// Prints the first line. `written` is the target as the user wrote it.
    pub(super) fn begin(&mut self, written: &str) -> Result<(), Error> {
        if !matches!(self.format, Format::Text | Format::Summary) {
            return Ok(());
        }
        let (target, size) = (self.target, self.payload.size());
        let interval = humantime::format_duration(self.interval);
        write!(self.out, "UDP PING {written} ({target}): {size} bytes every {interval}").map_err(cannot_write)?;
        if !self.payload.is_tagged() {
            write!(self.out, ", too short to be recognised in an answer").map_err(cannot_write)?;
        }
        writeln!(self.out).and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Matches an answer with its probe.
    pub(super) fn answer(&mut self, bytes: &[u8], now: Instant) -> Result<(), Error> {
        let found = self.payload.find_in(bytes, self.tracker.next_sequence());
        let first = self.tracker.counts().with_answer() == 0;
        let answer = self.tracker.match_answer(found, now);
        self.line(&AnswerLine { target: self.target, answer, bytes: bytes.len() })?;
        if let Answer::First { sequence, outcome, round_trip, reordered } = answer {
            self.latencies.record(round_trip);
            if first && found.is_none() {
                self.line(&IN_ORDER)?;
            }
            let rtt_ms = Some(round_trip.as_nanos() as f64 / 1e6);
            self.object(&ProbeObject { seq: sequence + 1, outcome, rtt_ms, bytes: Some(bytes.len()), reordered })?;
        }
        Ok(())
    }

    /// Records an error that ICMP reported, as that of the oldest probe in flight: nothing identifies the probe.
    pub(super) fn refused(&mut self, error: &io::Error) -> Result<(), Error> {
        if net::is_broken(error) {
            return Err(Error::Failed(format!("the socket became unusable: {error}")));
        }
        let sequence = self.tracker.refuse_oldest();
        self.refuse(sequence, error)
    }

    /// Records that the last probe could not be sent.
    pub(super) fn refused_to_send(&mut self, error: &io::Error) -> Result<(), Error> {
        if net::is_broken(error) {
            return Err(Error::Failed(format!("the socket became unusable: {error}")));
        }
        let sequence = self.tracker.refuse_last();
        self.refuse(sequence, error)
    }

    fn refuse(&mut self, sequence: Option<u64>, error: &io::Error) -> Result<(), Error> {
        let Some(sequence) = sequence else {
            return Ok(());
        };
        let (seq, target) = (sequence + 1, self.target);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                self.line(&format_args!("seq={seq} refused: nobody listens on {target} (port unreachable)"))?;
            }
            _ => self.line(&format_args!("seq={seq} refused: {error}"))?,
        }
        self.object(&ProbeObject { seq, outcome: Outcome::Refused, rtt_ms: None, bytes: None, reordered: false })
    }

    /// Ends the probes that are past their timeout; everything that had arrived by `now` was received.
    pub(super) fn note_time(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.time_out(now) {
            let timeout = humantime::format_duration(self.timeout);
            self.line(&format_args!("seq={} no answer within {timeout}", sequence + 1))?;
        }
        while let Some(sequence) = self.tracker.lose(now) {
            self.lost(sequence)?;
        }
        Ok(())
    }

    fn lost(&mut self, sequence: u64) -> Result<(), Error> {
        self.object(&ProbeObject {
            seq: sequence + 1,
            outcome: Outcome::Lost,
            rtt_ms: None,
            bytes: None,
            reordered: false,
        })
    }

    /// Returns how long to wait for duplicates once every probe has ended.
    pub(super) fn linger(&self) -> Duration {
        linger(&self.latencies, self.timeout)
    }

    /// Prints the report so far: to stdout, or to stderr if stdout is for JSON only.
    pub(super) fn status(&mut self) -> Result<(), Error> {
        let report = PingReport::new(self.target, self.tracker.counts(), &self.latencies, self.tracker.repeats());
        if matches!(self.format, Format::Json | Format::JsonStream) {
            let _ = write!(io::stderr(), "{report}");
            return Ok(());
        }
        write!(self.out, "{report}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Prints the report and checks it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unmet`] if there was no answer or a limit is exceeded.
    pub(super) fn end(mut self, limits: &Limits) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.lose_rest() {
            self.lost(sequence)?;
        }
        let report = PingReport::new(self.target, self.tracker.counts(), &self.latencies, self.tracker.repeats());
        match self.format {
            Format::Text | Format::Summary => {
                write!(self.out, "\n{report}").and_then(|()| self.out.flush()).map_err(cannot_write)?;
            }
            Format::Json | Format::JsonStream => print_json(self.out, &report)?,
        }
        report.check(limits)
    }

    fn line(&mut self, line: &dyn std::fmt::Display) -> Result<(), Error> {
        if self.format != Format::Text {
            return Ok(());
        }
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    fn object(&mut self, probe: &ProbeObject) -> Result<(), Error> {
        if self.format == Format::JsonStream { print_json(self.out, probe) } else { Ok(()) }
    }
}
