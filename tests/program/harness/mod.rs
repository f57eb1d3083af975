//! What the tests share: starting the program, exchanging datagrams with it, reading its log, stopping it.
//!
//! Tests wait for conditions, not for a time to pass. The timeout of a wait only ends a test that has failed.

mod client;
mod flood;
mod hang;
mod http;
mod lines;
mod namespace;
mod process;
mod random;
mod responder;
mod server;
mod spoof;
mod tools;
mod traffic;
pub mod wire;

use std::time::Duration;

pub use client::{connect, connect_from, receive, request, request_until_answered};
pub use flood::{FLOOD_SOURCE, Flood, flood};
pub use hang::Hang;
pub use http::{Metrics, sum};
pub use lines::Lines;
pub use namespace::{SlowLoopback, in_namespace};
pub(crate) use namespace::{is_inside_namespace, run_in_namespace};
pub use process::{python, run, shell, signal, udpong, wait_until};
pub use random::Random;
pub use responder::{Responder, closed_address};
pub use server::{EndpointReport, Server, ServerOutput, assert_memory_is_small};
pub use spoof::SpoofingSocket;
pub use tools::{leave_out, name_from_path};
pub(crate) use tools::{needs, test_name};
pub use traffic::{LENGTH, Traffic, assert_mean, assert_share, payload};

/// How long a test waits for anything before it fails.
pub const TIMEOUT: Duration = Duration::from_secs(60);
