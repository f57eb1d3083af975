//! What the clients of one generator have measured.

use std::io;
use std::time::{Duration, Instant};

use crate::client::probe::latency::Latencies;
use crate::client::report::Silence;

/// The results of all clients together.
#[derive(Debug)]
pub struct Results {
    /// From when a datagram was due to its first answer.
    pub latencies: Latencies,
    /// From when a datagram was due to when it left.
    pub lateness: Latencies,
    /// The datagrams that were answered while datagrams were sent.
    pub answered_in_window: u64,
    /// The payloads that were received meanwhile, in bytes.
    pub received_bytes: u64,
    /// The first error of a datagram that was not a closed port.
    pub error: Option<String>,
    /// Whether there was ever an answer.
    heard: bool,
    /// Whether the target's port was ever reported as closed.
    closed: bool,
    /// When the last answer came, and what happened since.
    last_answer: Option<Instant>,
    sent_since: u64,
    refused_since: u64,
}

impl Results {
    /// Creates empty results.
    pub fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            lateness: Latencies::new(),
            answered_in_window: 0,
            received_bytes: 0,
            error: None,
            heard: false,
            closed: false,
            last_answer: None,
            sent_since: 0,
            refused_since: 0,
        }
    }

    /// Clears what was measured; whether the target answers or refuses stays known.
    pub fn clear(&mut self) {
        self.latencies.clear();
        self.lateness.clear();
        (self.answered_in_window, self.received_bytes) = (0, 0);
        (self.last_answer, self.sent_since, self.refused_since) = (None, 0, 0);
    }

    /// Records a datagram that left at `now`, and should have left when it was `due`.
    pub fn record_sent(&mut self, due: Option<Instant>, now: Instant) {
        self.sent_since += 1;
        if let Some(due) = due {
            self.lateness.record(now.saturating_duration_since(due));
        }
    }

    /// Records an answer of so many bytes.
    pub fn record_answer(&mut self, bytes: usize, now: Instant, in_window: bool) {
        self.heard = true;
        if in_window {
            self.received_bytes += bytes as u64;
        }
        self.last_answer = self.last_answer.max(Some(now));
        (self.sent_since, self.refused_since) = (0, 0);
    }

    /// Records the error of a datagram.
    pub fn record_error(&mut self, error: &io::Error) {
        self.refused_since += 1;
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.closed = true;
        } else {
            self.error.get_or_insert_with(|| error.to_string());
        }
    }

    /// Returns whether the only thing that ever came back is that the port is closed.
    pub fn nobody_listens(&self) -> bool {
        self.closed && !self.heard
    }

    /// Returns for how long there was no answer at the end of a window.
    ///
    /// A target is dead if a datagram that was sent after its last answer was refused, or if it was silent for longer than
    /// the timeout although it was sent datagrams.
    pub fn silence(&self, start: Instant, window: Duration, timeout: Duration) -> Silence {
        let answered = self.last_answer.map_or(Duration::ZERO, |last| last.saturating_duration_since(start));
        let time = if self.sent_since > 0 { window.saturating_sub(answered) } else { Duration::ZERO };
        let is_dead = !time.is_zero() && (self.refused_since > 0 || time > timeout);
        Silence { time, is_dead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_if_datagrams_were_sent_into_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (window, timeout) = (Duration::from_secs(3), Duration::from_secs(1));
        let mut results = Results::new();
        results.record_sent(None, at(0));
        results.record_answer(1, at(1000), true);
        assert_eq!(results.silence(start, window, timeout), Silence::default());
        results.record_sent(None, at(1001));
        let dead = Silence { time: Duration::from_secs(2), is_dead: true };
        assert_eq!(results.silence(start, window, timeout), dead);
        // A slow target may answer yet, unless it refuses.
        assert!(!results.silence(start, window, Duration::from_secs(2)).is_dead);
        results.record_error(&io::ErrorKind::ConnectionRefused.into());
        assert!(results.silence(start, window, Duration::from_secs(2)).is_dead);
        results.record_answer(1, at(3001), false);
        results.record_sent(None, at(3002));
        assert_eq!(results.silence(start, window, timeout), Silence::default());
    }
}
