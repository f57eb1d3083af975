//! Where services listen: host names become addresses, and addresses become sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;

use log::{debug, log};

use super::service::Origin;
use super::{Error, Options, Service};
use crate::lookup::lookup;
use crate::net::{self, BufferSizes, PortSharing, Socket};
use crate::reactor::shutdown::Shutdown;
use crate::service_manager::InheritedSocket;

/// The size of both kernel buffers when none is asked for, in bytes. On Linux it holds about 10,000 small datagrams, 50
/// ms of a flood.
pub(super) const DEFAULT_BUFFER: usize = 4 << 20;

/// A service, the address that it is bound to, and the socket.
pub(super) type Bound<'a> = (&'a Service, SocketAddr, Socket);

/// Decides which services the inherited sockets are for, and takes them over.
///
/// The name of a socket decides: it is the one in `NAME@fd:FDNAME`, or that of a service without an address. Unnamed
/// sockets are for the only service, if it has no address.
pub(super) fn inherit<'a>(
    services: &'a [Service],
    inherited: Vec<InheritedSocket>,
    options: &Options,
) -> Result<Vec<Bound<'a>>, Error> {
    let usage = |message: String| Err(Error::Usage(message));
    if !inherited.is_empty() && options.workers != NonZeroUsize::MIN {
        return usage("inherited sockets need a single worker: the system would not share the peers of one".to_owned());
    }
    let mut bound: Vec<Bound<'a>> = Vec::new();
    for inherited in inherited {
        let takes = |service: &&Service| match (service.origin(), inherited.chosen_name()) {
            (Origin::Inherited(wanted), _) => Some(wanted) == inherited.name.as_ref(),
            (Origin::Default, Some(name)) => service.name() == name,
            (Origin::Default, None) => services.len() == 1,
            (Origin::Address, _) => false,
        };
        let name = &inherited.name;
        let called = name.as_deref().unwrap_or("without a name");
        let Some(service) = services.iter().find(takes) else {
            let how = name.as_deref().unwrap_or("FDNAME");
            return usage(format!("no service takes the inherited socket {called}: write one as hello@fd:{how}"));
        };
        let failed = |error| Error::Listen(format!("cannot use the inherited socket {called}: {error}"));
        let (socket, address) = take_over(inherited.socket, options).map_err(failed)?;
        if let Some((other, ..)) = bound.iter().find(|(_, other, _)| *other == address) {
            return usage(format!(
                "two inherited sockets, of {} and {}, are on {address}",
                other.name(),
                service.name()
            ));
        }
        bound.push((service, address, socket));
    }
    let is_missing = |service: &&Service| !bound.iter().any(|(other, ..)| std::ptr::eq(*other, *service));
    if let Some((service, name)) = services.iter().filter(is_missing).find_map(|service| match service.origin() {
        Origin::Inherited(name) => Some((service, name)),
        _ => None,
    }) {
        let service = service.name();
        return usage(format!("no socket named {name:?} is inherited for {service} (LISTEN_FDS and LISTEN_FDNAMES)"));
    }
    Ok(bound)
}

fn take_over(socket: std::net::UdpSocket, options: &Options) -> io::Result<(Socket, SocketAddr)> {
    let wanted = wanted_buffers(options);
    let (socket, given) = net::adopt(socket, wanted)?;
    let socket = Socket::new(socket, options.io)?;
    let address = socket.local_addr()?;
    log_socket(&socket, address, options, given);
    Ok((socket, address))
}

/// Looks up where each service should listen, until a shutdown is requested. Two services on one address are an error.
pub(super) fn places<'a>(
    mut services: impl Iterator<Item = &'a Service>,
    shutdown: &Shutdown,
) -> Result<Vec<(&'a Service, Vec<SocketAddr>)>, Error> {
    let mut taken: Vec<(&Service, SocketAddr)> = Vec::new();
    let mut places = Vec::new();
    while let Some(service) = services.next() {
        let addresses = look_up(service, shutdown)?;
        for address in &addresses {
            if let Some((other, at)) = taken.iter().find(|(_, at)| overlap(*at, *address)) {
                let (a, b) = (other.name(), service.name());
                // Where the others listen is not looked up yet.
                let others: Vec<_> = services.map(Service::port).collect();
                let elsewhere = elsewhere(service, *address, |place| {
                    !taken.iter().any(|(_, at)| overlap(*at, place)) && !others.contains(&place.port())
                });
                return Err(Error::Conflict(format!(
                    "{a} on {at} and {b} on {address} cannot share the port: try {elsewhere}"
                )));
            }
        }
        taken.extend(addresses.iter().map(|address| (service, *address)));
        places.push((service, addresses));
    }
    Ok(places)
}

fn look_up(service: &Service, shutdown: &Shutdown) -> Result<Vec<SocketAddr>, Error> {
    let host = service.host();
    let mut addresses = Vec::new();
    let found = lookup(host, service.port(), shutdown)
        .ok_or_else(|| Error::LookUp(format!("stopped while looking up {host:?} for {}", service.name())))?;
    let found = found.map_err(|error| {
        Error::LookUp(format!(
            "cannot look up {host:?} for {}: {error} (try an address such as 127.0.0.1)",
            service.name()
        ))
    })?;
    for mut address in found {
        // An IPv6 socket cannot be bound to an IPv4-mapped address.
        address.set_ip(address.ip().to_canonical());
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Returns whether the system would refuse the second of two sockets: the same port on one address, or on an
/// unspecified one and an address that it includes. `[::]` includes IPv4.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let includes = |a: SocketAddr, b: SocketAddr| a == b || (a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4()));
    a.port() != 0 && a.port() == b.port() && (includes(a, b) || includes(b, a))
}

/// Binds every service to its addresses, or none at all. Of a name's addresses, those that this machine lacks are
/// skipped as long as there is another.
pub(super) fn bind_all<'a>(
    places: &[(&'a Service, Vec<SocketAddr>)],
    options: &Options,
) -> Result<Vec<Bound<'a>>, Error> {
    let mut sockets = Vec::new();
    for (service, addresses) in places {
        let before = sockets.len();
        let mut missing = None;
        for address in addresses {
            match listen(*address, options) {
                Ok((socket, address)) => {
                    sockets.push((*service, address, socket));
                    sockets.extend(listen_ipv4(service, address, options)?);
                }
                // `::1` of "localhost" on a machine without IPv6.
                Err(error) if addresses.len() > 1 && is_not_available(&error) => {
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

/// Where a socket on `[::]` is for IPv6 only (see [`net::bind()`]), binds another one for IPv4, if there is IPv4.
fn listen_ipv4<'a>(service: &'a Service, ipv6: SocketAddr, options: &Options) -> Result<Option<Bound<'a>>, Error> {
    if options.io.has_packet_info() || !ipv6.is_ipv6() || !ipv6.ip().is_unspecified() {
        return Ok(None);
    }
    let address = (Ipv4Addr::UNSPECIFIED, ipv6.port()).into();
    match listen(address, options) {
        Ok((socket, address)) => Ok(Some((service, address, socket))),
        Err(error) if is_not_available(&error) => Ok(None),
        Err(error) => Err(cannot_listen(service, address, &error)),
    }
}

fn is_not_available(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn cannot_listen(service: &Service, address: SocketAddr, error: &io::Error) -> Error {
    let elsewhere = || elsewhere(service, address, |place| UdpSocket::bind(place).is_ok());
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!("address already in use (is another server running? try {})", elsewhere()),
        io::ErrorKind::PermissionDenied => {
            format!("permission denied (low ports need root or CAP_NET_BIND_SERVICE; try {})", elsewhere())
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address (0.0.0.0 or [::] listens on every address)".to_owned()
        }
        _ => error.to_string(),
    };
    Error::Listen(format!("cannot listen on {address} ({}): {why}", service.name()))
}

/// Returns a service on another port that is free, as text for the command line.
fn elsewhere(service: &Service, mut address: SocketAddr, is_free: impl Fn(SocketAddr) -> bool) -> String {
    let first = service.other_port(address.port());
    let mut ports = (first..=u16::MAX).chain(1025..first).take(1000);
    let free = ports.find(|port| {
        address.set_port(*port);
        is_free(address)
    });
    service.moved_to(free.unwrap_or(first))
}

fn listen(address: SocketAddr, options: &Options) -> io::Result<(Socket, SocketAddr)> {
    let sharing = if options.workers == NonZeroUsize::MIN { PortSharing::Exclusive } else { PortSharing::Shared };
    let (socket, given) = net::bind(address, wanted_buffers(options), sharing, options.io)?;
    let socket = Socket::new(socket, options.io)?;
    let address = socket.local_addr()?;
    if sharing == PortSharing::Shared && !socket.knows_local_address() {
        // Each worker receives a copy of a broadcast or multicast datagram and would answer it (see
        // `Guard::of_worker`).
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "several workers on every address need packet info, which this way to receive lacks (give one address, or \
             take --workers 1 or another --io)",
        ));
    }
    log_socket(&socket, address, options, given);
    Ok((socket, address))
}

fn wanted_buffers(options: &Options) -> BufferSizes {
    BufferSizes {
        receive: options.receive_buffer.unwrap_or(DEFAULT_BUFFER),
        send: options.send_buffer.unwrap_or(DEFAULT_BUFFER),
    }
}

/// Logs how a socket moves datagrams, and warns of buffers that are smaller than what was asked for.
fn log_socket(socket: &Socket, address: SocketAddr, options: &Options, given: BufferSizes) {
    let wanted = wanted_buffers(options);
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
}
