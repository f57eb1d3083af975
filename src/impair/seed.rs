//! The seed of all links of a process.

use std::fmt::{self, Display, Formatter};
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

use crate::parse_error::ParseError;

/// What all random decisions follow from: 0 to 2⁵³ - 1, so that JSON readers can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct Seed(u64);

impl Seed {
    const END: u64 = 1 << 53;

    /// Returns another seed at each call.
    pub fn random() -> Self {
        // The standard library seeds its hash maps from the system's generator.
        Self(RandomState::new().hash_one(std::process::id()) % Self::END)
    }

    /// Returns the seed as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Seed {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text);
        let seed = digits.and_then(|digits| digits.parse().ok()).filter(|seed| *seed < Self::END);
        seed.map(Self).ok_or_else(|| {
            ParseError::new(format!("{text:?} is not a seed: write a whole number from 0 to 9007199254740991"))
        })
    }
}

impl Display for Seed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Seed, ParseError> {
        text.parse()
    }

    #[test]
    fn seeds_fit_a_double() {
        assert_eq!(parse("9007199254740991").map(Seed::get), Ok((1 << 53) - 1));
        for wrong in ["", "9007199254740992", "-1", "+1", "1.0", "99999999999999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_ne!(Seed::random(), Seed::random());
    }
}
