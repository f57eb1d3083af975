//! One direction of a relay: its link, its statistics, and how its datagrams are sent.

use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{Level, info, log_enabled, warn};

use super::statistics::Statistics;
use crate::impair::Link;
use crate::logging::DATAGRAM_LOG;
use crate::logging::bytes::Bytes;
use crate::logging::escape::Escaped;
use crate::logging::throttle::{Throttle, Times};
use crate::net::{self, Outgoing, Socket, Transport};
use crate::reactor::{Key, Wants};

/// What all datagrams from the clients to the target, or all in the other direction, have in common.
#[derive(Debug)]
pub struct Direction<F> {
    /// What a datagram of this direction is called in the log.
    name: &'static str,
    pub link: Option<Link<F>>,
    /// The task that waits for the deadlines of the link; `None` without a link.
    pub key: Option<Key>,
    /// What is ready waits for the listener, which ends this when it is writable.
    pub is_stalled: bool,
    pub statistics: Statistics,
}

/// What a send has achieved.
#[derive(Debug, Default)]
pub struct Progress {
    /// How many datagrams have left or failed: the first ones.
    pub done: usize,
    /// The rest waits until the socket is writable.
    pub is_blocked: bool,
    /// Errors that concern datagrams sent before: ICMP messages.
    pub refusals: u32,
    /// The socket is unusable.
    pub broken: Option<io::Error>,
}

impl<F: Copy + Eq + Hash> Direction<F> {
    pub fn new(name: &'static str, link: Option<Link<F>>) -> Self {
        Self { name, link, key: None, is_stalled: false, statistics: Statistics::default() }
    }

    /// Returns what the task of the link wants.
    pub fn wants(&self) -> Wants {
        let Some(link) = &self.link else { return Wants::default() };
        if self.is_stalled {
            return Wants::default();
        }
        Wants { turn: link.is_ready(), interest: None, deadline: link.next_deadline() }
    }

    /// Counts a received datagram.
    pub fn count(&mut self, payload: &[u8]) {
        self.statistics.received += 1;
        self.statistics.received_bytes += payload.len() as u64;
    }

    /// Sends datagrams that came from `source`, in order, until all have left or failed or the socket would block.
    pub fn send(
        &mut self,
        socket: &mut Socket,
        datagrams: &[Outgoing<'_>],
        source: SocketAddr,
        throttle: &mut Throttle,
        now: Instant,
    ) -> Progress {
        let is_logged = log_enabled!(target: DATAGRAM_LOG, Level::Info);
        let mut progress = Progress::default();
        while progress.done < datagrams.len() {
            let rest = &datagrams[progress.done..];
            let sent = socket.send(rest);
            for datagram in &rest[..sent.count] {
                self.statistics.forwarded += 1;
                self.statistics.forwarded_bytes += datagram.length() as u64;
                if is_logged {
                    let (name, to, bytes) = (self.name, datagram.to, Bytes(datagram.length()));
                    let text = Escaped::line(datagram.parts);
                    info!(target: DATAGRAM_LOG, "Forwarded {name} from {source} to {to}: {text} ({bytes})");
                }
            }
            progress.done += sent.count;
            match sent.error {
                None => break,
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    progress.is_blocked = true;
                    break;
                }
                // Of a datagram that was sent before; the next one may be sent at once. The system reports each once.
                Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => progress.refusals += 1,
                Some(error) if net::is_broken(&error) => {
                    progress.broken = Some(error);
                    break;
                }
                Some(error) => {
                    let (name, datagram) = (net::error_name(&error), &datagrams[progress.done]);
                    self.statistics.failed.increment(name);
                    if let Some(times) = throttle.note(name, now) {
                        let (bytes, to) = (Bytes(datagram.length()), datagram.to);
                        warn!("Cannot forward {bytes} to {to}: {error}{}", Times(times));
                    }
                    progress.done += 1;
                }
            }
        }
        progress
    }

    /// Returns the statistics, with what waits in the link and `queued` datagrams elsewhere.
    pub fn statistics(&self, queued: usize, kernel_dropped: Option<u64>) -> Statistics {
        let waiting = self.link.as_ref().map_or(0, Link::waiting) + queued;
        let impaired = self.link.as_ref().map(Link::impaired);
        let unsent = self.statistics.unsent + waiting as u64;
        Statistics { unsent, impaired, kernel_dropped, ..self.statistics.clone() }
    }
}
