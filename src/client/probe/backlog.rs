//! By when everything that had arrived was received, on a socket that may never be seen empty. Pure.

use std::time::Instant;

/// What a receive takes out at least, in bytes. A failed one counts as much, so that endless errors do not delay a
/// timeout without end.
const SMALLEST_CHARGE: usize = 512;

/// What may be in a socket's receive buffer.
///
/// A probe may be given up only if its answer is not among what has arrived and was not read yet, however long this
/// process was stopped. Time alone proves nothing. What had arrived at some time *was received* once the socket is seen
/// empty, or once as much has been taken out since then as the buffer can hold: a responder that never stops sending
/// keeps no probe from its timeout.
#[derive(Debug)]
pub struct Backlog {
    /// In bytes, as the kernel charges them.
    capacity: usize,
    /// A time, and how much of what had arrived by then may still be unread.
    unread: Option<(Instant, usize)>,
    received_by: Option<Instant>,
}

impl Backlog {
    /// An empty receive buffer that holds `capacity` bytes, as the kernel charges them.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, unread: None, received_by: None }
    }

    /// Notes that something may have arrived by `now`.
    pub fn arrived(&mut self, now: Instant) {
        self.unread.get_or_insert((now, self.capacity));
    }

    /// Notes a receive that did not drain the socket, and took out at least `charge` bytes as the kernel charges them.
    pub fn took(&mut self, charge: usize, now: Instant) {
        if let Some((time, left)) = &mut self.unread {
            *left = left.saturating_sub(charge.max(SMALLEST_CHARGE));
            if *left == 0 {
                self.received_by = Some(*time);
                self.unread = Some((now, self.capacity));
            }
        }
    }

    /// Notes a receive, begun after `time`, that drained the socket.
    pub fn drained(&mut self, time: Instant) {
        self.unread = None;
        self.received_by = Some(time);
    }

    /// Returns whether there is nothing to receive, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.unread.is_none()
    }

    /// Returns the latest known time such that everything that had arrived by then was received.
    pub fn received_by(&self) -> Option<Instant> {
        self.received_by
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn received_by_needs_an_empty_socket_or_a_whole_buffer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backlog = Backlog::new(10_000);
        assert_eq!((backlog.is_empty(), backlog.received_by()), (true, None));
        backlog.arrived(at(2));
        backlog.arrived(at(3));
        backlog.took(9_999, at(4));
        assert_eq!((backlog.is_empty(), backlog.received_by()), (false, None));
        backlog.took(1, at(5));
        assert_eq!(backlog.received_by(), Some(at(2)));
        backlog.took(10_000, at(6));
        assert_eq!(backlog.received_by(), Some(at(5)));
        backlog.drained(at(7));
        assert_eq!((backlog.is_empty(), backlog.received_by()), (true, Some(at(7))));
    }

    #[test]
    fn endless_errors_count_as_received() {
        let start = Instant::now();
        let mut backlog = Backlog::new(10_000);
        backlog.arrived(start);
        (0..20).for_each(|_| backlog.took(0, start + Duration::from_secs(1)));
        assert_eq!(backlog.received_by(), Some(start));
    }
}
