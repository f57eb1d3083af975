//! Address ranges whose owner vouches for the sources in them, such as a proxy that many clients share. Pure.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::parse_error::ParseError;

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// ```
/// use udpong::server::Network;
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.1.2.3".parse()?) && !network.contains("11.0.0.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its bits beyond the prefix are 0.
    address: IpAddr,
    /// How many bits all addresses in it share, 0 to 32 or 128.
    prefix: u32,
}

impl Network {
    /// Returns whether an address lies in the range. An IPv4-mapped one is an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && masked(ip, self.prefix) == self.address
    }
}

/// Returns the address without the bits beyond the prefix.
fn masked(ip: IpAddr, prefix: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl FromStr for Network {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed =
            || ParseError::new(format!("{text:?} is no range of addresses: write 10.0.0.0/8 or 2001:db8::/32"));
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            // `parse` accepts a leading plus sign.
            Some(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => return Err(malformed()),
            Some(digits) => digits.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(malformed)?,
        };
        let network = Self { address: masked(address, prefix), prefix };
        if network.address != address {
            return Err(ParseError::new(format!("{text:?} has bits beyond its prefix: write {network}")));
        }
        Ok(network)
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect(text)
    }

    #[test]
    fn range_ends_at_its_prefix() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "::1", "1.2.3.4"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ] {
            let contains = |ip: &str| network(range).contains(ip.parse().expect(ip));
            assert!(contains(inside) && !contains(outside), "{range}");
        }
    }

    #[test]
    fn errors_name_what_to_write_instead() {
        let error = |text: &str| text.parse::<Network>().expect_err(text).to_string();
        for text in ["", "10.0.0.0/", "10.0.0.0/33", "10/8", "::/129", "10.0.0.0/+8", "localhost/8", "10.0.0.0/8/8"] {
            assert!(error(text).starts_with(&format!("{text:?} is no range of addresses: ")), "{text}");
        }
        assert_eq!(error("10.1.2.3/8"), "\"10.1.2.3/8\" has bits beyond its prefix: write 10.0.0.0/8");
    }

    proptest! {
        #[test]
        fn every_address_lies_in_its_own_ranges(bits in any::<u128>(), prefix in 0..=128_u32) {
            let ip = IpAddr::from(Ipv6Addr::from_bits(bits));
            prop_assume!(ip.to_canonical() == ip);
            let range = Network { address: masked(ip, prefix), prefix };
            prop_assert!(range.contains(ip));
            prop_assert_eq!(range.to_string().parse::<Network>(), Ok(range));
        }
    }
}
