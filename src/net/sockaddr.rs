//! Socket addresses in the layout of `sockaddr_in` and `sockaddr_in6` (ip(7), ipv6(7)). Pure: bytes in, bytes out.
//!
//! ```text
//! IPv4  │ family 2 │ port 2 │ address 4        │ zero 8 │
//! IPv6  │ family 2 │ port 2 │ flow label 4     │ address 16 │ scope 4 │    port: big-endian; family, scope: host order
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const IPV4_LENGTH: usize = size_of::<libc::sockaddr_in>();
const IPV6_LENGTH: usize = size_of::<libc::sockaddr_in6>();

/// A buffer for the address of one message, aligned as the kernel requires.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub struct SockaddrBuf {
    bytes: [u8; IPV6_LENGTH],
}

impl SockaddrBuf {
    /// The size of the buffer in bytes.
    pub const SPACE: usize = IPV6_LENGTH;

    /// A buffer without an address.
    pub const EMPTY: Self = Self { bytes: [0; IPV6_LENGTH] };

    /// Creates a buffer from what the kernel has written, as far as it fits.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut name = Self::EMPTY;
        name.bytes.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        name
    }

    /// Returns the address in the layout of the kernel.
    #[cfg(test)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the length of the address in bytes.
    pub fn length(&self) -> usize {
        if self.family() == libc::AF_INET { IPV4_LENGTH } else { IPV6_LENGTH }
    }

    /// Returns the address; `0.0.0.0:0`, to which nothing can be sent, if there is none.
    pub fn address(&self) -> SocketAddr {
        let [_, _, p1, p2, a, b, c, d, ..] = self.bytes;
        let port = u16::from_be_bytes([p1, p2]);
        match self.family() {
            libc::AF_INET => (Ipv4Addr::new(a, b, c, d), port).into(),
            libc::AF_INET6 => {
                let mut ip = [0; 16];
                ip.copy_from_slice(&self.bytes[8..24]);
                let [.., s1, s2, s3, s4] = self.bytes;
                let (flow, scope) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([s1, s2, s3, s4]));
                SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into()
            }
            _ => (Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }

    fn family(&self) -> libc::c_int {
        u16::from_ne_bytes([self.bytes[0], self.bytes[1]]).into()
    }
}

impl From<SocketAddr> for SockaddrBuf {
    fn from(address: SocketAddr) -> Self {
        let mut name = Self::EMPTY;
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        name.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        name.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => name.bytes[4..8].copy_from_slice(&address.ip().octets()),
            SocketAddr::V6(address) => {
                name.bytes[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
                name.bytes[8..24].copy_from_slice(&address.ip().octets());
                name.bytes[24..].copy_from_slice(&address.scope_id().to_ne_bytes());
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use socket2::SockAddr;

    use super::*;

    #[test]
    fn empty_buffer_is_the_unspecified_address() {
        assert_eq!(SockaddrBuf::EMPTY.address(), ([0, 0, 0, 0], 0).into());
    }

    proptest! {
        #[test]
        fn address_survives_the_round_trip(v4: bool, ip: [u8; 16], port: u16, flow: u32, scope: u32) {
            let address = if v4 {
                SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port))
            } else {
                SocketAddrV6::new(ip.into(), port, flow, scope).into()
            };
            prop_assert_eq!(SockaddrBuf::from(address).address(), address);
            prop_assert_eq!(SockaddrBuf::from(address).length(), SockAddr::from(address).len() as usize);
        }
    }
}
