//! How the text reports show numbers. Pure.

use crate::client::probe::latency::Summary;

/// Formats a percentage with one decimal. Only 0 is shown as `0.0%`, and only 100 as `100.0%`.
pub fn percent(value: f64) -> String {
    let shown = if value > 0.0 && value < 100.0 { value.clamp(0.1, 99.9) } else { value };
    format!("{shown:.1}%")
}

/// Formats milliseconds with three decimals; `-` for `None`.
pub fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
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
        assert_eq!([0.0, 0.001, 12.34, 99.999, 100.0].map(percent), ["0.0%", "0.1%", "12.3%", "99.9%", "100.0%"]);
    }

    #[test]
    fn missing_times_are_dashes() {
        assert_eq!(range(&Summary::default()), "min/avg/max/stddev = -/-/-/- ms");
    }
}
