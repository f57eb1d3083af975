//! What the server concludes from packet info: IPv4-mapped sources that are spoofed, broadcast and multicast with
//! several workers, local addresses that no interface has.

use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use crate::harness::{Server, connect, connect_from, python, request, run_in_namespace, shell, udpong, wait_until};

/// The number of the device `near`.
const NEAR: u32 = 50;

/// Connects two devices with each other. `near` has addresses; `far` only sends frames.
fn add_wire() {
    shell(
        "ip link add near index 50 address 02:00:00:00:00:02 type veth peer name far
         for device in near far; do ip link set $device addrgenmode none; ip link set $device up; done
         echo 1 >/proc/sys/net/ipv6/conf/far/disable_ipv6
         ip addr add 192.0.2.1/24 brd + dev near
         ip addr add 2001:db8::1/64 dev near nodad
         ip addr add fe80::1/64 dev near nodad",
    );
    wait_for_route("2001:db8::1");
}

/// Waits for the route to a new IPv6 address of this host, which the kernel adds a moment after the address.
fn wait_for_route(address: &str) {
    shell(&format!("until ip -6 route show table local | grep -q '^local {address} '; do sleep 0.01; done"));
}

/// Sends an IPv6 frame from `far` to `near`: source address and port, destination address and port.
fn send_frame(source: &str, source_port: u16, destination: &str, port: u16) {
    let (source_port, port) = (source_port.to_string(), port.to_string());
    python(
        "
import socket, struct, sys
source, destination = (socket.inet_pton(socket.AF_INET6, address) for address in sys.argv[1:4:2])
payload = b'spoofed'
udp = struct.pack('!HHHH', int(sys.argv[2]), int(sys.argv[4]), 8 + len(payload), 0) + payload
words = source + destination + struct.pack('!II', len(udp), 17) + udp + b'\\0' * (len(udp) % 2)
total = sum(struct.unpack('!%dH' % (len(words) // 2), words))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
udp = udp[:6] + struct.pack('!H', 0xffff - total or 0xffff) + udp[8:]
multicast = b'\\x33\\x33' + destination[-4:]
frame = (multicast if destination[0] == 0xff else b'\\2\\0\\0\\0\\0\\2') + b'\\2\\0\\0\\0\\0\\1' + struct.pack('!H', 0x86dd)
frame += struct.pack('!IHBB', 6 << 28, len(udp), 17, 64) + source + destination + udp
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(('far', 0))
link.send(frame)
",
        &[source, &source_port, destination, &port],
    );
}

/// Sends a datagram from a free port; returns how many replies come to it.
fn replies_to_group(from: &str, to: SocketAddr) -> usize {
    let socket = UdpSocket::bind(from).expect("a free port");
    socket.set_broadcast(true).expect("a socket option");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    socket.send_to(b"all", to).expect("sent");
    (0..100).take_while(|_| socket.recv(&mut [0; 100]).is_ok()).count()
}

#[test]
fn mapped_source_that_arrived_by_ipv6_is_refused() {
    run_in_namespace!("python3");
    add_wire();
    for (destination, guard) in
        [("ff02::1", "--rate-limit=1000"), ("2001:db8::1", "--rate-limit=1000"), ("ff02::1", "--no-guard")]
    {
        let start = |port: u16| Server::start(&[&format!("echo@[::]:{port}"), "--json", guard]);
        let servers = [start(4001), start(4002)];
        send_frame("::ffff:127.0.0.1", 4001, destination, 4002);
        wait_until("it has been received", || {
            servers[1].log().join("").contains("Received message from [::ffff:127.0.0.1]:4001").then_some(())
        });
        // IPv4 peers of the same sockets are answered.
        for server in &servers {
            assert_eq!(request(&connect(([127, 0, 0, 1], server.address().port()).into()), b"you"), b"you");
        }
        let [other, spoofed] = servers.map(|server| server.stop().endpoint());
        let counts = |endpoint: &crate::harness::EndpointReport| {
            (endpoint.get("received"), endpoint.get("answered"), endpoint.count("refused", "unanswerable"))
        };
        assert_eq!((counts(&spoofed), counts(&other)), ((2, 1, 1), (1, 1, 0)), "{destination} {guard}");
    }
}

/// This way to receive does not learn how a datagram arrived, so IPv4 has a socket of its own.
#[test]
fn mapped_source_is_refused_and_ipv4_answered_without_packet_info() {
    run_in_namespace!("python3");
    add_wire();
    for guard in ["--rate-limit=1000", "--no-guard"] {
        let server = Server::start_many(2, &["echo@[::]:0", "--json", "--io=portable", guard]);
        let port = server.address().port();
        for source in ["::ffff:127.0.0.1", "::ffff:192.0.2.1"] {
            send_frame(source, 4001, "ff02::1", port);
            let line = format!("Received message from [{source}]:4001");
            wait_until("it has been received", || server.log().join("").contains(&line).then_some(()));
        }
        for ip in ["127.0.0.1", "192.0.2.1", "::1"] {
            let to = SocketAddr::new(ip.parse().expect("an address"), port);
            assert_eq!(request(&connect(to), b"you"), b"you");
        }
        let endpoints = server.stop().endpoints();
        let counts = |endpoint: &crate::harness::EndpointReport| {
            (endpoint.get("received"), endpoint.get("answered"), endpoint.count("refused", "unanswerable"))
        };
        assert_eq!(endpoints.iter().map(counts).collect::<Vec<_>>(), [(3, 1, 2), (2, 2, 0)], "{guard}");
    }
}

#[test]
fn broadcast_and_multicast_are_answered_once() {
    run_in_namespace!();
    add_wire();
    shell("ip route add 255.255.255.255 dev near; ip route add 224.0.0.0/4 dev near");
    let all_nodes = SocketAddr::from(SocketAddrV6::new("ff02::1".parse().expect("an address"), 4001, 0, NEAR));
    let ipv4 = ["192.0.2.255:4001", "255.255.255.255:4001", "224.0.0.1:4001"].map(|to| to.parse().expect("an address"));
    for (service, groups) in [
        ("hello@0.0.0.0:4001", &ipv4[..]),
        ("hello@[::]:4001", &[ipv4[0], ipv4[1], all_nodes]),
        ("hello@192.0.2.255:4001", &ipv4[..1]),
        ("hello@224.0.0.1:4001", &ipv4[2..]),
    ] {
        for guard in ["--rate-limit=1000", "--no-guard"] {
            let server = Server::start(&[service, "--workers=8", "--json", "-q", guard]);
            for group in groups {
                let from = if group.is_ipv4() { "192.0.2.1:0" } else { "[2001:db8::1]:0" };
                assert_eq!(replies_to_group(from, *group), 1, "{service} {group}");
            }
            let is_wildcard = service.contains("0.0.0.0") || service.contains("[::]");
            // Other peers are spread over all workers, which answer them.
            let unicast = if is_wildcard { 100 } else { 0 };
            (0..unicast)
                .for_each(|_| assert_eq!(request(&connect(([192, 0, 2, 1], 4001).into()), b"you"), b"Hello you"));
            let endpoint = server.stop().endpoint();
            let count = groups.len() as u64;
            let counts = (endpoint.get("received"), endpoint.get("answered"), endpoint.count("refused", "group_copy"));
            assert_eq!(counts, (8 * count + unicast, count + unicast, 7 * count), "{service} {guard}");
        }
    }
}

#[test]
fn workers_without_packet_info_need_one_address() {
    let serve = |service| udpong(&["serve", service, "--for=1ms", "--workers=2", "--io=portable"]).output();
    let refused = serve("hello@0.0.0.0:0").expect("an exit");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("udpong: cannot listen on 0.0.0.0:0 (hello): several workers"), "{stderr}");
    assert_eq!(serve("hello@127.0.0.1:0").expect("an exit").status.code(), Some(0));
}

/// IPv6 AnyIP.
#[test]
fn address_that_no_interface_has_is_answered() {
    run_in_namespace!();
    shell(
        "ip addr add 2001:db8::1/64 dev lo nodad
         ip -6 route add local 2001:db8:1::/48 dev lo; ip route add local 10.0.0.0/8 dev lo",
    );
    wait_for_route("2001:db8::1");
    let server = Server::start(&["hello@[::]:4001", "--json"]);
    for (ip, asked) in
        [("2001:db8::1", "2001:db8:1::77"), ("2001:db8::1", "2001:db8:1:2::1"), ("127.0.0.1", "10.1.2.3")]
    {
        // The client is connected, so the kernel drops what comes from any other address.
        let client = connect_from(ip.parse().expect("an address"), (asked, 4001));
        assert_eq!(request(&client, b"you"), b"Hello you", "{asked}");
    }
    assert_eq!(server.stop().endpoint().get("answered"), 3);
}
