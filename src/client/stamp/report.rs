//! What STAMP adds to the report of a ping. Pure.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Session;
use super::delays::DelaySummary;
use super::losses::ReflectorKind;
use crate::client::probe::latency::{decimals, round_to};
use crate::client::probe::limits::Limits;
use crate::client::report::{millis, percent};

/// The two directions of a session.
#[derive(Clone, Debug, Serialize)]
pub struct StampReport {
    /// `None` without an answer.
    reflector: Option<ReflectorKind>,
    up: DirectionReport,
    down: DirectionReport,
    /// Lost probes that may have been lost in either direction.
    unknown_direction: u64,
    /// How long the reflector had the packets.
    processing_ms: DelaySummary,
}

#[derive(Clone, Debug, Serialize)]
struct DirectionReport {
    /// `None` unless the reflector is stateful: then all losses are of an unknown direction.
    lost: Option<u64>,
    /// Of those that were sent in this direction.
    #[serde(skip)]
    loss_percent: f64,
    /// Of the latest packet.
    hops: Option<u8>,
    delay_variation_ms: DelaySummary,
    one_way_ms: Option<OneWay>,
    /// For pictures.
    #[serde(skip)]
    variations: Histogram<u64>,
}

/// Delays between two synchronized clocks.
#[derive(Clone, Debug, Serialize)]
struct OneWay {
    #[serde(flatten)]
    delays: DelaySummary,
    /// The largest error of both clocks together.
    error: f64,
}

impl StampReport {
    /// Creates the report on `sent` probes, of which `lost` had no answer.
    pub(super) fn new(session: &Session, sent: u64, lost: u64) -> Self {
        let (losses, reflector) = (session.losses.by_direction(lost), session.losses.reflector());
        let direction = |direction: &super::Direction, lost: u64, sent: u64| {
            let delays = direction.delays.delays();
            let error = direction.error.filter(|_| delays.min.is_some());
            DirectionReport {
                lost: (reflector == Some(ReflectorKind::Stateful)).then_some(lost),
                loss_percent: if sent == 0 { 0.0 } else { 100.0 * lost as f64 / sent as f64 },
                hops: direction.hops,
                delay_variation_ms: direction.delays.variations(),
                variations: direction.delays.histogram(),
                one_way_ms: error.map(|error| OneWay { delays, error: round_to(error * 1e3, 4) }),
            }
        };
        Self {
            reflector,
            up: direction(&session.up, losses.up, sent),
            down: direction(&session.down, losses.down, sent.saturating_sub(losses.up)),
            unknown_direction: losses.unknown,
            processing_ms: session.processing.delays(),
        }
    }

    /// Returns for each direction its name, how many probes were lost in it if that is known, and how its delays vary,
    /// in milliseconds.
    pub fn directions(&self) -> [(&'static str, Option<u64>, &DelaySummary); 2] {
        [("up", &self.up), ("down", &self.down)]
            .map(|(name, direction)| (name, direction.lost, &direction.delay_variation_ms))
    }

    /// Returns the distribution of the variations of the delay in nanoseconds, up and down.
    pub fn variations(&self) -> [(&'static str, &Histogram<u64>); 2] {
        [("up", &self.up.variations), ("down", &self.down.variations)]
    }

    /// Returns how many probes were lost in an unknown direction.
    pub fn unknown_direction(&self) -> u64 {
        self.unknown_direction
    }

    /// Returns a message for each exceeded limit on a direction. Where the direction of losses cannot be known, they
    /// exceed any limit on one.
    pub fn exceeded(&self, limits: &Limits) -> Vec<String> {
        let mut messages = Vec::new();
        for (name, limit, direction) in [("up", limits.loss_up, &self.up), ("down", limits.loss_down, &self.down)] {
            let Some(limit) = limit else { continue };
            let loss = direction.loss_percent;
            if self.reflector == Some(ReflectorKind::Stateless) && self.unknown_direction > 0 {
                messages.push(format!("loss {name} is not known, as the reflector is stateless"));
            } else if loss > limit {
                messages.push(format!("loss {name} {loss:.*}% is over {limit}%", decimals(loss, 3)));
            }
        }
        messages
    }
}

impl Display for StampReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, direction) in [("up", &self.up), ("down", &self.down)] {
            let DirectionReport { lost, loss_percent, hops, delay_variation_ms: variation, one_way_ms, .. } = direction;
            write!(f, "{name}: ")?;
            match lost {
                Some(lost) => write!(f, "{lost} lost ({})", percent(*loss_percent))?,
                None => write!(f, "lost unknown")?,
            }
            if let Some(hops) = hops {
                write!(f, ", {hops} hops")?;
            }
            let DelaySummary { mean, p50, p99, max, .. } = variation;
            let [mean, p50, p99, max] = [mean, p50, p99, max].map(|time| millis(*time));
            writeln!(f, ", delay variation mean {mean}   p50 {p50}   p99 {p99}   max {max} ms")?;
            if let Some(OneWay { delays: DelaySummary { min, mean, p50, p99, max }, error }) = one_way_ms {
                let [min, mean, p50, p99, max] = [min, mean, p50, p99, max].map(|time| millis(*time));
                let times = format!("min {min}   mean {mean}   p50 {p50}   p99 {p99}   max {max}");
                writeln!(f, "{name}: one way {times} ms, within {error:.3} ms by the clocks' own estimate")?;
            }
        }
        match self.reflector {
            Some(ReflectorKind::Stateless) => {
                writeln!(f, "the reflector is stateless: it repeats the sender's numbers, so losses have no direction")
            }
            _ if self.unknown_direction > 0 => writeln!(f, "direction unknown: {} lost", self.unknown_direction),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::stamp::StampOptions;

    #[test]
    fn without_an_answer_nothing_is_known() {
        let mut session = Session::new(&StampOptions::default(), 7, None);
        session.sent();
        session.lost(0);
        let report = session.report(1, 1);
        let json = serde_json::to_value(&report).expect("JSON");
        let times = serde_json::json!({"min": null, "mean": null, "p50": null, "p99": null, "max": null});
        let direction =
            serde_json::json!({"lost": null, "hops": null, "delay_variation_ms": times, "one_way_ms": null});
        assert_eq!(
            json,
            serde_json::json!({
                "reflector": null, "up": direction, "down": direction, "unknown_direction": 1, "processing_ms": times
            })
        );
        assert!(report.to_string().ends_with("direction unknown: 1 lost\n"), "{report}");
    }

    #[test]
    fn limits_are_on_what_was_sent_in_a_direction() {
        let direction = |lost, loss_percent| DirectionReport {
            lost: Some(lost),
            loss_percent,
            hops: None,
            delay_variation_ms: DelaySummary::default(),
            one_way_ms: None,
            variations: crate::client::stamp::delays::Delays::new().histogram(),
        };
        let mut report = StampReport {
            reflector: Some(ReflectorKind::Stateful),
            up: direction(5, 5.0),
            down: direction(1, 1.05),
            unknown_direction: 1,
            processing_ms: DelaySummary::default(),
        };
        let limits = |up, down| Limits { loss_up: up, loss_down: down, ..Limits::default() };
        assert!(report.exceeded(&limits(Some(5.0), Some(1.1))).is_empty());
        assert!(report.exceeded(&limits(None, None)).is_empty());
        assert_eq!(
            report.exceeded(&limits(Some(4.9), Some(1.0))),
            ["loss up 5.000% is over 4.9%", "loss down 1.050% is over 1%"]
        );
        report.reflector = Some(ReflectorKind::Stateless);
        assert_eq!(
            report.exceeded(&limits(Some(100.0), None)),
            ["loss up is not known, as the reflector is stateless"]
        );
    }
}
