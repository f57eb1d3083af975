//! One of the sockets of a bench: what is out on it, and whether more may leave.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Interest;

use super::latency::Latencies;
use super::payload::Payload;
use super::tracker::{Answer, Tracker};
use super::{Error, PATIENCE};
use crate::net::{self, Inbox, Outbox, Outgoing, Received, Socket, Transport};

/// How many datagrams a turn sends at the most before the answers are looked at.
const BURST: usize = 256;

/// What the lanes of one generator use in turn, and what they find out together.
#[derive(Debug)]
pub struct Shared {
    target: SocketAddr,
    payload: Payload,
    /// As many payloads as one send carries, side by side.
    batch: Vec<u8>,
    segments: usize,
    inbox: Inbox,
    outbox: Outbox,
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
    /// Memory for sends of `segments` datagrams of `size` bytes each.
    pub fn new(target: SocketAddr, size: usize, segments: usize) -> Self {
        let payload = Payload::new(size);
        Self {
            target,
            batch: payload.template().repeat(segments),
            payload,
            segments,
            inbox: Inbox::new(),
            outbox: Outbox::default(),
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
pub struct Lane {
    /// For registering it.
    pub socket: Socket,
    tracker: Tracker,
    readable: bool,
    /// Since when it was not seen empty.
    undrained: Option<Instant>,
    writable: bool,
    /// How many datagrams may be out; 0 for an open loop, which does not ask.
    window: usize,
}

impl Lane {
    /// A lane with nothing out, which keeps `window` datagrams out by itself.
    pub fn new(socket: Socket, window: usize, timeout: Duration) -> Self {
        // Nothing is remembered after its timeout: late is lost here.
        let tracker = Tracker::new(timeout, Duration::ZERO);
        Self { socket, tracker, readable: false, undrained: None, writable: true, window }
    }

    /// Notes what an event said.
    pub fn note(&mut self, readable: bool, writable: bool) {
        if readable {
            self.readable = true;
            self.undrained.get_or_insert_with(Instant::now);
        }
        self.writable |= writable;
    }

    /// What the poll should report.
    pub fn interest(&self) -> Interest {
        if self.writable { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
    }

    /// Whether everything was received that had arrived by the time of the last poll.
    pub fn has_caught_up(&self) -> bool {
        !self.readable || self.undrained.is_some_and(|since| since.elapsed() >= PATIENCE)
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
        self.readable || (sending && self.writable && self.has_room(segments))
    }

    /// Receives one inbox full; then fills the window up, if `sending`.
    ///
    /// # Errors
    ///
    /// The socket is unusable.
    pub fn take_turn(&mut self, sending: bool, shared: &mut Shared) -> Result<(), Error> {
        if self.readable {
            self.receive(shared)?;
        }
        let mut left = BURST;
        while sending && self.writable && left > 0 && self.has_room(shared.segments) {
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
            let sequence = self.tracker.next() + place as u64;
            shared.payload.number(sequence, &mut batch[place * size..(place + 1) * size]);
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
                self.tracker.sent(due.unwrap_or(now), now);
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
            let sighting = shared.payload.recognise(datagram.payload, self.tracker.next());
            if let Answer::First { round_trip, .. } = self.tracker.answer(sighting, now) {
                shared.latencies.record(round_trip);
            }
        }
        match received {
            Received::More => {}
            Received::Drained => (self.readable, self.undrained) = (false, None),
            Received::Failed(error) => shared.note(error)?,
        }
        Ok(())
    }

    fn has_room(&self, segments: usize) -> bool {
        self.tracker.in_flight() + segments <= self.window
    }
}
