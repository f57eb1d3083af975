//! Which flow the next probe uses, so that an answer that does not repeat its probe still belongs to one probe only.
//! Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many flows are open at a time, unless a number is asked for.
pub const MOST_FLOWS: usize = 64;

/// How long a flow rests after an answer, so that a duplicate of it is not mistaken for the next answer.
const REST: Duration = Duration::from_millis(50);

/// How long a retired flow stays open for late answers before it is replaced.
const RETIRED_FOR: Duration = Duration::from_secs(60);

/// Chooses flows. A *flow* is one connected socket, and so one source port.
///
/// As long as no answer has repeated its probe, each probe has a flow to itself until it ends. An answered flow
/// is *idle* and used again, after a rest if possible. A flow whose probe had no answer is *retired*: a late answer may
/// still come, which would be taken for the answer to the next probe. Only when every flow is occupied or retired are
/// flows used before their time, which the [`Tracker`](super::tracker::Tracker) notices if it leaves a match ambiguous.
///
/// Once an answer has repeated its probe, that answer's flow is used for all further probes.
///
/// Every operation takes constant time.
#[derive(Debug)]
pub struct Flows {
    /// By index: whether the flow is idle, and how many probes are in flight on it.
    flows: Vec<Flow>,
    /// At most this many flows.
    limit: usize,
    /// Whether probes rotate over all flows, whatever their answers.
    rotates: bool,
    /// The flow that all probes use because answers repeat them.
    home: Option<usize>,
    /// Idle flows and since when, `None` if they were never used; the longest idle one first.
    idle: VecDeque<(Option<Instant>, usize)>,
    /// Retired flows without a probe in flight, and since when; the earliest first.
    retired: VecDeque<(Instant, usize)>,
    /// The next flow in rotation.
    next: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    in_flight: usize,
    /// A probe had no answer.
    silent: bool,
}

/// What the next probe needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This flow.
    Use(usize),
    /// A new socket as this flow, in place of the one that it has, if any. [`Flows::opened`] confirms it.
    Open(usize),
}

impl Flows {
    /// Chooses among at most `limit` flows, at least 1. `rotates` is whether probes rotate over all of them in any
    /// case.
    pub fn new(limit: usize, rotates: bool) -> Self {
        Self {
            flows: Vec::new(),
            limit: limit.max(1),
            rotates,
            home: None,
            idle: VecDeque::new(),
            retired: VecDeque::new(),
            next: 0,
        }
    }

    /// Returns what the next probe needs at `now`.
    pub fn choose(&self, now: Instant) -> Choice {
        let has_passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
        let is_full = self.flows.len() >= self.limit;
        if self.rotates {
            return if is_full { Choice::Use(self.next) } else { Choice::Open(self.flows.len()) };
        }
        if let Some(home) = self.home {
            return Choice::Use(home);
        }
        let idle = self.idle.front();
        if let Some(&(since, flow)) = idle
            && since.is_none_or(|since| has_passed(since, REST))
        {
            return Choice::Use(flow);
        }
        let retired = self.retired.front();
        if let Some(&(since, flow)) = retired
            && has_passed(since, RETIRED_FOR)
        {
            return Choice::Open(flow);
        }
        if !is_full {
            return Choice::Open(self.flows.len());
        }
        let early = idle.map(|(_, flow)| *flow).or_else(|| retired.map(|(_, flow)| *flow));
        Choice::Use(early.unwrap_or(self.next))
    }

    /// Records that a new socket was opened as `flow`, as [`choose`](Self::choose) asked for.
    pub fn opened(&mut self, flow: usize) {
        self.leave_queues(flow);
        if flow == self.flows.len() {
            self.flows.push(Flow::default());
        } else if let Some(replaced) = self.flows.get_mut(flow) {
            *replaced = Flow::default();
        }
        if !self.rotates && self.home.is_none() {
            self.idle.push_front((None, flow));
        }
    }

    /// Records that no further socket can be opened. There must be one already.
    pub fn cannot_open(&mut self) {
        self.limit = self.flows.len().max(1);
        // A retired flow that cannot be replaced is used again instead.
        if let Some((_, flow)) = self.retired.pop_front() {
            self.idle.push_front((None, flow));
        }
    }

    /// Records that a probe was sent on `flow`.
    pub fn sent(&mut self, flow: usize) {
        self.leave_queues(flow);
        if let Some(used) = self.flows.get_mut(flow) {
            if used.in_flight == 0 {
                used.silent = false;
            }
            used.in_flight += 1;
        }
        self.next = (flow + 1) % self.flows.len().max(1);
    }

    /// Records that a probe in flight on `flow` ended at `now`; without an answer if it is `silent`.
    pub fn ended(&mut self, flow: usize, silent: bool, now: Instant) {
        let Some(ended) = self.flows.get_mut(flow) else { return };
        ended.in_flight = ended.in_flight.saturating_sub(1);
        ended.silent |= silent;
        if ended.in_flight > 0 || self.rotates || self.home.is_some() {
            return;
        }
        if ended.silent {
            self.retired.push_back((now, flow));
        } else {
            self.idle.push_back((Some(now), flow));
        }
    }

    /// Records that an answer on `flow` repeated its probe. Only the first one counts.
    pub fn repeats(&mut self, flow: usize) {
        if self.home.is_none() && flow < self.flows.len() {
            self.home = Some(flow);
            self.idle.clear();
            self.retired.clear();
        }
    }

    /// Removes a flow from the queues, in which it is the first if at all.
    fn leave_queues(&mut self, flow: usize) {
        if self.idle.front().is_some_and(|(_, first)| *first == flow) {
            self.idle.pop_front();
        }
        if self.retired.front().is_some_and(|(_, first)| *first == flow) {
            self.retired.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Flows whose times are milliseconds since a start.
    struct Scenario {
        start: Instant,
        flows: Flows,
    }

    impl Scenario {
        fn new(limit: usize) -> Self {
            Self { start: Instant::now(), flows: Flows::new(limit, false) }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        /// Sends a probe, on a new socket if one is asked for; returns its flow and whether the socket is new.
        fn send(&mut self, millis: u64) -> (usize, bool) {
            let choice = self.flows.choose(self.at(millis));
            let (Choice::Use(flow) | Choice::Open(flow)) = choice;
            if matches!(choice, Choice::Open(_)) {
                self.flows.opened(flow);
                assert_eq!(self.flows.choose(self.at(millis)), Choice::Use(flow));
            }
            self.flows.sent(flow);
            (flow, matches!(choice, Choice::Open(_)))
        }

        fn answer(&mut self, flow: usize, millis: u64) {
            self.flows.ended(flow, false, self.at(millis));
        }

        fn time_out(&mut self, flow: usize, millis: u64) {
            self.flows.ended(flow, true, self.at(millis));
        }
    }

    #[test]
    fn answered_flow_is_used_again_after_a_rest() {
        let mut scenario = Scenario::new(64);
        assert_eq!(scenario.send(0), (0, true));
        scenario.answer(0, 1);
        assert_eq!(scenario.send(20), (1, true), "flow 0 still rests");
        scenario.answer(1, 21);
        assert_eq!(scenario.send(51), (0, false));
    }

    #[test]
    fn probes_without_answer_so_far_have_a_flow_each() {
        let mut scenario = Scenario::new(64);
        let flows: Vec<_> = (0..64).map(|millis| scenario.send(millis)).collect();
        assert_eq!(flows, (0..64).map(|flow| (flow, true)).collect::<Vec<_>>());
    }

    #[test]
    fn silent_flow_is_retired_and_replaced_after_a_minute() {
        let mut scenario = Scenario::new(64);
        scenario.send(0);
        scenario.time_out(0, 1000);
        assert_eq!(scenario.send(1000), (1, true));
        scenario.answer(1, 1001);
        assert_eq!(scenario.send(60_999), (1, false));
        scenario.answer(1, 61_000);
        assert_eq!(scenario.send(61_000), (0, true), "replaced");
    }

    #[test]
    fn without_a_free_flow_the_one_retired_longest_is_used_then_any() {
        let mut scenario = Scenario::new(2);
        scenario.send(0);
        scenario.send(0);
        scenario.time_out(1, 100);
        scenario.time_out(0, 200);
        assert_eq!(scenario.send(300), (1, false));
        assert_eq!(scenario.send(300), (0, false));
        assert_eq!(scenario.send(300), (1, false), "shared");
        scenario.answer(0, 301);
        assert_eq!(scenario.send(302), (0, false), "better one that rests than one in use");
    }

    #[test]
    fn repeating_answer_makes_its_flow_the_only_one() {
        let mut scenario = Scenario::new(64);
        for _ in 0..3 {
            scenario.send(0);
        }
        scenario.flows.repeats(1);
        scenario.answer(1, 1);
        (0..5).for_each(|_| assert_eq!(scenario.send(1), (1, false)));
    }

    #[test]
    fn rotation_opens_and_visits_every_flow() {
        let mut scenario = Scenario { start: Instant::now(), flows: Flows::new(3, true) };
        for flow in 0..3 {
            assert_eq!(scenario.flows.choose(scenario.start), Choice::Open(flow));
            scenario.flows.opened(flow);
        }
        let flows: Vec<_> = (0..7).map(|_| scenario.send(0)).collect();
        assert_eq!(flows, [0, 1, 2, 0, 1, 2, 0].map(|flow| (flow, false)));
        scenario.flows.repeats(2);
        assert_eq!(scenario.send(0), (1, false));
    }

    #[test]
    fn flows_that_cannot_be_opened_are_shared() {
        let mut scenario = Scenario::new(64);
        scenario.send(0);
        assert_eq!(scenario.flows.choose(scenario.start), Choice::Open(1));
        scenario.flows.cannot_open();
        assert_eq!(scenario.send(0), (0, false));
    }

    proptest! {
        #[test]
        fn flow_with_a_probe_in_flight_or_retired_is_not_used_while_another_is_free(
            events in proptest::collection::vec((0..3_u8, any::<prop::sample::Index>(), 0..2000_u64), 0..300)
        ) {
            const LIMIT: usize = 8;
            let mut scenario = Scenario::new(LIMIT);
            // In flight by flow; when a flow was retired.
            let mut in_flight = [0; LIMIT];
            let mut retired = [None; LIMIT];
            let mut now = 0;
            for (event, index, pause) in events {
                now += pause;
                let busy: Vec<_> = (0..LIMIT).filter(|flow| in_flight[*flow] > 0).collect();
                if event == 0 || busy.is_empty() {
                    let open = scenario.flows.flows.len();
                    let is_usable = |flow: usize| in_flight[flow] == 0
                        && retired[flow].is_none_or(|at: u64| now - at >= 60_000);
                    let any_usable = open < LIMIT || (0..open).any(is_usable);
                    let was_usable: Vec<_> = (0..LIMIT).map(|flow| flow >= open || is_usable(flow)).collect();
                    let was_retired = retired;
                    let (flow, is_new) = scenario.send(now);
                    prop_assert!(was_usable[flow] || !any_usable, "{flow}");
                    prop_assert!(is_new || !any_usable || was_retired[flow].is_none(), "retired flow not replaced");
                    if in_flight[flow] == 0 {
                        retired[flow] = None;
                    }
                    in_flight[flow] += 1;
                } else {
                    let flow = busy[index.index(busy.len())];
                    in_flight[flow] -= 1;
                    if event == 1 { scenario.answer(flow, now) } else { scenario.time_out(flow, now) }
                    if event == 2 || retired[flow].is_some() {
                        retired[flow] = Some(now);
                    }
                }
                prop_assert_eq!(scenario.flows.flows.iter().map(|flow| flow.in_flight).collect::<Vec<_>>(),
                    in_flight[..scenario.flows.flows.len()].to_vec());
                let queued = scenario.flows.idle.len() + scenario.flows.retired.len();
                prop_assert_eq!(queued + in_flight.iter().filter(|count| **count > 0).count(), scenario.flows.flows.len());
            }
        }
    }
}
