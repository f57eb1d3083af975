//! The log: written by a thread of its own, escaped where bytes are untrusted, throttled where messages repeat.

pub mod escape;
pub(crate) mod throttle;
pub mod writer;
