//! One socket and what it owes: flush, receive, answer, send or queue.
//!
//! Here alone meet the socket, the guard, the template and the queue; none of them knows the others. The event
//! loop says what happened ([`readable`](Endpoint::readable), [`writable`](Endpoint::writable)) and gives
//! turns; what a turn does follows from the endpoint's state:
//!
//! | | no reply waits | replies wait |
//! |---|---|---|
//! | readable event | remember it; a turn is wanted | remember it; nothing is read before the replies have left |
//! | writable event | remember it | remember it; a turn is wanted |
//! | a turn | receive, answer, send; what would block waits | send what waits; if all left, as on the left |
//! | receive: drained | not readable until the next event | (does not happen) |
//! | send: would block | not writable until the next event; the rest waits | the same |
//! | interest | READABLE | READABLE and WRITABLE |

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{Level, info, log_enabled, warn};
use mio::Interest;

use super::reply::ReplyTemplate;
use super::reply_queue::ReplyQueue;
use super::statistics::Statistics;
use crate::guard::{Guard, Refusal};
use crate::logging::escape::Escaped;
use crate::logging::throttle::Throttle;
use crate::net::{self, Datagram, Outgoing, ReceiveBatch, Received, SendBatch, Transport};

/// The log target of the lines about single datagrams, which `-q` takes away.
pub const DATAGRAM_LOG: &str = "udpong::datagram";

/// After so many failing receives without a datagram in between, an endpoint counts as broken.
///
/// Only receives count: they fail one at a time and without anybody's help, whereas a stranger can make any
/// number of sends fail in a row with forged sources that no route leads to.
const ERRORS_IN_A_ROW: u32 = 100;

/// What the endpoints of one loop use in turn.
#[derive(Debug)]
pub struct Shared {
    /// Where datagrams are received.
    pub inbox: ReceiveBatch,
    /// Where replies are collected.
    pub outbox: SendBatch,
    /// Who is not answered.
    pub guard: Guard,
}

/// A socket, the service on it, and the replies that it still owes.
///
/// - Readiness is state: an event sets it, and only a receive that drained the socket clears it. With
///   edge-triggered polling nothing else would bring the rest of the backlog back (invariant 1).
/// - No datagram and no error of one datagram ends anything: it is counted, and the next one is served
///   (invariant 2).
/// - While replies wait the socket is not read, so memory is bounded, and the backlog stays in the kernel's
///   receive buffer, which counts what it drops (invariant 3).
/// - WRITABLE is wanted exactly while replies wait, and no new reply overtakes a waiting one, nor one to the
///   same peer (invariant 4).
/// - A turn handles one inbox at the most (invariant 5).
///
/// All of these are defended by `server::simulation`.
#[derive(Debug)]
pub struct Endpoint<S> {
    socket: S,
    address: SocketAddr,
    service: &'static str,
    /// `None`: nothing is answered.
    template: Option<ReplyTemplate>,
    readable: bool,
    /// A send may be tried. True until a send would block, since a fresh socket is writable.
    writable: bool,
    queue: ReplyQueue,
    /// How much may still be received, as the kernel charges it, once the end was announced.
    backlog: Option<usize>,
    receive_errors: u32,
    broken: Option<io::Error>,
    statistics: Statistics,
    throttle: Throttle,
}

impl<S: Transport> Endpoint<S> {
    /// An endpoint that serves on `socket`, which is bound to `address`.
    pub fn new(socket: S, address: SocketAddr, service: &'static str, template: Option<ReplyTemplate>) -> Self {
        Self {
            socket,
            address,
            service,
            template,
            readable: false,
            writable: true,
            queue: ReplyQueue::default(),
            backlog: None,
            receive_errors: 0,
            broken: None,
            statistics: Statistics::default(),
            throttle: Throttle::default(),
        }
    }

    /// The system says that there is something to receive.
    pub fn readable(&mut self) {
        self.readable = true;
    }

    /// The system says that there is room to send.
    pub fn writable(&mut self) {
        self.writable = true;
    }

    /// What the poll should report.
    pub fn interest(&self) -> Interest {
        if self.queue.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
    }

    /// Whether a turn would do anything now, without a further event.
    pub fn wants_turn(&self) -> bool {
        self.may_receive() || (self.writable && !self.queue.is_empty())
    }

    /// Whether nothing is owed any more: what had arrived was received, and every reply has left.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.may_receive()
    }

    /// From now on only what has already arrived is received: `receive_buffer` bytes at the most, as the kernel
    /// charges them, however fast new datagrams come.
    pub fn finish(&mut self, receive_buffer: usize) {
        self.readable = true;
        self.backlog = Some(receive_buffer);
    }

    /// Sends what waits; if nothing waits, receives one inbox full and answers it.
    ///
    /// # Errors
    ///
    /// The socket is unusable, and trying again would spin.
    pub fn take_turn(&mut self, now: Instant, shared: &mut Shared) -> io::Result<()> {
        if self.writable && !self.queue.is_empty() {
            self.flush(now, &mut shared.outbox);
        }
        if self.may_receive() {
            let received = self.socket.receive(&mut shared.inbox);
            self.backlog = self.backlog.map(|backlog| backlog.saturating_sub(shared.inbox.charge()));
            self.answer(now, shared);
            self.note_received(received, now);
        }
        self.broken.take().map_or(Ok(()), Err)
    }

    /// What became of the datagrams so far.
    pub fn statistics(&self) -> Statistics {
        Statistics { unsent: self.queue.len() as u64, ..self.statistics.clone() }
    }

    /// The name of the service.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// The address that the socket is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams have come.
    pub fn received(&self) -> u64 {
        self.statistics.received
    }

    /// The socket, for asking about it.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, for registering it.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    fn may_receive(&self) -> bool {
        self.readable && self.queue.is_empty() && self.backlog != Some(0) && self.broken.is_none()
    }

    fn flush(&mut self, now: Instant, outbox: &mut SendBatch) {
        // Taken out while the replies borrow it, for `self` counts meanwhile.
        let queue = std::mem::take(&mut self.queue);
        let mut replies = outbox.take();
        replies.extend(queue.iter());
        let done = self.send(&replies, now);
        outbox.put_back(replies);
        self.queue = queue;
        self.queue.pop(done);
    }

    fn answer(&mut self, now: Instant, shared: &mut Shared) {
        let Shared { inbox, outbox, guard } = shared;
        let logged = log_enabled!(target: DATAGRAM_LOG, Level::Info);
        // Taken out while the replies borrow it, for `self` counts meanwhile.
        let template = self.template.take();
        let mut replies = outbox.take();
        for datagram in inbox.datagrams() {
            self.receive_errors = 0;
            self.count(&datagram, logged);
            match reply_to(&datagram, template.as_ref(), guard, now) {
                Ok(reply) => replies.push(reply),
                Err(refusal) => self.refuse(&datagram, refusal, now),
            }
        }
        outbox.group_by_peer(&mut replies);
        let done = self.send(&replies, now);
        replies[done..].iter().for_each(|reply| self.queue.push(reply));
        self.statistics.waited += self.queue.len() as u64;
        self.statistics.waiting_peak = self.statistics.waiting_peak.max(self.queue.len() as u64);
        outbox.put_back(replies);
        self.template = template;
    }

    fn count(&mut self, datagram: &Datagram<'_>, logged: bool) {
        let Datagram { source, payload, .. } = datagram;
        self.statistics.received += 1;
        self.statistics.received_bytes += payload.len() as u64;
        if logged {
            let text = Escaped::line([payload, b"", b""]);
            info!(target: DATAGRAM_LOG, "Received message from {source}: {text} ({} bytes)", payload.len());
        }
    }

    fn refuse(&mut self, datagram: &Datagram<'_>, refusal: Refusal, now: Instant) {
        self.statistics.refused.add(refusal.name());
        // Discarding is what its user asked for, and no trouble.
        if refusal != Refusal::Discard
            && let Some(times) = self.throttle.note(refusal.name(), now)
        {
            warn!("Not answering {}: {}{}", datagram.source, refusal.reason(), Times(times));
        }
    }

    fn note_received(&mut self, received: Received, now: Instant) {
        match received {
            Received::More => {}
            Received::Drained => {
                self.readable = false;
                self.backlog = self.backlog.map(|_| 0);
            }
            Received::Failed(error) => {
                let name = net::error_name(&error);
                self.statistics.receive_errors.add(name);
                self.receive_errors += 1;
                if net::is_broken(&error) || self.receive_errors >= ERRORS_IN_A_ROW {
                    self.broken = Some(error);
                } else if let Some(times) = self.throttle.note(name, now) {
                    warn!("Cannot receive on {}: {error}{}", self.address, Times(times));
                }
            }
        }
    }

    /// Sends in order until all have ended or the socket would block; returns how many have ended.
    fn send(&mut self, replies: &[Outgoing<'_>], now: Instant) -> usize {
        let logged = log_enabled!(target: DATAGRAM_LOG, Level::Info);
        let mut done = 0;
        while done < replies.len() {
            let sent = self.socket.send(&replies[done..]);
            for reply in &replies[done..done + sent.count] {
                self.statistics.answered += 1;
                self.statistics.answered_bytes += reply.length() as u64;
                if logged {
                    let text = Escaped::line(reply.parts);
                    info!(target: DATAGRAM_LOG, "Sent response to {}: {text} ({} bytes)", reply.to, reply.length());
                }
            }
            done += sent.count;
            match sent.error {
                None => break,
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Some(error) if net::is_broken(&error) => {
                    self.broken = Some(error);
                    break;
                }
                // Not ENOBUFS either: the socket stays writable then, so waiting for an event would hang, and
                // trying again would spin.
                Some(error) => {
                    self.fail(&replies[done], &error, now);
                    done += 1;
                }
            }
        }
        done
    }

    fn fail(&mut self, reply: &Outgoing<'_>, error: &io::Error, now: Instant) {
        let name = net::error_name(error);
        self.statistics.failed.add(name);
        if let Some(times) = self.throttle.note(name, now) {
            warn!("Cannot send {} bytes to {}: {error}{}", reply.length(), reply.to, Times(times));
        }
    }
}

fn reply_to<'a>(
    datagram: &Datagram<'a>,
    template: Option<&'a ReplyTemplate>,
    guard: &Guard,
    now: Instant,
) -> Result<Outgoing<'a>, Refusal> {
    let template = template.ok_or(Refusal::Discard)?;
    let reply = Outgoing { to: datagram.source, from: datagram.local, parts: template.reply(datagram.payload) };
    guard.check(datagram, &reply, now)?;
    Ok(reply)
}

/// How often something happened, where that is worth saying.
struct Times(u64);

impl Display for Times {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => Ok(()),
            times => write!(f, " ({times} times since this was last told)"),
        }
    }
}
