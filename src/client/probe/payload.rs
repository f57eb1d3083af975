//! What a probe says, and how it is found again in an answer. Pure: it knows bytes, neither sockets nor time.

use std::hash::{BuildHasher, RandomState};

/// A number that tells one run from another, and the number of a probe: eight digits each, a mark in between.
///
/// Digits, because they outlive a responder that changes the case of what it repeats.
const TAG: usize = 17;

/// How many runs, and probes of a run, eight digits tell apart.
const NUMBERS: u64 = 100_000_000;

/// Stands between the numbers of the tag at the beginning and of the one at the end.
const FRONT: u8 = b'-';
const BACK: u8 = b'.';

/// No digits in here, so that no tag can be found where none was put.
const PADDING: &[u8] = b" udpong ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz ";

/// The payloads of one run: printable, of one size, each telling its run and its number.
///
/// The tag stands at the beginning and, where there is room for two, at the end too: so a probe is recognised
/// although its beginning was changed. A size below 17 bytes has no room for it, and its answers cannot be
/// recognised.
#[derive(Clone, Debug)]
pub struct Payload {
    template: Vec<u8>,
    run: [u8; 8],
}

/// A probe that was found in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeMatch {
    /// Which one; `None` when the run is recognised and the number is not.
    pub sequence: Option<u64>,
    /// In what state.
    pub state: State,
}

/// The state of a probe inside an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Byte for byte as it was sent, whatever stands before and behind it.
    Whole,
    /// The answer ends too early to hold all of it.
    Truncated,
    /// The answer is long enough, but bytes differ.
    Altered,
}

impl Payload {
    /// Payloads of `size` bytes for a run with a random number.
    pub fn new(size: usize) -> Self {
        Self::of_run(RandomState::new().hash_one(size), size)
    }

    fn of_run(run: u64, size: usize) -> Self {
        let run = digits(run);
        let padding = PADDING.iter().copied().cycle();
        let mut template: Vec<u8> = std::iter::repeat_n(b' ', TAG.min(size)).chain(padding).take(size).collect();
        for (at, mark) in tags(size) {
            template[at..at + 8].copy_from_slice(&run);
            template[at + 8] = mark;
            template[at + 9..at + TAG].fill(b'0');
        }
        Self { template, run }
    }

    /// Their size in bytes.
    pub fn size(&self) -> usize {
        self.template.len()
    }

    /// Whether an answer that repeats a payload can be told from one that does not.
    pub fn is_recognisable(&self) -> bool {
        self.size() >= TAG
    }

    /// A payload with the number 0, to be [numbered](Self::number).
    pub fn template(&self) -> &[u8] {
        &self.template
    }

    /// Turns `payload`, a copy of the template, into the one with this number.
    ///
    /// Numbers repeat after 100,000,000.
    pub fn number(&self, sequence: u64, payload: &mut [u8]) {
        let digits = digits(sequence);
        for (at, _) in tags(payload.len()) {
            payload[at + 9..at + TAG].copy_from_slice(&digits);
        }
    }

    /// Finds a payload of this run in `answer`, wherever it stands. `next` is the number of the next one to be
    /// sent.
    pub fn recognise(&self, answer: &[u8], next: u64) -> Option<ProbeMatch> {
        if !self.is_recognisable() {
            return None;
        }
        let mut found = None;
        for (at, window) in answer.windows(self.run.len()).enumerate() {
            if window != self.run {
                continue;
            }
            let rest = &answer[at..];
            match tag(rest) {
                Some((FRONT, number)) => return Some(self.examine(rest, number, next)),
                Some((_, number)) => {
                    return Some(ProbeMatch { sequence: latest(number, next), state: State::Altered });
                }
                // The number is cut off or spoilt; the other tag may still tell it.
                None => {
                    let state = if rest.len() < TAG { State::Truncated } else { State::Altered };
                    found = found.or(Some(ProbeMatch { sequence: None, state }));
                }
            }
        }
        found
    }

    /// Compares what begins with the tag of probe `number` with that probe.
    fn examine(&self, seen: &[u8], number: u64, next: u64) -> ProbeMatch {
        let size = self.size();
        let sequence = latest(number, next);
        let Some(seen) = seen.get(..size) else {
            return ProbeMatch { sequence, state: State::Truncated };
        };
        let back_at = if size >= 2 * TAG { size - TAG } else { size };
        let (padding, back) = seen[TAG..].split_at(back_at - TAG);
        let same_padding = *padding == self.template[TAG..back_at];
        let same_back = back.is_empty() || (back[..9] == self.template[back_at..][..9] && back[9..] == seen[9..TAG]);
        if same_padding && same_back {
            return ProbeMatch { sequence, state: State::Whole };
        }
        match tag(back) {
            // Two numbers: either may be the spoilt one.
            Some((_, other)) if other != number => ProbeMatch { sequence: None, state: State::Altered },
            _ => ProbeMatch { sequence, state: State::Altered },
        }
    }
}

/// Where the tags of a payload stand, and their marks.
fn tags(size: usize) -> impl Iterator<Item = (usize, u8)> {
    let front = (size >= TAG).then_some((0, FRONT));
    let back = (size >= 2 * TAG).then(|| (size - TAG, BACK));
    front.into_iter().chain(back)
}

/// The mark and the number of a tag whose run was recognised.
fn tag(bytes: &[u8]) -> Option<(u8, u64)> {
    let mark = *bytes.get(8)?;
    let number = bytes.get(9..TAG)?;
    let known = matches!(mark, FRONT | BACK) && number.iter().all(u8::is_ascii_digit);
    known.then(|| (mark, number.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))))
}

fn digits(number: u64) -> [u8; 8] {
    let mut rest = number % NUMBERS;
    let mut digits = [b'0'; 8];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// The latest probe before `next` that has this number; the same number comes back every 100,000,000.
fn latest(number: u64, next: u64) -> Option<u64> {
    let last = next.checked_sub(1)?;
    let age = (last % NUMBERS + NUMBERS - number) % NUMBERS;
    last.checked_sub(age)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probe(payload: &Payload, sequence: u64) -> Vec<u8> {
        let mut probe = payload.template().to_vec();
        payload.number(sequence, &mut probe);
        probe
    }

    fn seen(sequence: impl Into<Option<u64>>, state: State) -> Option<ProbeMatch> {
        Some(ProbeMatch { sequence: sequence.into(), state })
    }

    #[test]
    fn a_payload_is_printable_and_tells_its_run_and_number() {
        let payload = Payload::of_run(12_345_678, 56);
        let text = String::from_utf8(probe(&payload, 17)).expect("text");
        assert_eq!(text, "12345678-00000017 udpong ABCDEFGHIJKLMN12345678.00000017");
        assert_ne!(Payload::new(56).template(), Payload::new(56).template());
    }

    #[test]
    fn an_answer_that_says_nothing_of_it_is_not_recognised() {
        let payload = Payload::of_run(12_345_678, 56);
        for answer in [&b""[..], b"Hello UDP Client", b"1234567", b"12345679-00000001", &[0xff; 65_507]] {
            assert_eq!(payload.recognise(answer, 9), None);
        }
        let small = Payload::of_run(12_345_678, TAG - 1);
        assert_eq!(small.recognise(&probe(&small, 1), 2), None);
    }

    #[test]
    fn a_number_that_was_not_sent_yet_names_no_probe() {
        let payload = Payload::of_run(12_345_678, 56);
        assert_eq!(payload.recognise(&probe(&payload, 5), 5), seen(None, State::Whole));
        assert_eq!(payload.recognise(&probe(&payload, 5), 0), seen(None, State::Whole));
    }

    #[test]
    fn numbers_go_on_after_the_digits_have_come_round() {
        let payload = Payload::of_run(12_345_678, 56);
        for sequence in [NUMBERS - 1, NUMBERS, 3 * NUMBERS + 5] {
            let next = sequence + 7;
            assert_eq!(payload.recognise(&probe(&payload, sequence), next), seen(sequence, State::Whole));
        }
    }

    #[test]
    fn a_cut_inside_the_tag_leaves_the_run() {
        let payload = Payload::of_run(12_345_678, 56);
        let probe = probe(&payload, 3);
        assert_eq!(payload.recognise(&probe[..TAG], 9), seen(3, State::Truncated));
        assert_eq!(payload.recognise(&probe[..TAG - 1], 9), seen(None, State::Truncated));
        assert_eq!(payload.recognise(&probe[..8], 9), seen(None, State::Truncated));
        assert_eq!(payload.recognise(&probe[..7], 9), None);
    }

    #[test]
    fn a_responder_that_changes_the_case_alters() {
        let payload = Payload::of_run(12_345_678, 100);
        let answer = probe(&payload, 3).to_ascii_uppercase();
        assert_eq!(payload.recognise(&answer, 9), seen(3, State::Altered));
    }

    proptest! {
        #[test]
        fn a_probe_is_found_wherever_it_stands(
            size in TAG..300, sequence in 0..2 * NUMBERS, ahead in 1..1000_u64, before in "[^0-9]*", behind in "[^0-9]*"
        ) {
            let payload = Payload::new(size);
            let answer = [before.as_bytes(), &probe(&payload, sequence), behind.as_bytes()].concat();
            prop_assert_eq!(payload.recognise(&answer, sequence + ahead), seen(sequence, State::Whole));
        }

        #[test]
        fn a_probe_without_its_end_is_truncated(
            size in TAG + 1..300, cut in TAG..299_usize, before in "[^0-9]*", sequence in 0..1000_u64
        ) {
            prop_assume!(cut < size);
            let payload = Payload::new(size);
            let answer = [before.as_bytes(), &probe(&payload, sequence)[..cut]].concat();
            prop_assert_eq!(payload.recognise(&answer, 1000), seen(sequence, State::Truncated));
        }

        #[test]
        fn one_changed_byte_is_altered_and_never_another_probe(
            size in 2 * TAG..300, at in any::<prop::sample::Index>(), to in any::<u8>(), before in "[^0-9]*"
        ) {
            let payload = Payload::new(size);
            let mut probe = probe(&payload, 123);
            let at = at.index(size);
            prop_assume!(probe[at] != to);
            probe[at] = to;
            let found = payload.recognise(&[before.as_bytes(), &probe].concat(), 1000);
            let found = found.expect("recognised");
            prop_assert_eq!(found.state, State::Altered);
            prop_assert!(matches!(found.sequence, Some(123) | None));
        }

        #[test]
        fn no_answer_panics(size in 0..100_usize, answer in proptest::collection::vec(any::<u8>(), 0..300), next: u64) {
            let payload = Payload::new(size);
            let _ = payload.recognise(&answer, next);
            let _ = payload.recognise(&[&payload.run[..], &answer].concat(), next);
        }
    }
}
