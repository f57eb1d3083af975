//! What the clients of one generator have measured.

use std::io;
use std::time::{Duration, Instant};

use crate::client::Error;
use crate::client::probe::latency::Latencies;
use crate::client::probe::timeline::{MOST_SLICES, Timeline};
use crate::client::report::{HdrLog, Silence};

/// The length of a slice in the picture of a short run.
pub const SHORTEST_SLICE: Duration = Duration::from_millis(1);

/// The shortest silence of a target that refuses datagrams after which it counts as dead.
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);

/// The results of all clients together.
#[derive(Debug)]
pub struct Results {
    /// From when a datagram was due to its first answer.
    pub latencies: Latencies,
    /// The same over time, if a picture is drawn.
    pub timeline: Option<Timeline>,
    /// The log of these, if there is one.
    pub hdr: Option<HdrLog>,
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
            timeline: None,
            hdr: None,
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

    /// Clears what was measured, for a run that begins at `start`; whether the target answers or refuses stays known.
    pub fn start_over(&mut self, start: Instant) {
        self.latencies.clear();
        self.timeline.iter_mut().for_each(|timeline| *timeline = Timeline::new(start, SHORTEST_SLICE, MOST_SLICES));
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

    /// Records an answer with its length in bytes.
    pub fn record_answer(&mut self, bytes: usize, now: Instant, in_window: bool) {
        self.heard = true;
        if in_window {
            self.received_bytes += bytes as u64;
        }
        self.last_answer = self.last_answer.max(Some(now));
        (self.sent_since, self.refused_since) = (0, 0);
    }

    /// Records the first answer to a datagram, which came at `now`.
    ///
    /// # Errors
    ///
    /// Returns an error if the log cannot be written.
    pub fn record_latency(&mut self, latency: Duration, now: Instant) -> Result<(), Error> {
        self.latencies.record(latency);
        if let Some(timeline) = &mut self.timeline {
            timeline.record(now.checked_sub(latency).unwrap_or(now), latency);
        }
        self.hdr.as_mut().map_or(Ok(()), |hdr| hdr.record(0, latency, now))
    }

    /// Records that a datagram, which was sent at some time, got no answer in time.
    pub fn record_loss(&mut self, sent: Option<Instant>) {
        if let (Some(timeline), Some(sent)) = (&mut self.timeline, sent) {
            timeline.lose(sent);
        }
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

    /// Returns when the last answer came.
    pub fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    /// Returns whether the only thing that ever came back is that the port is closed.
    pub fn nobody_listens(&self) -> bool {
        self.closed && !self.heard
    }

    /// Returns for how long there was no answer at the end of a window.
    ///
    /// A target is dead if it was silent for longer than the timeout although it was sent datagrams. Refusals prove
    /// that sooner, but not a single one or one at the very end: a router may have failed for a moment.
    pub fn silence(&self, start: Instant, window: Duration, timeout: Duration) -> Silence {
        let answered = self.last_answer.map_or(Duration::ZERO, |last| last.saturating_duration_since(start));
        let time = if self.sent_since > 0 { window.saturating_sub(answered) } else { Duration::ZERO };
        let is_dead = time > timeout || (self.refused_since > 1 && time >= SHORTEST_SILENCE);
        Silence { time, is_dead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_run_starts_with_nothing_but_whether_the_target_answers() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut results = Results::new();
        results.record_sent(Some(start), later);
        results.record_answer(100, later, true);
        results.record_latency(Duration::from_secs(1), later).expect("no log");
        results.record_sent(Some(start), later);
        results.record_error(&io::ErrorKind::ConnectionRefused.into());
        results.answered_in_window = 1;
        results.start_over(later);
        assert!(results.latencies.histogram().is_empty() && results.lateness.histogram().is_empty());
        assert_eq!((results.answered_in_window, results.received_bytes, results.last_answer()), (0, 0, None));
        assert_eq!(results.silence(later, Duration::from_secs(9), Duration::from_secs(1)), Silence::default());
        assert!(!results.nobody_listens());
        results.record_error(&io::ErrorKind::ConnectionRefused.into());
        assert!(!results.nobody_listens(), "it was heard in the run before");
    }

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
        assert!(!results.silence(start, window, Duration::from_secs(2)).is_dead, "a single refusal");
        results.record_error(&io::ErrorKind::ConnectionRefused.into());
        assert!(results.silence(start, window, Duration::from_secs(2)).is_dead);
        assert!(
            !results.silence(start, Duration::from_millis(1050), Duration::from_secs(2)).is_dead,
            "at the very end"
        );
        results.record_answer(1, at(3001), false);
        results.record_sent(None, at(3002));
        assert_eq!(results.silence(start, window, timeout), Silence::default());
    }
}
