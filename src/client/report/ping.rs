//! What ping prints: a line or a JSON object for each probe, and the summary. Pure.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use serde::Serialize;

use super::format::{percent, percentiles, range};
use super::histogram::BarChart;
use super::terminal::Terminal;
use super::{SCHEMA, check};
use crate::client::Error;
use crate::client::probe::latency::{Latencies, Summary};
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::{Outcome, OutcomeCounts};
use crate::client::probe::tracker::Answer;

/// The line about a responder that does not repeat the probes.
pub const IN_ORDER: &str = "the answers do not repeat the probes: they are matched in order";

/// The line for an answer.
#[derive(Debug)]
pub struct AnswerLine {
    /// The address that answered.
    pub target: SocketAddr,
    /// What the answer meant.
    pub answer: Answer,
    /// The length of the answer in bytes.
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

/// The JSON object for a probe that has ended.
#[derive(Debug, Serialize)]
pub struct ProbeObject {
    /// The number of the probe, from 1.
    pub seq: u64,
    /// How it ended.
    #[serde(rename = "fate")]
    pub outcome: Outcome,
    /// Its round-trip time; `None` without an answer.
    pub rtt_ms: Option<f64>,
    /// The length of its answer in bytes.
    pub bytes: Option<usize>,
    /// Whether a later probe was answered before.
    pub reordered: bool,
}

/// The summary of a ping. Its text ends with a line break.
#[derive(Debug, Serialize)]
pub struct PingReport<'a> {
    schema: u32,
    target: SocketAddr,
    #[serde(flatten)]
    counts: &'a OutcomeCounts,
    /// Whether answers did not repeat their probes, so that their round trips are a guess.
    matched_in_order: bool,
    rtt_ms: RoundTrips,
    #[serde(skip)]
    latencies: &'a Latencies,
}

#[derive(Debug, Serialize)]
struct RoundTrips {
    #[serde(flatten)]
    summary: Summary,
    jitter: Option<f64>,
}

impl<'a> PingReport<'a> {
    /// Creates the summary of how probes ended and of the round trips of their first answers, of whatever kind.
    /// `repeats` is whether the responder repeats the probes.
    pub fn new(target: SocketAddr, counts: &'a OutcomeCounts, latencies: &'a Latencies, repeats: bool) -> Self {
        let rtt_ms = RoundTrips { summary: latencies.summary(), jitter: latencies.jitter() };
        let matched_in_order = counts.with_answer() > 0 && !repeats;
        Self { schema: SCHEMA, target, counts, matched_in_order, rtt_ms, latencies }
    }

    /// Checks the result against limits.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] when there was no answer or a limit is exceeded; its message says which.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        check(self.target, self.counts, &self.rtt_ms.summary, limits)
    }
}

impl Display for PingReport<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { target, counts, rtt_ms: RoundTrips { summary, jitter }, .. } = self;
        writeln!(f, "--- {target} udp ping statistics ---")?;
        let loss = percent(counts.loss_percent());
        write!(f, "{} sent, {} answered, {loss} lost", counts.sent, counts.answered)?;
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
        write!(f, "rtt {}", range(summary))?;
        match jitter {
            Some(jitter) => writeln!(f, "   jitter {jitter:.3} ms")?,
            None => writeln!(f)?,
        }
        writeln!(f, "{}", percentiles(summary))?;
        BarChart { latencies: self.latencies, terminal: Terminal::of_stdout() }.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target() -> SocketAddr {
        ([127, 0, 0, 1], 5000).into()
    }

    #[test]
    fn text_shows_counts_round_trips_and_percentiles() {
        let counts = OutcomeCounts { sent: 10, answered: 9, lost: 1, reordered: 1, ..OutcomeCounts::default() };
        let latencies = Latencies::from_micros(&[31, 48, 48, 48, 48, 50, 52, 83, 120]);
        let report = PingReport::new(target(), &counts, &latencies, true);
        let text = report.to_string();
        assert_eq!(
            text,
            "--- 127.0.0.1:5000 udp ping statistics ---\n\
             10 sent, 9 answered, 10.0% lost, 0 duplicate, 1 reordered\n\
             rtt min/avg/max/stddev = 0.031/0.059/0.120/0.025 ms   jitter 0.011 ms\n\
             p50 0.048   p90 0.120   p99 0.120   p99.9 0.120 ms\n"
        );
        assert!(report.check(&Limits::default()).is_ok());
    }

    #[test]
    fn text_names_other_outcomes_only_if_they_occurred() {
        let counts = OutcomeCounts {
            sent: 9,
            answered: 1,
            late: 1,
            lost: 1,
            refused: 1,
            truncated: 2,
            altered: 3,
            unmatched: 4,
            ..OutcomeCounts::default()
        };
        let text = PingReport::new(target(), &counts, &Latencies::from_micros(&[5]), true).to_string();
        let line = "9 sent, 1 answered, 22.2% lost, 0 duplicate, 0 reordered, \
                    1 late, 1 refused, 2 truncated, 3 altered, 4 unmatched\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn times_are_null_without_answer() {
        let counts = OutcomeCounts { sent: 3, lost: 3, ..OutcomeCounts::default() };
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
}
