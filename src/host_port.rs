//! `HOST:PORT` as people write it. It knows what may be left out; it does not know what stands for it then.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

/// Takes `HOST:PORT`, `:PORT` or `HOST` apart; the brackets of an IPv6 address are taken off.
///
/// # Errors
///
/// What is wrong with the text, and what to write instead.
pub fn split(text: &str) -> Result<(Option<&str>, Option<u16>), HostPortError> {
    let bad = || HostPortError::BadAddress(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        let port = match rest {
            "" => None,
            _ => Some(rest.strip_prefix(':').ok_or_else(bad)?),
        };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(HostPortError::NoBrackets(text.to_owned())),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() && (port.is_none() || text.starts_with('[')) {
        return Err(bad());
    }
    let port = port.map(parse_port).transpose()?;
    Ok(((!host.is_empty()).then_some(host), port))
}

fn parse_port(text: &str) -> Result<u16, HostPortError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| HostPortError::BadPort(text.to_owned()))
}

/// Why a text is no `HOST:PORT`. Each is shown as one line that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPortError {
    /// It cannot be taken apart.
    BadAddress(String),
    /// An IPv6 address without its brackets.
    NoBrackets(String),
    /// The port is no number from 0 to 65535.
    BadPort(String),
}

impl Display for HostPortError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress(address) => {
                write!(f, "{address:?} is no address: write HOST:PORT, :PORT, HOST or [IPV6]:PORT")
            }
            Self::NoBrackets(address) => {
                write!(f, "{address:?} has too many colons: write an IPv6 address in brackets, as in [::1]:5000")
            }
            Self::BadPort(port) => {
                write!(f, "{port:?} is no port: write a number from 1 to 65535, or 0 for any free one")
            }
        }
    }
}

impl Error for HostPortError {}
