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
use crate::net::{self, Outgoing, Transport};
use crate::reactor::{Key, Wants};

/// No further datagram is sent in a turn after this many errors, because each costs a system call of its own; the rest
/// waits for the next turn.
const TURN_ERRORS: usize = 64;

/// What all datagrams from the clients to the target, or all in the other direction, have in common.
#[derive(Debug)]
pub struct Direction<F> {
    /// What a datagram of this direction is called in the log.
    name: &'static str,
    /// The sockets that it sends on are connected.
    is_connected: bool,
    pub link: Option<Link<F>>,
    /// The task that waits for the deadlines of the link; `None` without a link.
    pub key: Option<Key>,
    /// What is ready waits for the listener, which ends this when it is writable.
    pub is_stalled: bool,
    pub statistics: Statistics,
    pub throttle: Throttle,
}

/// What a send has achieved.
#[derive(Debug, Default)]
pub struct Progress {
    /// How many datagrams have left or failed: the first ones. The rest can be sent in another turn.
    pub done: usize,
    /// The rest has to wait until the socket is writable.
    pub is_blocked: bool,
    /// ICMP errors, which datagrams sent before have caused.
    pub icmp_errors: Vec<io::Error>,
    /// The socket is unusable.
    pub broken: Option<io::Error>,
}

impl<F: Copy + Eq + Hash> Direction<F> {
    /// From the clients to the target, on a connected socket for each client.
    pub fn up(link: Option<Link<F>>) -> Self {
        Self::new("message", true, link)
    }

    /// From the target to the clients, on the listener.
    pub fn down(link: Option<Link<F>>) -> Self {
        Self::new("response", false, link)
    }

    fn new(name: &'static str, is_connected: bool, link: Option<Link<F>>) -> Self {
        let (statistics, throttle) = (Statistics::default(), Throttle::default());
        Self { name, is_connected, link, key: None, is_stalled: false, statistics, throttle }
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

    /// Sends datagrams that came from `source`, in order, until all have left or failed, the socket would block, or
    /// there were too many errors for one turn.
    pub fn send(
        &mut self,
        socket: &mut impl Transport,
        datagrams: &[Outgoing<'_>],
        source: SocketAddr,
        now: Instant,
    ) -> Progress {
        let mut progress = Progress::default();
        let mut errors = 0;
        let mut first_error = None;
        while progress.done < datagrams.len() && (errors < TURN_ERRORS || first_error.is_some()) {
            let rest = &datagrams[progress.done..];
            let sent = socket.send(rest);
            self.note_forwarded(&rest[..sent.count], source);
            progress.done += sent.count;
            if sent.count > 0 {
                progress.icmp_errors.extend(first_error.take());
            }
            errors += usize::from(sent.error.is_some());
            match sent.error {
                None => break,
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    progress.is_blocked = true;
                    break;
                }
                Some(error) if net::is_broken(&error) => {
                    progress.broken = Some(error);
                    break;
                }
                Some(error) if self.is_connected && error.kind() == io::ErrorKind::ConnectionRefused => {
                    progress.icmp_errors.push(error);
                }
                // Some other errors can be either: the datagram's own, or an ICMP error, which a connected socket
                // reports once. A second attempt decides.
                Some(error) if self.is_connected && first_error.is_none() => first_error = Some(error),
                Some(error) => {
                    first_error = None;
                    self.fail(&datagrams[progress.done], &error, now);
                    progress.done += 1;
                }
            }
        }
        progress
    }

    fn note_forwarded(&mut self, datagrams: &[Outgoing<'_>], source: SocketAddr) {
        let is_logged = log_enabled!(target: DATAGRAM_LOG, Level::Info);
        for datagram in datagrams {
            self.statistics.forwarded += 1;
            self.statistics.forwarded_bytes += datagram.length() as u64;
            if is_logged {
                let (name, to, bytes) = (self.name, datagram.to, Bytes(datagram.length()));
                let text = Escaped::line(datagram.parts);
                info!(target: DATAGRAM_LOG, "Forwarded {name} from {source} to {to}: {text} ({bytes})");
            }
        }
    }

    fn fail(&mut self, datagram: &Outgoing<'_>, error: &io::Error, now: Instant) {
        let name = net::error_name(error);
        self.statistics.failed.increment(name);
        if let Some(times) = self.throttle.note(name, now) {
            let (bytes, to) = (Bytes(datagram.length()), datagram.to);
            warn!("Cannot forward {bytes} to {to}: {error}{}", Times(times));
        }
    }

    /// Returns the statistics, with what waits in the link and `queued` datagrams elsewhere.
    pub fn statistics(&self, queued: usize, kernel_dropped: Option<u64>) -> Statistics {
        let waiting = self.link.as_ref().map_or(0, Link::waiting) + queued;
        let impaired = self.link.as_ref().map(Link::impaired);
        let unsent = self.statistics.unsent + waiting as u64;
        Statistics { unsent, impaired, kernel_dropped, ..self.statistics.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ReceiveBatch, Received, Sent};

    /// Returns the scripted errors, one per call, then takes everything.
    struct Script(Vec<i32>);

    impl Transport for Script {
        fn receive(&mut self, _: &mut ReceiveBatch) -> Received {
            Received::Drained
        }

        fn send(&mut self, datagrams: &[Outgoing<'_>]) -> Sent {
            match self.0.pop() {
                Some(code) => Sent { count: 0, error: Some(io::Error::from_raw_os_error(code)) },
                None => Sent { count: datagrams.len(), error: None },
            }
        }
    }

    /// Sends `count` datagrams; returns what was achieved, and how many have left and failed.
    fn send(mut direction: Direction<u8>, script: &mut Script, count: usize) -> (Progress, u64, u64) {
        let to = ([192, 0, 2, 1], 4000).into();
        let datagrams = vec![Outgoing::new(to, None, [b"x", b"", b""]); count];
        let progress = direction.send(script, &datagrams, to, Instant::now());
        (progress, direction.statistics.forwarded, direction.statistics.failed.total())
    }

    #[test]
    fn turn_ends_after_too_many_errors() {
        for (direction, most) in [(Direction::down(None), TURN_ERRORS), (Direction::up(None), TURN_ERRORS / 2)] {
            let (progress, forwarded, failed) = send(direction, &mut Script(vec![libc::EPERM; 1_000]), 1_000);
            assert_eq!((progress.done, forwarded, failed), (most, 0, most as u64));
            assert!(!progress.is_blocked && progress.icmp_errors.is_empty());
        }
        // However many ICMP messages come, each during another attempt.
        let mut script = Script(vec![libc::ECONNREFUSED; 1_000]);
        let (progress, ..) = send(Direction::up(None), &mut script, 1_000);
        assert_eq!((progress.done, progress.icmp_errors.len(), script.0.len()), (0, TURN_ERRORS, 1_000 - TURN_ERRORS));
    }

    #[test]
    fn icmp_errors_cost_no_datagram() {
        for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            let (progress, forwarded, failed) = send(Direction::up(None), &mut Script(vec![code]), 3);
            assert_eq!((progress.done, progress.icmp_errors.len(), forwarded, failed), (3, 1, 3, 0));
        }
        // The listener is not connected, so its errors are those of the datagram.
        let (progress, forwarded, failed) = send(Direction::down(None), &mut Script(vec![libc::EHOSTUNREACH]), 3);
        assert_eq!((progress.done, progress.icmp_errors.len(), forwarded, failed), (3, 0, 2, 1));
    }

    #[test]
    fn error_that_a_second_attempt_meets_again_is_that_of_the_datagram() {
        let mut script = Script(vec![libc::EHOSTUNREACH; 2]);
        let (progress, forwarded, failed) = send(Direction::up(None), &mut script, 3);
        assert_eq!((progress.done, progress.icmp_errors.len(), forwarded, failed), (3, 0, 2, 1));
    }
}
