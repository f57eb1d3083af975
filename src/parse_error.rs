//! The error of texts that a user writes: services, reply templates, addresses.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

/// Why a text cannot be parsed. Displayed as one line, which names the cause and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl ParseError {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

impl Display for ParseError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ParseError {}
