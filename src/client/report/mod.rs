//! The results of ping and bench, as text and as JSON. Pure.
//!
//! The text of a report is its [`Display`](std::fmt::Display), the JSON its [`Serialize`](serde::Serialize). [`ping`]
//! and [`mod@bench`] have one each, and share the numbers of [`mod@format`] and the bar chart of [`histogram`].

mod bench;
mod format;
mod hdr_log;
mod histogram;
mod merge;
mod ping;
mod plot;
mod strip;
mod table;
mod terminal;

pub use bench::{BenchReport, Measurement};
pub use hdr_log::HdrLog;
pub use merge::{Merge, MergedReport};
pub use ping::{AnswerLine, IN_ORDER, PingReport, ProbeObject};
pub use terminal::Terminal;

use std::net::SocketAddr;

use crate::client::Error;
use crate::client::probe::latency::Summary;
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::OutcomeCounts;

/// The version of the JSON. Increases when a field changes its meaning or is removed; new fields do not change it.
const SCHEMA: u32 = 1;

/// Returns an error unless there was an answer and no limit is exceeded.
fn check(target: SocketAddr, counts: &OutcomeCounts, summary: &Summary, limits: &Limits) -> Result<(), Error> {
    let exceeded = limits.exceeded(counts.loss_percent(), summary);
    if counts.with_answer() == 0 && counts.refused > 0 {
        Err(Error::Unmet(format!("no answer from {target}, but a refusal: does anybody listen there?")))
    } else if counts.with_answer() == 0 {
        Err(Error::Unmet(format!("no answer from {target}")))
    } else if exceeded.is_empty() {
        Ok(())
    } else {
        Err(Error::Unmet(exceeded.join("; ")))
    }
}
