//! The metrics of a relay. Pure.

use std::fmt::Display;

use super::refusal::Refusal;
use super::statistics::{Report, Statistics};
use crate::counts::CountsByName;
use crate::metrics::{Exposition, Kind, Label};
use crate::net::ERROR_NAMES;

/// Returns the metrics of a relay that has `sessions` sessions now. Datagrams that wait count as unsent if `is_final`.
pub fn metrics(report: &Report, sessions: usize, is_final: bool) -> Exposition {
    let mut text = Exposition::with_build_info();
    let mut both = Families { text: &mut text, directions: [("up", &report.up), ("down", &report.down)] };
    both.counter("udpong_relay_received_datagrams_total", "Datagrams received.", |of| of.received);
    both.counter("udpong_relay_received_bytes_total", "Their payloads, in bytes.", |of| of.received_bytes);
    both.counter("udpong_relay_forwarded_datagrams_total", "Datagrams sent.", |of| of.forwarded);
    both.counter("udpong_relay_forwarded_bytes_total", "Their payloads, in bytes.", |of| of.forwarded_bytes);
    both.by_name("udpong_relay_refused_datagrams_total", "Datagrams refused.", "reason", &Refusal::NAMES, |of| {
        &of.refused
    });
    let failed = "Datagrams that were not sent.";
    both.by_name("udpong_relay_failed_datagrams_total", failed, "error", &ERROR_NAMES, |of| &of.failed);
    let errors = "Errors returned in place of a datagram.";
    both.by_name("udpong_relay_receive_errors_total", errors, "error", &ERROR_NAMES, |of| &of.receive_errors);
    let waiting = |of: &Statistics, is_meant| if is_meant { of.unsent } else { 0 };
    let unsent = "Datagrams that still waited at the end.";
    both.counter("udpong_relay_unsent_datagrams_total", unsent, |of| waiting(of, is_final));
    let waits = "Datagrams that wait for a socket or for a delay, and those of sessions that ended meanwhile.";
    both.family("udpong_relay_waiting_datagrams", Kind::Gauge, waits, |of| Some(waiting(of, !is_final)));
    let dropped = "Socket buffers that the kernel dropped, mostly because the receive buffer was full.";
    both.family("udpong_relay_kernel_dropped_buffers_total", Kind::Counter, dropped, |of| of.kernel_dropped);
    let mut family =
        text.family("udpong_relay_impaired_datagrams_total", Kind::Counter, "Datagrams impaired on purpose.");
    for (direction, of) in [("up", &report.up), ("down", &report.down)] {
        for (kind, count) in of.impaired.unwrap_or_default().by_kind() {
            family.sample(&[("direction", &direction), ("kind", &kind)], count);
        }
    }
    let counts = &report.sessions;
    for (name, kind, help, value) in [
        ("udpong_relay_sessions", Kind::Gauge, "Sessions now.", sessions as u64),
        ("udpong_relay_opened_sessions_total", Kind::Counter, "Sessions opened.", counts.opened),
        ("udpong_relay_expired_sessions_total", Kind::Counter, "Sessions ended without traffic.", counts.expired),
    ] {
        text.family(name, kind, help).sample(&[], value);
    }
    text
}

/// Families with a sample for each direction.
struct Families<'a> {
    text: &'a mut Exposition,
    directions: [(&'static str, &'a Statistics); 2],
}

impl Families<'_> {
    fn counter(&mut self, name: &'static str, help: &'static str, value: impl Fn(&Statistics) -> u64) {
        self.family(name, Kind::Counter, help, |of| Some(value(of)));
    }

    fn family(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        value: impl Fn(&Statistics) -> Option<u64>,
    ) {
        let mut family = self.text.family(name, kind, help);
        for (direction, of) in &self.directions {
            value(of).into_iter().for_each(|value| family.sample(&[label(direction)], value));
        }
    }

    /// Adds a sample for each of the known names, too, so that a rate is 0 and not missing before the first count.
    fn by_name(
        &mut self,
        name: &'static str,
        help: &'static str,
        label_name: &'static str,
        known: &[&'static str],
        counts: impl Fn(&Statistics) -> &CountsByName,
    ) {
        let mut family = self.text.family(name, Kind::Counter, help);
        for (direction, of) in &self.directions {
            for (name, count) in counts(of).with_zeros(known) {
                family.sample(&[label(direction), (label_name, &name)], count);
            }
        }
    }
}

fn label<'a>(direction: &'a &'static str) -> Label<'a> {
    ("direction", direction as &dyn Display)
}
