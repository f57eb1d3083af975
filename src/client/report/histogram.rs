//! Times drawn in a terminal: a row of blocks for each step between the shortest and the longest. Pure.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;

/// How many rows, unless all times are the same.
const ROWS: usize = 10;

/// How many characters the longest bar takes: with its labels a row fits into 80.
const WIDTH: usize = 48;

/// From an eighth of a block to a whole one.
const BLOCKS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Shows times recorded in nanoseconds, in milliseconds; nothing when there are none.
///
/// Each row spans the same ratio, since round trips lie close together and their outliers far away.
#[derive(Debug)]
pub struct Drawing<'a>(pub &'a Histogram<u64>);

impl Display for Drawing<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let (bounds, counts) = rows(self.0);
        let most = counts.iter().copied().max().unwrap_or_default();
        let labels = |nanos: f64| format!("{:.3}", nanos / 1e6);
        let width = bounds.iter().map(|bound| labels(*bound).len()).max().unwrap_or_default();
        for (bounds, count) in bounds.windows(2).zip(counts) {
            let (from, to) = (labels(bounds[0]), labels(bounds[1]));
            writeln!(f, "{from:>width$} - {to:>width$} ms  {:<WIDTH$}  {count}", bar(count, most))?;
        }
        Ok(())
    }
}

/// The bounds of the rows in nanoseconds, one more than rows, and the number of times in each row.
fn rows(histogram: &Histogram<u64>) -> (Vec<f64>, Vec<u64>) {
    let rows = if histogram.equivalent(histogram.min(), histogram.max()) { 1 } else { ROWS };
    let (min, max) = (histogram.min().max(1) as f64, histogram.max() as f64);
    let ratio = (max / min).powf(1.0 / rows as f64);
    let mut bounds: Vec<f64> = (0..rows).map(|row| min * ratio.powi(row as i32)).collect();
    bounds.push(max);
    let mut counts = vec![0; rows];
    for value in histogram.iter_recorded() {
        let at = value.value_iterated_to() as f64;
        let row = bounds[1..rows].partition_point(|bound| *bound < at);
        counts[row] += value.count_at_value();
    }
    (bounds, counts)
}

/// A bar in proportion, to an eighth of a character; what is there at all is seen.
fn bar(count: u64, most: u64) -> String {
    if count == 0 {
        return String::new();
    }
    let eighths = ((count as f64 / most as f64 * (WIDTH * 8) as f64).round() as usize).max(1);
    let (whole, part) = (eighths / 8, eighths % 8);
    let last = part.checked_sub(1).map(|part| BLOCKS[part]);
    std::iter::repeat_n(BLOCKS[7], whole).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::probe::latency::Latencies;

    fn drawn(micros: &[u64]) -> String {
        let mut latencies = Latencies::new();
        micros.iter().for_each(|micros| latencies.record(std::time::Duration::from_micros(*micros)));
        Drawing(latencies.histogram()).to_string()
    }

    #[test]
    fn nothing_is_drawn_of_nothing_and_one_row_of_one_value() {
        assert_eq!(drawn(&[]), "");
        let one = drawn(&[1000, 1000]);
        assert_eq!(one.lines().count(), 1);
        assert!(one.ends_with("  2\n"), "{one}");
    }

    #[test]
    fn the_fullest_row_is_the_longest_and_a_single_time_is_seen() {
        let mut micros = vec![100; 1000];
        micros.push(100_000);
        let drawn = drawn(&micros);
        assert_eq!(drawn.lines().count(), ROWS);
        assert!(drawn.lines().next().is_some_and(|line| line.contains(&"█".repeat(WIDTH))));
        assert!(drawn.lines().last().is_some_and(|line| line.contains('▏') && line.ends_with("  1")));
    }

    proptest! {
        #[test]
        fn every_time_is_in_one_row_and_every_row_fits(
            micros in proptest::collection::vec(0..100_000_000_u64, 1..200)
        ) {
            let drawn = drawn(&micros);
            let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
            prop_assert_eq!(drawn.lines().map(count).sum::<usize>(), micros.len());
            prop_assert!(drawn.lines().all(|line| line.chars().count() <= 90));
        }
    }
}
