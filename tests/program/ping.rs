//! `ping`: the outcome of every probe, against udpong and against other responders.

use std::net::UdpSocket;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Lines, Responder, Server, TIMEOUT, closed_address, needs, run, run_in_namespace, signal, udpong, wait_until,
};

/// Drops every 10th probe, answers every 7th twice, and answers every 5th after the next one.
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

/// Returns the summary of `--json`, in which every probe must have exactly one outcome.
fn report(output: &Output) -> Value {
    let last = text(&output.stdout).lines().last().expect("a summary").to_owned();
    let report: Value = serde_json::from_str(&last).expect("JSON");
    let count = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"));
    let outcomes = ["answered", "late", "lost", "refused", "truncated", "altered"].map(count);
    assert_eq!(count("sent"), outcomes.iter().sum::<u64>(), "{report}");
    report
}

/// Checks the named counts, and that all others are 0.
fn assert_counts(report: &Value, expected: &[(&str, u64)]) {
    for field in
        ["sent", "answered", "late", "lost", "refused", "truncated", "altered", "duplicate", "reordered", "unmatched"]
    {
        let expected = expected.iter().find(|(name, _)| *name == field).map_or(0, |(_, count)| *count);
        assert_eq!(report[field], expected, "{field} in {report}");
    }
}

#[test]
fn every_service_answers_every_probe() {
    let services = ["hello@127.0.0.1:0", "echo@[::1]:0", "ack@:0", "fixed@:0", "reply=<{}>@127.0.0.1:0"];
    let server = Server::start_many(5, &[&services[..], &["-q"]].concat());
    for (address, service) in server.addresses().iter().zip(services) {
        let output = ping(&address.to_string(), &["-c", "20", "-i", "2ms", "-W", "10s", "--json"]);
        let report = report(&output);
        assert_counts(&report, &[("sent", 20), ("answered", 20)]);
        let attribution = if service.starts_with("fixed") { "port" } else { "content" };
        assert_eq!(report["attribution"], attribution, "{service}");
        let rtt = ["min", "p50", "p90", "p99", "max"].map(|figure| report["rtt_ms"][figure].as_f64());
        assert!(rtt[0] > Some(0.0) && rtt.is_sorted(), "{report}");
        assert_eq!(output.status.code(), Some(0));
    }
}

/// Shorter ones than 17 bytes, which cannot carry an identity, in order.
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
fn losses_duplicates_and_reordering_are_counted_exactly() {
    needs!("python3");
    let responder = Responder::python(UNRELIABLE);
    let output = ping(&responder.target(), &["-c", "99", "-i", "2ms", "-W", "5s", "--json"]);
    let expected = [("sent", 99), ("answered", 90), ("lost", 9), ("duplicate", 13), ("reordered", 10)];
    assert_counts(&report(&output), &expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn socat_and_ncat_answer_every_probe() {
    needs!("socat", "ncat");
    let socat = Responder::command("socat", &["UDP4-RECVFROM:PORT,bind=127.0.0.1,fork", "PIPE"]);
    let ncat = Responder::command("ncat", &["-u", "-l", "127.0.0.1", "PORT", "-e", "/bin/cat"]);
    for responder in [&socat, &ncat] {
        // Far enough apart that a pipe does not join two of them.
        let output = ping(&responder.target(), &["-c", "4", "-i", "300ms", "-W", "10s", "--json"]);
        assert_counts(&report(&output), &[("sent", 4), ("answered", 4)]);
    }
}

#[test]
fn small_responder_buffer_counts_as_truncated() {
    needs!("socat", "ncat");
    let socat = Responder::command("socat", &["UDP4-RECVFROM:PORT,bind=127.0.0.1,fork", "PIPE"]);
    let ncat = Responder::command("ncat", &["-u", "-l", "127.0.0.1", "PORT", "-e", "/bin/cat"]);
    for responder in [&socat, &ncat] {
        let output = ping(&responder.target(), &["-s", "20000", "-c", "3", "-i", "300ms", "-W", "10s"]);
        let stdout = text(&output.stdout);
        assert!(stdout.contains("8192 bytes from"), "{stdout}");
        assert!(
            stdout.contains("3 sent, 0 answered, 0 lost (0.0%), 0 duplicate, 0 reordered, 3 truncated\n"),
            "{stdout}"
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn changed_bytes_count_as_altered() {
    needs!("python3");
    let flip_a_bit = "
def answer(n, data, to):
    at = (n * 7) % len(data)
    server.sendto(b'say: ' + data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1:] + b'!', to)
";
    let convert_to_upper_case = "
def answer(n, data, to):
    server.sendto(data.upper(), to)
";
    for program in [flip_a_bit, convert_to_upper_case] {
        let responder = Responder::python(program);
        let arguments = ["-c", "60", "-i", "2ms", "-W", "10s", "--json"];
        assert_counts(&report(&ping(&responder.target(), &arguments)), &[("sent", 60), ("altered", 60)]);
    }
}

/// The responder counts instead, and then sends more than was asked for.
#[test]
fn answers_without_the_probe_are_matched_in_order() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    server.sendto(b'you are number %d' % n, to)
    if n == 5:
        for _ in range(3): server.sendto(b'and welcome', to)
",
    );
    let output = ping(&responder.target(), &["-c", "5", "-i", "100ms", "-W", "10s"]);
    let stdout = text(&output.stdout);
    let notice = "the answers carry no probe numbers: they are matched by source port\n";
    assert_eq!(stdout.matches(notice).count(), 2, "{stdout}");
    assert!(stdout.contains("5 sent, 5 answered, 0 lost (0.0%), "), "{stdout}");
}

#[test]
fn garbage_of_an_echoing_responder_is_no_answer() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    if n > 1: server.sendto(b'\\xff garbage \\x1b[2J', to)
    server.sendto(data, to)
",
    );
    let report = report(&ping(&responder.target(), &["-c", "20", "-i", "2ms", "-W", "10s", "--json"]));
    assert_eq!((report["answered"].as_u64(), report["duplicate"].as_u64()), (Some(20), Some(0)), "{report}");
}

#[test]
fn late_answers_have_a_round_trip_time() {
    needs!("python3");
    // Each answer leaves when the probe after the next arrives, and so after the timeout of its own probe.
    let responder = Responder::python(
        "
held = []
def answer(n, data, to):
    held.append(data)
    if n > 2: server.sendto(held.pop(0), to)
",
    );
    let output = ping(&responder.target(), &["-c", "4", "-i", "900ms", "-W", "500ms", "--json-stream"]);
    let report = report(&output);
    assert_counts(&report, &[("sent", 4), ("late", 2), ("lost", 2)]);
    assert!(report["rtt_ms"]["min"].as_f64().is_some_and(|min| min > 1000.0), "{report}");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let outcomes = lines.iter().map(|line| line["outcome"].as_str().unwrap_or("-")).collect::<Vec<_>>();
    assert_eq!(outcomes, ["timeout", "timeout", "late", "timeout", "late", "timeout", "-"]);
    assert_eq!(lines[0]["seq"], 1);
}

#[test]
fn closed_port_counts_as_refused() {
    let target = closed_address().to_string();
    let start = Instant::now();
    let output = ping(&target, &["-c", "3", "-i", "10ms", "-W", "2m"]);
    assert!(start.elapsed() < TIMEOUT, "it waited for answers that cannot come");
    let stdout = text(&output.stdout);
    assert!(stdout.contains("seq=1 refused: nobody listens on "), "{stdout}");
    assert!(stdout.contains("3 sent, 0 answered, 3 lost (100.0%; 3 refused), 0 duplicate, 0 reordered\n"), "{stdout}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does anybody listen there"), "{}", text(&output.stderr));
}

#[test]
fn report_without_answers_is_valid_json() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q"]);
    let output =
        ping(&server.address().to_string(), &["-c", "3", "-i", "10ms", "-W", "100ms", "--json", "--max-p99", "1ms"]);
    let report = report(&output);
    assert_counts(&report, &[("sent", 3), ("lost", 3)]);
    let rtt = report["rtt_ms"].as_object().expect("an object");
    assert!(!rtt.is_empty() && rtt.values().all(Value::is_null), "{report}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no answer from"), "{}", text(&output.stderr));
}

#[test]
fn exceeded_limit_is_named_and_exits_with_1() {
    needs!("python3");
    let responder = Responder::python(UNRELIABLE);
    let arguments = ["-c", "19", "-i", "1ms", "-W", "2s", "-q", "--max-loss", "5%", "--max-p99", "1us"];
    let output = ping(&responder.target(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("loss 5.263% is over 5%") && stderr.contains("is over 1us"), "{stderr}");
    let responder = Responder::python(UNRELIABLE);
    let output = ping(&responder.target(), &["-c", "19", "-i", "1ms", "-W", "2s", "--max-loss", "6"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn usage_errors_and_failed_lookups_exit_with_2() {
    for (arguments, expected) in [
        (&["ping"][..], "TARGET"),
        (&["ping", ":0"], "port 0"),
        (&["ping", "::1"], "brackets"),
        (&["ping", "name.invalid"], "cannot look up"),
        (&["ping", "127.0.0.1", "-6"], "has no IPv6 address"),
        (&["ping", "[::1]", "-4"], "has no IPv4 address"),
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
fn unreachable_network_exits_with_2() {
    run_in_namespace!();
    let output = ping("203.0.113.1:5000", &["-c", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no route leads there"), "{}", text(&output.stderr));
}

#[test]
fn deadline_ends_the_run() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let output = ping(&server.address().to_string(), &["-i", "50ms", "-w", "200ms", "-W", "10s", "--json"]);
    let report = report(&output);
    assert!(report["sent"].as_u64().is_some_and(|sent| (1..=4).contains(&sent)), "{report}");
}

/// Starts a ping and reads its stdout.
fn start(target: &str, arguments: &[&str]) -> (Child, Lines) {
    let mut command = udpong(&["ping", target]);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("udpong");
    let lines = Lines::read(child.stdout.take().expect("a pipe"));
    (child, lines)
}

fn wait_for(lines: &Lines, text: &str, times: usize) {
    lines.wait_until(|lines, ended| {
        let found = lines.iter().filter(|line| line.contains(text)).count() >= times;
        assert!(found || !ended, "it ended without {text:?}: {lines:#?}");
        found.then_some(())
    });
}

/// SIGQUIT and continues, SIGINT and exits.
#[test]
fn signals_print_the_summary() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let (mut child, mut lines) = start(&server.address().to_string(), &["-i", "20ms"]);
    wait_for(&lines, "seq=1 ", 1);
    signal("QUIT", child.id());
    wait_for(&lines, "udp ping statistics", 1);
    let answered = lines.so_far().iter().filter(|line| line.contains("time=")).count();
    wait_for(&lines, "time=", answered + 1);
    signal("INT", child.id());
    let status = wait_until("ping has exited", || child.try_wait().expect("the state of a child"));
    assert_eq!(status.code(), Some(0));
    let lines = lines.all();
    assert_eq!(lines.iter().filter(|line| line.contains("udp ping statistics")).count(), 2, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(", 0 lost (0.0%)")), "{lines:#?}");
}

/// A round trip ends when the kernel receives the answer, not when ping does.
#[test]
fn round_trip_does_not_include_the_wake_up() {
    let responder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    responder.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let target = responder.local_addr().expect("an address").to_string();
    let mut command = udpong(&["ping", &target, "-c", "1", "-W", "20s", "--json"]);
    let ping = command.stdout(Stdio::piped()).spawn().expect("udpong");
    let mut probe = [0; 100];
    let (length, from) = responder.recv_from(&mut probe).expect("a probe");
    signal("STOP", ping.id());
    // The kernel begins to note times a moment after the socket was opened.
    thread::sleep(Duration::from_millis(50));
    responder.send_to(&probe[..length], from).expect("sent");
    // The kernel's time counts if it is at most a second old.
    thread::sleep(Duration::from_millis(600));
    signal("CONT", ping.id());
    let report = report(&ping.wait_with_output().expect("an exit"));
    assert_eq!(report["clock"], "kernel", "{report}");
    assert!(report["rtt_ms"]["max"].as_f64().is_some_and(|max| max < 600.0), "{report}");
}
