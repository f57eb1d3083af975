//! What can be asked for on the command line. No behaviour.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use log::LevelFilter;
use udpong::net::Io;

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
