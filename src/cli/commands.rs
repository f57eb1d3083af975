//! What each command does with what was asked for: options are handed on, signals and the log set up, results printed.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use log::{LevelFilter, info};
use serde::Serialize;
use simple_logger::SimpleLogger;
use udpong::client::bench;
use udpong::client::ping::{self, Format};
use udpong::client::send::{self, Conversation};
use udpong::client::{self, Family, Limits, Load, Shape};
use udpong::logging::writer::LogWriter;
use udpong::reactor::shutdown::Shutdown;
use udpong::server::{DATAGRAM_LOG, Error, Options, Report, Server, Service};

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
            client::Error::Interrupted => Self { message: None, code: 130 },
        }
    }
}

fn serve(asked: &Serve) -> Result<(), Failure> {
    let services = asked.services.iter().map(|text| text.parse::<Service>()).collect::<Result<Vec<_>, _>>();
    let services = services.map_err(|error| Failure::usage(error.to_string()))?;
    let failed = |what: &str, error: io::Error| Failure::failed(format!("cannot {what}: {error}"));
    let log = LogWriter::install(logger(asked)).map_err(|error| failed("start the log", error))?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| failed("wait for signals", error))?;

    let server = Server::bind(&services, options(asked), shutdown.clone()).inspect_err(|_| {
        log.flush(Instant::now() + LAST_WORDS);
    })?;
    let (report, result) = server.run();

    let stopped = shutdown.requested_at().unwrap_or_else(Instant::now);
    let deadline = stopped.checked_add(asked.grace).unwrap_or(stopped).max(Instant::now() + LAST_WORDS);
    // First what waits, so that there is room for the statistics.
    log.flush(deadline);
    report.endpoints.iter().for_each(|endpoint| info!(target: "udpong", "{endpoint}"));
    log.flush(deadline);
    let printed = if asked.json { print(&report) } else { Ok(()) };
    result?;
    printed.map_err(|error| failed("print the report", error))
}

/// How long the log may take for its last lines when the time for stopping is over.
const LAST_WORDS: Duration = Duration::from_millis(100);

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

fn logger(asked: &Serve) -> SimpleLogger {
    let logger = SimpleLogger::new().with_level(LevelFilter::Info).env().with_utc_timestamps();
    let logger = logger.with_colors(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let logger = if let Some(level) = asked.log { logger.with_level(level) } else { logger };
    if asked.quiet { logger.with_module_level(DATAGRAM_LOG, LevelFilter::Off) } else { logger }
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
        Some(message) => conversation.say(message.as_encoded_bytes(), &mut out, &mut io::stderr()),
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
        flows: asked.flows.map(usize::from),
        family: family(asked.family),
        format: match asked {
            Ping { json: true, .. } => Format::Json,
            Ping { json_stream: true, .. } => Format::JsonStream,
            Ping { quiet: true, .. } => Format::Summary,
            _ => Format::Text,
        },
        limits: limits(asked.limits),
    };
    let shutdown = stop_on_signals()?;
    let mut out = io::stdout();
    let report = ping::ping(&asked.target, &options, &shutdown, &mut out, &mut io::stderr())?;
    match options.format {
        Format::Text | Format::Summary => write_all(&mut out, &format!("\n{report}"))?,
        Format::Json | Format::JsonStream => write_all(&mut out, &json(&report)?)?,
    }
    if_forced(&shutdown).map_or_else(|| Ok(report.check(&options.limits)?), Err)
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
    let shutdown = stop_on_signals()?;
    let mut out = io::stdout();
    let report = bench::bench(&asked.target, &options, &shutdown, &mut out, &mut io::stderr())?;
    write_all(&mut out, &if options.json { json(&report)? } else { report.to_string() })?;
    for warning in report.warnings() {
        let _ = writeln!(io::stderr(), "udpong: {warning}");
    }
    if_forced(&shutdown).map_or_else(|| Ok(report.check(&options.limits)?), Err)
}

/// One JSON object and a line feed.
fn json(report: &impl Serialize) -> Result<String, Failure> {
    let failed = |error| Failure { message: Some(format!("cannot write the results: {error}")), code: 2 };
    Ok(serde_json::to_string(report).map_err(failed)? + "\n")
}

fn write_all(out: &mut impl Write, text: &str) -> Result<(), client::Error> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => client::Error::Unread,
        _ => client::Error::Failed(format!("cannot write the results: {error}")),
    })
}

/// The exit code after a second Ctrl+C.
fn if_forced(shutdown: &Shutdown) -> Option<Failure> {
    shutdown.is_forced().then_some(Failure { message: None, code: 130 })
}

fn page(page: io::Result<Vec<u8>>) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let printed = page.and_then(|page| stdout.write_all(&page)).and_then(|()| stdout.flush());
    printed.map_err(|error| Failure { message: Some(format!("cannot print the page: {error}")), code: 1 })
}

fn stop_on_signals() -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    let told = |error| Failure { message: Some(format!("cannot wait for signals: {error}")), code: 2 };
    shutdown.on_signals_then_force().map_err(told)?;
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
