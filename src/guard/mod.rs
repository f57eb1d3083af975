//! Who is never answered, and how often the others are. Pure: it sees addresses and lengths, and time is an argument.
//!
//! A responder that answers anybody can be used against others: one datagram with a forged source makes two of
//! them answer each other for ever (CVE-2024-2169), and a long answer to a short question hits whoever the
//! question says it is from.

mod rate_limit;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use self::rate_limit::RateLimit;
use crate::net::{Datagram, Outgoing};

/// A reply is not sent when its IP packet would be more than so many times as long as the question's.
const AMPLIFICATION: usize = 3;

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
    /// The reply is much longer than the question, and the question may be forged.
    Amplification,
    /// The source has had its replies for now.
    RateLimit,
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
            Self::Amplification => "amplification",
            Self::RateLimit => "rate_limit",
            Self::Discard => "discard",
        }
    }

    /// The reason in words, for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unanswerable => "no reply can be sent to such an address",
            Self::OwnPort => "its port is one of our own, which would answer the answer",
            Self::ServicePort => "its port belongs to a UDP service, which could answer the answer",
            Self::Amplification => "the reply is over three times as long as the question",
            Self::RateLimit => "its address has had as many replies as it may have",
            Self::Discard => "the service answers nobody",
        }
    }
}

/// Decides which datagrams are answered. Its clones share the count of replies to each source.
#[derive(Clone, Debug)]
pub struct Guard {
    own_ports: Vec<u16>,
    lifted: bool,
    rate_limit: Option<Arc<RateLimit>>,
}

impl Guard {
    /// A guard for a process that has bound `own_ports`, which lets each source have `rate_limit` replies a second;
    /// 0 for any number.
    pub fn new(mut own_ports: Vec<u16>, rate_limit: u32, start: Instant) -> Self {
        own_ports.sort_unstable();
        own_ports.dedup();
        let rate_limit = (rate_limit > 0).then(|| Arc::new(RateLimit::new(rate_limit, start)));
        Self { own_ports, lifted: false, rate_limit }
    }

    /// A guard that only refuses sources that cannot be answered.
    pub fn lifted() -> Self {
        Self { own_ports: Vec::new(), lifted: true, rate_limit: None }
    }

    /// Whether `datagram` may be answered with `reply`, and counts the reply if so. IPv4-mapped IPv6 sources count
    /// as IPv4.
    ///
    /// # Errors
    ///
    /// The reason to keep silent.
    pub fn check(&self, datagram: &Datagram<'_>, reply: &Outgoing<'_>, now: Instant) -> Result<(), Refusal> {
        let (ip, port) = (datagram.source.ip().to_canonical(), datagram.source.port());
        if port == 0 || is_unanswerable(ip) {
            Err(Refusal::Unanswerable)
        } else if self.lifted {
            Ok(())
        } else if self.own_ports.binary_search(&port).is_ok() {
            Err(Refusal::OwnPort)
        } else if SERVICE_PORTS.binary_search(&port).is_ok() {
            Err(Refusal::ServicePort)
        } else if ip.is_loopback() {
            // Nobody else is hit, and nobody forges it from outside.
            Ok(())
        } else if packet_length(ip, reply.length()) > AMPLIFICATION * packet_length(ip, datagram.payload.len()) {
            Err(Refusal::Amplification)
        } else if self.rate_limit.as_ref().is_some_and(|limit| !limit.allows(ip, now)) {
            Err(Refusal::RateLimit)
        } else {
            Ok(())
        }
    }
}

/// The length of the IP packet that carries a payload, if it is not fragmented.
fn packet_length(ip: IpAddr, payload: usize) -> usize {
    payload + if ip.is_ipv4() { 20 + 8 } else { 40 + 8 }
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
    use std::net::SocketAddr;

    use super::*;

    fn check_with(guard: &Guard, source: &str, question: usize, answer: usize) -> Result<(), Refusal> {
        let bytes = [0; 2_000];
        let source: SocketAddr = source.parse().expect("an address");
        let datagram = Datagram { source, local: None, payload: &bytes[..question] };
        let reply = Outgoing { to: source, from: None, parts: [&bytes[..answer], b"", b""] };
        guard.check(&datagram, &reply, Instant::now())
    }

    fn check(source: &str) -> Result<(), Refusal> {
        check_with(&Guard::new(vec![20001, 5000, 5000], 1000, Instant::now()), source, 10, 10)
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
            assert_eq!(check_with(&Guard::lifted(), source, 10, 10), Err(Refusal::Unanswerable), "{source}");
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
        assert_eq!(check_with(&Guard::lifted(), "192.0.2.1:7", 10, 10), Ok(()));
    }

    #[test]
    fn a_reply_of_over_three_times_the_length_is_refused_except_on_loopback() {
        let guard = Guard::new(vec![], 1000, Instant::now());
        // 28 + 2 bytes of question, 3 × 30 of answer.
        assert_eq!(check_with(&guard, "192.0.2.1:4000", 2, 62), Ok(()));
        assert_eq!(check_with(&guard, "192.0.2.1:4000", 2, 63), Err(Refusal::Amplification));
        assert_eq!(check_with(&guard, "[::ffff:192.0.2.1]:4000", 2, 63), Err(Refusal::Amplification));
        assert_eq!(check_with(&guard, "[2001:db8::1]:4000", 2, 102), Ok(()));
        assert_eq!(check_with(&guard, "[2001:db8::1]:4000", 2, 103), Err(Refusal::Amplification));
        for exempt in ["127.0.0.1:4000", "127.9.9.9:4000", "[::1]:4000", "[::ffff:127.0.0.1]:4000"] {
            assert_eq!(check_with(&guard, exempt, 2, 2_000), Ok(()), "{exempt}");
        }
        assert_eq!(check_with(&Guard::lifted(), "192.0.2.1:4000", 2, 2_000), Ok(()));
    }

    #[test]
    fn a_source_is_answered_so_often_whatever_its_port_except_on_loopback() {
        let answers = |guard: &Guard, ip: &str| {
            let sources = (0..50).map(|port| format!("{ip}:{}", 4000 + port));
            sources.filter(|source| check_with(guard, source, 10, 10).is_ok()).count()
        };
        let limited = || Guard::new(vec![], 5, Instant::now());
        assert_eq!(answers(&limited(), "192.0.2.1"), 5);
        assert_eq!(answers(&limited(), "[::ffff:192.0.2.1]"), 5);
        assert_eq!(answers(&limited(), "127.0.0.1"), 50);
        assert_eq!(answers(&Guard::new(vec![], 0, Instant::now()), "192.0.2.1"), 50);
        assert_eq!(answers(&Guard::lifted(), "192.0.2.1"), 50);
        let guard = limited();
        let workers = [guard.clone(), guard];
        assert_eq!(answers(&workers[0], "192.0.2.1") + answers(&workers[1], "192.0.2.1"), 5, "all workers together");
    }
}
