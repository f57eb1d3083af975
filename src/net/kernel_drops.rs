//! How many datagrams the kernel threw away for a socket, as Linux tells it in /proc/net/udp and udp6.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// The socket's line is found by its inode, which no other socket shares; addresses can repeat.
pub(super) fn kernel_drops(socket: &mio::net::UdpSocket) -> Option<u64> {
    let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?.ino();
    ["/proc/self/net/udp", "/proc/self/net/udp6"]
        .iter()
        .find_map(|table| drops_in(&fs::read_to_string(table).ok()?, inode))
}

/// The tenth column of a line is the inode, the last one the drops (proc_net_udp(5)).
fn drops_in(table: &str, inode: u64) -> Option<u64> {
    let inode = inode.to_string();
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        (columns.nth(9)? == inode).then(|| columns.next_back()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_by_inode_and_its_last_column_read() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n  \
            123: 00000000:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 17\n  \
            124: 00000000:1389 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 18\n";
        assert_eq!(drops_in(table, 4712), Some(18));
        assert_eq!(drops_in(table, 17), None);
    }
}
