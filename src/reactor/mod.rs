//! The event loop.

pub mod shutdown;
