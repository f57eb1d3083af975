//! The tests of a bench's client, over loopback.

use std::net::UdpSocket;

use super::*;
use crate::net::IoBackend;

/// A responder, a client of it with a window, and what the client uses.
struct Fixture {
    responder: UdpSocket,
    client: Client,
    traffic: Traffic,
    results: Results,
    /// The flow that has the turns.
    flow: usize,
}

const READABLE: Readiness = Readiness { readable: true, writable: false };

impl Fixture {
    fn new(window: usize) -> Self {
        let responder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        responder.set_nonblocking(true).expect("a socket");
        let address = responder.local_addr().expect("an address");
        let setup = Setup {
            target: address,
            io: IoBackend::Portable,
            egress: Egress::default(),
            window,
            timeout: Duration::from_secs(60),
            flows: 64,
            remembered: 1000,
        };
        let client = Client::new(setup).expect("a socket");
        let traffic = Traffic::new(address, Payload::new(64), 1, ReceiveBatch::with_slots(1));
        let mut fixture = Self { responder, client, traffic, results: Results::new(), flow: 0 };
        fixture.take_turn(Instant::now(), true);
        fixture
    }

    fn take_turn(&mut self, now: Instant, sending: bool) {
        self.client.take_turn(self.flow, now, sending, &mut self.traffic, &mut self.results).expect("a turn");
    }

    /// Answers every datagram `times` times; loopback delivers before a send returns.
    fn answer(&mut self, times: usize, answer: impl Fn(&[u8]) -> &[u8]) {
        let mut datagram = [0; 100];
        while let Ok((length, from)) = self.responder.recv_from(&mut datagram) {
            for _ in 0..times {
                self.responder.send_to(answer(&datagram[..length]), from).expect("sent");
            }
        }
        self.client.note(0, READABLE, Instant::now());
    }

    /// Returns how many were sent after a turn, and how many answers were duplicates.
    fn sent_and_duplicate(&mut self) -> (u64, u64) {
        assert!(self.client.wants(0, true, 1).turn);
        self.take_turn(Instant::now(), true);
        (self.client.tracker().counts().sent, self.client.tracker().counts().duplicate)
    }
}

#[test]
fn next_datagram_leaves_before_a_duplicate_is_received() {
    let mut fixture = Fixture::new(1);
    fixture.answer(2, |datagram| datagram);
    assert_eq!(fixture.sent_and_duplicate(), (2, 0));
    assert_eq!(fixture.sent_and_duplicate(), (2, 1));
    assert!(!fixture.client.wants(0, true, 1).turn, "drained, and waiting for an answer");
}

#[test]
fn answers_matched_in_order_are_received_before_the_next_datagram_leaves() {
    let mut fixture = Fixture::new(1);
    fixture.answer(2, |_| b"the same to everybody");
    assert_eq!(fixture.sent_and_duplicate(), (2, 1));
}

#[test]
fn datagram_is_not_given_up_while_its_answer_is_unread() {
    let mut fixture = Fixture::new(2 * RECEIVES);
    fixture.answer(1, |datagram| datagram);
    fixture.take_turn(Instant::now(), true);
    assert_eq!(fixture.client.in_flight(), 2 * RECEIVES, "the first answer opens the window");
    fixture.answer(1, |datagram| datagram);
    // As if this process had been stopped for an hour.
    let later = Instant::now() + Duration::from_secs(3600);
    fixture.take_turn(later, false);
    assert_eq!(fixture.client.in_flight(), RECEIVES);
    fixture.take_turn(later, false);
    assert_eq!(fixture.client.tracker().counts().lost, 0);
    assert_eq!(fixture.client.in_flight(), 0);
}

#[test]
fn datagram_is_given_up_once_the_socket_is_empty() {
    let mut fixture = Fixture::new(1);
    fixture.take_turn(Instant::now() + Duration::from_secs(59), false);
    assert_eq!(fixture.client.in_flight(), 1);
    fixture.take_turn(Instant::now() + Duration::from_secs(61), false);
    assert_eq!((fixture.client.in_flight(), fixture.client.tracker().counts().lost), (0, 1));
}

#[test]
fn refused_datagram_keeps_its_place_for_a_while() {
    let mut fixture = Fixture::new(1);
    drop(std::mem::replace(&mut fixture.responder, UdpSocket::bind("127.0.0.1:0").expect("a free port")));
    let now = Instant::now();
    fixture.take_turn(now + Duration::from_secs(61), true);
    assert_eq!((fixture.client.tracker().counts().lost, fixture.client.in_flight()), (1, 1));
    // The silent flow was retired, and the port is closed now.
    fixture.flow = 1;
    fixture.client.note(1, READABLE, now);
    fixture.take_turn(now, true);
    assert_eq!((fixture.client.tracker().counts().refused, fixture.client.in_flight()), (1, 0));
    assert!(!fixture.client.wants(1, true, 1).turn);
    fixture.take_turn(now + HOLD - Duration::from_millis(1), true);
    assert_eq!(fixture.client.in_flight(), 0);
    fixture.take_turn(now + HOLD, true);
    assert_eq!(fixture.client.in_flight(), 1);
}

#[test]
fn next_run_begins_without_what_the_last_one_measured() {
    let mut fixture = Fixture::new(1);
    fixture.answer(1, |datagram| datagram);
    let now = Instant::now();
    fixture.results.record_sent(Some(now), now + Duration::from_secs(1));
    fixture.take_turn(now, false);
    assert_eq!((fixture.results.answered_in_window, fixture.client.tracker().counts().answered), (0, 1));
    fixture.results.start_over(now);
    fixture.client.start_over(now);
    fixture.take_turn(now, true);
    assert_eq!((fixture.client.in_flight(), fixture.client.tracker().counts().sent), (1, 1));
    fixture.answer(1, |datagram| datagram);
    fixture.take_turn(Instant::now(), true);
    let Results { latencies, lateness, answered_in_window, received_bytes, .. } = &fixture.results;
    assert_eq!((latencies.histogram().len(), lateness.histogram().len()), (1, 0));
    assert_eq!((*answered_in_window, *received_bytes), (1, 64));
}

#[test]
fn answers_that_repeat_nothing_get_a_flow_each() {
    let mut fixture = Fixture::new(3);
    fixture.answer(1, |_| b"the same to everybody");
    fixture.take_turn(Instant::now(), true);
    assert_eq!((fixture.client.in_flight(), fixture.client.flows.len()), (3, 4), "one flow rests");
}

#[test]
fn refusal_is_that_of_the_datagram_behind_the_answers_that_came_before() {
    let mut fixture = Fixture::new(2);
    fixture.answer(1, |datagram| datagram);
    fixture.take_turn(Instant::now(), true);
    assert_eq!(fixture.client.in_flight(), 2);
    // Answers one datagram of the two, and closes before the third arrives.
    let mut datagram = [0; 100];
    let (length, from) = fixture.responder.recv_from(&mut datagram).expect("a datagram");
    fixture.responder.send_to(&datagram[..length], from).expect("sent");
    drop(std::mem::replace(&mut fixture.responder, UdpSocket::bind("127.0.0.1:0").expect("a free port")));
    fixture.client.setup.window = 3;
    fixture.client.send(1, None, &mut fixture.traffic, &mut fixture.results).expect("sent");
    fixture.client.note(0, READABLE, Instant::now());
    for _ in 0..3 {
        fixture.take_turn(Instant::now(), false);
    }
    let counts = *fixture.client.tracker().counts();
    assert_eq!((counts.answered, counts.refused, counts.duplicate), (2, 1, 0));
}
