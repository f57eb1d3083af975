//! One line that shows when round trips were slow and probes lost. Pure.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::format::two_digits;
use super::terminal::Terminal;
use crate::client::probe::timeline::{Slice, Timeline};

/// From the shortest median to the longest.
const UNICODE_BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Displays a run as a line of characters, one per slice of time: the median of its round trips as a bar, or a mark if
/// probes of that slice were lost.
///
/// The lowest bar is the shortest median, and each step at least a doubling, so that ordinary variation does not show
/// and both a small and a large delay do.
#[derive(Debug)]
pub struct Strip {
    columns: Vec<Slice>,
    duration: Duration,
    /// The shortest and the longest round trip.
    limits: (Duration, Duration),
    terminal: Terminal,
}

impl Strip {
    /// Creates the strip of a run, which is at most as wide as the terminal.
    pub fn new(timeline: &Timeline, terminal: Terminal) -> Self {
        let limits = timeline.range().unwrap_or_default();
        Self { columns: timeline.columns(terminal.width), duration: timeline.duration(), limits, terminal }
    }

    /// Returns the line that explains the strip; `None` if the run is too short for one.
    pub fn legend(&self) -> Option<String> {
        if self.columns.len() < 2 {
            return None;
        }
        let seconds = self.duration.as_secs_f64();
        let precision = Duration::from_millis(if seconds < 10.0 { 1 } else { 1000 });
        let mut legend = format!("rtt over {}", humantime::format_duration(round(self.duration, precision)));
        let mut separator = ": ";
        if let Some((low, high)) = self.range() {
            let [low_shown, high_shown] = [low, high].map(|time| two_digits(time.as_secs_f64() * 1e3));
            let bars = (self.bar(low), self.bar(high));
            let mut range = format!("{} {low_shown}", bars.0);
            if bars.0 != bars.1 {
                range += &format!(" to {} {high_shown}", bars.1);
            } else if low_shown != high_shown {
                range += &format!(" to {high_shown}");
            }
            legend += &format!("{separator}{range} ms");
            separator = ", ";
        }
        if self.columns.iter().any(|column| column.lost > 0) {
            legend += &format!("{separator}{} lost", self.loss());
        }
        Some(legend)
    }

    /// Returns the shortest and the longest median.
    fn range(&self) -> Option<(Duration, Duration)> {
        let medians = || self.columns.iter().filter_map(|column| self.median(column));
        Some((medians().min()?, medians().max()?))
    }

    /// Returns the median of a column, which is not rounded to less than the shortest or more than the longest round
    /// trip.
    fn median(&self, column: &Slice) -> Option<Duration> {
        column.median().map(|median| median.clamp(self.limits.0, self.limits.1))
    }

    fn bar(&self, median: Duration) -> char {
        let bars = if self.terminal.unicode { UNICODE_BARS } else { ASCII_BARS };
        let (low, high) = self.range().unwrap_or_default();
        let doublings = |time: Duration| (time.as_nanos().max(1) as f64 / low.as_nanos().max(1) as f64).log2();
        let step = (doublings(high) / (bars.len() - 1) as f64).max(1.0);
        bars[((doublings(median) / step).floor() as usize).min(bars.len() - 1)]
    }

    fn loss(&self) -> char {
        if self.terminal.unicode { '×' } else { 'x' }
    }
}

impl Display for Strip {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let strip = self.columns.iter().map(|column| match self.median(column) {
            _ if column.lost > 0 => self.loss(),
            Some(median) => self.bar(median),
            None => ' ',
        });
        f.write_str(strip.collect::<String>().trim_end())
    }
}

fn round(duration: Duration, precision: Duration) -> Duration {
    let steps = (duration.as_secs_f64() / precision.as_secs_f64()).round();
    precision.saturating_mul(steps.min(f64::from(u32::MAX)) as u32)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::client::probe::timeline::MOST_SLICES;

    /// Returns the legend and the strip of probes that were sent every second; 0 is a lost one.
    fn strip(millis: &[u64], width: usize, unicode: bool) -> (String, String) {
        let start = Instant::now();
        let mut timeline = Timeline::new(start, Duration::from_secs(1), MOST_SLICES);
        for (second, millis) in (0..).zip(millis) {
            let sent = start + Duration::from_secs(second);
            match millis {
                0 => timeline.lose(sent),
                millis => timeline.record(sent, Duration::from_millis(*millis)),
            }
        }
        let strip = Strip::new(&timeline, Terminal { width, unicode, ..Terminal::default() });
        (strip.legend().unwrap_or_default(), strip.to_string())
    }

    #[test]
    fn outage_and_delay_stand_where_they_were() {
        let millis = [10, 11, 9, 0, 0, 10, 21, 80, 10, 13];
        assert_eq!(
            strip(&millis, 80, true),
            ("rtt over 10s: ▁ 9.0 to ▄ 80 ms, × lost".to_owned(), "▁▁▁××▁▂▄▁▁".to_owned())
        );
        assert_eq!(strip(&millis, 80, false).1, "___xx_.-__");
        let (legend, strip) = strip(&millis, 5, false);
        assert_eq!((legend.is_ascii(), &*strip), (true, "_xx._"));
    }

    #[test]
    fn steady_run_is_flat_and_wide_range_fits() {
        assert_eq!(strip(&[10, 12, 14, 13], 80, true), ("rtt over 4s: ▁ 10 to 14 ms".to_owned(), "▁▁▁▁".to_owned()));
        assert_eq!(strip(&[1, 60_000], 80, true).1, "▁█");
    }

    #[test]
    fn medians_are_within_shortest_and_longest_round_trip() {
        for nanos in 20_000..21_000 {
            let (start, round_trip) = (Instant::now(), Duration::from_nanos(nanos));
            let mut timeline = Timeline::new(start, Duration::from_secs(1), MOST_SLICES);
            (0..2).for_each(|second| timeline.record(start + Duration::from_secs(second), round_trip));
            assert_eq!(Strip::new(&timeline, Terminal::default()).range(), Some((round_trip, round_trip)));
        }
    }

    #[test]
    fn legend_explains_only_what_is_shown() {
        assert_eq!(strip(&[0, 0], 80, true), ("rtt over 2s: × lost".to_owned(), "××".to_owned()));
        assert_eq!(strip(&[5], 80, true).0, "");
        assert_eq!(strip(&[], 80, true), (String::new(), String::new()));
    }

    #[test]
    fn longest_legend_fits_into_50_columns() {
        let mut millis = vec![12_345; 10_000];
        millis[7] = 0;
        millis[9999] = 45_678;
        let (legend, strip) = strip(&millis, 50, true);
        assert!(legend.chars().count() <= 50 && strip.chars().count() == 50, "{legend}");
    }
}
