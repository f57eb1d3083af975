//! What a run came to, as text and as JSON. Pure.

pub(crate) mod histogram;

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use self::histogram::Drawing;
use crate::client::Error;
use crate::client::probe::latency::{Latencies, Summary};
use crate::client::probe::limits::Limits;
use crate::client::probe::tracker::{Answer, Counts, Outcome};

/// Counts up when a field of the JSON changes its meaning or goes; new fields may come without.
const SCHEMA: u32 = 1;

/// Said of a responder that does not repeat what it is asked.
pub const IN_ORDER: &str = "the answers do not repeat the probes: they are matched in order";

/// What `ping` found out. Its text ends with a line break.
#[derive(Debug, Serialize)]
pub struct PingReport<'a> {
    schema: u32,
    target: SocketAddr,
    #[serde(flatten)]
    counts: &'a Counts,
    /// The answers said nothing of the probes, so which belongs to which is a guess.
    matched_in_order: bool,
    rtt_ms: RoundTrips,
    #[serde(skip)]
    latencies: &'a Latencies,
}

#[derive(Debug, Serialize)]
struct RoundTrips {
    #[serde(flatten)]
    figures: Summary,
    jitter: Option<f64>,
}

impl<'a> PingReport<'a> {
    /// Sums up how the probes ended and how long their first answers took, of whatever kind those were.
    pub fn new(target: SocketAddr, counts: &'a Counts, latencies: &'a Latencies, repeats: bool) -> Self {
        let rtt_ms = RoundTrips { figures: latencies.figures(), jitter: latencies.jitter() };
        let matched_in_order = counts.heard() > 0 && !repeats;
        Self { schema: SCHEMA, target, counts, matched_in_order, rtt_ms, latencies }
    }

    /// Whether there was an answer and no limit is broken.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] that says what was not as it should be.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        check(self.target, self.counts, &self.rtt_ms.figures, limits)
    }
}

fn check(target: SocketAddr, counts: &Counts, figures: &Summary, limits: &Limits) -> Result<(), Error> {
    let broken = limits.broken(counts.loss_percent(), figures);
    if counts.heard() == 0 && counts.refused > 0 {
        Err(Error::Unmet(format!("no answer from {target}, but a refusal: does anybody listen there?")))
    } else if counts.heard() == 0 {
        Err(Error::Unmet(format!("no answer from {target}")))
    } else if broken.is_empty() {
        Ok(())
    } else {
        Err(Error::Unmet(broken.join("; ")))
    }
}

impl Display for PingReport<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { target, counts, rtt_ms: RoundTrips { figures, jitter }, .. } = self;
        writeln!(f, "--- {target} udp ping statistics ---")?;
        write!(f, "{} sent, {} answered, {} lost", counts.sent, counts.answered, Percent(counts.loss_percent()))?;
        write!(f, ", {} duplicate, {} reordered", counts.duplicate, counts.reordered)?;
        for (count, name) in [
            (counts.late, "late"),
            (counts.refused, "refused"),
            (counts.truncated, "truncated"),
            (counts.altered, "altered"),
            (counts.unmatched, "unmatched"),
        ] {
            if count > 0 {
                write!(f, ", {count} {name}")?;
            }
        }
        writeln!(f)?;
        if self.matched_in_order {
            writeln!(f, "{IN_ORDER}")?;
        }
        if self.latencies.histogram().is_empty() {
            return Ok(());
        }
        write!(f, "rtt {}", Spread(figures))?;
        match jitter {
            Some(jitter) => writeln!(f, "   jitter {jitter:.3} ms")?,
            None => writeln!(f)?,
        }
        writeln!(f, "{}\n", Percentiles(figures))?;
        Drawing(self.latencies.histogram()).fmt(f)
    }
}

/// What `bench` found out. Its text ends with a line break.
#[derive(Debug, Serialize)]
pub struct BenchReport<'a> {
    schema: u32,
    target: SocketAddr,
    seconds: f64,
    clients: usize,
    sent: u64,
    answered: u64,
    lost: u64,
    duplicate: u64,
    answers_per_second: f64,
    /// Payloads out and in, without headers.
    mbit_per_second: BothWays,
    latency_ms: Summary,
    lateness_ms: Option<Summary>,
    #[serde(skip)]
    scheduled: f64,
    #[serde(skip)]
    counts: Counts,
    #[serde(skip)]
    latencies: &'a Latencies,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct BothWays {
    sent: f64,
    answered: f64,
}

/// What a bench counted.
#[derive(Debug)]
pub struct Measured<'a> {
    /// How long it sent.
    pub time: Duration,
    /// How many sockets.
    pub clients: usize,
    /// How the datagrams ended.
    pub counts: Counts,
    /// Payloads sent, in bytes.
    pub sent_bytes: u64,
    /// Payloads that came back, in bytes.
    pub answered_bytes: u64,
    /// From when each datagram was due to its first answer.
    pub latencies: &'a Latencies,
    /// From when each datagram was due to when it left; `None` when none was due at a time.
    pub lateness: Option<&'a Latencies>,
    /// How many datagrams were due a second; 0 when none was due at a time.
    pub rate: u32,
}

impl<'a> BenchReport<'a> {
    /// Sums up what was measured. Whatever did not come back counts as lost.
    pub fn new(target: SocketAddr, measured: &Measured<'a>) -> Self {
        let Measured { time, clients, counts, sent_bytes, answered_bytes, latencies, lateness, rate } = measured;
        let seconds = time.as_millis() as f64 / 1e3;
        let per_second = |number: f64| if time.is_zero() { 0.0 } else { number / time.as_secs_f64() };
        let mbit = |bytes: u64| (per_second(bytes as f64 * 8.0) / 1e3).round() / 1e3;
        Self {
            schema: SCHEMA,
            target,
            seconds,
            clients: *clients,
            sent: counts.sent,
            answered: counts.heard(),
            lost: counts.sent - counts.heard(),
            duplicate: counts.duplicate,
            answers_per_second: per_second(counts.heard() as f64).round(),
            mbit_per_second: BothWays { sent: mbit(*sent_bytes), answered: mbit(*answered_bytes) },
            latency_ms: latencies.figures(),
            lateness_ms: lateness.map(Latencies::figures),
            scheduled: time.as_secs_f64() * f64::from(*rate),
            counts: *counts,
            latencies,
        }
    }

    /// As [`PingReport::check`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        check(self.target, &self.counts, &self.latency_ms, limits)
    }

    /// A warning when the generator and not the responder was the limit: datagrams that were due never left, or
    /// a tenth of what the slowest waited for was our own sending. Below a millisecond that is no reason to
    /// distrust the figures.
    pub fn generator_was_the_limit(&self) -> Option<String> {
        let lateness = self.lateness_ms?.p99?;
        let latency = self.latency_ms.p99.unwrap_or_default();
        let limit = format!("the generator was the limit, not {}", self.target);
        if (self.sent as f64) < 0.99 * self.scheduled {
            Some(format!("{limit}: {} of {:.0} datagrams left in time", self.sent, self.scheduled))
        } else if lateness > 1.0 && lateness > latency / 10.0 {
            Some(format!("{limit}: 1 of 100 datagrams left over {lateness:.3} ms late"))
        } else {
            None
        }
    }
}

impl Display for BenchReport<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let clients = if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        writeln!(f, "--- {} udp bench: {:.3} s, {clients} ---", self.target, self.seconds)?;
        let loss = Percent(self.counts.loss_percent());
        writeln!(
            f,
            "{} sent, {} answered, {} lost ({loss}), {} duplicate",
            self.sent, self.answered, self.lost, self.duplicate
        )?;
        let BothWays { sent, answered } = self.mbit_per_second;
        writeln!(f, "{:.0} answers/s   {sent:.3} Mbit/s out, {answered:.3} Mbit/s in", self.answers_per_second)?;
        if let Some(lateness) = &self.lateness_ms {
            writeln!(f, "lateness {}   p99 {}", Spread(lateness), Millis(lateness.p99))?;
        }
        if self.latencies.histogram().is_empty() {
            return Ok(());
        }
        writeln!(f, "latency {}", Spread(&self.latency_ms))?;
        writeln!(f, "{}\n", Percentiles(&self.latency_ms))?;
        Drawing(self.latencies.histogram()).fmt(f)
    }
}

/// Shows what became of one probe, as `ping` tells it.
#[derive(Debug)]
pub struct AnswerLine {
    /// Who answered.
    pub target: SocketAddr,
    /// What it meant.
    pub answer: Answer,
    /// How long the answer was, in bytes.
    pub bytes: usize,
}

impl Display for AnswerLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes from {}: ", self.bytes, self.target)?;
        match self.answer {
            Answer::First { sequence, outcome, round_trip, reordered } => {
                write!(f, "seq={} time={:.3} ms", sequence + 1, round_trip.as_secs_f64() * 1e3)?;
                f.write_str(match outcome {
                    Outcome::Late => " (late)",
                    Outcome::Truncated => " (truncated)",
                    Outcome::Altered => " (altered)",
                    Outcome::Answered | Outcome::Lost | Outcome::Refused => "",
                })?;
                f.write_str(if reordered { " (reordered)" } else { "" })
            }
            Answer::Duplicate(Some(sequence)) => write!(f, "seq={} (duplicate)", sequence + 1),
            Answer::Duplicate(None) => f.write_str("one answer too many (duplicate)"),
            Answer::Unmatched => f.write_str("repeats no probe (unmatched)"),
        }
    }
}

/// One probe of `--json-stream`.
#[derive(Debug, Serialize)]
pub struct ProbeObject {
    /// Its number, from 1.
    pub seq: u64,
    /// How it ended.
    #[serde(rename = "fate")]
    pub outcome: Outcome,
    /// Its round trip; `None` when there was no answer.
    pub rtt_ms: Option<f64>,
    /// The length of its answer.
    pub bytes: Option<usize>,
    /// Whether a later probe was answered before.
    pub reordered: bool,
}

/// Shows a share to a tenth, without calling little nothing, or nearly all all.
struct Percent(f64);

impl Display for Percent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let shown = if self.0 > 0.0 && self.0 < 100.0 { self.0.clamp(0.1, 99.9) } else { self.0 };
        write!(f, "{shown:.1}%")
    }
}

/// Shows milliseconds, or that there are none.
struct Millis(Option<f64>);

impl Display for Millis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(millis) => write!(f, "{millis:.3}"),
            None => f.write_str("-"),
        }
    }
}

struct Spread<'a>(&'a Summary);

impl Display for Spread<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Summary { min, mean, max, stddev, .. } = *self.0;
        let (min, mean, max, stddev) = (Millis(min), Millis(mean), Millis(max), Millis(stddev));
        write!(f, "min/avg/max/stddev = {min}/{mean}/{max}/{stddev} ms")
    }
}

struct Percentiles<'a>(&'a Summary);

impl Display for Percentiles<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Summary { p50, p90, p99, p99_9, .. } = *self.0;
        let (p50, p90, p99, p99_9) = (Millis(p50), Millis(p90), Millis(p99), Millis(p99_9));
        write!(f, "p50 {p50}   p90 {p90}   p99 {p99}   p99.9 {p99_9} ms")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target() -> SocketAddr {
        ([127, 0, 0, 1], 5000).into()
    }

    fn recorded(micros: &[u64]) -> Latencies {
        let mut latencies = Latencies::new();
        micros.iter().for_each(|micros| latencies.record(Duration::from_micros(*micros)));
        latencies
    }

    #[test]
    fn a_ping_is_told_as_the_manual_shows_it() {
        let counts = Counts { sent: 10, answered: 9, lost: 1, reordered: 1, ..Counts::default() };
        let latencies = recorded(&[31, 48, 48, 48, 48, 50, 52, 83, 120]);
        let report = PingReport::new(target(), &counts, &latencies, true);
        let text = report.to_string();
        assert!(text.starts_with(
            "--- 127.0.0.1:5000 udp ping statistics ---\n\
             10 sent, 9 answered, 10.0% lost, 0 duplicate, 1 reordered\n\
             rtt min/avg/max/stddev = 0.031/0.059/0.120/0.025 ms   jitter 0.011 ms\n\
             p50 0.048   p90 0.120   p99 0.120   p99.9 0.120 ms\n\n"
        ));
        assert!(text.ends_with("  1\n"), "{text}");
        assert!(report.check(&Limits::default()).is_ok());
    }

    #[test]
    fn what_went_wrong_is_told_and_what_did_not_is_not() {
        let counts = Counts {
            sent: 9,
            answered: 1,
            late: 1,
            lost: 1,
            refused: 1,
            truncated: 2,
            altered: 3,
            unmatched: 4,
            ..Counts::default()
        };
        let text = PingReport::new(target(), &counts, &recorded(&[5]), true).to_string();
        let line = "9 sent, 1 answered, 22.2% lost, 0 duplicate, 0 reordered, 1 late, 1 refused, 2 truncated, 3 altered, \
                    4 unmatched\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn without_an_answer_there_is_valid_json_and_no_figure() {
        let counts = Counts { sent: 3, lost: 3, ..Counts::default() };
        let latencies = Latencies::new();
        let report = PingReport::new(target(), &counts, &latencies, false);
        assert_eq!(
            report.to_string(),
            "--- 127.0.0.1:5000 udp ping statistics ---\n3 sent, 0 answered, 100.0% lost, 0 duplicate, 0 reordered\n"
        );
        assert_eq!(report.check(&Limits::default()), Err(Error::Unmet("no answer from 127.0.0.1:5000".to_owned())));
        let json: Value = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            json,
            json!({
                "schema": 1, "target": "127.0.0.1:5000", "sent": 3, "answered": 0, "late": 0, "lost": 3, "refused": 0,
                "truncated": 0, "altered": 0, "duplicate": 0, "reordered": 0, "unmatched": 0, "matched_in_order": false,
                "rtt_ms": {
                    "min": null, "mean": null, "max": null, "stddev": null, "jitter": null, "p50": null, "p90": null,
                    "p99": null, "p99_9": null
                }
            })
        );
    }

    fn measured(latencies: &Latencies) -> Measured<'_> {
        Measured {
            time: Duration::from_secs(2),
            clients: 4,
            counts: Counts { sent: 1000, answered: 990, lost: 9, refused: 1, duplicate: 2, ..Counts::default() },
            sent_bytes: 1_000_000,
            answered_bytes: 500_000,
            latencies,
            lateness: None,
            rate: 0,
        }
    }

    #[test]
    fn a_bench_is_told_as_text_and_as_json() {
        let latencies = recorded(&[100]);
        let report = BenchReport::new(target(), &measured(&latencies));
        let text = report.to_string();
        assert!(text.starts_with(
            "--- 127.0.0.1:5000 udp bench: 2.000 s, 4 clients ---\n\
             1000 sent, 990 answered, 10 lost (1.0%), 2 duplicate\n\
             495 answers/s   4.000 Mbit/s out, 2.000 Mbit/s in\n\
             latency min/avg/max/stddev = 0.100/0.100/0.100/0.000 ms\n\
             p50 0.100   p90 0.100   p99 0.100   p99.9 0.100 ms\n\n"
        ));
        assert_eq!(
            serde_json::to_value(&report).expect("JSON"),
            json!({
                "schema": 1, "target": "127.0.0.1:5000", "seconds": 2.0, "clients": 4, "sent": 1000, "answered": 990,
                "lost": 10, "duplicate": 2, "answers_per_second": 495.0,
                "mbit_per_second": {"sent": 4.0, "answered": 2.0},
                "latency_ms": {
                    "min": 0.1, "mean": 0.1, "max": 0.1, "stddev": 0.0, "p50": 0.1, "p90": 0.1, "p99": 0.1, "p99_9": 0.1
                },
                "lateness_ms": null
            })
        );
    }

    #[test]
    fn a_bench_of_nothing_has_no_figure_that_is_not_a_number() {
        let latencies = Latencies::new();
        let nothing = Measured {
            time: Duration::ZERO,
            counts: Counts::default(),
            lateness: Some(&latencies),
            ..measured(&latencies)
        };
        let report = BenchReport::new(target(), &nothing);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["answers_per_second"], 0.0);
        assert_eq!(json["lateness_ms"]["p99"], Value::Null);
        assert!(report.check(&Limits::default()).is_err());
        assert_eq!(report.generator_was_the_limit(), None);
    }

    #[test]
    fn the_generator_is_blamed_only_when_it_was_the_limit() {
        let warned = |latency: u64, lateness: u64, rate: u32| {
            let (latencies, lateness) = (recorded(&[latency]), recorded(&[lateness]));
            let measured = Measured { lateness: Some(&lateness), rate, ..measured(&latencies) };
            BenchReport::new(target(), &measured).generator_was_the_limit().is_some()
        };
        assert!(warned(9_000, 2_000, 500));
        assert!(!warned(90_000, 2_000, 500));
        assert!(!warned(500, 400, 500));
        assert!(warned(500, 400, 600));
    }

    #[test]
    fn a_share_is_never_rounded_to_none_or_all() {
        let shown = |share| Percent(share).to_string();
        assert_eq!([0.0, 0.001, 12.34, 99.999, 100.0].map(shown), ["0.0%", "0.1%", "12.3%", "99.9%", "100.0%"]);
    }
}
