//! Measures udpong against its peers, side by side: every workload on every server in turn, several rounds.
//!
//! What counts are ratios to the std loop of the same round: machines change their speed from one minute to the
//! next. The first figure, answers per second of processor time of the server, holds even where something else
//! is running.

mod measure;
mod peers;

use std::io;
use std::time::{Duration, Instant};

use measure::{Server, Workload, measure};

/// How many rounds, if they fit into [`LIMIT`].
const ROUNDS: usize = 15;

/// No further round is begun that would end after this.
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

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, name] = &arguments[..]
        && command == "peer"
    {
        return peers::run(name);
    }
    let mut servers = Vec::new();
    for start in [Server::std, Server::mio, Server::tokio, Server::python] {
        servers.extend(start()?);
    }
    for (name, options) in [
        ("udpong echo", &["echo@127.0.0.1:0", "-q"][..]),
        ("udpong hello", &["hello@127.0.0.1:0", "-q"]),
        ("  portable", &["echo@127.0.0.1:0", "-q", "--io", "portable"]),
        ("  2 workers", &["echo@127.0.0.1:0", "-q", "--workers", "2"]),
        ("  log on", &["echo@127.0.0.1:0"]),
        ("  spin 50us", &["echo@127.0.0.1:0", "-q", "--spin", "50us"]),
    ] {
        servers.push(Server::udpong(name, options)?);
    }
    // Once without counting, so that all are warm.
    for server in &servers {
        measure(server, &WORKLOADS[0])?;
    }
    let start = Instant::now();
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS {
        let began = Instant::now();
        let mut round = Vec::new();
        for workload in &WORKLOADS {
            round.push(servers.iter().map(|server| measure(server, workload)).collect::<io::Result<Vec<_>>>()?);
        }
        rounds.push(round);
        if start.elapsed() + began.elapsed() > LIMIT {
            break;
        }
    }
    print(&servers, &rounds);
    Ok(())
}

type Round = Vec<Vec<measure::Figures>>;

fn print(servers: &[Server], rounds: &[Round]) {
    println!("{} cores, Linux {}, {} rounds", measure::cores(), measure::kernel(), rounds.len());
    let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
    table(
        "Answers per processor-second of the server, ratio to std: median (minimum-maximum)",
        &names,
        servers,
        |w, s| ratios(rounds, w, s, |figures| figures.answers_per_processor_second()),
    );
    table("Answers per second, ratio to std: median (minimum-maximum)", &names, servers, |w, s| {
        ratios(rounds, w, s, |figures| figures.answers_per_second)
    });
    table("Answers per second", &names, servers, |w, s| {
        format!("{:.0}", median(rounds.iter().map(|round| round[w][s].answers_per_second)))
    });
    table("Round trip in µs: p50 / p99", &names, servers, |w, s| {
        let p50 = median(rounds.iter().map(|round| round[w][s].p50));
        let p99 = median(rounds.iter().map(|round| round[w][s].p99));
        format!("{:.1} / {:.1}", p50 * 1000.0, p99 * 1000.0)
    });
    table("Round trip p50, ratio to std: median (minimum-maximum)", &names, servers, |w, s| {
        ratios(rounds, w, s, |figures| figures.p50)
    });
    table("User share of the server's processor time", &names, servers, |w, s| {
        let user: f64 = rounds.iter().map(|round| round[w][s].user).sum();
        let ticks: f64 = rounds.iter().map(|round| round[w][s].ticks).sum();
        format!("{:.0} %", 100.0 * user / ticks.max(1.0))
    });
    println!("\nPeak resident memory in MiB");
    for server in servers {
        println!("{:14}{:.1}", server.name, server.peak_memory());
    }
}

fn table(title: &str, columns: &[&str], servers: &[Server], cell: impl Fn(usize, usize) -> String) {
    println!("\n{title}");
    print!("{:14}", "");
    columns.iter().for_each(|column| print!("{column:>20}"));
    println!();
    for (s, server) in servers.iter().enumerate() {
        print!("{:14}", server.name);
        (0..columns.len()).for_each(|w| print!("{:>20}", cell(w, s)));
        println!();
    }
}

/// The first server is the std loop.
fn ratios(rounds: &[Round], w: usize, s: usize, figure: impl Fn(&measure::Figures) -> f64) -> String {
    let ratios: Vec<f64> = rounds.iter().map(|round| figure(&round[w][s]) / figure(&round[w][0])).collect();
    let minimum = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let maximum = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({minimum:.2}-{maximum:.2})", median(ratios.into_iter()))
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
}
