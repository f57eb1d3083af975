//! `ping`: sends one probe after the other on a schedule, and prints a line for each.

mod metrics;
mod output;
mod pinged;
mod record;
mod run;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::report::{PingReport, Terminal};
pub use super::report::{svg, table};
use super::stamp::StampOptions;
use super::target::{self, Family};
use super::{Error, notify};
use crate::client::probe::limits::Limits;
use crate::metrics as monitor;
use crate::net::{self, Egress};
use crate::reactor::shutdown::Shutdown;
use output::Output;
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
    /// The payload itself, instead of one of this size in which probes are numbered. Answers are then matched by source
    /// port.
    pub payload: Option<Vec<u8>>,
    /// Probes are packets of STAMP, in one session for each target: neither a payload nor flows can be chosen then.
    pub stamp: Option<StampOptions>,
    /// A probe without an answer after this time is lost, and an answer after it late.
    pub timeout: Duration,
    /// No probe is sent after this time.
    pub deadline: Option<Duration>,
    /// Over how many source ports the probes rotate, 1 to 1,024, and each of them is reported; `None` for as few as it
    /// takes to attribute answers.
    pub flows: Option<usize>,
    /// Which addresses of the target's name are used.
    pub family: Family,
    /// Where probes leave, and fields of their IP headers.
    pub egress: Egress,
    /// What is printed for each probe.
    pub format: Format,
    /// What the result must not exceed, for [`PingReport::check`].
    pub limits: Limits,
    /// What text is fitted to.
    pub terminal: Terminal,
    /// Whether the time stands before the line of each probe, in seconds since the Unix epoch.
    pub timestamps: bool,
    /// A terminal that notices are written to, on which a line shows how the run is doing.
    pub live: Option<Terminal>,
    /// The file of a log of the round trips.
    pub hdr: Option<PathBuf>,
    /// What watches the run.
    pub monitor: monitor::Options,
}

impl Default for Options {
    /// A probe of 56 bytes every second, without an end.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            count: None,
            size: 56,
            payload: None,
            stamp: None,
            timeout: Duration::from_secs(1),
            deadline: None,
            flows: None,
            family: Family::default(),
            egress: Egress::default(),
            format: Format::default(),
            limits: Limits::default(),
            terminal: Terminal::default(),
            timestamps: false,
            live: None,
            hdr: None,
            monitor: monitor::Options::default(),
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

/// Sends probes until the count, the deadline or `shutdown` is reached, then waits for those in flight unless
/// `shutdown` is forced; returns the summary, which it does not print.
///
/// What [`Options::format`] wants for each probe is written to `out`, notices to `errors`. The process's SIGQUIT is
/// made to print the report so far. If the target's name has several addresses and the port of one is closed, the next
/// one is tried as long as nothing was heard.
///
/// # Errors
///
/// Returns [`Error::Usage`] if the target is not an address, [`Error::Interrupted`] if its name was still being looked
/// up at the shutdown, and [`Error::Failed`] for any other failure. That no answer came is not an error here, but for
/// [`PingReport::check`].
pub fn ping(
    target: &str,
    options: &Options,
    shutdown: &Shutdown,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<PingReport, Error> {
    let targets = [target.to_owned()];
    let results = ping_all(&targets, options, shutdown, out, errors)?;
    results.into_iter().next().unwrap_or_else(|| Err(Error::Usage("there is no target".to_owned())))
}

/// Does the same for several targets at once; returns the summary of each, in the same order.
///
/// Probes are sent to each target at the interval, and the targets are spread over it. A target that cannot be looked
/// up or reached has an error instead of a summary, and the others are pinged.
///
/// # Errors
///
/// As [`ping`], for what concerns more than one of several targets.
pub fn ping_all(
    targets: &[String],
    options: &Options,
    shutdown: &Shutdown,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Vec<Result<PingReport, Error>>, Error> {
    check_stamp(options)?;
    net::expect_sockets(targets.len().saturating_mul(options.flows.unwrap_or(2)));
    let port = if options.stamp.is_some() { crate::stamp::PORT } else { target::DEFAULT_PORT };
    let mut reachable = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        let resolved = target::resolve_with_port(target, port, options.family, &options.egress, shutdown);
        failures.push(match resolved {
            Ok(addresses) => {
                reachable.push((&**target, addresses.into()));
                None
            }
            Err(Error::Failed(why)) if targets.len() > 1 => {
                notify(errors, &why);
                Some(Error::Failed(why))
            }
            Err(error) => return Err(error),
        });
    }
    let run = Run::new(reachable, options, shutdown, move |addresses: &[SocketAddr], start| {
        Output::new(options, addresses.iter().copied(), start, out, errors)
    })?;
    let mut reports = run.run()?.into_iter();
    Ok(failures
        .into_iter()
        .filter_map(|failure| failure.map_or_else(|| reports.next().map(Ok), |why| Some(Err(why))))
        .collect())
}

/// Checks that the other options go with those of STAMP.
fn check_stamp(options: &Options) -> Result<(), Error> {
    let Some(stamp) = &options.stamp else { return Ok(()) };
    if options.payload.is_some() || options.flows.is_some() {
        return Err(Error::Usage("STAMP has its own payload, and one source port for each target".to_owned()));
    }
    if !stamp.has_size(options.size) || options.size > net::LONGEST_PAYLOAD {
        let (base, more) = (stamp.base_size(), stamp.base_size() + if stamp.key.is_some() { 24 } else { 4 });
        let size = options.size;
        return Err(Error::Usage(format!("a STAMP packet has {base} bytes, or {more} and more, not {size}")));
    }
    Ok(())
}
