//! The command line: parses it, runs the command, and turns the result into an exit code.
//!
//! Each command has a file with its options and the function that runs it. The help texts are also the source of the
//! man pages, see [`manual`].

mod bench;
mod datagrams;
mod files;
mod habits;
mod impair;
mod manual;
mod monitor;
mod ping;
mod relay;
mod report;
mod send;
mod serve;
mod units;

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use udpong::reactor::shutdown::Shutdown;
use udpong::stamp::Key;
use udpong::{client, server};

use bench::BenchArgs;
use datagrams::{EgressArgs, PayloadArgs};
use files::{PlotFile, about_file, check_distinct, check_merged_once, read};
use manual::{CompletionsArgs, ManArgs};
use ping::PingArgs;
use relay::RelayArgs;
use report::ReportArgs;
use send::SendArgs;
use serve::ServeArgs;

/// The order of a help page: summary, examples, usage, options, details.
const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}";

/// Answer UDP datagrams, or measure how a UDP responder answers them.
///
/// "udpong serve" answers every datagram that reaches it: with a greeting, an echo, a fixed text or a text of your
/// choice. "udpong relay" forwards datagrams, through a bad network if you like. "udpong send", "udpong ping" and
/// "udpong bench" are clients for any UDP responder. They show whether datagrams get through, how long the answers
/// take, and how many are lost. "udpong report" merges what several of them measured.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, arg_required_else_help = true)]
#[command(help_template = TEMPLATE, before_help = EXAMPLES, after_long_help = DETAILS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  udpong serve                        answer with \"Hello \" on port 5000
  udpong send :5000 'Hello, server!'  send a message and print the answer
  udpong ping :5000                   measure round trips until Ctrl+C
  udpong bench :5000                  measure throughput and latency
";

const DETAILS: &str = "\
Exit status:
  0    success
  1    failure; for ping and bench: no answer, or a limit was exceeded
  2    usage error; for ping and bench: any other failure, too
  130  ended at once by a second Ctrl+C
  141  send, ping and bench: the reader of the standard output is gone

Environment:
  RUST_LOG  log level of serve and relay if --log is not given
  NO_COLOR  if set, the log of serve and relay is not coloured
";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
    Relay(Box<RelayArgs>),
    Send(SendArgs),
    Ping(PingArgs),
    Bench(BenchArgs),
    Report(ReportArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Runs the program with the arguments that it was started with.
pub fn run() -> ExitCode {
    match parse_and_run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            if let Some(message) = message {
                print_error(&message);
            }
            ExitCode::from(code)
        }
    }
}

fn parse_and_run() -> Result<(), Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap prints its own errors, and help, and ends the program.
        Err(error) => {
            let error = habits::explain_negative_number(std::env::args_os()).unwrap_or(error);
            let explained = habits::explain(&error).map(|hint| Failure::new(Failure::USAGE, hint));
            return Err(explained.unwrap_or_else(|| habits::correct_tip(error).exit()));
        }
    };
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Ping(args) => ping::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Completions(args) => manual::print_completions(&args),
        Command::Man(args) => manual::print_man_page(&args),
    }
}

/// Why a command failed.
#[derive(Debug)]
struct Failure {
    /// One line for stderr; `None` if the reader of stdout is gone, as with `| head`.
    message: Option<String>,
    code: u8,
}

impl Failure {
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;
    /// The exit code with which a shell reports SIGINT.
    const INTERRUPTED: u8 = 130;
    /// The exit code with which a shell reports SIGPIPE.
    const BROKEN_PIPE: u8 = 141;

    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), code }
    }
}

impl From<server::Error> for Failure {
    fn from(error: server::Error) -> Self {
        match error {
            server::Error::Conflict(message) | server::Error::Usage(message) => Self::new(Self::USAGE, message),
            error => Self::new(Self::FAILED, error.to_string()),
        }
    }
}

impl From<udpong::relay::Error> for Failure {
    fn from(error: udpong::relay::Error) -> Self {
        match error {
            udpong::relay::Error::Usage(message) => Self::new(Self::USAGE, message),
            udpong::relay::Error::Failed(message) => Self::new(Self::FAILED, message),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            // For a monitoring script 1 means "the target is not good enough", so nothing else may be 1.
            client::Error::Usage(message) | client::Error::Failed(message) => Self::new(Self::USAGE, message),
            client::Error::Unmet(message) => Self::new(Self::FAILED, message),
            client::Error::Unread => Self { message: None, code: Self::BROKEN_PIPE },
            client::Error::Interrupted => Self { message: None, code: Self::INTERRUPTED },
        }
    }
}

/// Writes an error to stderr, for at most a second: a blocked stderr must not keep the program from ending.
fn print_error(message: &str) {
    // Not eprintln!, which panics if stderr is closed.
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

/// Returns a shutdown that SIGINT, SIGTERM and SIGHUP request; `code` is the exit code if that is impossible.
fn shutdown_on_signals(code: u8) -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    shutdown
        .on_signals()
        .map_err(|error| Failure::new(code, format!("cannot install the signal handlers: {error}")))?;
    Ok(shutdown)
}

/// Returns a shutdown that the first signal requests and the second one forces, for a command that reports at the end.
fn shutdown_with_report_on_signals() -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new();
    shutdown
        .on_signals_then_force()
        .map_err(|error| Failure::new(Failure::USAGE, format!("cannot install the signal handlers: {error}")))?;
    Ok(shutdown)
}

/// Returns one JSON object and a line feed.
fn json(report: &impl Serialize) -> Result<String, Failure> {
    let failed = |error| Failure::new(Failure::USAGE, format!("cannot write the results: {error}"));
    Ok(serde_json::to_string(report).map_err(failed)? + "\n")
}

/// Prints text to stdout.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    printed.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure { message: None, code: Failure::BROKEN_PIPE },
        _ => Failure::new(Failure::USAGE, format!("cannot write the results: {error}")),
    })
}

/// Returns the result of a command that has reported: a failure if its shutdown was forced.
fn unless_forced(shutdown: &Shutdown, result: Result<(), client::Error>) -> Result<(), Failure> {
    if shutdown.is_forced() {
        return Err(Failure { message: None, code: Failure::INTERRUPTED });
    }
    Ok(result?)
}

/// The address family of the target.
#[derive(Args, Clone, Copy, Debug)]
struct FamilyArgs {
    /// Use IPv4 only
    #[arg(short = '4', long = "ipv4", conflicts_with = "v6", hide_short_help = true)]
    v4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long = "ipv6", hide_short_help = true)]
    v6: bool,
}

impl From<FamilyArgs> for client::Family {
    fn from(args: FamilyArgs) -> Self {
        match args {
            FamilyArgs { v4: true, .. } => Self::V4,
            FamilyArgs { v6: true, .. } => Self::V6,
            _ => Self::Any,
        }
    }
}

/// Reads the key of STAMP from a file.
fn stamp_key(path: &Path) -> Result<Key, Failure> {
    let failed = |why: &dyn Display| Failure::new(Failure::USAGE, format!("{}: {why}", path.display()));
    let content = fs::read(path).map_err(|error| failed(&format_args!("cannot read the key: {error}")))?;
    Key::from_file(&content).ok_or_else(|| failed(&"the key is empty"))
}

/// The limits above which a measurement counts as a failure.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits (exit status 1 if exceeded)")]
struct LimitArgs {
    /// Maximum share lost, late or refused (1%)
    #[arg(long, value_name = "PERCENT", value_parser = units::percent)]
    max_loss: Option<f64>,

    /// Maximum mean round trip (5ms)
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    max_mean: Option<Duration>,

    /// Maximum median
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    max_p50: Option<Duration>,

    /// Maximum 90th percentile
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    max_p90: Option<Duration>,

    /// Maximum 99th percentile of the round trips (5ms)
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    max_p99: Option<Duration>,

    /// Maximum 99.9th percentile
    #[arg(long = "max-p99.9", value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    max_p99_9: Option<Duration>,

    /// Maximum round trip
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    max_rtt: Option<Duration>,
}

impl From<LimitArgs> for client::Limits {
    fn from(args: LimitArgs) -> Self {
        Self {
            loss: args.max_loss,
            loss_up: None,
            loss_down: None,
            mean: args.max_mean,
            p50: args.max_p50,
            p90: args.max_p90,
            p99: args.max_p99,
            p99_9: args.max_p99_9,
            max: args.max_rtt,
        }
    }
}

/// Of ping and bench.
const LIMIT_EXIT_STATUS: &str = "\
Exit status:
  0    success
  1    no intact answer in time, or a limit was exceeded; the error message
       says which
  2    usage error, or any other failure
  130  ended at once by a second signal, or by one during a look-up
  141  the reader of the standard output is gone
";
