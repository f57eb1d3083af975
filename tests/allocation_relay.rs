//! A warm relay allocates nothing per datagram (invariant 8).
//!
//! A test program of its own, since counting replaces the allocator.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use udpong::impair::{Impairments, Loss};
use udpong::reactor::shutdown::Shutdown;
use udpong::relay::{Options, Relay};

const CLIENTS: usize = 4;

/// Datagrams of each client in flight: all together more than a turn handles, and fewer than a receive buffer of the
/// usual size holds.
const WINDOW: usize = 25;

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    socket
}

/// Returns how often a relay allocates memory on its loop's thread while a number of windows pass through it and back.
fn count_allocations(windows: usize, impairments: Option<Impairments>) -> u64 {
    let target = socket();
    let address = target.local_addr().expect("an address").to_string();
    let shutdown = Shutdown::new();
    let options = Options { up: impairments.clone(), down: impairments, ..Options::default() };
    let relay = Relay::bind("127.0.0.1:0", &address, options, shutdown.clone()).expect("bound");
    let clients = [(); CLIENTS].map(|()| {
        let client = socket();
        client.connect(relay.address()).expect("connected");
        client
    });
    // Clients take turns, so that their datagrams have to be sorted.
    let send = || {
        for i in 0..WINDOW {
            clients.iter().for_each(|client| assert!(client.send(&[b'x'; 500][..500 - 5 * i]).is_ok()));
        }
    };
    // These wait before the relay runs, so that its first turns are as large as any.
    send();
    let relay = thread::spawn(move || {
        let mut forwarded = 0;
        let allocations = measure(|| {
            let (report, result) = relay.run();
            result.expect("relayed");
            forwarded = report.down.forwarded;
        });
        assert_eq!(forwarded, (windows * CLIENTS * WINDOW) as u64);
        allocations.count_total
    });
    let mut buffer = [0; 600];
    for window in 1..=windows {
        for _ in 0..CLIENTS * WINDOW {
            let (length, session) = target.recv_from(&mut buffer).expect("a datagram");
            target.send_to(&buffer[..length], session).expect("sent");
        }
        for client in &clients {
            (0..WINDOW).for_each(|_| assert!(client.recv(&mut buffer).is_ok(), "an answer is missing"));
        }
        if window < windows {
            send();
        }
    }
    shutdown.request();
    relay.join().expect("the thread of the relay")
}

#[test]
fn warm_relay_allocates_nothing_per_datagram() {
    let nothing_lost =
        Impairments { loss: Loss::Independent("0%".parse().expect("a probability")), ..Impairments::default() };
    for impairments in [None, Some(nothing_lost)] {
        let [few, many] = [10, 200].map(|windows| count_allocations(windows, impairments.clone()));
        assert!(many <= few + 5, "{few} and {many} allocations");
    }
}
