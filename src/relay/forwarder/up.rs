//! From the clients to the target.
//!
//! The listener receives a batch, finds or opens the session of each datagram, and sends the datagrams of each session
//! together, on its socket. If that would block, the rest waits in the session, and the listener is not read until it
//! has left.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, warn};

use super::{ERRORS_IN_A_ROW, LINK_TURN, State, Task};
use crate::impair::Link;
use crate::logging::throttle::Times;
use crate::net::{self, Datagram, Outgoing, ReceiveBatch, Received, Transport, header_length};
use crate::reactor::Reactor;
use crate::relay::direction::Progress;
use crate::relay::is_own;
use crate::relay::refusal::Refusal;
use crate::relay::session::SessionId;

/// A payload for the target: the index of its session, its number in the turn, and the bytes.
pub(super) type SessionPayload<'a> = (usize, usize, &'a [u8]);

impl State {
    /// Receives a batch from clients and forwards it. Returns the sessions that were opened.
    pub(super) fn listener_turn(
        &mut self,
        received: &mut ReceiveBatch,
        spare: &mut Vec<SessionPayload<'static>>,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) -> Vec<usize> {
        let mut opened = Vec::new();
        // What has left the link leaves first, so that no more of it waits than one turn sends.
        self.flush_up(now, reactor);
        if !self.listener.may_receive() || self.up.link.as_ref().is_some_and(Link::is_ready) {
            return opened;
        }
        let result = self.listener.socket.receive(received);
        self.listener.backlog = self.listener.backlog.map(|backlog| backlog.saturating_sub(received.charge()));
        // They arrived by now, and perhaps not yet when the turn began: no delay is shorter than asked for.
        let arrived = if self.up.link.is_some() { Instant::now() } else { now };
        let mut payloads: Vec<SessionPayload<'_>> = std::mem::take(spare);
        for datagram in received.datagrams() {
            self.listener.receive_errors = 0;
            self.up.count(datagram.payload);
            let Some((session, is_new)) = self.session_of(&datagram, now) else { continue };
            if is_new {
                opened.push(session.index);
            }
            match &mut self.up.link {
                None => payloads.push((session.index, payloads.len(), datagram.payload)),
                Some(link) => {
                    let headers = header_length(self.sessions.target().ip());
                    let left = link.handle(arrived, session, headers, [datagram.payload, b"", b""]);
                    left.iter().flatten().for_each(|parts| payloads.push((session.index, payloads.len(), parts[0])));
                }
            }
        }
        self.send_by_session(&mut payloads, now, reactor);
        payloads.clear();
        // Keeps the memory without what it borrowed, as `SendBatch` does.
        *spare = payloads.into_iter().map_while(|_| None).collect();
        if self.up.link.is_some() {
            self.flush_up(now, reactor);
            self.up.key.into_iter().for_each(|key| reactor.touch(key));
        }
        self.note_received_up(result, now);
        opened
    }

    /// Sends payloads to the target, those of each session together, which makes the longest runs.
    fn send_by_session(&mut self, payloads: &mut [SessionPayload<'_>], now: Instant, reactor: &mut Reactor<Task>) {
        if !payloads.is_sorted_by_key(|(index, ..)| *index) {
            // By their numbers, too: a stable sort would allocate.
            payloads.sort_unstable_by_key(|(index, number, _)| (*index, *number));
        }
        for of_session in payloads.chunk_by(|a, b| a.0 == b.0) {
            self.send_up(of_session[0].0, of_session.iter().map(|(.., payload)| *payload), now, reactor);
        }
    }

    /// Returns the session of a client, and whether it is new; `None` if the datagram is refused or failed.
    fn session_of(&mut self, datagram: &Datagram<'_>, now: Instant) -> Option<(SessionId, bool)> {
        let client = (datagram.source, datagram.local);
        if let Some(session) = self.sessions.find_client(&client) {
            session.last_traffic = now;
            return Some((session.id, false));
        }
        let why = match self.check_source(datagram) {
            Err(why) => why,
            Ok(()) => match self.sessions.open(client, now) {
                Ok(Some(session)) => {
                    debug!("Opened a session for {}", datagram.source);
                    return Some((session, true));
                }
                Ok(None) => Refusal::TooMany,
                Err(error) if is_out_of_sockets(&error) => Refusal::NoSocket(error),
                Err(error) => {
                    self.note_unreachable(&error, now);
                    return None;
                }
            },
        };
        let name = why.name();
        self.up.statistics.refused.increment(name);
        self.sessions.counts.refused += u64::from(name == Refusal::SESSIONS);
        if let Some(times) = self.up.throttle.note(name, now) {
            warn!("No session for {}: {why}{}", datagram.source, Times(times));
        }
        None
    }

    /// Checks whether the source of a datagram may have a session.
    fn check_source(&self, datagram: &Datagram<'_>) -> Result<(), Refusal> {
        let source = datagram.source;
        // A disabled guard has no other reason.
        self.guard.check_source(source, datagram.delivery).map_err(|_| Refusal::Unanswerable)?;
        let is_loop = source == self.sessions.target() || is_own(source, self.listener.address);
        if is_loop { Err(Refusal::Loop) } else { Ok(()) }
    }

    /// Counts a datagram that failed because the target could not be connected to.
    fn note_unreachable(&mut self, error: &io::Error, now: Instant) {
        let name = net::error_name(error);
        self.up.statistics.failed.increment(name);
        if let Some(times) = self.up.throttle.note(name, now) {
            warn!("Cannot reach {}: {error}{}", self.sessions.target(), Times(times));
        }
    }

    fn note_received_up(&mut self, received: Received, now: Instant) {
        let listener = &mut self.listener;
        match received {
            Received::More => {}
            Received::Drained => {
                listener.is_readable = false;
                listener.backlog = listener.backlog.map(|_| 0);
            }
            Received::Failed(error) => {
                let name = net::error_name(&error);
                self.up.statistics.receive_errors.increment(name);
                listener.receive_errors += 1;
                if net::is_broken(&error) || listener.receive_errors >= ERRORS_IN_A_ROW {
                    listener.broken = Some(error);
                } else if let Some(times) = self.up.throttle.note(name, now) {
                    warn!("Cannot receive on {}: {error}{}", listener.address, Times(times));
                }
            }
        }
    }

    /// Sends datagrams to the target, behind what already waits for the socket of their session.
    fn send_up<'a>(
        &mut self,
        index: usize,
        payloads: impl Iterator<Item = &'a [u8]>,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) {
        let target = self.sessions.target();
        let Some(session) = self.sessions.get_mut(index) else {
            // It could not be watched, or its socket became unusable.
            self.up.statistics.unsent += payloads.count() as u64;
            return;
        };
        session.last_traffic = now;
        session.awaits_answer = true;
        if !session.up.is_empty() {
            payloads.for_each(|payload| session.up.push(payload));
            return;
        }
        let mut datagrams = self.batch.take();
        datagrams.extend(payloads.map(|payload| to_target(payload, target)));
        let progress = self.up.send(&mut session.socket, &datagrams, session.client.0, now);
        datagrams[progress.done..].iter().for_each(|datagram| session.up.push(datagram.parts[0]));
        self.batch.put_back(datagrams);
        if !session.up.is_empty() {
            self.listener.blocked_sessions += 1;
        }
        self.note_progress_up(index, progress, now, reactor);
    }

    /// Sends what waits for the socket of a session.
    pub(super) fn flush_session(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) {
        let target = self.sessions.target();
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.writable) else { return };
        if session.up.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut session.up);
        let mut datagrams = self.batch.take();
        datagrams.extend(waiting.iter().map(|payload| to_target(payload, target)));
        let progress = self.up.send(&mut session.socket, &datagrams, session.client.0, now);
        self.batch.put_back(datagrams);
        session.up = waiting;
        session.up.pop(progress.done);
        if session.up.is_empty() {
            self.unblock(reactor);
        }
        self.note_progress_up(index, progress, now, reactor);
    }

    /// One session less keeps the listener from being read.
    pub(super) fn unblock(&mut self, reactor: &mut Reactor<Task>) {
        self.listener.blocked_sessions -= 1;
        if self.listener.blocked_sessions == 0 {
            self.listener.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }

    fn note_progress_up(&mut self, index: usize, progress: Progress, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.writable &= !progress.is_blocked;
        if !session.up.is_empty() {
            session.key.into_iter().for_each(|key| reactor.touch(key));
        }
        progress.icmp_errors.iter().for_each(|error| self.note_error_down(error, now));
        if let Some(error) = progress.broken {
            self.end(index, &error, now, reactor);
        }
    }

    /// Sends what has left the link to the target.
    pub(super) fn flush_up(&mut self, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(mut link) = self.up.link.take() else { return };
        link.advance(now);
        let ready: Vec<_> = link.ready().take(LINK_TURN).collect();
        for of_session in ready.chunk_by(|a, b| a.0 == b.0) {
            let payloads = of_session.iter().map(|(_, payload)| *payload);
            match self.sessions.find_mut(of_session[0].0) {
                Some(session) => {
                    let index = session.id.index;
                    self.send_up(index, payloads, now, reactor);
                }
                None => self.up.statistics.unsent += payloads.count() as u64,
            }
        }
        let count = ready.len();
        link.release(count);
        self.up.link = Some(link);
    }
}

fn to_target(payload: &[u8], target: SocketAddr) -> Outgoing<'_> {
    Outgoing::new(target, None, [payload, b"", b""])
}

/// Returns whether the system has no socket left: too many open files, no memory, or no free port (`EAGAIN`).
fn is_out_of_sockets(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN))
}
