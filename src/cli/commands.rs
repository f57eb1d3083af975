//! What each command does with what was asked for: options are handed on, signals and the log set up, results printed.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use log::{LevelFilter, info};
use simple_logger::SimpleLogger;
use udpong::client::bench::{self, Bench};
use udpong::client::ping::{self, Format};
use udpong::client::send::{self, Conversation};
use udpong::client::{self, Family, Limits, Load, Shape};
use udpong::logging::DATAGRAM_LOG;
use udpong::logging::writer::LogWriter;
use udpong::reactor::shutdown::Shutdown;
use udpong::server::{Error, Options, Report, Server, Service};

use super::manual;
use crate::cli::{self, Command, Ping, Send, Serve};

/// Does what was asked for.
///
/// # Errors
///
/// What to tell, and the exit code.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(asked) => serve(&asked),
        Command::Send(asked) => send(&asked),
        Command::Ping(asked) => ping(&asked),
        Command::Bench(asked) => bench(&asked),
        Command::Completions(asked) => page(Ok(manual::completions(asked.shell))),
        Command::Man(asked) => page(manual::manual(asked.command.as_deref())),
    }
}

/// What is told on stderr, and the exit code.
pub struct Failure {
    /// Nothing where a reader has gone, as `| head` does: that is its affair.
    pub message: Option<String>,
    pub code: u8,
}

impl Failure {
    fn usage(message: String) -> Self {
        Self { message: Some(message), code: 2 }
    }

    fn failed(message: String) -> Self {
        Self { message: Some(message), code: 1 }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Conflict(message) => Self::usage(message),
            error => Self::failed(error.to_string()),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Usage(message) | client::Error::Failed(message) => Self { message: Some(message), code: 2 },
            client::Error::Unmet(message) => Self { message: Some(message), code: 1 },
            // As a shell tells SIGPIPE.
            client::Error::Unread => Self { message: None, code: 141 },
        }
    }
}

fn serve(asked: &Serve) -> Result<(), Failure> {
    let services = asked.services.iter().map(|text| text.parse::<Service>()).collect::<Result<Vec<_>, _>>();
    let services = services.map_err(|error| Failure::usage(error.to_string()))?;
    let failed = |what: &str, error: io::Error| Failure::failed(format!("cannot {what}: {error}"));
    let log = LogWriter::install(logger(asked)?).map_err(|error| failed("start the log", error))?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| failed("wait for signals", error))?;

    // Before and after serving, the log may delay the program: there is a line for each of perhaps many services.
    log.set_patience(LOG_PATIENCE);
    let server = Server::bind(&services, options(asked), shutdown).inspect_err(|_| {
        log.flush(Instant::now() + LOG_PATIENCE);
    })?;
    log.set_patience(Duration::ZERO);
    let (report, result) = server.run();

    let deadline = Instant::now() + LOG_PATIENCE;
    log.set_patience(LOG_PATIENCE);
    report.endpoints.iter().for_each(|endpoint| info!(target: "udpong", "{endpoint}"));
    log.flush(deadline);
    let printed = if asked.json { print(&report) } else { Ok(()) };
    result?;
    printed.map_err(|error| failed("print the report", error))
}

/// How long the log may delay the start, and the exit once nothing is left to answer.
const LOG_PATIENCE: Duration = Duration::from_millis(500);

fn options(asked: &Serve) -> Options {
    Options {
        receive_buffer: asked.recv_buffer,
        send_buffer: asked.send_buffer,
        run_for: asked.run_for,
        count: asked.count,
        stats: asked.stats,
        grace: asked.grace,
        rate_limit: asked.rate_limit,
        no_guard: asked.no_guard,
        io: asked.io.into(),
        workers: asked.workers,
        spin: asked.spin,
    }
}

fn logger(asked: &Serve) -> Result<SimpleLogger, Failure> {
    let level = asked.log.map_or_else(level_from_environment, Ok)?;
    let logger = SimpleLogger::new().with_level(level).with_utc_timestamps();
    let logger = logger.with_colors(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    Ok(if asked.quiet { logger.with_module_level(DATAGRAM_LOG, LevelFilter::Off) } else { logger })
}

/// Returns the level that RUST_LOG names; without it, info.
fn level_from_environment() -> Result<LevelFilter, Failure> {
    let level = std::env::var_os("RUST_LOG").unwrap_or_default();
    match level.to_str() {
        Some("") => Ok(LevelFilter::Info),
        text => text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            Failure::usage(format!("RUST_LOG is {level:?}: write off, error, warn, info, debug or trace"))
        }),
    }
}

fn print(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout();
    serde_json::to_writer(&mut stdout, report)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

fn send(asked: &Send) -> Result<(), Failure> {
    let Send { timeout, retries, raw, .. } = *asked;
    let options = send::Options { timeout, retries, raw, family: family(asked.family) };
    let mut out = io::stdout();
    let result = Conversation::with(&asked.target, options).and_then(|mut conversation| match &asked.message {
        Some(message) => conversation.say(message.as_encoded_bytes(), &mut out),
        None => {
            let input = io::stdin();
            conversation.converse(input.lock(), input.is_terminal(), &mut out, &mut io::stderr())
        }
    });
    result.map_err(|error| match error {
        // Here a name without an address is as much an answer as silence is.
        client::Error::Failed(message) => Failure { message: Some(message), code: 1 },
        error => error.into(),
    })
}

fn ping(asked: &Ping) -> Result<(), Failure> {
    let options = ping::Options {
        interval: asked.interval,
        count: asked.count,
        size: asked.size,
        timeout: asked.timeout,
        deadline: asked.deadline,
        family: family(asked.family),
        format: match asked {
            Ping { json: true, .. } => Format::Json,
            Ping { json_stream: true, .. } => Format::JsonStream,
            Ping { quiet: true, .. } => Format::Summary,
            _ => Format::Text,
        },
        limits: limits(asked.limits),
    };
    Ok(ping::ping(&asked.target, &options, &stop_on_signals()?, &mut io::stdout())?)
}

fn bench(asked: &cli::Bench) -> Result<(), Failure> {
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let segments = usize::from(asked.segments);
    let options = bench::Options {
        shape: Shape {
            clients: number(asked.clients),
            load: match asked.rate {
                Some(rate) => Load::Rate(rate),
                None => Load::InFlight(asked.in_flight.map_or(segments, number)),
            },
            size: asked.size,
            segments,
            timeout: asked.timeout,
        },
        time: asked.time,
        warm_up: asked.warm_up,
        family: family(asked.family),
        json: asked.json,
        limits: limits(asked.limits),
    };
    let mut bench = Bench::new(&asked.target, options, &stop_on_signals()?)?;
    Ok(bench.run(&mut io::stdout(), &mut io::stderr())?)
}

fn page(page: io::Result<Vec<u8>>) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let printed = page.and_then(|page| stdout.write_all(&page)).and_then(|()| stdout.flush());
    printed.map_err(|error| Failure { message: Some(format!("cannot print the page: {error}")), code: 1 })
}

fn stop_on_signals() -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    let told = |error| Failure { message: Some(format!("cannot wait for signals: {error}")), code: 2 };
    shutdown.on_signals().map_err(told)?;
    Ok(shutdown)
}

fn family(asked: cli::Family) -> Family {
    match asked {
        cli::Family { v4: true, .. } => Family::V4,
        cli::Family { v6: true, .. } => Family::V6,
        _ => Family::Any,
    }
}

fn limits(asked: cli::Limits) -> Limits {
    Limits {
        loss: asked.max_loss,
        mean: asked.max_mean,
        p50: asked.max_p50,
        p90: asked.max_p90,
        p99: asked.max_p99,
        p99_9: asked.max_p99_9,
        max: asked.max_rtt,
    }
}
