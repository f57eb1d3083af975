//! What the reader's terminal can show: its width, and which characters.

use std::env;
use std::ffi::OsString;

use console::Term;

/// The width if nothing is known about the reader.
const DEFAULT_WIDTH: usize = 80;

/// What the text of a report is fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Characters per line.
    pub width: usize,
    /// Whether more than ASCII is shown.
    pub unicode: bool,
}

impl Default for Terminal {
    /// 80 columns of ASCII, which everything can show.
    fn default() -> Self {
        Self { width: DEFAULT_WIDTH, unicode: false }
    }
}

impl Terminal {
    /// Returns what is known about the reader of stdout.
    ///
    /// The width is the terminal's if stdout is one, else that of `COLUMNS`, else 80. Characters are UTF-8 if the locale says
    /// so: `LC_ALL`, else `LC_CTYPE`, else `LANG`.
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
        let columns = columns.or_else(|| text("COLUMNS")?.parse().ok().filter(|columns| *columns > 0));
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(text).unwrap_or_default().to_ascii_lowercase();
        let unicode = locale.contains("utf-8") || locale.contains("utf8");
        Self { width: columns.unwrap_or(DEFAULT_WIDTH), unicode }
    }
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
    fn first_locale_variable_that_is_set_decides_about_unicode() {
        let unicode = |variables| terminal(None, variables).unicode;
        assert!(!unicode(&[]));
        assert!(unicode(&[("LANG", "de_DE.UTF-8")]) && unicode(&[("LANG", "C.utf8")]));
        assert!(!unicode(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(unicode(&[("LC_ALL", ""), ("LC_CTYPE", "C.UTF-8"), ("LANG", "C")]));
        assert!(!unicode(&[("LANG", "de_DE.ISO-8859-1")]));
    }
}
