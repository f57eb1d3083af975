//! Ends loops: two servers that answer each other's replies. Pure: time is an argument.
//!
//! One datagram with a spoofed source starts such a loop. Its payload returns again and again, either unchanged or
//! enclosed in one more layer of the servers' own text:
//!
//! ```text
//! echo and echo    ping    ping    ping    …
//! echo and hello   ping    Hello ping    Hello Hello ping    Hello Hello Hello ping    …
//! ```

use std::cell::Cell;
use std::cmp::Reverse;
use std::hash::{BuildHasher, Hash, RandomState};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A row of payloads ends when none of them has come for this long.
const PAUSE: Duration = Duration::from_secs(1);

/// Of identical payloads in a row, one in this many is withheld.
const WITHHELD_ONE_IN: u16 = 1_000;

/// A payload is nested when it begins or ends with this many layers of own text.
const LAYERS: usize = 100;

/// Nested payloads are refused when they have grown this many times.
const GROWTHS: u16 = 100;

/// How many bytes at either end of a long payload show that it is new.
const SAMPLE: usize = 32;

/// The table has 4,096 sets of 4 entries of 16 bytes. With a lock for each set, so that workers seldom wait for each
/// other, that is 288 KiB. It is allocated when it is first used.
const SETS: usize = 4_096;
const ENTRIES_PER_SET: usize = 4;

/// Recognises the datagrams of a loop by their payloads.
///
/// - *Identical payloads* from one peer in a row, without a pause of a second, are counted; other payloads in between
///   do not matter. Only a missing reply distinguishes a loop from a client that repeats itself, so every 1,000th of
///   them is withheld, and no more. This ends a loop in which a payload returns.
/// - *Nested payloads* begin or end with 100 layers of the server's own text, with another server's text in between or
///   not. When all that differs between the payloads from one peer in a row is the number of layers, and that has grown
///   100 times, they are refused. This ends a loop in which payloads grow.
///
/// So a loop between two of these servers ends within 1,000 rounds, there and back, for each datagram that started it.
/// If identical ones started it, they share the count: together they end within that sum, but the last one may live
/// longer than 1,000 rounds. A loop whose round takes a second or longer has pauses, and is not recognised.
///
/// A client whose payloads differ loses no reply, unless they differ in the number of layers only. Payloads are
/// compared by hashes of 64 bits, keyed with a secret of this process.
///
/// Memory does not grow with the number of peers or payloads. The table forgets what has not come for a second, then
/// what has come least often: a payload that has returned is not displaced by ones that have not.
#[derive(Debug)]
pub struct LoopDetector {
    start: Instant,
    hash_key: RandomState,
    sets: OnceLock<Box<[Mutex<[Entry; ENTRIES_PER_SET]>]>>,
}

/// A row of payloads from one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// What the payloads have in common.
    hash: u64,
    /// When the last one came, in milliseconds since the start. Wraps around after 49 days; compared by difference.
    seen: u32,
    /// How many came; of nested ones, how often they have grown.
    count: u16,
    /// The longest nested payload.
    length: u16,
}

impl Entry {
    /// Counts a payload that follows at least `counted` others; returns whether its reply is to be withheld.
    fn is_withheld(&mut self, counted: u16) -> bool {
        self.count = self.count.max(counted) + 1;
        // A row keeps a high count, since the lowest are displaced.
        if self.count == 2 * WITHHELD_ONE_IN {
            self.count = WITHHELD_ONE_IN;
        }
        self.count == WITHHELD_ONE_IN
    }
}

/// Keeps the rows of different kinds apart.
#[derive(Hash)]
enum Kind {
    Sample,
    Identical,
    Nested,
    #[cfg(feature = "stamp")]
    Replies,
}

impl LoopDetector {
    /// Creates a detector that has seen nothing.
    pub fn new(start: Instant) -> Self {
        Self { start, hash_key: RandomState::new(), sets: OnceLock::new() }
    }

    /// Records a payload and returns whether its reply must be withheld. `before` and `after` are the server's own text
    /// that encloses a request in the reply, empty if the reply does not contain the request.
    pub fn is_loop(&self, peer: SocketAddr, payload: &[u8], before: &[u8], after: &[u8], now: Instant) -> bool {
        let peer = number(peer);
        let core = core(payload, before, after);
        core.is_some_and(|core| self.has_grown(peer, core, payload.len(), now)) || self.is_repeated(peer, payload, now)
    }

    fn is_repeated(&self, peer: (u128, u16), payload: &[u8], now: Instant) -> bool {
        // Hashing 1,400 bytes takes about a microsecond. Most payloads differ at one of their ends, which is enough to
        // see that they are new.
        let is_long = payload.len() > 2 * SAMPLE;
        if is_long {
            let (head, tail) = (&payload[..SAMPLE], &payload[payload.len() - SAMPLE..]);
            let sample = self.hash_key.hash_one((Kind::Sample, peer, payload.len(), head, tail));
            if self.update(sample, now, |row| mem::replace(&mut row.count, 1) == 0) {
                return false;
            }
        }
        // A long one is counted from the second on.
        let counted = u16::from(is_long);
        self.update(self.hash_key.hash_one((Kind::Identical, peer, payload)), now, |row| row.is_withheld(counted))
    }

    /// Records that a peer has sent what may be a reply, and returns whether the reply to it must be withheld: as with
    /// identical payloads, one in 1,000.
    #[cfg(feature = "stamp")]
    pub fn is_loop_of_replies(&self, peer: SocketAddr, now: Instant) -> bool {
        self.update(self.hash_key.hash_one((Kind::Replies, number(peer))), now, |row| row.is_withheld(0))
    }

    fn has_grown(&self, peer: (u128, u16), core: &[u8], length: usize, now: Instant) -> bool {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.update(self.hash_key.hash_one((Kind::Nested, peer, core)), now, |row| {
            if length > row.length {
                row.length = length;
                row.count = GROWTHS.min(row.count + 1);
            }
            row.count == GROWTHS
        })
    }

    /// Updates the row with this hash, which is a new one unless it had a payload within the last second.
    fn update(&self, hash: u64, now: Instant, update: impl FnOnce(&mut Entry) -> bool) -> bool {
        const PAUSE_MS: u32 = PAUSE.as_millis() as u32;
        let now = now.saturating_duration_since(self.start).as_millis() as u32;
        let sets = self.sets.get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        let mut set = sets[hash as usize % SETS].lock().unwrap_or_else(PoisonError::into_inner);
        let age = |row: &Entry| now.wrapping_sub(row.seen);
        let least = |row: &&mut Entry| match age(row) {
            _ if row.hash == hash => (0, Reverse(0)),
            PAUSE_MS.. => (1, Reverse(0)),
            // After a reply was withheld, the loop has probably ended.
            age => (2 + row.count % WITHHELD_ONE_IN, Reverse(age)),
        };
        let Some(row) = set.iter_mut().min_by_key(least) else { return false };
        if row.hash != hash || age(row) >= PAUSE_MS {
            *row = Entry { hash, ..Entry::default() };
        }
        row.seen = now;
        update(row)
    }
}

/// How many sets of four payloads are remembered, in 8 bytes each.
const RECENT_SETS: usize = 4_096;

/// Recognises payloads that came a short while ago, in a few nanoseconds. A loop consists of payloads that return;
/// passing all others to the loop detector, too, would cost up to a quarter of the time for a datagram on loopback.
///
/// Up to a thousand payloads that return in turn soon have a place each. Of more than four in one set, only some are
/// recognised each time. Each worker has recent payloads of its own, 32 KiB.
#[derive(Clone, Debug)]
pub struct RecentPayloads {
    /// Of each payload a part of its hash; the rest selects the set.
    sets: Vec<Cell<[u16; 4]>>,
    /// The state of a linear congruential generator. A random place in the set is overwritten: if it were the oldest
    /// one, five payloads in turn would hide each other endlessly.
    random: Cell<u32>,
}

impl Default for RecentPayloads {
    fn default() -> Self {
        Self { sets: vec![Cell::default(); RECENT_SETS], random: Cell::new(0) }
    }
}

impl RecentPayloads {
    /// Records a payload from a peer with this port; returns `false` if one that begins and ends like it is remembered,
    /// whatever its length: a payload that has grown meanwhile is not new.
    pub fn is_new(&self, port: u16, payload: &[u8]) -> bool {
        let hash = hash_ends(port, payload);
        let set = &self.sets[hash as usize % RECENT_SETS];
        let (mut marks, mark) = (set.get(), (hash >> 48) as u16);
        let is_new = !marks.contains(&mark);
        if is_new {
            let random = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.random.set(random);
            marks[(random >> 30) as usize] = mark;
            set.set(marks);
        }
        is_new
    }
}

/// Returns a hash of a port and the first 32 and the last 16 bytes. It has no key: peers on loopback are trusted not to
/// search for collisions, which would only cost time.
fn hash_ends(port: u16, payload: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
    let words = match payload.len() {
        0..16 => [payload.iter().fold(1, |word, byte| word << 8 | u128::from(*byte)), 0, 0],
        length @ 16..32 => [word(payload), 0, word(&payload[length - 16..])],
        length => [word(payload), word(&payload[16..]), word(&payload[length - 16..])],
    };
    let keys = [
        0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835,
        0xa076_1d64_78bd_642f_e703_7ed1_a0b4_28db,
        0xd6e8_feb8_6659_fd93_8ebc_6af0_9c88_c6e3,
    ];
    words.iter().zip(keys).fold(port.into(), |hash: u64, (word, key)| {
        let word = word ^ key ^ u128::from(hash);
        // Both halves multiplied, and the halves of the product combined, as in wyhash.
        let product = (word >> 64) * u128::from(word as u64);
        hash ^ (product >> 64) as u64 ^ product as u64
    })
}

/// Returns the address of a peer as a number, an IPv4 address as an IPv4-mapped one, and the port.
fn number(peer: SocketAddr) -> (u128, u16) {
    let ip = match peer.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    (ip.to_bits(), peer.port())
}

/// Returns what is left of a nested payload without its layers; `None` if it is not nested.
fn core<'a>(payload: &'a [u8], before: &[u8], after: &[u8]) -> Option<&'a [u8]> {
    let mut front = if before.is_empty() { 0 } else { layers(payload.iter(), before.iter()) };
    let mut back = if after.is_empty() { 0 } else { layers(payload.iter().rev(), after.iter().rev()) };
    if front + back == 0 {
        return None;
    }
    // On the side without own text the other server's may be repeated.
    if before.is_empty() {
        front = layers(payload.iter(), before.iter());
    }
    if after.is_empty() {
        back = layers(payload.iter().rev(), after.iter().rev());
    }
    let rest = &payload[front..];
    Some(&rest[..rest.len().saturating_sub(back)])
}

/// Returns how many of the first bytes consist of layers: of a piece that ends with `text`, repeated at least [`LAYERS`]
/// times, the last time perhaps in part. 0 if there are fewer.
fn layers<'a>(
    bytes: impl ExactSizeIterator<Item = &'a u8> + Clone,
    text: impl ExactSizeIterator<Item = &'a u8> + Clone,
) -> usize {
    let is_nested = |period: usize| {
        let end = bytes.clone().skip(period - text.len()).take(text.len());
        // A byte belongs to a layer as long as it equals the one that is a period before it.
        let repeated = || bytes.clone().zip(bytes.clone().skip(period)).take_while(|(one, other)| one == other).count();
        end.eq(text.clone()).then(|| period + repeated()).filter(|length| *length >= LAYERS * period)
    };
    (text.len().max(1)..=bytes.len() / LAYERS).find_map(is_nested).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 4000);

    struct Server {
        before: Vec<u8>,
        after: Vec<u8>,
        detector: LoopDetector,
    }

    impl Server {
        fn new(before: &str, after: &str, start: Instant) -> Self {
            Self { before: before.into(), after: after.into(), detector: LoopDetector::new(start) }
        }

        fn reply(&self, request: &[u8], now: Instant) -> Option<Vec<u8>> {
            let withheld = self.detector.is_loop(PEER.into(), request, &self.before, &self.after, now);
            (!withheld).then(|| [&self.before, request, &self.after].concat())
        }
    }

    /// Starts a loop between two servers with these payloads; returns how many replies are sent, two in each round. A
    /// loop also ends when a payload exceeds what a datagram can carry.
    fn loop_length(texts: [(&str, &str); 2], payloads: Vec<Vec<u8>>, delay: Duration) -> usize {
        let mut now = Instant::now();
        let servers = texts.map(|(before, after)| Server::new(before, after, now));
        let mut in_flight = payloads;
        let mut length = 0;
        for server in servers.iter().cycle() {
            now += delay;
            in_flight = in_flight.iter().filter_map(|payload| server.reply(payload, now)).collect();
            in_flight.retain(|payload| payload.len() <= 65_507);
            length += in_flight.len();
            if in_flight.is_empty() {
                break;
            }
            assert!(length < 1_000_000, "{texts:?}");
        }
        length
    }

    /// The same on loopback, at 2 µs per datagram: returns after how many rounds and how much time the last one ends.
    fn life_on_loopback(texts: [(&str, &str); 2], payloads: Vec<Vec<u8>>) -> (usize, Duration) {
        let start = Instant::now();
        let mut now = start;
        let servers = texts.map(|(before, after)| (Server::new(before, after, start), RecentPayloads::default()));
        let mut in_flight = payloads;
        let mut turns = 0;
        for (server, recent) in servers.iter().cycle() {
            if in_flight.is_empty() || now - start > Duration::from_secs(20) {
                break;
            }
            turns += 1;
            now += in_flight.len() as u32 * Duration::from_micros(2);
            let text = |payload: &[u8]| [&server.before, payload, &server.after].concat();
            let reply = |payload: &Vec<u8>| {
                if recent.is_new(4000, payload) { Some(text(payload)) } else { server.reply(payload, now) }
            };
            in_flight = in_flight.iter().filter_map(reply).collect();
        }
        (turns / 2, now - start)
    }

    fn detector() -> (LoopDetector, Instant) {
        let start = Instant::now();
        (LoopDetector::new(start), start)
    }

    /// How many of these payloads from one peer are withheld, with a gap between them.
    fn withheld<'a>(payloads: impl IntoIterator<Item = &'a [u8]>, before: &str, after: &str, gap: Duration) -> usize {
        let (detector, mut now) = detector();
        let withheld = payloads.into_iter().filter(|payload| {
            now += gap;
            detector.is_loop(PEER.into(), payload, before.as_bytes(), after.as_bytes(), now)
        });
        withheld.count()
    }

    const GAP: Duration = Duration::from_millis(1);

    #[test]
    fn loops_end_within_a_thousand_rounds() {
        let texts = [
            ("", ""),
            ("Hello ", ""),
            ("Server acknowledges: ", ""),
            ("", "!"),
            ("<", ">"),
            ("xx", ""),
            ("", "xx"),
            ("xxxxxxxxxxx", "x"),
            ("Hello", "Hello"),
        ];
        for one in texts {
            for other in texts {
                for payload in ["ping", "Hello Hello xxx"] {
                    // A round takes just less than a second.
                    let length = loop_length([one, other], vec![payload.into()], Duration::from_millis(499));
                    assert!(length < 2_000, "{one:?} and {other:?} from {payload:?}: {length}");
                }
            }
        }
    }

    #[test]
    fn loops_of_many_datagrams_end_within_a_thousand_rounds_for_each() {
        for texts in [[("", ""), ("", "")], [("", ""), ("Hello ", "")], [("<", ">"), ("", "!")]] {
            for count in [2, 3, 9, 10, 100] {
                let same = loop_length(texts, vec![b"ping".to_vec(); count], GAP);
                assert!(same <= 2_000 * count, "{texts:?}: {same} for {count} of one payload");
                let different = (0..count).map(|i| i.to_string().into_bytes()).collect();
                let different = loop_length(texts, different, GAP);
                assert!(different <= 2_000 * count, "{texts:?}: {different} for {count} different ones");
            }
        }
    }

    #[test]
    fn loops_of_many_different_datagrams_on_loopback_end_too() {
        let [echo, hello] = [("", ""), ("Hello ", "")];
        for (texts, count) in [([echo, echo], 503), ([echo, hello], 50)] {
            let payloads = |count| (0..count).map(|i| format!("{i:-<40}.").into_bytes()).collect();
            let (rounds, _) = life_on_loopback(texts, payloads(20));
            assert!(rounds <= 1_010, "{texts:?}, 20: {rounds}");
            // Some share a set of a table, and wait until the rows of others are stale.
            let (_, time) = life_on_loopback(texts, payloads(count));
            assert!(time < Duration::from_secs(15), "{texts:?}, {count}: {time:?}");
        }
    }

    #[test]
    fn most_different_payloads_are_new() {
        for size in [8, 17, 24, 64, 1_400] {
            let recent = RecentPayloads::default();
            let payload = |i: u32| [&b"12345678-"[..], format!("{i:08}").as_bytes(), &vec![b'x'; size]].concat();
            let new = (0..100_000).filter(|i| recent.is_new(4000, &payload(*i)[..size.max(17)])).count();
            assert!(new > 99_900, "{new} of {size} bytes");
            let again = (99_900..100_000).filter(|i| !recent.is_new(4000, &payload(*i)[..size.max(17)])).count();
            assert!(again > 90, "{again} of {size} bytes are remembered");
        }
    }

    #[test]
    fn every_thousandth_identical_payload_is_withheld() {
        for payload in [&b""[..], b"you", &[b'y'; 64], &[b'y'; 65], &[b'y'; 1_400]] {
            let (detector, now) = detector();
            let withheld = (0..5_000).filter(|_| detector.is_loop(PEER.into(), payload, b"Hello ", b"", now));
            let places: Vec<_> = withheld.collect();
            assert_eq!(places, [999, 1_999, 2_999, 3_999, 4_999], "{} bytes", payload.len());
        }
    }

    #[test]
    fn pause_of_a_second_ends_a_row() {
        let same = || std::iter::repeat_n(&b"you"[..], 5_000);
        assert_eq!(withheld(same(), "", "", Duration::from_millis(999)), 5);
        assert_eq!(withheld(same(), "", "", Duration::from_millis(1_000)), 0);
    }

    #[test]
    fn peers_are_addresses_with_ports() {
        let (detector, now) = detector();
        let mut peers = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "[2001:db8::1]:1"].into_iter().cycle();
        let is_loop = |peer: &str| detector.is_loop(peer.parse().expect("an address"), b"you", b"", b"", now);
        assert_eq!((0..4 * 999).filter(|_| peers.next().is_some_and(is_loop)).count(), 0);
        assert_eq!((0..4).filter(|_| peers.next().is_some_and(is_loop)).count(), 4);
        let (detector, now) = (LoopDetector::new(now), now);
        let mut peers = ["192.0.2.1:1", "[::ffff:192.0.2.1]:1"].into_iter().cycle();
        let is_loop = |peer: &str| detector.is_loop(peer.parse().expect("an address"), b"you", b"", b"", now);
        assert_eq!((0..1_000).filter(|_| peers.next().is_some_and(is_loop)).count(), 1, "one address in two forms");
    }

    #[test]
    fn other_payloads_in_between_reset_nothing() {
        let (detector, now) = detector();
        for i in 0..999_u16 {
            assert!(!detector.is_loop(PEER.into(), b"again", b"", b"", now));
            for j in 0..500_u16 {
                // From many sources, too.
                let peer = ([10, 0, i as u8, j as u8], j).into();
                assert!(!detector.is_loop(peer, format!("{i} {j}").as_bytes(), b"", b"", now));
            }
        }
        assert!(detector.is_loop(PEER.into(), b"again", b"", b"", now));
    }

    #[test]
    fn stale_rows_make_room_first() {
        let (detector, start) = detector();
        let record = |range: std::ops::Range<u16>, now| {
            range.for_each(|i| assert!(!detector.is_loop(PEER.into(), &i.to_be_bytes(), b"", b"", now)));
        };
        record(0..30_000, start);
        record(0..30_000, start);
        record(30_000..34_000, start + PAUSE);
        let rows = detector.sets.get().expect("a table").iter().flat_map(|set| *set.lock().expect("a set"));
        let new = rows.filter(|row| row.seen == PAUSE.as_millis() as u32).count();
        // A few sets have more than four.
        assert!(new > 3_900, "{new}");
    }

    #[test]
    fn payloads_that_only_contain_own_text_are_answered() {
        let repeated = |count: usize| ["Hello "].repeat(count).concat();
        for payload in ["Hello ".to_owned(), repeated(10), repeated(200), repeated(5_000) + "you"] {
            assert_eq!(withheld([payload.as_bytes(); 999], "Hello ", "", GAP), 0);
        }
        // Padding that looks like own text, with a number behind it.
        let numbered: Vec<_> = (0..5_000).map(|i| "x".repeat(i % 1_400) + &i.to_string()).collect();
        assert_eq!(withheld(numbered.iter().map(String::as_bytes), "x", "", GAP), 0);
        // Nothing but such padding, in two lengths.
        let lengths: Vec<_> = (0..600).map(|i| "x".repeat(500 + i % 2)).collect();
        assert_eq!(withheld(lengths.iter().map(String::as_bytes), "x", "", GAP), 0);
    }

    #[test]
    fn nested_payloads_that_grow_are_refused() {
        let growing: Vec<_> = (1..400).map(|layers| ["Hello "].repeat(layers).concat() + "you").collect();
        let payloads = || growing.iter().map(String::as_bytes);
        // The first 99 have too few layers, the next 99 have not grown enough.
        assert_eq!(withheld(payloads(), "Hello ", "", GAP), 399 - 99 - 99);
        assert_eq!(withheld(payloads(), "Hello ", "", PAUSE), 0);
        assert_eq!(withheld(payloads(), "Hullo ", "", GAP), 0, "not own text");
    }

    #[test]
    fn layers_are_found_at_both_ends() {
        let core = |payload: &str, before: &str, after: &str| {
            core(payload.as_bytes(), before.as_bytes(), after.as_bytes())
                .map(|core| String::from_utf8_lossy(core).into_owned())
        };
        let payload = |count| ["ab"].repeat(count).concat() + "core" + &["xyz"].repeat(count).concat();
        assert_eq!(core(&payload(100), "b", "x").as_deref(), Some("core"));
        assert_eq!(core(&payload(100), "b", "").as_deref(), Some("core"), "foreign text behind own text");
        assert_eq!(core(&payload(100), "", "xyz").as_deref(), Some("core"));
        assert_eq!(core(&payload(99), "b", "x"), None);
        assert_eq!(core(&payload(100), "a", "z"), None, "own text is next to the core");
        assert_eq!(core(&payload(100), "", ""), None);
        assert_eq!(core(&["ab"].repeat(300).concat(), "b", "a").as_deref(), Some(""));
        assert_eq!(core("", "b", "a"), None);
    }

    proptest! {
        // Each case is a whole loop.
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

        #[test]
        fn any_loop_ends_within_a_thousand_rounds(
            texts in any::<[(u8, u8, u8, u8); 2]>(), payload in "[ab]{0,50}", delay in 0..499_u64,
        ) {
            let text = |letters: u8, length: u8| -> String {
                (0..length % 6).map(|i| if letters >> (i % 8) & 1 == 0 { 'a' } else { 'b' }).collect()
            };
            let texts = texts.map(|(b, b_length, a, a_length)| (text(b, b_length), text(a, a_length)));
            let texts = [0, 1].map(|i: usize| (texts[i].0.as_str(), texts[i].1.as_str()));
            prop_assert!(loop_length(texts, vec![payload.into()], Duration::from_millis(delay)) < 2_000);
        }

        #[test]
        fn different_payloads_are_never_withheld(length in 0..200_usize, before in "[ab]{0,3}", bytes in vec(any::<u8>(), 200)) {
            // They differ in one byte anywhere, besides the two letters that number them.
            let payloads: Vec<_> = (0..2_000_u16).map(|i| {
                let mut payload = bytes.clone();
                payload.splice(length..length, i.to_be_bytes());
                payload
            }).collect();
            prop_assert_eq!(withheld(payloads.iter().map(Vec::as_slice), &before, "", GAP), 0);
        }
    }
}
