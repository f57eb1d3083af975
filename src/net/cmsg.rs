//! Control messages, the ancillary data of a message, in the layout of cmsg(3). Pure: bytes in, bytes out.
//!
//! ```text
//! ┌────────┬───────┬──────┬────────┬─────┐┌────────┬──
//! │ length │ level │ type │ data … │ pad ││ length │ …      length: size_t, of header and data; level, type: int;
//! └────────┴───────┴──────┴────────┴─────┘└────────┴──      pad: up to the next multiple of size_t
//! ```

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<i32>();

/// The space that the most control messages of one message need: a segment length, and packet info of IPv6 and of IPv4.
const SPACE: usize = 3 * HEADER + 8 + 24 + 16;

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
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => ancillary.local = local_v4(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => ancillary.local = ancillary.local.or(local_v6(data)),
                _ => {}
            }
            rest = next;
        }
        ancillary
    }
}

/// Splits off the first control message: its level, its type, its data, and the bytes after it.
fn split_message(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(bytes.get(..WORD)?.try_into().ok()?);
    let level = int(bytes.get(WORD..)?)?;
    let kind = int(bytes.get(WORD + 4..)?)?;
    let data = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    Some((level, kind, data, next))
}

fn int(data: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}

/// Reads an `in_pktinfo`: the interface, the local address for a reply, and the destination in the IP header, which may
/// be a broadcast address.
fn local_v4(info: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 4] = info.get(4..8)?.try_into().ok()?;
    Some(SocketAddrV4::new(ip.into(), 0).into())
}

/// Reads an `in6_pktinfo`: the destination in the IP header, and the interface. For an IPv4 datagram the destination
/// may be a broadcast address, which looks like any other; the `in_pktinfo` next to it has the address for a reply.
fn local_v6(info: &[u8]) -> Option<SocketAddr> {
    let ip: [u8; 16] = info.get(..16)?.try_into().ok()?;
    let ip = Ipv6Addr::from(ip);
    let can_send = ip.to_ipv4_mapped().is_none() && !ip.is_multicast();
    let scope = if ip.is_unicast_link_local() { int(info.get(16..)?)? } else { 0 };
    can_send.then(|| SocketAddrV6::new(ip, 0, 0, scope.cast_unsigned()).into())
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
        let v4 = [7, 0, 0, 0, 127, 0, 0, 2, 255, 255, 255, 255];
        let both = from_kernel(&[(libc::SOL_UDP, libc::UDP_GRO, &segment), (0, libc::IP_PKTINFO, &v4)]);
        assert_eq!(both, Ancillary { segment: Some(1200), local: Some(([127, 0, 0, 2], 0).into()) });
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
            assert_eq!(from_kernel(&messages), Ancillary { segment: Some(1200), local });
        }
        assert_eq!(from_kernel(&[v6]).local, None);
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
