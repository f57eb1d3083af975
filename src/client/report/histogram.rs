//! A bar chart of times for a terminal. Pure.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;

/// The number of rows, unless all times are equal.
const ROWS: usize = 10;

/// The length of the longest bar in characters: with its labels, a row usually fits into 80 columns.
const BAR_WIDTH: usize = 48;

/// From an eighth of a block to a whole one.
const BLOCKS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Displays times that were recorded in nanoseconds, in milliseconds. Displays nothing when there are none.
///
/// The scale is logarithmic, so every row spans the same ratio: most round trips are close together, and outliers far
/// away.
#[derive(Debug)]
pub struct BarChart<'a>(pub &'a Histogram<u64>);

impl Display for BarChart<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let (bounds, counts) = rows(self.0);
        let highest = counts.iter().copied().max().unwrap_or_default();
        let label = |nanos: f64| format!("{:.3}", nanos / 1e6);
        let width = bounds.iter().map(|bound| label(*bound).len()).max().unwrap_or_default();
        for (bounds, count) in bounds.windows(2).zip(counts) {
            let (from, to) = (label(bounds[0]), label(bounds[1]));
            writeln!(f, "{from:>width$} - {to:>width$} ms  {:<BAR_WIDTH$}  {count}", bar(count, highest))?;
        }
        Ok(())
    }
}

/// Returns the bounds of the rows in nanoseconds, one more than there are rows, and the number of times in each row.
fn rows(histogram: &Histogram<u64>) -> (Vec<f64>, Vec<u64>) {
    let rows = if histogram.equivalent(histogram.min(), histogram.max()) { 1 } else { ROWS };
    let (min, max) = (histogram.min().max(1) as f64, histogram.max() as f64);
    let ratio = (max / min).powf(1.0 / rows as f64);
    let mut bounds: Vec<f64> = (0..rows).map(|row| min * ratio.powi(row as i32)).collect();
    bounds.push(max);
    let mut counts = vec![0; rows];
    for recorded in histogram.iter_recorded() {
        let nanos = recorded.value_iterated_to() as f64;
        let row = bounds[1..rows].partition_point(|bound| *bound < nanos);
        counts[row] += recorded.count_at_value();
    }
    (bounds, counts)
}

/// Returns a bar in proportion to the highest count, to an eighth of a character. Only a count of 0 has an empty bar.
fn bar(count: u64, highest: u64) -> String {
    if count == 0 {
        return String::new();
    }
    let eighths = ((count as f64 / highest as f64 * (BAR_WIDTH * 8) as f64).round() as usize).max(1);
    let last = (eighths % 8).checked_sub(1).map(|index| BLOCKS[index]);
    std::iter::repeat_n(BLOCKS[7], eighths / 8).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::probe::latency::Latencies;

    fn chart(micros: &[u64]) -> String {
        BarChart(Latencies::from_micros(micros).histogram()).to_string()
    }

    #[test]
    fn no_times_give_no_row_and_equal_times_give_one() {
        assert_eq!(chart(&[]), "");
        let one = chart(&[1000, 1000]);
        assert_eq!(one.lines().count(), 1);
        assert!(one.ends_with("  2\n"), "{one}");
    }

    #[test]
    fn fullest_row_has_longest_bar_and_single_time_is_visible() {
        let mut micros = vec![100; 1000];
        micros.push(100_000);
        let chart = chart(&micros);
        assert_eq!(chart.lines().count(), ROWS);
        assert!(chart.lines().next().is_some_and(|line| line.contains(&"█".repeat(BAR_WIDTH))));
        assert!(chart.lines().last().is_some_and(|line| line.contains('▏') && line.ends_with("  1")));
    }

    proptest! {
        #[test]
        fn every_time_is_in_one_row_and_rows_are_short(
            micros in proptest::collection::vec(0..100_000_000_u64, 1..200)
        ) {
            let chart = chart(&micros);
            let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
            prop_assert_eq!(chart.lines().map(count).sum::<usize>(), micros.len());
            prop_assert!(chart.lines().all(|line| line.chars().count() <= 90));
        }
    }
}
