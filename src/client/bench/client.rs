//! One of the sockets of a bench: what is out on it, and whether more may leave.

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

/// How many datagrams a turn sends at the most before the answers are looked at.
const BURST: usize = 256;

/// How often a turn receives at the most: second answers may stand before the one that lets more leave.
const LOOKS: usize = 32;

/// What the clients of one generator use in turn, and what they find out together.
#[derive(Debug)]
pub struct Shared {
    target: SocketAddr,
    payload: Payload,
    /// As many payloads as one send carries, side by side.
    batch: Vec<u8>,
    segments: usize,
    inbox: ReceiveBatch,
    outbox: SendBatch,
    /// From when a datagram was due to its first answer.
    pub latencies: Latencies,
    /// From when a datagram was due to when it left.
    pub lateness: Latencies,
    /// Datagrams that came back.
    pub received: u64,
    /// Their payloads, in bytes.
    pub received_bytes: u64,
    /// Whether anything ever came back.
    pub heard: bool,
    /// How often somebody said that nobody listens.
    pub refused: u64,
    /// The first other error that a datagram met.
    pub error: Option<io::Error>,
}

impl Shared {
    /// Memory for sends of `segments` datagrams of `size` bytes each, and an inbox for the answers.
    pub fn new(target: SocketAddr, size: usize, segments: usize, inbox: ReceiveBatch) -> Self {
        let payload = Payload::new(size);
        Self {
            target,
            batch: payload.as_bytes().repeat(segments),
            payload,
            segments,
            inbox,
            outbox: SendBatch::default(),
            latencies: Latencies::new(),
            lateness: Latencies::new(),
            received: 0,
            received_bytes: 0,
            heard: false,
            refused: 0,
            error: None,
        }
    }

    /// Counts from zero again; what was said of the target stays known.
    pub fn start_over(&mut self) {
        self.latencies.clear();
        self.lateness.clear();
        (self.received, self.received_bytes) = (0, 0);
    }

    /// Notes what was wrong with one datagram.
    ///
    /// # Errors
    ///
    /// The socket itself is unusable.
    fn note(&mut self, error: io::Error) -> Result<(), Error> {
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

/// A socket of a bench. Readiness is state, as for the server's endpoints: an event sets it, and only a receive
/// that drained the socket, or a send that would have blocked, clears it.
#[derive(Debug)]
pub struct Client {
    /// For registering it.
    pub socket: Socket,
    tracker: Tracker,
    backlog: Backlog,
    writable: bool,
    /// How many datagrams may be out; 0 for an open loop, which does not ask.
    window: usize,
}

impl Client {
    /// A client with nothing out, which keeps `window` datagrams out by itself.
    pub fn new(socket: Socket, window: usize, timeout: Duration) -> Self {
        // Nothing is remembered after its timeout: late is lost here.
        let tracker = Tracker::new(timeout, Duration::ZERO);
        let backlog = Backlog::new(target::receive_buffer(&socket));
        Self { socket, tracker, backlog, writable: true, window }
    }

    /// Notes what an event said.
    pub fn note(&mut self, readable: bool, writable: bool, now: Instant) {
        if readable {
            self.backlog.arrived(now);
        }
        self.writable |= writable;
    }

    /// What the poll should report.
    pub fn interest(&self) -> Interest {
        if self.writable { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
    }

    /// A time by which all that had arrived has been received; the last poll was at `polled`.
    pub fn received_by(&self, polled: Instant) -> Option<Instant> {
        self.backlog.received_by(polled)
    }

    /// Whether a send may be tried.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// What is out, and how it ended.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// The same, for letting time pass.
    pub fn tracker_mut(&mut self) -> &mut Tracker {
        &mut self.tracker
    }

    /// Whether a turn would do anything now.
    pub fn wants_turn(&self, sending: bool, segments: usize) -> bool {
        !self.backlog.is_empty() || (sending && self.may_send(segments))
    }

    /// Receives until more may leave, or the socket is empty; then fills the window up, if `sending`. An open loop
    /// receives once: what is due does not wait for answers.
    ///
    /// # Errors
    ///
    /// The socket is unusable.
    pub fn take_turn(&mut self, sending: bool, shared: &mut Shared) -> Result<(), Error> {
        for look in 0..LOOKS {
            let enough = || self.window == 0 || (sending && self.may_send(shared.segments));
            if self.backlog.is_empty() || (look > 0 && enough()) {
                break;
            }
            self.receive(shared)?;
        }
        let mut left = BURST;
        while sending && left > 0 && self.may_send(shared.segments) {
            self.send(shared.segments, None, shared)?;
            left = left.saturating_sub(shared.segments);
        }
        Ok(())
    }

    /// Sends `count` datagrams with one send, not more than one send carries; returns how many are over with.
    ///
    /// `due` is when they should have left; without it, they are due when they leave.
    ///
    /// # Errors
    ///
    /// The socket is unusable.
    pub fn send(&mut self, count: usize, due: Option<Instant>, shared: &mut Shared) -> Result<usize, Error> {
        let size = shared.payload.size();
        let count = count.min(shared.segments);
        let mut batch = std::mem::take(&mut shared.batch);
        for place in 0..count {
            let sequence = self.tracker.next_sequence() + place as u64;
            shared.payload.write_sequence(sequence, &mut batch[place * size..(place + 1) * size]);
        }
        let mut datagrams = shared.outbox.take();
        datagrams.extend((0..count).map(|place| {
            let payload = &batch[place * size..(place + 1) * size];
            Outgoing { to: shared.target, from: None, parts: [payload, b"", b""] }
        }));
        let result = self.send_all(&datagrams, due, shared);
        shared.outbox.put_back(datagrams);
        shared.batch = batch;
        result
    }

    fn send_all(
        &mut self,
        datagrams: &[Outgoing<'_>],
        due: Option<Instant>,
        shared: &mut Shared,
    ) -> Result<usize, Error> {
        let mut done = 0;
        while done < datagrams.len() {
            let now = Instant::now();
            let sent = self.socket.send(&datagrams[done..]);
            // A refusal is what an earlier datagram met, told at the first opportunity: the next may be tried again.
            // What the system would not send keeps its place until the timeout, so that trying does not spin.
            let again = |kind| matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock);
            let lost = sent.error.as_ref().is_some_and(|error| !again(error.kind()));
            let over = sent.count + usize::from(lost);
            for _ in 0..over {
                self.tracker.record_sent(due.unwrap_or(now), now);
                if let Some(due) = due {
                    shared.lateness.record(now.saturating_duration_since(due));
                }
            }
            done += over;
            match sent.error {
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Some(error) => shared.note(error)?,
                None => {}
            }
        }
        Ok(done)
    }

    fn receive(&mut self, shared: &mut Shared) -> Result<(), Error> {
        let received = self.socket.receive(&mut shared.inbox);
        let now = Instant::now();
        for datagram in shared.inbox.datagrams() {
            shared.heard = true;
            shared.received += 1;
            shared.received_bytes += datagram.payload.len() as u64;
            let found = shared.payload.find_in(datagram.payload, self.tracker.next_sequence());
            if let Answer::First { round_trip, .. } = self.tracker.match_answer(found, now) {
                shared.latencies.record(round_trip);
            }
        }
        match received {
            Received::Drained => self.backlog.emptied(),
            Received::More => self.backlog.took(shared.inbox.charge(), now),
            Received::Failed(error) => {
                self.backlog.took(shared.inbox.charge(), now);
                shared.note(error)?;
            }
        }
        Ok(())
    }

    /// Whether the window has room for one more send. Answers that tell nothing of their datagrams are matched in
    /// order: where they are of that kind, all that have come are received before.
    fn may_send(&self, segments: usize) -> bool {
        self.writable
            && self.tracker.in_flight() + segments <= self.window
            && (self.tracker.repeats() || self.backlog.received_by(Instant::now()) > self.tracker.last_sent())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::net::IoBackend;

    /// A responder's socket, a client to it with so many datagrams in flight, and what the client uses.
    fn client(window: usize) -> (UdpSocket, Client, Shared) {
        let responder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        responder.set_nonblocking(true).expect("a socket");
        let address = responder.local_addr().expect("an address");
        let socket = target::open(address, IoBackend::Portable).expect("a socket");
        let mut client = Client::new(socket, window, Duration::from_secs(60));
        let mut shared = Shared::new(address, 64, 1, ReceiveBatch::with_slots(1));
        client.take_turn(true, &mut shared).expect("a turn");
        (responder, client, shared)
    }

    /// Answers one question twice; loopback delivers before a send is over.
    fn answer_twice(responder: &UdpSocket, client: &mut Client, answer: impl Fn(&[u8]) -> &[u8]) {
        let mut question = [0; 100];
        let (length, from) = responder.recv_from(&mut question).expect("a question");
        for _ in 0..2 {
            responder.send_to(answer(&question[..length]), from).expect("sent");
        }
        client.note(true, false, Instant::now());
    }

    /// How many were sent after a turn, and how many answers were second ones.
    fn turn(client: &mut Client, shared: &mut Shared) -> (u64, u64) {
        assert!(client.wants_turn(true, 1));
        client.take_turn(true, shared).expect("a turn");
        (client.tracker().counts().sent, client.tracker().counts().duplicate)
    }

    #[test]
    fn the_next_datagram_leaves_before_a_second_answer_is_looked_for() {
        let (responder, mut client, mut shared) = client(1);
        answer_twice(&responder, &mut client, |question| question);
        assert_eq!(turn(&mut client, &mut shared), (2, 0));
        assert_eq!(turn(&mut client, &mut shared), (2, 1));
        assert!(!client.wants_turn(true, 1), "drained, and waiting for an answer");
    }

    #[test]
    fn what_tells_nothing_of_its_question_is_received_before_the_next_datagram_leaves() {
        let (responder, mut client, mut shared) = client(1);
        answer_twice(&responder, &mut client, |_| b"I say this to everybody");
        assert_eq!(turn(&mut client, &mut shared), (2, 1));
    }

    #[test]
    fn an_answer_that_came_and_was_not_looked_at_yet_is_not_given_up() {
        let (responder, mut client, mut shared) = client(2 * LOOKS);
        let mut question = [0; 100];
        while let Ok((length, from)) = responder.recv_from(&mut question) {
            responder.send_to(&question[..length], from).expect("sent");
        }
        let arrived = Instant::now();
        client.note(true, false, arrived);
        client.take_turn(false, &mut shared).expect("a turn");
        assert_eq!(client.tracker().in_flight(), LOOKS);
        let much_later = arrived + Duration::from_secs(3600);
        assert_eq!(client.received_by(much_later), None, "not even if this process did not run for an hour");
        client.take_turn(false, &mut shared).expect("a turn");
        client.take_turn(false, &mut shared).expect("a turn");
        assert_eq!((client.tracker().in_flight(), client.received_by(much_later)), (0, Some(much_later)));
    }
}
