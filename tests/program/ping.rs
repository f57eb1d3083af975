//! `ping`: what became of every probe, against responders of ours and of others.

use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::harness::{LIMIT, Log, Server, in_namespace, needs, run, signal, udpong, wait_until};
use crate::peers::{Peer, closed_address};

/// Drops every 10th datagram, doubles every 7th, and swaps every 5th with the one after it.
const UNRELIABLE: &str = "
held = []
def answer(n, data, to):
    copies = [data] * (2 if n % 7 == 0 else 1)
    if n % 10 == 0:
        return
    if n % 5 == 0:
        held.extend(copies)
        return
    for copy in copies + held:
        server.sendto(copy, to)
    held.clear()
";

fn ping(target: &str, arguments: &[&str]) -> Output {
    run(udpong(&["ping", target]).args(arguments), b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The summary of `--json`, in which every probe must have ended in one way.
fn report(output: &Output) -> Value {
    let last = text(&output.stdout).lines().last().expect("a summary").to_owned();
    let report: Value = serde_json::from_str(&last).expect("JSON");
    let count = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"));
    let ends = ["answered", "late", "lost", "refused", "truncated", "altered"].map(count);
    assert_eq!(count("sent"), ends.iter().sum::<u64>(), "{report}");
    report
}

/// Checks the counts that are named, and that all others are 0.
fn assert_counts(report: &Value, expected: &[(&str, u64)]) {
    for field in
        ["sent", "answered", "late", "lost", "refused", "truncated", "altered", "duplicate", "reordered", "unmatched"]
    {
        let expected = expected.iter().find(|(name, _)| *name == field).map_or(0, |(_, count)| *count);
        assert_eq!(report[field], expected, "{field} in {report}");
    }
}

#[test]
fn every_service_of_ours_is_pinged_without_a_loss() {
    let services = ["hello@127.0.0.1:0", "echo@[::1]:0", "ack@:0", "fixed@:0", "reply=<{}>@127.0.0.1:0"];
    let server = Server::start_many(5, &[&services[..], &["-q"]].concat());
    for (address, service) in server.addresses().iter().zip(services) {
        let output = ping(&address.to_string(), &["-c", "20", "-i", "2ms", "-W", "10s", "--json"]);
        let report = report(&output);
        assert_counts(&report, &[("sent", 20), ("answered", 20)]);
        let attribution = if service.starts_with("fixed") { "port" } else { "content" };
        assert_eq!(report["attribution"], attribution, "{service}");
        assert!(report["rtt_ms"]["p99"].as_f64() >= report["rtt_ms"]["min"].as_f64());
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn probes_of_every_size_are_matched() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    for size in ["0", "1", "16", "17", "33", "34", "1472", "65507"] {
        let arguments = ["-s", size, "-c", "3", "-i", "10ms", "-W", "10s", "--json"];
        let report = report(&ping(&server.address().to_string(), &arguments));
        assert_counts(&report, &[("sent", 3), ("answered", 3)]);
        let attribution = if size.parse::<u32>().expect("a number") < 17 { "port" } else { "content" };
        assert_eq!(report["attribution"], attribution, "{size}");
    }
}

#[test]
fn an_unreliable_responder_is_counted_exactly() {
    needs!("python3");
    let peer = Peer::python(UNRELIABLE);
    let output = ping(&peer.target(), &["-c", "99", "-i", "2ms", "-W", "5s", "--json"]);
    let expected = [("sent", 99), ("answered", 90), ("lost", 9), ("duplicate", 13), ("reordered", 10)];
    assert_counts(&report(&output), &expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn responders_of_others_are_pinged_without_a_loss() {
    needs!("socat", "ncat");
    let socat = Peer::command("socat", &["UDP4-RECVFROM:PORT,bind=127.0.0.1,fork", "PIPE"]);
    let ncat = Peer::command("ncat", &["-u", "-l", "127.0.0.1", "PORT", "-e", "/bin/cat"]);
    for peer in [&socat, &ncat] {
        // Far enough apart that a pipe does not join two of them.
        let output = ping(&peer.target(), &["-c", "4", "-i", "300ms", "-W", "10s", "--json"]);
        assert_counts(&report(&output), &[("sent", 4), ("answered", 4)]);
    }
}

#[test]
fn a_responder_with_a_small_buffer_truncates() {
    needs!("socat", "ncat");
    let socat = Peer::command("socat", &["UDP4-RECVFROM:PORT,bind=127.0.0.1,fork", "PIPE"]);
    let ncat = Peer::command("ncat", &["-u", "-l", "127.0.0.1", "PORT", "-e", "/bin/cat"]);
    for peer in [&socat, &ncat] {
        let output = ping(&peer.target(), &["-s", "20000", "-c", "3", "-i", "300ms", "-W", "10s"]);
        let said = text(&output.stdout);
        assert!(said.contains("8192 bytes from"), "{said}");
        assert!(said.contains("3 sent, 0 answered, 0 lost (0.0%), 0 duplicate, 0 reordered, 3 truncated\n"), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_responder_that_changes_bytes_alters() {
    needs!("python3");
    let flips = "
def answer(n, data, to):
    at = (n * 7) % len(data)
    server.sendto(b'say: ' + data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1:] + b'!', to)
";
    let upper = "
def answer(n, data, to):
    server.sendto(data.upper(), to)
";
    for program in [flips, upper] {
        let peer = Peer::python(program);
        let arguments = ["-c", "60", "-i", "2ms", "-W", "10s", "--json"];
        assert_counts(&report(&ping(&peer.target(), &arguments)), &[("sent", 60), ("altered", 60)]);
    }
}

#[test]
fn answers_with_a_counter_and_too_many_of_them_are_matched_in_order() {
    needs!("python3");
    let peer = Peer::python(
        "
def answer(n, data, to):
    server.sendto(b'you are number %d' % n, to)
    if n == 5:
        for _ in range(3): server.sendto(b'and welcome', to)
",
    );
    let output = ping(&peer.target(), &["-c", "5", "-i", "100ms", "-W", "10s"]);
    let said = text(&output.stdout);
    let notice = "the answers do not repeat the probes: they are matched by source port\n";
    assert_eq!(said.matches(notice).count(), 2, "{said}");
    assert!(said.contains("5 sent, 5 answered, 0 lost (0.0%), "), "{said}");
}

#[test]
fn what_a_repeating_responder_says_besides_is_not_taken_for_an_answer() {
    needs!("python3");
    let peer = Peer::python(
        "
def answer(n, data, to):
    if n > 1: server.sendto(b'\\xff garbage \\x1b[2J', to)
    server.sendto(data, to)
",
    );
    let output = ping(&peer.target(), &["-c", "20", "-i", "2ms", "-W", "10s", "--json"]);
    let report = report(&output);
    assert_eq!((report["answered"].as_u64(), report["duplicate"].as_u64()), (Some(20), Some(0)), "{report}");
}

#[test]
fn an_answer_after_the_timeout_is_late_and_its_round_trip_is_known() {
    needs!("python3");
    // Each answer comes when the probe after the next has arrived, so long after its own timeout.
    let peer = Peer::python(
        "
held = []
def answer(n, data, to):
    held.append(data)
    if n > 2: server.sendto(held.pop(0), to)
",
    );
    let output = ping(&peer.target(), &["-c", "4", "-i", "900ms", "-W", "500ms", "--json-stream"]);
    let report = report(&output);
    assert_counts(&report, &[("sent", 4), ("late", 2), ("lost", 2)]);
    assert!(report["rtt_ms"]["min"].as_f64().is_some_and(|min| min > 1000.0), "{report}");
    let probes: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let outcomes = probes.iter().map(|probe| probe["outcome"].as_str().unwrap_or("-")).collect::<Vec<_>>();
    assert_eq!(outcomes, ["timeout", "timeout", "late", "timeout", "late", "timeout", "-"]);
    assert_eq!(probes[0]["seq"], 1);
}

#[test]
fn a_closed_port_is_refused_and_not_silent() {
    let target = closed_address().to_string();
    let start = Instant::now();
    let output = ping(&target, &["-c", "3", "-i", "10ms", "-W", "2m"]);
    assert!(start.elapsed() < LIMIT, "waited for answers that cannot come");
    let said = text(&output.stdout);
    assert!(said.contains("seq=1 refused: nobody listens on "), "{said}");
    assert!(said.contains("3 sent, 0 answered, 3 lost (100.0%; 3 refused), 0 duplicate, 0 reordered\n"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does anybody listen there"), "{}", text(&output.stderr));
}

#[test]
fn silence_is_lost_and_json_stays_valid() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q"]);
    let output =
        ping(&server.address().to_string(), &["-c", "3", "-i", "10ms", "-W", "100ms", "--json", "--max-p99", "1ms"]);
    let report = report(&output);
    assert_counts(&report, &[("sent", 3), ("lost", 3)]);
    assert!(report["rtt_ms"].as_object().expect("an object").values().all(Value::is_null), "{report}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no answer from"), "{}", text(&output.stderr));
}

#[test]
fn a_broken_limit_is_named_and_decides_the_exit_code() {
    needs!("python3");
    let peer = Peer::python(UNRELIABLE);
    let arguments = ["-c", "19", "-i", "1ms", "-W", "2s", "-q", "--max-loss", "5%", "--max-p99", "1us"];
    let output = ping(&peer.target(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("loss 5.263% is over 5%") && told.contains("is over 1us"), "{told}");
    let peer = Peer::python(UNRELIABLE);
    assert_eq!(ping(&peer.target(), &["-c", "19", "-i", "1ms", "-W", "2s", "--max-loss", "6"]).status.code(), Some(0));
}

#[test]
fn wrong_use_and_other_errors_exit_with_2() {
    for (arguments, expected) in [
        (&["ping"][..], "TARGET"),
        (&["ping", ":0"], "port 0"),
        (&["ping", "::1"], "brackets"),
        (&["ping", "name.invalid"], "cannot look up"),
        (&["ping", "127.0.0.1", "-6"], "has no IPv6 address"),
        (&["ping", ":5000", "-s", "65508"], "65507"),
        (&["ping", ":5000", "--max-loss", "101%"], "0% to 100%"),
    ] {
        let output = run(&mut udpong(arguments), b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_deadline_ends_it() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let output = ping(&server.address().to_string(), &["-i", "50ms", "-w", "200ms", "-W", "10s", "--json"]);
    let report = report(&output);
    assert!(report["sent"].as_u64().is_some_and(|sent| (1..=4).contains(&sent)), "{report}");
}

/// A ping that runs, and its lines.
fn start(target: &str, arguments: &[&str]) -> (std::process::Child, Log) {
    let mut command: Command = udpong(&["ping", target]);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("udpong");
    let log = Log::read(child.stdout.take().expect("a pipe"));
    (child, log)
}

fn wait_for(log: &Log, what: &str, times: usize) {
    log.wait(|lines, ended| {
        let found = lines.iter().filter(|line| line.contains(what)).count() >= times;
        assert!(found || !ended, "it ended without {what:?}: {lines:#?}");
        found.then_some(())
    });
}

#[test]
fn signals_ask_for_the_summary() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let (mut child, mut log) = start(&server.address().to_string(), &["-i", "20ms"]);
    wait_for(&log, "seq=1 ", 1);
    signal("QUIT", child.id());
    wait_for(&log, "udp ping statistics", 1);
    let answered = log.wait(|lines, _| Some(lines.iter().filter(|line| line.contains("time=")).count()));
    wait_for(&log, "time=", answered + 1);
    signal("INT", child.id());
    let status = wait_until("it has ended", || child.try_wait().expect("the state of a child"));
    assert_eq!(status.code(), Some(0));
    let lines = log.all();
    assert_eq!(lines.iter().filter(|line| line.contains("udp ping statistics")).count(), 2, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(", 0 lost (0.0%)")), "{lines:#?}");
}

#[test]
fn in_a_namespace_of_its_own_unreachable_places_are_told_apart() {
    if in_namespace("ping::in_a_namespace_of_its_own_unreachable_places_are_told_apart") {
        let output = ping("203.0.113.1:5000", &["-c", "1"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("no route leads there"), "{}", text(&output.stderr));
    }
}
