//! Compares the round trips that `udpong ping` measures with those of a minimal loop in C, to the same responder.

use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::measure::{Server, median, on_processor};

/// How often both are measured, in turn: their difference is smaller than the drift of most machines within a second.
const ROUNDS: usize = 41;

/// Probes per round, at an interval of a millisecond.
const PROBES: &str = "300";

/// Prints the medians of both, if there is a C compiler.
pub fn compare() -> io::Result<()> {
    let binary = concat!(env!("CARGO_TARGET_TMPDIR"), "/ping");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/ping.c");
    if !Command::new("cc").args(["-O2", "-o", binary, source]).status().is_ok_and(|status| status.success()) {
        println!("\nRound trips are not compared with those of a C loop, for which cc is missing");
        return Ok(());
    }
    let server = Server::udpong("udpong echo", &["echo@127.0.0.1:0", "-q"])?;
    let port = server.address.rsplit(':').next().unwrap_or_default();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let c = output(on_processor(1, binary).args([port, PROBES]))?;
        let mut ping = on_processor(1, env!("CARGO_BIN_EXE_udpong"));
        let ping = output(ping.args(["ping", &server.address, "-c", PROBES, "-i", "1ms", "-q", "--json"]))?;
        let ping: Value = serde_json::from_str(&ping)?;
        let c: f64 = c.trim().parse().map_err(io::Error::other)?;
        rounds.push((ping["rtt_ms"]["p50"].as_f64().unwrap_or(f64::NAN) * 1000.0, c));
    }
    let of = |figure: fn(&(f64, f64)) -> f64| median(rounds.iter().map(figure));
    let (ping, c, difference) = (of(|round| round.0), of(|round| round.1), of(|round| round.0 - round.1));
    println!("\nRound trip in µs, p50 of {PROBES} probes a millisecond apart, median of {ROUNDS} rounds");
    println!("udpong ping {ping:.1}, C loop {c:.1}, difference {difference:.1}");
    Ok(())
}

fn output(command: &mut Command) -> io::Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    String::from_utf8(output.stdout).map_err(io::Error::other)
}
