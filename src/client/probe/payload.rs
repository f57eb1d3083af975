//! The bytes of a probe, and finding them in an answer. Pure: it knows neither sockets nor time.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// The size of a tag in bytes: `IIIIIIII-SSSSSSSS`, an identifier, a separator and a sequence number.
///
/// As in an ICMP echo request, the identifier distinguishes the probes of one ping or bench from those of any other.
/// Both numbers are decimal digits, because these survive a responder that changes the case of what it repeats.
const TAG_SIZE: usize = 17;
const IDENTIFIER: Range<usize> = 0..8;
const SEPARATOR: usize = 8;
const SEQUENCE: Range<usize> = 9..TAG_SIZE;

/// How many numbers eight digits can express.
const MODULUS: u64 = 100_000_000;

/// The separators distinguish a tag at the front of a payload from one at the back.
const FRONT: u8 = b'-';
const BACK: u8 = b'.';

/// Contains no digits, so that a tag can be found only where one was written.
const PADDING: &[u8] = b" udpong ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz ";

/// Writes the payloads of one ping or bench, and finds them in answers.
///
/// All have the same size and are printable:
///
/// ```text
/// 12345678-00000017 udpong ABCDEFGHIJKLMN12345678.00000017
/// └── front tag ──┘└────── padding ─────┘└── back tag ───┘
/// ```
///
/// Thanks to the back tag, a probe is found although a responder changed the front one. A payload of less than 34
/// bytes has only the front tag, one of less than 17 none, and cannot be found in an answer.
///
/// The user's own payload has no tag at all, whatever its size.
#[derive(Clone, Debug)]
pub struct Payload {
    template: Vec<u8>,
    identifier: [u8; 8],
    is_tagged: bool,
}

/// A probe that was found in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeMatch {
    /// Its sequence number; `None` if only the identifier was recognised, or no such probe was sent.
    pub sequence: Option<u64>,
    /// Whether the answer holds all of it.
    pub integrity: Integrity,
}

/// How much of a probe an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// All of it, byte for byte. Other bytes may precede and follow it.
    Intact,
    /// The answer ends before the probe does.
    Truncated,
    /// The answer is long enough, but bytes differ.
    Altered,
}

impl Payload {
    /// Creates payloads of `size` bytes with a random identifier.
    pub fn new(size: usize) -> Self {
        Self::with_identifier(RandomState::new().hash_one(size), size)
    }

    /// Creates payloads of exactly these bytes.
    pub fn exact(bytes: Vec<u8>) -> Self {
        Self { template: bytes, identifier: [0; 8], is_tagged: false }
    }

    fn with_identifier(identifier: u64, size: usize) -> Self {
        let identifier = digits(identifier);
        let padding = PADDING.iter().copied().cycle();
        let mut template: Vec<u8> = std::iter::repeat_n(b' ', TAG_SIZE.min(size)).chain(padding).take(size).collect();
        for (at, separator) in tags(size) {
            let tag = &mut template[at..at + TAG_SIZE];
            tag[IDENTIFIER].copy_from_slice(&identifier);
            tag[SEPARATOR] = separator;
            tag[SEQUENCE].fill(b'0');
        }
        Self { template, identifier, is_tagged: size >= TAG_SIZE }
    }

    /// Returns the size of each payload in bytes.
    pub fn size(&self) -> usize {
        self.template.len()
    }

    /// Returns whether the payloads have a tag, so that they can be found in an answer.
    pub fn is_tagged(&self) -> bool {
        self.is_tagged
    }

    /// Returns the payload with sequence number 0: copy it, then [write](Self::write_sequence) other numbers into
    /// the copy.
    pub fn as_bytes(&self) -> &[u8] {
        &self.template
    }

    /// Writes a sequence number into a copy of [`as_bytes`](Self::as_bytes). The digits repeat after 100,000,000.
    pub fn write_sequence(&self, sequence: u64, payload: &mut [u8]) {
        if !self.is_tagged {
            return;
        }
        let digits = digits(sequence);
        for (at, _) in tags(payload.len()) {
            payload[at..at + TAG_SIZE][SEQUENCE].copy_from_slice(&digits);
        }
    }

    /// Finds one of these payloads anywhere in an answer. `next` is the sequence number of the next probe to be sent.
    pub fn find_in(&self, answer: &[u8], next: u64) -> Option<ProbeMatch> {
        if !self.is_tagged() {
            return None;
        }
        let mut unnumbered = None;
        for (at, window) in answer.windows(self.identifier.len()).enumerate() {
            if window != self.identifier {
                continue;
            }
            let rest = &answer[at..];
            match parse_tag(rest) {
                Some((FRONT, number)) => return Some(self.compare(rest, number, next)),
                Some((_, number)) => {
                    return Some(ProbeMatch { sequence: latest(number, next), integrity: Integrity::Altered });
                }
                // The sequence number is cut off or altered; the other tag may still have it.
                None => {
                    let integrity = if rest.len() < TAG_SIZE { Integrity::Truncated } else { Integrity::Altered };
                    unnumbered = unnumbered.or(Some(ProbeMatch { sequence: None, integrity }));
                }
            }
        }
        unnumbered
    }

    /// Compares bytes that begin with the front tag of probe `number` with that probe.
    fn compare(&self, bytes: &[u8], number: u64, next: u64) -> ProbeMatch {
        let size = self.size();
        let sequence = latest(number, next);
        let Some(bytes) = bytes.get(..size) else {
            return ProbeMatch { sequence, integrity: Integrity::Truncated };
        };
        let back_at = if size >= 2 * TAG_SIZE { size - TAG_SIZE } else { size };
        let (front, back) = (&bytes[..TAG_SIZE], &bytes[back_at..]);
        let same_padding = bytes[TAG_SIZE..back_at] == self.template[TAG_SIZE..back_at];
        let same_back = back.is_empty()
            || (back[..SEQUENCE.start] == self.template[back_at..][..SEQUENCE.start]
                && back[SEQUENCE] == front[SEQUENCE]);
        if same_padding && same_back {
            return ProbeMatch { sequence, integrity: Integrity::Intact };
        }
        match parse_tag(back) {
            // The tags disagree, and either may be the altered one.
            Some((_, other)) if other != number => ProbeMatch { sequence: None, integrity: Integrity::Altered },
            _ => ProbeMatch { sequence, integrity: Integrity::Altered },
        }
    }
}

/// Returns where a payload of `size` bytes has tags, and their separators.
fn tags(size: usize) -> impl Iterator<Item = (usize, u8)> {
    let front = (size >= TAG_SIZE).then_some((0, FRONT));
    let back = (size >= 2 * TAG_SIZE).then(|| (size - TAG_SIZE, BACK));
    front.into_iter().chain(back)
}

/// Returns the separator and the number of the tag at the start of `bytes`, whose identifier was recognised before.
fn parse_tag(bytes: &[u8]) -> Option<(u8, u64)> {
    let tag = bytes.get(..TAG_SIZE)?;
    let (separator, number) = (tag[SEPARATOR], &tag[SEQUENCE]);
    let is_valid = matches!(separator, FRONT | BACK) && number.iter().all(u8::is_ascii_digit);
    is_valid.then(|| (separator, number.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))))
}

/// Returns the last eight decimal digits of a number.
fn digits(number: u64) -> [u8; 8] {
    let mut rest = number % MODULUS;
    let mut digits = [b'0'; 8];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// Returns the latest sequence number before `next` whose last eight digits are `number`.
fn latest(number: u64, next: u64) -> Option<u64> {
    let last = next.checked_sub(1)?;
    let age = (last % MODULUS + MODULUS - number) % MODULUS;
    last.checked_sub(age)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Integrity::{Altered, Intact, Truncated};
    use super::*;

    fn probe(payload: &Payload, sequence: u64) -> Vec<u8> {
        let mut probe = payload.as_bytes().to_vec();
        payload.write_sequence(sequence, &mut probe);
        probe
    }

    fn found(sequence: impl Into<Option<u64>>, integrity: Integrity) -> Option<ProbeMatch> {
        Some(ProbeMatch { sequence: sequence.into(), integrity })
    }

    #[test]
    fn exact_payload_stays_as_it_is_and_is_not_found() {
        let payload = Payload::exact(vec![b'x'; 56]);
        let mut copy = payload.as_bytes().to_vec();
        payload.write_sequence(7, &mut copy);
        assert_eq!((&*copy, payload.find_in(&copy, 8)), (&[b'x'; 56][..], None));
    }

    #[test]
    fn payload_is_printable_with_identifier_and_sequence() {
        let payload = Payload::with_identifier(12_345_678, 56);
        let text = String::from_utf8(probe(&payload, 17)).expect("UTF-8");
        assert_eq!(text, "12345678-00000017 udpong ABCDEFGHIJKLMN12345678.00000017");
        assert_ne!(Payload::new(56).as_bytes(), Payload::new(56).as_bytes());
    }

    #[test]
    fn finds_nothing_in_answer_without_probe() {
        let payload = Payload::with_identifier(12_345_678, 56);
        for answer in [&b""[..], b"Hello UDP Client", b"1234567", b"12345679-00000001", &[0xff; 65_507]] {
            assert_eq!(payload.find_in(answer, 9), None);
        }
        let small = Payload::with_identifier(12_345_678, TAG_SIZE - 1);
        assert_eq!(small.find_in(&probe(&small, 1), 2), None);
    }

    #[test]
    fn unsent_sequence_is_not_returned() {
        let payload = Payload::with_identifier(12_345_678, 56);
        assert_eq!(payload.find_in(&probe(&payload, 5), 5), found(None, Intact));
        assert_eq!(payload.find_in(&probe(&payload, 5), 0), found(None, Intact));
    }

    #[test]
    fn sequence_continues_when_digits_repeat() {
        let payload = Payload::with_identifier(12_345_678, 56);
        for sequence in [MODULUS - 1, MODULUS, 3 * MODULUS + 5] {
            let next = sequence + 7;
            assert_eq!(payload.find_in(&probe(&payload, sequence), next), found(sequence, Intact));
        }
    }

    #[test]
    fn identifier_is_found_when_tag_is_truncated() {
        let payload = Payload::with_identifier(12_345_678, 56);
        let probe = probe(&payload, 3);
        assert_eq!(payload.find_in(&probe[..TAG_SIZE], 9), found(3, Truncated));
        assert_eq!(payload.find_in(&probe[..TAG_SIZE - 1], 9), found(None, Truncated));
        assert_eq!(payload.find_in(&probe[..8], 9), found(None, Truncated));
        assert_eq!(payload.find_in(&probe[..7], 9), None);
    }

    #[test]
    fn changed_case_is_altered() {
        let payload = Payload::with_identifier(12_345_678, 100);
        let answer = probe(&payload, 3).to_ascii_uppercase();
        assert_eq!(payload.find_in(&answer, 9), found(3, Altered));
    }

    proptest! {
        #[test]
        fn intact_probe_is_found_anywhere_in_answer(
            size in TAG_SIZE..300,
            sequence in 0..2 * MODULUS,
            ahead in 1..1000_u64,
            before in "[^0-9]*",
            behind in "[^0-9]*",
        ) {
            let payload = Payload::new(size);
            let answer = [before.as_bytes(), &probe(&payload, sequence), behind.as_bytes()].concat();
            prop_assert_eq!(payload.find_in(&answer, sequence + ahead), found(sequence, Intact));
        }

        #[test]
        fn probe_without_end_is_truncated(
            (size, cut) in (TAG_SIZE + 1..300).prop_flat_map(|size| (Just(size), TAG_SIZE..size)),
            before in "[^0-9]*",
            sequence in 0..1000_u64
        ) {
            let payload = Payload::new(size);
            let answer = [before.as_bytes(), &probe(&payload, sequence)[..cut]].concat();
            prop_assert_eq!(payload.find_in(&answer, 1000), found(sequence, Truncated));
        }

        #[test]
        fn changed_byte_is_altered_and_never_matches_another_probe(
            size in 2 * TAG_SIZE..300, at in any::<prop::sample::Index>(), to in any::<u8>(), before in "[^0-9]*"
        ) {
            let payload = Payload::new(size);
            let mut probe = probe(&payload, 123);
            let at = at.index(size);
            prop_assume!(probe[at] != to);
            probe[at] = to;
            let found = payload.find_in(&[before.as_bytes(), &probe].concat(), 1000);
            let found = found.expect("recognised");
            prop_assert_eq!(found.integrity, Altered);
            prop_assert!(matches!(found.sequence, Some(123) | None));
        }

        #[test]
        fn accepts_any_answer(
            size in 0..100_usize, answer in proptest::collection::vec(any::<u8>(), 0..300), next: u64
        ) {
            let payload = Payload::new(size);
            let _ = payload.find_in(&answer, next);
            let _ = payload.find_in(&[&payload.identifier[..], &answer].concat(), next);
        }
    }
}
