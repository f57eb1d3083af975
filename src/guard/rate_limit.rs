//! A rate limiter per source address: token buckets in a table of fixed size. Pure: time is an argument.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The table has 64 shards of 85 sets of 4 buckets: 21,760 buckets of 24 bytes, 510 KiB in all. A shard is allocated
/// when it is first used. Each has a lock of its own, so that workers seldom wait for each other.
const SHARDS: usize = 64;
const SETS_PER_SHARD: usize = 85;
const BUCKETS_PER_SET: usize = 4;

/// The burst tolerance: a source may use up what it is allowed for one second at once.
const BURST: Duration = Duration::from_secs(1);

/// How many bytes of packets a source may be sent for each reply that it is allowed: a full Ethernet frame.
const BYTES_PER_REPLY: u64 = 1_500;

/// Limits the replies to each source, in number and in bytes.
///
/// A source is an IPv4 address or an IPv6 /64 prefix. A link-local address is a source of its own on each interface,
/// since all hosts of all links share one prefix; and hosts behind NAT64 (`64:ff9b::/96`, RFC 6052) count as the IPv4
/// addresses they are. A spoofed source can use up the replies of the address's owner, as with any limit per source.
///
/// Memory does not grow with the number of sources. A new source takes over the fullest bucket of its set and starts
/// with all tokens, so a collision never refuses a reply. The source that it displaces will start with all tokens, too,
/// and exceeds its rate by as much as its bucket lacked. That is little unless the three other sources of the set have
/// used up at least as much at the same time: a flood from ever new sources, which use one token each, gains it
/// nothing. The hash is keyed with a secret of this process, so that collisions cannot be computed from outside.
#[derive(Debug)]
pub struct RateLimiter {
    /// The interval at which a source earns one reply, in nanoseconds.
    emission_interval: u64,
    start: Instant,
    hash_key: RandomState,
    shards: [Mutex<Vec<Set>>; SHARDS],
}

type Set = [Bucket; BUCKETS_PER_SET];

/// Two token buckets in the form of the generic cell rate algorithm (GCRA): each is one time instead of a level and the
/// time of its last update. GCRA calls it the "theoretical arrival time": when the bucket will be full again, in
/// nanoseconds since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The hash of the source.
    source: u64,
    replies_full_at: u64,
    bytes_full_at: u64,
}

impl RateLimiter {
    /// Creates a limiter that allows each source `limit` replies a second, or `limit` × 1,500 bytes of reply packets if
    /// that comes first, and a burst of as much.
    pub fn new(limit: u32, start: Instant) -> Self {
        Self {
            emission_interval: nanoseconds(BURST / limit.max(1)),
            start,
            hash_key: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Takes the tokens for a reply to `source` whose packet has `length` bytes; returns `false` if too few are left.
    ///
    /// A reply that is longer than a full bucket of bytes empties a full one, and what is missing is owed: no length is
    /// refused for good, and the rate still holds.
    pub fn take_tokens(&self, source: SocketAddr, length: usize, now: Instant) -> bool {
        let now = nanoseconds(now.saturating_duration_since(self.start));
        let source = self.hash_key.hash_one(source_key(source));
        let hash = source as usize;
        let mut shard = self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        shard.resize(SETS_PER_SHARD, Set::default());
        let set = &mut shard[hash / SHARDS % SETS_PER_SHARD];
        let is_other = |bucket: &&mut Bucket| bucket.source != source;
        let by_fullness = |bucket: &&mut Bucket| (is_other(bucket), bucket.replies_full_at.max(bucket.bytes_full_at));
        let Some(bucket) = set.iter_mut().min_by_key(by_fullness) else { return true };
        if bucket.source != source {
            *bucket = Bucket { source, ..Bucket::default() };
        }
        let cost_of_bytes = self.emission_interval * length as u64 / BYTES_PER_REPLY;
        let replies_full_at = bucket.replies_full_at.max(now).saturating_add(self.emission_interval);
        let bytes_full_at = bucket.bytes_full_at.max(now).saturating_add(cost_of_bytes);
        let latest = now.saturating_add(nanoseconds(BURST));
        let allowed = replies_full_at <= latest && (bytes_full_at <= latest || bucket.bytes_full_at <= now);
        if allowed {
            *bucket = Bucket { source, replies_full_at, bytes_full_at };
        }
        allowed
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns what identifies a source. The kinds cannot be equal: IPv4 is below 2^32, an interface and a host are above
/// 2^127, and no host has a prefix in `::/32`.
fn source_key(source: SocketAddr) -> u128 {
    const NAT64: u128 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).to_bits() >> 32;
    match source {
        SocketAddr::V4(source) => source.ip().to_bits().into(),
        SocketAddr::V6(source) => {
            let ip = source.ip().to_bits();
            if let Some(ip) = source.ip().to_ipv4_mapped() {
                ip.to_bits().into()
            } else if source.ip().is_unicast_link_local() {
                1 << 127 | u128::from(source.scope_id()) << 64 | u128::from(ip as u64)
            } else if ip >> 32 == NAT64 {
                u128::from(ip as u32)
            } else {
                ip >> 64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("an address"), 4000)
    }

    /// How many of 100 replies are allowed, with packets of `length` bytes.
    fn allowed(limiter: &RateLimiter, ip: &str, length: usize, now: Instant) -> usize {
        (0..100).filter(|_| limiter.take_tokens(source(ip), length, now)).count()
    }

    #[test]
    fn allows_a_burst_then_the_rate() {
        let start = Instant::now();
        let limiter = RateLimiter::new(10, start);
        let allowed = |ip, at| allowed(&limiter, ip, 1_500, start + Duration::from_millis(at));
        assert_eq!(allowed("192.0.2.1", 0), 10);
        assert_eq!(allowed("192.0.2.1", 99), 0);
        assert_eq!(allowed("192.0.2.1", 100), 1);
        assert_eq!(allowed("192.0.2.1", 600), 5);
        assert_eq!(allowed("192.0.2.1", 60_000), 10, "a pause earns no more than one burst");
        assert_eq!(allowed("192.0.2.2", 60_000), 10, "another source has its own bucket");
    }

    #[test]
    fn long_replies_are_charged_by_their_bytes() {
        let start = Instant::now();
        let replies = |length| allowed(&RateLimiter::new(10, start), "192.0.2.1", length, start);
        assert_eq!([28, 1_500, 1_501, 3_000, 5_000, 7_501, 15_000].map(replies), [10, 10, 9, 5, 3, 1, 1]);
    }

    #[test]
    fn reply_that_exceeds_the_bucket_takes_a_full_one_and_owes_the_rest() {
        let start = Instant::now();
        let limiter = RateLimiter::new(10, start);
        let takes = |length, at| limiter.take_tokens(source("192.0.2.1"), length, start + Duration::from_millis(at));
        assert!(takes(60_000, 0), "what is earned in four seconds");
        assert!(!takes(15, 3_000));
        assert!(takes(15, 3_001));
        assert!(!takes(60_000, 4_000), "not full");
        assert!(takes(60_000, 4_001));
    }

    #[test]
    fn sources_are_ipv4_addresses_and_ipv6_prefixes() {
        let start = Instant::now();
        for (one, other, is_same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false),
            ("64:ff9b::192.0.2.1", "192.0.2.1", true),
            ("64:ff9b::1:0:0:1", "64:ff9b::1:0:0:2", true),
            ("fe80::1", "fe80::2", false),
            ("fe80::1", "febf:ffff::1", true),
            ("fec0::1", "fec0::2", true),
        ] {
            let limiter = RateLimiter::new(1, start);
            assert!(limiter.take_tokens(source(one), 28, start));
            assert_eq!(limiter.take_tokens(source(other), 28, start), !is_same, "{one} and {other}");
        }
    }

    #[test]
    fn link_local_sources_differ_by_interface() {
        let start = Instant::now();
        let limiter = RateLimiter::new(1, start);
        let on_interface = |scope: u32| format!("[fe80::1%{scope}]:4000").parse().expect("an address");
        assert!(limiter.take_tokens(on_interface(1), 28, start));
        assert!(!limiter.take_tokens(on_interface(1), 28, start));
        assert!(limiter.take_tokens(on_interface(2), 28, start));
    }

    #[test]
    fn flood_of_spoofed_sources_gains_a_source_nothing() {
        let start = Instant::now();
        let limiter = RateLimiter::new(1_000, start);
        let mut allowed = 0;
        for i in 0..1_000_000_u32 {
            // A second of 1,000,000 packets/s, one in 100 from the source itself.
            let now = start + Duration::from_micros(i.into());
            limiter.take_tokens((i.to_be_bytes(), 4000).into(), 28, now);
            allowed += u32::from(i % 100 == 0 && limiter.take_tokens(source("2001:db8::1"), 28, now));
        }
        // What is left of a burst, and a second's replies.
        assert!((1_990..=2_010).contains(&allowed), "{allowed}");
    }

    #[test]
    fn spoofed_sources_do_not_exhaust_the_table() {
        let start = Instant::now();
        // About 46 of these sources share a bucket: without a take-over they would use up a limit of 10.
        let limiter = RateLimiter::new(10, start);
        for spoofed in 0..1_000_000_u32 {
            let source = (spoofed.to_be_bytes(), 4000).into();
            assert!(limiter.take_tokens(source, 28, start), "a collision refused a reply");
        }
        assert!(limiter.take_tokens(source("2001:db8::1"), 28, start));
    }

    proptest! {
        #[test]
        fn any_second_has_at_most_rate_plus_burst(
            limit in 1..50_u32,
            replies in proptest::collection::vec((0..200_u64, prop_oneof![28..2_000_usize, 28..65_536_usize]), 1..500),
        ) {
            let start = Instant::now();
            let limiter = RateLimiter::new(limit, start);
            let mut now = start;
            let mut sent = Vec::new();
            for (gap, length) in replies {
                now += Duration::from_millis(gap);
                if limiter.take_tokens(source("192.0.2.1"), length, now) {
                    sent.push((now, length));
                }
            }
            for (i, (from, _)) in sent.iter().enumerate() {
                let within = || sent[i..].iter().take_while(|(at, _)| *at - *from < BURST);
                prop_assert!(within().count() <= 2 * limit as usize);
                // One reply from a full bucket can exceed it.
                let bytes: usize = within().map(|(_, length)| length).sum();
                prop_assert!(bytes <= 2 * limit as usize * 1_500 + 65_535);
            }
        }
    }
}
