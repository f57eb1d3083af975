//! One event loop of a server: its endpoints, what they share, and when the loop ends.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::event::Source;

use super::board::Board;
use super::endpoint::{Endpoint, Resources};
use super::statistics::{EndpointReport, status, sum_of_workers};
use super::statistics_log::StatisticsLog;
use super::{Error, metrics as server_metrics};
use crate::metrics::{self, Exposition, Monitor, Observed};
use crate::net::Socket;
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Key, Reactor, Readiness, Wants};

/// When the workers of a server stop, and what they do meanwhile.
#[derive(Debug)]
pub struct Plan {
    /// Stop at this time.
    pub until: Option<Instant>,
    /// Stop after this many datagrams.
    pub count: Option<u64>,
    /// How many all workers have received; kept only if there is a `count`.
    pub received: AtomicU64,
    /// Log the statistics periodically.
    pub stats: Option<StatisticsLog>,
    /// How long answering and sending may take after a stop was requested.
    pub grace: Duration,
    /// Where workers leave their statistics for the monitor of the first one, if there are several.
    pub board: Option<Board>,
}

/// A reactor and the endpoints that it serves, in one thread.
#[derive(Debug)]
pub struct Worker {
    reactor: Reactor<Task>,
    endpoints: Vec<Endpoint<Socket>>,
    resources: Resources,
    monitor: Option<Monitor>,
}

/// What a worker's reactor gives turns to.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// An endpoint, by its index.
    Endpoint(usize),
    /// What the plan has scheduled. It has no socket.
    Clock,
    /// A task of the monitor, which the first worker may have.
    Monitor(metrics::Task),
}

impl Worker {
    /// Puts endpoints on a reactor; nothing is served yet.
    pub fn new(reactor: Reactor<Task>, endpoints: Vec<Endpoint<Socket>>, resources: Resources) -> Self {
        Self { reactor, endpoints, resources, monitor: None }
    }

    /// Lets a monitor watch the server through this worker, the first one.
    pub fn set_monitor(&mut self, monitor: Monitor) {
        self.monitor = Some(monitor);
    }

    /// Returns what became of the datagrams so far.
    pub fn reports(&self) -> Vec<EndpointReport> {
        reports(&self.endpoints)
    }

    /// Returns what a monitor of this worker, the first one, shows.
    pub fn observation<'a>(&'a self, board: Option<&'a Board>) -> Observation<'a> {
        Observation { endpoints: &self.endpoints, board }
    }

    /// Serves, as the worker with this number, until a stop is requested; then answers what has already arrived and
    /// sends what waits, for the grace time of the plan at most. Requests the stop of the others when it ends. Returns
    /// the monitor as well.
    pub fn run(mut self, number: usize, plan: &Plan) -> (Finished, Option<Monitor>) {
        let _others = StopOnDrop(self.reactor.shutdown().clone());
        let result = self.serve(number, plan);
        ((self.reports(), result), self.monitor)
    }

    fn serve(&mut self, number: usize, plan: &Plan) -> Result<(), Error> {
        let Self { reactor, endpoints, resources, monitor } = self;
        let next_stats = plan.stats.as_ref().and_then(StatisticsLog::first);
        let next_board = plan.board.as_ref().map(|_| Instant::now());
        let mut serving = Serving {
            number,
            plan,
            endpoints,
            resources,
            monitor,
            keys: Vec::new(),
            counted: 0,
            next_stats,
            next_board,
            stop: None,
        };
        for index in 0..serving.endpoints.len() {
            serving.endpoints[index].start();
            let key = reactor.insert(Task::Endpoint(index), &mut serving)?;
            serving.keys.push(key);
        }
        let clock = reactor.insert(Task::Clock, &mut serving)?;
        serving.keys.push(clock);
        metrics::insert(&mut serving, reactor, Task::Monitor, |serving| serving.monitor.as_mut())?;
        reactor.run(&mut serving)
    }
}

/// Stops the other workers when one has ended, by a panic too: its peers would stay unanswered.
struct StopOnDrop(Shutdown);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// What became of the datagrams of a worker, endpoint by endpoint. The result is an error if polling failed, a socket
/// became unusable, or the worker panicked.
pub type Finished = (Vec<EndpointReport>, Result<(), Error>);

/// A thread that waits for the worker that it will run. It ends if it is dropped instead.
#[derive(Debug)]
pub struct WorkerThread {
    worker: mpsc::Sender<(Worker, Arc<Plan>)>,
    thread: JoinHandle<Option<Finished>>,
}

impl WorkerThread {
    /// Starts a thread for the worker with this number, counted from 0.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Worker`] if the system refuses a thread.
    pub fn start(number: usize) -> Result<Self, Error> {
        let (worker, receiver) = mpsc::channel::<(Worker, Arc<Plan>)>();
        let run = move || receiver.recv().ok().map(|(worker, plan)| worker.run(number, &plan).0);
        let thread = thread::Builder::new().name(format!("worker {}", number + 1)).spawn(run);
        let refused = |error| Error::Worker(format!("cannot start worker {}: {error}", number + 1));
        Ok(Self { worker, thread: thread.map_err(refused)? })
    }

    /// Hands over the worker, which runs from now on.
    pub fn run(&self, worker: Worker, plan: &Arc<Plan>) {
        // The thread is waiting for it, so this cannot fail.
        let _ = self.worker.send((worker, Arc::clone(plan)));
    }

    /// Waits until the worker has ended.
    pub fn wait(self) -> Finished {
        drop(self.worker);
        let panicked = || (Vec::new(), Err(Error::Worker("a worker panicked".to_owned())));
        self.thread.join().ok().flatten().unwrap_or_else(panicked)
    }
}

/// What the monitor shows.
pub struct Observation<'a> {
    endpoints: &'a [Endpoint<Socket>],
    board: Option<&'a Board>,
}

impl Observation<'_> {
    /// Returns the newest statistics, those of the other workers as they left them.
    fn reports(&self) -> Vec<EndpointReport> {
        let others = self.board.into_iter().flat_map(Board::others);
        sum_of_workers(std::iter::once(reports(self.endpoints)).chain(others))
    }
}

impl Observed for Observation<'_> {
    fn metrics(&self) -> Exposition {
        server_metrics::metrics(&self.reports(), false)
    }

    fn status(&self) -> String {
        status(&self.reports())
    }

    fn health(&self, now: Instant) -> Result<(), String> {
        self.board.map_or(Ok(()), |board| board.check(now))
    }
}

fn reports(endpoints: &[Endpoint<Socket>]) -> Vec<EndpointReport> {
    endpoints.iter().map(Endpoint::report).collect()
}

/// A worker while it runs.
struct Serving<'a> {
    number: usize,
    plan: &'a Plan,
    endpoints: &'a mut [Endpoint<Socket>],
    resources: &'a mut Resources,
    monitor: &'a mut Option<Monitor>,
    /// Of the endpoints and the clock.
    keys: Vec<Key>,
    /// How many of the received datagrams were added to the plan's count.
    counted: u64,
    next_stats: Option<Instant>,
    next_board: Option<Instant>,
    /// Set once a stop was requested.
    stop: Option<Stop>,
}

struct Stop {
    /// When the grace time is over; `None` if that is beyond the clock's range.
    at: Option<Instant>,
}

impl Handler for Serving<'_> {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, _: Instant) {
        match task {
            Task::Endpoint(index) => self.endpoints[index].note(readiness),
            Task::Clock => {}
            Task::Monitor(task) => self.monitor.iter_mut().for_each(|monitor| monitor.note(task, readiness)),
        }
    }

    fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Endpoint(index) => self.endpoints[index].wants(),
            Task::Clock => {
                let [until, stats] = match &self.stop {
                    Some(stop) => [stop.at, None],
                    None => [self.plan.until, self.next_stats],
                };
                let deadline = [until, stats, self.next_board].into_iter().flatten().min();
                Wants { deadline, ..Wants::default() }
            }
            Task::Monitor(task) => self.monitor.as_ref().map(|monitor| monitor.wants(task)).unwrap_or_default(),
        }
    }

    fn take_turn(&mut self, task: Task, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        match task {
            Task::Endpoint(index) => {
                let endpoint = &mut self.endpoints[index];
                endpoint.take_turn(now, self.resources).map_err(|error| endpoint.unusable(error))
            }
            Task::Clock => {
                if let (Some(stats), Some(at)) = (&self.plan.stats, self.next_stats)
                    && at <= now
                {
                    stats.record(self.number, reports(self.endpoints), now);
                    self.next_stats = stats.next(at, now);
                }
                if let (Some(board), Some(at)) = (&self.plan.board, self.next_board)
                    && at <= now
                {
                    self.next_board = board.leave(self.number, reports(self.endpoints), now);
                }
                if self.plan.until.is_some_and(|until| until <= now) {
                    reactor.shutdown().request();
                }
                Ok(())
            }
            Task::Monitor(task) => {
                let observation = Observation { endpoints: self.endpoints, board: self.plan.board.as_ref() };
                self.monitor.iter_mut().for_each(|monitor| monitor.take_turn(task, now, reactor, &observation));
                Ok(())
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Endpoint(index) => Some(self.endpoints[index].socket_mut()),
            Task::Clock => None,
            Task::Monitor(task) => self.monitor.as_mut()?.source(task),
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        self.count(reactor);
        let Some(requested) = reactor.shutdown().requested_at() else { return Ok(ControlFlow::Continue(())) };
        if self.stop.is_none() {
            self.monitor.iter().for_each(Monitor::stopping);
            self.stop = Some(Stop { at: requested.checked_add(self.plan.grace) });
            self.endpoints.iter_mut().for_each(|endpoint| endpoint.finish(endpoint.receive_buffer()));
            self.keys.iter().for_each(|key| reactor.touch(*key));
        }
        let grace_is_over = || self.stop.as_ref().and_then(|stop| stop.at).is_some_and(|at| at <= Instant::now());
        let is_over = self.endpoints.iter().all(Endpoint::is_settled) || grace_is_over();
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl Serving<'_> {
    /// Requests the stop once all workers together have received as many datagrams as the plan allows.
    fn count(&mut self, reactor: &Reactor<Task>) {
        let Some(limit) = self.plan.count.filter(|_| self.stop.is_none()) else { return };
        let received: u64 = self.endpoints.iter().map(Endpoint::received).sum();
        let new = received - self.counted;
        self.counted = received;
        if self.plan.received.fetch_add(new, Ordering::Relaxed) + new >= limit {
            reactor.shutdown().request();
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Poll(error)
    }
}
