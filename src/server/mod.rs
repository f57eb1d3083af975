//! The responder: binds the services, runs one loop a worker, adds up the tallies.

pub(crate) mod endpoint;
pub(crate) mod event_loop;
pub(crate) mod reply;
pub(crate) mod reply_queue;
mod service;
pub(crate) mod statistics;
mod stats;

#[cfg(test)]
mod simulation;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, log};

pub use crate::net::IoBackend;
pub use endpoint::DATAGRAM_LOG;
pub use reply::{ReplyTemplate, TemplateError};
pub use service::{Service, ServiceError};
pub use statistics::{Counts, EndpointReport, Report, Statistics};

use crate::guard::Guard;
use crate::net::{BufferSizes, PortSharing, Socket, bind};
use crate::reactor::shutdown::Shutdown;
use endpoint::Endpoint;
use event_loop::{EventLoop, Schedule};
use statistics::add_up;
use stats::Stats;

/// How a server behaves, apart from what it serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's receive buffer for each socket, in bytes; `None` asks for 4 MiB and takes less without a warning.
    pub receive_buffer: Option<usize>,
    /// The kernel's send buffer for each socket, in bytes; `None` as above.
    pub send_buffer: Option<usize>,
    /// Stop after this time.
    pub run_for: Option<Duration>,
    /// Stop once so many datagrams were received, by all services together. What has arrived by then is
    /// answered too, so the report may show more.
    pub count: Option<u64>,
    /// Log the statistics, with rates, this often.
    pub stats: Option<Duration>,
    /// How long answering and flushing may take after a stop was asked for.
    pub grace: Duration,
    /// How many replies a second an IPv4 address or an IPv6 /64 is given, other than loopback; 0 for any number.
    pub rate_limit: u32,
    /// Whether everybody is answered who can be: sources whose port belongs to a service, ours or a well-known one,
    /// questions that are much shorter than their answer, and any number of them.
    pub no_guard: bool,
    /// Which datapath moves the datagrams.
    pub io: IoBackend,
    /// How many loops share the work, each in a thread and with sockets of its own. With more than one, peers are
    /// spread over them by `SO_REUSEPORT`, and a second server on the same port is not refused.
    pub workers: NonZeroUsize,
    /// How long a loop goes on polling after there was something to do. It answers sooner then, and uses up a core.
    pub spin: Duration,
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
            io: IoBackend::Auto,
            workers: NonZeroUsize::MIN,
            spin: Duration::ZERO,
        }
    }
}

/// The size of both kernel buffers when none is asked for, in bytes: as much as Linux holds for about 5,000
/// small datagrams, or 25 ms of a flood.
const DEFAULT_BUFFER: usize = 4 << 20;

/// Why a server did not start, or stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It was asked for something that cannot be.
    Usage(String),
    /// The system would not.
    Failed(String),
}

impl Error {
    pub(crate) fn failed(message: String) -> Self {
        Self::Failed(message)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

/// Services that listen, and the loops that will serve them.
#[derive(Debug)]
pub struct Server {
    /// One a worker, each with the same endpoints in the same order.
    loops: Vec<EventLoop>,
    options: Options,
    addresses: Vec<SocketAddr>,
    shutdown: Shutdown,
    started: Instant,
}

impl Server {
    /// Binds every service to every address of its host, or none at all. A stop can be asked for by `shutdown`.
    ///
    /// Looking up a host name blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when two services claim one address, [`Error::Failed`] when a name has no address or the
    /// system refuses one; the message is one line that says what to do.
    pub fn bind(services: &[Service], options: Options, shutdown: Shutdown) -> Result<Self, Error> {
        let places = places(services)?;
        let mut workers = vec![bind_all(&places, &options)?];
        let bound: Vec<_> = workers[0].iter().map(|(service, address, _)| (*service, vec![*address])).collect();
        for _ in 1..options.workers.get() {
            workers.push(bind_all(&bound, &options)?);
        }
        let addresses: Vec<_> = workers[0].iter().map(|(_, address, _)| *address).collect();
        let guard = if options.no_guard {
            Guard::lifted()
        } else {
            Guard::new(addresses.iter().map(SocketAddr::port).collect(), options.rate_limit, Instant::now())
        };
        let loops = workers.into_iter().map(|sockets| start_loop(sockets, shutdown.clone(), guard.clone()));
        let loops = loops.collect::<io::Result<_>>();
        let loops = loops.map_err(|error| Error::failed(format!("cannot start the event loop: {error}")))?;
        for (service, addresses) in &bound {
            addresses.iter().for_each(|address| info!("Server is listening on {address} ({})", service.name()));
        }
        Ok(Self { loops, options, addresses, shutdown, started: Instant::now() })
    }

    /// The addresses that it listens on, in the order in which the services were named; ports are the real ones.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until a stop is asked for, through [`Shutdown`] or by the options, then answers what has already
    /// arrived and sends what waits, for [`Options::grace`] at the most.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when polling failed or a socket became unusable; all loops stop then.
    pub fn run(&mut self) -> Result<(), Error> {
        let Self { loops, options, shutdown, .. } = self;
        let schedule = &Schedule {
            until: options.run_for.and_then(|time| self.started.checked_add(time)),
            count: options.count,
            received: AtomicU64::new(0),
            stats: options.stats.map(|interval| {
                Stats::new(interval, loops.iter().map(|event_loop| event_loop.reports().collect()).collect())
            }),
            spin: options.spin,
            grace: options.grace,
        };
        let run = |number: usize, event_loop: &mut EventLoop| {
            let _others = TakeAlong(shutdown);
            event_loop.run(number, schedule)
        };
        let Some((first, others)) = loops.split_first_mut() else { return Ok(()) };
        thread::scope(|scope| {
            let others: Vec<_> =
                (1..).zip(others).map(|(number, other)| scope.spawn(move || run(number, other))).collect();
            let result = run(0, first);
            let died = |_| Err(Error::failed("a worker panicked".to_owned()));
            others.into_iter().fold(result, |result, other| result.and(other.join().unwrap_or_else(died)))
        })
    }

    /// What it did so far.
    pub fn report(&self) -> Report {
        let seconds = self.started.elapsed().as_millis() as f64 / 1000.0;
        let endpoints = add_up(self.loops.iter().map(|event_loop| event_loop.reports().collect()));
        Report { schema: 1, seconds, endpoints }
    }
}

/// Stops all loops when one ends, however it ends: its share of the peers would stay unanswered.
struct TakeAlong<'a>(&'a Shutdown);

impl Drop for TakeAlong<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

fn start_loop(sockets: Vec<Bound<'_>>, shutdown: Shutdown, guard: Guard) -> io::Result<EventLoop> {
    let mut event_loop = EventLoop::new(shutdown, guard)?;
    for (service, address, socket) in sockets {
        event_loop.add(Endpoint::new(socket, address, service.name(), service.template().cloned()))?;
    }
    Ok(event_loop)
}

impl Endpoint<Socket> {
    fn receive_buffer(&self) -> usize {
        self.socket().receive_buffer().unwrap_or(DEFAULT_BUFFER)
    }

    fn report(&self) -> EndpointReport {
        EndpointReport {
            service: self.service(),
            address: self.address(),
            statistics: self.statistics(),
            kernel_dropped: self.socket().kernel_drops(),
        }
    }
}

/// Looks up where each service should listen, and refuses what cannot go together.
fn places(services: &[Service]) -> Result<Vec<(&Service, Vec<SocketAddr>)>, Error> {
    let mut taken: Vec<(&Service, SocketAddr)> = Vec::new();
    let mut places = Vec::new();
    for service in services {
        let addresses = look_up(service)?;
        for address in &addresses {
            if let Some((other, at)) = taken.iter().find(|(_, at)| overlap(*at, *address)) {
                let (a, b) = (other.name(), service.name());
                let elsewhere = service.moved_to(next_port(address.port()));
                return Err(Error::Usage(format!(
                    "{a} on {at} and {b} on {address} cannot share the port: try {elsewhere}"
                )));
            }
        }
        taken.extend(addresses.iter().map(|address| (service, *address)));
        places.push((service, addresses));
    }
    Ok(places)
}

fn look_up(service: &Service) -> Result<Vec<SocketAddr>, Error> {
    let host = service.host();
    let mut addresses = Vec::new();
    let found = (host, service.port()).to_socket_addrs().map_err(|error| {
        Error::failed(format!(
            "cannot look up {host:?} for {}: {error} (try an address such as 127.0.0.1)",
            service.name()
        ))
    })?;
    for mut address in found {
        // The system binds no IPv6 socket to an IPv4 address.
        address.set_ip(address.ip().to_canonical());
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Whether the system would refuse the second of two sockets: the same port on one address, or on an
/// unspecified one and one that it includes. `[::]` includes IPv4.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let includes = |a: SocketAddr, b: SocketAddr| a == b || (a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4()));
    a.port() != 0 && a.port() == b.port() && (includes(a, b) || includes(b, a))
}

fn next_port(port: u16) -> u16 {
    port.checked_add(1).unwrap_or(port - 1)
}

type Bound<'a> = (&'a Service, SocketAddr, Socket);

fn bind_all<'a>(places: &[(&'a Service, Vec<SocketAddr>)], options: &Options) -> Result<Vec<Bound<'a>>, Error> {
    let mut sockets = Vec::new();
    for (service, addresses) in places {
        let before = sockets.len();
        let mut missing = None;
        for address in addresses {
            match listen(*address, options) {
                Ok((socket, address)) => sockets.push((*service, address, socket)),
                // Half of "localhost", on a machine without IPv6.
                Err(error) if addresses.len() > 1 && is_not_here(&error) => {
                    debug!("Not listening on {address} ({}): {error}", service.name());
                    missing = Some(cannot_listen(service, *address, &error));
                }
                Err(error) => return Err(cannot_listen(service, *address, &error)),
            }
        }
        if let (true, Some(error)) = (sockets.len() == before, missing) {
            return Err(error);
        }
    }
    Ok(sockets)
}

fn is_not_here(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn cannot_listen(service: &Service, address: SocketAddr, error: &io::Error) -> Error {
    let elsewhere = service.moved_to(next_port(address.port().max(1024)));
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!("address already in use (is another server running? try {elsewhere})"),
        io::ErrorKind::PermissionDenied => {
            format!("permission denied (low ports need root or CAP_NET_BIND_SERVICE; try {elsewhere})")
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address (0.0.0.0 or [::] listens on all that it has)".to_owned()
        }
        _ => error.to_string(),
    };
    Error::failed(format!("cannot listen on {address} ({}): {why}", service.name()))
}

fn listen(address: SocketAddr, options: &Options) -> io::Result<(Socket, SocketAddr)> {
    let wanted = BufferSizes {
        receive: options.receive_buffer.unwrap_or(DEFAULT_BUFFER),
        send: options.send_buffer.unwrap_or(DEFAULT_BUFFER),
    };
    let sharing = if options.workers == NonZeroUsize::MIN { PortSharing::Exclusive } else { PortSharing::Shared };
    let (socket, given) = bind(address, wanted, sharing)?;
    let socket = Socket::new(socket, options.io)?;
    let address = socket.local_addr()?;
    for (name, asked, wanted, given) in [
        ("receive", options.receive_buffer, wanted.receive, given.receive),
        ("send", options.send_buffer, wanted.send, given.send),
    ] {
        if given < wanted {
            let level = if asked.is_some() { log::Level::Warn } else { log::Level::Debug };
            log!(level, "The {name} buffer on {address} holds {given} bytes, not {wanted}: the system sets a limit");
        }
    }
    debug!("Datagrams on {address} move in this way: {}", socket.describe());
    if !socket.knows_local_address() && address.ip().is_unspecified() {
        debug!("Replies from {address} leave from an address that the system chooses");
    }
    Ok((socket, address))
}
