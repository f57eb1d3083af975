//! What goes wrong with one datagram costs that one datagram; what goes wrong with the socket ends with a clear word.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::{Forger, Server, ask, client, in_namespace, needs, python, receive, run, shell, signal};

#[test]
fn a_reply_that_no_route_leads_is_lost_alone() {
    needs!("unshare", "ip");
    if in_namespace("faults::a_reply_that_no_route_leads_is_lost_alone") {
        shell("ip route add unreachable 192.0.2.1; ip route add prohibit 192.0.2.2; ip route add blackhole 192.0.2.3");
        let mut server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        let forger = Forger::new();
        let client = client(server.address());
        let sources = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 3], [192, 0, 2, 4], [127, 255, 255, 255]];
        for source in sources {
            for _ in 0..3 {
                forger.send((source, 4000), server.address(), b"forged");
                assert_eq!(ask(&client, b"next"), b"Hello next");
            }
        }
        server.wait_for_line("Cannot send 12 bytes to 192.0.2.4:4000: ", 0);
        let finished = server.stop();
        assert_eq!(finished.status.code(), Some(0));
        let endpoint = finished.endpoint();
        // A broadcast address needs a permission that nobody gave.
        let kinds = [("EHOSTUNREACH", 3), ("EACCES", 6), ("EINVAL", 3), ("ENETUNREACH", 3)];
        for (kind, count) in kinds {
            assert_eq!(endpoint.count("failed", kind), count, "{kind}: {endpoint:?}");
        }
        assert_eq!((endpoint.get("answered"), endpoint.total("failed")), (15, 15));
        // One line for each kind, however often.
        assert_eq!(finished.log.iter().filter(|line| line.contains("Cannot send")).count(), kinds.len());
    }
}

#[test]
fn a_reply_that_a_firewall_drops_is_lost_alone() {
    needs!("unshare", "ip", "nft");
    if in_namespace("faults::a_reply_that_a_firewall_drops_is_lost_alone") {
        shell(
            "nft add table ip filter
             nft add chain ip filter output '{ type filter hook output priority 0; }'
             nft add rule ip filter output ip daddr 127.0.0.9 drop",
        );
        let mut server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        let client = client(server.address());
        Forger::new().send(([127, 0, 0, 9], 4000), server.address(), b"forged");
        assert_eq!(ask(&client, b"next"), b"Hello next");
        server.wait_for_line("Cannot send 12 bytes to 127.0.0.9:4000: Operation not permitted", 0);
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.count("failed", "EPERM")), (1, 1));
    }
}

#[test]
fn a_source_that_cannot_be_answered_is_refused_alone_with_the_guard_and_without() {
    needs!("unshare", "ip");
    if in_namespace("faults::a_source_that_cannot_be_answered_is_refused_alone_with_the_guard_and_without") {
        for arguments in [&["hello@0.0.0.0:0", "--json"][..], &["hello@0.0.0.0:0", "--json", "--no-guard"]] {
            let mut server = Server::start(arguments);
            let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
            let forger = Forger::new();
            let client = client(address);
            let sources =
                [([127, 0, 0, 1], 0), ([224, 0, 0, 1], 4000), ([255, 255, 255, 255], 4000), ([240, 0, 0, 1], 4000)];
            for source in sources {
                forger.send(source, address, b"forged");
                assert_eq!(ask(&client, b"next"), b"Hello next");
            }
            server.wait_for_line("Not answering 127.0.0.1:0: no reply can be sent to such an address", 0);
            let finished = server.stop();
            let endpoint = finished.endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("refused", "unanswerable")), (4, 4), "{endpoint:?}");
            assert_eq!(finished.log.iter().filter(|line| line.contains("Not answering")).count(), 1);
        }
    }
}

#[test]
fn a_datagram_with_a_wrong_checksum_is_no_datagram() {
    needs!("unshare", "ip");
    if in_namespace("faults::a_datagram_with_a_wrong_checksum_is_no_datagram") {
        let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        let mut forger = Forger::new();
        forger.checksum = 0xbad;
        let client = client(server.address());
        for _ in 0..200 {
            forger.send(([127, 0, 0, 1], 4000), server.address(), b"wrong");
        }
        assert_eq!(ask(&client, b"next"), b"Hello next");
        let before = server.processor_ticks();
        thread::sleep(Duration::from_millis(300));
        assert!(server.processor_ticks() - before < 15);
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("received"), endpoint.get("answered")), (1, 1), "{endpoint:?}");
    }
}

#[test]
fn standing_still_for_a_while_changes_nothing() {
    let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let client = client(server.address());
    for _ in 0..10 {
        server.freeze();
        client.send(b"you").expect("sent");
        signal("CONT", server.id());
        assert_eq!(receive(&client), b"Hello you");
    }
    assert_eq!(server.stop().endpoint().get("answered"), 10);
}

/// Runs a check for each datapath, if strace may do its work here; says so if not, and fails where CI=true.
fn with_each_datapath(check: impl Fn(&Datapath)) {
    let allowed = run(Command::new("strace").args(["-D", "-qq", "-o", "/dev/null", "true"]), b"").status.success();
    assert!(allowed || std::env::var("CI").as_deref() != Ok("true"), "strace is not allowed");
    if !allowed {
        eprintln!("left out, it needs to be allowed to trace");
        return;
    }
    check(&Datapath { io: "portable", receive: "recvfrom", send: "sendto" });
    // The plain call sends a reply that has no other beside it.
    check(&Datapath { io: "segmented", receive: "recvmmsg", send: "/^send(to|mmsg)$" });
}

/// The system calls of a datapath.
struct Datapath {
    io: &'static str,
    receive: &'static str,
    send: &'static str,
}

impl Datapath {
    /// `udpong serve` whose system calls fail as told: SYSCALL:error=NAME:when=FIRST..LAST, where SYSCALL may be
    /// RECEIVE or SEND.
    fn failing(&self, faults: &[&str]) -> Command {
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

    /// Sends it a datagram, waits for it to end with exit code 1; checks that it says why, once.
    fn ends(&self, faults: &[&str], why: &str) {
        let server = Server::spawn(1, &mut self.failing(faults));
        let address = server.address();
        // It may have ended already.
        let _ = client(address).send(b"you");
        let finished = server.finish();
        assert_eq!(finished.status.code(), Some(1), "{faults:?}: {:#?}", finished.log);
        let words =
            format!("udpong: {}", why.replace("SOCKET", &format!("the socket of hello on {address} became unusable")));
        let said: Vec<_> = finished.log.iter().filter(|line| line.starts_with("udpong: ")).collect();
        assert!(said.len() == 1 && said[0].starts_with(&words), "{faults:?}: {said:?}");
    }
}

const POLL: &str = "/^epoll_p?wait$";

#[test]
fn an_interrupted_call_is_made_again() {
    needs!("strace");
    with_each_datapath(|datapath| {
        let poll = format!("{POLL}:error=EINTR:when=1..5");
        let faults = [&*poll, "RECEIVE:error=EINTR:when=1..5", "SEND:error=EINTR:when=1..5"];
        let server = Server::spawn(1, &mut datapath.failing(&faults));
        let client = client(server.address());
        for _ in 0..20 {
            assert_eq!(ask(&client, b"you"), b"Hello you");
        }
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.total("failed"), endpoint.total("receive_errors")), (20, 0, 0));
    });
}

#[test]
fn an_error_of_an_earlier_datagram_is_counted_and_the_next_one_received() {
    needs!("strace");
    with_each_datapath(|datapath| {
        for kind in ["ECONNREFUSED", "EHOSTUNREACH", "ENOMEM"] {
            let fault = format!("RECEIVE:error={kind}:when=1..50");
            let mut server = Server::spawn(1, &mut datapath.failing(&[&fault]));
            assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
            server.wait_for_line(&format!("Cannot receive on {}: ", server.address()), 0);
            let finished = server.stop();
            let endpoint = finished.endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("receive_errors", kind)), (1, 50));
            assert_eq!(finished.log.iter().filter(|line| line.contains("Cannot receive")).count(), 1);
        }
    });
}

#[test]
fn a_reply_without_buffers_is_lost_alone() {
    needs!("strace");
    with_each_datapath(|datapath| {
        for kind in ["ENOBUFS", "EMSGSIZE", "ENETDOWN", "EADDRNOTAVAIL", "EPERM", "ENOMEM", "ECONNREFUSED"] {
            let fault = format!("SEND:error={kind}:when=2..3");
            let mut server = Server::spawn(1, &mut datapath.failing(&[&fault]));
            let client = client(server.address());
            assert_eq!(ask(&client, b"first"), b"Hello first");
            for (i, lost) in [b"lost", b"gone"].iter().enumerate() {
                client.send(*lost).expect("sent");
                // One by one, lest they leave as one run and fail as one.
                server.wait_for_line("Received message from ", 1 + i);
            }
            assert_eq!(ask(&client, b"next"), b"Hello next");
            let endpoint = server.stop().endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.count("failed", kind)), (2, 2), "{endpoint:?}");
        }
    });
}

#[test]
fn a_reply_that_would_have_blocked_a_moment_ago_leaves_all_the_same() {
    needs!("strace");
    with_each_datapath(|datapath| {
        // The socket is writable all along: its event has to come although nothing changes any more.
        let server = Server::spawn(1, &mut datapath.failing(&["SEND:error=EAGAIN:when=1"]));
        let client = client(server.address());
        for _ in 0..5 {
            assert_eq!(ask(&client, b"you"), b"Hello you");
        }
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.get("waited"), endpoint.get("unsent")), (5, 1, 0));
    });
}

#[test]
fn a_broken_socket_ends_it_with_a_clear_word() {
    needs!("strace");
    with_each_datapath(|datapath| {
        datapath.ends(&["RECEIVE:error=EBADF"], "SOCKET: Bad file descriptor");
        datapath.ends(&["RECEIVE:error=ENOTSOCK"], "SOCKET: Socket operation on non-socket");
        datapath.ends(&["SEND:error=EBADF"], "SOCKET: Bad file descriptor");
        datapath.ends(&["SEND:error=ENOTSOCK"], "SOCKET: Socket operation on non-socket");
        datapath.ends(&["RECEIVE:error=ENOBUFS"], "SOCKET: No buffer space available");
        datapath.ends(&["RECEIVE:error=ECONNREFUSED"], "SOCKET: Connection refused");
        // Not at the first call, so that it listens.
        datapath.ends(&[&format!("{POLL}:error=EBADF:when=2+")], "cannot poll: Bad file descriptor");
    });
}

#[test]
fn a_broken_socket_ends_it_with_a_stuck_stderr_too() {
    needs!("strace");
    with_each_datapath(|datapath| {
        let (reader, writer) = io::pipe().expect("a pipe");
        let server = Server::spawn_unheard(datapath.failing(&["RECEIVE:error=EBADF:when=5000+"]).stderr(writer));
        let socket = client(server.address());
        let status = loop {
            let _ = socket.send(b"you");
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
            let heard = socket.recv(&mut [0; 100]);
            if heard.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                break server.finish().status;
            }
        };
        assert_eq!(status.code(), Some(1));
        drop(reader);
    });
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    needs!("strace");
    with_each_datapath(|datapath| {
        for fault in ["epoll_create1:error=EMFILE", "eventfd2:error=EMFILE", "/^socket$:error=EMFILE"] {
            let output = run(&mut datapath.failing(&[fault]), b"");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{fault}: {said}");
            assert!(said.starts_with("udpong: cannot ") && said.contains("Too many open files"), "{fault}: {said}");
        }
    });
}

#[test]
fn a_run_that_cannot_leave_as_one_leaves_one_by_one() {
    needs!("strace", "python3");
    with_each_datapath(|datapath| {
        if datapath.io == "portable" {
            return;
        }
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
            let server = Server::spawn(1, &mut datapath.failing(&[&fault]));
            let (port, answers) = (server.address().port().to_string(), (8 - lost).to_string());
            let heard = python(RUNNER, &[&port, &answers]);
            assert_eq!(String::from_utf8_lossy(&heard), format!("{answers}\n8\n"), "{kind}");
            let endpoint = server.stop().endpoint();
            assert_eq!((endpoint.get("answered"), endpoint.total("failed")), (16 - lost, lost), "{kind}");
        }
    });
}

/// A client that sends eight datagrams as one segmented send, twice, and prints how many answers of each kind came.
const RUNNER: &str = "
import socket, struct, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(60)
client.connect(('127.0.0.1', int(sys.argv[1])))
for message, answers in ((b'a run of eight', int(sys.argv[2])), (b'and the next', 8)):
    # udp(7): SOL_UDP, UDP_SEGMENT
    client.sendmsg([message * 8], [(17, 103, struct.pack('H', len(message)))])
    heard = [client.recv(100) for _ in range(answers)]
    print(heard.count(b'Hello ' + message))
";
