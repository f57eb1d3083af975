//! When probes are due, independently of their answers: an open loop. Pure.

use std::time::{Duration, Instant};

/// A delay beyond which [`IntervalSchedule`] skips probes instead of sending them late.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Probes at a fixed interval, until a count or a deadline is reached. Used by ping.
///
/// A probe that is sent late does not shift the next. After a delay of up to a second, or up to an interval if that is
/// longer, the probes that were missed are due at once. After a longer one, typically because the process was stopped,
/// they are skipped.
#[derive(Debug)]
pub struct IntervalSchedule {
    interval: Duration,
    /// When the next probe is due; `None` when the clock cannot represent it.
    next: Option<Instant>,
    /// How many probes are left; `None` for no limit.
    left: Option<u64>,
    end: Option<Instant>,
}

impl IntervalSchedule {
    /// Creates a schedule whose first probe is due at `start`. It ends after `count` probes, or when `deadline` has
    /// passed since the start; `None` means no limit.
    pub fn new(start: Instant, interval: Duration, count: Option<u64>, deadline: Option<Duration>) -> Self {
        let end = deadline.and_then(|deadline| start.checked_add(deadline));
        Self { interval, next: Some(start), left: count, end }
    }

    /// Returns when the next probe is due; `None` when the schedule has ended.
    pub fn next(&self) -> Option<Instant> {
        self.next.filter(|next| self.left != Some(0) && self.end.is_none_or(|end| *next < end))
    }

    /// Returns when the schedule ends although probes are left; `None` when it has ended.
    pub fn end(&self) -> Option<Instant> {
        self.end.filter(|_| self.next().is_some())
    }

    /// Ends the schedule if its end has passed, even if probes that were due before could not be sent.
    pub fn expire(&mut self, now: Instant) {
        if self.end.is_some_and(|end| end <= now) {
            self.next = None;
        }
    }

    /// Advances to the probe after the one that was sent at `now`.
    pub fn advance(&mut self, now: Instant) {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.next = self.next.and_then(|next| next.checked_add(self.interval)).and_then(|next| {
            let delay = now.saturating_duration_since(next);
            if delay <= CATCH_UP.max(self.interval) {
                return Some(next);
            }
            // The last regular time before `now`, so that the probes stay in step.
            let since = delay.as_nanos() % self.interval.as_nanos().max(1);
            now.checked_sub(Duration::from_nanos(u64::try_from(since).unwrap_or(0)))
        });
    }
}

/// Datagrams at a fixed rate, in groups that are due together. Used by bench.
///
/// Nothing shifts the schedule. After a delay, all datagrams that were due meanwhile are still sent, each with the time
/// at which it was due: a responder that stalls is measured as often as one that does not.
#[derive(Debug)]
pub struct RateSchedule {
    start: Instant,
    /// In datagrams per second.
    rate: u32,
    group_size: u64,
    /// How many datagrams were sent.
    sent: u64,
}

impl RateSchedule {
    /// Creates a schedule of `rate` datagrams per second in groups of `group_size`. Both are at least 1.
    pub fn new(start: Instant, rate: u32, group_size: u64) -> Self {
        Self { start, rate: rate.max(1), group_size: group_size.max(1), sent: 0 }
    }

    /// Returns when the next datagram is due.
    pub fn next(&self) -> Instant {
        let before = u128::from(self.sent - self.sent % self.group_size);
        let nanos = before * 1_000_000_000 / u128::from(self.rate);
        let since_start = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.start.checked_add(since_start).unwrap_or(self.start)
    }

    /// Returns the index of the group of the next datagram, from 0.
    pub fn group(&self) -> u64 {
        self.sent / self.group_size
    }

    /// Returns how many datagrams of that group are still to be sent; at least 1.
    pub fn left_in_group(&self) -> usize {
        usize::try_from(self.group_size - self.sent % self.group_size).unwrap_or(usize::MAX)
    }

    /// Advances by `count` datagrams, which were sent.
    pub fn advance(&mut self, count: usize) {
        self.sent += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn after(start: Instant, millis: u64) -> Option<Instant> {
        Some(start + Duration::from_millis(millis))
    }

    #[test]
    fn late_probe_does_not_shift_the_next() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, INTERVAL, Some(2), None);
        assert_eq!(schedule.next(), Some(start));
        schedule.advance(start + Duration::from_millis(30));
        assert_eq!(schedule.next(), after(start, 100));
        schedule.advance(start + Duration::from_millis(100));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn probe_that_was_not_sent_in_time_is_not_due_after_the_deadline() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, INTERVAL, None, Some(Duration::from_millis(200)));
        assert_eq!(schedule.end(), after(start, 200));
        schedule.expire(start + Duration::from_millis(199));
        assert_eq!(schedule.next(), Some(start));
        schedule.expire(start + Duration::from_millis(200));
        assert_eq!((schedule.next(), schedule.end()), (None, None));
    }

    #[test]
    fn no_probe_is_due_at_the_deadline() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, INTERVAL, None, Some(Duration::from_millis(200)));
        schedule.advance(start);
        assert_eq!(schedule.next(), after(start, 100));
        schedule.advance(start);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn short_delay_is_caught_up() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, INTERVAL, None, None);
        for millis in [100, 200, 300] {
            schedule.advance(start + Duration::from_millis(1030));
            assert_eq!(schedule.next(), after(start, millis));
        }
    }

    #[test]
    fn long_delay_skips_probes_and_stays_in_step() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, INTERVAL, None, None);
        schedule.advance(start + Duration::from_millis(60_030));
        assert_eq!(schedule.next(), after(start, 60_000));
        schedule.advance(start + Duration::from_millis(60_030));
        assert_eq!(schedule.next(), after(start, 60_100));
    }

    #[test]
    fn zero_interval_is_always_due() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, Duration::ZERO, None, None);
        schedule.advance(start);
        assert_eq!(schedule.next(), Some(start));
        schedule.advance(start + Duration::from_secs(60));
        assert_eq!(schedule.next(), Some(start + Duration::from_secs(60)));
    }

    #[test]
    fn interval_beyond_the_clock_ends_the_schedule() {
        let start = Instant::now();
        let mut schedule = IntervalSchedule::new(start, Duration::MAX, None, None);
        schedule.advance(start);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn group_is_due_together_and_completed_first() {
        let start = Instant::now();
        let mut schedule = RateSchedule::new(start, 1000, 4);
        assert_eq!((schedule.next(), schedule.left_in_group(), schedule.group()), (start, 4, 0));
        schedule.advance(3);
        assert_eq!((schedule.next(), schedule.left_in_group(), schedule.group()), (start, 1, 0));
        schedule.advance(1);
        let second = start + Duration::from_millis(4);
        assert_eq!((schedule.next(), schedule.left_in_group(), schedule.group()), (second, 4, 1));
    }

    proptest! {
        #[test]
        fn rate_does_not_drift(rate in 1..5_000_000_u32, seconds in 1..1_000_000_u64) {
            let start = Instant::now();
            let mut schedule = RateSchedule::new(start, rate, 1);
            schedule.advance(usize::try_from(u64::from(rate) * seconds).expect("64 bits"));
            prop_assert_eq!(schedule.next(), start + Duration::from_secs(seconds));
        }
    }
}
