//! Bytes from strangers, made fit for a terminal. It knows Unicode; it does not know who sent the bytes.

use std::fmt::{self, Display, Formatter, Write};

/// Shows bytes as text that cannot harm a terminal or forge a line: printable UTF-8 as it is, everything else
/// (control characters, line breaks, escape sequences, bidirectional overrides, invalid UTF-8) escaped as
/// `\n`, `\u{202e}` or `\xff`.
///
/// ```
/// use udpong::logging::escape::Escaped;
/// assert_eq!(Escaped::whole(b"h\xc3\xa9llo\n\x1b[31m\xff").to_string(), "h\u{e9}llo\\n\\u{1b}[31m\\xff");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a> {
    parts: [&'a [u8]; 3],
    limit: usize,
}

/// How many characters of a datagram a log line shows.
const LINE: usize = 256;

impl<'a> Escaped<'a> {
    /// Shows the parts as one text, cut (and marked with `…`) after 256 characters.
    ///
    /// The parts are decoded one by one: a character must not be spread over two of them.
    pub fn line(parts: [&'a [u8]; 3]) -> Self {
        Self { parts, limit: LINE }
    }

    /// Shows all of the bytes.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { parts: [bytes, b"", b""], limit: usize::MAX }
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut out = Limited { f, left: self.limit, cut: false };
        for chunk in self.parts.iter().flat_map(|part| part.utf8_chunks()) {
            out.text(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
            if out.cut {
                break;
            }
        }
        Ok(())
    }
}

/// Passes on the first characters, and marks the place where it stopped.
struct Limited<'a, 'f> {
    f: &'a mut Formatter<'f>,
    left: usize,
    cut: bool,
}

impl Limited<'_, '_> {
    fn text(&mut self, mut text: &str) -> fmt::Result {
        while !text.is_empty() && !self.cut {
            // Nearly everything is printable ASCII; it goes through in one piece.
            let (plain, rest) = text.split_at(plain_prefix(text));
            if !plain.is_empty() {
                self.plain(plain)?;
                text = rest;
                continue;
            }
            // `str::escape_debug` decides what is printable, and leaves combining marks with their base.
            let end = text.char_indices().skip(1).find(|(_, c)| is_plain(*c)).map_or(text.len(), |(at, _)| at);
            let (head, tail) = text.split_at(end);
            head.escape_debug().try_for_each(|c| self.write_char(c))?;
            text = tail;
        }
        Ok(())
    }

    fn plain(&mut self, ascii: &str) -> fmt::Result {
        let fits = ascii.len().min(self.left);
        self.f.write_str(&ascii[..fits])?;
        self.left -= fits;
        if fits < ascii.len() { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> fmt::Result {
        if !self.cut {
            self.cut = true;
            self.f.write_char('…')?;
        }
        Ok(())
    }
}

impl Write for Limited<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        if self.left == 0 {
            return self.end();
        }
        self.left -= 1;
        self.f.write_char(c)
    }
}

fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// How many bytes at the beginning can be shown as they are. A letter before something else is left to it: it
/// may be the base of a combining mark.
fn plain_prefix(text: &str) -> usize {
    let plain = text.bytes().take_while(|byte| is_plain(char::from(*byte))).count();
    match text.as_bytes()[..plain].last() {
        // `escape_debug` would put a backslash before these.
        Some(b'"' | b'\'' | b'\\') | None => plain,
        Some(_) if plain == text.len() => plain,
        Some(_) => plain - 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(bytes: &[u8]) -> String {
        Escaped::line([bytes, b"", b""]).to_string()
    }

    #[test]
    fn printable_text_of_any_script_stays_as_it_is() {
        for text in ["Hello, server!", r#"a "quoted" \ 'text'"#, "naïve", "e\u{301}", "नमस्ते", "日本語", "🦀", ""]
        {
            assert_eq!(line(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_could_harm_is_escaped() {
        assert_eq!(line(b"a\nb\r\tc\0"), r"a\nb\r\tc\0");
        assert_eq!(line(b"\x1b[2J\x07\x7f"), r"\u{1b}[2J\u{7}\u{7f}");
        assert_eq!(line("\u{202e}evil\u{2066}\u{2028}\u{9b}".as_bytes()), r"\u{202e}evil\u{2066}\u{2028}\u{9b}");
        assert_eq!(line(b"\xff\xc3(\xe2\x82"), r"\xff\xc3(\xe2\x82");
    }

    #[test]
    fn a_line_ends_after_256_characters_and_says_so() {
        let exact = "x".repeat(LINE);
        assert_eq!(line(exact.as_bytes()), exact);
        assert_eq!(line(format!("{exact}y").as_bytes()), format!("{exact}…"));
        assert_eq!(line("é".repeat(LINE + 1).as_bytes()), "é".repeat(LINE) + "…");
        assert_eq!(Escaped::line([exact.as_bytes(), b"y", b"z"]).to_string(), format!("{exact}…"));
        assert_eq!(Escaped::whole(&[b'z'; 65_507]).to_string().len(), 65_507);
    }

    fn is_harmful(c: char) -> bool {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_line_dangerous_or_long(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let shown = line(&bytes);
            prop_assert!(shown.chars().count() <= LINE + 1);
            prop_assert!(!shown.contains(is_harmful));
        }

        #[test]
        fn no_text_makes_a_line_dangerous_or_long(
            text in "(\\PC|[\u{0}-\u{1f}\u{7f}-\u{9f}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2066}-\u{2069}])*"
        ) {
            let shown = line(text.as_bytes());
            prop_assert!(shown.chars().count() <= LINE + 1);
            prop_assert!(!shown.contains(is_harmful));
        }
    }
}
