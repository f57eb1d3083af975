//! A bad link, reproducibly: which datagrams are lost, delayed, duplicated, reordered or damaged. Pure: datagrams and
//! time are arguments, and every decision follows from a seed.
//!
//! A [`Link`] is one direction of a network path. Datagrams [enter](Link::handle) it; what leaves at once is returned,
//! without a copy, and the rest waits inside until its [deadline](Link::next_deadline), when it is
//! [ready](Link::ready) to be sent. The caller owns sockets and clock.
//!
//! # Stages
//!
//! Each datagram passes these stages in this order. Names and meanings are those of tc-netem(8), with a few
//! differences:
//!
//! | stage | here | netem |
//! |---|---|---|
//! | blackout | Everything is lost during the last part of each period. | (none) |
//! | duplicate | A second copy. Both pass the other stages, each with draws of its own. | The second copy enters the queueing discipline again. If the original is lost, one copy is left in any case. |
//! | loss | Independent, or by the Gilbert-Elliott model, whose state each copy meets and then may change. | The same; independent losses may be correlated. |
//! | corrupt | One bit of the payload is flipped. The checksum is right, so the receiver gets it. | One bit of the packet is flipped, headers included, and the checksum is wrong, so most receivers drop it. |
//! | truncate | The payload is cut to 0 to length - 1 bytes, all equally likely. | (none) |
//! | delay | The delay and a deviation by the jitter, never below 0. *Normal* unless a distribution is named, and exact. Durations without a unit are seconds. | *Uniform* unless a distribution is named; normal and Pareto from a table of 4,096 values. Durations without a unit are microseconds. |
//! | reorder | The datagram is not delayed, and enters the rate stage at once. | It leaves the queue at once, whatever the rate. |
//! | rate | After their delay, datagrams are transmitted one after the other. Counts the IP packet. | A datagram is never transmitted before one that came earlier. Counts the frame. |
//! | limit | A datagram that has to wait while as many wait as may is dropped, and counts as `over_limit`. | The same, but decided before the delay, and for datagrams that need not wait, too. |
//!
//! A datagram that is neither corrupted nor delayed is not copied, unless it has to wait behind those that are ready.
//!
//! # Reproducible
//!
//! The same seed and the same arrivals, their times included, have the same outcomes (invariant 10). A link has one
//! [`Generator`], with a fixed algorithm, and draws the same number of values for every datagram, so the decisions of
//! one stage do not change when another one is configured differently: with a higher loss the same datagrams are
//! delayed, by the same times. When the caller asks for what is ready makes no difference.

#[cfg(not(feature = "impair"))]
mod disabled;
#[cfg(feature = "impair")]
mod link;
#[cfg(feature = "impair")]
mod options;
#[cfg(feature = "impair")]
mod random;
mod seed;
#[cfg(feature = "impair")]
mod waiting;

use std::fmt::{self, Display, Formatter};

#[cfg(not(feature = "impair"))]
pub use disabled::{Generator, Impairments, Link};
#[cfg(feature = "impair")]
pub use link::Link;
#[cfg(feature = "impair")]
pub use options::{BitRate, Blackout, Distribution, GilbertElliott, Impairments, Loss, Probability, duration};
#[cfg(feature = "impair")]
pub use random::Generator;
pub use seed::Seed;

pub use crate::parse_error::ParseError;

/// The bound for the memory of what waits in all links of a process together, in bytes: payloads, and 512 bytes for
/// each datagram. Each link has an equal share.
pub const MAX_BYTES: usize = 32 << 20;

/// How many datagrams a link has changed. Every datagram that entered has left, waits, or is counted as `lost` or
/// `over_limit`: entered + `duplicated` = left + waiting + `lost` + `over_limit` (defended by
/// `impair::link::simulation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Impaired {
    /// Lost in a blackout or by the model of loss.
    pub lost: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Had to wait, by delay or rate.
    pub delayed: u64,
    /// Left after a later arrival of the same flow. A second copy is never counted.
    pub reordered: u64,
    /// Have a flipped bit.
    pub corrupted: u64,
    /// Were cut.
    pub truncated: u64,
    /// Dropped because too much waited.
    pub over_limit: u64,
}

impl Impaired {
    /// Returns all counts with their names.
    pub fn by_kind(&self) -> [(&'static str, u64); 7] {
        let Self { lost, duplicated, delayed, reordered, corrupted, truncated, over_limit } = *self;
        [
            ("lost", lost),
            ("duplicated", duplicated),
            ("delayed", delayed),
            ("reordered", reordered),
            ("corrupted", corrupted),
            ("truncated", truncated),
            ("over_limit", over_limit),
        ]
    }

    /// Adds the counts of another link.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.delayed += other.delayed;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.truncated += other.truncated;
        self.over_limit += other.over_limit;
    }
}

/// Writes all counts, as in `lost 3, duplicated 0, …`.
impl Display for Impaired {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { lost, duplicated, delayed, reordered, corrupted, truncated, over_limit } = self;
        write!(f, "lost {lost}, duplicated {duplicated}, delayed {delayed}, reordered {reordered}, ")?;
        write!(f, "corrupted {corrupted}, truncated {truncated}, over limit {over_limit}")
    }
}
