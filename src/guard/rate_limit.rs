//! How often each source is answered: token buckets in a table of fixed size. Pure, time is an argument.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many sources are told apart, in 16 bytes each, 512 KiB in all: in shelves, which are made when a source first
/// needs them, and which the workers lock one by one.
const SHELVES: usize = 64;
const SHELF: usize = 512;

/// How long a source that was answered in bursts is looked at: it may use up the replies of this time at once.
const BURST: Duration = Duration::from_secs(1);

/// Limits the replies to each IPv4 address and each IPv6 /64.
///
/// Memory does not grow with the number of sources. Where two of them meet in a bucket, the one that comes takes it
/// over with a full bucket, so the answer is given rather than refused; a key of this process keeps anybody from
/// finding sources that meet on purpose.
#[derive(Debug)]
pub struct RateLimit {
    /// The time that one reply is worth.
    cost: Duration,
    start: Instant,
    key: RandomState,
    shelves: [Mutex<Vec<Bucket>>; SHELVES],
}

/// A bucket as the generic cell rate algorithm keeps it.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    source: u64,
    /// Up to when the replies so far have used up the source's time, in nanoseconds since the start.
    used_up_to: u64,
}

impl RateLimit {
    /// So many replies a second for each source, and as many at once.
    pub fn new(replies_per_second: u32, start: Instant) -> Self {
        Self {
            cost: BURST / replies_per_second.max(1),
            start,
            key: RandomState::new(),
            shelves: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Whether one more reply to `source`, an IPv4 address wherever it can be written as one, is within the limit;
    /// counts it if so.
    pub fn allows(&self, source: IpAddr, now: Instant) -> bool {
        let source = group(source);
        let now = nanoseconds(now.saturating_duration_since(self.start));
        let place = self.key.hash_one(source) as usize;
        let mut shelf = self.shelves[place % SHELVES].lock().unwrap_or_else(PoisonError::into_inner);
        shelf.resize(SHELF, Bucket::default());
        let bucket = &mut shelf[place / SHELVES % SHELF];
        if bucket.source != source {
            *bucket = Bucket { source, used_up_to: 0 };
        }
        let used_up_to = bucket.used_up_to.max(now).saturating_add(nanoseconds(self.cost));
        let allowed = used_up_to <= now.saturating_add(nanoseconds(BURST));
        if allowed {
            bucket.used_up_to = used_up_to;
        }
        allowed
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// An IPv4 address, or the /64 that an IPv6 address is in. They do not meet: no host has a /64 of 0:0:x:y.
fn group(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_source_has_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let limit = RateLimit::new(10, start);
        let allowed = |source: &str, at: u64| {
            (0..100).filter(|_| limit.allows(ip(source), start + Duration::from_millis(at))).count()
        };
        assert_eq!(allowed("192.0.2.1", 0), 10);
        assert_eq!(allowed("192.0.2.1", 99), 0);
        assert_eq!(allowed("192.0.2.1", 100), 1);
        assert_eq!(allowed("192.0.2.1", 600), 5);
        assert_eq!(allowed("192.0.2.1", 60_000), 10, "the burst does not add up");
        assert_eq!(allowed("192.0.2.2", 60_000), 10, "others are others");
    }

    #[test]
    fn an_ipv6_source_is_a_whole_64() {
        let start = Instant::now();
        let limit = RateLimit::new(1, start);
        assert!(limit.allows(ip("2001:db8::1"), start));
        assert!(!limit.allows(ip("2001:db8::ffff:2"), start));
        assert!(limit.allows(ip("2001:db8:0:1::1"), start));
    }

    #[test]
    fn forged_sources_do_not_keep_another_from_being_answered() {
        let start = Instant::now();
        let limit = RateLimit::new(100, start);
        for forged in 0..1_000_000_u32 {
            assert!(limit.allows(IpAddr::from(forged.to_be_bytes()), start), "answered, not refused");
        }
        assert!(limit.allows(ip("2001:db8::1"), start));
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_the_rate_and_the_burst(
            rate in 1..50_u32, gaps in proptest::collection::vec(0..200_u64, 1..500)
        ) {
            let start = Instant::now();
            let limit = RateLimit::new(rate, start);
            let mut at = start;
            let mut answered = Vec::new();
            for gap in gaps {
                at += Duration::from_millis(gap);
                if limit.allows(ip("192.0.2.1"), at) {
                    answered.push(at);
                }
            }
            for (i, from) in answered.iter().enumerate() {
                let within = answered[i..].iter().filter(|at| **at - *from < BURST).count();
                prop_assert!(within <= 2 * rate as usize);
            }
        }
    }
}
