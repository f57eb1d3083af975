//! One report from the results of several runs, on one host or many. Pure.
//!
//! Counts are summed. Percentiles come from merged histograms; where there is none, they are unknown, since those of
//! parts do not give that of the whole.

use std::collections::BTreeMap;
use std::fmt::Display;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry, LogIteratorError};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::histogram::BarChart;
use super::plot::{MOST_SERIES, Plot, Series};
use super::table::{Row, Table};
use super::terminal::Terminal;
use crate::client::Error;
use crate::client::probe::latency::{Latencies, Summary};
use crate::logging::escape::Escaped;

/// The version of the merged report.
const SCHEMA: u32 = 1;

/// The version of the reports of ping and bench that are merged.
const MERGED_SCHEMA: u64 = 2;

/// The results that were read so far, by target.
#[derive(Debug, Default)]
pub struct Merge {
    targets: BTreeMap<String, Target>,
}

/// The results for one target.
#[derive(Debug, Default)]
struct Target {
    /// Round trips in the histograms of logs.
    logged: Option<Latencies>,
    /// Round trips one by one, from streams. They are those of the log if there is one.
    streamed: Option<Latencies>,
    /// The reports of ping and bench.
    reports: Option<Reports>,
}

/// The sum of several reports.
#[derive(Debug, Default)]
struct Reports {
    sent: u64,
    /// Those without an answer in time: late, lost and refused.
    lost: u64,
    /// Probes with an answer, whose round trips `times` describes.
    answers: u64,
    times: Summary,
}

/// A report of ping or bench, or the object of a probe in the stream of ping.
#[derive(Debug, Deserialize)]
struct Object {
    schema: Option<u64>,
    target: Option<String>,
    /// Of a merged report.
    targets: Option<IgnoredAny>,
    seq: Option<u64>,
    #[serde(default)]
    sent: u64,
    #[serde(default)]
    answered: u64,
    #[serde(default)]
    late: u64,
    #[serde(default)]
    lost: u64,
    #[serde(default)]
    refused: u64,
    #[serde(default)]
    truncated: u64,
    #[serde(default)]
    altered: u64,
    #[serde(alias = "latency_ms")]
    rtt_ms: Option<Times>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Times {
    One(f64),
    Many(Summary),
}

impl Merge {
    /// Adds a file: an HdrHistogram log in nanoseconds, or JSON of ping or bench. `name` is the target of intervals
    /// without a tag.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the file.
    pub fn add(&mut self, name: &str, content: &[u8]) -> Result<(), String> {
        match content.trim_ascii_start().first() {
            Some(b'{') => self.add_json(content),
            Some(_) => self.add_log(name, content),
            None => Err("the file is empty".to_owned()),
        }
    }

    /// Returns the merged report.
    pub fn report(self) -> MergedReport {
        let targets = self.targets.into_iter().map(|(name, target)| target.report(name)).collect();
        MergedReport { schema: SCHEMA, targets }
    }

    fn add_log(&mut self, name: &str, content: &[u8]) -> Result<(), String> {
        let mut intervals = 0;
        for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
            let line = [line, b"\n"].concat();
            intervals += self.add_line(name, &line).map_err(|why| format!("line {number} {why}"))?;
        }
        // A log is cut off before the first one if its writer was killed.
        if intervals > 0 { Ok(()) } else { Err("the file has no histogram".to_owned()) }
    }

    /// Adds a line of a log; returns how many intervals it had.
    fn add_line(&mut self, name: &str, line: &[u8]) -> Result<usize, String> {
        let mut intervals = 0;
        for entry in IntervalLogIterator::new(line) {
            let interval = match entry {
                Ok(LogEntry::Interval(interval)) => interval,
                Ok(LogEntry::StartTime(_) | LogEntry::BaseTime(_)) => continue,
                Err(LogIteratorError::ParseError { .. }) if line == b"\n" => continue,
                Err(LogIteratorError::ParseError { .. }) => {
                    return Err("is neither JSON of ping or bench nor part of an HdrHistogram log".to_owned());
                }
            };
            let invalid = |error: &dyn Display| format!("has no valid histogram: {error}");
            let bytes = STANDARD.decode(interval.encoded_histogram()).map_err(|error| invalid(&error))?;
            let histogram: Result<Histogram<u64>, _> = Deserializer::new().deserialize(&mut &*bytes);
            let histogram = histogram.map_err(|error| invalid(&error))?;
            let target = interval.tag().map_or(name, |tag| tag.as_str());
            self.target(target).logged.get_or_insert_with(Latencies::new).add(&histogram);
            intervals += 1;
        }
        Ok(intervals)
    }

    fn add_json(&mut self, content: &[u8]) -> Result<(), String> {
        for object in serde_json::Deserializer::from_slice(content).into_iter() {
            let object: Object = object.map_err(|error| format!("no report of ping or bench: {error}"))?;
            if object.targets.is_some() {
                return Err("a merged report cannot be merged: give the files that it is made of".to_owned());
            }
            let Some(target) = &object.target else {
                return Err("no report of ping or bench: an object without a target".to_owned());
            };
            let target = self.target(target);
            match (object.schema, &object.rtt_ms) {
                (Some(MERGED_SCHEMA), _) => target.reports.get_or_insert_default().add(&object),
                (Some(schema), _) => {
                    return Err(format!("version {schema} of the report is not supported, only {MERGED_SCHEMA}"));
                }
                (None, Some(Times::One(millis))) if object.seq.is_some() => {
                    let time = std::time::Duration::try_from_secs_f64(millis / 1e3);
                    let time = time.map_err(|_| format!("{millis} ms is no round trip"))?;
                    target.streamed.get_or_insert_with(Latencies::new).record(time);
                }
                (None, None) => {}
                (None, Some(_)) => return Err("no report of ping or bench: an object without its schema".to_owned()),
            }
        }
        Ok(())
    }

    /// Returns what is known of a target. Its name comes from a file, and is printed.
    fn target(&mut self, name: &str) -> &mut Target {
        self.targets.entry(Escaped::line([name.as_bytes(), b"", b""]).to_string()).or_default()
    }
}

impl Reports {
    fn add(&mut self, object: &Object) {
        // Only a file that ping or bench did not write has such counts.
        let sum = |counts: &[u64]| counts.iter().copied().fold(0, u64::saturating_add);
        self.sent = sum(&[self.sent, object.sent]);
        self.lost = sum(&[self.lost, object.late, object.lost, object.refused]);
        let answers = sum(&[object.answered, object.late, object.truncated, object.altered]);
        if let (Some(Times::Many(times)), 1..) = (&object.rtt_ms, answers) {
            self.times = if self.answers == 0 { *times } else { join(self.times, self.answers, *times, answers) };
            self.answers = sum(&[self.answers, answers]);
        }
    }
}

/// Returns what can be known of the times of both. Percentiles cannot.
fn join(one: Summary, one_count: u64, other: Summary, other_count: u64) -> Summary {
    let (one_count, other_count) = (one_count as f64, other_count as f64);
    let count = one_count + other_count;
    let both = |one: Option<f64>, other: Option<f64>| Some((one?, other?));
    let mean = both(one.mean, other.mean).map(|(one, other)| (one * one_count + other * other_count) / count);
    let stddev = both(one.stddev, other.stddev).zip(both(one.mean, other.mean)).map(|(stddevs, means)| {
        let within = one_count * stddevs.0.powi(2) + other_count * stddevs.1.powi(2);
        let between = (means.0 - means.1).powi(2) * one_count * other_count / count;
        ((within + between) / count).sqrt()
    });
    Summary {
        min: both(one.min, other.min).map(|(one, other)| one.min(other)),
        mean: mean.map(to_nanoseconds),
        max: both(one.max, other.max).map(|(one, other)| one.max(other)),
        stddev: stddev.map(to_nanoseconds),
        ..Summary::default()
    }
}

/// Rounds milliseconds to whole nanoseconds.
fn to_nanoseconds(millis: f64) -> f64 {
    (millis * 1e6).round() / 1e6
}

impl Target {
    fn report(self, target: String) -> MergedTarget {
        let Self { logged, streamed, reports } = self;
        let latencies = logged.or(streamed);
        let histogram_count = latencies.as_ref().map(|latencies| latencies.histogram().len());
        let answers = reports.as_ref().map(|reports| reports.answers);
        let mut rtt_ms = latencies.as_ref().map(Latencies::summary);
        if let Some(Reports { times, .. }) = &reports {
            rtt_ms = match rtt_ms {
                // Of the same round trips: the moments of the reports are exact.
                Some(Summary { p50, p90, p99, p99_9, .. }) if histogram_count == answers => {
                    Some(Summary { p50, p90, p99, p99_9, ..*times })
                }
                Some(summary) => Some(summary),
                None => Some(*times),
            };
        }
        MergedTarget {
            target,
            count: histogram_count.or(answers),
            sent: reports.as_ref().map(|reports| reports.sent),
            lost: reports.as_ref().map(|reports| reports.lost),
            rtt_ms: rtt_ms.unwrap_or_default(),
            reported: answers,
            latencies,
        }
    }
}

/// The merged results. Its JSON is its [`Serialize`].
#[derive(Debug, Serialize)]
pub struct MergedReport {
    schema: u32,
    targets: Vec<MergedTarget>,
}

#[derive(Debug, Serialize)]
struct MergedTarget {
    target: String,
    /// How many round trips `rtt_ms` describes.
    count: Option<u64>,
    sent: Option<u64>,
    lost: Option<u64>,
    rtt_ms: Summary,
    /// How many probes had an answer according to the reports.
    #[serde(skip)]
    reported: Option<u64>,
    #[serde(skip)]
    latencies: Option<Latencies>,
}

impl MergedReport {
    /// Returns a warning for each target whose logs and reports are not of the same runs.
    pub fn warnings(&self) -> Vec<String> {
        let differ = self.targets.iter().filter_map(|target| {
            let (logged, reported) = (target.latencies.as_ref()?.histogram().len(), target.reported?);
            (logged != reported).then(|| {
                let target = &target.target;
                format!("{target}: the logs hold {logged} round trips and the JSON {reported} answers, so they are not of the same runs")
            })
        });
        differ.collect()
    }

    /// Returns whether there is anything to [draw](Self::svg): a log or a stream.
    pub fn has_histogram(&self) -> bool {
        self.targets.iter().any(|target| target.latencies.is_some())
    }

    /// Returns the report as text, which ends with a line break: a table, and the histogram of all targets.
    pub fn text(&self, terminal: Terminal) -> String {
        let row = |target: &MergedTarget| {
            let loss = |lost: u64| (lost, 100.0 * lost as f64 / target.sent.unwrap_or_default().max(1) as f64);
            let MergedTarget { target: name, sent, lost, rtt_ms, .. } = target;
            Row { target: name.clone(), sent: *sent, lost: lost.map(loss), times: *rtt_ms }
        };
        let mut text = Table { rows: self.targets.iter().map(row).collect(), terminal }.to_string();
        if self.targets.iter().any(|target| target.count > Some(0) && target.rtt_ms.p50.is_none()) {
            text += &terminal.wrap("percentiles of several runs need their logs, written with --hdr");
        }
        let mut all = Latencies::new();
        self.targets.iter().filter_map(|target| target.latencies.as_ref()).for_each(|times| all.add(times.histogram()));
        text + &BarChart { latencies: &all, terminal }.to_string()
    }

    /// Draws the distribution of the round trips of the first targets that have any.
    ///
    /// # Errors
    ///
    /// As [`PingReport::svg`](super::PingReport::svg).
    pub fn svg(&self) -> Result<String, Error> {
        let series = self.targets.iter().filter_map(|target| {
            let histogram = target.latencies.as_ref()?.histogram();
            Some(Series { name: target.target.clone(), timeline: None, histogram })
        });
        let series: Vec<_> = series.take(MOST_SERIES).collect();
        let count: u64 = series.iter().map(|series| series.histogram.len()).sum();
        let shown = match &*series {
            [only] => only.name.clone(),
            several if several.len() < self.targets.len() => {
                format!("{} of {} targets", several.len(), self.targets.len())
            }
            several => format!("{} targets", several.len()),
        };
        let (title, summary) = (format!("udpong report: {shown}"), format!("{count} round trips"));
        Plot { title, summary, quantity: "round trip", series }.svg()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::hdr_log::HdrLog;
    use super::*;

    fn log(target: &str, micros: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        let start = Instant::now();
        let mut log =
            HdrLog::new(&mut out, String::new(), vec![target.to_owned()], start, SystemTime::now()).expect("a log");
        for (number, micros) in (0..).zip(micros) {
            let now = start + Duration::from_millis(100 * number);
            log.record(0, Duration::from_micros(*micros), now).expect("written");
        }
        log.finish(start + Duration::from_secs(60)).expect("written");
        out
    }

    fn merged(files: &[&[u8]]) -> MergedReport {
        let mut merge = Merge::default();
        files.iter().for_each(|file| merge.add("file", file).expect("a result"));
        merge.report()
    }

    fn json_of(files: &[&[u8]]) -> Value {
        serde_json::to_value(merged(files)).expect("JSON")
    }

    const PING: &str = r#"{"schema":2,"target":"a:1","sent":10,"answered":7,"late":1,"lost":1,"refused":1,"truncated":0,
        "altered":0,"rtt_ms":{"min":1.0,"mean":2.0,"max":9.0,"stddev":1.0,"jitter":0.5,"p50":2.0,"p90":3.0,"p99":9.0,
        "p99_9":9.0},"flows":null}"#;
    const BENCH: &str = r#"{"schema":2,"target":"a:1","sent":8,"answered":8,"lost":0,
        "latency_ms":{"min":0.5,"mean":4.0,"max":5.0,"stddev":2.0,"p50":2.0,"p90":3.0,"p99":9.0,"p99_9":9.0}}"#;

    #[test]
    fn counts_are_summed_and_percentiles_of_reports_unknown() {
        assert_eq!(json_of(&[PING.as_bytes()])["targets"][0]["rtt_ms"]["p99"], 9.0, "known of one run");
        assert_eq!(
            json_of(&[PING.as_bytes(), BENCH.as_bytes()]),
            json!({"schema": 1, "targets": [{
                "target": "a:1", "count": 16, "sent": 18, "lost": 3,
                "rtt_ms": {
                    "min": 0.5, "mean": 3.0, "max": 9.0, "stddev": 1.870829, "p50": null, "p90": null, "p99": null,
                    "p99_9": null
                }
            }]})
        );
        let text = merged(&[PING.as_bytes(), BENCH.as_bytes()]).text(Terminal::default());
        assert!(text.contains("a:1       18     3  16.7%    -    -    -   9.000\n"), "{text}");
        assert!(text.contains("--hdr"), "{text}");
    }

    #[test]
    fn percentiles_come_from_merged_histograms() {
        let (fast, slow) = (log("a:1", &[100; 90]), log("a:1", &[10_000; 10]));
        let report = json_of(&[&fast, &slow]);
        let target = &report["targets"][0];
        let rtt = |name| target["rtt_ms"][name].as_f64().map(|millis| (millis * 100.0).round() / 100.0);
        assert_eq!([rtt("p50"), rtt("p90"), rtt("p99"), rtt("mean")], [Some(0.1), Some(0.1), Some(10.0), Some(1.09)]);
        assert_eq!((&target["count"], &target["sent"], &target["lost"]), (&json!(100), &Value::Null, &Value::Null));
    }

    #[test]
    fn stream_counts_as_histogram_and_report() {
        let stream = format!(
            r#"{{"seq":1,"target":"a:1","outcome":"answered","rtt_ms":0.25,"bytes":9}}
            {{"seq":2,"target":"a:1","outcome":"timeout","rtt_ms":null}}
            {PING}"#
        );
        let report = merged(&[stream.as_bytes()]);
        assert_eq!(report.warnings().len(), 1, "1 round trip of 8 answers");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!((&json["targets"][0]["count"], &json["targets"][0]["sent"]), (&json!(1), &json!(10)));
    }

    #[test]
    fn stream_and_log_of_one_run_are_counted_once() {
        let stream = br#"{"seq":1,"target":"a:1","outcome":"answered","rtt_ms":0.25,"bytes":9}
            {"schema":2,"target":"a:1","sent":1,"answered":1,"rtt_ms":{"min":0.25,"mean":0.25,"max":0.25,"stddev":0.0}}"#;
        let log = log("a:1", &[250]);
        for files in [[&stream[..], &log], [&log, stream]] {
            let report = merged(&files);
            assert_eq!((report.targets[0].count, report.warnings()), (Some(1), Vec::new()));
        }
    }

    #[test]
    fn untagged_intervals_belong_to_their_file() {
        let tagged = String::from_utf8(log("a:1", &[5])).expect("text");
        let report = json_of(&[tagged.replace("Tag=a:1,", "").as_bytes()]);
        assert_eq!(report["targets"][0]["target"], "file");
    }

    #[test]
    fn log_may_end_without_line_break_but_not_within_a_histogram() {
        let log = log("a:1", &[5]);
        let windows = String::from_utf8_lossy(&log).replace('\n', "\r\n");
        for whole in [&log[..log.len() - 1], windows.as_bytes()] {
            assert_eq!(json_of(&[whole])["targets"][0]["count"], 1);
        }
        let last = log.trim_ascii_end().iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
        for cut in (last + 1..log.len() - 1).step_by(7) {
            assert!(Merge::default().add("file", &log[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn made_up_counts_and_names_do_no_harm() {
        let many = r#"{"schema":2,"target":"a\u001b[2J\n","sent":18446744073709551615,"answered":18446744073709551615,
            "late":1,"lost":18446744073709551615,"rtt_ms":{"min":1.0,"mean":2.0,"max":9.0,"stddev":1.0}}"#;
        let report = merged(&[many.as_bytes(), many.as_bytes()]);
        assert_eq!(serde_json::to_value(&report).expect("JSON")["targets"][0]["lost"], u64::MAX);
        let text = report.text(Terminal::default());
        assert!(text.contains(r"a\u{1b}[2J\n") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn error_says_what_is_wrong_with_a_file() {
        let error = |content: &[u8]| Merge::default().add("file", content).expect_err("no result");
        assert!(error(b" \n").contains("empty"));
        assert!(
            error(b"#comment\nhello\n")
                .contains("line 2 is neither JSON of ping or bench nor part of an HdrHistogram log")
        );
        let log = log("a:1", &[5]);
        for lines in 1..=4 {
            let head = log.split_inclusive(|byte| *byte == b'\n').take(lines).collect::<Vec<_>>().concat();
            assert_eq!(error(&head), "the file has no histogram");
        }
        assert!(error(b"#comment\n1.000,1.000,5.000,AAAA\n").contains("line 2 has no valid histogram"));
        assert!(error(b"{\"schema\":1,\"target\":\"a:1\"}").contains("version 1 of the report"));
        assert!(error(b"{\"schema\":1,\"targets\":[]}").contains("a merged report cannot be merged"));
        assert!(error(b"{\"schema\":2}").contains("without a target"));
        assert!(error(b"{\"schema\":2,").contains("no report of ping or bench"));
    }

    #[test]
    fn several_targets_have_a_line_each_in_the_picture() {
        let logs: Vec<_> = (1..=9).map(|port| log(&format!("a:{port}"), &[port; 30])).collect();
        let report = merged(&logs.iter().map(|log| &**log).collect::<Vec<_>>());
        let svg = report.svg().expect("a picture");
        assert!(svg.contains("8 of 9 targets") && svg.contains("a:8") && !svg.contains("a:9"));
    }

    proptest! {
        #[test]
        fn no_file_panics(content: Vec<u8>, text in r#"[{}\[\]":,a-z0-9.=#\n-]*"#) {
            let _ = Merge::default().add("file", &content);
            let _ = Merge::default().add("file", text.as_bytes());
            let _ = Merge::default().add("file", format!("1.0,1.0,1.0,HISTFAAA{text}\n").as_bytes());
        }

        #[test]
        fn no_histogram_panics(digits in 0..5_u32, low in 0..4_u64, high: u64, counts in proptest::collection::vec(any::<u8>(), 0..40)) {
            const COOKIE: u32 = 0x1c84_9313;
            let mut bytes = COOKIE.to_be_bytes().to_vec();
            [counts.len() as u32, 0, digits].iter().for_each(|field| bytes.extend(field.to_be_bytes()));
            [low, high, 1.0_f64.to_bits()].iter().for_each(|field| bytes.extend(field.to_be_bytes()));
            bytes.extend(counts);
            let line = format!("1.0,1.0,1.0,{}\n", STANDARD.encode(&bytes));
            let mut merge = Merge::default();
            if merge.add("file", line.as_bytes()).is_ok() && merge.add("file", line.as_bytes()).is_ok() {
                let report = merge.report();
                prop_assert!(report.svg().is_ok() && !report.text(Terminal::default()).is_empty());
            }
        }
    }
}
