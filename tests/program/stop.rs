//! How it stops: by signals, by time, by count; what has arrived is answered first.

use crate::harness::{Server, ask, client, in_namespace, signal};

#[test]
fn three_signals_stop_it_and_the_tally_is_told() {
    for name in ["INT", "TERM", "HUP"] {
        let server = Server::start(&["hello@127.0.0.1:0", "--json"]);
        assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
        signal(name, server.id());
        let finished = server.finish();
        assert_eq!(finished.status.code(), Some(0), "{name}");
        assert!(finished.log.iter().any(|line| line.contains("received 1 (3 bytes), answered 1 (9 bytes)")), "{name}");
        assert_eq!(finished.endpoint().get("answered"), 1);
    }
}

#[test]
fn in_a_namespace_of_its_own_it_serves_the_default_address() {
    if in_namespace("stop::in_a_namespace_of_its_own_it_serves_the_default_address") {
        let server = Server::start(&[]);
        assert_eq!(server.address().to_string(), "0.0.0.0:5000");
        assert_eq!(ask(&client(server.address()), b"you"), b"Hello you");
        assert!(server.stop().status.success());
    }
}
