//! `udpong relay`: the relay.

use std::io;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use clap::Args;
use log::{LevelFilter, info};
use udpong::impair::Impairments;
use udpong::logging::writer::LogWriter;
use udpong::relay::{IoBackend, Options, Relay};

use super::impair::{self, DownArgs, LinkArgs, SeedArgs, UpArgs, check_is_impaired};
use super::monitor::MonitorArgs;
use super::serve::{LOG_PATIENCE, io_backend, log_level, logger, print};
use super::{Failure, TEMPLATE, shutdown_on_signals, units};

/// Forward UDP datagrams, through a bad network if you like.
///
/// Each client has a session: a socket that is connected to the target. The answers of the target go back to the client
/// from the address that it sent to. Without impairments the relay changes nothing: bytes, boundaries and order stay.
/// With them, datagrams are lost, delayed, duplicated, reordered and damaged, in both directions or in one of them, and
/// a seed makes that reproducible.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES, after_long_help = details())]
pub struct RelayArgs {
    /// Where to listen: HOST:PORT, or :PORT (127.0.0.1)
    #[arg(value_name = "LISTEN")]
    listen: String,

    /// Where to forward to: HOST:PORT, or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    target: String,

    /// End a session after this time without traffic
    #[arg(long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "60s")]
    #[arg(hide_short_help = true, help_heading = "Sessions")]
    idle: Duration,

    /// Number of sessions; further clients are refused
    #[arg(long, value_name = "N", value_parser = units::count, default_value = "1024")]
    #[arg(hide_short_help = true, help_heading = "Sessions")]
    max_sessions: u64,

    /// Stop after this time (300ms, 5s, 1m30s)
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration, help_heading = "When to stop")]
    run_for: Option<Duration>,

    /// Stop after N datagrams of clients
    ///
    /// Datagrams that have arrived by then are forwarded, too, and answers to them.
    #[arg(long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    count: Option<u64>,

    /// Time to forward what has arrived, and the answers to it, after a stop
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "500ms")]
    #[arg(hide_short_help = true, help_heading = "When to stop")]
    grace: Duration,

    /// Do not log single datagrams
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,

    /// Log level [default: RUST_LOG, or info]
    ///
    /// One of off, error, warn, info, debug and trace.
    #[arg(long, value_name = "LEVEL", help_heading = "Output", hide_short_help = true)]
    #[arg(value_parser = log_level(), ignore_case = true, hide_possible_values = true)]
    log: Option<LevelFilter>,

    /// Log the statistics and rates at this interval
    #[arg(long, value_name = "DURATION", value_parser = units::positive_duration)]
    #[arg(hide_short_help = true, help_heading = "Output")]
    stats: Option<Duration>,

    /// Print the statistics as one JSON object at the end
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Kernel receive buffer of each socket [default: 4M for clients, 1M per session]
    #[arg(long, value_name = "SIZE", value_parser = units::size, hide_short_help = true, help_heading = "Sockets")]
    recv_buffer: Option<usize>,

    /// Kernel send buffer of each socket [default: 4M for clients, 1M per session]
    #[arg(long, value_name = "SIZE", value_parser = units::size, hide_short_help = true, help_heading = "Sockets")]
    send_buffer: Option<usize>,

    /// How datagrams are received and sent: auto, portable or segmented
    ///
    /// "portable" moves one datagram per system call; "segmented" (Linux) moves many, with recvmmsg, sendmmsg, UDP_GRO
    /// and UDP_SEGMENT; "auto" takes the best that the system has.
    #[arg(long, value_name = "BACKEND", value_parser = io_backend(), default_value = "auto")]
    #[arg(hide_possible_values = true, hide_short_help = true, help_heading = "Performance")]
    io: IoBackend,

    #[command(flatten)]
    monitor: MonitorArgs,

    #[command(flatten)]
    both: LinkArgs,

    #[command(flatten)]
    seed: SeedArgs,

    #[command(flatten)]
    up: UpArgs,

    #[command(flatten)]
    down: DownArgs,
}

const EXAMPLES: &str = "\
Examples:
  udpong relay :7000 game.example.org:27015
                                  forward, changing nothing
  udpong relay :7000 :5000 --loss 2% --delay 40ms --jitter 10ms
                                  a bad network in both directions
  udpong relay :7000 :5000 --up-loss 5% --down-rate 1mbit --seed 7
                                  each direction for itself, reproducibly
";

const DETAILS: &str = "\
Sessions:
A datagram of an unknown client opens a session. It is refused if its source
cannot be answered (reason unanswerable), is the target or the relay itself
(reason loop), or if there are --max-sessions sessions or too many open files
(reason sessions). If the target's host reports that the port is closed, this is
counted as a receive error ECONNREFUSED of the direction down, and the session
stays.

Two relays that are each other's target open a session for every hop, so a
datagram ends after 2 x --max-sessions hops at most. Nothing stops duplicates of
it from multiplying meanwhile.
";

const JSON: &str = "\
JSON:
  schema              version of this format: 1
  seconds             time since the relay listened
  seed                seed of the impairments; null without
  listen, target      addresses that it listened on and forwarded to
  up, down            from clients to the target, and back:
    received          datagrams received
    received_bytes    their payloads, in bytes
    forwarded         datagrams sent
    forwarded_bytes   their payloads, in bytes
    refused           datagrams refused, by reason
    failed            datagrams that the system did not send, by error
    receive_errors    errors returned in place of a datagram, by error
    unsent            datagrams that still waited at the end
    kernel_dropped    socket buffers that the kernel dropped, mostly
                      because a receive buffer was full; null if the
                      system does not report it
";

const MORE_JSON: &str = "  \
  sessions            with these fields:
    opened            sessions opened
    expired           sessions ended after --idle
    refused           datagrams refused for the reason sessions
    peak              the most sessions at the same time

In each direction, the sum of forwarded, refused, failed, unsent, lost and
over_limit is the sum of received and duplicated.

Exit status:
  0    stopped by a signal, --for or --count
  1    could not listen or reach the target, failed later, or could not
       print the report
  2    usage error
  130  ended at once by a second signal

Environment:
  RUST_LOG  log level if --log is not given
  NO_COLOR  if set, the log is not coloured

Signals:
  SIGINT (Ctrl+C), SIGTERM, SIGHUP
       Forward what has arrived and the answers to it, for at most --grace,
       then end with the statistics. A second signal ends the program at
       once.
";

fn details() -> String {
    let (stages, impaired) = (impair::DETAILS, impair::JSON);
    format!("{DETAILS}\n{stages}\n{JSON}{impaired}{MORE_JSON}")
}

/// Forwards until a stop is requested, then logs and prints the statistics.
pub fn run(args: &RelayArgs) -> Result<(), Failure> {
    let [both, up, down] = [args.both.is_given(), args.up.is_given(), args.down.is_given()];
    let of_both = args.both.dependent_option().or(args.seed.dependent_option());
    check_is_impaired(both || up || down, of_both)?;
    check_is_impaired(both || up, args.up.dependent_option())?;
    check_is_impaired(both || down, args.down.dependent_option())?;
    let failed = |what: &str, error: io::Error| Failure::new(Failure::FAILED, format!("cannot {what}: {error}"));
    let log = LogWriter::install(logger(args.log, args.quiet)?).map_err(|error| failed("start the log", error))?;
    let shutdown = shutdown_on_signals(Failure::FAILED)?;

    // As serve: only before and after, the log may delay the program.
    log.set_patience(LOG_PATIENCE);
    let relay = Relay::bind(&args.listen, &args.target, options(args), shutdown).inspect_err(|_| {
        log.flush(Instant::now() + LOG_PATIENCE);
    })?;
    log.set_patience(Duration::ZERO);
    let (report, result) = relay.run();

    let deadline = Instant::now() + LOG_PATIENCE;
    log.set_patience(LOG_PATIENCE);
    report.lines().iter().for_each(|line| info!(target: "udpong", "{line}"));
    log.flush(deadline);
    let printed = if args.json { print(&report) } else { Ok(()) };
    result?;
    printed.map_err(|error| failed("print the report", error))
}

fn options(args: &RelayArgs) -> Options {
    let both = || args.both.apply(Impairments::default());
    let is_given = args.both.is_given();
    let max_sessions = usize::try_from(args.max_sessions).unwrap_or(usize::MAX);
    Options {
        up: (is_given || args.up.is_given()).then(|| args.up.apply(both())),
        down: (is_given || args.down.is_given()).then(|| args.down.apply(both())),
        seed: args.seed.seed,
        idle: args.idle,
        max_sessions: NonZeroUsize::new(max_sessions).unwrap_or(NonZeroUsize::MIN),
        run_for: args.run_for,
        count: args.count,
        stats: args.stats,
        grace: args.grace,
        receive_buffer: args.recv_buffer,
        send_buffer: args.send_buffer,
        io: args.io,
        monitor: (&args.monitor).into(),
    }
}
