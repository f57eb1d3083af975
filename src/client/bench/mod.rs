//! `bench`: loads a responder and reports what was measured.

mod client;
mod generator;
mod results;
mod run;

pub use generator::{Generator, Load, Progress, Shape};

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::probe::limits::Limits;
use super::probe::payload::Payload;
use super::report::{BenchReport, Terminal};
use super::target::{self, Family};
use super::{Error, notify, wait_notice};
use crate::net::{Egress, LONGEST_PAYLOAD};
use crate::reactor::shutdown::Shutdown;

/// What is sent, for how long, and how the result is printed.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is sent, and how much of it.
    pub shape: Shape,
    /// The payload of every datagram, instead of one of the size in the shape in which datagrams are numbered. Answers
    /// are then matched by source port.
    pub payload: Option<Vec<u8>>,
    /// How long to measure; `None` for no limit.
    pub time: Option<Duration>,
    /// How many datagrams to send in all; `None` for no limit.
    pub count: Option<u64>,
    /// How long to send before measuring.
    pub warm_up: Duration,
    /// Which addresses of the target's name are used.
    pub family: Family,
    /// Where datagrams leave, and fields of their IP headers.
    pub egress: Egress,
    /// Whether the report is printed as a JSON object.
    pub json: bool,
    /// What the result must not exceed, for [`BenchReport::check`].
    pub limits: Limits,
    /// Whether progress is not drawn.
    pub quiet: bool,
    /// What text is fitted to.
    pub terminal: Terminal,
    /// Whether the report can draw the latencies over time.
    pub plot: bool,
    /// The file of a log of the latencies.
    pub hdr: Option<PathBuf>,
}

impl Default for Options {
    /// The [default load](Shape::default) for five seconds.
    fn default() -> Self {
        Self {
            shape: Shape::default(),
            payload: None,
            time: Some(Duration::from_secs(5)),
            count: None,
            warm_up: Duration::ZERO,
            family: Family::default(),
            egress: Egress::default(),
            json: false,
            limits: Limits::default(),
            quiet: false,
            terminal: Terminal::default(),
            plot: false,
            hdr: None,
        }
    }
}

/// Measures until the time is over or a shutdown is requested; returns the report, which it does not print.
///
/// The process's SIGQUIT is made to print the report so far: to `out` or, if that is for JSON only, to `errors`, to
/// which notices go too. Progress is drawn on stderr if it is a terminal. If the target's name has several addresses
/// and the port of one is closed, the next one is tried as long as nothing was heard.
///
/// # Errors
///
/// Returns [`Error::Usage`] if the options contradict each other or the target is not an address,
/// [`Error::Interrupted`] if its name was still being looked up at the shutdown, and [`Error::Failed`] for any other
/// failure. That no answer came is not an error here, but for [`BenchReport::check`].
pub fn bench(
    target: &str,
    options: &Options,
    shutdown: &Shutdown,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<BenchReport, Error> {
    let size = options.payload.as_ref().map_or(options.shape.size, Vec::len);
    let shape = Shape { size, ..options.shape };
    check(&shape)?;
    let payload = || options.payload.clone().map_or_else(|| Payload::new(size), Payload::exact);
    let addresses = target::resolve(target, options.family, &options.egress, shutdown)?;
    for (place, address) in addresses.iter().enumerate() {
        let mut generator = Generator::with_payload(*address, shape, payload(), &options.egress, shutdown)?;
        generator.watch_status()?;
        measure(&mut generator, options, shutdown, out, errors)?;
        match addresses.get(place + 1) {
            Some(next) if generator.nobody_listens() && !shutdown.is_requested() => {
                notify(errors, &format_args!("nobody listens on {address} (port unreachable); trying {next}"));
            }
            _ => return Ok(generator.report()),
        }
    }
    Err(Error::Failed(format!("{target:?} has no address")))
}

/// Warms up and measures. The results are those of the warm-up if it was stopped.
fn measure(
    generator: &mut Generator,
    options: &Options,
    shutdown: &Shutdown,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Error> {
    if !options.warm_up.is_zero() {
        run(generator, "warming up", Some(options.warm_up), options, out, errors)?;
        if shutdown.is_requested() {
            notify(errors, &"stopped during the warm-up, which the report is about");
            return Ok(());
        }
        if generator.nobody_listens() {
            return Ok(());
        }
    }
    generator.limit(options.count);
    generator.record(options.plot, options.hdr.as_deref())?;
    run(generator, "measuring", options.time, options, out, errors)?;
    generator.finish_log()
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
fn run(
    generator: &mut Generator,
    what: &'static str,
    time: Option<Duration>,
    options: &Options,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Error> {
    let length = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let target = if options.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(length, target);
    if let Ok(style) =
        ProgressStyle::with_template(if time.is_some() { "{prefix} {wide_bar} {msg}" } else { "{prefix} {msg}" })
    {
        let unicode = Terminal::of_stderr().is_some_and(|terminal| terminal.unicode);
        bar.set_style(style.progress_chars(if unicode { "█░" } else { "#-" }));
    }
    bar.set_prefix(what);
    let result = generator.run(time.unwrap_or(Duration::MAX), |progress| match progress {
        Progress::Sending(time, answers) if !bar.is_hidden() => {
            bar.set_message(format!("{:.0} answers/s", answers as f64 / time.as_secs_f64().max(0.001)));
            bar.set_position(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        }
        Progress::Sending(..) => {}
        Progress::Status(report) => bar.suspend(|| {
            let text = report.text(options.terminal);
            // A reader that has gone is found when the report at the end is printed.
            let _ =
                if options.json { write!(errors, "{text}") } else { write!(out, "{text}").and_then(|()| out.flush()) };
        }),
        Progress::Waiting(left, 1) => bar.suspend(|| notify(errors, &wait_notice(left, "1 datagram"))),
        Progress::Waiting(left, datagrams) => {
            bar.suspend(|| notify(errors, &wait_notice(left, &format!("{datagrams} datagrams"))));
        }
    });
    bar.finish_and_clear();
    result
}
