//! What bench prints: its report. Pure.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::format::{millis, percent, percentiles, range};
use super::histogram::BarChart;
use super::terminal::Terminal;
use super::{SCHEMA, check};
use crate::client::Error;
use crate::client::probe::latency::{Latencies, Summary};
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::OutcomeCounts;

/// What a bench measured.
#[derive(Clone, Copy, Debug)]
pub struct Measurement<'a> {
    /// For how long datagrams were sent.
    pub time: Duration,
    /// The number of clients.
    pub clients: usize,
    /// How the datagrams ended.
    pub counts: OutcomeCounts,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub answered_bytes: u64,
    /// The time from when each datagram was due to its first answer.
    pub latencies: &'a Latencies,
    /// The time from when each datagram was due to when it was sent; `None` in a closed loop.
    pub lateness: Option<&'a Latencies>,
    /// How many datagrams were due per second; 0 in a closed loop.
    pub rate: u32,
}

/// The report of a bench. Its text ends with a line break.
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
    /// Payload only, without headers.
    mbit_per_second: Throughput,
    latency_ms: Summary,
    lateness_ms: Option<Summary>,
    /// How many datagrams were due; 0 in a closed loop.
    #[serde(skip)]
    due: f64,
    #[serde(skip)]
    counts: OutcomeCounts,
    #[serde(skip)]
    latencies: &'a Latencies,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Throughput {
    sent: f64,
    answered: f64,
}

impl<'a> BenchReport<'a> {
    /// Creates the report of a measurement. An answer of any kind counts as answered, everything else as lost.
    pub fn new(target: SocketAddr, measurement: &Measurement<'a>) -> Self {
        let Measurement { time, clients, counts, sent_bytes, answered_bytes, latencies, lateness, rate } = *measurement;
        let per_second = |number: f64| if time.is_zero() { 0.0 } else { number / time.as_secs_f64() };
        let mbit = |bytes: u64| (per_second(bytes as f64 * 8.0) / 1e3).round() / 1e3;
        Self {
            schema: SCHEMA,
            target,
            seconds: time.as_millis() as f64 / 1e3,
            clients,
            sent: counts.sent,
            answered: counts.with_answer(),
            lost: counts.sent - counts.with_answer(),
            duplicate: counts.duplicate,
            answers_per_second: per_second(counts.with_answer() as f64).round(),
            mbit_per_second: Throughput { sent: mbit(sent_bytes), answered: mbit(answered_bytes) },
            latency_ms: latencies.summary(),
            lateness_ms: lateness.map(Latencies::summary),
            due: time.as_secs_f64() * f64::from(rate),
            counts,
            latencies,
        }
    }

    /// Checks the result against limits.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] when there was no answer or a limit is exceeded; its message says which.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        check(self.target, &self.counts, &self.latency_ms, limits)
    }

    /// Returns a warning if the generator, and not the responder, limited the result of an open loop.
    ///
    /// That is so if over 1 % of the datagrams that were due were not sent, or if the 99th percentile of the lateness
    /// is over a tenth of that of the latency. A lateness of up to a millisecond is accepted.
    pub fn generator_warning(&self) -> Option<String> {
        let lateness = self.lateness_ms?.p99?;
        let latency = self.latency_ms.p99.unwrap_or_default();
        let limit = format!("the generator was the limit, not {}", self.target);
        if (self.sent as f64) < 0.99 * self.due {
            Some(format!("{limit}: {} of {:.0} datagrams left in time", self.sent, self.due))
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
        let loss = percent(self.counts.loss_percent());
        let Self { sent, answered, lost, duplicate, .. } = self;
        writeln!(f, "{sent} sent, {answered} answered, {lost} lost ({loss}), {duplicate} duplicate")?;
        let Throughput { sent, answered } = self.mbit_per_second;
        writeln!(f, "{:.0} answers/s   {sent:.3} Mbit/s out, {answered:.3} Mbit/s in", self.answers_per_second)?;
        if let Some(lateness) = &self.lateness_ms {
            writeln!(f, "lateness {}   p99 {}", range(lateness), millis(lateness.p99))?;
        }
        if self.latencies.histogram().is_empty() {
            return Ok(());
        }
        writeln!(f, "latency {}", range(&self.latency_ms))?;
        writeln!(f, "{}", percentiles(&self.latency_ms))?;
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

    fn measurement(latencies: &Latencies) -> Measurement<'_> {
        Measurement {
            time: Duration::from_secs(2),
            clients: 4,
            counts: OutcomeCounts {
                sent: 1000,
                answered: 990,
                lost: 9,
                refused: 1,
                duplicate: 2,
                ..OutcomeCounts::default()
            },
            sent_bytes: 1_000_000,
            answered_bytes: 500_000,
            latencies,
            lateness: None,
            rate: 0,
        }
    }

    #[test]
    fn text_and_json_show_the_measurement() {
        let latencies = Latencies::from_micros(&[100]);
        let report = BenchReport::new(target(), &measurement(&latencies));
        let text = report.to_string();
        assert!(text.starts_with(
            "--- 127.0.0.1:5000 udp bench: 2.000 s, 4 clients ---\n\
             1000 sent, 990 answered, 10 lost (1.0%), 2 duplicate\n\
             495 answers/s   4.000 Mbit/s out, 2.000 Mbit/s in\n\
             latency min/avg/max/stddev = 0.100/0.100/0.100/0.000 ms\n\
             p50 0.100   p90 0.100   p99 0.100   p99.9 0.100 ms\n"
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
    fn empty_measurement_has_no_nan() {
        let latencies = Latencies::new();
        let nothing = Measurement {
            time: Duration::ZERO,
            counts: OutcomeCounts::default(),
            lateness: Some(&latencies),
            ..measurement(&latencies)
        };
        let report = BenchReport::new(target(), &nothing);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["answers_per_second"], 0.0);
        assert_eq!(json["lateness_ms"]["p99"], Value::Null);
        assert!(report.check(&Limits::default()).is_err());
        assert_eq!(report.generator_warning(), None);
    }

    #[test]
    fn warns_only_when_generator_was_the_limit() {
        let warned = |latency: u64, lateness: u64, rate: u32| {
            let (latencies, lateness) = (Latencies::from_micros(&[latency]), Latencies::from_micros(&[lateness]));
            let measurement = Measurement { lateness: Some(&lateness), rate, ..measurement(&latencies) };
            BenchReport::new(target(), &measurement).generator_warning().is_some()
        };
        assert!(warned(9_000, 2_000, 500));
        assert!(!warned(90_000, 2_000, 500));
        assert!(!warned(500, 400, 500));
        assert!(warned(500, 400, 600));
    }
}
