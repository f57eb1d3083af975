//! `bench`: loads a responder and reports what was measured.

pub(crate) mod client;
pub(crate) mod generator;

pub use generator::{Generator, Load, Shape};

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::probe::limits::Limits;
use super::report::{BenchReport, Measurement, Terminal};
use super::target::{self, Family};
use super::{Error, cannot_write, print_json};
use crate::net::LONGEST_PAYLOAD;
use crate::reactor::shutdown::Shutdown;

/// What is sent, for how long, and how the result is printed.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is sent, and how much of it.
    pub shape: Shape,
    /// How long to measure.
    pub time: Duration,
    /// How long to send before measuring.
    pub warm_up: Duration,
    /// Which addresses of the target's name are used.
    pub family: Family,
    /// Whether the report is a JSON object.
    pub json: bool,
    /// What the result must not exceed.
    pub limits: Limits,
}

/// A load, ready to be run.
#[derive(Debug)]
pub struct Bench {
    address: SocketAddr,
    options: Options,
    generator: Generator,
}

impl Bench {
    /// Finds the target and opens a socket for each client; `shutdown` ends the measurement early.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Usage`] if the options contradict each other or the target is not an address; [`Error::Failed`] for
    /// any other failure.
    pub fn new(target: &str, options: Options, shutdown: &Shutdown) -> Result<Self, Error> {
        check(&options.shape)?;
        let address = target::resolve(target, options.family)?;
        let generator = Generator::new(address, options.shape, shutdown)?;
        Ok(Self { address, options, generator })
    }

    /// Measures until the time is over or a shutdown is requested, and prints the report. Progress goes to stderr.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unmet`] if there was no answer or a limit is exceeded, [`Error::Failed`] for any other failure.
    pub fn run(&mut self, out: &mut dyn Write, errors: &mut dyn Write) -> Result<(), Error> {
        let Self { address, options, generator } = self;
        if !options.warm_up.is_zero() {
            run(generator, "warming up", options.warm_up)?;
        }
        let time = if generator.is_over() { Duration::ZERO } else { options.time };
        let time = run(generator, "measuring", time)?;
        let report = BenchReport::new(*address, &measured(&options.shape, time, generator));
        let nobody_listens = generator.nobody_listens();
        if options.json {
            print_json(out, &report)?;
        } else if !nobody_listens {
            write!(out, "{report}").and_then(|()| out.flush()).map_err(cannot_write)?;
        }
        if nobody_listens {
            return Err(Error::Unmet(format!("nobody listens on {address} (port unreachable)")));
        }
        if let Some(error) = &generator.results().error {
            let _ = writeln!(errors, "udpong: some datagrams met an error: {error}");
        }
        if let Some(warning) = report.generator_warning() {
            let _ = writeln!(errors, "udpong: {warning}");
        }
        report.check(&options.limits)
    }
}

fn measured<'a>(shape: &Shape, time: Duration, generator: &'a Generator) -> Measurement<'a> {
    let (counts, results) = (generator.counts(), generator.results());
    let rate = match shape.load {
        Load::Rate(rate) => rate,
        Load::InFlight(_) => 0,
    };
    Measurement {
        time,
        clients: shape.clients,
        counts,
        sent_bytes: counts.sent * shape.size as u64,
        answered_bytes: results.received_bytes,
        latencies: &results.latencies,
        lateness: (rate > 0).then_some(&results.lateness),
        rate,
    }
}

fn check(shape: &Shape) -> Result<(), Error> {
    let Shape { load, size, segments, .. } = *shape;
    if segments > 1 && (size == 0 || size * segments > LONGEST_PAYLOAD) {
        return Err(Error::Usage(format!(
            "one send carries 1 to {LONGEST_PAYLOAD} bytes: {segments} datagrams of {size} bytes do not fit"
        )));
    }
    match load {
        Load::InFlight(window) if window < segments => Err(Error::Usage(format!(
            "{segments} datagrams a send need as many in flight: write --in-flight {segments} or more"
        ))),
        _ => Ok(()),
    }
}

/// Runs the load with a progress bar, which is drawn on a terminal only.
fn run(generator: &mut Generator, what: &'static str, time: Duration) -> Result<Duration, Error> {
    let length = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
        let unicode = Terminal::of_stderr().is_some_and(|terminal| terminal.unicode);
        bar.set_style(style.progress_chars(if unicode { "█░" } else { "#-" }));
    }
    bar.set_prefix(what);
    let result = generator.run(time, |sent_for, answers| {
        if !bar.is_hidden() {
            bar.set_message(format!("{:.0} answers/s", answers as f64 / sent_for.as_secs_f64().max(0.001)));
            bar.set_position(u64::try_from(sent_for.as_millis()).unwrap_or(u64::MAX));
        }
    });
    bar.finish_and_clear();
    result
}
