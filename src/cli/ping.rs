//! `udpong ping`: one probe after the other, and how each ends.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use udpong::client::ping::{self, Format, Options};

use super::{
    Failure, FamilyArgs, LIMIT_EXIT_STATUS, LimitArgs, TEMPLATE, print_report, shutdown_with_report_on_signals, units,
    unless_forced,
};

/// Send a probe every second and report how each one ends.
///
/// The target can be any UDP responder. If it returns the probe, with or without other text around it, the answer is
/// matched to that probe. Answers that do not contain a probe are matched by source port, and in order only if no port is
/// free, which the summary states. Probes leave on a schedule, so a lost answer does not delay the next probe. The loss
/// is the share of late, lost and refused probes among those that have ended.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES)]
#[command(after_long_help = format!("{DETAILS}\n{LIMIT_EXIT_STATUS}\n{SIGNALS}"))]
pub struct PingArgs {
    /// Where to send: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET")]
    target: String,

    /// Time between probes (20ms, 5s, 1m30s)
    #[arg(short, long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    #[arg(help_heading = "Probes")]
    interval: Duration,

    /// Payload of a probe, 0 to 65507 bytes
    ///
    /// Answers to probes under 17 bytes are matched by source port: such a probe has no room for its number.
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56")]
    #[arg(help_heading = "Probes")]
    size: usize,

    /// Rotate over N source ports, 1 to 1024, and report each
    ///
    /// Finds the broken one of several paths or backends.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    #[arg(hide_short_help = true, help_heading = "Probes")]
    flows: Option<u16>,

    #[command(flatten)]
    family: FamilyArgs,

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

    /// Print only the summary
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,

    /// Print the summary as one JSON object
    #[arg(long, hide_short_help = true, help_heading = "Output", conflicts_with = "json_stream")]
    json: bool,

    /// Print one JSON object per event of a probe, then the summary's
    #[arg(long, hide_short_help = true, help_heading = "Output")]
    json_stream: bool,

    #[command(flatten)]
    limits: LimitArgs,
}

const EXAMPLES: &str = "\
Examples:
  udpong ping :5000                          ping until Ctrl+C
  udpong ping HOST:7 -c 100 -i 20ms -q       100 probes, only the summary
  udpong ping HOST:7 -c 60 --max-loss 1% -q  exit status 1 if more is lost
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

Each probe has one outcome. Further answers to it are duplicates.

Round trips are those of first answers of any kind, late ones included.
Percentiles are by nearest rank, to three significant digits. Jitter is the
mean absolute difference between consecutive round trips.

JSON:
  schema            version of this format: 2
  target            address of the target
  interval_ms, size, duration_s
                    time between probes, payload, length of the run
  sent              probes sent
  answered, late, lost, refused, truncated, altered
                    probes by outcome; their sum is sent
  duplicate         answers to a probe that had an outcome already
  reordered         answers that arrived after the answer to a later probe
                    of the same source port
  unmatched         answers that belong to no probe
  loss_percent      late, lost and refused together
  clock             what timed the answers: kernel (when it received them),
                    or user (when the program did)
  attribution       how answers were matched: content, port, or order (then
                    round trips are upper bounds); null without an answer
  rtt_ms            round trips in milliseconds: min, mean, max, stddev,
                    jitter, p50, p90, p99 and p99_9; null without an answer
  flows             null without --flows, else for each source port: port,
                    sent, lost (late, lost or refused), p50_ms

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
";

const SIGNALS: &str = "\
Signals:
  SIGINT (Ctrl+C), SIGTERM, SIGHUP
       Send no more probes, wait for the answers to those in flight, then
       print the summary. A second signal ends the wait.
  SIGQUIT (Ctrl+\\)
       Print the summary so far and continue; on the standard error with
       --json and --json-stream.
";

/// Pings the target and prints what was found.
pub fn run(args: &PingArgs) -> Result<(), Failure> {
    let options = Options {
        interval: args.interval,
        count: args.count,
        size: args.size,
        timeout: args.timeout,
        deadline: args.deadline,
        flows: args.flows.map(usize::from),
        family: args.family.into(),
        format: match args {
            PingArgs { json: true, .. } => Format::Json,
            PingArgs { json_stream: true, .. } => Format::JsonStream,
            PingArgs { quiet: true, .. } => Format::Summary,
            _ => Format::Text,
        },
        limits: args.limits.into(),
    };
    let shutdown = shutdown_with_report_on_signals()?;
    let mut out = io::stdout();
    let report = ping::ping(&args.target, &options, &shutdown, &mut out, &mut io::stderr())?;
    let json = matches!(options.format, Format::Json | Format::JsonStream);
    if !json {
        // Apart from the lines for probes. If it fails, so does what follows.
        let _ = writeln!(out);
    }
    print_report(&report, json)?;
    unless_forced(&shutdown, report.check(&options.limits))
}
