//! Which probes are out, and what becomes of each. Pure: time is an argument, and what an answer looked like too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::payload::{ProbeMatch, State};

/// How a probe ended; each ends in exactly one way, by its first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Whole and in time.
    Answered,
    /// Whole, but after the timeout.
    Late,
    /// Never.
    Lost,
    /// Somebody on the way, or the system itself, said that it will not be delivered.
    Refused,
    /// The answer repeats it without its end.
    Truncated,
    /// The answer repeats it with other bytes in it.
    Altered,
}

/// How many probes ended in which way.
///
/// Once all have ended, `sent` = `answered` + `late` + `lost` + `refused` + `truncated` + `altered`. Duplicates,
/// reordered and unmatched answers come on top (defended by the proptests of this module).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Probes sent.
    pub sent: u64,
    /// [`Outcome::Answered`].
    pub answered: u64,
    /// [`Outcome::Late`].
    pub late: u64,
    /// [`Outcome::Lost`].
    pub lost: u64,
    /// [`Outcome::Refused`].
    pub refused: u64,
    /// [`Outcome::Truncated`].
    pub truncated: u64,
    /// [`Outcome::Altered`].
    pub altered: u64,
    /// Answers to probes that had ended already.
    pub duplicate: u64,
    /// First answers that came after one to a later probe.
    pub reordered: u64,
    /// Answers that belong to no probe, from a responder that otherwise repeats them.
    pub unmatched: u64,
}

impl Counts {
    /// How many got an answer of any kind.
    pub fn heard(&self) -> u64 {
        self.answered + self.late + self.truncated + self.altered
    }

    /// The share of probes that nothing came back of, lost or refused: 0 to 100, and 0 when none was sent.
    pub fn loss_percent(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { 100.0 * (self.lost + self.refused) as f64 / self.sent as f64 }
    }

    /// Adds the counts of other probes.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.late, other.late),
            (&mut self.lost, other.lost),
            (&mut self.refused, other.refused),
            (&mut self.truncated, other.truncated),
            (&mut self.altered, other.altered),
            (&mut self.duplicate, other.duplicate),
            (&mut self.reordered, other.reordered),
            (&mut self.unmatched, other.unmatched),
        ] {
            *sum += more;
        }
    }

    fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Answered => &mut self.answered,
            Outcome::Late => &mut self.late,
            Outcome::Lost => &mut self.lost,
            Outcome::Refused => &mut self.refused,
            Outcome::Truncated => &mut self.truncated,
            Outcome::Altered => &mut self.altered,
        }
    }
}

/// What an answer meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It decided about a probe.
    First {
        /// Which one.
        sequence: u64,
        /// How that probe ended.
        outcome: Outcome,
        /// From the time at which the probe was due.
        round_trip: Duration,
        /// A later probe was answered before.
        reordered: bool,
    },
    /// Its probe had ended before. Without a number where nothing tells which one it was.
    Duplicate(Option<u64>),
    /// It belongs to no probe.
    Unmatched,
}

/// The probes that are out, in a window over their numbers, which count up from 0.
///
/// An answer that repeats its probe finds it by number. Any other is matched in order: it goes to the oldest
/// probe in flight. Once a responder has repeated a probe, its other answers are matched to none.
#[derive(Debug)]
pub struct Tracker {
    timeout: Duration,
    /// How long after its sending an answer still finds its probe.
    memory: Duration,
    probes: VecDeque<Probe>,
    /// The number of the first in `probes`.
    first: u64,
    /// All probes before this number are past the timeout.
    timed_out: u64,
    /// All probes from `timed_out` to this number have ended.
    open: u64,
    in_flight: usize,
    answered: Option<u64>,
    repeats: bool,
    counts: Counts,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    due: Instant,
    sent: Instant,
    ended: bool,
}

impl Tracker {
    /// No probe sent. Its answer is late after `timeout`, and the probe lost and forgotten `remembered_for` later.
    pub fn new(timeout: Duration, remembered_for: Duration) -> Self {
        Self {
            timeout,
            memory: timeout.saturating_add(remembered_for),
            probes: VecDeque::new(),
            first: 0,
            open: 0,
            timed_out: 0,
            in_flight: 0,
            answered: None,
            repeats: false,
            counts: Counts::default(),
        }
    }

    /// The number that the next probe will have.
    pub fn next(&self) -> u64 {
        self.first + self.probes.len() as u64
    }

    /// Notes a probe that was `due` at one time and sent at another.
    pub fn sent(&mut self, due: Instant, sent: Instant) {
        self.probes.push_back(Probe { due, sent, ended: false });
        self.in_flight += 1;
        self.counts.sent += 1;
    }

    /// Decides what an answer means; `found` is what it repeats.
    pub fn answer(&mut self, found: Option<ProbeMatch>, now: Instant) -> Answer {
        let numbered = found.and_then(|found| found.sequence);
        if found.is_none() && self.repeats {
            return self.unmatched();
        }
        self.repeats = found.is_some();
        let Some(sequence) = numbered.or_else(|| self.oldest_open()) else {
            return self.duplicate(None);
        };
        let Some(probe) = self.probe(sequence).copied() else {
            // It was remembered for long enough: whatever it ended as, this changes nothing.
            return self.unmatched();
        };
        if probe.ended {
            return self.duplicate(Some(sequence));
        }
        let outcome = match found.map(|found| found.state) {
            Some(State::Truncated) => Outcome::Truncated,
            Some(State::Altered) => Outcome::Altered,
            Some(State::Whole) | None if now.saturating_duration_since(probe.sent) >= self.timeout => Outcome::Late,
            Some(State::Whole) | None => Outcome::Answered,
        };
        let reordered = self.answered.is_some_and(|latest| sequence < latest);
        self.answered = self.answered.max(Some(sequence));
        self.counts.reordered += u64::from(reordered);
        self.end(sequence, outcome);
        Answer::First { sequence, outcome, round_trip: now.saturating_duration_since(probe.due), reordered }
    }

    /// Notes that a probe was refused: the oldest in flight, since nothing tells which one; returns its number.
    pub fn refused(&mut self) -> Option<u64> {
        let sequence = self.oldest_open()?;
        self.end(sequence, Outcome::Refused);
        Some(sequence)
    }

    /// Notes that the system would not send the last probe; returns its number.
    pub fn refused_last(&mut self) -> Option<u64> {
        let sequence = self.next().checked_sub(1)?;
        self.end(sequence, Outcome::Refused);
        Some(sequence)
    }

    /// The next probe that is past the timeout without an answer; each is told once.
    pub fn time_out(&mut self, now: Instant) -> Option<u64> {
        while let Some(probe) = self.probe(self.timed_out).copied() {
            if now.saturating_duration_since(probe.sent) < self.timeout {
                return None;
            }
            self.timed_out += 1;
            if !probe.ended {
                self.in_flight -= 1;
                return Some(self.timed_out - 1);
            }
        }
        None
    }

    /// The next probe that was remembered for long enough and is lost; each is told once. Call it after
    /// [`time_out`](Self::time_out).
    pub fn lose(&mut self, now: Instant) -> Option<u64> {
        while let Some(probe) = self.probes.front().copied() {
            if self.first >= self.timed_out || now.saturating_duration_since(probe.sent) < self.memory {
                return None;
            }
            if let Some(lost) = self.forget_first(probe) {
                return Some(lost);
            }
        }
        None
    }

    /// The next probe that has no answer at the end of all and is lost; each is told once.
    pub fn lose_rest(&mut self) -> Option<u64> {
        while let Some(probe) = self.probes.front().copied() {
            if let Some(lost) = self.forget_first(probe) {
                return Some(lost);
            }
        }
        None
    }

    /// When to look for probes past the timeout again; `None` when none is in flight.
    pub fn next_timeout(&self) -> Option<Instant> {
        let oldest = self.probe(self.timed_out).filter(|_| self.in_flight > 0);
        oldest.and_then(|probe| probe.sent.checked_add(self.timeout))
    }

    /// When the last of those that are remembered was sent.
    pub fn last_sent(&self) -> Option<Instant> {
        self.probes.back().map(|probe| probe.sent)
    }

    /// How many probes are out, without an answer and before the timeout.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether some answer has repeated its probe.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// How the probes so far have ended.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Counts from zero again, for probes yet to be sent. All before must have ended.
    pub fn start_over(&mut self) {
        self.counts = Counts::default();
    }

    fn probe(&self, sequence: u64) -> Option<&Probe> {
        self.probes.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)
    }

    /// The oldest probe in flight; without one, the oldest that may still be answered late.
    fn oldest_open(&mut self) -> Option<u64> {
        if self.in_flight == 0 {
            return (self.first..self.timed_out)
                .find(|sequence| self.probe(*sequence).is_some_and(|probe| !probe.ended));
        }
        self.open = self.open.max(self.timed_out);
        while self.probe(self.open).is_some_and(|probe| probe.ended) {
            self.open += 1;
        }
        Some(self.open)
    }

    fn end(&mut self, sequence: u64, outcome: Outcome) {
        let in_time = sequence >= self.timed_out;
        let place = sequence.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(probe) = place.and_then(|place| self.probes.get_mut(place))
            && !probe.ended
        {
            probe.ended = true;
            self.in_flight -= usize::from(in_time);
            *self.counts.of(outcome) += 1;
        }
    }

    fn forget_first(&mut self, probe: Probe) -> Option<u64> {
        let sequence = self.first;
        self.end(sequence, Outcome::Lost);
        self.probes.pop_front();
        self.first += 1;
        self.timed_out = self.timed_out.max(self.first);
        (!probe.ended).then_some(sequence)
    }

    fn duplicate(&mut self, sequence: Option<u64>) -> Answer {
        self.counts.duplicate += 1;
        Answer::Duplicate(sequence)
    }

    fn unmatched(&mut self) -> Answer {
        self.counts.unmatched += 1;
        Answer::Unmatched
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);
    const MEMORY: Duration = Duration::from_millis(900);

    struct Run {
        start: Instant,
        tracker: Tracker,
    }

    impl Run {
        fn new() -> Self {
            Self { start: Instant::now(), tracker: Tracker::new(TIMEOUT, MEMORY) }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn send(&mut self, millis: u64) {
            self.tracker.sent(self.at(millis), self.at(millis));
        }

        fn answer(&mut self, sequence: u64, state: State, millis: u64) -> Answer {
            let found = ProbeMatch { sequence: Some(sequence), state };
            self.tracker.answer(Some(found), self.at(millis))
        }

        fn text(&mut self, millis: u64) -> Answer {
            self.tracker.answer(None, self.at(millis))
        }

        fn time_out(&mut self, millis: u64) -> Vec<u64> {
            let now = self.at(millis);
            std::iter::from_fn(|| self.tracker.time_out(now)).collect()
        }

        fn lose(&mut self, millis: u64) -> Vec<u64> {
            let now = self.at(millis);
            std::iter::from_fn(|| self.tracker.lose(now)).collect()
        }

        fn end(mut self) -> Counts {
            while self.tracker.lose_rest().is_some() {}
            let counts = *self.tracker.counts();
            assert_eq!(counts.sent, counts.heard() + counts.lost + counts.refused);
            assert_eq!(self.tracker.in_flight(), 0);
            counts
        }
    }

    fn first(sequence: u64, outcome: Outcome, millis: u64, reordered: bool) -> Answer {
        Answer::First { sequence, outcome, round_trip: Duration::from_millis(millis), reordered }
    }

    #[test]
    fn the_first_answer_decides_and_the_others_are_duplicates() {
        let mut run = Run::new();
        run.send(0);
        assert_eq!(run.answer(0, State::Truncated, 5), first(0, Outcome::Truncated, 5, false));
        assert_eq!(run.answer(0, State::Whole, 6), Answer::Duplicate(Some(0)));
        let counts = run.end();
        assert_eq!((counts.truncated, counts.answered, counts.duplicate), (1, 0, 1));
    }

    #[test]
    fn an_answer_after_the_timeout_is_late_and_after_the_memory_unmatched() {
        let mut run = Run::new();
        (0..3).for_each(|_| run.send(0));
        assert_eq!(run.answer(0, State::Whole, 99), first(0, Outcome::Answered, 99, false));
        assert_eq!(run.tracker.next_timeout(), Some(run.at(100)));
        assert!(run.time_out(99).is_empty());
        assert_eq!(run.time_out(100), [1, 2]);
        assert!(run.time_out(100).is_empty());
        assert_eq!((run.tracker.in_flight(), run.tracker.next_timeout()), (0, None));
        assert_eq!(run.answer(1, State::Whole, 500), first(1, Outcome::Late, 500, false));
        assert!(run.lose(999).is_empty());
        assert_eq!(run.lose(1000), [2]);
        assert_eq!(run.answer(2, State::Whole, 1001), Answer::Unmatched);
        let counts = run.end();
        assert_eq!((counts.answered, counts.late, counts.lost, counts.unmatched), (1, 1, 1, 1));
    }

    #[test]
    fn an_answer_is_late_even_if_nobody_looked_at_the_time_before() {
        let mut run = Run::new();
        run.send(0);
        assert_eq!(run.answer(0, State::Whole, 100), first(0, Outcome::Late, 100, false));
        assert_eq!(run.tracker.in_flight(), 0);
        assert!(run.time_out(200).is_empty());
    }

    #[test]
    fn a_round_trip_counts_from_when_the_probe_was_due_and_its_timeout_from_when_it_left() {
        let mut run = Run::new();
        run.tracker.sent(run.at(0), run.at(200));
        assert!(run.time_out(250).is_empty());
        assert_eq!(run.answer(0, State::Whole, 260), first(0, Outcome::Answered, 260, false));
    }

    #[test]
    fn fixed_answers_are_matched_in_order_and_those_too_many_are_duplicates() {
        let mut run = Run::new();
        run.send(0);
        run.send(10);
        assert_eq!(run.text(11), first(0, Outcome::Answered, 11, false));
        assert_eq!(run.text(12), first(1, Outcome::Answered, 2, false));
        assert_eq!(run.text(13), Answer::Duplicate(None));
        run.send(20);
        assert_eq!(run.time_out(130), [2]);
        run.send(131);
        // The one in flight comes first, and the one that timed out is not forgotten.
        assert_eq!(run.text(132), first(3, Outcome::Answered, 1, false));
        assert_eq!(run.text(133), first(2, Outcome::Late, 113, true));
        assert!(!run.tracker.repeats());
        run.end();
    }

    #[test]
    fn what_a_repeating_responder_says_besides_is_matched_to_nothing() {
        let mut run = Run::new();
        run.send(0);
        run.send(0);
        assert_eq!(run.answer(0, State::Whole, 1), first(0, Outcome::Answered, 1, false));
        assert_eq!(run.text(2), Answer::Unmatched);
        assert_eq!(run.answer(7, State::Whole, 3), Answer::Unmatched);
        let nameless = ProbeMatch { sequence: None, state: State::Altered };
        assert_eq!(run.tracker.answer(Some(nameless), run.at(4)), first(1, Outcome::Altered, 4, false));
        assert_eq!(run.tracker.answer(Some(nameless), run.at(5)), Answer::Duplicate(None));
        let counts = run.end();
        assert_eq!((counts.unmatched, counts.duplicate), (2, 1));
    }

    #[test]
    fn a_refusal_is_for_the_oldest_in_flight() {
        let mut run = Run::new();
        assert_eq!(run.tracker.refused(), None);
        run.send(0);
        run.send(0);
        assert_eq!(run.answer(0, State::Whole, 1), first(0, Outcome::Answered, 1, false));
        assert_eq!(run.tracker.refused(), Some(1));
        assert_eq!(run.tracker.refused(), None);
        run.send(2);
        assert_eq!(run.tracker.refused_last(), Some(2));
        let counts = run.end();
        assert_eq!((counts.refused, counts.lost), (2, 0));
        assert!((counts.loss_percent() - 66.66).abs() < 0.01);
    }

    #[test]
    fn loss_is_between_0_and_100_percent() {
        assert_eq!(Counts::default().loss_percent(), 0.0);
        assert_eq!(Counts { sent: 3, lost: 2, refused: 1, ..Counts::default() }.loss_percent(), 100.0);
        assert_eq!(Counts { sent: 3, answered: 3, duplicate: 9, ..Counts::default() }.loss_percent(), 0.0);
    }

    /// What one probe of the generated run meets: its answers, each with a state and a delay.
    fn answers() -> impl Strategy<Value = Vec<(State, u64)>> {
        let state = prop_oneof![6 => Just(State::Whole), 1 => Just(State::Truncated), 1 => Just(State::Altered)];
        proptest::collection::vec((state, 0..200_u64), 0..4)
    }

    proptest! {
        #[test]
        fn a_permuted_duplicated_thinned_stream_gives_the_counts_that_were_put_in(
            probes in proptest::collection::vec(answers(), 0..40)
        ) {
            let mut run = Run::new();
            let mut expected = Counts { sent: probes.len() as u64, ..Counts::default() };
            // Every millisecond one probe leaves; its answers come when their delays are over.
            let mut arrivals = Vec::new();
            for (sequence, answers) in probes.iter().enumerate() {
                let sequence = sequence as u64;
                arrivals.extend(answers.iter().map(|(state, delay)| (sequence + delay, sequence, *state, *delay)));
            }
            arrivals.sort_by_key(|(at, ..)| *at);
            let mut firsts: Vec<u64> = Vec::new();
            for (_, sequence, state, delay) in &arrivals {
                if firsts.contains(sequence) {
                    expected.duplicate += 1;
                    continue;
                }
                expected.reordered += u64::from(firsts.iter().any(|earlier| earlier > sequence));
                firsts.push(*sequence);
                match state {
                    State::Truncated => expected.truncated += 1,
                    State::Altered => expected.altered += 1,
                    State::Whole if *delay >= 100 => expected.late += 1,
                    State::Whole => expected.answered += 1,
                }
            }
            expected.lost = expected.sent - firsts.len() as u64;

            let mut arrivals = arrivals.into_iter().peekable();
            for millis in 0..300 {
                if millis < probes.len() as u64 {
                    run.send(millis);
                }
                run.time_out(millis);
                while let Some((_, sequence, state, _)) = arrivals.next_if(|(at, ..)| *at == millis) {
                    run.answer(sequence, state, millis);
                }
            }
            prop_assert_eq!(run.end(), expected);
        }

        #[test]
        fn in_order_nothing_is_lost_or_doubled_that_was_not(answered in 0..50_u64, sent in 0..50_u64) {
            let mut run = Run::new();
            (0..sent).for_each(|_| run.send(0));
            for _ in 0..answered {
                run.text(1);
            }
            let counts = run.end();
            prop_assert_eq!((counts.answered, counts.lost), (sent.min(answered), sent.saturating_sub(answered)));
            prop_assert_eq!((counts.duplicate, counts.reordered), (answered.saturating_sub(sent), 0));
        }

        #[test]
        fn no_order_of_events_breaks_the_sum(events in proptest::collection::vec((0..8_u8, 0..60_u64), 0..200)) {
            let mut run = Run::new();
            let mut now = 0;
            for (event, number) in events {
                now += number;
                match event {
                    0..=2 => run.send(now),
                    3 => {
                        run.answer(number, State::Whole, now);
                    }
                    4 => {
                        run.text(now);
                    }
                    5 => {
                        run.time_out(now);
                    }
                    6 => {
                        run.lose(now);
                    }
                    _ => {
                        run.tracker.refused();
                    }
                }
                let open = run.tracker.probes.range(..).filter(|probe| !probe.ended).count();
                prop_assert!(run.tracker.in_flight() <= open);
            }
            run.end();
        }
    }
}
