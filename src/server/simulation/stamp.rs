//! The same with a Session-Reflector: its replies wait as they are, and leave in order.

use super::*;
use crate::server::stamp::StampService;
use crate::stamp::ReflectorOptions;

#[test]
fn replies_that_wait_are_those_that_were_made() {
    let mut simulation = Simulation::new(1);
    let script = Script { room: 1, batch: 64, ..Script::default() };
    let endpoint = Endpoint::new(script, ([127, 0, 0, 1], 862).into(), "stamp", Some(ReplyTemplate::around("", "")));
    let service = StampService::new(ReflectorOptions::default(), simulation.now);
    simulation.endpoint = endpoint.with_stamp(Some(service));
    for number in 0..5_u8 {
        simulation.script().arrive(([127, 0, 0, 1], 4000).into(), vec![0, 0, 0, 100 + number]);
    }
    simulation.poll();
    simulation.turn();
    assert_eq!((simulation.script().wire.len(), simulation.endpoint.queue().len()), (1, 4));
    simulation.script().drain(10);
    simulation.poll();
    simulation.turn();
    // The number of the reply, and the first bytes of T3, which is not zero.
    let numbers: Vec<_> = simulation.script().wire.iter().map(|(_, bytes)| (bytes[3], bytes[4] > 0)).collect();
    assert_eq!(numbers, [(0, true), (1, true), (2, true), (3, true), (4, true)]);
    assert_eq!(simulation.script().sent_bytes, 5 * 44);
    let statistics = simulation.endpoint.statistics();
    assert_eq!((statistics.received, statistics.answered, statistics.waited), (5, 5, 4));
}
