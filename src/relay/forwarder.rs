//! The listener, the sessions and the links of a relay, as tasks of one reactor.
//!
//! # From a client to the target
//!
//! The listener receives a batch, finds or opens the session of each datagram, and sends the datagrams of each session
//! together, on its socket. If that would block, the rest waits in the session, and the listener is not read until it has
//! left.
//!
//! # From the target to a client
//!
//! A session receives a batch, and sends it to its client through the listener. If that would block, the rest waits in
//! the session, which is *stalled*: it is not read until the listener is writable.
//!
//! # Links
//!
//! With impairments, datagrams pass the link of their direction in between. What has waited in the link is sent by the
//! link's own task, at the deadline.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use mio::Interest;
use mio::event::Source;

use super::Error;
use super::direction::{Direction, Progress};
use super::session::{Client, Session, SessionId, Sessions};
use super::statistics::{Report, Statistics};
use crate::guard::Guard;
use crate::impair::header_length;
use crate::logging::throttle::{Throttle, Times};
use crate::net::{self, Datagram, Outgoing, ReceiveBatch, Received, SendBatch, Socket, Transport};
use crate::reactor::{Handler, Key, Reactor, Readiness, Wants};

/// After this many failed receives without a datagram in between, a socket counts as unusable.
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

/// The socket of the clients.
#[derive(Debug)]
struct Listener {
    socket: Socket,
    address: SocketAddr,
    key: Option<Key>,
    /// A receive may be tried.
    is_readable: bool,
    /// A send may be tried.
    is_writable: bool,
    /// How many sessions have datagrams that wait for their sockets.
    blocked_sessions: usize,
    /// The sessions that wait until the listener is writable.
    stalled: Vec<usize>,
    /// The link to the clients waits until the listener is writable.
    stalls_link: bool,
    /// How much may still be received after a stop was requested, in bytes as the kernel charges them.
    backlog: Option<usize>,
    /// Failed receives since the last datagram.
    receive_errors: u32,
}

impl Listener {
    fn may_receive(&self) -> bool {
        self.is_readable && self.blocked_sessions == 0 && self.backlog != Some(0)
    }

    /// Returns whether anything waits until the listener is writable.
    fn stalls(&self) -> bool {
        self.stalls_link || !self.stalled.is_empty()
    }

    fn wants(&self) -> Wants {
        Wants {
            turn: self.may_receive() || (self.is_writable && self.stalls()),
            interest: Some(if self.stalls() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }),
            deadline: None,
        }
    }
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
    spare: Vec<(usize, &'static [u8])>,
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
    throttle: Throttle,
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
        let listener = Listener {
            socket,
            address,
            key: None,
            is_readable: false,
            is_writable: true,
            blocked_sessions: 0,
            stalled: Vec::new(),
            stalls_link: false,
            backlog: None,
            receive_errors: 0,
        };
        let now = Instant::now();
        let relay = State {
            next_stats: plan.stats.and_then(|interval| now.checked_add(interval)),
            plan,
            listener,
            sessions,
            up,
            down,
            batch: SendBatch::default(),
            // A relay forwards what it is asked to; only sources that nothing can be sent to are refused.
            guard: Guard::disabled(),
            throttle: Throttle::default(),
            started: now,
            seed,
            dropped_before: 0,
            clock: None,
            logged: (now, Statistics::default(), Statistics::default()),
            stop: None,
        };
        Self { relay, received: ReceiveBatch::new(), spare: Vec::new() }
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
        }
    }

    fn take_turn(&mut self, task: Task, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let Self { relay, received, spare } = self;
        match task {
            Task::Listener => {
                let opened = relay.listener_turn(received, spare, now, reactor)?;
                for index in opened {
                    let key = reactor.insert(Task::Session(index), self);
                    self.relay.start(index, key, reactor);
                }
            }
            Task::Session(index) => relay.session_turn(index, received, now, reactor)?,
            Task::Up => relay.flush_up(now, reactor),
            Task::Down => relay.flush_down(now, reactor)?,
            Task::Clock => relay.tick(now, reactor),
        }
        Ok(())
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Listener => Some(&mut self.relay.listener.socket),
            Task::Session(index) => self.relay.sessions.get_mut(index).map(|session| &mut session.socket as _),
            Task::Up | Task::Down | Task::Clock => None,
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        let relay = &mut self.relay;
        if relay.plan.count.is_some_and(|count| relay.up.statistics.received >= count) {
            reactor.shutdown().request();
        }
        let Some(requested) = reactor.shutdown().requested_at() else { return Ok(ControlFlow::Continue(())) };
        if relay.stop.is_none() {
            relay.finish(requested.checked_add(relay.plan.grace), reactor);
        }
        let grace_is_over = relay.stop.flatten().is_some_and(|end| end <= Instant::now());
        Ok(if grace_is_over || relay.is_settled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

impl State {
    /// Receives a batch from clients and forwards it. Returns the sessions that were opened.
    fn listener_turn(
        &mut self,
        received: &mut ReceiveBatch,
        spare: &mut Vec<(usize, &'static [u8])>,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) -> Result<Vec<usize>, Error> {
        if self.listener.is_writable && self.listener.stalls() {
            self.end_stalls(reactor);
        }
        let mut opened = Vec::new();
        if !self.listener.may_receive() {
            return Ok(opened);
        }
        let result = self.listener.socket.receive(received);
        self.listener.backlog = self.listener.backlog.map(|backlog| backlog.saturating_sub(received.charge()));
        // They arrived by now, and perhaps not yet when the turn began: no delay is shorter than asked for.
        let arrived = if self.up.link.is_some() { Instant::now() } else { now };
        let mut list: Vec<(usize, &[u8])> = std::mem::take(spare);
        for datagram in received.datagrams() {
            self.listener.receive_errors = 0;
            self.up.count(datagram.payload);
            let Some((session, is_new)) = self.session_of(&datagram, now) else { continue };
            if is_new {
                opened.push(session.index);
            }
            match &mut self.up.link {
                None => list.push((session.index, datagram.payload)),
                Some(link) => {
                    let headers = header_length(self.sessions.target().ip());
                    let left = link.handle(arrived, session, headers, [datagram.payload, b"", b""]);
                    list.extend(left.into_iter().flatten().map(|parts| (session.index, parts[0])));
                }
            }
        }
        // Together for each session, which makes the longest runs. The sort is stable.
        if !list.is_sorted_by_key(|(index, _)| *index) {
            list.sort_by_key(|(index, _)| *index);
        }
        for of_session in list.chunk_by(|a, b| a.0 == b.0) {
            self.send_up(of_session[0].0, of_session.iter().map(|(_, payload)| *payload), now, reactor);
        }
        list.clear();
        // As SendBatch does: the memory is used again, what it borrowed is not.
        *spare = list.into_iter().map_while(|_| None).collect();
        if self.up.link.is_some() {
            self.flush_up(now, reactor);
            self.up.key.into_iter().for_each(|key| reactor.touch(key));
        }
        self.note_received_up(result, now)?;
        Ok(opened)
    }

    /// Returns the session of a client, and whether it is new; `None` if the datagram is refused or failed.
    fn session_of(&mut self, datagram: &Datagram<'_>, now: Instant) -> Option<(SessionId, bool)> {
        let Datagram { source, local, payload } = *datagram;
        let answer = Outgoing { to: source, from: local, parts: [payload, b"", b""] };
        if let Err(refusal) = self.guard.check(datagram, &answer, now) {
            self.up.statistics.refused.increment(refusal.name());
            if let Some(times) = self.throttle.note(refusal.name(), now) {
                warn!("Not forwarding from {source}: {refusal}{}", Times(times));
            }
            return None;
        }
        let why = match self.sessions.find_or_open((source, local), now) {
            Ok(Some((session, is_new))) => {
                session.last_traffic = now;
                session.receive_errors = 0;
                if is_new {
                    debug!("Opened a session for {source}");
                }
                return Some((session.id, is_new));
            }
            Ok(None) => "there are as many sessions as there may be".to_owned(),
            Err(error) if is_out_of_files(&error) => error.to_string(),
            Err(error) => {
                let name = net::error_name(&error);
                self.up.statistics.failed.increment(name);
                if let Some(times) = self.throttle.note(name, now) {
                    warn!("Cannot reach {}: {error}{}", self.sessions.target(), Times(times));
                }
                return None;
            }
        };
        self.up.statistics.refused.increment("sessions");
        self.sessions.counts.refused += 1;
        if let Some(times) = self.throttle.note("sessions", now) {
            warn!("No session for {source}: {why}{}", Times(times));
        }
        None
    }

    /// Notes that a session has a task, or ends it if it got none.
    fn start(&mut self, index: usize, key: io::Result<Key>, reactor: &mut Reactor<Task>) {
        match key {
            Ok(key) => {
                if let Some(session) = self.sessions.get_mut(index) {
                    session.key = Some(key);
                }
            }
            Err(error) => {
                warn!("Cannot watch a session: {error}");
                self.remove(index, reactor);
            }
        }
    }

    fn note_received_up(&mut self, received: Received, now: Instant) -> Result<(), Error> {
        let listener = &mut self.listener;
        match received {
            Received::More => {}
            Received::Drained => {
                listener.is_readable = false;
                listener.backlog = listener.backlog.map(|_| 0);
            }
            Received::Failed(error) => {
                let name = net::error_name(&error);
                self.up.statistics.receive_errors.increment(name);
                listener.receive_errors += 1;
                if net::is_broken(&error) || listener.receive_errors >= ERRORS_IN_A_ROW {
                    return Err(unusable(listener.address, &error));
                }
                if let Some(times) = self.throttle.note(name, now) {
                    warn!("Cannot receive on {}: {error}{}", listener.address, Times(times));
                }
            }
        }
        Ok(())
    }

    /// Lets what waits for the listener try again.
    fn end_stalls(&mut self, reactor: &mut Reactor<Task>) {
        for index in self.listener.stalled.drain(..) {
            if let Some(session) = self.sessions.get_mut(index) {
                session.is_stalled = false;
                session.key.into_iter().for_each(|key| reactor.touch(key));
            }
        }
        if std::mem::take(&mut self.listener.stalls_link) {
            self.down.is_stalled = false;
            self.down.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }

    /// Sends datagrams to the target, behind what already waits for the socket of their session.
    fn send_up<'a>(
        &mut self,
        index: usize,
        payloads: impl Iterator<Item = &'a [u8]>,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) {
        let target = self.sessions.target();
        let Some(session) = self.sessions.get_mut(index) else {
            // It could not be watched, or its socket became unusable.
            self.up.statistics.unsent += payloads.count() as u64;
            return;
        };
        session.last_traffic = now;
        session.awaits_answer = true;
        if !session.up.is_empty() {
            payloads.for_each(|payload| session.up.push(payload));
            return;
        }
        let mut datagrams = self.batch.take();
        datagrams.extend(payloads.map(|payload| to_target(payload, target)));
        let progress = self.up.send(&mut session.socket, &datagrams, session.client.0, &mut self.throttle, now);
        datagrams[progress.done..].iter().for_each(|datagram| session.up.push(datagram.parts[0]));
        self.batch.put_back(datagrams);
        if !session.up.is_empty() {
            self.listener.blocked_sessions += 1;
        }
        self.note_progress_up(index, progress, now, reactor);
    }

    /// Sends what waits for the socket of a session.
    fn flush_session(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) {
        let target = self.sessions.target();
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.writable) else { return };
        if session.up.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut session.up);
        let mut datagrams = self.batch.take();
        datagrams.extend(waiting.iter().map(|payload| to_target(payload, target)));
        let progress = self.up.send(&mut session.socket, &datagrams, session.client.0, &mut self.throttle, now);
        self.batch.put_back(datagrams);
        session.up = waiting;
        session.up.pop(progress.done);
        if session.up.is_empty() {
            self.unblock(reactor);
        }
        self.note_progress_up(index, progress, now, reactor);
    }

    /// One session less keeps the listener from being read.
    fn unblock(&mut self, reactor: &mut Reactor<Task>) {
        self.listener.blocked_sessions -= 1;
        if self.listener.blocked_sessions == 0 {
            self.listener.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }

    fn note_progress_up(&mut self, index: usize, progress: Progress, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if progress.is_blocked {
            session.writable = false;
            session.key.into_iter().for_each(|key| reactor.touch(key));
        }
        (0..progress.refusals).for_each(|_| self.note_error_down(&refused(), now));
        if let Some(error) = progress.broken {
            self.end(index, &error, reactor);
        }
    }

    /// Sends what has left the link to the target.
    fn flush_up(&mut self, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(mut link) = self.up.link.take() else { return };
        link.advance(now);
        let ready: Vec<_> = link.ready().take(LINK_TURN).collect();
        for of_session in ready.chunk_by(|a, b| a.0 == b.0) {
            let payloads = of_session.iter().map(|(_, payload)| *payload);
            match self.sessions.find_mut(of_session[0].0) {
                Some(session) => {
                    let index = session.id.index;
                    self.send_up(index, payloads, now, reactor);
                }
                None => self.up.statistics.unsent += payloads.count() as u64,
            }
        }
        let count = ready.len();
        link.release(count);
        self.up.link = Some(link);
    }

    /// Receives a batch from the target and forwards it, sends what waits, or ends the session.
    fn session_turn(
        &mut self,
        index: usize,
        received: &mut ReceiveBatch,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) -> Result<(), Error> {
        self.flush_session(index, now, reactor);
        let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
        if session.is_stalled || (!session.readable && session.down.is_empty()) {
            self.expire(index, now, reactor);
            return Ok(());
        }
        if !self.listener.is_writable {
            self.stall(index, reactor);
            return Ok(());
        }
        if !session.down.is_empty() {
            let waiting = std::mem::take(&mut session.down);
            let mut datagrams = self.batch.take();
            datagrams.extend(waiting.iter().map(|payload| to_client(payload, session.client)));
            let progress = self.send_down(&datagrams, now)?;
            self.batch.put_back(datagrams);
            if let Some(session) = self.sessions.get_mut(index) {
                session.down = waiting;
                session.down.pop(progress.done);
                if !session.down.is_empty() {
                    self.stall(index, reactor);
                    return Ok(());
                }
            }
        }
        self.receive_down(index, received, now, reactor)
    }

    fn receive_down(
        &mut self,
        index: usize,
        received: &mut ReceiveBatch,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.readable) else { return Ok(()) };
        let result = session.socket.receive(received);
        let client = session.client;
        let arrived = if self.down.link.is_some() { Instant::now() } else { now };
        let mut datagrams = self.batch.take();
        for Datagram { payload, .. } in received.datagrams() {
            session.last_traffic = now;
            session.awaits_answer = false;
            session.receive_errors = 0;
            self.down.count(payload);
            match &mut self.down.link {
                None => datagrams.push(to_client(payload, client)),
                Some(link) => {
                    let left = link.handle(arrived, client, header_length(client.0.ip()), [payload, b"", b""]);
                    datagrams.extend(left.into_iter().flatten().map(|parts| to_client(parts[0], client)));
                }
            }
        }
        let progress = self.send_down(&datagrams, now)?;
        let rest = &datagrams[progress.done..];
        let is_blocked = !rest.is_empty();
        match &mut self.down.link {
            Some(link) => rest.iter().rev().for_each(|datagram| link.put_back(client, datagram.parts)),
            None => {
                if let Some(session) = self.sessions.get_mut(index) {
                    rest.iter().for_each(|datagram| session.down.push(datagram.parts[0]));
                }
            }
        }
        self.batch.put_back(datagrams);
        if self.down.link.is_some() {
            self.flush_down(now, reactor)?;
            self.down.key.into_iter().for_each(|key| reactor.touch(key));
        }
        if is_blocked {
            self.stall(index, reactor);
        }
        self.note_received_down(index, result, now, reactor);
        Ok(())
    }

    fn note_received_down(&mut self, index: usize, received: Received, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        match received {
            Received::More => {}
            Received::Drained => session.readable = false,
            Received::Failed(error) => {
                session.receive_errors += 1;
                // A closed port is not a broken socket: the target may be started again.
                let is_broken = net::is_broken(&error) || session.receive_errors >= ERRORS_IN_A_ROW;
                // There will be no answer.
                session.awaits_answer = false;
                self.note_error_down(&error, now);
                if is_broken {
                    self.end(index, &error, reactor);
                }
            }
        }
    }

    fn note_error_down(&mut self, error: &io::Error, now: Instant) {
        let name = net::error_name(error);
        self.down.statistics.receive_errors.increment(name);
        if let Some(times) = self.throttle.note(name, now) {
            warn!("The target {} does not receive: {error}{}", self.sessions.target(), Times(times));
        }
    }

    /// Sends datagrams to clients.
    fn send_down(&mut self, datagrams: &[Outgoing<'_>], now: Instant) -> Result<Progress, Error> {
        let target = self.sessions.target();
        let progress = self.down.send(&mut self.listener.socket, datagrams, target, &mut self.throttle, now);
        if let Some(error) = &progress.broken {
            return Err(unusable(self.listener.address, error));
        }
        if progress.is_blocked {
            self.listener.is_writable = false;
        }
        Ok(progress)
    }

    /// Sends what has left the link to the clients.
    fn flush_down(&mut self, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let Some(mut link) = self.down.link.take() else { return Ok(()) };
        link.advance(now);
        if self.listener.is_writable && link.is_ready() {
            let mut datagrams = self.batch.take();
            datagrams.extend(link.ready().take(LINK_TURN).map(|(client, payload)| to_client(payload, client)));
            let progress = self.send_down(&datagrams, now);
            self.batch.put_back(datagrams);
            link.release(progress?.done);
        }
        if !self.listener.is_writable && link.is_ready() {
            self.down.is_stalled = true;
            self.listener.stalls_link = true;
            self.listener.key.into_iter().for_each(|key| reactor.touch(key));
        }
        self.down.link = Some(link);
        Ok(())
    }

    /// Makes a session wait until the listener is writable.
    fn stall(&mut self, index: usize, reactor: &mut Reactor<Task>) {
        if let Some(session) = self.sessions.get_mut(index)
            && !session.is_stalled
        {
            session.is_stalled = true;
            self.listener.stalled.push(index);
            self.listener.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }

    /// Ends a session that had no traffic for a time, unless something of it waits.
    fn expire(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.expires_at().is_none_or(|at| at > now) {
            return;
        }
        let waits = !session.up.is_empty()
            || !session.down.is_empty()
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

    /// Ends a session whose socket is unusable.
    fn end(&mut self, index: usize, error: &io::Error, reactor: &mut Reactor<Task>) {
        if let Some(session) = self.sessions.get(index) {
            warn!("The session for {} ends: {error}", session.client.0);
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
        self.down.statistics.unsent += session.down.len() as u64;
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
            && !waiting(self.up.link.as_ref().map(|link| link.waiting()))
            && !waiting(self.down.link.as_ref().map(|link| link.waiting()))
            && self.sessions.iter().all(Session::is_settled)
    }

    fn report(&self) -> Report {
        let queued = |queue: fn(&Session) -> usize| self.sessions.iter().map(queue).sum();
        let drops = self.sessions.iter().map(|session| session.socket.kernel_drops());
        let drops: Option<u64> = drops.sum();
        let drops = drops.map(|drops| self.dropped_before + drops);
        Report {
            schema: 1,
            seconds: self.started.elapsed().as_millis() as f64 / 1000.0,
            seed: self.seed,
            listen: self.listener.address,
            target: self.sessions.target(),
            up: self.up.statistics(queued(|session| session.up.len()), self.listener.socket.kernel_drops()),
            down: self.down.statistics(queued(|session| session.down.len()), drops),
            sessions: self.sessions.counts,
        }
    }
}

fn to_target(payload: &[u8], target: SocketAddr) -> Outgoing<'_> {
    Outgoing { to: target, from: None, parts: [payload, b"", b""] }
}

fn to_client(payload: &[u8], client: Client) -> Outgoing<'_> {
    Outgoing { to: client.0, from: client.1, parts: [payload, b"", b""] }
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNREFUSED)
}

fn unusable(address: SocketAddr, error: &io::Error) -> Error {
    Error::Failed(format!("the socket on {address} became unusable: {error}"))
}
