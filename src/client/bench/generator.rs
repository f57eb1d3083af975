//! The load of a bench: clients in a closed loop, or a schedule over them in an open one.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::event::Source;

use super::client::{Client, Setup, Traffic};
use super::results::Results;
use crate::client::probe::flows::MOST_FLOWS;
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::schedule::RateSchedule;
use crate::client::probe::tracker::MOST_REMEMBERED;
use crate::client::report::{BenchReport, Measurement, Silence};
use crate::client::status_signal::StatusSignal;
use crate::client::{Error, linger};
use crate::net::{IoBackend, ReceiveBatch};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Key, Precision, Reactor, Readiness, Wants};

/// How often progress is reported.
const PROGRESS: Duration = Duration::from_millis(50);

/// At most this many sends per turn of an open loop.
const BURST: usize = 64;

/// About how many flows all clients may have together: half the files that a process may open by default.
const ALL_FLOWS: usize = 512;

/// What leaves, and what holds it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Closed loop: this many datagrams are in flight per client, and an answer lets the next one leave.
    InFlight(usize),
    /// Open loop: this many datagrams per second, all clients together, on a schedule, whatever comes back.
    Rate(u32),
}

/// The shape of the load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many clients.
    pub clients: usize,
    /// What leaves when.
    pub load: Load,
    /// The payload of a datagram, in bytes.
    pub size: usize,
    /// How many datagrams one send carries.
    pub segments: usize,
    /// A datagram without an answer after this time is lost, and an answer after it late.
    pub timeout: Duration,
}

impl Default for Shape {
    /// One datagram of 56 bytes in flight.
    fn default() -> Self {
        Self { clients: 1, load: Load::InFlight(1), size: 56, segments: 1, timeout: Duration::from_secs(1) }
    }
}

/// What happens during a run.
#[derive(Debug)]
pub enum Progress {
    /// It has been sending for some time, and datagrams were answered.
    Sending(Duration, u64),
    /// A report was asked for by a signal.
    Status(Box<BenchReport>),
    /// A shutdown was requested, and datagrams in flight are waited for at most this long.
    Waiting(Duration, usize),
}

/// Clients of one target, and the reactor that they run on.
#[derive(Debug)]
pub struct Generator {
    target: SocketAddr,
    shape: Shape,
    reactor: Reactor<Task>,
    clients: Vec<Client>,
    traffic: Traffic,
    results: Results,
    status: Option<StatusSignal>,
    /// How long the last run was sending, and was without an answer at the end.
    window: (Duration, Silence),
}

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// A flow of a client, by their indices.
    Flow(usize, usize),
    /// Sends what is due in an open loop, on one client after the other.
    Schedule,
    /// Ends the run, and reports progress meanwhile.
    Clock,
    /// Reports what was measured so far.
    Status,
}

impl Generator {
    /// Opens a socket for each client. `shutdown` ends a run.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the system refuses one of the sockets.
    pub fn new(target: SocketAddr, shape: Shape, shutdown: &Shutdown) -> Result<Self, Error> {
        let (window, io, received, precision) = match shape.load {
            // There is nothing to batch, and looking for a second answer can wait until the next datagram has left.
            Load::InFlight(1) => (1, IoBackend::Portable, ReceiveBatch::with_slots(1), Precision::Milliseconds),
            Load::InFlight(window) => (window, IoBackend::Auto, ReceiveBatch::new(), Precision::Milliseconds),
            Load::Rate(_) => (0, IoBackend::Auto, ReceiveBatch::new(), Precision::Exact),
        };
        let clients = shape.clients.max(1);
        let flows = (ALL_FLOWS / clients).clamp(2, MOST_FLOWS);
        let remembered = (MOST_REMEMBERED / clients).max(64);
        let setup = Setup { target, io, window, timeout: shape.timeout, flows, remembered };
        let open = |number: usize| {
            Client::new(setup)
                .map_err(|error| Error::Failed(format!("cannot open client {number} of {}: {error}", shape.clients)))
        };
        Ok(Self {
            target,
            shape,
            reactor: Reactor::with_precision(shutdown, precision)?,
            clients: (1..=shape.clients).map(open).collect::<Result<_, Error>>()?,
            traffic: Traffic::new(target, shape.size, shape.segments, received),
            results: Results::new(),
            status: None,
            window: (Duration::ZERO, Silence::default()),
        })
    }

    /// Makes SIGQUIT report [`Progress::Status`].
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the system refuses the handler.
    pub(super) fn watch_status(&mut self) -> Result<(), Error> {
        self.status = Some(StatusSignal::new()?);
        Ok(())
    }

    /// Sends for `time`, then waits for what is in flight unless the shutdown is forced. Counts begin at zero.
    ///
    /// A shutdown ends the sending.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if polling failed or a socket became unusable.
    pub fn run(&mut self, time: Duration, progress: impl FnMut(Progress)) -> Result<(), Error> {
        let Self { target, shape, reactor, clients, traffic, results, status, window } = self;
        let start = Instant::now();
        results.clear();
        clients.iter_mut().for_each(|client| client.start_over(start));
        *window = (Duration::ZERO, Silence::default());
        let schedule = match shape.load {
            Load::Rate(rate) => Some(RateSchedule::new(start, rate, shape.segments as u64)),
            Load::InFlight(_) => None,
        };
        let mut run = Run {
            target: *target,
            shape: *shape,
            clients,
            traffic,
            results,
            status,
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
        };
        if time.is_zero() || reactor.shutdown().is_requested() || run.results.nobody_listens() {
            return Ok(());
        }
        run.insert_tasks(reactor)?;
        let result = reactor.run(&mut run);
        run.remove_tasks(reactor);
        *window = run.window();
        result
    }

    /// Returns how the datagrams of the last run ended.
    pub fn counts(&self) -> OutcomeCounts {
        counts(&self.clients)
    }

    /// Returns what was measured in the last run.
    pub fn report(&self) -> BenchReport {
        report(self.target, &self.shape, &self.clients, &self.results, self.window)
    }

    /// Returns whether the only thing that ever came back is that the port is closed.
    pub(super) fn nobody_listens(&self) -> bool {
        self.results.nobody_listens()
    }
}

/// Returns how the datagrams of all clients ended. Those in flight are not counted.
fn counts(clients: &[Client]) -> OutcomeCounts {
    let mut counts = OutcomeCounts::default();
    clients.iter().for_each(|client| counts.add(client.tracker().counts()));
    OutcomeCounts { sent: counts.ended(), ..counts }
}

fn report(
    target: SocketAddr,
    shape: &Shape,
    clients: &[Client],
    results: &Results,
    (time, silence): (Duration, Silence),
) -> BenchReport {
    let counts = counts(clients);
    let rate = match shape.load {
        Load::Rate(rate) => rate,
        Load::InFlight(_) => 0,
    };
    let measurement = Measurement {
        time,
        clients: shape.clients,
        counts,
        // The worst of any client.
        attribution: clients.iter().filter_map(|client| client.tracker().attribution()).max(),
        sent_bytes: counts.sent * shape.size as u64,
        answered_in_window: results.answered_in_window,
        received_bytes: results.received_bytes,
        latencies: results.latencies.clone(),
        lateness: (rate > 0).then(|| results.lateness.clone()),
        rate,
        silence,
        nobody_listens: results.nobody_listens(),
        error: results.error.clone(),
    };
    BenchReport::new(target, measurement)
}

/// A run of a generator: sending, then draining.
struct Run<'a, P> {
    target: SocketAddr,
    shape: Shape,
    clients: &'a mut [Client],
    traffic: &'a mut Traffic,
    results: &'a mut Results,
    status: &'a mut Option<StatusSignal>,
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
            Task::Flow(client, flow) => self.clients[client].note(flow, readiness, now),
            Task::Status => self.status_pending = true,
            Task::Schedule | Task::Clock => {}
        }
    }

    fn wants(&self, task: Task) -> Wants {
        let sending = self.phase == Phase::Sending;
        let deadline = match task {
            Task::Flow(client, flow) => return self.clients[client].wants(flow, sending, self.shape.segments),
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
                if self.blocked && self.clients[client].is_writable() {
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
                    (self.progress)(Progress::Sending(time, self.results.answered_in_window));
                    self.next_progress = now + PROGRESS;
                }
                Ok(())
            }
            Task::Status => {
                self.status_pending = false;
                self.status.iter_mut().for_each(StatusSignal::clear);
                let report = report(self.target, &self.shape, self.clients, self.results, self.window());
                (self.progress)(Progress::Status(Box::new(report)));
                Ok(())
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Flow(client, flow) => Some(&mut self.clients[client].flows_mut()[flow].socket),
            Task::Status => self.status.as_mut().and_then(StatusSignal::source),
            Task::Schedule | Task::Clock => None,
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        if self.results.nobody_listens() || reactor.shutdown().is_forced() {
            return Ok(ControlFlow::Break(()));
        }
        if self.phase == Phase::Sending && reactor.shutdown().is_requested() {
            self.drain(reactor);
            if self.in_flight > 0 {
                (self.progress)(Progress::Waiting(self.shape.timeout, self.in_flight));
            }
        }
        if let Phase::Draining { until, .. } = &mut self.phase
            && self.in_flight == 0
        {
            let now = Instant::now();
            if until.is_none() {
                *until = now.checked_add(linger(&self.results.latencies, self.shape.timeout));
                self.clock_key.into_iter().for_each(|key| reactor.touch(key));
            }
            if until.is_none_or(|until| until <= now) {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl<P: FnMut(Progress)> Run<'_, P> {
    fn insert_tasks(&mut self, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        for client in 0..self.clients.len() {
            for flow in 0..self.clients[client].flows_mut().len() {
                self.insert_flow(client, flow, reactor)?;
            }
        }
        if self.schedule.is_some() {
            let key = reactor.insert(Task::Schedule, self)?;
            self.schedule_key = Some(key);
            self.keys.push(key);
        }
        if self.status.is_some() {
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
        self.clients[client].flows_mut()[flow].key = Some(key);
        Ok(())
    }

    fn remove_tasks(&mut self, reactor: &mut Reactor<Task>) {
        for flow in self.clients.iter_mut().flat_map(|client| client.flows_mut()) {
            flow.key.take().into_iter().for_each(|key| reactor.remove(key, Some(&mut flow.socket)));
        }
        for key in self.keys.drain(..) {
            reactor.remove(key, self.status.as_mut().and_then(StatusSignal::source));
        }
    }

    /// Ends the sending.
    fn drain(&mut self, reactor: &mut Reactor<Task>) {
        let sent_for = self.start.elapsed();
        self.phase = Phase::Draining { sent_for, until: None };
        let flows = self.clients.iter_mut().flat_map(|client| client.flows_mut()).filter_map(|flow| flow.key);
        flows.chain(self.keys.iter().copied()).for_each(|key| reactor.touch(key));
    }

    /// Returns how long it was sending, and without an answer at the end of that.
    fn window(&self) -> (Duration, Silence) {
        let sent_for = match self.phase {
            Phase::Sending => self.start.elapsed(),
            Phase::Draining { sent_for, .. } => sent_for,
        };
        (sent_for, self.results.silence(self.start, sent_for, self.shape.timeout))
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
            let clients = self.clients.len();
            let first = usize::try_from(schedule.group() % clients as u64).unwrap_or(0);
            let writable = (first..clients).chain(0..first).find(|index| self.clients[*index].is_writable());
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

    /// Lets a client act, keeps count of what is in flight, and tells the reactor what has changed in the client's flows.
    fn with_client<R>(
        &mut self,
        index: usize,
        reactor: &mut Reactor<Task>,
        act: impl FnOnce(&mut Client, &mut Traffic, &mut Results) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let client = &mut self.clients[index];
        let before = client.in_flight();
        let result = act(client, self.traffic, self.results)?;
        self.in_flight = self.in_flight + client.in_flight() - before;
        while let Some((flow, replaced)) = self.clients[index].changes_mut().opened.pop() {
            if let Some(mut replaced) = replaced {
                replaced.key.into_iter().for_each(|key| reactor.remove(key, Some(&mut replaced.socket)));
            }
            self.insert_flow(index, flow, reactor)?;
        }
        while let Some(flow) = self.clients[index].changes_mut().touched.pop() {
            self.clients[index].flows_mut()[flow].key.into_iter().for_each(|key| reactor.touch(key));
        }
        Ok(result)
    }
}
