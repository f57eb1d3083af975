//! The loop with scripted tasks.

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
fn event_of_removed_task_does_not_reach_the_task_in_its_entry() {
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
fn queued_turn_of_removed_task_is_not_given_to_the_task_in_its_entry() {
    let mut reactor = reactor();
    let mut script = Script::new(1, |tasks, task, _, reactor| {
        if task == 0 {
            let removed = tasks[1].key.expect("a key");
            reactor.remove(removed, None);
            let entry = Entry { task: 1, queued: false, interest: None, timer: Timer::default() };
            assert_eq!(reactor.entries.insert(entry).index(), removed.index());
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
