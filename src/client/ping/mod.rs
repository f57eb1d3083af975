//! `ping`: sends one probe after the other on a schedule, and prints a line for each.

mod record;
mod run;

use std::io::Write;
use std::time::Duration;

use super::report::PingReport;
use super::status_signal::StatusSignal;
use super::target::{self, Family};
use super::{Error, notify};
use crate::client::probe::limits::Limits;
use crate::reactor::shutdown::Shutdown;
use record::Record;
use run::Run;

/// What is sent, how often, and what is printed meanwhile.
#[derive(Clone, Debug)]
pub struct Options {
    /// From one probe to the next.
    pub interval: Duration,
    /// How many probes; `None` for no limit.
    pub count: Option<u64>,
    /// The payload of a probe, in bytes.
    pub size: usize,
    /// A probe without an answer after this time is lost, and an answer after it late.
    pub timeout: Duration,
    /// No probe is sent after this time.
    pub deadline: Option<Duration>,
    /// Over how many source ports the probes rotate, 1 to 1,024, and each of them is reported; `None` for as few as it takes
    /// to attribute answers.
    pub flows: Option<usize>,
    /// Which addresses of the target's name are used.
    pub family: Family,
    /// What is printed for each probe.
    pub format: Format,
    /// What the result must not exceed, for [`PingReport::check`].
    pub limits: Limits,
}

impl Default for Options {
    /// A probe of 56 bytes every second, without an end.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            count: None,
            size: 56,
            timeout: Duration::from_secs(1),
            deadline: None,
            flows: None,
            family: Family::default(),
            format: Format::default(),
            limits: Limits::default(),
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line per probe, and a summary.
    Text,
    /// The summary only.
    #[default]
    Summary,
    /// The summary as a JSON object.
    Json,
    /// A JSON object per probe, and one for the summary.
    JsonStream,
}

/// Sends probes until the count, the deadline or `shutdown` is reached, then waits for those in flight unless `shutdown` is
/// forced; returns the summary, which it does not print.
///
/// What [`Options::format`] wants for each probe is written to `out`, notices to `errors`. The process's SIGQUIT is made to
/// print the report so far. If the target's name has several addresses and the port of one is closed, the next one is tried
/// as long as nothing was heard.
///
/// # Errors
///
/// Returns [`Error::Usage`] if the target is not an address, [`Error::Interrupted`] if its name was still being looked up
/// at the shutdown, and [`Error::Failed`] for any other failure. That no answer came is not an error here, but for
/// [`PingReport::check`].
pub fn ping(
    target: &str,
    options: &Options,
    shutdown: &Shutdown,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<PingReport, Error> {
    let addresses = target::resolve(target, options.family, shutdown)?;
    let mut status = StatusSignal::new()?;
    let (last, others) = addresses.split_last().ok_or_else(|| Error::Failed(format!("{target:?} has no address")))?;
    for (address, next) in others.iter().zip(addresses.iter().skip(1)) {
        let mut record = Record::new(*address, options, out, errors);
        record.begin(target)?;
        record.expect_refusal();
        let record = Run::new(record, options, &mut status, shutdown)?.run()?;
        if !record.is_refused() {
            return Ok(record.into_report());
        }
        notify(errors, &format_args!("nobody listens on {address} (port unreachable); trying {next}"));
    }
    let mut record = Record::new(*last, options, out, errors);
    record.begin(target)?;
    Ok(Run::new(record, options, &mut status, shutdown)?.run()?.into_report())
}
