//! Which probe an answer belongs to, and how each probe ends. Pure: time and what was found in an answer are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::flows::{Choice, Flows};
use super::outcome::{Outcome, OutcomeCounts};
use super::payload::{Integrity, ProbeMatch};

/// How long after its timeout a probe is remembered, so that its answer still counts as late.
pub const LATE_FOR: Duration = Duration::from_secs(60);

/// How many probes are remembered, apart from those in flight: the earlier ones are forgotten before their time.
pub const MOST_REMEMBERED: usize = 1 << 18;

/// Matches answers to probes and decides how each probe ended.
///
/// Probes have sequence numbers from 0, in the order in which they were sent, and each is sent on a [flow](Flows). A
/// probe is *in flight* until it is answered, refused or [timed out](Self::time_out). A probe that timed out is lost,
/// but an answer still changes that, until the probe is [forgotten](Self::forget).
///
/// # Matching
///
/// An answer that repeats the sequence number of its probe is matched by it. Any other answer is matched by the flow on
/// which it came: to the flow's oldest probe in flight or, if there is none, to its oldest lost one. That is
/// unambiguous if no other probe of the flow lacks an answer; otherwise answers are matched *in order*, and a lost
/// answer shifts all that follow on this flow. Once an answer has repeated a probe, the responder is expected to do so,
/// and an answer that repeats nothing is unmatched.
///
/// # Invariants
///
/// 1. `in_flight` is the number of probes in flight; each is in the `in_flight` queue of its flow, in order.
/// 2. A lost probe that is remembered is in the `lost` queue of its flow, in the order of the timeouts.
/// 3. Each probe has one outcome at a time, and is counted there: see [`OutcomeCounts`].
///
/// Every operation takes amortized constant time.
#[derive(Debug)]
pub struct Tracker {
    timeout: Duration,
    /// How many probes are remembered, apart from those in flight.
    most: usize,
    /// The remembered probes, from `first` on.
    probes: VecDeque<Probe>,
    /// The sequence number of the oldest remembered probe.
    first: u64,
    /// Probes before this sequence number are not counted.
    counted_from: u64,
    flows: Flows,
    /// By flow.
    queues: Vec<Queue>,
    in_flight: usize,
    /// When the latest probe was sent.
    last_sent: Option<Instant>,
    attribution: Option<Attribution>,
    counts: OutcomeCounts,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    due: Instant,
    sent: Instant,
    flow: usize,
    /// `None` while it is in flight.
    outcome: Option<Outcome>,
}

/// The probes of one flow that lack an answer, by sequence number. Entries of other probes are removed once they reach
/// the front.
#[derive(Debug, Default)]
struct Queue {
    in_flight: VecDeque<u64>,
    lost: VecDeque<u64>,
    /// The highest sequence number with an answer, to detect reordering.
    latest_answered: Option<u64>,
    counts: FlowCounts,
}

/// How many probes of one flow have ended, and how many of them without an answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Probes that have ended.
    pub ended: u64,
    /// Probes that were late, lost or refused.
    pub lost: u64,
}

/// How answers are matched to probes; the later variants are less certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribution {
    /// By the probe that each answer repeats.
    Content,
    /// By the source port of the probe. No answer was ambiguous.
    Port,
    /// In the order in which the probes were sent: of several probes without an answer on one port, the oldest in
    /// flight. The round trips are upper bounds.
    Order,
}

/// What an answer meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The first answer to a probe, which decided its outcome.
    First {
        /// The sequence number of the probe.
        sequence: u64,
        /// How the probe ended.
        outcome: Outcome,
        /// The time since the probe was due.
        round_trip: Duration,
        /// Whether a later probe of the same flow was answered before; flows may well overtake each other.
        reordered: bool,
        /// Whether it was in flight until then although its timeout had passed: [`Tracker::time_out`] has not returned
        /// it, and will not.
        overdue: bool,
    },
    /// There was an answer before. The sequence number of the probe, if it is known.
    Duplicate(Option<u64>),
    /// The answer belongs to no probe.
    Unmatched,
}

impl Tracker {
    /// Creates a tracker. A probe is lost, and its answer late, `timeout` after it was sent; at most `most` probes are
    /// remembered, apart from those in flight.
    pub fn new(timeout: Duration, flows: Flows, most: usize) -> Self {
        Self {
            timeout,
            most,
            probes: VecDeque::new(),
            first: 0,
            counted_from: 0,
            flows,
            queues: Vec::new(),
            in_flight: 0,
            last_sent: None,
            attribution: None,
            counts: OutcomeCounts::default(),
        }
    }

    /// Returns the sequence number of the probe to send next.
    pub fn next_sequence(&self) -> u64 {
        self.first + self.probes.len() as u64
    }

    /// Returns on which flow to send it at `now`.
    pub fn choose_flow(&self, now: Instant) -> Choice {
        self.flows.choose(now)
    }

    /// Records that a new socket was opened as `flow`.
    pub fn flow_opened(&mut self, flow: usize) {
        self.flows.opened(flow);
        if self.queues.len() <= flow {
            self.queues.resize_with(flow + 1, Queue::default);
        }
        // The socket that it replaces takes its late answers with it. Its counts stay: a responder may still send the
        // answer to one of its probes to another port.
        debug_assert!(self.queues[flow].in_flight.is_empty());
        self.queues[flow] = Queue { counts: self.queues[flow].counts, ..Queue::default() };
    }

    /// Records that no further socket can be opened.
    pub fn cannot_open_flow(&mut self) {
        self.flows.cannot_open();
    }

    /// Records that the next probe, which was `due` at one time, was sent on `flow` at another.
    pub fn record_sent(&mut self, flow: usize, due: Instant, sent: Instant) {
        let sequence = self.next_sequence();
        self.probes.push_back(Probe { due, sent, flow, outcome: None });
        self.flows.sent(flow);
        self.queues[flow].in_flight.push_back(sequence);
        self.in_flight += 1;
        self.last_sent = Some(sent);
        self.counts.sent += 1;
    }

    /// Matches an answer, which came on `flow` at `now`, to its probe and counts it. `found` is the probe that the
    /// answer repeats, as [`Payload::find_in`](super::payload::Payload::find_in) returns it.
    pub fn match_answer(&mut self, flow: usize, found: Option<ProbeMatch>, now: Instant) -> Answer {
        if found.is_some() {
            self.attribution = Some(Attribution::Content);
            self.flows.repeats(flow);
        }
        let answer = self.classify(flow, found, now);
        match answer {
            Answer::First { sequence, outcome, reordered, .. } => {
                self.set_outcome(sequence, outcome, now);
                let latest = &mut self.queues[flow].latest_answered;
                *latest = (*latest).max(Some(sequence));
                self.counts.reordered += u64::from(reordered);
            }
            Answer::Duplicate(Some(sequence)) if sequence < self.counted_from => {}
            Answer::Duplicate(_) => self.counts.duplicate += 1,
            Answer::Unmatched => self.counts.unmatched += 1,
        }
        answer
    }

    /// Counts an answer that is known to belong to no probe.
    pub fn note_unmatched(&mut self) -> Answer {
        self.counts.unmatched += 1;
        Answer::Unmatched
    }

    /// Ends a probe as refused and returns its sequence number; `None` if it is not in flight.
    ///
    /// For an ICMP error that repeats the probe.
    pub fn refuse(&mut self, sequence: u64, now: Instant) -> Option<u64> {
        self.probe(sequence).filter(|probe| probe.outcome.is_none())?;
        self.set_outcome(sequence, Outcome::Refused, now);
        Some(sequence)
    }

    /// Ends the oldest probe in flight on `flow` as refused and returns its sequence number; `None` if none is in
    /// flight.
    ///
    /// For an ICMP error that does not repeat the probe: it names the flow only.
    pub fn refuse_oldest(&mut self, flow: usize, now: Instant) -> Option<u64> {
        let sequence = *self.queues.get(flow)?.in_flight.front()?;
        self.set_outcome(sequence, Outcome::Refused, now);
        Some(sequence)
    }

    /// Ends the probe that was sent last as refused and returns its sequence number; `None` if it is not in flight.
    ///
    /// For a probe whose send failed.
    pub fn refuse_last(&mut self, now: Instant) -> Option<u64> {
        self.refuse(self.next_sequence().checked_sub(1)?, now)
    }

    /// Ends the next probe on `flow` that had no answer within the timeout at `now` as lost, and returns its sequence
    /// number. Call it until it returns `None`; no probe is returned twice.
    ///
    /// Every answer that arrived on the flow by `now` must have been matched, or its probe is reported although it was
    /// answered in time.
    pub fn time_out(&mut self, flow: usize, now: Instant) -> Option<u64> {
        self.next_timeout(flow).filter(|at| *at <= now)?;
        let sequence = *self.queues.get(flow)?.in_flight.front()?;
        self.set_outcome(sequence, Outcome::Lost, now);
        self.queues[flow].lost.push_back(sequence);
        Some(sequence)
    }

    /// Returns when a probe was sent that is still remembered.
    pub fn sent_at(&self, sequence: u64) -> Option<Instant> {
        self.probe(sequence).map(|probe| probe.sent)
    }

    /// Returns the flow on which a probe was sent that is still remembered.
    pub fn flow_of(&self, sequence: u64) -> Option<usize> {
        self.probe(sequence).map(|probe| probe.flow)
    }

    /// Forgets the probes that are too old at `now` for a late answer, and the oldest of too many. A probe in flight is
    /// never forgotten.
    pub fn forget(&mut self, now: Instant) {
        let retention = self.timeout.saturating_add(LATE_FOR);
        while let Some(probe) = self.probes.front()
            && probe.outcome.is_some()
            && (self.probes.len() > self.in_flight + self.most
                || now.saturating_duration_since(probe.sent) >= retention)
        {
            self.probes.pop_front();
            self.first += 1;
        }
    }

    /// Forgets all probes and sets all counts to zero, for probes yet to be sent. How answers are matched stays known.
    pub fn start_over(&mut self, now: Instant) {
        for probe in self.probes.iter().filter(|probe| probe.outcome.is_none()) {
            self.flows.ended(probe.flow, true, now);
        }
        self.in_flight = 0;
        self.first = self.next_sequence();
        self.counted_from = self.first;
        self.probes.clear();
        for queue in &mut self.queues {
            queue.in_flight.clear();
            queue.lost.clear();
            queue.counts = FlowCounts::default();
        }
        self.counts = OutcomeCounts::default();
    }

    /// Returns when to call [`time_out`](Self::time_out) for `flow` next; `None` when no probe is in flight on it.
    pub fn next_timeout(&self, flow: usize) -> Option<Instant> {
        let oldest = self.queues.get(flow)?.in_flight.front()?;
        self.probe(*oldest)?.sent.checked_add(self.timeout)
    }

    /// Returns when the latest probe was sent.
    pub fn last_sent(&self) -> Option<Instant> {
        self.last_sent
    }

    /// Returns how many probes are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Returns how answers are matched; `None` before the first one.
    pub fn attribution(&self) -> Option<Attribution> {
        self.attribution
    }

    /// Returns how the probes have ended so far.
    pub fn counts(&self) -> &OutcomeCounts {
        &self.counts
    }

    /// Returns how the probes of one flow have ended so far.
    pub fn flow_counts(&self, flow: usize) -> FlowCounts {
        self.queues.get(flow).map(|queue| queue.counts).unwrap_or_default()
    }

    /// Decides what an answer means.
    fn classify(&mut self, flow: usize, found: Option<ProbeMatch>, now: Instant) -> Answer {
        let repeated = found.and_then(|found| found.sequence);
        let sequence = match repeated {
            Some(sequence) => sequence,
            None if found.is_none() && self.attribution == Some(Attribution::Content) => return Answer::Unmatched,
            None => match self.oldest_without_answer(flow) {
                Some(sequence) => sequence,
                None => return Answer::Duplicate(None),
            },
        };
        if found.is_none() {
            let Queue { in_flight, lost, .. } = &self.queues[flow];
            let is_ambiguous = in_flight.len() + lost.len() > 1 || self.attribution == Some(Attribution::Order);
            self.attribution = Some(if is_ambiguous { Attribution::Order } else { Attribution::Port });
        }
        let Some(probe) = self.probe(sequence) else {
            // It is not known any more whether there was an answer before; for a probe of an earlier run it does not
            // matter.
            let is_earlier_run = sequence < self.counted_from;
            return if is_earlier_run { Answer::Duplicate(Some(sequence)) } else { Answer::Unmatched };
        };
        if !matches!(probe.outcome, None | Some(Outcome::Lost)) {
            return Answer::Duplicate(Some(sequence));
        }
        let is_overdue = now.saturating_duration_since(probe.sent) >= self.timeout;
        let outcome = match found.map(|found| found.integrity) {
            Some(Integrity::Truncated) => Outcome::Truncated,
            Some(Integrity::Altered) => Outcome::Altered,
            Some(Integrity::Intact) | None if is_overdue || probe.outcome.is_some() => Outcome::Late,
            Some(Integrity::Intact) | None => Outcome::Answered,
        };
        let round_trip = now.saturating_duration_since(probe.due);
        let reordered = self.queues[flow].latest_answered.is_some_and(|latest| sequence < latest);
        let overdue = is_overdue && probe.outcome.is_none();
        Answer::First { sequence, outcome, round_trip, reordered, overdue }
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    fn probe(&self, sequence: u64) -> Option<&Probe> {
        self.probes.get(self.index(sequence)?)
    }

    /// Returns the oldest probe in flight on a flow or, if there is none, the oldest lost one that is remembered.
    fn oldest_without_answer(&mut self, flow: usize) -> Option<u64> {
        self.drop_ended(flow);
        let queue = self.queues.get(flow)?;
        queue.in_flight.front().or(queue.lost.front()).copied()
    }

    /// Sets the outcome of a remembered probe that was in flight or lost, and counts it.
    fn set_outcome(&mut self, sequence: u64, outcome: Outcome, now: Instant) {
        let Some(probe) = self.index(sequence).and_then(|index| self.probes.get_mut(index)) else { return };
        let flow = probe.flow;
        let before = probe.outcome.replace(outcome);
        let is_loss = |outcome| matches!(outcome, Outcome::Late | Outcome::Lost | Outcome::Refused);
        *self.counts.of(outcome) += 1;
        self.queues[flow].counts.lost += u64::from(is_loss(outcome));
        if let Some(before) = before {
            *self.counts.of(before) -= 1;
            self.queues[flow].counts.lost -= u64::from(is_loss(before));
        } else {
            self.in_flight -= 1;
            self.queues[flow].counts.ended += 1;
            self.flows.ended(flow, outcome == Outcome::Lost, now);
        }
        self.drop_ended(flow);
    }

    /// Removes the probes that do not belong there any more from the fronts of a flow's queues.
    fn drop_ended(&mut self, flow: usize) {
        let Self { probes, queues, first, .. } = self;
        let Some(Queue { in_flight, lost, .. }) = queues.get_mut(flow) else { return };
        let outcome = |sequence: u64| {
            let index = usize::try_from(sequence.checked_sub(*first)?).ok()?;
            probes.get(index).map(|probe| probe.outcome)
        };
        while in_flight.front().is_some_and(|sequence| outcome(*sequence) != Some(None)) {
            in_flight.pop_front();
        }
        while lost.front().is_some_and(|sequence| outcome(*sequence) != Some(Some(Outcome::Lost))) {
            lost.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
