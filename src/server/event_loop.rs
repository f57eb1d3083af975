//! Waits until something is ready, and gives turns. It never sees a byte of payload.
//!
//! One turn of the loop:
//! 1. wait for events; not at all when an endpoint still wants a turn;
//! 2. mark the endpoints that the events name, and put those that now want a turn at the end of the ready line;
//! 3. give one turn to each that stands in the line; those that want another go to its end.
//!
//! A turn is bounded, so one flooded socket delays the others, and the look at the shutdown flag, by one turn of
//! each endpoint and no more (invariant 5, defended by `tests/program/load.rs` and `tests/program/stop.rs`).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::Error;
use super::endpoint::{Endpoint, Shared};
use super::statistics::EndpointReport;
use super::statistics_log::StatisticsLog;
use crate::guard::Guard;
use crate::net::{ReceiveBatch, SendBatch, Socket};
use crate::reactor::shutdown::Shutdown;

/// The one token that no endpoint has: a slab's keys count up from 0.
const WAKER: Token = Token(usize::MAX);

/// More endpoints than that are reported by the next poll.
const EVENTS: usize = 64;

/// When loops stop by themselves, and what they do meanwhile. All loops of a server share one.
#[derive(Debug)]
pub struct Schedule {
    /// Stop at this time.
    pub until: Option<Instant>,
    /// Stop after so many datagrams.
    pub count: Option<u64>,
    /// How many have come, to all loops together; kept only if there is a count.
    pub received: AtomicU64,
    /// Tell the statistics now and then.
    pub stats: Option<StatisticsLog>,
    /// Go on polling for so long after there was something to do, rather than sleep.
    pub spin: Duration,
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
    /// When there was last something to do.
    busy: Instant,
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
        let shared = Shared { inbox: ReceiveBatch::new(), outbox: SendBatch::default(), guard };
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            endpoints: Slab::new(),
            ready: VecDeque::new(),
            shared,
            shutdown,
            busy: Instant::now(),
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

    /// Serves, as the loop of that number, until a stop is asked for, then answers what has already arrived and sends what waits.
    ///
    /// # Errors
    ///
    /// Polling failed, or a socket became unusable.
    pub fn run(&mut self, number: usize, schedule: &Schedule) -> Result<(), Error> {
        let mut tell_at = schedule.stats.as_ref().and_then(|stats| stats.next(Instant::now()));
        let mut counted = 0;
        while self.shutdown.requested().is_none() {
            if let (Some(stats), Some(at)) = (&schedule.stats, tell_at)
                && at <= Instant::now()
            {
                let now = Instant::now();
                stats.record(number, self.reports().collect(), now);
                tell_at = stats.next(now);
            }
            let next = [schedule.until, tell_at].into_iter().flatten().min();
            self.turn(next.map(|at| at.saturating_duration_since(Instant::now())), schedule.spin)?;
            if schedule.until.is_some_and(|until| Instant::now() >= until) {
                self.shutdown.request();
            }
            if let Some(count) = schedule.count {
                let news = self.received() - counted;
                counted += news;
                if schedule.received.fetch_add(news, Ordering::Relaxed) + news >= count {
                    self.shutdown.request();
                }
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
            self.turn(Some(left), Duration::ZERO)?;
        }
        Ok(())
    }

    /// Waits for events, `timeout` at the most, and gives one turn to each endpoint that wants one. Polls without
    /// waiting while some want one, and for `spin` after that.
    fn turn(&mut self, timeout: Option<Duration>, spin: Duration) -> Result<(), Error> {
        let awake = !self.ready.is_empty() || (!spin.is_zero() && self.busy.elapsed() < spin);
        let timeout = if awake { Some(Duration::ZERO) } else { timeout };
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
        if self.ready.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        self.busy = now;
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
