//! Replies leave from the address that the request was sent to. A connected client receives no others.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Server, SlowLoopback, connect, connect_from, receive, request, run, run_in_namespace, shell, udpong, wait_until,
};

const IPV4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "127.0.0.5"];
const IPV6: [&str; 5] = ["2001:db8::1", "2001:db8::2", "fe80::1%v0", "fe80::2%v0", "fe80::9%lo"];

/// Adds an interface with several addresses of each kind, link-local ones included.
fn add_interface() {
    shell(
        "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
         for i in 1 2; do
             ip addr add 192.0.2.$i/24 dev v0
             ip addr add 2001:db8::$i/64 dev v0 nodad
             ip addr add fe80::$i/64 dev v0 nodad
         done
         ip addr add fe80::9/64 dev lo nodad
         ip route add 224.0.0.0/4 dev v0",
    );
}

/// Returns the addresses at which a wildcard server is reached: all IPv4 ones, and for `[::]` the IPv6 ones too.
fn addresses_of(server: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let ipv6 = if server.is_ipv6() { &IPV6[..] } else { &[] };
    IPV4.iter().chain(ipv6).map(move |ip| {
        let found = (*ip, server.port()).to_socket_addrs().ok().and_then(|mut found| found.next());
        found.unwrap_or_else(|| panic!("no address {ip}"))
    })
}

/// Single replies and segmented runs of them.
#[test]
fn replies_leave_from_the_address_of_the_request() {
    run_in_namespace!();
    add_interface();
    let server = Server::start_many(2, &["echo@0.0.0.0:0", "echo@[::]:0", "-q", "--json", "--rate-limit=0"]);
    for address in server.addresses().iter().flat_map(|server| addresses_of(*server)) {
        assert_eq!(request(&connect(address), b"you"), b"you", "{address}");
        let target = address.to_string();
        let output = run(&mut udpong(&["bench", &target, "--segments=8", "-t", "50ms", "-W", "30s", "--json"]), b"");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{address}: {output:?}"));
        assert!(report["answered"].as_u64() >= Some(8) && report["lost"] == 0, "{address}: {report}");
    }
    // From a global address to a link-local one: only the latter determines the interface of the reply.
    for address in ["fe80::1%v0", "fe80::2%v0"] {
        let source = "2001:db8::2".parse().expect("an address");
        let socket = connect_from(source, (address, server.addresses()[1].port()));
        assert_eq!(request(&socket, b"you"), b"you", "{address}");
    }
    let endpoints = server.stop().endpoints();
    assert!(endpoints.iter().all(|endpoint| endpoint.get("received") == endpoint.get("answered")), "{endpoints:?}");
}

#[test]
fn broadcast_and_multicast_are_answered_from_a_unicast_address() {
    run_in_namespace!();
    add_interface();
    let server = Server::start_many(2, &["hello@0.0.0.0:4001", "hello@[::]:4002"]);
    for (port, destinations) in [
        (4001, &["192.0.2.255", "224.0.0.1", "127.255.255.255"][..]),
        (4002, &["192.0.2.255", "127.255.255.255", "ff02::1%v0"]),
    ] {
        for destination in destinations {
            let any = if destination.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).expect("a free port");
            socket.set_broadcast(true).expect("an option");
            socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
            let mut reply = [0; 100];
            // A new interface may lose the first ones.
            let (length, from) = wait_until(&format!("{destination} answers: {:#?}", server.log()), || {
                socket.send_to(b"all", (*destination, port)).expect("sent");
                socket.recv_from(&mut reply).ok()
            });
            assert_eq!(&reply[..length], b"Hello all");
            let source = from.ip();
            assert!(!destination.contains(&source.to_string()) && !source.is_multicast(), "{destination}: {from}");
        }
    }
}

#[test]
fn queued_replies_leave_from_the_address_of_the_request() {
    run_in_namespace!("tc");
    add_interface();
    for service in ["echo@0.0.0.0:0", "echo@[::]:0"] {
        let server = Server::start(&[service, "-q", "--json", "--send-buffer=8k", "--rate-limit=0"]);
        let clients: Vec<_> = addresses_of(server.address()).map(connect).collect();
        server.pause();
        for i in 0..15_u8 {
            clients.iter().for_each(|client| assert_eq!(client.send(&[i; 300]).expect("sent"), 300));
        }
        let loopback = SlowLoopback::new("1mbit", 2000);
        server.resume();
        for i in 0..15 {
            clients.iter().for_each(|client| assert_eq!(receive(client), [i; 300]));
        }
        drop(loopback);
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.get("unsent")), (15 * clients.len() as u64, 0));
        assert!(endpoint.get("waited") >= 3, "{endpoint:?}");
    }
}
