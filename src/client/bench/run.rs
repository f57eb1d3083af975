//! One run of a generator: the reactor's tasks of a bench.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::event::Source;

use super::client::{Client, Traffic};
use super::generator::{Load, Progress, Shape};
use super::results::Results;
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::schedule::RateSchedule;
use crate::client::report::{BenchReport, Measurement, Silence};
use crate::client::status_signal::StatusSignal;
use crate::client::{Error, linger};
use crate::reactor::{Handler, Key, Reactor, Readiness, Wants};

/// How often progress is reported.
const PROGRESS: Duration = Duration::from_millis(50);

/// At most this many sends per turn of an open loop.
const BURST: usize = 64;

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// A flow of a client, by their indices.
    Flow(usize, usize),
    /// Sends what is due in an open loop, on one client after the other.
    Schedule,
    /// Ends the run, and reports progress meanwhile.
    Clock,
    /// Reports what was measured so far.
    Status,
}

/// What the runs of a generator share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) target: SocketAddr,
    pub(super) shape: Shape,
    pub(super) clients: Vec<Client>,
    pub(super) traffic: Traffic,
    pub(super) results: Results,
    /// Where SIGQUIT arrives, if it is watched.
    pub(super) status: Option<StatusSignal>,
}

impl State {
    /// Returns how the datagrams of all clients ended. Those in flight are not counted.
    pub(super) fn counts(&self) -> OutcomeCounts {
        let mut counts = OutcomeCounts::default();
        self.clients.iter().for_each(|client| counts.add(client.tracker().counts()));
        OutcomeCounts { sent: counts.ended(), ..counts }
    }

    /// Returns the report of a run.
    pub(super) fn report(&self, window: Window) -> BenchReport {
        let Window { time, scheduled, silence } = window;
        let Self { shape, clients, traffic, results, .. } = self;
        let counts = self.counts();
        let rate = match shape.load {
            Load::Rate(rate) => rate,
            Load::InFlight(_) => 0,
        };
        let in_flight = clients.iter().map(Client::in_flight).sum();
        // The window of a limited number may end long after the last of them was due.
        let wanted =
            traffic.left.map_or(f64::INFINITY, |left| left.saturating_add(counts.sent) as f64 + in_flight as f64);
        let measurement = Measurement {
            time,
            clients: shape.clients,
            counts,
            in_flight,
            // The least certain one of any client.
            attribution: clients.iter().filter_map(|client| client.tracker().attribution()).max(),
            sent_bytes: counts.sent * shape.size as u64,
            answered_in_window: results.answered_in_window,
            received_bytes: results.received_bytes,
            latencies: results.latencies.clone(),
            timeline: results.timeline.clone(),
            lateness: (rate > 0).then(|| results.lateness.clone()),
            due: (scheduled.as_secs_f64() * f64::from(rate)).min(wanted),
            silence,
            nobody_listens: results.nobody_listens(),
            error: results.error.clone(),
        };
        BenchReport::new(self.target, measurement)
    }
}

/// For how long a run was sending.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    time: Duration,
    /// The part of it in which datagrams were due: it ends late if the generator is not given the processor.
    scheduled: Duration,
    /// The time without an answer at its end.
    silence: Silence,
}

/// A run of a generator: sending, then draining.
pub(super) struct Run<'a, P> {
    state: &'a mut State,
    status_pending: bool,
    progress: P,
    /// Of the tasks without a flow.
    keys: Vec<Key>,
    schedule: Option<RateSchedule>,
    schedule_key: Option<Key>,
    /// No client is writable, so the schedule waits for one.
    blocked: bool,
    clock_key: Option<Key>,
    start: Instant,
    /// When sending ends; `None` if that is beyond the clock's range.
    end: Option<Instant>,
    next_progress: Instant,
    phase: Phase,
    /// On all clients.
    in_flight: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    /// What is in flight may still be answered.
    Draining {
        sent_for: Duration,
        /// Once nothing is in flight: when to stop waiting for duplicates.
        until: Option<Instant>,
    },
}

impl<P: FnMut(Progress)> Handler for Run<'_, P> {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, now: Instant) {
        match task {
            Task::Flow(client, flow) => self.state.clients[client].note(flow, readiness, now),
            Task::Status => self.status_pending = true,
            Task::Schedule | Task::Clock => {}
        }
    }

    fn wants(&self, task: Task) -> Wants {
        let sending = self.phase == Phase::Sending;
        let deadline = match task {
            Task::Flow(client, flow) => {
                return self.state.clients[client].wants(flow, sending, self.state.shape.segments);
            }
            Task::Status => {
                return Wants { turn: self.status_pending, interest: Some(Interest::READABLE), deadline: None };
            }
            Task::Schedule => self.next_due().filter(|_| !self.blocked),
            Task::Clock => match self.phase {
                Phase::Sending => Some(self.end.map_or(self.next_progress, |end| end.min(self.next_progress))),
                Phase::Draining { until, .. } => until,
            },
        };
        Wants { deadline, ..Wants::default() }
    }

    fn take_turn(&mut self, task: Task, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        match task {
            Task::Flow(client, flow) => {
                let sending = self.phase == Phase::Sending;
                self.with_client(client, reactor, |client, traffic, results| {
                    client.take_turn(flow, now, sending, traffic, results)
                })?;
                if self.blocked && self.state.clients[client].is_writable() {
                    self.blocked = false;
                    self.schedule_key.into_iter().for_each(|key| reactor.touch(key));
                }
                Ok(())
            }
            Task::Schedule => self.send_due(now, reactor),
            Task::Clock => {
                if self.phase == Phase::Sending && self.end.is_some_and(|end| end <= now) {
                    self.drain(reactor);
                }
                if self.next_progress <= now {
                    let time = now.saturating_duration_since(self.start);
                    (self.progress)(Progress::Sending(time, self.state.results.answered_in_window));
                    self.next_progress = now + PROGRESS;
                }
                Ok(())
            }
            Task::Status => {
                self.status_pending = false;
                self.state.status.iter_mut().for_each(StatusSignal::clear);
                let report = self.state.report(self.window());
                (self.progress)(Progress::Status(Box::new(report)));
                Ok(())
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Flow(client, flow) => Some(&mut self.state.clients[client].flows_mut()[flow].socket),
            Task::Status => self.state.status.as_mut().and_then(StatusSignal::source),
            Task::Schedule | Task::Clock => None,
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        if self.state.results.nobody_listens() || reactor.shutdown().is_forced() {
            return Ok(ControlFlow::Break(()));
        }
        if self.phase == Phase::Sending && reactor.shutdown().is_requested() {
            self.drain(reactor);
            if self.in_flight > 0 {
                (self.progress)(Progress::Waiting(self.state.shape.timeout, self.in_flight));
            }
        }
        if let Phase::Draining { until, sent_for } = &mut self.phase
            && self.in_flight == 0
        {
            let now = Instant::now();
            if until.is_none() {
                if let (Some(0), Some(last)) = (self.state.traffic.left, self.state.results.last_answer()) {
                    *sent_for = last.saturating_duration_since(self.start).max(*sent_for);
                }
                *until = now.checked_add(linger(&self.state.results.latencies, self.state.shape.timeout));
                self.clock_key.into_iter().for_each(|key| reactor.touch(key));
            }
            if until.is_none_or(|until| until <= now) {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl<'a, P: FnMut(Progress)> Run<'a, P> {
    /// Creates a run that sends for `time`.
    pub(super) fn new(state: &'a mut State, start: Instant, time: Duration, progress: P) -> Self {
        let schedule = match state.shape.load {
            Load::Rate(rate) => Some(RateSchedule::new(start, rate, state.shape.segments as u64)),
            Load::InFlight(_) => None,
        };
        Self {
            state,
            status_pending: false,
            progress,
            keys: Vec::new(),
            schedule,
            schedule_key: None,
            blocked: false,
            clock_key: None,
            start,
            end: start.checked_add(time),
            next_progress: start,
            phase: Phase::Sending,
            in_flight: 0,
        }
    }

    pub(super) fn insert_tasks(&mut self, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        for client in 0..self.state.clients.len() {
            for flow in 0..self.state.clients[client].flows_mut().len() {
                self.insert_flow(client, flow, reactor)?;
            }
        }
        if self.schedule.is_some() {
            let key = reactor.insert(Task::Schedule, self)?;
            self.schedule_key = Some(key);
            self.keys.push(key);
        }
        if self.state.status.is_some() {
            let key = reactor.insert(Task::Status, self)?;
            self.keys.push(key);
        }
        let key = reactor.insert(Task::Clock, self)?;
        self.clock_key = Some(key);
        self.keys.push(key);
        Ok(())
    }

    fn insert_flow(&mut self, client: usize, flow: usize, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let key = reactor.insert(Task::Flow(client, flow), self)?;
        self.state.clients[client].flows_mut()[flow].key = Some(key);
        Ok(())
    }

    pub(super) fn remove_tasks(&mut self, reactor: &mut Reactor<Task>) {
        for flow in self.state.clients.iter_mut().flat_map(|client| client.flows_mut()) {
            flow.key.take().into_iter().for_each(|key| reactor.remove(key, Some(&mut flow.socket)));
        }
        for key in self.keys.drain(..) {
            reactor.remove(key, self.state.status.as_mut().and_then(StatusSignal::source));
        }
    }

    /// Ends the sending.
    fn drain(&mut self, reactor: &mut Reactor<Task>) {
        let sent_for = self.start.elapsed();
        self.phase = Phase::Draining { sent_for, until: None };
        let flows = self.state.clients.iter_mut().flat_map(|client| client.flows_mut()).filter_map(|flow| flow.key);
        flows.chain(self.keys.iter().copied()).for_each(|key| reactor.touch(key));
    }

    /// Returns for how long it was sending.
    pub(super) fn window(&self) -> Window {
        let time = match self.phase {
            Phase::Sending => self.start.elapsed(),
            Phase::Draining { sent_for, .. } => sent_for,
        };
        let scheduled = self.end.map_or(time, |end| time.min(end.saturating_duration_since(self.start)));
        let silence = self.state.results.silence(self.start, time, self.state.shape.timeout);
        Window { time, scheduled, silence }
    }

    /// Returns when the next datagram of an open loop is due.
    fn next_due(&self) -> Option<Instant> {
        let schedule = self.schedule.as_ref().filter(|_| self.phase == Phase::Sending)?;
        Some(schedule.next()).filter(|due| self.end.is_none_or(|end| *due < end))
    }

    /// Sends what is due, on one client after the other; a client that is not writable is passed over.
    fn send_due(&mut self, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        for _ in 0..BURST {
            let (Some(due), Some(schedule)) = (self.next_due().filter(|due| *due <= now), &self.schedule) else {
                break;
            };
            let together = schedule.left_in_group();
            let clients = self.state.clients.len();
            let first = usize::try_from(schedule.group() % clients as u64).unwrap_or(0);
            let writable = (first..clients).chain(0..first).find(|index| self.state.clients[*index].is_writable());
            let Some(index) = writable else {
                self.blocked = true;
                break;
            };
            let sent = self.with_client(index, reactor, |client, traffic, results| {
                client.send(together, Some(due), traffic, results)
            })?;
            self.schedule.iter_mut().for_each(|schedule| schedule.advance(sent));
        }
        Ok(())
    }

    /// Lets a client act, keeps count of what is in flight, and reports to the reactor what has changed in the client's
    /// flows.
    fn with_client<R>(
        &mut self,
        index: usize,
        reactor: &mut Reactor<Task>,
        act: impl FnOnce(&mut Client, &mut Traffic, &mut Results) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let State { clients, traffic, results, .. } = &mut *self.state;
        let client = &mut clients[index];
        let before = client.in_flight();
        let result = act(client, traffic, results)?;
        self.in_flight = self.in_flight + client.in_flight() - before;
        while let Some((flow, replaced)) = self.state.clients[index].changes_mut().opened.pop() {
            if let Some(mut replaced) = replaced {
                replaced.key.into_iter().for_each(|key| reactor.remove(key, Some(&mut replaced.socket)));
            }
            self.insert_flow(index, flow, reactor)?;
        }
        while let Some(flow) = self.state.clients[index].changes_mut().touched.pop() {
            self.state.clients[index].flows_mut()[flow].key.into_iter().for_each(|key| reactor.touch(key));
        }
        if self.state.traffic.left == Some(0) && self.phase == Phase::Sending {
            self.drain(reactor);
        }
        Ok(result)
    }
}
