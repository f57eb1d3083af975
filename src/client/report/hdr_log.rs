//! Writes an HdrHistogram interval log, for `udpong report` and other tools. Time is an argument.

use std::fmt::{self, Debug, Display, Formatter};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::client::probe::latency::HIGHEST_TRACKABLE;
use crate::client::{Error, stdout};

/// How long an interval is, except for the last one.
const INTERVAL: Duration = Duration::from_secs(1);

/// A log with an interval a second for each target, in nanoseconds.
///
/// The format is that of Java's `HistogramLogWriter`: version 1.3, histograms in V2 with compression, and the target as
/// tag. Intervals without a round trip are written, too: they show an outage.
pub struct HdrLog<W = BufWriter<File>> {
    out: W,
    /// The name of the file, for error messages.
    name: String,
    serializer: V2DeflateSerializer,
    start: Instant,
    /// The time of day at `start`, since the Unix epoch.
    time_of_day: Duration,
    /// When the current interval began.
    interval_start: Instant,
    /// The targets, and their round trips in the current interval. They grow with the times, so that thousands of
    /// targets do not take a gigabyte.
    targets: Vec<(String, Histogram<u32>)>,
}

impl HdrLog {
    /// Creates or truncates the file of a log that begins at `start`, a short time ago. `targets` are without spaces
    /// and commas.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the file cannot be written, as all methods do.
    pub fn create(path: &Path, targets: Vec<String>, start: Instant) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = stdout(path).unwrap_or_else(|| File::create(path)).map_err(|error| cannot_write(&name, error))?;
        Self::new(BufWriter::new(file), name, targets, start, SystemTime::now() - start.elapsed())
    }
}

impl<W: Write> HdrLog<W> {
    /// Begins a log at `start`, when the time of day was `time_of_day`.
    pub fn new(
        out: W,
        name: String,
        targets: Vec<String>,
        start: Instant,
        time_of_day: SystemTime,
    ) -> Result<Self, Error> {
        let histogram = Histogram::new(3).map_err(|error| cannot_write(&name, error))?;
        let mut log = Self {
            out,
            name,
            serializer: V2DeflateSerializer::new(),
            start,
            time_of_day: time_of_day.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            interval_start: start,
            targets: targets.into_iter().map(|target| (target, histogram.clone())).collect(),
        };
        log.write_head(time_of_day).map_err(|error| cannot_write(&log.name, error))?;
        Ok(log)
    }

    /// Changes the name of a target, by its index, to which there was no round trip yet.
    pub fn rename(&mut self, target: usize, name: String) {
        self.targets.get_mut(target).into_iter().for_each(|(old, _)| *old = name.clone());
    }

    /// Records a round trip to a target, by its index, that ended at `now`.
    pub fn record(&mut self, target: usize, round_trip: Duration, now: Instant) -> Result<(), Error> {
        self.advance(now)?;
        let nanos = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX).clamp(1, HIGHEST_TRACKABLE);
        let recorded = self.targets.get_mut(target).map_or(Ok(()), |(_, histogram)| histogram.record(nanos));
        recorded.map_err(|error| cannot_write(&self.name, error))
    }

    /// Writes the intervals that have ended by `now`.
    pub fn advance(&mut self, now: Instant) -> Result<(), Error> {
        while now.saturating_duration_since(self.interval_start) >= INTERVAL {
            self.write_interval(INTERVAL).map_err(|error| cannot_write(&self.name, error))?;
        }
        Ok(())
    }

    /// Writes the last interval, which ends at `now`.
    pub fn finish(mut self, now: Instant) -> Result<(), Error> {
        self.advance(now)?;
        self.write_interval(now.saturating_duration_since(self.interval_start))
            .map_err(|error| cannot_write(&self.name, error))
    }

    fn write_head(&mut self, time_of_day: SystemTime) -> io::Result<()> {
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Round trips in nanoseconds, by udpong]")
            .with_start_time(time_of_day)
            .begin_log_with(&mut self.out, &mut self.serializer)?;
        writeln!(self.out, r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#)?;
        self.out.flush()
    }

    fn write_interval(&mut self, length: Duration) -> io::Result<()> {
        let from = self.time_of_day + self.interval_start.saturating_duration_since(self.start);
        self.interval_start += length;
        for (target, histogram) in &mut self.targets {
            let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut self.out, &mut self.serializer)?;
            log.write_histogram(histogram, from, length, Tag::new(target))
                .map_err(|error| io::Error::other(error.to_string()))?;
            histogram.reset();
        }
        self.out.flush()
    }
}

fn cannot_write(name: &str, error: impl Display) -> Error {
    Error::Failed(format!("cannot write {name}: {error}"))
}

impl<W> Debug for HdrLog<W> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("HdrLog").field("targets", &self.targets.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_has_an_interval_a_second_for_each_target() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut out = Vec::new();
        let time_of_day = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500_000_000_250);
        let targets = vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()];
        let mut log = HdrLog::new(&mut out, String::new(), targets, start, time_of_day).expect("a log");
        log.record(0, Duration::from_nanos(48_000), at(10)).expect("written");
        log.record(1, Duration::MAX, at(2500)).expect("written");
        log.finish(at(2750)).expect("written");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["#[Histogram log format version 1.3]", "#[Round trips in nanoseconds, by udpong]"]);
        assert_eq!(lines[2], "#[StartTime: 1500000000.250 (seconds since epoch)]");
        let fields = |line: &str| line.rsplit_once(',').map(|(fields, _)| fields.to_owned()).unwrap_or_default();
        assert_eq!(
            lines[4..].iter().map(|line| fields(line)).collect::<Vec<_>>(),
            [
                "Tag=127.0.0.1:1,1500000000.250,1.000,48031.000",
                "Tag=[::1]:2,1500000000.250,1.000,0.000",
                "Tag=127.0.0.1:1,1500000001.250,1.000,0.000",
                "Tag=[::1]:2,1500000001.250,1.000,0.000",
                "Tag=127.0.0.1:1,1500000002.250,0.750,0.000",
                "Tag=[::1]:2,1500000002.250,0.750,4402341478399.000",
            ]
        );
        assert!(lines[4..].iter().all(|line| line.contains(",HISTFAAA")), "{text}");
    }
}
