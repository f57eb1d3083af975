//! Limits repeated messages in the log: each kind at once, then at most once a minute. Pure: time is an argument.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::mem;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);

/// Remembers when each kind of message was last logged, and how often it was suppressed since.
#[derive(Debug, Default)]
pub struct Throttle {
    kinds: BTreeMap<&'static str, Repeated>,
}

#[derive(Debug)]
struct Repeated {
    logged_at: Instant,
    suppressed: u64,
}

impl Throttle {
    /// Notes that a message of this kind is due. If it should be logged, returns how often it was due since the last
    /// time that it was, this time included.
    pub fn note(&mut self, kind: &'static str, now: Instant) -> Option<u64> {
        let Some(repeated) = self.kinds.get_mut(kind) else {
            self.kinds.insert(kind, Repeated { logged_at: now, suppressed: 0 });
            return Some(1);
        };
        if now.saturating_duration_since(repeated.logged_at) < INTERVAL {
            repeated.suppressed += 1;
            return None;
        }
        repeated.logged_at = now;
        Some(mem::take(&mut repeated.suppressed) + 1)
    }
}

/// Displays how often something happened, unless it was once.
pub struct Times(pub u64);

impl Display for Times {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => Ok(()),
            times => write!(f, " ({times} times since this was last logged)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_each_kind_at_once_then_once_a_minute_with_its_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.note("EPERM", at(0)), Some(1));
        assert_eq!(throttle.note("EPERM", at(1)), None);
        assert_eq!(throttle.note("ENOBUFS", at(1)), Some(1));
        assert_eq!(throttle.note("EPERM", at(59)), None);
        assert_eq!(throttle.note("EPERM", at(60)), Some(3));
        assert_eq!(throttle.note("EPERM", at(61)), None);
        assert_eq!(throttle.note("EPERM", at(200)), Some(2));
    }

    #[test]
    fn times_are_shown_unless_it_was_once() {
        assert_eq!(Times(1).to_string(), "");
        assert_eq!(Times(2).to_string(), " (2 times since this was last logged)");
    }
}
