//! The event loop that every command runs on: it waits for events and deadlines, and gives turns to tasks.
//!
//! A [`Reactor`] owns the poll, the ready queue, the timers and the waker. It knows tasks by name only: an index, or an
//! enum where there are several kinds. A [`Handler`] owns everything else, sockets and buffers above all, so one task
//! can use what belongs to another by borrowing two fields of the handler.
//!
//! # One iteration
//!
//! 1. **Choose the timeout.** Zero if a task is queued or the reactor [spins](Reactor::set_spin), otherwise the time
//!    until the earliest deadline, or none.
//! 2. **Poll.** The only place where the thread sleeps.
//! 3. **Record events.** Each event is noted in the state of its task, without I/O, and the task is *settled*: it is
//!    asked what it [`Wants`] now, and is queued if that is a turn.
//! 4. **Expire deadlines.** A task whose deadline has passed is queued.
//! 5. **Give turns.** Every task that is queued by now gets one turn, in order, and is settled again: it goes to the
//!    end of the queue if it wants another turn, its deadline is set, and a changed interest is registered. Tasks that
//!    the turn has [touched](Reactor::touch) are settled as well.
//!
//! Before each iteration the handler decides whether to [continue](Handler::before_wait).
//!
//! # Readiness is state
//!
//! Polling is edge-triggered: the system reports that a socket *became* readable, once, and not that it still is. A
//! task therefore keeps readiness in its state. An event sets it; only a receive that saw the socket empty clears it.
//! The task may stop reading at any point, to give others a turn or because it has no room for more, and still knows
//! that there is more to read. The same holds for writability and a send that would have blocked. Events may be
//! spurious: acting on one must be harmless.
//!
//! # Turns are bounded
//!
//! A turn does a limited amount of work, one batch of datagrams for instance, and asks for another turn if there is
//! more. A flood on one socket thus delays the other tasks, the timers and the shutdown by at most one turn per queued
//! task, a matter of milliseconds, however long it lasts.
//!
//! # What ends a poll
//!
//! An event, a deadline or a wake-up. An *event* comes from a registered source. A *deadline* ends the poll by its
//! timeout, or by a timer among the sources ([`Precision`]); it only queues its task, so that the turn finds events and
//! the passed deadline together and neither starves the other. A *wake-up* comes from another thread
//! ([`Shutdown::request`]) and has no task: the handler checks the flag before each iteration.
//!
//! # Examples
//!
//! A complete echo server:
//!
//! ```
//! use std::io::{self, ErrorKind};
//! use std::time::Instant;
//!
//! use mio::event::Source;
//! use mio::{Interest, net::UdpSocket};
//! use udpong::reactor::{Handler, Reactor, Readiness, Wants, shutdown::Shutdown};
//!
//! /// At most this many datagrams per turn.
//! const TURN: usize = 32;
//!
//! struct Echo {
//!     socket: UdpSocket,
//!     readable: bool,
//!     buffer: [u8; 65_535],
//! }
//!
//! impl Handler for Echo {
//!     type Task = ();
//!     type Error = io::Error;
//!
//!     fn note(&mut self, _: (), readiness: Readiness, _: Instant) {
//!         self.readable |= readiness.readable;
//!     }
//!
//!     fn wants(&self, _: ()) -> Wants {
//!         Wants { turn: self.readable, interest: Some(Interest::READABLE), deadline: None }
//!     }
//!
//!     fn take_turn(&mut self, _: (), _: Instant, _: &mut Reactor<()>) -> io::Result<()> {
//!         for _ in 0..TURN {
//!             match self.socket.recv_from(&mut self.buffer) {
//!                 // A reply that cannot be sent is lost, which ends nothing.
//!                 Ok((length, peer)) => drop(self.socket.send_to(&self.buffer[..length], peer)),
//!                 Err(error) if error.kind() == ErrorKind::WouldBlock => {
//!                     self.readable = false;
//!                     break;
//!                 }
//!                 // ICMP errors of earlier replies, for instance.
//!                 Err(_) => {}
//!             }
//!         }
//!         Ok(())
//!     }
//!
//!     fn source(&mut self, _: ()) -> Option<&mut dyn Source> {
//!         Some(&mut self.socket)
//!     }
//! }
//!
//! # fn main() -> io::Result<()> {
//! let mut echo = Echo { socket: UdpSocket::bind(([127, 0, 0, 1], 0).into())?, readable: false, buffer: [0; 65_535] };
//! # let address = echo.socket.local_addr()?;
//! let shutdown = Shutdown::new();
//! let mut reactor = Reactor::new(&shutdown)?;
//! reactor.insert((), &mut echo)?;
//! # let client = std::thread::spawn(move || -> io::Result<()> {
//! #     let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
//! #     socket.send_to(b"ping", address)?;
//! #     let (mut answer, mut length) = ([0; 8], 0);
//! #     while length == 0 { length = socket.recv(&mut answer)?; }
//! #     assert_eq!(&answer[..length], b"ping");
//! #     shutdown.request();
//! #     Ok(())
//! # });
//! reactor.run(&mut echo)?; // until shutdown.request()
//! # client.join().expect("no panic")
//! # }
//! ```

mod entries;
pub mod shutdown;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::trace;
use mio::event::{Event, Source};
use mio::{Events, Interest, Poll, Token, Waker};

use entries::Entries;
pub use entries::Key;
use shutdown::Shutdown;
pub use timers::Precision;
use timers::{Alarm, Timer, Timers};

/// Not a key: no slab is that large.
const WAKER: Token = Token(usize::MAX);

/// At most this many events per poll; the next poll reports the others.
const EVENTS: usize = 256;

/// Owns the sources and the state of all tasks of a [`Reactor`], and acts for them.
pub trait Handler {
    /// Names a task: `()` for the only one, an index, or an enum where there are several kinds.
    type Task: Copy + Debug;

    /// The error type of [`Reactor::run`]. Errors of the poll are converted.
    type Error: From<io::Error>;

    /// Records what became ready in the state of `task`: no I/O, no effect on other tasks.
    fn note(&mut self, task: Self::Task, readiness: Readiness, now: Instant);

    /// Returns what `task` wants now, derived from the state of that task alone.
    ///
    /// A change of that state from outside the task's own turns has to be [announced](Reactor::touch).
    fn wants(&self, task: Self::Task) -> Wants;

    /// Does a bounded amount of work for `task`. `now` is a time after the last poll.
    ///
    /// A turn may be spurious, and it may insert, remove and touch tasks.
    ///
    /// # Errors
    ///
    /// An error ends the loop. Return one only if the whole program has to stop.
    fn take_turn(
        &mut self,
        task: Self::Task,
        now: Instant,
        reactor: &mut Reactor<Self::Task>,
    ) -> Result<(), Self::Error>;

    /// Returns what the poll should watch for `task`; `None` for a task that has deadlines only.
    fn source(&mut self, task: Self::Task) -> Option<&mut dyn Source>;

    /// Returns, before each iteration, whether to continue. By default, until a shutdown is requested.
    ///
    /// # Errors
    ///
    /// As [`take_turn`](Self::take_turn).
    fn before_wait(&mut self, reactor: &mut Reactor<Self::Task>) -> Result<ControlFlow<()>, Self::Error> {
        Ok(if reactor.shutdown().is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// What an event reports. Both may be true, and either may be spurious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// A receive may be tried: there is something to receive, an error is pending, or the peer closed its side.
    pub readable: bool,
    /// A send may be tried.
    pub writable: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        Self {
            readable: event.is_readable() || event.is_read_closed() || event.is_error(),
            writable: event.is_writable() || event.is_write_closed(),
        }
    }
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// A turn, without a further event.
    pub turn: bool,
    /// The events that its source should raise; `None` for a task without a source.
    pub interest: Option<Interest>,
    /// A turn at this time at the latest. A task that keeps a passed deadline gets a turn in every iteration, so one
    /// that can do nothing about it returns none.
    pub deadline: Option<Instant>,
}

/// A poll, the tasks that it watches, and the queue of those that want a turn. See the [module's documentation](self).
#[derive(Debug)]
pub struct Reactor<T> {
    poll: Poll,
    entries: Entries<Entry<T>>,
    /// Tasks that want a turn, each at most once; keys of removed tasks are skipped.
    ready: VecDeque<Key>,
    /// Tasks whose state was changed by the turn of another.
    touched: Vec<Key>,
    timers: Timers,
    alarm: Alarm,
    shutdown: Shutdown,
    /// Kept alive for `shutdown`, which wakes the poll through it.
    _waker: Arc<Waker>,
    spin: Duration,
    /// When a turn was last given.
    last_turn: Instant,
}

#[derive(Debug)]
struct Entry<T> {
    task: T,
    queued: bool,
    /// What the poll watches for; `None` when no source is registered.
    interest: Option<Interest>,
    timer: Timer,
}

impl<T> AsMut<Timer> for Entry<T> {
    fn as_mut(&mut self) -> &mut Timer {
        &mut self.timer
    }
}

impl<T: Copy + Debug> Reactor<T> {
    /// Creates a reactor without tasks, which `shutdown` wakes up.
    ///
    /// # Errors
    ///
    /// Returns an error if the poll or the waker cannot be created, typically `EMFILE`.
    pub fn new(shutdown: &Shutdown) -> io::Result<Self> {
        Self::with_precision(shutdown, Precision::Milliseconds)
    }

    /// Creates a reactor whose deadlines are met with the given precision.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_precision(shutdown: &Shutdown, precision: Precision) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        shutdown.register_waker(&waker);
        Ok(Self {
            alarm: Alarm::new(poll.registry(), precision)?,
            poll,
            entries: Entries::new(),
            ready: VecDeque::new(),
            touched: Vec::new(),
            timers: Timers::default(),
            shutdown: shutdown.clone(),
            _waker: waker,
            spin: Duration::ZERO,
            last_turn: Instant::now(),
        })
    }

    /// Polls without sleeping for this long after the last turn, which shortens the next wake-up and uses up a
    /// processor.
    pub fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// Returns the shutdown that wakes this reactor.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Adds a task and settles it; its state must exist already. Keep the key: it is needed to [touch](Self::touch) or
    /// [remove](Self::remove) the task. An event is raised even if the source was ready before.
    ///
    /// # Errors
    ///
    /// Returns what epoll_ctl(2), or its equivalent elsewhere, reports; the task is not added then.
    pub fn insert<H: Handler<Task = T>>(&mut self, task: T, handler: &mut H) -> io::Result<Key> {
        let key = self.entries.insert(Entry { task, queued: false, interest: None, timer: Timer::default() });
        match self.settle(key, handler) {
            Ok(()) => Ok(key),
            Err(error) => {
                self.entries.remove(key);
                Err(error)
            }
        }
    }

    /// Removes a task, possibly in its own turn, and its source from the poll.
    ///
    /// Nothing that is pending for the task, an event, a turn or a deadline, reaches the task that takes over its
    /// entry. Pass the source before it is dropped: closing a descriptor does not remove it from the poll while another
    /// process or a duplicate has it open.
    pub fn remove(&mut self, key: Key, source: Option<&mut dyn Source>) {
        if self.entries.remove(key).is_some_and(|entry| entry.interest.is_some())
            && let Some(source) = source
        {
            // Fails only for a source that is not registered, and then there is nothing to undo.
            let _ = self.poll.registry().deregister(source);
        }
    }

    /// Announces that the state of a task changed outside its own turns: the task is settled after the current turn.
    ///
    /// Needed if the change makes the task want a turn, another interest or an earlier deadline. Without it, a deadline
    /// that moved later gives a spurious turn at the old time.
    pub fn touch(&mut self, key: Key) {
        self.touched.push(key);
    }

    /// Runs until the handler [ends](Handler::before_wait) it. It may be called again after it returned `Ok`.
    ///
    /// # Errors
    ///
    /// Returns the first error of the handler, or of the poll.
    pub fn run<H: Handler<Task = T>>(&mut self, handler: &mut H) -> Result<(), H::Error> {
        let mut events = Events::with_capacity(EVENTS);
        while handler.before_wait(self)?.is_continue() {
            self.settle_touched(handler)?;
            self.iterate(&mut events, handler)?;
        }
        Ok(())
    }

    fn iterate<H: Handler<Task = T>>(&mut self, events: &mut Events, handler: &mut H) -> Result<(), H::Error> {
        let timeout = self.timeout();
        match self.poll.poll(events, timeout) {
            // By a signal that stops and continues the process, for instance.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        let now = Instant::now();
        for event in &*events {
            let key = Key::from(event.token());
            // The waker, the alarm, and removed tasks have no entry.
            if let Some(entry) = self.entries.get_mut(key) {
                handler.note(entry.task, event.into(), now);
                self.settle(key, handler)?;
            }
        }
        while let Some(key) = self.timers.pop_due(&mut self.entries, now) {
            if let Some(entry) = self.entries.get_mut(key) {
                enqueue(&mut self.ready, key, entry);
            }
        }
        // Iterations that only spin are not logged.
        if !events.is_empty() || !self.ready.is_empty() {
            let ready = self.ready.len();
            trace!("Iteration: timeout {timeout:?}, events {}, tasks ready {ready}", events.iter().count());
        }
        if !self.ready.is_empty() {
            self.last_turn = now;
        }
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.queued = false;
            let task = entry.task;
            trace!("Turn of {task:?}");
            handler.take_turn(task, now, self)?;
            self.settle(key, handler)?;
            self.settle_touched(handler)?;
        }
        Ok(())
    }

    fn timeout(&mut self) -> Option<Duration> {
        let spins = || !self.spin.is_zero() && self.last_turn.elapsed() < self.spin;
        if !self.ready.is_empty() || spins() {
            return Some(Duration::ZERO);
        }
        self.alarm.timeout(self.timers.earliest(&mut self.entries))
    }

    /// Asks a task what it wants, and acts on it. The only place that does either.
    fn settle<H: Handler<Task = T>>(&mut self, key: Key, handler: &mut H) -> io::Result<()> {
        let Some(entry) = self.entries.get_mut(key) else { return Ok(()) };
        let wants = handler.wants(entry.task);
        if wants.turn {
            enqueue(&mut self.ready, key, entry);
        }
        if wants.interest != entry.interest
            && let Some(source) = handler.source(entry.task)
        {
            let registry = self.poll.registry();
            match (entry.interest, wants.interest) {
                (None, Some(interest)) => registry.register(source, key.into(), interest)?,
                // An event is raised if the source is ready by now, so none is missed.
                (Some(_), Some(interest)) => registry.reregister(source, key.into(), interest)?,
                (_, None) => registry.deregister(source)?,
            }
            entry.interest = wants.interest;
        }
        if wants.deadline != entry.timer.deadline() {
            self.timers.set(&mut self.entries, key, wants.deadline);
        }
        Ok(())
    }

    fn settle_touched<H: Handler<Task = T>>(&mut self, handler: &mut H) -> io::Result<()> {
        while let Some(key) = self.touched.pop() {
            self.settle(key, handler)?;
        }
        Ok(())
    }
}

/// Appends a task to the ready queue, unless it is in there.
fn enqueue<T>(ready: &mut VecDeque<Key>, key: Key, entry: &mut Entry<T>) {
    if !entry.queued {
        entry.queued = true;
        ready.push_back(key);
    }
}
