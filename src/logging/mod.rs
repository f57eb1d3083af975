//! Logging: a thread of its own writes, untrusted bytes are escaped, repeated messages are throttled.

pub(crate) mod bytes;
pub mod escape;
pub(crate) mod throttle;
#[cfg(feature = "cli")]
pub mod writer;

/// The log target of the lines about single datagrams, which `-q` turns off.
pub const DATAGRAM_LOG: &str = "udpong::datagram";
