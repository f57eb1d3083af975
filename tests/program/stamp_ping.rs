//! `ping --stamp`: losses and delays by direction, compared with the report of a relay; foreign reflectors; limits.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{EndpointReport, Responder, Server, assert_share, needs, run, udpong};

fn ping(target: &str, arguments: &[&str]) -> Output {
    run(udpong(&["ping", "--stamp", target]).args(arguments), b"")
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.lines().last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let report: Value = serde_json::from_str(report).expect("JSON");
    let unknown = count(&report, "/unknown_direction");
    let known = match report["reflector"] == "stateful" {
        true => count(&report, "/up/lost") + count(&report, "/down/lost"),
        false => {
            assert!(report["up"]["lost"].is_null() && report["down"]["lost"].is_null(), "{report}");
            0
        }
    };
    assert_eq!(known + unknown, count(&report, "/lost"), "{report}");
    report
}

fn count(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no count {path} in {report}"))
}

fn reflector(options: &[&str]) -> Server {
    Server::start(&[&["stamp@127.0.0.1:0", "-q"], options].concat())
}

#[test]
fn report_has_the_documented_form() {
    let server = reflector(&[]);
    let target = server.address().to_string();
    let output = ping(&target, &["-c", "3", "-i", "10ms", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let report = report(&output);
    assert_eq!((report["size"].clone(), report["reflector"].clone()), (44.into(), "stateful".into()));
    let times = ["max", "mean", "min", "p50", "p99"];
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    for direction in ["up", "down"] {
        let direction = &report[direction];
        assert_eq!(keys(direction), ["delay_variation_ms", "hops", "lost", "one_way_ms"]);
        assert_eq!(keys(&direction["delay_variation_ms"]), times);
        assert_eq!(direction["delay_variation_ms"]["min"], 0.0);
        assert_eq!(direction["hops"], 0);
    }
    assert_eq!(keys(&report["processing_ms"]), times);
    assert_eq!(count(&report, "/answered"), 3);
}

#[test]
fn lines_show_directions_and_hop_limits() {
    let server = reflector(&[]);
    let output = ping(&server.address().to_string(), &["-c", "2", "-i", "10ms"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with(&format!("UDP PING {0} ({0}): 44 bytes every 10ms, STAMP\n", server.address())), "{text}");
    let lines: Vec<_> = text.lines().filter(|line| line.contains(" seq=")).collect();
    assert!(lines.iter().all(|line| line.contains(" ms ttl=64 up=+0.") && line.contains(" down=+0.")), "{text}");
    for direction in ["up", "down"] {
        assert!(text.contains(&format!("\n{direction}: 0 lost (0.0%), 0 hops, delay variation mean 0.")), "{text}");
    }
    let stream = ping(&server.address().to_string(), &["-c", "1", "--json-stream"]);
    let text = String::from_utf8_lossy(&stream.stdout).into_owned();
    let first: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((first["up_variation_ms"].clone(), first["ttl"].clone()), (0.0.into(), 64.into()), "{first}");
    assert!(first["processing_ms"].as_f64().is_some_and(|time| time > 0.0), "{first}");
}

#[test]
fn hop_limit_of_any_answer_is_shown() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let output = run(&mut udpong(&["ping", &server.address().to_string(), "-c", "1"]), b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.lines().any(|line| line.contains(" seq=1 time=") && line.ends_with(" ms ttl=64")), "{text}");
    assert!(!text.contains("up="), "{text}");
}

#[test]
fn stateless_reflector_is_detected_by_its_first_answer() {
    let server = reflector(&["--stamp-stateless", "--loss=30%", "--seed=1"]);
    let target = server.address().to_string();
    let output = ping(&target, &["-c", "100", "-i", "2ms", "-W", "200ms", "--json"]);
    let report = report(&output);
    assert_eq!(report["reflector"], "stateless");
    assert!(
        count(&report, "/lost") > 10 && count(&report, "/unknown_direction") == count(&report, "/lost"),
        "{report}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (plot, metrics) = (file("plot.svg"), file("metrics.prom"));
    let probes = ["-c", "100", "-i", "2ms", "-W", "200ms", "-q", "--plot", &plot, "--metrics-file", &metrics];
    let output = ping(&target, &[&probes[..], &["--max-loss-up", "99%"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("\nthe reflector is stateless: "), "{text}");
    assert!(text.contains("\nup: lost unknown, ") && text.contains("\ndown: lost unknown, "), "{text}");
    let metrics = fs::read_to_string(&metrics).expect("metrics");
    assert_eq!(metrics.matches("\nudpong_ping_direction_lost_probes{").count(), 1, "{metrics}");
    assert!(metrics.contains(",direction=\"unknown\"} "), "{metrics}");
    let picture = fs::read_to_string(&plot).expect("a picture");
    assert!(picture.contains("; lost in unknown direction ") && !picture.contains("lost up"), "{picture}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("loss up is not known, as the reflector is stateless"), "{message}");
}

/// Pings a stateful reflector through a relay; returns both reports.
fn through_relay(impairments: &[&str], probes: usize) -> (Value, [EndpointReport; 2]) {
    let server = reflector(&["--no-guard"]);
    let target = server.address().to_string();
    let relay = Server::start_relay(&[&["127.0.0.1:0", &target, "--json", "-q"], impairments].concat());
    let probes = probes.to_string();
    let output = ping(&relay.address().to_string(), &["-c", &probes, "-i", "1ms", "-W", "2s", "--json"]);
    let report = report(&output);
    let output = relay.stop();
    let directions = ["up", "down"].map(|name| output.direction(name));
    assert_eq!(directions.each_ref().map(|direction| direction.get("kernel_dropped")), [0, 0]);
    assert_eq!((count(&report, "/late"), count(&report, "/refused")), (0, 0), "{report}");
    assert_eq!(report["reflector"], "stateful");
    (report, directions)
}

#[test]
fn losses_have_the_direction_that_the_relay_gave_them() {
    const PROBES: usize = 5_000;
    let reordering = ["--delay=4ms", "--jitter=4ms"];
    for (impairments, reorders) in [(&[][..], false), (&reordering, true)] {
        let losses = ["--up-loss=5%", "--down-loss=1%", "--seed=7"];
        let (report, directions) = through_relay(&[&losses[..], impairments].concat(), PROBES);
        let [lost_up, lost_down] = directions.each_ref().map(|direction| direction.impaired("lost"));
        let [up, down] = ["/up/lost", "/down/lost"].map(|path| count(&report, path));
        let unknown = count(&report, "/unknown_direction");
        assert_eq!(lost_up + lost_down, count(&report, "/lost"), "{report}");
        assert!((up..=up + unknown).contains(&lost_up), "{lost_up} {lost_down} {report}");
        assert!((down..=down + unknown).contains(&lost_down), "{lost_up} {lost_down} {report}");
        assert_eq!(count(&report, "/reordered") > 100, reorders, "{report}");
        // On a busy machine some packets are slow, so that the direction of more losses remains unknown.
        let is_slow = report["up"]["delay_variation_ms"]["max"].as_f64().is_some_and(|max| max > 100.0);
        assert!(unknown <= 20 || is_slow, "{report}");
        if !is_slow {
            assert_share(up, PROBES, 0.05);
            assert_share(down, PROBES - lost_up as usize, 0.01);
        }
    }
}

#[test]
fn duplicates_shift_losses_by_their_number_at_most() {
    let impairments = ["--up-loss=5%", "--down-loss=2%", "--duplicate=1%", "--jitter=1ms", "--seed=7"];
    let (report, directions) = through_relay(&impairments, 3_000);
    let duplicated: u64 = directions.iter().map(|direction| direction.impaired("duplicated")).sum();
    assert!(duplicated > 0 && count(&report, "/duplicate") > 0);
    let [lost_up, lost_down] = directions.each_ref().map(|direction| direction.impaired("lost"));
    let [up, down] = ["/up/lost", "/down/lost"].map(|path| count(&report, path));
    let unknown = count(&report, "/unknown_direction");
    assert!(lost_up.abs_diff(up) <= duplicated + unknown, "{lost_up} {lost_down} {duplicated} {report}");
    assert!(lost_down.abs_diff(down) <= duplicated + unknown, "{lost_up} {lost_down} {duplicated} {report}");
}

#[test]
fn delay_variation_has_the_direction_of_the_jitter() {
    let server = reflector(&[]);
    let target = server.address().to_string();
    let relay = Server::start_relay(&["127.0.0.1:0", &target, "-q", "--up-delay=20ms", "--up-jitter=10ms", "--seed=7"]);
    let report = report(&ping(&relay.address().to_string(), &["-c", "300", "-i", "2ms", "--json"]));
    let p50 = |direction: &str| report[direction]["delay_variation_ms"]["p50"].as_f64().expect("a time");
    assert!(p50("up") > 5.0 && p50("up") < 40.0, "{report}");
    assert!(p50("down") < p50("up") / 2.0, "{report}");
}

#[test]
fn one_way_delays_need_two_synchronized_clocks() {
    needs!("strace");
    // The call is not made: what it would have filled in stays zero, which is a synchronized clock.
    let synchronized = |program: &Command| {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=adjtimex,clock_adjtime"]);
        command.args(["-e", "inject=adjtimex,clock_adjtime:retval=0"]);
        command.arg(program.get_program()).args(program.get_args());
        command
    };
    let server = Server::spawn(1, &mut synchronized(&udpong(&["serve", "stamp@127.0.0.1:0", "-q"])));
    let target = server.address().to_string();
    let probes = ["ping", "--stamp", &target, "-c", "3", "-i", "20ms", "--json"];
    let both = report(&run(&mut synchronized(&udpong(&probes)), b""));
    for direction in ["up", "down"] {
        let delays = &both[direction]["one_way_ms"];
        let [min, max, error] = ["min", "max", "error"].map(|name| delays[name].as_f64().expect("a time"));
        // Both ends have the same clock.
        assert!(0.0 < min && min <= max && error > 0.0 && error < 0.001, "{both}");
    }
    // The other clock is never synchronized in a call that fails.
    let mut failing = Command::new("strace");
    failing.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=adjtimex,clock_adjtime"]);
    failing.args(["-e", "inject=adjtimex,clock_adjtime:error=EPERM"]);
    let program = udpong(&probes);
    let one = report(&run(failing.arg(program.get_program()).args(program.get_args()), b""));
    assert!(one["up"]["one_way_ms"].is_null() && one["down"]["one_way_ms"].is_null(), "{one}");
}

#[test]
fn limits_apply_to_their_direction() {
    let server = reflector(&[]);
    let target = server.address().to_string();
    let relay = Server::start_relay(&["127.0.0.1:0", &target, "-q", "--up-loss=20%", "--seed=7"]);
    let target = relay.address().to_string();
    let probes = ["-c", "200", "-i", "1ms", "-W", "300ms", "-q"];
    let status = |limits: &[&str]| ping(&target, &[&probes[..], limits].concat());
    assert_eq!(status(&["--max-loss-down", "5%"]).status.code(), Some(0));
    let output = status(&["--max-loss-up", "5%", "--max-loss-down", "5%"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("loss up ") && message.contains("% is over 5%") && !message.contains("down"), "{message}");
}

#[test]
fn signed_session_needs_the_same_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (key, same, other) = (file("a", "secret\n"), file("b", "secret"), file("c", "Secret"));
    let server = reflector(&["--stamp-key-file", &key, "--json"]);
    let target = server.address().to_string();
    for size in ["112", "136", "1000"] {
        let arguments = ["-c", "2", "-i", "10ms", "-s", size, "--stamp-key-file", &same, "--json"];
        let report = report(&ping(&target, &arguments));
        assert_eq!((count(&report, "/answered"), count(&report, "/size")), (2, size.parse().expect("a size")));
    }
    let wrong = ping(&target, &["-c", "1", "-W", "200ms", "--stamp-key-file", &other, "--json"]);
    assert_eq!((wrong.status.code(), count(&report(&wrong), "/size")), (Some(1), 112));
    assert_eq!(ping(&target, &["-c", "1", "-W", "200ms", "--json"]).status.code(), Some(1));
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.count("refused", "hmac"), endpoint.get("answered")), (2, 6));
}

#[test]
fn twamp_light_reflector_is_understood() {
    needs!("python3");
    // 41 bytes, no SSID, numbers from 0; the third reply is not sent.
    let peer = Responder::python(
        "
import struct
numbers = iter(range(100))
def now():
    nanos = time.time_ns()
    return struct.pack('>II', nanos // 10**9 + 2208988800, (nanos % 10**9 << 32) // 10**9)
def answer(n, data, to):
    received = now()
    reply = struct.pack('>I', next(numbers)) + now() + struct.pack('>HH', 1, 0) + received
    reply += data[:4] + data[4:12] + data[12:14] + bytes(2) + bytes([255])
    assert len(reply) == 41
    if n != 3: server.sendto(reply, to)
",
    );
    let report = report(&ping(&peer.target(), &["-c", "5", "-i", "20ms", "-W", "300ms", "--json"]));
    assert_eq!(report["reflector"], "stateful");
    assert_eq!((count(&report, "/answered"), count(&report, "/down/lost"), count(&report, "/up/lost")), (4, 1, 0));
    assert!(report["up"]["hops"].is_null(), "{report}");
}

#[test]
fn what_is_no_reflector_does_not_answer() {
    for service in ["echo@127.0.0.1:0", "hello@127.0.0.1:0"] {
        let server = Server::start(&[service, "-q"]);
        let output = ping(&server.address().to_string(), &["-c", "2", "-i", "10ms", "-W", "200ms", "--json"]);
        let report = report(&output);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!((count(&report, "/unmatched"), count(&report, "/lost")), (2, 2));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.ends_with(" (2 answers were not STAMP, or not signed with this key)\n"), "{error}");
        assert_eq!((count(&report, "/unknown_direction"), &report["reflector"]), (2, &Value::Null));
    }
}

#[test]
fn sizes_and_options_that_make_no_sense_are_usage_errors() {
    for (arguments, expected) in [
        (&["--stamp", "127.0.0.1", "-s", "45"][..], "a STAMP packet has 44 bytes, or 48 and more, not 45"),
        (&["--stamp", "127.0.0.1", "--flows", "3"], "cannot be used with"),
        (&["--stamp", "127.0.0.1", "--hex", "00"], "cannot be used with"),
        (&["127.0.0.1", "--max-loss-up", "1%"], "--stamp"),
        (&["127.0.0.1", "-c1", "--max-loss-up", "1%", "--flows", "3"], "cannot be used with"),
        (&["127.0.0.1", "-c1", "--max-loss-down", "1%", "--pattern", "00"], "cannot be used with"),
        (&["127.0.0.1", "-c1", "--stamp-key-file", "/dev/null", "--hex", "00"], "cannot be used with"),
    ] {
        let output = run(udpong(&["ping"]).args(arguments), b"");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn metrics_and_pictures_show_the_directions() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let server = reflector(&[]);
    let relay = Server::start_relay(&["127.0.0.1:0", &server.address().to_string(), "-q", "--up-loss=20%", "--seed=7"]);
    let target = relay.address().to_string();
    let (plot, metrics) = (file("plot.svg"), file("metrics.prom"));
    let probes = ["-c", "100", "-i", "1ms", "-W", "300ms", "--json"];
    let report = report(&ping(&target, &[&probes[..], &["--plot", &plot, "--metrics-file", &metrics]].concat()));
    let [up, unknown] = ["/up/lost", "/unknown_direction"].map(|path| count(&report, path));
    let text = fs::read_to_string(&metrics).expect("metrics");
    for (direction, lost) in [("up", up), ("down", 0), ("unknown", unknown)] {
        let labels = format!("{{target=\"{target}\",direction=\"{direction}\"}}");
        assert!(text.contains(&format!("udpong_ping_direction_lost_probes{labels} {lost}\n")), "{text}");
    }
    let p99 = report["down"]["delay_variation_ms"]["p99"].as_f64().expect("a time") / 1e3;
    let labels = format!("{{target=\"{target}\",direction=\"down\",quantile=\"0.99\"}}");
    assert!(text.contains(&format!("udpong_ping_delay_variation_seconds{labels} {p99}\n")), "{text}");
    let picture = fs::read_to_string(&plot).expect("a picture");
    for shown in ["variation of the delay up", "variation of the delay down", &format!("lost up {up}, down 0")] {
        assert!(picture.contains(shown), "no {shown:?} in the picture");
    }
    // Without STAMP there are none of these.
    let echo = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = echo.address().to_string();
    assert!(run(&mut udpong(&["ping", &target, "-c", "1", "--metrics-file", &metrics]), b"").status.success());
    assert!(!fs::read_to_string(&metrics).expect("metrics").contains("direction"));
}
