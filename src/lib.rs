//! A UDP responder on a hand-rolled [`mio`] poll loop, and the other end to test it with.

pub mod client;
pub mod escape;
pub mod host_port;
pub mod log_writer;
pub mod net;
pub mod server;
pub mod shutdown;
