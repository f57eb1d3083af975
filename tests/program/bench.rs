//! `bench`: its counts add up and its figures are true, whatever the responder does.

use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Responder, Server, TIMEOUT, closed_address, needs, run, run_in_namespace, shell, signal, udpong};

fn bench(target: &str, arguments: &[&str]) -> Output {
    run(udpong(&["bench", target]).args(arguments), b"")
}

/// Starts a bench of a server, with a report in JSON.
fn start(server: &Server, options: &[&str]) -> Child {
    let mut command = udpong(&["bench", &server.address().to_string(), "--json"]);
    command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("udpong")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the report of `--json`, which must be everything on stdout and add up.
fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    let ends = ["answered", "late", "lost", "refused", "truncated", "altered"].map(|field| count(&report, field));
    assert_eq!(count(&report, "sent"), ends.iter().sum::<u64>(), "{report}");
    report
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no count {field} in {report}"))
}

fn latency(report: &Value, figure: &str) -> f64 {
    report["latency_ms"][figure].as_f64().unwrap_or_else(|| panic!("no latency {figure} in {report}"))
}

/// Both ends count the same.
#[test]
fn every_service_answers_every_probe() {
    let services = ["hello@127.0.0.1:0", "echo@[::1]:0", "ack@:0", "fixed@:0"];
    let server = Server::start_many(4, &[&services[..], &["-q", "--json"]].concat());
    let loads = [&["--in-flight", "8", "--clients", "3"][..], &["--segments", "4"], &["--rate", "2k"], &["-s", "0"]];
    let mut sent = [0; 4];
    for (address, sent) in server.addresses().iter().zip(&mut sent) {
        for load in loads {
            let output = bench(&address.to_string(), &[load, &["-t", "100ms", "-W", "10s", "--json"]].concat());
            let report = report(&output);
            assert!(count(&report, "answered") > 0, "{report}");
            assert_eq!((count(&report, "lost"), count(&report, "duplicate")), (0, 0), "{address} {load:?}: {report}");
            assert_eq!(report["lateness_ms"].is_object(), load[0] == "--rate", "{report}");
            assert_eq!(output.status.code(), Some(0));
            assert_eq!(report["target"], address.to_string());
            *sent += count(&report, "sent");
        }
    }
    for (endpoint, sent) in server.stop().endpoints().iter().zip(sent) {
        assert_eq!((endpoint.get("received"), endpoint.get("answered")), (sent, sent), "{endpoint:?}");
    }
}

#[test]
fn text_report_is_all_that_is_printed() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let output = bench(&server.address().to_string(), &["-t", "50ms", "--clients", "2"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let time =
        text.strip_prefix(&format!("--- {} udp bench: ", server.address())).and_then(|rest| rest.split_once(" s, "));
    assert!(
        time.is_some_and(|(time, _)| time.len() == 5 && time.parse::<f64>().is_ok_and(|time| time >= 0.05)),
        "{text}"
    );
    assert!(text.contains(" 2 clients ---\n") && text.contains(" answers/s ") && text.contains("\np50 "), "{text}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn lost_answers_do_not_stall_the_closed_loop() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    if n % 10 != 0: server.sendto(data, to)
    if n % 7 == 0: server.sendto(data, to)
",
    );
    let report = report(&bench(&responder.target(), &["-t", "1s", "-W", "50ms", "--json"]));
    assert!(count(&report, "lost") >= 2 && count(&report, "duplicate") >= 2, "{report}");
}

#[test]
fn every_duplicate_is_counted() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    server.sendto(data, to)
    server.sendto(data, to)
",
    );
    for window in ["1", "8"] {
        let load = ["--clients", "3", "--in-flight", window, "-t", "200ms", "-W", "10s", "--json"];
        let report = report(&bench(&responder.target(), &load));
        let sent = count(&report, "sent");
        assert!(sent >= 3, "{report}");
        assert_eq!((count(&report, "answered"), count(&report, "duplicate")), (sent, sent), "{report}");
    }
}

#[test]
fn open_loop_measures_a_stalled_responder() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    if n == 50: time.sleep(0.5)
    server.sendto(data, to)
",
    );
    let report = report(&bench(&responder.target(), &["--rate", "200", "-t", "1s", "-W", "30s", "--json"]));
    // 100 of 200 probes were due during the stall; a closed loop would have measured one.
    assert!(latency(&report, "p90") > 200.0, "{report}");
    assert!((100..=200).contains(&count(&report, "sent")), "{report}");
    assert_eq!(count(&report, "lost"), 0, "{report}");
}

#[test]
fn closed_port_ends_the_run_at_once() {
    let start = Instant::now();
    for load in [&["--rate", "1k"][..], &["--clients", "4", "--in-flight", "4"], &["--warm-up", "2m"]] {
        let arguments = [load, &["-t", "2m", "-W", "2m", "--json", "--max-loss", "1%"]].concat();
        let output = bench(&closed_address().to_string(), &arguments);
        let report = report(&output);
        assert_eq!(count(&report, "answered"), 0);
        assert!(report["latency_ms"]["p50"].is_null());
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("nobody listens on"), "{}", stderr(&output));
    }
    assert!(start.elapsed() < TIMEOUT, "it waited for answers that cannot come");
}

#[test]
fn unanswered_probes_are_lost() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q"]);
    let output = bench(&server.address().to_string(), &["-t", "100ms", "-W", "50ms", "--in-flight", "4", "--json"]);
    let report = report(&output);
    assert!(count(&report, "lost") >= 4, "{report}");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no answer from"), "{}", stderr(&output));
}

#[test]
fn responder_that_exits_is_not_flooded() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    server.sendto(data, to)
    if n == 20: sys.exit()
",
    );
    let report = report(&bench(&responder.target(), &["-t", "300ms", "-W", "2s", "--in-flight", "2", "--json"]));
    assert_eq!(count(&report, "answered"), 20, "{report}");
    assert!((1..100).contains(&(count(&report, "lost") + count(&report, "refused"))), "{report}");
}

#[test]
fn sigint_ends_the_run_with_its_report() {
    let mut server = Server::start(&["echo@127.0.0.1:0"]);
    let child = start(&server, &["-t", "60s"]);
    server.wait_for_line("Received message", 0);
    server.wait_for_line("Received message", 9);
    signal("INT", child.id());
    let output = child.wait_with_output().expect("its output");
    let report = report(&output);
    assert!(count(&report, "answered") >= 9, "{report}");
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{report}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn stopped_generator_reports_its_lateness() {
    let mut server = Server::start(&["echo@127.0.0.1:0"]);
    let child = start(&server, &["--rate", "100", "-t", "60s"]);
    server.wait_for_line("Received message", 0);
    signal("STOP", child.id());
    thread::sleep(Duration::from_millis(500));
    let before = server.log().iter().filter(|line| line.contains("Received message")).count();
    signal("CONT", child.id());
    server.wait_for_line("Received message", before + 40);
    signal("INT", child.id());
    let output = child.wait_with_output().expect("its output");
    let report = report(&output);
    assert!(report["lateness_ms"]["max"].as_f64().is_some_and(|max| max > 400.0), "{report}");
    assert!(latency(&report, "max") > 400.0, "{report}");
    assert!(stderr(&output).contains("the generator was the limit"), "{}", stderr(&output));
}

#[test]
fn error_of_one_datagram_is_not_that_of_another() {
    run_in_namespace!();
    let mut server = Server::start(&["echo@127.0.0.1:0", "--delay", "400ms", "--json"]);
    let child = start(&server, &["--rate", "100", "-t", "60s", "-W", "10s", "-s", "1400", "--dont-fragment"]);
    server.wait_for_line("Received message", 59);
    // The answers to what is in flight are fragmented.
    shell("ip link set lo mtu 1280");
    thread::sleep(Duration::from_millis(400));
    signal("INT", child.id());
    let report = report(&child.wait_with_output().expect("its output"));
    let received = server.stop().endpoints()[0].get("received");
    assert!(count(&report, "refused") > 0, "{report}");
    assert_eq!((count(&report, "answered"), count(&report, "duplicate")), (received, 0), "{report}");
}

#[test]
fn nothing_is_due_after_the_end() {
    let mut server = Server::start(&["echo@127.0.0.1:0"]);
    let child = start(&server, &["--rate", "1", "-t", "1500ms"]);
    server.wait_for_line("Received message", 1);
    // Both have left, and the end is near: it is late.
    signal("STOP", child.id());
    thread::sleep(Duration::from_secs(2));
    signal("CONT", child.id());
    let output = child.wait_with_output().expect("its output");
    assert_eq!(count(&report(&output), "sent"), 2);
    assert!(!stderr(&output).contains("datagrams left in time"), "{}", stderr(&output));
}

/// The window of a limited number ends with the last answer, long after the last datagram was due.
#[test]
fn slow_responder_is_not_blamed_on_the_generator() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q", "--delay", "1s"]);
    let output = bench(&server.address().to_string(), &["--rate", "100", "-n", "20", "-W", "10s", "--json"]);
    let all = report(&output);
    assert_eq!(count(&all, "answered"), 20);
    assert!(all["answers_per_second"].as_f64().is_some_and(|rate| (1.0..20.0).contains(&rate)), "{all}");
    assert_eq!(stderr(&output), "");
    // The time is over first: then the window ends with it.
    let time = ["--rate", "10", "-n", "1k", "-t", "500ms", "-W", "10s", "--json"];
    let output = bench(&server.address().to_string(), &time);
    let report = report(&output);
    assert_eq!((count(&report, "answered"), &report["answers_per_second"]), (5, &0.0.into()), "{report}");
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds < 0.9), "{report}");
    assert_eq!(stderr(&output), "");
}

/// The generator is stopped for a moment, so that 1 % of the datagrams leave very late. All of them leave.
#[test]
fn silent_responder_is_not_blamed_on_the_generator() {
    let mut server = Server::start(&["discard@127.0.0.1:0"]);
    let child = start(&server, &["--rate", "100", "-n", "200", "-W", "10ms"]);
    server.wait_for_line("Received message", 9);
    signal("STOP", child.id());
    thread::sleep(Duration::from_millis(300));
    signal("CONT", child.id());
    let output = child.wait_with_output().expect("its output");
    let report = report(&output);
    assert!(report["lateness_ms"]["p99"].as_f64().is_some_and(|p99| p99 > 100.0), "{report}");
    assert_eq!(stderr(&output), format!("udpong: no answer from {}\n", server.address()));
}

#[test]
fn warm_up_is_not_counted() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q", "--json"]);
    let target = server.address().to_string();
    let report = report(&bench(&target, &["--warm-up", "100ms", "-t", "100ms", "-W", "10s", "--json"]));
    assert!(server.stop().endpoint().get("received") > count(&report, "sent"));
    assert_eq!(count(&report, "lost"), 0);
}

#[test]
fn slow_warm_up_is_not_in_the_latencies() {
    needs!("python3");
    let responder = Responder::python(
        "
def answer(n, data, to):
    if n == 1: time.sleep(1)
    server.sendto(data, to)
",
    );
    let arguments = ["--warm-up", "1500ms", "-t", "200ms", "-W", "10s", "--json"];
    let report = report(&bench(&responder.target(), &arguments));
    assert!(latency(&report, "max") < 1000.0 && count(&report, "answered") > 1, "{report}");
}

/// Every third send would block.
#[test]
fn datagrams_whose_send_would_block_leave_later() {
    needs!("strace");
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    for arguments in [
        &["bench", "-n", "60", "-t", "30s"][..],
        &["bench", "-n", "60", "-t", "30s", "--in-flight", "8"],
        &["bench", "-n", "60", "-t", "30s", "--segments", "4"],
        &["bench", "-n", "60", "-t", "30s", "--rate", "1k", "--clients", "2"],
        &["ping", "-c", "60", "-w", "30s", "-i", "1ms"],
        &["ping", "-c", "60", "-w", "30s", "-i", "1ms", "--flows", "2"],
    ] {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=sendto,sendmsg,sendmmsg:error=EAGAIN:when=2+3"]);
        command.arg(env!("CARGO_BIN_EXE_udpong")).args(arguments).args([&target, "-W", "10s", "--json"]);
        let report = report(&run(&mut command, b""));
        assert_eq!((count(&report, "sent"), count(&report, "answered")), (60, 60), "{arguments:?}: {report}");
    }
}

#[test]
fn exceeded_limit_is_named_and_exits_with_1() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let output = bench(&target, &["-t", "50ms", "--max-p99", "1us"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("p99, ") && stderr(&output).contains("is over 1us"), "{}", stderr(&output));
    assert_eq!(bench(&target, &["-t", "50ms", "--max-p99", "1m", "--max-loss", "0%"]).status.code(), Some(0));
}

#[test]
fn usage_errors_exit_with_2() {
    for (arguments, expected) in [
        (&["--segments", "64", "-s", "1200"][..], "do not fit"),
        (&["--segments", "2", "-s", "0"], "do not fit"),
        (&["--segments", "8", "--in-flight", "4"], "--in-flight 8 or more"),
        (&["--segments", "65"], "65"),
        (&["--rate", "0"], "from 1 to"),
        (&["--rate", "1k", "--in-flight", "2"], "cannot be used with"),
    ] {
        let output = bench(":5000", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}
