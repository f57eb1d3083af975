//! The axes of the picture: round numbers as ticks, on a linear or logarithmic scale. Pure.

use std::ops::Range;

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::format::two_digits;

/// An axis with ticks of its own.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Where they are, and their labels.
    pub ticks: Vec<(f64, String)>,
    pub range: Range<f64>,
}

impl Axis {
    /// Returns an axis from 0 to `end`.
    pub fn linear(end: f64) -> Self {
        let end = end.max(1e-9);
        let decade = 10_f64.powf((end / 10.0).log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().map(|step| step * decade).find(|step| end / step <= 10.0);
        let step = step.unwrap_or(10.0 * decade);
        let ticks = (0..=10).map(|tick| f64::from(tick) * step).filter(|tick| *tick <= end * 1.001);
        Self { ticks: ticks.map(|tick| (tick, label(tick))).collect(), range: 0.0..end }
    }

    /// Returns the logarithmic axis, in milliseconds, that has room for all times.
    pub fn of_times<'a>(histograms: impl Iterator<Item = &'a Histogram<u64>>) -> Self {
        let ends = histograms.filter(|histogram| !histogram.is_empty());
        let ends = ends.map(|histogram| (position(histogram.min_nz() as f64), position(histogram.max() as f64)));
        let (min, max) = ends.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1))).unwrap_or((-1.0, 0.0));
        let middle = (min + max) / 2.0;
        // At least a factor of 2.5, or noise would look like a trend.
        let (min, max) = (min.min(middle - 0.2), max.max(middle + 0.2));
        let margin = (max - min) / 20.0;
        let range = min - margin..max + margin;
        let steps: &[f64] = match max - min {
            ..0.7 => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            ..4.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let decades = range.start.floor() as i32..=range.end.floor() as i32;
        let ticks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        let ticks = ticks.map(|millis| (millis.log10(), label(millis))).filter(|(tick, _)| range.contains(tick));
        Self { ticks: ticks.collect(), range }
    }

    /// Returns the axis of the shares of `most` answers, where each further tick is a tenth of the rest.
    pub fn of_shares(most: u64) -> Self {
        // The slowest of n answers begins at 1 - 1/n.
        let end = (most.max(1) as f64).log10().max(1.0) + 0.3;
        let nines = (1..).map(|nines| (nines, 1.0 - 0.1_f64.powi(nines)));
        let ticks = [(0, 0.0), (0, 0.5)].into_iter().chain(nines);
        let ticks =
            ticks.map(|(nines, share)| (rarity(share), format!("{:.*}", (nines - 2).max(0) as usize, 100.0 * share)));
        Self { ticks: ticks.take_while(|(tick, _)| *tick < end).collect(), range: 0.0..end }
    }

    /// Adds a tick above all others if `count` is not 0, and returns that many places around it.
    pub fn add_lanes(&mut self, label: &str, count: usize) -> impl Iterator<Item = f64> + use<> {
        let lane = (self.range.end - self.range.start) / 32.0;
        let first = self.range.end + 2.0 * lane;
        if count > 0 {
            let last = first + lane * (count - 1) as f64;
            self.ticks.push(((first + last) / 2.0, label.to_owned()));
            self.range.end = last + 2.0 * lane;
        }
        (0..count).map(move |index| first + lane * index as f64)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(tick, _)| *tick).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|(tick, _)| tick == value).map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// Returns the label of a tick, without zeros at the end.
fn label(number: f64) -> String {
    let text = two_digits(number);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Returns a point of the axis of percentiles for a share of the answers; infinite for all of them.
pub fn rarity(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// Returns a point of the axis of times for a time in nanoseconds.
pub fn position(nanos: f64) -> f64 {
    (nanos.max(1.0) / 1e6).log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::probe::latency::Latencies;

    #[test]
    fn ticks_are_round_numbers() {
        let labels = |axis: Axis| axis.ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(Axis::linear(10.0)), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
        assert_eq!(labels(Axis::linear(0.25)), ["0", "0.05", "0.1", "0.15", "0.2", "0.25"]);
        assert_eq!(labels(Axis::of_shares(2000)), ["0", "50", "90", "99", "99.9"]);
        let times = |micros| labels(Axis::of_times([Latencies::from_micros(micros).histogram()].into_iter()));
        assert_eq!(times(&[48, 5_100]), ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]);
        assert_eq!(times(&[50]), ["0.04", "0.05", "0.06", "0.07", "0.08"]);
        assert_eq!(times(&[1, 10_000_000]), ["0.001", "0.01", "0.1", "1", "10", "100", "1000", "10000"]);
    }

    #[test]
    fn lanes_are_above_all_times_and_apart() {
        let mut axis = Axis::linear(10.0);
        let ticks = axis.ticks.len();
        assert_eq!((axis.add_lanes("lost", 0).count(), axis.ticks.len(), axis.range.end), (0, ticks, 10.0));
        let lanes: Vec<f64> = axis.add_lanes("lost", 3).collect();
        assert!(lanes[0] > 10.0 && lanes.is_sorted() && lanes[0] < lanes[1] && lanes[2] < axis.range.end, "{lanes:?}");
        assert_eq!(axis.ticks.last(), Some(&(lanes[1], "lost".to_owned())));
    }
}
