//! The sessions of a stateful reflector, in a table of fixed size. Pure: time is an argument.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use super::tlv::Counters;

/// A session without a packet for this long is over, as in TWAMP (`REFWAIT`, RFC 5357, section 4.2).
const IDLE: Duration = Duration::from_secs(900);

/// The table has 2,048 sets of 8 entries of 24 bytes, 384 KiB, which are allocated for the first session.
const SETS: usize = 2_048;
const ENTRIES_PER_SET: usize = 8;

/// Counts the packets of each session.
///
/// A session is recognised by a hash of 64 bits, keyed with a secret of this process. Memory does not grow: a session
/// for which there is no room has no counters, and is served as by a stateless reflector. One that has begun keeps its
/// place, so that a flood of new ones does not reset it.
#[derive(Debug)]
pub struct Sessions {
    start: Instant,
    hash_key: RandomState,
    sets: Vec<[Entry; ENTRIES_PER_SET]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    hash: u64,
    /// When its last packet came, in seconds since the start, and 1; 0 if there is no session.
    seen: u32,
    counters: Counters,
}

impl Sessions {
    /// Creates an empty table.
    pub fn new(start: Instant) -> Self {
        Self { start, hash_key: RandomState::new(), sets: Vec::new() }
    }

    /// Records that a packet of a session was received, if the session is known.
    pub fn receive(&mut self, session: &impl Hash, now: Instant) {
        let (hash, now) = (self.hash_key.hash_one(session), self.seconds(now));
        let set = self.sets.get_mut(hash as usize % SETS);
        if let Some(entry) = set.and_then(|set| set.iter_mut().find(|entry| entry.is_of(hash, now))) {
            entry.counters.received = entry.counters.received.wrapping_add(1);
            entry.seen = now;
        }
    }

    /// Records that the packet is replied to; returns the counters of the session, which may begin with it. `None` if
    /// there is no room for the session.
    pub fn transmit(&mut self, session: &impl Hash, now: Instant) -> Option<Counters> {
        let (hash, now) = (self.hash_key.hash_one(session), self.seconds(now));
        if self.sets.is_empty() {
            self.sets = vec![Default::default(); SETS];
        }
        let set = self.sets.get_mut(hash as usize % SETS)?;
        let known = set.iter().position(|entry| entry.is_of(hash, now));
        let place = known.or_else(|| set.iter().position(|entry| entry.is_free(now)))?;
        let entry = set.get_mut(place)?;
        if known.is_none() {
            *entry = Entry { hash, seen: now, counters: Counters { received: 1, transmitted: 0 } };
        }
        entry.counters.transmitted = entry.counters.transmitted.wrapping_add(1);
        Some(entry.counters)
    }

    fn seconds(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_secs() as u32 + 1
    }
}

impl Entry {
    fn is_free(&self, now: u32) -> bool {
        self.seen == 0 || u64::from(now.saturating_sub(self.seen)) > IDLE.as_secs()
    }

    fn is_of(&self, hash: u64, now: u32) -> bool {
        self.hash == hash && !self.is_free(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_apart() {
        let start = Instant::now();
        let mut sessions = Sessions::new(start);
        let mut exchange = |session: u32| {
            sessions.receive(&session, start);
            sessions.transmit(&session, start)
        };
        let counters = |received, transmitted| Some(Counters { received, transmitted });
        assert_eq!([exchange(1), exchange(1), exchange(2)], [counters(1, 1), counters(2, 2), counters(1, 1)]);
        // One that is refused is received only.
        sessions.receive(&1, start);
        sessions.receive(&1, start);
        assert_eq!(sessions.transmit(&1, start), counters(4, 3));
    }

    #[test]
    fn silent_session_starts_again() {
        let start = Instant::now();
        let mut sessions = Sessions::new(start);
        let transmitted = |sessions: &mut Sessions, now| {
            sessions.receive(&"session", now);
            sessions.transmit(&"session", now).map(|counters| counters.transmitted)
        };
        assert_eq!(transmitted(&mut sessions, start), Some(1));
        assert_eq!(transmitted(&mut sessions, start + IDLE), Some(2));
        assert_eq!(transmitted(&mut sessions, start + 2 * IDLE + Duration::from_secs(1)), Some(1));
    }

    #[test]
    fn full_table_keeps_its_sessions_and_serves_others_without_state() {
        let start = Instant::now();
        let mut sessions = Sessions::new(start);
        assert!(sessions.transmit(&0, start).is_some());
        let room = (1..200_000).filter(|session| sessions.transmit(session, start).is_some()).count();
        assert_eq!(room, SETS * ENTRIES_PER_SET - 1);
        assert_eq!(sessions.transmit(&0, start).map(|counters| counters.transmitted), Some(2));
        assert_eq!(sessions.sets.len() * size_of::<[Entry; ENTRIES_PER_SET]>(), 384 << 10);
        // When the others are over, there is room again.
        let later = start + IDLE + Duration::from_secs(2);
        assert!(sessions.transmit(&200_001, later).is_some());
    }
}
