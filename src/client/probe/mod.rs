//! Probes and their answers, without I/O: data and time are arguments.
//!
//! | File | Responsibility |
//! |---|---|
//! | [`schedule`] | when the next probe is due |
//! | [`payload`] | the bytes of a probe, and finding them in an answer |
//! | [`flows`] | which flow the next probe uses |
//! | [`tracker`] | which probe an answer belongs to; timeouts, duplicates, reordering |
//! | [`outcome`] | how a probe ended, and how many ended in which way |
//! | [`backlog`] | by when everything that had arrived was received |
//! | [`latency`] | statistics of round-trip times in constant memory |
//! | [`limits`] | which results make a command fail |

pub mod backlog;
pub mod flows;
pub mod latency;
pub mod limits;
pub mod outcome;
pub mod payload;
pub mod schedule;
pub mod tracker;
