//! The log: what it says, how little of it a stranger decides, and that no stderr however bad costs a datagram.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{Finished, Server, ask, client, flood, insist, needs, receive, run, udpong};

const HELLO: [&str; 5] = ["serve", "hello@127.0.0.1:0", "--json", "--grace", "60s"];

/// Sends, stops, and checks that every datagram was answered, unless the kernel had no room for it.
fn send_and_account_for(server: Server, sent: u64) -> Finished {
    flood(server.address(), b"a message", sent);
    let asked = insist(server.address());
    account_for(server, sent + asked)
}

fn account_for(server: Server, sent: u64) -> Finished {
    let finished = server.stop();
    assert_eq!(finished.status.code(), Some(0));
    let endpoint = finished.endpoint();
    assert_eq!(endpoint.get("received") + endpoint.get("kernel_dropped"), sent, "{endpoint:?}");
    assert_eq!(endpoint.get("received"), endpoint.get("answered"), "{endpoint:?}");
    finished
}

#[test]
fn a_pipe_that_nobody_reads_costs_no_datagram_and_the_skipped_lines_are_told() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let mut server = Server::spawn_unheard(udpong(&HELLO).stderr(writer));
    flood(server.address(), b"a message", 100_000);
    let asked = insist(server.address());
    server.hear(reader);
    server.wait_for_line(" log lines skipped", 0);
    let finished = account_for(server, 100_000 + asked);
    let count = |text: &str| finished.log.iter().filter(|line| line.contains(text)).count() as u64;
    let skipped = finished.log.iter().filter_map(|line| line.strip_suffix(" log lines skipped")?.split("] ").nth(1));
    let skipped: u64 = skipped.map(|count| count.parse::<u64>().expect("a count")).sum();
    let told = count("Received message from ") + count("Sent response to ");
    assert_eq!(told + skipped, 2 * finished.endpoint().get("received"));
    assert_eq!((count("Server is listening on "), count("dropped by the kernel")), (1, 1));
}

#[test]
fn a_stuck_stderr_does_not_keep_it_from_stopping() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let server = Server::spawn_unheard(udpong(&["serve", "hello@127.0.0.1:0", "--json"]).stderr(writer));
    flood(server.address(), b"a message", 10_000);
    insist(server.address());
    let finished = server.stop();
    assert_eq!(finished.status.code(), Some(0));
    assert!(finished.endpoint().get("answered") > 0);
    drop(reader);
}

#[test]
fn a_slow_stderr_costs_no_datagram() {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let server = Server::spawn_unheard(udpong(&HELLO[..3]).stderr(writer));
    let slow = thread::spawn(move || {
        while reader.read(&mut [0; 100]).is_ok_and(|read| read > 0) {
            thread::sleep(Duration::from_millis(2));
        }
    });
    send_and_account_for(server, 20_000);
    slow.join().expect("the slow reader");
}

#[test]
fn a_closed_pipe_costs_no_datagram() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    send_and_account_for(Server::spawn_unheard(udpong(&HELLO).stderr(writer)), 20_000);
}

#[test]
fn a_full_device_costs_no_datagram() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    send_and_account_for(Server::spawn_unheard(udpong(&HELLO).stderr(full)), 20_000);
}

/// A shell that becomes the program with other files open than usual.
fn redirected(redirection: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec \"$0\" \"$@\" {redirection}"));
    command.arg(env!("CARGO_BIN_EXE_udpong")).args(arguments).stderr(Stdio::null()).env_remove("RUST_LOG");
    command
}

#[test]
fn a_closed_stderr_costs_no_datagram() {
    needs!("sh");
    send_and_account_for(Server::spawn_unheard(&mut redirected("2>&-", &HELLO)), 20_000);
}

#[test]
fn with_both_outputs_gone_it_answers_and_stops_all_the_same() {
    needs!("sh");
    for redirection in [">&2", ">&- 2>&- <&-"] {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let server = Server::spawn_unheard(redirected(redirection, &["serve", "hello@127.0.0.1:0"]).stderr(writer));
        let socket = client(server.address());
        for _ in 0..1000 {
            assert_eq!(ask(&socket, b"you"), b"Hello you");
        }
        assert_eq!(server.stop().status.code(), Some(0), "{redirection}");
    }
}

#[test]
fn quiet_takes_away_the_lines_about_single_datagrams_and_nothing_else() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "-q", "--stats=50ms"]);
    let socket = client(server.address());
    socket.send(&[b'x'; 65_507]).expect("sent");
    assert_eq!(ask(&socket, b"you"), b"Hello you");
    server.wait_for_line("received 2 ", 0);
    let log = server.stop().log.join("\n");
    for text in ["Server is listening on ", "Cannot send 65513 bytes to ", "received/s", "unsent 0"] {
        assert!(log.contains(text), "{text} is not in the log: {log}");
    }
    assert!(!log.contains("Received message") && !log.contains("Sent response"), "{log}");
}

#[test]
fn the_level_is_rust_logs_unless_log_says_otherwise() {
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
    assert!(log(Some("nonsense"), &[]).contains(info));
}

#[test]
fn bytes_from_strangers_reach_no_terminal_raw() {
    let mut server = Server::start(&["echo@127.0.0.1:0", "--json"]);
    let socket = client(server.address());
    let hostile: [&[u8]; 12] = [
        b"\x1b[2J\x1b]0;owned\x07",
        b"\n2026-01-01T00:00:00.000Z INFO  [udpong::server] Server is listening on 6.6.6.6:666 (forged)\n",
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
        assert_eq!(ask(&socket, part), part);
        let long: Vec<u8> = part.iter().copied().cycle().take(65_507).collect();
        assert_eq!(ask(&socket, &long), long);
    }
    server.wait_for_line("Sent response", 23);
    let finished = server.stop();
    assert_eq!(finished.log.len(), 1 + 4 * hostile.len() + 1);
    for line in &finished.log {
        let bad = |c: char| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        assert!(!line.contains(bad), "{line:?}");
        assert!(line.chars().count() < 400, "{line}");
    }
    assert!(finished.log.iter().any(|line| line.contains(r": \u{1b}[2J\u{1b}]0;owned\u{7} (14 bytes)")));
    assert_eq!(finished.endpoint().get("answered"), 2 * hostile.len() as u64);
    assert!(finished.stdout.trim_end().chars().all(|c| (' '..='~').contains(&c)), "{}", finished.stdout);
}

#[test]
fn an_error_that_keeps_happening_is_one_line() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "-q", "--json"]);
    let socket = client(server.address());
    for _ in 0..50 {
        socket.send(&[b'x'; 65_507]).expect("sent");
        assert_eq!(ask(&socket, b"you"), b"Hello you");
    }
    server.wait_for_line("Cannot send", 0);
    let finished = server.stop();
    assert_eq!(finished.endpoint().count("failed", "EMSGSIZE"), 50);
    assert_eq!(finished.log.iter().filter(|line| line.contains("Cannot send")).count(), 1);
    assert_eq!(finished.log.len(), 3, "{:#?}", finished.log);
}

#[test]
fn lines_keep_the_order_of_what_happened() {
    let mut server = Server::start(&["echo@127.0.0.1:0"]);
    let socket = client(server.address());
    for i in 0..50 {
        socket.send(format!("<{i}>").as_bytes()).expect("sent");
    }
    for _ in 0..50 {
        receive(&socket);
    }
    server.wait_for_line("Sent response", 49);
    let log = server.stop().log;
    for words in ["Received message", "Sent response"] {
        let lines = log.iter().filter(|line| line.contains(words));
        let numbers: Vec<&str> = lines.map(|line| line.split(['<', '>']).nth(1).expect("a number")).collect();
        assert_eq!(numbers, (0..50).map(|i| i.to_string()).collect::<Vec<_>>());
    }
}
