//! The delays of one direction, between two clocks that may differ, in constant memory. Pure.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::probe::latency::{HIGHEST_TRACKABLE, empty_histogram, percentile, to_millis};

/// By how much room is made below the shortest delay at first, in nanoseconds.
const LEAST_ROOM: i64 = 1_000;

/// After this many moves of the base the room doubles, so that a drift of the clocks causes few of them.
const MOVES_PER_DOUBLING: u32 = 8;

/// Records the delays of one direction: the time of arrival by one clock less that of departure by another, in
/// nanoseconds.
///
/// The *variation* of a delay is what it exceeds the shortest one by (PDV, RFC 5481), whatever the difference between
/// the clocks. Minimum, maximum and mean are exact, percentiles to three significant digits of the distance to the
/// shortest.
#[derive(Clone, Debug)]
pub struct Delays {
    /// Delays less `base`.
    histogram: Histogram<u64>,
    /// A little below the shortest delay.
    base: i64,
    /// How often the base has moved.
    moves: u32,
    min: i64,
    max: i64,
    count: u64,
    /// The mean of what delays differ from the first one by.
    mean: f64,
    first: i64,
}

/// Times of one direction in milliseconds; every field is `None` when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DelaySummary {
    /// The minimum; of variations, it is zero.
    pub min: Option<f64>,
    /// The arithmetic mean.
    pub mean: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The maximum.
    pub max: Option<f64>,
}

impl Delays {
    /// Creates an empty record.
    pub fn new() -> Self {
        Self { histogram: empty(), base: 0, moves: 0, min: i64::MAX, max: i64::MIN, count: 0, mean: 0.0, first: 0 }
    }

    /// Records a delay and returns its variation, as far as the shortest delay is known by now.
    pub fn record(&mut self, delay: i64) -> u64 {
        if self.count == 0 {
            (self.first, self.base) = (delay, delay.saturating_sub(LEAST_ROOM));
        } else if delay < self.base {
            self.make_room(delay);
        }
        self.count += 1;
        (self.min, self.max) = (self.min.min(delay), self.max.max(delay));
        self.mean += (delay.saturating_sub(self.first) as f64 - self.mean) / self.count as f64;
        // Fails only if it would take more memory than there are addresses.
        let _ = self.histogram.record(self.place(delay));
        delay.abs_diff(self.min)
    }

    /// Returns the variations so far.
    pub fn variations(&self) -> DelaySummary {
        self.summary(self.min)
    }

    /// Returns the delays so far as they are, which means nothing unless the clocks agree.
    pub fn delays(&self) -> DelaySummary {
        self.summary(0)
    }

    /// Returns the distribution of the variations in nanoseconds, to two significant digits, for a picture with a
    /// logarithmic scale: what is below a microsecond, as the shortest delay always is, stands for one.
    pub fn histogram(&self) -> Histogram<u64> {
        let mut variations = empty_histogram(1 << 20, 2);
        variations.auto(true);
        let room = self.min.abs_diff(self.base);
        for bucket in self.histogram.iter_recorded() {
            let value = self.histogram.median_equivalent(bucket.value_iterated_to()).saturating_sub(room);
            let _ = variations.record_n(value.clamp(1_000, HIGHEST_TRACKABLE), bucket.count_at_value());
        }
        variations
    }

    /// Returns what the delays exceed `origin` by.
    fn summary(&self, origin: i64) -> DelaySummary {
        if self.count == 0 {
            return DelaySummary::default();
        }
        // Differences first: the difference between the clocks may exceed what a float is exact to.
        let (range, shift) = (self.max.abs_diff(self.min) as f64, self.min.saturating_sub(origin) as f64);
        let millis = |variation: f64| Some(to_millis(variation.clamp(0.0, range) + shift));
        let room = self.min.abs_diff(self.base) as f64;
        let percentile = |quantile| millis(percentile(&self.histogram, quantile, 4) - room);
        DelaySummary {
            min: millis(0.0),
            mean: millis(self.first.abs_diff(self.min) as f64 + self.mean),
            p50: percentile(0.5),
            p99: percentile(0.99),
            max: millis(range),
        }
    }

    /// Moves the base below `delay`. Each time costs some precision, and so does the room: by a part of the range, a
    /// single long delay would spoil all others.
    fn make_room(&mut self, delay: i64) {
        let base = delay.saturating_sub(LEAST_ROOM << (self.moves / MOVES_PER_DOUBLING).min(32));
        self.moves += 1;
        let shift = self.base.abs_diff(base);
        let old = std::mem::replace(&mut self.histogram, empty());
        for bucket in old.iter_recorded() {
            let value = old.median_equivalent(bucket.value_iterated_to()).saturating_add(shift);
            let _ = self.histogram.record_n(value.clamp(1, HIGHEST_TRACKABLE), bucket.count_at_value());
        }
        self.base = base;
    }

    fn place(&self, delay: i64) -> u64 {
        u64::try_from(delay.saturating_sub(self.base)).unwrap_or(1).clamp(1, HIGHEST_TRACKABLE)
    }
}

fn empty() -> Histogram<u64> {
    let mut histogram = empty_histogram(1 << 20, 3);
    histogram.auto(true);
    histogram
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variation_is_what_a_delay_exceeds_the_shortest_by() {
        for offset in [0, -3_600_000_000_000, 1_700_000_000_000_000_000] {
            let mut delays = Delays::new();
            let variations = [5_000, 1_000, 9_000, 1_500].map(|delay| delays.record(offset + delay));
            assert_eq!(variations, [0, 0, 8_000, 500]);
            let summary = delays.variations();
            assert_eq!((summary.min, summary.max, summary.mean), (Some(0.0), Some(0.008), Some(0.003_125)));
            assert!((summary.p50.expect("a median") - 0.000_5).abs() < 2e-5, "{summary:?}");
            assert!((summary.p99.expect("a percentile") - 0.008).abs() < 2e-5, "{summary:?}");
        }
    }

    #[test]
    fn long_delay_does_not_spoil_the_others() {
        for long in [4_000_000_000, 86_400_000_000_000] {
            let mut delays = Delays::new();
            let mut record = |delay: i64| {
                delays.record(delay);
            };
            (0..150).for_each(|i| record(20_000_000 + i * 10_000));
            record(long);
            (0..150).for_each(|i| record(19_900_000 + i * 10_000));
            let (p50, p99) =
                (delays.variations().p50.expect("a median"), delays.variations().p99.expect("a percentile"));
            assert!((p50 - 0.8).abs() < 0.02 && (p99 - 1.57).abs() < 0.04, "{p50} {p99}");
        }
    }

    #[test]
    fn drift_moves_the_base_seldom() {
        let mut delays = Delays::new();
        for i in 0..100_000 {
            delays.record(-1_000 * i);
        }
        assert!(delays.moves < 150, "{}", delays.moves);
        let median = delays.variations().p50.expect("a median");
        assert!((median - 50.0).abs() < 0.5, "{median}");
    }

    #[test]
    fn histogram_is_that_of_the_variations() {
        let mut delays = Delays::new();
        for delay in [-7_000_000, -8_000_000, -4_000_000, -4_000_000] {
            delays.record(delay);
        }
        let histogram = delays.histogram();
        assert_eq!(histogram.len(), 4);
        for (variation, quantile) in [(1_000.0, 0.25), (1_000_000.0, 0.5), (4_000_000.0, 1.0)] {
            let found = histogram.value_at_quantile(quantile) as f64;
            assert!((found - variation).abs() <= variation * 0.02, "{found} {variation}");
        }
    }

    #[test]
    fn delays_may_be_negative() {
        let mut delays = Delays::new();
        [-2_000_000, -1_000_000].iter().for_each(|delay| {
            delays.record(*delay);
        });
        assert_eq!(delays.delays().min, Some(-2.0));
        assert_eq!(delays.delays().max, Some(-1.0));
        assert_eq!(Delays::new().variations(), DelaySummary::default());
    }

    #[test]
    fn clock_that_drifts_moves_the_base_seldom() {
        let mut delays = Delays::new();
        // 10 parts in a million, at a thousand packets a second.
        (0..100_000).for_each(|i| {
            delays.record(50_000 - i * 10);
        });
        let summary = delays.variations();
        let expected = 0.5 * 100_000.0 * 10.0 / 1e6;
        assert!((summary.p50.expect("a median") - expected).abs() < expected * 0.01, "{summary:?}");
    }

    proptest! {
        #[test]
        fn percentiles_are_exact_to_a_hundredth_of_the_range(
            list in vec(-50_000_000_i64..50_000_000, 1..300), offset in -1_i64 << 60..1 << 60
        ) {
            let mut delays = Delays::new();
            list.iter().for_each(|delay| { delays.record(delay + offset); });
            let mut sorted = list.clone();
            sorted.sort_unstable();
            let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
            let summary = delays.variations();
            prop_assert_eq!(summary.min, Some(0.0));
            let near = |shown: Option<f64>, exact: f64| {
                (shown.expect("a time") - exact / 1e6).abs() <= ((max - min) as f64 / 100.0 + 1_000.0) / 1e6
            };
            let rank = |quantile: f64| sorted[((sorted.len() as f64 * quantile).ceil() as usize).max(1) - 1] - min;
            prop_assert!(near(summary.p50, rank(0.5) as f64), "{summary:?} {}", rank(0.5));
            prop_assert!(near(summary.p99, rank(0.99) as f64), "{summary:?} {}", rank(0.99));
            prop_assert!(near(summary.max, (max - min) as f64));
            let mean = sorted.iter().map(|delay| (delay - min) as f64).sum::<f64>() / sorted.len() as f64;
            prop_assert!(near(summary.mean, mean), "{summary:?} {mean}");
        }

        #[test]
        fn no_delays_make_it_panic(list in vec(any::<i64>(), 0..50)) {
            let mut delays = Delays::new();
            list.iter().for_each(|delay| { delays.record(*delay); });
            let _ = (delays.variations(), delays.delays());
        }
    }
}
