//! A warm server allocates nothing per datagram (invariant 8).
//!
//! A test program of its own, since counting replaces the allocator.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use log::LevelFilter;
use simple_logger::SimpleLogger;
use udpong::logging::writer::LogWriter;
use udpong::reactor::shutdown::Shutdown;
use udpong::server::{Options, Server};

/// Datagrams in flight: more than a turn handles, fewer than a receive buffer of the usual size holds.
const WINDOW: u64 = 100;

fn send_window(socket: &UdpSocket) {
    (0..WINDOW as usize).for_each(|i| assert!(socket.send(&[b'x'; 500][..500 - 5 * i]).is_ok()));
}

fn receive_window(socket: &UdpSocket) {
    (0..WINDOW).for_each(|_| assert!(socket.recv(&mut [0; 600]).is_ok(), "a reply is missing"));
}

/// Returns how often a server allocates memory on its loop's thread while it answers a number of datagrams.
fn count_allocations(service: &str, datagrams: u64) -> u64 {
    let shutdown = Shutdown::new();
    // What is sent here might be the replies of another reflector, of which one in 1,000 is withheld.
    let options = Options { no_guard: service.starts_with("stamp"), ..Options::default() };
    let service = [service.parse().expect("a service")];
    let server = Server::bind(&service, options, shutdown.clone()).expect("bound");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    client.connect(server.addresses()[0]).expect("connected");

    // These wait before the server runs, so that its first turns are as large as any.
    send_window(&client);
    let server = thread::spawn(move || {
        let mut answered = 0;
        let allocations = measure(|| {
            let (report, result) = server.run();
            result.expect("served");
            answered = report.endpoints[0].statistics.answered;
        });
        assert_eq!(answered, datagrams);
        allocations.count_total
    });
    for _ in 1..datagrams / WINDOW {
        receive_window(&client);
        send_window(&client);
    }
    receive_window(&client);
    shutdown.request();
    server.join().expect("the server's thread")
}

/// One test for both cases, since the process has one logger: first without it, then with it.
#[test]
fn warm_server_allocates_nothing_per_datagram() {
    let services = ["hello@127.0.0.1:0", "echo@127.0.0.1:0", "reply=<{}>@127.0.0.1:0", "stamp@127.0.0.1:0"];
    let compare = |allowed: u64, log: &str| {
        for service in services {
            let [few, many] = [1_000, 20_000].map(|datagrams| count_allocations(service, datagrams));
            assert!(many <= few + allowed, "{service}, {log}: {few} and {many} allocations");
        }
    };
    compare(0, "without a log");
    LogWriter::install(SimpleLogger::new().with_level(LevelFilter::Info)).expect("the first logger");
    // The log allocates at most 256 buffers for lines, each when it is first needed.
    compare(256, "with a log");
}
