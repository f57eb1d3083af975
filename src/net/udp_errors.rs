//! The system's counts of UDP datagrams that it dropped (`/proc/net/snmp` and `/proc/net/snmp6`, proc(5)).

use std::fs;

/// What was dropped by all UDP sockets of this network namespace, IPv4 and IPv6. The names are the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpErrors {
    /// Messages that found a receive buffer full (`RcvbufErrors`), or the memory for all UDP sockets used up
    /// (`MemErrors`, the `net.ipv4.udp_mem` of the system): those that arrived faster than they were received.
    pub rcvbuf_errors: u64,
    /// Messages with a wrong checksum (`InCsumErrors`).
    pub in_csum_errors: u64,
}

impl UdpErrors {
    /// Reads the counts since the namespace was made; `None` on platforms other than Linux.
    pub fn read() -> Option<Self> {
        let ipv6 = fs::read_to_string("/proc/net/snmp6").unwrap_or_default(); // Missing without IPv6.
        Self::parse(&fs::read_to_string("/proc/net/snmp").ok()?, &ipv6)
    }

    /// Returns what was added since an `earlier` reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            rcvbuf_errors: self.rcvbuf_errors.saturating_sub(earlier.rcvbuf_errors),
            in_csum_errors: self.in_csum_errors.saturating_sub(earlier.in_csum_errors),
        }
    }

    /// Parses the text of both files. `ipv4` has a line of names and one of numbers for each protocol, `ipv6` a line
    /// for each count.
    fn parse(ipv4: &str, ipv6: &str) -> Option<Self> {
        let mut lines = ipv4.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, numbers) = (lines.next()?.split_whitespace(), lines.next()?.split_whitespace());
        let ipv4: Vec<(&str, &str)> = names.zip(numbers).collect();
        let ipv6 = ipv6.lines().filter_map(|line| line.strip_prefix("Udp6")?.split_once(char::is_whitespace));
        let ipv6: Vec<(&str, &str)> = ipv6.collect();
        let sum = |name| -> u64 {
            let counts = ipv4.iter().chain(&ipv6).filter(|(of, _)| *of == name);
            counts.filter_map(|(_, number)| number.trim().parse::<u64>().ok()).sum()
        };
        Some(Self { rcvbuf_errors: sum("RcvbufErrors") + sum("MemErrors"), in_csum_errors: sum("InCsumErrors") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_ipv4_and_ipv6_add_up() {
        let ipv4 = "Tcp: InErrs InCsumErrors\nTcp: 1 2\nUdp: InDatagrams RcvbufErrors InCsumErrors MemErrors\nUdp: 4 8 16 256\n\
                    UdpLite: InDatagrams RcvbufErrors InCsumErrors\nUdpLite: 1 1 1\n";
        let ipv6 = "Udp6InDatagrams        \t32\nUdp6RcvbufErrors       \t64\nUdp6InCsumErrors     \t128\nUdp6MemErrors        \t512\nUdpLite6InCsumErrors \t1\n";
        let errors = |rcvbuf_errors, in_csum_errors| Some(UdpErrors { rcvbuf_errors, in_csum_errors });
        assert_eq!(UdpErrors::parse(ipv4, ipv6), errors(8 + 64 + 256 + 512, 144));
        assert_eq!(UdpErrors::parse(ipv4, ""), errors(8 + 256, 16));
        assert_eq!(UdpErrors::parse("", ipv6), None);
        let (earlier, later) = (errors(8, 16).expect("some"), errors(72, 15).expect("some"));
        assert_eq!(Some(later.since(earlier)), errors(64, 0));
    }
}
