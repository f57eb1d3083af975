//! What the server reports: the lines of `--stats` and the report of `--json`.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{EndpointReport, Server, SpoofingSocket, connect, python, request, run_in_namespace, wait_until};

#[test]
fn statistics_are_logged_with_rates() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--stats=50ms", "-q"]);
    // Without any traffic too.
    server.wait_for_line("received 0 (0 bytes)", 1);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    let line = server.wait_for_line("received 1 (3 bytes), answered 1 (9 bytes)", 0);
    assert!(line.contains(&format!("hello on {}: ", server.address())), "{line}");
    assert!(line.contains("dropped by the kernel 0; ") && line.ends_with(" answered/s"), "{line}");
    let rate = line.split_once("; ").and_then(|(_, rates)| rates.split_once(" received/s"));
    assert!(rate.is_some_and(|(rate, _)| rate.parse::<f64>().is_ok_and(|rate| rate > 0.0)), "{line}");
    let later = server.wait_for_line("received 1 (3 bytes)", 1);
    assert!(later.ends_with("; 0 received/s, 0 answered/s"), "{later}");
}

#[test]
fn report_is_all_that_is_on_stdout() {
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--json", "--log=trace"]);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    let addresses = server.addresses().to_owned();
    thread::sleep(Duration::from_millis(10));
    let output = server.stop();
    let report = output.report();
    assert_eq!(report["schema"], 1);
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.01));
    let mut expected = serde_json::json!({
        "service": "hello", "address": addresses[0], "received": 1, "received_bytes": 3, "answered": 1,
        "answered_bytes": 9, "refused": {}, "failed": {}, "receive_errors": {}, "waited": 0, "waiting_peak": 0,
        "unsent": 0, "impaired": null, "kernel_dropped": 0,
    });
    assert_eq!(report["endpoints"][0], expected);
    expected["service"] = "discard".into();
    expected["address"] = addresses[1].to_string().into();
    for field in ["received", "received_bytes", "answered", "answered_bytes"] {
        expected[field] = 0.into();
    }
    assert_eq!(report["endpoints"][1], expected);
    assert!(report["seed"].is_null());
    assert!(report["rcvbuf_errors"].is_u64() && report["in_csum_errors"].is_u64(), "{report}");
    assert_eq!(report.as_object().expect("an object").len(), 6);
}

#[test]
fn stdout_is_empty_without_json() {
    let server = Server::start(&["hello@127.0.0.1:0"]);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    assert_eq!(server.stop().stdout, "");
}

/// Sends `messages` of 64 datagrams each to a port of 127.0.0.1, every message as one segmented send.
const SEGMENTING_SENDER: &str = "
import socket, struct, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(('127.0.0.1', int(sys.argv[1])))
for _ in range(int(sys.argv[2])):
    # udp(7): SOL_UDP, UDP_SEGMENT
    sender.sendmsg([b'x' * 64 * 100], [(17, 103, struct.pack('H', 100))])
";

/// Starts a server with a small receive buffer, sends while it is paused, and returns its report.
fn report_of_overload(io: &str, send: impl Fn(SocketAddr)) -> (Value, EndpointReport) {
    let server = Server::start(&["echo@127.0.0.1:0", "--json", "-q", "--recv-buffer=16k", "--io", io]);
    server.pause();
    send(server.address());
    server.resume();
    wait_until("the receive buffer is empty", || server.has_read_everything().then_some(()));
    assert_eq!(request(&connect(server.address()), b"the last"), b"the last");
    let output = server.stop();
    (output.report(), output.endpoint())
}

#[test]
fn drops_are_counted_by_what_the_kernel_drops() {
    run_in_namespace!("python3");
    let plain = |to| {
        let sender = connect(to);
        (0..1_000).for_each(|_| assert_eq!(sender.send(b"no room for all of these").expect("sent"), 24));
    };
    let segmented = |to: SocketAddr| {
        python(SEGMENTING_SENDER, &[&to.port().to_string(), "100"]);
    };
    let wrong_checksums = |to| {
        let mut sender = SpoofingSocket::new();
        sender.checksum = 1;
        // The kernel looks at the checksum of the short ones before it looks for the socket.
        for length in [68, 69] {
            (0..5).for_each(|_| sender.send(([127, 0, 0, 1], 4000), to, &[7; 100][..length]));
        }
    };
    for (io, sends, sent, datagrams_per_buffer, rcvbuf_errors, in_csum_errors) in [
        ("auto", &plain as &dyn Fn(SocketAddr), 1_000, 1, true, 0),
        ("portable", &plain, 1_000, 1, true, 0),
        ("auto", &segmented, 6_400, 64, true, 0),
        ("portable", &segmented, 6_400, 1, true, 0),
        ("auto", &wrong_checksums, 5, 1, false, 10),
        ("portable", &wrong_checksums, 5, 1, false, 10),
    ] {
        let (report, endpoint) = report_of_overload(io, sends);
        let dropped = endpoint.get("kernel_dropped");
        assert_eq!(endpoint.get("received") + datagrams_per_buffer * dropped, sent + 1, "{io}: {report}");
        assert!(dropped > 0);
        assert_eq!(report["rcvbuf_errors"], if rcvbuf_errors { dropped } else { 0 }, "{io}: {report}");
        assert_eq!(report["in_csum_errors"], in_csum_errors, "{io}: {report}");
    }
}
