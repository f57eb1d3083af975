//! Which probe an answer belongs to, and how each probe ends. Pure: time and what was found in an answer are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outcome::{Outcome, OutcomeCounts};
use super::payload::{Integrity, ProbeMatch};

/// Matches answers to probes and decides how each probe ended.
///
/// Probes have sequence numbers from 0, in the order in which they were sent. The tracker remembers a window of them,
/// which only moves to the right:
///
/// ```text
///   forgotten   past the timeout      ended      in flight or ended    not sent yet
/// ────────────┼──────────────────┼─────────────┼────────────────────┼───────────────▶ sequence number
///           first            timed_out  in_flight_from       next_sequence()
/// ```
///
/// A probe is *open* until it ends. An open probe is *in flight* until [`time_out`](Self::time_out) returns it; then an
/// answer still ends it as late. Probes that are too old for that are lost, if still open, and forgotten.
///
/// # Matching
///
/// An answer that repeats the sequence number of its probe is matched by it. Any other answer is matched in order: to
/// the oldest probe in flight or, if none is, to the oldest open one. Once an answer has repeated a probe, the
/// responder is expected to do so, and an answer that repeats nothing is unmatched.
///
/// # Invariants
///
/// 1. `first` <= `timed_out` <= `next_sequence()`, and `in_flight_from` <= `next_sequence()`.
/// 2. `in_flight` is the number of open probes at or after `timed_out`; none of them is before `in_flight_from`.
/// 3. Each probe ends exactly once and is counted then: see [`OutcomeCounts`].
#[derive(Debug)]
pub struct Tracker {
    timeout: Duration,
    /// How long a probe is remembered after it was sent; at least `timeout`.
    retention: Duration,
    /// The probes from `first` on.
    probes: VecDeque<Probe>,
    /// The sequence number of the oldest remembered probe.
    first: u64,
    /// Probes before this sequence number are past the timeout.
    timed_out: u64,
    /// No probe before this sequence number is in flight, so the search for the oldest one starts here.
    in_flight_from: u64,
    in_flight: usize,
    /// The highest sequence number with an answer, to detect reordering.
    latest_answered: Option<u64>,
    /// Whether an answer has repeated its probe.
    repeats: bool,
    counts: OutcomeCounts,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    due: Instant,
    sent: Instant,
    ended: bool,
}

/// What an answer meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The first answer to a probe, which it ended.
    First {
        /// The sequence number of the probe.
        sequence: u64,
        /// How the probe ended.
        outcome: Outcome,
        /// The time since the probe was due.
        round_trip: Duration,
        /// Whether a later probe was answered before.
        reordered: bool,
    },
    /// The probe had ended before. Its sequence number, if it is known.
    Duplicate(Option<u64>),
    /// The answer belongs to no probe.
    Unmatched,
}

impl Tracker {
    /// Creates a tracker. An answer is late `timeout` after its probe was sent; `late_for` after that, a probe without
    /// an answer is lost and every probe is forgotten.
    pub fn new(timeout: Duration, late_for: Duration) -> Self {
        Self {
            timeout,
            retention: timeout.saturating_add(late_for),
            probes: VecDeque::new(),
            first: 0,
            timed_out: 0,
            in_flight_from: 0,
            in_flight: 0,
            latest_answered: None,
            repeats: false,
            counts: OutcomeCounts::default(),
        }
    }

    /// Returns the sequence number of the probe to send next.
    pub fn next_sequence(&self) -> u64 {
        self.first + self.probes.len() as u64
    }

    /// Records that the next probe, which was `due` at one time, was sent at another.
    pub fn record_sent(&mut self, due: Instant, sent: Instant) {
        self.probes.push_back(Probe { due, sent, ended: false });
        self.in_flight += 1;
        self.counts.sent += 1;
    }

    /// Matches an answer that was received at `now` to its probe, ends that probe and counts the answer. `found` is the
    /// probe that the answer repeats, as [`Payload::find_in`](super::payload::Payload::find_in) returns it.
    pub fn match_answer(&mut self, found: Option<ProbeMatch>, now: Instant) -> Answer {
        let answer = self.classify(found, now);
        self.repeats |= found.is_some();
        match answer {
            Answer::First { sequence, outcome, reordered, .. } => {
                self.end(sequence, outcome);
                self.latest_answered = self.latest_answered.max(Some(sequence));
                self.counts.reordered += u64::from(reordered);
            }
            Answer::Duplicate(_) => self.counts.duplicate += 1,
            Answer::Unmatched => self.counts.unmatched += 1,
        }
        answer
    }

    /// Ends the oldest open probe as refused and returns its sequence number; `None` if none is open.
    ///
    /// For an ICMP error, which is not attributed to a probe.
    pub fn refuse_oldest(&mut self) -> Option<u64> {
        let sequence = self.oldest_open()?;
        self.end(sequence, Outcome::Refused);
        Some(sequence)
    }

    /// Ends the probe that was sent last as refused and returns its sequence number; `None` if none was sent.
    ///
    /// For a probe whose send failed.
    pub fn refuse_last(&mut self) -> Option<u64> {
        let sequence = self.next_sequence().checked_sub(1)?;
        self.end(sequence, Outcome::Refused);
        Some(sequence)
    }

    /// Times out the next probe that had no answer within the timeout at `now`, and returns its sequence number. Call
    /// it until it returns `None`; no probe is returned twice.
    ///
    /// Every answer that arrived by `now` must have been matched, or its probe is reported although it was answered.
    pub fn time_out(&mut self, now: Instant) -> Option<u64> {
        while let Some(probe) = self.probe(self.timed_out).copied().filter(|probe| self.is_past_timeout(probe, now)) {
            self.timed_out += 1;
            if !probe.ended {
                self.in_flight -= 1;
                return Some(self.timed_out - 1);
            }
        }
        None
    }

    /// Ends the next probe that is too old at `now` for a late answer as lost, and returns its sequence number; forgets
    /// all probes up to it. Call it until it returns `None`, after [`time_out`](Self::time_out).
    pub fn lose(&mut self, now: Instant) -> Option<u64> {
        while let Some(probe) = self.probes.front()
            && self.first < self.timed_out
            && now.saturating_duration_since(probe.sent) >= self.retention
        {
            if let Some(lost) = self.forget_first() {
                return Some(lost);
            }
        }
        None
    }

    /// Ends the next open probe as lost, whatever its age, otherwise as [`lose`](Self::lose). For the end of a ping or
    /// bench.
    pub fn lose_rest(&mut self) -> Option<u64> {
        while !self.probes.is_empty() {
            if let Some(lost) = self.forget_first() {
                return Some(lost);
            }
        }
        None
    }

    /// Returns when to call [`time_out`](Self::time_out) next; `None` when no probe is in flight.
    pub fn next_timeout(&self) -> Option<Instant> {
        let oldest = self.probe(self.timed_out).filter(|_| self.in_flight > 0);
        oldest.and_then(|probe| probe.sent.checked_add(self.timeout))
    }

    /// Returns when the latest probe was sent; `None` when none is remembered.
    pub fn last_sent(&self) -> Option<Instant> {
        self.probes.back().map(|probe| probe.sent)
    }

    /// Returns how many probes are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Returns whether an answer has repeated its probe, so that answers are not matched in order.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Returns how the probes have ended so far.
    pub fn counts(&self) -> &OutcomeCounts {
        &self.counts
    }

    /// Sets all counts to zero, for probes yet to be sent. All earlier ones must have ended.
    pub fn reset_counts(&mut self) {
        self.counts = OutcomeCounts::default();
    }

    /// Decides what an answer means.
    fn classify(&mut self, found: Option<ProbeMatch>, now: Instant) -> Answer {
        if found.is_none() && self.repeats {
            return Answer::Unmatched;
        }
        let Some(sequence) = found.and_then(|found| found.sequence).or_else(|| self.oldest_open()) else {
            return Answer::Duplicate(None);
        };
        let Some(probe) = self.probe(sequence) else {
            // Forgotten: it is not known any more whether there was an answer before.
            return Answer::Unmatched;
        };
        if probe.ended {
            return Answer::Duplicate(Some(sequence));
        }
        let outcome = match found.map(|found| found.integrity) {
            Some(Integrity::Truncated) => Outcome::Truncated,
            Some(Integrity::Altered) => Outcome::Altered,
            Some(Integrity::Intact) | None if self.is_past_timeout(probe, now) => Outcome::Late,
            Some(Integrity::Intact) | None => Outcome::Answered,
        };
        let round_trip = now.saturating_duration_since(probe.due);
        let reordered = self.latest_answered.is_some_and(|latest| sequence < latest);
        Answer::First { sequence, outcome, round_trip, reordered }
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    fn probe(&self, sequence: u64) -> Option<&Probe> {
        self.probes.get(self.index(sequence)?)
    }

    fn is_past_timeout(&self, probe: &Probe, now: Instant) -> bool {
        now.saturating_duration_since(probe.sent) >= self.timeout
    }

    /// Returns the oldest probe in flight or, if none is, the oldest open one.
    fn oldest_open(&mut self) -> Option<u64> {
        if self.in_flight == 0 {
            return (self.first..self.timed_out)
                .find(|&sequence| self.probe(sequence).is_some_and(|probe| !probe.ended));
        }
        self.in_flight_from = self.in_flight_from.max(self.timed_out);
        while self.probe(self.in_flight_from).is_some_and(|probe| probe.ended) {
            self.in_flight_from += 1;
        }
        Some(self.in_flight_from)
    }

    /// Ends a probe and counts its outcome; returns whether it was open.
    fn end(&mut self, sequence: u64, outcome: Outcome) -> bool {
        let probe = self.index(sequence).and_then(|index| self.probes.get_mut(index));
        let Some(probe) = probe.filter(|probe| !probe.ended) else {
            return false;
        };
        probe.ended = true;
        self.in_flight -= usize::from(sequence >= self.timed_out);
        self.counts.count(outcome);
        true
    }

    /// Forgets the oldest probe; returns its sequence number if it was open and is lost now.
    fn forget_first(&mut self) -> Option<u64> {
        let sequence = self.first;
        let lost = self.end(sequence, Outcome::Lost);
        self.probes.pop_front();
        self.first += 1;
        self.timed_out = self.timed_out.max(self.first);
        lost.then_some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Integrity::{Altered, Intact, Truncated};
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);
    const LATE_FOR: Duration = Duration::from_millis(900);

    /// A tracker whose times are milliseconds since a start.
    struct Scenario {
        start: Instant,
        tracker: Tracker,
    }

    impl Scenario {
        fn new() -> Self {
            Self { start: Instant::now(), tracker: Tracker::new(TIMEOUT, LATE_FOR) }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn send(&mut self, millis: u64) {
            self.tracker.record_sent(self.at(millis), self.at(millis));
        }

        fn answer(&mut self, sequence: u64, integrity: Integrity, millis: u64) -> Answer {
            let found = ProbeMatch { sequence: Some(sequence), integrity };
            self.tracker.match_answer(Some(found), self.at(millis))
        }

        fn fixed_answer(&mut self, millis: u64) -> Answer {
            self.tracker.match_answer(None, self.at(millis))
        }

        fn time_out(&mut self, millis: u64) -> Vec<u64> {
            let now = self.at(millis);
            std::iter::from_fn(|| self.tracker.time_out(now)).collect()
        }

        fn lose(&mut self, millis: u64) -> Vec<u64> {
            let now = self.at(millis);
            std::iter::from_fn(|| self.tracker.lose(now)).collect()
        }

        fn assert_invariants(&self) {
            let Tracker { first, timed_out, in_flight_from, in_flight, ref counts, .. } = self.tracker;
            let next = self.tracker.next_sequence();
            assert!(first <= timed_out && timed_out <= next && in_flight_from <= next, "{:?}", self.tracker);
            let is_open = |sequence: &u64| self.tracker.probe(*sequence).is_some_and(|probe| !probe.ended);
            assert_eq!(in_flight, (timed_out..next).filter(is_open).count());
            assert_eq!((timed_out..in_flight_from).find(is_open), None);
            let ended = counts.with_answer() + counts.lost + counts.refused;
            assert_eq!(counts.sent, ended + (first..next).filter(is_open).count() as u64);
        }

        fn end(mut self) -> OutcomeCounts {
            while self.tracker.lose_rest().is_some() {}
            self.assert_invariants();
            let counts = *self.tracker.counts();
            assert_eq!(counts.sent, counts.with_answer() + counts.lost + counts.refused);
            assert_eq!(self.tracker.in_flight(), 0);
            counts
        }
    }

    fn first(sequence: u64, outcome: Outcome, millis: u64, reordered: bool) -> Answer {
        Answer::First { sequence, outcome, round_trip: Duration::from_millis(millis), reordered }
    }

    #[test]
    fn first_answer_decides_and_later_ones_are_duplicates() {
        let mut scenario = Scenario::new();
        scenario.send(0);
        assert_eq!(scenario.answer(0, Truncated, 5), first(0, Outcome::Truncated, 5, false));
        assert_eq!(scenario.answer(0, Intact, 6), Answer::Duplicate(Some(0)));
        let counts = scenario.end();
        assert_eq!((counts.truncated, counts.answered, counts.duplicate), (1, 0, 1));
    }

    #[test]
    fn answer_is_late_after_timeout_and_unmatched_once_forgotten() {
        let mut scenario = Scenario::new();
        (0..3).for_each(|_| scenario.send(0));
        assert_eq!(scenario.answer(0, Intact, 99), first(0, Outcome::Answered, 99, false));
        assert_eq!(scenario.tracker.next_timeout(), Some(scenario.at(100)));
        assert!(scenario.time_out(99).is_empty());
        assert_eq!(scenario.time_out(100), [1, 2]);
        assert!(scenario.time_out(100).is_empty());
        assert_eq!((scenario.tracker.in_flight(), scenario.tracker.next_timeout()), (0, None));
        assert_eq!(scenario.answer(1, Intact, 500), first(1, Outcome::Late, 500, false));
        assert!(scenario.lose(999).is_empty());
        assert_eq!(scenario.lose(1000), [2]);
        assert_eq!(scenario.answer(2, Intact, 1001), Answer::Unmatched);
        let counts = scenario.end();
        assert_eq!((counts.answered, counts.late, counts.lost, counts.unmatched), (1, 1, 1, 1));
    }

    #[test]
    fn answer_is_late_even_if_timeout_was_not_checked() {
        let mut scenario = Scenario::new();
        scenario.send(0);
        assert_eq!(scenario.answer(0, Intact, 100), first(0, Outcome::Late, 100, false));
        assert_eq!(scenario.tracker.in_flight(), 0);
        assert!(scenario.time_out(200).is_empty());
    }

    #[test]
    fn round_trip_starts_when_due_and_timeout_when_sent() {
        let mut scenario = Scenario::new();
        scenario.tracker.record_sent(scenario.at(0), scenario.at(200));
        assert!(scenario.time_out(250).is_empty());
        assert_eq!(scenario.answer(0, Intact, 260), first(0, Outcome::Answered, 260, false));
    }

    #[test]
    fn fixed_answers_match_in_order_and_surplus_ones_are_duplicates() {
        let mut scenario = Scenario::new();
        scenario.send(0);
        scenario.send(10);
        assert_eq!(scenario.fixed_answer(11), first(0, Outcome::Answered, 11, false));
        assert_eq!(scenario.fixed_answer(12), first(1, Outcome::Answered, 2, false));
        assert_eq!(scenario.fixed_answer(13), Answer::Duplicate(None));
        scenario.send(20);
        assert_eq!(scenario.time_out(130), [2]);
        scenario.send(131);
        // A probe in flight comes before one that timed out.
        assert_eq!(scenario.fixed_answer(132), first(3, Outcome::Answered, 1, false));
        assert_eq!(scenario.fixed_answer(133), first(2, Outcome::Late, 113, true));
        assert!(!scenario.tracker.repeats());
        scenario.end();
    }

    #[test]
    fn foreign_answer_of_repeating_responder_is_unmatched() {
        let mut scenario = Scenario::new();
        scenario.send(0);
        scenario.send(0);
        assert_eq!(scenario.answer(0, Intact, 1), first(0, Outcome::Answered, 1, false));
        assert_eq!(scenario.fixed_answer(2), Answer::Unmatched);
        assert_eq!(scenario.answer(7, Intact, 3), Answer::Unmatched);
        let unnumbered = ProbeMatch { sequence: None, integrity: Altered };
        assert_eq!(
            scenario.tracker.match_answer(Some(unnumbered), scenario.at(4)),
            first(1, Outcome::Altered, 4, false)
        );
        assert_eq!(scenario.tracker.match_answer(Some(unnumbered), scenario.at(5)), Answer::Duplicate(None));
        let counts = scenario.end();
        assert_eq!((counts.unmatched, counts.duplicate), (2, 1));
    }

    #[test]
    fn refusal_ends_oldest_probe_in_flight() {
        let mut scenario = Scenario::new();
        assert_eq!(scenario.tracker.refuse_oldest(), None);
        scenario.send(0);
        scenario.send(0);
        assert_eq!(scenario.answer(0, Intact, 1), first(0, Outcome::Answered, 1, false));
        assert_eq!(scenario.tracker.refuse_oldest(), Some(1));
        assert_eq!(scenario.tracker.refuse_oldest(), None);
        scenario.send(2);
        assert_eq!(scenario.tracker.refuse_last(), Some(2));
        let counts = scenario.end();
        assert_eq!((counts.refused, counts.lost), (2, 0));
        assert!((counts.loss_percent() - 66.66).abs() < 0.01);
    }

    /// The answers to one probe: the integrity and the delay in milliseconds of each.
    fn answers() -> impl Strategy<Value = Vec<(Integrity, u64)>> {
        let integrity = prop_oneof![6 => Just(Intact), 1 => Just(Truncated), 1 => Just(Altered)];
        proptest::collection::vec((integrity, 0..200_u64), 0..4)
    }

    proptest! {
        #[test]
        fn reordered_duplicated_and_lost_answers_are_counted_exactly(
            probes in proptest::collection::vec(answers(), 0..40)
        ) {
            let mut scenario = Scenario::new();
            let mut expected = OutcomeCounts { sent: probes.len() as u64, ..OutcomeCounts::default() };
            // One probe is sent every millisecond; its answers arrive after their delays.
            let mut arrivals = Vec::new();
            for (sequence, answers) in probes.iter().enumerate() {
                let sequence = sequence as u64;
                let arrival = |&(integrity, delay): &(Integrity, u64)| (sequence + delay, sequence, integrity, delay);
                arrivals.extend(answers.iter().map(arrival));
            }
            arrivals.sort_by_key(|(at, ..)| *at);
            let mut firsts: Vec<u64> = Vec::new();
            for (_, sequence, integrity, delay) in &arrivals {
                if firsts.contains(sequence) {
                    expected.duplicate += 1;
                    continue;
                }
                expected.reordered += u64::from(firsts.iter().any(|earlier| earlier > sequence));
                firsts.push(*sequence);
                match integrity {
                    Truncated => expected.truncated += 1,
                    Altered => expected.altered += 1,
                    Intact if *delay >= 100 => expected.late += 1,
                    Intact => expected.answered += 1,
                }
            }
            expected.lost = expected.sent - firsts.len() as u64;

            let mut arrivals = arrivals.into_iter().peekable();
            for millis in 0..300 {
                if millis < probes.len() as u64 {
                    scenario.send(millis);
                }
                scenario.time_out(millis);
                while let Some((_, sequence, integrity, _)) = arrivals.next_if(|(at, ..)| *at == millis) {
                    scenario.answer(sequence, integrity, millis);
                }
            }
            prop_assert_eq!(scenario.end(), expected);
        }

        #[test]
        fn matching_in_order_counts_losses_and_duplicates_exactly(answered in 0..50_u64, sent in 0..50_u64) {
            let mut scenario = Scenario::new();
            (0..sent).for_each(|_| scenario.send(0));
            for _ in 0..answered {
                scenario.fixed_answer(1);
            }
            let counts = scenario.end();
            prop_assert_eq!((counts.answered, counts.lost), (sent.min(answered), sent.saturating_sub(answered)));
            prop_assert_eq!((counts.duplicate, counts.reordered), (answered.saturating_sub(sent), 0));
        }

        #[test]
        fn invariants_hold_for_any_order_of_events(events in proptest::collection::vec((0..8_u8, 0..60_u64), 0..200)) {
            let mut scenario = Scenario::new();
            let mut now = 0;
            for (event, number) in events {
                now += number;
                match event {
                    0..=2 => scenario.send(now),
                    3 => {
                        scenario.answer(number, Intact, now);
                    }
                    4 => {
                        scenario.fixed_answer(now);
                    }
                    5 => {
                        scenario.time_out(now);
                    }
                    6 => {
                        scenario.lose(now);
                    }
                    _ => {
                        scenario.tracker.refuse_oldest();
                    }
                }
                scenario.assert_invariants();
            }
            scenario.end();
        }
    }
}
