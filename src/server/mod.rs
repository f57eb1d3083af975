//! The responder: binds services, runs one worker per thread, and adds up what became of the datagrams.
//!
//! | file | responsibility |
//! |---|---|
//! | [`endpoint`] | a socket with its service: what a turn does |
//! | [`mod@worker`] | a reactor with its endpoints, in one thread |
//! | `service`, `bind` | what can be served, and where it listens |
//! | [`reply`] | reply templates; pure |
//! | `replies` | lists of replies: what is made, sent and left over in a turn; pure |
//! | [`reply_queue`] | replies that wait for their socket; pure |
//! | `stamp` | the replies of the service `stamp` |
//! | [`statistics`], `statistics_log`, `metrics` | the counts of an endpoint: in the report, in the log, for Prometheus |
//! | `board` | the statistics that workers leave for the monitor |

mod bind;
mod board;
pub(crate) mod endpoint;
mod metrics;
mod replies;
pub(crate) mod reply;
pub(crate) mod reply_queue;
mod service;
#[cfg_attr(not(feature = "stamp"), path = "no_stamp.rs")]
mod stamp;
pub(crate) mod statistics;
mod statistics_log;
pub(crate) mod worker;

#[cfg(test)]
mod simulation;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use log::{info, warn};

pub use crate::counts::CountsByName;
pub use crate::guard::Network;
pub use crate::net::IoBackend;
pub use crate::parse_error::ParseError;
pub use reply::ReplyTemplate;
pub use service::Service;
pub use statistics::{EndpointReport, Report, Statistics};

use crate::guard::Guard;
use crate::impair::{self, Generator, Impairments, Link, Seed};
use crate::metrics::{Monitor, Options as MonitorOptions};
use crate::net::{BrokenSocket, ReceiveBatch, SendBatch, Socket, UdpErrors};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Precision, Reactor};
use crate::service_manager::InheritedSocket;
use bind::Bound;
use board::Board;
use endpoint::{Endpoint, Resources};
use reply_queue::Share;
use statistics::sum_of_workers;
use statistics_log::StatisticsLog;
use worker::{Plan, Worker, WorkerThread};

/// How a server behaves, apart from what it serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's receive buffer of each socket, in bytes. `None`, the default, asks for 4 MiB and takes less without
    /// a warning.
    pub receive_buffer: Option<usize>,
    /// The kernel's send buffer of each socket, in bytes. `None`, the default, as above.
    pub send_buffer: Option<usize>,
    /// Stop after this time. Default: `None`, never.
    pub run_for: Option<Duration>,
    /// Stop once all services together have received this many datagrams. What has arrived by then is answered too, so
    /// the report may show more. Default: `None`, never.
    pub count: Option<u64>,
    /// Log the statistics, with rates, this often. Default: `None`, never.
    pub stats: Option<Duration>,
    /// How long answering and sending may take after a stop was requested. Default: 500 ms.
    pub grace: Duration,
    /// At most this many replies, or 1,500 times as many bytes of reply packets, per second to a source: an IPv4
    /// address, an IPv6 /64 or a link-local host, other than loopback; 0 for no limit. Default: 1,000.
    pub rate_limit: u32,
    /// Answer every source that can be answered: those whose port belongs to a service, requests that are much shorter
    /// than their reply or belong to a loop, and any number of them. Default: `false`.
    pub no_guard: bool,
    /// Exempt these address ranges from the rules about long replies, the rate and loops: a proxy, for instance, behind
    /// which all clients have one address. Default: none.
    pub trust: Vec<Network>,
    /// How datagrams move. Default: [`IoBackend::Auto`].
    pub io: IoBackend,
    /// How many workers share the load, each with a thread and sockets of its own. With more than one, the system
    /// spreads the peers over them (`SO_REUSEPORT`), and does not refuse a second server on the same port. Default: 1.
    pub workers: NonZeroUsize,
    /// How long a worker polls without sleeping after there was something to do, which shortens round trips and uses up
    /// a processor. Default: zero.
    pub spin: Duration,
    /// What watches the server. Default: nothing, at no cost.
    pub monitor: MonitorOptions,
    /// What happens to replies on purpose. Default: `None`, nothing, at no cost.
    pub impairments: Option<Impairments>,
    /// How the service `stamp` reflects. Default: the open mode, stateful.
    #[cfg(feature = "stamp")]
    pub stamp: crate::stamp::ReflectorOptions,
    /// What all impairments follow from. Default: `None`, another one each time.
    pub seed: Option<Seed>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            receive_buffer: None,
            send_buffer: None,
            run_for: None,
            count: None,
            stats: None,
            grace: Duration::from_millis(500),
            rate_limit: 1_000,
            no_guard: false,
            trust: Vec::new(),
            io: IoBackend::Auto,
            workers: NonZeroUsize::MIN,
            spin: Duration::ZERO,
            monitor: MonitorOptions::default(),
            impairments: None,
            #[cfg(feature = "stamp")]
            stamp: crate::stamp::ReflectorOptions::default(),
            seed: None,
        }
    }
}

/// Why a server did not start, or stopped. Displayed as one line, with a remedy where there is one.
#[derive(Debug)]
pub enum Error {
    /// Two services claim one address.
    Conflict(String),
    /// Two options do not work together.
    Usage(String),
    /// The host of a service has no address.
    LookUp(String),
    /// The system refuses a socket on an address.
    Listen(String),
    /// The event loop could not be created.
    Start(io::Error),
    /// The event loop cannot wait for events.
    Poll(io::Error),
    /// A socket became unusable.
    Socket(BrokenSocket),
    /// A worker's thread could not be started, or panicked.
    Worker(String),
    /// Metrics cannot be served or written.
    Monitor(String),
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(message)
            | Self::Usage(message)
            | Self::LookUp(message)
            | Self::Listen(message)
            | Self::Worker(message)
            | Self::Monitor(message) => f.write_str(message),
            Self::Start(error) => write!(f, "cannot start the event loop: {error}"),
            Self::Poll(error) => write!(f, "cannot poll: {error}"),
            Self::Socket(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Services that listen, and the workers that will serve them.
#[derive(Debug)]
pub struct Server {
    /// Each with the same endpoints in the same order.
    workers: Vec<Worker>,
    /// Those of all workers but the first, which runs in the thread of the caller.
    threads: Vec<WorkerThread>,
    options: Options,
    addresses: Vec<SocketAddr>,
    started: Instant,
    errors_before: Option<UdpErrors>,
    /// What the workers leave for the monitor, which the first of them has.
    board: Option<Board>,
}

impl Server {
    /// Binds every service to every address of its host, or none at all. `shutdown` stops the server.
    ///
    /// Looking up a host name blocks. The threads of the workers are started before a socket is bound: a socket without
    /// a worker would swallow the datagrams of its peers.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Usage`], [`Error::Conflict`], [`Error::LookUp`], [`Error::Worker`], [`Error::Monitor`],
    /// [`Error::Listen`] or [`Error::Start`].
    pub fn bind(services: &[Service], options: Options, shutdown: Shutdown) -> Result<Self, Error> {
        Self::bind_or_inherit(services, Vec::new(), options, shutdown)
    }

    /// As [`bind`](Self::bind), with sockets that the service manager has bound for some of the services.
    ///
    /// A socket is for the service that names it, as in `echo@fd:FDNAME`, or whose name it has and that names no
    /// address. Sockets without a name are for the only service. They need a single worker.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind); [`Error::Usage`] if no service takes a socket, or a service lacks its own.
    pub fn bind_or_inherit(
        services: &[Service],
        inherited: Vec<InheritedSocket>,
        mut options: Options,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        check_impairments(&mut options)?;
        let mut inherited = bind::inherit(services, inherited, &options)?;
        let is_inherited = |service: &Service| inherited.iter().any(|(other, ..)| std::ptr::eq(*other, service));
        let places = bind::places(services.iter().filter(|service| !is_inherited(service)), &shutdown)?;
        let errors_before = UdpErrors::read();
        let threads = (1..options.workers.get()).map(WorkerThread::start).collect::<Result<_, _>>()?;
        let monitor = Monitor::open(&options.monitor, options.stats, &shutdown).map_err(Error::Monitor)?;
        inherited.extend(bind::bind_all(&places, &options)?);
        inherited.sort_by_key(|(service, ..)| services.iter().position(|other| std::ptr::eq(other, *service)));
        let mut sockets = vec![inherited];
        let bound: Vec<_> = sockets[0].iter().map(|(service, address, _)| (*service, vec![*address])).collect();
        for _ in 1..options.workers.get() {
            sockets.push(bind::bind_all(&bound, &options)?);
        }
        let addresses: Vec<_> = sockets[0].iter().map(|(_, address, _)| *address).collect();
        let guard = if options.no_guard {
            Guard::disabled()
        } else {
            Guard::new(addresses.iter().map(SocketAddr::port).collect(), options.rate_limit, Instant::now())
                .trusting(options.trust.clone())
        };
        let share = Share::of(sockets.iter().map(Vec::len).sum());
        let worker = |(number, sockets)| {
            let received = ReceiveBatch::new().with_limit(share.receive_limit());
            let guard = guard.of_worker(number);
            let resources = Resources { received, replies: SendBatch::default(), guard, share };
            worker(sockets, &options, &shutdown, resources, services.len() > 1)
        };
        let workers = (0..).zip(sockets).map(worker);
        let mut workers = workers.collect::<io::Result<Vec<_>>>().map_err(Error::Start)?;
        let board = watch(monitor, &mut workers)?;
        for (service, addresses) in &bound {
            addresses.iter().for_each(|address| info!("Server is listening on {address} ({})", service.name()));
        }
        if let (Some(impairments), Some(seed)) = (&options.impairments, options.seed) {
            info!("Impairing replies: {impairments} (seed {seed})");
        }
        Ok(Self { workers, threads, options, addresses, started: Instant::now(), errors_before, board })
    }

    /// Returns the addresses that it listens on, in the order of the services, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until a stop is requested, through [`Shutdown`] or by the options; then answers what has already arrived
    /// and sends what waits, for [`Options::grace`] at most. Returns what became of the datagrams, also after an error.
    ///
    /// Lines about single datagrams are logged if the logger takes them at the start.
    ///
    /// # Errors
    ///
    /// The result is an error if polling failed, a socket became unusable, or a worker panicked, whose part of the
    /// report is lost then. Whatever ends one worker stops all of them: its peers would stay unanswered.
    pub fn run(self) -> (Report, Result<(), Error>) {
        let Self { workers, threads, options, started, errors_before, board, .. } = self;
        let plan = Arc::new(Plan {
            until: options.run_for.and_then(|time| started.checked_add(time)),
            count: options.count,
            received: AtomicU64::new(0),
            stats: options.stats.map(|interval| StatisticsLog::new(interval, workers.len(), Instant::now())),
            grace: options.grace,
            board,
        });
        let mut workers = workers.into_iter();
        let first = workers.next();
        threads.iter().zip(workers).for_each(|(thread, worker)| thread.run(worker, &plan));
        let (first, monitor) = first.map(|worker| worker.run(0, &plan)).unzip();
        let finished = first.into_iter().chain(threads.into_iter().map(WorkerThread::wait));
        let (reports, results): (Vec<_>, Vec<_>) = finished.unzip();
        let errors = UdpErrors::read().zip(errors_before).map(|(after, before)| after.since(before));
        let report = Report {
            schema: 1,
            seconds: started.elapsed().as_millis() as f64 / 1000.0,
            seed: options.seed.map(Seed::get),
            rcvbuf_errors: errors.map(|errors| errors.rcvbuf_errors),
            in_csum_errors: errors.map(|errors| errors.in_csum_errors),
            endpoints: sum_of_workers(reports),
        };
        finish(monitor.flatten(), &report);
        (report, results.into_iter().collect())
    }
}

/// Begins to watch the workers, if there is a monitor.
fn watch(monitor: Option<Monitor>, workers: &mut [Worker]) -> Result<Option<Board>, Error> {
    /// How old the statistics of other workers may be that a monitor shows.
    const INTERVAL: Duration = Duration::from_secs(1);
    let (Some(mut monitor), now) = (monitor, Instant::now()) else { return Ok(None) };
    let interval = monitor.watchdog_period().map_or(INTERVAL, |period| period.min(INTERVAL));
    let board = (workers.len() > 1).then(|| Board::new(interval, workers.iter().map(Worker::reports), now));
    let [first, ..] = workers else { return Ok(None) };
    monitor.notice().iter().for_each(|notice| info!("{notice}"));
    monitor.begin(&first.observation(board.as_ref()), now).map_err(Error::Monitor)?;
    first.set_monitor(monitor);
    Ok(board)
}

/// Writes the last metrics, if there is a monitor.
fn finish(monitor: Option<Monitor>, report: &Report) {
    if let Some(mut monitor) = monitor
        && let Err(error) = monitor.finish(&metrics::metrics(&report.endpoints, true))
    {
        warn!("{error}");
    }
}

/// Checks the impairments, and leaves a seed in the options if there are any.
fn check_impairments(options: &mut Options) -> Result<(), Error> {
    let Some(impairments) = &options.impairments else {
        options.seed = None;
        return Ok(());
    };
    impairments.check().map_err(|error| Error::Usage(error.to_string()))?;
    if options.workers != NonZeroUsize::MIN {
        // The system decides which worker receives a datagram, and each has random numbers of its own.
        return Err(Error::Usage(
            "impairments need a single worker: with several, a seed reproduces nothing".to_owned(),
        ));
    }
    options.seed.get_or_insert_with(Seed::random);
    Ok(())
}

/// Puts the sockets of one worker on a reactor.
fn worker(
    sockets: Vec<Bound<'_>>,
    options: &Options,
    shutdown: &Shutdown,
    resources: Resources,
    has_several_services: bool,
) -> io::Result<Worker> {
    // Delays should end on time, which is worth a system call for each.
    let precision = if options.impairments.is_some() { Precision::Exact } else { Precision::Milliseconds };
    let mut reactor = Reactor::with_precision(shutdown, precision)?;
    reactor.set_spin(options.spin);
    let max_bytes = impair::MAX_BYTES / sockets.len().max(1);
    let link = |number| {
        let impaired = options.impairments.clone().zip(options.seed);
        impaired.map(|(what, seed)| Link::new(what, Generator::new(seed, number), max_bytes, Instant::now()))
    };
    #[cfg_attr(not(feature = "stamp"), allow(unused_mut, reason = "only one of its services changes a socket"))]
    let endpoint = |(number, (service, address, mut socket)): (usize, Bound<'_>)| {
        #[cfg(feature = "stamp")]
        let stamp = service.is_stamp().then(|| {
            stamp::StampService::prepare(&mut socket);
            stamp::StampService::new(options.stamp.clone(), Instant::now())
        });
        #[cfg(not(feature = "stamp"))]
        let stamp = None;
        let endpoint = Endpoint::new(socket, address, service.name(), service.template().cloned()).with_stamp(stamp);
        let endpoint = endpoint.with_link(link(number));
        if has_several_services { endpoint.named_in_log() } else { endpoint }
    };
    let endpoints = sockets.into_iter().enumerate().map(endpoint).collect();
    Ok(Worker::new(reactor, endpoints, resources))
}

impl Endpoint<Socket> {
    /// Returns what the kernel's receive buffer holds at most, in bytes as the kernel charges them.
    fn receive_buffer(&self) -> usize {
        self.socket().receive_buffer().unwrap_or(bind::DEFAULT_BUFFER)
    }

    fn report(&self) -> EndpointReport {
        EndpointReport {
            service: self.service(),
            address: self.address(),
            statistics: self.statistics(),
            kernel_dropped: self.socket().kernel_drops(),
        }
    }

    /// Names the endpoint whose socket became unusable.
    fn unusable(&self, error: io::Error) -> Error {
        Error::Socket(BrokenSocket::new(format!("{} on {}", self.service(), self.address()), error))
    }
}
