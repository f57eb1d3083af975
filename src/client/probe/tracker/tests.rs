//! The tracker's tests: scenarios, and a model that any order of events must agree with.

use proptest::prelude::*;

use super::Integrity::{Altered, Intact, Truncated};
use super::*;

const TIMEOUT: Duration = Duration::from_millis(100);
const MOST: usize = 1000;

/// A tracker whose times are milliseconds since a start.
struct Scenario {
    start: Instant,
    tracker: Tracker,
}

impl Scenario {
    /// Chooses among flows as ping does without `--flows`.
    fn new() -> Self {
        Self::with(Flows::new(64, false))
    }

    /// Has one flow only, so that answers that repeat nothing are matched in order.
    fn in_order() -> Self {
        Self::with(Flows::new(1, false))
    }

    fn with(flows: Flows) -> Self {
        Self { start: Instant::now(), tracker: Tracker::new(TIMEOUT, flows, MOST) }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Sends a probe and returns its flow.
    fn send(&mut self, millis: u64) -> usize {
        let now = self.at(millis);
        while let Choice::Open(flow) = self.tracker.choose_flow(now) {
            self.tracker.flow_opened(flow);
        }
        let Choice::Use(flow) = self.tracker.choose_flow(now) else { panic!("the flow was opened") };
        self.tracker.record_sent(flow, now, now);
        flow
    }

    /// Receives an answer that repeats the probe, on the probe's flow.
    fn answer(&mut self, sequence: u64, integrity: Integrity, millis: u64) -> Answer {
        let flow = self.tracker.probe(sequence).map_or(0, |probe| probe.flow);
        let found = ProbeMatch { sequence: Some(sequence), integrity };
        self.tracker.match_answer(flow, Some(found), self.at(millis))
    }

    fn fixed_answer(&mut self, flow: usize, millis: u64) -> Answer {
        self.tracker.match_answer(flow, None, self.at(millis))
    }

    fn time_out(&mut self, millis: u64) -> Vec<u64> {
        let now = self.at(millis);
        let flows = 0..self.tracker.queues.len();
        let mut lost: Vec<u64> = flows
            .flat_map(|flow| std::iter::from_fn(|| self.tracker.time_out(flow, now)).collect::<Vec<_>>())
            .collect();
        lost.sort_unstable();
        lost
    }

    fn assert_invariants(&self) {
        let tracker = &self.tracker;
        let in_flight = |probe: &&Probe| probe.outcome.is_none();
        assert_eq!(tracker.in_flight, tracker.probes.iter().filter(in_flight).count());
        assert_eq!(tracker.counts.sent, tracker.counts.ended() + tracker.in_flight as u64, "{:?}", tracker.counts);
        let lost = tracker.counts.without_timely_answer();
        assert_eq!(lost, tracker.queues.iter().map(|queue| queue.counts.lost).sum::<u64>());
        for (flow, queue) in tracker.queues.iter().enumerate() {
            let of_flow = |wanted: Option<Outcome>| {
                let sequences = tracker.first..tracker.next_sequence();
                sequences.filter(move |sequence| {
                    tracker.probe(*sequence).is_some_and(|probe| probe.flow == flow && probe.outcome == wanted)
                })
            };
            assert!(of_flow(None).all(|sequence| queue.in_flight.contains(&sequence)));
            assert_eq!(queue.in_flight.front().copied(), of_flow(None).next());
            assert!(queue.in_flight.iter().is_sorted());
        }
    }

    fn end(mut self) -> OutcomeCounts {
        self.time_out(1_000_000);
        self.assert_invariants();
        assert_eq!(self.tracker.in_flight(), 0);
        *self.tracker.counts()
    }
}

fn first(sequence: u64, outcome: Outcome, millis: u64, reordered: bool) -> Answer {
    Answer::First { sequence, outcome, round_trip: Duration::from_millis(millis), reordered, overdue: false }
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
fn probe_is_lost_at_its_timeout_and_late_once_answered() {
    let mut scenario = Scenario::new();
    for _ in 0..4 {
        scenario.send(0);
    }
    assert_eq!(scenario.answer(0, Intact, 99), first(0, Outcome::Answered, 99, false));
    assert_eq!(scenario.tracker.next_timeout(1), Some(scenario.at(100)));
    assert!(scenario.time_out(99).is_empty());
    assert_eq!(scenario.time_out(100), [1, 2, 3]);
    assert!(scenario.time_out(100).is_empty());
    assert_eq!((scenario.tracker.in_flight(), scenario.tracker.next_timeout(1)), (0, None));
    assert_eq!((scenario.tracker.counts().lost, scenario.tracker.counts().loss_percent()), (3, 75.0));
    assert_eq!(scenario.answer(1, Intact, 500), first(1, Outcome::Late, 500, false));
    assert_eq!(scenario.answer(1, Intact, 501), Answer::Duplicate(Some(1)));
    assert_eq!(scenario.answer(2, Altered, 501), first(2, Outcome::Altered, 501, false));
    let counts = scenario.end();
    assert_eq!((counts.answered, counts.late, counts.altered, counts.lost), (1, 1, 1, 1));
    assert_eq!(counts.loss_percent(), 50.0);
}

#[test]
fn answer_is_unmatched_once_its_probe_is_forgotten() {
    let mut scenario = Scenario::new();
    scenario.send(0);
    scenario.send(0);
    scenario.time_out(100);
    scenario.tracker.forget(scenario.at(60_099));
    assert_eq!(scenario.answer(0, Intact, 60_099), first(0, Outcome::Late, 60_099, false));
    scenario.tracker.forget(scenario.at(60_100));
    assert_eq!(scenario.answer(1, Intact, 60_100), Answer::Unmatched);
    let counts = scenario.end();
    assert_eq!((counts.late, counts.lost, counts.unmatched), (1, 1, 1));
}

#[test]
fn memory_is_bounded_and_probes_in_flight_are_kept() {
    let mut scenario = Scenario::new();
    for sequence in 0..5000 {
        scenario.send(0);
        scenario.answer(sequence, Intact, 0);
        scenario.tracker.forget(scenario.at(0));
        assert!(scenario.tracker.probes.len() <= MOST);
    }
    for _ in 0..5000 {
        scenario.send(1);
    }
    scenario.tracker.forget(scenario.at(1));
    assert_eq!(scenario.time_out(101).len(), 5000);
    scenario.tracker.forget(scenario.at(101));
    assert_eq!(scenario.tracker.probes.len(), MOST);
    assert_eq!(scenario.end().lost, 5000);
}

#[test]
fn answer_is_late_even_if_timeout_was_not_checked() {
    let mut scenario = Scenario::new();
    scenario.send(0);
    scenario.send(0);
    let overdue = |sequence, outcome| {
        let round_trip = Duration::from_millis(100);
        Answer::First { sequence, outcome, round_trip, reordered: false, overdue: true }
    };
    assert_eq!(scenario.answer(0, Intact, 100), overdue(0, Outcome::Late));
    assert_eq!(scenario.answer(1, Truncated, 100), overdue(1, Outcome::Truncated));
    assert_eq!(scenario.tracker.in_flight(), 0);
    assert!(scenario.time_out(200).is_empty());
}

/// Such as that of a clock that was set back.
#[test]
fn answer_after_a_reported_timeout_is_late_whatever_its_time() {
    let mut scenario = Scenario::new();
    scenario.send(0);
    assert_eq!(scenario.time_out(100), [0]);
    assert_eq!(scenario.answer(0, Intact, 99), first(0, Outcome::Late, 99, false));
}

#[test]
fn answer_to_a_refused_probe_is_a_duplicate() {
    let mut scenario = Scenario::new();
    scenario.send(0);
    assert_eq!(scenario.tracker.refuse(0, scenario.at(1)), Some(0));
    assert_eq!(scenario.answer(0, Intact, 2), Answer::Duplicate(Some(0)));
    let counts = scenario.end();
    assert_eq!((counts.refused, counts.answered, counts.duplicate), (1, 0, 1));
}

#[test]
fn round_trip_starts_when_due_and_timeout_when_sent() {
    let mut scenario = Scenario::new();
    scenario.tracker.flow_opened(0);
    scenario.tracker.record_sent(0, scenario.at(0), scenario.at(200));
    assert!(scenario.time_out(250).is_empty());
    assert_eq!(scenario.answer(0, Intact, 260), first(0, Outcome::Answered, 260, false));
}

#[test]
fn lost_fixed_answer_shifts_no_other() {
    let mut scenario = Scenario::new();
    for probe in 0..50 {
        let millis = 20 * probe;
        scenario.time_out(millis);
        let flow = scenario.send(millis);
        if probe != 10 {
            assert_eq!(scenario.fixed_answer(flow, millis + 1), first(probe, Outcome::Answered, 1, false));
        }
    }
    assert_eq!(scenario.tracker.attribution(), Some(Attribution::Port));
    let counts = scenario.end();
    assert_eq!((counts.answered, counts.lost, counts.duplicate), (49, 1, 0));
}

#[test]
fn late_fixed_answer_is_that_of_its_flow() {
    let mut scenario = Scenario::new();
    let slow = scenario.send(0);
    scenario.time_out(100);
    let flow = scenario.send(200);
    assert_eq!(scenario.fixed_answer(slow, 201), first(0, Outcome::Late, 201, false));
    assert_eq!(scenario.fixed_answer(flow, 202), first(1, Outcome::Answered, 2, false));
    assert_eq!(scenario.fixed_answer(flow, 203), Answer::Duplicate(None));
    assert_eq!(scenario.tracker.attribution(), Some(Attribution::Port));
}

#[test]
fn fixed_answers_on_a_shared_flow_match_in_order_which_is_reported() {
    let mut scenario = Scenario::in_order();
    scenario.send(0);
    scenario.send(10);
    assert_eq!(scenario.fixed_answer(0, 11), first(0, Outcome::Answered, 11, false));
    assert_eq!(scenario.tracker.attribution(), Some(Attribution::Order));
    assert_eq!(scenario.fixed_answer(0, 12), first(1, Outcome::Answered, 2, false));
    assert_eq!(scenario.fixed_answer(0, 13), Answer::Duplicate(None));
    scenario.send(20);
    assert_eq!(scenario.time_out(130), [2]);
    scenario.send(131);
    // A probe in flight comes before one that timed out.
    assert_eq!(scenario.fixed_answer(0, 132), first(3, Outcome::Answered, 1, false));
    assert_eq!(scenario.fixed_answer(0, 133), first(2, Outcome::Late, 113, true));
    assert_eq!(scenario.tracker.attribution(), Some(Attribution::Order));
}

#[test]
fn answer_is_reordered_within_its_flow_only() {
    let mut scenario = Scenario::with(Flows::new(2, true));
    for _ in 0..4 {
        scenario.send(0);
    }
    assert_eq!(scenario.answer(3, Intact, 1), first(3, Outcome::Answered, 1, false));
    assert_eq!(scenario.answer(0, Intact, 2), first(0, Outcome::Answered, 2, false));
    assert_eq!(scenario.answer(1, Intact, 3), first(1, Outcome::Answered, 3, true));
    assert_eq!(scenario.end().reordered, 1);
}

#[test]
fn foreign_answer_of_repeating_responder_is_unmatched() {
    let mut scenario = Scenario::new();
    scenario.send(0);
    let flow = scenario.send(0);
    assert_eq!(scenario.answer(0, Intact, 1), first(0, Outcome::Answered, 1, false));
    assert_eq!(scenario.fixed_answer(flow, 2), Answer::Unmatched);
    assert_eq!(scenario.answer(7, Intact, 3), Answer::Unmatched);
    let unnumbered = Some(ProbeMatch { sequence: None, integrity: Altered });
    let now = scenario.at(4);
    assert_eq!(scenario.tracker.match_answer(flow, unnumbered, now), first(1, Outcome::Altered, 4, false));
    assert_eq!(scenario.tracker.match_answer(flow, unnumbered, now), Answer::Duplicate(None));
    assert_eq!(scenario.tracker.attribution(), Some(Attribution::Content));
    let counts = scenario.end();
    assert_eq!((counts.unmatched, counts.duplicate), (2, 1));
}

#[test]
fn refusal_ends_oldest_probe_in_flight_on_its_flow() {
    let mut scenario = Scenario::new();
    let now = scenario.at(3);
    assert_eq!(scenario.tracker.refuse_oldest(0, now), None);
    let flows = [0, 0].map(|millis| scenario.send(millis));
    assert_eq!(scenario.tracker.refuse_oldest(flows[1], now), Some(1));
    assert_eq!(scenario.tracker.refuse_oldest(flows[1], now), None);
    assert_eq!(scenario.answer(0, Intact, 1), first(0, Outcome::Answered, 1, false));
    scenario.send(2);
    assert_eq!(scenario.tracker.refuse_last(now), Some(2));
    assert_eq!(scenario.tracker.refuse_last(now), None);
    assert_eq!(scenario.tracker.refuse(0, now), None, "it was answered");
    assert_eq!(scenario.tracker.refuse(3, now), None, "it was not sent");
    let counts = scenario.end();
    assert_eq!((counts.refused, counts.lost), (2, 0));
    assert!((counts.loss_percent() - 66.66).abs() < 0.01);
}

#[test]
fn probes_of_an_earlier_run_are_not_counted() {
    let mut scenario = Scenario::new();
    for _ in 0..3 {
        scenario.send(0);
    }
    scenario.answer(0, Intact, 1);
    scenario.tracker.start_over(scenario.at(2));
    scenario.assert_invariants();
    assert_eq!(scenario.answer(1, Intact, 3), Answer::Duplicate(Some(1)));
    assert_eq!(*scenario.tracker.counts(), OutcomeCounts::default());
    scenario.send(4);
    assert_eq!(scenario.answer(3, Intact, 5), first(3, Outcome::Answered, 1, false));
}

#[test]
fn next_run_does_not_share_flows_with_the_last_one() {
    let mut scenario = Scenario::with(Flows::new(3, false));
    assert_eq!([scenario.send(0), scenario.send(0)], [0, 1]);
    assert_eq!(scenario.fixed_answer(0, 1), first(0, Outcome::Answered, 1, false));
    assert_eq!(scenario.time_out(100), [1]);
    assert_eq!(scenario.send(101), 0);
    scenario.tracker.start_over(scenario.at(102));
    scenario.assert_invariants();
    assert_eq!((scenario.tracker.in_flight(), scenario.tracker.flow_counts(1)), (0, FlowCounts::default()));
    assert!(scenario.time_out(1000).is_empty());
    // Both flows are retired, since answers to the last run may still come, and replaced in the order of their silence.
    assert_eq!([scenario.send(1000), scenario.send(60_103), scenario.send(60_103)], [2, 1, 0]);
    assert_eq!(scenario.fixed_answer(1, 60_104), first(4, Outcome::Answered, 1, false));
    assert_eq!(scenario.tracker.attribution(), Some(Attribution::Port));
}

/// Its own port is closed by then, but a responder may send it to any port.
#[test]
fn late_answer_to_a_probe_of_a_replaced_flow_is_counted() {
    let mut scenario = Scenario::new();
    scenario.send(0);
    assert_eq!(scenario.time_out(100), [0]);
    assert_eq!(scenario.send(60_100), 0, "the flow is replaced");
    scenario.assert_invariants();
    assert_eq!(scenario.answer(0, Intact, 60_101), first(0, Outcome::Late, 60_101, false));
    scenario.assert_invariants();
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
        let mut scenario = Scenario::in_order();
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

    /// However many fixed answers are lost or late: as long as flows are free, each is matched to its own probe.
    #[test]
    fn fixed_answers_match_their_probes_while_flows_are_free(
        delays in proptest::collection::vec(proptest::option::of(0..2000_u64), 1..60)
    ) {
        let mut scenario = Scenario::new();
        let mut arrivals = Vec::new();
        for millis in 0..4000 {
            scenario.time_out(millis);
            let sequence = millis / 20;
            if let Some(delay) = delays.get(sequence as usize).filter(|_| millis % 20 == 0) {
                let flow = scenario.send(millis);
                arrivals.extend(delay.map(|delay| (millis + delay, flow, sequence, delay)));
            }
            for &(_, flow, sequence, delay) in arrivals.iter().filter(|(at, ..)| *at == millis) {
                let outcome = if delay >= 100 { Outcome::Late } else { Outcome::Answered };
                let answer = scenario.fixed_answer(flow, millis);
                let is_own = matches!(answer, Answer::First { sequence: of, outcome: as_, round_trip, .. }
                    if of == sequence && as_ == outcome && round_trip == Duration::from_millis(delay));
                prop_assert!(is_own, "{answer:?} for {sequence} after {delay}");
            }
        }
        prop_assert_ne!(scenario.tracker.attribution(), Some(Attribution::Order));
        scenario.end();
    }

    #[test]
    fn matching_in_order_counts_losses_and_duplicates_exactly(answered in 0..50_u64, sent in 0..50_u64) {
        let mut scenario = Scenario::in_order();
        for _ in 0..sent {
        scenario.send(0);
    }
        for _ in 0..answered {
            scenario.fixed_answer(0, 1);
        }
        let counts = scenario.end();
        prop_assert_eq!((counts.answered, counts.lost), (sent.min(answered), sent.saturating_sub(answered)));
        prop_assert_eq!((counts.duplicate, counts.reordered), (answered.saturating_sub(sent), 0));
    }

    #[test]
    fn invariants_hold_for_any_order_of_events(
        limit in 1..5_usize,
        rotates: bool,
        events in proptest::collection::vec((0..10_u8, 0..60_u64), 0..200)
    ) {
        let mut scenario = Scenario::with(Flows::new(limit, rotates));
        let mut now = 0;
        for (event, number) in events {
            now += number;
            let flow = number as usize % limit;
            match event {
                0..=2 => _ = scenario.send(now),
                3 => _ = scenario.answer(number, Intact, now),
                4 => _ = scenario.fixed_answer(flow, now),
                5 => _ = scenario.time_out(now),
                6 => scenario.tracker.forget(scenario.at(now * 10)),
                7 if number % 2 == 0 => _ = scenario.tracker.refuse(number, scenario.at(now)),
                7 => _ = scenario.tracker.refuse_oldest(flow, scenario.at(now)),
                8 => _ = scenario.tracker.refuse_last(scenario.at(now)),
                // Retired flows are replaced.
                _ => now += 30_000,
            }
            scenario.assert_invariants();
        }
        scenario.end();
    }
}
