//! What can go wrong around a relay: clients and sources that it refuses, targets and firewalls that refuse it, a
//! system without sockets or room, loops.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::{
    LENGTH, Server, SlowLoopback, SpoofingSocket, TIMEOUT, closed_address, connect, needs, payload, receive, request,
    run, run_in_namespace, shell, udpong, wait_until,
};
use crate::relay::{echo, receive_from, relay, sessions, stop, target};

#[test]
fn clients_beyond_the_limit_are_refused_and_others_go_on() {
    let echo = echo();
    let mut relay = relay(echo.address(), &["--max-sessions=2"]);
    let clients = [0; 3].map(|_| connect(relay.address()));
    assert_eq!(request(&clients[0], b"first"), b"first");
    assert_eq!(request(&clients[1], b"second"), b"second");
    clients[2].send(b"third").expect("sent");
    clients[2].send(b"third").expect("sent");
    relay.wait_for_line("No session for ", 0);
    assert_eq!(request(&clients[0], b"first"), b"first");
    let output = stop(relay);
    assert_eq!((sessions(&output, "refused"), sessions(&output, "peak")), (2, 2));
    assert_eq!(output.direction("up").count("refused", "sessions"), 2);
    assert_eq!(output.count_lines("No session for "), 1, "logged once a minute");
}

#[test]
fn running_out_of_files_refuses_new_sessions_only() {
    needs!("sh");
    let echo = echo();
    let script = format!("ulimit -n 20; exec \"$0\" relay 127.0.0.1:0 {} -q --json", echo.address());
    let relay = Server::spawn_relay(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_udpong")]));
    let clients: Vec<_> = (0..30).map(|_| connect(relay.address())).collect();
    clients.iter().for_each(|client| assert_eq!(client.send(b"you").expect("sent"), 3));
    assert_eq!(receive(&clients[0]), b"you");
    (0..3).for_each(|_| assert_eq!(request(&clients[0], b"again"), b"again"));
    let output = stop(relay);
    let (opened, refused) = (sessions(&output, "opened"), sessions(&output, "refused"));
    assert!(opened >= 5 && opened + refused == 30, "{opened} {refused}");
}

#[test]
fn closed_port_harms_no_session() {
    let address = closed_address();
    let mut relay = relay(address, &[]);
    let client = connect(relay.address());
    for i in 0..300_u64 {
        client.send(&payload(i)).expect("sent");
        if i % 50 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    relay.wait_for_line("does not receive", 0);
    // The target is started, and the same session reaches it.
    let target = UdpSocket::bind(address).expect("the port is free");
    target.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    client.send(b"hello").expect("sent");
    let (payload, peer) = wait_until("the last datagram comes", || {
        let (payload, peer) = receive_from(&target);
        (payload == b"hello").then_some((payload, peer))
    });
    target.send_to(&payload, peer).expect("sent");
    assert_eq!(receive(&client), b"hello");
    let output = stop(relay);
    let (up, down) = (output.direction("up"), output.direction("down"));
    assert_eq!((up.get("received"), up.get("forwarded"), sessions(&output, "opened")), (301, 301, 1));
    // Fewer than datagrams: the system limits the rate of ICMP messages.
    assert!(down.count("receive_errors", "ECONNREFUSED") >= 1, "{down:?}");
    assert_eq!(output.count_lines("does not receive"), 1, "logged once a minute");
}

#[test]
fn unread_datagrams_do_not_end_a_relay() {
    // A client that is gone: its port is closed, and answers to it raise errors on the listener or nowhere.
    let target = target();
    let relay = relay(target.local_addr().expect("an address"), &[]);
    let client = connect(relay.address());
    client.send(b"hello").expect("sent");
    let (_, peer) = receive_from(&target);
    drop(client);
    for _ in 0..200 {
        if let Err(error) = target.send_to(b"answer", peer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    }
    let other = connect(relay.address());
    other.send(b"other").expect("sent");
    assert_eq!(receive_from(&target).0, b"other");
    stop(relay);
}

/// Makes the system refuse 200 datagrams that arrive together, before and behind the link, if there is one.
fn harms_no_session(direction: &str, impairments: &[&str]) {
    let echo = echo();
    let mut relay = relay(echo.address(), &[&["--stats=20ms"], impairments].concat());
    let client = connect(relay.address());
    assert_eq!(request(&client, b"before"), b"before");
    let rule = match direction {
        "up" => format!("udp dport {} drop", echo.address().port()),
        _ => format!("udp sport {} drop", relay.address().port()),
    };
    relay.pause();
    shell(&format!("nft 'table ip t {{ chain o {{ type filter hook output priority 0; {rule}; }}; }}'"));
    // Of different lengths, so that each is a send of its own.
    (0..200).for_each(|i| assert_eq!(client.send(&vec![b'x'; 50 + i % 2]).expect("sent"), 50 + i % 2));
    relay.resume();
    relay.wait_for_line("failed 200 (EPERM 200)", 0);
    shell("nft delete table ip t");
    assert_eq!(request(&client, b"after"), b"after");
    let output = stop(relay);
    assert_eq!((output.direction(direction).get("forwarded"), sessions(&output, "opened")), (2, 1));
    assert_eq!(output.count_lines("Cannot forward 50 bytes"), 1, "logged once a minute");
}

#[test]
fn datagrams_that_the_system_does_not_send_are_counted_and_harm_no_session() {
    run_in_namespace!("nft");
    for impairments in [&[][..], &["--delay=1ms"]] {
        harms_no_session("up", impairments);
        harms_no_session("down", impairments);
    }
}

/// An ICMP message is returned to the next send, which has nothing to do with it.
#[test]
fn firewall_that_rejects_costs_no_datagram() {
    run_in_namespace!("nft");
    let echo = echo();
    let relay = relay(echo.address(), &[]);
    let client = connect(relay.address());
    let rule = format!("udp dport {} reject with icmp type admin-prohibited", echo.address().port());
    shell(&format!("nft 'table ip t {{ chain i {{ type filter hook input priority 0; {rule}; }}; }}'"));
    // More than one turn forwards, so that the next one begins with an error.
    relay.pause();
    (0..200).for_each(|i| assert_eq!(client.send(&vec![b'x'; 50 + i % 2]).expect("sent"), 50 + i % 2));
    relay.resume();
    wait_until("all were received", || (relay.has_read_everything()).then_some(()));
    thread::sleep(Duration::from_millis(50));
    shell("nft delete table ip t");
    assert_eq!(request(&client, b"after"), b"after");
    let output = stop(relay);
    let (up, down) = (output.direction("up"), output.direction("down"));
    assert_eq!((up.get("forwarded"), up.total("failed")), (201, 0), "{up:?}");
    assert!(down.count("receive_errors", "EHOSTUNREACH") >= 1, "{down:?}");
    assert_eq!(output.count_lines("does not receive"), 1, "logged once a minute");
}

/// Of delayed datagrams, each returns an error long after the client has sent its last one.
#[test]
fn any_number_of_icmp_errors_ends_no_session() {
    run_in_namespace!("nft");
    let echo = echo();
    let relay = relay(echo.address(), &["--up-delay=400ms"]);
    let client = connect(relay.address());
    // Every ICMP message comes, also where the system limits the rate of its own.
    let rule = format!("udp dport {} reject with icmp type port-unreachable", echo.address().port());
    shell(&format!("nft 'table ip t {{ chain i {{ type filter hook input priority 0; {rule}; }}; }}'"));
    shell("sysctl -q net.ipv4.icmp_ratemask=0");
    for number in 0..300 {
        client.send(&payload(number)).expect("sent");
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(500));
    shell("nft delete table ip t");
    assert_eq!(request(&client, b"after"), b"after");
    let output = stop(relay);
    let (up, down) = (output.direction("up"), output.direction("down"));
    assert_eq!((up.get("forwarded"), up.get("unsent"), sessions(&output, "opened")), (301, 0, 1));
    // More than failed receives in a row end a session.
    assert!(down.count("receive_errors", "ECONNREFUSED") > 100, "{down:?}");
}

#[test]
fn spoofed_sources_open_no_session() {
    run_in_namespace!();
    let echo = echo();
    let relay = relay(echo.address(), &[]);
    let spoof = SpoofingSocket::new();
    spoof.send(([127, 0, 0, 1], 0), relay.address(), b"port 0");
    spoof.send(([240, 0, 0, 1], 4000), relay.address(), b"reserved");
    spoof.send(([224, 0, 0, 1], 4000), relay.address(), b"multicast");
    assert_eq!(request(&connect(relay.address()), b"you"), b"you");
    let output = stop(relay);
    assert_eq!(sessions(&output, "opened"), 1);
    let up = output.direction("up");
    assert_eq!(up.count("refused", "unanswerable") + 1, up.get("received"));
    assert!(up.get("received") >= 2);
}

#[test]
fn spoofed_source_that_is_the_target_or_the_relay_starts_no_loop() {
    run_in_namespace!();
    let echo = echo();
    let spoof = SpoofingSocket::new();
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let relay = Server::start_relay(&[listen, &echo.address().to_string(), "--json", "-q"]);
        let port = relay.address().port();
        let to = ([127, 0, 0, 1], port).into();
        spoof.send(([127, 0, 0, 1], echo.address().port()), to, b"from the target");
        spoof.send(([127, 0, 0, 1], port), to, b"from the relay");
        if listen.starts_with('0') {
            spoof.send(([127, 0, 0, 9], port), to, b"from another address of the relay");
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(request(&connect(to), b"you"), b"you");
        let output = stop(relay);
        let up = output.direction("up");
        let spoofed = if listen.starts_with('0') { 3 } else { 2 };
        assert_eq!((up.get("received"), up.count("refused", "loop")), (spoofed + 1, spoofed), "{up:?}");
        assert_eq!((sessions(&output, "opened"), sessions(&output, "refused")), (1, 0));
    }
}

#[test]
fn relay_onto_itself_is_refused() {
    let free = closed_address();
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    for (listen, target) in [
        (free.to_string(), free.to_string()),
        (format!(":{port}"), format!("localhost:{port}")),
        (format!("0.0.0.0:{port}"), format!(":{port}")),
        (format!("0.0.0.0:{port}"), format!("127.0.0.7:{port}")),
    ] {
        let output = run(&mut udpong(&["relay", &listen, &target, "--for=100ms"]), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{listen} {target}: {error}");
        assert!(error.contains("is the relay itself"), "{error}");
    }
}

#[test]
fn datagrams_between_two_relays_die_out() {
    let ports: Vec<_> = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).into();
    let addresses: Vec<_> = ports.iter().map(|socket| socket.local_addr().expect("an address").to_string()).collect();
    drop(ports);
    let relays = [(0, 1), (1, 0)].map(|(listen, target)| {
        Server::start_relay(&[&addresses[listen], &addresses[target], "--max-sessions=20", "--json", "-q"])
    });
    let client = connect(relays[0].address());
    for _ in 0..10 {
        client.send(b"round").expect("sent");
    }
    // Each hop opens a session, until the first relay has too many.
    let [mut first, second] = relays;
    first.wait_for_line("No session for ", 0);
    thread::sleep(Duration::from_millis(100));
    let outputs = [stop(first), stop(second)];
    let received: u64 = outputs.iter().map(|output| output.direction("up").get("received")).sum();
    assert!(received <= 10 * 41, "{received}");
}

/// Sends 300 datagrams of 5 clients through a relay on a loopback that is slow for a time.
fn relay_on_slow_loopback(impairments: &[&str]) {
    // A qdisc sends on any processor, and loopback keeps the order of what is sent on one.
    let processor = "$(taskset -cp $$ | sed 's/.*: \\([0-9]*\\).*/\\1/')";
    shell(&format!("taskset -acp {processor} {}", std::process::id()));
    let echo = Server::start(&["echo@127.0.0.1:0", "-q", "--json"]);
    let relay = relay(echo.address(), &[&["--send-buffer=16k"], impairments].concat());
    let clients: Vec<_> = (0..5).map(|_| connect(relay.address())).collect();
    clients.iter().for_each(|client| assert_eq!(request(client, b"open"), b"open"));
    relay.pause();
    for number in 0..60 {
        clients.iter().for_each(|client| assert_eq!(client.send(&payload(number)).expect("sent"), LENGTH));
    }
    let loopback = SlowLoopback::new("100kbit", 2000);
    relay.resume();
    thread::sleep(Duration::from_millis(300));
    // A loop that spins would use 30 ticks in this time.
    let before = relay.cpu_ticks();
    thread::sleep(Duration::from_millis(300));
    let used = relay.cpu_ticks() - before;
    assert!(used < 10, "{used} ticks");
    loopback.speed_up();
    for number in 0..60 {
        assert!(clients.iter().all(|client| receive(client) == payload(number)));
    }
    let output = stop(relay);
    assert_eq!((output.direction("up").get("forwarded"), output.direction("down").get("forwarded")), (305, 305));
}

#[test]
fn slow_network_loses_nothing_and_keeps_the_order() {
    run_in_namespace!("tc", "taskset");
    relay_on_slow_loopback(&[]);
}

#[test]
fn slow_network_behind_a_link_loses_nothing_and_keeps_the_order() {
    run_in_namespace!("tc", "taskset");
    relay_on_slow_loopback(&["--delay=2ms"]);
}
