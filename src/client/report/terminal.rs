//! What the reader's terminal can show: its width, and which characters.

use std::env;
use std::ffi::OsString;

use console::Term;

/// The width if nothing is known about the reader.
const DEFAULT_WIDTH: usize = 80;

/// What the continuation of a wrapped line begins with.
const INDENT: &str = "    ";

/// Where lines are broken: preferably between columns, then after a punctuation mark, then at any space.
const BREAKS: [&[&str]; 3] = [&["   "], &[", ", "; ", ": ", "= "], &[" "]];

/// What the text of a report is fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Characters per line.
    pub width: usize,
    /// Whether more than ASCII is shown.
    pub unicode: bool,
    /// Whether longer lines are [wrapped](Self::wrap). Not those of a pipe: a program may read them.
    pub wraps: bool,
}

impl Default for Terminal {
    /// 80 columns of ASCII, which everything can show.
    fn default() -> Self {
        Self { width: DEFAULT_WIDTH, unicode: false, wraps: false }
    }
}

impl Terminal {
    /// Returns what is known about the reader of stdout.
    ///
    /// The width is the terminal's if stdout is one, else that of `COLUMNS`, else 80. Characters are UTF-8 if the
    /// locale says so: `LC_ALL`, else `LC_CTYPE`, else `LANG`.
    pub fn of_stdout() -> Self {
        Self::of(&Term::stdout())
    }

    /// Returns what is known about the reader of stderr, if that is a terminal which can replace a line.
    pub fn of_stderr() -> Option<Self> {
        let stderr = Term::stderr();
        (stderr.is_term() && env::var_os("TERM").is_none_or(|term| term != "dumb")).then(|| Self::of(&stderr))
    }

    fn of(term: &Term) -> Self {
        let columns = term.size_checked().map(|(_, columns)| usize::from(columns));
        Self::new(columns, |name| env::var_os(name))
    }

    fn new(columns: Option<usize>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name| variable(name).and_then(|value| value.into_string().ok()).filter(|text| !text.is_empty());
        let columns = columns.filter(|columns| *columns > 0);
        let wraps = columns.is_some();
        let columns = columns.or_else(|| text("COLUMNS")?.parse().ok().filter(|columns| *columns > 0));
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(text).unwrap_or_default().to_ascii_lowercase();
        let unicode = locale.contains("utf-8") || locale.contains("utf8");
        Self { width: columns.unwrap_or(DEFAULT_WIDTH), unicode, wraps }
    }

    /// Breaks the lines of a text that are wider than the terminal, if there is one. Each line ends with a line break.
    pub fn wrap(&self, text: &str) -> String {
        let mut wrapped = String::new();
        for mut line in text.lines() {
            let mut width = if self.wraps { self.width } else { usize::MAX };
            while let Some(at) = break_in(line, width) {
                wrapped += line[..at].trim_end();
                wrapped += "\n";
                wrapped += INDENT;
                line = line[at..].trim_start();
                width = self.width.saturating_sub(INDENT.len());
            }
            wrapped += line;
            wrapped += "\n";
        }
        wrapped
    }
}

/// Returns where to break a line so that the part before fits into `width` characters; `None` if all of it does, or it
/// has no space there.
fn break_in(line: &str, width: usize) -> Option<usize> {
    if line.chars().count() <= width {
        return None;
    }
    let fits = |at: &usize| !line[..*at].trim().is_empty() && line[..*at].chars().count() <= width;
    BREAKS.iter().find_map(|separators| {
        let places = separators.iter().flat_map(|separator| line.match_indices(separator));
        places.map(|(at, separator)| at + separator.trim_end().len()).filter(fits).max()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(columns: Option<usize>, variables: &[(&str, &str)]) -> Terminal {
        Terminal::new(columns, |name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn width_is_that_of_terminal_then_of_variable_then_80() {
        let width = |columns, variables| terminal(columns, variables).width;
        assert_eq!(width(Some(50), &[("COLUMNS", "200")]), 50);
        assert_eq!(width(None, &[("COLUMNS", "200")]), 200);
        assert_eq!(width(Some(0), &[("COLUMNS", "0")]), 80);
        assert_eq!(width(None, &[("COLUMNS", "wide")]), 80);
    }

    #[test]
    fn wide_lines_are_wrapped_on_a_terminal_only() {
        let text = "20 sent, 16 answered, 4 lost (20.0%), 0 duplicate, 0 reordered\n\n\
                    rtt min/avg/max/stddev = 0.126/0.199/0.260/0.035 ms   jitter 0.035 ms\n";
        let at = |columns| terminal(Some(columns), &[]).wrap(text);
        assert_eq!(at(80), text);
        assert_eq!(terminal(None, &[("COLUMNS", "40")]).wrap(text), text);
        assert_eq!(
            at(50),
            "20 sent, 16 answered, 4 lost (20.0%), 0 duplicate,\n    0 reordered\n\n\
             rtt min/avg/max/stddev =\n    0.126/0.199/0.260/0.035 ms   jitter 0.035 ms\n"
        );
        assert_eq!(at(60).lines().last(), Some("    jitter 0.035 ms"));
        assert_eq!(terminal(Some(1), &[]).wrap("  unbreakable\n"), "  unbreakable\n");
    }

    #[test]
    fn first_locale_variable_that_is_set_decides_about_unicode() {
        let unicode = |variables| terminal(None, variables).unicode;
        assert!(!unicode(&[]));
        assert!(unicode(&[("LANG", "de_DE.UTF-8")]) && unicode(&[("LANG", "C.utf8")]));
        assert!(!unicode(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(unicode(&[("LC_ALL", ""), ("LC_CTYPE", "C.UTF-8"), ("LANG", "C")]));
        assert!(!unicode(&[("LANG", "de_DE.ISO-8859-1")]));
    }
}
