//! By when all that had arrived was received, on a socket that is perhaps never seen empty. Pure: time is an argument.

use std::time::Instant;

/// What a receive takes out at the least, in bytes. One that fails counts as much, so that errors without end keep
/// nobody from ending.
const LEAST: usize = 512;

/// What may be in a socket's receive buffer.
///
/// What it held at one time has been received when as much has been taken out since as it can hold, however much
/// came in meanwhile, and however long this process did not run. So a target that never stops answering keeps no
/// probe from its timeout, and no probe is lost whose answer only was not looked at yet.
#[derive(Debug)]
pub struct Backlog {
    /// In bytes, as the kernel charges them.
    capacity: usize,
    /// A time, and how much may still be in there of what had arrived by then.
    left: Option<(Instant, usize)>,
    received_by: Option<Instant>,
}

impl Backlog {
    /// An empty receive buffer that holds so many bytes as the kernel charges them.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, left: None, received_by: None }
    }

    /// Notes that something may have arrived by `now`.
    pub fn arrived(&mut self, now: Instant) {
        self.left.get_or_insert((now, self.capacity));
    }

    /// Notes a receive that did not see the end, and took out what the kernel charged so many bytes for, or more.
    pub fn took(&mut self, charge: usize, now: Instant) {
        if let Some((time, left)) = &mut self.left {
            *left = left.saturating_sub(charge.max(LEAST));
            if *left == 0 {
                self.received_by = Some(*time);
                self.left = Some((now, self.capacity));
            }
        }
    }

    /// Notes that it was seen empty, or as good as: an ICMP error that came meanwhile may have hidden answers from the
    /// receive, whose event is still to come.
    pub fn emptied(&mut self) {
        self.left = None;
    }

    /// Whether there is nothing to receive, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.left.is_none()
    }

    /// A time by which all that had arrived has been received; `polled` is when the system was last asked whether
    /// something had. `None` when there is no such time.
    pub fn received_by(&self, polled: Instant) -> Option<Instant> {
        if self.is_empty() { Some(polled) } else { self.received_by }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_had_arrived_is_received_when_it_is_seen_empty_or_as_much_was_taken_out_as_it_holds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backlog = Backlog::new(10_000);
        assert_eq!(backlog.received_by(at(1)), Some(at(1)));
        backlog.arrived(at(2));
        backlog.arrived(at(3));
        backlog.took(9_999, at(4));
        assert_eq!((backlog.is_empty(), backlog.received_by(at(1_000))), (false, None), "time alone proves nothing");
        backlog.took(1, at(5));
        assert_eq!(backlog.received_by(at(1_000)), Some(at(2)));
        backlog.took(10_000, at(6));
        assert_eq!(backlog.received_by(at(1_000)), Some(at(5)));
        backlog.emptied();
        assert_eq!((backlog.is_empty(), backlog.received_by(at(7))), (true, Some(at(7))));
        backlog.arrived(at(8));
        (0..20).for_each(|_| backlog.took(0, at(9)));
        assert_eq!(backlog.received_by(at(1_000)), Some(at(8)), "errors without end");
    }
}
