//! Statistics of round-trip times in constant memory. Pure.

use std::time::Duration;

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// The highest time that the histogram can represent, in nanoseconds: 73 minutes. Percentiles treat longer times as
/// this one.
pub const HIGHEST_TRACKABLE: u64 = 1 << 42;

/// To how many digits percentiles are rounded: those of the histogram's precision and one more, which the middle of its
/// buckets is worth.
const SHOWN_DIGITS: i32 = 4;

/// The highest time for which the histogram has room from the start: a millisecond. It grows with longer times.
const FIRST_TRACKABLE: u64 = 1 << 20;

/// The precision of percentiles. Each further digit would take about ten times the memory.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Records any number of times in constant memory.
///
/// Minimum, maximum, mean and standard deviation are exact. A percentile is by nearest rank, the lowest recorded time
/// that at least that percentage of the times do not exceed, to three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    count: u64,
    /// Minimum, maximum and all that follows in nanoseconds.
    min: u64,
    max: u64,
    /// The running mean and the sum of squared differences from it, by Welford's algorithm: it neither overflows nor
    /// subtracts two large sums that are nearly equal.
    mean: f64,
    squared_differences: f64,
    /// The latest time, and the sum of the absolute differences between consecutive times.
    last: Option<u64>,
    consecutive_differences: f64,
}

/// A summary of times, in milliseconds. Every field is `None` when no time was recorded; none is ever NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Summary {
    /// The minimum.
    pub min: Option<f64>,
    /// The arithmetic mean.
    pub mean: Option<f64>,
    /// The maximum.
    pub max: Option<f64>,
    /// The standard deviation of the population, not of a sample.
    pub stddev: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// The 90th percentile.
    pub p90: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The 99.9th percentile.
    pub p99_9: Option<f64>,
}

impl Latencies {
    /// Creates an empty record.
    pub fn new() -> Self {
        let mut histogram = empty_histogram(FIRST_TRACKABLE, SIGNIFICANT_DIGITS);
        histogram.auto(true);
        Self {
            histogram,
            count: 0,
            min: u64::MAX,
            max: 0,
            mean: 0.0,
            squared_differences: 0.0,
            last: None,
            consecutive_differences: 0.0,
        }
    }

    /// Records a time. Allocates only if it is far longer than all before.
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.record_times(nanos, 1);
        if let Some(last) = self.last.replace(nanos) {
            self.consecutive_differences += nanos.abs_diff(last) as f64;
        }
    }

    /// Adds the times of a histogram, in nanoseconds, as far as it distinguishes them.
    pub fn add(&mut self, histogram: &Histogram<u64>) {
        for recorded in histogram.iter_recorded() {
            self.record_times(histogram.median_equivalent(recorded.value_iterated_to()), recorded.count_at_value());
        }
    }

    fn record_times(&mut self, nanos: u64, times: u64) {
        // Fails only if it would take more memory than there are addresses.
        let _ = self.histogram.record_n(nanos.clamp(1, HIGHEST_TRACKABLE), times);
        self.count = self.count.saturating_add(times);
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
        let difference = nanos as f64 - self.mean;
        self.mean += difference * times as f64 / self.count as f64;
        self.squared_differences += difference * (nanos as f64 - self.mean) * times as f64;
    }

    /// Removes all times and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.histogram.reset();
        (self.count, self.min, self.max) = (0, u64::MAX, 0);
        (self.mean, self.squared_differences) = (0.0, 0.0);
        (self.last, self.consecutive_differences) = (None, 0.0);
    }

    /// Returns the shortest time; `u64::MAX` nanoseconds when there is none.
    pub fn min(&self) -> Duration {
        Duration::from_nanos(self.min)
    }

    /// Returns the longest time; zero when there is none.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// Returns the distribution of the times in nanoseconds, accurate to three significant digits.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// Returns the summary of all times.
    pub fn summary(&self) -> Summary {
        if self.count == 0 {
            return Summary::default();
        }
        let percentile = |quantile| {
            let nanos = percentile(&self.histogram, quantile, SHOWN_DIGITS);
            Some(to_millis(nanos.clamp(self.min as f64, self.max as f64)))
        };
        Summary {
            min: Some(to_millis(self.min as f64)),
            mean: Some(to_millis(self.mean.clamp(self.min as f64, self.max as f64))),
            max: Some(to_millis(self.max as f64)),
            stddev: Some(to_millis((self.squared_differences / self.count as f64).max(0.0).sqrt())),
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p99_9: percentile(0.999),
        }
    }

    /// Returns the mean absolute difference between consecutive times, in the order in which they were recorded, in
    /// milliseconds; `None` with fewer than two. It is the jitter of RFC 3550 without that one's smoothing.
    pub fn jitter(&self) -> Option<f64> {
        (self.count > 1).then(|| to_millis(self.consecutive_differences / (self.count - 1) as f64))
    }
}

/// Creates an empty histogram of values from 1 to `high`, to 1 to 5 significant `digits`; both are constants.
#[allow(clippy::expect_used, reason = "constant bounds are valid")]
pub fn empty_histogram<C: Counter>(high: u64, digits: u8) -> Histogram<C> {
    Histogram::new_with_bounds(1, high, digits).expect("constant bounds are valid")
}

/// The median of any number of times, to two significant digits: a fraction of the memory of [`Latencies`].
#[derive(Clone, Debug)]
pub struct Median {
    histogram: Histogram<u32>,
}

impl Median {
    /// Creates an empty record.
    pub fn new() -> Self {
        Self { histogram: empty_histogram(HIGHEST_TRACKABLE, 2) }
    }

    /// Records a time. Does not allocate.
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos.max(1));
    }

    /// Returns the median in milliseconds; `None` without a time.
    pub fn millis(&self) -> Option<f64> {
        (!self.histogram.is_empty()).then(|| to_millis(percentile(&self.histogram, 0.5, 3)))
    }
}

/// Returns a percentile in nanoseconds, rounded to the digits that are known.
pub fn percentile<C: Counter>(histogram: &Histogram<C>, quantile: f64, digits: i32) -> f64 {
    let value = histogram.value_at_quantile(quantile);
    round_to(histogram.median_equivalent(value) as f64, digits)
}

/// Rounds to a number of significant digits, so that no digit is shown that is not known.
pub fn round_to(value: f64, digits: i32) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let shift = digits - 1 - value.abs().log10().floor() as i32;
    // A negative power of ten is not exact.
    let scale = 10_f64.powi(shift.abs());
    if shift >= 0 { (value * scale).round() / scale } else { (value / scale).round() * scale }
}

/// Returns how many decimals show two significant digits of a value below 1; `least` for any other.
pub fn decimals(value: f64, least: usize) -> usize {
    if value > 0.0 && value < 1.0 { least.max((1.0 - value.log10().floor()) as usize) } else { least }
}

/// Converts nanoseconds to milliseconds, rounded to the nanosecond.
pub fn to_millis(nanos: f64) -> f64 {
    nanos.round() / 1e6
}

#[cfg(test)]
impl Latencies {
    /// Records times in microseconds.
    pub fn from_micros(micros: &[u64]) -> Self {
        let mut latencies = Self::new();
        micros.iter().for_each(|micros| latencies.record(Duration::from_micros(*micros)));
        latencies
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn summary_of_nothing_is_empty() {
        assert_eq!(Latencies::from_micros(&[]).summary(), Summary::default());
        assert_eq!(Latencies::from_micros(&[]).jitter(), None);
        let mut cleared = Latencies::from_micros(&[1, 2]);
        cleared.clear();
        assert_eq!((cleared.summary(), cleared.jitter()), (Summary::default(), None));
    }

    #[test]
    fn single_time_is_min_mean_max_and_percentiles() {
        let summary = Latencies::from_micros(&[31]).summary();
        let all = [summary.min, summary.mean, summary.max, summary.p50, summary.p90, summary.p99, summary.p99_9];
        assert_eq!(all, [Some(0.031); 7]);
        assert_eq!((summary.stddev, Latencies::from_micros(&[31]).jitter()), (Some(0.0), None));
    }

    #[test]
    fn known_times_give_known_summary() {
        let latencies = Latencies::from_micros(&[1000, 3000, 2000, 6000]);
        let summary = latencies.summary();
        assert_eq!((summary.min, summary.mean, summary.max), (Some(1.0), Some(3.0), Some(6.0)));
        assert_eq!(summary.stddev, Some(1.870829));
        assert_eq!(latencies.jitter(), Some(2.333333));
    }

    #[test]
    fn shortest_and_longest_are_exact() {
        let mut latencies = Latencies::from_micros(&[2000, 70_001, 1000, 3000]);
        assert_eq!((latencies.min(), latencies.max()), (Duration::from_millis(1), Duration::from_micros(70_001)));
        latencies.clear();
        assert_eq!(latencies.max(), Duration::ZERO);
        latencies.record(Duration::from_millis(5));
        assert_eq!((latencies.min(), latencies.max()), (Duration::from_millis(5), Duration::from_millis(5)));
    }

    #[test]
    fn accepts_zero_and_longest_duration() {
        let mut latencies = Latencies::from_micros(&[0]);
        latencies.record(Duration::MAX);
        let summary = latencies.summary();
        assert_eq!(summary.min, Some(0.0));
        assert!(summary.max.is_some_and(|max| max > 1e12) && summary.stddev.is_some_and(f64::is_finite));
    }

    #[test]
    fn rounding_keeps_significant_digits() {
        let rounded = [0.0, 0.123_456, 123.456, 98_765.4, 1e-7, 99.999_99].map(|value| round_to(value, 4));
        assert_eq!(rounded, [0.0, 0.1235, 123.5, 98_770.0, 1e-7, 100.0]);
    }

    #[test]
    fn percentiles_have_no_more_digits_than_are_known() {
        let mut latencies = Latencies::new();
        [82_495, 82_501, 1_234_567].into_iter().for_each(|nanos| latencies.record(Duration::from_nanos(nanos)));
        let summary = latencies.summary();
        assert_eq!((summary.p50, summary.min, summary.p99), (Some(0.082_53), Some(0.082_495), Some(1.234)));
        let mut median = Median::new();
        assert_eq!(median.millis(), None);
        median.record(Duration::from_nanos(82_495));
        assert!(median.millis().is_some_and(|millis| (millis - 0.0825).abs() < 0.001), "{median:?}");
    }

    proptest! {
        #[test]
        fn percentiles_are_accurate_to_three_digits(mut micros in proptest::collection::vec(1..5_000_000_u64, 1..300)) {
            let summary = Latencies::from_micros(&micros).summary();
            micros.sort_unstable();
            let percentiles = [summary.p50, summary.p90, summary.p99, summary.p99_9];
            for (quantile, percentile) in [0.5, 0.9, 0.99, 0.999].into_iter().zip(percentiles) {
                let rank = (quantile * micros.len() as f64).ceil() as usize;
                let exact = micros[rank.clamp(1, micros.len()) - 1] as f64 / 1e3;
                let percentile = percentile.expect("a percentile");
                prop_assert!((percentile - exact).abs() <= exact / 1000.0, "{quantile}: {percentile} for {exact}");
                prop_assert!(Some(percentile) >= summary.min && Some(percentile) <= summary.max);
            }
            prop_assert!(summary.min <= summary.mean && summary.mean <= summary.max);
        }
    }
}
