//! The command line, the logger, the run, the exit code; nothing else.

mod cli;
mod units;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use cli::{Cli, Command, Serve};
use log::{LevelFilter, info};
use simple_logger::SimpleLogger;
use udpong::log_writer::LogWriter;
use udpong::server::{DATAGRAM_LOG, Error, Options, Report, Server, Service, Shutdown};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(asked) => serve(&asked),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Error::Usage(message)) => (message, 2),
        Err(Error::Failed(message)) => (message, 1),
    };
    say(&message);
    ExitCode::from(code)
}

/// Writes an error to stderr, and waits no longer than a second for it: a stuck stderr must not keep the program
/// from ending.
fn say(message: &str) {
    // Not eprintln!, which panics where stderr is closed.
    fn write(line: &str) {
        let _ = io::stderr().write_all(line.as_bytes());
    }
    let line = format!("udpong: {message}\n");
    let (done, finished) = mpsc::channel();
    let copy = line.clone();
    let thread = thread::Builder::new().spawn(move || {
        write(&copy);
        let _ = done.send(());
    });
    match thread {
        Ok(_) => drop(finished.recv_timeout(Duration::from_secs(1))),
        Err(_) => write(&line),
    }
}

fn serve(asked: &Serve) -> Result<(), Error> {
    let services = asked.services.iter().map(|text| text.parse::<Service>()).collect::<Result<Vec<_>, _>>();
    let services = services.map_err(|error| Error::Usage(error.to_string()))?;
    let failed = |what: &str, error: io::Error| Error::Failed(format!("cannot {what}: {error}"));
    let log = LogWriter::install(logger(asked)).map_err(|error| failed("start the log", error))?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| failed("wait for signals", error))?;

    let mut server = Server::bind(&services, options(asked), shutdown.clone()).inspect_err(|_| {
        log.flush(Instant::now() + LAST_WORDS);
    })?;
    let result = server.run();

    let report = server.report();
    let stopped = shutdown.requested().unwrap_or_else(Instant::now);
    let deadline = stopped.checked_add(asked.grace).unwrap_or(stopped).max(Instant::now() + LAST_WORDS);
    // First what waits, so that there is room for the tally.
    log.flush(deadline);
    report.endpoints.iter().for_each(|endpoint| info!("{endpoint}"));
    log.flush(deadline);
    let printed = if asked.json { print(&report) } else { Ok(()) };
    result.and(printed.map_err(|error| failed("print the report", error)))
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
