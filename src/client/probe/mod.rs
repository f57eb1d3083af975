//! What becomes of each probe. Pure: data and time are arguments.

pub mod backlog;
pub mod latency;
pub mod limits;
pub mod payload;
pub mod schedule;
pub mod tracker;
