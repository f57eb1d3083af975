//! A table of targets. Pure.

use std::fmt::{self, Display, Formatter};

use super::format::percent;
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
pub struct Table(pub Vec<Row>);

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const HEADINGS: [&str; 8] = ["target", "sent", "lost", "", "p50", "p90", "p99", "max ms"];
        let rows: Vec<[String; 8]> = self.0.iter().map(cells).collect();
        let mut widths = HEADINGS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut line = |cells: &[String; 8]| {
            write!(f, "{:<1$}", cells[0], widths[0])?;
            cells.iter().zip(widths).skip(1).try_for_each(|(cell, width)| write!(f, "  {cell:>width$}"))?;
            writeln!(f)
        };
        line(&HEADINGS.map(str::to_owned))?;
        rows.iter().try_for_each(line)
    }
}

fn cells(row: &Row) -> [String; 8] {
    let Row { target, sent, lost, times } = row;
    let unknown = || "-".to_owned();
    let [p50, p90, p99, max] = [times.p50, times.p90, times.p99, times.max]
        .map(|millis| millis.map_or_else(unknown, |millis| format!("{millis:.3}")));
    let count = |count: Option<u64>| count.map_or_else(unknown, |count| count.to_string());
    let loss = lost.map_or_else(unknown, |(_, loss)| percent(loss));
    [target.clone(), count(*sent), count(lost.map(|(lost, _)| lost)), loss, p50, p90, p99, max]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_unknown_values_dashes() {
        let times =
            Summary { p50: Some(0.048), p90: Some(0.12), p99: Some(12.3456), max: Some(100.0), ..Summary::default() };
        let row = |target: &str, sent, lost, times| Row { target: target.to_owned(), sent, lost, times };
        let rows = vec![
            row("127.0.0.1:5000", Some(1000), Some((12, 1.2)), times),
            row("[::1]:5000", None, None, Summary::default()),
        ];
        assert_eq!(
            Table(rows).to_string(),
            "target          sent  lost          p50    p90     p99   max ms\n\
             127.0.0.1:5000  1000    12  1.2%  0.048  0.120  12.346  100.000\n\
             [::1]:5000         -     -     -      -      -       -        -\n"
        );
    }
}
