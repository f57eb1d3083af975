//! Round trips, recorded without bound in number and summed up without being kept. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is told apart from longer ones, in nanoseconds: 73 minutes.
const LONGEST: u64 = 1 << 42;

/// Three digits hold everywhere in a terminal, and in a decision.
const DIGITS: u8 = 3;

/// Collects times of any number in constant memory.
///
/// Least, greatest, mean and deviation are exact; percentiles hold to three digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    count: u64,
    min: u64,
    max: u64,
    /// Mean and sum of squared distances from it, as B. P. Welford goes along with them: no sum can overflow, and
    /// none loses the small difference of two large ones.
    mean: f64,
    squares: f64,
    last: Option<u64>,
    steps: f64,
}

/// What the times come to, in milliseconds. Every field is `None` when there were none, and never NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The least.
    pub min: Option<f64>,
    /// The arithmetic mean.
    pub mean: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// The standard deviation of all of them (not of a sample).
    pub stddev: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// 90 of 100 were not longer.
    pub p90: Option<f64>,
    /// 99 of 100 were not longer.
    pub p99: Option<f64>,
    /// 999 of 1,000 were not longer.
    pub p99_9: Option<f64>,
}

impl Latencies {
    /// Nothing recorded yet.
    #[allow(clippy::expect_used, reason = "the bounds are constants, and valid")]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds are constants, and valid");
        Self { histogram, count: 0, min: u64::MAX, max: 0, mean: 0.0, squares: 0.0, last: None, steps: 0.0 }
    }

    /// Adds one. It does not allocate.
    pub fn record(&mut self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(time.max(1));
        self.count += 1;
        self.min = self.min.min(time);
        self.max = self.max.max(time);
        let distance = time as f64 - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (time as f64 - self.mean);
        if let Some(last) = self.last.replace(time) {
            self.steps += time.abs_diff(last) as f64;
        }
    }

    /// Forgets all of them and keeps the memory.
    pub fn clear(&mut self) {
        self.histogram.reset();
        (self.count, self.min, self.max) = (0, u64::MAX, 0);
        (self.mean, self.squares, self.last, self.steps) = (0.0, 0.0, None, 0.0);
    }

    /// The longest; zero when there are none.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// How many there are, by value, as far as three digits tell values apart.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The figures of all so far.
    pub fn figures(&self) -> Summary {
        if self.count == 0 {
            return Summary::default();
        }
        let percentile = |quantile| {
            let nanos = self.histogram.value_at_quantile(quantile);
            Some(millis(nanos.clamp(self.min, self.max) as f64))
        };
        Summary {
            min: Some(millis(self.min as f64)),
            mean: Some(millis(self.mean.clamp(self.min as f64, self.max as f64))),
            max: Some(millis(self.max as f64)),
            stddev: Some(millis((self.squares / self.count as f64).max(0.0).sqrt())),
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p99_9: percentile(0.999),
        }
    }

    /// How far one differs from the one before it, on average, in milliseconds; `None` with fewer than two.
    pub fn jitter(&self) -> Option<f64> {
        (self.count > 1).then(|| millis(self.steps / (self.count - 1) as f64))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// Nanoseconds in milliseconds, to the nanosecond.
fn millis(nanos: f64) -> f64 {
    nanos.round() / 1e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(micros: &[u64]) -> Latencies {
        let mut latencies = Latencies::new();
        micros.iter().for_each(|micros| latencies.record(Duration::from_micros(*micros)));
        latencies
    }

    #[test]
    fn nothing_recorded_is_nothing_told() {
        assert_eq!(recorded(&[]).figures(), Summary::default());
        assert_eq!(recorded(&[]).jitter(), None);
        let mut cleared = recorded(&[1, 2]);
        cleared.clear();
        assert_eq!((cleared.figures(), cleared.jitter()), (Summary::default(), None));
    }

    #[test]
    fn one_time_is_every_figure() {
        let figures = recorded(&[31]).figures();
        let all = [figures.min, figures.mean, figures.max, figures.p50, figures.p90, figures.p99, figures.p99_9];
        assert_eq!(all, [Some(0.031); 7]);
        assert_eq!((figures.stddev, recorded(&[31]).jitter()), (Some(0.0), None));
    }

    #[test]
    fn figures_of_a_known_row() {
        let latencies = recorded(&[1000, 3000, 2000, 6000]);
        let figures = latencies.figures();
        assert_eq!((figures.min, figures.mean, figures.max), (Some(1.0), Some(3.0), Some(6.0)));
        assert_eq!(figures.stddev, Some(1.870829));
        assert_eq!(latencies.jitter(), Some(2.333333));
    }

    #[test]
    fn no_time_is_too_long_or_too_short() {
        let mut latencies = recorded(&[0]);
        latencies.record(Duration::MAX);
        let figures = latencies.figures();
        assert_eq!(figures.min, Some(0.0));
        assert!(figures.max.is_some_and(|max| max > 1e12) && figures.stddev.is_some_and(f64::is_finite));
    }

    proptest! {
        #[test]
        fn percentiles_hold_to_three_digits(mut micros in proptest::collection::vec(1..5_000_000_u64, 1..300)) {
            let figures = recorded(&micros).figures();
            micros.sort_unstable();
            for (quantile, told) in [(0.5, figures.p50), (0.9, figures.p90), (0.99, figures.p99), (0.999, figures.p99_9)] {
                let rank = (quantile * micros.len() as f64).ceil() as usize;
                let exact = micros[rank.clamp(1, micros.len()) - 1] as f64 / 1e3;
                let told = told.expect("a figure");
                prop_assert!((told - exact).abs() <= exact / 1000.0, "{quantile}: {told} for {exact}");
                prop_assert!(Some(told) >= figures.min && Some(told) <= figures.max);
            }
            prop_assert!(figures.min <= figures.mean && figures.mean <= figures.max);
        }
    }
}
