//! What is served: every service, moved addresses, several at once, any bytes of any length, and the tally of it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Endpoint, Server, ask, client, in_namespace, needs, receive, run, signal};

#[test]
fn every_service_answers_as_it_says() {
    let mut server = Server::start_many(
        5,
        &["hello@127.0.0.1:0", "echo@127.0.0.1:0", "fixed@:0", "ack@:0", "reply=<{}> {{}}@127.0.0.1:0", "--json"],
    );
    let expected: [&[u8]; 5] = [b"Hello hi", b"hi", b"Hello UDP Client", b"Server acknowledges: hi", b"<hi> {}"];
    for (address, expected) in server.addresses().iter().zip(expected) {
        assert_eq!(ask(&client(*address), b"hi"), expected);
    }
    let from = server.wait_for_line("Received message from ", 0);
    assert!(from.contains(": hi (2 bytes)"), "{from}");
    let to = server.wait_for_line("Sent response to ", 0);
    assert!(to.contains(": Hello hi (8 bytes)"), "{to}");
    assert!(server.log()[0].contains(&format!("Server is listening on {} (hello)", server.address())));
    let finished = server.stop();
    assert!(finished.status.success());
    for endpoint in finished.report()["endpoints"].as_array().expect("endpoints") {
        let endpoint = Endpoint::new(endpoint.clone());
        assert_eq!((endpoint.get("received"), endpoint.get("received_bytes"), endpoint.get("answered")), (1, 2, 1));
    }
}

#[test]
fn discard_answers_nothing_and_counts_it() {
    let mut server = Server::start(&["discard@127.0.0.1:0", "--json"]);
    let socket = client(server.address());
    socket.send(b"nothing").expect("sent");
    server.wait_for_line("Received message", 0);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.count("refused", "discard")), (0, 1));
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    assert!(socket.recv(&mut [0; 10]).is_err());
}

#[test]
fn datagrams_of_every_length_come_back_whole() {
    for address in ["echo@127.0.0.1:0", "echo@[::1]:0", "echo@[::]:0"] {
        let server = Server::start(&[address, "-q", "--json"]);
        let socket = client(server.address());
        let bytes: Vec<u8> = (0..65_507_u32).map(|i| (i * 31 % 251) as u8).collect();
        for length in [0, 1, 2, 1471, 1472, 1473, 8192, 65_506, 65_507] {
            assert_eq!(ask(&socket, &bytes[..length]), &bytes[..length]);
        }
        assert_eq!(server.stop().endpoint().get("answered"), 9);
    }
}

#[test]
fn a_reply_that_is_too_long_is_lost_alone() {
    let mut server = Server::start(&["hello@127.0.0.1:0", "--json"]);
    let socket = client(server.address());
    socket.send(&[b'x'; 65_507]).expect("sent");
    assert_eq!(ask(&socket, b"next"), b"Hello next");
    server.wait_for_line("Cannot send 65513 bytes to ", 0);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.get("answered"), endpoint.count("failed", "EMSGSIZE")), (1, 1));
}

#[test]
fn a_dual_stack_socket_answers_both_families() {
    let server = Server::start(&["hello@[::]:0"]);
    for ip in ["127.0.0.1", "[::1]"] {
        let address = format!("{ip}:{}", server.address().port()).parse().expect("an address");
        assert_eq!(ask(&client(address), b"you"), b"Hello you");
    }
}

#[test]
fn answers_keep_the_order_of_their_messages() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let socket = client(server.address());
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
fn an_empty_text_is_answered_with_an_empty_datagram() {
    let server = Server::start(&["reply=@127.0.0.1:0"]);
    assert_eq!(ask(&client(server.address()), b"you"), b"");
}

#[test]
fn more_services_are_served_than_one_poll_reports() {
    let services = ["echo@127.0.0.1:0"; 150];
    let server = Server::start_many(150, &[&services[..], &["-q", "--json"]].concat());
    let clients: Vec<_> = server.addresses().iter().map(|address| client(*address)).collect();
    for round in 0..3 {
        // All of them are ready at once, with more than a turn's worth.
        server.freeze();
        for client in &clients {
            (0..70).for_each(|i| assert!(client.send(format!("{round} {i}").as_bytes()).is_ok()));
        }
        signal("CONT", server.id());
        for client in &clients {
            (0..70).for_each(|i| assert_eq!(receive(client), format!("{round} {i}").into_bytes()));
        }
    }
    let endpoints = server.stop().endpoints();
    assert!(endpoints.len() == 150 && endpoints.iter().all(|endpoint| endpoint.get("answered") == 210));
}

#[test]
fn addresses_are_moved_in_three_ways() {
    needs!("unshare", "ip");
    if in_namespace("services::addresses_are_moved_in_three_ways") {
        let services =
            ["fixed@127.0.0.2:7000", "fixed@:7001", "fixed@127.0.0.3", "ack@[::1]", "reply=a@b {}@[::1]:7002"];
        let server = Server::start_many(5, &services);
        let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.2:7000", "127.0.0.1:7001", "127.0.0.3:20001", "[::1]:12345", "[::1]:7002"]);
        for address in &server.addresses()[..3] {
            assert_eq!(ask(&client(*address), b"you"), b"Hello UDP Client");
        }
        assert_eq!(ask(&client(server.addresses()[3]), b"you"), b"Server acknowledges: you");
        assert_eq!(ask(&client(server.addresses()[4]), b"you"), b"a@b you");
    }
}

/// `udpong serve` where /etc/hosts is another file. In a namespace only.
fn with_hosts(hosts: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", "mount --bind \"$0\" /etc/hosts; exec \"$@\""]).arg(hosts);
    command.arg(env!("CARGO_BIN_EXE_udpong")).arg("serve").args(arguments).env_remove("RUST_LOG");
    command
}

#[test]
fn a_name_with_several_addresses_is_served_on_each_or_not_at_all() {
    needs!("unshare", "ip", "mount");
    if in_namespace("services::a_name_with_several_addresses_is_served_on_each_or_not_at_all") {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let hosts = file.path();
        let names = "127.0.0.1 twice\n127.0.0.2 twice\n127.0.0.1 once\n192.0.2.1 once\n192.0.2.1 never\n";
        std::fs::write(hosts, names).expect("written");
        let mut server = Server::spawn(3, &mut with_hosts(hosts, &["echo@twice:7000", "ack@once:7001", "--log=debug"]));
        let mut addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
        addresses.sort();
        assert_eq!(addresses, ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.2:7000"]);
        for address in &server.addresses()[..2] {
            assert_eq!(ask(&client(*address), b"you"), b"you");
        }
        server.wait_for_line("Not listening on 192.0.2.1:7001 (ack)", 0);
        assert!(server.stop().status.success());

        let output = run(&mut with_hosts(hosts, &["echo@twice:7000", "ack@never:7001"]), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.starts_with("udpong: cannot listen on 192.0.2.1:7001 (ack): this machine has no"), "{said}");
        let output = run(&mut with_hosts(hosts, &["echo@127.0.0.2:7000", "ack@twice:7000"]), b"");
        assert_eq!(output.status.code(), Some(2));
        let holder = std::net::UdpSocket::bind("127.0.0.2:7000").expect("a free port");
        let output = run(&mut with_hosts(hosts, &["echo@twice:7000"]), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("cannot listen on 127.0.0.2:7000 (echo): address already in use"), "{said}");
        drop(holder);
    }
}
