//! The Simple Two-way Active Measurement Protocol (RFC 8762, RFC 8972): what both ends put into packets. Pure.
//!
//! A *Session-Sender* numbers and timestamps its packets, a *Session-Reflector* returns each with its own number and two
//! more times: T2, when the packet arrived, and T3, when the reply left. So a lost packet, and a delay, has a direction.
//!
//! ```text
//! sender      T1 ──────────────┐                    ┌────────────> T4
//! reflector                    └──> T2 ······ T3 ───┘
//! ```
//!
//! | file | responsibility |
//! |---|---|
//! | [`packet`] | the packets of both ends, open and authenticated |
//! | [`time`] | timestamps and error estimates |
//! | [`auth`] | HMAC-SHA-256 |
//! | [`tlv`] | the extensions behind the base packet |
//! | [`sessions`] | the counters of a stateful reflector |
//! | [`reflector`] | a request becomes a reply |

pub mod auth;
pub mod packet;
pub mod reflector;
pub mod sessions;
pub mod time;
pub mod tlv;

pub use auth::Key;
pub use reflector::ReflectorOptions;

/// The port of reflectors.
pub const PORT: u16 = 862;
