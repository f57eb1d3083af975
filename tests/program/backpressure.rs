//! A network that is stuck: replies wait, the rest stays in the kernel, and the program stays small and idle.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Server, SlowLoopback, assert_memory_is_small, client, in_namespace, needs, receive, signal};

/// So many small messages fit into the receive buffers of a system with the usual limits.
const MESSAGES: u64 = 150;

fn message(i: u64) -> Vec<u8> {
    format!("{i:0300}").into_bytes()
}

/// The number in front of which a line of the log says `word`.
fn number(line: &str, word: &str) -> u64 {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {line}")).1;
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).expect("a number")
}

#[test]
fn replies_wait_and_leave_in_order_and_meanwhile_nothing_is_read_or_done() {
    needs!("unshare", "ip", "tc");
    if in_namespace("backpressure::replies_wait_and_leave_in_order_and_meanwhile_nothing_is_read_or_done") {
        let mut server = Server::start(&["hello@127.0.0.1:0", "-q", "--json", "--send-buffer=16k", "--stats=200ms"]);
        let client = client(server.address());
        server.freeze();
        for i in 0..MESSAGES {
            client.send(&message(i)).expect("sent");
        }
        let loopback = SlowLoopback::new("1kbit", 2000);
        signal("CONT", server.id());

        // What waits is what one turn could not send; the backlog stays where it is.
        let told = server.wait_for_line(", waited ", 0);
        let (received, waited, unsent) =
            (number(&told, "received "), number(&told, "waited "), number(&told, "unsent "));
        assert!(received < MESSAGES && waited > 0 && (1..=32).contains(&unsent), "{told}");

        // A loop that spins would use all of this time, 50 ticks.
        let before = server.processor_ticks();
        thread::sleep(Duration::from_millis(500));
        assert!(server.processor_ticks() - before < 15, "{} ticks", server.processor_ticks() - before);
        assert_memory_is_small(&server);

        loopback.speed_up();
        for i in 0..MESSAGES {
            assert_eq!(receive(&client), [b"Hello ", &message(i)[..]].concat());
        }
        let endpoint = server.stop().endpoint();
        assert_eq!((endpoint.get("answered"), endpoint.get("unsent")), (MESSAGES, 0), "{endpoint:?}");
        assert!(endpoint.get("waited") >= waited, "{endpoint:?}");
        assert!((1..=32).contains(&endpoint.get("waiting_peak")), "{endpoint:?}");
    }
}

#[test]
fn a_stop_waits_for_the_replies_until_the_grace_time_is_over_and_counts_the_rest() {
    needs!("unshare", "ip", "tc");
    if in_namespace("backpressure::a_stop_waits_for_the_replies_until_the_grace_time_is_over_and_counts_the_rest") {
        let mut server = Server::start(&["echo@127.0.0.1:0", "-q", "--json", "--send-buffer=64k", "--stats=200ms"]);
        let client = client(server.address());
        server.freeze();
        for _ in 0..60 {
            client.send(&[b'x'; 60_000]).expect("sent");
        }
        let _loopback = SlowLoopback::new("1kbit", 70_000);
        signal("CONT", server.id());
        server.wait_for_line(", waited ", 0);
        assert_memory_is_small(&server);
        let start = Instant::now();
        let finished = server.stop();
        assert!(start.elapsed() >= Duration::from_millis(500));
        assert_eq!(finished.status.code(), Some(0));
        let endpoint = finished.endpoint();
        assert!(endpoint.get("unsent") > 0 && endpoint.get("answered") > 0, "{endpoint:?}");
        assert!(endpoint.get("waiting_peak") <= 12, "{endpoint:?}");
        assert!(finished.log.last().is_some_and(|line| number(line, "unsent ") == endpoint.get("unsent")));
    }
}

#[test]
fn a_stop_is_over_as_soon_as_the_last_reply_has_left() {
    needs!("unshare", "ip", "tc");
    if in_namespace("backpressure::a_stop_is_over_as_soon_as_the_last_reply_has_left") {
        let arguments = ["echo@127.0.0.1:0", "-q", "--json", "--send-buffer=16k", "--grace=1h", "--stats=200ms"];
        let mut server = Server::start(&arguments);
        let client = client(server.address());
        server.freeze();
        for i in 0..MESSAGES {
            client.send(&message(i)).expect("sent");
        }
        let loopback = SlowLoopback::new("1kbit", 2000);
        signal("CONT", server.id());
        server.wait_for_line(", waited ", 0);
        signal("INT", server.id());
        loopback.speed_up();
        let finished = server.finish();
        assert_eq!(finished.status.code(), Some(0));
        assert_eq!(finished.endpoint().get("answered"), MESSAGES);
        (0..MESSAGES).for_each(|i| assert_eq!(receive(&client), message(i)));
    }
}
