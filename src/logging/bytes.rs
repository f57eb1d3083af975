//! Numbers of bytes in log lines.

use std::fmt::{self, Display, Formatter};

/// Shows a number of bytes with its unit.
pub struct Bytes(pub usize);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "byte" } else { "bytes" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_followed_by_what_they_count() {
        assert_eq!([0, 1, 2].map(|bytes| Bytes(bytes).to_string()), ["0 bytes", "1 byte", "2 bytes"]);
    }
}
