//! Deadlines: a min-heap that knows which task is due next, and an alarm that ends the poll in time for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::{Duration, Instant};

use mio::Registry;

use super::entries::{Entries, Key};

/// The deadlines of all tasks.
///
/// A binary heap cannot move or remove an entry in the middle, so deletion is *lazy*: an entry counts only while its
/// [`Timer`] is armed for it, and others are dropped when they reach the top. A deadline that moves earlier pushes a
/// second entry. One that moves later, as the timeout of a busy socket does with every answer, leaves its entry where
/// it is: when the entry reaches the top, it is pushed again with the new time. Setting a deadline and finding the next
/// one cost O(log n) at worst, and usually O(1).
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Key)>>,
}

/// The deadline of one task.
#[derive(Debug, Default)]
pub(super) struct Timer {
    deadline: Option<Instant>,
    /// The earliest of this timer's entries in the heap, not later than `deadline`.
    armed: Option<Instant>,
}

impl Timer {
    /// Returns what the timer is set to.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// A heap with fewer entries is not worth rebuilding.
const SMALL_HEAP: usize = 64;

impl Timers {
    /// Sets, moves or clears the deadline of a task.
    pub(super) fn set<E: AsMut<Timer>>(&mut self, entries: &mut Entries<E>, key: Key, deadline: Option<Instant>) {
        let Some(timer) = entries.get_mut(key).map(E::as_mut) else { return };
        timer.deadline = deadline;
        if let Some(deadline) = deadline
            && timer.armed.is_none_or(|armed| deadline < armed)
        {
            timer.armed = Some(deadline);
            self.heap.push(Reverse((deadline, key)));
            if self.heap.len() > SMALL_HEAP.max(2 * entries.len()) {
                self.heap.retain(|Reverse((at, key))| {
                    entries.get_mut(*key).is_some_and(|entry| entry.as_mut().armed == Some(*at))
                });
            }
        }
    }

    /// Returns the earliest deadline.
    pub(super) fn earliest<E: AsMut<Timer>>(&mut self, entries: &mut Entries<E>) -> Option<Instant> {
        loop {
            let Reverse((at, key)) = *self.heap.peek()?;
            let timer = entries.get_mut(key).map(E::as_mut).filter(|timer| timer.armed == Some(at));
            if timer.as_ref().is_some_and(|timer| timer.deadline == Some(at)) {
                return Some(at);
            }
            self.heap.pop();
            // The deadline was moved to later, or cleared.
            if let Some(timer) = timer {
                timer.armed = timer.deadline;
                self.heap.extend(timer.deadline.map(|deadline| Reverse((deadline, key))));
            }
        }
    }

    /// Takes a task whose deadline has passed, and clears the deadline.
    pub(super) fn pop_due<E: AsMut<Timer>>(&mut self, entries: &mut Entries<E>, now: Instant) -> Option<Key> {
        self.earliest(entries).filter(|at| *at <= now)?;
        let Reverse((_, key)) = self.heap.pop()?;
        *entries.get_mut(key)?.as_mut() = Timer::default();
        Some(key)
    }
}

/// How exactly a [`Reactor`](super::Reactor) meets deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Up to a millisecond late, at no cost: the poll's timeout, which mio rounds up to whole milliseconds.
    #[default]
    Milliseconds,
    /// As precise as a timerfd in the poll, at one extra system call and event per deadline. The same as
    /// [`Milliseconds`](Self::Milliseconds) on systems other than Linux.
    Exact,
}

/// Ends the poll at a deadline.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Option<platform::Timer>,
    /// What the timer is set to.
    set_to: Option<Instant>,
}

impl Alarm {
    /// Creates an alarm for the poll of `registry`.
    ///
    /// # Errors
    ///
    /// Returns what timerfd_create(2) or epoll_ctl(2) reports.
    pub(super) fn new(registry: &Registry, precision: Precision) -> io::Result<Self> {
        let timer = match precision {
            Precision::Milliseconds => None,
            Precision::Exact => platform::Timer::register(registry)?,
        };
        Ok(Self { timer, set_to: None })
    }

    /// Returns the timeout of a poll that has to end at `deadline`; an exact alarm ends it by an event instead.
    pub(super) fn timeout(&mut self, deadline: Option<Instant>) -> Option<Duration> {
        let deadline = deadline?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(Duration::ZERO);
        }
        if let Some(timer) = &mut self.timer {
            if self.set_to == Some(deadline) || timer.set(left).is_ok() {
                self.set_to = Some(deadline);
                return None;
            }
            self.set_to = None;
        }
        Some(left)
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

    /// A timerfd_create(2) timer that is registered with a poll under a token of no task.
    #[derive(Debug)]
    pub(super) struct Timer(TimerFd);

    impl Timer {
        pub(super) fn register(registry: &Registry) -> io::Result<Option<Self>> {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
            let fd = timer.as_fd().as_raw_fd();
            registry.register(&mut SourceFd(&fd), TIMER, Interest::READABLE)?;
            Ok(Some(Self(timer)))
        }

        /// Raises an event after `left`. The timer is never read: polling is edge-triggered, so an expiry that was
        /// reported is not reported again, and setting the timer clears it.
        pub(super) fn set(&mut self, left: Duration) -> io::Result<()> {
            Ok(self.0.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?)
        }
    }

    /// Not a key: no slab is that large.
    const TIMER: Token = Token(usize::MAX - 1);
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::io;
    use std::time::Duration;

    use mio::Registry;

    /// There is none: no timer can be watched by a poll on every platform.
    #[derive(Debug)]
    pub(super) enum Timer {}

    impl Timer {
        pub(super) fn register(_: &Registry) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(super) fn set(&mut self, _: Duration) -> io::Result<()> {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    impl AsMut<Timer> for Timer {
        fn as_mut(&mut self) -> &mut Timer {
            self
        }
    }

    /// Timers of as many tasks, and their keys.
    fn timers(tasks: usize) -> (Timers, Entries<Timer>, Vec<Key>) {
        let mut entries = Entries::new();
        let keys = (0..tasks).map(|_| entries.insert(Timer::default())).collect();
        (Timers::default(), entries, keys)
    }

    #[test]
    fn moved_deadline_fires_once_and_at_its_last_time() {
        let start = Instant::now();
        let (mut timers, mut entries, keys) = timers(1);
        for millis in [10, 30, 20] {
            timers.set(&mut entries, keys[0], Some(at(start, millis)));
        }
        assert_eq!(timers.earliest(&mut entries), Some(at(start, 20)));
        assert_eq!(timers.pop_due(&mut entries, at(start, 19)), None);
        assert_eq!(timers.pop_due(&mut entries, at(start, 100)), Some(keys[0]));
        assert_eq!(timers.pop_due(&mut entries, at(start, 100)), None);
        assert_eq!(timers.earliest(&mut entries), None);
    }

    #[test]
    fn deadline_of_removed_task_does_not_fire_for_its_successor() {
        let start = Instant::now();
        let (mut timers, mut entries, keys) = timers(1);
        timers.set(&mut entries, keys[0], Some(at(start, 10)));
        entries.remove(keys[0]);
        let successor = entries.insert(Timer::default());
        assert_eq!(timers.pop_due(&mut entries, at(start, 100)), None);
        timers.set(&mut entries, successor, Some(at(start, 20)));
        assert_eq!(timers.pop_due(&mut entries, at(start, 100)), Some(successor));
    }

    #[test]
    fn heap_does_not_grow_with_the_number_of_changes() {
        let start = Instant::now();
        let (mut timers, mut entries, keys) = timers(100);
        for earlier in 0..1_000 {
            keys.iter().for_each(|key| timers.set(&mut entries, *key, Some(at(start, 10_000 - earlier))));
        }
        assert!(timers.heap.len() <= 2 * keys.len());
        assert_eq!(timers.pop_due(&mut entries, at(start, 9_000)), None);
        assert_eq!(std::iter::from_fn(|| timers.pop_due(&mut entries, at(start, 9_001))).count(), 100);
    }

    proptest! {
        /// Compared with a map that is searched from end to end.
        #[test]
        fn every_deadline_fires_once_and_in_order(
            changes in proptest::collection::vec((0..8_usize, proptest::option::of(0..100_u64)), 1..200)
        ) {
            let start = Instant::now();
            let (mut timers, mut entries, keys) = timers(8);
            let mut model = BTreeMap::new();
            for (i, (task, change)) in changes.into_iter().enumerate() {
                timers.set(&mut entries, keys[task], change.map(|millis| at(start, millis)));
                model.insert(keys[task], change);
                if i % 5 == 0 {
                    let now = i as u64;
                    let due = model.iter().filter_map(|(key, change)| Some(((*change)?, *key)));
                    let mut due: Vec<_> = due.filter(|due| due.0 <= now).collect();
                    due.sort_unstable();
                    for (_, key) in &due {
                        model.insert(*key, None);
                    }
                    let fired: Vec<_> =
                        std::iter::from_fn(|| timers.pop_due(&mut entries, at(start, now))).collect();
                    prop_assert_eq!(fired, due.into_iter().map(|(_, key)| key).collect::<Vec<_>>());
                }
                let earliest = model.values().flatten().min().map(|millis| at(start, *millis));
                prop_assert_eq!(timers.earliest(&mut entries), earliest);
            }
        }
    }
}
