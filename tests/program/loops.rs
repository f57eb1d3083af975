//! Loops: two servers that answer each other's replies, started by spoofed datagrams, end within 1,000 rounds for each
//! of these, whatever the services and the delay. Clients that repeat themselves lose one reply in 1,000.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::wire::{LEFT, LEFT_FROM_RIGHT, RIGHT, RIGHT_FROM_LEFT, Wire};
use crate::harness::{EndpointReport, Server, connect_from, python, run_in_namespace, shell, wait_until};

/// Services at both ends of a wire, and how many spoofed datagrams start a loop between them.
pub type Pair = (&'static str, &'static str, u64);

const PAIRS: [Pair; 17] = [
    ("echo", "echo", 1),
    ("fixed", "fixed", 1),
    ("fixed", "echo", 1),
    ("fixed", "hello", 1),
    ("reply=", "echo", 1),
    ("discard", "hello", 1),
    ("hello", "hello", 1),
    ("hello", "ack", 1),
    ("echo", "hello", 1),
    ("ack", "echo", 1),
    ("reply=<{}>", "reply={}!", 1),
    ("reply=a{}", "reply=b{}", 1),
    ("reply={}zz", "hello", 1),
    ("reply=xx{}", "reply=x{}", 1),
    ("echo", "echo", 10),
    ("echo", "ack", 10),
    ("hello", "reply={}!", 10),
];

/// Starts a loop in each pair and checks that it ends in refusals, within 1,000 rounds, there and back, for each
/// datagram in flight.
pub fn assert_loops_end(delay: Duration, pairs: &[Pair]) {
    let (left_port, right_port) = (|i: usize| 4100 + i as u16, |i: usize| 4200 + i as u16);
    let mut wire = Wire::new(delay);
    let start = |services: Vec<String>| {
        let options = ["--json".to_owned(), "-q".to_owned(), "--rate-limit=0".to_owned()];
        let arguments: Vec<String> = services.into_iter().chain(options).collect();
        Server::start_many(pairs.len(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let left = start((0..).zip(pairs).map(|(i, pair)| format!("{}@{LEFT}:{}", pair.0, left_port(i))).collect());
    let right = start((0..).zip(pairs).map(|(i, pair)| format!("{}@{RIGHT}:{}", pair.1, right_port(i))).collect());
    for (i, (.., in_flight)) in (0..).zip(pairs) {
        for j in 0..*in_flight {
            // Half of them from either end.
            let (left, right) = (left_port(i), right_port(i));
            if j % 2 == 0 {
                wire.spoof((LEFT_FROM_RIGHT, left), (RIGHT, right), &[b'y'; 1_400]);
            } else {
                wire.spoof((RIGHT_FROM_LEFT, right), (LEFT, left), &[b'y'; 1_400]);
            }
        }
    }
    let carried = wire.wait_until_idle();
    let ends = [left.stop().endpoints(), right.stop().endpoints()];
    for (i, pair) in pairs.iter().enumerate() {
        let (left, right, in_flight) = *pair;
        let sum =
            |count: &dyn Fn(&EndpointReport) -> u64| ends.iter().map(|endpoints| count(&endpoints[i])).sum::<u64>();
        let answered = sum(&|endpoint| endpoint.get("answered"));
        assert_eq!(sum(&|endpoint| endpoint.total("refused")), in_flight, "{left} and {right} go on: {ends:?}");
        assert_eq!(sum(&|endpoint| endpoint.get("received")), answered + in_flight, "{pair:?}: {ends:?}");
        assert_eq!(carried(left_port(i), right_port(i)), answered, "{pair:?}: {ends:?}");
        assert!(answered <= 2_000 * in_flight, "{pair:?}: {answered}");
    }
}

#[test]
fn loops_end_on_a_slow_wire() {
    run_in_namespace!("python3");
    assert_loops_end(Duration::from_millis(5), &PAIRS);
}

#[test]
fn loops_end_on_a_fast_wire() {
    run_in_namespace!("python3");
    assert_loops_end(Duration::ZERO, &PAIRS);
}

/// Returns how many datagrams this namespace has received.
fn datagrams_received() -> u64 {
    let counts = std::fs::read_to_string("/proc/net/snmp").expect("readable");
    let numbers = counts.lines().filter_map(|line| line.strip_prefix("Udp: ")).nth(1).expect("numbers of UDP");
    numbers.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn loop_of_many_different_datagrams_on_loopback_ends() {
    run_in_namespace!("python3");
    for (one, other) in [("echo", "echo"), ("echo", "hello")] {
        let start = |service: &str, port: u16| Server::start(&[&format!("{service}@127.0.0.1:{port}"), "--json", "-q"]);
        let servers = [start(one, 4001), start(other, 4002)];
        python(
            "
import socket, struct
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
for i in range(300):
    payload = b'datagram %d' % i
    raw.sendto(struct.pack('!HHHH', 4002, 4001, 8 + len(payload), 0) + payload, ('127.0.0.1', 0))
",
            &[],
        );
        let mut before = 0;
        wait_until("the loop ends", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = datagrams_received();
            (std::mem::replace(&mut before, now) == now).then_some(())
        });
        let ends = servers.map(|server| server.stop().endpoint());
        let sum = |count: &dyn Fn(&EndpointReport) -> u64| ends.iter().map(count).sum::<u64>();
        let [received, answered] = ["received", "answered"].map(|name| sum(&|endpoint| endpoint.get(name)));
        assert_eq!(received, answered + 300, "{ends:?}");
        // Growing ones end as well when they exceed a datagram.
        let failed = sum(&|endpoint| endpoint.total("failed"));
        assert_eq!(sum(&|endpoint| endpoint.count("refused", "loop")) + failed, 300, "{ends:?}");
        assert!(other != "echo" || (failed == 0 && answered <= 2_200 * 300), "{answered}: {ends:?}");
    }
}

/// Sends each payload and waits for its reply before the next; returns how many had none.
fn unanswered(socket: &UdpSocket, payloads: impl Iterator<Item = Vec<u8>>) -> usize {
    let mut reply = [0; 2_000];
    let unanswered = payloads.filter(|payload| {
        socket.send(payload).expect("sent");
        socket.recv(&mut reply).is_err()
    });
    unanswered.count()
}

#[test]
fn client_that_repeats_itself_loses_one_reply_in_a_thousand() {
    run_in_namespace!();
    shell("for i in 1 2; do ip addr add 192.0.2.$i/32 dev lo; done");
    let server = Server::start(&["hello@192.0.2.1:4001", "--json", "-q", "--rate-limit=0"]);
    let connect = || {
        let socket = connect_from([192, 0, 2, 2].into(), server.address());
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        socket
    };
    let socket = connect();
    for length in [3, 1_400] {
        let same = vec![b'y'; length];
        assert_eq!(unanswered(&socket, (0..2_000).map(|_| same.clone())), 2, "identical payloads of {length} bytes");
        let others = (0..4_000).map(|i| if i % 2 == 0 { same.clone() } else { format!("{length} {i}").into() });
        assert_eq!(unanswered(&socket, others), 2, "identical payloads of {length} bytes, and others in between");
    }
    let different = (0..5_000).map(|i| ["Hello "].repeat(i % 200).concat() + &i.to_string());
    assert_eq!(unanswered(&socket, different.map(String::into_bytes)), 0, "different payloads");
    let repeated = (0..999).map(|_| ["Hello "].repeat(300).concat().into_bytes());
    assert_eq!(unanswered(&connect(), repeated), 0, "own text repeated in one payload");
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.count("refused", "loop"), endpoint.total("refused")), (8, 8), "{endpoint:?}");
}
