//! The long run, `make soak`: a server under everything at once.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::harness::{
    Random, Server, SpoofingSocket, flood, request_until_answered, run, run_in_namespace, shell, udpong,
};
use crate::loops::assert_loops_end;

/// How long, unless the environment variable SOAK is set (30s, 1h).
const TIME: Duration = Duration::from_secs(600);

/// The most anonymous memory that the server may use, in kB.
const MEMORY_LIMIT: u64 = 12 << 10;

fn time() -> Duration {
    std::env::var("SOAK").map_or(TIME, |text| humantime::parse_duration(&text).expect("SOAK is a duration: 30s, 1h"))
}

/// Sends random bytes from spoofed sources: reachable ones, some behind each kind of failing route, unanswerable ones,
/// and such with ports that must not be answered.
fn send_spoofed(spoofing: &SpoofingSocket, random: &mut Random, to: SocketAddr, bytes: &[u8]) {
    for _ in 0..2_000 {
        let [_, a, b, c] = (random.below(1 << 24) as u32).to_be_bytes();
        let ip = match random.below(8) {
            0 => [203, 0, 113, c],
            1 => [192, 0, 2, 1],
            2 => [224 | a, a, b, c],
            _ => [10, a, b, c],
        };
        let port = [0, 7, 53, 4001, 4002, 5353, random.below(65_536)][random.below(7)];
        let length = random.length(13);
        spoofing.send((ip, port as u16), to, &bytes[c as usize..][..length]);
    }
}

/// Sends random bytes of all lengths.
fn send_random(random: &mut Random, to: SocketAddr, bytes: &[u8]) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
    for _ in 0..2_000 {
        let length = random.length(16);
        let _ = socket.send_to(&bytes[random.below(1_000)..][..length], to);
    }
}

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a process").count()
}

#[test]
#[ignore = "it takes 10 minutes: make soak"]
fn stays_small_and_counts_everything() {
    run_in_namespace!("tc");
    shell(
        "ip addr add 192.0.2.1/32 dev lo; ip addr add 192.0.2.2/32 dev lo; ip route add local 10.0.0.0/8 dev lo
         ip route add unreachable 203.0.113.0/26; ip route add prohibit 203.0.113.64/26
         ip route add blackhole 203.0.113.128/26",
    );
    let services = ["hello@0.0.0.0:4001", "echo@[::]:4002", "reply=<{}>@192.0.2.1:4003", "discard@192.0.2.1:4004"];
    let options = ["--json", "-q", "--send-buffer=16k", "--rate-limit=5000", "--stats=1s", "--grace=60s"];
    let server = Server::start_many(4, &[&services[..], &options].concat());
    let on_port = |port| SocketAddr::from(([192, 0, 2, 1], port));
    let (spoofing, mut random) = (SpoofingSocket::new(), Random(0x5eed_5eed_5eed_5eed));
    let bytes = random.bytes(67_000);
    let (start, time, open) = (Instant::now(), time(), open_files(&server));
    let (mut early, mut late, mut rounds) = (0, 0, 0_u64);
    while start.elapsed() < time {
        if rounds.is_multiple_of(2) {
            shell("tc qdisc replace dev lo root tbf rate 200mbit burst 70000 limit 4000000");
        } else {
            shell("tc qdisc del dev lo root");
        }
        for port in 4001..=4004 {
            send_spoofed(&spoofing, &mut random, on_port(port), &bytes);
            send_random(&mut random, on_port(port), &bytes);
            flood(on_port(port), b"", 500);
        }
        let target = on_port(4002 + rounds as u16 % 2).to_string();
        let bench = ["bench", &target, "--segments=16", "-s1000", "-t100ms", "-W500ms", "--json"];
        assert!(run(&mut udpong(&bench), b"").status.code().is_some());
        (4001..=4003).for_each(|port| assert!(request_until_answered(on_port(port)) > 0));
        assert_eq!(open_files(&server), open);
        let memory = server.status("RssAnon");
        assert!(memory < MEMORY_LIMIT, "{memory} kB after {rounds} rounds");
        let half = if start.elapsed() < time / 2 { &mut early } else { &mut late };
        *half = memory.max(*half);
        rounds += 1;
    }
    let output = server.stop();
    assert_eq!(output.status.code(), Some(0), "{:#?}", output.log);
    let endpoints = output.endpoints();
    println!("{rounds} rounds, at most {early} kB, then {late} kB: {endpoints:#?}");
    assert!(rounds < 2 || late <= early + 512, "{early} kB in the first half, {late} kB in the second");
    assert!(endpoints[..3].iter().all(|endpoint| endpoint.get("answered") > 0), "{endpoints:?}");
    for reason in ["EHOSTUNREACH", "EACCES", "EINVAL"] {
        assert!(endpoints[0].count("failed", reason) > 0, "{reason}: {endpoints:?}");
    }
}

#[test]
#[ignore = "it takes 10 minutes: make soak"]
fn loops_between_servers_end() {
    run_in_namespace!("python3");
    // On loopback it takes seconds and two processors.
    let [one, other] = ["echo@127.0.0.1:4001", "echo@127.0.0.1:4002"].map(|at| Server::start(&[at, "-q"]));
    SpoofingSocket::new().send(([127, 0, 0, 1], 4002), one.address(), b"you");
    let has_ended = |server: &Server| server.log().join("").contains("as in a loop");
    let start = Instant::now();
    while !has_ended(&one) && !has_ended(&other) {
        assert!(start.elapsed() < TIME, "the loop on loopback does not end");
        std::thread::sleep(Duration::from_millis(100));
    }

    let services = ["echo", "hello", "ack", "fixed", "discard", "reply=", "reply=<{}>", "reply={}!", "reply=x{}x"];
    let (start, time, mut random) = (Instant::now(), time(), Random(0x5eed_5eed_5eed_5eed));
    let mut rounds = 0;
    while start.elapsed() < time {
        let pairs = (0..16).map(|_| {
            let mut service = || services[random.below(services.len())];
            (service(), service(), 1 + random.below(10) as u64)
        });
        let pairs: Vec<_> = pairs.collect();
        assert_loops_end(Duration::from_millis(random.below(10) as u64), &pairs);
        rounds += 1;
    }
    println!("{rounds} rounds of 16 loops");
}
