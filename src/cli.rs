//! What can be asked for on the command line. No behaviour.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use log::LevelFilter;
use udpong::server::Io;

use crate::units;

/// A UDP responder, event-driven on a mio poll loop.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
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
}

/// Answer every UDP datagram, until Ctrl+C.
///
/// SERVICE is one of these, on its own address unless @HOST:PORT, @:PORT or @HOST follows:
///
///   hello        answers `Hello ` and the message   0.0.0.0:5000
///   echo         answers the message                localhost:10000
///   fixed        answers `Hello UDP Client`         127.0.0.1:20001
///   ack          answers `Server acknowledges: ` and the message
///                                                   127.0.0.1:12345
///   discard      answers nothing                    (give an address)
///   reply=TEXT   answers TEXT, {} is the message    (give an address)
///
/// IPv6 addresses stand in brackets, as in hello@[::]:5000. Port 0 is any free port.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment, before_help = SERVE_EXAMPLES)]
pub struct Serve {
    /// What to serve, and where
    #[arg(value_name = "SERVICE", default_value = "hello")]
    pub services: Vec<String>,

    /// Stop after this time (300ms, 5s, 1m30s)
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration, help_heading = "When to stop")]
    pub run_for: Option<Duration>,

    /// Stop after so many datagrams
    #[arg(long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    pub count: Option<u64>,

    /// After a stop, how long answering and sending may take
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "500ms", help_heading = "When to stop")]
    pub grace: Duration,

    /// No lines about single datagrams
    #[arg(short, long, help_heading = "What to tell")]
    pub quiet: bool,

    /// off, error, warn, info, debug or trace [default: RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL", hide_possible_values = true, help_heading = "What to tell")]
    pub log: Option<LevelFilter>,

    /// Log the tally, with rates, this often
    #[arg(long, value_name = "INTERVAL", value_parser = units::positive_duration, help_heading = "What to tell")]
    pub stats: Option<Duration>,

    /// Print the tally as JSON on stdout at the end
    #[arg(long, help_heading = "What to tell")]
    pub json: bool,

    /// Kernel buffer for what arrives, a socket [default: 4M if the system allows]
    #[arg(long, value_name = "SIZE", value_parser = units::size, help_heading = "Sockets")]
    pub recv_buffer: Option<usize>,

    /// Kernel buffer for what leaves, a socket [default: 4M if the system allows]
    #[arg(long, value_name = "SIZE", value_parser = units::size, help_heading = "Sockets")]
    pub send_buffer: Option<usize>,

    /// How datagrams are moved: auto, portable (one a system call) or segmented (Linux)
    #[arg(long, value_name = "WAY", default_value = "auto", hide_possible_values = true, help_heading = "Speed")]
    pub io: IoArgument,

    /// So many loops, each in a thread; auto is one a core
    #[arg(long, value_name = "N", value_parser = workers, default_value = "1", help_heading = "Speed")]
    pub workers: NonZeroUsize,

    /// After work, poll for so long before sleeping: quicker answers for a busy core
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "0", help_heading = "Speed")]
    pub spin: Duration,

    /// Replies a second to one address, other than loopback; 0 is any number
    #[arg(long, value_name = "N", value_parser = units::rate, default_value = "1000", help_heading = "Safety")]
    pub rate_limit: u32,

    /// Answer whoever can be answered: service ports, short questions, any number of them
    #[arg(long, help_heading = "Safety")]
    pub no_guard: bool,
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

impl From<IoArgument> for Io {
    fn from(argument: IoArgument) -> Self {
        match argument {
            IoArgument::Auto => Self::Auto,
            IoArgument::Portable => Self::Portable,
            IoArgument::Segmented => Self::Segmented,
        }
    }
}

const SERVE_EXAMPLES: &str = "\
Examples:
  udpong serve                          say hello on port 5000
  udpong serve echo@127.0.0.1:12345     echo on another address
  udpong serve hello fixed ack -q       three services, one loop, a quiet log
  udpong serve 'reply=got {}@:7000' …   needs a host: reply=got {}@0.0.0.0:7000
";

/// Send messages to a UDP responder and print its answers.
///
/// Without MESSAGE, every line of the standard input is a message; on a terminal it is asked for.
#[derive(Args, Debug)]
#[command(before_help = SEND_EXAMPLES)]
pub struct Send {
    /// Whom to send to: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET", default_value = "127.0.0.1:5000")]
    pub target: String,

    /// What to send, 65,507 bytes at the most
    #[arg(value_name = "MESSAGE")]
    pub message: Option<OsString>,

    /// How long to wait for an answer (300ms, 5s, 1m30s)
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    pub timeout: Duration,

    /// How often to send again when no answer comes
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub retries: u32,

    /// Write answers as they are: no escapes, no line breaks
    #[arg(long)]
    pub raw: bool,

    #[command(flatten)]
    pub family: Family,
}

const SEND_EXAMPLES: &str = "\
Examples:
  udpong send                           ask for messages until Ctrl+D
  udpong send :5000 'Hello, server!'    one message, one answer
  udpong send HOST:7000 < questions     every line is a message
";

/// Send a probe every second and tell what becomes of each.
///
/// Any UDP responder will do: one that repeats the message, with or without something around it, or one that
/// says a fixed text, whose answers are matched in order. Ctrl+C ends with a summary, Ctrl+\ shows one and goes on.
///
/// Exit code: 0 all well, 1 no answer at all or a limit broken, 2 wrong use or another error.
#[derive(Args, Debug)]
#[command(before_help = PING_EXAMPLES)]
pub struct Ping {
    /// Whom to ping: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    pub target: String,

    /// From one probe to the next (300ms, 5s, 1m30s)
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "What to send")]
    pub interval: Duration,

    /// Payload of a probe, 0 to 65507 bytes; below 17 answers are matched in order
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56", help_heading = "What to send")]
    pub size: usize,

    #[command(flatten)]
    pub family: Family,

    /// Stop after so many probes
    #[arg(short, long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    pub count: Option<u64>,

    /// Send no probe after this time; answers are still waited for
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = units::positive_duration, help_heading = "When to stop")]
    pub deadline: Option<Duration>,

    /// When an answer is late
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "When to stop")]
    pub timeout: Duration,

    /// No line for each probe, only the summary
    #[arg(short, long, help_heading = "What to tell")]
    pub quiet: bool,

    /// Print the summary as one JSON object
    #[arg(long, help_heading = "What to tell", conflicts_with = "json_stream")]
    pub json: bool,

    /// Print a JSON object for each probe once its fate is known, and the summary last
    #[arg(long, help_heading = "What to tell")]
    pub json_stream: bool,

    #[command(flatten)]
    pub limits: Limits,
}

const PING_EXAMPLES: &str = "\
Examples:
  udpong ping :5000                             until Ctrl+C
  udpong ping HOST:7 -c 100 -i 20ms -q          a hundred in two seconds, summary only
  udpong ping HOST:7 -c 60 --max-loss 1% -q     exit code 1 if more is lost
";

/// Load a UDP responder and measure it.
///
/// Closed loop: so many datagrams in flight, and each answer lets the next one leave. With --rate an open loop:
/// datagrams leave on a schedule, and latency counts from when each should have left, so that a responder that
/// stalls cannot hide. An open loop above 1,000 datagrams a second keeps a core busy to be on time.
///
/// Exit code: 0 all well, 1 no answer at all or a limit broken, 2 wrong use or another error.
#[derive(Args, Debug)]
#[command(before_help = BENCH_EXAMPLES)]
pub struct Bench {
    /// Whom to load: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    pub target: String,

    /// How many sockets
    #[arg(long, value_name = "N", value_parser = units::count, default_value = "1", help_heading = "What to send")]
    pub clients: u64,

    /// Datagrams in flight on each socket [default: 1, or what one send carries]
    #[arg(long, value_name = "N", value_parser = units::count, conflicts_with = "rate", help_heading = "What to send")]
    pub in_flight: Option<u64>,

    /// Datagrams a second, on all sockets together
    #[arg(long, value_name = "R", value_parser = units::positive_rate, help_heading = "What to send")]
    pub rate: Option<u32>,

    /// Payload of a datagram, 0 to 65507 bytes; below 17 answers are matched in order
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56", help_heading = "What to send")]
    pub size: usize,

    /// Datagrams that one send carries, by UDP_SEGMENT where the system has it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64), default_value = "1", help_heading = "What to send")]
    pub segments: u8,

    #[command(flatten)]
    pub family: Family,

    /// How long to measure (300ms, 5s, 1m30s)
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "5s", help_heading = "When to stop")]
    pub time: Duration,

    /// How long to send before measuring
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "0", help_heading = "When to stop")]
    pub warm_up: Duration,

    /// When a datagram without an answer is lost
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s", help_heading = "When to stop")]
    pub timeout: Duration,

    /// Print the report as one JSON object
    #[arg(long, help_heading = "What to tell")]
    pub json: bool,

    #[command(flatten)]
    pub limits: Limits,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  udpong bench :5000                                  one datagram in flight, for 5 s
  udpong bench :5000 --clients 64 --in-flight 32      as fast as answers come
  udpong bench :5000 --rate 10k --max-p99 5ms         exit code 1 if answers get slow
";

/// Which addresses of a name are taken.
#[derive(Args, Clone, Copy, Debug)]
pub struct Family {
    /// Use IPv4 only
    #[arg(short = '4', long = "ipv4", conflicts_with = "v6")]
    pub v4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long = "ipv6")]
    pub v6: bool,
}

/// What makes a result a failure.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "When to fail (exit code 1)")]
pub struct Limits {
    /// If more is lost or refused (1%)
    #[arg(long, value_name = "PERCENT", value_parser = units::percent)]
    pub max_loss: Option<f64>,

    /// If the mean is longer (5ms)
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub max_mean: Option<Duration>,

    /// If the median is longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub max_p50: Option<Duration>,

    /// If over 10 of 100 take longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub max_p90: Option<Duration>,

    /// If over 1 of 100 take longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub max_p99: Option<Duration>,

    /// If over 1 of 1,000 take longer
    #[arg(long = "max-p99.9", value_name = "DURATION", value_parser = units::duration)]
    pub max_p99_9: Option<Duration>,

    /// If any takes longer
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub max_rtt: Option<Duration>,
}
