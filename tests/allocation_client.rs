//! The bench's generator allocates nothing a datagram once it is warm (it would measure itself otherwise).

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use udpong::client::{Generator, Load, Shape};
use udpong::reactor::shutdown::Shutdown;

#[test]
fn a_warm_generator_allocates_nothing_a_datagram() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let target = server.local_addr().expect("an address");
    // It ends with the process.
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], from);
        }
    });
    for load in [Load::InFlight(16), Load::Rate(5000)] {
        let shape = Shape { clients: 4, load, size: 64, segments: 4, timeout: Duration::from_millis(200) };
        let mut generator = Generator::new(target, shape, &Shutdown::new()).expect("a generator");
        let mut run = || {
            generator.run(Duration::from_millis(500), |_| {}).expect("a run");
        };
        run();
        let allocations = allocation_counter::measure(run);
        let answered = generator.counts().answered;
        assert!(answered > 100, "{answered}");
        // What a client remembers grows to its own peak, which may come late; that is not for each datagram.
        assert!(allocations.count_total < 20, "{load:?}: {allocations:?} for {answered} answers");
    }
}
