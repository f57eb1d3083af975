//! What ping prints: a line or a JSON object for each probe, and the summary. Pure.

use std::fmt::{self, Display, Formatter, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::format::{counts, millis, percentiles, range};
use super::histogram::BarChart;
use super::plot::{MOST_SERIES, Plot, Series};
use super::strip::Strip;
use super::table::{Row, Table};
use super::terminal::Terminal;
use super::{Clock, SCHEMA, attribution_note, check, in_flight_note, loss_percent};
use crate::client::Error;
use crate::client::ping::Options;
use crate::client::probe::latency::{Latencies, Summary};
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::{Outcome, OutcomeCounts};
use crate::client::probe::timeline::Timeline;
use crate::client::probe::tracker::{Answer, Attribution, FlowCounts, Tracker};
use crate::client::stamp::{StampReport, Trip};

/// The line for an answer.
#[derive(Debug)]
pub struct AnswerLine {
    /// The address that answered.
    pub target: SocketAddr,
    /// What the answer meant.
    pub answer: Answer,
    /// The length of the answer in bytes.
    pub bytes: usize,
    /// The hop limit with which it arrived, if that is known.
    pub hop_limit: Option<u8>,
    /// What the answer of a STAMP reflector reports about the two directions.
    pub trip: Option<Trip>,
}

impl Display for AnswerLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes from {}: ", self.bytes, self.target)?;
        match self.answer {
            Answer::First { sequence, outcome, round_trip, reordered, .. } => {
                write!(f, "seq={} time={:.3} ms", sequence + 1, round_trip.as_secs_f64() * 1e3)?;
                f.write_str(match outcome {
                    Outcome::Late => " (late)",
                    Outcome::Truncated => " (truncated)",
                    Outcome::Altered => " (altered)",
                    Outcome::Answered | Outcome::Lost | Outcome::Refused => "",
                })?;
                f.write_str(if reordered { " (reordered)" } else { "" })?;
                self.write_trip(f)
            }
            Answer::Duplicate(Some(sequence)) => write!(f, "seq={} (duplicate)", sequence + 1),
            Answer::Duplicate(None) => f.write_str("one answer too many (duplicate)"),
            Answer::Unmatched => f.write_str("repeats no probe (unmatched)"),
        }
    }
}

impl AnswerLine {
    fn write_trip(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(limit) = self.hop_limit {
            write!(f, " ttl={limit}")?;
        }
        if let Some(trip) = self.trip {
            let [up, down] = trip.variations.map(|nanos| nanos as f64 / 1e6);
            write!(f, " up=+{up:.3} down=+{down:.3} ms")?;
        }
        Ok(())
    }
}

/// What the JSON object of a stream reports of a probe.
///
/// The first one of each probe is any but `late` and `duplicate`. After a timeout at most one of late, truncated and
/// altered follows; the last one is the outcome that the summary counts, a timeout as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamOutcome {
    /// The probe ended as [`Outcome::Answered`].
    Answered,
    /// There was no answer within the timeout.
    Timeout,
    /// The probe ended as [`Outcome::Late`].
    Late,
    /// The probe ended as [`Outcome::Refused`].
    Refused,
    /// The probe ended as [`Outcome::Truncated`].
    Truncated,
    /// The probe ended as [`Outcome::Altered`].
    Altered,
    /// There was a further answer.
    Duplicate,
}

impl From<Outcome> for StreamOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Answered => Self::Answered,
            Outcome::Late => Self::Late,
            Outcome::Lost => Self::Timeout,
            Outcome::Refused => Self::Refused,
            Outcome::Truncated => Self::Truncated,
            Outcome::Altered => Self::Altered,
        }
    }
}

/// A JSON object of a stream.
#[derive(Debug, Serialize)]
pub struct ProbeObject {
    /// The number of the probe, from 1; `None` for a duplicate that repeats no probe.
    pub seq: Option<u64>,
    /// The address that it was sent to.
    pub target: SocketAddr,
    /// When this was reported, in UTC (RFC 3339).
    pub time: String,
    /// What became of it.
    pub outcome: StreamOutcome,
    /// Its round-trip time; `None` without an answer and for a duplicate.
    pub rtt_ms: Option<f64>,
    /// The length of its answer in bytes.
    pub bytes: Option<usize>,
    /// Whether a later probe of the same flow was answered before.
    pub reordered: bool,
    /// The hop limit of its answer; `None` if it is not known.
    #[serde(rename = "ttl")]
    pub hop_limit: Option<u8>,
    /// What the answer of a STAMP reflector reports about the two directions.
    #[serde(flatten)]
    pub trip: Option<TripObject>,
}

/// The directions of one probe.
#[derive(Debug, Serialize)]
pub struct TripObject {
    /// What the delay up exceeds the shortest so far by.
    pub up_variation_ms: f64,
    /// What the delay down exceeds the shortest so far by.
    pub down_variation_ms: f64,
    /// The time in the reflector.
    pub processing_ms: f64,
}

impl From<Trip> for TripObject {
    fn from(trip: Trip) -> Self {
        let [up, down] = trip.variations.map(|nanos| nanos as f64 / 1e6);
        let processing_ms = trip.processing.as_nanos() as f64 / 1e6;
        Self { up_variation_ms: up, down_variation_ms: down, processing_ms }
    }
}

impl ProbeObject {
    /// Creates the object of a probe without an answer.
    pub fn new(sequence: Option<u64>, target: SocketAddr, outcome: StreamOutcome) -> Self {
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let seq = sequence.map(|sequence| sequence + 1);
        Self { seq, target, time, outcome, rtt_ms: None, bytes: None, reordered: false, hop_limit: None, trip: None }
    }
}

/// The summary of a ping. Its text ends with a line break.
#[derive(Clone, Debug, Serialize)]
pub struct PingReport {
    schema: u32,
    target: SocketAddr,
    interval_ms: f64,
    size: usize,
    duration_s: f64,
    #[serde(flatten)]
    counts: OutcomeCounts,
    /// How many probes were in flight at a forced end, or are while it runs. They are counted nowhere else.
    in_flight: usize,
    loss_percent: f64,
    clock: Clock,
    /// How answers were matched to probes; `None` if there was none.
    attribution: Option<Attribution>,
    /// The round trips of first answers of whatever kind, late ones included: without these, a slow path would look
    /// faster than it is.
    rtt_ms: RoundTrips,
    flows: Option<Vec<FlowReport>>,
    #[serde(flatten)]
    stamp: Option<StampReport>,
    #[serde(skip)]
    latencies: Latencies,
    #[serde(skip)]
    timeline: Timeline,
}

#[derive(Clone, Debug, Serialize)]
struct RoundTrips {
    #[serde(flatten)]
    summary: Summary,
    jitter: Option<f64>,
}

/// The probes of one source port.
#[derive(Clone, Debug, Serialize)]
pub struct FlowReport {
    port: u16,
    sent: u64,
    /// Late, lost and refused ones.
    lost: u64,
    p50_ms: Option<f64>,
}

impl FlowReport {
    /// Creates the report of the flow with a source port, whose median round trip was `p50_ms`.
    pub fn new(port: u16, counts: FlowCounts, p50_ms: Option<f64>) -> Self {
        Self { port, sent: counts.ended, lost: counts.lost, p50_ms }
    }

    /// Returns whether over half of at least three probes were lost.
    fn is_bad(&self) -> bool {
        self.sent >= 3 && 2 * self.lost > self.sent
    }
}

impl Display for FlowReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { port, sent, lost, .. } = self;
        let mark = if self.is_bad() { "   bad" } else { "" };
        write!(f, "port {port}: {sent} sent, {lost} lost, p50 {} ms{mark}", millis(self.p50_ms))
    }
}

impl PingReport {
    /// Creates the summary of what a tracker knows after `duration`.
    pub(crate) fn new(
        target: SocketAddr,
        options: &Options,
        duration: Duration,
        tracker: &Tracker,
        (latencies, timeline): (Latencies, Timeline),
        clock: Clock,
        flows: Option<Vec<FlowReport>>,
    ) -> Self {
        let counts = OutcomeCounts { sent: tracker.counts().ended(), ..*tracker.counts() };
        Self {
            schema: SCHEMA,
            target,
            interval_ms: options.interval.as_nanos() as f64 / 1e6,
            size: options.payload.as_ref().map_or(options.size, Vec::len),
            duration_s: duration.as_micros() as f64 / 1e6,
            counts,
            in_flight: tracker.in_flight(),
            loss_percent: loss_percent(&counts),
            clock,
            attribution: tracker.attribution(),
            rtt_ms: RoundTrips { summary: latencies.summary(), jitter: latencies.jitter() },
            flows,
            stamp: None,
            latencies,
            timeline,
        }
    }

    /// Adds what STAMP has measured.
    pub(crate) fn with_stamp(self, stamp: Option<StampReport>) -> Self {
        Self { stamp, ..self }
    }

    /// Returns how the probes ended.
    pub fn counts(&self) -> &OutcomeCounts {
        &self.counts
    }

    /// Checks the result against limits.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] when there was no intact answer in time or a limit is exceeded; its message says which.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        let exceeded = self.stamp.as_ref().map(|stamp| stamp.exceeded(limits)).unwrap_or_default();
        let result = check(self.target, &self.counts, &self.rtt_ms.summary, limits, exceeded);
        let strangers = match self.counts {
            OutcomeCounts { answered: 0, unmatched, .. } if self.stamp.is_some() => unmatched,
            _ => 0,
        };
        let answers = match strangers {
            0 => return result,
            1 => "1 answer was".to_owned(),
            several => format!("{several} answers were"),
        };
        result.map_err(|why| Error::Unmet(format!("{why} ({answers} not STAMP, or not signed with this key)")))
    }
}

impl Display for PingReport {
    /// Formats the [text](Self::text) for a terminal of which nothing is known.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, Terminal::default())
    }
}

impl PingReport {
    /// Returns the address of the target.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Draws the round trips over time and their distribution, as SVG.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the picture cannot be laid out.
    pub fn svg(&self) -> Result<String, Error> {
        svg(std::slice::from_ref(self))
    }

    /// Returns the text, which ends with a line break.
    pub fn text(&self, terminal: Terminal) -> String {
        // Writing into a string does not fail.
        let mut text = String::new();
        let _ = self.write(&mut text, terminal);
        terminal.wrap(&text)
    }

    fn write(&self, f: &mut impl Write, terminal: Terminal) -> fmt::Result {
        writeln!(f, "--- {} udp ping statistics ---", self.target)?;
        writeln!(f, "{}{}", counts(&self.counts), in_flight_note(self.in_flight))?;
        if let Some(note) = self.attribution.and_then(attribution_note) {
            writeln!(f, "{note}")?;
        }
        if let Some(flows) = &self.flows {
            flows.iter().try_for_each(|flow| writeln!(f, "{flow}"))?;
            let bad: Vec<_> = flows.iter().filter(|flow| flow.is_bad()).map(|flow| flow.port.to_string()).collect();
            if !bad.is_empty() {
                let ports = if bad.len() == 1 { "port" } else { "ports" };
                writeln!(f, "over half of the probes lost on source {ports} {}", bad.join(", "))?;
            }
        }
        if let Some(stamp) = &self.stamp {
            write!(f, "{stamp}")?;
        }
        if self.latencies.histogram().is_empty() {
            return Ok(());
        }
        let RoundTrips { summary, jitter } = &self.rtt_ms;
        write!(f, "rtt {}", range(summary))?;
        match jitter {
            Some(jitter) => writeln!(f, "   jitter {jitter:.3} ms")?,
            None => writeln!(f)?,
        }
        writeln!(f, "{}", percentiles(summary))?;
        let strip = Strip::new(&self.timeline, terminal);
        if let Some(legend) = strip.legend() {
            writeln!(f, "{legend}\n{strip}")?;
        }
        write!(f, "{}", BarChart { latencies: &self.latencies, terminal })
    }
}

/// Draws the round trips to several targets, as far as they are distinguishable, as SVG.
///
/// # Errors
///
/// As [`PingReport::svg`].
pub fn svg(reports: &[PingReport]) -> Result<String, Error> {
    let series = reports.iter().take(MOST_SERIES).map(|report| Series {
        name: report.target.to_string(),
        timeline: Some(&report.timeline),
        histogram: report.latencies.histogram(),
    });
    let mut series: Vec<_> = series.collect();
    let mut sum = OutcomeCounts::default();
    reports.iter().for_each(|report| sum.add(&report.counts));
    let title = match &*series {
        [only] => format!("udpong ping {}", only.name),
        shown if shown.len() < reports.len() => format!("udpong ping: {} of {} targets", shown.len(), reports.len()),
        shown => format!("udpong ping: {} targets", shown.len()),
    };
    let (mut summary, mut quantity) = (counts(&sum), "round trip");
    if let [PingReport { stamp: Some(stamp), .. }] = reports {
        let unknown = stamp.unknown_direction();
        summary += &match stamp.directions() {
            [(_, Some(up), _), (_, Some(down), _)] => {
                format!("; lost up {up}, down {down}, direction unknown {unknown}")
            }
            _ => format!("; lost in unknown direction {unknown}"),
        };
        quantity = "round trip, delay variation";
        series.iter_mut().for_each(|series| series.name = "round trip".to_owned());
        series.extend(stamp.variations().map(|(direction, histogram)| Series {
            name: format!("variation of the delay {direction}"),
            timeline: None,
            histogram,
        }));
    }
    Plot { title, summary, quantity, series }.svg()
}

/// Returns a table of several targets, a line each, and a note if probes are in flight.
pub fn table(reports: &[PingReport], terminal: Terminal) -> String {
    let row = |report: &PingReport| Row {
        target: report.target.to_string(),
        sent: Some(report.counts.sent),
        lost: Some((report.counts.without_timely_answer(), report.counts.loss_percent())),
        times: report.rtt_ms.summary,
    };
    let table = Table { rows: reports.iter().map(row).collect(), terminal }.to_string();
    match reports.iter().map(|report| report.in_flight).sum() {
        0 => table,
        in_flight => table + &terminal.wrap(&format!("{in_flight} in flight, not counted\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::client::probe::flows::Flows;
    use crate::client::probe::payload::{Integrity, ProbeMatch};
    use crate::client::probe::timeline::MOST_SLICES;
    use crate::client::stamp::{Session, StampOptions};

    fn target() -> SocketAddr {
        ([127, 0, 0, 1], 5000).into()
    }

    /// A report of `sent` probes, of which the first few are answered after that many microseconds each.
    fn report(sent: usize, answered: &[u64], flows: Option<Vec<FlowReport>>) -> PingReport {
        let start = Instant::now();
        let timeout = Duration::from_secs(1);
        let mut tracker = Tracker::new(timeout, Flows::new(1, false), 1000);
        tracker.flow_opened(0);
        (0..sent).for_each(|_| tracker.record_sent(0, start, start));
        for (sequence, micros) in answered.iter().enumerate() {
            let found = ProbeMatch { sequence: Some(sequence as u64), integrity: Integrity::Intact };
            tracker.match_answer(0, Some(found), start + Duration::from_micros(*micros));
        }
        while tracker.time_out(0, start + timeout).is_some() {}
        let latencies = Latencies::from_micros(answered);
        let timeline = Timeline::new(start, timeout, MOST_SLICES);
        let (options, duration) = (Options::default(), Duration::from_nanos(2_500_020_999));
        PingReport::new(target(), &options, duration, &tracker, (latencies, timeline), Clock::User, flows)
    }

    #[test]
    fn text_shows_counts_round_trips_and_percentiles() {
        let report = report(10, &[31, 48, 48, 48, 48, 50, 52, 83, 120], None);
        let text = report.text(Terminal::default());
        assert_eq!(
            text,
            "--- 127.0.0.1:5000 udp ping statistics ---\n\
                 10 sent, 9 answered, 1 lost (10.0%), 0 duplicate, 0 reordered\n\
                 rtt min/avg/max/stddev = 0.031/0.059/0.120/0.025 ms   jitter 0.011 ms\n\
                 p50 0.048   p90 0.120   p99 0.120   p99.9 0.120 ms\n"
        );
        assert!(report.check(&Limits::default()).is_ok());
    }

    #[test]
    fn flows_have_a_line_each_and_bad_ones_are_named() {
        let flow = |port, ended, lost, p50_ms| FlowReport::new(port, FlowCounts { ended, lost }, p50_ms);
        let flows = vec![
            flow(40_001, 4, 2, Some(0.5)),
            flow(40_002, 2, 2, None),
            flow(40_003, 3, 2, Some(0.25)),
            flow(40_004, 9, 9, None),
        ];
        let report = report(1, &[5], Some(flows));
        let text = report.text(Terminal::default());
        let lines = "port 40001: 4 sent, 2 lost, p50 0.500 ms\n\
                     port 40002: 2 sent, 2 lost, p50 - ms\n\
                     port 40003: 3 sent, 2 lost, p50 0.250 ms   bad\n\
                     port 40004: 9 sent, 9 lost, p50 - ms   bad\n\
                     over half of the probes lost on source ports 40003, 40004\n";
        assert!(text.contains(lines), "{text}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["flows"][0], json!({"port": 40001, "sent": 4, "lost": 2, "p50_ms": 0.5}));
    }

    #[test]
    fn table_shows_what_is_in_flight() {
        let (ended, mut forced) = (report(3, &[5], None), report(3, &[5], None));
        assert_eq!(table(&[ended.clone(), forced.clone()], Terminal::default()).lines().count(), 3);
        forced.in_flight = 2;
        let text = table(&[ended, forced], Terminal::default());
        assert!(text.ends_with("\n2 in flight, not counted\n"), "{text}");
    }

    #[test]
    fn answers_that_are_not_stamp_are_named_with_stamp_and_without_any_other() {
        let error = |answered: &[u64], unmatched, is_stamp: bool| {
            let mut report = report(3, answered, None);
            report.counts.unmatched = unmatched;
            let session = Session::new(&StampOptions::default(), 7, None);
            let report = report.with_stamp(is_stamp.then(|| session.report(3, 3)));
            report.check(&Limits { loss: Some(0.0), ..Limits::default() }).expect_err("losses").to_string()
        };
        let names = |error: String| error.split_once(" (").map(|(_, note)| note.to_owned());
        assert_eq!(names(error(&[], 1, true)).as_deref(), Some("1 answer was not STAMP, or not signed with this key)"));
        assert_eq!(
            names(error(&[], 2, true)).as_deref(),
            Some("2 answers were not STAMP, or not signed with this key)")
        );
        for other in [error(&[], 0, true), error(&[], 2, false), error(&[5], 2, true)] {
            assert_eq!(names(other), None);
        }
    }

    #[test]
    fn times_are_null_without_answer() {
        let report = report(3, &[], None);
        assert_eq!(
            report.text(Terminal::default()),
            "--- 127.0.0.1:5000 udp ping statistics ---\n3 sent, 0 answered, 3 lost (100.0%), 0 duplicate, 0 reordered\n"
        );
        assert_eq!(report.check(&Limits::default()), Err(Error::Unmet("no answer from 127.0.0.1:5000".to_owned())));
        let json: Value = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            json,
            json!({
                "schema": 2, "target": "127.0.0.1:5000", "interval_ms": 1000.0, "size": 56, "duration_s": 2.50002, "sent": 3,
                "answered": 0, "late": 0, "lost": 3, "refused": 0, "truncated": 0, "altered": 0, "duplicate": 0,
                "reordered": 0, "unmatched": 0, "in_flight": 0, "loss_percent": 100.0, "clock": "user", "attribution": null,
                "rtt_ms": {
                    "min": null, "mean": null, "max": null, "stddev": null, "jitter": null, "p50": null, "p90": null,
                    "p99": null, "p99_9": null
                },
                "flows": null
            })
        );
    }
}
