//! `udpong ping`: one probe after the other, and how each ends.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use udpong::client::ping::{self, Format, Options};
use udpong::client::{Error, Limits, PingReport, StampOptions, Terminal};

use super::monitor::MonitorArgs;
use super::units::{FILE_OR_STDOUT, output_file};
use super::{
    EgressArgs, Failure, FamilyArgs, LIMIT_EXIT_STATUS, LimitArgs, PayloadArgs, PlotFile, TEMPLATE, check_distinct,
    habits, json, print, shutdown_with_report_on_signals, stamp_key, units, unless_forced,
};

/// Send a probe every second and report how each one ends.
///
/// The target can be any UDP responder. If it returns the probe, with or without other text around it, the answer is
/// matched to that probe. Answers that do not contain a probe are matched by source port, and in order only if no port
/// is free, which the summary states. Probes leave on a schedule, so a lost answer does not delay the next probe. The
/// loss is the share of late, lost and refused probes among those that have ended.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES)]
#[command(after_long_help = format!("{DETAILS}\n{LIMIT_EXIT_STATUS}\n{SIGNALS}"))]
pub struct PingArgs {
    /// Where to send: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    ///
    /// With --stamp, the port of HOST is 862.
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,

    /// Time between probes (20ms, 5s, 1m30s)
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    #[arg(help_heading = "Probes")]
    interval: Duration,

    /// Payload of a probe, 0 to 65507 bytes [default: 56]
    ///
    /// Answers to probes under 17 bytes are matched by source port: such a probe has no room for its number. A packet
    /// of STAMP has 44 bytes, the default then, or 48 and more; with a key 112, or 136 and more.
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size)]
    #[arg(help_heading = "Probes")]
    size: Option<usize>,

    /// Measure each direction, against a STAMP reflector (RFC 8762)
    ///
    /// Also against one of TWAMP Light.
    #[arg(long, conflicts_with_all = NOT_STAMP, hide_short_help = true)]
    #[arg(help_heading = "STAMP")]
    stamp: bool,

    /// Sign the packets of STAMP, and accept signed answers only
    ///
    /// The key is the content of the file, less one final line feed.
    #[arg(long, value_name = "PATH", requires = "stamp", hide_short_help = true, help_heading = "STAMP")]
    #[arg(conflicts_with_all = NOT_STAMP)]
    stamp_key_file: Option<PathBuf>,

    /// Rotate over N source ports, 1 to 1024, and report each
    ///
    /// Finds the broken one of several paths or backends.
    #[arg(long, value_name = "N", value_parser = units::within::<usize>(1..=1024), hide_short_help = true, help_heading = "Probes")]
    flows: Option<usize>,

    #[command(flatten)]
    payload: PayloadArgs,

    #[command(flatten)]
    family: FamilyArgs,

    #[command(flatten)]
    egress: EgressArgs,

    /// Stop after N probes
    #[arg(short, long, value_name = "N", value_parser = units::count, help_heading = "When to stop")]
    count: Option<u64>,

    /// Send no probe after this time
    ///
    /// Answers to the probes in flight are still awaited.
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = units::positive_duration)]
    #[arg(hide_short_help = true, help_heading = "When to stop")]
    deadline: Option<Duration>,

    /// Time to wait for an answer
    ///
    /// An answer that arrives after this time is late.
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    #[arg(help_heading = "When to stop")]
    timeout: Duration,

    /// Print the time before each line, in seconds since 1970
    #[arg(short = 'D', long, hide_short_help = true, help_heading = "Output")]
    timestamps: bool,

    /// Print only the summary
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,

    /// Print the summary as one JSON object per target
    #[arg(long, hide_short_help = true, help_heading = "Output", conflicts_with = "json_stream")]
    json: bool,

    /// Print one JSON object per event of a probe, then the summaries
    #[arg(long, hide_short_help = true, help_heading = "Output")]
    json_stream: bool,

    /// Draw the round trips over time and their distribution, as SVG
    #[arg(long, value_name = "FILE", value_parser = output_file(FILE_OR_STDOUT))]
    #[arg(hide_short_help = true, help_heading = "Output")]
    plot: Option<PathBuf>,

    /// Log the round trips for "udpong report" and other tools
    ///
    /// The file is an HdrHistogram log (V2) in nanoseconds, with an interval a second and the target as tag.
    #[arg(long, value_name = "FILE", value_parser = output_file(FILE_OR_STDOUT))]
    #[arg(hide_short_help = true, help_heading = "Output")]
    hdr: Option<PathBuf>,

    #[command(flatten)]
    monitor: MonitorArgs,

    #[command(flatten)]
    limits: LimitArgs,

    /// Maximum share lost on the way to the reflector (1%)
    #[arg(long, value_name = "PERCENT", value_parser = units::percent, requires = "stamp", hide_short_help = true)]
    #[arg(help_heading = "STAMP", conflicts_with_all = NOT_STAMP)]
    max_loss_up: Option<f64>,

    /// Maximum share of what it returned that is lost on the way back
    #[arg(long, value_name = "PERCENT", value_parser = units::percent, requires = "stamp", hide_short_help = true)]
    #[arg(help_heading = "STAMP", conflicts_with_all = NOT_STAMP)]
    max_loss_down: Option<f64>,
}

/// What --stamp excludes. So does each option that requires it: the parser does not ask for an option that is excluded.
const NOT_STAMP: [&str; 4] = ["flows", "hex", "file", "pattern"];

const EXAMPLES: &str = "\
Examples:
  udpong ping :5000                          ping until Ctrl+C
  udpong ping HOST:7 -c 100 -i 20ms -q       100 probes, only the summary
  udpong ping HOST:7 -c 60 --max-loss 1% -q  exit status 1 if more is lost
  udpong ping a:5000 b:5000 -c 5 -q          several targets, a table
  udpong ping --stamp ROUTER                 losses and delays by direction
";

const DETAILS: &str = "\
Outcomes:
  answered   the whole probe came back within --timeout
  late       it came back after --timeout
  lost       nothing came back
  refused    a closed port, a router or this system reported that the probe
             cannot be delivered
  truncated  the answer contains the probe without its end
  altered    the answer contains the probe with other bytes in it

Each probe has one outcome. Further answers to it are duplicates, and so is an
answer to a refused probe.

Round trips are those of first answers of any kind, late ones included.
Percentiles are by nearest rank, to three significant digits. Jitter is the
mean absolute difference between consecutive round trips.

JSON:
  schema            version of this format: 2
  target            address of the target
  interval_ms, size time between probes, and payload
  duration_s        time from the start until the last probe had ended
  sent              probes sent that have ended
  answered, late, lost, refused, truncated, altered
                    probes by outcome; their sum is sent
  duplicate         answers to a probe that had an outcome already
  reordered         answers that arrived after the answer to a later probe
                    of the same source port
  unmatched         answers that belong to no probe
  in_flight         probes sent that have not ended, when a second signal
                    ended the wait; counted nowhere else
  loss_percent      late, lost and refused together
  clock             what timed the answers: kernel (when it received them),
                    or user (when the program did)
  attribution       how answers were matched: content, port, or order (then
                    round trips are upper bounds); null without an answer
  rtt_ms            round trips in milliseconds: min, mean, max, stddev,
                    jitter, p50, p90, p99 and p99_9; null without an answer
  flows             null without --flows, else for each source port: port,
                    sent, lost (late, lost or refused), p50_ms

With --stamp, in addition:

  reflector         stateful, stateless, or null without an answer
  up, down          the way to the reflector and back: lost (null unless
                    the reflector is stateful), hops (of the latest answer,
                    or null), delay_variation_ms (min, mean, p50, p99 and
                    max of what delays exceed the shortest by) and
                    one_way_ms (these of the delays themselves, and error;
                    null unless both clocks are synchronized)
  unknown_direction
                    lost probes whose direction is not known; lost is the
                    sum of up.lost, down.lost and unknown_direction, of
                    which null counts as 0
  processing_ms     time in the reflector, which is no part of rtt_ms

With --json-stream, for each event:

  seq               number of the probe, from 1
  target            address of the target
  time              when this was reported (RFC 3339)
  outcome           answered, timeout, refused, truncated or altered; after
                    a timeout at most one of late, truncated and altered;
                    and duplicate
  rtt_ms            round trip in milliseconds, or null
  bytes             length of the answer, or null
  reordered         whether the answer arrived after that to a later probe
                    of the same source port
  ttl               hop limit of the answer, or null
  up_variation_ms, down_variation_ms, processing_ms
                    with --stamp, of an answered probe: what the delays
                    exceed the shortest so far by; time in the reflector

STAMP:
A reflector numbers its answers, so a missing number is a loss on the way back,
and a probe for which none is missing was lost on the way there. A probe that is
lost after the last answer may be either. A stateless reflector repeats the
numbers of probes, so losses have no direction. The variation of delays needs no
synchronized clocks, unless one drifts noticeably in the course of a run.
";

const SIGNALS: &str = "\
Signals:
  SIGINT (Ctrl+C), SIGTERM, SIGHUP
       Send no more probes, wait for the answers to those in flight, then
       print the summary. A second signal ends the wait; probes in flight
       are then not counted.
  SIGQUIT (Ctrl+\\)
       Print the summary so far and continue; on the standard error with
       --json and --json-stream.
";

/// Pings the target and prints what was found.
pub fn run(args: &PingArgs) -> Result<(), Failure> {
    if let Some(target) = args.targets.windows(2).find_map(|words| habits::joined(&words[0], &words[1])) {
        return Err(Failure::new(Failure::USAGE, habits::one_word(&target)));
    }
    let key = args.stamp_key_file.as_deref().map(stamp_key).transpose()?;
    let stamp = args.stamp.then_some(StampOptions { key });
    let size = args.size.unwrap_or_else(|| stamp.as_ref().map_or(56, StampOptions::base_size));
    let options = Options {
        interval: args.interval,
        count: args.count,
        size,
        stamp,
        timeout: args.timeout,
        deadline: args.deadline,
        flows: args.flows,
        payload: args.payload.bytes(size)?,
        family: args.family.into(),
        egress: (&args.egress).into(),
        format: match args {
            PingArgs { json: true, .. } => Format::Json,
            PingArgs { json_stream: true, .. } => Format::JsonStream,
            PingArgs { quiet: true, .. } => Format::Summary,
            _ => Format::Text,
        },
        limits: Limits { loss_up: args.max_loss_up, loss_down: args.max_loss_down, ..args.limits.into() },
        terminal: Terminal::of_stdout(),
        timestamps: args.timestamps,
        live: Terminal::of_stderr().filter(|_| !args.quiet),
        hdr: args.hdr.clone(),
        monitor: (&args.monitor).into(),
    };
    let [plot, hdr] = [&args.plot, &args.hdr].map(Option::as_deref);
    check_distinct(&[("--plot", plot), ("--hdr", hdr), ("--metrics-file", args.monitor.metrics_file.as_deref())])?;
    let plot = plot.map(PlotFile::open).transpose()?;
    let shutdown = shutdown_with_report_on_signals()?;
    let results = ping::ping_all(&args.targets, &options, &shutdown, &mut io::stdout(), &mut io::stderr())?;
    let targets = results.len();
    let failures: Vec<_> = results.iter().filter_map(|result| failure(result, &options.limits)).collect();
    let reports: Vec<PingReport> = results.into_iter().flatten().collect();
    let text = match (options.format, &*reports) {
        (Format::Json | Format::JsonStream, reports) => reports.iter().map(json).collect::<Result<String, _>>()?,
        (_, []) => String::new(),
        (_, [only]) if targets == 1 => format!("\n{}", only.text(options.terminal)),
        (_, several) => format!("\n{}", ping::table(several, options.terminal)),
    };
    // What was measured is printed even if the picture cannot be written, and the other way round.
    let printed = print(&text);
    if let Some(plot) = plot {
        plot.write(&ping::svg(&reports)?)?;
    }
    printed?;
    unless_forced(&shutdown, check(&failures, targets))
}

/// Returns why a target failed if it did, and its address if that is known.
fn failure(result: &Result<PingReport, Error>, limits: &Limits) -> Option<(Option<SocketAddr>, Error)> {
    match result {
        Ok(report) => report.check(limits).err().map(|why| (Some(report.target()), why)),
        Err(why) => Some((None, why.clone())),
    }
}

/// Returns an error if any target failed, which names the first ones that did.
fn check(failures: &[(Option<SocketAddr>, Error)], targets: usize) -> Result<(), Error> {
    const NAMED: usize = 5;
    match failures {
        [] => Ok(()),
        [(_, why)] if targets == 1 => Err(why.clone()),
        failures => {
            let named = failures.iter().take(NAMED).map(|(target, why)| match (target, why.to_string()) {
                (Some(target), why) if !why.contains(&target.to_string()) => format!("{target}: {why}"),
                (_, why) => why,
            });
            let more = failures.len().saturating_sub(NAMED);
            let more = (more > 0).then(|| format!("and {more} more"));
            let list = named.chain(more).collect::<Vec<_>>().join("; ");
            Err(Error::Unmet(format!("{} of {targets} targets failed: {list}", failures.len())))
        }
    }
}
