//! A table of targets. Pure.

use std::fmt::{self, Display, Formatter};

use super::format::{millis, percent};
use super::terminal::Terminal;
use crate::client::probe::latency::Summary;

/// A target in a table. What is unknown is `None`.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name of the target.
    pub target: String,
    /// How many probes were sent.
    pub sent: Option<u64>,
    /// How many of them got no answer in time, and how many percent that is.
    pub lost: Option<(u64, f64)>,
    /// The times.
    pub times: Summary,
}

/// Displays a line for each target, with times in milliseconds, below a heading.
#[derive(Debug)]
pub struct Table {
    /// The lines.
    pub rows: Vec<Row>,
    /// If it is too narrow, some columns are left out.
    pub terminal: Terminal,
}

const COLUMNS: usize = 8;
const HEADINGS: [&str; COLUMNS] = ["target", "sent", "lost", "", "p50", "p90", "p99", "max ms"];

/// The columns that can be left out, in that order: the 90th percentile, the number of probes, the 99th percentile.
const OPTIONAL: [usize; 3] = [5, 1, 6];

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = std::iter::once(HEADINGS.map(str::to_owned)).chain(self.rows.iter().map(cells)).collect();
        let mut columns: Vec<usize> = (0..COLUMNS).collect();
        let widths = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: [usize; COLUMNS] = std::array::from_fn(widths);
        for left_out in OPTIONAL {
            let width: usize = columns.iter().map(|column| widths[*column] + 2).sum();
            if self.terminal.wraps && width - 2 > self.terminal.width {
                columns.retain(|column| *column != left_out);
            }
        }
        for row in &rows {
            write!(f, "{:<1$}", row[0], widths[0])?;
            for &column in &columns[1..] {
                write!(f, "  {:>1$}", row[column], widths[column])?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; COLUMNS] {
    let Row { target, sent, lost, times } = row;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let [p50, p90, p99, max] = [times.p50, times.p90, times.p99, times.max].map(millis);
    let sent = or_dash(sent.map(|sent| sent.to_string()));
    let (lost, loss) = lost.map(|(lost, loss)| (lost.to_string(), percent(loss))).unzip();
    [target.clone(), sent, or_dash(lost), or_dash(loss), p50, p90, p99, max]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_unknown_values_dashes() {
        let times =
            Summary { p50: Some(0.048), p90: Some(0.12), p99: Some(12.3456), max: Some(100.0), ..Summary::default() };
        let row = |target: &str, sent, lost, times| Row { target: target.to_owned(), sent, lost, times };
        let rows = [
            row("127.0.0.1:5000", Some(1000), Some((12, 1.2)), times),
            row("[::1]:5000", None, None, Summary::default()),
        ];
        let table = |width| {
            let terminal = Terminal { width, unicode: false, wraps: true };
            Table { rows: rows.to_vec(), terminal }.to_string()
        };
        assert_eq!(
            table(80),
            "target          sent  lost          p50    p90     p99   max ms\n\
             127.0.0.1:5000  1000    12  1.2%  0.048  0.120  12.346  100.000\n\
             [::1]:5000         -     -     -      -      -       -        -\n"
        );
        assert_eq!(table(50).lines().next(), Some("target          lost          p50     p99   max ms"));
    }
}
