//! The metrics of a server. Pure.

use std::fmt::Display;

use super::statistics::EndpointReport;
use crate::counts::CountsByName;
use crate::guard::Refusal;
use crate::metrics::{Exposition, Kind, Label};
use crate::net::ERROR_NAMES;

/// Returns the metrics of all endpoints. Replies that wait count as unsent if `is_final`.
pub fn metrics(reports: &[EndpointReport], is_final: bool) -> Exposition {
    let mut text = Exposition::with_build_info();
    let mut all = Families { text: &mut text, reports };
    all.counter("udpong_received_datagrams_total", "Datagrams received.", |report| report.statistics.received);
    all.counter("udpong_received_bytes_total", "Payloads of received datagrams, in bytes.", |report| {
        report.statistics.received_bytes
    });
    all.counter("udpong_answered_datagrams_total", "Replies sent.", |report| report.statistics.answered);
    all.counter("udpong_answered_bytes_total", "Payloads of replies sent, in bytes.", |report| {
        report.statistics.answered_bytes
    });
    let reasons: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
    all.by_name("udpong_refused_datagrams_total", "Requests refused.", "reason", &reasons, |report| {
        &report.statistics.refused
    });
    let failures: Vec<_> = ERROR_NAMES.iter().copied().chain(["queue_full"]).collect();
    all.by_name("udpong_failed_replies_total", "Replies that were not sent.", "error", &failures, |report| {
        &report.statistics.failed
    });
    let errors = "Errors returned in place of a datagram.";
    all.by_name("udpong_receive_errors_total", errors, "error", &ERROR_NAMES, |report| {
        &report.statistics.receive_errors
    });
    let waiting = |report: &EndpointReport, is_meant| if is_meant { report.statistics.unsent } else { 0 };
    all.counter("udpong_unsent_replies_total", "Replies that still waited at the end.", |report| {
        waiting(report, is_final)
    });
    all.family("udpong_waiting_replies", Kind::Gauge, "Replies that wait for the socket or for a delay.", |report| {
        Some(waiting(report, !is_final))
    });
    let dropped = "Socket buffers that the kernel dropped: the receive buffer was full or a checksum wrong.";
    all.family("udpong_kernel_dropped_buffers_total", Kind::Counter, dropped, |report| report.kernel_dropped);
    impaired(&mut text, reports);
    text
}

fn impaired(text: &mut Exposition, reports: &[EndpointReport]) {
    let help = "Replies impaired on purpose.";
    let mut family = text.family("udpong_impaired_datagrams_total", Kind::Counter, help);
    for report in reports {
        let impaired = report.statistics.impaired.unwrap_or_default();
        for (kind, count) in impaired.by_kind() {
            let [service, address] = labels(report);
            family.sample(&[service, address, ("kind", &kind)], count);
        }
    }
}

/// Families with samples for each endpoint.
struct Families<'a> {
    text: &'a mut Exposition,
    reports: &'a [EndpointReport],
}

impl Families<'_> {
    fn counter(&mut self, name: &'static str, help: &'static str, value: impl Fn(&EndpointReport) -> u64) {
        self.family(name, Kind::Counter, help, |report| Some(value(report)));
    }

    fn family(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        value: impl Fn(&EndpointReport) -> Option<u64>,
    ) {
        let mut family = self.text.family(name, kind, help);
        for report in self.reports {
            value(report).into_iter().for_each(|value| family.sample(&labels(report), value));
        }
    }

    /// Adds a sample for each of the known names, too, so that a rate is 0 and not missing before the first count.
    fn by_name(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        known: &[&'static str],
        counts: impl Fn(&EndpointReport) -> &CountsByName,
    ) {
        let mut family = self.text.family(name, Kind::Counter, help);
        for report in self.reports {
            let [service, address] = labels(report);
            for (name, count) in counts(report).with_zeros(known) {
                family.sample(&[service, address, (label, &name)], count);
            }
        }
    }
}

fn labels(report: &EndpointReport) -> [Label<'_>; 2] {
    [("service", &report.service as &dyn Display), ("address", &report.address)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Statistics;

    fn text(statistics: Statistics, is_final: bool) -> String {
        let report = EndpointReport {
            service: "hello",
            address: ([127, 0, 0, 1], 5000).into(),
            statistics,
            kernel_dropped: None,
        };
        metrics(&[report], is_final).to_string()
    }

    #[test]
    fn every_known_reason_is_there_from_the_start() {
        let labels = "service=\"hello\",address=\"127.0.0.1:5000\"";
        let text = text(Statistics::default(), false);
        for sample in [
            format!("udpong_received_datagrams_total{{{labels}}} 0\n"),
            format!("udpong_refused_datagrams_total{{{labels},reason=\"loop\"}} 0\n"),
            format!("udpong_failed_replies_total{{{labels},error=\"queue_full\"}} 0\n"),
            format!("udpong_receive_errors_total{{{labels},error=\"ECONNREFUSED\"}} 0\n"),
            format!("udpong_impaired_datagrams_total{{{labels},kind=\"over_limit\"}} 0\n"),
        ] {
            assert!(text.contains(&sample), "{sample} in {text}");
        }
        assert!(!text.contains("udpong_kernel_dropped_buffers_total{"), "the system does not report it");
    }

    #[test]
    fn what_waits_is_unsent_only_at_the_end() {
        let statistics = Statistics { unsent: 3, ..Statistics::default() };
        let count = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect("a sample");
            line.rsplit_once(' ').expect("a value").1.to_owned()
        };
        let (running, last) = (text(statistics.clone(), false), text(statistics, true));
        assert_eq!(
            [count(&running, "udpong_waiting_replies"), count(&running, "udpong_unsent_replies_total")],
            ["3", "0"]
        );
        assert_eq!([count(&last, "udpong_waiting_replies"), count(&last, "udpong_unsent_replies_total")], ["0", "3"]);
    }
}
