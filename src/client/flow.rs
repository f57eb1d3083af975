//! The socket of a flow, and what is known of its readiness.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;

use super::probe::backlog::Backlog;
use super::{Error, target};
use crate::net::{
    self, Egress, Envelope, ErrorReport, IoBackend, Outgoing, ReceiveBatch, Received, Sent, Socket, Transport,
};
use crate::reactor::{Key, Readiness};

/// After this many errors of earlier datagrams a send is tried for the last time: a flood of ICMP errors must not stop
/// the loop.
const EARLIER_ERRORS: usize = 64;

/// A connected socket. Readiness is state, as with the server's endpoints.
#[derive(Debug)]
pub struct Flow {
    /// Sends probes and receives their answers.
    pub socket: Socket,
    /// Its task in the reactor.
    pub key: Option<Key>,
    backlog: Backlog,
    writable: bool,
    /// ICMP errors, and when the latest of them was reported. The system reports one before the answers that came
    /// earlier.
    refusals: VecDeque<Refusal>,
    refused_at: Option<Instant>,
}

/// An ICMP error that a datagram of a flow has caused.
#[derive(Debug)]
pub struct Refusal {
    /// Its text names its sender, where the system has error reports.
    pub error: io::Error,
    /// The beginning of the datagram's payload, as far as it is known.
    pub payload: Vec<u8>,
}

impl Flow {
    /// Opens a socket on a free port, connected to `target`, whose datagrams leave as `egress` says.
    ///
    /// # Errors
    ///
    /// As [`target::open`].
    pub fn open(target: SocketAddr, io: IoBackend, egress: &Egress) -> io::Result<Self> {
        let mut socket = target::open(target, io, egress)?;
        socket.enable_error_reports();
        let backlog = Backlog::new(target::receive_buffer(&socket));
        Ok(Self { socket, key: None, backlog, writable: true, refusals: VecDeque::new(), refused_at: None })
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

    /// Sends a run. An ICMP error that an earlier datagram has caused is returned by the first call after it, which
    /// sends nothing: it becomes a [refusal](Self::next_refusal), and the send is repeated. `now` is a time before.
    ///
    /// An error that is returned is that of the first datagram that did not leave, or that of a full send buffer.
    pub fn send(&mut self, run: &Outgoing<'_>, now: Instant) -> Sent {
        let mut count = 0;
        // What cannot be explained belongs to an earlier datagram if this one leaves at the second try.
        let mut unexplained: Option<io::Error> = None;
        for _ in 0..EARLIER_ERRORS {
            let sent = self.socket.send(&[run.slice(count, run.count - count)]);
            count += sent.count;
            let is_final = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock || net::is_broken(error);
            if sent.count > 0 || sent.error.as_ref().is_none_or(is_final) {
                unexplained.take().into_iter().for_each(|error| self.note_refusal(error.into(), now));
            }
            match sent.error {
                Some(error) if !is_final(&error) => {
                    if self.take_error_reports(now) {
                        continue;
                    }
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        self.note_refusal(error.into(), now);
                    } else if unexplained.is_some() {
                        return Sent { count, error: Some(error) };
                    } else {
                        unexplained = Some(error);
                    }
                }
                error => return Sent { count, error },
            }
        }
        let sent = self.socket.send(&[run.slice(count, run.count - count)]);
        Sent { count: count + sent.count, error: sent.error }
    }

    /// Takes all errors that the system has kept; returns whether there was one of an earlier datagram.
    fn take_error_reports(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(report) = self.socket.take_error_report() {
            // Its send has failed for that reason: it concerns no earlier datagram.
            if report.is_local() {
                continue;
            }
            any = true;
            self.note_refusal(report.into(), now);
        }
        any
    }

    /// Records an ICMP error that a call at `now` or later reported instead of what it should have done.
    fn note_refusal(&mut self, refusal: Refusal, now: Instant) {
        self.refusals.push_back(refusal);
        self.refused_at = self.refused_at.max(Some(now));
        self.backlog.arrived(now);
    }

    /// Returns the next ICMP error once all answers that came before it were received: unless its payload identifies a
    /// probe, it concerns the oldest one that has no answer then.
    pub fn next_refusal(&mut self) -> Option<Refusal> {
        if self.refused_at > self.received_by() { None } else { self.refusals.pop_front() }
    }

    /// Receives one batch and returns the time after that. ICMP errors become [refusals](Self::next_refusal). `before`
    /// is a time before the receive.
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
                if !self.take_error_reports(before) {
                    self.note_refusal(error.into(), before);
                }
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

/// Returns when the answers in an envelope arrived: by the kernel's clock if it has a time, otherwise the time after it
/// was `received`. The only place that decides this.
pub fn arrival(envelope: &Envelope, received: Instant) -> Instant {
    envelope.arrival.unwrap_or(received)
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { error, payload: Vec::new() }
    }
}

impl From<ErrorReport> for Refusal {
    fn from(mut report: ErrorReport) -> Self {
        let payload = std::mem::take(&mut report.payload);
        Self { error: report.into(), payload }
    }
}
