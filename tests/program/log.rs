//! The log: its lines and levels, escaping of untrusted bytes, and a stderr that is slow, stuck or closed.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Server, ServerOutput, connect, flood, needs, receive, request, request_until_answered, run, udpong,
};

const HELLO: [&str; 6] = ["serve", "hello@127.0.0.1:0", "--json", "--no-guard", "--grace", "60s"];

/// Floods a server, stops it, and checks that it answered every datagram for which the kernel had room.
fn flood_and_stop(server: Server, datagrams: u64) {
    flood(server.address(), b"a message", datagrams);
    let requests = request_until_answered(server.address());
    stop(server, datagrams + requests);
}

fn stop(server: Server, sent: u64) -> ServerOutput {
    let output = server.stop_and_account_for(sent);
    let endpoint = output.endpoint();
    assert_eq!(endpoint.get("received"), endpoint.get("answered"), "{endpoint:?}");
    output
}

#[test]
fn unread_pipe_costs_log_lines_and_no_datagrams() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let mut server = Server::spawn_without_log(udpong(&HELLO).stderr(writer));
    flood(server.address(), b"a message", 100_000);
    let requests = request_until_answered(server.address());
    server.read_log(reader);
    server.wait_for_line(" log lines skipped", 0);
    let output = stop(server, 100_000 + requests);
    let skipped = output.log.iter().filter_map(|line| line.strip_suffix(" log lines skipped")?.split("] ").nth(1));
    let skipped: usize = skipped.map(|count| count.parse::<usize>().expect("a count")).sum();
    let logged = output.count_lines("Received message from ") + output.count_lines("Sent response to ");
    assert_eq!((logged + skipped) as u64, 2 * output.endpoint().get("received"));
    assert_eq!(output.count_lines("Server is listening on "), 1);
    assert_eq!(output.count_lines("dropped by the kernel"), 1);
}

#[test]
fn stuck_stderr_does_not_prevent_shutdown() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let server = Server::spawn_without_log(udpong(&HELLO[..4]).stderr(writer));
    flood(server.address(), b"a message", 10_000);
    request_until_answered(server.address());
    let output = server.stop();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.endpoint().get("answered") > 0);
    drop(reader);
}

#[test]
fn slow_stderr_costs_no_datagrams() {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let server = Server::spawn_without_log(udpong(&HELLO[..4]).stderr(writer));
    let slow_reader = thread::spawn(move || {
        while reader.read(&mut [0; 100]).is_ok_and(|read| read > 0) {
            thread::sleep(Duration::from_millis(2));
        }
    });
    flood_and_stop(server, 20_000);
    slow_reader.join().expect("the slow reader");
}

#[test]
fn closed_pipe_costs_no_datagrams() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    flood_and_stop(Server::spawn_without_log(udpong(&HELLO).stderr(writer)), 20_000);
}

#[test]
fn full_device_costs_no_datagrams() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    flood_and_stop(Server::spawn_without_log(udpong(&HELLO).stderr(full)), 20_000);
}

/// Returns a shell that redirects its files and becomes the program.
fn redirected(redirection: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec \"$0\" \"$@\" {redirection}"));
    command.arg(env!("CARGO_BIN_EXE_udpong")).args(arguments).stderr(Stdio::null()).env_remove("RUST_LOG");
    command
}

#[test]
fn closed_stderr_costs_no_datagrams() {
    needs!("sh");
    flood_and_stop(Server::spawn_without_log(&mut redirected("2>&-", &HELLO)), 20_000);
}

#[test]
fn serves_and_stops_without_stdout_and_stderr() {
    needs!("sh");
    for redirection in [">&2", ">&- 2>&- <&-"] {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let mut command = redirected(redirection, &["serve", "hello@127.0.0.1:0", "--no-guard"]);
        let server = Server::spawn_without_log(command.stderr(writer));
        let socket = connect(server.address());
        for _ in 0..1000 {
            assert_eq!(request(&socket, b"you"), b"Hello you");
        }
        assert_eq!(server.stop().status.code(), Some(0), "{redirection}");
    }
}

#[test]
fn quiet_removes_only_the_lines_of_single_datagrams() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "-q", "--stats=50ms"]);
    let socket = connect(server.address());
    socket.send(&[b'x'; 65_507]).expect("sent");
    assert_eq!(request(&socket, b"you"), b"Hello you");
    server.wait_for_line("received 2 ", 0);
    let log = server.stop().log.join("\n");
    for text in ["Server is listening on ", "Cannot send 65513 bytes to ", "received/s", "unsent 0"] {
        assert!(log.contains(text), "{text} is not in the log: {log}");
    }
    assert!(!log.contains("Received message") && !log.contains("Sent response"), "{log}");
}

#[test]
fn log_option_overrides_rust_log() {
    let log = |level: Option<&str>, arguments: &[&str]| {
        let mut command = udpong(&["serve", "hello@0.0.0.0:0", "--for", "1ms", "--io", "portable"]);
        command.args(arguments);
        if let Some(level) = level {
            command.env("RUST_LOG", level);
        }
        let output = run(&mut command, b"");
        assert!(output.status.success() && output.stdout.is_empty(), "{level:?} {arguments:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let (info, debug) = ("Server is listening on ", "leave from an address that the system chooses");
    for (level, arguments) in
        [(None, &[][..]), (Some("info"), &[]), (Some("off"), &["--log", "info"]), (Some("trace"), &["--log=INFO"])]
    {
        let log = log(level, arguments);
        assert!(log.contains(info) && !log.contains(debug), "{level:?} {arguments:?}: {log}");
    }
    for (level, arguments) in [(Some("debug"), &[][..]), (Some("off"), &["--log", "debug"]), (None, &["--log=trace"])] {
        let log = log(level, arguments);
        assert!(log.contains(info) && log.matches(debug).count() == 1, "{level:?} {arguments:?}: {log}");
    }
    for (level, arguments) in [(Some("warn"), &[][..]), (Some("off"), &[]), (Some("trace"), &["--log", "error"])] {
        assert_eq!(log(level, arguments), "", "{level:?} {arguments:?}");
    }
    for (level, arguments) in [(Some(""), &[][..]), (Some("nonsense"), &["--log", "info"]), (Some("INFO"), &[])] {
        assert!(log(level, arguments).contains(info), "{level:?} {arguments:?}");
    }
}

#[test]
fn unknown_level_in_rust_log_is_a_usage_error() {
    for level in ["nonsense", "udpong=debug", "5"] {
        let output = run(udpong(&["serve", "hello@127.0.0.1:0", "--for", "1ms"]).env("RUST_LOG", level), b"");
        let message = format!("udpong: RUST_LOG is {level:?}: write off, error, warn, info, debug or trace\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), message);
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn untrusted_bytes_are_escaped_and_cut() {
    let mut server = Server::start(&["echo@127.0.0.1:0", "--json"]);
    let socket = connect(server.address());
    let hostile: [&[u8]; 12] = [
        b"\x1b[2J\x1b]0;owned\x07",
        b"\n2026-01-01T00:00:00.000Z INFO  [udpong::server] Server is listening on 6.6.6.6:666 (fake)\n",
        b"\r",
        b"\0",
        b"\x7f\x08\x08",
        "\u{202e}\u{2066}\u{200f}".as_bytes(),
        "\u{9b}31m\u{85}".as_bytes(),
        "\u{2028}\u{2029}\u{feff}".as_bytes(),
        "a\u{301}\u{301}\u{301}".as_bytes(),
        b"\xff\xfe\xc0\x80\xed\xa0\x80",
        b"\xf0\x9f\xa6",
        b"{}\"\\\"}",
    ];
    for part in hostile {
        assert_eq!(request(&socket, part), part);
        let long: Vec<u8> = part.iter().copied().cycle().take(65_507).collect();
        assert_eq!(request(&socket, &long), long);
    }
    server.wait_for_line("Sent response", 23);
    let output = server.stop();
    assert_eq!(output.log.len(), 1 + 4 * hostile.len() + 1);
    for line in &output.log {
        let is_unsafe = |c: char| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        assert!(!line.contains(is_unsafe), "{line:?}");
        assert!(line.chars().count() < 400, "{line}");
    }
    assert!(output.count_lines(r": \u{1b}[2J\u{1b}]0;owned\u{7} (14 bytes)") > 0);
    assert_eq!(output.endpoint().get("answered"), 2 * hostile.len() as u64);
    assert!(output.stdout.trim_end().chars().all(|c| (' '..='~').contains(&c)), "{}", output.stdout);
}

#[test]
fn repeated_error_is_logged_once() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "-q", "--json"]);
    let socket = connect(server.address());
    for _ in 0..50 {
        socket.send(&[b'x'; 65_507]).expect("sent");
        assert_eq!(request(&socket, b"you"), b"Hello you");
    }
    server.wait_for_line("Cannot send", 0);
    let output = server.stop();
    assert_eq!(output.endpoint().count("failed", "EMSGSIZE"), 50);
    assert_eq!(output.count_lines("Cannot send"), 1);
    assert_eq!(output.log.len(), 3, "{:#?}", output.log);
}

#[test]
fn lines_keep_the_order_of_datagrams() {
    let mut server = Server::start(&["echo@127.0.0.1:0"]);
    let socket = connect(server.address());
    for i in 0..50 {
        socket.send(format!("<{i}>").as_bytes()).expect("sent");
    }
    for _ in 0..50 {
        receive(&socket);
    }
    server.wait_for_line("Sent response", 49);
    let log = server.stop().log;
    for text in ["Received message", "Sent response"] {
        let lines = log.iter().filter(|line| line.contains(text));
        let numbers: Vec<&str> = lines.map(|line| line.split(['<', '>']).nth(1).expect("a number")).collect();
        assert_eq!(numbers, (0..50).map(|i| i.to_string()).collect::<Vec<_>>());
    }
}

/// Returns the largest buffer that the system grants without privileges, in bytes.
fn largest_buffer(sysctl: &str) -> usize {
    let limit = std::fs::read_to_string(format!("/proc/sys/net/core/{sysctl}")).expect("a limit");
    limit.trim().parse().expect("a number")
}

/// As a warning where the size was given, at debug level where it is the default.
#[test]
fn reduced_buffer_size_is_logged() {
    let log = |arguments: &[&str]| {
        let server = Server::start(&[&["hello@127.0.0.1:0", "--log=debug"], arguments].concat());
        server.stop().log
    };
    let too_large = log(&["--recv-buffer=1023M", "--send-buffer=1023M"]);
    let default = log(&[]);
    let granted = log(&["--recv-buffer=4k", "--send-buffer=8k"]);
    for (name, limit) in [("receive", largest_buffer("rmem_max")), ("send", largest_buffer("wmem_max"))] {
        let count = |log: &[String], level: &str, size: usize| {
            let end = format!(" bytes, not {size}: the system sets a limit");
            let start = format!("The {name} buffer on 127.0.0.1:");
            let lines: Vec<_> = log.iter().filter(|line| line.contains(&start)).collect();
            assert!(lines.iter().all(|line| line.contains(level) && line.ends_with(&end)), "{lines:?}");
            lines.len()
        };
        assert_eq!(count(&too_large, " WARN ", 1023 << 20), usize::from(limit < 1023 << 20), "{name}");
        assert_eq!(count(&default, " DEBUG ", 4 << 20), usize::from(limit < 4 << 20), "{name}");
        assert_eq!(count(&granted, "nothing", 0), 0, "{name}");
    }
}

#[test]
fn datagram_lines_name_the_service_if_there_are_several() {
    for several in [false, true] {
        let services = ["hello@127.0.0.1:0", "reply=@127.0.0.1:0"];
        let mut server = if several { Server::start_many(2, &services) } else { Server::start(&services[..1]) };
        let suffix = |name: &str, i: usize| {
            if several { format!(" by {name} on {}", server.addresses()[i]) } else { String::new() }
        };
        let mut expected =
            vec!["y (1 byte)".to_owned() + &suffix("hello", 0), "Hello y (7 bytes)".to_owned() + &suffix("hello", 0)];
        if several {
            expected
                .extend([" (0 bytes)".to_owned() + &suffix("reply", 1), " (0 bytes)".to_owned() + &suffix("reply", 1)]);
        }
        assert_eq!(request(&connect(server.address()), b"y"), b"Hello y");
        if several {
            assert_eq!(request(&connect(server.addresses()[1]), b""), b"");
        }
        server.wait_for_line("Sent response to ", usize::from(several));
        let log = server.stop().log;
        let lines =
            log.iter().filter(|line| line.contains("Received message from ") || line.contains("Sent response to "));
        let lines: Vec<_> = lines.map(|line| line.split_once(": ").expect("a message").1).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn trace_has_a_line_for_each_iteration_and_turn() {
    let server = Server::start(&["hello@127.0.0.1:0", "--log=trace"]);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    let log = server.stop().log;
    let message = |line: &str| line.split_once("] ").map(|(_, message)| message.to_owned());
    let messages: Vec<_> = log.iter().filter_map(|line| message(line)).collect();
    let received = messages.iter().position(|line| line.starts_with("Received message from ")).expect("a line");
    assert_eq!(
        messages[received - 2..received],
        ["Iteration: timeout None, events 1, tasks ready 1", "Turn of Endpoint(0)"]
    );
}
