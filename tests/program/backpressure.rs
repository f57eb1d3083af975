//! A network that is stuck: replies wait, further requests stay in the kernel, and the server stays small and idle.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Server, SlowLoopback, assert_memory_is_small, connect, receive, run_in_namespace, signal};

/// As many small messages as fit into a receive buffer where the system's limits are the usual ones.
const MESSAGES: u64 = 150;

fn message(i: u64) -> Vec<u8> {
    format!("{i:0300}").into_bytes()
}

/// Returns the number that follows `name` in a line of statistics.
fn number_after(line: &str, name: &str) -> u64 {
    let rest = line.split_once(name).unwrap_or_else(|| panic!("no {name:?} in {line}")).1;
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).expect("a number")
}

/// While they wait, the socket is not read and the loop does not spin.
#[test]
fn queued_replies_leave_in_order() {
    run_in_namespace!("tc");
    let mut server = Server::start(&["hello@127.0.0.1:0", "-q", "--json", "--send-buffer=16k", "--stats=200ms"]);
    let client = connect(server.address());
    server.pause();
    for i in 0..MESSAGES {
        client.send(&message(i)).expect("sent");
    }
    let loopback = SlowLoopback::new("1kbit", 2000);
    server.resume();

    // What one turn could not send waits; the other requests remain in the receive buffer.
    let line = server.wait_for_line(", waited ", 0);
    let [received, waited, unsent] = ["received ", "waited ", "unsent "].map(|name| number_after(&line, name));
    assert!(received < MESSAGES && waited > 0 && (1..=32).contains(&unsent), "{line}");

    // A loop that spins would use 50 ticks in this time.
    let before = server.cpu_ticks();
    thread::sleep(Duration::from_millis(500));
    let used = server.cpu_ticks() - before;
    assert!(used < 15, "{used} ticks");
    assert_memory_is_small(&server);

    loopback.speed_up();
    for i in 0..MESSAGES {
        assert_eq!(receive(&client), [b"Hello ", &message(i)[..]].concat());
    }
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.get("unsent")), (MESSAGES, 0), "{endpoint:?}");
    assert!(endpoint.get("waited") >= waited, "{endpoint:?}");
    assert!((1..=32).contains(&endpoint.get("waiting_peak")), "{endpoint:?}");
}

/// Nor does it spin while the replies to the last datagrams of `--count` wait.
#[test]
fn grace_period_after_count_is_idle() {
    run_in_namespace!("tc");
    let server = Server::start(&["hello@127.0.0.1:0", "-q", "--send-buffer=16k", "--count=10", "--grace=1h"]);
    let client = connect(server.address());
    server.pause();
    for i in 0..MESSAGES {
        client.send(&message(i)).expect("sent");
    }
    let loopback = SlowLoopback::new("1kbit", 2000);
    server.resume();
    receive(&client);

    let before = server.cpu_ticks();
    thread::sleep(Duration::from_millis(500));
    let used = server.cpu_ticks() - before;
    assert!(used < 15, "{used} ticks");

    loopback.speed_up();
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn replies_unsent_after_the_grace_period_are_counted() {
    run_in_namespace!("tc");
    let mut server = Server::start(&["echo@127.0.0.1:0", "-q", "--json", "--send-buffer=64k", "--stats=200ms"]);
    let client = connect(server.address());
    server.pause();
    for _ in 0..60 {
        client.send(&[b'x'; 60_000]).expect("sent");
    }
    let _loopback = SlowLoopback::new("1kbit", 70_000);
    server.resume();
    server.wait_for_line(", waited ", 0);
    assert_memory_is_small(&server);
    let start = Instant::now();
    let output = server.stop();
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!(output.status.code(), Some(0));
    let endpoint = output.endpoint();
    assert!(endpoint.get("unsent") > 0 && endpoint.get("answered") > 0, "{endpoint:?}");
    assert!(endpoint.get("waiting_peak") <= 12, "{endpoint:?}");
    assert_eq!(output.log.last().map(|line| number_after(line, "unsent ")), Some(endpoint.get("unsent")));
}

#[test]
fn shutdown_ends_when_the_last_reply_has_left() {
    run_in_namespace!("tc");
    let options = ["-q", "--json", "--send-buffer=16k", "--grace=1h", "--stats=200ms"];
    let mut server = Server::start(&[&["echo@127.0.0.1:0"], &options[..]].concat());
    let client = connect(server.address());
    server.pause();
    for i in 0..MESSAGES {
        client.send(&message(i)).expect("sent");
    }
    let loopback = SlowLoopback::new("1kbit", 2000);
    server.resume();
    server.wait_for_line(", waited ", 0);
    signal("INT", server.pid());
    loopback.speed_up();
    let output = server.wait();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.endpoint().get("answered"), MESSAGES);
    (0..MESSAGES).for_each(|i| assert_eq!(receive(&client), message(i)));
}
