//! Limits that a result must keep to be a success. Pure.

use std::time::Duration;

use super::latency::{Summary, decimals};

/// Limits on a result; `None` means no limit. A result that equals a limit keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// The limit on late, lost and refused probes, in percent.
    pub loss: Option<f64>,
    /// The limit on the probes lost on the way to a STAMP reflector, in percent of all.
    pub loss_up: Option<f64>,
    /// The limit on the probes lost on the way back from a STAMP reflector, in percent of those that it returned.
    pub loss_down: Option<f64>,
    /// The limit on the mean.
    pub mean: Option<Duration>,
    /// The limit on the median.
    pub p50: Option<Duration>,
    /// The limit on the 90th percentile.
    pub p90: Option<Duration>,
    /// The limit on the 99th percentile.
    pub p99: Option<Duration>,
    /// The limit on the 99.9th percentile.
    pub p99_9: Option<Duration>,
    /// The limit on the longest time.
    pub max: Option<Duration>,
}

impl Limits {
    /// Returns a message for each exceeded limit, such as `loss 1.500% is over 1%`. A time that is `None` exceeds none.
    pub fn exceeded(&self, loss_percent: f64, summary: &Summary) -> Vec<String> {
        let mut messages = Vec::new();
        if let Some(limit) = self.loss.filter(|limit| loss_percent > *limit) {
            messages.push(format!("loss {loss_percent:.*}% is over {limit}%", decimals(loss_percent, 3)));
        }
        for (name, limit, millis) in [
            ("mean", self.mean, summary.mean),
            ("p50", self.p50, summary.p50),
            ("p90", self.p90, summary.p90),
            ("p99", self.p99, summary.p99),
            ("p99.9", self.p99_9, summary.p99_9),
            ("the longest time (--max-rtt)", self.max, summary.max),
        ] {
            if let (Some(limit), Some(millis)) = (limit, millis)
                && millis > limit.as_secs_f64() * 1e3
            {
                messages.push(format!("{name}, {millis:.3} ms, is over {}", humantime::format_duration(limit)));
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_exceeded_limits_only() {
        let summary = Summary { p50: Some(1.0), p99: Some(7.0), max: Some(9.5), ..Summary::default() };
        let limits = Limits {
            loss: Some(1.0),
            p50: Some(Duration::from_millis(1)),
            p99: Some(Duration::from_millis(5)),
            max: Some(Duration::from_millis(9)),
            ..Limits::default()
        };
        assert_eq!(
            limits.exceeded(1.5, &summary),
            [
                "loss 1.500% is over 1%",
                "p99, 7.000 ms, is over 5ms",
                "the longest time (--max-rtt), 9.500 ms, is over 9ms"
            ]
        );
        assert!(limits.exceeded(1.0, &Summary::default()).is_empty());
        assert!(Limits::default().exceeded(100.0, &summary).is_empty());
    }

    #[test]
    fn loss_limit_can_be_zero() {
        let limits = Limits { loss: Some(0.0), ..Limits::default() };
        assert!(limits.exceeded(0.0, &Summary::default()).is_empty());
        assert_eq!(limits.exceeded(0.0001, &Summary::default()).len(), 1);
    }
}
