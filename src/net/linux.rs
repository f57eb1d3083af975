//! Linux: many datagrams a system call, and runs of them through the network stack as one.
//!
//! Of what an answer costs, the kernel's work for each packet is nearly all, so the lever is to have fewer, larger
//! packets in there: `UDP_GRO` hands over datagrams of one sender coalesced, `UDP_SEGMENT` takes a run of replies
//! of one length as one (see udp(7); `runs` decides what is a run). recvmmsg(2) and sendmmsg(2) save
//! system calls on top.
//!
//! # Why a short batch means that the socket is drained
//!
//! recvmmsg(2) on a non-blocking socket comes back with fewer messages than it was prepared for only after it has seen
//! the queue empty, and what arrives later raises a new edge: there is no need to ask again only to hear `EAGAIN`,
//! except after a datagram that came alone, which is answered first.
//! On a connected socket a peer's ICMP error ends a batch too. But an error that was there before the call is told at
//! once, with no message, so this one came during the call: it has raised a new edge, which also brings back what it hid.
//!
//! # How a message and what stands beside it are laid out
//!
//! ```text
//!  mmsghdr[i]                                  the arrays lie on the stack, for one call
//! ┌──────────┐   ┌──────────────────────┐
//! │ name     │──>│ source or destination│
//! │ iov      │──>│ iovec, iovec, …      │──> a slot of the inbox, or the parts of the replies
//! │ control  │──>│ ControlMessages              │    received: UDP_GRO's segment length, packet info
//! │ msg_len  │   └──────────────────────┘    sent: UDP_SEGMENT's length, packet info
//! └──────────┘
//! ```
//!
//! This is the crate's only `unsafe` code.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use mio::net::UdpSocket;

use super::cmsg::ControlMessages;
use super::datapath::Datapath;
use super::gso::{Arranger, LONGEST_SEGMENT, run_length};
use super::portable::Portable;
use super::receive_batch::SLOTS;
use super::sockaddr::SockaddrBuf;
use super::{Outgoing, ReceiveBatch, Received, Sent};

/// How many runs one system call sends at the most.
const RUNS: usize = 64;

/// How many pieces of memory one system call sends at the most; the longest run has 192.
const PIECES: usize = 512;

/// Receives and sends in batches, coalesced and segmented as far as the kernel allows it.
#[derive(Debug)]
struct Segmented {
    /// The kernel may hand over several datagrams as one message.
    coalesces: bool,
    /// The kernel cuts messages into datagrams.
    segments: bool,
    /// The kernel says which address a datagram was sent to.
    packet_info: bool,
    wildcard: bool,
    connected: bool,
    /// How many messages to be prepared for.
    expected: usize,
    /// How many datagrams of a run that failed are still to go one by one.
    alone: usize,
    arranger: Arranger,
    /// For a small datagram with nothing beside it: the plain call costs less than a batch of one.
    plain: Portable,
}

/// The segmented datapath for a socket.
pub(super) fn datapath(socket: &std::net::UdpSocket) -> io::Result<Box<dyn Datapath>> {
    let local = socket.local_addr()?;
    let fd = socket.as_raw_fd();
    let wildcard = local.ip().is_unspecified();
    let connected = socket.peer_addr().is_ok();
    // Only a wildcard address leaves in doubt where a datagram was sent to; packet info costs 5 %.
    let packet_info = wildcard
        && match local {
            SocketAddr::V4(_) => set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
            // Both, since IPv4 peers come here too.
            SocketAddr::V6(_) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1).and(set_option(
                fd,
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                1,
            )),
        }
        .is_ok();
    Ok(Box::new(Segmented {
        coalesces: set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok(),
        // Sets what is set already: no segmenting but where a send asks for it.
        segments: set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok(),
        packet_info,
        wildcard,
        connected,
        expected: 2,
        alone: 0,
        arranger: Arranger::default(),
        // A client's datagrams have one part.
        plain: Portable::new(socket).with_room(if connected { 0 } else { LONGEST_SEGMENT }),
    }))
}

impl Datapath for Segmented {
    fn receive(&mut self, socket: &UdpSocket, inbox: &mut ReceiveBatch) -> Received {
        inbox.clear();
        while inbox.room() > 0 {
            let wanted = self.expected.min(inbox.room());
            match socket.try_io(|| receive_messages(socket.as_raw_fd(), inbox, wanted)) {
                // Where datagrams come one at a time, each is answered before there is another look.
                Ok(1) if self.expected == 1 => {
                    self.expected = 2;
                    return Received::More;
                }
                Ok(count) if count == wanted => self.expected = SLOTS.min(2 * self.expected),
                Ok(count) => {
                    self.expect_after(count);
                    // The head of this file says why.
                    return Received::Drained;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        if inbox.messages() == 0 {
                            self.expect_after(0);
                        }
                        return Received::Drained;
                    }
                    _ => return Received::Failed(error),
                },
            }
        }
        // Large messages fill it sooner, and need not have as many slots ready.
        self.expected = self.expected.min(inbox.messages());
        Received::More
    }

    fn arrange(&mut self, datagrams: &mut [Outgoing<'_>]) {
        if self.segments {
            self.arranger.arrange(datagrams);
        }
    }

    fn send(&mut self, socket: &UdpSocket, datagrams: &[Outgoing<'_>]) -> Sent {
        let mut done = 0;
        while done < datagrams.len() {
            let rest = &datagrams[done..];
            let sent = match rest {
                [lone] if lone.from.is_none() && lone.length() <= LONGEST_SEGMENT => {
                    self.plain.send_one(socket, lone).map(|()| 1)
                }
                _ => self.send_runs(socket, rest),
            };
            match sent {
                Ok(count) => {
                    done += count;
                    self.alone = self.alone.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A refusal is about an earlier datagram, and told once: it must not get lost in trying again.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {
                    return Sent { count: done, error: Some(error) };
                }
                Err(error) => match self.run_length(rest) {
                    // Its datagrams go one by one: each alone may pass (EMSGSIZE: a segment exceeds the path's MTU,
                    // where IP would fragment a single datagram; EINVAL, EIO: the route or the device does not segment;
                    // ENOBUFS), and if not, the error is its own.
                    run @ 2.. => self.alone = run,
                    _ => {
                        self.alone = self.alone.saturating_sub(1);
                        return Sent { count: done, error: Some(error) };
                    }
                },
            }
        }
        Sent { count: datagrams.len(), error: None }
    }

    fn knows_local_address(&self) -> bool {
        self.packet_info || !self.wildcard
    }

    fn describe(&self) -> String {
        let able = |able, what| if able { format!(", {what}") } else { String::new() };
        format!(
            "batches{}{}{}",
            able(self.coalesces, "coalesced receives"),
            able(self.segments, "segmented sends"),
            able(self.packet_info, "packet info")
        )
    }
}

impl Segmented {
    /// Chooses how many messages the next receive is prepared for, as preparing for more than come costs time.
    fn expect_after(&mut self, count: usize) {
        self.expected = match count {
            2.. => SLOTS.min(2 * count),
            // A client has what it waited for, and the place for a second one shows that there is none.
            _ if self.connected => 2,
            _ => 1,
        };
    }

    fn run_length(&self, datagrams: &[Outgoing<'_>]) -> usize {
        if self.segments && self.alone == 0 { run_length(datagrams) } else { datagrams.len().min(1) }
    }

    /// Sends the first runs of `datagrams` with one system call; returns how many datagrams left. An error
    /// concerns the first run; that of a later one shows when it has become the first.
    fn send_runs(&self, socket: &UdpSocket, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
        let mut batch = MessageBatch::new();
        let mut done = 0;
        while done < datagrams.len() {
            let run = &datagrams[done..done + self.run_length(&datagrams[done..])];
            if !batch.push(run) {
                break;
            }
            done += run.len();
        }
        let runs = socket.try_io(|| batch.send(socket.as_raw_fd(), self.connected))?;
        Ok(batch.runs[..runs].iter().map(|run| usize::from(run.datagrams)).sum())
    }
}

/// The runs that one sendmmsg(2) sends. Of the large arrays only the first entries are filled in: clearing them
/// would cost more than a batch of one saves.
struct MessageBatch<'a> {
    used: usize,
    runs: [Run; RUNS],
    names: [MaybeUninit<SockaddrBuf>; RUNS],
    controls: [MaybeUninit<ControlMessages>; RUNS],
    pieces: usize,
    iovecs: [MaybeUninit<libc::iovec>; PIECES],
    /// What the iovecs point to.
    parts: PhantomData<&'a [u8]>,
}

#[derive(Clone, Copy, Default)]
struct Run {
    datagrams: u8,
    pieces: u8,
    name_length: u8,
    control_length: u8,
}

impl<'a> MessageBatch<'a> {
    fn new() -> Self {
        Self {
            used: 0,
            runs: [Run::default(); RUNS],
            names: [const { MaybeUninit::uninit() }; RUNS],
            controls: [const { MaybeUninit::uninit() }; RUNS],
            pieces: 0,
            iovecs: [const { MaybeUninit::uninit() }; PIECES],
            parts: PhantomData,
        }
    }

    /// Adds a run, if there is room for it.
    fn push(&mut self, run: &[Outgoing<'a>]) -> bool {
        let Some(first) = run.first() else { return false };
        if self.used == RUNS || PIECES - self.pieces < 3 * run.len() {
            return false;
        }
        let mut control_length = 0;
        if run.len() > 1 || first.from.is_some() {
            let control = self.controls[self.used].write(ControlMessages::EMPTY);
            if run.len() > 1 {
                control.push_segment(first.length());
            }
            if let Some(from) = first.from {
                control.push_source(from);
            }
            control_length = control.as_bytes().len();
        }
        let name = SockaddrBuf::from(first.to);
        self.runs[self.used] = Run {
            // None of them comes near 256: see MOST_SEGMENTS, and three parts each.
            datagrams: run.len() as u8,
            pieces: self.push_pieces(run) as u8,
            name_length: name.length() as u8,
            control_length: control_length as u8,
        };
        self.names[self.used].write(name);
        self.used += 1;
        true
    }

    /// Adds the parts of a run, joined where they lie side by side, as the echoes of a coalesced message do.
    fn push_pieces(&mut self, run: &[Outgoing<'a>]) -> usize {
        let before = self.pieces;
        let mut piece: &[u8] = &[];
        let mut last = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        for part in run.iter().flat_map(|datagram| datagram.parts).filter(|part| !part.is_empty()) {
            if piece.as_ptr_range().end == part.as_ptr() {
                last.iov_len += part.len();
                self.pieces -= 1;
            } else {
                last = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
            }
            self.iovecs[self.pieces].write(last);
            self.pieces += 1;
            piece = part;
        }
        self.pieces - before
    }

    /// Sends the runs; returns how many of them left.
    fn send(&mut self, fd: RawFd, connected: bool) -> io::Result<usize> {
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; RUNS];
        let mut iovecs = self.iovecs.as_mut_ptr().cast::<libc::iovec>();
        for (i, run) in self.runs[..self.used].iter().enumerate() {
            let header = headers[i].write(empty_header());
            if !connected {
                header.msg_hdr.msg_name = self.names[i].as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = run.name_length.into();
            }
            if run.control_length > 0 {
                header.msg_hdr.msg_control = self.controls[i].as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = run.control_length as _;
            }
            header.msg_hdr.msg_iov = iovecs;
            header.msg_hdr.msg_iovlen = run.pieces as _;
            iovecs = iovecs.wrapping_add(run.pieces.into());
        }
        // SAFETY: the first `used` headers are filled in. They point to entries of our own arrays, filled in too,
        // and these to parts that are borrowed for as long as the batch lives; none of it moves before the call is over, and
        // the kernel writes to nothing but the headers' lengths.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr().cast(), self.used as libc::c_uint, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Receives at the most `wanted` messages with one system call; returns how many came.
fn receive_messages(fd: RawFd, inbox: &mut ReceiveBatch, wanted: usize) -> io::Result<usize> {
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SLOTS];
    let mut names = [const { MaybeUninit::<SockaddrBuf>::uninit() }; SLOTS];
    let mut controls = [const { MaybeUninit::<ControlMessages>::uninit() }; SLOTS];
    let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; SLOTS];
    let mut prepared: libc::c_uint = 0;
    for (i, slot) in inbox.slots().take(wanted).enumerate() {
        let iovec = iovecs[i].write(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
        let control = controls[i].write(ControlMessages::EMPTY).room();
        // Anew for each call: the kernel overwrites the lengths.
        let header = &mut headers[i].write(empty_header()).msg_hdr;
        header.msg_name = ptr::from_mut(names[i].write(SockaddrBuf::NONE)).cast();
        header.msg_namelen = SockaddrBuf::SPACE as libc::socklen_t;
        header.msg_iov = iovec;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() as _;
        prepared += 1;
    }
    // SAFETY: the first `prepared` headers are filled in. They
    // point to names, controls and iovecs of this function, and these to slots of the inbox, which nobody else can
    // use meanwhile; each with its true length.
    let count = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr().cast(), prepared, 0, ptr::null_mut()) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    for i in 0..count {
        // SAFETY: filled in above, and the kernel keeps what it writes there valid.
        let (header, name, control) =
            unsafe { (headers[i].assume_init_ref(), names[i].assume_init_ref(), controls[i].assume_init_mut()) };
        control.filled(header.msg_hdr.msg_controllen as _);
        let beside = control.read();
        let length = header.msg_len as usize;
        inbox.keep(length, beside.segment.unwrap_or(length), name.address(), beside.local);
    }
    Ok(count)
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: of integers and pointers, for all of which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// How many datagrams the kernel threw away for a socket since it was made, because its receive buffer was full
/// (`SO_MEMINFO`, since Linux 4.12). A control message beside each datagram (`SO_RXQ_OVFL`) would cost more,
/// and not tell what was dropped after the last one.
pub(super) fn kernel_drops(socket: &UdpSocket) -> Option<u64> {
    /// `SK_MEMINFO_DROPS` of linux/sock_diag.h, the last of these words.
    const DROPS: usize = 8;
    let mut words = [0_u32; DROPS + 1];
    let mut length = size_of_val(&words) as libc::socklen_t;
    let (value, fd) = (words.as_mut_ptr().cast(), socket.as_raw_fd());
    // SAFETY: the words live through the call, and their length is told.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, value, &raw mut length) };
    (result == 0 && length as usize == size_of_val(&words)).then(|| words[DROPS].into())
}

/// Raises the soft limit of open files to the hard one, or leaves it as it is.
pub(crate) fn raise_open_files_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value lives through the call, and its length is told.
    match unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(&value).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
