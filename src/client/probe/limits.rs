//! What a result must not exceed to be a success. Pure.

use std::time::Duration;

use super::latency::Summary;

/// Limits on a result; those that are `None` limit nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// On what is lost or refused, in percent.
    pub loss: Option<f64>,
    /// On the mean.
    pub mean: Option<Duration>,
    /// On the median.
    pub p50: Option<Duration>,
    /// On the time that 90 % stay within.
    pub p90: Option<Duration>,
    /// On the time that 99 % stay within.
    pub p99: Option<Duration>,
    /// On the time that 99.9 % stay within.
    pub p99_9: Option<Duration>,
    /// On the longest time.
    pub max: Option<Duration>,
}

impl Limits {
    /// Says which limits are broken, as `loss 10% is over 1%`; nothing when none is.
    pub fn broken(&self, loss_percent: f64, figures: &Summary) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some(limit) = self.loss.filter(|limit| loss_percent > *limit) {
            broken.push(format!("loss {loss_percent:.3}% is over {limit}%"));
        }
        for (name, limit, figure) in [
            ("mean", self.mean, figures.mean),
            ("p50", self.p50, figures.p50),
            ("p90", self.p90, figures.p90),
            ("p99", self.p99, figures.p99),
            ("p99.9", self.p99_9, figures.p99_9),
            ("the longest", self.max, figures.max),
        ] {
            if let (Some(limit), Some(figure)) = (limit, figure)
                && figure > limit.as_secs_f64() * 1e3
            {
                broken.push(format!("{name}, {figure:.3} ms, is over {}", humantime::format_duration(limit)));
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_limit_is_named_and_a_limit_that_is_met_is_not() {
        let figures = Summary { p50: Some(1.0), p99: Some(7.0), max: Some(9.5), ..Summary::default() };
        let limits = Limits {
            loss: Some(1.0),
            p50: Some(Duration::from_millis(1)),
            p99: Some(Duration::from_millis(5)),
            max: Some(Duration::from_millis(9)),
            ..Limits::default()
        };
        assert_eq!(
            limits.broken(1.5, &figures),
            ["loss 1.500% is over 1%", "p99, 7.000 ms, is over 5ms", "the longest, 9.500 ms, is over 9ms"]
        );
        assert!(limits.broken(1.0, &Summary::default()).is_empty());
        assert!(Limits::default().broken(100.0, &figures).is_empty());
    }

    #[test]
    fn no_loss_at_all_can_be_demanded() {
        let limits = Limits { loss: Some(0.0), ..Limits::default() };
        assert!(limits.broken(0.0, &Summary::default()).is_empty());
        assert_eq!(limits.broken(0.0001, &Summary::default()).len(), 1);
    }
}
