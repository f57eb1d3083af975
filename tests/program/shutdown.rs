//! How the server stops: by signals, after a time, after a number of datagrams. What has arrived is answered first.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Flood, Server, SlowLoopback, connect, receive, request, request_until_answered, run_in_namespace, signal, udpong,
};

#[test]
fn int_term_and_hup_stop_with_statistics() {
    for name in ["INT", "TERM", "HUP"] {
        let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
        signal(name, server.pid());
        let output = server.wait();
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(output.count_lines("received 1 (3 bytes), answered 1 (9 bytes)") > 0, "{name}");
        assert_eq!(output.endpoint().get("answered"), 1);
    }
}

#[test]
fn stop_answers_what_has_arrived() {
    for name in ["INT", "TERM", "HUP"] {
        let server = Server::start_many(2, &["hello@127.0.0.1:0", "echo@127.0.0.1:0", "--json", "--grace=60s", "-q"]);
        let clients = [0, 1].map(|i: usize| connect(server.addresses()[i]));
        server.pause();
        for i in 0..200 {
            clients.iter().for_each(|client| assert!(client.send(format!("{i}").as_bytes()).is_ok()));
        }
        signal(name, server.pid());
        server.resume();
        let output = server.wait();
        assert_eq!(output.status.code(), Some(0));
        let answered: Vec<_> = output.endpoints().iter().map(|endpoint| endpoint.get("answered")).collect();
        assert_eq!(answered, [200, 200], "{name}");
        for i in 0..200 {
            assert_eq!(receive(&clients[0]), format!("Hello {i}").into_bytes());
            assert_eq!(receive(&clients[1]), format!("{i}").into_bytes());
        }
    }
}

#[test]
fn flood_does_not_prevent_shutdown() {
    let server = Server::start(&["echo@127.0.0.1:0", "--json", "-q", "--grace=1h"]);
    let flood = Flood::start(server.address(), b"flood");
    request_until_answered(server.address());
    let output = server.stop();
    drop(flood);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.endpoint().get("answered") > 0);
}

/// The log is stuck, which alone would delay the exit by half a second.
#[test]
fn second_signal_exits_with_130() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let server = Server::spawn_without_log(udpong(&["serve", "hello@127.0.0.1:0"]).stderr(writer));
    let socket = connect(server.address());
    for i in 0..2000 {
        assert_eq!(request(&socket, format!("you, {i}").as_bytes()), format!("Hello you, {i}").as_bytes());
    }
    signal_repeatedly(server.pid());
    assert_eq!(server.wait().status.code(), Some(130));
    drop(reader);
}

#[test]
fn second_signal_abandons_queued_replies() {
    run_in_namespace!("tc");
    let server = Server::start(&["echo@127.0.0.1:0", "-q", "--grace=1h", "--send-buffer=64k"]);
    let client = connect(server.address());
    server.pause();
    for _ in 0..100 {
        client.send(&[b'x'; 1000]).expect("sent");
    }
    let _loopback = SlowLoopback::new("8kbit", 2000);
    server.resume();
    receive(&client);
    signal_repeatedly(server.pid());
    assert_eq!(server.wait().status.code(), Some(130));
}

/// Sends four signals: the kernel may merge two of one kind, and those within 10 ms are one request. A process that
/// has exited and is not waited for can still be sent signals.
fn signal_repeatedly(process: u32) {
    for name in ["INT", "TERM", "INT", "TERM"] {
        signal(name, process);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn simultaneous_signals_are_one_request() {
    // On a busy machine they may still be handled more than 10 ms apart, but not often.
    let is_one_request = |_: &i32| {
        let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
        server.pause();
        ["INT", "TERM", "CONT"].iter().for_each(|name| signal(name, server.pid()));
        let output = server.wait();
        output.status.code() == Some(0) && output.endpoint().get("answered") == 1
    };
    assert!((0..10).filter(is_one_request).count() >= 8);
}

#[test]
fn for_option_stops_under_a_flood() {
    let start = Instant::now();
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--for=300ms"]);
    let flood = Flood::start(server.address(), b"flood");
    let output = server.wait();
    drop(flood);
    assert_eq!(output.status.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(output.report()["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.3));
}

#[test]
fn count_option_counts_all_services() {
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--json", "--count=10"]);
    let hello = connect(server.addresses()[0]);
    let discard = connect(server.addresses()[1]);
    for _ in 0..5 {
        discard.send(b"nothing").expect("sent");
    }
    for _ in 0..4 {
        assert_eq!(request(&hello, b"you"), b"Hello you");
    }
    assert_eq!(request(&hello, b"the last"), b"Hello the last");
    let output = server.wait();
    assert_eq!(output.status.code(), Some(0));
    let received: Vec<_> = output.endpoints().iter().map(|endpoint| endpoint.get("received")).collect();
    assert_eq!(received, [5, 5]);
}

#[test]
fn stops_without_a_grace_period() {
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--grace=0"]);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    let output = server.stop();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.endpoint().get("answered"), 1);
}

/// Longer than any clock can represent.
#[test]
fn huge_durations_are_accepted() {
    for time in ["9999999y", "584542046090y"] {
        let times = [format!("--for={time}"), format!("--stats={time}"), format!("--grace={time}")];
        let server = Server::start(&["hello@127.0.0.1:0", &times[0], &times[1], &times[2]]);
        assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
        assert_eq!(server.stop().status.code(), Some(0), "{time}");
    }
}
