//! The client against responders that mean ill: they say too much, from elsewhere, without end, or through ICMP.
//!
//! Whatever comes, it ends in time, and what it counts adds up.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{in_namespace, needs, run, shell};
use crate::peers::Peer;

/// Runs the client, which must have ended long before the time is over.
fn start(arguments: &[&str]) -> Output {
    let output =
        run(Command::new("timeout").args(["-s", "KILL", "30", env!("CARGO_BIN_EXE_udpong")]).args(arguments), b"");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?} did not end: {:?}", output.status);
    output
}

/// The report of `--json`, in which every datagram must have ended in one way.
fn report(arguments: &[&str]) -> Value {
    let output = start(arguments);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {output:?}"));
    let ends = ["answered", "late", "lost", "refused", "truncated", "altered"];
    let ends: u64 = ends.iter().filter_map(|end| report[end].as_u64()).sum();
    assert_eq!(report["sent"].as_u64(), Some(ends), "{report}");
    report
}

fn ping(target: &str) -> Value {
    report(&["ping", target, "-c", "20", "-i", "5ms", "-W", "300ms", "--json"])
}

fn bench(target: &str) -> Value {
    report(&["bench", target, "-t", "100ms", "-W", "300ms", "--in-flight", "4", "--json"])
}

#[test]
fn an_answer_from_elsewhere_is_no_answer() {
    needs!("python3");
    let elsewhere = "
others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
others[0].bind(('127.0.0.1', 0))
others[1].bind(('127.0.0.9', server.getsockname()[1]))
def answer(n, data, to):
    for other in others: other.sendto(data, to)
";
    let peer = Peer::python(elsewhere);
    let output = start(&["send", &peer.target(), "hi", "-W", "100ms", "--retries=1"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    assert_eq!(ping(&peer.target())["lost"], 20);
    assert_eq!(bench(&peer.target())["answered"], 0);

    let peer = Peer::python(&format!("{elsewhere}    server.sendto(data, to)\n"));
    assert_eq!(start(&["send", &peer.target(), "hi", "-W", "20s"]).stdout, b"hi\n");
    for report in [ping(&peer.target()), bench(&peer.target())] {
        assert!(report["answered"].as_u64() >= Some(20), "{report}");
        assert_eq!([&report["lost"], &report["duplicate"]], [0, 0], "{report}");
    }
}

#[test]
fn too_many_and_too_long_answers_are_counted_and_soon_over() {
    needs!("python3");
    let peer = Peer::python(
        "
import os
garbage = os.urandom(65507)
def answer(n, data, to):
    server.sendto(data, to)
    server.sendto(garbage, to)
    server.sendto(data * 20, to)
    server.sendto(b'', to)
    server.sendto(data[::-1], to)
",
    );
    assert_eq!(start(&["send", &peer.target(), "hi", "-W", "20s"]).stdout, b"hi\n");
    let report = ping(&peer.target());
    assert_eq!((report["answered"].as_u64(), report["duplicate"].as_u64()), (Some(20), Some(20)), "{report}");
    assert!(report["unmatched"].as_u64() >= Some(40), "{report}");
    assert!(bench(&peer.target())["answered"].as_u64() > Some(0));
}

#[test]
fn answers_without_end_keep_nobody_from_ending() {
    needs!("python3");
    // To the first question, and to no other; long ones, which take longer to look through than to send.
    let peer = || {
        Peer::python(
            "
def answer(n, data, to):
    try:
        while True: server.sendto(b'more' * 5000, to)
    except OSError: pass
    sys.exit()
",
        )
    };
    let output = start(&["send", &peer().target(), "hi", "-W", "20s"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 20_001));
    for arguments in [["ping", "-c3", "-i50ms", "-W300ms"], ["bench", "-t300ms", "--in-flight=8", "-W300ms"]] {
        let target = peer();
        let [command, rest @ ..] = arguments;
        let target = target.target();
        let report = report(&[&[command, &target, "--json"], &rest[..]].concat());
        assert!(report["sent"].as_u64() >= Some(3), "{report}");
    }
}

#[test]
fn what_icmp_says_ends_nothing_and_is_counted() {
    needs!("unshare", "ip", "nft");
    if in_namespace("strange_peers::what_icmp_says_ends_nothing_and_is_counted") {
        // The one is told to the sender as an error, the other one is not (icmp(7): a soft error).
        for (kind, end) in [("admin-prohibited", "refused"), ("host-unreachable", "lost")] {
            shell(&format!(
                "nft add table ip filter
                 nft add chain ip filter input '{{ type filter hook input priority 0; }}'
                 nft add rule ip filter input udp dport 5000 reject with icmp type {kind}"
            ));
            let output = start(&["send", ":5000", "hi", "-W", "100ms", "--retries=1"]);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
            let report = ping(":5000");
            assert_eq!(report[end], 20, "{kind}: {report}");
            assert_eq!(bench(":5000")["answered"], 0);
            shell("nft delete table ip filter");
        }
    }
}
