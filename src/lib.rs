//! A UDP responder on a hand-rolled [`mio`] poll loop, and the other end to test it with.

pub mod escape;
pub mod log_writer;
pub mod net;
pub mod server;
