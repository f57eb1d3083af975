//! The relay: forwards datagrams between clients and a target, and impairs them on the way.
//!
//! Each client has a session, a socket that is connected to the target, so the target sees a peer for each client and
//! its answers find their way back. Clients get them from the address that they sent to.
//!
//! | file | responsibility |
//! |---|---|
//! | [`forwarder`] | the tasks, and what each does in its turn |
//! | [`listener`] | the socket of the clients, and what waits for it |
//! | [`session`] | a client and its socket; all sessions |
//! | [`refusal`] | why a datagram opens no session |
//! | [`direction`] | the link and the statistics of a direction; sending |
//! | [`payload_queue`] | what waits for a socket |
//! | [`statistics`] | counts, and the report |
//! | [`metrics`] | the counts for Prometheus |

pub(crate) mod direction;
pub(crate) mod forwarder;
pub(crate) mod listener;
pub(crate) mod metrics;
pub(crate) mod payload_queue;
pub(crate) mod refusal;
pub(crate) mod session;
pub(crate) mod statistics;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use log::info;

pub use crate::counts::CountsByName;
pub use crate::net::IoBackend;
pub use statistics::{Report, SessionCounts, Statistics};

use crate::host_port;
use crate::impair::{Generator, Impairments, Link, MAX_BYTES, Seed};
use crate::metrics::{Monitor, Options as MonitorOptions};
use crate::net::{self, BrokenSocket, BufferSizes, Egress, PortSharing, Socket, bind, connect};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Precision, Reactor};
use direction::Direction;
use forwarder::{Forwarder, Plan, Task};
use session::Sessions;

/// The size of both kernel buffers of the listener when none is asked for, in bytes.
pub(crate) const BUFFER_SIZE: usize = 4 << 20;

/// The same of a session. What a buffer does not use takes no memory.
const SESSION_BUFFER_SIZE: usize = 1 << 20;

/// How a relay behaves, apart from where it listens and forwards to.
#[derive(Clone, Debug)]
pub struct Options {
    /// What happens to datagrams from clients. Default: `None`, nothing.
    pub up: Option<Impairments>,
    /// What happens to datagrams from the target. Default: `None`, nothing.
    pub down: Option<Impairments>,
    /// What all impairments follow from. Default: `None`, another one each time.
    pub seed: Option<Seed>,
    /// End a session after this time without traffic. Default: 60 s.
    pub idle: Duration,
    /// At most this many sessions; further clients are refused. Default: 1,024.
    pub max_sessions: NonZeroUsize,
    /// Stop after this time. Default: `None`, never.
    pub run_for: Option<Duration>,
    /// Stop after this many datagrams of clients. Default: `None`, never.
    pub count: Option<u64>,
    /// Log the statistics, with rates, this often. Default: `None`, never.
    pub stats: Option<Duration>,
    /// How long forwarding may take after a stop was requested. Default: 500 ms.
    pub grace: Duration,
    /// The kernel's receive buffer of each socket, in bytes. Default: `None`, 4 MiB for clients and 1 MiB per session,
    /// or less if the system sets a limit.
    pub receive_buffer: Option<usize>,
    /// The kernel's send buffer of each socket, in bytes. Default: `None`, as above.
    pub send_buffer: Option<usize>,
    /// How datagrams move. Default: [`IoBackend::Auto`].
    pub io: IoBackend,
    /// What watches the relay. Default: nothing, at no cost.
    pub monitor: MonitorOptions,
}

impl Options {
    /// Returns the buffer sizes of a socket whose defaults are `default`.
    fn buffer_sizes(&self, default: usize) -> BufferSizes {
        BufferSizes { receive: self.receive_buffer.unwrap_or(default), send: self.send_buffer.unwrap_or(default) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            up: None,
            down: None,
            seed: None,
            idle: Duration::from_secs(60),
            max_sessions: const { NonZeroUsize::new(1_024).unwrap() },
            run_for: None,
            count: None,
            stats: None,
            grace: Duration::from_millis(500),
            receive_buffer: None,
            send_buffer: None,
            io: IoBackend::Auto,
            monitor: MonitorOptions::default(),
        }
    }
}

/// Why a relay did not start, or stopped. Displayed as one line, with a remedy where there is one.
#[derive(Debug)]
pub enum Error {
    /// An address is malformed, or the options do not work together.
    Usage(String),
    /// The system refused something.
    Failed(String),
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (Self::Usage(message) | Self::Failed(message)) = self;
        f.write_str(message)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("cannot poll: {error}"))
    }
}

impl From<BrokenSocket> for Error {
    fn from(error: BrokenSocket) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A relay that listens.
///
/// ```
/// use std::{net::UdpSocket, thread};
/// use udpong::{reactor::shutdown::Shutdown, relay::{Options, Relay}};
///
/// let target = UdpSocket::bind("127.0.0.1:0")?;
/// let shutdown = Shutdown::new();
/// let relay = Relay::bind(":0", &target.local_addr()?.to_string(), Options::default(), shutdown.clone())?;
/// let address = relay.address();
/// let running = thread::spawn(move || relay.run());
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"ping", address)?;
/// let mut buffer = [0; 16];
/// let (length, session) = target.recv_from(&mut buffer)?;
/// target.send_to(&buffer[..length], session)?;
/// assert_eq!(client.recv_from(&mut buffer)?, (4, address));
///
/// shutdown.request();
/// let (report, result) = running.join().expect("no panic");
/// result?;
/// assert_eq!((report.up.forwarded, report.down.forwarded, report.sessions.opened), (1, 1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Relay {
    reactor: Reactor<Task>,
    forwarder: Forwarder,
    address: SocketAddr,
}

impl Relay {
    /// Listens on `listen`, and resolves `target`, both `HOST:PORT` or `:PORT` for 127.0.0.1. `shutdown` stops the
    /// relay.
    ///
    /// Looking up a host name blocks. The soft limit of open files is raised to the hard one if `max_sessions` need it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Usage`] if an address is malformed, the target is the relay itself, or impairments do not work
    /// together; [`Error::Failed`] if a name has no address, the system refuses a socket, or metrics cannot be shown.
    pub fn bind(listen: &str, target: &str, options: Options, shutdown: Shutdown) -> Result<Self, Error> {
        for impairments in [&options.up, &options.down].into_iter().flatten() {
            impairments.check().map_err(|error| Error::Usage(error.to_string()))?;
        }
        net::expect_sockets(options.max_sessions.get());
        let is_impaired = options.up.is_some() || options.down.is_some();
        let precision = if is_impaired { Precision::Exact } else { Precision::Milliseconds };
        let failed = |error| Error::Failed(format!("cannot start the event loop: {error}"));
        let reactor = Reactor::with_precision(&shutdown, precision).map_err(failed)?;

        let target = find_target(&look_up(target)?)?;
        let (socket, address) = listen_on(&look_up(listen)?, options.buffer_sizes(BUFFER_SIZE), options.io)?;
        let monitor = Monitor::open(&options.monitor, options.stats, &shutdown).map_err(Error::Failed)?;
        if is_own(target, address) {
            return Err(Error::Usage(format!("the target {target} is the relay itself: each datagram would go round")));
        }
        info!("Relay is listening on {address} (forwarding to {target})");
        let seed = is_impaired.then(|| options.seed.unwrap_or_else(Seed::random));
        if let Some(seed) = seed {
            let describe = |impairments: &Option<Impairments>| {
                impairments.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
            };
            info!("Impairing up: {}; down: {} (seed {seed})", describe(&options.up), describe(&options.down));
        }

        let started = Instant::now();
        let up = link(options.up.clone(), seed, 0, started);
        let down = link(options.down.clone(), seed, 1, started);
        let sizes = options.buffer_sizes(SESSION_BUFFER_SIZE);
        let sessions = Sessions::new(target, options.io, sizes, options.max_sessions.get(), options.idle);
        let plan = Plan {
            until: options.run_for.and_then(|time| started.checked_add(time)),
            count: options.count,
            stats: options.stats,
            grace: options.grace,
        };
        let (up, down) = (Direction::up(up), Direction::down(down));
        let mut forwarder = Forwarder::new(socket, address, sessions, up, down, seed.map(Seed::get), plan);
        forwarder.watch(monitor).map_err(Error::Failed)?;
        Ok(Self { reactor, forwarder, address })
    }

    /// Returns the address that it listens on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards until a stop is requested, through [`Shutdown`] or by the options; then forwards what has already
    /// arrived and the answers to it, for [`Options::grace`] at most. Returns what became of the datagrams, also after
    /// an error.
    ///
    /// # Errors
    ///
    /// The result is an error if polling failed, or the socket of the clients became unusable.
    pub fn run(mut self) -> (Report, Result<(), Error>) {
        let result = self.forwarder.run(&mut self.reactor);
        self.forwarder.finish_monitor();
        (self.forwarder.report(), result)
    }
}

/// Creates the link with this number, if there are impairments. Both directions share the bound of the process.
fn link<F: Copy + Eq + std::hash::Hash>(
    impairments: Option<Impairments>,
    seed: Option<Seed>,
    number: usize,
    start: Instant,
) -> Option<Link<F>> {
    let (impairments, seed) = impairments.zip(seed)?;
    Some(Link::new(impairments, Generator::new(seed, number), MAX_BYTES / 2, start))
}

/// Resolves `HOST:PORT`; without a host, 127.0.0.1.
fn look_up(text: &str) -> Result<Vec<SocketAddr>, Error> {
    let (host, port) = host_port::split(text).map_err(|error| Error::Usage(error.to_string()))?;
    let host = host.unwrap_or("127.0.0.1");
    let port = port.ok_or_else(|| Error::Usage(format!("{text:?} has no port: write HOST:PORT")))?;
    let found = (host, port).to_socket_addrs().map_err(|error| {
        Error::Failed(format!("cannot look up {host:?}: {error} (check the name, or try an address)"))
    })?;
    let mut addresses = Vec::new();
    for mut address in found {
        address.set_ip(address.ip().to_canonical());
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Returns the first address to which there is a route.
fn find_target(addresses: &[SocketAddr]) -> Result<SocketAddr, Error> {
    if let Some(address) = addresses.iter().find(|address| address.port() == 0) {
        return Err(Error::Usage(format!("nothing can listen on {address}: write a port from 1 to 65535")));
    }
    let mut first_error = None;
    for address in addresses {
        match connect(*address, BufferSizes { receive: BUFFER_SIZE, send: BUFFER_SIZE }, &Egress::default()) {
            // An unspecified address stands for this machine.
            Ok(socket) => return Ok(socket.peer_addr().unwrap_or(*address)),
            Err(error) => {
                first_error = first_error.or(Some(Error::Failed(format!("cannot reach {address}: {error}"))));
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::Failed("the target has no address".to_owned())))
}

/// Listens on the first address that this machine has.
fn listen_on(addresses: &[SocketAddr], sizes: BufferSizes, io: IoBackend) -> Result<(Socket, SocketAddr), Error> {
    let mut first_error = None;
    for address in addresses {
        let socket = bind(*address, sizes, PortSharing::Exclusive, io).and_then(|(socket, _)| Socket::new(socket, io));
        match socket.and_then(|socket| Ok((socket.local_addr()?, socket))) {
            Ok((address, socket)) => return Ok((socket, address)),
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::AddrInUse => "address already in use (is another server running?)".to_owned(),
                    io::ErrorKind::PermissionDenied => {
                        "permission denied (low ports need root or CAP_NET_BIND_SERVICE)".to_owned()
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        "this machine has no such address (0.0.0.0 or [::] listens on every address)".to_owned()
                    }
                    _ => error.to_string(),
                };
                first_error = first_error.or(Some(Error::Failed(format!("cannot listen on {address}: {why}"))));
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::Failed("there is no address to listen on".to_owned())))
}

/// Returns whether what is sent to `address` arrives at the socket on `listen`.
pub(crate) fn is_own(address: SocketAddr, listen: SocketAddr) -> bool {
    let (ip, own) = (address.ip(), listen.ip());
    if address.port() != listen.port() || !own.is_unspecified() {
        return address == listen;
    }
    // `[::]` includes IPv4.
    (own.is_ipv6() || ip.is_ipv4()) && (ip.is_loopback() || ip.is_unspecified() || is_local(ip))
}

/// Returns whether this machine has an address: if so, what it sends there comes from there.
fn is_local(ip: IpAddr) -> bool {
    let socket = connect((ip, 9).into(), BufferSizes { receive: 1, send: 1 }, &Egress::default());
    socket.and_then(|socket| socket.local_addr()).is_ok_and(|local| local.ip() == ip)
}
