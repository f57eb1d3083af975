//! Attribution by source port: which probe an answer belongs to if it does not repeat the probe.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::Value;

use crate::harness::{Responder, needs, run, udpong};

fn output(arguments: &[&str]) -> Output {
    run(&mut udpong(arguments), b"")
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a report")).expect("JSON")
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no count {field} in {report}"))
}

/// Answers every datagram but one with the same text.
fn drops_the_20th() -> Responder {
    Responder::python("def answer(n, data, to):\n    if n != 20: server.sendto(b'no echo', to)")
}

#[test]
fn lost_answer_of_a_fixed_text_shifts_no_other() {
    needs!("python3");
    let peer = drops_the_20th();
    let report = report(&output(&["ping", &peer.target(), "-c", "100", "-i", "20ms", "-W", "1s", "--json"]));
    assert_eq!((count(&report, "answered"), count(&report, "lost")), (99, 1), "{report}");
    assert_eq!(report["attribution"], "port");
    assert!(report["rtt_ms"]["p50"].as_f64().is_some_and(|p50| p50 < 10.0), "{report}");
}

#[test]
fn lost_answer_of_a_fixed_text_shifts_no_other_in_bench() {
    needs!("python3");
    for load in [&["--rate", "50"][..], &["--in-flight", "2"]] {
        let peer = Responder::python(
            "
def answer(n, data, to):
    time.sleep(0.005)
    if n != 20: server.sendto(b'no echo', to)
",
        );
        let arguments = ["-t", "2s", "-W", "1s", "--json"];
        let report = report(&output(&[&["bench", &peer.target()], load, &arguments].concat()));
        assert_eq!(count(&report, "lost"), 1, "{report}");
        assert!(report["latency_ms"]["p50"].as_f64().is_some_and(|p50| p50 < 15.0), "{load:?}: {report}");
    }
}

#[test]
fn bench_reports_how_answers_are_matched() {
    needs!("python3");
    let peer = drops_the_20th();
    let text = output(&["bench", &peer.target(), "-t", "200ms", "-W", "300ms"]).stdout;
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("the answers carry no probe numbers: they are matched by source port\n"), "{text}");
}

#[test]
fn late_fixed_answer_belongs_to_the_probe_that_timed_out() {
    needs!("python3");
    // The third answer comes with the eighth probe, 750 ms after its own.
    let peer = Responder::python(
        "
late = []
def answer(n, data, to):
    if n == 3: late.append(to)
    else: server.sendto(b'no echo', to)
    if n == 8: server.sendto(b'no echo', late[0])
",
    );
    let output = output(&["ping", &peer.target(), "-c", "10", "-i", "150ms", "-W", "400ms", "--json-stream"]);
    let report = report(&output);
    assert_eq!((count(&report, "answered"), count(&report, "late")), (9, 1), "{report}");
    let text = String::from_utf8_lossy(&output.stdout);
    let late: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|object| object["outcome"] == "late")
        .collect();
    assert_eq!(late.len(), 1, "{text}");
    assert_eq!(late[0]["seq"], 3);
    assert!(late[0]["rtt_ms"].as_f64().is_some_and(|rtt| (700.0..10_000.0).contains(&rtt)), "{text}");
}

#[test]
fn matching_in_order_is_reported_once_no_flow_is_free() {
    needs!("python3");
    // All 64 flows are retired before the first answer.
    let peer = Responder::python("def answer(n, data, to):\n    if n > 90: server.sendto(b'no echo', to)");
    let output = output(&["ping", &peer.target(), "-c", "100", "-i", "5ms", "-W", "20ms"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("some are matched in order, so round trips are upper bounds\n"), "{text}");
}

/// Answers every source port but the second and the fourth, and reports on stdout how often each one came.
const TWO_BROKEN_PORTS: &str = "
ports = {}
def answer(n, data, to):
    count = ports.setdefault(to[1], 0) + 1
    ports[to[1]] = count
    if data == b'ports':
        del ports[to[1]]
        server.sendto(repr(ports).encode(), to)
    elif list(ports).index(to[1]) not in (1, 3):
        server.sendto(data, to)
";

#[test]
fn probes_rotate_over_the_flows_and_bad_ones_are_named() {
    needs!("python3");
    let peer = Responder::python(TWO_BROKEN_PORTS);
    let flows = ["-c", "42", "-i", "2ms", "-W", "1s", "--flows", "5"];
    let report = report(&output(&[&["ping", &peer.target()], &flows[..], &["--json"]].concat()));
    let ports = output(&["send", &peer.target(), "ports"]).stdout;
    let ports = String::from_utf8_lossy(&ports).replace(['{', '}', '\n'], "");
    let counted: BTreeMap<u64, u64> = ports
        .split(", ")
        .map(|entry| entry.split_once(": ").expect("a port and a count"))
        .map(|(port, count)| (port.parse().expect("a port"), count.parse().expect("a count")))
        .collect();
    let reported = report["flows"].as_array().expect("flows");
    let sent: BTreeMap<u64, u64> = reported.iter().map(|flow| (count(flow, "port"), count(flow, "sent"))).collect();
    assert_eq!(sent, counted);
    let lost: Vec<_> = reported.iter().map(|flow| (count(flow, "sent"), count(flow, "lost"))).collect();
    assert_eq!(lost, [(9, 0), (9, 9), (8, 0), (8, 8), (8, 0)]);
    assert_eq!(
        reported.iter().map(|flow| flow["p50_ms"].is_null()).collect::<Vec<_>>(),
        [false, true, false, true, false]
    );
    assert_eq!(count(&report, "lost"), 17);

    let peer = Responder::python(TWO_BROKEN_PORTS);
    let text = output(&[&["ping", &peer.target(), "-q"], &flows[..]].concat()).stdout;
    let text = String::from_utf8_lossy(&text);
    assert_eq!(text.lines().filter(|line| line.starts_with("port ")).count(), 5, "{text}");
    assert_eq!(text.lines().filter(|line| line.ends_with("   bad")).count(), 2, "{text}");
    assert!(text.contains("over half of the probes lost on source ports "), "{text}");
}

#[test]
fn number_of_flows_has_bounds() {
    for flows in ["0", "1025", "x"] {
        assert_eq!(output(&["ping", ":5000", "--flows", flows]).status.code(), Some(2), "{flows}");
    }
    needs!("python3");
    let peer = Responder::python("def answer(n, data, to):\n    server.sendto(data, to)");
    let arguments = ["-c", "3", "-i", "1ms", "-W", "10s", "--json"];
    let without = report(&output(&[&["ping", &peer.target()], &arguments[..]].concat()));
    assert!(without["flows"].is_null(), "{without}");
    let with = report(&output(&[&["ping", &peer.target(), "--flows", "1"], &arguments[..]].concat()));
    assert_eq!(count(&with["flows"][0], "sent"), 3, "{with}");
}

#[test]
fn repeating_responder_sees_one_source_port() {
    needs!("python3");
    let peer = Responder::python(TWO_BROKEN_PORTS);
    let report = report(&output(&["ping", &peer.target(), "-c", "20", "-i", "20ms", "-W", "1s", "--json"]));
    assert_eq!((count(&report, "answered"), &report["attribution"]), (20, &Value::from("content")), "{report}");
    let ports = output(&["send", &peer.target(), "ports"]).stdout;
    assert_eq!(String::from_utf8_lossy(&ports).matches(": ").count(), 1);
}
