//! The real [`Endpoint`] over a scripted socket: proptest makes up the network, and every invariant is checked
//! after every step.
//!
//! The script reports no more than edge-triggered polling guarantees: a readable edge only when a datagram meets an
//! empty socket, and a writable edge only when room comes back after a send would have blocked.

#[cfg(feature = "impair")]
mod impaired;
#[cfg(feature = "stamp")]
mod stamp;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;
use proptest::collection::vec;
use proptest::prelude::*;

use super::endpoint::{Endpoint, Resources, TURN_BYTES, TURN_FAILURES};
use super::reply::ReplyTemplate;
use super::reply_queue::Share;
use crate::guard::Guard;
use crate::net::{LONGEST_PAYLOAD, Outgoing, ReceiveBatch, Received, SendBatch, Sent, Transport};
use crate::reactor::Readiness;

const READABLE: Readiness = Readiness { readable: true, writable: false };
const WRITABLE: Readiness = Readiness { readable: false, writable: true };

/// The longest request, in bytes.
const LONGEST: usize = 2_000;

/// The limit of a receive batch, in bytes: more than 32 single datagrams have, and less than coalesced ones may have.
const RECEIVE_LIMIT: usize = 32 * LONGEST + 1;

/// What a long template adds, in bytes: a turn sends 11 of its replies.
const LONG: usize = 100_000;

/// A socket and the network behind it.
#[derive(Debug, Default)]
struct Script {
    /// Datagrams that were not received yet, with the numbers that they carry.
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The first bytes of everything that left, in order, and the port that it went to.
    wire: Vec<(u16, Vec<u8>)>,
    sent_bytes: usize,
    /// How many datagrams the network takes before a send would block.
    room: usize,
    /// How many messages the next receives bring at the most.
    batch: usize,
    /// Whether datagrams of one source and size come as one message.
    coalesce: bool,
    /// Errors that the next receives report, and the next sends.
    receive_errors: VecDeque<i32>,
    send_errors: VecDeque<i32>,
    readable_edge: bool,
    writable_edge: bool,
    /// Replies that had to wait.
    owed: usize,
    /// A send would have blocked, and no edge was reported since.
    blocked: bool,
    receives: usize,
}

impl Script {
    fn arrive(&mut self, source: SocketAddr, payload: Vec<u8>) {
        self.readable_edge |= self.arrived.is_empty();
        self.arrived.push_back((source, payload));
    }

    fn drain(&mut self, room: usize) {
        self.writable_edge |= self.blocked && room > 0;
        self.room += room;
    }

    /// Takes the next message off the queue: one datagram, or several of one source and size.
    fn next_message(&mut self) -> Option<(SocketAddr, usize, Vec<u8>)> {
        let (source, mut bytes) = self.arrived.pop_front()?;
        let segment = bytes.len();
        while self.coalesce
            && segment > 0
            && self.arrived.front().is_some_and(|next| next.0 == source && next.1.len() == segment)
        {
            bytes.extend(self.arrived.pop_front().into_iter().flat_map(|next| next.1));
        }
        Some((source, segment, bytes))
    }
}

impl Transport for Script {
    fn receive(&mut self, inbox: &mut ReceiveBatch) -> Received {
        assert_eq!(self.owed, 0, "read while replies waited (invariant 3)");
        self.receives += 1;
        inbox.clear();
        for _ in 0..self.batch {
            let Some(slot) = inbox.slot() else { return Received::More };
            let Some((source, segment, bytes)) = self.next_message() else { return Received::Drained };
            slot[..bytes.len()].copy_from_slice(&bytes);
            inbox.push(bytes.len(), segment, source);
            if let Some(error) = self.receive_errors.pop_front() {
                return Received::Failed(io::Error::from_raw_os_error(error));
            }
        }
        Received::More
    }

    fn send(&mut self, datagrams: &[Outgoing<'_>]) -> Sent {
        self.owed = 0;
        let total = datagrams.iter().map(|run| run.count).sum::<usize>();
        for (count, datagram) in datagrams.iter().copied().flat_map(Outgoing::datagrams).enumerate() {
            if let Some(error) = self.send_errors.pop_front() {
                return Sent { count, error: Some(io::Error::from_raw_os_error(error)) };
            }
            if self.room == 0 {
                self.owed = total - count;
                self.blocked = true;
                return Sent { count, error: Some(io::ErrorKind::WouldBlock.into()) };
            }
            self.room -= 1;
            self.wire.push((datagram.to.port(), datagram.parts.iter().copied().flatten().copied().take(14).collect()));
            self.sent_bytes += datagram.length();
        }
        Sent { count: total, error: None }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Datagrams arrive, from these ports and with this much padding.
    Arrive(Vec<(u16, usize)>),
    /// The network takes this many more datagrams.
    Drain(usize),
    /// The loop polls, and reports the edges to the endpoint.
    Poll,
    /// The endpoint gets a turn, if it wants one.
    Turn,
    /// From now on a receive returns at most this many messages, coalesced or not.
    Batch(usize, bool),
    ReceiveErrors(Vec<i32>),
    SendErrors(Vec<i32>),
}

fn step() -> impl Strategy<Value = Step> {
    // Ports 0 and 53 are refused.
    let port = prop_oneof![Just(0), Just(53), 4000..4003_u16];
    let lost = || {
        prop_oneof![
            Just(libc::ENOBUFS),
            Just(libc::EPERM),
            Just(libc::EMSGSIZE),
            Just(libc::EINVAL),
            Just(libc::ENETUNREACH),
            Just(libc::ECONNREFUSED),
        ]
    };
    prop_oneof![
        3 => vec((port, prop_oneof![Just(0), 0..=LONGEST - 8]), 1..100).prop_map(Step::Arrive),
        3 => (0..80_usize).prop_map(Step::Drain),
        4 => Just(Step::Poll),
        6 => Just(Step::Turn),
        1 => (1..80_usize, any::<bool>()).prop_map(|(size, coalesce)| Step::Batch(size, coalesce)),
        1 => vec(lost(), 1..4).prop_map(Step::ReceiveErrors),
        1 => prop_oneof![vec(lost(), 1..4), vec(lost(), 200..400)].prop_map(Step::SendErrors),
    ]
}

struct Simulation {
    endpoint: Endpoint<Script>,
    resources: Resources,
    now: Instant,
    arrived: u64,
    /// In bytes.
    longest_reply: usize,
}

impl Simulation {
    fn new(room: usize) -> Self {
        Self::with_template(room, ReplyTemplate::around("Hello ", ""))
    }

    fn with_template(room: usize, template: ReplyTemplate) -> Self {
        let script = Script { room, batch: 64, ..Script::default() };
        let longest_reply = template.reply(&[b'x'; LONGEST]).concat().len();
        Self {
            endpoint: Endpoint::new(script, ([127, 0, 0, 1], 5000).into(), "hello", Some(template)),
            resources: Resources {
                received: ReceiveBatch::new().with_limit(RECEIVE_LIMIT),
                replies: SendBatch::default(),
                guard: Guard::new(vec![5000], 0, Instant::now()),
                share: Share::of(1),
            },
            now: Instant::now(),
            arrived: 0,
            longest_reply,
        }
    }

    fn script(&mut self) -> &mut Script {
        self.endpoint.socket_mut()
    }

    fn arrive(&mut self, port: u16, padding: usize) {
        let payload = format!("{:08}{}", self.arrived, "x".repeat(padding)).into_bytes();
        self.arrived += 1;
        // From loopback, which may ask for replies that are much longer than the request.
        self.script().arrive(([127, 0, 0, 1], port).into(), payload);
    }

    fn poll(&mut self) {
        if std::mem::take(&mut self.script().readable_edge) {
            self.endpoint.note(READABLE);
        }
        if std::mem::take(&mut self.script().writable_edge) {
            self.script().blocked = false;
            self.endpoint.note(WRITABLE);
        }
    }

    fn turn(&mut self) {
        if self.endpoint.wants().turn {
            let was_waiting = self.endpoint.statistics().unsent > 0;
            let (receives, sent_bytes) = (self.script().receives, self.script().sent_bytes);
            let send_errors = self.script().send_errors.len();
            self.endpoint.take_turn(self.now, &mut self.resources).expect("no datagram ends the loop (invariant 2)");
            // What exceeds the share was dropped and counted as failed.
            self.script().owed = usize::try_from(self.endpoint.statistics().unsent).expect("a count");
            assert!(self.script().receives <= receives + 1, "a turn received twice (invariant 5)");
            // What waited, and one batch; each may exceed the limit by one run.
            let most = (1 + usize::from(was_waiting)) * (TURN_BYTES + self.longest_reply.max(LONGEST_PAYLOAD));
            assert!(self.script().sent_bytes - sent_bytes <= most, "a turn sent too much (invariant 5)");
            let failed = send_errors - self.script().send_errors.len();
            assert!(failed <= (1 + usize::from(was_waiting)) * TURN_FAILURES, "too many sends failed (invariant 5)");
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive(datagrams) => datagrams.into_iter().for_each(|(port, padding)| self.arrive(port, padding)),
            Step::Drain(room) => self.script().drain(room),
            Step::Poll => self.poll(),
            Step::Turn => self.turn(),
            Step::Batch(batch, coalesce) => {
                self.script().batch = batch;
                self.script().coalesce = coalesce;
            }
            Step::ReceiveErrors(errors) => self.script().receive_errors = errors.into(),
            Step::SendErrors(errors) => self.script().send_errors = errors.into(),
        }
        self.check();
    }

    fn check(&self) {
        let (endpoint, script, statistics) = (&self.endpoint, self.endpoint.socket(), self.endpoint.statistics());
        let waiting = statistics.unsent > 0;
        if !script.arrived.is_empty() && !script.readable_edge && !waiting {
            assert!(endpoint.wants().turn, "nothing would bring the backlog back (invariant 1)");
        }
        assert_eq!(endpoint.wants().interest != Some(Interest::READABLE), waiting, "WRITABLE (invariant 4)");
        let most = if waiting { self.resources.share.bytes } else { 8 << 10 };
        assert!(endpoint.queue().allocated() <= most, "memory (invariant 3)");
        if waiting {
            assert_eq!(endpoint.wants().turn, !script.blocked, "replies are sent when they can be (invariant 4)");
        }
        for peer in 4000..4003 {
            let numbers = script.wire.iter().filter(|(port, _)| *port == peer).map(|(_, reply)| number(reply));
            assert!(numbers.is_sorted_by(|a, b| a < b), "the order of replies to one peer (invariant 4)");
        }
        assert_eq!(script.wire.len() as u64, statistics.answered);
        assert_eq!(self.arrived - script.arrived.len() as u64, statistics.received);
        let ends = statistics.answered + statistics.refused.total() + statistics.failed.total() + statistics.unsent;
        assert_eq!(statistics.received, ends, "the sum (invariant 6)");
    }

    /// The network recovers, and everything that was owed leaves, in as few turns as the limits allow.
    fn settle(&mut self) {
        let statistics = self.endpoint.statistics();
        let script = self.script();
        script.drain(usize::MAX / 2);
        let (arrived, failures) =
            (script.arrived.len(), script.receive_errors.len() + script.send_errors.len() / TURN_FAILURES);
        let most_sent = (arrived + statistics.unsent as usize) * self.longest_reply;
        // Full batches, failed receives, one that drains the socket, and what does not fit its turn.
        let batch = self.script().batch.min(32);
        let turns = arrived / batch + failures + 1 + most_sent.div_ceil(TURN_BYTES);
        for _ in 0..turns {
            self.poll();
            self.turn();
            self.check();
        }
        assert!(!self.endpoint.wants().turn, "more turns than needed");
        assert!(self.script().arrived.is_empty(), "unread datagrams are left");
        assert_eq!(self.endpoint.statistics().unsent, 0);
        assert_eq!(self.endpoint.statistics().received, self.arrived);
    }
}

/// The number that a greeting carries.
fn number(reply: &[u8]) -> u64 {
    let digits = reply.get(6..14).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no greeting: {reply:?}"))
}

proptest! {
    /// Invariants 1 to 6.
    #[test]
    fn invariants_hold_over_any_network(
        room in 0..200_usize,
        is_long: bool,
        share in prop_oneof![8_200..12_000_usize, Just(1 << 20)],
        steps in vec(step(), 1..100),
    ) {
        let after = if is_long { vec![b'!'; LONG] } else { Vec::new() };
        let mut simulation = Simulation::with_template(room, ReplyTemplate::around("Hello ", after));
        simulation.resources.share = Share { bytes: share };
        for step in steps {
            simulation.take(step);
        }
        simulation.settle();
    }

    #[test]
    fn flood_does_not_delay_the_end(room in 0..100_usize, flood in 1..200_usize) {
        let mut simulation = Simulation::new(room);
        (0..300).for_each(|_| simulation.arrive(4000, 0));
        simulation.endpoint.finish(300 * 832);
        for _ in 0..100 {
            (0..flood).for_each(|_| simulation.arrive(4000, 0));
            simulation.script().drain(flood);
            simulation.poll();
            simulation.turn();
        }
        simulation.script().drain(10_000);
        for _ in 0..20 {
            simulation.poll();
            simulation.turn();
        }
        prop_assert!(simulation.endpoint.is_settled());
        prop_assert!((300..800).contains(&simulation.endpoint.statistics().answered));
        simulation.arrive(4000, 0);
        simulation.poll();
        prop_assert!(simulation.endpoint.is_settled(), "a late datagram delays the end");
    }
}

/// Invariant 5 for sends that fail, as those to spoofed sources without a route do.
#[test]
fn failed_sends_end_a_turn() {
    let mut simulation = Simulation::new(1_000);
    simulation.script().coalesce = true;
    (0..200).for_each(|_| simulation.arrive(4000, 0));
    simulation.script().send_errors = [libc::EHOSTUNREACH; 150].into();
    simulation.poll();
    for failed in [TURN_FAILURES, 2 * TURN_FAILURES, 150] {
        simulation.turn();
        assert_eq!(simulation.endpoint.statistics().failed.total(), failed as u64);
        simulation.check();
    }
    assert_eq!(simulation.endpoint.statistics().answered, 50);
}

/// Invariant 2, the exception: trying again would spin.
#[test]
fn broken_socket_ends_the_loop() {
    let mut simulation = Simulation::new(100);
    (0..10).for_each(|_| simulation.arrive(4000, 0));
    simulation.script().send_errors = [libc::EPERM, libc::EBADF].into();
    simulation.poll();
    let error = simulation.endpoint.take_turn(simulation.now, &mut simulation.resources).expect_err("broken");
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    let statistics = simulation.endpoint.statistics();
    assert_eq!((statistics.received, statistics.failed.total(), statistics.unsent), (10, 1, 9));
}

#[test]
fn endless_receive_errors_end_the_loop() {
    struct Failing(u32);
    impl Transport for Failing {
        fn receive(&mut self, inbox: &mut ReceiveBatch) -> Received {
            inbox.clear();
            self.0 += 1;
            if self.0 == 90 {
                inbox.push(0, 0, SocketAddr::from(([192, 0, 2, 1], 4000)));
            }
            Received::Failed(io::Error::from_raw_os_error(libc::EIO))
        }

        fn send(&mut self, datagrams: &[Outgoing<'_>]) -> Sent {
            Sent { count: datagrams.len(), error: None }
        }
    }

    let Simulation { mut resources, now, .. } = Simulation::new(0);
    let mut endpoint = Endpoint::new(Failing(0), ([127, 0, 0, 1], 5000).into(), "discard", None);
    endpoint.note(READABLE);
    let turns = (1..).find(|_| endpoint.take_turn(now, &mut resources).is_err());
    assert_eq!(turns, Some(189), "a datagram starts the count again");
    assert_eq!(endpoint.statistics().receive_errors.total(), 189);
}
