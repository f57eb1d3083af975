//! What a reflector does with the TLVs that follow the base of a packet (RFC 8972, section 4). Pure.
//!
//! ```text
//! │ flags 1: U M I 0 0 0 0 0 │ type 1 │ length of the value 2 │ value … │
//! ```
//!
//! A sender sets U in each. The reflector returns them all, and clears U where it understands the type; M marks one
//! that is malformed, behind which nothing is looked at, and I marks all of them if the HMAC TLV does not match. That
//! one covers the sequence number of the packet and the TLVs before it; only padding may follow it.

use super::auth::{DIGEST, Key};

/// The length of what precedes the value, in bytes.
pub const HEADER: usize = 4;

/// U: the type is not understood. A sender sets it.
pub const UNRECOGNIZED: u8 = 0x80;
const MALFORMED: u8 = 0x40;
const INTEGRITY: u8 = 0x20;

/// The type of padding, whose value has no meaning.
pub const EXTRA_PADDING: u8 = 1;
/// The type of the counters of both ends, which the reflector fills in.
const DIRECT_MEASUREMENT: u8 = 5;
/// The type of the digest.
pub const HMAC: u8 = 8;

/// The sender's count, then those of the reflector: received and transmitted.
const DIRECT_MEASUREMENT_LENGTH: usize = 12;

/// How many packets of a session a reflector has received and sent, the present one included. They wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets of the sender.
    pub received: u32,
    /// Replies.
    pub transmitted: u32,
}

/// Turns the TLVs of a request into those of its reply, in place. The sequence numbers are those of the two packets.
/// Without counters, the reflector is stateless and does not understand Direct Measurement; without a key, it does not
/// understand the HMAC TLV.
pub fn reflect(tlvs: &mut [u8], request: [u8; 4], reply: [u8; 4], counters: Option<Counters>, key: Option<&Key>) {
    let is_intact = key.is_none_or(|key| is_intact(tlvs, request, key));
    let mut at = 0;
    while at < tlvs.len() {
        let (before, rest) = tlvs.split_at_mut(at);
        let Some((kind, value)) = split(rest) else {
            rest[0] = MALFORMED;
            break;
        };
        let understood = match kind {
            EXTRA_PADDING => Some(true),
            DIRECT_MEASUREMENT if counters.is_some() => Some(value.len() == DIRECT_MEASUREMENT_LENGTH),
            HMAC if key.is_some() => Some(value.len() == DIGEST),
            _ => None,
        };
        match (kind, key, counters) {
            _ if understood != Some(true) => {}
            (DIRECT_MEASUREMENT, _, Some(counters)) if is_intact => {
                value[4..8].copy_from_slice(&counters.received.to_be_bytes());
                value[8..].copy_from_slice(&counters.transmitted.to_be_bytes());
            }
            (HMAC, Some(key), _) => value.copy_from_slice(&key.digest(&[&reply, before])),
            _ => {}
        }
        at += HEADER + value.len();
        let integrity = if is_intact { 0 } else { INTEGRITY };
        rest[0] = integrity
            | match understood {
                Some(true) => 0,
                Some(false) => MALFORMED,
                None => UNRECOGNIZED,
            };
        if understood == Some(false) {
            break;
        }
    }
}

/// Returns whether the TLVs have a matching digest, before any that matter, or consist of padding only.
fn is_intact(tlvs: &mut [u8], sequence: [u8; 4], key: &Key) -> bool {
    let (mut at, mut unprotected, mut found) = (0, false, false);
    while at < tlvs.len() {
        let (before, rest) = tlvs.split_at_mut(at);
        // What is malformed is marked as such.
        let Some((kind, value)) = split(rest) else { break };
        match kind {
            HMAC if !found => match (&*value).try_into() {
                Ok(digest) if key.is_authentic(&[&sequence, before], digest) => (found, unprotected) = (true, false),
                _ => return false,
            },
            EXTRA_PADDING => {}
            _ => unprotected = true,
        }
        at += HEADER + value.len();
    }
    !unprotected
}

/// Returns the type and the value of the first TLV; `None` if it is cut off. `bytes` is not empty.
fn split(bytes: &mut [u8]) -> Option<(u8, &mut [u8])> {
    let (&mut [_, kind, high, low], rest) = bytes.split_first_chunk_mut::<HEADER>()?;
    let value = rest.get_mut(..u16::from_be_bytes([high, low]).into())?;
    Some((kind, value))
}

/// Appends a TLV as a sender writes it.
pub fn push(packet: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let [high, low] = (value.len() as u16).to_be_bytes();
    packet.extend_from_slice(&[UNRECOGNIZED, kind, high, low]);
    packet.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const REQUEST: [u8; 4] = [0, 0, 0, 9];
    const REPLY: [u8; 4] = [0, 0, 0, 5];
    const COUNTERS: Counters = Counters { received: 0x0102_0304, transmitted: 0x0506_0708 };

    fn key() -> Key {
        Key::new(b"secret").expect("a key")
    }

    fn tlvs(list: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        list.iter().for_each(|(kind, value)| push(&mut bytes, *kind, value));
        bytes
    }

    /// Appends the digest of all that precedes it.
    fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
        let digest = key().digest(&[&REQUEST, &bytes]);
        push(&mut bytes, HMAC, &digest);
        bytes
    }

    fn reflected(bytes: &[u8], counters: Option<Counters>, key: Option<&Key>) -> Vec<u8> {
        let mut copy = bytes.to_vec();
        reflect(&mut copy, REQUEST, REPLY, counters, key);
        copy
    }

    /// Returns the flags of each TLV.
    fn flags(mut bytes: &[u8]) -> Vec<u8> {
        let mut flags = Vec::new();
        while let Some((&[flag, _, high, low], rest)) = bytes.split_first_chunk::<4>() {
            flags.push(flag);
            bytes = rest.get(u16::from_be_bytes([high, low]).into()..).unwrap_or_default();
        }
        flags
    }

    #[test]
    fn padding_comes_back_and_unknown_types_with_u() {
        let bytes = tlvs(&[(1, b"pad"), (4, b"class"), (0, b""), (1, b""), (241, b"x")]);
        let reply = reflected(&bytes, Some(COUNTERS), None);
        assert_eq!(flags(&reply), [0, UNRECOGNIZED, UNRECOGNIZED, 0, UNRECOGNIZED]);
        let mut expected = bytes.clone();
        (expected[0], expected[20]) = (0, 0);
        assert_eq!(reply, expected, "nothing else changes");
    }

    #[test]
    fn direct_measurement_is_filled_in_by_a_stateful_reflector() {
        let bytes = tlvs(&[(5, &[1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9])]);
        let reply = reflected(&bytes, Some(COUNTERS), None);
        assert_eq!(reply, [0, 5, 0, 12, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(reflected(&bytes, None, None), bytes, "U stays set");
    }

    #[test]
    fn malformed_tlv_has_m_and_what_follows_is_left_alone() {
        for (malformed, marked) in [
            (vec![0x80, 4, 0, 9, 1, 2], 0x40), // Longer than the packet.
            (vec![0x80, 1, 0xff], 0x40),       // Cut off within the header.
            (vec![0x80], 0x40),
        ] {
            let bytes = [tlvs(&[(1, b"p")]), malformed.clone()].concat();
            let reply = reflected(&bytes, Some(COUNTERS), None);
            assert_eq!((reply[0], reply[5], &reply[6..]), (0, marked, &malformed[1..]), "{malformed:?}");
        }
        let bytes = tlvs(&[(5, b"eleven byte"), (1, b"p")]);
        assert_eq!(flags(&reflected(&bytes, Some(COUNTERS), None)), [MALFORMED, UNRECOGNIZED]);
    }

    #[test]
    fn hmac_tlv_is_verified_and_renewed() {
        let measurement = (5, &[0; 12][..]);
        let bytes = signed(tlvs(&[(1, b"pad"), measurement]));
        let reply = reflected(&bytes, Some(COUNTERS), Some(&key()));
        assert_eq!(flags(&reply), [0, 0, 0]);
        let (text, digest) = reply.split_at(reply.len() - DIGEST);
        assert_eq!(digest, key().digest(&[&REPLY, &text[..text.len() - HEADER]]));
        assert_eq!(text[15..23], [1, 2, 3, 4, 5, 6, 7, 8]);
        // Padding may follow.
        let padded = [&bytes[..], &tlvs(&[(1, b"pad")])].concat();
        assert_eq!(flags(&reflected(&padded, Some(COUNTERS), Some(&key()))), [0; 4]);
        assert_eq!(flags(&reflected(&bytes, Some(COUNTERS), None)), [0, 0, UNRECOGNIZED], "no key");
    }

    #[test]
    fn integrity_fails_for_a_wrong_late_or_missing_hmac_tlv() {
        let measurement = tlvs(&[(5, &[0; 12])]);
        let mut wrong = signed(measurement.clone());
        wrong[7] ^= 1;
        let late = [signed(Vec::new()), measurement.clone()].concat();
        for (bytes, count) in [(wrong, 2), (late, 2), (measurement, 1)] {
            let reply = reflected(&bytes, Some(COUNTERS), Some(&key()));
            assert_eq!(flags(&reply), vec![INTEGRITY; count], "{bytes:?}");
            let at = reply.windows(4).position(|window| window == [INTEGRITY, 5, 0, 12]).expect("a measurement");
            assert_eq!(reply[at + 8..at + 16], [0; 8], "not processed");
        }
        let padding = tlvs(&[(1, b"pad")]);
        assert_eq!(flags(&reflected(&padding, None, Some(&key()))), [0], "padding needs no protection");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_with_their_length_and_types(
            bytes in prop_oneof![
                vec(any::<u8>(), 0..100),
                vec((0..10_u8, vec(any::<u8>(), 0..20)), 0..6).prop_map(|list| {
                    tlvs(&list.iter().map(|(kind, value)| (*kind, &value[..])).collect::<Vec<_>>())
                }),
            ],
            counters in any::<bool>(),
            has_key: bool,
        ) {
            let counters = counters.then_some(COUNTERS);
            let key = has_key.then(key);
            let reply = reflected(&bytes, counters, key.as_ref());
            prop_assert_eq!(reply.len(), bytes.len());
            // The reserved bits are zero in each TLV that was looked at, types and lengths as they were.
            let mut at = 0;
            while at + HEADER <= bytes.len() {
                prop_assert_eq!(&reply[at + 1..at + 4], &bytes[at + 1..at + 4]);
                prop_assert_eq!(reply[at] & 0x1f, 0);
                if reply[at] & MALFORMED != 0 {
                    break;
                }
                at += HEADER + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            }
        }
    }
}
