//! Escapes untrusted bytes, so that they can be printed on a terminal and in a log. Pure.

use std::fmt::{self, Display, Formatter, Write};

/// Displays bytes as text that cannot control a terminal or fake a log line.
///
/// Printable UTF-8 is displayed as it is. Everything else (control characters, line breaks, escape sequences,
/// bidirectional overrides, invalid UTF-8) is escaped as `\n`, `\u{202e}` or `\xff`.
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

/// The number of characters of a payload that a log line shows.
const LINE_LIMIT: usize = 256;

/// No part contributes more to a line, and to the check whether there is more: each character has at most four bytes.
const LINE_BYTES: usize = 4 * (LINE_LIMIT + 1);

impl<'a> Escaped<'a> {
    /// Displays the parts one after the other, truncated after 256 characters, which is marked by `…`.
    ///
    /// Each part is decoded separately: a character split between two parts is displayed as invalid UTF-8. Only bytes
    /// that can be displayed are read, so a long payload costs no more than a short one.
    pub fn line(parts: [&'a [u8]; 3]) -> Self {
        Self { parts: parts.map(|part| &part[..part.len().min(LINE_BYTES)]), limit: LINE_LIMIT }
    }

    /// Displays the bytes without truncation.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { parts: [bytes, b"", b""], limit: usize::MAX }
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut out = Truncated { f, left: self.limit, is_cut: false };
        for chunk in self.parts.iter().flat_map(|part| part.utf8_chunks()) {
            out.write_text(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
            if out.is_cut {
                break;
            }
        }
        Ok(())
    }
}

/// Writes the first characters, and `…` if there are more.
struct Truncated<'a, 'f> {
    f: &'a mut Formatter<'f>,
    /// How many more characters may be written.
    left: usize,
    /// The `…` is written.
    is_cut: bool,
}

impl Truncated<'_, '_> {
    fn write_text(&mut self, mut text: &str) -> fmt::Result {
        while !text.is_empty() && !self.is_cut {
            // Nearly all text is printable ASCII, which is written in one piece.
            let (plain, rest) = text.split_at(plain_prefix(text));
            if !plain.is_empty() {
                self.write_plain(plain)?;
                text = rest;
                continue;
            }
            // `str::escape_debug` decides what is printable; it does not escape a combining mark behind its base.
            let end = text.char_indices().skip(1).find(|(_, c)| is_plain(*c)).map_or(text.len(), |(at, _)| at);
            let (head, tail) = text.split_at(end);
            for c in head.escape_debug() {
                self.write_char(c)?;
                if self.is_cut {
                    break;
                }
            }
            text = tail;
        }
        Ok(())
    }

    fn write_plain(&mut self, ascii: &str) -> fmt::Result {
        let fits = ascii.len().min(self.left);
        self.f.write_str(&ascii[..fits])?;
        self.left -= fits;
        if fits < ascii.len() { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> fmt::Result {
        if !self.is_cut {
            self.is_cut = true;
            self.f.write_char('…')?;
        }
        Ok(())
    }
}

impl Write for Truncated<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        if self.left == 0 {
            return self.cut();
        }
        self.left -= 1;
        self.f.write_char(c)
    }
}

fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// The length of the printable ASCII at the beginning that needs no escape. A last character that something else
/// follows is excluded: it may be the base of a combining mark.
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
    fn printable_text_of_any_script_is_not_escaped() {
        for text in ["Hello, server!", r#"a "quoted" \ 'text'"#, "naïve", "e\u{301}", "नमस्ते", "日本語", "🦀", ""]
        {
            assert_eq!(line(text.as_bytes()), text);
        }
    }

    #[test]
    fn control_characters_and_invalid_utf8_are_escaped() {
        assert_eq!(line(b"a\nb\r\tc\0"), r"a\nb\r\tc\0");
        assert_eq!(line(b"\x1b[2J\x07\x7f"), r"\u{1b}[2J\u{7}\u{7f}");
        assert_eq!(line("\u{202e}evil\u{2066}\u{2028}\u{9b}".as_bytes()), r"\u{202e}evil\u{2066}\u{2028}\u{9b}");
        assert_eq!(line(b"\xff\xc3(\xe2\x82"), r"\xff\xc3(\xe2\x82");
    }

    #[test]
    fn a_line_is_truncated_after_256_characters() {
        let exact = "x".repeat(LINE_LIMIT);
        assert_eq!(line(exact.as_bytes()), exact);
        assert_eq!(line(format!("{exact}y").as_bytes()), format!("{exact}…"));
        assert_eq!(line("é".repeat(LINE_LIMIT + 1).as_bytes()), "é".repeat(LINE_LIMIT) + "…");
        assert_eq!(Escaped::line([exact.as_bytes(), b"y", b"z"]).to_string(), format!("{exact}…"));
        assert_eq!(Escaped::whole(&[b'z'; 65_507]).to_string().len(), 65_507);
    }

    /// A payload of 64 KiB must not cost the server more than what its line shows.
    #[test]
    fn a_line_keeps_only_the_bytes_that_it_can_show() {
        for text in ["x", "é", "日", "🦀", "\u{202e}", "e\u{301}", "\""] {
            let long = text.repeat(LINE_LIMIT * 4);
            let escaped = Escaped::line([long.as_bytes(); 3]);
            assert!(escaped.parts.iter().all(|part| part.len() <= LINE_BYTES), "{text}");
            assert_eq!(escaped.to_string(), line(long.as_bytes()));
            assert!(escaped.to_string().ends_with('…'), "{text}");
        }
        // Cut in the middle of a character, which is not shown any more.
        for offset in 0..4 {
            let long = "x".repeat(offset) + &"🦀".repeat(LINE_LIMIT);
            let shown: String = long.chars().take(LINE_LIMIT).collect();
            let ellipsis = if offset == 0 { "" } else { "…" };
            assert_eq!(line(long.as_bytes()), shown + ellipsis);
        }
    }

    fn is_harmful(c: char) -> bool {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_short_and_harmless_line(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let shown = line(&bytes);
            prop_assert!(shown.chars().count() <= LINE_LIMIT + 1);
            prop_assert!(!shown.contains(is_harmful));
        }

        #[test]
        fn any_text_makes_a_short_and_harmless_line(
            text in "(\\PC|[\u{0}-\u{1f}\u{7f}-\u{9f}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2066}-\u{2069}])*"
        ) {
            let shown = line(text.as_bytes());
            prop_assert!(shown.chars().count() <= LINE_LIMIT + 1);
            prop_assert!(!shown.contains(is_harmful));
        }
    }
}
