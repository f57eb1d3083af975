//! Errors that routers and hosts report by ICMP: the error, its sender and the datagram that caused it. Pure.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::IpAddr;

/// An ICMP error that a datagram of a connected socket has caused.
///
/// Its text is, for example, "host unreachable from 192.0.2.1".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// What went wrong.
    pub error: IcmpError,
    /// The router or host that reports it; `None` if that is not known.
    pub offender: Option<IpAddr>,
    /// The beginning of the payload of the datagram, as far as the report repeats it. Many routers return the UDP
    /// header only, so that it is empty.
    pub payload: Vec<u8>,
}

impl Display for ErrorReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        self.offender.map_or(Ok(()), |offender| write!(f, " from {offender}"))
    }
}

impl std::error::Error for ErrorReport {}

impl ErrorReport {
    /// Returns whether this system refused a datagram that exceeds the MTU; the call that should have sent it has
    /// failed. A router has an address.
    pub fn is_local(&self) -> bool {
        self.offender.is_none() && matches!(self.error, IcmpError::FragmentationNeeded { .. })
    }

    /// Returns the report that an error was made from, if it was.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<ErrorReport> for io::Error {
    /// Keeps the report, and has the kind of the error that the system returns for it.
    fn from(report: ErrorReport) -> Self {
        let kind = match report.error {
            IcmpError::PortUnreachable | IcmpError::ProtocolUnreachable => io::ErrorKind::ConnectionRefused,
            IcmpError::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            IcmpError::Prohibited => io::ErrorKind::PermissionDenied,
            IcmpError::HostUnreachable | IcmpError::TtlExceeded => io::ErrorKind::HostUnreachable,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, report)
    }
}

/// What an ICMP error means (RFC 792, RFC 1812 and RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// There is no route to the network.
    NetworkUnreachable,
    /// There is no route to the host, or it does not answer on its network.
    HostUnreachable,
    /// The host does not speak UDP.
    ProtocolUnreachable,
    /// No socket is bound to the port.
    PortUnreachable,
    /// The IP packet exceeds the MTU of the next network, and must not be fragmented on the way. The kernel remembers
    /// the MTU: the next datagram of this length leaves in fragments.
    FragmentationNeeded {
        /// The MTU of the next network, in bytes.
        mtu: u32,
    },
    /// A firewall or policy forbids it.
    Prohibited,
    /// The packet has passed too many routers, as in a routing loop.
    TtlExceeded,
    /// Fragments were lost, so that the host could not put the packet together.
    ReassemblyTimeExceeded,
    /// Any other error, with its ICMP type and code.
    Other {
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
}

impl IcmpError {
    /// Interprets an ICMPv4 error. `info` is the MTU, where there is one.
    pub fn from_v4(kind: u8, code: u8, info: u32) -> Self {
        match (kind, code) {
            (3, 0 | 6 | 11) => Self::NetworkUnreachable,
            (3, 1 | 7 | 8 | 12) => Self::HostUnreachable,
            (3, 2) => Self::ProtocolUnreachable,
            (3, 3) => Self::PortUnreachable,
            (3, 4) => Self::FragmentationNeeded { mtu: info },
            (3, 9 | 10 | 13) => Self::Prohibited,
            (11, 0) => Self::TtlExceeded,
            (11, 1) => Self::ReassemblyTimeExceeded,
            _ => Self::Other { kind, code },
        }
    }

    /// Interprets an ICMPv6 error, likewise.
    pub fn from_v6(kind: u8, code: u8, info: u32) -> Self {
        match (kind, code) {
            (1, 0 | 2 | 6) => Self::NetworkUnreachable,
            (1, 1 | 5) => Self::Prohibited,
            (1, 3) => Self::HostUnreachable,
            (1, 4) => Self::PortUnreachable,
            (2, _) => Self::FragmentationNeeded { mtu: info },
            (3, 0) => Self::TtlExceeded,
            (3, 1) => Self::ReassemblyTimeExceeded,
            (4, 1) => Self::ProtocolUnreachable,
            _ => Self::Other { kind, code },
        }
    }
}

impl Display for IcmpError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkUnreachable => f.write_str("network unreachable"),
            Self::HostUnreachable => f.write_str("host unreachable"),
            Self::ProtocolUnreachable => f.write_str("protocol unreachable"),
            Self::PortUnreachable => f.write_str("port unreachable"),
            Self::FragmentationNeeded { mtu } => write!(f, "fragmentation needed (MTU {mtu})"),
            Self::Prohibited => f.write_str("administratively prohibited"),
            Self::TtlExceeded => f.write_str("TTL exceeded"),
            Self::ReassemblyTimeExceeded => f.write_str("fragment reassembly time exceeded"),
            Self::Other { kind, code } => write!(f, "ICMP error of type {kind}, code {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_error_and_offender() {
        let report = |error, offender: Option<IpAddr>| ErrorReport { error, offender, payload: Vec::new() }.to_string();
        let router = Some([192, 0, 2, 1].into());
        assert_eq!(report(IcmpError::from_v4(3, 1, 0), router), "host unreachable from 192.0.2.1");
        assert_eq!(report(IcmpError::from_v4(3, 4, 1400), router), "fragmentation needed (MTU 1400) from 192.0.2.1");
        assert_eq!(report(IcmpError::from_v4(5, 1, 0), None), "ICMP error of type 5, code 1");
    }

    #[test]
    fn both_families_have_the_same_errors() {
        for (v4, v6) in [((3, 0), (1, 0)), ((3, 1), (1, 3)), ((3, 2), (4, 1)), ((3, 3), (1, 4)), ((3, 4), (2, 0))] {
            assert_eq!(IcmpError::from_v4(v4.0, v4.1, 1), IcmpError::from_v6(v6.0, v6.1, 1));
        }
        for (v4, v6) in [((3, 13), (1, 1)), ((11, 0), (3, 0)), ((11, 1), (3, 1))] {
            assert_eq!(IcmpError::from_v4(v4.0, v4.1, 1), IcmpError::from_v6(v6.0, v6.1, 1));
        }
    }
}
