//! `send`: one message, one answer, for each message of a terminal or a pipe.

use std::process::Output;
use std::time::Instant;

use crate::harness::{LIMIT, Server, in_namespace, needs, python, run, udpong};
use crate::peers::{Peer, closed_address};

fn send(arguments: &[&str], input: &[u8]) -> Output {
    run(udpong(&["send"]).args(arguments), input)
}

/// What it printed; it must have succeeded, and said nothing else.
fn answer(arguments: &[&str], input: &[u8]) -> String {
    let output = send(arguments, input);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it said on stderr; it must have failed with 1, and printed nothing.
fn failure(arguments: &[&str], input: &[u8]) -> String {
    let output = send(arguments, input);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn every_service_of_ours_answers() {
    let server = Server::start_many(4, &["hello@127.0.0.1:0", "echo@[::1]:0", "fixed@:0", "ack@:0", "-q"]);
    let targets: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    assert_eq!(answer(&[&targets[0], "Hello, server!"], b""), "Hello Hello, server!\n");
    assert_eq!(answer(&[&targets[1], "hi"], b""), "hi\n");
    assert_eq!(answer(&[&targets[2], "Hello UDP Server"], b""), "Hello UDP Client\n");
    assert_eq!(answer(&[&targets[3], "how are you?"], b""), "Server acknowledges: how are you?\n");
    let port = format!(":{}", server.addresses()[0].port());
    assert_eq!(answer(&[&port, ""], b""), "Hello \n");
}

#[test]
fn the_servers_of_the_exercises_are_answered_byte_for_byte() {
    needs!("python3");
    for (body, said, heard) in [
        ("b'Hello ' + data", "Hello, server!", "Hello Hello, server!"),
        ("data", "a message", "a message"),
        ("b'Hello UDP Client'", "Hello UDP Server", "Hello UDP Client"),
        ("b'Server acknowledges: ' + data", "how are you?", "Server acknowledges: how are you?"),
        ("data", "This is the message.  It will be repeated.", "This is the message.  It will be repeated."),
    ] {
        let peer = Peer::python(&format!("def answer(n, data, to):\n    server.sendto({body}, to)"));
        assert_eq!(answer(&["--raw", &peer.target(), said], b""), heard);
    }
}

#[test]
fn every_line_of_a_pipe_is_a_message() {
    let server = Server::start(&["hello@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    assert_eq!(answer(&[&target], b"a\n\nb c\r\nlast"), "Hello a\nHello \nHello b c\\r\nHello last\n");
    assert_eq!(answer(&[&target], b""), "");
}

#[test]
fn answers_are_escaped_unless_they_are_wanted_raw() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    assert_eq!(answer(&[&target], b"\x1b[31m\xff\0\n"), "\\u{1b}[31m\\xff\\0\n");
    assert_eq!(send(&[&target, "--raw"], b"\x1b[31m\xff\0\nx").stdout, b"\x1b[31m\xff\0x");
    let longest = vec![b'x'; 65_507];
    assert_eq!(send(&[&target, "--raw", "-W", "10s"], &longest).stdout, longest);
}

#[test]
fn a_message_on_a_terminal_is_asked_for() {
    needs!("python3");
    let server = Server::start(&["hello@127.0.0.1:0", "-q"]);
    let program = "
import os, pty, sys
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'send', sys.argv[2]])
said = b''
def wait_for(text, times):
    global said
    while said.count(text) < times:
        said += os.read(terminal, 1000)
wait_for(b'Enter message to send: ', 1)
os.write(terminal, b'you\\n')
wait_for(b'Hello you', 1)
wait_for(b'Enter message to send: ', 2)
os.write(terminal, b'\\x04')
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
";
    let printed = python(program, &[env!("CARGO_BIN_EXE_udpong"), &server.address().to_string()]);
    assert_eq!(printed, b"0\n");
}

#[test]
fn failures_are_told_apart() {
    let closed = closed_address().to_string();
    let start = Instant::now();
    assert!(failure(&[&closed, "hi", "-W", "2m"], b"").contains("nobody listens on"));
    assert!(start.elapsed() < LIMIT, "waited for an answer that cannot come");
    assert!(failure(&["name.invalid", "hi"], b"").contains("cannot look up \"name.invalid\""));
    let too_long = "x".repeat(65_508);
    assert!(failure(&[&closed, &too_long], b"").contains("too long: 65508 bytes"));
    assert_eq!(send(&[":0", "hi"], b"").status.code(), Some(2));
}

#[test]
fn silence_is_told_after_the_retries() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q", "--json"]);
    let target = server.address().to_string();
    let told = failure(&[&target, "hi", "-W", "50ms", "--retries", "3"], b"");
    assert!(told.contains("no answer from") && told.contains("within 50ms (sent 4 times)"), "{told}");
    assert_eq!(server.stop().endpoint().get("received"), 4);
}

#[test]
fn a_message_that_fails_does_not_end_the_others() {
    let closed = closed_address().to_string();
    let told = failure(&[&closed], b"one\ntwo\n");
    assert_eq!(told.matches("nobody listens on").count(), 2, "{told}");
    assert!(told.contains("2 of 2 messages were not answered"), "{told}");
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_messages() {
    needs!("python3");
    // "a" is answered only once it came again, and then twice; the rest of its answers comes with the next message.
    let peer = Peer::python(
        "
first = []
def answer(n, data, to):
    if data == b'a':
        first.append(to)
        if len(first) == 2: server.sendto(b'to a', to)
    else:
        for late in first: server.sendto(b'late', late)
        time.sleep(0.05)
        server.sendto(b'to ' + data, to)
",
    );
    assert_eq!(answer(&[&peer.target(), "-W", "2s"], b"a\nb\nc\n"), "to a\nto b\nto c\n");
}

#[test]
fn one_client_only_is_served_by_ncat_and_that_is_enough() {
    needs!("ncat");
    let peer = Peer::command("ncat", &["-u", "-l", "127.0.0.1", "PORT", "-e", "/bin/cat"]);
    assert_eq!(answer(&[&peer.target(), "-W", "10s"], b"a\nb\nc\n"), "a\nb\nc\n");
}

#[test]
fn in_a_namespace_of_its_own_no_route_and_the_default_target_are_told() {
    if in_namespace("send::in_a_namespace_of_its_own_no_route_and_the_default_target_are_told") {
        assert!(failure(&["203.0.113.1:5000", "hi"], b"").contains("no route leads there"));
        let told = failure(&[], b"hi\n");
        assert!(told.contains("nobody listens on 127.0.0.1:5000"), "{told}");
        let _server = Server::start(&["-q"]);
        assert_eq!(answer(&[], b"hi\n"), "Hello hi\n");
    }
}
