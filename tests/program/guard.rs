//! The guard: sources that would answer the answer are not answered, silently, and all of it is counted.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::harness::{Finished, Forger, Server, ask, client, in_namespace, needs};

/// Sends a few datagrams from `source`, then some from elsewhere that are answered; gives what came back to `source`.
/// Answers to two peers may change places within a turn, so that one turn more has to pass.
fn answers_to(source: &UdpSocket, server: SocketAddr) -> usize {
    for _ in 0..5 {
        source.send_to(b"you", server).expect("sent");
    }
    (0..2).for_each(|_| assert_eq!(ask(&client(server), b"you"), b"Hello you"));
    source.set_nonblocking(true).expect("a socket option");
    (0..6).take_while(|_| source.recv(&mut [0; 100]).is_ok()).count()
}

fn refusals(finished: &Finished) -> Vec<&str> {
    let lines = finished.log.iter().filter_map(|line| line.split_once("Not answering "));
    lines.map(|(_, refusal)| refusal).collect()
}

#[test]
fn our_own_ports_are_not_answered() {
    // The other address of the two services lets a client have their ports.
    let server = Server::start_many(2, &["hello@127.0.0.1:0", "discard@127.0.0.1:0", "--json"]);
    for address in server.addresses() {
        let source = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), address.port())).expect("a free port");
        assert_eq!(answers_to(&source, server.address()), 0);
    }
    let first = server.addresses()[0].port();
    let finished = server.stop();
    let reports = finished.endpoints();
    assert_eq!((reports[0].get("answered"), reports[0].count("refused", "own_port")), (4, 10));
    let line = format!("127.0.0.2:{first}: its port is bound by this process, which would answer the reply");
    assert_eq!(refusals(&finished), [line]);
}

#[test]
fn without_guard_our_own_ports_are_answered() {
    let server = Server::start(&["hello@127.0.0.1:0", "--json", "--no-guard"]);
    let source = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), server.address().port())).expect("a free port");
    assert_eq!(answers_to(&source, server.address()), 5);
    let finished = server.stop();
    assert_eq!((finished.endpoint().get("answered"), finished.endpoint().total("refused")), (7, 0));
    assert!(refusals(&finished).is_empty());
}

#[test]
fn ports_of_known_services_are_not_answered() {
    needs!("unshare", "ip");
    if in_namespace("guard::ports_of_known_services_are_not_answered") {
        let ports = [7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 500, 1900, 5353, 11211];
        let server = Server::start(&["hello@127.0.0.1:0", "--json", "-q"]);
        for port in ports {
            let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
            assert_eq!(answers_to(&source, server.address()), 0, "{port}");
        }
        for port in [6, 8, 54, 11210] {
            let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
            assert_eq!(answers_to(&source, server.address()), 5, "{port}");
        }
        let finished = server.stop();
        let refused = 5 * ports.len() as u64;
        assert_eq!(finished.endpoint().count("refused", "service_port"), refused);
        assert_eq!(finished.endpoint().total("refused"), refused);
        let line = "127.0.0.1:7: its port belongs to a UDP service, which could answer the reply";
        assert_eq!(refusals(&finished), [line]);

        let server = Server::start(&["hello@127.0.0.1:0", "--json", "--no-guard"]);
        let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("a free port");
        assert_eq!(answers_to(&source, server.address()), 5);
        assert_eq!(server.stop().endpoint().total("refused"), 0);
    }
}

#[test]
fn a_forged_datagram_does_not_set_two_services_on_each_other() {
    needs!("unshare", "ip");
    if in_namespace("guard::a_forged_datagram_does_not_set_two_services_on_each_other") {
        let server = Server::start_many(2, &["hello@127.0.0.1:5000", "ack@127.0.0.1:5001", "--json"]);
        Forger::new().send(([127, 0, 0, 1], 5000), server.addresses()[1], b"you");
        Forger::new().send(([127, 0, 0, 1], 5000), server.addresses()[0], b"you");
        assert_eq!(ask(&client(server.addresses()[0]), b"you"), b"Hello you");
        assert_eq!(ask(&client(server.addresses()[1]), b"you"), b"Server acknowledges: you");
        let reports = server.stop().endpoints();
        for report in reports {
            assert_eq!(
                (report.get("received"), report.get("answered"), report.count("refused", "own_port")),
                (2, 1, 1)
            );
        }
    }
}
