//! Splits `HOST:PORT` into its parts, either of which may be missing. Defaults for them are the caller's.

use crate::parse_error::ParseError;

/// Splits `HOST:PORT`, `:PORT` or `HOST`. The host is returned without the brackets of an IPv6 address.
///
/// # Errors
///
/// If the text has another form, or the port is not a number from 0 to 65535.
pub fn split(text: &str) -> Result<(Option<&str>, Option<u16>), ParseError> {
    let malformed =
        || ParseError::new(format!("{text:?} is not an address: write HOST:PORT, :PORT, HOST or [IPV6]:PORT"));
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').filter(|(host, _)| !host.is_empty()).ok_or_else(malformed)?;
        match rest {
            "" => (host, None),
            _ => (host, Some(rest.strip_prefix(':').ok_or_else(malformed)?)),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(ParseError::new(format!(
                    "{text:?} has too many colons: write an IPv6 address in brackets, as in [::1]:5000"
                )));
            }
            Some((host, port)) => (host, Some(port)),
            None if text.is_empty() => return Err(malformed()),
            None => (text, None),
        }
    };
    let port = port.map(parse_port).transpose()?;
    Ok(((!host.is_empty()).then_some(host), port))
}

fn parse_port(text: &str) -> Result<u16, ParseError> {
    // `u16::from_str` accepts a leading plus sign.
    let port = if text.starts_with('+') { None } else { text.parse().ok() };
    port.ok_or_else(|| {
        ParseError::new(format!("{text:?} is not a port: write a number from 1 to 65535, or 0 for any free one"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_part_may_be_missing() {
        assert_eq!(split("example.org:7"), Ok((Some("example.org"), Some(7))));
        assert_eq!(split("example.org"), Ok((Some("example.org"), None)));
        assert_eq!(split(":0"), Ok((None, Some(0))));
        assert_eq!(split("[::1]:65535"), Ok((Some("::1"), Some(65535))));
        assert_eq!(split("[fe80::1%eth0]"), Ok((Some("fe80::1%eth0"), None)));
    }

    #[test]
    fn errors_name_what_to_write_instead() {
        let error = |text: &str| split(text).expect_err(text).to_string();
        for text in ["", "[::1", "[::1]x", "[]:5", "[]"] {
            assert!(error(text).starts_with(&format!("{text:?} is not an address: ")), "{text}");
        }
        assert!(error("::1").starts_with("\"::1\" has too many colons: "));
        for port in ["", "65536", "-1", "+5", "5x", "http"] {
            assert!(error(&format!("localhost:{port}")).starts_with(&format!("{port:?} is not a port: ")), "{port}");
        }
    }
}
