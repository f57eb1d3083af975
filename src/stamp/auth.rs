//! Authentication: HMAC-SHA-256, truncated to 16 bytes (RFC 8762, section 4.4). Pure.

use std::fmt::{self, Debug, Formatter};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The length of a digest in bytes.
pub const DIGEST: usize = 16;

/// A shared key, not shown by `Debug`.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Creates a key of any length. Returns `None` for an empty one, which authenticates nobody.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() { None } else { Hmac::new_from_slice(bytes).ok().map(Self) }
    }

    /// Creates a key from the content of a file: all of it, but for one line feed at its end.
    pub fn from_file(content: &[u8]) -> Option<Self> {
        Self::new(content.strip_suffix(b"\n").unwrap_or(content))
    }

    /// Returns the digest of the parts of a text.
    pub fn digest(&self, parts: &[&[u8]]) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&self.mac(parts).finalize().into_bytes()[..DIGEST]);
        digest
    }

    /// Returns whether `digest` belongs to the text, in a time that does not depend on where it differs.
    pub fn is_authentic(&self, parts: &[&[u8]], digest: &[u8; DIGEST]) -> bool {
        self.mac(parts).verify_truncated_left(digest).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        parts.iter().fold(self.0.clone(), |mac, part| mac.chain_update(part))
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_rfc_4231_truncated() {
        // Test case 2.
        let key = Key::new(b"Jefe").expect("a key");
        let expected = [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7];
        assert_eq!(key.digest(&[b"what do ya want ", b"for nothing?"]), expected);
        assert!(key.is_authentic(&[b"what do ya want for nothing?"], &expected));
        for bit in 0..128 {
            let mut wrong = expected;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.is_authentic(&[b"what do ya want for nothing?"], &wrong));
        }
    }

    #[test]
    fn key_file_may_end_with_one_line_feed() {
        let digest = |content: &[u8]| Key::from_file(content).map(|key| key.digest(&[b"text"]));
        assert_eq!(digest(b"secret\n"), digest(b"secret"));
        assert_ne!(digest(b"secret\n\n"), digest(b"secret"));
        assert_ne!(digest(b"secret\r\n"), digest(b"secret"));
        assert_eq!((digest(b""), digest(b"\n")), (None, None));
        assert_eq!(format!("{:?}", Key::new(b"secret")), "Some(Key)");
    }
}
