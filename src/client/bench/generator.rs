//! The loop of a bench: a poll over its clients, a line of those that want a turn, and the time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::client::{Client, Shared};
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::schedule::RateSchedule;
use crate::client::{Error, cannot_poll, linger, target, wait};
use crate::net::{IoBackend, ReceiveBatch};
use crate::reactor::shutdown::Shutdown;

/// The token that no client has.
const WAKER: Token = Token(usize::MAX);

/// How often datagrams past their timeout are looked for.
const SWEEP: Duration = Duration::from_millis(20);

/// How many sends of an open loop go by before the answers are looked at.
const BURST: usize = 64;

/// What leaves, and what holds it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Closed loop: so many datagrams are out on each client, and an answer lets the next one leave.
    InFlight(usize),
    /// Open loop: so many datagrams a second on all clients together, on a schedule, whatever comes back.
    Rate(u32),
}

/// How much of what a generator sends.
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

/// Lanes to one target, and the loop over them.
#[derive(Debug)]
pub struct Generator {
    shape: Shape,
    poll: Poll,
    events: Events,
    clients: Vec<Registered>,
    ready: VecDeque<usize>,
    shared: Shared,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Registered {
    client: Client,
    /// What the poll was last told to report.
    interest: Interest,
    in_line: bool,
}

impl Generator {
    /// Opens the clients; `shutdown` ends a run.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when the system has not so many sockets for us.
    pub fn new(target: SocketAddr, shape: Shape, shutdown: &Shutdown) -> Result<Self, Error> {
        let poll = Poll::new().map_err(cannot_poll)?;
        shutdown.wake(Waker::new(poll.registry(), WAKER).map_err(cannot_poll)?);
        let (window, io, inbox) = match shape.load {
            // Nothing to batch; and to look for a second answer can wait until the next datagram has left.
            Load::InFlight(1) => (1, IoBackend::Portable, ReceiveBatch::with_slots(1)),
            Load::InFlight(window) => (window, IoBackend::Auto, ReceiveBatch::new()),
            Load::Rate(_) => (0, IoBackend::Auto, ReceiveBatch::new()),
        };
        let mut clients = Vec::new();
        for number in 1..=shape.clients {
            let mut socket = target::open(target, io)
                .map_err(|error| Error::Failed(format!("cannot open client {number} of {}: {error}", shape.clients)))?;
            let interest = Interest::READABLE;
            poll.registry().register(&mut socket, Token(number - 1), interest).map_err(cannot_poll)?;
            let client = Client::new(socket, window, shape.timeout);
            clients.push(Registered { client, interest, in_line: false });
        }
        Ok(Self {
            shape,
            poll,
            // Room for all of them and the waker: what a poll does not report had not arrived by then.
            events: Events::with_capacity(shape.clients + 1),
            ready: VecDeque::with_capacity(clients.len()),
            clients,
            shared: Shared::new(target, shape.size, shape.segments, inbox),
            shutdown: shutdown.clone(),
        })
    }

    /// Sends for `time`, then waits for what is out; returns how long it sent. Counts begin at zero.
    ///
    /// A shutdown ends the sending. `progress` is told now and then how long it has been sending, and how many
    /// datagrams came back.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when polling failed or a socket became unusable.
    pub fn run(&mut self, time: Duration, mut progress: impl FnMut(Duration, u64)) -> Result<Duration, Error> {
        self.shared.start_over();
        self.clients.iter_mut().for_each(|registered| registered.client.tracker_mut().reset_counts());
        let start = Instant::now();
        let mut schedule = match self.shape.load {
            Load::Rate(rate) => Some(RateSchedule::new(start, rate, self.shape.segments as u64)),
            Load::InFlight(_) => None,
        };
        let (mut now, mut polled, mut sweep) = (start, start, start);
        while now.saturating_duration_since(start) < time && !self.is_over() {
            if now >= sweep {
                self.sweep(polled, true);
                progress(now.saturating_duration_since(start), self.shared.received);
                sweep = now + SWEEP;
            }
            if let Some(schedule) = &mut schedule {
                self.send_due(schedule, now)?;
            }
            let left = time.saturating_sub(now.saturating_duration_since(start));
            let timeout = left.min(sweep.saturating_duration_since(now));
            // The poll counts whole milliseconds and rounds up; for what is due sooner it must not sleep.
            let due = schedule.as_ref().map(|schedule| schedule.next().saturating_duration_since(now).as_millis());
            let due = due.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)));
            polled = now;
            self.turn(due.map_or(timeout, |due| due.min(timeout)), true)?;
            now = Instant::now();
        }
        self.drain()?;
        Ok(now.saturating_duration_since(start))
    }

    /// How the datagrams of the last run ended.
    pub fn counts(&self) -> OutcomeCounts {
        let mut counts = OutcomeCounts::default();
        self.clients.iter().for_each(|registered| counts.add(registered.client.tracker().counts()));
        counts
    }

    /// What the clients found out.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether a shutdown was asked for, or nobody listens.
    pub fn is_over(&self) -> bool {
        self.shutdown.requested().is_some() || self.nobody_listens()
    }

    /// Whether all that ever came back is that nobody listens.
    pub fn nobody_listens(&self) -> bool {
        self.shared.refused > 0 && !self.shared.heard
    }

    /// Waits until nothing is out, and a little longer for second answers.
    fn drain(&mut self) -> Result<(), Error> {
        let (mut end, mut polled) = (None, Instant::now());
        while !self.nobody_listens() {
            self.turn(SWEEP, false)?;
            self.sweep(polled, false);
            let now = Instant::now();
            if self.clients.iter().all(|registered| registered.client.tracker().in_flight() == 0) {
                let linger = linger(&self.shared.latencies, self.shape.timeout);
                if *end.get_or_insert(now + linger) <= now {
                    break;
                }
            }
            polled = now;
        }
        for registered in &mut self.clients {
            while registered.client.tracker_mut().lose_rest().is_some() {}
        }
        Ok(())
    }

    /// Gives up what was past its timeout when all that had arrived was received, and makes room for more. So no answer
    /// is lost that only was not looked at, however long this process did not run.
    fn sweep(&mut self, polled: Instant, sending: bool) {
        for (key, registered) in self.clients.iter_mut().enumerate() {
            if let Some(time) = registered.client.received_by(polled) {
                let tracker = registered.client.tracker_mut();
                while tracker.time_out(time).is_some() {}
                while tracker.lose(time).is_some() {}
            }
            line_up(&mut self.ready, key, registered, sending, self.shape.segments);
        }
    }

    /// Sends what is due, on one client after the other.
    fn send_due(&mut self, schedule: &mut RateSchedule, now: Instant) -> Result<(), Error> {
        for _ in 0..BURST {
            let due = schedule.next();
            if due > now {
                break;
            }
            let first = usize::try_from(schedule.group() % self.clients.len() as u64).unwrap_or(0);
            let (before, after) = self.clients.split_at_mut(first);
            let mut clients = (first..).zip(after).chain((0..).zip(before));
            let Some((key, registered)) = clients.find(|(_, registered)| registered.client.is_writable()) else {
                break;
            };
            schedule.advance(registered.client.send(schedule.left_in_group(), Some(due), &mut self.shared)?);
            watch(&self.poll, key, registered)?;
        }
        Ok(())
    }

    /// Waits for events, `timeout` at the most, and gives one turn to each client that wants one.
    fn turn(&mut self, timeout: Duration, sending: bool) -> Result<(), Error> {
        let timeout = if self.ready.is_empty() { timeout } else { Duration::ZERO };
        wait(&mut self.poll, &mut self.events, Some(timeout))?;
        let (segments, now) = (self.shape.segments, Instant::now());
        for event in &self.events {
            // The waker's token finds no client: the flag that it stands for is looked at in each turn anyway.
            if let Some(registered) = self.clients.get_mut(event.token().0) {
                registered.client.note(event.is_readable() || event.is_error(), event.is_writable(), now);
                watch(&self.poll, event.token().0, registered)?;
                line_up(&mut self.ready, event.token().0, registered, sending, segments);
            }
        }
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(registered) = self.clients.get_mut(key) else { continue };
            registered.in_line = false;
            registered.client.take_turn(sending, &mut self.shared)?;
            watch(&self.poll, key, registered)?;
            line_up(&mut self.ready, key, registered, sending, segments);
        }
        Ok(())
    }
}

/// Tells the poll whether a client waits until it is writable.
fn watch(poll: &Poll, key: usize, registered: &mut Registered) -> Result<(), Error> {
    let interest = registered.client.interest();
    if interest != registered.interest {
        poll.registry().reregister(&mut registered.client.socket, Token(key), interest).map_err(cannot_poll)?;
        registered.interest = interest;
    }
    Ok(())
}

/// Puts a client that wants a turn at the end of the line, unless it stands there already.
fn line_up(ready: &mut VecDeque<usize>, key: usize, registered: &mut Registered, sending: bool, segments: usize) {
    if registered.client.wants_turn(sending, segments) && !registered.in_line {
        registered.in_line = true;
        ready.push_back(key);
    }
}
