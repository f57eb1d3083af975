//! The Linux implementation: many messages per system call, and many datagrams per message.
//!
//! Nearly all of the cost of a reply is the kernel's work per packet, so the lever is fewer, larger packets: `UDP_GRO`
//! delivers consecutive datagrams of one peer as one message, and `UDP_SEGMENT` takes a run of replies as one (udp(7);
//! [`gso`](super::gso) decides what is a run). recvmmsg(2) and sendmmsg(2) save system calls in addition.
//!
//! # Why a short batch means drained
//!
//! mio's documentation of `Poll` has this rule, "Draining readiness":
//!
//! > Once a readiness event is received, the corresponding operation must be performed repeatedly until it returns
//! > `WouldBlock`. Unless this is done, there is no guarantee that another readiness event will be delivered, even if
//! > further data is received for the event source.
//!
//! recvmmsg(2) is that repetition, inside the kernel. `do_recvmmsg` (net/socket.c) receives one message at a time until
//! it has as many as it was asked for, or a receive fails. If a receive fails with `EAGAIN` after others succeeded, the
//! call returns their number and does not report the `EAGAIN`. So a batch that is shorter than what was asked for has
//! already seen it (other errors: see below). Calling again only to see it once more would cost a tenth of the work for
//! a datagram that arrived alone. Three questions remain.
//!
//! - *Does a datagram that arrives later raise an event?* `EAGAIN` means that `__skb_recv_udp` (net/ipv4/udp.c) found
//!   both queues of the socket empty. A datagram is put into the queue by `__udp_enqueue_schedule_skb`, which calls
//!   `sock_def_readable` afterwards: for every datagram, or in Linux 6.10 and some later versions for one that finds
//!   the queue empty, as this one does. `ep_poll_callback` (fs/eventpoll.c) then adds the socket to the ready list,
//!   from where the next epoll_wait(2) takes it. A datagram queued before the `EAGAIN` was received by this call; one
//!   queued after it raises its event after it. The event may also come for a datagram that was received already: a
//!   spurious event costs one empty receive.
//! - *Can a message be invisible to the receive, or stop it?* A coalesced message is one entry of the queue like any
//!   other. A datagram with a wrong checksum is dropped by `udp_recvmsg`, which then takes the next one from the queue.
//!   Empty datagrams are messages of length 0.
//! - *Can a receive fail with something else than `EAGAIN`?* With a pending error of the socket, `sk_err`. A socket
//!   that is not connected gets none from ICMP: `__udp4_lib_err` and `__udp6_lib_err` ignore ICMP errors unless the
//!   socket is connected or has asked for them with `IP_RECVERR`. On a connected socket an ICMP error can end a batch
//!   while datagrams wait behind it. But `do_recvmmsg` checks for an error before it receives, and returns one that
//!   was pending already at once, without a message ([`Received::Failed`]). So this error was set during the call,
//!   and the code that sets `sk_err` calls `sk_error_report` afterwards, which raises an event like a datagram does.
//!   `do_recvmmsg` stores the error again. When epoll_wait(2) looks at the socket, `udp_poll` reports the error, the
//!   waiting datagrams or both, even if a send has taken the error in between. Interruptions do not occur, because a
//!   non-blocking receive does not sleep.
//!
//! Tests in `readiness.rs` race senders against the receiver and would wait forever if an event were missing.
//!
//! # Memory layout
//!
//! ```text
//!  mmsghdr[i]         all of these arrays are on the stack, for the time of one call
//! ┌──────────────┐   ┌─────────────────┐
//! │ msg_name     │──>│ SockaddrBuf     │    source or destination
//! │ msg_iov      │──>│ iovec, iovec, … │──> one slot of the receive batch, or the parts of the datagrams of a run
//! │ msg_control  │──>│ ControlMessages │    received: the segment length of UDP_GRO, packet info, timestamp
//! │ msg_len      │   └─────────────────┘    sent: the segment length of UDP_SEGMENT, packet info
//! └──────────────┘
//! ```

use std::io;
use std::iter;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use log::debug;
use mio::net::UdpSocket;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::cmsg::ControlMessages;
use super::gso::{LONGEST_SEGMENT, SegmentLimit, Unsent, count_datagrams};
use super::portable::Portable;
use super::receive_batch::SLOTS;
use super::sockaddr::SockaddrBuf;
use super::{Delivery, Envelope, ErrorReport, Outgoing, ReceiveBatch, Received, Sent, retry_interrupted};

/// Whether this implementation can be used.
pub const IS_AVAILABLE: bool = true;

/// The kernel doubles the requested size of a socket buffer to have room for its bookkeeping, and reports the double
/// (`SO_RCVBUF`, socket(7)).
pub const BUFFER_SIZE_FACTOR: usize = 2;

/// The most messages that one system call sends.
const MESSAGES: usize = 64;

/// The most pieces of memory that one system call sends. The longest message has 192.
const IOVECS: usize = 512;

/// Receives and sends in batches, coalesced and segmented as far as the kernel supports it.
#[derive(Debug)]
pub struct Linux {
    /// For a datagram that leaves alone.
    portable: Portable,
    /// Received messages may be coalesced.
    has_gro: bool,
    has_gso: bool,
    /// Received messages carry the address that they were sent to.
    has_packet_info: bool,
    /// Received messages carry the time of their arrival.
    has_timestamps: bool,
    segment_limit: SegmentLimit,
    /// How many messages the next system call asks for: twice as many as the last one returned, at most as many as the
    /// batch takes. Asking for all of them each time costs 9 % where datagrams arrive one at a time.
    expected: usize,
}

impl Linux {
    /// Prepares for a bound or connected socket, whose options it sets.
    pub fn new(socket: &UdpSocket) -> Self {
        let fd = socket.as_raw_fd();
        let enable = |level, name| set_option(fd, level, name, 1).is_ok();
        // A socket bound to one address knows it, and packet info costs 5 %. An IPv6 socket receives from IPv4 peers
        // too, whose packet info is separate.
        let has_packet_info = match socket.local_addr() {
            Ok(local) if !local.ip().is_unspecified() => false,
            Ok(local) if local.is_ipv6() => {
                // Replies may leave from an address that no interface has: `ip -6 route add local PREFIX dev lo`.
                let _ = enable(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND);
                enable(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) && enable(libc::IPPROTO_IP, libc::IP_PKTINFO)
            }
            _ => enable(libc::IPPROTO_IP, libc::IP_PKTINFO),
        };
        let has_gro = enable(libc::SOL_UDP, libc::UDP_GRO);
        // 0 is the default: only those sends are segmented that ask for it. This shows whether the kernel knows it.
        let has_gso = set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        Self {
            portable: Portable::new(socket),
            has_gro,
            has_gso,
            has_packet_info,
            has_timestamps: false,
            segment_limit: if has_gso { SegmentLimit::NORMAL } else { SegmentLimit::NO_SEGMENTS },
            expected: 2,
        }
    }

    /// Returns whether received datagrams carry their local address.
    pub fn has_packet_info(&self) -> bool {
        self.has_packet_info
    }

    /// See [`Socket::enable_timestamps`](super::Socket::enable_timestamps).
    pub fn enable_timestamps(&mut self, socket: &UdpSocket) -> bool {
        let fd = socket.as_raw_fd();
        self.has_timestamps = set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).is_ok();
        if self.has_timestamps && self.has_gro {
            self.has_gro = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 0).is_err();
        }
        self.has_timestamps
    }

    /// See [`Socket::enable_hop_limits`](super::Socket::enable_hop_limits).
    pub fn enable_hop_limits(&mut self, socket: &UdpSocket) -> bool {
        let fd = socket.as_raw_fd();
        let enable = |level, name| set_option(fd, level, name, 1).is_ok();
        // An IPv6 socket receives from IPv4 peers too.
        let is_ipv6 = socket.local_addr().is_ok_and(|local| local.is_ipv6());
        let v6 = !is_ipv6 || enable(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT);
        enable(libc::IPPROTO_IP, libc::IP_RECVTTL) && v6
    }

    /// See [`Socket::describe`](super::Socket::describe).
    pub fn describe(&self) -> String {
        let features = [
            (self.has_gro, ", coalesced receives"),
            (self.has_gso, ", segmented sends"),
            (self.has_packet_info, ", packet info"),
        ];
        let features = features.iter().filter(|(enabled, _)| *enabled).map(|(_, name)| *name);
        "batches".to_owned() + &features.collect::<String>()
    }

    /// See [`Transport::receive`](super::Transport::receive).
    pub fn receive(&mut self, socket: &UdpSocket, batch: &mut ReceiveBatch) -> Received {
        batch.clear();
        loop {
            let wanted = self.expected.min(batch.room());
            if wanted == 0 {
                return Received::More;
            }
            match retry_interrupted(|| socket.try_io(|| self.receive_messages(socket.as_raw_fd(), batch, wanted))) {
                Ok(count) => {
                    self.expected = (2 * count).clamp(1, batch.capacity());
                    if count < wanted {
                        return Received::Drained; // See "Why a short batch means drained".
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Drained,
                Err(error) => return Received::Failed(error),
            }
        }
    }

    /// See [`Transport::send`](super::Transport::send).
    pub fn send(&mut self, socket: &UdpSocket, runs: &[Outgoing<'_>]) -> Sent {
        // For a short datagram that leaves alone, sendto(2) saves 10 % of the work for a reply over a sendmmsg(2) of
        // one.
        if let [alone] = runs
            && alone.count == 1
            && alone.from.is_none()
            && alone.length() <= LONGEST_SEGMENT
        {
            return self.portable.send(socket, runs);
        }
        let (mut unsent, mut count) = (Unsent::new(runs), 0);
        while !unsent.is_empty() {
            match self.send_some(socket, unsent) {
                Ok(sent) => {
                    unsent.skip(sent);
                    count += sent;
                }
                Err(error) => return Sent { count, error: Some(error) },
            }
        }
        Sent { count, error: None }
    }

    /// Sends the first of the `unsent` datagrams, at least one; returns how many. An error is that of the first
    /// datagram.
    ///
    /// A segmented send can fail although its datagrams pass one by one:
    ///
    /// - A segment exceeds the MTU of the path, where IP would fragment a single datagram, or the route cannot
    ///   segment at all. This is remembered for a while, see [`SegmentLimit`].
    /// - The kernel has no memory for all of them at once, or a firewall drops long packets.
    ///
    /// In these cases the datagrams of the first message are sent one by one. Any other error, such as that of a
    /// missing route, would be the same for a single datagram.
    fn send_some(&mut self, socket: &UdpSocket, unsent: Unsent<'_, '_>) -> io::Result<usize> {
        let longest_segment = self.segment_limit.longest(Instant::now);
        let error = match self.send_messages(socket, unsent, longest_segment, MESSAGES) {
            Err(error) => error,
            sent => return sent,
        };
        let mut rest = unsent;
        let Some((first, others)) = rest.next_message(longest_segment) else { return Err(error) };
        let count = count_datagrams(&first, others);
        let code = error.raw_os_error();
        let cannot_segment = matches!(code, Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE));
        let may_pass_singly = cannot_segment || matches!(code, Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM));
        if count == 1 || !may_pass_singly {
            return Err(error);
        }
        let sent = self.send_messages(socket, unsent, 0, count)?;
        let (to, length) = (first.to, first.length_of(0));
        if cannot_segment && self.segment_limit.lower_below(length, Instant::now()) {
            debug!("Segments of {length} bytes to {to} fail ({error}): sending them singly for a while");
        }
        Ok(sent)
    }

    /// Sends at most `messages` messages with one system call; returns how many datagrams left. An error is that of the
    /// first message: one of a later message is reported when it has become the first.
    fn send_messages(
        &self,
        socket: &UdpSocket,
        unsent: Unsent<'_, '_>,
        longest_segment: usize,
        messages: usize,
    ) -> io::Result<usize> {
        let fd = socket.as_raw_fd();
        let send = || send_messages(fd, self.portable.is_connected, unsent, longest_segment, messages);
        retry_interrupted(|| socket.try_io(send))
    }

    /// Receives at most `wanted` messages with one recvmmsg(2); returns how many.
    fn receive_messages(&self, fd: RawFd, batch: &mut ReceiveBatch, wanted: usize) -> io::Result<usize> {
        // Only the used entries are initialized: clearing all of them costs 4 % in batches of four datagrams.
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SLOTS];
        let mut names = [const { MaybeUninit::<SockaddrBuf>::uninit() }; SLOTS];
        let mut controls = [const { MaybeUninit::<ControlMessages>::uninit() }; SLOTS];
        let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; SLOTS];
        let mut prepared = 0;
        for (i, slot) in batch.free_slots(wanted).enumerate() {
            let control = controls[i].write(ControlMessages::EMPTY).buffer();
            let header = &mut headers[i].write(empty_header()).msg_hdr;
            header.msg_name = ptr::from_mut(names[i].write(SockaddrBuf::EMPTY)).cast();
            header.msg_namelen = SockaddrBuf::SPACE as libc::socklen_t;
            header.msg_iov = iovecs[i].write(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = control.len() as _;
            prepared += 1;
        }
        // SAFETY: the first `prepared` headers are initialized. Each points to its own name, control buffer and iovec,
        // which are initialized locals, and the iovec to a slot of `batch`, which is borrowed exclusively; each with
        // its true length. The kernel writes within these lengths, and only during the call. The null timeout is
        // allowed.
        let count = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr().cast(), prepared, 0, ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let clocks = self.has_timestamps.then(Clocks::read);
        for i in 0..count {
            // SAFETY: the kernel returned at most `prepared` messages, so these entries were initialized above, and any
            // bytes that it wrote to them are valid: they are integers, pointers that are not followed, and arrays of
            // bytes.
            let (header, name, control) =
                unsafe { (headers[i].assume_init_ref(), names[i].assume_init_ref(), controls[i].assume_init_mut()) };
            control.set_length(header.msg_hdr.msg_controllen as _);
            let ancillary = control.read();
            let mut source = name.address();
            if ancillary.is_ipv4 {
                source.set_ip(source.ip().to_canonical());
            }
            let delivery = match self.portable.delivery {
                Delivery::Unknown => ancillary.delivery,
                known => known,
            };
            let arrival = clocks.as_ref().zip(ancillary.timestamp).and_then(|(clocks, at)| clocks.instant(at));
            let (local, hop_limit) = (ancillary.local, ancillary.hop_limit);
            let envelope = Envelope { source, local, delivery, arrival, hop_limit };
            batch.push(header.msg_len as usize, ancillary.segment.unwrap_or(0), envelope);
        }
        Ok(count)
    }
}

/// Sends at most `messages` messages, and as many as one sendmmsg(2) takes; returns how many datagrams left.
fn send_messages(
    fd: RawFd,
    is_connected: bool,
    mut unsent: Unsent<'_, '_>,
    longest_segment: usize,
    messages: usize,
) -> io::Result<usize> {
    // Only the used entries are initialized, as above.
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
    let mut names = [const { MaybeUninit::<SockaddrBuf>::uninit() }; MESSAGES];
    let mut controls = [const { MaybeUninit::<ControlMessages>::uninit() }; MESSAGES];
    let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; IOVECS];
    let mut counts = [0_u8; MESSAGES];
    let mut prepared = 0;
    let mut free = &mut iovecs[..];
    while prepared < MESSAGES.min(messages)
        && let Some((first, others)) = unsent.next_message(longest_segment)
    {
        // The pieces of an echo are adjacent in memory, which takes one entry.
        let is_echo = |run: &Outgoing<'_>| run.parts[0].is_empty() && run.parts[2].is_empty();
        let most = |run: &Outgoing<'_>| if is_echo(run) { 1 } else { run.count * run.parts.len() };
        if free.len() < most(&first) + others.iter().map(most).sum::<usize>() {
            break;
        }
        let count = write_iovecs(free, iter::once(&first).chain(others));
        let (iovecs, unused) = mem::take(&mut free).split_at_mut(count);
        free = unused;
        let header = &mut headers[prepared].write(empty_header()).msg_hdr;
        header.msg_iov = iovecs.as_mut_ptr().cast();
        header.msg_iovlen = iovecs.len() as _;
        if !is_connected {
            let name = names[prepared].write(first.to.into());
            header.msg_namelen = name.length() as libc::socklen_t;
            header.msg_name = ptr::from_mut(name).cast();
        }
        let count = count_datagrams(&first, others);
        if count > 1 || first.from.is_some() {
            let control = controls[prepared].write(ControlMessages::EMPTY);
            if count > 1 {
                control.push_segment(first.length_of(0));
            }
            if let Some(from) = first.from {
                control.push_source(from);
            }
            header.msg_controllen = control.as_bytes().len() as _;
            header.msg_control = ptr::from_mut(control).cast();
        }
        counts[prepared] = count as u8;
        prepared += 1;
    }
    // SAFETY: the first `prepared` headers are initialized. Each points to its own name, control buffer and iovecs, or
    // has none; those are initialized locals with their true lengths, and the iovecs point to parts of the runs, which
    // are borrowed for longer than the call. The kernel reads all of them and writes only the headers' `msg_len`.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr().cast(), prepared as libc::c_uint, 0) };
    let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    Ok(counts[..sent].iter().map(|count| usize::from(*count)).sum())
}

/// Writes an entry for each part of the runs that is not empty; returns their number. Parts that are adjacent in
/// memory, as those of an echoed message are, share one entry: 18 % less work for a reply in such runs.
fn write_iovecs<'r, 'a: 'r>(
    iovecs: &mut [MaybeUninit<libc::iovec>],
    runs: impl Iterator<Item = &'r Outgoing<'a>>,
) -> usize {
    let mut count = 0;
    let mut last = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    let mut end = ptr::null();
    let mut write = |part: &[u8]| {
        if part.is_empty() {
            return;
        }
        if part.as_ptr() == end {
            last.iov_len += part.len();
        } else {
            last = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
            count += 1;
        }
        iovecs[count - 1].write(last);
        end = part.as_ptr_range().end;
    };
    for run in runs {
        match run.parts {
            // All pieces at once.
            [[], pieces, []] => write(pieces),
            _ => (0..run.count).for_each(|index| run.payload(index).into_iter().for_each(&mut write)),
        }
    }
    count
}

/// Two clocks, read at the same time.
#[derive(Debug)]
struct Clocks {
    monotonic: Instant,
    /// The time since 1970, as [`ControlMessages`] report it.
    realtime: Duration,
}

impl Clocks {
    fn read() -> Self {
        let realtime = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { monotonic: Instant::now(), realtime: realtime.unwrap_or_default() }
    }

    /// Converts a time before the reading to the monotonic clock. `None` if it lies in the future or over a second ago:
    /// the system's time was set in between, or the process was stopped, and the time is of no use.
    fn instant(&self, time: Duration) -> Option<Instant> {
        let ago = self.realtime.checked_sub(time).filter(|ago| *ago <= Duration::from_secs(1))?;
        self.monotonic.checked_sub(ago)
    }
}

/// See [`Socket::enable_error_reports`](super::Socket::enable_error_reports).
pub fn enable_error_reports(socket: &UdpSocket) -> bool {
    let (level, name) = match socket.local_addr() {
        Ok(local) if local.is_ipv6() => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        _ => (libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    set_option(socket.as_raw_fd(), level, name, 1).is_ok()
}

/// See [`Socket::take_error_report`](super::Socket::take_error_report).
pub fn take_error_report(socket: &UdpSocket) -> Option<ErrorReport> {
    retry_interrupted(|| receive_error(socket.as_raw_fd())).ok()
}

/// Takes the next error off the error queue of a socket (`MSG_ERRQUEUE`, recvmsg(2)).
fn receive_error(fd: RawFd) -> io::Result<ErrorReport> {
    // The message is what the ICMP packet repeats of the payload; the whole packet has at most 1,280 bytes.
    let mut payload = vec![0; 1_280];
    let mut control = ControlMessages::EMPTY;
    let mut iovec = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    let mut header = empty_header().msg_hdr;
    header.msg_iov = &raw mut iovec;
    header.msg_iovlen = 1;
    header.msg_controllen = control.buffer().len() as _;
    header.msg_control = control.buffer().as_mut_ptr().cast();
    // SAFETY: the header points to one iovec and to the control buffer, both initialized locals with their true
    // lengths, and the iovec to `payload`. The kernel writes within these lengths, and only during the call.
    let length = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    payload.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    control.set_length(header.msg_controllen as _);
    let (error, offender) = control.read().error.ok_or(io::ErrorKind::InvalidData)?;
    Ok(ErrorReport { error, offender, payload })
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: it consists of integers and pointers, for all of which zero is valid.
    unsafe { mem::zeroed() }
}

/// Returns how many messages the kernel has dropped since the socket was made (`SO_MEMINFO`, since Linux 4.12).
///
/// The alternative, a control message with every message (`SO_RXQ_OVFL`), costs more and does not report what was
/// dropped after the last one.
pub fn kernel_drops(socket: &UdpSocket) -> Option<u64> {
    /// `SK_MEMINFO_DROPS` of linux/sock_diag.h, the index of the last word.
    const DROPS: usize = 8;
    let mut words = [0_u32; DROPS + 1];
    let mut length = size_of_val(&words) as libc::socklen_t;
    let (value, fd) = (words.as_mut_ptr().cast(), socket.as_raw_fd());
    // SAFETY: the kernel writes at most `length` bytes to `words`, which has as many, and the new length to `length`.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, value, &raw mut length) };
    (result == 0 && length as usize == size_of_val(&words)).then(|| words[DROPS].into())
}

/// See [`clock_error`](super::clock_error).
pub fn clock_error() -> Option<Duration> {
    // SAFETY: it consists of integers, for all of which zero is valid.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel reads and writes `state` only, during the call. No mode is set, so nothing is adjusted.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    let is_synchronized = result != -1 && result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    is_synchronized.then(|| Duration::from_micros(state.maxerror.try_into().unwrap_or(0)))
}

/// Raises the limit of open files, as far as the system allows without privileges, if that is needed for a number of
/// sockets.
pub fn expect_sockets(sockets: usize) {
    /// What is open besides, at most.
    const OTHERS: u64 = 64;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && soft < sockets as u64 + OTHERS {
        // If this fails, so does opening a socket later.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Takes the files that a service manager has passed to this process, numbered from 3 (sd_listen_fds(3)). Only the
/// first call in a process returns any.
pub fn take_inherited_files(count: u16) -> io::Result<Vec<socket2::Socket>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let take = |fd: RawFd| {
        // SAFETY: fcntl only looks at the number. Fails unless the file is open.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, and since it was passed for this purpose and this is the first call, nothing else owns
        // it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    };
    (3..3 + RawFd::from(count)).map(take).collect()
}

/// Makes the kernel deliver single datagrams again, on a socket that another process may have used.
pub fn disable_gro(socket: &socket2::Socket) {
    // Fails only where nothing is coalesced.
    let _ = set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 0);
}

/// Makes a socket send and receive through one interface only (`SO_BINDTODEVICE`).
pub fn bind_device(socket: &socket2::Socket, name: &str) -> io::Result<()> {
    socket.bind_device(Some(name.as_bytes()))
}

/// Sets the traffic class of IPv6 packets.
pub fn set_traffic_class(socket: &socket2::Socket, class: u32) -> io::Result<()> {
    socket.set_tclass_v6(class)
}

/// Forbids fragmentation, by this host (`EMSGSIZE` instead) and by routers.
pub fn dont_fragment(socket: &socket2::Socket, is_ipv4: bool) -> io::Result<()> {
    let (level, name, value) = match is_ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        false => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    set_option(socket.as_raw_fd(), level, name, value)
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, which has as many.
    match unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(&value).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::IoBackend;
    use super::*;
    use crate::net::{BufferSizes, Egress, IcmpError, PortSharing, bind, connect};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    const SIZES: BufferSizes = BufferSizes { receive: 4 << 20, send: 4 << 20 };

    fn bind_socket(address: impl Into<SocketAddr>) -> (UdpSocket, Linux) {
        let (socket, _) = bind(address.into(), SIZES, PortSharing::Exclusive, IoBackend::Auto).expect("a free port");
        let socket = UdpSocket::from_std(socket);
        let linux = Linux::new(&socket);
        (socket, linux)
    }

    /// Sends datagrams of these lengths; returns those of the datagrams that arrive, message by message.
    fn transfer(
        (socket, sender): &mut (UdpSocket, Linux),
        (target, receiver): &mut (UdpSocket, Linux),
        lengths: &[usize],
    ) -> Vec<Vec<usize>> {
        let to = target.local_addr().expect("an address");
        let payload = [7; LONGEST_SEGMENT];
        let outgoing = |length: &usize| Outgoing::new(to, None, [&payload[..*length], b"", b""]);
        let sent = sender.send(socket, &lengths.iter().map(outgoing).collect::<Vec<_>>());
        assert_eq!(sent.count, lengths.len(), "{:?}", sent.error);
        let mut batch = ReceiveBatch::with_slots(1);
        let mut messages: Vec<Vec<usize>> = Vec::new();
        let start = Instant::now();
        while messages.iter().flatten().count() < lengths.len() {
            assert!(start.elapsed() < Duration::from_secs(60), "{messages:?}");
            let received = receiver.receive(target, &mut batch);
            assert!(!matches!(received, Received::Failed(_)), "{received:?}");
            if let Received::More = received {
                messages.push(batch.datagrams().map(|datagram| datagram.payload.len()).collect());
            }
        }
        messages
    }

    #[test]
    fn run_over_the_mtu_leaves_as_single_datagrams() {
        let (mut sender, mut receiver) = (bind_socket((Ipv6Addr::LOCALHOST, 0)), bind_socket((Ipv6Addr::LOCALHOST, 0)));
        let mtu = set_option(sender.0.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU, 1_280);
        mtu.expect("an MTU below that of the interface");
        assert_eq!(transfer(&mut sender, &mut receiver, &[1_400; 3]), [[1_400]; 3]);
        assert_eq!(sender.1.segment_limit.longest(Instant::now), 1_399, "remembered");
        // 1,280 bytes less the headers of IPv6 and UDP.
        assert_eq!(transfer(&mut sender, &mut receiver, &[1_232; 3]), [[1_232; 3]], "shorter segments pass");
        assert_eq!(sender.1.segment_limit.longest(Instant::now), 1_399);
        assert_eq!(transfer(&mut sender, &mut receiver, &[1_400, 1_400, 50, 50]), [&[1_400][..], &[1_400], &[50, 50]]);
        let later = Instant::now() + Duration::from_secs(11);
        assert_eq!(sender.1.segment_limit.longest(|| later), LONGEST_SEGMENT, "tried again");
        assert_eq!(transfer(&mut sender, &mut receiver, &[1_400, 1_400, 50]), [[1_400], [1_400], [50]]);
    }

    #[test]
    fn route_without_segmentation_is_remembered() {
        let (mut sender, mut receiver) = (bind_socket((Ipv4Addr::LOCALHOST, 0)), bind_socket((Ipv4Addr::LOCALHOST, 0)));
        // The kernel does not segment without checksums (EINVAL).
        set_option(sender.0.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("an option");
        for length in [500, 200, 1_000] {
            assert_eq!(transfer(&mut sender, &mut receiver, &[length; 3]), [[length]; 3]);
        }
        assert_eq!(sender.1.segment_limit.longest(Instant::now), 199);
    }

    #[test]
    fn error_of_the_destination_leaves_segmentation_alone() {
        let (socket, mut sender) = bind_socket((Ipv4Addr::LOCALHOST, 0));
        // A run to port 0 fails with EINVAL, and so do its datagrams.
        let to = (Ipv4Addr::LOCALHOST, 0).into();
        let sent = sender.send(&socket, &[Outgoing::new(to, None, [b"nowhere", b"", b""]); 3]);
        assert_eq!((sent.count, sent.error.and_then(|error| error.raw_os_error())), (0, Some(libc::EINVAL)));
        assert_eq!(sender.segment_limit.longest(Instant::now), LONGEST_SEGMENT);
    }

    #[test]
    fn clocks_convert_recent_times_only() {
        let clocks = Clocks { monotonic: Instant::now(), realtime: Duration::from_secs(1_700_000_000) };
        let ago = |ago| clocks.instant(clocks.realtime - ago).map(|at| clocks.monotonic - at);
        for valid in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1)] {
            assert_eq!(ago(valid), Some(valid));
        }
        assert_eq!(ago(Duration::from_nanos(1_000_000_001)), None);
        assert_eq!(clocks.instant(clocks.realtime + Duration::from_nanos(1)), None, "the future");
    }

    #[test]
    fn hop_limit_is_that_of_the_datagram() {
        for (target, sources) in [("127.0.0.1:0", &["127.0.0.1:0"][..]), ("[::]:0", &["127.0.0.1:0", "[::1]:0"])] {
            let (target, mut receiver) = bind_socket(target.parse::<SocketAddr>().expect("an address"));
            let port = target.local_addr().expect("an address").port();
            for (source, hops) in sources.iter().flat_map(|source| [(source, 64), (source, 7)]) {
                let sender = std::net::UdpSocket::bind(source).expect("a free port");
                let socket = socket2::SockRef::from(&sender);
                let to = SocketAddr::new(sender.local_addr().expect("an address").ip(), port);
                let set = if to.is_ipv4() { socket.set_ttl_v4(hops) } else { socket.set_unicast_hops_v6(hops) };
                set.expect("an option");
                let arrive = |receiver: &mut Linux| {
                    sender.send_to(b"hop", to).expect("sent");
                    let mut batch = ReceiveBatch::new();
                    while batch.datagrams().next().is_none() {
                        receiver.receive(&target, &mut batch);
                    }
                    batch.datagrams().next().and_then(|datagram| datagram.hop_limit)
                };
                assert!(receiver.enable_hop_limits(&target));
                assert_eq!(arrive(&mut receiver), Some(hops as u8), "{source}");
                // All that one message can carry fits.
                assert!(receiver.enable_timestamps(&target));
                assert_eq!(arrive(&mut receiver), Some(hops as u8), "{source}");
            }
        }
    }

    #[test]
    fn timestamp_is_that_of_the_arrival() {
        let (target, mut receiver) = bind_socket((Ipv4Addr::LOCALHOST, 0));
        assert!(receiver.enable_timestamps(&target));
        let (socket, mut sender) = bind_socket((Ipv4Addr::LOCALHOST, 0));
        let to = target.local_addr().expect("an address");
        let run = [Outgoing::new(to, None, [b"one of a run", b"", b""]); 3];
        let mut batch = ReceiveBatch::new();
        // The kernel needs a moment to begin.
        let start = Instant::now();
        loop {
            let before = Instant::now();
            assert_eq!(sender.send(&socket, &run).count, 3);
            let after = Instant::now();
            std::thread::sleep(Duration::from_millis(20));
            assert!(matches!(receiver.receive(&target, &mut batch), Received::Drained));
            let arrivals: Vec<_> = batch.datagrams().filter_map(|datagram| datagram.arrival).collect();
            assert_eq!((batch.datagrams().count(), arrivals.len()), (3, 3));
            if arrivals.iter().all(|at| (before..=after).contains(at)) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{before:?} {arrivals:?} {after:?}");
        }
    }

    #[test]
    fn errors_are_taken_with_the_payload_that_caused_them() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            // A port that was free, and is closed.
            let closed = std::net::UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).expect("a port");
            let socket = UdpSocket::from_std(connect(closed, SIZES, &Egress::default()).expect("connected"));
            let mut linux = Linux::new(&socket);
            assert!(enable_error_reports(&socket));
            assert_eq!(take_error_report(&socket), None);
            let outgoing = |payload| [Outgoing::new(closed, None, [payload, b"", b""])];
            assert_eq!(linux.send(&socket, &outgoing(b"first")).count, 1);
            let start = Instant::now();
            let report = loop {
                match take_error_report(&socket) {
                    Some(report) => break report,
                    None => assert!(start.elapsed() < Duration::from_secs(60)),
                }
            };
            let payload = b"first".to_vec();
            assert_eq!(report, ErrorReport { error: IcmpError::PortUnreachable, offender: Some(ip), payload });
            // A taken error is not returned by a call.
            assert_eq!(linux.send(&socket, &outgoing(b"second")).count, 1);
        }
    }
}
