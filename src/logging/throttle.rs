//! How often the log hears of what keeps happening: at once, then once a minute. Pure, time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(60);

/// Remembers, for each kind of trouble, when the log last heard of it.
#[derive(Debug, Default)]
pub struct Throttle {
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Debug)]
struct Kind {
    told: Instant,
    /// How often it happened since then.
    untold: u64,
}

impl Throttle {
    /// Notes that `kind` happened. When the log should hear of it, returns how often it happened since the log
    /// last did, this time included.
    pub fn note(&mut self, kind: &'static str, now: Instant) -> Option<u64> {
        match self.kinds.get_mut(kind) {
            None => {
                self.kinds.insert(kind, Kind { told: now, untold: 0 });
                Some(1)
            }
            Some(known) => {
                known.untold += 1;
                (now.saturating_duration_since(known.told) >= PAUSE).then(|| {
                    known.told = now;
                    std::mem::take(&mut known.untold)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_at_once_and_then_once_a_minute_with_its_count() {
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
}
