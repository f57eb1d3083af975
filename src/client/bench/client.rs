//! One client of a bench: its flows, what is in flight on them, and whether more may leave.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::results::Results;
use crate::client::Error;
use crate::client::flow::{Flow, arrival, check_socket};
use crate::client::probe::flows::{Choice, Flows};
use crate::client::probe::outcome::Outcome;
use crate::client::probe::payload::Payload;
use crate::client::probe::tracker::{Answer, Attribution, Tracker};
use crate::net::{Egress, IoBackend, Outgoing, ReceiveBatch};
use crate::reactor::{Readiness, Wants};

/// At most this many datagrams per turn leave before answers are received again.
const BURST: usize = 256;

/// How long a refused datagram keeps its place in the window of a closed loop, if the timeout is not shorter. Without
/// this a closed port would be flooded, as each refusal would let the next datagram leave.
const HOLD: Duration = Duration::from_millis(100);

/// At most this many receives per turn: duplicates may precede the answer that lets the next datagram leave.
const RECEIVES: usize = 32;

/// The datagrams of one generator, and the buffers that its clients share, one turn at a time.
#[derive(Debug)]
pub struct Traffic {
    target: SocketAddr,
    payload: Payload,
    /// As many payloads as one send carries, side by side.
    payloads: Vec<u8>,
    /// How many datagrams one send carries.
    segments: usize,
    /// How many datagrams may still leave; `None` for no limit.
    pub left: Option<u64>,
    received: ReceiveBatch,
}

impl Traffic {
    /// Creates buffers for sends of `segments` datagrams each. Answers are received into `received`.
    pub fn new(target: SocketAddr, payload: Payload, segments: usize, received: ReceiveBatch) -> Self {
        let payloads = payload.as_bytes().repeat(segments);
        Self { target, payload, payloads, segments, left: None, received }
    }
}

/// How a client sends.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The address that its flows are connected to.
    pub target: SocketAddr,
    /// How datagrams are moved.
    pub io: IoBackend,
    /// Where they leave.
    pub egress: Egress,
    /// At most this many datagrams in flight; 0 in an open loop, which has no limit and sends by schedule.
    pub window: usize,
    /// A datagram without an answer after this time is lost.
    pub timeout: Duration,
    /// At most this many flows.
    pub flows: usize,
    /// At most this many datagrams are remembered for late and duplicate answers.
    pub remembered: usize,
}

/// A client of a bench. It has one flow unless the target does not repeat the datagrams: see [`Flows`].
#[derive(Debug)]
pub struct Client {
    setup: Setup,
    tracker: Tracker,
    flows: Vec<Flow>,
    changes: Changes,
    /// The next datagram waits for its flow to be writable.
    blocked: bool,
    /// An event has just made it writable, which the schedule of an open loop may be waiting for.
    writable_again: bool,
    /// In a closed loop: how many datagrams were refused and [keep their place](HOLD) in the window, and until when.
    held: usize,
    held_until: Option<Instant>,
}

/// What the reactor has to learn of the flows of a client.
#[derive(Debug, Default)]
pub struct Changes {
    /// Flows that were opened, and the ones that they replace.
    pub opened: Vec<(usize, Option<Flow>)>,
    /// Flows whose deadline or interest has changed.
    pub touched: Vec<usize>,
}

impl Client {
    /// Creates a client with one flow and nothing in flight.
    ///
    /// # Errors
    ///
    /// Returns an error if the system refuses the socket.
    pub fn new(setup: Setup) -> io::Result<Self> {
        let mut tracker = Tracker::new(setup.timeout, Flows::new(setup.flows, false), setup.remembered);
        let flow = Flow::open(setup.target, setup.io, &setup.egress)?;
        tracker.flow_opened(0);
        Ok(Self {
            setup,
            tracker,
            flows: vec![flow],
            changes: Changes::default(),
            blocked: false,
            writable_again: false,
            held: 0,
            held_until: None,
        })
    }

    /// Records an event of a flow.
    pub fn note(&mut self, flow: usize, readiness: Readiness, now: Instant) {
        self.flows[flow].note(readiness, now);
        if readiness.writable && self.blocked {
            (self.blocked, self.writable_again) = (false, true);
        }
    }

    /// Returns what a flow waits for: events, its next timeout, or a turn.
    pub fn wants(&self, flow: usize, sending: bool, segments: usize) -> Wants {
        let held_until = self.held_until.filter(|_| sending);
        Wants {
            turn: !self.flows[flow].is_drained() || self.writable_again || (sending && self.may_send(flow, segments)),
            interest: Some(self.flows[flow].interest()),
            deadline: [self.tracker.next_timeout(flow), held_until].into_iter().flatten().min(),
        }
    }

    /// Receives on a flow until more may leave, or its socket is empty; then fills the window if `sending`. An open
    /// loop receives once: what is due does not wait for answers.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is unusable.
    pub fn take_turn(
        &mut self,
        flow: usize,
        now: Instant,
        sending: bool,
        traffic: &mut Traffic,
        results: &mut Results,
    ) -> Result<(), Error> {
        self.writable_again = false;
        if self.held_until.take_if(|until| *until <= now).is_some() {
            self.held = 0;
        }
        if self.tracker.next_timeout(flow).is_some_and(|at| at <= now) {
            // A datagram is given up only if its answer is not in the socket.
            self.flows[flow].expect_answers(now);
        }
        for receives in 0..RECEIVES {
            let enough =
                || self.setup.window == 0 || (sending && self.repeats() && self.may_send(flow, traffic.segments));
            if self.flows[flow].is_drained() || (receives > 0 && enough()) {
                break;
            }
            self.receive(flow, now, sending, traffic, results)?;
        }
        while let Some(refusal) = self.flows[flow].next_refusal() {
            results.record_error(&refusal.error);
            let found = traffic.payload.find_in(&refusal.payload, self.tracker.next_sequence());
            let refused = match found.and_then(|found| found.sequence) {
                Some(sequence) => self.tracker.refuse(sequence, now),
                None => self.tracker.refuse_oldest(flow, now),
            };
            self.hold(refused, now, results);
        }
        if let Some(time) = self.flows[flow].received_by() {
            while let Some(sequence) = self.tracker.time_out(flow, time) {
                results.record_loss(self.tracker.sent_at(sequence));
            }
            self.tracker.forget(time);
        }
        let mut left = BURST;
        while sending && left > 0 && self.may_send(flow, traffic.segments) {
            self.send(traffic.segments, None, traffic, results)?;
            left = left.saturating_sub(traffic.segments);
        }
        Ok(())
    }

    /// Sends up to `count` datagrams on one flow with one send; returns how many left or failed.
    ///
    /// `due` is when they should have left; without it, they are due when they leave.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is unusable.
    pub fn send(
        &mut self,
        count: usize,
        due: Option<Instant>,
        traffic: &mut Traffic,
        results: &mut Results,
    ) -> Result<usize, Error> {
        let flow = self.next_flow(Instant::now());
        if self.changes.touched.last() != Some(&flow) {
            self.changes.touched.push(flow);
        }
        if !self.flows[flow].is_writable() {
            self.blocked = true;
            return Ok(0);
        }
        let Traffic { target, payload, payloads, segments, left, .. } = traffic;
        let count =
            count.min(*segments).min(left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX)));
        let size = payload.size();
        for place in 0..count {
            let sequence = self.tracker.next_sequence() + place as u64;
            payload.write_sequence(sequence, &mut payloads[place * size..(place + 1) * size]);
        }
        let parts = [b"", &payloads[..count * size], b""];
        let run = Outgoing { to: *target, from: None, parts, count, piece: size };
        let result = self.send_run(flow, &run, due, results);
        if let (Some(left), Ok(sent)) = (left, &result) {
            *left -= *sent as u64;
        }
        result
    }

    /// Returns whether a send may be tried.
    pub fn is_writable(&self) -> bool {
        !self.blocked
    }

    /// Returns how many datagrams are in flight.
    pub fn in_flight(&self) -> usize {
        self.tracker.in_flight()
    }

    /// Returns the datagrams and how they ended.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Forgets all datagrams and starts counting again.
    pub fn start_over(&mut self, now: Instant) {
        self.tracker.start_over(now);
        (self.held, self.held_until) = (0, None);
    }

    /// Returns the flows, for registering them.
    pub fn flows_mut(&mut self) -> &mut [Flow] {
        &mut self.flows
    }

    /// Returns what has changed in the flows; the caller takes it out.
    pub fn changes_mut(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// Returns the flow of the next datagram, and opens it if that is necessary and possible.
    fn next_flow(&mut self, now: Instant) -> usize {
        let index = match self.tracker.choose_flow(now) {
            Choice::Use(index) => return index,
            Choice::Open(index) => index,
        };
        match Flow::open(self.setup.target, self.setup.io, &self.setup.egress) {
            Ok(flow) => {
                self.tracker.flow_opened(index);
                let replaced = match self.flows.get_mut(index) {
                    Some(old) => Some(std::mem::replace(old, flow)),
                    None => {
                        self.flows.push(flow);
                        None
                    }
                };
                self.changes.opened.push((index, replaced));
                index
            }
            // Too many files are open, most likely: the flows that there are have to do.
            Err(_) => {
                self.tracker.cannot_open_flow();
                match self.tracker.choose_flow(now) {
                    Choice::Use(index) | Choice::Open(index) => index.min(self.flows.len() - 1),
                }
            }
        }
    }

    fn send_run(
        &mut self,
        flow: usize,
        run: &Outgoing<'_>,
        due: Option<Instant>,
        results: &mut Results,
    ) -> Result<usize, Error> {
        let mut done = 0;
        while done < run.count {
            let now = Instant::now();
            let sent = self.flows[flow].send(&run.slice(done, run.count - done), now);
            let failed = sent.error.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::WouldBlock);
            let left = sent.count + usize::from(failed);
            for _ in 0..left {
                self.tracker.record_sent(flow, due.unwrap_or(now), now);
                results.record_sent(due, now);
            }
            done += left;
            match sent.error {
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.flows[flow].would_block();
                    self.blocked = true;
                    break;
                }
                Some(error) => {
                    check_socket(&error)?;
                    results.record_error(&error);
                    let refused = self.tracker.refuse_last(now);
                    self.hold(refused, now, results);
                }
                None => {}
            }
        }
        Ok(done)
    }

    /// Receives one batch on a flow; `before` is a time before it.
    fn receive(
        &mut self,
        flow: usize,
        before: Instant,
        sending: bool,
        traffic: &mut Traffic,
        results: &mut Results,
    ) -> Result<(), Error> {
        let now = self.flows[flow].receive(before, &mut traffic.received)?;
        for run in traffic.received.runs() {
            let time = arrival(run.envelope, now);
            for payload in run.payloads() {
                let found = traffic.payload.find_in(payload, self.tracker.next_sequence());
                let answer = self.tracker.match_answer(flow, found, time);
                // A limited number of datagrams is measured to the last answer, if all of them were sent.
                let in_window = sending || traffic.left == Some(0);
                results.record_answer(payload.len(), time, in_window);
                if let Answer::First { outcome, round_trip, .. } = answer {
                    results.record_latency(round_trip, time)?;
                    results.answered_in_window += u64::from(in_window && outcome == Outcome::Answered);
                }
            }
        }
        Ok(())
    }

    /// Keeps the place of a refused datagram in the window.
    fn hold(&mut self, refused: Option<u64>, now: Instant, results: &mut Results) {
        let Some(sequence) = refused else { return };
        results.record_loss(self.tracker.sent_at(sequence));
        if self.setup.window > 0 {
            self.held += 1;
            self.held_until = now.checked_add(HOLD.min(self.setup.timeout));
        }
    }

    fn repeats(&self) -> bool {
        self.tracker.attribution() == Some(Attribution::Content)
    }

    /// Returns whether the window has room for one more send, after a turn of `flow`.
    ///
    /// Until the first datagram has ended, one send is in flight, so that its answer shows whether the target repeats
    /// datagrams. As long as answers do not repeat them, everything that has arrived is received first.
    fn may_send(&self, flow: usize, segments: usize) -> bool {
        let is_first = self.tracker.attribution().is_none() && self.tracker.counts().ended() == 0;
        let window = if is_first { self.setup.window.min(segments) } else { self.setup.window };
        let flow = &self.flows[flow];
        !self.blocked
            && self.tracker.in_flight() + self.held + segments <= window
            && (self.repeats() || flow.is_drained() || flow.received_by() > self.tracker.last_sent())
    }
}

#[cfg(test)]
mod tests;
