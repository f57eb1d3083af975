//! The same with a link: what it holds, and what the socket does not take, is bounded, in order, and counted.

use std::time::Duration;

use super::*;
use crate::impair::{Generator, Impairments, Link, Loss};

fn simulation(room: usize, impairments: Impairments, seed: u64) -> Simulation {
    let mut simulation = Simulation::new(room);
    let generator = Generator::new(seed.to_string().parse().expect("a seed"), 0);
    let link = Link::new(impairments, generator, 1 << 20, simulation.now);
    let script = Script { room, batch: 64, ..Script::default() };
    let template = "Hello {}".parse().expect("a template");
    let endpoint = Endpoint::new(script, ([127, 0, 0, 1], 5000).into(), "hello", Some(template));
    simulation.endpoint = endpoint.with_link(Some(link));
    simulation
}

fn percent(text: &str) -> crate::impair::Probability {
    text.parse().expect("a probability")
}

/// Gives a turn, if one is wanted. What is delayed is not owed.
fn turn(simulation: &mut Simulation) {
    simulation.turn();
    if !simulation.script().blocked {
        simulation.script().owed = 0;
    }
}

fn take(simulation: &mut Simulation, step: Step) {
    match step {
        Step::Arrive(datagrams) => datagrams.into_iter().for_each(|(port, padding)| simulation.arrive(port, padding)),
        Step::Drain(room) => simulation.script().drain(room),
        Step::Poll => simulation.poll(),
        Step::Turn => turn(simulation),
        Step::Batch(batch, coalesce) => {
            simulation.script().batch = batch;
            simulation.script().coalesce = coalesce;
        }
        Step::ReceiveErrors(errors) => simulation.script().receive_errors = errors.into(),
        Step::SendErrors(errors) => simulation.script().send_errors = errors.into(),
    }
}

/// Invariant 6.
fn check_sum(simulation: &Simulation) {
    let statistics = simulation.endpoint.statistics();
    let impaired = statistics.impaired.expect("impairments");
    let ends = statistics.answered + statistics.refused.total() + statistics.failed.total() + statistics.unsent;
    assert_eq!(statistics.received + impaired.duplicated, ends + impaired.lost + impaired.over_limit, "{statistics:?}");
    assert_eq!(simulation.endpoint.socket().wire.len() as u64, statistics.answered);
}

/// Invariants 1 and 4, without a delay.
fn check(simulation: &Simulation) {
    check_sum(simulation);
    let (endpoint, script) = (&simulation.endpoint, simulation.endpoint.socket());
    let statistics = endpoint.statistics();
    assert_eq!(endpoint.wants().deadline, None);
    let waiting = statistics.unsent > 0;
    assert_eq!(endpoint.wants().interest != Some(Interest::READABLE), waiting, "WRITABLE (invariant 4)");
    if waiting {
        assert_eq!(endpoint.wants().turn, !script.blocked, "replies are sent when they can be (invariant 4)");
    } else if !script.arrived.is_empty() && !script.readable_edge {
        assert!(endpoint.wants().turn, "nothing would bring the backlog back (invariant 1)");
    }
    for peer in 4000..4003 {
        let numbers = script.wire.iter().filter(|(port, _)| *port == peer).map(|(_, reply)| reply);
        // Damaged replies may have no number.
        let numbers = numbers.filter_map(|reply| std::str::from_utf8(reply.get(6..14)?).ok()?.parse::<u64>().ok());
        let is_corrupted = statistics.impaired.is_some_and(|impaired| impaired.corrupted > 0);
        assert!(is_corrupted || numbers.is_sorted(), "the order of replies to one peer (invariant 4)");
    }
}

fn settle(simulation: &mut Simulation) {
    simulation.script().drain(usize::MAX / 2);
    for _ in 0..10_000 {
        simulation.poll();
        if !simulation.endpoint.wants().turn {
            match simulation.endpoint.wants().deadline {
                None => break,
                Some(deadline) => {
                    simulation.now = deadline;
                    simulation.endpoint.take_turn(deadline, &mut simulation.resources).expect("no error");
                }
            }
        }
        turn(simulation);
        check_sum(simulation);
    }
    assert!(simulation.script().arrived.is_empty(), "unread datagrams are left");
    let statistics = simulation.endpoint.statistics();
    assert_eq!((statistics.unsent, statistics.received), (0, simulation.arrived));
    assert!(simulation.endpoint.is_settled());
}

proptest! {
    #[test]
    fn no_network_breaks_an_invariant(
        room in 0..200_usize,
        steps in vec(step(), 1..100),
        seed in 0..1_000_u64,
        corrupt in prop_oneof![Just("0%"), Just("20%"), Just("100%")],
        duplicate in prop_oneof![Just("0%"), Just("20%"), Just("100%")],
    ) {
        let impairments = Impairments {
            loss: Loss::Independent(percent("20%")),
            duplicate: percent(duplicate),
            corrupt: percent(corrupt),
            truncate: percent("10%"),
            ..Impairments::default()
        };
        let mut simulation = simulation(room, impairments, seed);
        for step in steps {
            take(&mut simulation, step);
            check(&simulation);
        }
        settle(&mut simulation);
    }

    #[test]
    fn delayed_replies_leave_when_their_time_has_come(
        room in 0..200_usize,
        steps in vec(step(), 1..50),
        seed in 0..1_000_u64,
        limit in 1..300_usize,
    ) {
        let impairments = Impairments {
            // The endpoint reads the clock when datagrams arrive, so nothing may become due meanwhile.
            delay: Duration::from_secs(3600),
            jitter: Duration::from_secs(60),
            reorder: percent("10%"),
            duplicate: percent("20%"),
            limit,
            ..Impairments::default()
        };
        let mut simulation = simulation(room, impairments, seed);
        for step in steps {
            take(&mut simulation, step);
            check_sum(&simulation);
        }
        prop_assert!(simulation.endpoint.wants().deadline.is_none_or(|at| at > simulation.now));
        settle(&mut simulation);
    }
}
