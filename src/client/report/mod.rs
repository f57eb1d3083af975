//! The results of ping and bench, as text and as JSON. Pure.
//!
//! The text of a report is its [`Display`](std::fmt::Display), the JSON its [`Serialize`]. [`ping`]
//! and [`mod@bench`] have one each, and share the numbers of [`mod@format`] and the bar chart of [`histogram`].

mod axis;
mod bench;
mod format;
mod hdr_log;
mod histogram;
mod merge;
mod ping;
mod plot;
mod status_line;
mod strip;
mod table;
mod terminal;

pub use bench::{BenchReport, Measurement, Silence};
pub use format::{millis, percent};
pub use hdr_log::HdrLog;
pub use merge::{Merge, MergedReport};
pub use ping::{AnswerLine, FlowReport, PingReport, ProbeObject, StreamOutcome, svg, table};
pub use status_line::StatusLine;
pub use terminal::Terminal;

use std::net::SocketAddr;

use serde::Serialize;

use crate::client::Error;
use crate::client::probe::latency::{Summary, round_to};
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::tracker::Attribution;

/// The version of the JSON. Increases when a field changes its meaning or is removed; new fields do not change it.
const SCHEMA: u32 = 2;

/// The clock that says when an answer arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The kernel's: the time at which it received the answer, before the process woke up.
    Kernel,
    /// The process's: the time after the system call that received the answer, so that a round trip includes the time
    /// that the process took to wake up.
    User,
}

/// Returns the line about a responder that does not repeat the probes; `None` if it does.
pub fn attribution_note(attribution: Attribution) -> Option<&'static str> {
    match attribution {
        Attribution::Content => None,
        Attribution::Port => Some("the answers carry no probe numbers: they are matched by source port"),
        Attribution::Order => {
            Some("the answers carry no probe numbers: some are matched in order, so round trips are upper bounds")
        }
    }
}

/// Returns what stands behind the counts about probes in flight, which are not among them.
fn in_flight_note(in_flight: usize) -> String {
    if in_flight == 0 { String::new() } else { format!("; {in_flight} in flight, not counted") }
}

/// Returns the percentage for JSON: to six significant digits, and never rounded to 100.
fn loss_percent(counts: &OutcomeCounts) -> f64 {
    let exact = counts.loss_percent();
    let rounded = round_to(exact, 6);
    if rounded < 100.0 { rounded } else { exact }
}

/// Returns an error unless there was an answer in time and no limit is exceeded.
/// `others` are messages of limits that were exceeded besides.
fn check(
    target: SocketAddr,
    counts: &OutcomeCounts,
    summary: &Summary,
    limits: &Limits,
    others: Vec<String>,
) -> Result<(), Error> {
    if counts.answered > 0 {
        let mut exceeded = limits.exceeded(counts.loss_percent(), summary);
        exceeded.extend(others);
        return if exceeded.is_empty() { Ok(()) } else { Err(Error::Unmet(exceeded.join("; "))) };
    }
    let others: Vec<String> = [(counts.late, "late"), (counts.truncated, "truncated"), (counts.altered, "altered")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    Err(Error::Unmet(if !others.is_empty() {
        format!("no intact answer in time from {target}: {}", others.join(", "))
    } else if counts.refused > 0 {
        format!("no answer from {target}, but a refusal: does anybody listen there?")
    } else {
        format!("no answer from {target}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_needs_an_intact_answer_in_time() {
        let target = ([127, 0, 0, 1], 5000).into();
        let outcome = |counts| check(target, &counts, &Summary::default(), &Limits::default(), Vec::new());
        let message = |counts| outcome(counts).expect_err("no answer").to_string();
        let none = OutcomeCounts::default();
        assert_eq!(outcome(OutcomeCounts { answered: 1, altered: 9, ..none }), Ok(()));
        assert_eq!(message(none), "no answer from 127.0.0.1:5000");
        assert!(message(OutcomeCounts { refused: 1, ..none }).contains("a refusal"));
        assert_eq!(
            message(OutcomeCounts { late: 1, altered: 60, ..none }),
            "no intact answer in time from 127.0.0.1:5000: 1 late, 60 altered"
        );
    }

    #[test]
    fn loss_in_json_is_rounded_but_never_to_100() {
        let loss = |lost, answered| loss_percent(&OutcomeCounts { lost, answered, ..OutcomeCounts::default() });
        assert_eq!(loss(8, 70_137), 0.011_404_9);
        assert_eq!((loss(0, 1), loss(1, 0)), (0.0, 100.0));
        assert!(loss(1_000_000_000, 1) < 100.0);
    }
}
