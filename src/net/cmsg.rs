//! Control messages, the ancillary data of a message, in the layout of cmsg(3). Pure: bytes in, bytes out.
//!
//! ```text
//! ┌────────┬───────┬──────┬────────┬─────┐┌────────┬──
//! │ length │ level │ type │ data … │ pad ││ length │ …      length: size_t, of header and data; level, type: int;
//! └────────┴───────┴──────┴────────┴─────┘└────────┴──      pad: up to the next multiple of size_t
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use super::sockaddr::SockaddrBuf;
use super::{Delivery, IcmpError};

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<i32>();

/// The space for all control messages that one message can have: packet info of IPv6 and of IPv4, a hop limit, and a
/// timestamp or a segment length, since messages with a timestamp are not coalesced. An error fits in place of the
/// packet info, which a connected socket does not ask for.
const SPACE: usize = 4 * HEADER + 24 + 16 + 8 + size_of::<libc::timespec>();
const _: () =
    assert!(SPACE >= 3 * HEADER + size_of::<libc::timespec>() + 8 + (16 + SockaddrBuf::SPACE).next_multiple_of(8));

/// A buffer for the control messages of one message, aligned as the kernel requires.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct ControlMessages {
    bytes: [u8; SPACE],
    length: usize,
}

/// What the kernel reports about a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// The length of the datagrams that the message was coalesced from, in bytes; `None` for a single datagram.
    pub segment: Option<usize>,
    /// The address that the message was sent to, with port 0, if replies can leave from it.
    pub local: Option<SocketAddr>,
    /// What kind of address the message was sent to.
    pub delivery: Delivery,
    /// The message arrived by IPv4 and has packet info.
    pub is_ipv4: bool,
    /// The time to live or hop limit with which the message arrived.
    pub hop_limit: Option<u8>,
    /// When the message arrived, as the time since 1970.
    pub timestamp: Option<Duration>,
    /// Why a datagram that was sent came back: this message is of the error queue.
    pub error: Option<(IcmpError, Option<IpAddr>)>,
}

impl ControlMessages {
    /// A buffer without control messages.
    pub const EMPTY: Self = Self { bytes: [0; SPACE], length: 0 };

    /// Adds a segment length: the kernel cuts the message into datagrams of `segment` bytes (`UDP_SEGMENT`, udp(7)).
    pub fn push_segment(&mut self, segment: usize) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &(segment as u16).to_ne_bytes());
    }

    /// Adds the address to send from (`IP_PKTINFO`, ip(7); `IPV6_PKTINFO`, ipv6(7)). The route chooses the interface,
    /// except for a link-local address, which has a meaning on one interface only.
    pub fn push_source(&mut self, source: SocketAddr) {
        match source {
            SocketAddr::V4(source) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&source.ip().octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            SocketAddr::V6(source) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&source.ip().octets());
                info[16..].copy_from_slice(&source.scope_id().to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// Adds a control message. One that does not fit would be left out, but those above always fit.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let padded = length.next_multiple_of(WORD);
        let Some(space) = self.bytes.get_mut(self.length..self.length + padded) else { return };
        space[..WORD].copy_from_slice(&length.to_ne_bytes());
        space[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        space[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        space[HEADER..length].copy_from_slice(data);
        self.length += padded;
    }

    /// Returns the control messages in the layout of the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns the whole buffer, for the kernel to write to.
    pub fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Sets how many bytes the kernel has written to the [`buffer`](Self::buffer).
    pub fn set_length(&mut self, length: usize) {
        self.length = length.min(SPACE);
    }

    /// Reads the control messages that the kernel has written.
    pub fn read(&self) -> Ancillary {
        let mut ancillary = Ancillary::default();
        let mut rest = self.as_bytes();
        while let Some((level, kind, data, next)) = split_message(rest) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => ancillary.segment = int(data).and_then(|size| size.try_into().ok()),
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => ancillary.read_v4(data),
                // An IPv4 message on an IPv6 socket has both, and this one does not identify broadcast addresses.
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if !ancillary.is_ipv4 => ancillary.read_v6(data),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    ancillary.error = extended_error(data);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    ancillary.hop_limit = int(data).and_then(|limit| limit.try_into().ok());
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => ancillary.timestamp = timestamp(data),
                _ => {}
            }
            rest = next;
        }
        ancillary
    }
}

/// Splits off the first control message: its level, its type, its data, and the bytes after it.
fn split_message(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let (kind, _) = rest.split_first_chunk()?;
    let length = usize::from_ne_bytes(*length);
    let data = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data, next))
}

fn int(data: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}

/// Reads a `timespec`, whose fields are 32 or 64 bits long.
fn timestamp(data: &[u8]) -> Option<Duration> {
    let (seconds, nanos) = data.split_at_checked(data.len() / 2)?;
    let number = |bytes: &[u8]| match bytes.len() {
        4 => u64::try_from(int(bytes)?).ok(),
        _ => u64::try_from(i64::from_ne_bytes(bytes.try_into().ok()?)).ok(),
    };
    let nanos = u32::try_from(number(nanos)?).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(number(seconds)?, nanos))
}

/// Reads a `sock_extended_err` (ip(7)) and the address of the offender behind it.
///
/// ```text
/// │ errno 4 │ origin 1 │ type 1 │ code 1 │ pad 1 │ info 4 │ data 4 │ sockaddr of the offender … │
/// ```
fn extended_error(data: &[u8]) -> Option<(IcmpError, Option<IpAddr>)> {
    let (&[_, _, _, _, origin, kind, code, _, a, b, c, d, _, _, _, _], offender) = data.split_first_chunk::<16>()?;
    let info = u32::from_ne_bytes([a, b, c, d]);
    let error = match origin {
        libc::SO_EE_ORIGIN_ICMP => IcmpError::from_v4(kind, code, info),
        libc::SO_EE_ORIGIN_ICMP6 => IcmpError::from_v6(kind, code, info),
        _ if int(data)? == libc::EMSGSIZE => IcmpError::FragmentationNeeded { mtu: info },
        _ => IcmpError::Other { kind, code },
    };
    let offender = SockaddrBuf::from_bytes(offender).address().ip();
    Some((error, (!offender.is_unspecified()).then_some(offender)))
}

impl Ancillary {
    /// Reads an `in_pktinfo`: the interface, the local address for a reply, and the destination in the IP header. They
    /// differ for a broadcast or multicast destination. The former is unspecified if the message arrived before the
    /// socket asked for packet info.
    fn read_v4(&mut self, info: &[u8]) {
        let Some(&[_, _, _, _, a, b, c, d, ref destination @ ..]) = info.first_chunk::<12>() else { return };
        let local = Ipv4Addr::new(a, b, c, d);
        self.is_ipv4 = true;
        if local.is_unspecified() {
            (self.local, self.delivery) = (None, Delivery::Unknown);
        } else {
            self.local = Some(SocketAddrV4::new(local, 0).into());
            self.delivery = if local.octets() == *destination { Delivery::Unicast } else { Delivery::Group };
        }
    }

    /// Reads an `in6_pktinfo`: the destination in the IP header, and the interface. The kernel does not send from an
    /// IPv4-mapped address.
    fn read_v6(&mut self, info: &[u8]) {
        let Some((ip, &[a, b, c, d])) = info.first_chunk::<20>().and_then(|info| info.split_first_chunk::<16>()) else {
            return;
        };
        let ip = Ipv6Addr::from(*ip);
        let scope = if ip.is_unicast_link_local() { u32::from_ne_bytes([a, b, c, d]) } else { 0 };
        let can_send = ip.to_ipv4_mapped().is_none() && !ip.is_multicast();
        self.local = can_send.then(|| SocketAddrV6::new(ip, 0, 0, scope).into());
        self.delivery = if ip.is_multicast() { Delivery::Group } else { Delivery::Unicast };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_kernel(messages: &[(i32, i32, &[u8])]) -> Ancillary {
        let mut control = ControlMessages::EMPTY;
        messages.iter().for_each(|(level, kind, data)| control.push(*level, *kind, data));
        control.read()
    }

    #[test]
    fn received_control_messages_are_read() {
        assert_eq!(from_kernel(&[]), Ancillary::default());
        let segment = 1200_i32.to_ne_bytes();
        let v4 = [7, 0, 0, 0, 127, 0, 0, 2, 127, 0, 0, 2];
        let both = from_kernel(&[(libc::SOL_UDP, libc::UDP_GRO, &segment), (0, libc::IP_PKTINFO, &v4)]);
        let local = Some(([127, 0, 0, 2], 0).into());
        let (segment, delivery) = (Some(1200), Delivery::Unicast);
        assert_eq!(both, Ancillary { segment, local, delivery, is_ipv4: true, ..Ancillary::default() });
    }

    #[test]
    fn packet_info_distinguishes_group_addresses_from_unicast() {
        let v4 = |local: [u8; 4], destination: [u8; 4]| {
            let info = [&[7, 0, 0, 0], &local[..], &destination].concat();
            let ancillary = from_kernel(&[(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)]);
            (ancillary.local.map(|local| local.ip().to_string()), ancillary.delivery)
        };
        let local = Some("192.0.2.1".to_owned());
        assert_eq!(v4([192, 0, 2, 1], [192, 0, 2, 1]), (local.clone(), Delivery::Unicast));
        for group in [[192, 0, 2, 255], [255; 4], [224, 0, 0, 1]] {
            assert_eq!(v4([192, 0, 2, 1], group), (local.clone(), Delivery::Group));
        }
        assert_eq!(v4([0; 4], [192, 0, 2, 1]), (None, Delivery::Unknown), "arrived before packet info was asked for");
        let v6 = |ip: &str| {
            let ip: Ipv6Addr = ip.parse().expect("an address");
            let info = [&ip.octets()[..], &3_u32.to_ne_bytes()].concat();
            from_kernel(&[(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)])
        };
        assert_eq!((v6("2001:db8::1").delivery, v6("ff02::1").delivery), (Delivery::Unicast, Delivery::Group));
        assert!(!v6("::ffff:192.0.2.1").is_ipv4, "an IPv6 packet to an IPv4-mapped address");
    }

    #[test]
    fn only_link_local_addresses_keep_their_scope() {
        let local = |ip: &str| {
            let ip: std::net::Ipv6Addr = ip.parse().expect("an address");
            let info = [&ip.octets()[..], &3_u32.to_ne_bytes()].concat();
            from_kernel(&[(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)]).local.map(|local| local.to_string())
        };
        assert_eq!(local("fe80::1").as_deref(), Some("[fe80::1%3]:0"));
        assert_eq!(local("2001:db8::1").as_deref(), Some("[2001:db8::1]:0"));
        assert_eq!(local("ff02::1"), None);
    }

    #[test]
    fn packet_info_of_ipv4_wins_over_that_of_ipv6() {
        let mapped = std::net::Ipv4Addr::new(192, 0, 2, 255).to_ipv6_mapped().octets();
        let v6 = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&mapped[..], &[7, 0, 0, 0]].concat()[..]);
        let v4 = (libc::IPPROTO_IP, libc::IP_PKTINFO, &[7, 0, 0, 0, 192, 0, 2, 1, 192, 0, 2, 255][..]);
        let segment = (libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes()[..]);
        let local = Some(([192, 0, 2, 1], 0).into());
        for messages in [[v6, v4, segment], [segment, v4, v6]] {
            let (segment, delivery) = (Some(1200), Delivery::Group);
            let expected = Ancillary { segment, local, delivery, is_ipv4: true, ..Ancillary::default() };
            assert_eq!(from_kernel(&messages), expected);
        }
        assert_eq!(from_kernel(&[v6]).local, None);
    }

    #[test]
    fn hop_limits_of_both_families_are_read() {
        let read = |level, kind, limit: i32| from_kernel(&[(level, kind, &limit.to_ne_bytes())]).hop_limit;
        assert_eq!(read(libc::IPPROTO_IP, libc::IP_TTL, 64), Some(64));
        assert_eq!(read(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, 255), Some(255));
        assert_eq!(read(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, 256), None);
    }

    #[test]
    fn timestamps_of_both_widths_are_read() {
        let read = |data: &[u8]| from_kernel(&[(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, data)]).timestamp;
        let expected = Some(Duration::new(1_700_000_000, 999_999_999));
        assert_eq!(read(&[1_700_000_000_i64.to_ne_bytes(), 999_999_999_i64.to_ne_bytes()].concat()), expected);
        assert_eq!(read(&[1_700_000_000_i32.to_ne_bytes(), 999_999_999_i32.to_ne_bytes()].concat()), expected);
        assert_eq!(read(&[0_i64.to_ne_bytes(), 1_000_000_000_i64.to_ne_bytes()].concat()), None);
        assert_eq!(read(&[(-1_i64).to_ne_bytes(), 0_i64.to_ne_bytes()].concat()), None);
    }

    #[test]
    fn errors_are_read_with_their_offender() {
        let error = |errno: i32, [origin, kind, code]: [u8; 3], info: u32, offender: &[u8]| {
            let [a, b, c, d] = info.to_ne_bytes();
            let data = [&errno.to_ne_bytes()[..], &[origin, kind, code, 0, a, b, c, d, 0, 0, 0, 0], offender].concat();
            from_kernel(&[(libc::IPPROTO_IP, libc::IP_RECVERR, &data)]).error.expect("an error")
        };
        let v4 = SockaddrBuf::from(SocketAddr::from(([192, 0, 2, 1], 0)));
        let v6 = SockaddrBuf::from(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
        let unreachable = error(libc::EHOSTUNREACH, [libc::SO_EE_ORIGIN_ICMP, 3, 1], 0, &v4.as_bytes()[..16]);
        assert_eq!(unreachable, (IcmpError::HostUnreachable, Some([192, 0, 2, 1].into())));
        let exceeded = error(libc::EHOSTUNREACH, [libc::SO_EE_ORIGIN_ICMP6, 3, 0], 0, v6.as_bytes());
        assert_eq!(exceeded, (IcmpError::TtlExceeded, Some(Ipv6Addr::LOCALHOST.into())));
        let local = error(libc::EMSGSIZE, [libc::SO_EE_ORIGIN_LOCAL, 0, 0], 1400, &[]);
        assert_eq!(local, (IcmpError::FragmentationNeeded { mtu: 1400 }, None));
    }

    #[test]
    fn control_messages_are_aligned_to_words() {
        let mut control = ControlMessages::EMPTY;
        control.push_segment(1200);
        // Two bytes of data; the next message starts at the next word.
        assert_eq!(control.as_bytes().len(), (HEADER + 2).next_multiple_of(WORD));
        assert_eq!(&control.as_bytes()[HEADER..HEADER + 2], 1200_u16.to_ne_bytes());
        control.push_source("[fe80::1%9]:0".parse().expect("an address"));
        assert_eq!(control.read().local, Some("[fe80::1%9]:0".parse().expect("an address")));
        let mut control = ControlMessages::EMPTY;
        control.push_source(([127, 0, 0, 3], 0).into());
        assert_eq!(control.read().local, Some(([127, 0, 0, 3], 0).into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_read_panic(bytes in proptest::collection::vec(any::<u8>(), 0..SPACE)) {
            let mut control = ControlMessages::EMPTY;
            control.buffer()[..bytes.len()].copy_from_slice(&bytes);
            control.set_length(bytes.len());
            let _ = control.read();
        }
    }
}
