//! How it stops: by signals, by time, by count; what has arrived is answered first.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Flood, Server, SlowLoopback, ask, client, in_namespace, insist, needs, receive, signal, udpong};

#[test]
fn three_signals_stop_it_and_the_tally_is_told() {
    for name in ["INT", "TERM", "HUP"] {
        let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
        signal(name, server.id());
        let finished = server.finish();
        assert_eq!(finished.status.code(), Some(0), "{name}");
        assert!(finished.log.iter().any(|line| line.contains("received 1 (3 bytes), answered 1 (9 bytes)")), "{name}");
        assert_eq!(finished.endpoint().get("answered"), 1);
    }
}

#[test]
fn what_has_arrived_is_answered_before_the_end() {
    for name in ["INT", "TERM", "HUP"] {
        let server = Server::start_many(2, &["hello@127.0.0.1:0", "echo@127.0.0.1:0", "--json", "--grace=60s", "-q"]);
        let clients = [0, 1].map(|i: usize| client(server.addresses()[i]));
        server.freeze();
        for i in 0..200 {
            clients.iter().for_each(|client| assert!(client.send(format!("{i}").as_bytes()).is_ok()));
        }
        signal(name, server.id());
        signal("CONT", server.id());
        let finished = server.finish();
        assert_eq!(finished.status.code(), Some(0));
        let answered: Vec<_> = finished.endpoints().iter().map(|endpoint| endpoint.get("answered")).collect();
        assert_eq!(answered, [200, 200], "{name}");
        for i in 0..200 {
            assert_eq!(receive(&clients[0]), format!("Hello {i}").into_bytes());
            assert_eq!(receive(&clients[1]), format!("{i}").into_bytes());
        }
    }
}

#[test]
fn a_flood_does_not_keep_it_from_stopping() {
    let server = Server::start(&["echo@127.0.0.1:0", "--json", "-q", "--grace=1h"]);
    let flood = Flood::start(server.address());
    insist(server.address());
    let finished = server.stop();
    drop(flood);
    assert_eq!(finished.status.code(), Some(0));
    assert!(finished.endpoint().get("answered") > 0);
}

#[test]
fn a_second_signal_ends_it_at_once_with_130() {
    // The log is stuck and may take an hour for its last lines.
    let (reader, writer) = io::pipe().expect("a pipe");
    let server = Server::spawn_unheard(udpong(&["serve", "hello@127.0.0.1:0", "--grace=1h"]).stderr(writer));
    let socket = client(server.address());
    for _ in 0..2000 {
        assert_eq!(ask(&socket, b"you"), b"Hello you");
    }
    signal_again_and_again(server.id());
    assert_eq!(server.finish().status.code(), Some(130));
    drop(reader);
}

#[test]
fn a_second_signal_does_not_wait_for_replies_either() {
    needs!("unshare", "ip", "tc");
    if in_namespace("stop::a_second_signal_does_not_wait_for_replies_either") {
        let server = Server::start(&["echo@127.0.0.1:0", "-q", "--grace=1h", "--send-buffer=64k"]);
        let client = client(server.address());
        server.freeze();
        for _ in 0..100 {
            client.send(&[b'x'; 1000]).expect("sent");
        }
        let _loopback = SlowLoopback::new("8kbit", 2000);
        signal("CONT", server.id());
        receive(&client);
        signal_again_and_again(server.id());
        assert_eq!(server.finish().status.code(), Some(130));
    }
}

/// Signals of one kind could be merged into one before they are delivered, and any within 10 ms are one request; a
/// process that has ended, which is not waited for yet, can still be sent some.
fn signal_again_and_again(process: u32) {
    for name in ["INT", "TERM", "INT", "TERM"] {
        signal(name, process);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_signals_at_one_time_are_one_request() {
    // On a busy machine more than 10 ms may pass between them even so; mostly not.
    let one_request = |_: &i32| {
        let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
        server.freeze();
        ["INT", "TERM", "CONT"].iter().for_each(|name| signal(name, server.id()));
        let finished = server.finish();
        finished.status.code() == Some(0) && finished.endpoint().get("answered") == 1
    };
    assert!((0..10).filter(one_request).count() >= 8);
}

#[test]
fn it_stops_by_itself_after_a_time() {
    let start = Instant::now();
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--for=300ms"]);
    let flood = Flood::start(server.address());
    let finished = server.finish();
    drop(flood);
    assert_eq!(finished.status.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(finished.report()["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.3));
}

#[test]
fn it_stops_by_itself_after_a_count_of_all_services_together() {
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--json", "--count=10"]);
    let hello = client(server.addresses()[0]);
    let discard = client(server.addresses()[1]);
    for _ in 0..5 {
        discard.send(b"nothing").expect("sent");
    }
    for _ in 0..4 {
        assert_eq!(ask(&hello, b"you"), b"Hello you");
    }
    assert_eq!(ask(&hello, b"the last"), b"Hello the last");
    let finished = server.finish();
    assert_eq!(finished.status.code(), Some(0));
    let received: Vec<_> = finished.endpoints().iter().map(|endpoint| endpoint.get("received")).collect();
    assert_eq!(received, [5, 5]);
}

#[test]
fn the_tally_is_told_with_rates_while_it_runs() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--stats=50ms", "-q"]);
    // It is told without any traffic too.
    server.wait_for_line("received 0 (0 bytes)", 1);
    assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
    let told = server.wait_for_line("received 1 (3 bytes), answered 1 (9 bytes)", 0);
    assert!(told.contains(&format!("hello on {}: ", server.address())), "{told}");
    assert!(told.contains("dropped by the kernel 0; ") && told.ends_with(" answered/s"), "{told}");
    let rate = told.split_once("; ").and_then(|(_, rates)| rates.split_once(" received/s"));
    assert!(rate.is_some_and(|(rate, _)| rate.parse::<f64>().is_ok_and(|rate| rate > 0.0)), "{told}");
    let later = server.wait_for_line("received 1 (3 bytes)", 1);
    assert!(later.ends_with("; 0 received/s, 0 answered/s"), "{later}");
}

#[test]
fn the_report_is_all_that_stands_on_stdout() {
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--json", "--log=trace"]);
    assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
    let addresses = server.addresses().to_owned();
    let finished = server.stop();
    let report = finished.report();
    assert_eq!(report["schema"], 1);
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let mut expected = serde_json::json!({
        "service": "hello", "address": addresses[0], "received": 1, "received_bytes": 3, "answered": 1,
        "answered_bytes": 9, "refused": {}, "failed": {}, "receive_errors": {}, "waited": 0, "waiting_peak": 0,
        "unsent": 0, "kernel_dropped": 0,
    });
    assert_eq!(report["endpoints"][0], expected);
    expected["service"] = "discard".into();
    expected["address"] = addresses[1].to_string().into();
    for field in ["received", "received_bytes", "answered", "answered_bytes"] {
        expected[field] = 0.into();
    }
    assert_eq!(report["endpoints"][1], expected);
    assert_eq!(report.as_object().expect("an object").len(), 3);

    let server = Server::start(&["hello@127.0.0.1:0"]);
    assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
    assert_eq!(server.stop().stdout, "");
}

#[test]
fn without_grace_it_stops_at_once() {
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--grace=0"]);
    assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
    let finished = server.stop();
    assert_eq!(finished.status.code(), Some(0));
    assert_eq!(finished.endpoint().get("answered"), 1);
}

#[test]
fn times_beyond_every_clock_are_no_trouble() {
    for time in ["9999999y", "584542046090y"] {
        let times = [format!("--for={time}"), format!("--stats={time}"), format!("--grace={time}")];
        let server = Server::start(&["hello@127.0.0.1:0", &times[0], &times[1], &times[2]]);
        assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
        assert_eq!(server.stop().status.code(), Some(0), "{time}");
    }
}
