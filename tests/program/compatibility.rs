//! The five exercises that udpong descends from, byte for byte, and foreign clients.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::harness::{Server, connect, needs, python, request, run, run_in_namespace};

/// A client as the exercises write it: one request, one reply.
const CLIENT: &str = "
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(30)
client.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))
sys.stdout.buffer.write(client.recvfrom(1024)[0])
";

/// Returns the reply of a service to the client of the exercises.
fn reply(service: &str, message: &str) -> String {
    let server = Server::start(&[service]);
    let port = server.addresses().last().expect("an address").port().to_string();
    let reply = python(CLIENT, &[&port, message]);
    assert!(server.stop().status.success());
    String::from_utf8(reply).expect("UTF-8")
}

#[test]
fn exercise_1_says_hello() {
    needs!("python3");
    assert_eq!(reply("hello@0.0.0.0:0", "Hello, server!"), "Hello Hello, server!");
}

#[test]
fn exercise_2_echoes() {
    needs!("python3");
    assert_eq!(reply("echo@127.0.0.1:0", "a message"), "a message");
}

#[test]
fn exercise_3_sends_a_fixed_text() {
    needs!("python3");
    assert_eq!(reply("fixed@:0", "Hello UDP Server"), "Hello UDP Client");
}

#[test]
fn exercise_4_acknowledges() {
    needs!("python3");
    assert_eq!(reply("ack@:0", "how are you?"), "Server acknowledges: how are you?");
}

#[test]
fn exercise_5_echoes_on_localhost() {
    needs!("python3");
    let message = "This is the message.  It will be repeated.";
    assert_eq!(reply("echo@localhost:0", message), message);
}

#[test]
fn default_addresses_are_those_of_the_exercises() {
    run_in_namespace!("python3");
    // The last one, localhost, may have two addresses.
    let server = Server::start_many(4, &["hello", "fixed", "ack", "echo"]);
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses[..3], ["0.0.0.0:5000", "127.0.0.1:20001", "127.0.0.1:12345"]);
    assert!(["127.0.0.1:10000", "[::1]:10000"].contains(&&*addresses[3]), "{addresses:?}");
    assert_eq!(python(CLIENT, &["5000", "you"]), b"Hello you");
    assert_eq!(python(CLIENT, &["10000", "you"]), b"you");
    assert_eq!(python(CLIENT, &["20001", "you"]), b"Hello UDP Client");
    assert_eq!(python(CLIENT, &["12345", "you"]), b"Server acknowledges: you");
    assert!(server.stop().status.success());

    let server = Server::start(&["echo@127.0.0.1:12345"]);
    assert_eq!(server.address().to_string(), "127.0.0.1:12345");
    assert_eq!(python(CLIENT, &["12345", "you"]), b"you");
    assert!(server.stop().status.success());

    let server = Server::start(&[]);
    assert_eq!(server.address().to_string(), "0.0.0.0:5000");
    assert_eq!(python(CLIENT, &["5000", "Hello, server!"]), b"Hello Hello, server!");
    assert!(server.stop().status.success());
}

#[test]
fn exercise_1_logs_exactly_these_lines() {
    let mut server = Server::start(&["hello@127.0.0.1:0"]);
    let socket = connect(server.address());
    request(&socket, b"Hello, server!");
    server.wait_for_line("Sent response", 0);
    let (local, peer) = (server.address(), socket.local_addr().expect("an address"));
    let log = server.stop().log;
    let messages: Vec<_> = log.iter().map(|line| line.split_once("] ").expect("a target").1).collect();
    let expected = [
        format!("Server is listening on {local} (hello)"),
        format!("Received message from {peer}: Hello, server! (14 bytes)"),
        format!("Sent response to {peer}: Hello Hello, server! (20 bytes)"),
        format!(
            "hello on {local}: received 1 (14 bytes), answered 1 (20 bytes), refused 0, failed 0, unsent 0, \
             dropped by the kernel 0"
        ),
    ];
    assert_eq!(messages, expected);
    for line in &log {
        let timestamp = line.split(' ').next().expect("a time");
        assert!(timestamp.ends_with('Z') && line.contains(" INFO "), "{line}");
    }
}

/// Types a message into a client, reads that many bytes of its output, and closes its input.
fn talk(client: &[&str], message: &[u8], length: usize) -> Vec<u8> {
    let mut child = Command::new("timeout")
        .arg("60")
        .args(client)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("timeout");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(message).expect("typed");
    let mut reply = vec![0; length];
    child.stdout.take().expect("a pipe").read_exact(&mut reply).expect("a reply");
    drop(input);
    child.wait().expect("the end of a child");
    reply
}

#[test]
fn socat_is_answered() {
    needs!("timeout", "socat");
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "ack@[::1]:0"]);
    let [ipv4, ipv6] = [0, 1].map(|i: usize| server.addresses()[i].port());
    assert_eq!(talk(&["socat", "-t0.1", "-", &format!("UDP4:127.0.0.1:{ipv4}")], b"hi", 8), b"Hello hi");
    let reply = talk(&["socat", "-t0.1", "-", &format!("UDP6:[::1]:{ipv6}")], b"hi", 23);
    assert_eq!(reply, b"Server acknowledges: hi");
}

#[test]
fn ncat_is_answered() {
    needs!("timeout", "ncat");
    let server = Server::start(&["hello@127.0.0.1:0"]);
    let port = server.address().port().to_string();
    assert_eq!(talk(&["ncat", "-u", "127.0.0.1", &port], b"hi\n", 9), b"Hello hi\n");
}

#[test]
fn nping_is_answered() {
    needs!("nping");
    let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let port = server.address().port().to_string();
    let mut nping = Command::new("nping");
    nping.args(["--udp", "--unprivileged", "-p", &port, "-c", "5", "--delay", "50ms", "--data-string", "hi"]);
    let output = run(nping.arg("127.0.0.1"), b"");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("UDP packets sent: 5"), "{text}");
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("received_bytes"), endpoint.get("answered_bytes")), (10, 40));
}

#[test]
fn check_udp_accepts_the_expected_reply_only() {
    const CHECK_UDP: &str = "/usr/lib/nagios/plugins/check_udp";
    needs!(CHECK_UDP);
    let server = Server::start(&["hello@127.0.0.1:0"]);
    let port = server.address().port().to_string();
    let check = |expected: &str| {
        let mut check = Command::new(CHECK_UDP);
        check.args(["-H", "127.0.0.1", "-p", &port, "-s", "hi", "-e", expected]);
        run(&mut check, b"").status.code()
    };
    assert_eq!(check("Hello hi"), Some(0));
    assert_eq!(check("Goodbye"), Some(1));
}
