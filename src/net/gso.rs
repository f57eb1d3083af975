//! Generic segmentation offload (`UDP_SEGMENT`, udp(7)): which datagrams can leave as one send. Pure.

use std::time::{Duration, Instant};

use super::{LONGEST_PAYLOAD, Outgoing};

/// The most datagrams that one segmented send carries on every kernel that supports it. Newer kernels take 128.
pub const MOST_SEGMENTS: usize = 64;

/// The longest segment, in bytes: what fits an Ethernet frame over IPv6. The kernel refuses segments that exceed the
/// MTU of the path, and longer ones gain little.
pub const LONGEST_SEGMENT: usize = 1_452;

/// How long a [`SegmentLimit`] stays lowered. A try that fails costs a system call and a copy of up to 64 KiB, about
/// 20 µs: every 10 seconds, that is nothing. A route or device that has recovered is used again as soon.
const LOWERED_FOR: Duration = Duration::from_secs(10);

/// Returns how many of the first `datagrams` can leave as one segmented send, and at least 1 if there are any: they
/// go to one peer from one address and have one length, from 1 to `longest_segment` bytes; the last one may be
/// shorter.
pub fn run_length(datagrams: &[Outgoing<'_>], longest_segment: usize) -> usize {
    let Some(first) = datagrams.first() else { return 0 };
    let segment = first.length();
    if segment == 0 || segment > longest_segment {
        return 1;
    }
    let most = MOST_SEGMENTS.min(LONGEST_PAYLOAD / segment);
    let mut length = 1;
    for next in datagrams.iter().take(most).skip(1) {
        let next_length = next.length();
        if next.to != first.to || next.from != first.from || next_length == 0 || next_length > segment {
            break;
        }
        length += 1;
        if next_length < segment {
            break;
        }
    }
    length
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

    use super::*;

    const BYTES: [u8; 3_000] = [7; 3_000];

    fn outgoing((peer, length, offset): (u8, usize, usize)) -> Outgoing<'static> {
        let from = (peer % 3 == 0).then_some(([127, 0, 0, 1], 0).into());
        let (message, after) = BYTES[offset..].split_at(length);
        Outgoing { to: ([127, 0, 0, peer], 4000).into(), from, parts: [b"", message, &after[..offset.min(1)]] }
    }

    fn run_lengths(of: &[(u8, usize)], longest_segment: usize) -> Vec<usize> {
        let datagrams: Vec<_> = of.iter().map(|(peer, length)| outgoing((*peer, *length, 0))).collect();
        let (mut rest, mut lengths) = (&datagrams[..], Vec::new());
        while !rest.is_empty() {
            lengths.push(run_length(rest, longest_segment));
            rest = &rest[run_length(rest, longest_segment)..];
        }
        lengths
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

    proptest! {
        #[test]
        fn segmented_run_is_the_same_datagrams(list in vec((0..4_u8, 0..1_500_usize, 0..3_usize), 0..200)) {
            let datagrams: Vec<_> = list.into_iter().map(outgoing).collect();
            let mut rest = &datagrams[..];
            while !rest.is_empty() {
                let (run, behind) = rest.split_at(run_length(rest, LONGEST_SEGMENT));
                let bytes: Vec<u8> = run.iter().flat_map(|datagram| datagram.parts.concat()).collect();
                prop_assert!(!run.is_empty() && run.len() <= MOST_SEGMENTS);
                prop_assert!(bytes.len() <= LONGEST_PAYLOAD.max(run[0].length()));
                prop_assert!(run.iter().all(|datagram| (datagram.to, datagram.from) == (run[0].to, run[0].from)));
                if run.len() > 1 {
                    let cut: Vec<usize> = bytes.chunks(run[0].length()).map(<[u8]>::len).collect();
                    let meant: Vec<usize> = run.iter().map(Outgoing::length).collect();
                    prop_assert_eq!(cut, meant);
                }
                rest = behind;
            }
        }
    }
}
