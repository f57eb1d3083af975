//! The event loop that every command runs on: it waits for events and deadlines, and gives turns to tasks.
//!
//! A [`Reactor`] owns the poll, the ready queue, the timers and the waker. It knows tasks by name only: an index, or an
//! enum where there are several kinds. A [`Handler`] owns everything else, sockets and buffers above all, so one task can
//! use what belongs to another by borrowing two fields of the handler.
//!
//! # One iteration
//!
//! 1. **Choose the timeout.** Zero if a task is queued, otherwise the time until the earliest deadline.
//! 2. **Poll.** The only place where the thread sleeps.
//! 3. **Record events.** Each event is noted in the state of its task, without I/O, and the task is *settled*: it is asked
//!    what it [`Wants`] now, and is queued if that is a turn.
//! 4. **Expire deadlines.** A task whose deadline has passed is queued.
//! 5. **Give turns.** Every task that is queued by now gets one turn, in order, and is settled again: it goes to the end of
//!    the queue if it wants another turn, its deadline is set, and the poll learns of a changed interest.
//!
//! Before each iteration the handler decides whether to [continue](Handler::before_wait).
//!
//! # Readiness is state
//!
//! Polling is edge-triggered: the system reports that a socket *became* readable, once, and not that it still is. A task
//! therefore keeps readiness in its state. An event sets it; only a receive that saw the socket empty clears it. The task
//! may stop reading at any point, to give others a turn or because it has no room for more, and still knows that there is
//! more to read. The same holds for writability and a send that would have blocked. Events may be spurious: acting on one
//! must be harmless.
//!
//! # Turns are bounded
//!
//! A turn does a limited amount of work, one batch of datagrams for instance, and asks for another turn if there is more.
//! A flood on one socket thus delays the other tasks, the timers and the shutdown by one turn of each task, a matter of
//! milliseconds, however long it lasts.
//!
//! # Where a deadline, an event and a wake-up meet
//!
//! In the poll, which each of them ends. An *event* comes from a registered source. A *deadline* ends the poll by its
//! timeout, or by a timer among the sources ([`Precision`]); it only queues its task, so that the turn finds events and
//! the passed deadline together and neither starves the other. A *wake-up* comes from another thread
//! ([`Shutdown::request`]) and has no task: the flag that it stands for is checked before each wait.
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

pub mod shutdown;
mod slots;
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

use shutdown::Shutdown;
pub use slots::Key;
use slots::Slots;
pub use timers::Precision;
use timers::{Alarm, Timers};

/// Not a key: no slab is that large.
const WAKER: Token = Token(usize::MAX);

/// At most this many events per poll; the next poll reports the others.
const EVENTS: usize = 256;

/// Owns the sources and the state of all tasks of a [`Reactor`], and acts for them.
pub trait Handler {
    /// Names a task: `()` for the only one, an index, or an enum where there are several kinds.
    type Task: Copy + Debug;

    /// Ends [`Reactor::run`]. What the poll reports becomes one of these, too.
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
    /// An error ends the loop, so it is for what concerns the whole program.
    fn take_turn(
        &mut self,
        task: Self::Task,
        now: Instant,
        reactor: &mut Reactor<Self::Task>,
    ) -> Result<(), Self::Error>;

    /// Returns what the poll should watch for `task`; `None` for a task that has deadlines only.
    fn source(&mut self, task: Self::Task) -> Option<&mut dyn Source>;

    /// Decides before each iteration whether to go on. The default goes on until a shutdown is requested.
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
    /// A receive may be tried: there is something to receive, an error to learn of, or the peer closed its side.
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
    /// A turn at this time at the latest. A task that keeps a passed deadline gets a turn in every iteration, so one that
    /// can do nothing about it returns none.
    pub deadline: Option<Instant>,
}

/// A poll, the tasks that it watches, and the queue of those that want a turn. See the [module's documentation](self).
#[derive(Debug)]
pub struct Reactor<T> {
    poll: Poll,
    slots: Slots<Slot<T>>,
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
struct Slot<T> {
    task: T,
    queued: bool,
    /// What the poll watches for, `None` when the task is not registered.
    interest: Option<Interest>,
    /// What the timers are set to.
    deadline: Option<Instant>,
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
            slots: Slots::new(),
            ready: VecDeque::new(),
            touched: Vec::new(),
            timers: Timers::default(),
            shutdown: shutdown.clone(),
            _waker: waker,
            spin: Duration::ZERO,
            last_turn: Instant::now(),
        })
    }

    /// Polls without sleeping for this long after the last turn, which shortens the next wake-up and uses up a processor.
    pub fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// Returns the shutdown that wakes this reactor.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Adds a task and settles it. Its first event is raised even if its source was ready before.
    ///
    /// # Errors
    ///
    /// Returns what epoll_ctl(2), or its equivalent elsewhere, reports; the task is not added then.
    pub fn insert<H: Handler<Task = T>>(&mut self, task: T, handler: &mut H) -> io::Result<Key> {
        let key = self.slots.insert(Slot { task, queued: false, interest: None, deadline: None });
        match self.settle(key, handler) {
            Ok(()) => Ok(key),
            Err(error) => {
                self.slots.remove(key);
                self.timers.remove(key);
                Err(error)
            }
        }
    }

    /// Removes a task, and its source from the poll. Nothing that was pending for it, an event, a turn or a deadline,
    /// reaches the task that takes over its slot.
    pub fn remove(&mut self, key: Key, source: Option<&mut dyn Source>) {
        if self.slots.remove(key).is_some_and(|slot| slot.interest.is_some())
            && let Some(source) = source
        {
            // Fails only for a source that is not registered, and then there is nothing to undo.
            let _ = self.poll.registry().deregister(source);
        }
        self.timers.remove(key);
    }

    /// Announces that the state of a task changed outside its own turns: the task is settled after the current turn.
    ///
    /// Needed if the change makes the task want a turn, another interest or an earlier deadline.
    pub fn touch(&mut self, key: Key) {
        self.touched.push(key);
    }

    /// Runs until the handler [ends](Handler::before_wait) it. It may be called again.
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
            // The waker, the alarm, and removed tasks have no slot.
            if let Some(slot) = self.slots.get_mut(key) {
                handler.note(slot.task, event.into(), now);
                self.settle(key, handler)?;
            }
        }
        while let Some(key) = self.timers.pop_due(now) {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.deadline = None;
                enqueue(&mut self.ready, key, slot);
            }
        }
        // Not for each iteration that only spins.
        if !events.is_empty() || !self.ready.is_empty() {
            trace!(
                "Iteration: timeout {timeout:?}, events {}, tasks ready {}",
                events.iter().count(),
                self.ready.len()
            );
        }
        if !self.ready.is_empty() {
            self.last_turn = now;
        }
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.queued = false;
            let task = slot.task;
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
        self.alarm.timeout(self.timers.earliest())
    }

    /// Asks a task what it wants, and acts on it. The only place that does either.
    fn settle<H: Handler<Task = T>>(&mut self, key: Key, handler: &mut H) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(key) else { return Ok(()) };
        let wants = handler.wants(slot.task);
        if wants.turn {
            enqueue(&mut self.ready, key, slot);
        }
        if wants.deadline != slot.deadline {
            slot.deadline = wants.deadline;
            self.timers.set(key, wants.deadline);
        }
        if wants.interest != slot.interest
            && let (Some(interest), Some(source)) = (wants.interest, handler.source(slot.task))
        {
            let registry = self.poll.registry();
            match slot.interest {
                None => registry.register(source, key.into(), interest)?,
                // An event is raised if the source is ready by now, so none is missed.
                Some(_) => registry.reregister(source, key.into(), interest)?,
            }
            slot.interest = Some(interest);
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
fn enqueue<T>(ready: &mut VecDeque<Key>, key: Key, slot: &mut Slot<T>) {
    if !slot.queued {
        slot.queued = true;
        ready.push_back(key);
    }
}

#[cfg(test)]
mod tests {
    use mio::net::UdpSocket;

    use super::*;

    /// Runs a step in each turn, and records what the tasks went through.
    struct Script {
        tasks: Vec<Recorded>,
        /// The tasks that had turns, in order.
        turns: Vec<usize>,
        step: Step,
        iterations: usize,
    }

    type Step = fn(&mut Vec<Recorded>, usize, Instant, &mut Reactor<usize>);

    struct Recorded {
        key: Option<Key>,
        socket: Option<UdpSocket>,
        wants: Wants,
        notes: usize,
        turns: usize,
    }

    impl Script {
        /// A script that ends with a shutdown, or after this many iterations.
        fn new(iterations: usize, step: Step) -> Self {
            Self { tasks: Vec::new(), turns: Vec::new(), step, iterations }
        }

        fn insert(&mut self, reactor: &mut Reactor<usize>, socket: Option<UdpSocket>, wants: Wants) {
            self.tasks.push(Recorded { key: None, socket, wants, notes: 0, turns: 0 });
            let task = self.tasks.len() - 1;
            let key = reactor.insert(task, self).expect("a task");
            self.tasks[task].key = Some(key);
        }
    }

    impl Handler for Script {
        type Task = usize;
        type Error = io::Error;

        fn note(&mut self, task: usize, _: Readiness, _: Instant) {
            self.tasks[task].notes += 1;
            self.tasks[task].wants.turn = true;
        }

        fn wants(&self, task: usize) -> Wants {
            self.tasks[task].wants
        }

        fn take_turn(&mut self, task: usize, now: Instant, reactor: &mut Reactor<usize>) -> io::Result<()> {
            self.turns.push(task);
            self.tasks[task].turns += 1;
            (self.step)(&mut self.tasks, task, now, reactor);
            Ok(())
        }

        fn source(&mut self, task: usize) -> Option<&mut dyn Source> {
            self.tasks[task].socket.as_mut().map(|socket| socket as &mut dyn Source)
        }

        fn before_wait(&mut self, reactor: &mut Reactor<usize>) -> io::Result<ControlFlow<()>> {
            if self.iterations == 0 || reactor.shutdown().is_requested() {
                return Ok(ControlFlow::Break(()));
            }
            self.iterations -= 1;
            Ok(ControlFlow::Continue(()))
        }
    }

    const TURN: Wants = Wants { turn: true, interest: None, deadline: None };
    const READABLE: Wants = Wants { turn: false, interest: Some(Interest::READABLE), deadline: None };

    fn reactor() -> Reactor<usize> {
        Reactor::new(&Shutdown::new()).expect("a reactor")
    }

    fn socket() -> UdpSocket {
        UdpSocket::bind(([127, 0, 0, 1], 0).into()).expect("a free port")
    }

    fn send_to(socket: &UdpSocket) {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        peer.send_to(b"x", socket.local_addr().expect("an address")).expect("sent");
    }

    #[test]
    fn event_of_removed_task_does_not_reach_the_task_in_its_slot() {
        let mut reactor = reactor();
        let mut script = Script::new(3, |tasks, task, _, _| tasks[task].wants.turn = false);
        script.insert(&mut reactor, Some(socket()), READABLE);
        let removed = script.tasks[0].key.expect("a key");
        // The source stays in the poll, as one does that a child process has inherited.
        reactor.remove(removed, None);
        script.insert(&mut reactor, Some(socket()), READABLE);
        assert_eq!(script.tasks[1].key.expect("a key").index(), removed.index());
        script.insert(&mut reactor, None, TURN);
        let deadline = Some(Instant::now() + Duration::from_millis(1));
        script.insert(&mut reactor, None, Wants { deadline, ..Wants::default() });
        send_to(script.tasks[0].socket.as_ref().expect("a socket"));
        reactor.run(&mut script).expect("no error");
        assert!(script.tasks.iter().all(|task| task.notes == 0));
        assert!(!script.turns.contains(&0) && !script.turns.contains(&1));
    }

    #[test]
    fn queued_turn_of_removed_task_is_not_given_to_the_task_in_its_slot() {
        let mut reactor = reactor();
        let mut script = Script::new(1, |tasks, task, _, reactor| {
            if task == 0 {
                let removed = tasks[1].key.expect("a key");
                reactor.remove(removed, None);
                let slot = Slot { task: 1, queued: false, interest: None, deadline: None };
                assert_eq!(reactor.slots.insert(slot).index(), removed.index());
            }
        });
        script.insert(&mut reactor, None, TURN);
        script.insert(&mut reactor, None, TURN);
        reactor.run(&mut script).expect("no error");
        assert_eq!(script.turns, [0]);
    }

    #[test]
    fn tasks_that_always_want_turns_alternate() {
        let mut reactor = reactor();
        let mut script = Script::new(3, |_, _, _, _| {});
        (0..3).for_each(|_| script.insert(&mut reactor, None, TURN));
        reactor.run(&mut script).expect("no error");
        assert_eq!(script.turns, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn readiness_before_insert_raises_an_event() {
        let mut reactor = reactor();
        let mut script = Script::new(1, |_, _, _, _| {});
        let socket = socket();
        send_to(&socket);
        script.insert(&mut reactor, Some(socket), READABLE);
        reactor.run(&mut script).expect("no error");
        assert_eq!((script.tasks[0].notes, script.tasks[0].turns), (1, 1));
    }

    #[test]
    fn touched_task_is_settled() {
        let mut reactor = reactor();
        let mut script = Script::new(2, |tasks, task, _, reactor| {
            if task == 0 {
                tasks[1].wants.turn = true;
                reactor.touch(tasks[1].key.expect("a key"));
            }
        });
        script.insert(&mut reactor, None, TURN);
        script.insert(&mut reactor, None, Wants::default());
        reactor.run(&mut script).expect("no error");
        assert_eq!(script.turns, [0, 0, 1]);
    }

    #[test]
    fn deadline_gives_one_turn_and_never_early() {
        for precision in [Precision::Milliseconds, Precision::Exact] {
            let mut reactor = Reactor::with_precision(&Shutdown::new(), precision).expect("a reactor");
            // Task 0 sets its deadline again and again, task 1 does not.
            let mut script = Script::new(usize::MAX, |tasks, task, now, reactor| {
                let Recorded { wants, turns, .. } = &mut tasks[task];
                assert!(wants.deadline.is_some_and(|deadline| deadline <= now), "early");
                wants.deadline = (task == 0).then(|| now + Duration::from_micros(300));
                if *turns == 20 {
                    reactor.shutdown().request();
                }
            });
            let deadline = Some(Instant::now() + Duration::from_millis(2));
            (0..2).for_each(|_| script.insert(&mut reactor, None, Wants { deadline, ..Wants::default() }));
            reactor.run(&mut script).expect("no error");
            assert_eq!((script.tasks[0].turns, script.tasks[1].turns), (20, 1), "{precision:?}");
        }
    }
}
