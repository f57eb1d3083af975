//! The load of a bench: clients in a closed loop, or a schedule over them in an open one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Client, Setup, Traffic};
use super::results::{Results, SHORTEST_SLICE};
use super::run::{Run, State, Task, Window};
use crate::client::Error;
use crate::client::probe::flows::MOST_FLOWS;
use crate::client::probe::outcome::OutcomeCounts;
use crate::client::probe::payload::Payload;
use crate::client::probe::timeline::{MOST_SLICES, Timeline};
use crate::client::probe::tracker::MOST_REMEMBERED;
use crate::client::report::{BenchReport, HdrLog};
use crate::client::status_signal::StatusSignal;
use crate::net::{Egress, IoBackend, ReceiveBatch};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Precision, Reactor};

/// About how many flows all clients may have together: half the files that a process may open by default.
const ALL_FLOWS: usize = 512;

/// What leaves, and what holds it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Closed loop: this many datagrams are in flight per client, and an answer lets the next one leave.
    InFlight(usize),
    /// Open loop: this many datagrams per second, all clients together, on a schedule, whatever comes back.
    Rate(u32),
}

/// The shape of the load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many clients.
    pub clients: usize,
    /// What leaves when.
    pub load: Load,
    /// The payload of a datagram, in bytes.
    pub size: usize,
    /// How many datagrams one send carries.
    pub segments: usize,
    /// A datagram without an answer after this time is lost, and an answer after it late.
    pub timeout: Duration,
}

impl Default for Shape {
    /// One datagram of 56 bytes in flight.
    fn default() -> Self {
        Self { clients: 1, load: Load::InFlight(1), size: 56, segments: 1, timeout: Duration::from_secs(1) }
    }
}

/// What happens during a run.
#[derive(Debug)]
pub enum Progress {
    /// It has been sending for some time, and datagrams were answered.
    Sending(Duration, u64),
    /// A report was asked for by a signal.
    Status(Box<BenchReport>),
    /// A shutdown was requested, and datagrams in flight are waited for at most this long.
    Waiting(Duration, usize),
}

/// Clients of one target, and the reactor that they run on.
#[derive(Debug)]
pub struct Generator {
    reactor: Reactor<Task>,
    state: State,
    /// For how long the last run was sending.
    window: Window,
}

impl Generator {
    /// Opens a socket for each client. `shutdown` ends a run.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the system refuses one of the sockets.
    pub fn new(target: SocketAddr, shape: Shape, shutdown: &Shutdown) -> Result<Self, Error> {
        Self::with_payload(target, shape, Payload::new(shape.size), &Egress::default(), shutdown)
    }

    /// Does the same for datagrams with a payload of the size in `shape`, which leave as `egress` says.
    pub(super) fn with_payload(
        target: SocketAddr,
        shape: Shape,
        payload: Payload,
        egress: &Egress,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let (window, io, received, precision) = match shape.load {
            // There is nothing to batch, and looking for a second answer can wait until the next datagram has left.
            Load::InFlight(1) => (1, IoBackend::Portable, ReceiveBatch::with_slots(1), Precision::Milliseconds),
            Load::InFlight(window) => (window, IoBackend::Auto, ReceiveBatch::new(), Precision::Milliseconds),
            Load::Rate(_) => (0, IoBackend::Auto, ReceiveBatch::new(), Precision::Exact),
        };
        let clients = shape.clients.max(1);
        let flows = (ALL_FLOWS / clients).clamp(2, MOST_FLOWS);
        let remembered = (MOST_REMEMBERED / clients).max(64);
        let setup = Setup { target, io, egress: egress.clone(), window, timeout: shape.timeout, flows, remembered };
        let open = |number: usize| {
            Client::new(setup.clone())
                .map_err(|error| Error::Failed(format!("cannot open client {number} of {}: {error}", shape.clients)))
        };
        let state = State {
            target,
            shape,
            clients: (1..=shape.clients).map(open).collect::<Result<_, Error>>()?,
            traffic: Traffic::new(target, payload, shape.segments, received),
            results: Results::new(),
            status: None,
        };
        let reactor = Reactor::with_precision(shutdown, precision)?;
        Ok(Self { reactor, state, window: Window::default() })
    }

    /// Makes SIGQUIT report [`Progress::Status`].
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the system refuses the handler.
    pub(super) fn watch_status(&mut self) -> Result<(), Error> {
        self.state.status = Some(StatusSignal::new()?);
        Ok(())
    }

    /// Limits how many datagrams the next run sends.
    pub(super) fn limit(&mut self, count: Option<u64>) {
        self.state.traffic.left = count;
    }

    /// Makes the next run record what a picture shows, and write a log.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the log cannot be written.
    pub(super) fn record(&mut self, plot: bool, hdr: Option<&Path>) -> Result<(), Error> {
        let now = Instant::now();
        let State { target, results, .. } = &mut self.state;
        results.timeline = plot.then(|| Timeline::new(now, SHORTEST_SLICE, MOST_SLICES));
        results.hdr = hdr.map(|path| HdrLog::create(path, vec![target.to_string()], now)).transpose()?;
        Ok(())
    }

    /// Writes the rest of the log.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the log cannot be written.
    pub(super) fn finish_log(&mut self) -> Result<(), Error> {
        self.state.results.hdr.take().map_or(Ok(()), |hdr| hdr.finish(Instant::now()))
    }

    /// Sends for `time`, then waits for what is in flight unless the shutdown is forced. Counts begin at zero.
    ///
    /// A shutdown ends the sending.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if polling failed or a socket became unusable.
    pub fn run(&mut self, time: Duration, progress: impl FnMut(Progress)) -> Result<(), Error> {
        let Self { reactor, state, window } = self;
        let start = Instant::now();
        state.results.start_over(start);
        state.clients.iter_mut().for_each(|client| client.start_over(start));
        *window = Window::default();
        if time.is_zero() || reactor.shutdown().is_requested() || state.results.nobody_listens() {
            return Ok(());
        }
        let mut run = Run::new(state, start, time, progress);
        let result = run.insert_tasks(reactor).and_then(|()| reactor.run(&mut run));
        run.remove_tasks(reactor);
        *window = run.window();
        result
    }

    /// Returns how the datagrams of the last run ended.
    pub fn counts(&self) -> OutcomeCounts {
        self.state.counts()
    }

    /// Returns what was measured in the last run.
    pub fn report(&self) -> BenchReport {
        self.state.report(self.window)
    }

    /// Returns whether the only thing that ever came back is that the port is closed.
    pub(super) fn nobody_listens(&self) -> bool {
        self.state.results.nobody_listens()
    }
}
