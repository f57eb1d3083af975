//! Which requests are refused: those from the ports of services, from spoofed sources, in loops, or beyond the rate
//! limit. Refusals are silent on the wire, and counted.
//!
//! Where loopback is exempt, other addresses are used, in a namespace.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::{
    Server, ServerOutput, SpoofingSocket, assert_memory_is_small, connect, connect_from, request,
    request_until_answered, run_in_namespace, shell, wait_until,
};

/// Sends five requests from `source`, then some from other sources that are answered; returns how many replies have
/// reached `source` by then. Replies to two peers may change places within a turn, so that another turn has to pass.
fn replies_to(source: &UdpSocket, server: SocketAddr) -> usize {
    for _ in 0..5 {
        source.send_to(b"you", server).expect("sent");
    }
    (0..2).for_each(|_| assert_eq!(request(&connect(server), b"you"), b"Hello you"));
    source.set_nonblocking(true).expect("a socket option");
    (0..6).take_while(|_| source.recv(&mut [0; 100]).is_ok()).count()
}

/// Returns the logged refusals, each from the address on.
fn logged_refusals(output: &ServerOutput) -> Vec<&str> {
    let lines = output.log.iter().filter_map(|line| line.split_once("Not answering "));
    lines.map(|(_, refusal)| refusal).collect()
}

/// Adds addresses for servers and clients to lo, and accepts what is sent to 10.0.0.0/8.
fn add_addresses() {
    shell(
        "for i in 1 2 3 4; do ip addr add 192.0.2.$i/32 dev lo; ip addr add 2001:db8::$i/128 dev lo nodad; done
         ip addr add 2001:db8:0:1::1/128 dev lo nodad
         ip route add local 10.0.0.0/8 dev lo",
    );
}

/// Returns a client's socket on a free port of an address.
fn client(ip: &str, server: SocketAddr) -> UdpSocket {
    connect_from(ip.parse().expect("an address"), server)
}

/// Whether this many replies are what a rate limit allows: its burst, and its rate for the time that has passed.
fn is_allowed(limit: u64, answered: u64, time: Duration) -> bool {
    (limit..=limit + (limit as f64 * time.as_secs_f64()) as u64 + 1).contains(&answered)
}

#[test]
fn own_ports_are_refused() {
    // A client can have the ports of the two services at another address.
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--json"]);
    for address in server.addresses() {
        let source = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), address.port())).expect("a free port");
        assert_eq!(replies_to(&source, server.address()), 0);
    }
    let first = server.addresses()[0].port();
    let output = server.stop();
    let reports = output.endpoints();
    assert_eq!((reports[0].get("answered"), reports[0].count("refused", "own_port")), (4, 10));
    let line = format!("127.0.0.2:{first}: its port is bound by this process, which would answer the reply");
    assert_eq!(logged_refusals(&output), [line]);
}

#[test]
fn own_ports_are_answered_without_guard() {
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--no-guard"]);
    let source = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), server.address().port())).expect("a free port");
    assert_eq!(replies_to(&source, server.address()), 5);
    let output = server.stop();
    assert_eq!((output.endpoint().get("answered"), output.endpoint().total("refused")), (7, 0));
    assert!(logged_refusals(&output).is_empty());
}

#[test]
fn service_ports_are_refused() {
    run_in_namespace!();
    let ports = [
        7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 500, 862, 1900, 5000, 5353, 10000, 11211, 12345,
        20001,
    ];
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "-q"]);
    for port in ports {
        let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        assert_eq!(replies_to(&source, server.address()), 0, "{port}");
    }
    for port in [6, 8, 54, 11210] {
        let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        assert_eq!(replies_to(&source, server.address()), 5, "{port}");
    }
    let output = server.stop();
    let refused = 5 * ports.len() as u64;
    assert_eq!(output.endpoint().count("refused", "service_port"), refused);
    assert_eq!(output.endpoint().total("refused"), refused);
    let line = "127.0.0.1:7: its port belongs to a UDP service, which could answer the reply";
    assert_eq!(logged_refusals(&output), [line]);

    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--no-guard"]);
    let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("a free port");
    assert_eq!(replies_to(&source, server.address()), 5);
    assert_eq!(server.stop().endpoint().total("refused"), 0);
}

#[test]
fn spoofed_source_starts_no_loop_between_services() {
    run_in_namespace!();
    let server = Server::start_many(2, &["hello@127.0.0.1:5000", "ack@127.0.0.1:5001", "--json"]);
    let spoofing = SpoofingSocket::new();
    spoofing.send(([127, 0, 0, 1], 5000), server.addresses()[1], b"you");
    spoofing.send(([127, 0, 0, 1], 5000), server.addresses()[0], b"you");
    assert_eq!(request(&connect(server.addresses()[0]), b"you"), b"Hello you");
    assert_eq!(request(&connect(server.addresses()[1]), b"you"), b"Server acknowledges: you");
    for endpoint in server.stop().endpoints() {
        let counts = (endpoint.get("received"), endpoint.get("answered"), endpoint.count("refused", "own_port"));
        assert_eq!(counts, (2, 1, 1));
    }
}

#[test]
fn spoofed_source_starts_no_loop_between_servers_on_one_port() {
    run_in_namespace!();
    add_addresses();
    let servers = ["hello@192.0.2.1:5000", "echo@192.0.2.2:5000"].map(|service| Server::start(&[service, "--json"]));
    let spoofing = SpoofingSocket::new();
    spoofing.send(([192, 0, 2, 1], 5000), servers[1].address(), b"you");
    spoofing.send(([192, 0, 2, 2], 5000), servers[0].address(), b"you");
    assert_eq!(request(&client("192.0.2.3", servers[0].address()), b"you"), b"Hello you");
    assert_eq!(request(&client("192.0.2.3", servers[1].address()), b"you"), b"you");
    for server in servers {
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.count("refused", "own_port")), (1, 1), "{endpoint:?}");
    }
}

#[test]
fn rate_limit_ends_a_loop_between_servers_on_two_ports() {
    run_in_namespace!();
    add_addresses();
    for (one, other) in
        [("hello", "hello"), ("echo", "echo"), ("hello", "ack"), ("fixed", "echo"), ("reply=<{}>", "reply={}!")]
    {
        let (one, other) = (format!("{one}@192.0.2.1:4001"), format!("{other}@192.0.2.2:4002"));
        let servers = [one, other].map(|service| Server::start(&[&service, "--json", "-q", "--rate-limit=100"]));
        let start = Instant::now();
        SpoofingSocket::new().send(([192, 0, 2, 1], 4001), servers[1].address(), b"you");
        // One datagram goes back and forth; the first refusal ends it.
        wait_until("the loop ends", || {
            servers.iter().any(|server| server.log().join("").contains("has reached the rate limit")).then_some(())
        });
        let endpoints = servers.map(|server| server.stop().endpoint());
        let time = start.elapsed();
        let sum = |field| endpoints[0].get(field) + endpoints[1].get(field);
        assert!(is_allowed(100, endpoints[0].get("answered"), time), "{endpoints:?}");
        assert!(is_allowed(100, endpoints[1].get("answered"), time), "{endpoints:?}");
        assert_eq!(sum("received"), sum("answered") + 1, "{endpoints:?}");
    }
}

#[test]
fn server_does_not_answer_itself() {
    run_in_namespace!();
    add_addresses();
    let spoofing = SpoofingSocket::new();
    for service in ["echo@192.0.2.1:4001", "echo@0.0.0.0:4001", "echo@[::]:4001"] {
        let server = Server::start(&[service, "--json"]);
        let address = SocketAddr::from(([192, 0, 2, 1], 4001));
        for source in [[192, 0, 2, 1], [192, 0, 2, 2], [127, 0, 0, 1]] {
            spoofing.send((source, 4001), address, b"you");
        }
        assert_eq!(request(&client("192.0.2.3", address), b"you"), b"you");
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.count("refused", "own_port")), (1, 3), "{endpoint:?}");
    }
}

/// Two ports of an IPv4 address are one source, and so are two addresses of an IPv6 /64.
#[test]
fn rate_limit_counts_replies_per_source() {
    run_in_namespace!();
    add_addresses();
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
                    client(source, server.address()).send(b"you").expect("sent");
                }
            }
            assert_eq!(request(&client(other, server.address()), b"you"), b"you");
            let endpoint = server.stop().endpoint();
            assert!(is_allowed(20, endpoint.get("answered") - 1, start.elapsed()), "{endpoint:?}");
            assert_eq!(endpoint.get("received") + endpoint.get("kernel_dropped"), 401, "{endpoint:?}");
            assert_eq!(endpoint.count("refused", "rate_limit"), 401 - endpoint.get("answered"));
        }
    }
}

#[test]
fn rate_limit_can_be_lifted() {
    run_in_namespace!();
    add_addresses();
    for option in ["--rate-limit=0", "--no-guard"] {
        let server = Server::start(&["echo@192.0.2.1:4001", "--json", "-q", option]);
        let client = client("192.0.2.2", server.address());
        (0..3_000_u32).for_each(|i| assert_eq!(request(&client, &i.to_be_bytes()), i.to_be_bytes()));
        assert_eq!(server.stop().endpoint().get("answered"), 3_000, "{option}");
    }
}

#[test]
fn trusted_range_is_exempt_and_its_neighbour_is_not() {
    run_in_namespace!();
    add_addresses();
    let text = "x".repeat(500);
    let server = Server::start(&[&format!("reply={text}@192.0.2.1:4001"), "--json", "-q", "--trust", "192.0.2.2/31"]);
    for source in ["192.0.2.2", "192.0.2.3"] {
        let client = client(source, server.address());
        (0..1_500).for_each(|_| assert_eq!(request(&client, b"short"), text.as_bytes()));
    }
    let stranger = client("192.0.2.4", server.address());
    (0..5).for_each(|_| assert_eq!(stranger.send(b"short").expect("sent"), 5));
    assert_eq!(request(&stranger, &[b'y'; 150]), text.as_bytes());
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.count("refused", "amplification")), (3_001, 5), "{endpoint:?}");
}

#[test]
fn amplification_is_refused_unless_the_guard_is_off() {
    run_in_namespace!();
    add_addresses();
    let text = "x".repeat(500);
    for (address, source) in [("192.0.2.1:4001", "192.0.2.2"), ("[2001:db8::1]:4001", "2001:db8::2")] {
        let service = format!("reply={text}@{address}");
        let server = Server::start(&[&service, "--json"]);
        let socket = client(source, server.address());
        (0..5).for_each(|_| assert_eq!(socket.send(b"short").expect("sent"), 5));
        assert_eq!(request(&socket, &[b'y'; 150]), text.as_bytes());
        let output = server.stop();
        let endpoint = output.endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.count("refused", "amplification")), (1, 5), "{endpoint:?}");
        assert_eq!(output.count_lines("Not answering "), 1);

        let server = Server::start(&[&service, "--json", "--no-guard"]);
        assert_eq!(request(&client(source, server.address()), b"short"), text.as_bytes());
        assert_eq!(server.stop().endpoint().get("answered"), 1);
    }
}

/// Memory and log stay small, and a client is still answered.
#[test]
fn flood_of_spoofed_sources_is_harmless() {
    run_in_namespace!();
    add_addresses();
    let start = Instant::now();
    let server = Server::start(&["hello@192.0.2.1:4001", "--json", "-q", "--grace=60s"]);
    let spoofing = SpoofingSocket::new();
    let mut requests = request_until_answered(server.address());
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
        spoofing.send(source, server.address(), b"spoofed");
        if i % 5_000 == 0 {
            requests += request_until_answered(server.address());
        }
    }
    assert_memory_is_small(&server);
    // The tables of the rate limit and of loops, and buffers for log lines.
    let growth = server.status("RssAnon") - before;
    assert!(growth < 1024, "{growth} kB");
    let output = server.stop_and_account_for(1_000_000 + requests);
    let endpoint = output.endpoint();
    for reason in ["unanswerable", "service_port", "own_port", "rate_limit", "loop"] {
        assert!(endpoint.count("refused", reason) > 0, "{reason}: {endpoint:?}");
    }
    // There is no route to 203.0.113.0/24.
    assert!(endpoint.count("failed", "ENETUNREACH") > 0, "{endpoint:?}");
    // Each of the six kinds is logged at once, then once a minute, which a slow machine may need.
    let (repeated, first): (Vec<_>, Vec<_>) =
        output.log.iter().partition(|line| line.contains(" since this was last logged)"));
    assert!(repeated.len() as u64 <= 6 * (start.elapsed().as_secs() / 60), "{repeated:#?}");
    let count = |text| first.iter().filter(|line| line.contains(text)).count();
    // With the line at the start and the one at the end.
    assert_eq!((count("Not answering "), count("Cannot send "), first.len()), (5, 1, 8), "{first:#?}");
}

#[test]
fn ipv4_sources_of_an_ipv6_socket_follow_the_ipv4_rules() {
    run_in_namespace!();
    add_addresses();
    let long = format!("reply={}@[::]:4001", "x".repeat(500));
    let server = Server::start_many(2, &[&long, "echo@[::]:4002", "--json", "-q", "--rate-limit=20"]);
    let on_port = |port| SocketAddr::from(([192, 0, 2, 1], port));
    let spoofing = SpoofingSocket::new();
    let start = Instant::now();
    spoofing.send(([192, 0, 2, 2], 4000), on_port(4001), b"short");
    let unanswerable = [([192, 0, 2, 2], 0), ([224, 0, 0, 1], 4000), ([240, 0, 0, 1], 4000), ([255; 4], 4000)];
    unanswerable.into_iter().for_each(|source| spoofing.send(source, on_port(4002), b"spoofed"));
    [53, 4001, 4002].into_iter().for_each(|port| spoofing.send(([192, 0, 2, 2], port), on_port(4002), b"spoofed"));
    (0..200).for_each(|port| spoofing.send(([192, 0, 2, 2], 6000 + port), on_port(4002), b"many"));
    // Loopback is exempt, and another address is another source.
    let local = connect(([127, 0, 0, 1], 4001).into());
    (0..50).for_each(|_| assert_eq!(request(&local, b"short").len(), 500));
    assert_eq!(request(&client("192.0.2.3", on_port(4002)), b"you"), b"you");
    let [long, echo]: [_; 2] = server.stop().endpoints().try_into().expect("two endpoints");
    assert_eq!((long.get("answered"), long.count("refused", "amplification")), (50, 1), "{long:?}");
    let refused = ["unanswerable", "service_port", "own_port"].map(|reason| echo.count("refused", reason));
    assert_eq!(refused, [4, 1, 2], "{echo:?}");
    assert!(is_allowed(20, echo.get("answered") - 1, start.elapsed()), "{echo:?}");
}

#[test]
fn rate_limit_counts_bytes_of_reply_packets() {
    run_in_namespace!();
    add_addresses();
    // Packets of 3,000 bytes, the headers included, count as two.
    for (server, source, length) in [("192.0.2.1", "192.0.2.2", 2_972), ("[2001:db8::1]", "2001:db8::2", 2_952)] {
        for (option, limited) in [("--rate-limit=20", true), ("--rate-limit=0", false)] {
            let server = Server::start(&[&format!("echo@{server}:4001"), "--json", "-q", option]);
            let start = Instant::now();
            let socket = client(source, server.address());
            (0..40).for_each(|_| assert_eq!(socket.send(&vec![b'y'; length]).expect("sent"), length));
            let endpoint = server.stop().endpoint();
            let received = endpoint.get("received");
            let most = if limited { 10 + (10.0 * start.elapsed().as_secs_f64()) as u64 + 1 } else { received };
            let least = if limited { received.min(10) } else { received };
            assert!((least..=most).contains(&endpoint.get("answered")), "{source} {option}: {endpoint:?}");
        }
    }
}

/// Uses up the limit of one source, then checks whether another source is still answered.
fn assert_sources_are_apart(server: &str, noisy: &str, quiet: &[&str]) {
    let server = Server::start(&[server, "--json", "-q", "--rate-limit=20"]);
    // The server has fe80::1 on every link, `IP%INTERFACE`.
    let connect = |source: &str| {
        let ip =
            source.split_once('%').map_or(server.address().ip().to_string(), |(_, link)| format!("fe80::1%{link}"));
        let socket = UdpSocket::bind((source, 0)).expect("a free port");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        socket.connect((ip.as_str(), server.address().port())).expect("a connected socket");
        socket
    };
    let flooding = connect(noisy);
    (0..200).for_each(|_| assert_eq!(flooding.send(b"you").expect("sent"), 3));
    for source in quiet {
        let socket = connect(source);
        (0..20).for_each(|_| assert_eq!(request(&socket, b"you"), b"you", "{source}"));
    }
    let endpoint = server.stop().endpoint();
    assert!(endpoint.count("refused", "rate_limit") > 0, "{endpoint:?}");
}

#[test]
fn rate_limit_distinguishes_hosts_behind_nat64() {
    run_in_namespace!();
    shell("for i in 1 2 3; do ip addr add 64:ff9b::192.0.2.$i/128 dev lo nodad; done");
    assert_sources_are_apart("echo@[64:ff9b::192.0.2.1]:4001", "64:ff9b::192.0.2.2", &["64:ff9b::192.0.2.3"]);
}

#[test]
fn rate_limit_distinguishes_link_local_hosts_and_links() {
    run_in_namespace!();
    // Two links, each with the server at one end and hosts at the other; the same address is on both links.
    shell(
        "for i in 1 2; do
             ip link add server$i type veth peer name host$i
             for device in server$i host$i; do ip link set $device addrgenmode none; ip link set $device up; done
             ip addr add fe80::1/64 dev server$i nodad
             ip addr add fe80::2/64 dev host$i nodad; ip addr add fe80::3/64 dev host$i nodad
         done",
    );
    assert_sources_are_apart("echo@[::]:4001", "fe80::2%host1", &["fe80::3%host1", "fe80::2%host2"]);
}
