//! The load of a bench: clients in a closed loop, or a schedule over them in an open one.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::event::Source;

use super::client::{Client, Results, Traffic};
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::schedule::RateSchedule;
use crate::client::{Error, linger, target};
use crate::net::{IoBackend, ReceiveBatch};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Key, Precision, Reactor, Readiness, Wants};

/// How often progress is reported.
const PROGRESS: Duration = Duration::from_millis(50);

/// At most this many sends per turn of an open loop.
const BURST: usize = 64;

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
    /// How many sockets.
    pub clients: usize,
    /// What leaves when.
    pub load: Load,
    /// The payload of a datagram, in bytes.
    pub size: usize,
    /// How many datagrams one send carries.
    pub segments: usize,
    /// When a datagram without an answer is lost.
    pub timeout: Duration,
}

/// Clients of one target, and the reactor that they run on.
#[derive(Debug)]
pub struct Generator {
    shape: Shape,
    reactor: Reactor<Task>,
    clients: Vec<Client>,
    traffic: Traffic,
    results: Results,
}

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// A client, by its index.
    Client(usize),
    /// Sends what is due in an open loop, on one client after the other.
    Schedule,
    /// Ends the run, and reports progress meanwhile.
    Clock,
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
        let open = |number: usize| {
            let socket = target::open(target, io)
                .map_err(|error| Error::Failed(format!("cannot open client {number} of {}: {error}", shape.clients)))?;
            Ok(Client::new(socket, window, shape.timeout))
        };
        Ok(Self {
            shape,
            reactor: Reactor::with_precision(shutdown, precision)?,
            clients: (1..=shape.clients).map(open).collect::<Result<_, Error>>()?,
            traffic: Traffic::new(target, shape.size, shape.segments, received),
            results: Results::new(),
        })
    }

    /// Sends for `time`, then waits for what is in flight; returns how long it sent. Counts begin at zero.
    ///
    /// A shutdown ends the sending. `progress` is called now and then with how long it has been sending, and how many
    /// answers came back.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if polling failed or a socket became unusable.
    pub fn run(&mut self, time: Duration, progress: impl FnMut(Duration, u64)) -> Result<Duration, Error> {
        let Self { shape, reactor, clients, traffic, results } = self;
        results.clear();
        clients.iter_mut().for_each(Client::start_over);
        let start = Instant::now();
        let schedule = match shape.load {
            Load::Rate(rate) => Some(RateSchedule::new(start, rate, shape.segments as u64)),
            Load::InFlight(_) => None,
        };
        let mut run = Run {
            shape: *shape,
            clients,
            traffic,
            results,
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
        if time.is_zero() || run.is_over(reactor.shutdown()) {
            return Ok(Duration::ZERO);
        }
        for index in 0..shape.clients {
            let key = reactor.insert(Task::Client(index), &mut run)?;
            run.keys.push(key);
        }
        if run.schedule.is_some() {
            run.schedule_key = Some(reactor.insert(Task::Schedule, &mut run)?);
        }
        run.clock_key = Some(reactor.insert(Task::Clock, &mut run)?);
        let result = reactor.run(&mut run);
        run.remove_tasks(reactor);
        let sent_for = run.sent_for();
        result.map(|()| sent_for)
    }

    /// Returns how the datagrams of the last run ended.
    pub fn counts(&self) -> OutcomeCounts {
        let mut counts = OutcomeCounts::default();
        self.clients.iter().for_each(|client| counts.add(client.tracker().counts()));
        counts
    }

    /// Returns what the clients have measured in the last run.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Returns whether a shutdown was requested, or nobody listens.
    pub fn is_over(&self) -> bool {
        self.reactor.shutdown().is_requested() || self.nobody_listens()
    }

    /// Returns whether the only thing that ever came back is that the port is closed.
    pub fn nobody_listens(&self) -> bool {
        nobody_listens(&self.results)
    }
}

fn nobody_listens(results: &Results) -> bool {
    results.refused > 0 && !results.heard
}

/// A run of a generator: sending, then draining.
struct Run<'a, P> {
    shape: Shape,
    clients: &'a mut [Client],
    traffic: &'a mut Traffic,
    results: &'a mut Results,
    progress: P,
    /// Of the clients.
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

impl<P: FnMut(Duration, u64)> Handler for Run<'_, P> {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, now: Instant) {
        if let Task::Client(index) = task {
            self.clients[index].note(readiness, now);
        }
    }

    fn wants(&self, task: Task) -> Wants {
        let sending = self.phase == Phase::Sending;
        let deadline = match task {
            Task::Client(index) => return self.clients[index].wants(sending, self.shape.segments),
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
            Task::Client(index) => {
                let sending = self.phase == Phase::Sending;
                self.with_client(index, |client, traffic, results| client.take_turn(now, sending, traffic, results))?;
                if self.blocked && self.clients[index].is_writable() {
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
                    (self.progress)(now.saturating_duration_since(self.start), self.results.received);
                    self.next_progress = now + PROGRESS;
                }
                Ok(())
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Client(index) => Some(self.clients[index].socket_mut()),
            Task::Schedule | Task::Clock => None,
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        if nobody_listens(self.results) {
            return Ok(ControlFlow::Break(()));
        }
        if self.phase == Phase::Sending && reactor.shutdown().is_requested() {
            self.drain(reactor);
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

impl<P: FnMut(Duration, u64)> Run<'_, P> {
    fn is_over(&self, shutdown: &Shutdown) -> bool {
        shutdown.is_requested() || nobody_listens(self.results)
    }

    /// Ends the sending.
    fn drain(&mut self, reactor: &mut Reactor<Task>) {
        self.phase = Phase::Draining { sent_for: self.start.elapsed(), until: None };
        self.keys.iter().chain(&self.schedule_key).chain(&self.clock_key).for_each(|key| reactor.touch(*key));
    }

    fn sent_for(&self) -> Duration {
        match self.phase {
            Phase::Sending => self.start.elapsed(),
            Phase::Draining { sent_for, .. } => sent_for,
        }
    }

    fn remove_tasks(&mut self, reactor: &mut Reactor<Task>) {
        for (client, key) in self.clients.iter_mut().zip(&self.keys) {
            client.lose_rest();
            reactor.remove(*key, Some(client.socket_mut()));
        }
        self.schedule_key.into_iter().chain(self.clock_key).for_each(|key| reactor.remove(key, None));
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
            let sent =
                self.with_client(index, |client, traffic, results| client.send(together, Some(due), traffic, results))?;
            self.schedule.iter_mut().for_each(|schedule| schedule.advance(sent));
            reactor.touch(self.keys[index]);
        }
        Ok(())
    }

    /// Lets a client act, and keeps count of what is in flight.
    fn with_client<R>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Client, &mut Traffic, &mut Results) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let client = &mut self.clients[index];
        let before = client.in_flight();
        let result = act(client, self.traffic, self.results)?;
        self.in_flight = self.in_flight + client.in_flight() - before;
        Ok(result)
    }
}
