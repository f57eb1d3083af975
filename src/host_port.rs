//! Splits `HOST:PORT` into its parts, either of which may be missing. Defaults for them are the caller's.
//!
//! A look-up would take some mistakes for hosts: a port without its colon is an old notation of an IPv4 address, and a
//! message that stands in the place of the address would be asked for at a name server. These are errors here.

use crate::parse_error::ParseError;

/// Splits `HOST:PORT`, `:PORT` or `HOST`. The host is returned without the brackets of an IPv6 address.
///
/// # Errors
///
/// If the text has another form, or the port is not a number from 0 to 65535.
pub fn split(text: &str) -> Result<(Option<&str>, Option<u16>), ParseError> {
    check_no_scheme(text)?;
    parse(text, "1 to 65535, or 0 for any free one")
}

/// Splits the host from the port, a number from `range`.
fn parse<'a>(text: &'a str, range: &str) -> Result<(Option<&'a str>, Option<u16>), ParseError> {
    let (host, port) = split_text(text)?;
    Ok((host, port.map(|port| parse_port(port, range)).transpose()?))
}

/// Splits the host from the text of the port.
fn split_text(text: &str) -> Result<(Option<&str>, Option<&str>), ParseError> {
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
                if !text.chars().all(|c| is_host_character(c) || c == ':') {
                    return Err(malformed());
                }
                return Err(ParseError::new(format!(
                    "{text:?} has too many colons: write an IPv6 address in brackets, as in [::1]:5000"
                )));
            }
            Some((host, port)) => (host, Some(port)),
            None if text.is_empty() => return Err(malformed()),
            None => (text, None),
        }
    };
    if let Some(port) = bare_port(text) {
        return Err(ParseError::new(format!("{text:?} is a port without its colon: write :{port}")));
    }
    // A colon only stands in brackets here.
    let is_host = host.chars().all(|c| is_host_character(c) || c == ':');
    if !is_host || (!text.starts_with('[') && is_number(host)) {
        return Err(malformed());
    }
    Ok(((!host.is_empty()).then_some(host), port))
}

/// Splits the target of a client, as [`split`] does, but for the port: nothing can listen on 0. For a text that cannot
/// be a target, the error shows what to write instead, or how to send it as a message.
///
/// # Errors
///
/// As [`split`].
#[cfg(feature = "client")]
pub fn split_target(text: &str) -> Result<(Option<&str>, Option<u16>), ParseError> {
    check_no_scheme(text)?;
    let is_quotable = || !text.contains(|c: char| c == '\'' || c.is_control());
    let is_message = || !text.chars().all(|c| is_host_character(c) || ":[]".contains(c)) && is_quotable();
    let target = parse(text, "1 to 65535").and_then(|target| match target {
        (_, Some(0)) => {
            let why = format!("nothing can listen on port 0: write a port from 1 to 65535 in {text:?}");
            Err(ParseError::new(why))
        }
        target => Ok(target),
    });
    target.map_err(|error| match is_message() {
        true => ParseError::new(format!("{error} (to send it as a message: udpong send :5000 '{text}')")),
        false => error,
    })
}

/// Returns an error for a URL and for an address of socat, such as `UDP:localhost:7`.
fn check_no_scheme(text: &str) -> Result<(), ParseError> {
    let url = text.split_once("://").filter(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let is_udp = |protocol: &str| protocol.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("udp"));
    // A host may be called udp-listen, but not in capitals, and no port is followed by options.
    let listens = |protocol: &str| ["-LISTEN", "-L", "-RECVFROM", "-RECV"].iter().any(|end| protocol.ends_with(end));
    let socat = text
        .split_once(':')
        .filter(|(protocol, rest)| is_udp(protocol) && (rest.contains(':') || rest.contains(',') || listens(protocol)));
    let (what, rest) = match (url, socat) {
        (Some((_, rest)), _) => ("a URL", rest),
        (None, Some((_, rest))) => ("an address of socat", rest),
        (None, None) => return Ok(()),
    };
    let place = rest.split(['/', '?', '#', ',']).next().unwrap_or_default();
    let place = match bare_port(place) {
        Some(port) => format!(":{port}"),
        None if parse(place, "").is_ok() => place.to_owned(),
        None => "HOST:PORT".to_owned(),
    };
    Err(ParseError::new(format!("{text:?} is {what}: write {place}")))
}

/// Returns the port if the text is nothing else, so that its colon is missing.
pub fn bare_port(text: &str) -> Option<u16> {
    is_number(text).then(|| text.parse().ok()).flatten()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether names and addresses may contain it: letters of any language, digits, and what separates them.
fn is_host_character(c: char) -> bool {
    c.is_alphanumeric() || "-._%".contains(c)
}

fn parse_port(text: &str, range: &str) -> Result<u16, ParseError> {
    // `u16::from_str` accepts a leading plus sign.
    let port = if text.starts_with('+') { None } else { text.parse().ok() };
    port.ok_or_else(|| ParseError::new(format!("{text:?} is not a port: write a number from {range}")))
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
        assert_eq!(split("bücher.example"), Ok((Some("bücher.example"), None)));
        assert_eq!(split("3com.example_1:7"), Ok((Some("3com.example_1"), Some(7))));
    }

    #[test]
    fn errors_name_what_to_write_instead() {
        let error = |text: &str| split(text).expect_err(text).to_string();
        for text in [
            "",
            "[::1",
            "[::1]x",
            "[]:5",
            "[]",
            "[:\n]",
            "[: 1]:5",
            "Hello, server!",
            "a/b:5",
            "2130706433",
            "5000:5000",
            "a:1,b:2",
            "a:1 b:2",
        ] {
            assert!(error(text).starts_with(&format!("{text:?} is not an address: ")), "{text}");
        }
        assert_eq!(error("5000"), "\"5000\" is a port without its colon: write :5000");
        assert!(error("::1").starts_with("\"::1\" has too many colons: "));
        for port in ["", "65536", "-1", "+5", "5x", "http"] {
            assert!(error(&format!("localhost:{port}")).starts_with(&format!("{port:?} is not a port: ")), "{port}");
        }
    }

    #[cfg(feature = "client")]
    #[test]
    fn target_has_no_url_and_no_port_0() {
        let error = |text: &str| split_target(text).expect_err(text).to_string();
        for (url, target) in [
            ("udp://localhost:5000", "localhost:5000"),
            ("udp://:7", ":7"),
            ("http://[::1]:7/path?x#y", "[::1]:7"),
            ("udp://localhost:http", "HOST:PORT"),
            ("udp://", "HOST:PORT"),
            ("udp://udp://x", "HOST:PORT"),
        ] {
            assert_eq!(error(url), format!("{url:?} is a URL: write {target}"));
        }
        for (address, target) in [
            ("UDP:localhost:7", "localhost:7"),
            ("udp4-sendto:127.0.0.1:7,reuseaddr", "127.0.0.1:7"),
            ("UDP6:[::1]:7", "[::1]:7"),
            ("UDP:a:b", "HOST:PORT"),
            ("UDP-LISTEN:7000", ":7000"),
            ("UDP4-RECVFROM:7000,fork", ":7000"),
            ("udp6-l:7000,fork,reuseaddr", ":7000"),
            ("UDP-LISTEN:http", "http"),
        ] {
            assert_eq!(error(address), format!("{address:?} is an address of socat: write {target}"));
            assert_eq!(split(address).expect_err(address).to_string(), error(address));
        }
        assert!(["udp:7", "udp-listen:7", "UDP:7", "UDP-server:7"].iter().all(|host| split_target(host).is_ok()));
        assert!(error(&"udp:".repeat(30_000)).ends_with("an address of socat: write HOST:PORT"));
        assert_eq!(error("127.0.0.1:99999"), "\"99999\" is not a port: write a number from 1 to 65535");
        assert!(error("localhost:0").contains("port 0") && error("localhost:00").contains("port 0"));
    }

    #[cfg(feature = "client")]
    #[test]
    fn message_in_place_of_a_target_can_be_copied() {
        let hint = |text: &str| split_target(text).expect_err(text).to_string();
        for text in ["Hello, server!", "hello: you", "what?", "[x] y", "see udp://x"] {
            assert!(hint(text).ends_with(&format!(" (to send it as a message: udpong send :5000 '{text}')")), "{text}");
        }
        for text in ["5000", "localhost:http", "it's me", "a\nb", "::1"] {
            assert!(!hint(text).contains("udpong send"), "{text}");
        }
        assert_eq!(split_target("localhost:7"), split("localhost:7"));
    }
}
