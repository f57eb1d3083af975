//! What can be asked for on the command line. No behaviour.

pub mod commands;
mod manual;
mod units;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use log::LevelFilter;
use udpong::server::IoBackend;

/// What it is, examples, how it is called, then everything in detail: help is read from the top.
const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}";

/// Answer UDP datagrams, or find out who does, how fast, and what is lost.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, arg_required_else_help = true)]
#[command(help_template = TEMPLATE, before_help = EXAMPLES, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(Serve),
    Send(Send),
    Ping(Ping),
    Bench(Bench),
    Completions(Completions),
    Man(Man),
}

const EXAMPLES: &str = "\
Examples:
  udpong serve                        say hello on port 5000
  udpong send :5000 'Hello, server!'  one message, one answer
  udpong ping :5000                   a probe every second, until Ctrl+C
  udpong bench :5000                  how many answers a second, how late
";

const EXIT_CODES: &str = "\
Exit codes:
  0    all well
  1    it failed; send, ping and bench: no answer, or a broken limit
  2    wrong use; ping and bench: another error too
  130  a second Ctrl+C, which ends at once
";

/// Answer every UDP datagram, until Ctrl+C.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = SERVE_EXAMPLES, after_long_help = SERVE_DETAILS)]
pub struct Serve {
    /// What to answer, and where
    #[arg(
        value_name = "SERVICE",
        default_value = "hello",
        long_help = "What to answer, and where: see Services below"
    )]
    pub services: Vec<String>,

    /// Stop after this time (300ms, 5s, 1m30s)
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration, help_heading = "When to stop")]
    pub run_for: Option<Duration>,

    /// Stop after so many datagrams; what has arrived by then is answered too
    #[arg(long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    pub count: Option<u64>,

    /// After a stop, how long answering and sending may take
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "500ms", hide_short_help = true, help_heading = "When to stop")]
    pub grace: Duration,

    /// No lines about single datagrams
    #[arg(short, long, help_heading = "What to tell")]
    pub quiet: bool,

    /// How much to log [default: RUST_LOG, or info]
    ///
    /// One of off, error, warn, info, debug and trace.
    #[arg(long, value_name = "LEVEL", help_heading = "What to tell")]
    #[arg(value_parser = level_parser(), ignore_case = true, hide_possible_values = true)]
    pub log: Option<LevelFilter>,

    /// Log the tally, with rates, this often
    #[arg(long, value_name = "DURATION", value_parser = units::positive_duration, hide_short_help = true, help_heading = "What to tell")]
    pub stats: Option<Duration>,

    /// Print the tally as one JSON object at the end
    #[arg(long, hide_short_help = true, help_heading = "What to tell")]
    pub json: bool,

    /// Kernel buffer of each socket for what arrives [default: 4M if the system allows]
    #[arg(long, value_name = "SIZE", value_parser = units::size, hide_short_help = true, help_heading = "Sockets")]
    pub recv_buffer: Option<usize>,

    /// Kernel buffer of each socket for what leaves [default: 4M if the system allows]
    #[arg(long, value_name = "SIZE", value_parser = units::size, hide_short_help = true, help_heading = "Sockets")]
    pub send_buffer: Option<usize>,

    /// How datagrams are moved: auto, portable (one a system call) or segmented (Linux)
    #[arg(long, value_name = "WAY", default_value = "auto", help_heading = "Speed")]
    #[arg(hide_possible_values = true, hide_short_help = true)]
    pub io: IoArgument,

    /// Loops, each in a thread; auto is one a core
    #[arg(long, value_name = "N", value_parser = workers, default_value = "1", hide_short_help = true, help_heading = "Speed")]
    pub workers: NonZeroUsize,

    /// After work, poll for so long before sleeping: quicker answers for a busy core
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "0", hide_short_help = true, help_heading = "Speed")]
    pub spin: Duration,

    /// Replies a second to one address
    ///
    /// 0 is any number. Loopback addresses have no limit.
    #[arg(long, value_name = "N", value_parser = units::rate, default_value = "1000", help_heading = "Safety")]
    pub rate_limit: u32,

    /// Answer whoever can be answered, however often
    ///
    /// Without it no answer goes to a port that other services have, none is over three times as long as its
    /// question, and no address gets more than --rate-limit.
    #[arg(long, help_heading = "Safety")]
    pub no_guard: bool,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  udpong serve                        say hello on port 5000
  udpong serve echo@127.0.0.1:12345   echo on another address
  udpong serve hello fixed ack -q     three services, one loop, a quiet log
  udpong serve 'reply=got {}@127.0.0.1:7000'
                                      a text of your own, {} is the message
";

const SERVE_DETAILS: &str = "\
Services:
  hello        `Hello ` and the message                0.0.0.0:5000
  echo         the message                             localhost:10000
  fixed        `Hello UDP Client`                      127.0.0.1:20001
  ack          `Server acknowledges: ` and the message 127.0.0.1:12345
  discard      no answer                               (give an address)
  reply=TEXT   TEXT, {} is the message                 (give an address)

A service listens on its own address unless @HOST:PORT, @:PORT or @HOST
follows. IPv6 addresses stand in brackets, as in hello@[::]:5000. Port 0 is any
free port. In TEXT, {{ and }} are braces.

Exit codes:
  0    stopped as it was asked to
  1    it cannot listen, or failed later
  2    wrong use
  130  a second Ctrl+C, which ends at once
";

/// A level, in whatever case.
fn level_parser() -> impl TypedValueParser<Value = LevelFilter> {
    let levels = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"]);
    levels.try_map(|level| level.parse::<LevelFilter>().map_err(|error| error.to_string()))
}

fn workers(text: &str) -> Result<NonZeroUsize, String> {
    match text {
        "auto" => Ok(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
        _ => text
            .parse()
            .ok()
            .filter(|n: &NonZeroUsize| n.get() <= 1024)
            .ok_or_else(|| "write auto, or 1 to 1024".to_owned()),
    }
}

/// The ways that `--io` knows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum IoArgument {
    Auto,
    Portable,
    Segmented,
}

impl From<IoArgument> for IoBackend {
    fn from(argument: IoArgument) -> Self {
        match argument {
            IoArgument::Auto => Self::Auto,
            IoArgument::Portable => Self::Portable,
            IoArgument::Segmented => Self::Segmented,
        }
    }
}

/// Send messages to a UDP responder and print its answers.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = SEND_EXAMPLES, after_long_help = SEND_EXIT_CODES)]
pub struct Send {
    /// Whom to send to: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET", default_value = "127.0.0.1:5000")]
    pub target: String,

    /// What to send [default: every line of the standard input]
    ///
    /// 65507 bytes at the most. On a terminal it is asked for.
    #[arg(value_name = "MESSAGE")]
    pub message: Option<OsString>,

    /// How long to wait for an answer (300ms, 5s, 1m30s)
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "When to stop")]
    pub timeout: Duration,

    /// How often to send again when no answer comes
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "When to stop")]
    pub retries: u32,

    /// Print answers as they are: no escapes, no line breaks
    #[arg(long, help_heading = "What to tell")]
    pub raw: bool,

    #[command(flatten)]
    pub family: Family,
}

const SEND_EXAMPLES: &str = "\
Examples:
  udpong send                         ask for messages until Ctrl+D
  udpong send :5000 'Hello, server!'  one message, one answer
  udpong send HOST:7000 < questions   every line is a message
";

const SEND_EXIT_CODES: &str = "\
Exit codes:
  0  every message was answered
  1  one was not, or something else failed
  2  wrong use
";

/// Send a probe every second and tell what becomes of each.
///
/// Any UDP responder will do: one that repeats the message, with or without something around it, or one that says a
/// fixed text, whose answers are matched in order. Ctrl+C ends with a summary, Ctrl+\ shows one and goes on.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = PING_EXAMPLES, after_long_help = LIMIT_EXIT_CODES)]
pub struct Ping {
    /// Whom to ping: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    pub target: String,

    /// Send this often (300ms, 5s, 1m30s)
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "What to send")]
    pub interval: Duration,

    /// Payload of a probe, 0 to 65507 bytes
    ///
    /// Below 17 bytes answers are matched in order.
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56", help_heading = "What to send")]
    pub size: usize,

    /// Rotate over N source ports, 1 to 1024, and report each
    ///
    /// Finds the broken one of several paths or backends. Otherwise one port, or as few as it takes to attribute answers
    /// that do not repeat the probe.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "What to send")]
    #[arg(hide_short_help = true)]
    pub flows: Option<u16>,

    #[command(flatten)]
    pub family: Family,

    /// Stop after so many probes
    #[arg(short, long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    pub count: Option<u64>,

    /// Send no probe after this time
    ///
    /// Answers are still waited for.
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = units::positive_duration, hide_short_help = true, help_heading = "When to stop")]
    pub deadline: Option<Duration>,

    /// How long to wait for an answer
    ///
    /// One that comes after this time is late.
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "When to stop")]
    pub timeout: Duration,

    /// No lines about single probes
    #[arg(short, long, help_heading = "What to tell")]
    pub quiet: bool,

    /// Print the summary as one JSON object
    #[arg(long, hide_short_help = true, help_heading = "What to tell", conflicts_with = "json_stream")]
    pub json: bool,

    /// Print a JSON object for each probe once its outcome is known, and the summary last
    #[arg(long, hide_short_help = true, help_heading = "What to tell")]
    pub json_stream: bool,

    #[command(flatten)]
    pub limits: Limits,
}

const PING_EXAMPLES: &str = "\
Examples:
  udpong ping :5000                          until Ctrl+C
  udpong ping HOST:7 -c 100 -i 20ms -q       100 in 2 s, only the summary
  udpong ping HOST:7 -c 60 --max-loss 1% -q  exit code 1 if more is lost
";

/// Of the commands that have [`Limits`].
const LIMIT_EXIT_CODES: &str = "\
Exit codes:
  0  all well
  1  no answer at all, or a limit is broken
  2  wrong use, or another error
";

/// Load a UDP responder and measure it.
///
/// Closed loop: so many datagrams in flight, and each answer lets the next one leave. With --rate an open loop:
/// datagrams leave on a schedule, and latency counts from when each should have left, so that a responder that
/// stalls cannot hide. An open loop above 1,000 datagrams a second keeps a core busy to be on time.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = BENCH_EXAMPLES, after_long_help = LIMIT_EXIT_CODES)]
pub struct Bench {
    /// Whom to load: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    pub target: String,

    /// Sockets to send from
    #[arg(long, value_name = "N", value_parser = units::count, default_value = "1", help_heading = "What to send")]
    pub clients: u64,

    /// Datagrams in flight on each socket [default: --segments]
    #[arg(long, value_name = "N", value_parser = units::count, conflicts_with = "rate", help_heading = "What to send")]
    pub in_flight: Option<u64>,

    /// Datagrams a second, on all sockets together
    #[arg(long, value_name = "R", value_parser = units::positive_rate, help_heading = "What to send")]
    pub rate: Option<u32>,

    /// Payload of a datagram, 0 to 65507 bytes
    ///
    /// Below 17 bytes answers are matched in order.
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56", help_heading = "What to send")]
    pub size: usize,

    /// Datagrams that one send carries
    ///
    /// By UDP_SEGMENT where the system has it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64), default_value = "1", help_heading = "What to send")]
    pub segments: u8,

    #[command(flatten)]
    pub family: Family,

    /// How long to measure (300ms, 5s, 1m30s)
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "5s", help_heading = "When to stop")]
    pub time: Duration,

    /// How long to send before measuring
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "0", hide_short_help = true, help_heading = "When to stop")]
    pub warm_up: Duration,

    /// How long to wait for an answer
    ///
    /// A datagram without one after this time is lost.
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "When to stop")]
    pub timeout: Duration,

    /// Print the report as one JSON object
    #[arg(long, hide_short_help = true, help_heading = "What to tell")]
    pub json: bool,

    #[command(flatten)]
    pub limits: Limits,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  udpong bench :5000                              one in flight, for 5 s
  udpong bench :5000 --clients 64 --in-flight 32  as fast as answers come
  udpong bench :5000 --rate 10k --max-p99 5ms     exit code 1 if slower
";

/// Print the script that lets a shell complete the command line.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = COMPLETIONS_EXAMPLES)]
pub struct Completions {
    /// Whose script to print
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(udpong completions bash)             for this session of bash
  udpong completions zsh > ~/.zfunc/_udpong     for a folder in zsh's fpath
  udpong completions fish > ~/.config/fish/completions/udpong.fish
";

/// Print a manual page.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = MAN_EXAMPLES)]
pub struct Man {
    /// Whose page to print [default: the program's]
    #[arg(value_name = "COMMAND", value_parser = ["serve", "send", "ping", "bench", "completions", "man"])]
    pub command: Option<String>,
}

const MAN_EXAMPLES: &str = "\
Examples:
  udpong man > udpong.1       the page of the program
  udpong man ping | man -l -  read the page of ping (Linux)
";

/// Which addresses of a name are taken.
#[derive(Args, Clone, Copy, Debug)]
pub struct Family {
    /// Use IPv4 only
    #[arg(short = '4', long = "ipv4", conflicts_with = "v6", hide_short_help = true)]
    pub v4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long = "ipv6", hide_short_help = true)]
    pub v6: bool,
}

/// What makes a result a failure.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "When to fail (exit code 1)")]
pub struct Limits {
    /// If more is lost or refused (such as 1%)
    #[arg(long, value_name = "PERCENT", value_parser = units::percent)]
    pub max_loss: Option<f64>,

    /// If the mean is longer (such as 5ms)
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    pub max_mean: Option<Duration>,

    /// If the median is longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    pub max_p50: Option<Duration>,

    /// If over 10 of 100 take longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    pub max_p90: Option<Duration>,

    /// If over 1 of 100 take longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub max_p99: Option<Duration>,

    /// If over 1 of 1,000 take longer
    #[arg(long = "max-p99.9", value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    pub max_p99_9: Option<Duration>,

    /// If any takes longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration, hide_short_help = true)]
    pub max_rtt: Option<Duration>,
}
