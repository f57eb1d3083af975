//! Which datagrams are answered: decided by source address, source port, lengths and rate. Pure: time is an argument.
//!
//! A responder that answers every source can be used against others. One datagram with a spoofed source makes two
//! responders answer each other for ever (CVE-2024-2169), and a long reply to a short request amplifies an attack on
//! the spoofed address.

mod rate_limit;

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use self::rate_limit::RateLimiter;
use crate::net::{Datagram, Delivery, Outgoing};

/// A reply is refused when its IP packet would be more than three times as long as the request's.
const MAX_AMPLIFICATION: usize = 3;

/// UDP services that reply to what they receive: echo, discard, daytime, quote, chargen, time, DNS, TFTP, portmapper,
/// NTP, NetBIOS, SNMP, CLDAP, IKE, SSDP, mDNS and memcached. Sorted, for the binary search.
const SERVICE_PORTS: [u16; 18] = [7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 500, 1900, 5353, 11211];

/// Why a datagram is not answered. Displayed in words, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No reply can reach the source, or it would reach many hosts: port 0, an unspecified, multicast or broadcast
    /// address, 240.0.0.0/4. Or the reply would leave by IPv4 although the datagram arrived by IPv6: an IPv4-mapped
    /// address.
    Unanswerable,
    /// It was sent to a broadcast or multicast address, and another worker answers its copy of it.
    GroupCopy,
    /// The source port is bound by this process.
    OwnPort,
    /// The source port belongs to a UDP service that would answer the reply.
    ServicePort,
    /// The reply is much longer than the request, whose source may be spoofed.
    Amplification,
    /// The source has used up its replies for now.
    RateLimit,
    /// The service answers no datagram.
    Discard,
}

impl Refusal {
    /// Returns the name under which the statistics count it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unanswerable => "unanswerable",
            Self::GroupCopy => "group_copy",
            Self::OwnPort => "own_port",
            Self::ServicePort => "service_port",
            Self::Amplification => "amplification",
            Self::RateLimit => "rate_limit",
            Self::Discard => "discard",
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unanswerable => "no reply can be sent to such an address",
            Self::GroupCopy => "another worker answers this broadcast or multicast datagram",
            Self::OwnPort => "its port is bound by this process, which would answer the reply",
            Self::ServicePort => "its port belongs to a UDP service, which could answer the reply",
            Self::Amplification => "the reply is over three times as long as the request",
            Self::RateLimit => "its address has reached the rate limit",
            Self::Discard => "the service answers no datagram",
        })
    }
}

/// Decides which datagrams are answered. Clones share the rate limiter, so that a source has one rate for all workers.
#[derive(Clone, Debug)]
pub struct Guard {
    enabled: bool,
    /// Answers datagrams to broadcast and multicast addresses, of which every worker receives a copy.
    answers_groups: bool,
    /// Sorted, for the binary search.
    own_ports: Vec<u16>,
    rate_limiter: Option<Arc<RateLimiter>>,
}

impl Guard {
    /// Creates a guard for a process that has bound `own_ports`. Each source is allowed `rate_limit` replies a second,
    /// or any number if that is 0.
    pub fn new(mut own_ports: Vec<u16>, rate_limit: u32, start: Instant) -> Self {
        own_ports.sort_unstable();
        let rate_limiter = (rate_limit > 0).then(|| Arc::new(RateLimiter::new(rate_limit, start)));
        Self { enabled: true, answers_groups: true, own_ports, rate_limiter }
    }

    /// Creates a guard that refuses nothing but [`Refusal::Unanswerable`].
    pub fn disabled() -> Self {
        Self { enabled: false, answers_groups: true, own_ports: Vec::new(), rate_limiter: None }
    }

    /// Returns the guard of the worker with this number. Only the first one, 0, answers broadcast and multicast, so that
    /// the process answers once.
    pub fn of_worker(&self, number: usize) -> Self {
        Self { answers_groups: number == 0, ..self.clone() }
    }

    /// Decides whether `reply` may be sent in response to `datagram`; if so, charges it to the rate of the source.
    ///
    /// An IPv4-mapped source counts as IPv4 where the socket does not learn how the datagram arrived, but not as loopback,
    /// since it can be spoofed from outside. The rate limiter comes last, so that a reply refused for another
    /// reason uses up nothing.
    ///
    /// # Errors
    ///
    /// The reason for not sending the reply.
    pub fn check(&self, datagram: &Datagram<'_>, reply: &Outgoing<'_>, now: Instant) -> Result<(), Refusal> {
        let (ip, port) = (datagram.source.ip().to_canonical(), datagram.source.port());
        let is_mapped = ip != datagram.source.ip();
        if port == 0 || is_unanswerable(ip) || (is_mapped && datagram.delivery != Delivery::Unknown) {
            Err(Refusal::Unanswerable)
        } else if !self.answers_groups && datagram.delivery == Delivery::Group {
            Err(Refusal::GroupCopy)
        } else if !self.enabled {
            Ok(())
        } else if self.own_ports.binary_search(&port).is_ok() {
            Err(Refusal::OwnPort)
        } else if SERVICE_PORTS.binary_search(&port).is_ok() {
            Err(Refusal::ServicePort)
        } else if ip.is_loopback() && !is_mapped {
            // The reply reaches no other host, and the source cannot be spoofed from outside.
            Ok(())
        } else if packet_length(ip, reply.length()) > MAX_AMPLIFICATION * packet_length(ip, datagram.payload.len()) {
            Err(Refusal::Amplification)
        } else if self.rate_limiter.as_ref().is_some_and(|limiter| !limiter.take_token(ip, now)) {
            Err(Refusal::RateLimit)
        } else {
            Ok(())
        }
    }
}

/// The length of the IP packet that carries a payload of `payload` bytes unfragmented: the IP and UDP headers added.
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

    fn check_with(guard: &Guard, source: &str, request: usize, reply: usize) -> Result<(), Refusal> {
        let bytes = [0; 2_000];
        let source: SocketAddr = source.parse().expect("an address");
        let payload = &bytes[..request];
        let datagram = Datagram { source, local: None, delivery: Delivery::Unknown, arrival: None, payload };
        let reply = Outgoing { to: source, from: None, parts: [&bytes[..reply], b"", b""] };
        guard.check(&datagram, &reply, Instant::now())
    }

    fn check(source: &str) -> Result<(), Refusal> {
        check_with(&Guard::new(vec![20001, 5000, 5000], 1000, Instant::now()), source, 10, 10)
    }

    #[test]
    fn refuses_unanswerable_sources_but_not_their_neighbours() {
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
            assert_eq!(check_with(&Guard::disabled(), source, 10, 10), Err(Refusal::Unanswerable), "{source}");
        }
        for source in ["127.0.0.1:1", "0.0.0.1:4000", "223.255.255.255:4000", "[::1]:4000", "[fe80::1]:4000"] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    fn check_delivery(guard: &Guard, source: &str, delivery: Delivery) -> Result<(), Refusal> {
        let source: SocketAddr = source.parse().expect("an address");
        let reply = Outgoing { to: source, from: None, parts: [b"reply", b"", b""] };
        let datagram = Datagram { source, local: None, delivery, arrival: None, payload: b"request" };
        guard.check(&datagram, &reply, Instant::now())
    }

    #[test]
    fn mapped_source_is_unanswerable_unless_it_may_be_ipv4() {
        for guard in [Guard::new(vec![], 1000, Instant::now()), Guard::disabled()] {
            for source in ["[::ffff:127.0.0.1]:4000", "[::ffff:192.0.2.1]:4000"] {
                for delivery in [Delivery::Unicast, Delivery::Group] {
                    assert_eq!(check_delivery(&guard, source, delivery), Err(Refusal::Unanswerable), "{source}");
                }
                assert_eq!(check_delivery(&guard, source, Delivery::Unknown), Ok(()), "{source}");
            }
        }
    }

    #[test]
    fn only_the_first_worker_answers_groups() {
        for guard in [Guard::new(vec![], 1000, Instant::now()), Guard::disabled()] {
            let answer = |worker, delivery| check_delivery(&guard.of_worker(worker), "192.0.2.1:4000", delivery);
            assert_eq!(answer(0, Delivery::Group), Ok(()));
            assert_eq!(answer(1, Delivery::Group), Err(Refusal::GroupCopy));
            assert_eq!(answer(1, Delivery::Unicast), Ok(()));
        }
    }

    #[test]
    fn refuses_own_and_service_ports_at_any_address() {
        assert!(SERVICE_PORTS.is_sorted());
        for port in SERVICE_PORTS {
            assert_eq!(check(&format!("192.0.2.1:{port}")), Err(Refusal::ServicePort));
        }
        assert_eq!(check("127.0.0.1:5000"), Err(Refusal::OwnPort));
        assert_eq!(check("[2001:db8::1]:20001"), Err(Refusal::OwnPort));
        assert_eq!(check("127.0.0.1:5001"), Ok(()));
        assert_eq!(check_with(&Guard::disabled(), "192.0.2.1:7", 10, 10), Ok(()));
    }

    #[test]
    fn refuses_amplification_except_on_loopback() {
        let guard = Guard::new(vec![], 1000, Instant::now());
        // 28 + 2 bytes of request allow 3 × 30 bytes of reply.
        assert_eq!(check_with(&guard, "192.0.2.1:4000", 2, 62), Ok(()));
        assert_eq!(check_with(&guard, "192.0.2.1:4000", 2, 63), Err(Refusal::Amplification));
        assert_eq!(check_with(&guard, "[::ffff:192.0.2.1]:4000", 2, 63), Err(Refusal::Amplification));
        assert_eq!(check_with(&guard, "[2001:db8::1]:4000", 2, 102), Ok(()));
        assert_eq!(check_with(&guard, "[2001:db8::1]:4000", 2, 103), Err(Refusal::Amplification));
        for exempt in ["127.0.0.1:4000", "127.9.9.9:4000", "[::1]:4000"] {
            assert_eq!(check_with(&guard, exempt, 2, 2_000), Ok(()), "{exempt}");
        }
        let mapped = "[::ffff:127.0.0.1]:4000";
        assert_eq!(check_with(&guard, mapped, 2, 2_000), Err(Refusal::Amplification), "may have arrived by IPv6");
        assert_eq!(check_with(&Guard::disabled(), "192.0.2.1:4000", 2, 2_000), Ok(()));
    }

    #[test]
    fn limits_the_rate_per_address_except_on_loopback() {
        let replies = |guard: &Guard, ip: &str| {
            let sources = (0..50).map(|port| format!("{ip}:{}", 4000 + port));
            sources.filter(|source| check_with(guard, source, 10, 10).is_ok()).count()
        };
        let limited = || Guard::new(vec![], 5, Instant::now());
        assert_eq!(replies(&limited(), "192.0.2.1"), 5);
        assert_eq!(replies(&limited(), "[::ffff:192.0.2.1]"), 5);
        assert_eq!(replies(&limited(), "127.0.0.1"), 50);
        assert_eq!(replies(&Guard::new(vec![], 0, Instant::now()), "192.0.2.1"), 50);
        assert_eq!(replies(&Guard::disabled(), "192.0.2.1"), 50);
        let guard = limited();
        let workers = [guard.clone(), guard];
        assert_eq!(
            replies(&workers[0], "192.0.2.1") + replies(&workers[1], "192.0.2.1"),
            5,
            "the limit holds for all workers together"
        );
    }
}
