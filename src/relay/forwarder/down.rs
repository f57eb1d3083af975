//! From the target to the clients.
//!
//! A session receives a batch, and sends it to its client through the listener. If that would block, the rest waits in
//! the session, which is *stalled*: it is not read until the listener is writable.

use std::io;
use std::time::Instant;

use log::warn;

use super::{ERRORS_IN_A_ROW, LINK_TURN, State, Task};
use crate::logging::throttle::Times;
use crate::net::{self, Datagram, Outgoing, ReceiveBatch, Received, Transport, header_length};
use crate::reactor::Reactor;
use crate::relay::session::Client;

impl State {
    /// Receives a batch from the target and forwards it, sends what waits, or ends the session.
    pub(super) fn session_turn(
        &mut self,
        index: usize,
        received: &mut ReceiveBatch,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) {
        self.flush_session(index, now, reactor);
        let Some(session) = self.sessions.get(index) else { return };
        if session.is_stalled || !session.readable {
            self.expire(index, now, reactor);
            return;
        }
        // What has left the link leaves first, so that no more of it waits than one turn sends.
        self.flush_down(now, reactor);
        if !self.listener.may_send() {
            self.stall(index, reactor);
        } else if self.down.link.as_ref().is_none_or(|link| !link.is_ready()) {
            self.receive_down(index, received, now, reactor);
        }
    }

    /// Receives a batch from the target and forwards it.
    fn receive_down(&mut self, index: usize, received: &mut ReceiveBatch, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.readable) else { return };
        let result = session.socket.receive(received);
        let client = session.client;
        let arrived = if self.down.link.is_some() { Instant::now() } else { now };
        let mut datagrams = self.batch.take();
        for Datagram { payload, .. } in received.datagrams() {
            session.last_traffic = now;
            session.awaits_answer = false;
            session.receive_errors = 0;
            self.down.count(payload);
            match &mut self.down.link {
                None => datagrams.push(to_client(payload, client)),
                Some(link) => {
                    let left = link.handle(arrived, client, header_length(client.0.ip()), [payload, b"", b""]);
                    datagrams.extend(left.into_iter().flatten().map(|parts| to_client(parts[0], client)));
                }
            }
        }
        let done = self.send_down(&datagrams, now);
        let rest = &datagrams[done..];
        match &mut self.down.link {
            Some(link) => rest.iter().rev().for_each(|datagram| link.put_back(client, datagram.parts)),
            None => {
                rest.iter().for_each(|datagram| self.listener.waiting.0.push(datagram.parts[0]));
                self.listener.waiting.1 = Some(client);
            }
        }
        self.batch.put_back(datagrams);
        if self.down.link.is_some() {
            self.flush_down(now, reactor);
            self.down.key.into_iter().for_each(|key| reactor.touch(key));
        }
        if !self.listener.may_send() {
            self.stall(index, reactor);
        }
        self.note_received_down(index, result, now, reactor);
    }

    fn note_received_down(&mut self, index: usize, received: Received, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        match received {
            Received::More => {}
            Received::Drained => {
                session.readable = false;
                session.receive_errors = 0;
            }
            Received::Failed(error) => {
                // Any number of ICMP errors can come, and each is returned once. What never ends would spin.
                session.receive_errors += u32::from(!is_icmp(&error));
                let is_broken = net::is_broken(&error) || session.receive_errors >= ERRORS_IN_A_ROW;
                // There will be no answer.
                session.awaits_answer = false;
                self.note_error_down(&error, now);
                if is_broken {
                    self.end(index, &error, now, reactor);
                }
            }
        }
    }

    pub(super) fn note_error_down(&mut self, error: &io::Error, now: Instant) {
        let name = net::error_name(error);
        self.down.statistics.receive_errors.increment(name);
        if let Some(times) = self.down.throttle.note(name, now) {
            warn!("The target {} does not receive: {error}{}", self.sessions.target(), Times(times));
        }
    }

    /// Sends datagrams to clients; returns how many have left or failed. The rest has to wait for the listener.
    fn send_down(&mut self, datagrams: &[Outgoing<'_>], now: Instant) -> usize {
        let target = self.sessions.target();
        let progress = self.down.send(&mut self.listener.socket, datagrams, target, now);
        if progress.is_blocked || progress.broken.is_some() {
            self.listener.is_writable = false;
        }
        self.listener.broken = self.listener.broken.take().or(progress.broken);
        progress.done
    }

    /// Sends what has left the link to the clients.
    pub(super) fn flush_down(&mut self, now: Instant, reactor: &mut Reactor<Task>) {
        let Some(mut link) = self.down.link.take() else { return };
        link.advance(now);
        if self.listener.is_writable && link.is_ready() {
            let mut datagrams = self.batch.take();
            datagrams.extend(link.ready().take(LINK_TURN).map(|(client, payload)| to_client(payload, client)));
            let done = self.send_down(&datagrams, now);
            self.batch.put_back(datagrams);
            link.release(done);
        }
        if !self.listener.is_writable && link.is_ready() {
            self.down.is_stalled = true;
            self.listener.stalls_link = true;
            self.listener.key.into_iter().for_each(|key| reactor.touch(key));
        }
        self.down.link = Some(link);
    }

    /// Makes a session wait until the listener is writable.
    fn stall(&mut self, index: usize, reactor: &mut Reactor<Task>) {
        if let Some(session) = self.sessions.get_mut(index)
            && !session.is_stalled
        {
            session.is_stalled = true;
            self.listener.stalled.push(index);
            self.listener.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }

    /// Sends what waits for the listener; if all has left, lets what is stalled try again.
    pub(super) fn flush_listener(&mut self, now: Instant, reactor: &mut Reactor<Task>) {
        if !self.listener.is_writable || !self.listener.stalls() {
            return;
        }
        if let (_, Some(client)) = self.listener.waiting {
            let (mut waiting, _) = std::mem::take(&mut self.listener.waiting);
            let mut datagrams = self.batch.take();
            datagrams.extend(waiting.iter().map(|payload| to_client(payload, client)));
            let done = self.send_down(&datagrams, now);
            self.batch.put_back(datagrams);
            waiting.pop(done);
            if !waiting.is_empty() {
                self.listener.waiting = (waiting, Some(client));
                return;
            }
        }
        self.end_stalls(reactor);
    }

    fn end_stalls(&mut self, reactor: &mut Reactor<Task>) {
        for index in self.listener.stalled.drain(..) {
            if let Some(session) = self.sessions.get_mut(index) {
                session.is_stalled = false;
                session.key.into_iter().for_each(|key| reactor.touch(key));
            }
        }
        if std::mem::take(&mut self.listener.stalls_link) {
            self.down.is_stalled = false;
            self.down.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }
}

/// Returns whether a received error is an ICMP message: the port is closed, or a firewall rejects the datagram.
fn is_icmp(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn to_client(payload: &[u8], client: Client) -> Outgoing<'_> {
    Outgoing::new(client.0, client.1, [payload, b"", b""])
}
