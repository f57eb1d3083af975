//! What is served: every service, at any address, several at once, with workers; payloads of any bytes and length.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::harness::{Server, connect, receive, request, run, run_in_namespace};

#[test]
fn every_service_replies_and_counts() {
    let services = ["hello@127.0.0.1:0", "echo@127.0.0.1:0", "fixed@:0", "ack@:0", "reply=<{}> {{}}@127.0.0.1:0"];
    let mut server = Server::start_many(5, &[&services[..], &["--json"]].concat());
    let expected: [&[u8]; 5] = [b"Hello hi", b"hi", b"Hello UDP Client", b"Server acknowledges: hi", b"<hi> {}"];
    for (address, expected) in server.addresses().iter().zip(expected) {
        assert_eq!(request(&connect(*address), b"hi"), expected);
    }
    let received = server.wait_for_line("Received message from ", 0);
    assert!(received.contains(": hi (2 bytes)"), "{received}");
    let sent = server.wait_for_line("Sent response to ", 0);
    assert!(sent.contains(": Hello hi (8 bytes)"), "{sent}");
    assert!(server.log()[0].contains(&format!("Server is listening on {} (hello)", server.address())));
    let output = server.stop();
    assert!(output.status.success());
    let endpoints = output.endpoints();
    assert_eq!(endpoints.len(), services.len());
    for endpoint in endpoints {
        assert_eq!((endpoint.get("received"), endpoint.get("received_bytes"), endpoint.get("answered")), (1, 2, 1));
    }
}

#[test]
fn discard_counts_without_replying() {
    let mut server = Server::start(&["discard@127.0.0.1:0", "--json"]);
    let socket = connect(server.address());
    socket.send(b"nothing").expect("sent");
    server.wait_for_line("Received message", 0);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.count("refused", "discard")), (0, 1));
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    assert!(socket.recv(&mut [0; 10]).is_err());
}

#[test]
fn payloads_of_every_length_are_echoed_whole() {
    for address in ["echo@127.0.0.1:0", "echo@[::1]:0", "echo@[::]:0"] {
        let server = Server::start(&[address, "-q", "--json"]);
        let socket = connect(server.address());
        let bytes: Vec<u8> = (0..65_507_u32).map(|i| (i * 31 % 251) as u8).collect();
        for length in [0, 1, 2, 1471, 1472, 1473, 8192, 65_506, 65_507] {
            assert_eq!(request(&socket, &bytes[..length]), &bytes[..length]);
        }
        assert_eq!(server.stop().endpoint().get("answered"), 9);
    }
}

#[test]
fn oversized_reply_is_dropped_and_counted() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let socket = connect(server.address());
    socket.send(&[b'x'; 65_507]).expect("sent");
    assert_eq!(request(&socket, b"next"), b"Hello next");
    server.wait_for_line("Cannot send 65513 bytes to ", 0);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.count("failed", "EMSGSIZE")), (1, 1));
}

#[test]
fn dual_stack_socket_answers_both_families() {
    let server = Server::start(&["hello@[::]:0"]);
    for ip in ["127.0.0.1", "[::1]"] {
        let address = format!("{ip}:{}", server.address().port()).parse().expect("an address");
        assert_eq!(request(&connect(address), b"you"), b"Hello you");
    }
}

#[test]
fn replies_keep_the_order_of_requests() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let socket = connect(server.address());
    for round in 0..20 {
        let message = |i: u32| format!("{round}/{i}").into_bytes();
        for i in 0..100 {
            socket.send(&message(i)).expect("sent");
        }
        for i in 0..100 {
            assert_eq!(receive(&socket), message(i));
        }
    }
}

#[test]
fn empty_text_replies_with_an_empty_datagram() {
    let server = Server::start(&["reply=@127.0.0.1:0"]);
    assert_eq!(request(&connect(server.address()), b"you"), b"");
}

#[test]
fn serves_more_endpoints_than_one_poll_returns() {
    let services = ["echo@127.0.0.1:0"; 150];
    let server = Server::start_many(150, &[&services[..], &["-q", "--json"]].concat());
    let clients: Vec<_> = server.addresses().iter().map(|address| connect(*address)).collect();
    for round in 0..3 {
        // All of them become ready at once, with more datagrams than a turn handles.
        server.pause();
        for client in &clients {
            (0..70).for_each(|i| assert!(client.send(format!("{round} {i}").as_bytes()).is_ok()));
        }
        server.resume();
        for client in &clients {
            (0..70).for_each(|i| assert_eq!(receive(client), format!("{round} {i}").into_bytes()));
        }
    }
    let endpoints = server.stop().endpoints();
    assert!(endpoints.len() == 150 && endpoints.iter().all(|endpoint| endpoint.get("answered") == 210));
}

/// By host and port, by port, by host.
#[test]
fn service_moves_to_the_given_address() {
    run_in_namespace!();
    let services = ["fixed@127.0.0.2:7000", "fixed@:7001", "fixed@127.0.0.3", "ack@[::1]", "reply=a@b {}@[::1]:7002"];
    let server = Server::start_many(5, &services);
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.2:7000", "127.0.0.1:7001", "127.0.0.3:20001", "[::1]:12345", "[::1]:7002"]);
    for address in &server.addresses()[..3] {
        assert_eq!(request(&connect(*address), b"you"), b"Hello UDP Client");
    }
    assert_eq!(request(&connect(server.addresses()[3]), b"you"), b"Server acknowledges: you");
    assert_eq!(request(&connect(server.addresses()[4]), b"you"), b"a@b you");
}

/// Returns `udpong serve` with another file as /etc/hosts. Works in a namespace only.
fn serve_with_hosts(hosts: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", "mount --bind \"$0\" /etc/hosts; exec \"$@\""]).arg(hosts);
    command.arg(env!("CARGO_BIN_EXE_udpong")).arg("serve").args(arguments).env_remove("RUST_LOG");
    command
}

#[test]
fn name_is_served_on_every_local_address() {
    run_in_namespace!("mount");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let hosts = file.path();
    let names = "127.0.0.1 twice\n127.0.0.2 twice\n127.0.0.1 once\n192.0.2.1 once\n192.0.2.1 never\n";
    std::fs::write(hosts, names).expect("written");
    let serve = |arguments: &[&str]| serve_with_hosts(hosts, arguments);
    let mut server = Server::spawn(3, &mut serve(&["echo@twice:7000", "ack@once:7001", "--log=debug"]));
    let mut addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    addresses.sort();
    assert_eq!(addresses, ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.2:7000"]);
    for address in &server.addresses()[..2] {
        assert_eq!(request(&connect(*address), b"you"), b"you");
    }
    server.wait_for_line("Not listening on 192.0.2.1:7001 (ack)", 0);
    assert!(server.stop().status.success());

    // None is local, two services want the same, or one is in use: nothing is served.
    let output = run(&mut serve(&["echo@twice:7000", "ack@never:7001"]), b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("udpong: cannot listen on 192.0.2.1:7001 (ack): this machine has no"), "{stderr}");
    let output = run(&mut serve(&["echo@127.0.0.2:7000", "ack@twice:7000"]), b"");
    assert_eq!(output.status.code(), Some(2));
    let _holder = UdpSocket::bind("127.0.0.2:7000").expect("a free port");
    let output = run(&mut serve(&["echo@twice:7000"]), b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("cannot listen on 127.0.0.2:7000 (echo): address already in use"), "{stderr}");
}

/// Not even with SO_REUSEADDR or SO_REUSEPORT.
#[test]
fn other_processes_cannot_share_the_port() {
    for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let server = Server::start(&[&format!("hello@{bound}")]);
        let port = server.address().port();
        for ip in ["127.0.0.1", "0.0.0.0", "[::]"] {
            let address: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
            for (reuse_address, reuse_port) in [(false, false), (true, false), (false, true), (true, true)] {
                let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("a socket");
                socket.set_reuse_address(reuse_address).expect("an option");
                socket.set_reuse_port(reuse_port).expect("an option");
                let kind = socket.bind(&address.into()).map_err(|error| error.kind());
                assert_eq!(kind, Err(std::io::ErrorKind::AddrInUse), "{address} {reuse_address} {reuse_port}");
            }
        }
        assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    }
}

#[test]
fn workers_share_a_port_and_one_report() {
    let options = ["--workers=2", "--json", "-q", "--stats=50ms", "--count=200"];
    let mut server = Server::start(&[&["hello@127.0.0.1:0"], &options[..]].concat());
    let clients: Vec<_> = (0..40).map(|_| connect(server.address())).collect();
    let request_all = || clients.iter().for_each(|client| assert_eq!(request(client, b"you"), b"Hello you"));
    (0..4).for_each(|_| request_all());
    let line = server.wait_for_line("received 160 (480 bytes), answered 160 ", 0);
    assert!(line.contains(&format!("hello on {}: ", server.address())), "{line}");
    request_all();
    let output = server.wait();
    assert_eq!(output.status.code(), Some(0));
    let endpoint = output.endpoint();
    assert_eq!((endpoint.get("received"), endpoint.get("answered")), (200, 200));
    // Each statistics line counts both workers.
    let counts = output.log.iter().filter_map(|line| line.split_once("received ")?.1.split_once(' '));
    let counts: Vec<u64> = counts.map(|(count, _)| count.parse().expect("a count")).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    for client in &clients {
        client.set_nonblocking(true).expect("a socket option");
        assert!(client.recv(&mut [0; 100]).is_err(), "a request was answered twice");
    }
}
