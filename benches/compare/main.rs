//! Measures udpong and other echo servers, and relays, side by side: every workload on every server in turn, in several
//! rounds. At last it compares the round trips of `udpong ping` with those of a minimal loop. With `servers`, `relays`
//! or `round-trips` as an argument it measures only that.
//!
//! Only ratios to the std loop of the same round can be compared, since machines change their speed from one minute to
//! the next. `echo.c` shows what is possible: the same system calls as udpong's, and nothing else. The first table,
//! answers per second of the server's processor time, holds even on a busy machine.

mod baselines;
mod measure;
mod round_trips;

use std::io;
use std::time::{Duration, Instant};

use measure::{Sample, Server, Workload, measure, median};

/// The number of rounds, if they fit into [`LIMIT`].
const ROUNDS: usize = 15;

/// No round is begun that would end after this time.
const LIMIT: Duration = Duration::from_secs(170);

const WORKLOADS: [Workload; 6] = [
    Workload { name: "single", options: &["--clients", "64", "--in-flight", "1"] },
    Workload { name: "many", options: &["--clients", "64", "--in-flight", "32"] },
    Workload { name: "one", options: &["--clients", "1", "--in-flight", "64"] },
    Workload {
        name: "segmented",
        options: &["--clients", "16", "--in-flight", "32", "--segments", "16", "--size", "64"],
    },
    Workload { name: "bulk", options: &["--clients", "1", "--in-flight", "80", "--segments", "40", "--size", "1200"] },
    Workload { name: "ping", options: &["--clients", "1", "--in-flight", "1"] },
];

/// As [`LIMIT`], for relays.
const RELAY_LIMIT: Duration = Duration::from_secs(60);

/// The servers that are udpong, by the options of `udpong serve`.
const UDPONG: [(&str, &[&str]); 5] = [
    ("udpong echo", &["echo@127.0.0.1:0", "-q"]),
    ("udpong hello", &["hello@127.0.0.1:0", "-q"]),
    ("  portable", &["echo@127.0.0.1:0", "-q", "--io", "portable"]),
    ("  2 workers", &["echo@127.0.0.1:0", "-q", "--workers", "2"]),
    ("  spin 50us", &["echo@127.0.0.1:0", "-q", "--spin", "50us"]),
];

/// The samples of a round, by workload and server.
type Round = Vec<Vec<Sample>>;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, name, target @ ..] = &arguments[..]
        && command == "baseline"
    {
        return baselines::run(name, target.first().map(String::as_str));
    }
    match arguments.get(1).map(String::as_str) {
        Some("servers") => compare_servers(),
        Some("relays") => compare_relays(),
        Some("round-trips") => round_trips::compare(),
        _ => {
            compare_servers()?;
            compare_relays()?;
            round_trips::compare()
        }
    }
}

fn compare_servers() -> io::Result<()> {
    // The std loop is the first server: `ratios` relies on it.
    let mut servers = ["std", "mio", "tokio"].map(Server::baseline).into_iter().collect::<io::Result<Vec<_>>>()?;
    servers.extend(Server::bare_c("bare C", ""));
    servers.extend(Server::bare_c("bare C hello", "Hello "));
    servers.extend(Server::python());
    for (name, options) in UDPONG {
        servers.push(Server::udpong(name, options)?);
    }
    servers.push(Server::udpong_logging("  log on")?);
    let rounds = measure_all(&servers, LIMIT)?;
    print(&servers, &rounds);
    Ok(())
}

/// Measures every workload on every server, in several rounds.
fn measure_all(servers: &[Server], limit: Duration) -> io::Result<Vec<Round>> {
    for server in servers {
        // A warm-up that does not count.
        measure(server, &WORKLOADS[0])?;
    }
    let start = Instant::now();
    let mut rounds: Vec<Round> = Vec::new();
    while rounds.len() < ROUNDS {
        let round_start = Instant::now();
        let samples = |workload| servers.iter().map(|server| measure(server, workload)).collect();
        rounds.push(WORKLOADS.iter().map(samples).collect::<io::Result<_>>()?);
        if start.elapsed() + round_start.elapsed() > limit {
            break;
        }
    }
    Ok(rounds)
}

/// Measures relays in front of one echo server. Of the kernel a relay needs what two echo servers need, one for each
/// direction, so its measure is half of what the std loop answers.
fn compare_relays() -> io::Result<()> {
    let target = Server::target()?;
    let mut servers = vec![
        Server::baseline("std")?,
        Server::udpong_relay("udpong relay", &target, &[])?,
        Server::udpong_relay("  portable", &target, &["--io", "portable"])?,
        Server::udpong_relay("  loss 0%", &target, &["--loss", "0%"])?,
        Server::udpong_relay("  delay 1ms", &target, &["--delay", "1ms", "--limit", "1M"])?,
        Server::baseline_relay("tokio relay", &target)?,
    ];
    servers.extend(Server::socat_relay(&target));
    let rounds = measure_all(&servers, RELAY_LIMIT)?;
    println!("\nRelays, {} rounds", rounds.len());
    let half = |figure: fn(&Sample) -> f64| {
        let rounds = &rounds;
        move |w: usize, s: usize| ratios(rounds, w, s, figure, if s == 0 { 1.0 } else { 2.0 })
    };
    table(
        "Answers per processor-second of the relay, ratio to half of std",
        &servers,
        half(Sample::answers_per_cpu_second),
    );
    table("Answers per second, ratio to half of std", &servers, half(|sample| sample.answers_per_second));
    table("Round trip in µs: p50", &servers, |w, s| {
        format!("{:.1}", median(rounds.iter().map(|round| round[w][s].p50)) * 1000.0)
    });
    Ok(())
}

fn print(servers: &[Server], rounds: &[Round]) {
    println!("{} cores, Linux {}, {} rounds", measure::cores(), measure::kernel(), rounds.len());
    table("Answers per processor-second of the server, ratio to std: median (minimum-maximum)", servers, |w, s| {
        ratios(rounds, w, s, Sample::answers_per_cpu_second, 1.0)
    });
    table("Answers per second, ratio to std: median (minimum-maximum)", servers, |w, s| {
        ratios(rounds, w, s, |sample| sample.answers_per_second, 1.0)
    });
    table(
        "Answers per second in thousands: per processor-second of the server / what the generator got",
        servers,
        |w, s| {
            let [per_cpu, got] = [Sample::answers_per_cpu_second, |sample: &Sample| sample.answers_per_second]
                .map(|figure| median(rounds.iter().map(|round| figure(&round[w][s]))) / 1000.0);
            format!("{per_cpu:.0} / {got:.0}")
        },
    );
    table("Round trip in µs: p50 / p99", servers, |w, s| {
        let [p50, p99] = [|sample: &Sample| sample.p50, |sample: &Sample| sample.p99]
            .map(|figure| median(rounds.iter().map(|round| figure(&round[w][s]))) * 1000.0);
        format!("{p50:.1} / {p99:.1}")
    });
    table("Round trip p50, ratio to std: median (minimum-maximum)", servers, |w, s| {
        ratios(rounds, w, s, |sample| sample.p50, 1.0)
    });
    table("User share of the server's processor time", servers, |w, s| {
        let user: f64 = rounds.iter().map(|round| round[w][s].user_ticks).sum();
        let all: f64 = rounds.iter().map(|round| round[w][s].ticks).sum();
        format!("{:.0} %", 100.0 * user / all.max(1.0))
    });
    println!("\nPeak resident memory in MiB");
    for server in servers {
        println!("{:14}{:.1}", server.name, server.peak_memory());
    }
}

/// Prints a table with a row for each server and a column for each workload.
fn table(title: &str, servers: &[Server], cell: impl Fn(usize, usize) -> String) {
    println!("\n{title}");
    print!("{:14}", "");
    WORKLOADS.iter().for_each(|workload| print!("{:>20}", workload.name));
    println!();
    for (s, server) in servers.iter().enumerate() {
        print!("{:14}", server.name);
        (0..WORKLOADS.len()).for_each(|w| print!("{:>20}", cell(w, s)));
        println!();
    }
}

/// Returns the ratios of a server's figure, times `factor`, to that of the std loop in the same round.
fn ratios(rounds: &[Round], w: usize, s: usize, figure: impl Fn(&Sample) -> f64, factor: f64) -> String {
    let ratio = |round: &Round| factor * figure(&round[w][s]) / figure(&round[w][0]);
    let ratios: Vec<f64> = rounds.iter().map(ratio).collect();
    let minimum = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let maximum = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({minimum:.2}-{maximum:.2})", median(ratios.into_iter()))
}
