//! An error of one datagram costs that datagram only; an error of the socket ends the server with a clear message.
//!
//! Errors come from the network, in a namespace, or are injected into system calls by strace.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::{Server, SpoofingSocket, connect, needs, python, receive, request, run, run_in_namespace, shell};

#[test]
fn unroutable_reply_is_dropped_and_counted() {
    run_in_namespace!();
    shell("ip route add unreachable 192.0.2.1; ip route add prohibit 192.0.2.2; ip route add blackhole 192.0.2.3");
    let mut server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let spoofing = SpoofingSocket::new();
    let client = connect(server.address());
    let sources = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3], [192, 0, 2, 4], [127, 255, 255, 255]];
    for source in sources {
        for _ in 0..3 {
            spoofing.send((source, 4000), server.address(), b"spoofed");
            assert_eq!(request(&client, b"next"), b"Hello next");
        }
    }
    server.wait_for_line("Cannot send 13 bytes to 192.0.2.4:4000: ", 0);
    let output = server.stop();
    assert_eq!(output.status.code(), Some(0));
    let endpoint = output.endpoint();
    // Sending to a broadcast address needs SO_BROADCAST.
    let kinds = [("EHOSTUNREACH", 3), ("EACCES", 6), ("EINVAL", 3), ("ENETUNREACH", 3)];
    for (kind, count) in kinds {
        assert_eq!(endpoint.count("failed", kind), count, "{kind}: {endpoint:?}");
    }
    assert_eq!((endpoint.get("answered"), endpoint.total("failed")), (15, 15));
    // Each kind is logged once.
    assert_eq!(output.count_lines("Cannot send"), kinds.len());
}

#[test]
fn firewalled_reply_is_dropped_and_counted() {
    run_in_namespace!("nft");
    shell(
        "nft add table ip filter
         nft add chain ip filter output '{ type filter hook output priority 0; }'
         nft add rule ip filter output ip daddr 127.0.0.9 drop",
    );
    let mut server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let client = connect(server.address());
    SpoofingSocket::new().send(([127, 0, 0, 9], 4000), server.address(), b"spoofed");
    assert_eq!(request(&client, b"next"), b"Hello next");
    server.wait_for_line("Cannot send 13 bytes to 127.0.0.9:4000: Operation not permitted", 0);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.count("failed", "EPERM")), (1, 1));
}

#[test]
fn unanswerable_source_is_refused_even_without_guard() {
    run_in_namespace!();
    for arguments in [&["hello@0.0.0.0:0", "--json"][..], &["hello@0.0.0.0:0", "--json", "--no-guard"]] {
        let mut server = Server::start(arguments);
        let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
        let spoofing = SpoofingSocket::new();
        let client = connect(address);
        let sources = [([127, 0, 0, 1], 0), ([224, 0, 0, 1], 4000), ([255; 4], 4000), ([240, 0, 0, 1], 4000)];
        for source in sources {
            spoofing.send(source, address, b"spoofed");
            assert_eq!(request(&client, b"next"), b"Hello next");
        }
        server.wait_for_line("Not answering 127.0.0.1:0: no reply can be sent to such an address", 0);
        let output = server.stop();
        let endpoint = output.endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.count("refused", "unanswerable")), (4, 4), "{endpoint:?}");
        assert_eq!(output.count_lines("Not answering"), 1);
    }
}

/// Such datagrams wake the server, but receiving would block.
#[test]
fn datagrams_with_bad_checksums_are_not_received() {
    run_in_namespace!();
    let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let mut spoofing = SpoofingSocket::new();
    spoofing.checksum = 0xbad;
    let client = connect(server.address());
    for _ in 0..200 {
        spoofing.send(([127, 0, 0, 1], 4000), server.address(), b"wrong");
    }
    assert_eq!(request(&client, b"next"), b"Hello next");
    // A loop that spins would use 30 ticks in this time.
    let before = server.cpu_ticks();
    thread::sleep(Duration::from_millis(300));
    assert!(server.cpu_ticks() - before < 15);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("received"), endpoint.get("answered")), (1, 1), "{endpoint:?}");
}

#[test]
fn stopped_and_continued_process_loses_nothing() {
    let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let client = connect(server.address());
    for _ in 0..10 {
        server.pause();
        client.send(b"you").expect("sent");
        server.resume();
        assert_eq!(receive(&client), b"Hello you");
    }
    assert_eq!(server.stop().endpoint().get("answered"), 10);
}

/// How a transport (`--io`) receives and sends.
struct Transport {
    io: &'static str,
    receive: &'static str,
    send: &'static str,
}

/// A reply that has no other beside it is sent by the plain system call.
const SEGMENTED: Transport = Transport { io: "segmented", receive: "recvmmsg", send: "/^send(to|mmsg)$" };
const PORTABLE: Transport = Transport { io: "portable", receive: "recvfrom", send: "sendto" };
const TRANSPORTS: [Transport; 2] = [PORTABLE, SEGMENTED];

impl Transport {
    /// Returns `udpong serve` with these faults injected into its system calls: SYSCALL:error=NAME:when=FIRST..LAST,
    /// where SYSCALL may be RECEIVE or SEND.
    fn serve_with(&self, faults: &[&str]) -> Command {
        let mut command = Command::new("strace");
        // With -D the program is the child, and strace the grandchild.
        command.args(["-D", "-qq", "-o", "/dev/null", "-e", "signal=none"]);
        for fault in faults {
            let fault = fault.replace("RECEIVE", self.receive).replace("SEND", self.send);
            command.arg("-e").arg(format!("inject={fault}"));
        }
        let serve = ["serve", "hello@127.0.0.1:0", "--json", "--io", self.io];
        command.arg(env!("CARGO_BIN_EXE_udpong")).args(serve).env_remove("RUST_LOG");
        command
    }

    /// Checks that after one datagram the server exits with 1 and one line that begins with `message`. SOCKET in it
    /// stands for the message about a broken socket.
    fn ends_with(&self, faults: &[&str], message: &str) {
        let server = Server::spawn(1, &mut self.serve_with(faults));
        let address = server.address();
        // It may have ended already.
        let _ = connect(address).send(b"you");
        let output = server.wait();
        assert_eq!(output.status.code(), Some(1), "{faults:?}: {:#?}", output.log);
        let socket = format!("the socket of hello on {address} became unusable");
        let message = format!("udpong: {}", message.replace("SOCKET", &socket));
        let lines: Vec<_> = output.log.iter().filter(|line| line.starts_with("udpong: ")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with(&message), "{faults:?}: {lines:?}");
    }
}

/// The system call that waits for events.
const POLL: &str = "/^epoll_p?wait$";

#[test]
fn interrupted_calls_are_retried() {
    needs!("strace");
    for transport in TRANSPORTS {
        let poll = format!("{POLL}:error=EINTR:when=1..5");
        let faults = [&*poll, "RECEIVE:error=EINTR:when=1..5", "SEND:error=EINTR:when=1..5"];
        let server = Server::spawn(1, &mut transport.serve_with(&faults));
        let client = connect(server.address());
        for _ in 0..20 {
            assert_eq!(request(&client, b"you"), b"Hello you");
        }
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.total("failed"), endpoint.total("receive_errors")), (20, 0, 0));
    }
}

/// They belong to an earlier datagram, as an ICMP error does.
#[test]
fn receive_errors_are_counted_and_skipped() {
    needs!("strace");
    for transport in TRANSPORTS {
        for kind in ["ECONNREFUSED", "EHOSTUNREACH", "ENOMEM"] {
            let fault = format!("RECEIVE:error={kind}:when=1..50");
            let mut server = Server::spawn(1, &mut transport.serve_with(&[&fault]));
            assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
            server.wait_for_line(&format!("Cannot receive on {}: ", server.address()), 0);
            let output = server.stop();
            let endpoint = output.endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("receive_errors", kind)), (1, 50));
            assert_eq!(output.count_lines("Cannot receive"), 1);
        }
    }
}

#[test]
fn failed_reply_is_dropped_and_counted() {
    needs!("strace");
    for transport in TRANSPORTS {
        for kind in ["ENOBUFS", "EMSGSIZE", "ENETDOWN", "EADDRNOTAVAIL", "EPERM", "ENOMEM", "ECONNREFUSED"] {
            let fault = format!("SEND:error={kind}:when=2..3");
            let mut server = Server::spawn(1, &mut transport.serve_with(&[&fault]));
            let client = connect(server.address());
            assert_eq!(request(&client, b"first"), b"Hello first");
            for (i, lost) in [b"lost", b"gone"].iter().enumerate() {
                client.send(*lost).expect("sent");
                // One by one, lest they leave as one run and fail as one.
                server.wait_for_line("Received message from ", 1 + i);
            }
            assert_eq!(request(&client, b"next"), b"Hello next");
            let endpoint = server.stop().endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("failed", kind)), (2, 2), "{endpoint:?}");
        }
    }
}

/// The socket is writable all the time: the event has to come although nothing changes.
#[test]
fn reply_leaves_after_a_single_would_block() {
    needs!("strace");
    for transport in TRANSPORTS {
        let server = Server::spawn(1, &mut transport.serve_with(&["SEND:error=EAGAIN:when=1"]));
        let client = connect(server.address());
        for _ in 0..5 {
            assert_eq!(request(&client, b"you"), b"Hello you");
        }
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.get("waited"), endpoint.get("unsent")), (5, 1, 0));
    }
}

#[test]
fn broken_socket_ends_the_server_with_one_error() {
    needs!("strace");
    for transport in TRANSPORTS {
        transport.ends_with(&["RECEIVE:error=EBADF"], "SOCKET: Bad file descriptor");
        transport.ends_with(&["RECEIVE:error=ENOTSOCK"], "SOCKET: Socket operation on non-socket");
        transport.ends_with(&["SEND:error=EBADF"], "SOCKET: Bad file descriptor");
        transport.ends_with(&["SEND:error=ENOTSOCK"], "SOCKET: Socket operation on non-socket");
        transport.ends_with(&["RECEIVE:error=ENOBUFS"], "SOCKET: No buffer space available");
        transport.ends_with(&["RECEIVE:error=ECONNREFUSED"], "SOCKET: Connection refused");
        // From the second call, so that the server listens first.
        transport.ends_with(&[&format!("{POLL}:error=EBADF:when=2+")], "cannot poll: Bad file descriptor");
    }
}

#[test]
fn broken_socket_ends_the_server_despite_a_stuck_stderr() {
    needs!("strace");
    for transport in TRANSPORTS {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut command = transport.serve_with(&["RECEIVE:error=EBADF:when=5000+"]);
        let server = Server::spawn_without_log(command.stderr(writer));
        let socket = connect(server.address());
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let status = loop {
            let _ = socket.send(b"you");
            let result = socket.recv(&mut [0; 100]);
            if result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                break server.wait().status;
            }
        };
        assert_eq!(status.code(), Some(1));
        drop(reader);
    }
}

#[test]
fn failed_start_is_one_error() {
    needs!("strace");
    for transport in TRANSPORTS {
        for fault in ["epoll_create1:error=EMFILE", "eventfd2:error=EMFILE", "/^socket$:error=EMFILE"] {
            let output = run(&mut transport.serve_with(&[fault]), b"");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{fault}: {stderr}");
            let is_clear = stderr.starts_with("udpong: cannot ") && stderr.contains("Too many open files");
            assert!(is_clear, "{fault}: {stderr}");
        }
    }
}

#[test]
fn failed_run_is_sent_one_by_one() {
    needs!("strace", "python3");
    for (kind, failures, lost) in [
        ("EIO", 1, 0),
        ("EINVAL", 1, 0),
        ("EMSGSIZE", 1, 0),
        ("ENOBUFS", 1, 0),
        ("EINVAL", 2, 1),
        ("EPERM", 4, 2),
        ("EINTR", 5, 0),
        ("EAGAIN", 1, 0),
    ] {
        // First the run fails, then its first reply; then the run of the rest, then the next reply.
        let fault = format!("sendmmsg:error={kind}:when=1..{failures}");
        let server = Server::spawn(1, &mut SEGMENTED.serve_with(&[&fault]));
        let (port, replies) = (server.address().port().to_string(), (8 - lost).to_string());
        let printed = python(SEGMENTING_CLIENT, &[&port, &replies]);
        assert_eq!(String::from_utf8_lossy(&printed), format!("{replies}\n8\n"), "{kind}");
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.total("failed")), (16 - lost, lost), "{kind}");
    }
}

/// A client that sends eight requests as one segmented send, twice, and prints how many right replies came to each.
const SEGMENTING_CLIENT: &str = "
import socket, struct, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(60)
client.connect(('127.0.0.1', int(sys.argv[1])))
for message, replies in ((b'a run of eight', int(sys.argv[2])), (b'and the next', 8)):
    # udp(7): SOL_UDP, UDP_SEGMENT
    client.sendmsg([message * 8], [(17, 103, struct.pack('H', len(message)))])
    received = [client.recv(100) for _ in range(replies)]
    print(received.count(b'Hello ' + message))
";
