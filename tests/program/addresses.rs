//! A server on every address answers from the one that was asked: a client that is connected hears nothing else.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use serde_json::Value;

use crate::harness::{
    LIMIT, Server, SlowLoopback, ask, client, in_namespace, needs, receive, run, shell, signal, udpong,
};

const V4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "127.0.0.5"];
const V6: [&str; 5] = ["2001:db8::1", "2001:db8::2", "fe80::1%v0", "fe80::2%v0", "fe80::9%lo"];

/// An interface with several addresses of each kind, those of the link too.
fn add_addresses() {
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

/// Where a server on a wildcard address is found: at all IPv4 addresses, and if it is `[::]` at those of IPv6 too.
fn places(server: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let v6 = if server.is_ipv6() { &V6[..] } else { &[] };
    V4.iter().chain(v6).map(move |ip| {
        let found = (*ip, server.port()).to_socket_addrs().ok().and_then(|mut found| found.next());
        found.unwrap_or_else(|| panic!("no address {ip}"))
    })
}

#[test]
fn replies_leave_from_the_address_that_was_asked_alone_and_in_runs() {
    needs!("unshare", "ip");
    if in_namespace("addresses::replies_leave_from_the_address_that_was_asked_alone_and_in_runs") {
        add_addresses();
        let server = Server::start_many(2, &["echo@0.0.0.0:0", "echo@[::]:0", "-q", "--json", "--rate-limit=0"]);
        for place in server.addresses().iter().flat_map(|server| places(*server)) {
            assert_eq!(ask(&client(place), b"you"), b"you", "{place}");
            let target = place.to_string();
            let output =
                run(&mut udpong(&["bench", &target, "--segments=8", "-t", "50ms", "-W", "30s", "--json"]), b"");
            let report: Value =
                serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{place}: {output:?}"));
            assert!(report["answered"].as_u64() >= Some(8) && report["lost"] == 0, "{place}: {report}");
        }
        // Who asks an address of the link from one that is not: only the former says which link the answer takes.
        for place in ["fe80::1%v0", "fe80::2%v0"] {
            let socket = UdpSocket::bind("[2001:db8::2]:0").expect("a free port");
            socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
            socket.connect((place, server.addresses()[1].port())).expect("a connected socket");
            assert_eq!(ask(&socket, b"you"), b"you", "{place}");
        }
        let endpoints = server.stop().endpoints();
        assert!(endpoints.iter().all(|endpoint| endpoint.get("received") == endpoint.get("answered")), "{endpoints:?}");
    }
}

#[test]
fn a_question_to_many_is_answered_from_an_address_of_one() {
    needs!("unshare", "ip");
    if in_namespace("addresses::a_question_to_many_is_answered_from_an_address_of_one") {
        add_addresses();
        let _server = Server::start_many(2, &["hello@0.0.0.0:4001", "hello@[::]:4002"]);
        for (port, places) in [
            (4001, &["192.0.2.255", "224.0.0.1", "127.255.255.255"][..]),
            (4002, &["192.0.2.255", "127.255.255.255", "ff02::1%v0"]),
        ] {
            for place in places {
                let socket = UdpSocket::bind(if place.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
                let socket = socket.expect("a free port");
                socket.set_broadcast(true).expect("an option");
                socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
                socket.send_to(b"all", (*place, port)).expect("sent");
                let mut answer = [0; 100];
                let (length, from) = socket.recv_from(&mut answer).unwrap_or_else(|e| panic!("{place}:{port}: {e}"));
                assert_eq!(&answer[..length], b"Hello all");
                assert!(!place.contains(&from.ip().to_string()) && !from.ip().is_multicast(), "{place}: {from}");
            }
        }
    }
}

#[test]
fn replies_that_waited_leave_from_the_address_that_was_asked() {
    needs!("unshare", "ip", "tc");
    if in_namespace("addresses::replies_that_waited_leave_from_the_address_that_was_asked") {
        add_addresses();
        for service in ["echo@0.0.0.0:0", "echo@[::]:0"] {
            let server = Server::start(&[service, "-q", "--json", "--send-buffer=8k", "--rate-limit=0"]);
            let clients: Vec<_> = places(server.address()).map(client).collect();
            server.freeze();
            for i in 0..15_u8 {
                clients.iter().for_each(|client| assert_eq!(client.send(&[i; 300]).expect("sent"), 300));
            }
            let loopback = SlowLoopback::new("1mbit", 2000);
            signal("CONT", server.id());
            for i in 0..15 {
                clients.iter().for_each(|client| assert_eq!(receive(client), [i; 300]));
            }
            drop(loopback);
            let endpoint = server.stop().endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.get("unsent")), (15 * clients.len() as u64, 0));
            assert!(endpoint.get("waited") >= 3, "{endpoint:?}");
        }
    }
}
