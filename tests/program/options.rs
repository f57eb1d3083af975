//! The options that `send`, `ping` and `bench` share with other tools: own payloads, IP headers, limits.

use std::fs;
use std::net::UdpSocket;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::harness::{Responder, Server, closed_address, needs, run, run_in_namespace, shell, signal, udpong};

fn output(arguments: &[&str]) -> Output {
    run(&mut udpong(arguments), b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}

/// Returns a socket on a free port and its address.
fn listener() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let address = socket.local_addr().expect("an address").to_string();
    (socket, address)
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).expect("a datagram");
    buffer.truncate(length);
    buffer
}

#[test]
fn own_payload_is_sent_as_it_is() {
    let file = NamedTempFile::new().expect("a file");
    let binary: Vec<u8> = (0..=255).chain([10, 10]).collect();
    fs::write(file.path(), &binary).expect("written");
    let path = file.path().display().to_string();
    for (options, expected) in [
        (&["--hex", "00:ff 0A"][..], &[0, 255, 10][..]),
        (&["--hex", ""], &[]),
        (&["--file", &path], &binary),
        (&["--pattern", "abcd", "-s", "5"], &[0xAB, 0xCD, 0xAB, 0xCD, 0xAB]),
    ] {
        for command in
            [&["send", "-W", "1ms"][..], &["ping", "-c", "1", "-W", "1ms"], &["bench", "-n", "1", "-W", "1ms"]]
        {
            let (socket, address) = listener();
            output(&[command, options, &[&address]].concat());
            assert_eq!(receive(&socket), expected, "{command:?} {options:?}");
        }
    }
    let (socket, address) = listener();
    run(udpong(&["send", &address, "--file", "-", "--no-wait"]).arg("-4"), b"two\nlines");
    assert_eq!(receive(&socket), b"two\nlines");
}

#[test]
fn own_payloads_exclude_each_other() {
    for (options, option) in [
        (&["--hex", "00", "-s", "5"][..], "--size"),
        (&["--hex", "00", "--file", "x"], "--file"),
        (&["--file", "x", "--pattern", "00"], "--pattern"),
    ] {
        for command in ["ping", "bench", "send"] {
            let output = output(&[&[command, ":1"][..], options].concat());
            assert_eq!(output.status.code(), Some(2), "{command} {options:?}");
            assert!(text(&output.stderr).contains(option), "{output:?}");
        }
    }
    for options in [["--hex", "00"], ["--size", "5"]] {
        let output = output(&[&["send", ":1", "message"][..], &options].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains("cannot be used with"), "{output:?}");
    }
}

#[test]
fn file_that_is_no_payload_is_refused() {
    let (too_long, longest) = (NamedTempFile::new().expect("a file"), NamedTempFile::new().expect("a file"));
    fs::write(too_long.path(), vec![0; 65_508]).expect("written");
    fs::write(longest.path(), vec![0; 65_507]).expect("written");
    let too_long = too_long.path().display().to_string();
    for (path, why) in [
        (&*too_long, "it is too long: a datagram carries at most 65507 bytes"),
        ("/dev/zero", "it is too long: a datagram carries at most 65507 bytes"),
        ("/nowhere", "cannot read it: No such file"),
        ("/", "cannot read it: Is a directory"),
    ] {
        let output = output(&["ping", ":1", "-c", "1", "--file", path]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).starts_with(&format!("udpong: {path}: {why}")), "{output:?}");
    }
    let (socket, address) = listener();
    output(&["send", &address, "--no-wait", "--file", &longest.path().display().to_string()]);
    assert_eq!(receive(&socket).len(), 65_507);
}

#[test]
fn name_server_that_is_not_udpong_answers_every_query() {
    needs!("dnsmasq");
    let resolver = Responder::name_server("example.com");
    let query = "123401000001000000000000076578616d706c6503636f6d0000010001";
    let ping = ["-c", "100", "-i", "5ms", "-W", "10s", "--json", "--hex", query];
    let ping = report(&output(&[&["ping", &resolver.target()][..], &ping].concat()));
    assert_eq!((&ping["answered"], &ping["sent"], &ping["duplicate"]), (&100.into(), &100.into(), &0.into()), "{ping}");
    let bench = ["-n", "500", "-c", "2", "-W", "10s", "--json", "--hex", query];
    let bench = report(&output(&[&["bench", &resolver.target()][..], &bench].concat()));
    assert_eq!((&bench["answered"], &bench["sent"]), (&500.into(), &500.into()), "{bench}");
    let answer = output(&["send", &resolver.target(), "--hex", query, "--raw", "-W", "10s"]).stdout;
    assert!(answer.ends_with(&[0, 4, 192, 0, 2, 7]), "{answer:?}");
}

/// Answers like a name server and a time server, with what was asked and more or with something else, and with a fixed
/// text.
#[test]
fn responders_of_other_protocols_lose_only_what_is_lost() {
    needs!("python3");
    let dns = "123401000001000000000000076578616d706c6503636f6d0000010001";
    let ntp = format!("e3{}", "00".repeat(47));
    let name_server = "def answer(n, data, to):
    if n != 7: server.sendto(data[:2] + b'\\x81\\x80' + data[4:] + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x7f\\0\\0\\1', to)";
    let time_server = "def answer(n, data, to):
    if n != 7: server.sendto(b'\\x24' + n.to_bytes(8, 'big') * 5 + bytes(7), to)";
    let fixed = "def answer(n, data, to):
    if n != 7: server.sendto(b'OK', to)";
    for (responder, payload) in [(name_server, dns), (time_server, &ntp), (fixed, "ffffffff676574")] {
        let responder = Responder::python(responder);
        let arguments = ["-c", "20", "-i", "20ms", "-W", "2s", "--json", "--hex", payload];
        let report = report(&output(&[&["ping", &responder.target()][..], &arguments].concat()));
        assert_eq!(
            (&report["answered"], &report["lost"], &report["sent"]),
            (&19.into(), &1.into(), &20.into()),
            "{report}"
        );
        assert_eq!((&report["attribution"], &report["size"]), (&"port".into(), &(payload.len() / 2).into()));
    }
}

#[test]
fn message_is_sent_once_unless_more_is_asked_for() {
    let (socket, address) = listener();
    let output = output(&["send", &address, "only once", "-W", "100ms"]);
    assert!(text(&output.stderr).contains("(sent once)"), "{output:?}");
    assert_eq!(receive(&socket), b"only once");
    socket.set_nonblocking(true).expect("a socket");
    assert!(socket.recv(&mut [0; 10]).is_err());
}

#[test]
fn no_wait_sends_and_ends() {
    let (socket, address) = listener();
    let start = Instant::now();
    let output = run(&mut udpong(&["send", &address, "--no-wait"]), b"requests:1|c\nrequests:2|c\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
    assert_eq!((receive(&socket), receive(&socket)), (b"requests:1|c".to_vec(), b"requests:2|c".to_vec()));
    let closed = closed_address().to_string();
    let output = run(&mut udpong(&["send", &closed, "--no-wait"]), b"nobody\nlistens\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn bench_sends_the_number_that_is_asked_for() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    for load in [&["-c", "3"][..], &["--in-flight", "8", "--segments", "4"], &["-r", "1k"]] {
        let report =
            report(&output(&[&["bench", &target, "-n", "250", "-W", "10s", "-q", "--json"][..], load].concat()));
        assert_eq!((&report["sent"], &report["answered"]), (&250.into(), &250.into()), "{load:?}: {report}");
        assert!(report["answers_per_second"].as_f64() > Some(0.0), "{report}");
    }
    let report = report(&output(&["bench", &target, "-n", "1M", "-t", "200ms", "-r", "1k", "--json"]));
    assert!(report["sent"].as_u64().is_some_and(|sent| (1..=200).contains(&sent)), "-t still limits: {report}");
}

#[test]
fn mistakes_are_usage_errors_that_say_what_to_write() {
    for (arguments, hint) in [
        (&["bench", ":1", "-q", "100"][..], "the rate is -r 100"),
        (&["bench", "-q", "100", ":1"], "the rate is -r 100"),
        (&["bench", ":1", "-z", "5s"], "the time to measure is -t"),
        (&["ping", ":1", "-t", "64"], "the hop limit is --ttl"),
        (&["ping", ":1", "-M", "do"], "--dont-fragment"),
        (&["send", ":1", "-w", "1"], "the time to wait for an answer is -W"),
        (&["bench", ":1", "--rate", "1.5k"], "write 1500\n"),
        (&["bench", "localhost", "7"], "write localhost:7\n"),
        (&["bench", "224.0.0.1:7"], "224.0.0.1 is a multicast address, which is not supported"),
        (&["ping", ":1", "-A"], "udpong bench"),
        (&["ping", ":1", "-f"], "udpong bench"),
        (&["ping", ":1", "-i", "1x"], "write a number and a unit, such as 300ms"),
        (&["ping", ":1", "--flows", "0"], "write a number from 1 to 1024\n"),
        (&["ping", ":1", "--ttl", "0"], "write a number from 1 to 255\n"),
        (&["bench", ":1", "--segments", "65"], "write a number from 1 to 64\n"),
        (&["ping", ":1", "-c", "-1"], "'-1' for '--count <N>': write a whole number of at least 1"),
        (&["ping", "-i", "-1", ":1"], "'-1' for '--interval <DURATION>': write a duration longer than 0"),
        (&["bench", ":1", "--rate", "-5"], "'-5' for '--rate <R>': write a whole number from 1 to 4294967295"),
        (&["bench", ":1", "--rate", "5000M"], "write a whole number from 1 to 4294967295"),
        (&["bench", ":1", "-t", "-.5s"], "'-.5s' for '--time <DURATION>': write a duration longer than 0"),
        (&["send", ":1", "--retries", "-1"], "'-1' for '--retries <N>': write a number from 0 to 4294967295\n"),
        (&["relay", ":1", ":2", "--loss", "-1%"], "write 0% to 100%"),
        (&["send", "localhost", "-p", "7"], "the port is part of the target, as in HOST:5000"),
        (&["relay", ":1", ":2", "--latency", "40ms"], "the delay is --delay"),
        (&["relay", ":1", ":2", "--drop=1%"], "the loss is --loss"),
        (&["ping", ":1", "--unheard-of"], "unexpected argument '--unheard-of' found\n\nUsage: udpong ping"),
        (&["send", ":1", "--unheard-of"], "tip: to pass '--unheard-of' as a value, use '-- --unheard-of'"),
        (&["send", ":1", "-1"], "tip: to pass '-1' as a value, write -- before it"),
        (&["send", ":1", "-12.5"], "unexpected argument '-12.5' found\n\n  tip: to pass '-12.5' as a value, write"),
        (&["send", ":1", "-5 °C"], "tip: to pass '-5 °C' as a value, write -- before it"),
        (&["report", "-a.hdr"], "tip: to pass '-a.hdr' as a value, write -- before it"),
        (&["send", ":1", "-4x", "-x"], "unexpected argument '-x' found"),
        (&["ping", "5000"], "write :5000\n"),
        (&["ping", "70000"], "write HOST:PORT"),
        (&["ping", "localhost", "7"], "a host and its port are one word: write localhost:7\n"),
        (&["ping", "a:1", "[::1]", "7", "-c", "1"], "write [::1]:7\n"),
        (&["ping", "udp://localhost:7"], "write localhost:7\n"),
        (&["ping", "127.0.0.1:99999"], "write a number from 1 to 65535\n"),
        (&["ping", "255.255.255.255:7"], "255.255.255.255 is a broadcast address, which is not supported"),
        (&["send", "[ff02::1]:7", "hi"], "ff02::1 is a multicast address, which is not supported"),
        (&["send", "localhost", "7", "hi"], "write localhost:7\n"),
        (&["send", "udp://[::1]:7/", "hi"], "write [::1]:7\n"),
        (&["send", "UDP:localhost:7", "hi"], "is an address of socat: write localhost:7\n"),
        (&["relay", "udp://:7000", ":7"], "write :7000\n"),
        (&["send", "5000", "hi", "there"], "write a message of several words in quotes"),
        (&["report", "a.hdr", "-o", "x"], "write > FILE for the report"),
        (&["ping", "127.0.0.1:1,127.0.0.1:2"], "is not an address: write HOST:PORT"),
    ] {
        // So that one that is accepted ends, too.
        let end = match arguments[0] {
            "ping" => &["-w", "1s"][..],
            "relay" => &["--for", "1s"],
            _ => &[],
        };
        let output = output(&[arguments, end].concat());
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{arguments:?}");
        assert!(text(&output.stderr).contains(hint), "{arguments:?}: {output:?}");
    }
    // A number may be a message: this is a failure, and not wrong.
    let output = output(&["send", "127.0.0.99", "7", "-W", "1ms"]);
    assert!(text(&output.stderr).contains("127.0.0.99:7"), "{output:?}");
}

#[test]
fn subnet_broadcast_is_not_supported_and_a_prohibited_route_is_no_broadcast() {
    run_in_namespace!();
    shell("ip address add 10.0.0.1/24 dev lo; ip route add prohibit 10.1.0.1");
    for arguments in [&["ping"][..], &["bench"], &["send"]] {
        let errors = |target| text(&output(&[arguments, &[target]].concat()).stderr);
        let broadcast =
            "udpong: 10.0.0.255 is a broadcast address, which is not supported: write the address of one host\n";
        assert_eq!(errors("10.0.0.255:7"), broadcast);
        assert!(errors("10.1.0.1:7").contains("cannot reach 10.1.0.1:7: Permission denied"));
    }
}

#[test]
fn numbers_without_a_unit_are_seconds_and_the_interval_is_shown() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let ping = |arguments: &[&str]| output(&[&["ping", &target, "-c", "1"], arguments].concat());
    assert_eq!(report(&ping(&["-i", "0.2", "-W", "2", "--json"]))["interval_ms"], 200.0);
    assert!(text(&ping(&["-i", "0.2"]).stdout).contains(": 56 bytes every 200ms\n"));
    // Minutes, which may be a surprise.
    assert!(text(&ping(&["-i", "200m"]).stdout).contains(": 56 bytes every 3h 20m\n"));
    let output = ping(&["-i", "200m", "--json"]);
    assert_eq!(text(&output.stderr), "udpong: sending a probe every 3h 20m\n");
}

#[test]
fn timestamps_precede_lines() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let stdout = text(&output(&["ping", &server.address().to_string(), "-c", "2", "-i", "10ms", "-D"]).stdout);
    let times =
        stdout.lines().filter_map(|line| line.strip_prefix('[')?.split_once("] 56 bytes from ")?.0.parse().ok());
    let times: Vec<f64> = times.collect();
    assert!(times.len() == 2 && times.is_sorted() && times[0] > 1.7e9, "{stdout}");
}

#[test]
fn probes_leave_from_the_address_and_with_the_header_that_are_asked_for() {
    needs!("python3");
    let responder = Responder::python(
        "
server.setsockopt(socket.IPPROTO_IP, 13, 1)
server.setsockopt(socket.IPPROTO_IP, 12, 1)
def answer(n, data, to): pass
print(server.getsockname()[1], flush=True)
while True:
    data, control, flags, to = server.recvmsg(2000, 200)
    server.sendto(repr((to[0], [list(value)[0] for level, kind, value in control])).encode(), to)
",
    );
    for (options, expected) in [
        (&["-I", "127.0.0.7", "-Q", "0xb8", "--ttl", "9"][..], "('127.0.0.7', [9, 184])"),
        (&["--dscp", "AF41", "--dont-fragment"], "('127.0.0.1', [64, 136])"),
        (&["-I", "lo"], "('127.0.0.1', [64, 0])"),
    ] {
        let output = output(&[&["send", &responder.target(), "-W", "10s", "x"][..], options].concat());
        assert_eq!(text(&output.stdout).trim_end(), expected, "{output:?}");
    }
    for command in ["ping", "bench", "send"] {
        for (source, why) in
            [("203.0.113.9", "cannot send from 203.0.113.9"), ("nowhere0", "cannot send from nowhere0")]
        {
            let output = output(&[command, &responder.target(), "-I", source]);
            assert_ne!(output.status.code(), Some(0));
            assert!(text(&output.stderr).contains(why), "{output:?}");
        }
    }
}

#[test]
fn datagram_over_the_mtu_fails_if_it_must_not_be_fragmented() {
    run_in_namespace!();
    shell("ip link set lo mtu 1500");
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let ping = ["ping", &target, "-s", "2000", "-c", "3", "-i", "10ms", "-W", "1s", "--json"];
    assert_eq!(report(&output(&ping))["answered"], 3);
    let output = output(&[&ping[..], &["--dont-fragment"]].concat());
    assert_eq!(report(&output)["refused"], 3, "{output:?}");
}

#[test]
fn several_targets_have_a_line_each_and_any_broken_one_fails() {
    let server = Server::start_many(2, &["echo@127.0.0.1:0", "hello@127.0.0.1:0", "-q"]);
    let [one, other] = server.addresses() else { panic!("two addresses") };
    let (one, other, closed) = (one.to_string(), other.to_string(), closed_address().to_string());
    let arguments = ["-c", "3", "-i", "20ms", "-W", "2s"];
    let good = output(&[&["ping", &one, &other][..], &arguments].concat());
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let stdout = text(&good.stdout);
    for target in [&one, &other] {
        assert_eq!(stdout.matches(&format!("from {target}: seq=")).count(), 3, "{stdout}");
        assert!(stdout.lines().any(|line| line.split_whitespace().take(3).eq([target, "3", "0"])), "{stdout}");
    }
    let bad = output(&[&["ping", &one, &closed, "--json"][..], &arguments].concat());
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(text(&bad.stderr).contains(&format!("1 of 2 targets failed: no answer from {closed}")), "{bad:?}");
    let reports: Vec<Value> = text(&bad.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&reports[0]["target"], &reports[0]["answered"]), (&one.into(), &3.into()));
    assert_eq!((&reports[1]["target"], &reports[1]["refused"], reports.len()), (&closed.into(), &3.into(), 2));
}

#[test]
fn target_that_cannot_be_reached_does_not_keep_the_others_from_being_pinged() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let (good, bad) = (server.address().to_string(), "name.invalid:9");
    let mixed = output(&["ping", bad, &good, "-c", "2", "-i", "10ms", "-q"]);
    assert_eq!(mixed.status.code(), Some(1), "{mixed:?}");
    let stdout = text(&mixed.stdout);
    assert!(stdout.lines().any(|line| line.split_whitespace().take(3).eq([&*good, "2", "0"])), "{stdout}");
    let stderr = text(&mixed.stderr);
    assert!(stderr.contains("udpong: 1 of 2 targets failed: cannot look up \"name.invalid\""), "{stderr}");
    assert_eq!(output(&["ping", bad, bad]).status.code(), Some(1));
    assert_eq!(output(&["ping", bad]).status.code(), Some(2));
    assert_eq!(output(&["ping", &good, ":0"]).status.code(), Some(2), "no address");
}

#[test]
fn thousand_targets_are_pinged_with_few_open_files_allowed() {
    let server = Server::start(&["echo@0.0.0.0:0", "-q"]);
    let port = server.address().port();
    let targets: Vec<String> =
        (0..1000).map(|target| format!("127.1.{}.{}:{port}", target / 200, 1 + target % 200)).collect();
    let program = env!("CARGO_BIN_EXE_udpong");
    let script = format!("ulimit -S -n 256; exec {program} ping -c 1 -W 10s -q --json {}", targets.join(" "));
    let output = run(std::process::Command::new("sh").args(["-c", &script]), b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answered = text(&output.stdout).lines().filter(|line| line.contains("\"answered\":1,")).count();
    assert_eq!(answered, 1000);
}

#[test]
fn interrupted_ping_of_several_targets_reports_all() {
    let server = Server::start_many(2, &["echo@127.0.0.1:0", "echo@127.0.0.1:0", "-q"]);
    let targets: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    let mut command = udpong(&["ping", &targets[0], &targets[1], "-i", "10ms", "--json"]);
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("udpong");
    std::thread::sleep(Duration::from_millis(500));
    signal("INT", child.id());
    let output = child.wait_with_output().expect("the output");
    assert_eq!((output.status.code(), text(&output.stdout).lines().count()), (Some(0), 2), "{output:?}");
}
