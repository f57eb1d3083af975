//! ControlMessages messages, the side channel of a datagram, as cmsg(3) lays them out. Pure: bytes in, bytes out.
//!
//! ```text
//! ┌────────┬───────┬──────┬────────────┬─────┐┌────────┬──
//! │ length │ level │ type │ data …     │ pad ││ length │ …     length: size_t, of header and data; level, type: int;
//! └────────┴───────┴──────┴────────────┴─────┘└────────┴──     pad: up to the next multiple of size_t
//! ```

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<i32>();

/// What the most messages need that ever stand together: a segment size, and packet info for IPv6 and for IPv4.
pub const SPACE: usize = 3 * HEADER + 8 + 24 + 16;

/// Room for the control messages of one message, aligned as the kernel wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct ControlMessages {
    bytes: [u8; SPACE],
    used: usize,
}

impl ControlMessages {
    /// No messages.
    pub const EMPTY: Self = Self { bytes: [0; SPACE], used: 0 };

    /// Adds one. What would not fit is left out, which the kinds that we send do not reach.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let Some(room) = self.bytes.get_mut(self.used..self.used + length.next_multiple_of(WORD)) else { return };
        room[..WORD].copy_from_slice(&length.to_ne_bytes());
        room[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        room[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..length].copy_from_slice(data);
        self.used += length.next_multiple_of(WORD);
    }

    /// Tells the kernel to cut the message into datagrams of `segment` bytes (udp(7), `UDP_SEGMENT`).
    pub fn push_segment(&mut self, segment: usize) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &(segment as u16).to_ne_bytes());
    }

    /// Tells the kernel which address to send from (ip(7), `IP_PKTINFO`; ipv6(7), `IPV6_PKTINFO`). The interface
    /// is left to the routes, except where the address has a meaning on one only.
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

    /// The messages, as they go to the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Room for messages from the kernel.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes over so many bytes of messages that the kernel has written into [`room`](Self::room).
    pub fn filled(&mut self, length: usize) {
        self.used = length.min(SPACE);
    }

    /// What the kernel says about a message that it received.
    pub fn read(&self) -> Received {
        let mut received = Received::default();
        let mut rest = self.as_bytes();
        while let Some((level, kind, data, next)) = split_message(rest) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => received.segment = word(data).and_then(|size| size.try_into().ok()),
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => received.local = local_v4(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => received.local = received.local.or(local_v6(data)),
                _ => {}
            }
            rest = next;
        }
        received
    }
}

/// What stood beside a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The length of the datagrams that it was coalesced from, in bytes; `None` for a single one.
    pub segment: Option<usize>,
    /// The address that it was sent to, if replies can leave from there. The port is 0.
    pub local: Option<SocketAddr>,
}

fn split_message(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(bytes.get(..WORD)?.try_into().ok()?);
    let level = word(bytes.get(WORD..)?)?;
    let kind = word(bytes.get(WORD + 4..)?)?;
    let data = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    Some((level, kind, data, next))
}

fn word(data: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}

/// An `in_pktinfo` holds the interface, the local address that an answer should have, and the one in the header,
/// which may be a broadcast address.
fn local_v4(info: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 4] = info.get(4..8)?.try_into().ok()?;
    Some(SocketAddrV4::new(ip.into(), 0).into())
}

/// An `in6_pktinfo` holds the address in the header and the interface. Of an IPv4 datagram that address may be a
/// network's broadcast address, which looks like any other; an `in_pktinfo` stands beside it and knows better.
fn local_v6(info: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 16] = info.get(..16)?.try_into().ok()?;
    let ip = std::net::Ipv6Addr::from(ip);
    let answerable = ip.to_ipv4_mapped().is_none() && !ip.is_multicast();
    let scope = if ip.is_unicast_link_local() { word(info.get(16..)?)? } else { 0 };
    answerable.then(|| SocketAddrV6::new(ip, 0, 0, scope.cast_unsigned()).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_kernel(messages: &[(i32, i32, &[u8])]) -> Received {
        let mut control = ControlMessages::EMPTY;
        messages.iter().for_each(|(level, kind, data)| control.push(*level, *kind, data));
        control.read()
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(from_kernel(&[]), Received::default());
        let segment = 1200_i32.to_ne_bytes();
        let v4 = [7, 0, 0, 0, 127, 0, 0, 2, 255, 255, 255, 255];
        let both = from_kernel(&[(libc::SOL_UDP, libc::UDP_GRO, &segment), (0, libc::IP_PKTINFO, &v4)]);
        assert_eq!(both, Received { segment: Some(1200), local: Some(([127, 0, 0, 2], 0).into()) });
    }

    #[test]
    fn an_ipv6_address_keeps_its_scope_only_where_it_needs_one() {
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
    fn what_ipv4_says_of_its_own_datagram_counts() {
        let mapped = std::net::Ipv4Addr::new(192, 0, 2, 255).to_ipv6_mapped().octets();
        let v6 = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&mapped[..], &[7, 0, 0, 0]].concat()[..]);
        let v4 = (libc::IPPROTO_IP, libc::IP_PKTINFO, &[7, 0, 0, 0, 192, 0, 2, 1, 192, 0, 2, 255][..]);
        let segment = (libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes()[..]);
        let local = Some(([192, 0, 2, 1], 0).into());
        for messages in [[v6, v4, segment], [segment, v4, v6]] {
            assert_eq!(from_kernel(&messages), Received { segment: Some(1200), local });
        }
        assert_eq!(from_kernel(&[v6]).local, None);
    }

    #[test]
    fn what_we_say_is_laid_out_as_the_c_library_does() {
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
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..SPACE)) {
            let mut control = ControlMessages::EMPTY;
            control.room()[..bytes.len()].copy_from_slice(&bytes);
            control.filled(bytes.len());
            let _ = control.read();
        }
    }
}
