//! The metrics of a ping. Pure.

use std::time::Duration;

use crate::client::probe::outcome::Outcome;
use crate::client::stamp::StampReport;
use crate::client::stamp::delays::DelaySummary;
use crate::metrics::{Exposition, Kind, Label};

/// Every outcome, with its label.
const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Answered, "answered"),
    (Outcome::Late, "late"),
    (Outcome::Lost, "lost"),
    (Outcome::Refused, "refused"),
    (Outcome::Truncated, "truncated"),
    (Outcome::Altered, "altered"),
];

/// The histogram's buckets end at 50 us, 100 us, 200 us and so on to 26.2144 s.
const BUCKETS: usize = 20;

/// The end of the first bucket, in microseconds.
const FIRST_BUCKET: u128 = 50;

/// What is counted of the probes to one target.
///
/// Counters only rise, so a probe that is answered after it was counted as lost is counted again, by its answer: mostly
/// as late.
#[derive(Clone, Debug)]
pub(super) struct ProbeMetrics {
    /// By flow, if the flows are reported, and by outcome.
    outcomes: Vec<[u64; OUTCOMES.len()]>,
    has_flows: bool,
    /// The last one is for longer round trips.
    round_trips: [u64; BUCKETS + 1],
    total: Duration,
}

impl ProbeMetrics {
    /// Creates metrics of this many flows; `None` if they are not reported.
    pub(super) fn new(flows: Option<usize>) -> Self {
        let outcomes = vec![[0; OUTCOMES.len()]; flows.unwrap_or(1)];
        Self { outcomes, has_flows: flows.is_some(), round_trips: [0; BUCKETS + 1], total: Duration::ZERO }
    }

    /// Counts the outcome of a probe of a flow.
    pub(super) fn count(&mut self, flow: usize, outcome: Outcome) {
        let flow = if self.has_flows { flow } else { 0 };
        let index = OUTCOMES.iter().position(|(known, _)| *known == outcome);
        if let (Some(counts), Some(index)) = (self.outcomes.get_mut(flow), index) {
            counts[index] += 1;
        }
    }

    /// Counts a round trip.
    pub(super) fn record(&mut self, round_trip: Duration) {
        // Rounded up, since a bucket includes its end.
        let micros = round_trip.as_nanos().div_ceil(1_000);
        let bucket = (0..BUCKETS).find(|bucket| micros <= FIRST_BUCKET << bucket).unwrap_or(BUCKETS);
        self.round_trips[bucket] += 1;
        self.total = self.total.saturating_add(round_trip);
    }
}

/// Returns the metrics of all targets, each with its name and what STAMP has measured. Equal names get a number.
pub(super) fn metrics<'a>(
    targets: impl Iterator<Item = (&'a str, &'a ProbeMetrics, Option<StampReport>)>,
) -> Exposition {
    let mut named: Vec<(String, &ProbeMetrics, Option<StampReport>)> = Vec::new();
    for (name, metrics, stamp) in targets {
        let taken = named.iter().filter(|(other, ..)| other.split(" #").next() == Some(name)).count();
        named.push((if taken == 0 { name.to_owned() } else { format!("{name} #{}", taken + 1) }, metrics, stamp));
    }
    let mut text = Exposition::with_build_info();
    let help = "Probes that have ended, by outcome; one that is answered after all is lost first and late then.";
    let mut probes = text.family("udpong_ping_probes_total", Kind::Counter, help);
    for (target, metrics, _) in &named {
        for (flow, counts) in metrics.outcomes.iter().enumerate() {
            for ((_, outcome), count) in OUTCOMES.iter().zip(counts) {
                match metrics.has_flows {
                    true => probes.sample(&[("target", target), ("flow", &flow), ("outcome", outcome)], *count),
                    false => probes.sample(&[("target", target), ("outcome", outcome)], *count),
                }
            }
        }
    }
    let mut histograms = text.histograms("udpong_ping_rtt_seconds", "Round trips of first answers.");
    for (target, metrics, _) in &named {
        let bucket = |(bucket, count): (usize, &u64)| ((FIRST_BUCKET << bucket) as f64 / 1e6, *count);
        let buckets = metrics.round_trips[..BUCKETS].iter().enumerate().map(bucket);
        histograms.sample(&[("target", target)], buckets, metrics.round_trips[BUCKETS], metrics.total.as_secs_f64());
    }
    let directions = || named.iter().filter_map(|(target, _, stamp)| Some((target, stamp.as_ref()?)));
    if directions().next().is_some() {
        write_directions(&mut text, directions);
    }
    text
}

/// Writes the metrics of the targets that are STAMP reflectors.
fn write_directions<'a, T: Iterator<Item = (&'a String, &'a StampReport)>>(
    text: &mut Exposition,
    targets: impl Fn() -> T,
) {
    let help = "Lost probes by direction. One whose direction is found out later is counted as unknown until then.";
    let mut lost = text.family("udpong_ping_direction_lost_probes", Kind::Gauge, help);
    for (target, stamp) in targets() {
        let unknown = ("unknown", Some(stamp.unknown_direction()));
        let directions = stamp.directions().map(|(direction, lost, _)| (direction, lost));
        for (direction, count) in directions.into_iter().chain([unknown]) {
            // A sample of 0 would claim that nothing was lost there.
            count.into_iter().for_each(|count| lost.sample(&[("target", target), ("direction", &direction)], count));
        }
    }
    let help = "What delays exceed the shortest by, in seconds.";
    let mut variation = text.family("udpong_ping_delay_variation_seconds", Kind::Gauge, help);
    for (target, stamp) in targets() {
        for (direction, _, DelaySummary { p50, p99, max, .. }) in stamp.directions() {
            for (quantile, millis) in [("0.5", p50), ("0.99", p99), ("1", max)] {
                if let Some(millis) = millis {
                    let labels: [Label<'_>; 3] =
                        [("target", target), ("direction", &direction), ("quantile", &quantile)];
                    variation.sample(&labels, millis / 1e3);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_includes_its_end() {
        let mut one = ProbeMetrics::new(None);
        for micros in [49, 50, 51, 26_214_400, 26_214_401] {
            one.record(Duration::from_micros(micros));
        }
        let text = metrics([("a:1", &one, None)].into_iter()).to_string();
        for bucket in ["0.00005\"} 2", "0.0001\"} 3", "26.2144\"} 4", "+Inf\"} 5"] {
            assert!(
                text.contains(&format!("udpong_ping_rtt_seconds_bucket{{target=\"a:1\",le=\"{bucket}\n")),
                "{text}"
            );
        }
        assert_eq!(text.matches("_bucket{").count(), BUCKETS + 1);
    }

    #[test]
    fn flows_are_labelled_if_they_are_reported() {
        let (mut plain, mut flows) = (ProbeMetrics::new(None), ProbeMetrics::new(Some(2)));
        plain.count(1, Outcome::Lost);
        flows.count(1, Outcome::Lost);
        let text = metrics([("a:1", &plain, None), ("b:1", &flows, None)].into_iter()).to_string();
        assert!(text.contains("{target=\"a:1\",outcome=\"lost\"} 1\n"), "{text}");
        assert!(text.contains("{target=\"b:1\",flow=\"0\",outcome=\"lost\"} 0\n"), "{text}");
        assert!(text.contains("{target=\"b:1\",flow=\"1\",outcome=\"lost\"} 1\n"), "{text}");
    }

    #[test]
    fn equal_targets_have_different_labels() {
        let one = ProbeMetrics::new(None);
        let text = metrics([(":1", &one, None), (":1", &one, None), (":1", &one, None)].into_iter()).to_string();
        for name in [":1", ":1 #2", ":1 #3"] {
            assert_eq!(text.matches(&format!("{{target=\"{name}\",outcome=\"lost\"}} 0\n")).count(), 1, "{text}");
        }
    }
}
