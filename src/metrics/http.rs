//! An HTTP server as tasks of a reactor: a listener and a fixed number of connections.
//!
//! Clients are not trusted. Each connection gets one response, and is bounded in size and time; when all are taken, the
//! oldest one makes room for a new client, so that silent clients do not lock out a scraper. A connection that is over
//! waits a moment for the client to close, since closing a socket with unread bytes may discard the response on its
//! way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use log::debug;
use mio::Interest;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream};

use super::request::{LONGEST_REQUEST, Response, answer};
use crate::reactor::{Key, Readiness, Wants};

/// At most this many connections at a time.
pub const CONNECTIONS: usize = 16;

/// A connection ends after this time, whatever its client does.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait after the system refused a connection, typically with `EMFILE`: trying again at once would spin.
const RETRY: Duration = Duration::from_secs(1);

/// At most this many bytes are read and discarded after the response.
const MOST_DISCARDED: usize = 256 << 10;

/// A listener or one of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Accepts connections.
    Listener,
    /// A connection, by its index.
    Connection(usize),
}

/// The listener and its connections.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    /// Accepting may be tried.
    is_readable: bool,
    /// Accepting failed, and is tried again then.
    retry: Option<Instant>,
    /// An accepted client, until the place of the oldest connection is free.
    waiting: Option<TcpStream>,
    connections: [Slot; CONNECTIONS],
    /// Of the tasks: the listener's, and those of the connections.
    keys: Vec<Key>,
}

/// A place for a connection.
#[derive(Debug, Default)]
enum Slot {
    #[default]
    Free,
    Open(Connection),
    /// It is over. The stream is dropped once it is not registered any more.
    Over(TcpStream),
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    readiness: Readiness,
    ends_at: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// What has been received of the request.
    Receiving(Vec<u8>),
    /// The response, and how much of it was sent.
    Sending(Vec<u8>, usize),
    /// The response was sent, and this much was discarded since.
    Discarding(usize),
}

impl Http {
    /// Creates a server on a socket that does not block.
    pub fn new(listener: std::net::TcpListener) -> Self {
        Self {
            listener: TcpListener::from_std(listener),
            is_readable: false,
            retry: None,
            waiting: None,
            connections: Default::default(),
            keys: Vec::new(),
        }
    }

    /// Returns the address that it listens on.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns all tasks. Insert them into the reactor, and pass the keys to [`set_keys`](Self::set_keys).
    pub fn tasks() -> impl Iterator<Item = Task> {
        [Task::Listener].into_iter().chain((0..CONNECTIONS).map(Task::Connection))
    }

    /// Sets the keys of the [tasks](Self::tasks), in the same order.
    pub fn set_keys(&mut self, keys: Vec<Key>) {
        self.keys = keys;
    }

    /// Records an event.
    pub fn note(&mut self, task: Task, readiness: Readiness) {
        match task {
            Task::Listener => self.is_readable |= readiness.readable,
            Task::Connection(index) => {
                if let Slot::Open(connection) = &mut self.connections[index] {
                    connection.readiness.readable |= readiness.readable;
                    connection.readiness.writable |= readiness.writable;
                }
            }
        }
    }

    /// Returns what a task wants.
    pub fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Listener => Wants {
                turn: self.waiting.is_some() || (self.is_readable && self.retry.is_none()),
                interest: Some(Interest::READABLE),
                deadline: self.retry,
            },
            Task::Connection(index) => match &self.connections[index] {
                Slot::Free => Wants::default(),
                Slot::Open(connection) => connection.wants(),
                Slot::Over(_) => Wants { turn: true, ..Wants::default() },
            },
        }
    }

    /// Returns what the poll should watch for a task.
    pub fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Listener => Some(&mut self.listener),
            Task::Connection(index) => match &mut self.connections[index] {
                Slot::Free => None,
                Slot::Open(Connection { stream, .. }) | Slot::Over(stream) => Some(stream),
            },
        }
    }

    /// Accepts connections, or advances one. `touch` is called for every other task whose state has changed; `respond`
    /// returns the response for a path.
    pub fn take_turn(
        &mut self,
        task: Task,
        now: Instant,
        touch: &mut dyn FnMut(Key),
        respond: impl FnOnce(&str) -> Response,
    ) {
        match task {
            Task::Listener => self.accept(now, touch),
            Task::Connection(index) => {
                let slot = &mut self.connections[index];
                *slot = match std::mem::take(slot) {
                    Slot::Free | Slot::Over(_) => Slot::Free,
                    Slot::Open(mut connection) => match connection.advance(now, respond) {
                        true => Slot::Open(connection),
                        false => Slot::Over(connection.stream),
                    },
                };
            }
        }
    }

    fn accept(&mut self, now: Instant, touch: &mut dyn FnMut(Key)) {
        self.retry = self.retry.filter(|at| *at > now);
        for _ in 0..CONNECTIONS {
            let stream = match self.waiting.take() {
                Some(stream) => stream,
                None if !self.is_readable || self.retry.is_some() => return,
                None => match self.listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.is_readable = false;
                        return;
                    }
                    // The client has gone already.
                    Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                        continue;
                    }
                    Err(error) => {
                        debug!("Cannot accept a connection for metrics: {error}");
                        self.retry = now.checked_add(RETRY);
                        return;
                    }
                },
            };
            let Some(free) = self.connections.iter().position(|slot| matches!(slot, Slot::Free)) else {
                self.waiting = Some(stream);
                self.end_oldest(touch);
                return;
            };
            self.connections[free] = Slot::Open(Connection::new(stream, now));
            self.touch(free, touch);
        }
    }

    /// Ends the oldest connection, if none has ended already.
    fn end_oldest(&mut self, touch: &mut dyn FnMut(Key)) {
        let open = |(index, slot): (usize, &Slot)| match slot {
            Slot::Open(connection) => Some((connection.ends_at, index)),
            Slot::Free | Slot::Over(_) => None,
        };
        let oldest = self.connections.iter().enumerate().filter_map(open).min();
        let Some((_, index)) = oldest.filter(|_| !self.connections.iter().any(|slot| matches!(slot, Slot::Over(_))))
        else {
            return;
        };
        let slot = &mut self.connections[index];
        *slot = match std::mem::take(slot) {
            Slot::Open(connection) => Slot::Over(connection.stream),
            slot => slot,
        };
        self.touch(index, touch);
    }

    fn touch(&self, connection: usize, touch: &mut dyn FnMut(Key)) {
        self.keys.get(1 + connection).into_iter().for_each(|key| touch(*key));
    }
}

impl Connection {
    fn new(stream: TcpStream, now: Instant) -> Self {
        let readiness = Readiness { readable: false, writable: true };
        Self { stream, readiness, ends_at: now + TIME_LIMIT, phase: Phase::Receiving(Vec::new()) }
    }

    fn wants(&self) -> Wants {
        let (turn, interest) = match self.phase {
            Phase::Receiving(_) | Phase::Discarding(_) => (self.readiness.readable, Interest::READABLE),
            Phase::Sending(..) => (self.readiness.writable, Interest::WRITABLE),
        };
        Wants { turn, interest: Some(interest), deadline: Some(self.ends_at) }
    }

    /// Does what can be done now; returns whether the connection stays open.
    fn advance(&mut self, now: Instant, respond: impl FnOnce(&str) -> Response) -> bool {
        if now >= self.ends_at {
            return false;
        }
        let stays_open = match &mut self.phase {
            Phase::Receiving(_) => self.receive(respond),
            Phase::Sending(..) => self.send(),
            Phase::Discarding(_) => self.discard(),
        };
        match stays_open {
            Ok(stays_open) => stays_open,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match self.phase {
                    Phase::Sending(..) => self.readiness.writable = false,
                    Phase::Receiving(_) | Phase::Discarding(_) => self.readiness.readable = false,
                }
                true
            }
            // The client has gone.
            Err(_) => false,
        }
    }

    /// Receives a part of the request, and answers it once it is complete.
    fn receive(&mut self, respond: impl FnOnce(&str) -> Response) -> io::Result<bool> {
        let Phase::Receiving(request) = &mut self.phase else { return Ok(false) };
        let mut part = [0; LONGEST_REQUEST];
        let length = self.stream.read(&mut part[..LONGEST_REQUEST - request.len()])?;
        request.extend_from_slice(&part[..length]);
        match answer(request, respond) {
            Some(response) => {
                self.phase = Phase::Sending(response.into_bytes(), 0);
                self.send()
            }
            None => Ok(length > 0),
        }
    }

    fn send(&mut self) -> io::Result<bool> {
        let Phase::Sending(response, sent) = &mut self.phase else { return Ok(false) };
        *sent += self.stream.write(&response[*sent..])?;
        if *sent == response.len() {
            self.stream.shutdown(Shutdown::Write)?;
            self.phase = Phase::Discarding(0);
        }
        Ok(true)
    }

    fn discard(&mut self) -> io::Result<bool> {
        let Phase::Discarding(discarded) = &mut self.phase else { return Ok(false) };
        let length = self.stream.read(&mut [0; LONGEST_REQUEST])?;
        *discarded += length;
        Ok(length > 0 && *discarded < MOST_DISCARDED)
    }
}
