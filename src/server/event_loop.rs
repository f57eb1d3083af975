//! Waits until something is ready, and gives turns. It never sees a byte of payload.
//!
//! One turn of the loop:
//! 1. wait for events; not at all when an endpoint still wants a turn;
//! 2. mark the endpoints that the events name, and put those that now want a turn at the end of the ready line;
//! 3. give one turn to each that stands in the line; those that want another go to its end.
//!
//! A turn is bounded, so one flooded socket delays the others, and the look at the shutdown flag, by one turn of
//! each endpoint and no more (invariant 5, defended by `tests/program/stop.rs` and `tests/program/services.rs`).

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use log::info;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::Error;
use super::endpoint::{Endpoint, Shared};
use super::guard::Guard;
use super::tally::EndpointReport;
use crate::net::{Inbox, Outbox, Socket};
use crate::shutdown::Shutdown;

/// The one token that no endpoint has: a slab's keys count up from 0.
const WAKER: Token = Token(usize::MAX);

/// More endpoints than that are reported by the next poll.
const EVENTS: usize = 64;

/// When a loop stops by itself, and what it says while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Stop at this time.
    pub until: Option<Instant>,
    /// Stop after so many datagrams.
    pub count: Option<u64>,
    /// Log the tally this often.
    pub stats: Option<Duration>,
    /// How long answering and flushing may take after a stop was asked for.
    pub grace: Duration,
}

/// A poll, the endpoints that it watches, and the line of those that want a turn.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    events: Events,
    endpoints: Slab<Registered>,
    ready: VecDeque<usize>,
    shared: Shared,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Registered {
    endpoint: Endpoint<Socket>,
    /// What the poll was last told to report.
    interest: Interest,
    in_line: bool,
}

impl EventLoop {
    /// A loop without endpoints, which `shutdown` stops.
    ///
    /// # Errors
    ///
    /// The system has no poll or no waker for us, for want of file descriptors most likely.
    pub fn new(shutdown: Shutdown, guard: Guard) -> io::Result<Self> {
        let poll = Poll::new()?;
        shutdown.wake(Waker::new(poll.registry(), WAKER)?);
        let shared = Shared { inbox: Inbox::new(), outbox: Outbox::default(), guard };
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            endpoints: Slab::new(),
            ready: VecDeque::new(),
            shared,
            shutdown,
        })
    }

    /// Watches one more endpoint.
    ///
    /// # Errors
    ///
    /// What epoll_ctl(2), or the like elsewhere, reports.
    pub fn add(&mut self, mut endpoint: Endpoint<Socket>) -> io::Result<()> {
        let interest = endpoint.interest();
        let entry = self.endpoints.vacant_entry();
        self.poll.registry().register(endpoint.socket_mut(), Token(entry.key()), interest)?;
        entry.insert(Registered { endpoint, interest, in_line: false });
        Ok(())
    }

    /// Serves until a stop is asked for, then answers what has already arrived and sends what waits.
    ///
    /// # Errors
    ///
    /// Polling failed, or a socket became unusable.
    pub fn run(&mut self, schedule: &Schedule) -> Result<(), Error> {
        let mut stats = schedule.stats.map(|interval| Stats::new(interval, self));
        while self.shutdown.requested().is_none() {
            let now = Instant::now();
            let tell_at = stats.as_mut().and_then(|stats| stats.tell(now, self));
            let next = [schedule.until, tell_at].into_iter().flatten().min();
            self.turn(next.map(|at| at.saturating_duration_since(now)))?;
            let full = schedule.count.is_some_and(|count| self.received() >= count);
            if full || schedule.until.is_some_and(|until| Instant::now() >= until) {
                self.shutdown.request();
            }
        }
        self.finish(schedule.grace)
    }

    /// What became of the datagrams, endpoint by endpoint.
    pub fn reports(&self) -> impl Iterator<Item = EndpointReport> {
        self.endpoints.iter().map(|(_, registered)| registered.endpoint.report())
    }

    fn received(&self) -> u64 {
        self.endpoints.iter().map(|(_, registered)| registered.endpoint.received()).sum()
    }

    fn finish(&mut self, grace: Duration) -> Result<(), Error> {
        let stopped = self.shutdown.requested().unwrap_or_else(Instant::now);
        for (key, registered) in &mut self.endpoints {
            let endpoint = &mut registered.endpoint;
            endpoint.finish(endpoint.receive_buffer());
            line_up(&mut self.ready, key, registered);
        }
        while self.endpoints.iter().any(|(_, registered)| !registered.endpoint.is_settled()) {
            let left = grace.saturating_sub(stopped.elapsed());
            if left.is_zero() {
                break;
            }
            self.turn(Some(left))?;
        }
        Ok(())
    }

    /// Waits for events, `timeout` at the most, and gives one turn to each endpoint that wants one.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        let timeout = if self.ready.is_empty() { timeout } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.events, timeout) {
            // A signal that stops and continues the process, for one.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result.map_err(|error| Error::failed(format!("cannot poll: {error}")))?,
        }
        for event in &self.events {
            // The waker's token finds no endpoint: the flag that it stands for is looked at in each turn anyway.
            let Some(registered) = self.endpoints.get_mut(event.token().0) else {
                continue;
            };
            if event.is_readable() || event.is_error() {
                registered.endpoint.readable();
            }
            if event.is_writable() {
                registered.endpoint.writable();
            }
            line_up(&mut self.ready, event.token().0, registered);
        }
        let now = Instant::now();
        for _ in 0..self.ready.len() {
            self.give_turn(now)?;
        }
        Ok(())
    }

    fn give_turn(&mut self, now: Instant) -> Result<(), Error> {
        let Some(key) = self.ready.pop_front() else {
            return Ok(());
        };
        let Some(registered) = self.endpoints.get_mut(key) else {
            return Ok(());
        };
        registered.in_line = false;
        let endpoint = &mut registered.endpoint;
        endpoint.take_turn(now, &mut self.shared).map_err(|error| unusable(endpoint, &error))?;
        let interest = endpoint.interest();
        if interest != registered.interest {
            // The event comes at once if the socket became writable in the meantime, so none is missed.
            let result = self.poll.registry().reregister(endpoint.socket_mut(), Token(key), interest);
            result.map_err(|error| unusable(endpoint, &error))?;
            registered.interest = interest;
        }
        line_up(&mut self.ready, key, registered);
        Ok(())
    }
}

/// Puts an endpoint that wants a turn at the end of the line, unless it stands there already.
fn line_up(ready: &mut VecDeque<usize>, key: usize, registered: &mut Registered) {
    if registered.endpoint.wants_turn() && !registered.in_line {
        registered.in_line = true;
        ready.push_back(key);
    }
}

fn unusable(endpoint: &Endpoint<Socket>, error: &io::Error) -> Error {
    Error::failed(format!("the socket of {} on {} became unusable: {error}", endpoint.service(), endpoint.address()))
}

/// When the tally is told next, and what it was when it was last told.
struct Stats {
    interval: Duration,
    told: Instant,
    before: Vec<EndpointReport>,
}

impl Stats {
    fn new(interval: Duration, event_loop: &EventLoop) -> Self {
        Self { interval, told: Instant::now(), before: event_loop.reports().collect() }
    }

    /// Logs the tally if it is time to; returns when it will be the next time.
    fn tell(&mut self, now: Instant, event_loop: &EventLoop) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.told);
        if passed >= self.interval {
            let reports: Vec<_> = event_loop.reports().collect();
            for (report, before) in reports.iter().zip(&self.before) {
                let rate = |now: u64, before: u64| (now - before) as f64 / passed.as_secs_f64();
                let received = rate(report.tally.received, before.tally.received);
                let answered = rate(report.tally.answered, before.tally.answered);
                info!("{report}; {received:.0} received/s, {answered:.0} answered/s");
            }
            self.told = now;
            self.before = reports;
        }
        self.told.checked_add(self.interval)
    }
}
