//! `send`: one message and one answer for each argument, line of a pipe, or line typed on a terminal.

use std::process::Output;
use std::time::Instant;

use crate::harness::{Responder, Server, TIMEOUT, closed_address, needs, python, run, run_in_namespace, udpong};

fn send(arguments: &[&str], input: &[u8]) -> Output {
    run(udpong(&["send"]).args(arguments), input)
}

/// Returns stdout of a run that must succeed, with nothing on stderr.
fn answer(arguments: &[&str], input: &[u8]) -> String {
    let output = send(arguments, input);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns stderr of a run that must exit with 1, with nothing on stdout.
fn failure(arguments: &[&str], input: &[u8]) -> String {
    let output = send(arguments, input);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn answer_of_every_service_is_printed() {
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
fn answers_of_the_exercises_are_printed_byte_for_byte() {
    needs!("python3");
    for (body, message, expected) in [
        ("b'Hello ' + data", "Hello, server!", "Hello Hello, server!"),
        ("data", "a message", "a message"),
        ("b'Hello UDP Client'", "Hello UDP Server", "Hello UDP Client"),
        ("b'Server acknowledges: ' + data", "how are you?", "Server acknowledges: how are you?"),
        ("data", "This is the message.  It will be repeated.", "This is the message.  It will be repeated."),
    ] {
        let responder = Responder::python(&format!("def answer(n, data, to):\n    server.sendto({body}, to)"));
        assert_eq!(answer(&["--raw", &responder.target(), message], b""), expected);
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
fn answers_are_escaped_unless_raw() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    assert_eq!(answer(&[&target], b"\x1b[31m\xff\0\n"), "\\u{1b}[31m\\xff\\0\n");
    assert_eq!(send(&[&target, "--raw"], b"\x1b[31m\xff\0\nx").stdout, b"\x1b[31m\xff\0x");
    let longest = vec![b'x'; 65_507];
    assert_eq!(send(&[&target, "--raw", "-W", "10s"], &longest).stdout, longest);
}

#[test]
fn terminal_is_prompted() {
    needs!("python3");
    let server = Server::start(&["hello@127.0.0.1:0", "-q"]);
    let program = "
import os, pty, sys
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'send', sys.argv[2]])
output = b''
def wait_for(text, times):
    global output
    while output.count(text) < times:
        output += os.read(terminal, 1000)
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
fn each_failure_has_its_message() {
    let closed = closed_address().to_string();
    let start = Instant::now();
    assert!(failure(&[&closed, "hi", "-W", "2m"], b"").contains("nobody listens on"));
    assert!(start.elapsed() < TIMEOUT, "it waited for an answer that cannot come");
    assert!(failure(&["name.invalid", "hi"], b"").contains("cannot look up \"name.invalid\""));
    let too_long = "x".repeat(65_508);
    assert!(failure(&[&closed, &too_long], b"").contains("too long: 65508 bytes"));
    let too_long = "x".repeat(70_000);
    assert!(failure(&[&closed, &too_long], b"").contains("too long: 70000 bytes"));
    assert_eq!(send(&[":0", "hi"], b"").status.code(), Some(2));
}

#[test]
fn unanswered_message_is_retried_then_reported() {
    let server = Server::start(&["discard@127.0.0.1:0", "-q", "--json"]);
    let target = server.address().to_string();
    assert!(failure(&[&target, "hi", "-W", "50ms", "--retries", "1"], b"").contains("(sent twice)"));
    let stderr = failure(&[&target, "hi", "-W", "50ms", "--retries", "3"], b"");
    assert!(stderr.contains("no answer from") && stderr.contains("within 50ms (sent 4 times)"), "{stderr}");
    assert_eq!(server.stop().endpoint().get("received"), 2 + 4);
}

#[test]
fn failed_message_does_not_end_the_others() {
    let closed = closed_address().to_string();
    let stderr = failure(&[&closed], b"one\ntwo\n");
    assert_eq!(stderr.matches("nobody listens on").count(), 2, "{stderr}");
    assert!(stderr.contains("2 of 2 messages were not answered"), "{stderr}");
    assert!(failure(&[&closed], b"one\n").ends_with("udpong: 1 of 1 message was not answered\n"));
}

/// Of a line that is longer than what is read at a time, too, and the line behind it is a message again.
#[test]
fn true_length_of_a_line_that_is_too_long_is_named() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    for length in [65_508, 65_509, 65_510, 70_000, 131_018, 1_000_000] {
        for end in [&b"\nnext\n"[..], b""] {
            let output = send(&[&target, "-W", "10s"], &[&vec![b'x'; length], end].concat());
            let messages = if end.is_empty() { "1 message" } else { "2 messages" };
            let expected = format!(
                "udpong: the message is too long: {length} bytes, and a datagram carries 65507\n\
                 udpong: 1 of {messages} was not answered\n"
            );
            assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
            assert_eq!(output.stdout, if end.is_empty() { &b""[..] } else { b"next\n" });
        }
    }
}

#[test]
fn late_answer_is_not_taken_for_the_next_one() {
    needs!("python3");
    // Answers "a" when it was sent again, and twice more when the next message arrives.
    let responder = Responder::python(
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
    assert_eq!(answer(&[&responder.target(), "-W", "2s", "--retries", "2"], b"a\nb\nc\n"), "to a\nto b\nto c\n");
}

/// ncat answers only the first client that it receives anything from.
#[test]
fn all_messages_come_from_one_client() {
    needs!("ncat");
    let responder = Responder::command("ncat", &["-u", "-l", "127.0.0.1", "PORT", "-e", "/bin/cat"]);
    assert_eq!(answer(&[&responder.target(), "-W", "10s"], b"a\nb\nc\n"), "a\nb\nc\n");
}

#[test]
fn unreachable_network_exits_with_1() {
    run_in_namespace!();
    assert!(failure(&["203.0.113.1:5000", "hi"], b"").contains("no route leads there"));
}

#[test]
fn default_target_is_port_5000_on_loopback() {
    run_in_namespace!();
    let stderr = failure(&[], b"hi\n");
    assert!(stderr.contains("nobody listens on 127.0.0.1:5000"), "{stderr}");
    let _server = Server::start(&["-q"]);
    assert_eq!(answer(&[], b"hi\n"), "Hello hi\n");
}
