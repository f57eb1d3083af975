//! Strangers who mean ill: forged sources, loops, floods of sources, and a second process that wants the port.
//!
//! In a namespace of the test's own, with addresses that are not loopback's, so that nothing is exempt.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::{
    Finished, Forger, LIMIT, Server, ask, assert_memory_is_small, client, in_namespace, insist, needs, shell,
    wait_until,
};

/// Gives lo addresses for servers and for clients, and takes in what is sent to 10.0.0.0/8.
fn add_addresses() {
    shell(
        "for i in 1 2 3 4; do ip addr add 192.0.2.$i/32 dev lo; ip addr add 2001:db8::$i/128 dev lo nodad; done
         ip addr add 2001:db8:0:1::1/128 dev lo nodad
         ip route add local 10.0.0.0/8 dev lo",
    );
}

/// A client's socket on an address of its own.
fn client_at(ip: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket.connect(server).expect("a connected socket");
    socket
}

/// Whether as many were answered as a limit allows: its burst at once, and its rate for as long as it took.
fn is_held_to(limit: u64, answered: u64, took: Duration) -> bool {
    (limit..=limit + (limit as f64 * took.as_secs_f64()) as u64 + 1).contains(&answered)
}

fn lines(finished: &Finished, text: &str) -> usize {
    finished.log.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn a_forged_datagram_sets_two_servers_on_each_other_until_the_rate_limit_ends_it() {
    needs!("unshare", "ip");
    if in_namespace("hostile::a_forged_datagram_sets_two_servers_on_each_other_until_the_rate_limit_ends_it") {
        add_addresses();
        for (one, other) in
            [("hello", "hello"), ("echo", "echo"), ("hello", "ack"), ("fixed", "echo"), ("reply=<{}>", "reply={}!")]
        {
            let (one, other) = (format!("{one}@192.0.2.1:4001"), format!("{other}@192.0.2.2:4002"));
            let servers = [one, other].map(|service| Server::start(&[&service, "--json", "-q", "--rate-limit=100"]));
            let start = Instant::now();
            Forger::new().send(([192, 0, 2, 1], 4001), servers[1].address(), b"you");
            // One datagram goes to and fro; the first refusal is the end of it.
            wait_until("the loop ends", || {
                servers.iter().any(|server| server.log().join("").contains("has reached the rate limit")).then_some(())
            });
            let ends = servers.map(|server| server.stop().endpoint());
            let took = start.elapsed();
            let sum = |field| ends[0].get(field) + ends[1].get(field);
            assert!(is_held_to(100, ends[0].get("answered"), took), "{ends:?}");
            assert!(is_held_to(100, ends[1].get("answered"), took), "{ends:?}");
            assert_eq!(sum("received"), sum("answered") + 1, "{ends:?}");
        }
    }
}

#[test]
fn two_servers_on_one_port_do_not_answer_each_other_once() {
    needs!("unshare", "ip");
    if in_namespace("hostile::two_servers_on_one_port_do_not_answer_each_other_once") {
        add_addresses();
        let servers = ["hello@192.0.2.1:5000", "echo@192.0.2.2:5000"].map(|at| Server::start(&[at, "--json"]));
        Forger::new().send(([192, 0, 2, 1], 5000), servers[1].address(), b"you");
        Forger::new().send(([192, 0, 2, 2], 5000), servers[0].address(), b"you");
        assert_eq!(ask(&client_at("192.0.2.3", servers[0].address()), b"you"), b"Hello you");
        assert_eq!(ask(&client_at("192.0.2.3", servers[1].address()), b"you"), b"you");
        for server in servers {
            let endpoint = server.stop().endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("refused", "own_port")), (1, 1), "{endpoint:?}");
        }
    }
}

#[test]
fn a_server_does_not_answer_itself() {
    needs!("unshare", "ip");
    if in_namespace("hostile::a_server_does_not_answer_itself") {
        add_addresses();
        let forger = Forger::new();
        for service in ["echo@192.0.2.1:4001", "echo@0.0.0.0:4001", "echo@[::]:4001"] {
            let server = Server::start(&[service, "--json"]);
            let address = SocketAddr::from(([192, 0, 2, 1], 4001));
            for source in [[192, 0, 2, 1], [192, 0, 2, 2], [127, 0, 0, 1]] {
                forger.send((source, 4001), address, b"you");
            }
            assert_eq!(ask(&client_at("192.0.2.3", address), b"you"), b"you");
            let endpoint = server.stop().endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("refused", "own_port")), (1, 3), "{endpoint:?}");
        }
    }
}

#[test]
fn an_address_has_so_many_replies_and_as_many_as_it_likes_without_a_limit() {
    needs!("unshare", "ip");
    if in_namespace("hostile::an_address_has_so_many_replies_and_as_many_as_it_likes_without_a_limit") {
        add_addresses();
        // Two addresses of one /64 are one source, as two ports of one address are.
        for (server, sources, other) in [
            ("192.0.2.1", ["192.0.2.2", "192.0.2.2"], "192.0.2.3"),
            ("[2001:db8::1]", ["2001:db8::2", "2001:db8::3"], "2001:db8:0:1::1"),
        ] {
            for workers in ["--workers=1", "--workers=2"] {
                let echo = format!("echo@{server}:4001");
                let server = Server::start(&[&echo, "--json", "-q", "--rate-limit=20", workers]);
                let start = Instant::now();
                for _ in 0..200 {
                    for source in sources {
                        client_at(source, server.address()).send(b"you").expect("sent");
                    }
                }
                assert_eq!(ask(&client_at(other, server.address()), b"you"), b"you");
                let finished = server.stop();
                let endpoint = finished.endpoint();
                assert!(is_held_to(20, endpoint.get("answered") - 1, start.elapsed()), "{endpoint:?}");
                assert_eq!(endpoint.get("received") + endpoint.get("kernel_dropped"), 401, "{endpoint:?}");
                assert_eq!(endpoint.count("refused", "rate_limit"), 401 - endpoint.get("answered"));
            }
        }
        for limit in ["--rate-limit=0", "--no-guard"] {
            let server = Server::start(&["echo@192.0.2.1:4001", "--json", "-q", limit]);
            let client = client_at("192.0.2.2", server.address());
            (0..3_000_u32).for_each(|i| assert_eq!(ask(&client, &i.to_be_bytes()), i.to_be_bytes()));
            assert_eq!(server.stop().endpoint().get("answered"), 3_000, "{limit}");
        }
    }
}

#[test]
fn a_short_question_has_no_long_answer_unless_the_guard_is_lifted() {
    needs!("unshare", "ip");
    if in_namespace("hostile::a_short_question_has_no_long_answer_unless_the_guard_is_lifted") {
        add_addresses();
        let text = "x".repeat(500);
        for (place, source) in [("192.0.2.1:4001", "192.0.2.2"), ("[2001:db8::1]:4001", "2001:db8::2")] {
            let service = format!("reply={text}@{place}");
            let server = Server::start(&[&service, "--json"]);
            let client = client_at(source, server.address());
            (0..5).for_each(|_| assert_eq!(client.send(b"short").expect("sent"), 5));
            assert_eq!(ask(&client, &[b'y'; 150]), text.as_bytes());
            let finished = server.stop();
            let endpoint = finished.endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("refused", "amplification")), (1, 5), "{endpoint:?}");
            assert_eq!(lines(&finished, "Not answering "), 1);

            let server = Server::start(&[&service, "--json", "--no-guard"]);
            assert_eq!(ask(&client_at(source, server.address()), b"short"), text.as_bytes());
            assert_eq!(server.stop().endpoint().get("answered"), 1);
        }
    }
}

#[test]
fn a_flood_of_forged_sources_costs_neither_memory_nor_log_nor_another_clients_answers() {
    needs!("unshare", "ip");
    if in_namespace("hostile::a_flood_of_forged_sources_costs_neither_memory_nor_log_nor_another_clients_answers") {
        add_addresses();
        let start = Instant::now();
        let server = Server::start(&["hello@192.0.2.1:4001", "--json", "-q", "--grace=60s"]);
        let forger = Forger::new();
        let mut asked = insist(server.address());
        let before = server.status("RssAnon");
        for i in 0..1_000_000_u32 {
            let [_, a, b, c] = i.to_be_bytes();
            let source = match i % 8 {
                0 => ([224, a, b, c], 4000),
                1 => ([10, a, b, c], 0),
                2 => ([10, a, b, c], 53),
                3 => ([10, a, b, c], 4001),
                4 => ([10, 0, 0, 1], 4000),
                5 => ([203, 0, 113, c], 4000),
                _ => ([10, a, b, c], 1024 + i as u16 / 2),
            };
            forger.send(source, server.address(), b"forged");
            if i % 5_000 == 0 {
                asked += insist(server.address());
            }
        }
        assert_memory_is_small(&server);
        // The table of sources, and the lines that were prepared.
        let grown = server.status("RssAnon") - before;
        assert!(grown < 1024, "{grown} kB");
        let finished = server.stop();
        assert_eq!(finished.status.code(), Some(0));
        let endpoint = finished.endpoint();
        assert_eq!(endpoint.get("received") + endpoint.get("kernel_dropped"), 1_000_000 + asked, "{endpoint:?}");
        for kind in ["unanswerable", "service_port", "own_port", "rate_limit"] {
            assert!(endpoint.count("refused", kind) > 0, "{kind}: {endpoint:?}");
        }
        // Nothing leads to 203.0.113.0/24.
        assert!(endpoint.count("failed", "ENETUNREACH") > 0, "{endpoint:?}");
        // Each of five kinds is told at once, and again once a minute, which a slow machine may need.
        let (again, told): (Vec<_>, Vec<_>) =
            finished.log.iter().partition(|line| line.contains(" since this was last told)"));
        assert!(again.len() as u64 <= 5 * (start.elapsed().as_secs() / 60), "{again:#?}");
        let count = |text| told.iter().filter(|line| line.contains(text)).count();
        assert_eq!((count("Not answering "), count("Cannot send "), told.len()), (4, 1, 7), "{told:#?}");
    }
}

#[test]
fn ipv4_peers_of_an_ipv6_socket_meet_the_rules_of_ipv4() {
    needs!("unshare", "ip");
    if in_namespace("hostile::ipv4_peers_of_an_ipv6_socket_meet_the_rules_of_ipv4") {
        add_addresses();
        let long = format!("reply={}@[::]:4001", "x".repeat(500));
        let server = Server::start_many(2, &[&long, "echo@[::]:4002", "--json", "-q", "--rate-limit=20"]);
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let forger = Forger::new();
        let start = Instant::now();
        forger.send(([192, 0, 2, 2], 4000), at(4001), b"short");
        let sources = [([192, 0, 2, 2], 0), ([224, 0, 0, 1], 4000), ([240, 0, 0, 1], 4000), ([255; 4], 4000)];
        sources.into_iter().for_each(|source| forger.send(source, at(4002), b"forged"));
        [53, 4001, 4002].into_iter().for_each(|port| forger.send(([192, 0, 2, 2], port), at(4002), b"forged"));
        (0..200).for_each(|port| forger.send(([192, 0, 2, 2], 5000 + port), at(4002), b"many"));
        // Loopback is exempt, and another address is another source.
        let home = client(([127, 0, 0, 1], 4001).into());
        (0..50).for_each(|_| assert_eq!(ask(&home, b"short").len(), 500));
        assert_eq!(ask(&client_at("192.0.2.3", at(4002)), b"you"), b"you");
        let [long, echo]: [_; 2] = server.stop().endpoints().try_into().expect("two endpoints");
        assert_eq!((long.get("answered"), long.count("refused", "amplification")), (50, 1), "{long:?}");
        let refused = ["unanswerable", "service_port", "own_port"].map(|reason| echo.count("refused", reason));
        assert_eq!(refused, [4, 1, 2], "{echo:?}");
        assert!(is_held_to(20, echo.get("answered") - 1, start.elapsed()), "{echo:?}");
    }
}

#[test]
fn the_port_is_its_own() {
    for place in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let server = Server::start(&[&format!("hello@{place}")]);
        let port = server.address().port();
        for place in ["127.0.0.1", "0.0.0.0", "[::]"] {
            let address: SocketAddr = format!("{place}:{port}").parse().expect("an address");
            for (reuse_address, reuse_port) in [(false, false), (true, false), (false, true), (true, true)] {
                let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("a socket");
                socket.set_reuse_address(reuse_address).expect("an option");
                socket.set_reuse_port(reuse_port).expect("an option");
                let kind = socket.bind(&address.into()).map_err(|error| error.kind());
                assert_eq!(kind, Err(std::io::ErrorKind::AddrInUse), "{address} {reuse_address} {reuse_port}");
            }
        }
        assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
    }
}

#[test]
fn workers_share_the_port_and_add_up_what_they_did() {
    let arguments = ["hello@127.0.0.1:0", "--workers=2", "--json", "-q", "--stats=50ms", "--count=200"];
    let mut server = Server::start(&arguments);
    let clients: Vec<_> = (0..40).map(|_| client(server.address())).collect();
    let ask_all = || clients.iter().for_each(|client| assert_eq!(ask(client, b"you"), b"Hello you"));
    (0..4).for_each(|_| ask_all());
    let told = server.wait_for_line("received 160 (480 bytes), answered 160 ", 0);
    assert!(told.contains(&format!("hello on {}: ", server.address())), "{told}");
    ask_all();
    let finished = server.finish();
    assert_eq!(finished.status.code(), Some(0));
    let endpoint = finished.endpoint();
    assert_eq!((endpoint.get("received"), endpoint.get("answered")), (200, 200));
    // Each line of the statistics is about both.
    let counts = finished.log.iter().filter_map(|line| line.split_once("received ")?.1.split_once(' '));
    let counts: Vec<u64> = counts.map(|(count, _)| count.parse().expect("a count")).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    assert!(receive_nothing(&clients), "an answer too many");
}

fn receive_nothing(clients: &[UdpSocket]) -> bool {
    clients.iter().all(|client| {
        client.set_nonblocking(true).expect("a socket option");
        client.recv(&mut [0; 100]).is_err()
    })
}
