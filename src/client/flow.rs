//! The socket of a flow, and what is known of its readiness.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;

use super::probe::backlog::Backlog;
use super::target;
use crate::net::{Datagram, Egress, IoBackend, ReceiveBatch, Received, Socket, Transport};
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
}

impl Flow {
    /// Opens a socket on a free port, connected to `target`, whose datagrams leave as `egress` says.
    ///
    /// # Errors
    ///
    /// As [`target::open`].
    pub fn open(target: SocketAddr, io: IoBackend, egress: &Egress) -> io::Result<Self> {
        let socket = target::open(target, io, egress)?;
        let backlog = Backlog::new(target::receive_buffer(&socket));
        Ok(Self { socket, key: None, backlog, writable: true })
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

    /// Receives one batch and returns the time after that, and the error that ended it, if any. `before` is a time before
    /// the receive.
    pub fn receive(&mut self, before: Instant, batch: &mut ReceiveBatch) -> (Instant, Option<io::Error>) {
        let received = self.socket.receive(batch);
        let now = Instant::now();
        let error = match received {
            Received::Drained => {
                self.backlog.drained(before);
                return (now, None);
            }
            Received::More => None,
            Received::Failed(error) => Some(error),
        };
        self.backlog.took(batch.charge(), now);
        (now, error)
    }
}

/// Returns when an answer arrived, by [`Clock::User`](super::report::Clock::User): the time after it was received. The
/// only place that decides this.
pub fn arrival(_: &Datagram<'_>, received: Instant) -> Instant {
    received
}
