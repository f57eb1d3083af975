//! The test packets of STAMP, both ways and in both modes: bytes in, bytes out. Pure.
//!
//! All numbers are big-endian. Timestamps have 8 bytes, sequence numbers 4, error estimates (EE) and session
//! identifiers (SSID) 2. What is left out is zero.
//!
//! ```text
//! open, 44 bytes             0       4        12    14    16       24            28       36       40
//!   sender's packet          │ seq   │ T1     │ EE  │ SSID │
//!   reflector's packet       │ seq   │ T3     │ EE  │ SSID │ T2    │ sender's seq │ T1    │ its EE │ TTL │
//!
//! authenticated, 112 bytes   0       16       24    26    32       48            64       72       80     96
//!   sender's packet          │ seq   │ T1     │ EE  │ SSID │                                             │ HMAC │
//!   reflector's packet       │ seq   │ T3     │ EE  │ SSID │ T2    │ sender's seq │ T1    │ its EE │ TTL │ HMAC │
//! ```
//!
//! TLVs ([`tlv`](super::tlv)) may follow.

use super::auth::{DIGEST, Key};
use super::time::ErrorEstimate;

/// The shortest packet of a reflector in open mode: TWAMP Light leaves out the last three bytes, which are zero.
pub const SHORTEST_REPLY: usize = 41;

/// The layout of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Unauthenticated, as the RFC calls it.
    Open,
    /// With an HMAC over all of the base packet.
    Authenticated,
}

/// Where the fields of a reflector's packet are. Those of a sender's packet are in the same places.
struct Layout {
    timestamp: usize,
    error: usize,
    ssid: usize,
    received: usize,
    sender_sequence: usize,
    sender_timestamp: usize,
    sender_error: usize,
    sender_ttl: usize,
    length: usize,
    /// Where a sender's packet is zero and a reflector's is not.
    reply_only: std::ops::Range<usize>,
}

const OPEN: Layout = Layout {
    timestamp: 4,
    error: 12,
    ssid: 14,
    received: 16,
    sender_sequence: 24,
    sender_timestamp: 28,
    sender_error: 36,
    sender_ttl: 40,
    length: 44,
    reply_only: 16..40,
};

const AUTHENTICATED: Layout = Layout {
    timestamp: 16,
    error: 24,
    ssid: 26,
    received: 32,
    sender_sequence: 48,
    sender_timestamp: 64,
    sender_error: 72,
    sender_ttl: 80,
    length: 112,
    reply_only: 32..81,
};

/// Where the HMAC of an authenticated packet is; it covers all bytes before it.
const HMAC: usize = 96;

impl Mode {
    /// Returns the mode of those that have a key, or none.
    pub fn of(key: Option<&Key>) -> Self {
        if key.is_some() { Self::Authenticated } else { Self::Open }
    }

    /// Returns the length of a packet without TLVs, in bytes.
    pub fn base_length(self) -> usize {
        self.layout().length
    }

    fn layout(self) -> &'static Layout {
        match self {
            Self::Open => &OPEN,
            Self::Authenticated => &AUTHENTICATED,
        }
    }
}

/// A sender's packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The sender's number of the packet.
    pub sequence: u32,
    /// T1, when it left.
    pub timestamp: u64,
    /// The quality of T1.
    pub error: ErrorEstimate,
    /// The identifier of the session; 0 from senders that have none.
    pub ssid: u16,
}

impl Request {
    /// Reads a packet. Fields beyond its end are zero: a TWAMP Light sender's may have 14 bytes only.
    pub fn read(bytes: &[u8], mode: Mode) -> Self {
        let layout = mode.layout();
        Self {
            sequence: u32::from_be_bytes(field(bytes, 0)),
            timestamp: u64::from_be_bytes(field(bytes, layout.timestamp)),
            error: ErrorEstimate(u16::from_be_bytes(field(bytes, layout.error))),
            ssid: u16::from_be_bytes(field(bytes, layout.ssid)),
        }
    }

    /// Writes the fields of a packet into `bytes`, whose other bytes stay as they are, as far as they fit.
    pub fn write(&self, mode: Mode, bytes: &mut [u8]) {
        let layout = mode.layout();
        put(bytes, 0, self.sequence.to_be_bytes());
        put(bytes, layout.timestamp, self.timestamp.to_be_bytes());
        put(bytes, layout.error, self.error.0.to_be_bytes());
        put(bytes, layout.ssid, self.ssid.to_be_bytes());
    }
}

/// A reflector's packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The reflector's number of the packet in the session, or the sender's if it is stateless.
    pub sequence: u32,
    /// T3, when it left.
    pub timestamp: u64,
    /// The quality of T2 and T3.
    pub error: ErrorEstimate,
    /// As in the sender's packet.
    pub ssid: u16,
    /// T2, when the sender's packet arrived.
    pub received: u64,
    /// As in the sender's packet.
    pub sender_sequence: u32,
    /// T1, as in the sender's packet.
    pub sender_timestamp: u64,
    /// As in the sender's packet.
    pub sender_error: ErrorEstimate,
    /// The time to live or hop limit with which the sender's packet arrived; 255 if it is not known.
    pub sender_ttl: u8,
}

impl Reply {
    /// Reads a packet; `None` if it is too short.
    pub fn read(bytes: &[u8], mode: Mode) -> Option<Self> {
        let layout = mode.layout();
        let least = if mode == Mode::Open { SHORTEST_REPLY } else { layout.length };
        if bytes.len() < least {
            return None;
        }
        let [sender_ttl] = field(bytes, layout.sender_ttl);
        Some(Self {
            sequence: u32::from_be_bytes(field(bytes, 0)),
            timestamp: u64::from_be_bytes(field(bytes, layout.timestamp)),
            error: ErrorEstimate(u16::from_be_bytes(field(bytes, layout.error))),
            ssid: u16::from_be_bytes(field(bytes, layout.ssid)),
            received: u64::from_be_bytes(field(bytes, layout.received)),
            sender_sequence: u32::from_be_bytes(field(bytes, layout.sender_sequence)),
            sender_timestamp: u64::from_be_bytes(field(bytes, layout.sender_timestamp)),
            sender_error: ErrorEstimate(u16::from_be_bytes(field(bytes, layout.sender_error))),
            sender_ttl,
        })
    }

    /// Writes the fields of a packet into `bytes`, whose other bytes stay as they are, as far as they fit.
    pub fn write(&self, mode: Mode, bytes: &mut [u8]) {
        let layout = mode.layout();
        put(bytes, 0, self.sequence.to_be_bytes());
        put_timestamp(bytes, mode, self.timestamp);
        put(bytes, layout.error, self.error.0.to_be_bytes());
        put(bytes, layout.ssid, self.ssid.to_be_bytes());
        put(bytes, layout.received, self.received.to_be_bytes());
        put(bytes, layout.sender_sequence, self.sender_sequence.to_be_bytes());
        put(bytes, layout.sender_timestamp, self.sender_timestamp.to_be_bytes());
        put(bytes, layout.sender_error, self.sender_error.0.to_be_bytes());
        put(bytes, layout.sender_ttl, [self.sender_ttl]);
    }
}

/// Writes the time at which a packet of either kind leaves.
pub fn put_timestamp(bytes: &mut [u8], mode: Mode, timestamp: u64) {
    put(bytes, mode.layout().timestamp, timestamp.to_be_bytes());
}

/// Returns the sequence number as it stands in a packet of either kind and mode.
pub fn sequence_bytes(bytes: &[u8]) -> [u8; 4] {
    field(bytes, 0)
}

/// Returns whether a packet may be a reflector's: a sender's is zero where that has its timestamps, unless it comes
/// from a TWAMP Light sender that pads with random bytes.
pub fn may_be_reply(bytes: &[u8], mode: Mode) -> bool {
    let range = mode.layout().reply_only.clone();
    bytes.iter().take(range.end).skip(range.start).any(|byte| *byte != 0)
}

/// Signs a packet of either kind in authenticated mode, as the last change to its base.
pub fn sign(bytes: &mut [u8], key: &Key) {
    if let Some((text, rest)) = bytes.split_at_mut_checked(HMAC) {
        put(rest, 0, key.digest(&[text]));
    }
}

/// Returns whether a packet of either kind is signed with this key.
pub fn is_authentic(bytes: &[u8], key: &Key) -> bool {
    let signed = bytes.split_at_checked(HMAC);
    let digest = |rest: &[u8]| rest.first_chunk::<DIGEST>().copied();
    signed.is_some_and(|(text, rest)| digest(rest).is_some_and(|digest| key.is_authentic(&[text], &digest)))
}

/// Returns the bytes of a field; those beyond the end of the packet are zero.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    bytes.iter().skip(at).zip(&mut field).for_each(|(from, to)| *to = *from);
    field
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes.iter_mut().skip(at).zip(field).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MODES: [Mode; 2] = [Mode::Open, Mode::Authenticated];

    #[test]
    fn fields_stand_where_the_rfc_has_them() {
        let request = Request {
            sequence: 0x0102_0304,
            timestamp: 0x1112_1314_1516_1718,
            error: ErrorEstimate(0x2122),
            ssid: 0x3132,
        };
        let reply = Reply {
            sequence: 0x4142_4344,
            timestamp: 0x5152_5354_5556_5758,
            error: ErrorEstimate(0x6162),
            ssid: 0x3132,
            received: 0x7172_7374_7576_7778,
            sender_sequence: 0x0102_0304,
            sender_timestamp: 0x1112_1314_1516_1718,
            sender_error: ErrorEstimate(0x2122),
            sender_ttl: 64,
        };
        let (mut open, mut sent) = ([0; 44], [0; 44]);
        request.write(Mode::Open, &mut sent);
        let start = [1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x31, 0x32];
        assert_eq!(sent[..16], start);
        assert_eq!(sent[16..], [0; 28]);
        reply.write(Mode::Open, &mut open);
        assert_eq!(open[12..16], [0x61, 0x62, 0x31, 0x32]);
        assert_eq!(open[16..24], [0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78]);
        assert_eq!(open[24..28], [1, 2, 3, 4]);
        assert_eq!(open[28..36], sent[4..12]);
        assert_eq!(open[36..], [0x21, 0x22, 0, 0, 64, 0, 0, 0]);

        let (mut signed, mut sent) = ([0; 112], [0; 112]);
        request.write(Mode::Authenticated, &mut sent);
        assert_eq!((&sent[..4], &sent[4..16], &sent[28..]), (&[1, 2, 3, 4][..], &[0; 12][..], &[0; 84][..]));
        assert_eq!(sent[16..28], open[28..38].iter().chain(&[0x31, 0x32]).copied().collect::<Vec<_>>());
        reply.write(Mode::Authenticated, &mut signed);
        assert_eq!((&signed[..4], &signed[4..16]), (&open[..4], &[0; 12][..]));
        assert_eq!((&signed[16..28], &signed[28..32]), (&open[4..16], &[0; 4][..]));
        assert_eq!((&signed[32..40], &signed[40..48]), (&open[16..24], &[0; 8][..]));
        assert_eq!((&signed[48..52], &signed[52..64]), (&open[24..28], &[0; 12][..]));
        assert_eq!((&signed[64..74], &signed[74..80]), (&open[28..38], &[0; 6][..]));
        assert_eq!((signed[80], &signed[81..]), (64, &[0; 31][..]));
    }

    #[test]
    fn reply_of_twamp_light_lacks_the_last_three_bytes() {
        let reply = Reply { sequence: 7, sender_ttl: 63, ..Reply::default() };
        let mut bytes = [0; 44];
        reply.write(Mode::Open, &mut bytes);
        assert_eq!(Reply::read(&bytes[..41], Mode::Open), Some(reply));
        assert_eq!(Reply::read(&bytes[..40], Mode::Open), None);
        assert_eq!(Reply::read(&[0; 111], Mode::Authenticated), None);
    }

    #[test]
    fn signature_covers_every_byte_of_the_base() {
        let key = Key::new(b"secret").expect("a key");
        let mut bytes = [7; 120];
        sign(&mut bytes, &key);
        assert!(is_authentic(&bytes, &key) && is_authentic(&bytes[..112], &key));
        assert!(!is_authentic(&bytes, &Key::new(b"other").expect("a key")));
        for at in 0..112 {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(!is_authentic(&changed, &key), "byte {at}");
        }
        for length in 0..112 {
            assert!(!is_authentic(&bytes[..length], &key), "{length} bytes");
        }
    }

    prop_compose! {
        fn any_reply()(
            numbers in any::<(u32, u32, u16, u16, u16, u8)>(),
            (timestamp, received, sender_timestamp) in any::<(u64, u64, u64)>(),
        ) -> Reply {
            let (sequence, sender_sequence, error, ssid, sender_error, sender_ttl) = numbers;
            let (error, sender_error) = (ErrorEstimate(error), ErrorEstimate(sender_error));
            Reply {
                sequence, timestamp, error, ssid, received, sender_sequence, sender_timestamp, sender_error, sender_ttl,
            }
        }
    }

    proptest! {
        #[test]
        fn packets_survive_the_round_trip(reply in any_reply(), length in 112..200_usize) {
            let Reply { sequence, timestamp, error, ssid, .. } = reply;
            let request = Request { sequence, timestamp, error, ssid };
            for mode in MODES {
                let mut bytes = vec![0; length];
                request.write(mode, &mut bytes);
                prop_assert_eq!(Request::read(&bytes, mode), request);
                prop_assert!(!may_be_reply(&bytes, mode));
                reply.write(mode, &mut bytes);
                prop_assert_eq!(Reply::read(&bytes, mode), Some(reply));
                let marked = (reply.received, reply.sender_sequence, reply.sender_timestamp, reply.sender_error.0);
                prop_assert!(may_be_reply(&bytes, mode) || marked == (0, 0, 0, 0));
            }
        }

        #[test]
        fn no_bytes_make_a_codec_panic(mut bytes in vec(any::<u8>(), 0..300), reply in any_reply()) {
            let key = Key::new(b"secret").expect("a key");
            for mode in MODES {
                let request = Request::read(&bytes, mode);
                let read = Reply::read(&bytes, mode);
                let _ = (may_be_reply(&bytes, mode), is_authentic(&bytes, &key), sequence_bytes(&bytes));
                // What was read is written back to the same bytes.
                let before = bytes.clone();
                request.write(mode, &mut bytes);
                read.iter().for_each(|reply| reply.write(mode, &mut bytes));
                prop_assert_eq!(&bytes, &before);
                let mut other = bytes.clone();
                reply.write(mode, &mut other);
                put_timestamp(&mut other, mode, 7);
                sign(&mut other, &key);
                prop_assert_eq!(other.len(), bytes.len());
            }
        }
    }
}
