//! A line at the bottom of a terminal that shows how a measurement is doing.

use std::io::Write;
use std::time::{Duration, Instant};

use super::strip::Strip;
use super::terminal::Terminal;
use crate::client::probe::latency::Latencies;
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::timeline::Timeline;

/// How often the line changes. To compose it takes the time of some probes.
const PERIOD: Duration = Duration::from_millis(500);

/// Carriage return, and erase to the end of the line.
const CLEAR: &[u8] = b"\r\x1b[K";

/// The line, which is cleared before anything else is written to the terminal.
#[derive(Debug)]
pub struct StatusLine {
    terminal: Terminal,
    line: String,
    is_shown: bool,
    /// When the line should change.
    next: Instant,
}

impl StatusLine {
    /// Creates a line that appears soon after `now`.
    pub fn new(terminal: Terminal, now: Instant) -> Self {
        Self { terminal, line: String::new(), is_shown: false, next: now + PERIOD }
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
    pub fn draw(
        &mut self,
        terminal: &mut dyn Write,
        counts: &OutcomeCounts,
        latencies: &Latencies,
        timeline: &Timeline,
        now: Instant,
    ) {
        if now >= self.next {
            self.next = now + PERIOD;
            self.line = text(self.terminal, counts, latencies, timeline);
            self.clear(terminal);
        }
        if !self.is_shown && !self.line.is_empty() {
            self.is_shown = true;
            let _ = terminal.write_all(self.line.as_bytes()).and_then(|()| terminal.flush());
        }
    }
}

/// Returns the line, which leaves the last column free: some terminals would wrap.
fn text(terminal: Terminal, counts: &OutcomeCounts, latencies: &Latencies, timeline: &Timeline) -> String {
    let p50 = latencies.summary().p50.map_or_else(|| "-".to_owned(), |p50| format!("{p50:.3} ms"));
    let numbers = format!("{} sent, {} lost, p50 {p50}", counts.sent, counts.without_timely_answer());
    let width = terminal.width.saturating_sub(1);
    let numbers: String = numbers.chars().take(width).collect();
    let width = width.saturating_sub(numbers.chars().count() + 2);
    format!("{numbers}  {}", Strip::new(timeline, Terminal { width, ..terminal })).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_fits_and_is_cleared_once() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start, Duration::from_millis(10));
        let latencies = Latencies::from_micros(&[250; 100]);
        (0..100)
            .for_each(|probe| timeline.record(start + Duration::from_millis(10 * probe), Duration::from_micros(250)));
        let counts = OutcomeCounts { sent: 101, answered: 100, late: 1, ..OutcomeCounts::default() };
        let mut line = StatusLine::new(Terminal { width: 50, unicode: false }, start);
        let mut out = Vec::new();
        line.clear(&mut out);
        line.draw(&mut out, &counts, &latencies, &timeline, start);
        assert_eq!(out, b"", "not yet");
        line.draw(&mut out, &counts, &latencies, &timeline, line.next());
        let text = format!("101 sent, 1 lost, p50 0.250 ms  {}", "_".repeat(17));
        assert_eq!((&*String::from_utf8_lossy(&out), text.len()), (&*text, 49));
        out.clear();
        (0..2).for_each(|_| line.clear(&mut out));
        assert_eq!(out, CLEAR);
        (0..2).for_each(|_| line.draw(&mut out, &counts, &latencies, &timeline, start));
        assert_eq!(String::from_utf8_lossy(&out), format!("\r\x1b[K{text}"));
    }
}
