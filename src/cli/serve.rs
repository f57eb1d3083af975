//! `udpong serve`: the server.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use log::{LevelFilter, info};
use serde::Serialize;
use simple_logger::SimpleLogger;
use udpong::impair::Impairments;
use udpong::logging::DATAGRAM_LOG;
use udpong::logging::writer::LogWriter;
use udpong::server::{IoBackend, Network, Options, Server, Service};
use udpong::service_manager::inherited_sockets;
use udpong::stamp::ReflectorOptions;

use super::impair::{self, LinkArgs, SeedArgs, check_is_impaired};
use super::monitor::MonitorArgs;
use super::{Failure, TEMPLATE, shutdown_on_signals, units};

/// Answer every UDP datagram, until Ctrl+C.
///
/// Runs any number of services in one event loop. Each reply leaves from the address to which the request was sent.
/// Requests whose reply could be used to attack others are not answered: see Refusals. The log goes to the standard
/// error, the report of --json to the standard output.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES)]
#[command(after_help = format!("Services (NAME@HOST:PORT sets another address) [default: hello]:\n{SERVICES}"))]
#[command(after_long_help = details())]
pub struct ServeArgs {
    /// What to answer and where, see Services
    #[arg(value_name = "SERVICE", default_value = "hello", hide_short_help = true)]
    services: Vec<String>,

    /// Stop after this time (300ms, 5s, 1m30s)
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration, help_heading = "When to stop")]
    run_for: Option<Duration>,

    /// Stop after N datagrams
    ///
    /// Datagrams that have arrived by then are answered, too.
    #[arg(long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    count: Option<u64>,

    /// Time to answer what has arrived and to send what waits, after a stop
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "500ms")]
    #[arg(hide_short_help = true, help_heading = "When to stop")]
    grace: Duration,

    /// Do not log single datagrams
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,

    /// Log level [default: RUST_LOG, or info]
    ///
    /// One of off, error, warn, info, debug and trace.
    #[arg(long, value_name = "LEVEL", help_heading = "Output")]
    #[arg(value_parser = log_level(), ignore_case = true, hide_possible_values = true)]
    log: Option<LevelFilter>,

    /// Log the statistics and rates at this interval
    #[arg(long, value_name = "DURATION", value_parser = units::positive_duration)]
    #[arg(hide_short_help = true, help_heading = "Output")]
    stats: Option<Duration>,

    /// Print the statistics as one JSON object at the end
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Kernel receive buffer of each socket [default: 4M if the system allows]
    #[arg(long, value_name = "SIZE", value_parser = units::size, hide_short_help = true, help_heading = "Sockets")]
    recv_buffer: Option<usize>,

    /// Kernel send buffer of each socket [default: 4M if the system allows]
    #[arg(long, value_name = "SIZE", value_parser = units::size, hide_short_help = true, help_heading = "Sockets")]
    send_buffer: Option<usize>,

    /// How datagrams are received and sent: auto, portable or segmented
    ///
    /// "portable" moves one datagram per system call; "segmented" (Linux) moves many, with recvmmsg, sendmmsg, UDP_GRO
    /// and UDP_SEGMENT; "auto" takes the best that the system has.
    #[arg(long, value_name = "BACKEND", value_parser = io_backend(), default_value = "auto")]
    #[arg(hide_possible_values = true, hide_short_help = true, help_heading = "Performance")]
    io: IoBackend,

    /// Number of event loops, each in a thread of its own; auto is one per core
    #[arg(long, value_name = "N", value_parser = units::workers, default_value = "1")]
    #[arg(hide_short_help = true, help_heading = "Performance")]
    workers: NonZeroUsize,

    /// How long to poll before sleeping: lower latency, but a busy core
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "0")]
    #[arg(hide_short_help = true, help_heading = "Performance")]
    spin: Duration,

    /// Replies per second to one source; 0 for no limit
    ///
    /// At most N replies, or N x 1,500 bytes of reply packets, to an IPv4 address, an IPv6 /64 or a link-local host.
    /// Loopback has no limit.
    #[arg(long, value_name = "N", value_parser = units::rate, default_value = "1000")]
    #[arg(hide_short_help = true, help_heading = "Safety")]
    rate_limit: u32,

    /// Trust the sources in this address range (10.0.0.0/8)
    ///
    /// May be repeated. Lifts the refusals "amplification", "rate_limit" and "loop": for a proxy, say, behind which all
    /// clients have one address.
    #[arg(long, value_name = "CIDR", hide_short_help = true, help_heading = "Safety")]
    trust: Vec<Network>,

    /// Answer every source that can be answered
    ///
    /// Lifts all refusals except "unanswerable", "group_copy", "hmac" and "discard".
    #[arg(long, hide_short_help = true, help_heading = "Safety")]
    no_guard: bool,

    /// Key of the service stamp: only signed requests are answered
    ///
    /// The key is the content of the file, less one final line feed.
    #[arg(long, value_name = "PATH", hide_short_help = true, help_heading = "STAMP")]
    stamp_key_file: Option<PathBuf>,

    /// Let the service stamp repeat sequence numbers and remember no session
    #[arg(long, hide_short_help = true, help_heading = "STAMP")]
    stamp_stateless: bool,

    #[command(flatten)]
    monitor: MonitorArgs,

    #[command(flatten)]
    impairments: LinkArgs,

    #[command(flatten)]
    seed: SeedArgs,
}

/// The services that completions offer.
pub const SERVICE_NAMES: [&str; 7] = ["hello", "echo", "fixed", "ack", "discard", "reply=", "stamp"];

const EXAMPLES: &str = "\
Examples:
  udpong serve                        answer with \"Hello \" on port 5000
  udpong serve echo@127.0.0.1:12345   echo on another address
  udpong serve hello fixed ack -q     three services, a quiet log
  udpong serve echo --delay 40ms --loss 2%
                                      a responder behind a bad network
  udpong serve 'reply=got {}@127.0.0.1:7000'
                                      a text of your own; {} is the message
";

const SERVICES: &str = "  \
  hello       \"Hello \" and the message                 0.0.0.0:5000
  echo        the message                              localhost:10000
  fixed       \"Hello UDP Client\"                       127.0.0.1:20001
  ack         \"Server acknowledges: \" and the message  127.0.0.1:12345
  discard     no reply                                 discard@HOST:PORT
  reply=TEXT  TEXT, with the message in place of {}    reply=TEXT@HOST:PORT
  stamp       a STAMP Session-Reflector (RFC 8762)     0.0.0.0:862
";

const DETAILS: &str = "\
A service listens on the address shown, or on the one given as NAME@HOST:PORT,
NAME@:PORT or NAME@HOST. Write IPv6 addresses in brackets: hello@[::]:5000.
Port 0 selects a free port, which the log and the report show. In TEXT, write
{{ and }} for braces.

A service may take a socket that the service manager has bound (LISTEN_FDS): one
without an address takes the socket of its name, and the only one takes sockets
without a name; NAME@fd:FDNAME takes the one of that name.

Refusals:
A refused request gets no reply. Refusals are counted by reason and logged at
most once a minute per reason. The reasons are:

  unanswerable   the source has port 0, or an unspecified, multicast,
                 broadcast or reserved (240.0.0.0/4) address, or is an
                 IPv4 address in an IPv6 packet (::ffff:192.0.2.1)
  group_copy     sent to a broadcast or multicast address, and answered by
                 another of the --workers: each receives a copy
  own_port       the source port is one that this server has bound
  service_port   the source port belongs to a UDP service that might answer
                 the reply: 7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137,
                 138, 161, 389, 500, 862, 1900, 5000, 5353, 10000, 11211,
                 12345 or 20001
  amplification  the reply's packet would be more than three times as long
                 as the request's; not on loopback
  rate_limit     more than --rate-limit replies per second to one source;
                 not on loopback
  loop           every 1,000th of identical requests in a row from one
                 peer, or requests that grow by the service's own text
                 of stamp: every 1,000th request in a row from one peer
                 that may be a reply itself
  hmac           of stamp, with a key: the request is not signed with it
  discard        the service is discard

STAMP:
A reply has the length of its request, at least 44 bytes, or 112 with a key. It
carries the times at which the request arrived (by the kernel's clock where it
has one) and the reply left, in the format of the request (NTP or PTP), and the
hop limit of the request (255 if unknown). The times are declared synchronized
only if the kernel says so (adjtimex). Replies are numbered for each session
(SSID, addresses and ports; up to 16,384 at a time, forgotten after 15 minutes
without a request); where there is no room, they repeat the number of the
request. Of the TLVs of RFC 8972, padding, Direct Measurement and HMAC are
understood.
";

const JSON: &str = "\
JSON:
  schema              version of this format: 1
  seconds             time since all services listened
  seed                seed of the impairments; null without
  endpoints           one object per address, with these fields:
    service           name of the service
    address           address that it listened on
    received          datagrams received
    received_bytes    their payloads, in bytes
    answered          replies sent
    answered_bytes    their payloads, in bytes
    refused           requests refused, by reason
    failed            replies that were not sent, by error; queue_full if
                      too many had to wait
    receive_errors    errors returned in place of a datagram, by error
    waited            replies that waited for a later turn, mostly because
                      a send would have blocked
    waiting_peak      the most replies that waited at the same time
    unsent            replies that still waited at the end
    kernel_dropped    socket buffers that the kernel dropped, because the
                      receive buffer was full or a checksum wrong; each
                      holds up to 128 datagrams if they were coalesced;
                      null if the system does not report it
";

const MORE_DETAILS: &str = "  \
  rcvbuf_errors       socket buffers dropped because a receive buffer was
                      full; this and the next field count all UDP sockets
                      of the system since the start, and are null elsewhere
                      than on Linux
  in_csum_errors      socket buffers dropped because a checksum was wrong

The sum of answered, refused, failed and unsent is received. With impairments,
the sum of answered, refused, failed, unsent, lost and over_limit is the sum of
received and duplicated.

The sum of received and kernel_dropped is the number of datagrams that reached
the socket if the kernel coalesced none of those it dropped, which it does for a
sender that segments (UDP_SEGMENT) and for what a network device receives. With
--io portable it coalesces nothing.

Exit status:
  0    stopped by a signal, --for or --count
  1    could not listen, failed later, or could not print the report
  2    usage error
  130  ended at once by a second signal

Environment:
  RUST_LOG  log level if --log is not given
  NO_COLOR  if set, the log is not coloured
  NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_FDNAMES
            set by a service manager such as systemd, see README

Signals:
  SIGINT (Ctrl+C), SIGTERM, SIGHUP
       Answer what has arrived and send what waits, for at most --grace,
       then end with the statistics. A second signal ends the program at
       once. A signal that was ignored at the start stays ignored (Linux).
";

fn details() -> String {
    let impairments = impair::DETAILS;
    format!("Services:\n{SERVICES}\n{DETAILS}\n{impairments}\n{JSON}{}{MORE_DETAILS}", impair::JSON)
}

/// Serves until a stop is requested, then logs and prints the statistics.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let services = args.services.iter().map(|text| text.parse::<Service>()).collect::<Result<Vec<_>, _>>();
    let services = services.map_err(|error| Failure::new(Failure::USAGE, error.to_string()))?;
    let is_stamp = |service: &Service| service.name() == "stamp";
    if (args.stamp_key_file.is_some() || args.stamp_stateless) && !services.iter().any(is_stamp) {
        let message = "--stamp-key-file and --stamp-stateless are for the service stamp, which is not served";
        return Err(Failure::new(Failure::USAGE, message));
    }
    let impairments = &args.impairments;
    let dependent_option = impairments.dependent_option().or(args.seed.dependent_option());
    check_is_impaired(impairments.is_given(), dependent_option)?;
    let options = options(args)?;
    // Before anything else opens a file: a wrong LISTEN_FDS would claim that, too.
    let inherited = inherited_sockets().map_err(|message| Failure::new(Failure::FAILED, message))?;
    let failed = |what: &str, error: io::Error| Failure::new(Failure::FAILED, format!("cannot {what}: {error}"));
    let log = LogWriter::install(logger(args.log, args.quiet)?).map_err(|error| failed("start the log", error))?;
    let shutdown = shutdown_on_signals(Failure::FAILED)?;

    // Before and after serving, the log may delay the program: there is a line for each of perhaps many services.
    log.set_patience(LOG_PATIENCE);
    let server = Server::bind_or_inherit(&services, inherited, options, shutdown).inspect_err(|_| {
        log.flush(Instant::now() + LOG_PATIENCE);
    })?;
    log.set_patience(Duration::ZERO);
    let (report, result) = server.run();

    let deadline = Instant::now() + LOG_PATIENCE;
    log.set_patience(LOG_PATIENCE);
    report.endpoints.iter().for_each(|endpoint| info!(target: "udpong", "{endpoint}"));
    log.flush(deadline);
    let printed = if args.json { print(&report) } else { Ok(()) };
    result?;
    printed.map_err(|error| failed("print the report", error))
}

/// How long the log may delay the start, and the exit once nothing is left to answer.
pub const LOG_PATIENCE: Duration = Duration::from_millis(500);

fn options(args: &ServeArgs) -> Result<Options, Failure> {
    let key = args.stamp_key_file.as_deref().map(super::stamp_key).transpose()?;
    Ok(Options {
        receive_buffer: args.recv_buffer,
        send_buffer: args.send_buffer,
        run_for: args.run_for,
        count: args.count,
        stats: args.stats,
        grace: args.grace,
        rate_limit: args.rate_limit,
        no_guard: args.no_guard,
        trust: args.trust.clone(),
        io: args.io,
        workers: args.workers,
        spin: args.spin,
        monitor: (&args.monitor).into(),
        impairments: args.impairments.is_given().then(|| args.impairments.apply(Impairments::default())),
        stamp: ReflectorOptions { key, stateless: args.stamp_stateless },
        seed: args.seed.seed,
    })
}

/// Returns the logger with a level, and without the lines about single datagrams if it is to be quiet.
pub fn logger(level: Option<LevelFilter>, quiet: bool) -> Result<SimpleLogger, Failure> {
    let level = level.map_or_else(level_from_environment, Ok)?;
    let logger = SimpleLogger::new().with_level(level).with_utc_timestamps();
    let logger = logger.with_colors(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    Ok(if quiet { logger.with_module_level(DATAGRAM_LOG, LevelFilter::Off) } else { logger })
}

/// Returns the level that RUST_LOG names; without it, info.
fn level_from_environment() -> Result<LevelFilter, Failure> {
    let level = std::env::var_os("RUST_LOG").unwrap_or_default();
    match level.to_str() {
        Some("") => Ok(LevelFilter::Info),
        text => text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            let message = format!("RUST_LOG is {level:?}: write off, error, warn, info, debug or trace");
            Failure::new(Failure::USAGE, message)
        }),
    }
}

/// Prints a report as one line of JSON.
pub fn print(report: &impl Serialize) -> io::Result<()> {
    let mut stdout = io::stdout();
    serde_json::to_writer(&mut stdout, report)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

pub fn log_level() -> impl TypedValueParser<Value = LevelFilter> {
    let levels = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"]);
    levels.try_map(|level| level.parse::<LevelFilter>())
}

pub fn io_backend() -> impl TypedValueParser<Value = IoBackend> {
    PossibleValuesParser::new(["auto", "portable", "segmented"]).map(|backend| match &*backend {
        "portable" => IoBackend::Portable,
        "segmented" => IoBackend::Segmented,
        _ => IoBackend::Auto,
    })
}
