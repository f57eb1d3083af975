//! How many replies leave per system call, and per message that goes through the kernel as one (`UDP_SEGMENT`): what
//! makes the server fast, and what no reply shows.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use crate::harness::{Server, connect, needs, python, receive, wait_until};

/// The system calls that a server has sent with.
#[derive(Debug)]
struct Sends {
    calls: usize,
    messages: usize,
}

/// Runs `exchange` with a server, which must answer `answers` datagrams; returns how it sent the replies.
fn sends(service: &str, answers: u64, exchange: impl Fn(&Server)) -> Sends {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    // With -D the program is the child, and strace the grandchild. -f would be for further threads: these do not send.
    command.args(["-D", "-e", "trace=sendto,sendmsg,sendmmsg", "-e", "signal=none", "-o"]).arg(&trace);
    command
        .arg(env!("CARGO_BIN_EXE_udpong"))
        .args(["serve", service, "--json", "-q", "--no-guard"])
        .env_remove("RUST_LOG");
    let server = Server::spawn(1, &mut command);
    exchange(&server);
    assert_eq!(server.stop().endpoint().get("answered"), answers);
    let trace = wait_until("the trace is complete", || {
        fs::read_to_string(&trace).ok().filter(|trace| trace.contains("+++ exited"))
    });
    let calls: Vec<_> = trace.lines().filter(|line| line.starts_with("send")).collect();
    let messages = calls.iter().map(|call| match call.strip_prefix("sendmmsg") {
        Some(call) => call.rsplit(" = ").next().and_then(|count| count.parse().ok()).expect("a number of messages"),
        None => 1,
    });
    Sends { calls: calls.len(), messages: messages.sum() }
}

/// Sends 20 times 64 datagrams as one segmented send, and waits for the replies each time.
fn send_segmented(to: SocketAddr) {
    python(
        "
import socket, struct, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(60)
client.connect(('127.0.0.1', int(sys.argv[1])))
for _ in range(20):
    # udp(7): SOL_UDP, UDP_SEGMENT
    client.sendmsg([b'x' * 64 * 100], [(17, 103, struct.pack('H', 100))])
    for _ in range(64):
        client.recv(1000)
",
        &[&to.port().to_string()],
    );
}

#[test]
fn replies_to_a_coalesced_message_leave_as_one() {
    needs!("strace", "python3");
    for service in ["echo@127.0.0.1:0", "reply=<{}>@127.0.0.1:0", "fixed@127.0.0.1:0", "hello@0.0.0.0:0"] {
        let sends = sends(service, 20 * 64, |server| send_segmented(server.address()));
        // One each time, unless a message is received in two parts.
        assert!((20..=22).contains(&sends.calls) && (20..=22).contains(&sends.messages), "{service}: {sends:?}");
    }
}

/// Datagrams that arrived one by one, of two peers in turn.
#[test]
fn equal_replies_to_each_peer_leave_as_one() {
    needs!("strace");
    let sends = sends("hello@127.0.0.1:0", 256, |server| {
        let peers = [connect(server.address()), connect(server.address())];
        server.pause();
        (0..128).for_each(|_| peers.iter().for_each(|peer| assert_eq!(peer.send(b"you").expect("sent"), 3)));
        server.resume();
        (0..128).for_each(|_| peers.iter().for_each(|peer| assert_eq!(receive(peer), b"Hello you")));
    });
    // A turn receives 32 datagrams at most, which leave as one run for each peer: 8 calls with 2 messages. The turn in
    // which the server was paused may have received less.
    assert!((8..=10).contains(&sends.calls) && (16..=20).contains(&sends.messages), "{sends:?}");
}

#[test]
fn unequal_replies_leave_by_one_call() {
    needs!("strace");
    let sends = sends("hello@127.0.0.1:0", 64, |server| {
        let peer = connect(server.address());
        server.pause();
        // Each is longer than the one before, so that no two of them are a run.
        (0..64).for_each(|length| assert_eq!(peer.send(&[b'x'; 64][..length]).expect("sent"), length));
        server.resume();
        (0..64).for_each(|length| assert_eq!(receive(&peer).len(), 6 + length));
    });
    assert!((2..=4).contains(&sends.calls) && sends.messages == 64, "{sends:?}");
}
