//! `udpong bench`: a load, and how many answers it gets how fast.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use udpong::client::bench::{self, Options};
use udpong::client::{Load, Shape, Terminal};

use super::units::{FILE_OR_STDOUT, output_file};
use super::{
    EgressArgs, Failure, FamilyArgs, LIMIT_EXIT_STATUS, LimitArgs, PayloadArgs, PlotFile, TEMPLATE, check_distinct,
    json, print, print_error, shutdown_with_report_on_signals, units, unless_forced,
};

/// Load a UDP responder and measure throughput and latency.
///
/// By default a closed loop: each socket keeps a fixed number of datagrams in flight, and each answer lets the next
/// datagram leave. With --rate an open loop: datagrams leave on a schedule, and latency counts from the time when a
/// datagram was due, so a responder that stalls cannot hide it. If bench itself cannot keep the schedule, it reports
/// that.
///
/// Use it only on servers that you may load.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES)]
#[command(after_long_help = format!("{JSON}\n{LIMIT_EXIT_STATUS}\n{SIGNALS}"))]
pub struct BenchArgs {
    /// Where to send: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    target: String,

    /// Number of sockets
    #[arg(short, long, value_name = "N", value_parser = units::count, default_value = "1", help_heading = "Load")]
    clients: u64,

    /// Datagrams in flight on each socket [default: --segments]
    #[arg(long, value_name = "N", value_parser = units::count, conflicts_with = "rate", help_heading = "Load")]
    in_flight: Option<u64>,

    /// Datagrams per second, on all sockets together
    #[arg(short, long, value_name = "R", value_parser = units::positive_rate, help_heading = "Load")]
    rate: Option<u32>,

    /// Payload of a datagram, 0 to 65507 bytes
    ///
    /// Answers to datagrams under 17 bytes are matched by source port: such a datagram has no room for its number.
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56")]
    #[arg(help_heading = "Load")]
    size: usize,

    /// Datagrams per send
    ///
    /// On Linux with UDP_SEGMENT. With --rate R, N datagrams leave together every N/R seconds.
    #[arg(long, value_name = "N", value_parser = units::within::<u8>(1..=64), default_value = "1")]
    #[arg(hide_short_help = true, help_heading = "Load")]
    segments: u8,

    #[command(flatten)]
    payload: PayloadArgs,

    #[command(flatten)]
    family: FamilyArgs,

    #[command(flatten)]
    egress: EgressArgs,

    /// Send N datagrams in all, however long it takes
    #[arg(short = 'n', long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    count: Option<u64>,

    /// Time to measure (300ms, 5s, 1m30s) [default: 5s]
    ///
    /// With --count, there is no default.
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration)]
    #[arg(help_heading = "When to stop")]
    time: Option<Duration>,

    /// Time to send before the measurement
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "0")]
    #[arg(hide_short_help = true, help_heading = "When to stop")]
    warm_up: Duration,

    /// Time to wait for an answer
    ///
    /// A datagram that is not answered within this time is lost, and an answer after it is late.
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    #[arg(help_heading = "When to stop")]
    timeout: Duration,

    /// Draw no progress bar
    #[arg(short, long, hide_short_help = true, help_heading = "Output")]
    quiet: bool,

    /// Print the report as one JSON object
    #[arg(long, hide_short_help = true, help_heading = "Output")]
    json: bool,

    /// Draw the latencies over time and their distribution, as SVG
    #[arg(long, value_name = "FILE", value_parser = output_file(FILE_OR_STDOUT))]
    #[arg(hide_short_help = true, help_heading = "Output")]
    plot: Option<PathBuf>,

    /// Log the latencies for "udpong report" and other tools
    ///
    /// The file is an HdrHistogram log (V2) in nanoseconds, with an interval a second and the target as tag.
    #[arg(long, value_name = "FILE", value_parser = output_file(FILE_OR_STDOUT))]
    #[arg(hide_short_help = true, help_heading = "Output")]
    hdr: Option<PathBuf>,

    #[command(flatten)]
    limits: LimitArgs,
}

const EXAMPLES: &str = "\
Examples:
  udpong bench :5000                              one in flight, for 5 s
  udpong bench :5000 --clients 64 --in-flight 32  as fast as answers come
  udpong bench :5000 --rate 10k --max-p99 5ms     exit status 1 if slower
";

const JSON: &str = "\
JSON:
  schema              version of this format: 2
  target              address of the target
  seconds             time measured
  clients             number of clients
  sent                datagrams sent that have ended
  answered, late, lost, refused, truncated, altered
                      datagrams by outcome, as with ping; their sum is sent
  duplicate           further answers to the same datagram
  reordered           answers that arrived after the answer to a later
                      datagram of the same source port
  unmatched           answers that belong to no datagram
  in_flight           datagrams sent that had not ended when a second
                      signal, or a target that refuses everything, ended
                      the wait; counted nowhere else
  loss_percent        late, lost and refused together
  silent_s            time without an answer at the end, if datagrams were
                      sent into it
  answers_per_second  datagrams answered in the time measured, per second
  mbit_per_second     payloads in Mbit/s: sent, and answered in that time
  latency_ms          latency in milliseconds: min, mean, max, stddev, p50,
                      p90, p99 and p99_9; null without an answer
  lateness_ms         how late datagrams left, with the same fields; null
                      without --rate
";

const SIGNALS: &str = "\
Signals:
  SIGINT (Ctrl+C), SIGTERM, SIGHUP
       Stop sending, wait for the answers to what is in flight, then print
       the report. A second signal ends the wait; datagrams in flight are
       then not counted. During the warm-up the report is about that.
  SIGQUIT (Ctrl+\\)
       Print the report so far and continue; on the standard error with
       --json.
";

const DEFAULT_TIME: Duration = Duration::from_secs(5);

/// Loads the target and prints what was measured.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let segments = usize::from(args.segments);
    let options = Options {
        shape: Shape {
            clients: number(args.clients),
            load: match args.rate {
                Some(rate) => Load::Rate(rate),
                None => Load::InFlight(args.in_flight.map_or(segments, number)),
            },
            size: args.size,
            segments,
            timeout: args.timeout,
        },
        payload: args.payload.bytes(args.size)?,
        time: args.time.or(args.count.is_none().then_some(DEFAULT_TIME)),
        count: args.count,
        warm_up: args.warm_up,
        family: args.family.into(),
        egress: (&args.egress).into(),
        quiet: args.quiet,
        json: args.json,
        limits: args.limits.into(),
        terminal: Terminal::of_stdout(),
        plot: args.plot.is_some(),
        hdr: args.hdr.clone(),
    };
    check_distinct(args.plot.as_deref(), args.hdr.as_deref())?;
    let plot = args.plot.as_deref().map(PlotFile::open).transpose()?;
    let shutdown = shutdown_with_report_on_signals()?;
    let report = bench::bench(&args.target, &options, &shutdown, &mut io::stdout(), &mut io::stderr())?;
    // What was measured is printed even if the picture cannot be written, and the other way round.
    let printed = print(&if args.json { json(&report)? } else { report.text(options.terminal) });
    if let Some(plot) = plot {
        plot.write(&report.svg()?)?;
    }
    printed?;
    report.warnings().iter().for_each(|warning| print_error(warning));
    unless_forced(&shutdown, report.check(&options.limits))
}
