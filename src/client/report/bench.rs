//! What bench prints: its report. Pure.

use std::fmt::{self, Display, Formatter, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::format::{counts, millis, percentiles, range};
use super::histogram::BarChart;
use super::plot::{Plot, Series};
use super::terminal::Terminal;
use super::{SCHEMA, attribution_note, check, in_flight_note, loss_percent};
use crate::client::Error;
use crate::client::probe::latency::{Latencies, Summary, decimals};
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::timeline::Timeline;
use crate::client::probe::tracker::Attribution;

/// What a bench measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The window: for how long datagrams were sent.
    pub time: Duration,
    /// The number of clients.
    pub clients: usize,
    /// How the datagrams ended, those that ended after the window included.
    pub counts: OutcomeCounts,
    /// How many datagrams were in flight at a forced end, or are while it runs. They are not in `counts`.
    pub in_flight: usize,
    /// How answers were matched; `None` if there was none.
    pub attribution: Option<Attribution>,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// The datagrams that were answered within the window.
    pub answered_in_window: u64,
    /// Payload bytes received within the window.
    pub received_bytes: u64,
    /// The time from when each datagram was due to its first answer.
    pub latencies: Latencies,
    /// The same over time, if that was recorded.
    pub timeline: Option<Timeline>,
    /// The time from when each datagram was due to when it was sent; `None` in a closed loop.
    pub lateness: Option<Latencies>,
    /// How many datagrams were due in the window; 0 in a closed loop.
    pub due: f64,
    /// What happened since the last answer.
    pub silence: Silence,
    /// Whether the only thing that came back is that the port is closed.
    pub nobody_listens: bool,
    /// The first error of a datagram that was not a closed port.
    pub error: Option<String>,
}

/// The time without an answer at the end of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// How long it was; zero if nothing was sent since the last answer.
    pub time: Duration,
    /// Whether the target has stopped answering: it refused, or did not answer for longer than the timeout.
    pub is_dead: bool,
}

/// The report of a bench. Its text ends with a line break.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    schema: u32,
    target: SocketAddr,
    seconds: f64,
    clients: usize,
    sent: u64,
    answered: u64,
    late: u64,
    lost: u64,
    refused: u64,
    truncated: u64,
    altered: u64,
    duplicate: u64,
    reordered: u64,
    unmatched: u64,
    in_flight: usize,
    loss_percent: f64,
    silent_s: f64,
    answers_per_second: f64,
    /// Payload only, without headers.
    mbit_per_second: Throughput,
    /// Of first answers of whatever kind, late ones included, as in ping.
    latency_ms: Summary,
    lateness_ms: Option<Summary>,
    #[serde(skip)]
    measurement: Measurement,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Throughput {
    sent: f64,
    answered: f64,
}

impl BenchReport {
    /// Creates the report of a measurement.
    pub(crate) fn new(target: SocketAddr, measurement: Measurement) -> Self {
        let Measurement { time, clients, counts, ref latencies, ref lateness, silence, .. } = measurement;
        let per_second = |number: f64| if time.is_zero() { 0.0 } else { number / time.as_secs_f64() };
        let mbit = |bytes: u64| per_second(bytes as f64 * 8.0).round() / 1e6;
        let seconds = |time: Duration| time.as_micros() as f64 / 1e6;
        Self {
            schema: SCHEMA,
            target,
            seconds: seconds(time),
            clients,
            sent: counts.sent,
            answered: counts.answered,
            late: counts.late,
            lost: counts.lost,
            refused: counts.refused,
            truncated: counts.truncated,
            altered: counts.altered,
            duplicate: counts.duplicate,
            reordered: counts.reordered,
            unmatched: counts.unmatched,
            in_flight: measurement.in_flight,
            loss_percent: loss_percent(&counts),
            silent_s: seconds(silence.time),
            answers_per_second: (per_second(measurement.answered_in_window as f64) * 1e3).round() / 1e3,
            mbit_per_second: Throughput {
                sent: mbit(measurement.sent_bytes),
                answered: mbit(measurement.received_bytes),
            },
            latency_ms: latencies.summary(),
            lateness_ms: lateness.as_ref().map(Latencies::summary),
            measurement,
        }
    }

    /// Returns how the datagrams ended.
    pub fn counts(&self) -> &OutcomeCounts {
        &self.measurement.counts
    }

    /// Returns whether the only thing that ever came back is that the port is closed.
    pub fn nobody_listens(&self) -> bool {
        self.measurement.nobody_listens
    }

    /// Checks the result against limits.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] when there was no intact answer in time, the target stopped answering, or a limit is exceeded;
    /// its message says which.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        let target = self.target;
        if self.nobody_listens() {
            return Err(Error::Unmet(format!("nobody listens on {target} (port unreachable)")));
        }
        let result = check(target, self.counts(), &self.latency_ms, limits, Vec::new());
        if !self.measurement.silence.is_dead || self.answered == 0 {
            return result;
        }
        let silent = format!("no answer from {target} for the last {:.1} s", self.silent_s);
        Err(Error::Unmet(result.err().map_or_else(|| silent.clone(), |error| format!("{silent}; {error}"))))
    }

    /// Returns what the user should know about the measurement itself.
    pub fn warnings(&self) -> Vec<String> {
        let error = self.measurement.error.as_ref().map(|error| format!("some datagrams met an error: {error}"));
        error.into_iter().chain(self.generator_warning().filter(|_| !self.nobody_listens())).collect()
    }

    /// Returns a warning if the generator, and not the responder, limited the result of an open loop.
    ///
    /// That is so if over 1 % of the datagrams that were due were not sent, or if the 99th percentile of the lateness
    /// is over a tenth of that of the latency, if there is any. A lateness of up to a millisecond is accepted.
    fn generator_warning(&self) -> Option<String> {
        let lateness = self.lateness_ms?.p99?;
        let due = self.measurement.due;
        let limit = format!("the generator was the limit, not {}", self.target);
        let left = self.sent.saturating_add(self.in_flight as u64);
        if (left as f64) < 0.99 * due {
            Some(format!("{limit}: {left} of {due:.0} datagrams left in time"))
        } else if lateness > 1.0 && self.latency_ms.p99.is_some_and(|latency| lateness > latency / 10.0) {
            Some(format!("{limit}: 1% of the datagrams left over {lateness:.3} ms late"))
        } else {
            None
        }
    }
}

impl Display for BenchReport {
    /// Formats the [text](Self::text) for a terminal of which nothing is known.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, Terminal::default())
    }
}

impl BenchReport {
    /// Draws the distribution of the latencies as SVG, and the latencies over time if that was recorded.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the picture cannot be laid out.
    pub fn svg(&self) -> Result<String, Error> {
        let Measurement { timeline, latencies, .. } = &self.measurement;
        let name = self.target.to_string();
        let series = vec![Series { name, timeline: timeline.as_ref(), histogram: latencies.histogram() }];
        let title = format!("udpong bench {}", self.target);
        let summary = format!("{}, {:.0} answers/s", counts(self.counts()), self.answers_per_second);
        Plot { title, summary, quantity: "latency", series }.svg()
    }

    /// Returns the text, which ends with a line break.
    pub fn text(&self, terminal: Terminal) -> String {
        // Writing into a string does not fail.
        let mut text = String::new();
        let _ = self.write(&mut text, terminal);
        terminal.wrap(&text)
    }

    fn write(&self, f: &mut impl Write, terminal: Terminal) -> fmt::Result {
        let clients = if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        let counts = counts(self.counts()) + &in_flight_note(self.in_flight);
        if self.nobody_listens() {
            // Nothing was measured, so there is no time to show.
            return writeln!(f, "--- {} udp bench: {clients} ---\n{counts}", self.target);
        }
        let time = match self.measurement.time {
            short if short < Duration::from_millis(10) => format!("{:.3} ms", short.as_secs_f64() * 1e3),
            long => format!("{:.3} s", long.as_secs_f64()),
        };
        writeln!(f, "--- {} udp bench: {time}, {clients} ---\n{counts}", self.target)?;
        if let Some(note) = self.measurement.attribution.and_then(attribution_note) {
            writeln!(f, "{note}")?;
        }
        if self.measurement.silence.is_dead && self.answered > 0 {
            writeln!(f, "no answer for the last {:.1} s", self.silent_s)?;
        }
        let Throughput { sent, answered } = self.mbit_per_second;
        let rate = self.answers_per_second;
        let decimals = decimals(rate, 0);
        writeln!(f, "{rate:.decimals$} answers/s   {sent:.3} Mbit/s out, {answered:.3} Mbit/s in")?;
        if let Some(lateness) = &self.lateness_ms {
            writeln!(f, "lateness {}   p99 {}", range(lateness), millis(lateness.p99))?;
        }
        let latencies = &self.measurement.latencies;
        if latencies.histogram().is_empty() {
            return Ok(());
        }
        writeln!(f, "latency {}", range(&self.latency_ms))?;
        writeln!(f, "{}", percentiles(&self.latency_ms))?;
        write!(f, "{}", BarChart { latencies, terminal })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target() -> SocketAddr {
        ([127, 0, 0, 1], 5000).into()
    }

    fn measurement(latencies: Latencies) -> Measurement {
        Measurement {
            time: Duration::from_secs(2),
            clients: 4,
            counts: OutcomeCounts {
                sent: 1000,
                answered: 988,
                late: 1,
                lost: 9,
                refused: 1,
                altered: 1,
                duplicate: 2,
                ..OutcomeCounts::default()
            },
            in_flight: 0,
            attribution: Some(Attribution::Content),
            sent_bytes: 1_000_000,
            answered_in_window: 980,
            received_bytes: 500_000,
            latencies,
            timeline: None,
            lateness: None,
            due: 0.0,
            silence: Silence::default(),
            nobody_listens: false,
            error: None,
        }
    }

    #[test]
    fn text_and_json_show_the_measurement() {
        let report = BenchReport::new(target(), measurement(Latencies::from_micros(&[100])));
        let text = report.text(Terminal::default());
        assert!(
            text.starts_with(
                "--- 127.0.0.1:5000 udp bench: 2.000 s, 4 clients ---\n\
                 1000 sent, 988 answered, 11 lost (1.1%; 1 late, 1 refused), 2 duplicate, 0 reordered, 1 altered\n\
                 490 answers/s   4.000 Mbit/s out, 2.000 Mbit/s in\n\
                 latency min/avg/max/stddev = 0.100/0.100/0.100/0.000 ms\n\
                 p50 0.100   p90 0.100   p99 0.100   p99.9 0.100 ms\n"
            ),
            "{text}"
        );
        assert_eq!(
            serde_json::to_value(&report).expect("JSON"),
            json!({
                "schema": 2, "target": "127.0.0.1:5000", "seconds": 2.0, "clients": 4, "sent": 1000, "answered": 988,
                "late": 1, "lost": 9, "refused": 1, "truncated": 0, "altered": 1, "duplicate": 2, "reordered": 0, "unmatched": 0,
                "in_flight": 0, "loss_percent": 1.1, "silent_s": 0.0, "answers_per_second": 490.0,
                "mbit_per_second": {"sent": 4.0, "answered": 2.0},
                "latency_ms": {
                    "min": 0.1, "mean": 0.1, "max": 0.1, "stddev": 0.0, "p50": 0.1, "p90": 0.1, "p99": 0.1, "p99_9": 0.1
                },
                "lateness_ms": null
            })
        );
        assert!(report.check(&Limits::default()).is_ok());
    }

    #[test]
    fn short_time_is_shown() {
        let short = Measurement { time: Duration::from_nanos(654_321), ..measurement(Latencies::from_micros(&[100])) };
        let report = BenchReport::new(target(), short);
        assert!(report.to_string().contains(" udp bench: 0.654 ms, 4 clients ---\n"), "{report}");
        assert_eq!(serde_json::to_value(&report).expect("JSON")["seconds"], 0.000_654);
    }

    #[test]
    fn low_rates_are_shown() {
        let time = Duration::from_secs(6);
        let slow = Measurement { time, answered_in_window: 2, sent_bytes: 336, ..measurement(Latencies::new()) };
        let report = BenchReport::new(target(), slow);
        assert!(report.to_string().contains("\n0.33 answers/s "), "{report}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!((&json["answers_per_second"], &json["mbit_per_second"]["sent"]), (&json!(0.333), &json!(0.000_448)));
    }

    #[test]
    fn dead_target_is_named_and_fails() {
        let silence = Silence { time: Duration::from_millis(2040), is_dead: true };
        let dead = Measurement { silence, ..measurement(Latencies::from_micros(&[100])) };
        let report = BenchReport::new(target(), dead);
        assert!(report.text(Terminal::default()).contains("\nno answer for the last 2.0 s\n"), "{report:?}");
        let limits = Limits { loss: Some(1.0), ..Limits::default() };
        assert_eq!(
            report.check(&limits),
            Err(Error::Unmet("no answer from 127.0.0.1:5000 for the last 2.0 s; loss 1.100% is over 1%".to_owned()))
        );
    }

    #[test]
    fn closed_port_has_no_figures() {
        let counts = OutcomeCounts { sent: 1, refused: 1, ..OutcomeCounts::default() };
        let silence = Silence { time: Duration::from_millis(1), is_dead: true };
        let closed = Measurement { counts, silence, nobody_listens: true, ..measurement(Latencies::new()) };
        assert_eq!(
            BenchReport::new(target(), closed.clone()).text(Terminal::default()),
            "--- 127.0.0.1:5000 udp bench: 4 clients ---\n\
             1 sent, 0 answered, 1 lost (100.0%; 1 refused), 0 duplicate, 0 reordered\n"
        );
        let silent = Measurement { nobody_listens: false, in_flight: 3, ..closed };
        let text = BenchReport::new(target(), silent).text(Terminal::default());
        assert!(!text.contains("for the last") && text.contains("0 reordered; 3 in flight, not counted\n"), "{text}");
    }

    #[test]
    fn empty_measurement_has_no_nan() {
        let nothing = Measurement {
            time: Duration::ZERO,
            counts: OutcomeCounts::default(),
            answered_in_window: 0,
            lateness: Some(Latencies::new()),
            ..measurement(Latencies::new())
        };
        let report = BenchReport::new(target(), nothing);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!((&json["answers_per_second"], &json["loss_percent"]), (&json!(0.0), &json!(0.0)));
        assert_eq!(json["lateness_ms"]["p99"], Value::Null);
        assert!(report.check(&Limits::default()).is_err());
        assert!(report.warnings().is_empty());
    }

    #[test]
    fn datagrams_in_flight_have_left() {
        let (lateness, due) = (Some(Latencies::from_micros(&[400])), 1200.0);
        let measurement = Measurement { lateness, due, in_flight: 200, ..measurement(Latencies::from_micros(&[500])) };
        assert_eq!(BenchReport::new(target(), measurement).warnings(), Vec::<String>::new());
    }

    #[test]
    fn warns_only_when_generator_was_the_limit() {
        let warned = |latencies: &[u64], lateness: u64, due: f64| {
            let lateness = Some(Latencies::from_micros(&[lateness]));
            let measurement = Measurement { lateness, due, ..measurement(Latencies::from_micros(latencies)) };
            !BenchReport::new(target(), measurement).warnings().is_empty()
        };
        assert!(warned(&[9_000], 2_000, 1000.0));
        assert!(!warned(&[90_000], 2_000, 1000.0));
        assert!(!warned(&[500], 400, 1000.0));
        assert!(warned(&[500], 400, 1200.0));
        // Without an answer, the lateness spoils no latency.
        assert!(!warned(&[], 20_000, 1000.0));
        assert!(warned(&[], 20_000, 1200.0));
    }
}
