//! More datagrams than can be handled: each is counted, memory stays small, and no socket starves another.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    EndpointReport, FLOOD_SOURCE, Flood, Random, Server, TIMEOUT, assert_memory_is_small, connect, request,
    request_until_answered,
};

/// How many random datagrams a service is sent: first a flood, then datagrams at a pace that it can follow.
const FLOOD: u64 = 80_000;
const PACED: u64 = 20_000;

/// Sends random datagrams of 0 to 65,507 bytes. Checks that all are in the report, and that the kernel dropped none of
/// those that were paced.
fn send_random(service: &str) -> EndpointReport {
    // Empty datagrams are identical: the guard would withhold one reply in 1,000.
    let server = Server::start(&[service, "-q", "--json", "--grace=60s", "--no-guard"]);
    let socket = UdpSocket::bind(FLOOD_SOURCE).expect("a free port");
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let bytes = random.bytes(2 * 65_536);
    let mut send = || {
        let length = random.length(16);
        let start = random.below(65_536);
        socket.send_to(&bytes[start..start + length], server.address()).expect("sent")
    };
    for _ in 0..FLOOD {
        send();
    }
    wait_until_read(&server);
    let dropped = server.kernel_drops();
    // The most that waits in the receive buffer, with what the kernel charges for each datagram.
    let mut waiting = 0;
    for _ in 0..PACED {
        if waiting > 100_000 {
            wait_until_read(&server);
            waiting = 0;
        }
        waiting += send() + 1_500;
    }
    assert_memory_is_small(&server);
    let endpoint = server.stop_and_account_for(FLOOD + PACED).endpoint();
    assert_eq!(endpoint.get("kernel_dropped"), dropped, "{endpoint:?}");
    endpoint
}

fn wait_until_read(server: &Server) {
    let start = Instant::now();
    while !server.has_read_everything() {
        assert!(start.elapsed() < TIMEOUT, "timed out waiting for an empty receive buffer");
        thread::sleep(Duration::from_micros(50));
    }
}

/// Checks that replies `overhead` bytes longer than their requests were sent, except where that is too long.
fn assert_answered(endpoint: &EndpointReport, overhead: u64) {
    let (answered, failed) = (endpoint.get("answered"), endpoint.count("failed", "EMSGSIZE"));
    assert_eq!(endpoint.get("received"), answered + failed, "{endpoint:?}");
    let answered_requests = endpoint.get("answered_bytes") - overhead * answered;
    let unanswered_requests = endpoint.get("received_bytes") - answered_requests;
    let expected = failed * (65_508 - overhead)..=failed * 65_507;
    assert!(expected.contains(&unanswered_requests), "{unanswered_requests} bytes: {endpoint:?}");
}

#[test]
fn hello_counts_every_datagram() {
    assert_answered(&send_random("hello@127.0.0.1:0"), 6);
}

#[test]
fn echo_counts_every_datagram() {
    let endpoint = send_random("echo@127.0.0.1:0");
    assert_eq!(endpoint.get("received"), endpoint.get("answered"));
    assert_eq!(endpoint.get("received_bytes"), endpoint.get("answered_bytes"));
}

#[test]
fn fixed_counts_every_datagram() {
    let endpoint = send_random("fixed@:0");
    assert_eq!(endpoint.get("received"), endpoint.get("answered"));
    assert_eq!(endpoint.get("answered_bytes"), 16 * endpoint.get("received"));
}

#[test]
fn ack_counts_every_datagram() {
    assert_answered(&send_random("ack@:0"), 21);
}

#[test]
fn discard_counts_every_datagram() {
    let endpoint = send_random("discard@127.0.0.1:0");
    assert_eq!(endpoint.get("received"), endpoint.count("refused", "discard"));
}

#[test]
fn reply_counts_every_datagram() {
    assert_answered(&send_random("reply=<{}>@127.0.0.1:0"), 2);
}

#[test]
fn kernel_drops_are_counted() {
    for (address, buffer) in [("hello@127.0.0.1:0", "8k"), ("echo@0.0.0.0:0", "1"), ("echo@[::]:0", "64k")] {
        let server = Server::start(&[address, "-q", "--json", "--grace=60s", "--no-guard", "--recv-buffer", buffer]);
        let socket = connect(server.address());
        server.pause();
        for _ in 0..1000 {
            socket.send(b"there is no room for all of these").expect("sent");
        }
        server.resume();
        for _ in 0..20_000 {
            socket.send(b"maybe").expect("sent");
        }
        let requests = request_until_answered(server.address());
        assert_memory_is_small(&server);
        let endpoint = server.stop_and_account_for(21_000 + requests).endpoint();
        // No kernel charges less than 512 bytes for a datagram.
        assert!(endpoint.get("kernel_dropped") >= 1000 - 2 * 65_536 / 512, "{endpoint:?}");
        assert_eq!(endpoint.get("received"), endpoint.get("answered"));
    }
}

#[test]
fn flooded_socket_does_not_starve_a_quiet_one() {
    // Sending a reply takes longer than sending a request: there is always another one to receive.
    let long = format!("reply={}{{}}@127.0.0.1:0", "x".repeat(60_000));
    let server = Server::start_many(2, &[&long, "hello@127.0.0.1:0", "-q"]);
    let flood = Flood::start(server.addresses()[0], b"flood");
    request_until_answered(server.addresses()[0]);
    let quiet = connect(server.addresses()[1]);
    for _ in 0..50 {
        assert_eq!(request(&quiet, b"you"), b"Hello you");
    }
    drop(flood);
    assert!(server.stop().status.success());
}

#[test]
fn flood_of_empty_datagrams_is_counted_and_starves_nobody() {
    for io in ["segmented", "portable"] {
        let options = ["-q", "--json", "--grace=1h", "--no-guard", "--io", io];
        let server = Server::start_many(2, &[&["echo@127.0.0.1:0", "hello@127.0.0.1:0"], &options[..]].concat());
        let flood = Flood::start(server.addresses()[0], b"");
        let requests = request_until_answered(server.addresses()[0]);
        let quiet = connect(server.addresses()[1]);
        (0..50).for_each(|_| assert_eq!(request(&quiet, b""), b"Hello "));
        // The flood continues until the server has exited: it counts all datagrams sent until now, and some after.
        let before = flood.sent();
        let output = server.stop();
        let sent = before + requests..=flood.stop() + requests;
        assert_eq!(output.status.code(), Some(0));
        let [flooded, quiet]: [_; 2] = output.endpoints().try_into().expect("two endpoints");
        let counted = flooded.get("received") + flooded.get("kernel_dropped");
        assert!(sent.contains(&counted), "{sent:?}: {flooded:?}");
        assert_eq!(flooded.get("received"), flooded.get("answered"), "{flooded:?}");
        assert!((3..=3 * requests).contains(&flooded.get("received_bytes")), "{requests}: {flooded:?}");
        assert_eq!((quiet.get("received"), quiet.get("answered")), (50, 50));
    }
}
