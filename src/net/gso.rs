//! Generic segmentation offload (`UDP_SEGMENT`, udp(7)): which datagrams can leave as one send. Pure.

use std::time::{Duration, Instant};

use super::{Outgoing, most_segments};

/// The longest segment, in bytes: what fits an Ethernet frame over IPv6. The kernel refuses segments that exceed the
/// MTU of the path, and longer ones gain little.
pub const LONGEST_SEGMENT: usize = 1_452;

/// How long a [`SegmentLimit`] stays lowered. A failed attempt costs a system call and a copy of up to 64 KiB, about
/// 20 µs, which is negligible every 10 seconds; and a route or device that has recovered is used again after that.
const LOWERED_FOR: Duration = Duration::from_secs(10);

/// The datagrams of some runs that have not left yet.
#[derive(Clone, Copy, Debug)]
pub struct Unsent<'r, 'a> {
    runs: &'r [Outgoing<'a>],
    /// How many datagrams of the first run have left; not all.
    skipped: usize,
}

impl<'r, 'a> Unsent<'r, 'a> {
    /// Creates the list of all datagrams of `runs`.
    pub fn new(runs: &'r [Outgoing<'a>]) -> Self {
        Self { runs, skipped: 0 }
    }

    /// Returns whether all have left.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Skips datagrams that have left.
    pub fn skip(&mut self, count: usize) {
        self.skipped += count;
        while let Some(run) = self.runs.first()
            && self.skipped >= run.count
        {
            self.skipped -= run.count;
            self.runs = &self.runs[1..];
        }
    }

    /// Returns the next message, and skips its datagrams: the first run, or as much of it as one send carries, and
    /// those of the following runs that join it as a whole.
    pub fn next_message(&mut self, longest_segment: usize) -> Option<(Outgoing<'a>, &'r [Outgoing<'a>])> {
        let (first, others) = self.runs.split_first()?;
        let rest = first.slice(self.skipped, first.count - self.skipped);
        let most = most_datagrams(&rest, longest_segment);
        let first = rest.slice(0, most.min(rest.count));
        let joining = if first.count < rest.count { 0 } else { count_joining(&first, others, most) };
        self.skip(count_datagrams(&first, &others[..joining]));
        Some((first, &others[..joining]))
    }
}

/// Returns how many datagrams a message has.
pub fn count_datagrams(first: &Outgoing<'_>, others: &[Outgoing<'_>]) -> usize {
    first.count + others.iter().map(|run| run.count).sum::<usize>()
}

/// Returns how many datagrams one segmented send that begins with `run` can carry; 1 if they leave alone, because one
/// of them is too long for a segment or empty.
fn most_datagrams(run: &Outgoing<'_>, longest_segment: usize) -> usize {
    match run.length_of(0) {
        segment if segment == 0 || segment > longest_segment || last_length(run) == 0 => 1,
        segment => most_segments(segment),
    }
}

/// Returns how many of the `others` can leave in one segmented send with `first`, which carries at most `most`
/// datagrams.
///
/// The datagrams of one send go to one peer from one address and have one length; the last one may be shorter. So a run
/// of shorter datagrams joins only if it consists of one, and nothing joins behind it.
fn count_joining(first: &Outgoing<'_>, others: &[Outgoing<'_>], most: usize) -> usize {
    let segment = first.length_of(0);
    let (mut joining, mut count, mut last) = (0, first.count, last_length(first));
    while last == segment
        && let Some(next) = others.get(joining)
    {
        last = last_length(next);
        let fits = count + next.count <= most && last > 0 && next.length_of(0) <= segment;
        let is_even = next.count == 1 || next.length_of(0) == segment;
        if next.to != first.to || next.from != first.from || !fits || !is_even {
            break;
        }
        joining += 1;
        count += next.count;
    }
    joining
}

fn last_length(run: &Outgoing<'_>) -> usize {
    run.length_of(run.count - 1)
}

/// The longest segment that a socket sends. A failed segmented send lowers it for ten seconds.
///
/// The kernel refuses to segment if a segment exceeds the MTU of the path (`EMSGSIZE`, before Linux 6.14 `EINVAL`), and
/// if the route cannot do it at all (`EIO`, for example through IPsec). In the first case shorter segments still pass,
/// and a peer behind a small MTU should not cost the others their segmentation; in the second every length fails once.
#[derive(Debug)]
pub struct SegmentLimit {
    longest: usize,
    lowered_until: Option<Instant>,
}

impl SegmentLimit {
    /// The limit of a kernel that segments.
    pub const NORMAL: Self = Self { longest: LONGEST_SEGMENT, lowered_until: None };

    /// The limit of a kernel that does not: every datagram leaves alone.
    pub const NO_SEGMENTS: Self = Self { longest: 0, lowered_until: None };

    /// Returns the length of the longest segment, in bytes. `now` is called only while the limit is lowered, so that a
    /// healthy socket reads no clock.
    pub fn longest(&mut self, now: impl FnOnce() -> Instant) -> usize {
        if self.lowered_until.is_some_and(|until| until <= now()) {
            *self = Self::NORMAL;
        }
        self.longest
    }

    /// Lowers the limit below `segment` bytes; returns whether it was normal before.
    pub fn lower_below(&mut self, segment: usize, now: Instant) -> bool {
        self.longest = self.longest.min(segment.saturating_sub(1));
        self.lowered_until.replace(now + LOWERED_FOR).is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{LONGEST_PAYLOAD, MOST_SEGMENTS};
    use super::*;

    const BYTES: [u8; 3_000] = [7; 3_000];

    fn outgoing((peer, length, offset): (u8, usize, usize)) -> Outgoing<'static> {
        let from = (peer % 3 == 0).then_some(([127, 0, 0, 1], 0).into());
        let (message, after) = BYTES[offset..].split_at(length);
        Outgoing::new(([127, 0, 0, peer], 4000).into(), from, [b"", message, &after[..offset.min(1)]])
    }

    fn run_lengths(of: &[(u8, usize)], longest_segment: usize) -> Vec<usize> {
        let datagrams: Vec<_> = of.iter().map(|(peer, length)| outgoing((*peer, *length, 0))).collect();
        let mut unsent = Unsent::new(&datagrams);
        let messages = std::iter::from_fn(|| unsent.next_message(longest_segment));
        messages.map(|(first, others)| count_datagrams(&first, others)).collect()
    }

    #[test]
    fn run_ends_where_segmentation_would_cut_differently() {
        let lengths = |of| run_lengths(of, LONGEST_SEGMENT);
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[(1, 10), (1, 10), (1, 10)]), [3]);
        assert_eq!(lengths(&[(1, 10), (1, 7), (1, 10)]), [2, 1], "a shorter datagram is the last");
        assert_eq!(lengths(&[(1, 7), (1, 10)]), [1, 1], "no longer one follows");
        assert_eq!(lengths(&[(1, 10), (2, 10), (2, 10)]), [1, 2], "one peer");
        assert_eq!(lengths(&[(1, 0), (1, 0), (1, 10), (1, 0)]), [1, 1, 1, 1], "empty datagrams leave alone");
        assert_eq!(lengths(&[(1, 1453), (1, 1453)]), [1, 1], "long datagrams leave alone");
        assert_eq!(lengths(&[(1, 1452), (1, 1452), (1, 1452)]), [3], "the longest that do not");
        assert_eq!(lengths(&[(1, 1); 130]), [64, 64, 2], "at most 64");
        assert_eq!(lengths(&[(1, 1400); 60]), [46, 14], "at most 65,507 bytes");
    }

    #[test]
    fn lowered_limit_ends_runs() {
        assert_eq!(run_lengths(&[(1, 1000), (1, 1000), (1, 999), (1, 999)], 999), [1, 1, 2]);
        assert_eq!(run_lengths(&[(1, 1); 3], 0), [1, 1, 1]);
    }

    #[test]
    fn limit_is_lowered_for_ten_seconds() {
        let start = Instant::now();
        let after = |seconds| move || start + Duration::from_secs(seconds);
        let mut limit = SegmentLimit::NORMAL;
        assert_eq!(limit.longest(|| unreachable!("a healthy socket reads no clock")), LONGEST_SEGMENT);
        assert!(limit.lower_below(1200, start));
        assert_eq!(limit.longest(after(9)), 1199);
        assert!(!limit.lower_below(600, after(9)()), "it was lowered already");
        assert!(!limit.lower_below(800, after(9)()));
        assert_eq!(limit.longest(after(18)), 599, "the lowest counts, and the last failure");
        assert_eq!(limit.longest(after(19)), LONGEST_SEGMENT);
        assert!(limit.lower_below(1200, after(20)()));
    }

    #[test]
    fn runs_join_as_their_datagrams_would() {
        let run =
            |count, bytes, piece| Outgoing { parts: [b"", &BYTES[..bytes], b""], count, piece, ..outgoing((1, 0, 0)) };
        let messages = |runs: &[Outgoing<'_>]| {
            let mut unsent = Unsent::new(runs);
            let messages = std::iter::from_fn(|| unsent.next_message(LONGEST_SEGMENT));
            messages.map(|(first, others)| count_datagrams(&first, others)).collect::<Vec<_>>()
        };
        assert_eq!(messages(&[run(30, 300, 10), run(30, 300, 10), run(4, 40, 10), run(1, 10, 10)]), [64, 1]);
        assert_eq!(messages(&[run(3, 28, 10), run(3, 30, 10)]), [3, 3], "the last one is shorter");
        assert_eq!(messages(&[run(3, 30, 10), run(1, 7, 7), run(1, 7, 7)]), [4, 1]);
        assert_eq!(messages(&[run(3, 30, 10), run(2, 14, 7)]), [3, 2], "two lengths");
        assert_eq!(messages(&[run(2, 2_906, 1_453)]), [1, 1], "long datagrams leave alone");
        assert_eq!(messages(&[run(65, 65, 1), run(1, 1, 1)]), [64, 2], "a run that exceeds a send is split");
        assert_eq!(messages(&[run(3, 0, 5)]), [1, 1, 1], "empty ones leave alone");
    }

    proptest! {
        #[test]
        fn messages_are_the_same_datagrams(
            list in vec((0..4_u8, 0..1_500_usize, 0..3_usize, 1..70_usize, 0..20_usize), 0..100),
            skipped in 0..200_usize,
        ) {
            let outgoing = |(peer, length, offset, count, shorter): (u8, usize, usize, usize, usize)| {
                let single = outgoing((peer, length.max(1), offset));
                let (count, piece) = (count.min(2_000 / length.max(1)).max(1), length.max(1));
                let bytes = &BYTES[offset..][..count * piece - shorter.min(piece - 1)];
                if length == 0 { Outgoing::new(single.to, single.from, [b""; 3]) } else {
                    Outgoing { parts: [b"", bytes, single.parts[2]], count, piece, ..single }
                }
            };
            let runs: Vec<_> = list.into_iter().map(outgoing).collect();
            let datagram = |run: Outgoing<'_>| (run.to, run.from, run.parts.concat());
            let all: Vec<_> = runs.iter().copied().flat_map(Outgoing::datagrams).map(datagram).collect();
            let mut unsent = Unsent::new(&runs);
            unsent.skip(skipped.min(all.len()));
            let mut left = Vec::new();
            while let Some((first, others)) = unsent.next_message(LONGEST_SEGMENT) {
                let message: Vec<_> =
                    std::iter::once(first).chain(others.iter().copied()).flat_map(Outgoing::datagrams).map(datagram).collect();
                prop_assert_eq!(message.len(), count_datagrams(&first, others));
                if message.len() > 1 {
                    prop_assert!(message.len() <= MOST_SEGMENTS);
                    let bytes: Vec<u8> = message.iter().flat_map(|(.., payload)| payload.clone()).collect();
                    prop_assert!(bytes.len() <= LONGEST_PAYLOAD);
                    prop_assert!(message.iter().all(|(to, from, _)| (to, from) == (&first.to, &first.from)));
                    let cut: Vec<&[u8]> = bytes.chunks(first.length_of(0)).collect();
                    prop_assert_eq!(cut, message.iter().map(|(.., payload)| &payload[..]).collect::<Vec<_>>());
                }
                left.extend(message);
            }
            prop_assert_eq!(left, &all[skipped.min(all.len())..]);
        }
    }
}
