//! What can be served: the named services, their replies and their default addresses.

use std::net::SocketAddr;
use std::str::FromStr;

use super::reply::ReplyTemplate;
use crate::host_port;
use crate::parse_error::ParseError;

/// A service known by its name, and its defaults.
struct Preset {
    name: &'static str,
    /// `None` if nothing is answered.
    template: Option<&'static str>,
    host: Option<&'static str>,
    port: Option<u16>,
}

const PRESETS: &[Preset] = &[
    Preset { name: "hello", template: Some("Hello {}"), host: Some("0.0.0.0"), port: Some(5000) },
    Preset { name: "echo", template: Some("{}"), host: Some("localhost"), port: Some(10000) },
    Preset { name: "fixed", template: Some("Hello UDP Client"), host: Some("127.0.0.1"), port: Some(20001) },
    Preset { name: "ack", template: Some("Server acknowledges: {}"), host: Some("127.0.0.1"), port: Some(12345) },
    Preset { name: "discard", template: None, host: None, port: None },
    // A reflector makes its replies; the template restores those that waited in the reply queue.
    #[cfg(feature = "stamp")]
    Preset { name: STAMP, template: Some("{}"), host: Some("0.0.0.0"), port: Some(crate::stamp::PORT) },
];

/// The name of a service whose template is given as `reply=TEXT`.
const REPLY: &str = "reply";

/// The name of the Session-Reflector.
#[cfg(feature = "stamp")]
const STAMP: &str = "stamp";

/// What to reply, and the address to listen on.
///
/// As text: `NAME`, `NAME@HOST:PORT`, `NAME@:PORT`, `NAME@HOST` or `reply=TEXT@HOST:PORT`, with IPv6 addresses in
/// brackets. Port 0 stands for any free port. `NAME@fd:FDNAME` is on the sockets that the service manager passes under
/// that name.
///
/// ```
/// use udpong::server::{ReplyTemplate, Service};
///
/// let echo = Service::echo(([127, 0, 0, 1], 7000));
/// assert_eq!(echo, "echo@127.0.0.1:7000".parse()?);
///
/// let greeting = Service::reply(ReplyTemplate::around("Hi ", "!"), ([127, 0, 0, 1], 0));
/// assert_eq!(greeting, "reply=Hi {}!@127.0.0.1:0".parse()?);
/// # Ok::<(), udpong::server::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    name: &'static str,
    template: Option<ReplyTemplate>,
    host: String,
    port: u16,
    origin: Origin,
}

/// Where the socket of a service comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The service manager may pass one; otherwise it is bound to the default address.
    Default,
    /// It is bound to the address that was given.
    Address,
    /// The service manager passes it under this name.
    Inherited(String),
}

impl Service {
    /// Creates a service that sends each request back.
    pub fn echo(address: impl Into<SocketAddr>) -> Self {
        Self::new("echo", Some(ReplyTemplate::around("", "")), address.into())
    }

    /// Creates a service that answers from `template`.
    pub fn reply(template: ReplyTemplate, address: impl Into<SocketAddr>) -> Self {
        Self::new(REPLY, Some(template), address.into())
    }

    /// Creates a service that receives and counts, but answers nothing.
    pub fn discard(address: impl Into<SocketAddr>) -> Self {
        Self::new("discard", None, address.into())
    }

    /// Creates a STAMP Session-Reflector (RFC 8762).
    #[cfg(feature = "stamp")]
    pub fn stamp(address: impl Into<SocketAddr>) -> Self {
        Self::new(STAMP, Some(ReplyTemplate::around("", "")), address.into())
    }

    fn new(name: &'static str, template: Option<ReplyTemplate>, address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(address) if address.scope_id() != 0 => format!("{}%{}", address.ip(), address.scope_id()),
            _ => address.ip().to_string(),
        };
        Self { name, template, host, port: address.port(), origin: Origin::Address }
    }

    /// Returns the name of the service, as it appears in the log and the report.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns whether it is a Session-Reflector.
    #[cfg(feature = "stamp")]
    pub(super) fn is_stamp(&self) -> bool {
        self.name == STAMP
    }

    /// Returns the template of the replies, or `None` if nothing is answered.
    pub fn template(&self) -> Option<&ReplyTemplate> {
        self.template.as_ref()
    }

    /// Returns the host to listen on: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port to listen on; 0 stands for any free port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a port to try if `port` cannot be had.
    pub(super) fn other_port(&self, port: u16) -> u16 {
        let is_default = PRESETS.iter().any(|preset| preset.name == self.name && preset.port == Some(port));
        match port {
            // 862 becomes 8620.
            ..1024 if is_default => port * 10,
            ..1024 => 1025,
            u16::MAX => port - 1,
            _ => port + 1,
        }
    }

    /// Returns where its socket comes from.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns this service on another port, as text for the command line.
    pub(super) fn moved_to(&self, port: u16) -> String {
        let service = match &self.template {
            Some(template) if self.name == REPLY => format!("{REPLY}={template}"),
            _ => self.name.to_owned(),
        };
        let is_default_host = PRESETS.iter().any(|preset| preset.name == self.name && preset.host == Some(&self.host));
        match (is_default_host, self.host.contains(':')) {
            (true, _) => format!("{service}@:{port}"),
            (false, true) => format!("{service}@[{}]:{port}", self.host),
            (false, false) => format!("{service}@{}:{port}", self.host),
        }
    }
}

impl FromStr for Service {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The last @: the text of a reply may contain others.
        let (service, address) = match text.rsplit_once('@') {
            Some((service, address)) => (service, Some(address)),
            None => (text, None),
        };
        let (name, template, default_host, default_port) = match service.split_once('=') {
            Some((REPLY, text)) => (REPLY, Some(text), None, None),
            _ => {
                let preset = PRESETS.iter().find(|preset| preset.name == service);
                let preset = preset.ok_or_else(|| unknown_service(service))?;
                (preset.name, preset.template, preset.host, preset.port)
            }
        };
        let template = template.map(str::parse).transpose()?;
        if let Some(inherited) = address.and_then(|address| address.strip_prefix("fd:")) {
            let origin = Origin::Inherited(inherited.to_owned());
            return Ok(Self { name, template, host: String::new(), port: 0, origin });
        }
        let (host, port) = place(service, address, default_host, default_port)?;
        let origin = if address.is_some() { Origin::Address } else { Origin::Default };
        Ok(Self { name, template, host: host.to_owned(), port, origin })
    }
}

/// Returns the error for a service that does not exist. An address in its place becomes that of a service.
fn unknown_service(text: &str) -> ParseError {
    let address = match text.split_once(':') {
        None => host_port::bare_port(text).map(|port| format!("hello@:{port}")),
        Some((name, port)) if PRESETS.iter().any(|preset| preset.name == name) => Some(format!("{name}@:{port}")),
        Some(_) => Some(format!("hello@{text}")),
    };
    // A text with an @ is no address, and a suggestion for it would be parsed once for each @.
    let suggestion = address.filter(|address| !text.contains('@') && address.parse::<Service>().is_ok());
    ParseError::new(match suggestion {
        Some(suggestion) => format!("there is no service {text:?}: to listen there, write {suggestion}"),
        None => format!("there is no service {text:?} (choose hello, echo, fixed, ack, discard, stamp or reply=TEXT)"),
    })
}

/// Returns the host and the port of a service, each given in `address` or by default.
fn place<'a>(
    service: &str,
    address: Option<&'a str>,
    default_host: Option<&'a str>,
    default_port: Option<u16>,
) -> Result<(&'a str, u16), ParseError> {
    let service = service.escape_debug();
    let (host, port) = match address {
        None => (None, None),
        // Not what `split` suggests for it: `:PORT` would not be enough.
        Some("") if default_host.is_none() => (None, None),
        Some(address) => match (host_port::bare_port(address), default_host) {
            (Some(port), Some(_)) => {
                return Err(ParseError::new(format!("{service}@{address} lacks a colon: write {service}@:{port}")));
            }
            (Some(port), None) => (None, Some(port)),
            (None, _) => host_port::split(address)?,
        },
    };
    match (host.or(default_host), port.or(default_port)) {
        (Some(host), Some(port)) => Ok((host, port)),
        (None, Some(port)) => Err(format!(
            "{service} needs a host: write {service}@127.0.0.1:{port}, or {service}@0.0.0.0:{port} for every address"
        )),
        (Some(_), None) => {
            Err(format!("{service} needs a port: write {service}@{}:PORT", address.unwrap_or_default().escape_debug()))
        }
        (None, None) => Err(format!("{service} needs an address: write {service}@HOST:PORT")),
    }
    .map_err(ParseError::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> (String, u16) {
        let service: Service = text.parse().expect(text);
        (service.host, service.port)
    }

    fn error(text: &str) -> String {
        text.parse::<Service>().expect_err("a bad service").to_string()
    }

    #[test]
    fn host_and_port_default_to_those_of_the_name() {
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
    fn socket_may_be_inherited() {
        let origin = |text: &str| text.parse::<Service>().expect(text).origin;
        assert_eq!(origin("hello"), Origin::Default);
        assert_eq!(origin("hello@:5000"), Origin::Address);
        assert_eq!(origin("reply=a@b@fd:dns-like"), Origin::Inherited("dns-like".to_owned()));
        assert_eq!(origin("discard@fd:5000"), Origin::Inherited("5000".to_owned()));
    }

    #[test]
    fn errors_name_what_to_write_instead() {
        for name in ["helo", "", "reply", "hello=x"] {
            assert!(error(name).starts_with(&format!("there is no service {name:?} (choose ")), "{name}");
        }
        assert!(error("reply={}{}@:1").contains("only once"));
        for (text, message) in [
            ("discard", "discard needs an address: write discard@HOST:PORT"),
            ("discard@", "discard needs an address: write discard@HOST:PORT"),
            ("reply=hi", "reply=hi needs an address: write reply=hi@HOST:PORT"),
            ("discard@:9", "discard needs a host: write discard@127.0.0.1:9, or discard@0.0.0.0:9 for every address"),
            (
                "reply=hi@9",
                "reply=hi needs a host: write reply=hi@127.0.0.1:9, or reply=hi@0.0.0.0:9 for every address",
            ),
            ("discard@localhost", "discard needs a port: write discard@localhost:PORT"),
            ("hello@5000", "hello@5000 lacks a colon: write hello@:5000"),
        ] {
            assert_eq!(error(text), message);
        }
        assert!(error("hello@2130706433").contains("\"2130706433\" is not an address"));
        assert!(error("hello@").contains("is not an address"));
        assert!(error(&"a:@".repeat(20_000)).contains("there is no service"));
    }

    #[test]
    fn an_address_keeps_its_scope() {
        let address = std::net::SocketAddrV6::new("fe80::1".parse().expect("an address"), 7000, 0, 3);
        assert_eq!(Service::discard(address), "discard@[fe80::1%3]:7000".parse().expect("a good service"));
    }

    #[test]
    fn a_moved_service_is_valid_on_the_command_line() {
        for (written, moved) in [
            ("hello", "hello@:5001"),
            ("hello@127.0.0.2", "hello@127.0.0.2:5001"),
            ("hello@[::1]:1", "hello@[::1]:5001"),
            ("reply={{{}}}@localhost:1", "reply={{{}}}@localhost:5001"),
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
