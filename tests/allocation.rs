//! No datagram costs an allocation once the server runs warm (invariant 8).

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use log::LevelFilter;
use simple_logger::SimpleLogger;
use udpong::logging::writer::LogWriter;
use udpong::reactor::shutdown::Shutdown;
use udpong::server::{Options, Server};

/// Datagrams in flight at a time: more than a turn handles, fewer than a receive buffer of the usual size holds.
const WINDOW: u64 = 100;

fn send_window(socket: &UdpSocket) {
    (0..WINDOW as usize).for_each(|i| assert!(socket.send(&[b'x'; 500][..500 - 5 * i]).is_ok()));
}

fn receive_window(socket: &UdpSocket) {
    (0..WINDOW).for_each(|_| assert!(socket.recv(&mut [0; 600]).is_ok(), "an answer is missing"));
}

/// How many allocations a server makes on its loop's thread when it answers so many datagrams.
fn allocations(service: &str, datagrams: u64) -> u64 {
    let shutdown = Shutdown::new();
    let service = [service.parse().expect("a service")];
    let server = Server::bind(&service, Options::default(), shutdown.clone()).expect("bound");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    client.connect(server.addresses()[0]).expect("connected");

    // What waits before it runs warms it up: its first turns are as large as turns get.
    send_window(&client);
    let server = thread::spawn(move || {
        let mut answered = 0;
        let info = measure(|| {
            let (report, result) = server.run();
            result.expect("served");
            answered = report.endpoints[0].statistics.answered;
        });
        assert_eq!(answered, datagrams);
        info.count_total
    });
    for _ in 1..datagrams / WINDOW {
        receive_window(&client);
        send_window(&client);
    }
    receive_window(&client);
    shutdown.request();
    server.join().expect("the server's thread")
}

/// One test, since the log is the process's: without it first, then with it.
#[test]
fn the_number_of_allocations_does_not_depend_on_the_number_of_datagrams() {
    let services = ["hello@127.0.0.1:0", "echo@127.0.0.1:0", "reply=<{}>@127.0.0.1:0"];
    let compare = |more: u64, log: &str| {
        for service in services {
            let (few, many) = (allocations(service, 1_000), allocations(service, 20_000));
            assert!(many <= few + more, "{service}, {log}: {few} and {many}");
        }
    };
    compare(0, "without a log");
    LogWriter::install(SimpleLogger::new().with_level(LevelFilter::Info)).expect("the first logger");
    // Whatever it has to say, the log makes 256 buffers for lines and no more, when it first needs them.
    compare(256, "with a log");
}
