//! What cannot be served: a usage error or a failure ends with a message that suggests what to write
//! instead, and leaves nothing half started.

use std::net::UdpSocket;
use std::process::{Command, Output};

use crate::harness::{in_namespace, needs, run, udpong};

/// Runs `udpong serve`, which has to end by itself.
fn serve(arguments: &[&str]) -> Output {
    run(udpong(&["serve"]).args(arguments), b"")
}

/// Checks the exit code and that the output is one line on stderr; returns the line.
fn one_line(what: &str, output: &Output, code: i32) -> String {
    let error = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{what}: {error}");
    assert_eq!(output.stdout, b"", "{what}");
    assert!(error.starts_with("udpong: ") && error.ends_with('\n') && error.lines().count() == 1, "{what}: {error}");
    error
}

#[test]
fn wrong_service_is_exit_2_and_says_what_to_write() {
    let wrong: [(&[&str], &str); 30] = [
        (&["helo"], "there is no service \"helo\" (choose hello, echo, fixed, ack, discard, stamp or reply=TEXT)"),
        (&[""], "there is no service \"\" (choose"),
        (&["Hello"], "there is no service \"Hello\" (choose"),
        (&["5000"], "there is no service \"5000\": to listen there, write hello@:5000"),
        (&[":5000"], "there is no service \":5000\": to listen there, write hello@:5000"),
        (&["echo:7000"], "there is no service \"echo:7000\": to listen there, write echo@:7000"),
        (&["[::1]:7000"], "there is no service \"[::1]:7000\": to listen there, write hello@[::1]:7000"),
        (&["hello:you"], "there is no service \"hello:you\" (choose"),
        (&["hello", "no\x1b[31m\nsuch"], "there is no service \"no\\u{1b}[31m\\nsuch\" (choose"),
        (&["reply={}{}@:7000"], "the message, {}, can appear in a reply only once"),
        (&["reply=a {} b {} c@127.0.0.1:0"], "the message, {}, can appear in a reply only once"),
        (&["reply={@127.0.0.1:0"], "a single { in a reply: write {{ for a brace, {} for the message"),
        (&["reply=hi"], "reply=hi needs an address: write reply=hi@HOST:PORT"),
        (
            &["reply=hi@:7000"],
            "reply=hi needs a host: write reply=hi@127.0.0.1:7000, or reply=hi@0.0.0.0:7000 for every address",
        ),
        (&["hello@5000"], "hello@5000 lacks a colon: write hello@:5000"),
        (&["discard"], "discard needs an address: write discard@HOST:PORT"),
        (&["hello@127.0.0.1:65536"], "\"65536\" is not a port: write a number from 1 to 65535, or 0 for any free one"),
        (&["hello@127.0.0.1:-1"], "\"-1\" is not a port"),
        (&["hello@127.0.0.1:http"], "\"http\" is not a port"),
        (&["hello@127.0.0.1:"], "\"\" is not a port"),
        (&["hello@::1:5000"], "has too many colons: write an IPv6 address in brackets, as in [::1]:5000"),
        (&["hello@"], "\"\" is not an address: write HOST:PORT, :PORT, HOST or [IPV6]:PORT"),
        (&["hello@127.0.0.1:7000", "echo@127.0.0.1:7000"], "cannot share the port: try echo@127.0.0.1:7001"),
        (&["hello@127.0.0.1:7000", "echo@0.0.0.0:7000"], "cannot share the port: try echo@0.0.0.0:7001"),
        (&["hello@:7000", "echo@127.0.0.2:7000"], "cannot share the port: try echo@127.0.0.2:7001"),
        (&["hello@[::]:7000", "echo@0.0.0.0:7000"], "cannot share the port: try echo@0.0.0.0:7001"),
        (&["hello@:7000", "echo@[::]:7000"], "cannot share the port: try echo@[::]:7001"),
        (
            &["hello@127.0.0.1:7000", "ack@127.0.0.1:7001", "echo@127.0.0.1:7000"],
            "cannot share the port: try echo@127.0.0.1:7002",
        ),
        (
            &["echo@127.0.0.1:7000", "echo@127.0.0.1:7000", "hello@127.0.0.1:7001"],
            "cannot share the port: try echo@127.0.0.1:7002",
        ),
        (&["fixed", "fixed"], "fixed on 127.0.0.1:20001 and fixed on 127.0.0.1:20001 cannot share the port"),
    ];
    for (arguments, advice) in wrong {
        let what = format!("{arguments:?}");
        let line = one_line(&what, &serve(arguments), 2);
        assert!(line.contains(advice), "{what}: {line}");
    }
}

#[test]
fn wrong_option_is_exit_2_and_says_what_to_write() {
    let wrong: [(&[&str], &str); 9] = [
        (&["--for", "5x"], "write a number and a unit, such as 300ms, 5s or 1m30s"),
        (&["--grace=-1s"], "write a number and a unit, such as 300ms, 5s or 1m30s"),
        (&["--stats", "0s"], "write a duration longer than 0, such as 300ms"),
        (&["--count", "0"], "write a whole number of at least 1, such as 1000, 10k or 2M"),
        (&["--recv-buffer", "lots"], "write 1 to 1023M bytes, such as 65536, 64k or 4M"),
        (&["--send-buffer", "2000M"], "write 1 to 1023M bytes, such as 65536, 64k or 4M"),
        (&["--log", "loud"], "--log"),
        (&["--json=yes"], "--json"),
        (&["--nonsense"], "--nonsense"),
    ];
    for (arguments, advice) in wrong {
        let output = serve(arguments);
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.contains(advice), "{arguments:?}: {error}");
    }
}

#[test]
fn port_option_is_exit_2_and_suggests_the_service_syntax() {
    let advice = "the port is part of the service, as in hello@:5000";
    for arguments in [&["--port", "5000"][..], &["--port=5000"], &["-p", "5000"], &["-p5000"], &["echo", "--port"]] {
        let line = one_line(&format!("{arguments:?}"), &serve(arguments), 2);
        assert!(line.contains("there is no option ") && line.contains(advice), "{arguments:?}: {line}");
    }
    let output = run(&mut udpong(&["send", "-p", "5000"]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&output.stderr).contains(advice), "{output:?}");
}

#[test]
fn help_and_version_are_exit_0_and_no_command_is_exit_2() {
    for arguments in [&["--help"][..], &["-h"], &["help", "serve"], &["serve", "--help"]] {
        let output = run(&mut udpong(arguments), b"");
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("serve"), "{output:?}");
    }
    let version = run(&mut udpong(&["--version"]), b"");
    assert!(version.status.success());
    assert_eq!(version.stdout, format!("udpong {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    assert_eq!(run(&mut udpong(&[]), b"").status.code(), Some(2));
}

#[test]
fn address_in_use_is_exit_1_and_leaves_nothing_bound() {
    let holder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("an address");
    // On an address that no other test binds.
    let free = UdpSocket::bind("127.0.0.97:0").expect("a free port").local_addr().expect("an address");
    let first = format!("hello@{free}");
    for host in ["127.0.0.1", "0.0.0.0"] {
        let output = serve(&[&first, &format!("echo@{host}:{}", taken.port())]);
        let line = one_line(host, &output, 1);
        let place = format!("cannot listen on {host}:{} (echo): address already in use", taken.port());
        assert!(line.contains(&place), "{line}");
        assert!(line.contains("is another server running? try echo@"), "{line}");
        UdpSocket::bind(free).expect("the first service's port is free again");
    }
}

#[test]
fn port_that_is_suggested_is_free() {
    let bind = |port: u16| UdpSocket::bind(("127.0.0.98", port)).ok();
    let port_of = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
    let (holder, _next) = std::iter::repeat_with(|| bind(0).expect("a free port"))
        .find_map(|holder| bind(port_of(&holder).checked_add(1)?).map(|next| (holder, next)))
        .expect("two ports");
    let port = port_of(&holder);
    let line = one_line("a held port", &serve(&[&format!("echo@127.0.0.98:{port}")]), 1);
    let suggested = line.trim_end().strip_suffix(')').and_then(|line| line.rsplit_once(" try echo@127.0.0.98:"));
    let suggested: u16 = suggested.and_then(|(_, port)| port.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    assert!(suggested != port && suggested != port + 1, "{line}");
}

#[test]
fn foreign_address_is_exit_1() {
    let line = one_line("192.0.2.1", &serve(&["hello@127.0.0.1:0", "echo@192.0.2.1:7000"]), 1);
    assert!(line.contains("cannot listen on 192.0.2.1:7000 (echo): this machine has no such address"), "{line}");
}

#[test]
fn unknown_host_is_exit_1() {
    needs!("unshare", "ip");
    // In a namespace no name server is reached.
    if in_namespace("usage::unknown_host_is_exit_1") {
        let line = one_line("a name", &serve(&["hello@127.0.0.1:7000", "echo@nowhere.invalid:7001"]), 1);
        assert!(line.contains("cannot look up \"nowhere.invalid\" for echo: "), "{line}");
        assert!(line.contains("(try an address such as 127.0.0.1)"), "{line}");
    }
}

#[test]
fn privileged_port_is_exit_1() {
    needs!("unshare", "ip", "setpriv");
    if in_namespace("usage::privileged_port_is_exit_1") {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]);
        command.arg(env!("CARGO_BIN_EXE_udpong")).args(["serve", "hello@127.0.0.1:7000", "echo@127.0.0.1:7"]);
        let line = one_line("port 7", &run(&mut command, b""), 1);
        assert!(line.contains("cannot listen on 127.0.0.1:7 (echo): permission denied"), "{line}");
        assert!(line.contains("low ports need root or CAP_NET_BIND_SERVICE; try echo@127.0.0.1:1025"), "{line}");
    }
}

#[test]
fn report_that_cannot_be_printed_is_exit_1() {
    needs!("sh");
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec \"$0\" serve hello@127.0.0.1:0 --for 1ms --json >/dev/full");
    let output = run(command.arg(env!("CARGO_BIN_EXE_udpong")), b"");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.lines().last().is_some_and(|line| line.starts_with("udpong: cannot print the report: ")), "{error}");
}

#[test]
fn target_that_is_a_port_or_a_message_is_not_looked_up() {
    for (arguments, message) in [
        (&["send", "5000", "hi"][..], "udpong: \"5000\" is a port without its colon: write :5000\n"),
        (&["ping", "5000"], "udpong: \"5000\" is a port without its colon: write :5000\n"),
        (
            &["send", "Hello, server!"],
            "udpong: \"Hello, server!\" is not an address: write HOST:PORT, :PORT, HOST or [IPV6]:PORT \
             (to send it as a message: udpong send :5000 'Hello, server!')\n",
        ),
    ] {
        let output = run(&mut udpong(arguments), b"");
        assert_eq!(String::from_utf8_lossy(&output.stderr), message);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
