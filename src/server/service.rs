//! What can be served: the names, their replies and where they listen, written as `hello@0.0.0.0:5000`.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use super::reply::{ReplyTemplate, TemplateError};
use crate::host_port::{self, HostPortError};

/// A service that is known by name.
struct Known {
    name: &'static str,
    /// What it answers; `None` for nothing.
    template: Option<&'static str>,
    host: Option<&'static str>,
    port: Option<u16>,
}

const KNOWN: [Known; 5] = [
    Known { name: "hello", template: Some("Hello {}"), host: Some("0.0.0.0"), port: Some(5000) },
    Known { name: "echo", template: Some("{}"), host: Some("localhost"), port: Some(10000) },
    Known { name: "fixed", template: Some("Hello UDP Client"), host: Some("127.0.0.1"), port: Some(20001) },
    Known { name: "ack", template: Some("Server acknowledges: {}"), host: Some("127.0.0.1"), port: Some(12345) },
    Known { name: "discard", template: None, host: None, port: None },
];

const REPLY: &str = "reply";

/// What to answer, and where to listen: `NAME`, `NAME@HOST:PORT`, `NAME@:PORT`, `NAME@HOST` or
/// `reply=TEXT@HOST:PORT`.
///
/// An IPv6 address stands in brackets. Port 0 lets the system choose a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    name: &'static str,
    template: Option<ReplyTemplate>,
    host: String,
    port: u16,
    /// What was written before the address, for suggesting another one.
    written: String,
}

impl Service {
    /// Its name, as the log and the report say it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it answers; `None` for nothing at all.
    pub fn template(&self) -> Option<&ReplyTemplate> {
        self.template.as_ref()
    }

    /// The host that it listens on, a name or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port that it listens on; 0 for any free one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same service on another port, as one would write it on the command line.
    pub(super) fn moved_to(&self, port: u16) -> String {
        let known_host = KNOWN.iter().any(|known| known.name == self.name && known.host == Some(&self.host));
        match (known_host, self.host.contains(':')) {
            (true, _) => format!("{}@:{port}", self.written),
            (false, true) => format!("{}@[{}]:{port}", self.written, self.host),
            (false, false) => format!("{}@{}:{port}", self.written, self.host),
        }
    }
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The last @: a reply's text may hold others.
        let (written, address) = match text.rsplit_once('@') {
            Some((written, address)) => (written, Some(address)),
            None => (text, None),
        };
        let (known, template) = match written.split_once('=') {
            Some((REPLY, text)) => {
                (&Known { name: REPLY, template: None, host: None, port: None }, Some(text.parse()?))
            }
            _ => {
                let known = KNOWN.iter().find(|known| known.name == written);
                let known = known.ok_or_else(|| ServiceError::UnknownName(written.to_owned()))?;
                (known, known.template.map(str::parse).transpose()?)
            }
        };
        let (host, port) = address.map_or(Ok((None, None)), host_port::split)?;
        Ok(Self {
            name: known.name,
            template,
            host: host.or(known.host).ok_or_else(|| ServiceError::NoAddress(written.to_owned()))?.to_owned(),
            port: port.or(known.port).ok_or_else(|| ServiceError::NoAddress(written.to_owned()))?,
            written: written.to_owned(),
        })
    }
}

/// Why a text names no [`Service`]. Each is shown as one line that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceError {
    /// No service has this name.
    UnknownName(String),
    /// The text of `reply=TEXT` is no template.
    BadTemplate(TemplateError),
    /// The service has no default for the part of the address that was left out.
    NoAddress(String),
    /// What stands behind the `@` is no address.
    BadAddress(HostPortError),
}

impl Display for ServiceError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName(name) => {
                write!(f, "there is no service {name:?} (choose hello, echo, fixed, ack, discard or reply=TEXT)")
            }
            Self::BadTemplate(error) => error.fmt(f),
            Self::NoAddress(name) => {
                let name = name.escape_debug();
                write!(f, "{name} needs an address: write {name}@HOST:PORT")
            }
            Self::BadAddress(error) => error.fmt(f),
        }
    }
}

impl Error for ServiceError {}

impl From<HostPortError> for ServiceError {
    fn from(error: HostPortError) -> Self {
        Self::BadAddress(error)
    }
}

impl From<TemplateError> for ServiceError {
    fn from(error: TemplateError) -> Self {
        Self::BadTemplate(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> (String, u16) {
        let service: Service = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (service.host, service.port)
    }

    fn error(text: &str) -> ServiceError {
        text.parse::<Service>().expect_err("a bad service")
    }

    #[test]
    fn each_name_has_its_address_and_each_part_of_it_can_be_moved() {
        assert_eq!(address("hello"), ("0.0.0.0".into(), 5000));
        assert_eq!(address("echo"), ("localhost".into(), 10000));
        assert_eq!(address("fixed"), ("127.0.0.1".into(), 20001));
        assert_eq!(address("ack"), ("127.0.0.1".into(), 12345));
        assert_eq!(address("hello@:0"), ("0.0.0.0".into(), 0));
        assert_eq!(address("hello@example.org"), ("example.org".into(), 5000));
        assert_eq!(address("hello@[::]:7000"), ("::".into(), 7000));
        assert_eq!(address("hello@[fe80::1%eth0]"), ("fe80::1%eth0".into(), 5000));
        assert_eq!(address("discard@127.0.0.1:9"), ("127.0.0.1".into(), 9));
        assert_eq!(address("reply=a@b {}@127.0.0.1:1"), ("127.0.0.1".into(), 1));
    }

    #[test]
    fn what_was_asked_wrongly_is_told_apart() {
        assert_eq!(error("helo"), ServiceError::UnknownName("helo".into()));
        assert_eq!(error(""), ServiceError::UnknownName("".into()));
        assert_eq!(error("reply"), ServiceError::UnknownName("reply".into()));
        assert_eq!(error("hello=x"), ServiceError::UnknownName("hello=x".into()));
        assert_eq!(error("reply={}{}@:1"), ServiceError::BadTemplate(TemplateError::TwoMessages));
        assert_eq!(error("discard"), ServiceError::NoAddress("discard".into()));
        assert_eq!(error("discard@:9"), ServiceError::NoAddress("discard".into()));
        assert_eq!(error("discard@localhost"), ServiceError::NoAddress("discard".into()));
        assert_eq!(error("reply=hi"), ServiceError::NoAddress("reply=hi".into()));
        for bad in ["", "[::1", "[::1]x", "[]:5", "[]"] {
            assert_eq!(error(&format!("hello@{bad}")), HostPortError::BadAddress(bad.into()).into());
        }
        assert_eq!(error("hello@::1"), HostPortError::NoBrackets("::1".into()).into());
        for bad in ["", "65536", "-1", "+5", "5x", "http"] {
            assert_eq!(error(&format!("hello@:{bad}")), HostPortError::BadPort(bad.into()).into());
        }
    }

    #[test]
    fn a_suggestion_can_be_written_as_it_stands() {
        for (written, moved) in [
            ("hello", "hello@:5001"),
            ("hello@127.0.0.2", "hello@127.0.0.2:5001"),
            ("hello@[::1]:1", "hello@[::1]:5001"),
            ("reply=hi@localhost:1", "reply=hi@localhost:5001"),
        ] {
            let service: Service = written.parse().expect("a good service");
            assert_eq!(service.moved_to(5001), moved);
            assert_eq!(address(moved).1, 5001);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_error_is_one_line(text in "(hello|reply=)?[@\\[\\]:{}0-9a-z\n]*") {
            if let Err(error) = text.parse::<Service>() {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
