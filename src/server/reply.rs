//! Reply templates: turn a request into the parts of the reply. Pure: no socket, no clock.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::parse_error::ParseError;

/// A reply that contains the payload of the request at most once. Either may be arbitrary bytes.
///
/// As text, `{}` stands for the request; `{{` and `}}` stand for single braces.
///
/// ```
/// use udpong::server::ReplyTemplate;
///
/// let parsed: ReplyTemplate = "Hello {}".parse()?;
/// assert_eq!(parsed.reply(b"you").concat(), b"Hello you");
///
/// assert_eq!(parsed, ReplyTemplate::around("Hello ", ""));
/// assert_eq!(ReplyTemplate::fixed(b"\xff").reply(b"you").concat(), b"\xff");
/// # Ok::<(), udpong::server::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTemplate {
    before: Vec<u8>,
    /// What follows the request; `None` if the reply does not contain it.
    after: Option<Vec<u8>>,
}

impl ReplyTemplate {
    /// Creates a template that gives the same reply to every request.
    pub fn fixed(reply: impl Into<Vec<u8>>) -> Self {
        Self { before: reply.into(), after: None }
    }

    /// Creates a template that puts the request between `before` and `after`.
    pub fn around(before: impl Into<Vec<u8>>, after: impl Into<Vec<u8>>) -> Self {
        Self { before: before.into(), after: Some(after.into()) }
    }

    /// Returns the reply to `request` as three parts, to be sent one after the other. Nothing is copied.
    pub fn reply<'a>(&'a self, request: &'a [u8]) -> [&'a [u8]; 3] {
        match &self.after {
            Some(after) => [&self.before, request, after],
            None => [&self.before, b"", b""],
        }
    }
}

impl FromStr for ReplyTemplate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut before = String::new();
        let mut after = None;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let literal = after.as_mut().unwrap_or(&mut before);
            match (c, chars.peek()) {
                ('{', Some('{')) | ('}', Some('}')) => {
                    chars.next();
                    literal.push(c);
                }
                ('{', Some('}')) => {
                    chars.next();
                    if after.replace(String::new()).is_some() {
                        return Err(ParseError::new("the message, {}, can appear in a reply only once".to_owned()));
                    }
                }
                ('{' | '}', _) => {
                    return Err(ParseError::new(format!(
                        "a single {c} in a reply: write {c}{c} for a brace, {{}} for the message"
                    )));
                }
                _ => literal.push(c),
            }
        }
        Ok(Self { before: before.into(), after: after.map(String::into) })
    }
}

/// Writes the text that parses to this template; bytes that are not UTF-8 are replaced by `U+FFFD`.
impl Display for ReplyTemplate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let escape = |literal: &[u8]| String::from_utf8_lossy(literal).replace('{', "{{").replace('}', "}}");
        f.write_str(&escape(&self.before))?;
        match &self.after {
            Some(after) => write!(f, "{{}}{}", escape(after)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(template: &str, request: &[u8]) -> Vec<u8> {
        template.parse::<ReplyTemplate>().expect("a good template").reply(request).concat()
    }

    #[test]
    fn braces_stand_for_the_request() {
        assert_eq!(reply("Hello {}", b"you"), b"Hello you");
        assert_eq!(reply("{}", b"\xff\0"), b"\xff\0");
        assert_eq!(reply("<{}>", b""), b"<>");
        assert_eq!(reply("fixed", b"you"), b"fixed");
        assert_eq!(reply("", b"you"), b"");
        assert_eq!(reply("{{{}}}", b"you"), b"{you}");
        assert_eq!(reply("{{}}", b"you"), b"{}");
    }

    #[test]
    fn rejects_ambiguous_braces() {
        let error = |text: &str| text.parse::<ReplyTemplate>().expect_err("a bad template").to_string();
        assert!(error("{} and {}").contains("only once"));
        for (text, brace) in [("{", '{'), ("a}b", '}'), ("{name}", '{')] {
            assert!(error(text).starts_with(&format!("a single {brace} in a reply: ")), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_template_survives_display_and_parsing(
            before in ".*",
            after in proptest::option::of(".*"),
            request in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let template = match &after {
                Some(after) => ReplyTemplate::around(before.as_str(), after.as_str()),
                None => ReplyTemplate::fixed(before.as_str()),
            };
            prop_assert_eq!(template.to_string().parse(), Ok(template.clone()));
            let parts = after.map_or(vec![], |after| [&request, after.as_bytes()].concat());
            prop_assert_eq!(template.reply(&request).concat(), [before.as_bytes(), &parts].concat());
        }

        #[test]
        fn no_text_panics(text in "[{}a]*") {
            let _ = text.parse::<ReplyTemplate>();
        }
    }
}
