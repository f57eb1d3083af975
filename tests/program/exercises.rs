//! The five exercises that udpong descends from, byte for byte, with their own Python clients.

use crate::harness::{Server, needs, python};

/// A client as the exercises write it: one message, one answer.
const CLIENT: &str = "
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(30)
client.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))
sys.stdout.buffer.write(client.recvfrom(1024)[0])
";

fn answer(service: &str, message: &str) -> String {
    let server = Server::start(&[service]);
    let port = server.addresses().last().expect("an address").port().to_string();
    let answer = python(CLIENT, &[&port, message]);
    assert!(server.stop().status.success());
    String::from_utf8(answer).expect("UTF-8")
}

#[test]
fn exercise_1_says_hello() {
    needs!("python3");
    assert_eq!(answer("hello@0.0.0.0:0", "Hello, server!"), "Hello Hello, server!");
}

#[test]
fn exercise_2_echoes() {
    needs!("python3");
    assert_eq!(answer("echo@127.0.0.1:0", "a message"), "a message");
}

#[test]
fn exercise_3_says_a_fixed_text() {
    needs!("python3");
    assert_eq!(answer("fixed@:0", "Hello UDP Server"), "Hello UDP Client");
}

#[test]
fn exercise_4_acknowledges() {
    needs!("python3");
    assert_eq!(answer("ack@:0", "how are you?"), "Server acknowledges: how are you?");
}

#[test]
fn exercise_5_echoes() {
    needs!("python3");
    assert_eq!(
        answer("echo@localhost:0", "This is the message.  It will be repeated."),
        "This is the message.  It will be repeated."
    );
}
