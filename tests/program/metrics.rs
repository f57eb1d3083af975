//! `--metrics` and `--metrics-file` of `serve`, `relay` and `ping`: what is shown, to Prometheus and to hostile
//! clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Hang, Lines, Metrics, Server, closed_address, connect, needs, request, run, run_in_namespace, sum, udpong,
    wait_until,
};

/// Checks that promtool accepts metrics, warnings included.
fn assert_is_clean(text: &str) {
    let output = run(Command::new("promtool").args(["check", "metrics"]), text.as_bytes());
    let complaints = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
fn counts_are_shown_as_they_are() {
    needs!("promtool");
    let mut server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--metrics", ":0"]);
    let metrics = Metrics::of(&mut server);
    assert_eq!(metrics.address.ip().to_string(), "127.0.0.1");
    assert_eq!(metrics.sum("udpong_received_datagrams_total", &[]), 0);
    let client = connect(server.address());
    (0..3).for_each(|_| assert_eq!(request(&client, b"you"), b"Hello you"));
    connect(server.addresses()[1]).send(b"12345").expect("a send");
    metrics.wait_for("udpong_refused_datagrams_total", &["reason=\"discard\""], 1);
    let text = metrics.text();
    let hello = format!("service=\"hello\",address=\"{}\"", server.address());
    for (name, value) in [
        ("udpong_received_datagrams_total", 3),
        ("udpong_received_bytes_total", 9),
        ("udpong_answered_datagrams_total", 3),
        ("udpong_answered_bytes_total", 27),
        ("udpong_refused_datagrams_total", 0),
        ("udpong_failed_replies_total", 0),
        ("udpong_receive_errors_total", 0),
        ("udpong_unsent_replies_total", 0),
        ("udpong_waiting_replies", 0),
        ("udpong_kernel_dropped_buffers_total", 0),
        ("udpong_impaired_datagrams_total", 0),
    ] {
        assert_eq!(sum(&text, name, &[&hello]), value, "{name}");
    }
    assert_eq!(sum(&text, "udpong_received_bytes_total", &["service=\"discard\""]), 5);
    assert!(text.contains(&format!("udpong_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))));
    assert_is_clean(&text);
    assert_eq!(server.stop().status.code(), Some(0));
}

#[test]
fn impairments_are_counted_by_kind() {
    let mut server = Server::start(&["echo@127.0.0.1:0", "--metrics", ":0", "--loss", "100%", "--duplicate", "100%"]);
    let metrics = Metrics::of(&mut server);
    connect(server.address()).send(b"lost").expect("a send");
    metrics.wait_for("udpong_impaired_datagrams_total", &["kind=\"lost\""], 2);
    assert_eq!(metrics.sum("udpong_impaired_datagrams_total", &["kind=\"duplicated\""]), 1);
}

#[test]
fn counts_of_all_workers_are_shown() {
    const CLIENTS: u64 = 32;
    let mut server = Server::start_many(1, &["echo@127.0.0.1:0", "--workers", "2", "--metrics", ":0"]);
    let metrics = Metrics::of(&mut server);
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.address())).collect();
    clients.iter().for_each(|client| assert_eq!(request(client, b"a"), b"a"));
    // The other worker leaves its counts every second.
    metrics.wait_for("udpong_answered_datagrams_total", &[], CLIENTS);
    assert_eq!(metrics.get("/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn health_fails_while_a_worker_hangs() {
    needs!("strace");
    let mut server = Server::start(&["echo@127.0.0.1:0", "--workers", "2", "--metrics", ":0"]);
    let metrics = Metrics::of(&mut server);
    assert_eq!(metrics.get("/healthz").0, 200);
    let mut hang = Hang::second_worker_of(server.pid());
    let (_, why) = wait_until("the worker is missed", || Some(metrics.get("/healthz")).filter(|page| page.0 == 503));
    assert!(why.starts_with("worker 2 has not turned for "), "{why}");
    // What the others have counted is still shown.
    assert_eq!(metrics.sum("udpong_received_datagrams_total", &[]), 0);
    hang.end();
    wait_until("the worker turns again", || (metrics.get("/healthz").0 == 200).then_some(()));
}

#[test]
fn prometheus_scrapes_it() {
    run_in_namespace!("prometheus");
    let mut server = Server::start(&["hello@127.0.0.1:0", "--metrics", ":9100"]);
    Metrics::of(&mut server);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = folder.path().join("prometheus.yml");
    fs::write(
        &configuration,
        "scrape_configs:\n  - job_name: udpong\n    scrape_interval: 200ms\n    scrape_timeout: 200ms\n    \
         static_configs:\n      - targets: [127.0.0.1:9100]\n",
    )
    .expect("a file");
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus");
    let query = "GET /api/v1/query?query=udpong_answered_datagrams_total HTTP/1.0\r\n\r\n";
    let found = wait_until("Prometheus has scraped", || {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9090").ok()?;
        stream.write_all(query.as_bytes()).ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        response.contains("\"job\":\"udpong\"").then_some(response)
    });
    let _ = prometheus.kill();
    let _ = prometheus.wait();
    assert!(found.contains("\"service\":\"hello\"") && found.contains(",\"1\"]"), "{found}");
}

#[test]
fn other_requests_are_answered_as_http_wants() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    let metrics = Metrics::of(&mut server);
    assert_eq!(metrics.get("/").0, 404);
    assert_eq!(metrics.request("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n").0, 405);
    assert_eq!(metrics.request("HEAD /metrics HTTP/1.1\r\n\r\n"), (200, String::new()));
    assert_eq!(metrics.request("\0\r\n\r\n").0, 400);
    assert_eq!(metrics.request(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000))).0, 431);
}

#[test]
fn client_that_keeps_sending_gets_its_response() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--metrics", ":0"]);
    let mut stream = Metrics::of(&mut server).connect();
    stream.write_all(&[b'a'; 8 << 10]).expect("a send");
    stream.peek(&mut [0]).expect("a response");
    // A closed connection would be reset, and the response be lost with it.
    for _ in 0..5 {
        stream.write_all(&[b'a'; 4 << 10]).expect("a send");
        thread::sleep(Duration::from_millis(20));
    }
    stream.shutdown(std::net::Shutdown::Write).expect("a half-closed connection");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
}

#[test]
fn half_closed_client_gets_its_response() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--metrics", ":0"]);
    let mut stream = Metrics::of(&mut server).connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").expect("a send");
    stream.shutdown(std::net::Shutdown::Write).expect("a half-closed connection");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.ends_with("ok\n"), "{response}");
}

/// Returns how many connections a server has, its listener included.
fn tcp_sockets(server: &Server) -> usize {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).expect("a table");
    let inodes: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
    let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("open files");
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()?.into_os_string().into_string().ok());
    let inode = |link: &str| link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned);
    links.filter_map(|link| inode(&link)).filter(|inode| inodes.contains(&&**inode)).count()
}

#[test]
fn silent_clients_end_after_a_time_and_never_lock_out_a_scraper() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--metrics", ":0"]);
    let metrics = Metrics::of(&mut server);
    let start = Instant::now();
    let mut silent: Vec<_> = (0..100).map(|_| metrics.connect()).collect();
    wait_until("the connections are accepted", || (tcp_sockets(&server) == 17).then_some(()));
    assert_eq!(metrics.get("/healthz").0, 200);
    assert!(start.elapsed() < Duration::from_secs(4), "served at once: {:?}", start.elapsed());
    assert!(tcp_sockets(&server) <= 17);
    // The last one was not evicted, and has its whole time.
    let last = silent.last_mut().expect("a connection");
    let end = last.read(&mut [0]);
    assert!(matches!(end, Ok(0)), "{end:?}");
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(5), "{elapsed:?}");
    wait_until("every connection has ended", || (tcp_sockets(&server) == 1).then_some(()));
}

#[test]
fn malicious_clients_delay_no_datagram() {
    const DATAGRAMS: u32 = 3_000;
    let mut server = Server::start(&["echo@127.0.0.1:0", "-q", "--json", "--metrics", ":0"]);
    let metrics = Metrics::of(&mut server);
    let stop = AtomicBool::new(false);
    let client = connect(server.address());
    thread::scope(|scope| {
        let attack = |act: fn(&Metrics)| {
            let (metrics, stop) = (&metrics, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    act(metrics);
                }
            });
        };
        attack(|metrics| {
            let silent: Vec<_> = (0..100).map(|_| metrics.connect()).collect();
            thread::sleep(Duration::from_millis(20));
            drop(silent);
        });
        attack(|metrics| drop(metrics.connect().write_all(&[b'a'; 1 << 20])));
        attack(|metrics| {
            let mut slow = metrics.connect();
            for byte in b"GET /metrics HTTP/1.1\r\n" {
                // It is closed when others come.
                let _ = slow.write_all(&[*byte]);
                thread::sleep(Duration::from_millis(2));
            }
        });
        attack(|metrics| {
            // Asks, and does not read.
            let _ = metrics.connect().write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
            thread::sleep(Duration::from_millis(1));
        });
        let stop = StopOnDrop(&stop);
        let mut times: Vec<_> = (0..DATAGRAMS).map(|number| answer_time(&client, number)).collect();
        drop(stop);
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        // A turn takes microseconds, but the attackers and this machine's other work delay both sides. Waiting for a
        // client would take up to 5 s.
        assert!(median < Duration::from_millis(100) && longest < Duration::from_secs(4), "{median:?}, {longest:?}");
    });
    assert_eq!(metrics.sum("udpong_answered_datagrams_total", &[]), u64::from(DATAGRAMS));
    let memory = server.status("RssAnon");
    assert!(memory < 5_000, "{memory} kB");
    server.stop_and_account_for(u64::from(DATAGRAMS));
}

/// Sets a flag, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns how long a datagram with a number took to be answered.
fn answer_time(client: &UdpSocket, number: u32) -> Duration {
    let start = Instant::now();
    assert_eq!(request(client, &number.to_be_bytes()), number.to_be_bytes());
    start.elapsed()
}

#[test]
fn an_address_that_cannot_be_served_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = run(udpong(&["serve", "hello@127.0.0.1:0", "--metrics", &address]).arg("--log=off"), b"");
    assert_eq!(output.status.code(), Some(1));
    let message = format!("udpong: cannot serve metrics on {address}: address already in use (choose another port)\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), message);
    let output = run(&mut udpong(&["serve", "--metrics", "9100"]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write :9100"));
}

#[test]
fn file_is_replaced_at_the_interval_and_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("udpong.prom");
    let file = path.to_str().expect("a path");
    let server = Server::start(&["hello@127.0.0.1:0", "--stats", "100ms", "--metrics-file", file]);
    let count = || sum(&fs::read_to_string(&path).expect("a file"), "udpong_answered_datagrams_total", &[]);
    assert_eq!(count(), 0);
    let client = connect(server.address());
    request(&client, b"one");
    // Whenever it is read, it is whole.
    wait_until("the file is replaced", || (count() == 1).then_some(()));
    request(&client, b"two");
    assert_eq!(server.stop().status.code(), Some(0));
    assert_eq!(count(), 2);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "only the file is left");
}

#[test]
fn file_that_cannot_be_written_ends_the_start() {
    let arguments = ["serve", "hello@127.0.0.1:0", "--log=off", "--metrics-file", "/nonexistent/udpong.prom"];
    let output = run(&mut udpong(&arguments), b"");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.starts_with("udpong: cannot write the metrics to /nonexistent/udpong.prom: "), "{message}");
}

#[test]
fn directions_and_sessions_of_a_relay_are_shown() {
    needs!("promtool");
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let mut relay =
        Server::start_relay(&["127.0.0.1:0", &server.address().to_string(), "--metrics", ":0", "--down-loss", "100%"]);
    let metrics = Metrics::of(&mut relay);
    assert_eq!(metrics.sum("udpong_relay_sessions", &[]), 0);
    connect(relay.address()).send(b"12345").expect("a send");
    metrics.wait_for("udpong_relay_impaired_datagrams_total", &["direction=\"down\"", "kind=\"lost\""], 1);
    let text = metrics.text();
    for (name, up, down) in [
        ("udpong_relay_received_datagrams_total", 1, 1),
        ("udpong_relay_received_bytes_total", 5, 5),
        ("udpong_relay_forwarded_datagrams_total", 1, 0),
        ("udpong_relay_forwarded_bytes_total", 5, 0),
        ("udpong_relay_refused_datagrams_total", 0, 0),
        ("udpong_relay_waiting_datagrams", 0, 0),
    ] {
        assert_eq!(sum(&text, name, &["direction=\"up\""]), up, "{name}");
        assert_eq!(sum(&text, name, &["direction=\"down\""]), down, "{name}");
    }
    assert_eq!(sum(&text, "udpong_relay_sessions", &[]), 1);
    assert_eq!(sum(&text, "udpong_relay_refused_datagrams_total", &["direction=\"up\"", "reason=\"loop\""]), 0);
    assert_is_clean(&text);
    assert_eq!(relay.stop().status.code(), Some(0));
}

/// A running `udpong ping`.
struct Ping {
    child: Child,
    metrics: Metrics,
}

impl Ping {
    fn start(arguments: &[&str]) -> Self {
        let mut command = udpong(&["ping", "-q", "-i", "10ms", "--metrics", ":0"]);
        let mut child = command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ping");
        let lines = Lines::read(child.stderr.take().expect("a pipe"));
        let notice = |lines: &[String]| lines.iter().find(|line| line.contains("Metrics are served on ")).cloned();
        let metrics = Metrics::from_notice(&lines.wait_until(|lines, _| notice(lines)));
        Self { child, metrics }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn outcomes_and_round_trips_of_a_ping_are_shown() {
    needs!("promtool");
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let (target, closed) = (server.address().to_string(), closed_address().to_string());
    let ping = Ping::start(&[&target, &closed]);
    let (good, bad) = (format!("target=\"{target}\""), format!("target=\"{closed}\""));
    let count = |target: &str, outcome: &str| {
        ping.metrics.sum("udpong_ping_probes_total", &[target, &format!("outcome=\"{outcome}\"")])
    };
    wait_until("probes are answered and refused", || {
        (count(&good, "answered") >= 3 && count(&bad, "refused") >= 3).then_some(())
    });
    for (target, outcome) in [(&good, "lost"), (&good, "refused"), (&bad, "answered"), (&bad, "altered")] {
        assert_eq!(count(target, outcome), 0, "{outcome}");
    }
    let text = ping.metrics.text();
    let answered = sum(&text, "udpong_ping_probes_total", &[&good, "outcome=\"answered\""]);
    assert_eq!(sum(&text, "udpong_ping_rtt_seconds_count", &[&good]), answered);
    assert_eq!(sum(&text, "udpong_ping_rtt_seconds_bucket", &[&good, "le=\"+Inf\""]), answered);
    assert_is_clean(&text);
}

#[test]
fn late_probe_is_lost_first() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q", "--delay", "200ms"]);
    let ping = Ping::start(&[&server.address().to_string(), "-W", "50ms"]);
    let count = |outcome: &str| ping.metrics.sum("udpong_ping_probes_total", &[&format!("outcome=\"{outcome}\"")]);
    let lost = wait_until("a probe is lost", || Some(count("lost")).filter(|lost| *lost > 0));
    wait_until("an answer is late", || (count("late") > 0).then_some(()));
    assert!(count("lost") >= lost, "a counter does not fall");
    assert_eq!(count("answered"), 0);
}

#[test]
fn flows_of_a_ping_are_shown_by_index() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let ping = Ping::start(&[&server.address().to_string(), "--flows", "2"]);
    let count = |flow: &str| ping.metrics.sum("udpong_ping_probes_total", &[flow, "outcome=\"answered\""]);
    wait_until("both flows are answered", || (count("flow=\"0\"") > 0 && count("flow=\"1\"") > 0).then_some(()));
    assert!(!ping.metrics.text().contains("flow=\"2\""));
}

#[test]
fn ping_leaves_a_file() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ping.prom");
    let target = server.address().to_string();
    let mut ping = udpong(&["ping", &target, "-q", "-c", "3", "-i", "10ms", "--metrics-file"]);
    assert!(run(ping.arg(&path), b"").status.success());
    let text = fs::read_to_string(&path).expect("a file");
    assert_eq!(sum(&text, "udpong_ping_probes_total", &["outcome=\"answered\""]), 3);
}

#[test]
fn metrics_cost_nothing_while_nobody_looks() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--metrics", ":0"]);
    Metrics::of(&mut server);
    let before = server.cpu_ticks();
    thread::sleep(Duration::from_secs(2));
    assert!(server.cpu_ticks() - before <= 1, "it sleeps");
}
