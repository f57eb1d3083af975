//! The client commands against responders that answer too much, from elsewhere, without end, or by ICMP errors.
//! Whatever arrives, a command ends in time and its counts add up.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Responder, needs, run, run_in_namespace, shell};

/// Runs a command, which must end long before 30 s have passed.
fn udpong(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "30", env!("CARGO_BIN_EXE_udpong")]).args(arguments);
    let output = run(&mut command, b"");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?} did not end: {:?}", output.status);
    output
}

/// Returns the report of `ping --json` or `bench --json`, in which every probe must have exactly one outcome.
fn report(arguments: &[&str]) -> Value {
    let output = udpong(arguments);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {output:?}"));
    let outcomes = ["answered", "lost", "late", "refused", "truncated", "altered"];
    let sum = outcomes.iter().map(|outcome| count(&report, outcome)).sum::<u64>();
    assert_eq!(count(&report, "sent"), sum, "{report}");
    report
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no count {field} in {report}"))
}

fn ping(target: &str, timeout: &str) -> Value {
    report(&["ping", target, "-c", "20", "-i", "5ms", "-W", timeout, "--json"])
}

fn bench(target: &str) -> Value {
    report(&["bench", target, "-t", "100ms", "-W", "300ms", "--in-flight", "4", "--json"])
}

#[test]
fn answers_from_other_addresses_are_ignored() {
    needs!("timeout", "python3");
    let from_elsewhere = "
others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
others[0].bind(('127.0.0.1', 0))
others[1].bind(('127.0.0.9', server.getsockname()[1]))
def answer(n, data, to):
    for other in others: other.sendto(data, to)
";
    let responder = Responder::python(from_elsewhere);
    let output = udpong(&["send", &responder.target(), "hi", "-W", "100ms", "--retries=1"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    assert_eq!(ping(&responder.target(), "300ms")["lost"], 20);
    assert_eq!(bench(&responder.target())["answered"], 0);

    let responder = Responder::python(&format!("{from_elsewhere}    server.sendto(data, to)\n"));
    assert_eq!(udpong(&["send", &responder.target(), "hi", "-W", "20s"]).stdout, b"hi\n");
    for report in [ping(&responder.target(), "300ms"), bench(&responder.target())] {
        assert!(count(&report, "answered") >= 20, "{report}");
        assert_eq!((count(&report, "lost"), count(&report, "duplicate")), (0, 0), "{report}");
    }
}

/// A second, longer answer is a duplicate; the empty, the reversed and the random one belong to no probe.
#[test]
fn excess_answers_are_counted() {
    needs!("timeout", "python3");
    // Random ones of full size are rare, so that all answers fit into the client's receive buffer.
    let responder = Responder::python(
        "
import os
def answer(n, data, to):
    server.sendto(data, to)
    server.sendto(os.urandom(65507 if n % 10 == 2 else 1000), to)
    server.sendto(data * 20, to)
    server.sendto(b'', to)
    server.sendto(data[::-1], to)
",
    );
    assert_eq!(udpong(&["send", &responder.target(), "hi", "-W", "20s"]).stdout, b"hi\n");
    let report = ping(&responder.target(), "20s");
    assert_eq!((count(&report, "answered"), count(&report, "duplicate")), (20, 20), "{report}");
    assert!(count(&report, "unmatched") >= 40, "{report}");
    assert!(count(&bench(&responder.target()), "answered") > 0);
}

#[test]
fn endless_answers_do_not_prevent_the_end() {
    needs!("timeout", "python3");
    // Answers the first probe only, with datagrams that take longer to search than to send.
    let responder = || {
        Responder::python(
            "
def answer(n, data, to):
    try:
        while True: server.sendto(b'more' * 5000, to)
    except OSError: pass
    sys.exit()
",
        )
    };
    let output = udpong(&["send", &responder().target(), "hi", "-W", "20s"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 20_001));
    for arguments in [["ping", "-c3", "-i50ms", "-W300ms"], ["bench", "-t300ms", "--in-flight=8", "-W300ms"]] {
        let responder = responder();
        let [command, options @ ..] = arguments;
        let report = report(&[&[command, &responder.target(), "--json"], &options[..]].concat());
        assert!(count(&report, "sent") >= 3, "{report}");
    }
}

#[test]
fn icmp_errors_are_counted() {
    run_in_namespace!("nft", "timeout");
    // The second is a soft error (icmp(7)), which the kernel reports only if it is asked to.
    for kind in ["admin-prohibited", "host-unreachable"] {
        shell(&format!(
            "nft add table ip filter
             nft add chain ip filter input '{{ type filter hook input priority 0; }}'
             nft add rule ip filter input udp dport 5000 reject with icmp type {kind}"
        ));
        let output = udpong(&["send", ":5000", "hi", "-W", "100ms", "--retries=1"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        let report = ping(":5000", "300ms");
        assert_eq!(report["refused"], 20, "{kind}: {report}");
        assert_eq!(bench(":5000")["answered"], 0);
        shell("nft delete table ip filter");
    }
}
