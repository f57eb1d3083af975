//! A table of times with bars, for a terminal. Pure.

use std::fmt::{self, Display, Formatter};

use super::format::percent;
use super::terminal::Terminal;
use crate::client::probe::latency::Latencies;

/// Fewer times are not shown: a distribution of few times is an accident.
const FEWEST: u64 = 20;

/// The number of rows, unless all times are equal.
const ROWS: usize = 10;

/// From an eighth of a block to a whole one.
const BLOCKS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Displays an empty line and how many times are in which range, in milliseconds; nothing if there are too few for a
/// distribution.
///
/// The scale is logarithmic, so every row spans the same ratio: most round trips are close together, and outliers far
/// away.
#[derive(Debug)]
pub struct BarChart<'a> {
    /// The times.
    pub latencies: &'a Latencies,
    /// No row is wider than this, if its numbers are not.
    pub terminal: Terminal,
}

impl Display for BarChart<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let total = self.latencies.histogram().len();
        if total < FEWEST {
            return Ok(());
        }
        let (bounds, counts) = rows(self.latencies);
        let bounds = labels(&bounds);
        let sums = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(percent(100.0 * *sum as f64 / total as f64))
        });
        let sums: Vec<_> = sums.collect();
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default();
        let width = widest(&mut bounds.iter().map(String::len));
        let count_width = widest(&mut counts.iter().map(|count| count.to_string().len())).max(COUNT.len());
        let sum_width = widest(&mut sums.iter().map(String::len)).max(SUM.len());
        writeln!(f, "\n{:>1$}  {COUNT:>count_width$}  {SUM:>sum_width$}", "ms", 2 * width + 3)?;
        let bar_width = self.terminal.width.saturating_sub(2 * width + 3 + 2 + count_width + 2 + sum_width + 2);
        let highest = counts.iter().copied().max().unwrap_or_default();
        for ((bounds, count), sum) in bounds.windows(2).zip(counts).zip(sums) {
            let row =
                format!("{:>width$} - {:>width$}  {count:>count_width$}  {sum:>sum_width$}", bounds[0], bounds[1]);
            let bar = bar(count as f64 / highest as f64 * bar_width as f64, self.terminal.unicode);
            writeln!(f, "{}", format!("{row}  {bar}").trim_end())?;
        }
        Ok(())
    }
}

/// The headings of the counts, and of their sum so far.
const COUNT: &str = "count";
const SUM: &str = "cum.";

/// Returns the bounds of the rows in nanoseconds, one more than there are rows, and the number of times in each row.
fn rows(latencies: &Latencies) -> (Vec<f64>, Vec<u64>) {
    let histogram = latencies.histogram();
    let (min, max) = (latencies.min().as_nanos().max(1) as f64, latencies.max().as_nanos().max(1) as f64);
    let rows = if histogram.equivalent(histogram.min(), histogram.max()) { 1 } else { ROWS };
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

/// Returns the bounds in milliseconds, with as many decimals as it takes to distinguish them.
fn labels(bounds: &[f64]) -> Vec<String> {
    let with = |decimals| bounds.iter().map(|nanos| format!("{:.decimals$}", nanos / 1e6)).collect::<Vec<_>>();
    let distinct = |labels: &Vec<String>| labels.windows(2).all(|pair| pair[0] != pair[1]);
    let mut labels = (3..6).map(with);
    if bounds.len() > 2 { labels.find(distinct) } else { labels.next() }.unwrap_or_else(|| with(6))
}

/// Returns a bar of a length in characters, to an eighth of one with `unicode`. Only a length of 0 gives an empty bar.
fn bar(length: f64, unicode: bool) -> String {
    if length <= 0.0 {
        return String::new();
    }
    if !unicode {
        return "#".repeat((length.round() as usize).max(1));
    }
    let eighths = ((length * 8.0).round() as usize).max(1);
    let last = (eighths % 8).checked_sub(1).map(|index| BLOCKS[index]);
    std::iter::repeat_n(BLOCKS[7], eighths / 8).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chart(micros: &[u64], width: usize, unicode: bool) -> String {
        let latencies = Latencies::from_micros(micros);
        BarChart { latencies: &latencies, terminal: Terminal { width, unicode, ..Terminal::default() } }.to_string()
    }

    #[test]
    fn few_times_give_no_row_and_equal_times_give_one() {
        assert_eq!(chart(&[1; 19], 80, true), "");
        assert_eq!(
            chart(&[1000; 20], 40, false),
            "\n           ms  count    cum.\n\
             1.000 - 1.000     20  100.0%  ##########\n"
        );
    }

    #[test]
    fn fullest_row_fills_the_line_and_single_time_is_visible() {
        let mut micros = vec![100; 1000];
        micros.push(100_000);
        let chart = chart(&micros, 80, true);
        let rows: Vec<_> = chart.lines().skip(2).collect();
        assert_eq!(rows.len(), ROWS);
        assert!(rows[0].ends_with('█') && rows[0].chars().count() == 80, "{chart}");
        assert!(rows[9].starts_with(" 50.119 - 100.000      1  ") && rows[9].ends_with("  100.0%  ▏"), "{chart}");
        assert!(rows[8].contains("  99.9"), "{chart}");
    }

    #[test]
    fn bounds_are_exact_at_the_ends_and_distinct_between() {
        let chart = chart(&(0..40).map(|time| 31 + time / 10).collect::<Vec<_>>(), 80, true);
        let rows: Vec<_> = chart.lines().skip(2).collect();
        assert!(rows[0].starts_with("0.0310 - 0.0313 ") && rows[9].starts_with("0.0337 - 0.0340 "), "{chart}");
    }

    proptest! {
        #[test]
        fn every_time_is_in_one_row_and_no_row_is_too_wide(
            micros in proptest::collection::vec(0..100_000_000_u64, 20..200),
            width in 50..200_usize,
            unicode: bool,
        ) {
            let chart = chart(&micros, width, unicode);
            let count = |line: &str| line.split_whitespace().nth(3).and_then(|count| count.parse().ok()).unwrap_or(0);
            prop_assert_eq!(chart.lines().skip(2).map(count).sum::<usize>(), micros.len());
            prop_assert!(chart.lines().all(|line| line.chars().count() <= width));
            prop_assert!(unicode || chart.is_ascii());
        }
    }
}
