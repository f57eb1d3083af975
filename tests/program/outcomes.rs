//! What ping and bench count and when they fail, compared with what the responder did.

use std::net::UdpSocket;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Lines, Responder, Server, SlowLoopback, TIMEOUT, needs, run, run_in_namespace, shell, signal, udpong, wait_until,
};

fn output(arguments: &[&str]) -> Output {
    run(&mut udpong(arguments), b"")
}

fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The report of `--json`, in which every probe must have ended in one way.
fn report(output: &Output) -> Value {
    let report = objects(output).pop().expect("a report");
    let ends = ["answered", "late", "lost", "refused", "truncated", "altered"].map(|field| count(&report, field));
    assert_eq!(count(&report, "sent"), ends.iter().sum::<u64>(), "{report}");
    assert_eq!(report["schema"], 2, "{report}");
    report
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no count {field} in {report}"))
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("no number {field} in {report}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that runs, and its lines on stdout and stderr.
struct Running {
    child: Child,
    out: Lines,
    errors: Lines,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut udpong(arguments))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let out = Lines::read(child.stdout.take().expect("a pipe"));
        let errors = Lines::read(child.stderr.take().expect("a pipe"));
        Self { child, out, errors }
    }

    fn wait_for(log: &Lines, text: &str) -> String {
        log.wait_until(|lines, ended| {
            let found = lines.iter().find(|line| line.contains(text)).cloned();
            assert!(found.is_some() || !ended, "it ended without {text:?}: {lines:#?}");
            found
        })
    }

    fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Waits for its end; returns the exit code and the lines on stdout.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let status = wait_until("it has ended", || self.child.try_wait().expect("the state of a child"));
        (status.code(), self.out.all())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn json_has_the_documented_fields() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let sorted = |text: &str| {
        let mut fields: Vec<_> = text.split_whitespace().map(ToOwned::to_owned).collect();
        fields.sort();
        fields
    };
    let stream = objects(&output(&["ping", &target, "-c", "1", "-W", "10s", "--json-stream", "--flows", "1"]));
    assert_eq!(keys(&stream[0]), sorted("seq target time outcome rtt_ms bytes reordered ttl"));
    assert!(stream[0]["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{stream:?}");
    assert_eq!(
        keys(&stream[1]),
        sorted(
            "schema target interval_ms size duration_s sent answered late lost refused truncated altered duplicate \
             reordered unmatched in_flight loss_percent clock attribution rtt_ms flows"
        )
    );
    assert_eq!(keys(&stream[1]["flows"][0]), sorted("port sent lost p50_ms"));
    let bench = report(&output(&["bench", &target, "-t", "50ms", "-W", "10s", "--json"]));
    assert_eq!(
        keys(&bench),
        sorted(
            "schema target seconds clients sent answered late lost refused truncated altered duplicate reordered \
             unmatched in_flight loss_percent silent_s answers_per_second mbit_per_second latency_ms lateness_ms"
        )
    );
}

#[test]
fn rate_counts_what_came_within_the_window() {
    needs!("python3");
    let peer = Responder::python("def answer(n, data, to):\n    time.sleep(0.005)\n    server.sendto(data, to)");
    let report = report(&output(&["bench", &peer.target(), "--in-flight", "100", "-t", "1s", "-W", "10s", "--json"]));
    // 5 ms each are at most 200 in a second; about 100 more come after the window.
    assert!(number(&report, "answers_per_second") <= 200.0, "{report}");
    assert!(count(&report, "answered") as f64 >= number(&report, "answers_per_second") + 50.0, "{report}");
    assert_eq!(count(&report, "lost"), 0, "{report}");
}

#[test]
fn server_that_dies_during_a_bench_is_reported() {
    let mut server = Some(Server::start(&["echo@127.0.0.1:0", "-q"]));
    let target = server.as_ref().map(|server| server.address().to_string()).expect("a server");
    let killer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(700));
        drop(server.take());
    });
    let output = output(&["bench", &target, "-t", "2s", "--in-flight", "8", "--json"]);
    killer.join().expect("a killed server");
    let report = report(&output);
    assert!(count(&report, "refused") >= 1, "{report}");
    assert!((0.5..=2.0).contains(&number(&report, "silent_s")), "{report}");
    assert!(stderr(&output).contains(" for the last "), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn server_that_falls_silent_during_a_bench_is_reported_and_a_slow_schedule_is_not_silence() {
    needs!("python3");
    let peer = Responder::python("def answer(n, data, to):\n    if n < 50: server.sendto(data, to)");
    let output_of = |arguments: &[&str]| output(&[&["bench", &peer.target(), "-W", "300ms"], arguments].concat());
    let output = output_of(&["--rate", "100", "-t", "1500ms"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\nno answer for the last 1.0 s\n"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    let peer = Responder::python("def answer(n, data, to):\n    server.sendto(data, to)");
    let output =
        run(&mut udpong(&["bench", &peer.target(), "--rate", "1", "-t", "1900ms", "-W", "300ms", "--json"]), b"");
    assert_eq!((number(&report(&output), "silent_s"), output.status.code()), (0.0, Some(0)));
}

#[test]
fn bench_has_the_classes_of_ping() {
    needs!("python3");
    // One after the other, so the responder's count is the number of each datagram.
    let peer = Responder::python(
        "
import threading
def answer(n, data, to):
    kind = n % 5
    if kind == 0: return
    if kind == 1: data = data.upper()
    if kind == 2: data = data[:30]
    if kind == 3: threading.Timer(0.6, server.sendto, (data, to)).start()
    else: server.sendto(data, to)
    if kind == 4: server.sendto(b'no echo', to)
",
    );
    let output = output(&["bench", &peer.target(), "-t", "3s", "-W", "400ms", "--json"]);
    let report = report(&output);
    let sent = count(&report, "sent");
    let of_kind = |kind: u64| (sent + 5 - kind) / 5 - u64::from(kind == 0);
    let found = ["altered", "truncated", "answered"].map(|field| count(&report, field));
    assert_eq!(found, [of_kind(1), of_kind(2), of_kind(4)], "{report}");
    assert_eq!(count(&report, "late") + count(&report, "lost"), of_kind(3) + of_kind(0), "{report}");
    assert!(count(&report, "late") + 1 >= of_kind(3) && count(&report, "unmatched") + 1 >= of_kind(4), "{report}");
}

#[test]
fn answers_that_are_all_altered_are_no_success() {
    needs!("python3");
    let peer = Responder::python("def answer(n, data, to):\n    server.sendto(data.upper(), to)");
    for arguments in [&["ping", &peer.target(), "-c", "5", "-i", "5ms"][..], &["bench", &peer.target(), "-t", "50ms"]] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains("no intact answer in time from"), "{}", stderr(&output));
        assert!(stderr(&output).contains(" altered"), "{}", stderr(&output));
    }
}

#[test]
fn slow_path_is_lost_whatever_the_length_of_the_run() {
    needs!("python3");
    let slow = "
import threading
def answer(n, data, to):
    threading.Timer(0.3, server.sendto, (data, to)).start()
";
    for probes in ["6", "20"] {
        let peer = Responder::python(slow);
        let output = output(&["ping", &peer.target(), "-c", probes, "-i", "50ms", "-W", "150ms", "--json"]);
        let report = report(&output);
        assert!(count(&report, "late") >= 2, "{report}");
        assert_eq!((number(&report, "loss_percent"), output.status.code()), (100.0, Some(1)), "{report}");
        // Late answers are in the round trips.
        assert!(report["rtt_ms"]["min"].as_f64().is_some_and(|min| min > 250.0), "{report}");
    }
}

#[test]
fn late_probe_breaks_the_loss_limit() {
    needs!("python3");
    let peer =
        Responder::python("def answer(n, data, to):\n    if n == 1: time.sleep(0.6)\n    server.sendto(data, to)");
    let output = output(&["ping", &peer.target(), "-c", "4", "-i", "1s", "-W", "500ms", "-q", "--max-loss", "20%"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("loss 25.000% is over 20%"), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("4 sent, 3 answered, 1 lost (25.0%; 1 late), 0 duplicate"), "{text}");
}

#[test]
fn small_loss_is_shown_with_its_number() {
    needs!("python3");
    let peer = Responder::python("def answer(n, data, to):\n    if n != 500: server.sendto(data, to)");
    let output = output(&["ping", &peer.target(), "-c", "2000", "-i", "300us", "-W", "2s", "-q"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("2000 sent, 1999 answered, 1 lost (0.050%), "), "{text}");
}

#[test]
fn stream_reports_an_outage_while_it_lasts() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q"]);
    let ping = Running::start(&["ping", &server.address().to_string(), "-i", "50ms", "-W", "100ms", "--json-stream"]);
    let start = Instant::now();
    Running::wait_for(&ping.out, "\"seq\":2,");
    assert!(start.elapsed() < TIMEOUT / 2, "an outage was reported after {:?}", start.elapsed());
    ping.signal("INT");
    let (code, lines) = ping.end();
    let objects: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (summary, probes) = objects.split_last().expect("a summary");
    assert_eq!(code, Some(1));
    assert_eq!(count(summary, "sent"), probes.len() as u64);
    assert!(probes.iter().all(|probe| probe["outcome"] == "timeout" && probe["rtt_ms"].is_null()), "{lines:#?}");
}

#[test]
fn stream_has_one_object_more_for_an_answer_after_the_timeout() {
    needs!("python3");
    // The answers to the first three probes come with the fifth, and the answer to the fifth comes twice.
    let peer = Responder::python(
        "
held = []
def answer(n, data, to):
    held.append(data)
    if n == 5:
        server.sendto(held[0], to)
        server.sendto(held[1][:30], to)
        server.sendto(held[2].upper(), to)
        server.sendto(data, to)
        server.sendto(data, to)
",
    );
    let output = output(&["ping", &peer.target(), "-c", "5", "-i", "300ms", "-W", "450ms", "--json-stream"]);
    let mut objects = objects(&output);
    let summary = objects.pop().expect("a summary");
    let of = |seq: u64| {
        let of_probe = objects.iter().filter(move |object| object["seq"] == seq);
        of_probe.map(|object| object["outcome"].as_str().expect("an outcome")).collect::<Vec<_>>()
    };
    assert_eq!(
        [1, 2, 3, 4, 5].map(of),
        [
            &["timeout", "late"][..],
            &["timeout", "truncated"],
            &["timeout", "altered"],
            &["timeout"],
            &["answered", "duplicate"]
        ]
    );
    let counted = ["late", "truncated", "altered", "lost", "answered", "duplicate"].map(|field| count(&summary, field));
    assert_eq!(counted, [1; 6], "{summary}");
}

/// The answer is in the socket when the timeout passes, because ping does not run.
#[test]
fn stream_has_the_timeout_before_an_answer_that_was_received_too_late() {
    let responder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    responder.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let target = responder.local_addr().expect("an address").to_string();
    let ping = Running::start(&["ping", &target, "-c", "1", "-W", "1s", "--json-stream"]);
    let mut probe = [0; 100];
    let (length, from) = responder.recv_from(&mut probe).expect("a probe");
    ping.signal("STOP");
    thread::sleep(Duration::from_millis(1100));
    responder.send_to(&probe[..length], from).expect("sent");
    ping.signal("CONT");
    let (_, lines) = ping.end();
    let objects: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&objects[0]["outcome"], &objects[1]["outcome"], objects.len()), (&"timeout".into(), &"late".into(), 3));
    assert_eq!((count(&objects[2], "late"), count(&objects[2], "lost")), (1, 0), "{lines:#?}");
}

/// It waits for duplicates for twice the round trip, which is not part of the run.
#[test]
fn duration_ends_with_the_last_probe() {
    needs!("python3");
    let peer = Responder::python("def answer(n, data, to):\n    time.sleep(0.5)\n    server.sendto(data, to)");
    let start = Instant::now();
    let report = report(&output(&["ping", &peer.target(), "-c", "1", "-W", "10s", "--json"]));
    assert!(start.elapsed() >= Duration::from_millis(1500), "it did not wait");
    assert!((0.5..1.5).contains(&number(&report, "duration_s")), "{report}");
}

#[test]
fn refused_sends_are_counted_one_by_one() {
    run_in_namespace!("nft");
    let _server = Server::start(&["echo@127.0.0.1:7000", "-q"]);
    shell(
        "nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }'; \
           nft add rule ip t o udp dport 7000 drop",
    );
    for arguments in [
        &["ping", "-c", "8", "-i", "1ms"][..],
        &["bench", "-n", "8", "--segments", "4"],
        &["bench", "-n", "8", "--segments", "4", "--rate", "1k"],
        &["bench", "-n", "8", "--in-flight", "8"],
    ] {
        let output = output(&[arguments, &["127.0.0.1:7000", "-W", "10s", "--json"]].concat());
        let report = report(&output);
        assert_eq!((count(&report, "sent"), count(&report, "refused")), (8, 8), "{arguments:?}: {report}");
        assert_eq!((output.status.code(), number(&report, "loss_percent")), (Some(1), 100.0));
    }
    let text = String::from_utf8(output(&["ping", "127.0.0.1:7000", "-c", "1"]).stdout).expect("UTF-8");
    assert!(text.contains("seq=1 refused: Operation not permitted"), "{text}");
}

/// A router that refuses one datagram does not make a target dead, though it is the last one.
#[test]
fn last_datagram_that_is_refused_is_no_dead_target() {
    run_in_namespace!("nft");
    let _server = Server::start(&["echo@127.0.0.1:7000", "-q"]);
    shell(
        "nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }'; \
           nft add rule ip t o udp dport 7000 limit rate over 1/hour burst 99 packets reject with icmp type host-unreachable",
    );
    let output = output(&["bench", "127.0.0.1:7000", "-n", "100", "-W", "10s", "--json"]);
    let report = report(&output);
    assert_eq!((count(&report, "answered"), count(&report, "refused")), (99, 1), "{report}");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn status_of_a_dead_target_is_all_lost() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q"]);
    let ping = Running::start(&["ping", &server.address().to_string(), "-i", "50ms", "-W", "100ms"]);
    Running::wait_for(&ping.out, "seq=2 no answer within 100ms");
    ping.signal("QUIT");
    let line = Running::wait_for(&ping.out, " sent, ");
    assert!(line.contains(" lost (100.0%), "), "{line}");
    ping.signal("INT");
    ping.end();
}

#[test]
fn first_ctrl_c_announces_a_wait_and_the_second_ends_it_with_the_report() {
    let mut server = Server::start(&["discard@127.0.0.1:0"]);
    let target = server.address().to_string();
    for (number, (arguments, what)) in [
        (&["ping", &target, "-i", "10s", "-W", "50s"][..], "1 probe;"),
        (&["bench", &target, "-t", "60s", "-W", "50s"], "1 datagram;"),
        (&["ping", &target, "-i", "10s", "-W", "50s", "--json"], "1 probe;"),
        (&["bench", &target, "-t", "60s", "-W", "50s", "--json"], "1 datagram;"),
    ]
    .into_iter()
    .enumerate()
    {
        let client = Running::start(arguments);
        server.wait_for_line("Received message", number);
        let start = Instant::now();
        client.signal("INT");
        let notice = Running::wait_for(&client.errors, "waiting up to ");
        assert_eq!(notice, format!("udpong: waiting up to 50 s for {what} Ctrl+C again to stop now"));
        thread::sleep(Duration::from_millis(50));
        client.signal("INT");
        let (code, lines) = client.end();
        assert!(start.elapsed() < TIMEOUT / 2, "it waited");
        assert_eq!(code, Some(130), "{arguments:?}");
        let text = lines.join("\n");
        // What is in flight is not counted, but shown.
        if arguments.contains(&"--json") {
            let report: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!((count(&report, "sent"), count(&report, "in_flight")), (0, 1), "{report}");
        } else {
            assert!(text.contains("0 sent, 0 answered") && text.contains("; 1 in flight, not counted"), "{text}");
        }
    }
}

#[test]
fn ctrl_c_without_anything_in_flight_announces_nothing() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let mut ping = Running::start(&["ping", &server.address().to_string(), "-i", "10s"]);
    Running::wait_for(&ping.out, "seq=1 ");
    ping.signal("INT");
    let errors = ping.errors.all();
    assert_eq!((ping.end().0, errors), (Some(0), Vec::new()));
}

#[test]
fn ctrl_c_in_the_warm_up_reports_it() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let bench = Running::start(&["bench", &server.address().to_string(), "--warm-up", "60s", "-t", "60s", "-W", "10s"]);
    thread::sleep(Duration::from_millis(500));
    bench.signal("INT");
    Running::wait_for(&bench.errors, "stopped during the warm-up");
    let (code, lines) = bench.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines[1].contains(" 0 lost (0.0%)") && !lines[1].starts_with("0 sent"), "{lines:#?}");
}

#[test]
fn ctrl_backslash_shows_the_report_of_a_bench_that_goes_on() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let bench = Running::start(&["bench", &target, "-t", "60s", "-W", "10s"]);
    thread::sleep(Duration::from_millis(500));
    bench.signal("QUIT");
    Running::wait_for(&bench.out, " udp bench: ");
    bench.signal("INT");
    let (code, lines) = bench.end();
    assert_eq!(code, Some(0));
    assert_eq!(lines.iter().filter(|line| line.contains(" udp bench: ")).count(), 2, "{lines:#?}");

    let bench = Running::start(&["bench", &target, "-t", "60s", "-W", "10s", "--json"]);
    thread::sleep(Duration::from_millis(500));
    bench.signal("QUIT");
    Running::wait_for(&bench.errors, " udp bench: ");
    bench.signal("INT");
    assert_eq!(bench.end().1.len(), 1, "only JSON on stdout");
}

#[test]
fn ctrl_backslash_keeps_a_report_in_text_from_the_json_of_a_ping() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    for format in ["--json", "--json-stream"] {
        let ping = Running::start(&["ping", &server.address().to_string(), "-i", "20ms", "-W", "10s", format]);
        thread::sleep(Duration::from_millis(500));
        ping.signal("QUIT");
        Running::wait_for(&ping.errors, "udp ping statistics");
        ping.signal("INT");
        let (code, lines) = ping.end();
        assert_eq!(code, Some(0));
        assert!(lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines:#?}");
    }
}

/// A command that sees a file with this text in place of another one.
fn with_file(path: &str, text: &str, arguments: &[&str]) -> (Command, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("a temporary file");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", "mount --bind \"$1\" \"$2\"; shift 2; exec \"$@\"", "sh"]);
    command.arg(file.path()).arg(path).arg(env!("CARGO_BIN_EXE_udpong")).args(arguments);
    (command, file)
}

/// Runs a command that sees another /etc/hosts.
fn with_hosts(hosts: &str, arguments: &[&str]) -> Output {
    let (mut command, _file) = with_file("/etc/hosts", hosts, arguments);
    run(&mut command, b"")
}

#[test]
fn the_next_address_of_a_name_is_tried() {
    run_in_namespace!("mount");
    let server = Server::start(&["echo@127.0.0.1:0", "-q", "--json"]);
    let target = format!("both.example:{}", server.address().port());
    let hosts = "::1 both.example\n127.0.0.1 both.example\n";
    let notice = format!("(port unreachable); trying {}", server.address());
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let log = log.path().display().to_string();
    let ping = ["ping", &target, "-c", "3", "-i", "10ms", "-W", "10s", "--json-stream", "--hdr", &log];
    let output = with_hosts(hosts, &ping);
    let tag = format!("Tag={},", server.address());
    assert!(
        std::fs::read_to_string(&log).is_ok_and(|log| log.lines().last().is_some_and(|line| line.starts_with(&tag)))
    );
    let report = report(&output);
    assert_eq!((count(&report, "sent"), count(&report, "answered")), (3, 3), "{report}");
    assert_eq!((objects(&output).len(), report["target"].as_str()), (4, Some(&*server.address().to_string())));
    assert!(stderr(&output).contains(&notice), "{}", stderr(&output));
    for arguments in [&["bench", &target, "-t", "50ms", "-W", "10s"][..], &["send", &target, "hi"]] {
        let output = with_hosts(hosts, arguments);
        assert!(stderr(&output).contains(&notice), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
    for (family, expected) in [("-4", Some(0)), ("-6", Some(1))] {
        let output = with_hosts(hosts, &["ping", &target, family, "-c", "1", "-W", "10s"]);
        assert_eq!((output.status.code(), stderr(&output).contains("trying")), (expected, false), "{output:?}");
    }
    // Where no address answers, it is the last one that refuses.
    drop(server);
    let output = with_hosts(hosts, &["ping", &target, "-c", "1", "-W", "10s"]);
    assert!(stderr(&output).contains("no answer from 127.0.0.1:"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn ctrl_c_ends_a_look_up() {
    run_in_namespace!("mount");
    // A name server that never answers.
    let name_server = std::net::UdpSocket::bind("127.0.0.1:53").expect("port 53 of a namespace");
    for (arguments, expected) in [
        (["ping", "slow.example"], Some(130)),
        (["bench", "slow.example"], Some(130)),
        // It has no handler: the signal itself ends it.
        (["send", "slow.example"], None),
        (["serve", "hello@slow.example"], Some(1)),
    ] {
        let resolver = "nameserver 127.0.0.1\noptions timeout:30\n";
        let (mut command, _file) = with_file("/etc/resolv.conf", resolver, &arguments);
        let client = Running::spawn(&mut command);
        name_server.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        name_server.recv(&mut [0; 512]).expect("a query");
        let start = Instant::now();
        client.signal("INT");
        let (code, lines) = client.end();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(code, expected, "{arguments:?}");
        assert!(lines.is_empty(), "{lines:?}");
        // Queries may be repeated.
        name_server.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        while name_server.recv(&mut [0; 512]).is_ok() {}
    }
}

/// A stuck network must not keep ping beyond its deadline.
#[test]
fn deadline_ends_ping_while_a_send_would_block() {
    run_in_namespace!("tc");
    let _loopback = SlowLoopback::new("1kbit", 2000);
    let start = Instant::now();
    let options = ["--flows", "1", "-s", "1000", "-i", "100us", "-w", "1s", "-W", "1s", "--json"];
    let output = output(&[&["ping", "127.0.0.1:9"], &options[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(count(&report(&output), "sent") < 9_000, "no send blocked");
    assert!(start.elapsed() < TIMEOUT / 4, "{:?}", start.elapsed());
}
