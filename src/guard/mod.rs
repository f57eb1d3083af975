//! Which datagrams are answered: decided by source address, source port, lengths and rate. Pure: time is an argument.
//!
//! A responder that answers every source can be used against others. One datagram with a spoofed source makes two
//! responders answer each other endlessly (CVE-2024-2169), and a long reply to a short request amplifies an attack on
//! the spoofed address.

mod loops;
mod rate_limit;
mod trust;

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use self::loops::{LoopDetector, RecentPayloads};
use self::rate_limit::RateLimiter;
pub use self::trust::Network;
#[cfg(any(test, feature = "stamp"))]
use crate::net::Datagram;
#[cfg(test)]
use crate::net::Envelope;
use crate::net::{Delivery, Outgoing, Run, header_length};

/// A reply is refused when its IP packet would be more than three times as long as the request's.
const MAX_AMPLIFICATION: usize = 3;

/// UDP services that reply to what they receive: echo, discard, daytime, quote, chargen, time, DNS, TFTP, portmapper,
/// NTP, NetBIOS (137, 138), SNMP, CLDAP, IKE, STAMP (862), SSDP, hello (5000), mDNS, echo (10000), memcached, ack
/// (12345) and fixed (20001), the default ports of this program included.
const SERVICE_PORTS: [u16; 23] = [
    7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 500, 862, 1900, 5000, 5353, 10000, 11211, 12345, 20001,
];

/// Why a datagram is not answered. Displayed in words, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No reply can reach the source, or it would reach many hosts: port 0, an unspecified, multicast or broadcast
    /// address, 240.0.0.0/4. Or the reply would leave by IPv4 although the datagram arrived by IPv6: an IPv4-mapped
    /// address, which [`net`](crate::net) returns for no other datagram.
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
    /// The payload returns again and again, as in a loop between two servers.
    Loop,
    /// It is not signed with the key of the service.
    Hmac,
    /// The service answers no datagram.
    Discard,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Unanswerable,
        Self::GroupCopy,
        Self::OwnPort,
        Self::ServicePort,
        Self::Amplification,
        Self::RateLimit,
        Self::Loop,
        Self::Hmac,
        Self::Discard,
    ];

    /// Returns the name under which the statistics count it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unanswerable => "unanswerable",
            Self::GroupCopy => "group_copy",
            Self::OwnPort => "own_port",
            Self::ServicePort => "service_port",
            Self::Amplification => "amplification",
            Self::RateLimit => "rate_limit",
            Self::Loop => "loop",
            Self::Hmac => "hmac",
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
            Self::Loop => "its payload returns again and again, as in a loop between two servers",
            Self::Hmac => "it is not signed with the key of the service",
            Self::Discard => "the service answers no datagram",
        })
    }
}

/// Decides which datagrams are answered. Clones share the rate limiter and the loop detector, so that a source has one
/// rate for all workers.
///
/// Sources on loopback cannot be spoofed from outside, and replies to them reach no other host. They may ask for long
/// replies at any rate, but they may loop, so the rules about ports hold there too, and the loop detector sees every
/// payload that is not new ([`RecentPayloads`]).
#[derive(Clone, Debug)]
pub struct Guard {
    enabled: bool,
    /// Answers datagrams to broadcast and multicast addresses, of which every worker receives a copy.
    answers_groups: bool,
    own_ports: Vec<u16>,
    /// A bit for each port, own or of a service.
    refused_ports: Vec<u64>,
    rate_limiter: Option<Arc<RateLimiter>>,
    /// Sources in them may ask for long replies, at any rate, again and again.
    trusted: Vec<Network>,
    loop_detector: Arc<LoopDetector>,
    /// What came from loopback.
    recent_payloads: RecentPayloads,
}

impl Guard {
    /// Creates a guard for a process that has bound `own_ports`. Each source is allowed `rate_limit` replies a second,
    /// or `rate_limit` × 1,500 bytes of reply packets if that comes first, or any number if it is 0.
    pub fn new(own_ports: Vec<u16>, rate_limit: u32, start: Instant) -> Self {
        let mut refused_ports = vec![0; (usize::from(u16::MAX) + 1) / 64];
        own_ports
            .iter()
            .chain(&SERVICE_PORTS)
            .for_each(|port| refused_ports[usize::from(port / 64)] |= 1 << (port % 64));
        Self {
            enabled: true,
            answers_groups: true,
            own_ports,
            refused_ports,
            rate_limiter: (rate_limit > 0).then(|| Arc::new(RateLimiter::new(rate_limit, start))),
            trusted: Vec::new(),
            loop_detector: Arc::new(LoopDetector::new(start)),
            recent_payloads: RecentPayloads::default(),
        }
    }

    /// Creates a guard that refuses nothing but [`Refusal::Unanswerable`].
    pub fn disabled() -> Self {
        Self { enabled: false, ..Self::new(Vec::new(), 0, Instant::now()) }
    }

    /// Exempts address ranges from [`Refusal::Amplification`], [`Refusal::RateLimit`] and [`Refusal::Loop`].
    pub fn trusting(self, trusted: Vec<Network>) -> Self {
        Self { trusted, ..self }
    }

    /// Returns the guard of the worker with this number. Only the first one, 0, answers broadcast and multicast, so
    /// that the process answers once.
    pub fn of_worker(&self, number: usize) -> Self {
        Self { answers_groups: number == 0, ..self.clone() }
    }

    /// Decides for a single datagram.
    #[cfg(test)]
    fn check(&self, datagram: &Datagram<'_>, reply: &Outgoing<'_>, now: Instant) -> Result<(), Refusal> {
        let &Datagram { source, local, delivery, arrival, hop_limit, payload } = datagram;
        let envelope = Envelope { source, local, delivery, arrival, hop_limit };
        let run = Run { envelope: &envelope, bytes: payload, segment: payload.len().max(1) };
        self.check_run(&run, reply, now).reason.map_or(Ok(()), Err)
    }

    /// Decides for the first datagrams of a run, often for all of them, whether their replies may be sent; if so,
    /// charges them to the rate of the source. `reply` has a reply for each, whose parts are text, the request, and
    /// text; or text alone.
    ///
    /// The rate limiter comes after the rules that look at a datagram alone, so that a reply they refuse uses up
    /// nothing. The loop detector comes last, so that it sees only what the rate allows.
    pub fn check_run(&self, run: &Run<'_>, reply: &Outgoing<'_>, now: Instant) -> Verdict {
        let (count, source) = (run.count(), run.envelope.source);
        if let Err(refusal) = self.check_source(source, run.envelope.delivery) {
            return Verdict::refuse(count, refusal);
        }
        // Only the first payload of a run is looked up. In a loop the same payloads return: one that begins a run is
        // recorded if it is new, and recognised when it begins a run again. So a loop is recognised, if not at once.
        let is_loopback = source.ip().is_loopback();
        let is_new = || is_loopback && self.recent_payloads.is_new(source.port(), run.payload(0));
        if self.exempts(source.ip()) || is_new() {
            return Verdict { answered: count, refused: 0, reason: None };
        }
        let check = |index| self.check_payload(source, run.payload(index), reply.payload(index), now);
        match (0..count).find_map(|index| check(index).err().map(|refusal| (index, refusal))) {
            Some((answered, refusal)) => Verdict { answered, refused: 1, reason: Some(refusal) },
            None => Verdict { answered: count, refused: 0, reason: None },
        }
    }

    /// Decides the same for a reply that is made for each request anew, as STAMP's is: `length` bytes long. Payloads of
    /// a loop differ then, but each of them `may_be_reply` itself; those of honest clients may not, with few
    /// exceptions. If the other end of a loop repeats a text of its own, the payloads are identical.
    ///
    /// # Errors
    ///
    /// The reason for not sending the reply.
    #[cfg(feature = "stamp")]
    pub fn check_reflection(
        &self,
        datagram: &Datagram<'_>,
        length: usize,
        may_be_reply: bool,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.check_source(datagram.source, datagram.delivery)?;
        if self.exempts(datagram.source.ip()) {
            return Ok(());
        }
        self.check_lengths(datagram.source, datagram.payload.len(), length, now)?;
        let &Datagram { source, payload, .. } = datagram;
        let is_loop = if may_be_reply {
            self.loop_detector.is_loop_of_replies(source, now)
        } else {
            let is_new = source.ip().is_loopback() && self.recent_payloads.is_new(source.port(), payload);
            !is_new && self.loop_detector.is_loop(source, payload, b"", b"", now)
        };
        if is_loop { Err(Refusal::Loop) } else { Ok(()) }
    }

    /// Returns whether the rules about payloads do not apply to a source.
    fn exempts(&self, ip: IpAddr) -> bool {
        !self.enabled || self.trusted.iter().any(|network| network.contains(ip))
    }

    /// Applies the rules about addresses and ports, the first ones.
    ///
    /// # Errors
    ///
    /// The reason for not answering what comes from there.
    pub fn check_source(&self, source: SocketAddr, delivery: Delivery) -> Result<(), Refusal> {
        let (ip, port) = (source.ip(), source.port());
        if port == 0 || is_unanswerable(ip) {
            return Err(Refusal::Unanswerable);
        }
        if !self.answers_groups && delivery == Delivery::Group {
            return Err(Refusal::GroupCopy);
        }
        if self.enabled && self.refused_ports[usize::from(port / 64)] >> (port % 64) & 1 == 1 {
            let is_own = self.own_ports.contains(&port);
            return Err(if is_own { Refusal::OwnPort } else { Refusal::ServicePort });
        }
        Ok(())
    }

    /// Applies the rules about lengths, rates and loops.
    fn check_payload(
        &self,
        source: SocketAddr,
        payload: &[u8],
        reply: [&[u8]; 3],
        now: Instant,
    ) -> Result<(), Refusal> {
        self.check_lengths(source, payload.len(), reply.iter().map(|part| part.len()).sum(), now)?;
        let [before, request, after] = reply;
        // Text that does not enclose the request cannot nest.
        let (before, after): (&[u8], &[u8]) = if request.is_empty() { (b"", b"") } else { (before, after) };
        if self.loop_detector.is_loop(source, payload, before, after, now) {
            return Err(Refusal::Loop);
        }
        Ok(())
    }

    /// Applies the rules about lengths and rates.
    fn check_lengths(&self, source: SocketAddr, request: usize, reply: usize, now: Instant) -> Result<(), Refusal> {
        let ip = source.ip();
        if !ip.is_loopback() {
            let headers = header_length(ip);
            let reply_length = headers + reply;
            if reply_length > MAX_AMPLIFICATION * (headers + request) {
                return Err(Refusal::Amplification);
            }
            let limiter = self.rate_limiter.as_ref();
            if limiter.is_some_and(|limiter| !limiter.take_tokens(source, reply_length, now)) {
                return Err(Refusal::RateLimit);
            }
        }
        Ok(())
    }
}

/// What the guard has decided about the first datagrams of a run. The others are to be checked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How many may be answered: the first ones.
    pub answered: usize,
    /// How many after them may not.
    pub refused: usize,
    /// Why; `None` if none is refused.
    pub reason: Option<Refusal>,
}

impl Verdict {
    /// Refuses `count` datagrams.
    pub fn refuse(count: usize, reason: Refusal) -> Self {
        Self { answered: 0, refused: count, reason: Some(reason) }
    }
}

fn is_unanswerable(ip: IpAddr) -> bool {
    match ip {
        // 240.0.0.0/4 is reserved, and ends with the broadcast address; 224.0.0.0/4 is multicast.
        IpAddr::V4(ip) => ip.is_unspecified() || ip.octets()[0] >= 224,
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.to_ipv4_mapped().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::{ReplyTemplate, Service};

    fn check_with(guard: &Guard, source: &str, request: usize, reply: usize) -> Result<(), Refusal> {
        check_at(Instant::now(), guard, source, request, reply)
    }

    fn check_at(now: Instant, guard: &Guard, source: &str, request: usize, reply: usize) -> Result<(), Refusal> {
        let bytes = [0; 2_000];
        let source: SocketAddr = source.parse().expect("an address");
        let payload = &bytes[..request];
        let datagram =
            Datagram { source, local: None, delivery: Delivery::Unknown, arrival: None, hop_limit: None, payload };
        let reply = Outgoing::new(source, None, [&bytes[..reply], b"", b""]);
        guard.check(&datagram, &reply, now)
    }

    fn check(source: &str) -> Result<(), Refusal> {
        check_with(&Guard::new(vec![4003, 4001, 4001], 1000, Instant::now()), source, 10, 10)
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

    #[test]
    fn trusted_sources_are_exempt_from_all_but_the_rules_about_ports() {
        let now = Instant::now();
        let trusted = vec!["192.0.2.0/24".parse().expect("a network")];
        let guard = Guard::new(vec![4001], 2, now).trusting(trusted);
        for _ in 0..3_000 {
            assert_eq!(check_at(now, &guard, "192.0.2.1:4000", 1, 2_000), Ok(()));
        }
        assert_eq!(check_at(now, &guard, "192.0.2.1:4001", 10, 10), Err(Refusal::OwnPort));
        assert_eq!(check_at(now, &guard, "192.0.2.1:53", 10, 10), Err(Refusal::ServicePort));
        assert_eq!(check_at(now, &guard, "192.0.2.1:0", 10, 10), Err(Refusal::Unanswerable));
        assert_eq!(check_at(now, &guard, "192.0.3.1:4000", 1, 2_000), Err(Refusal::Amplification));
    }

    fn check_delivery(guard: &Guard, source: &str, delivery: Delivery) -> Result<(), Refusal> {
        let source: SocketAddr = source.parse().expect("an address");
        let reply = Outgoing::new(source, None, [b"reply", b"", b""]);
        let datagram = Datagram { source, local: None, delivery, arrival: None, hop_limit: None, payload: b"request" };
        guard.check(&datagram, &reply, Instant::now())
    }

    #[test]
    fn mapped_source_is_unanswerable() {
        for guard in [Guard::new(vec![], 1000, Instant::now()), Guard::disabled()] {
            for source in ["[::ffff:127.0.0.1]:4000", "[::ffff:192.0.2.1]:4000"] {
                for delivery in [Delivery::Unknown, Delivery::Unicast, Delivery::Group] {
                    assert_eq!(check_delivery(&guard, source, delivery), Err(Refusal::Unanswerable), "{source}");
                }
            }
        }
    }

    #[cfg(feature = "stamp")]
    #[test]
    fn every_thousandth_identical_payload_is_not_reflected() {
        let now = Instant::now();
        for source in ["192.0.2.1:4000", "127.0.0.1:4000"] {
            let guard = Guard::new(vec![], 0, now);
            let datagram = Datagram {
                source: source.parse().expect("an address"),
                local: None,
                delivery: Delivery::Unicast,
                arrival: None,
                hop_limit: None,
                payload: b"Hello UDP Client",
            };
            let refused = |_: &i32| guard.check_reflection(&datagram, 44, false, now) == Err(Refusal::Loop);
            assert_eq!((0..3_500).filter(refused).count(), 3, "{source}");
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
        for port in SERVICE_PORTS {
            assert_eq!(check(&format!("192.0.2.1:{port}")), Err(Refusal::ServicePort));
        }
        for service in ["hello", "echo", "fixed", "ack"] {
            let service: Service = service.parse().expect("a good service");
            assert_eq!(check(&format!("127.0.0.1:{}", service.port())), Err(Refusal::ServicePort));
        }
        assert_eq!(check("127.0.0.1:4001"), Err(Refusal::OwnPort));
        assert_eq!(check("[2001:db8::1]:4003"), Err(Refusal::OwnPort));
        assert_eq!(check("127.0.0.1:4002"), Ok(()));
        assert_eq!(check_with(&Guard::disabled(), "192.0.2.1:7", 10, 10), Ok(()));
    }

    #[test]
    fn refuses_amplification_except_on_loopback() {
        let guard = Guard::new(vec![], 1000, Instant::now());
        // 28 + 2 bytes of request allow 3 × 30 bytes of reply.
        assert_eq!(check_with(&guard, "192.0.2.1:4000", 2, 62), Ok(()));
        assert_eq!(check_with(&guard, "192.0.2.1:4000", 2, 63), Err(Refusal::Amplification));
        assert_eq!(check_with(&guard, "[2001:db8::1]:4000", 2, 102), Ok(()));
        assert_eq!(check_with(&guard, "[2001:db8::1]:4000", 2, 103), Err(Refusal::Amplification));
        for exempt in ["127.0.0.1:4000", "127.9.9.9:4000", "[::1]:4000"] {
            assert_eq!(check_with(&guard, exempt, 2, 2_000), Ok(()), "{exempt}");
        }
        assert_eq!(check_with(&Guard::disabled(), "192.0.2.1:4000", 2, 2_000), Ok(()));
    }

    #[test]
    fn limits_the_rate_per_address_except_on_loopback() {
        let now = Instant::now();
        let replies = |guard: &Guard, ip: &str| {
            let sources = (0..50).map(|port| format!("{ip}:{}", 4000 + port));
            sources.filter(|source| check_at(now, guard, source, 10, 10).is_ok()).count()
        };
        let limited = || Guard::new(vec![], 5, now);
        assert_eq!(replies(&limited(), "192.0.2.1"), 5);
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

    #[test]
    fn limits_the_bytes_of_reply_packets() {
        let now = Instant::now();
        let allowed = |ip, request, reply| {
            let guard = Guard::new(vec![], 10, now);
            (0..50).filter(|_| check_at(now, &guard, &format!("{ip}:4000"), request, reply).is_ok()).count()
        };
        // 28 bytes of IPv4 and UDP headers, 48 of IPv6 and UDP.
        assert_eq!(allowed("192.0.2.1", 1_000, 1_472), 10);
        assert_eq!(allowed("192.0.2.1", 1_000, 1_473), 9);
        assert_eq!(allowed("[2001:db8::1]", 1_000, 1_452), 10);
        assert_eq!(allowed("[2001:db8::1]", 1_000, 1_453), 9);
        assert_eq!(allowed("127.0.0.1", 1_000, 2_000), 50);
    }

    /// Checks `count` requests from one source that are all alike; returns how many are refused.
    fn refused(guard: &Guard, source: &str, template: &ReplyTemplate, count: usize, now: Instant) -> usize {
        let source = source.parse().expect("an address");
        let payload = &b"again"[..];
        let datagram =
            Datagram { source, local: None, delivery: Delivery::Unicast, arrival: None, hop_limit: None, payload };
        let reply = Outgoing::new(source, None, template.reply(payload));
        (0..count).filter(|_| guard.check(&datagram, &reply, now) == Err(Refusal::Loop)).count()
    }

    #[test]
    fn ends_loops_on_loopback_too() {
        let now = Instant::now();
        let guard = Guard::new(vec![], 0, now);
        let fixed = ReplyTemplate::fixed("again");
        assert_eq!(refused(&guard, "192.0.2.1:4000", &fixed, 3_000, now), 3);
        assert_eq!(refused(&guard.clone(), "192.0.2.1:4000", &fixed, 1_000, now), 1, "clones share the detector");
        assert_eq!(refused(&Guard::disabled(), "192.0.2.1:4000", &fixed, 3_000, now), 0);
        assert_eq!(refused(&guard, "127.0.0.1:4000", &fixed, 999, now), 0);
        assert_eq!(refused(&guard, "127.0.0.1:4000", &fixed, 2_101, now), 3);
    }

    #[test]
    fn text_of_the_reply_is_own_text_only_around_the_request() {
        let start = Instant::now();
        let refused = |template: &ReplyTemplate| {
            let guard = Guard::new(vec![], 0, start);
            let source = ([192, 0, 2, 1], 4000).into();
            let requests =
                (100..400).map(|layers| [&[b'<'].repeat(layers)[..], b"you", &[b'>'].repeat(layers)].concat());
            let refusals = requests.filter(|request| {
                let delivery = Delivery::Unicast;
                let datagram =
                    Datagram { source, local: None, delivery, arrival: None, hop_limit: None, payload: request };
                let reply = Outgoing::new(source, None, template.reply(request));
                guard.check(&datagram, &reply, start + Duration::from_secs(1)) == Err(Refusal::Loop)
            });
            refusals.count()
        };
        let around = |before: &str, after: &str| ReplyTemplate::around(before, after);
        assert_eq!([around("<", ">"), around("<", ""), around("", ">")].map(|template| refused(&template)), [201; 3]);
        assert_eq!([around("", ""), ReplyTemplate::fixed("<")].map(|template| refused(&template)), [0; 2]);
    }
}
