//! A line at the bottom of a terminal that shows how a measurement is doing.

use std::io::Write;
use std::time::{Duration, Instant};

use super::strip::Strip;
use super::terminal::Terminal;
use crate::client::probe::latency::Latencies;
use crate::client::probe::timeline::{MOST_SLICES, Timeline};

/// How often the line changes. To compose it takes the time of some probes.
const PERIOD: Duration = Duration::from_millis(500);

/// Carriage return, and erase to the end of the line.
const CLEAR: &[u8] = b"\r\x1b[K";

/// The line, which is cleared before anything else is written to the terminal.
#[derive(Debug)]
pub struct StatusLine {
    terminal: Terminal,
    sent: u64,
    lost: u64,
    latencies: Latencies,
    timeline: Timeline,
    line: String,
    is_shown: bool,
    /// When the line should change.
    next: Instant,
}

impl StatusLine {
    /// Creates a line that appears soon after `now`, about probes that are sent at an interval.
    pub fn new(terminal: Terminal, now: Instant, interval: Duration) -> Self {
        Self {
            terminal,
            sent: 0,
            lost: 0,
            latencies: Latencies::new(),
            timeline: Timeline::new(now, interval, MOST_SLICES),
            line: String::new(),
            is_shown: false,
            next: now + PERIOD,
        }
    }

    /// Records that a probe was sent.
    pub fn record_sent(&mut self) {
        self.sent += 1;
    }

    /// Records the round trip of a probe that was sent at `sent`.
    pub fn record(&mut self, sent: Instant, round_trip: Duration) {
        self.latencies.record(round_trip);
        self.timeline.record(sent, round_trip);
    }

    /// Records that a probe that was sent at `sent` got no answer in time.
    pub fn lose(&mut self, sent: Instant) {
        self.lost += 1;
        self.timeline.lose(sent);
    }

    /// Returns when the line should be drawn even if nothing else is written.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Removes the line from the terminal.
    pub fn clear(&mut self, terminal: &mut dyn Write) {
        if std::mem::take(&mut self.is_shown) {
            // If this fails, there is no terminal any more.
            let _ = terminal.write_all(CLEAR).and_then(|()| terminal.flush());
        }
    }

    /// Draws the line if it was cleared, or if it should change at `now`.
    pub fn draw(&mut self, terminal: &mut dyn Write, now: Instant) {
        if now >= self.next {
            self.next = now + PERIOD;
            self.line = self.text();
            self.clear(terminal);
        }
        if !self.is_shown && !self.line.is_empty() {
            self.is_shown = true;
            let _ = terminal.write_all(self.line.as_bytes()).and_then(|()| terminal.flush());
        }
    }

    /// Returns the line, which leaves the last column free: some terminals would wrap.
    fn text(&self) -> String {
        let Self { terminal, sent, lost, latencies, timeline, .. } = self;
        let p50 = latencies.summary().p50.map_or_else(|| "-".to_owned(), |p50| format!("{p50:.3} ms"));
        let width = terminal.width.saturating_sub(1);
        let numbers: String = format!("{sent} sent, {lost} lost, p50 {p50}").chars().take(width).collect();
        let width = width.saturating_sub(numbers.chars().count() + 2);
        format!("{numbers}  {}", Strip::new(timeline, Terminal { width, ..*terminal })).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_fits_and_is_cleared_once() {
        let start = Instant::now();
        let interval = Duration::from_millis(10);
        let mut line = StatusLine::new(Terminal { width: 50, ..Terminal::default() }, start, interval);
        (0..100).for_each(|probe| line.record(start + probe * interval, Duration::from_micros(250)));
        (0..101).for_each(|_| line.record_sent());
        line.lose(start);
        let mut out = Vec::new();
        line.clear(&mut out);
        line.draw(&mut out, start);
        assert_eq!(out, b"", "not yet");
        line.draw(&mut out, line.next());
        let text = format!("101 sent, 1 lost, p50 0.250 ms  x{}", "_".repeat(16));
        assert_eq!((&*String::from_utf8_lossy(&out), text.len()), (&*text, 49));
        out.clear();
        (0..2).for_each(|_| line.clear(&mut out));
        assert_eq!(out, CLEAR);
        (0..2).for_each(|_| line.draw(&mut out, start));
        assert_eq!(String::from_utf8_lossy(&out), format!("\r\x1b[K{text}"));
    }
}
