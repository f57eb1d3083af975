//! Why a datagram opens no session.

use std::fmt::{self, Display, Formatter};
use std::io;

use crate::guard;

/// The reason for refusing a datagram of a client without a session. Displayed in words, for the log.
#[derive(Debug)]
pub enum Refusal {
    /// Nothing can be sent to the source: [`guard::Refusal::Unanswerable`].
    Unanswerable,
    /// The source is the target, or the relay itself. One spoofed datagram would circulate between them endlessly.
    Loop,
    /// There are as many sessions as there may be.
    TooMany,
    /// The system has no further socket.
    NoSocket(io::Error),
}

impl Refusal {
    /// The name that stands for too many sessions, and for too many sockets.
    pub const SESSIONS: &str = "sessions";

    /// All names, in alphabetical order.
    pub const NAMES: [&str; 3] = ["loop", Self::SESSIONS, "unanswerable"];

    /// Returns the name under which the statistics count it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unanswerable => guard::Refusal::Unanswerable.name(),
            Self::Loop => guard::Refusal::Loop.name(),
            Self::TooMany | Self::NoSocket(_) => Self::SESSIONS,
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswerable => guard::Refusal::Unanswerable.fmt(f),
            Self::Loop => f.write_str("answers to it would come back as requests"),
            Self::TooMany => f.write_str("there are as many sessions as there may be"),
            Self::NoSocket(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_complete() {
        let refusals = [Refusal::Loop, Refusal::TooMany, Refusal::Unanswerable];
        assert_eq!(refusals.map(|refusal| refusal.name()), Refusal::NAMES);
        assert_eq!(Refusal::NoSocket(io::ErrorKind::Other.into()).name(), Refusal::SESSIONS);
    }
}
