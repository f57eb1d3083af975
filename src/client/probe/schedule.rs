//! When the datagrams of an open loop are due. Pure.

use std::time::{Duration, Instant};

/// A steady rate from a start, in groups of datagrams that are due together.
///
/// Nothing shifts it: who falls behind finds the datagrams that were due in the meantime still to be sent, each
/// with the time at which it should have left. So a responder that stalls cannot hide in fewer measurements.
#[derive(Debug)]
pub struct RateSchedule {
    start: Instant,
    /// Datagrams a second.
    rate: u32,
    group: u64,
    taken: u64,
}

impl RateSchedule {
    /// `rate` datagrams a second, `group` of them at a time; both at least 1.
    pub fn new(start: Instant, rate: u32, group: u64) -> Self {
        Self { start, rate: rate.max(1), group: group.max(1), taken: 0 }
    }

    /// When the next datagram is due.
    pub fn due(&self) -> Instant {
        let before = u128::from(self.taken - self.taken % self.group);
        let nanos = before * 1_000_000_000 / u128::from(self.rate);
        let after = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.start.checked_add(after).unwrap_or(self.start)
    }

    /// How many datagrams are due together with the next one, itself included.
    pub fn together(&self) -> usize {
        usize::try_from(self.group - self.taken % self.group).unwrap_or(usize::MAX)
    }

    /// The number of the next group, from 0.
    pub fn group(&self) -> u64 {
        self.taken / self.group
    }

    /// Goes on to the datagram after the next `count`.
    pub fn take(&mut self, count: usize) {
        self.taken += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_are_due_together_and_a_broken_one_is_completed() {
        let start = Instant::now();
        let mut schedule = RateSchedule::new(start, 1000, 4);
        assert_eq!((schedule.due(), schedule.together(), schedule.group()), (start, 4, 0));
        schedule.take(3);
        assert_eq!((schedule.due(), schedule.together(), schedule.group()), (start, 1, 0));
        schedule.take(1);
        assert_eq!((schedule.due(), schedule.together(), schedule.group()), (start + Duration::from_millis(4), 4, 1));
    }

    proptest! {
        #[test]
        fn the_rate_holds_however_long_it_runs(rate in 1..5_000_000_u32, seconds in 1..1_000_000_u64) {
            let start = Instant::now();
            let mut schedule = RateSchedule::new(start, rate, 1);
            schedule.take(usize::try_from(u64::from(rate) * seconds).expect("64 bits"));
            prop_assert_eq!(schedule.due(), start + Duration::from_secs(seconds));
        }
    }
}
