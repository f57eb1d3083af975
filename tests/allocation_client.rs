//! A warm generator of `bench` allocates nothing per probe; otherwise it would measure itself.
//!
//! A test program of its own, since counting replaces the allocator.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use udpong::client::{Generator, Load, Shape};
use udpong::reactor::shutdown::Shutdown;

#[test]
fn warm_generator_allocates_nothing_per_probe() {
    let responder = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let target = responder.local_addr().expect("an address");
    // It ends with the process.
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = responder.recv_from(&mut buffer) {
            let _ = responder.send_to(&buffer[..length], from);
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
        // What a client remembers grows to its peak, which may come late, but not with every probe.
        assert!(allocations.count_total < 20, "{load:?}: {allocations:?} for {answered} answers");
    }
}
