//! Replies that are lost, delayed, reordered and damaged on purpose: what a client sees against what was asked for, and
//! against the report.

use std::time::Duration;

use crate::harness::{
    EndpointReport, LENGTH, Server, ServerOutput, Traffic, assert_mean, assert_share, connect, payload, receive, run,
    udpong,
};

/// How many datagrams a statistical test sends.
const COUNT: usize = 20_000;

/// A rate that neither side has trouble with.
const INTERVAL: Duration = Duration::from_micros(100);

const SILENCE: Duration = Duration::from_millis(300);

fn serve(impairments: &[&str]) -> Server {
    Server::start(&[&["echo@127.0.0.1:0", "--json", "-q"], impairments].concat())
}

/// Stops the server and checks that nothing was lost on the way to it.
fn report(server: Server, sent: usize) -> EndpointReport {
    let output = server.stop();
    assert_eq!(output.status.code(), Some(0));
    let report = output.endpoint();
    assert_eq!((report.get("received"), report.get("kernel_dropped")), (sent as u64, 0), "{report:?}");
    report
}

fn exchange(impairments: &[&str]) -> (Traffic, EndpointReport) {
    let server = serve(impairments);
    let traffic = Traffic::exchange(server.address(), COUNT, INTERVAL, SILENCE);
    (traffic, report(server, COUNT))
}

#[test]
fn losses_and_duplicates_agree() {
    let (traffic, report) = exchange(&["--loss=2%", "--duplicate=1%", "--seed=1"]);
    let (lost, duplicated) = (report.impaired("lost"), report.impaired("duplicated"));
    assert_share(duplicated, COUNT, 0.01);
    assert_share(lost, COUNT + duplicated as usize, 0.02);
    let numbers = traffic.numbers();
    assert_eq!(numbers.len() as u64, COUNT as u64 + duplicated - lost);
    assert!(numbers.is_sorted(), "without a delay the order stays");
}

#[test]
fn bursts_of_losses_agree() {
    let (traffic, report) = exchange(&["--loss-model=gemodel:1%,25%", "--seed=1"]);
    let numbers = traffic.numbers();
    let bursts = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|lost| *lost > 0);
    let bursts: Vec<_> = bursts.map(|lost| lost as f64).collect();
    // Geometric: a mean of 1/p and a variance of (1 - p)/p².
    assert_mean(&bursts, 4.0, 12.0_f64.sqrt());
    assert_share(bursts.iter().filter(|length| **length == 1.0).count() as u64, bursts.len(), 0.25);
    let pauses = numbers.chunk_by(|a, b| a + 1 == *b).map(|pause| pause.len() as f64);
    assert_mean(&pauses.collect::<Vec<_>>(), 100.0, (0.99_f64).sqrt() * 100.0);
    assert_eq!(numbers.len() as u64 + report.impaired("lost"), COUNT as u64);
    assert!(bursts.len() > 150);
}

#[test]
fn damage_agrees_and_is_counted_exactly() {
    let (traffic, report) = exchange(&["--corrupt=3%", "--truncate=2%", "--seed=1"]);
    assert_eq!(traffic.answers.len(), COUNT);
    assert_share(report.impaired("corrupted"), COUNT, 0.03);
    assert_share(report.impaired("truncated"), COUNT, 0.02);
    let truncated: Vec<_> = traffic.answers.iter().map(|a| a.payload.len()).filter(|length| *length < LENGTH).collect();
    assert_eq!(truncated.len() as u64, report.impaired("truncated"));
    let lengths: Vec<_> = truncated.into_iter().map(|length| length as f64).collect();
    assert_mean(&lengths, (LENGTH - 1) as f64 / 2.0, ((LENGTH * LENGTH - 1) as f64 / 12.0).sqrt());
    // In order, so the place is the number. The flipped bit of a truncated datagram may have been cut off.
    let mut positions = Vec::new();
    for (answer, number) in traffic.answers.iter().zip(0..) {
        let bytes = answer.payload.iter().zip(payload(number)).zip(0_u32..);
        let flipped: Vec<_> = bytes.filter(|((is, was), _)| *is != was).collect();
        assert!(flipped.len() <= 1 && flipped.iter().all(|((is, was), _)| (*is ^ was).is_power_of_two()));
        let flipped = flipped.into_iter().map(|((is, was), byte)| f64::from(8 * byte + (is ^ was).trailing_zeros()));
        positions.extend(flipped.filter(|_| answer.payload.len() == LENGTH));
    }
    let both = 2 * COUNT as u64 * 3 / 100 * 2 / 100;
    let corrupted = report.impaired("corrupted");
    assert!((corrupted - both..=corrupted).contains(&(positions.len() as u64)), "{}", positions.len());
    let bits = 8.0 * LENGTH as f64;
    assert_mean(&positions, (bits - 1.0) / 2.0, ((bits * bits - 1.0) / 12.0).sqrt());
}

/// Exchanges datagrams with a delay of 500 ms and a jitter of 100 ms, and compares the round trips with a distribution
/// of given mean, standard deviation and peak of the density, in milliseconds. A machine that was too busy has a second
/// chance.
fn jitter_agrees(distribution: &str, mean: f64, deviation: f64, peak: f64, cumulative: impl Fn(f64) -> f64) {
    let differs =
        || jitter_differs(distribution, mean, deviation, peak, &cumulative).inspect_err(|why| println!("{why}"));
    if let Err(why) = differs().or_else(|_| differs()) {
        panic!("{distribution}: {why}");
    }
}

/// Returns what differs. Reordering must be counted exactly.
fn jitter_differs(
    distribution: &str,
    mean: f64,
    deviation: f64,
    peak: f64,
    cumulative: impl Fn(f64) -> f64,
) -> Result<(), String> {
    let delay = ["--delay=500ms", "--jitter=100ms", "--distribution", distribution, "--limit=20k", "--seed=1"];
    let server = serve(&delay);
    let traffic = Traffic::exchange(server.address(), COUNT, INTERVAL, Duration::from_secs(1));
    let report = report(server, COUNT);
    assert_eq!(traffic.numbers().len(), COUNT);
    assert_eq!(report.impaired("delayed"), COUNT as u64);
    assert_eq!(report.impaired("reordered"), traffic.overtaken());
    let mut delays: Vec<_> = traffic.round_trips().iter().map(|round_trip| round_trip.as_secs_f64() * 1e3).collect();
    delays.sort_by(f64::total_cmp);
    // The machine adds to every delay, and more to some. The median shows how much.
    let rank = |share: f64| delays[(COUNT as f64 * share) as usize];
    let (mut low, mut high) = (0.0, 1e4);
    while high - low > 1e-6 {
        let middle = (low + high) / 2.0;
        if cumulative(middle) < 0.5 { low = middle } else { high = middle }
    }
    let added = rank(0.5) - low;
    let measured = delays.iter().sum::<f64>() / COUNT as f64;
    let error = 3.0 * deviation / (COUNT as f64).sqrt();
    let is_mean = (-error..error + 5.0).contains(&(measured - added - mean));
    // Kolmogorov and Smirnov: 0.013 at 0.3 % of error, and what 4 ms of a busy machine make of the steepest part.
    let count = COUNT as f64;
    let distance =
        delays.iter().enumerate().map(|(i, delay)| (cumulative(delay - added) - (i as f64 + 0.5) / count).abs());
    let distance = distance.fold(0.0, f64::max);
    match (-3.0..15.0).contains(&added) && is_mean && distance < 0.013 + 4.0 * peak {
        true => Ok(()),
        false => Err(format!("mean {measured} ms, {added} ms of it added; distance {distance}")),
    }
}

#[test]
fn uniform_jitter_agrees() {
    jitter_agrees("uniform", 500.0, 100.0 / 3.0_f64.sqrt(), 0.005, |delay| ((delay - 400.0) / 200.0).clamp(0.0, 1.0));
}

#[test]
fn normal_jitter_agrees() {
    // The logistic approximation of the normal distribution (Page) is exact to 0.0002.
    let normal =
        |x: f64| 1.0 / (1.0 + (-2.0 * x * (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 0.044_715 * x * x)).exp());
    jitter_agrees("normal", 500.0, 100.0, 0.004, |delay| normal((delay - 500.0) / 100.0));
}

#[test]
fn pareto_jitter_agrees() {
    // Shape 3, shifted by -1.5, stretched by 4/3, cut at 4.
    let cumulative = |delay: f64| match (delay - 500.0) / 100.0 {
        x if x >= 4.0 => 1.0,
        x => 1.0 - (1.5 + x * 0.75).max(1.0).powi(-3),
    };
    jitter_agrees("pareto", 496.71, 82.09, 0.0225, cumulative);
}

#[test]
fn no_reply_leaves_before_its_delay() {
    // Longer than a busy machine takes for the others.
    const DELAY: Duration = Duration::from_millis(300);
    let (traffic, report) = exchange(&["--delay=300ms", "--reorder=25%", "--limit=20k", "--seed=1"]);
    let at_once = traffic.round_trips().iter().filter(|round_trip| **round_trip < DELAY).count();
    assert_eq!(report.impaired("delayed") + at_once as u64, COUNT as u64);
    assert_share(at_once as u64, COUNT, 0.25);
    assert_eq!(report.impaired("reordered"), traffic.overtaken());
}

/// Half the round trips are less than 200 µs longer than the delay, in one of several tries at least: a busy machine
/// adds milliseconds to any of them. A timeout in whole milliseconds would add more to most of them, always.
#[test]
fn delays_are_met_within_a_fraction_of_a_millisecond() {
    const DELAY: Duration = Duration::from_micros(5_300);
    let server = serve(&["--delay=5300us"]);
    let medians = (0..20).map(|_| {
        let traffic = Traffic::exchange(server.address(), 100, Duration::from_millis(2), SILENCE);
        let mut late: Vec<_> = traffic.round_trips().into_iter().map(|round_trip| round_trip - DELAY).collect();
        late.sort_unstable();
        let [p50, p90, p99] = [50, 90, 99].map(|percent| late[late.len() * percent / 100]);
        println!("late by {p50:?} (p50), {p90:?} (p90), {p99:?} (p99)");
        p50
    });
    let medians: Vec<_> = medians.take_while(|median| *median >= Duration::from_micros(200)).collect();
    assert!(medians.len() < 20, "{medians:?}");
}

#[test]
fn rate_is_kept() {
    // 128-byte packets at 10.24 Mbit/s: one per 100 µs. Each is sent twice as fast.
    let server = serve(&["--rate=10240kbit", "--limit=20k"]);
    let traffic = Traffic::exchange(server.address(), COUNT, INTERVAL / 2, SILENCE);
    report(server, COUNT);
    assert!(traffic.numbers().into_iter().eq(0..COUNT));
    let seconds = (traffic.answers[COUNT - 1].at - traffic.answers[0].at).as_secs_f64();
    assert!((1.98..2.1).contains(&seconds), "{seconds}");
    assert!(traffic.round_trips()[0] >= INTERVAL);
}

#[test]
fn what_exceeds_the_limit_is_dropped_and_counted() {
    let server = serve(&["--delay=300ms", "--limit=50"]);
    let traffic = Traffic::exchange(server.address(), 200, Duration::ZERO, Duration::from_millis(600));
    let report = report(server, 200);
    assert_eq!((report.impaired("delayed"), report.impaired("over_limit")), (50, 150));
    assert!(traffic.numbers().into_iter().eq(0..50));
}

#[test]
fn blackouts_drop_everything_for_their_time() {
    let server = serve(&["--blackout=400ms,200ms"]);
    let traffic = Traffic::exchange(server.address(), 2_000, Duration::from_millis(1), Duration::from_millis(500));
    let report = report(server, 2_000);
    let numbers = traffic.numbers();
    assert_eq!(numbers.len() as u64 + report.impaired("lost"), 2_000);
    let gaps: Vec<_> = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|lost| *lost > 0).collect();
    assert!((4..=6).contains(&gaps.len()), "{gaps:?}");
    // One per millisecond, as far as a busy machine sends them in time.
    assert!(gaps.iter().all(|lost| (100..300).contains(lost)), "{gaps:?}");
}

#[test]
fn same_seed_has_the_same_outcomes() {
    let outcomes = |seed: &str| {
        let server = serve(&["--loss=5%", "--duplicate=5%", "--corrupt=5%", "--truncate=5%", seed]);
        let traffic = Traffic::exchange(server.address(), 2_000, INTERVAL, SILENCE);
        let output = server.stop();
        let payloads: Vec<_> = traffic.answers.into_iter().map(|answer| answer.payload).collect();
        (output.report()["seed"].clone(), payloads)
    };
    let first = outcomes("--seed=9007199254740991");
    assert_eq!(first.0, 9_007_199_254_740_991_u64);
    assert_eq!(first, outcomes("--seed=9007199254740991"));
    assert_ne!(first.1, outcomes("--seed=2").1);
}

#[test]
fn random_seed_is_logged_and_reported() {
    let mut seeds = Vec::new();
    for _ in 0..2 {
        let mut server = serve(&["--loss=1%"]);
        let line = server.wait_for_line("Impairing replies: loss 1% (seed ", 0);
        let logged = line.rsplit("(seed ").next().and_then(|rest| rest.strip_suffix(')')).expect("a seed").to_owned();
        assert_eq!(server.stop().report()["seed"].to_string(), logged);
        seeds.push(logged);
    }
    assert_ne!(seeds[0], seeds[1]);
}

/// Sends 10 requests, waits until they were received, and stops the server.
fn stop_with_delayed_replies(delay: &str, grace: &str) -> (std::net::UdpSocket, ServerOutput) {
    let mut server = serve(&[delay, grace, "--stats=10ms"]);
    let client = connect(server.address());
    for number in 0..10 {
        client.send(&payload(number)).expect("sent");
    }
    server.wait_for_line("received 10 (", 0);
    (client, server.stop())
}

#[test]
fn delayed_replies_leave_within_the_grace_time() {
    let (client, output) = stop_with_delayed_replies("--delay=300ms", "--grace=5s");
    assert_eq!((output.endpoint().get("answered"), output.endpoint().get("unsent")), (10, 0));
    assert!((0..10).all(|number| receive(&client) == payload(number)));
    // Nothing waits any more, so the rest of the grace time is not used up.
    assert!(output.report()["seconds"].as_f64().is_some_and(|seconds| seconds < 4.0));
}

#[test]
fn replies_delayed_beyond_the_grace_time_are_unsent() {
    let (_, output) = stop_with_delayed_replies("--delay=1h", "--grace=100ms");
    assert_eq!((output.endpoint().get("answered"), output.endpoint().get("unsent")), (0, 10));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn statistics_lines_show_impairments() {
    let mut server = serve(&["--loss=100%", "--stats=20ms"]);
    connect(server.address()).send(b"you").expect("sent");
    let line = server.wait_for_line("received 1 (3 bytes)", 0);
    let counts = "unsent 0, lost 1, duplicated 0, delayed 0, reordered 0, corrupted 0, truncated 0, over limit 0, ";
    assert!(line.contains(counts), "{line}");
}

#[test]
fn each_endpoint_has_a_link_of_its_own() {
    let server = Server::start_many(2, &["echo@127.0.0.1:0", "echo@127.0.0.1:0", "--loss=50%", "--seed=1", "--json"]);
    let answered: Vec<_> = server
        .addresses()
        .iter()
        .map(|address| Traffic::exchange(*address, 100, INTERVAL, SILENCE).numbers())
        .collect();
    assert_ne!(answered[0], answered[1]);
    let endpoints = server.stop().endpoints();
    assert!(
        endpoints.iter().zip(answered).all(|(endpoint, answered)| endpoint.get("answered") == answered.len() as u64)
    );
}

#[test]
fn refused_datagrams_meet_no_link() {
    let server = serve(&["--duplicate=100%"]);
    // Refused: the port of a service.
    let Ok(client) = std::net::UdpSocket::bind("127.0.0.1:11211") else { return };
    client.send_to(b"you", server.address()).expect("sent");
    let answer = crate::harness::request(&connect(server.address()), b"you");
    assert_eq!(answer, b"you");
    let report = report(server, 2);
    assert_eq!((report.count("refused", "service_port"), report.impaired("duplicated")), (1, 1));
}

#[test]
fn fails_for_impairments_that_do_not_work_together() {
    for (arguments, message) in [
        (&["--reorder=5%"][..], "reordering needs a delay"),
        (&["--loss=1%", "--workers=2"], "impairments need a single worker"),
        (&["--loss=1%", "--loss-model=gemodel:1,2"], "cannot be used with"),
        (&["--loss=101%"], "write 0% to 100%"),
        (&["--rate=1000"], "write a number and bit, kbit, mbit or gbit"),
        (&["--delay=5x"], "write a number and ns, us, ms, s, m or h"),
        (&["--loss-model=1,2"], "write gemodel:P,R"),
        (&["--blackout=2s,2s"], "with FOR shorter than EVERY"),
        (&["--seed=9007199254740992"], "write a whole number from 0 to 9007199254740991"),
        (&["--distribution=pareto2"], "write uniform, normal or pareto"),
        (&["--limit=0"], "write a whole number of at least 1"),
        (&["--limit=5"], "--limit has no effect without an impairment"),
        (&["--distribution=normal"], "--distribution has no effect without an impairment"),
        (&["--seed=5"], "--seed has no effect without an impairment"),
    ] {
        let output = run(&mut udpong(&[&["serve", "hello@127.0.0.1:0", "--for=1ms"], arguments].concat()), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    for (arguments, option) in [
        (&["--limit=5"][..], "--limit"),
        (&["--seed=5"], "--seed"),
        (&["--up-limit=5", "--down-loss=1%"], "--up-limit"),
        (&["--down-distribution=pareto", "--up-loss=1%"], "--down-distribution"),
    ] {
        let relay = ["relay", "127.0.0.1:0", "127.0.0.1:9", "--for=1ms"];
        let output = run(&mut udpong(&[&relay, arguments].concat()), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(&format!("{option} has no effect without an impairment")), "{arguments:?}: {error}");
    }
    for arguments in
        [&["--seed=5", "--up-loss=1%"][..], &["--limit=5", "--down-loss=1%"], &["--up-limit=5", "--loss=1%"]]
    {
        let relay = ["relay", "127.0.0.1:0", "127.0.0.1:9", "--for=1ms"];
        let output = run(&mut udpong(&[&relay, arguments].concat()), b"");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    }
}
