//! `udpong report`: one report from the results of several runs.

use std::path::PathBuf;

use clap::Args;
use udpong::client::{Merge, Terminal};

use super::units::{FILE_OR_STDOUT, output_file};
use super::{Failure, PlotFile, TEMPLATE, about_file, check_merged_once, json, print, print_error, read};

/// Merge the results of ping and bench, from one host or many.
///
/// A file is an HdrHistogram log (--hdr of ping and bench, or from another program that logs nanoseconds), or
/// what --json or --json-stream printed. Counts are summed for each target. Percentiles come from merged histograms, so
/// they need logs or --json-stream: the percentiles of two runs do not give that of both.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES, after_long_help = format!("{JSON}\n{EXIT_STATUS}"))]
pub struct ReportArgs {
    /// Logs and JSON; - is the standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Print the report as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Draw the distribution of the round trips, as SVG
    #[arg(long, value_name = "FILE", value_parser = output_file(FILE_OR_STDOUT))]
    #[arg(help_heading = "Output")]
    plot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  udpong report one.hdr two.hdr       two generators, one table
  udpong report *.hdr *.json          with what was sent and lost
  udpong report *.hdr --plot all.svg  a picture for a browser
";

const JSON: &str = "\
JSON:
  schema   version of this format: 1
  targets  one object per target, with these fields:
    target   its address, or the file of a log without tags
    count    round trips that rtt_ms describes
    sent     probes sent
    lost     probes without an answer in time: late, lost and refused
    rtt_ms   round trips in milliseconds: min, mean, max, stddev, p50, p90,
             p99 and p99_9

What the files do not contain is null: a log does not count what was sent,
and several JSON reports without a log do not give percentiles.
";

const EXIT_STATUS: &str = "\
Exit status:
  0    success
  2    usage error, or a file could not be read, merged or written
  141  the reader of the standard output is gone
";

/// Reads the files and prints what they give together.
pub fn run(args: &ReportArgs) -> Result<(), Failure> {
    check_merged_once(&args.files, args.plot.as_deref())?;
    let mut merge = Merge::default();
    for file in &args.files {
        let content = read(file, u64::MAX)?;
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        merge.add(&name, &content).map_err(|why| about_file(file, &why))?;
    }
    let report = merge.report();
    if let (Some(plot), false) = (&args.plot, report.has_histogram()) {
        return Err(about_file(plot, &"there is nothing to draw: give logs, written with --hdr"));
    }
    let plot = args.plot.as_deref().map(PlotFile::open).transpose()?;
    let printed = print(&if args.json { json(&report)? } else { report.text(Terminal::of_stdout()) });
    if let Some(plot) = plot {
        plot.write(&report.svg()?)?;
    }
    printed?;
    report.warnings().iter().for_each(|warning| print_error(warning));
    Ok(())
}
