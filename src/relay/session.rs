//! Sessions: for each client a socket that is connected to the target.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Interest;
use slab::Slab;

use super::payload_queue::PayloadQueue;
use super::statistics::SessionCounts;
use crate::net::{BufferSizes, Egress, IoBackend, Socket, connect};
use crate::reactor::{Key, Readiness, Wants};

/// A client: its address, and the address of the listener that it uses, if that is not the only one.
pub type Client = (SocketAddr, Option<SocketAddr>);

/// Identifies a session, and never another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub index: usize,
    number: u64,
}

/// A client and its socket.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub client: Client,
    pub socket: Socket,
    /// `None` until the session has a task.
    pub key: Option<Key>,
    /// A receive may be tried.
    pub readable: bool,
    /// A send to the target may be tried.
    pub writable: bool,
    /// What waits for this session's socket. The listener is not read meanwhile.
    pub up: PayloadQueue,
    /// The listener would block, and this session is not read. The listener ends this when it is writable, since a
    /// task's wants follow from its own state.
    pub is_stalled: bool,
    /// The last datagram went to the target.
    pub awaits_answer: bool,
    /// When a datagram was last received or sent.
    pub last_traffic: Instant,
    /// Failed receives in a row, without ICMP errors.
    pub receive_errors: u32,
    idle: Duration,
}

impl Session {
    pub fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
    }

    pub fn wants(&self) -> Wants {
        let waits = !self.up.is_empty();
        Wants {
            turn: (self.readable && !self.is_stalled) || (self.writable && waits),
            interest: Some(if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }),
            deadline: self.expires_at(),
        }
    }

    /// Returns when the session ends unless there is traffic; `None` if that is beyond the clock's range.
    pub fn expires_at(&self) -> Option<Instant> {
        self.last_traffic.checked_add(self.idle)
    }

    /// Returns whether everything that has arrived was received, and nothing waits.
    pub fn is_settled(&self) -> bool {
        !self.readable && !self.awaits_answer && self.up.is_empty()
    }
}

/// All sessions, by index and by client.
#[derive(Debug)]
pub struct Sessions {
    sessions: Slab<Session>,
    by_client: HashMap<Client, usize>,
    target: SocketAddr,
    io: IoBackend,
    buffer_sizes: BufferSizes,
    max: usize,
    idle: Duration,
    pub counts: SessionCounts,
}

impl Sessions {
    /// Creates a table of at most `max` sessions to `target`, each of which ends after `idle` without traffic.
    pub fn new(target: SocketAddr, io: IoBackend, buffer_sizes: BufferSizes, max: usize, idle: Duration) -> Self {
        let counts = SessionCounts::default();
        Self { sessions: Slab::new(), by_client: HashMap::new(), target, io, buffer_sizes, max, idle, counts }
    }

    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Opens a session for a client that has none; returns `None` if there are too many.
    ///
    /// # Errors
    ///
    /// Returns what socket(2) or connect(2) reports.
    pub fn open(&mut self, client: Client, now: Instant) -> io::Result<Option<SessionId>> {
        if self.sessions.len() >= self.max {
            return Ok(None);
        }
        let socket = Socket::new(connect(self.target, self.buffer_sizes, &Egress::default())?, self.io)?;
        let entry = self.sessions.vacant_entry();
        let id = SessionId { index: entry.key(), number: self.counts.opened };
        self.by_client.insert(client, id.index);
        self.counts.opened += 1;
        self.counts.peak = self.counts.peak.max(self.by_client.len() as u64);
        entry.insert(Session {
            id,
            client,
            socket,
            key: None,
            readable: false,
            writable: true,
            up: PayloadQueue::default(),
            is_stalled: false,
            awaits_answer: false,
            last_traffic: now,
            receive_errors: 0,
            idle: self.idle,
        });
        Ok(Some(id))
    }

    /// Returns the session of a client; `None` if it has none.
    pub fn find_client(&mut self, client: &Client) -> Option<&mut Session> {
        self.sessions.get_mut(*self.by_client.get(client)?)
    }

    pub fn get(&self, index: usize) -> Option<&Session> {
        self.sessions.get(index)
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut Session> {
        self.sessions.get_mut(index)
    }

    /// Returns the session with this identity; `None` when it has ended.
    pub fn find_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(id.index).filter(|session| session.id == id)
    }

    pub fn remove(&mut self, index: usize) -> Option<Session> {
        let session = self.sessions.try_remove(index)?;
        self.by_client.remove(&session.client);
        Some(session)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut().map(|(_, session)| session)
    }
}
