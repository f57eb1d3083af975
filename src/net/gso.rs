//! Which datagrams can leave as one segmented send. Pure: it sees addresses and lengths, no socket.

use std::net::SocketAddr;

use super::{LONGEST_PAYLOAD, Outgoing};

/// How many datagrams one segmented send can carry on every kernel that segments; newer ones take 128.
pub const MOST_SEGMENTS: usize = 64;

/// The longest datagram that is worth putting in a run, in bytes: what fits an Ethernet frame over IPv6. The kernel
/// refuses a segment that exceeds the path's MTU, and longer ones gain little.
pub const LONGEST_SEGMENT: usize = 1_452;

/// How many of the first `datagrams`, at least one, can leave as one segmented send: all to one peer, from one
/// address, of one length, the last one perhaps shorter, none empty.
pub fn run_length(datagrams: &[Outgoing<'_>]) -> usize {
    let Some(first) = datagrams.first() else { return 0 };
    let segment = first.length();
    if segment == 0 || segment > LONGEST_SEGMENT {
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

/// Brings the datagrams to one peer together, in their order, with reusable memory.
#[derive(Debug, Default)]
pub struct Arranger {
    /// For each datagram a number that stands for its peer, and its place.
    places: Vec<(u64, u32)>,
}

impl Arranger {
    /// Rearranges `datagrams` where that makes longer runs.
    pub fn arrange(&mut self, datagrams: &mut [Outgoing<'_>]) {
        if datagrams.len() < 3 || datagrams.windows(2).all(|pair| pair[0].to == pair[1].to) {
            return;
        }
        self.places.clear();
        self.places.extend((0..).zip(datagrams.iter()).map(|(place, datagram)| (peer_number(datagram.to), place)));
        self.places.sort_unstable();
        const MOVED: u32 = u32::MAX;
        for start in 0..datagrams.len() {
            // Follows one cycle of the permutation: each swap brings the right datagram to `here`.
            let mut here = start;
            loop {
                let from = std::mem::replace(&mut self.places[here].1, MOVED);
                if from == MOVED || from as usize == start {
                    break;
                }
                datagrams.swap(here, from as usize);
                here = from as usize;
            }
        }
    }
}

/// A number that is the same for the same peer, and rarely for two.
fn peer_number(peer: SocketAddr) -> u64 {
    let ip = match peer {
        SocketAddr::V4(peer) => u64::from(peer.ip().to_bits()),
        SocketAddr::V6(peer) => {
            let bits = peer.ip().to_bits();
            (bits as u64) ^ (bits >> 64) as u64
        }
    };
    ip.wrapping_shl(16) ^ (ip >> 48) ^ u64::from(peer.port())
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

    fn lengths(of: &[(u8, usize)]) -> Vec<usize> {
        let datagrams: Vec<_> = of.iter().map(|(peer, length)| outgoing((*peer, *length, 0))).collect();
        let (mut rest, mut lengths) = (&datagrams[..], Vec::new());
        while !rest.is_empty() {
            lengths.push(run_length(rest));
            rest = &rest[run_length(rest)..];
        }
        lengths
    }

    #[test]
    fn a_run_ends_where_the_kernel_could_not_cut_it_right() {
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[(1, 10), (1, 10), (1, 10)]), [3]);
        assert_eq!(lengths(&[(1, 10), (1, 7), (1, 10)]), [2, 1], "a shorter one is the last");
        assert_eq!(lengths(&[(1, 7), (1, 10)]), [1, 1], "no longer one follows");
        assert_eq!(lengths(&[(1, 10), (2, 10), (2, 10)]), [1, 2], "one peer");
        assert_eq!(lengths(&[(1, 0), (1, 0), (1, 10), (1, 0)]), [1, 1, 1, 1], "empty ones go alone");
        assert_eq!(lengths(&[(1, 1453), (1, 1453)]), [1, 1], "longer ones go alone");
        assert_eq!(lengths(&[(1, 1); 130]), [64, 64, 2], "64 at the most");
        assert_eq!(lengths(&[(1, 1400); 60]), [46, 14], "65,507 bytes at the most");
    }

    proptest! {
        #[test]
        fn runs_put_together_are_the_datagrams_again(list in vec((0..4_u8, 0..1_500_usize, 0..3_usize), 0..200)) {
            let datagrams: Vec<_> = list.into_iter().map(outgoing).collect();
            let mut rest = &datagrams[..];
            while !rest.is_empty() {
                let (run, behind) = rest.split_at(run_length(rest));
                let bytes: Vec<u8> = run.iter().flat_map(|datagram| datagram.parts.concat()).collect();
                prop_assert!(!run.is_empty() && run.len() <= MOST_SEGMENTS && bytes.len() <= LONGEST_PAYLOAD.max(run[0].length()));
                prop_assert!(run.iter().all(|datagram| (datagram.to, datagram.from) == (run[0].to, run[0].from)));
                if run.len() > 1 {
                    // What the kernel makes of it.
                    let cut: Vec<usize> = bytes.chunks(run[0].length()).map(<[u8]>::len).collect();
                    let meant: Vec<usize> = run.iter().map(Outgoing::length).collect();
                    prop_assert_eq!(cut, meant);
                }
                rest = behind;
            }
        }

        #[test]
        fn arranging_keeps_the_order_for_each_peer_and_loses_nobody(peers in vec(0..6_u8, 0..300)) {
            let mut datagrams: Vec<_> = (0..).zip(&peers).map(|(i, peer)| outgoing((*peer, i, 0))).collect();
            let mut arranger = Arranger::default();
            arranger.arrange(&mut datagrams);
            prop_assert_eq!(datagrams.len(), peers.len());
            for peer in 0..6 {
                let to = outgoing((peer, 0, 0)).to;
                let arranged: Vec<usize> = datagrams.iter().filter(|d| d.to == to).map(Outgoing::length).collect();
                let meant: Vec<usize> = (0..).zip(&peers).filter(|(_, p)| **p == peer).map(|(i, _)| i).collect();
                prop_assert_eq!(arranged, meant);
            }
            let changes = datagrams.windows(2).filter(|pair| pair[0].to != pair[1].to).count();
            prop_assert!(peers.len() < 3 || changes < 6, "peers stand together");
        }
    }
}
