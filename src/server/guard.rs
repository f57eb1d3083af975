//! Who is never answered. Pure: it sees a source address, neither a socket nor a clock.
//!
//! A responder that answers anybody can be used: one datagram with a forged source makes two of them answer
//! each other for ever (CVE-2024-2169).

use std::net::{IpAddr, SocketAddr};

/// UDP services that answer what they are sent: echo, discard, daytime, quote, chargen, time, DNS, TFTP,
/// portmapper, NTP, NetBIOS, SNMP, CLDAP, IKE, SSDP, mDNS and memcached. In order, for the binary search.
const SERVICE_PORTS: [u16; 18] = [7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 500, 1900, 5353, 11211];

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No reply can reach this source, or it would reach many: port 0, an unspecified, multicast or broadcast
    /// address, 240.0.0.0/4.
    Unanswerable,
    /// The source port is one that this process has bound itself.
    OwnPort,
    /// The source port belongs to a UDP service that would answer the answer.
    ServicePort,
    /// The service answers nobody.
    Discard,
}

impl Refusal {
    /// Its name in the tally.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unanswerable => "unanswerable",
            Self::OwnPort => "own_port",
            Self::ServicePort => "service_port",
            Self::Discard => "discard",
        }
    }

    /// The reason in words, for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unanswerable => "no reply can be sent to such an address",
            Self::OwnPort => "its port is one of our own, which would answer the answer",
            Self::ServicePort => "its port belongs to a UDP service, which could answer the answer",
            Self::Discard => "the service answers nobody",
        }
    }
}

/// Decides which sources are answered.
#[derive(Clone, Debug)]
pub struct Guard {
    own_ports: Vec<u16>,
    lifted: bool,
}

impl Guard {
    /// A guard for a process that has bound `own_ports`. Lifted, it still refuses sources that cannot be answered.
    pub fn new(mut own_ports: Vec<u16>, lifted: bool) -> Self {
        own_ports.sort_unstable();
        own_ports.dedup();
        Self { own_ports, lifted }
    }

    /// Whether `source` may be answered, and why not. IPv4-mapped IPv6 sources count as IPv4.
    ///
    /// # Errors
    ///
    /// The reason to keep silent.
    pub fn check(&self, source: SocketAddr) -> Result<(), Refusal> {
        if source.port() == 0 || is_unanswerable(source.ip().to_canonical()) {
            Err(Refusal::Unanswerable)
        } else if self.lifted {
            Ok(())
        } else if self.own_ports.binary_search(&source.port()).is_ok() {
            Err(Refusal::OwnPort)
        } else if SERVICE_PORTS.binary_search(&source.port()).is_ok() {
            Err(Refusal::ServicePort)
        } else {
            Ok(())
        }
    }
}

fn is_unanswerable(ip: IpAddr) -> bool {
    match ip {
        // 240.0.0.0/4 is reserved, and ends with the broadcast address; 224.0.0.0/4 is multicast.
        IpAddr::V4(ip) => ip.is_unspecified() || ip.octets()[0] >= 224,
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str) -> Result<(), Refusal> {
        Guard::new(vec![20001, 5000, 5000], false).check(source.parse().expect("an address"))
    }

    #[test]
    fn unanswerable_sources_are_refused_and_their_neighbours_are_not() {
        for source in [
            "127.0.0.1:0",
            "0.0.0.0:4000",
            "224.0.0.1:4000",
            "239.255.255.255:4000",
            "240.0.0.1:4000",
            "255.255.255.255:4000",
            "[::]:4000",
            "[ff02::1]:4000",
            "[::ffff:0.0.0.0]:4000",
            "[::ffff:224.0.0.1]:4000",
            "[::ffff:255.255.255.255]:4000",
            "[::1]:0",
        ] {
            assert_eq!(check(source), Err(Refusal::Unanswerable), "{source}");
        }
        for source in ["127.0.0.1:1", "0.0.0.1:4000", "223.255.255.255:4000", "[::1]:4000", "[fe80::1]:4000"] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn ports_that_answer_are_refused_whatever_their_address() {
        assert!(SERVICE_PORTS.is_sorted());
        for port in SERVICE_PORTS {
            assert_eq!(check(&format!("192.0.2.1:{port}")), Err(Refusal::ServicePort));
        }
        assert_eq!(check("127.0.0.1:5000"), Err(Refusal::OwnPort));
        assert_eq!(check("[2001:db8::1]:20001"), Err(Refusal::OwnPort));
        assert_eq!(check("127.0.0.1:5001"), Ok(()));
    }

    #[test]
    fn a_lifted_guard_still_refuses_what_cannot_be_answered() {
        let guard = Guard::new(vec![5000], true);
        assert_eq!(guard.check(([127, 0, 0, 1], 5000).into()), Ok(()));
        assert_eq!(guard.check(([127, 0, 0, 1], 7).into()), Ok(()));
        assert_eq!(guard.check(([127, 0, 0, 1], 0).into()), Err(Refusal::Unanswerable));
    }
}
