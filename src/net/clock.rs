//! The time of day: what instants are in it, and how good it is.

use std::time::{Duration, Instant, SystemTime};

use super::linux;

/// The system's two clocks, read at the same time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    monotonic: Instant,
    /// In nanoseconds since 1970, in UTC; until 2262.
    realtime: i64,
}

impl WallClock {
    /// Reads both.
    pub fn read() -> Self {
        // Read one right after the other: what happens in between is an error of all that is converted.
        let (monotonic, realtime) = (Instant::now(), SystemTime::now());
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let realtime = realtime.duration_since(SystemTime::UNIX_EPOCH).map_or_else(|e| -nanos(e.duration()), nanos);
        Self { monotonic, realtime }
    }

    /// Returns when both were read.
    pub fn instant(&self) -> Instant {
        self.monotonic
    }

    /// Returns the time of day at which both were read, in nanoseconds since 1970.
    pub fn now(&self) -> i64 {
        self.realtime
    }

    /// Returns the time of day of an instant, in nanoseconds since 1970, if the system's time was not set in between.
    pub fn at(&self, instant: Instant) -> i64 {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        match instant.checked_duration_since(self.monotonic) {
            Some(after) => self.realtime.saturating_add(nanos(after)),
            None => self.realtime.saturating_sub(nanos(self.monotonic - instant)),
        }
    }
}

/// Returns how large the error of the system's time can be, if an external source synchronizes it (`maxerror`,
/// adjtimex(2)); `None` if none does, or if the system does not report it. Linux only.
pub fn clock_error() -> Option<Duration> {
    linux::clock_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_and_after_are_converted() {
        let clock = WallClock::read();
        let (span, nanos) = (Duration::from_nanos(1_500_000_007), 1_500_000_007);
        assert_eq!(clock.at(clock.instant()), clock.now());
        assert_eq!(clock.at(clock.instant() + span), clock.now() + nanos);
        assert_eq!(clock.at(clock.instant() - span), clock.now() - nanos);
        let year_2020 = 1_577_836_800_000_000_000;
        assert!(clock.now() > year_2020);
    }
}
