//! One socket of a bench: what is in flight on it, and whether more may leave.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Interest;

use crate::client::Error;
use crate::client::probe::backlog::Backlog;
use crate::client::probe::latency::Latencies;
use crate::client::probe::payload::Payload;
use crate::client::probe::tracker::{Answer, Tracker};
use crate::client::target;
use crate::net::{self, Outgoing, ReceiveBatch, Received, SendBatch, Socket, Transport};
use crate::reactor::{Readiness, Wants};

/// At most this many datagrams per turn leave before answers are received again.
const BURST: usize = 256;

/// At most this many receives per turn: duplicates may precede the answer that lets the next datagram leave.
const RECEIVES: usize = 32;

/// The datagrams of one generator, and the buffers that its clients share, one turn at a time.
#[derive(Debug)]
pub struct Traffic {
    target: SocketAddr,
    payload: Payload,
    /// As many payloads as one send carries, side by side.
    payloads: Vec<u8>,
    /// How many datagrams one send carries.
    segments: usize,
    received: ReceiveBatch,
    outgoing: SendBatch,
}

impl Traffic {
    /// Creates buffers for sends of `segments` datagrams of `size` bytes each. Answers are received into `received`.
    pub fn new(target: SocketAddr, size: usize, segments: usize, received: ReceiveBatch) -> Self {
        let payload = Payload::new(size);
        let payloads = payload.as_bytes().repeat(segments);
        Self { target, payload, payloads, segments, received, outgoing: SendBatch::default() }
    }
}

/// What all clients of one generator have measured.
#[derive(Debug)]
pub struct Results {
    /// From when a datagram was due to its first answer.
    pub latencies: Latencies,
    /// From when a datagram was due to when it left.
    pub lateness: Latencies,
    /// Answers.
    pub received: u64,
    /// Their payloads, in bytes.
    pub received_bytes: u64,
    /// Whether there was ever an answer.
    pub heard: bool,
    /// How often the target's port was reported as closed.
    pub refused: u64,
    /// The first other error of a datagram.
    pub error: Option<io::Error>,
}

impl Results {
    /// Creates empty results.
    pub fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            lateness: Latencies::new(),
            received: 0,
            received_bytes: 0,
            heard: false,
            refused: 0,
            error: None,
        }
    }

    /// Clears what was measured; whether the target answers or refuses stays known.
    pub fn clear(&mut self) {
        self.latencies.clear();
        self.lateness.clear();
        (self.received, self.received_bytes) = (0, 0);
    }

    /// Records the error of a datagram.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket itself is unusable.
    fn note_error(&mut self, error: io::Error) -> Result<(), Error> {
        if net::is_broken(&error) {
            return Err(Error::Failed(format!("a socket became unusable: {error}")));
        }
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.refused += 1;
        } else {
            self.error.get_or_insert(error);
        }
        Ok(())
    }
}

/// A socket of a bench. Readiness is state, as with the server's endpoints.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    tracker: Tracker,
    backlog: Backlog,
    writable: bool,
    /// An event has just made it writable, which the schedule of an open loop may be waiting for.
    writable_again: bool,
    /// At most this many datagrams in flight; 0 in an open loop, which has no limit and sends by schedule.
    window: usize,
}

impl Client {
    /// Creates a client with nothing in flight, which keeps `window` datagrams in flight by itself.
    pub fn new(socket: Socket, window: usize, timeout: Duration) -> Self {
        // Nothing is remembered after its timeout: late answers count as lost.
        let tracker = Tracker::new(timeout, Duration::ZERO);
        let backlog = Backlog::new(target::receive_buffer(&socket));
        Self { socket, tracker, backlog, writable: true, writable_again: false, window }
    }

    /// Records an event.
    pub fn note(&mut self, readiness: Readiness, now: Instant) {
        if readiness.readable {
            self.backlog.arrived(now);
        }
        self.writable_again |= readiness.writable && !self.writable;
        self.writable |= readiness.writable;
    }

    /// Returns what the client waits for: events, its next timeout, or a turn.
    pub fn wants(&self, sending: bool, segments: usize) -> Wants {
        let interest = if self.writable { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        Wants {
            turn: !self.backlog.is_empty() || self.writable_again || (sending && self.may_send(segments)),
            interest: Some(interest),
            deadline: self.tracker.next_timeout(),
        }
    }

    /// Receives until more may leave, or the socket is empty; then fills the window if `sending`. An open loop receives
    /// once: what is due does not wait for answers.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is unusable.
    pub fn take_turn(
        &mut self,
        now: Instant,
        sending: bool,
        traffic: &mut Traffic,
        results: &mut Results,
    ) -> Result<(), Error> {
        self.writable_again = false;
        if self.tracker.next_timeout().is_some_and(|at| at <= now) {
            // A datagram is given up only if its answer is not in the socket.
            self.backlog.arrived(now);
        }
        for receives in 0..RECEIVES {
            let enough = || self.window == 0 || (sending && self.may_send(traffic.segments));
            if self.backlog.is_empty() || (receives > 0 && enough()) {
                break;
            }
            self.receive(now, traffic, results)?;
        }
        if let Some(time) = self.backlog.received_by() {
            while self.tracker.time_out(time).is_some() {}
            while self.tracker.lose(time).is_some() {}
        }
        let mut left = BURST;
        while sending && left > 0 && self.may_send(traffic.segments) {
            self.send(traffic.segments, None, traffic, results)?;
            left = left.saturating_sub(traffic.segments);
        }
        Ok(())
    }

    /// Sends up to `count` datagrams with one send; returns how many left or failed.
    ///
    /// `due` is when they should have left; without it, they are due when they leave.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is unusable.
    pub fn send(
        &mut self,
        count: usize,
        due: Option<Instant>,
        traffic: &mut Traffic,
        results: &mut Results,
    ) -> Result<usize, Error> {
        let Traffic { target, payload, payloads, segments, outgoing, .. } = traffic;
        let count = count.min(*segments);
        let size = payload.size();
        for place in 0..count {
            let sequence = self.tracker.next_sequence() + place as u64;
            payload.write_sequence(sequence, &mut payloads[place * size..(place + 1) * size]);
        }
        let mut datagrams = outgoing.take();
        datagrams.extend((0..count).map(|place| {
            let payload = &payloads[place * size..(place + 1) * size];
            Outgoing { to: *target, from: None, parts: [payload, b"", b""] }
        }));
        let result = self.send_all(&datagrams, due, results);
        outgoing.put_back(datagrams);
        result
    }

    /// Gives up everything that is in flight.
    pub fn lose_rest(&mut self) {
        while self.tracker.lose_rest().is_some() {}
    }

    /// Returns whether a send may be tried.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns how many datagrams are in flight.
    pub fn in_flight(&self) -> usize {
        self.tracker.in_flight()
    }

    /// Returns the datagrams and how they ended.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Starts counting again. Everything must have ended.
    pub fn start_over(&mut self) {
        self.tracker.reset_counts();
    }

    /// Returns the socket, for registering it.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn send_all(
        &mut self,
        datagrams: &[Outgoing<'_>],
        due: Option<Instant>,
        results: &mut Results,
    ) -> Result<usize, Error> {
        let mut done = 0;
        while done < datagrams.len() {
            let now = Instant::now();
            let sent = self.socket.send(&datagrams[done..]);
            // A refusal is the fate of an earlier datagram, and this one may be tried again. Any other error is its own:
            // it stays in flight until its timeout, so that trying again does not spin.
            let again = |kind| matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock);
            let failed = sent.error.as_ref().is_some_and(|error| !again(error.kind()));
            let left = sent.count + usize::from(failed);
            for _ in 0..left {
                self.tracker.record_sent(due.unwrap_or(now), now);
                if let Some(due) = due {
                    results.lateness.record(now.saturating_duration_since(due));
                }
            }
            done += left;
            match sent.error {
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Some(error) => results.note_error(error)?,
                None => {}
            }
        }
        Ok(done)
    }

    /// Receives one batch; `time` is a time before it.
    fn receive(&mut self, time: Instant, traffic: &mut Traffic, results: &mut Results) -> Result<(), Error> {
        let batch = &mut traffic.received;
        let received = self.socket.receive(batch);
        let now = Instant::now();
        for datagram in batch.datagrams() {
            results.heard = true;
            results.received += 1;
            results.received_bytes += datagram.payload.len() as u64;
            let found = traffic.payload.find_in(datagram.payload, self.tracker.next_sequence());
            if let Answer::First { round_trip, .. } = self.tracker.match_answer(found, now) {
                results.latencies.record(round_trip);
            }
        }
        match received {
            Received::Drained => self.backlog.drained(time),
            Received::More => self.backlog.took(batch.charge(), now),
            Received::Failed(error) => {
                self.backlog.took(batch.charge(), now);
                results.note_error(error)?;
            }
        }
        Ok(())
    }

    /// Returns whether the window has room for one more send. As long as answers do not repeat their datagrams and are
    /// matched in order, everything that has arrived is received first.
    fn may_send(&self, segments: usize) -> bool {
        self.writable
            && self.tracker.in_flight() + segments <= self.window
            && (self.tracker.repeats()
                || self.backlog.is_empty()
                || self.backlog.received_by() > self.tracker.last_sent())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::net::IoBackend;

    /// A responder, a client of it with a window, and what the client uses.
    struct Fixture {
        responder: UdpSocket,
        client: Client,
        traffic: Traffic,
        results: Results,
    }

    const READABLE: Readiness = Readiness { readable: true, writable: false };

    impl Fixture {
        fn new(window: usize) -> Self {
            let responder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            responder.set_nonblocking(true).expect("a socket");
            let address = responder.local_addr().expect("an address");
            let socket = target::open(address, IoBackend::Portable).expect("a socket");
            let client = Client::new(socket, window, Duration::from_secs(60));
            let traffic = Traffic::new(address, 64, 1, ReceiveBatch::with_slots(1));
            let mut fixture = Self { responder, client, traffic, results: Results::new() };
            fixture.take_turn(Instant::now(), true);
            fixture
        }

        fn take_turn(&mut self, now: Instant, sending: bool) {
            self.client.take_turn(now, sending, &mut self.traffic, &mut self.results).expect("a turn");
        }

        /// Answers every datagram `times` times; loopback delivers before a send returns.
        fn answer(&mut self, times: usize, answer: impl Fn(&[u8]) -> &[u8]) {
            let mut datagram = [0; 100];
            while let Ok((length, from)) = self.responder.recv_from(&mut datagram) {
                for _ in 0..times {
                    self.responder.send_to(answer(&datagram[..length]), from).expect("sent");
                }
            }
            self.client.note(READABLE, Instant::now());
        }

        /// Returns how many were sent after a turn, and how many answers were duplicates.
        fn sent_and_duplicate(&mut self) -> (u64, u64) {
            assert!(self.client.wants(true, 1).turn);
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
        assert!(!fixture.client.wants(true, 1).turn, "drained, and waiting for an answer");
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
}
