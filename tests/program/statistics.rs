//! What the server reports: the lines of `--stats` and the report of `--json`.

use std::thread;
use std::time::Duration;

use crate::harness::{Server, connect, request};

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
    assert_eq!(report.as_object().expect("an object").len(), 4);
}

#[test]
fn stdout_is_empty_without_json() {
    let server = Server::start(&["hello@127.0.0.1:0"]);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    assert_eq!(server.stop().stdout, "");
}
