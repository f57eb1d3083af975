//! The listener, the sessions and the links of a relay, as tasks of one reactor.
//!
//! What a task does with datagrams is in a file for each direction: [`up`], from the clients to the target, and
//! [`down`]. With impairments, datagrams pass the link of their direction in between; what has waited in it is sent by
//! a task of its own, at the deadline.
//!
//! | task | its turn | wants a turn while |
//! |---|---|---|
//! | listener | receive, forward to the sessions; let what is stalled try again | readable, and nothing waits for a session's socket; or writable, and something is stalled |
//! | session | send what waits for its socket; receive, forward to the client; or expire | readable and not stalled; or writable, and something waits |
//! | link | send what is ready | something is ready and not stalled |
//! | clock | log statistics, request the stop | (has deadlines only) |
//! | monitor | show metrics | see [`crate::metrics`] |

mod down;
mod up;

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use mio::event::Source;

use super::Error;
use super::direction::Direction;
use super::listener::Listener;
use super::metrics::metrics;
use super::session::{Client, Session, SessionId, Sessions};
use super::statistics::{Report, Statistics};
use crate::guard::Guard;
use crate::logging::throttle::Times;
use crate::metrics::{Exposition, Monitor, Observed};
use crate::net::{BrokenSocket, ReceiveBatch, SendBatch, Socket};
use crate::reactor::{Handler, Key, Reactor, Readiness, Wants};
use up::SessionPayload;

/// After this many failed receives in a row, a socket counts as unusable.
const ERRORS_IN_A_ROW: u32 = 100;

/// At most this many datagrams leave a link in one turn.
const LINK_TURN: usize = 64;

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// The socket of the clients.
    Listener,
    /// A session, by its index.
    Session(usize),
    /// The deadlines of the link to the target.
    Up,
    /// The deadlines of the link to the clients.
    Down,
    /// What the plan has scheduled.
    Clock,
    /// A task of the monitor.
    Monitor(crate::metrics::Task),
}

/// When a relay stops, and what it does meanwhile.
#[derive(Debug)]
pub struct Plan {
    /// Stop at this time.
    pub until: Option<Instant>,
    /// Stop after this many datagrams of clients.
    pub count: Option<u64>,
    /// Log the statistics this often.
    pub stats: Option<Duration>,
    /// How long forwarding may take after a stop was requested.
    pub grace: Duration,
}

/// Everything that the tasks of a relay act on.
///
/// - Readiness is state, and a turn handles at most one batch, as for an endpoint of the server (invariants 1 and 5).
/// - No datagram and no error of a session ends the loop (invariant 2).
/// - Memory is bounded: by the number of sessions, by the limits of the links, and, while a socket does not take
///   datagrams, by not reading the sockets that they come from (invariant 3).
#[derive(Debug)]
pub struct Forwarder {
    relay: State,
    received: ReceiveBatch,
    /// Memory for what a turn of the listener forwards.
    spare: Vec<SessionPayload<'static>>,
    monitor: Option<Monitor>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    listener: Listener,
    sessions: Sessions,
    up: Direction<SessionId>,
    down: Direction<Client>,
    batch: SendBatch,
    guard: Guard,
    started: Instant,
    seed: Option<u64>,
    /// What the kernel dropped at sessions that have ended.
    dropped_before: u64,
    clock: Option<Key>,
    next_stats: Option<Instant>,
    /// When statistics were last logged, and which.
    logged: (Instant, Statistics, Statistics),
    /// Set once a stop was requested: when the grace time is over, if that is within the clock's range.
    stop: Option<Option<Instant>>,
}

impl Forwarder {
    pub fn new(
        socket: Socket,
        address: SocketAddr,
        sessions: Sessions,
        up: Direction<SessionId>,
        down: Direction<Client>,
        seed: Option<u64>,
        plan: Plan,
    ) -> Self {
        let now = Instant::now();
        let relay = State {
            next_stats: plan.stats.and_then(|interval| now.checked_add(interval)),
            plan,
            listener: Listener::new(socket, address),
            sessions,
            up,
            down,
            batch: SendBatch::default(),
            // A relay forwards what it is asked to; only sources that nothing can be sent to are refused.
            guard: Guard::disabled(),
            started: now,
            seed,
            dropped_before: 0,
            clock: None,
            logged: (now, Statistics::default(), Statistics::default()),
            stop: None,
        };
        Self { relay, received: ReceiveBatch::new(), spare: Vec::new(), monitor: None }
    }

    /// Lets a monitor watch, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Monitor::begin`].
    pub fn watch(&mut self, monitor: Option<Monitor>) -> Result<(), String> {
        monitor.iter().filter_map(Monitor::notice).for_each(|notice| info!("{notice}"));
        self.monitor = monitor;
        self.monitor.as_mut().map_or(Ok(()), |monitor| monitor.begin(&self.relay, Instant::now()))
    }

    /// Writes the last metrics, if there is a monitor.
    pub fn finish_monitor(&mut self) {
        let metrics = || metrics(&self.relay.report(), self.relay.sessions.iter().count(), true);
        if let Some(Err(error)) = self.monitor.as_mut().map(|monitor| monitor.finish(&metrics())) {
            warn!("{error}");
        }
    }

    /// Forwards until a stop is requested; then forwards what has already arrived and the answers to it, for the grace
    /// time of the plan at most.
    ///
    /// # Errors
    ///
    /// Returns an error if polling failed or the socket of the clients became unusable.
    pub fn run(&mut self, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let listener = reactor.insert(Task::Listener, self)?;
        self.relay.listener.key = Some(listener);
        if self.relay.up.link.is_some() {
            self.relay.up.key = Some(reactor.insert(Task::Up, self)?);
        }
        if self.relay.down.link.is_some() {
            self.relay.down.key = Some(reactor.insert(Task::Down, self)?);
        }
        self.relay.clock = Some(reactor.insert(Task::Clock, self)?);
        crate::metrics::insert(self, reactor, Task::Monitor, |this| this.monitor.as_mut())?;
        reactor.run(self)
    }

    /// Returns what became of the datagrams so far.
    pub fn report(&self) -> Report {
        self.relay.report()
    }
}

impl Handler for Forwarder {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, _: Instant) {
        let State { listener, sessions, .. } = &mut self.relay;
        match task {
            Task::Listener => {
                listener.is_readable |= readiness.readable;
                listener.is_writable |= readiness.writable;
            }
            Task::Session(index) => {
                if let Some(session) = sessions.get_mut(index) {
                    session.note(readiness);
                }
            }
            Task::Up | Task::Down | Task::Clock => {}
            Task::Monitor(task) => self.monitor.iter_mut().for_each(|monitor| monitor.note(task, readiness)),
        }
    }

    fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Listener => self.relay.listener.wants(),
            Task::Session(index) => self.relay.sessions.get(index).map(Session::wants).unwrap_or_default(),
            Task::Up => self.relay.up.wants(),
            Task::Down => self.relay.down.wants(),
            Task::Clock => {
                let deadline = match self.relay.stop {
                    Some(end) => end,
                    None => [self.relay.plan.until, self.relay.next_stats].into_iter().flatten().min(),
                };
                Wants { deadline, ..Wants::default() }
            }
            Task::Monitor(task) => self.monitor.as_ref().map(|monitor| monitor.wants(task)).unwrap_or_default(),
        }
    }

    fn take_turn(&mut self, task: Task, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let Self { relay, received, spare, monitor } = self;
        match task {
            Task::Listener => {
                relay.flush_listener(now, reactor);
                let opened = relay.listener_turn(received, spare, now, reactor);
                for index in opened {
                    let key = reactor.insert(Task::Session(index), self);
                    self.relay.start(index, key, now, reactor);
                }
            }
            Task::Session(index) => relay.session_turn(index, received, now, reactor),
            Task::Up => relay.flush_up(now, reactor),
            Task::Down => relay.flush_down(now, reactor),
            Task::Clock => relay.tick(now, reactor),
            Task::Monitor(task) => {
                monitor.iter_mut().for_each(|monitor| monitor.take_turn(task, now, reactor, relay));
            }
        }
        let Listener { broken, address, .. } = &mut self.relay.listener;
        broken.take().map_or(Ok(()), |error| Err(BrokenSocket::new(address.to_string(), error).into()))
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Listener => Some(&mut self.relay.listener.socket),
            Task::Session(index) => self.relay.sessions.get_mut(index).map(|session| &mut session.socket as _),
            Task::Up | Task::Down | Task::Clock => None,
            Task::Monitor(task) => self.monitor.as_mut()?.source(task),
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        let relay = &mut self.relay;
        if relay.plan.count.is_some_and(|count| relay.up.statistics.received >= count) {
            reactor.shutdown().request();
        }
        let Some(requested) = reactor.shutdown().requested_at() else { return Ok(ControlFlow::Continue(())) };
        if relay.stop.is_none() {
            self.monitor.iter().for_each(Monitor::stopping);
            relay.finish(requested.checked_add(relay.plan.grace), reactor);
        }
        let grace_is_over = relay.stop.flatten().is_some_and(|end| end <= Instant::now());
        Ok(if grace_is_over || relay.is_settled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl Observed for State {
    fn metrics(&self) -> Exposition {
        metrics(&self.report(), self.sessions.iter().count(), false)
    }

    fn status(&self) -> String {
        let (up, down) = (self.up.statistics.forwarded, self.down.statistics.forwarded);
        format!("forwarded up {up}, down {down}; {} sessions", self.sessions.iter().count())
    }
}

impl State {
    /// Notes that a session has a task, or ends it if it got none.
    fn start(&mut self, index: usize, key: io::Result<Key>, now: Instant, reactor: &mut Reactor<Task>) {
        match key {
            Ok(key) => match self.sessions.get_mut(index) {
                Some(session) => session.key = Some(key),
                // It has ended already: its socket is unusable.
                None => reactor.remove(key, None),
            },
            Err(error) => self.end(index, &error, now, reactor),
        }
    }

    /// Ends a session that had no traffic for a time, unless something of it waits.
    fn expire(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.expires_at().is_none_or(|at| at > now) {
            return;
        }
        let waits = !session.up.is_empty()
            || self.up.link.as_ref().is_some_and(|link| link.is_ready() || link.waits_for(session.id))
            || self.down.link.as_ref().is_some_and(|link| link.is_ready() || link.waits_for(session.client));
        if waits {
            session.last_traffic = now;
            return;
        }
        debug!("The session for {} has expired", session.client.0);
        self.sessions.counts.expired += 1;
        self.remove(index, reactor);
    }

    /// Ends a session whose socket is unusable, or cannot be watched.
    fn end(&mut self, index: usize, error: &io::Error, now: Instant, reactor: &mut Reactor<Task>) {
        if let Some(session) = self.sessions.get(index)
            && let Some(times) = self.up.throttle.note("session", now)
        {
            warn!("The session for {} ends: {error}{}", session.client.0, Times(times));
        }
        self.remove(index, reactor);
    }

    /// Closes the socket of a session, and counts what has not left.
    fn remove(&mut self, index: usize, reactor: &mut Reactor<Task>) {
        let Some(mut session) = self.sessions.remove(index) else { return };
        if let Some(key) = session.key {
            reactor.remove(key, Some(&mut session.socket));
        }
        if !session.up.is_empty() {
            self.unblock(reactor);
        }
        self.dropped_before += session.socket.kernel_drops().unwrap_or(0);
        self.up.statistics.unsent += session.up.len() as u64;
    }

    /// Does what is due by now.
    fn tick(&mut self, now: Instant, reactor: &mut Reactor<Task>) {
        if self.next_stats.is_some_and(|at| at <= now) {
            self.log_statistics(now);
            self.next_stats = self.plan.stats.and_then(|interval| now.checked_add(interval));
        }
        if self.plan.until.is_some_and(|until| until <= now) {
            reactor.shutdown().request();
        }
    }

    fn log_statistics(&mut self, now: Instant) {
        let report = self.report();
        let (at, up, down) = &self.logged;
        let seconds = now.saturating_duration_since(*at).as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |count: u64, before: u64| count.saturating_sub(before) as f64 / seconds;
        for (name, new, before) in [("up", &report.up, up), ("down", &report.down, down)] {
            let received = rate(new.received, before.received);
            let forwarded = rate(new.forwarded, before.forwarded);
            info!("{name}: {new}; {received:.0} received/s, {forwarded:.0} forwarded/s");
        }
        info!("sessions: {}", report.sessions);
        self.logged = (now, report.up, report.down);
    }

    /// Limits what is received from now on to what has arrived, and the answers to it.
    fn finish(&mut self, end: Option<Instant>, reactor: &mut Reactor<Task>) {
        self.stop = Some(end);
        self.listener.is_readable = true;
        self.listener.backlog = Some(self.listener.socket.receive_buffer().unwrap_or(super::BUFFER_SIZE));
        for session in self.sessions.iter_mut() {
            session.readable = true;
        }
        let sessions = self.sessions.iter().map(|session| session.key);
        let others = [self.listener.key, self.clock];
        sessions.chain(others).flatten().for_each(|key| reactor.touch(key));
    }

    fn is_settled(&self) -> bool {
        let waiting = |link: Option<usize>| link.unwrap_or(0) > 0;
        !self.listener.may_receive()
            && self.listener.waiting.0.is_empty()
            && !waiting(self.up.link.as_ref().map(|link| link.waiting()))
            && !waiting(self.down.link.as_ref().map(|link| link.waiting()))
            && self.sessions.iter().all(Session::is_settled)
    }

    fn report(&self) -> Report {
        let queued_up = self.sessions.iter().map(|session| session.up.len()).sum();
        let drops = self.sessions.iter().map(|session| session.socket.kernel_drops());
        let drops: Option<u64> = drops.sum();
        let drops = drops.map(|drops| self.dropped_before + drops);
        Report {
            schema: 1,
            seconds: self.started.elapsed().as_millis() as f64 / 1000.0,
            seed: self.seed,
            listen: self.listener.address,
            target: self.sessions.target(),
            up: self.up.statistics(queued_up, self.listener.socket.kernel_drops()),
            down: self.down.statistics(self.listener.waiting.0.len(), drops),
            sessions: self.sessions.counts,
        }
    }
}
