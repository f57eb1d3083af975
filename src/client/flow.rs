//! The socket of a flow, and what is known of its readiness.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;

use super::probe::backlog::Backlog;
use super::{Error, target};
use crate::net::{self, Datagram, IoBackend, ReceiveBatch, Received, Socket, Transport};
use crate::reactor::{Key, Readiness};

/// A connected socket. Readiness is state, as with the server's endpoints.
#[derive(Debug)]
pub struct Flow {
    /// Sends probes and receives their answers.
    pub socket: Socket,
    /// Its task in the reactor.
    pub key: Option<Key>,
    backlog: Backlog,
    writable: bool,
    /// ICMP errors, and when the latest of them was reported. The system reports one before the answers that came earlier.
    refusals: Vec<io::Error>,
    refused_at: Option<Instant>,
}

impl Flow {
    /// Opens a socket on a free port, connected to `target`.
    ///
    /// # Errors
    ///
    /// As [`target::open`].
    pub fn open(target: SocketAddr, io: IoBackend) -> io::Result<Self> {
        let socket = target::open(target, io)?;
        let backlog = Backlog::new(target::receive_buffer(&socket));
        Ok(Self { socket, key: None, backlog, writable: true, refusals: Vec::new(), refused_at: None })
    }

    /// Returns the source port of its probes; 0 if the system does not report it.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Records an event.
    pub fn note(&mut self, readiness: Readiness, now: Instant) {
        if readiness.readable {
            self.backlog.arrived(now);
        }
        self.writable |= readiness.writable;
    }

    /// Returns the events to wait for.
    pub fn interest(&self) -> Interest {
        if self.writable { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
    }

    /// Returns whether a send may be tried.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Records that a send would have blocked.
    pub fn would_block(&mut self) {
        self.writable = false;
    }

    /// Notes that answers may have arrived by `now`: one is looked for before its probe is given up.
    pub fn expect_answers(&mut self, now: Instant) {
        self.backlog.arrived(now);
    }

    /// Returns whether there is nothing to receive, as far as is known.
    pub fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Returns the latest known time such that everything that had arrived by then was received.
    pub fn received_by(&self) -> Option<Instant> {
        self.backlog.received_by()
    }

    /// Records an ICMP error that a call at `now` or later reported instead of what it should have done.
    pub fn note_refusal(&mut self, error: io::Error, now: Instant) {
        self.refusals.push(error);
        self.refused_at = self.refused_at.max(Some(now));
        self.backlog.arrived(now);
    }

    /// Returns the next ICMP error once all answers that came before it were received: it concerns the oldest probe that has
    /// no answer then.
    pub fn next_refusal(&mut self) -> Option<io::Error> {
        if self.refused_at > self.received_by() { None } else { self.refusals.pop() }
    }

    /// Receives one batch and returns the time after that. An error is [noted](Self::note_refusal). `before` is a time before
    /// the receive.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket itself is unusable.
    pub fn receive(&mut self, before: Instant, batch: &mut ReceiveBatch) -> Result<Instant, Error> {
        let received = self.socket.receive(batch);
        let now = Instant::now();
        match received {
            Received::Drained => self.backlog.drained(before),
            Received::More => self.backlog.took(batch.charge(), now),
            Received::Failed(error) => {
                check_socket(&error)?;
                self.backlog.took(batch.charge(), now);
                self.note_refusal(error, before);
            }
        }
        Ok(now)
    }
}

/// Returns an error if a socket itself is unusable.
///
/// # Errors
///
/// Returns [`Error::Failed`] then.
pub fn check_socket(error: &io::Error) -> Result<(), Error> {
    match net::is_broken(error) {
        true => Err(Error::Failed(format!("the socket became unusable: {error}"))),
        false => Ok(()),
    }
}

/// Returns when an answer arrived, by [`Clock::User`](super::report::Clock::User): the time after it was received. The
/// only place that decides this.
pub fn arrival(_: &Datagram<'_>, received: Instant) -> Instant {
    received
}
