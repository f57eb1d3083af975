//! A rate limiter per source address: token buckets in a table of fixed size. Pure: time is an argument.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The table has 64 shards of 512 buckets: 32,768 buckets of 16 bytes, 512 KiB in all. A shard is allocated when it is
/// first used. Each has a lock of its own, so that workers seldom wait for each other.
const SHARDS: usize = 64;
const BUCKETS_PER_SHARD: usize = 512;

/// The burst tolerance: a source may use up the replies of one second at once.
const BURST: Duration = Duration::from_secs(1);

/// Limits the rate of replies to each IPv4 address and each IPv6 /64 prefix.
///
/// Memory does not grow with the number of sources. When two prefixes collide in a bucket, the newcomer takes it over
/// with all its tokens, so a collision allows replies but never refuses one. The hash is keyed with a secret of this
/// process, so that collisions cannot be computed from outside.
#[derive(Debug)]
pub struct RateLimiter {
    /// The interval at which a source earns one reply.
    emission_interval: Duration,
    start: Instant,
    hash_key: RandomState,
    shards: [Mutex<Vec<Bucket>>; SHARDS],
}

/// A token bucket in the form of the generic cell rate algorithm (GCRA): one time instead of a level and the time of
/// its last update.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    prefix: u64,
    /// GCRA's "theoretical arrival time": when the bucket will be full again, in nanoseconds since the start.
    full_at: u64,
}

impl RateLimiter {
    /// Creates a limiter that allows each prefix `replies_per_second`, and a burst of the same number.
    pub fn new(replies_per_second: u32, start: Instant) -> Self {
        Self {
            emission_interval: BURST / replies_per_second.max(1),
            start,
            hash_key: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Takes a token for one reply to `source`; returns `false` if there is none left.
    ///
    /// An IPv4-mapped IPv6 address must be passed as the IPv4 address.
    pub fn take_token(&self, source: IpAddr, now: Instant) -> bool {
        let prefix = prefix_key(source);
        let now = nanoseconds(now.saturating_duration_since(self.start));
        let hash = self.hash_key.hash_one(prefix) as usize;
        let mut shard = self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        shard.resize(BUCKETS_PER_SHARD, Bucket::default());
        let bucket = &mut shard[hash / SHARDS % BUCKETS_PER_SHARD];
        if bucket.prefix != prefix {
            *bucket = Bucket { prefix, full_at: 0 };
        }
        let full_at = bucket.full_at.max(now).saturating_add(nanoseconds(self.emission_interval));
        let allowed = full_at <= now.saturating_add(nanoseconds(BURST));
        if allowed {
            bucket.full_at = full_at;
        }
        allowed
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The address of an IPv4 source, or the /64 prefix of an IPv6 one. They cannot be equal: an IPv4 key is below 2^32,
/// and no host has a prefix in `::/32`.
fn prefix_key(ip: IpAddr) -> u64 {
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
    fn allows_a_burst_then_the_rate() {
        let start = Instant::now();
        let limiter = RateLimiter::new(10, start);
        let allowed = |source: &str, at: u64| {
            (0..100).filter(|_| limiter.take_token(ip(source), start + Duration::from_millis(at))).count()
        };
        assert_eq!(allowed("192.0.2.1", 0), 10);
        assert_eq!(allowed("192.0.2.1", 99), 0);
        assert_eq!(allowed("192.0.2.1", 100), 1);
        assert_eq!(allowed("192.0.2.1", 600), 5);
        assert_eq!(allowed("192.0.2.1", 60_000), 10, "a pause earns no more than one burst");
        assert_eq!(allowed("192.0.2.2", 60_000), 10, "another source has its own bucket");
    }

    #[test]
    fn ipv6_sources_share_a_bucket_per_64_prefix() {
        let start = Instant::now();
        let limiter = RateLimiter::new(1, start);
        assert!(limiter.take_token(ip("2001:db8::1"), start));
        assert!(!limiter.take_token(ip("2001:db8::ffff:2"), start));
        assert!(limiter.take_token(ip("2001:db8:0:1::1"), start));
    }

    #[test]
    fn spoofed_sources_do_not_exhaust_the_table() {
        let start = Instant::now();
        let limiter = RateLimiter::new(100, start);
        for spoofed in 0..1_000_000_u32 {
            assert!(limiter.take_token(IpAddr::from(spoofed.to_be_bytes()), start), "a collision refused a reply");
        }
        assert!(limiter.take_token(ip("2001:db8::1"), start));
    }

    proptest! {
        #[test]
        fn any_second_has_at_most_rate_plus_burst(
            rate in 1..50_u32, gaps in proptest::collection::vec(0..200_u64, 1..500)
        ) {
            let start = Instant::now();
            let limiter = RateLimiter::new(rate, start);
            let mut now = start;
            let mut replies = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if limiter.take_token(ip("192.0.2.1"), now) {
                    replies.push(now);
                }
            }
            for (i, from) in replies.iter().enumerate() {
                let within = replies[i..].iter().filter(|at| **at - *from < BURST).count();
                prop_assert!(within <= 2 * rate as usize);
            }
        }
    }
}
