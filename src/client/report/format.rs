//! How the text reports show numbers. Pure.

use crate::client::probe::latency::{Summary, decimals};
use crate::client::probe::outcome::OutcomeCounts;

/// Formats a percentage with one decimal or, close to 0 or 100, with two significant digits of the distance from there:
/// only 0 is shown as `0.0%`, and only 100 as `100.0%`.
pub fn percent(value: f64) -> String {
    format!("{value:.*}%", decimals(value.min(100.0 - value), 1))
}

/// Formats how many probes were sent and how they ended.
///
/// Late and refused probes are lost ones here, as in the percentage, so that `sent` is the sum of answered, lost,
/// truncated and altered.
pub fn counts(counts: &OutcomeCounts) -> String {
    let percentage = percent(counts.loss_percent());
    let mut line = format!("{} sent, {} answered", counts.sent, counts.answered);
    line += &format!(", {} lost ({percentage}", counts.without_timely_answer());
    let mut separator = ";";
    for (count, name) in [(counts.late, "late"), (counts.refused, "refused")] {
        if count > 0 {
            line += &format!("{separator} {count} {name}");
            separator = ",";
        }
    }
    line += &format!("), {} duplicate, {} reordered", counts.duplicate, counts.reordered);
    for (count, name) in [(counts.truncated, "truncated"), (counts.altered, "altered"), (counts.unmatched, "unmatched")]
    {
        if count > 0 {
            line += &format!(", {count} {name}");
        }
    }
    line
}

/// Formats milliseconds with three decimals; `-` for `None`.
pub fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// Formats a number with two significant digits, and without an exponent.
pub fn two_digits(value: f64) -> String {
    let decimals = if value > 0.0 { (1.0 - value.log10().floor()).clamp(0.0, 9.0) } else { 0.0 };
    format!("{value:.0$}", decimals as usize)
}

/// Formats `min/avg/max/stddev = … ms`.
pub fn range(summary: &Summary) -> String {
    let [min, mean, max, stddev] = [summary.min, summary.mean, summary.max, summary.stddev].map(millis);
    format!("min/avg/max/stddev = {min}/{mean}/{max}/{stddev} ms")
}

/// Formats `p50 …   p90 …   p99 …   p99.9 … ms`.
pub fn percentiles(summary: &Summary) -> String {
    let [p50, p90, p99, p99_9] = [summary.p50, summary.p90, summary.p99, summary.p99_9].map(millis);
    format!("p50 {p50}   p90 {p90}   p99 {p99}   p99.9 {p99_9} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentage_is_not_rounded_to_0_or_100() {
        let shown = [0.0, 100.0 * 8.0 / 70_145.0, 0.5, 1.0, 12.34, 99.988_6, 99.999, 100.0].map(percent);
        assert_eq!(shown, ["0.0%", "0.011%", "0.50%", "1.0%", "12.3%", "99.989%", "99.9990%", "100.0%"]);
    }

    #[test]
    fn lost_probes_include_late_and_refused_ones() {
        let some = OutcomeCounts { sent: 10, answered: 9, lost: 1, reordered: 1, ..OutcomeCounts::default() };
        assert_eq!(counts(&some), "10 sent, 9 answered, 1 lost (10.0%), 0 duplicate, 1 reordered");
        let all = OutcomeCounts {
            sent: 9,
            answered: 1,
            late: 1,
            lost: 1,
            refused: 1,
            truncated: 2,
            altered: 3,
            unmatched: 4,
            ..OutcomeCounts::default()
        };
        assert_eq!(
            counts(&all),
            "9 sent, 1 answered, 3 lost (33.3%; 1 late, 1 refused), 0 duplicate, 0 reordered, \
             2 truncated, 3 altered, 4 unmatched"
        );
    }

    #[test]
    fn missing_times_are_dashes() {
        assert_eq!(range(&Summary::default()), "min/avg/max/stddev = -/-/-/- ms");
    }
}
