//! Under load: every datagram has an end that is told, memory stays small, and nobody starves.

use std::net::UdpSocket;

use crate::harness::{AWAY, Endpoint, Flood, Server, ask, assert_memory_is_small, client, insist, signal};

/// Numbers that look random, and are the same in every run (xorshift64).
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// The length of a payload, spread over so many magnitudes, 16 for all that there are.
    pub fn length(&mut self, magnitudes: usize) -> usize {
        let magnitude = 1 << (1 + self.below(magnitudes));
        self.below(magnitude).min(65_507)
    }
}

/// Sends so many datagrams of random bytes as fast as they go. Their lengths are spread over all magnitudes, from
/// 0 to 65,507 bytes.
fn send_random(server: &Server, count: u64) {
    let socket = UdpSocket::bind(AWAY).expect("a free port");
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let bytes: Vec<u8> = (0..2 * 65_536).map(|_| random.below(256) as u8).collect();
    for _ in 0..count {
        let length = random.length(16);
        let start = random.below(65_536);
        socket.send_to(&bytes[start..start + length], server.address()).expect("sent");
    }
}

/// Stops it, and checks that nothing is missing from its report.
fn account_for(server: Server, sent: u64) -> Endpoint {
    assert_memory_is_small(&server);
    let finished = server.stop();
    assert_eq!(finished.status.code(), Some(0));
    let endpoint = finished.endpoint();
    assert_eq!(endpoint.get("received") + endpoint.get("kernel_dropped"), sent, "{endpoint:?}");
    endpoint
}

fn a_hundred_thousand(service: &str) -> Endpoint {
    let server = Server::start(&[service, "-q", "--json", "--grace=60s"]);
    send_random(&server, 100_000);
    account_for(server, 100_000)
}

#[test]
fn hello_accounts_for_every_datagram() {
    let endpoint = a_hundred_thousand("hello@127.0.0.1:0");
    assert_eq!(endpoint.get("received"), endpoint.get("answered") + endpoint.count("failed", "EMSGSIZE"));
    assert_eq!(endpoint.get("received_bytes") > 0, endpoint.get("answered") > 0);
}

#[test]
fn echo_accounts_for_every_datagram() {
    let endpoint = a_hundred_thousand("echo@127.0.0.1:0");
    assert_eq!(endpoint.get("received"), endpoint.get("answered"));
    assert_eq!(endpoint.get("received_bytes"), endpoint.get("answered_bytes"));
}

#[test]
fn fixed_accounts_for_every_datagram() {
    let endpoint = a_hundred_thousand("fixed@:0");
    assert_eq!(endpoint.get("answered_bytes"), 16 * endpoint.get("received"));
}

#[test]
fn ack_accounts_for_every_datagram() {
    let endpoint = a_hundred_thousand("ack@:0");
    assert_eq!(endpoint.get("received"), endpoint.get("answered") + endpoint.count("failed", "EMSGSIZE"));
}

#[test]
fn discard_accounts_for_every_datagram() {
    let endpoint = a_hundred_thousand("discard@127.0.0.1:0");
    assert_eq!(endpoint.get("received"), endpoint.count("refused", "discard"));
}

#[test]
fn reply_accounts_for_every_datagram() {
    let endpoint = a_hundred_thousand("reply=<{}>@127.0.0.1:0");
    assert_eq!(endpoint.get("received"), endpoint.get("answered") + endpoint.count("failed", "EMSGSIZE"));
}

#[test]
fn what_the_kernel_has_no_room_for_is_told() {
    for (address, buffer) in [("hello@127.0.0.1:0", "8k"), ("echo@0.0.0.0:0", "1"), ("echo@[::]:0", "64k")] {
        let mut server = Server::start(&[address, "-q", "--json", "--grace=60s", "--recv-buffer", buffer]);
        let socket = client(server.address());
        server.freeze();
        for _ in 0..1000 {
            socket.send(b"there is no room for all of these").expect("sent");
        }
        signal("CONT", server.id());
        for _ in 0..20_000 {
            socket.send(b"maybe").expect("sent");
        }
        let asked = insist(server.address());
        server.wait_for_line("Server is listening", 0);
        let endpoint = account_for(server, 21_000 + asked);
        // At less than 512 bytes a datagram would be cheap for any kernel.
        assert!(endpoint.get("kernel_dropped") >= 1000 - 2 * 65_536 / 512, "{endpoint:?}");
        assert_eq!(endpoint.get("received"), endpoint.get("answered"));
    }
}

#[test]
fn a_flooded_socket_does_not_starve_a_quiet_one() {
    // An answer that takes longer than a question: there is always one more to receive.
    let long = format!("reply={}{{}}@127.0.0.1:0", "x".repeat(60_000));
    let server = Server::start_many(2, &[&long, "hello@127.0.0.1:0", "-q"]);
    let flood = Flood::start(server.addresses()[0]);
    insist(server.addresses()[0]);
    let quiet = client(server.addresses()[1]);
    for _ in 0..50 {
        assert_eq!(ask(&quiet, b"you"), b"Hello you");
    }
    drop(flood);
    assert!(server.stop().status.success());
}

#[test]
fn a_flood_of_empty_datagrams_starves_nobody_and_each_is_accounted_for() {
    for io in ["segmented", "portable"] {
        let server =
            Server::start_many(2, &["echo@127.0.0.1:0", "hello@127.0.0.1:0", "-q", "--json", "--grace=1h", "--io", io]);
        let empty = Flood::of(server.addresses()[0], b"");
        let asked = insist(server.addresses()[0]);
        let quiet = client(server.addresses()[1]);
        (0..50).for_each(|_| assert_eq!(ask(&quiet, b""), b"Hello "));
        // The flood goes on until the server has ended: all of before is accounted for, and some of after.
        let before = empty.sent();
        let finished = server.stop();
        let sent = before + asked..=empty.end() + asked;
        assert_eq!(finished.status.code(), Some(0));
        let [flooded, quiet]: [_; 2] = finished.endpoints().try_into().expect("two endpoints");
        let told = flooded.get("received") + flooded.get("kernel_dropped");
        assert!(sent.contains(&told), "{sent:?}: {flooded:?}");
        assert_eq!(flooded.get("received"), flooded.get("answered"), "{flooded:?}");
        assert!((3..=3 * asked).contains(&flooded.get("received_bytes")), "{asked}: {flooded:?}");
        assert_eq!((quiet.get("received"), quiet.get("answered")), (50, 50));
    }
}

/// The largest buffer that the system gives to everybody, in bytes.
fn limit(name: &str) -> usize {
    let limit = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).expect("a limit");
    limit.trim().parse().expect("a number")
}

#[test]
fn a_smaller_buffer_than_wanted_is_told_and_how_loudly_depends_on_who_wanted_it() {
    let log = |arguments: &[&str]| {
        let server = Server::start(&[&["hello@127.0.0.1:0", "--log=debug"], arguments].concat());
        server.stop().log
    };
    let (asked, by_default, granted) = (
        log(&["--recv-buffer=1023M", "--send-buffer=1023M"]),
        log(&[]),
        log(&["--recv-buffer=4k", "--send-buffer=8k"]),
    );
    for (name, limit) in [("receive", limit("rmem_max")), ("send", limit("wmem_max"))] {
        let told = |log: &[String], level: &str, wanted: usize| {
            let words = format!(" bytes, not {wanted}: the system sets a limit");
            let about_it = |line: &&String| line.contains(&format!("The {name} buffer on 127.0.0.1:"));
            let lines: Vec<_> = log.iter().filter(about_it).collect();
            assert!(lines.iter().all(|line| line.contains(level) && line.ends_with(&words)), "{lines:?}");
            lines.len()
        };
        assert_eq!(told(&asked, " WARN ", 1023 << 20), usize::from(limit < 1023 << 20), "{name}");
        assert_eq!(told(&by_default, " DEBUG ", 4 << 20), usize::from(limit < 4 << 20), "{name}");
        assert_eq!(told(&granted, "nothing", 0), 0, "{name}");
    }
}
