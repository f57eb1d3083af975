//! Deadlines: a min-heap that knows which task is due next, and an alarm that ends the poll in time for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::{Duration, Instant};

use mio::Registry;

use super::slots::Key;

/// The deadlines of all tasks.
///
/// A binary heap cannot move or remove an entry in the middle, so deletion is *lazy*: an entry counts only while it
/// equals what its timer is [armed](Timer::armed) for, and others are dropped when they reach the top. A deadline that
/// moves earlier pushes a second entry. One that moves later, as the timeout of a busy socket does with every answer,
/// leaves its entry where it is: when the entry reaches the top, it is pushed again with the new time. Setting a deadline
/// and finding the next one thus cost O(log n) and, most of the time, nothing.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Key)>>,
    /// By the index of the task's slot.
    timers: Vec<Option<Timer>>,
    /// How many of `timers` are in use.
    used: usize,
}

#[derive(Debug)]
struct Timer {
    key: Key,
    deadline: Option<Instant>,
    /// The earliest entry of this timer in the heap, not later than `deadline`.
    armed: Option<Instant>,
}

/// Below this number of entries the heap is not worth rebuilding.
const SMALL_HEAP: usize = 64;

impl Timers {
    /// Sets, moves or clears the deadline of a task.
    pub(super) fn set(&mut self, key: Key, deadline: Option<Instant>) {
        if self.timers.len() <= key.index() {
            self.timers.resize_with(key.index() + 1, || None);
        }
        let place = &mut self.timers[key.index()];
        if place.as_ref().is_none_or(|timer| timer.key != key) {
            self.used += usize::from(place.is_none());
            *place = Some(Timer { key, deadline: None, armed: None });
        }
        let Some(timer) = place else { return };
        timer.deadline = deadline;
        if let Some(deadline) = deadline
            && timer.armed.is_none_or(|armed| deadline < armed)
        {
            timer.armed = Some(deadline);
            self.heap.push(Reverse((deadline, key)));
            self.rebuild_if_mostly_stale();
        }
    }

    /// Forgets a task.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some(place) = self.timers.get_mut(key.index())
            && place.take_if(|timer| timer.key == key).is_some()
        {
            self.used -= 1;
        }
    }

    /// Returns the earliest deadline.
    pub(super) fn earliest(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, key)) = *self.heap.peek()?;
            let timer = timer_of(&mut self.timers, key).filter(|timer| timer.armed == Some(at));
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

    /// Takes a task whose deadline has passed; each deadline is returned once.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Key> {
        self.earliest().filter(|at| *at <= now)?;
        let Reverse((_, key)) = self.heap.pop()?;
        let timer = timer_of(&mut self.timers, key)?;
        (timer.deadline, timer.armed) = (None, None);
        Some(key)
    }

    fn rebuild_if_mostly_stale(&mut self) {
        if self.heap.len() > SMALL_HEAP.max(2 * self.used) {
            let timers = &mut self.timers;
            self.heap.retain(|Reverse((at, key))| timer_of(timers, *key).is_some_and(|timer| timer.armed == Some(*at)));
        }
    }
}

fn timer_of(timers: &mut [Option<Timer>], key: Key) -> Option<&mut Timer> {
    timers.get_mut(key.index())?.as_mut().filter(|timer| timer.key == key)
}

/// How exactly a [`Reactor`](super::Reactor) meets deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Up to a millisecond late, at no cost: the poll's timeout, which mio rounds up to whole milliseconds.
    #[default]
    Milliseconds,
    /// As exactly as the system wakes up a process, for one more system call and one more event per deadline: a timerfd
    /// in the poll. Elsewhere than on Linux the same as [`Milliseconds`](Self::Milliseconds).
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
    /// An alarm for the poll of `registry`.
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

    /// There is no timer that a poll can watch on every platform.
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
    use crate::reactor::slots::Slots;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn moved_deadline_fires_once_and_at_its_last_time() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let key = Slots::new().insert(());
        timers.set(key, Some(at(start, 10)));
        timers.set(key, Some(at(start, 30)));
        timers.set(key, Some(at(start, 20)));
        assert_eq!(timers.earliest(), Some(at(start, 20)));
        assert_eq!(timers.pop_due(at(start, 19)), None);
        assert_eq!(timers.pop_due(at(start, 100)), Some(key));
        assert_eq!((timers.pop_due(at(start, 100)), timers.earliest()), (None, None));
    }

    #[test]
    fn deadline_of_removed_task_does_not_fire_for_its_successor() {
        let start = Instant::now();
        let (mut timers, mut slots) = (Timers::default(), Slots::new());
        let first = slots.insert(());
        timers.set(first, Some(at(start, 10)));
        slots.remove(first);
        timers.remove(first);
        let second = slots.insert(());
        assert_eq!(timers.pop_due(at(start, 100)), None);
        timers.set(second, Some(at(start, 20)));
        assert_eq!(timers.pop_due(at(start, 100)), Some(second));
    }

    #[test]
    fn heap_does_not_grow_with_the_number_of_changes() {
        let start = Instant::now();
        let (mut timers, mut slots) = (Timers::default(), Slots::new());
        let keys: Vec<_> = (0..100).map(|_| slots.insert(())).collect();
        for earlier in 0..1_000 {
            keys.iter().for_each(|key| timers.set(*key, Some(at(start, 10_000 - earlier))));
        }
        assert!(timers.heap.len() <= 2 * keys.len());
        assert_eq!(timers.pop_due(at(start, 9_000)), None);
        assert_eq!(std::iter::from_fn(|| timers.pop_due(at(start, 9_001))).count(), 100);
    }

    proptest! {
        /// Compared with a map that is searched from end to end.
        #[test]
        fn every_deadline_fires_once_and_in_order(
            changes in proptest::collection::vec((0..8_usize, proptest::option::of(0..100_u64)), 1..200)
        ) {
            let start = Instant::now();
            let (mut timers, mut slots) = (Timers::default(), Slots::new());
            let keys: Vec<_> = (0..8).map(|_| slots.insert(())).collect();
            let mut model = BTreeMap::new();
            for (i, (task, change)) in changes.into_iter().enumerate() {
                timers.set(keys[task], change.map(|millis| at(start, millis)));
                model.insert(keys[task], change);
                if i % 5 == 0 {
                    let now = i as u64;
                    let mut due: Vec<_> =
                        model.iter().filter_map(|(key, change)| Some(((*change)?, *key))).filter(|due| due.0 <= now).collect();
                    due.sort_unstable();
                    for (_, key) in &due {
                        model.insert(*key, None);
                    }
                    let fired: Vec<_> = std::iter::from_fn(|| timers.pop_due(at(start, now))).collect();
                    prop_assert_eq!(fired, due.into_iter().map(|(_, key)| key).collect::<Vec<_>>());
                }
                let earliest = model.values().flatten().min().map(|millis| at(start, *millis));
                prop_assert_eq!(timers.earliest(), earliest);
            }
        }
    }
}
