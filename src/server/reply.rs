//! What is answered: a message goes in, the parts of the reply come out. Pure: no socket, no clock.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// A reply with at most one place, `{}`, that the message goes to.
///
/// `{{` and `}}` stand for single braces.
///
/// ```
/// use udpong::server::ReplyTemplate;
/// let greeting: ReplyTemplate = "Hello {}".parse()?;
/// assert_eq!(greeting.reply(b"you").concat(), b"Hello you");
/// # Ok::<(), udpong::server::TemplateError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTemplate {
    before: String,
    /// What follows the message; `None` when the message does not appear.
    after: Option<String>,
}

impl ReplyTemplate {
    /// The reply to `message`, in three parts that belong one after the other. Nothing is copied.
    pub fn reply<'a>(&'a self, message: &'a [u8]) -> [&'a [u8]; 3] {
        match &self.after {
            Some(after) => [self.before.as_bytes(), message, after.as_bytes()],
            None => [self.before.as_bytes(), b"", b""],
        }
    }
}

impl FromStr for ReplyTemplate {
    type Err = TemplateError;

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
                        return Err(TemplateError::TwoMessages);
                    }
                }
                ('{' | '}', _) => return Err(TemplateError::LoneBrace(c)),
                _ => literal.push(c),
            }
        }
        Ok(Self { before, after })
    }
}

/// Why a text is no [`ReplyTemplate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// `{}` appears more than once.
    TwoMessages,
    /// A brace that is neither doubled nor part of `{}`.
    LoneBrace(char),
}

impl Display for TemplateError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoMessages => f.write_str("the message, {}, can stand in a reply only once"),
            Self::LoneBrace(brace) => {
                write!(f, "a single {brace} in a reply: write {brace}{brace} for a brace, {{}} for the message")
            }
        }
    }
}

impl Error for TemplateError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(template: &str, message: &[u8]) -> Vec<u8> {
        template.parse::<ReplyTemplate>().expect("a good template").reply(message).concat()
    }

    #[test]
    fn the_message_stands_where_the_braces_are() {
        assert_eq!(reply("Hello {}", b"you"), b"Hello you");
        assert_eq!(reply("{}", b"\xff\0"), b"\xff\0");
        assert_eq!(reply("<{}>", b""), b"<>");
        assert_eq!(reply("fixed", b"you"), b"fixed");
        assert_eq!(reply("", b"you"), b"");
        assert_eq!(reply("{{{}}}", b"you"), b"{you}");
        assert_eq!(reply("{{}}", b"you"), b"{}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let error = |text: &str| text.parse::<ReplyTemplate>().expect_err("a bad template");
        assert_eq!(error("{} and {}"), TemplateError::TwoMessages);
        assert_eq!(error("{"), TemplateError::LoneBrace('{'));
        assert_eq!(error("a}b"), TemplateError::LoneBrace('}'));
        assert_eq!(error("{name}"), TemplateError::LoneBrace('{'));
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_once_its_braces_are_doubled(
            before in ".*", after in ".*", message in proptest::collection::vec(any::<u8>(), 0..100)
        ) {
            let doubled = |text: &str| text.replace('{', "{{").replace('}', "}}");
            let template = doubled(&before) + "{}" + &doubled(&after);
            prop_assert_eq!(reply(&template, &message), [before.as_bytes(), &message, after.as_bytes()].concat());
        }

        #[test]
        fn no_text_panics(text in "[{}a]*") {
            let _ = text.parse::<ReplyTemplate>();
        }
    }
}
