//! A UDP server on a hand-rolled [mio](https://docs.rs/mio) poll loop, a client to test any UDP server with, and a
//! relay that behaves like a bad network. This page is the tour of the code.
//!
//! # The path of a datagram
#![doc = include_str!("datagram_path.svg")]
//!
//! 1. The [`Reactor`] polls. An event marks the socket's [`Endpoint`] as readable, and the endpoint is queued for a
//!    turn.
//! 2. In its turn the endpoint [receives](net::Transport::receive) one batch into a [`ReceiveBatch`] that all endpoints
//!    of a worker share. What the kernel has coalesced stays together: a [`Run`](net::Run) of datagrams, often a single
//!    one, is what the next steps handle at once.
//! 3. The [`Guard`] decides whether the datagrams of a run may be answered: a reply to a spoofed source hurts a third
//!    party. If it refuses some of them, the run is cut there.
//! 4. The [`ReplyTemplate`] makes the replies: slices of the template and of the run, nothing is copied. With
//!    [impairments](impair), they pass a [`Link`](impair::Link) one by one, which loses, delays or damages them.
//! 5. The replies of the batch are [sent](net::Transport::send) together. A run passes through the kernel as one
//!    packet, and single replies of equal length to one peer join into one.
//! 6. Where a send would block, the requests of the rest are copied to the [`ReplyQueue`], and the socket is not read
//!    until a writable event has let the queue drain. This is the back-pressure: what arrives meanwhile waits in the
//!    kernel's receive buffer.
//!
//! # Glossary
//!
//! | term | meaning |
//! |---|---|
//! | readiness | What an event reported, *readable* or *writable*, kept as state until an operation would block. |
//! | drained | A receive has seen the socket empty, so the next datagram raises an event. A *short* batch, with fewer messages than its system call asked for, is the proof on Linux. |
//! | task | What the reactor gives turns to: a socket, a schedule, a clock. |
//! | turn | A bounded amount of work for one task. |
//! | to settle, to touch | To ask a task what it wants and act on it; to have that done for a task that another one changed. |
//! | worker | A reactor of the server with its endpoints, in one thread. |
//! | endpoint | A socket of the server with its service and the replies that wait for it. |
//! | message | What one slot of a receive or of a send holds: one datagram, or several that the kernel coalesced (GRO) or will split (GSO). |
//! | segment | One of the datagrams of such a message. |
//! | run | Consecutive datagrams of one peer and one length, of which the last may be shorter; a single datagram is a run of one. A message is received as a run, and can be answered with one. |
//! | batch | The messages of one receive, or the datagrams of one send. |
//! | refusal | A datagram that is not answered on purpose, and why. |
//! | statistics | The counts of how datagrams ended; every datagram ends in exactly one way. |
//! | probe, answer | A datagram of the client, and one that came back. |
//! | outcome | How a probe ended: answered, late, lost, refused, truncated or altered. |
//! | link, impairment | One direction of a simulated network path, and what it does to datagrams. |
//! | flow | The datagrams within which order counts: those of one peer to one local address. |
//! | session | A client of a relay, and the socket that is connected to the target for it; of STAMP, the packets with one identifier between two ports. |
//! | reflector, up, down | What returns the packets of STAMP, and the ways to it and back. |
//! | closed, open loop | A load that waits for answers before it sends, and one that sends on a schedule. |
//!
//! # Reading order
//!
//! 1. [`reactor`]: one iteration of the loop, top to bottom; then [`shutdown`](reactor::shutdown), how Ctrl+C reaches
//!    the loop.
//! 2. [`server::endpoint`]: the states of an endpoint, and what a turn does; [`server::worker`], which puts endpoints
//!    on a reactor.
//! 3. [`net`]: the contract for moving datagrams, first in its [`portable`](net::portable) form, then in that for
//!    [`linux`](net::linux), with [`gso`](net::gso) for what can leave as one. Why a short batch means drained is
//!    explained in `linux`.
//! 4. Pure parts, each on its own: [`guard`], [`server::reply`], [`server::reply_queue`], [`server::statistics`],
//!    [`impair`], [`stamp`].
//! 5. [`logging`]: a log that cannot block the loop. [`client`]: the other end, and [`relay`], what stands in between,
//!    on the same reactor and [`net`]. [`metrics`]: an HTTP server as a few more tasks of the loop that it shows;
//!    [`service_manager`]: systemd.
//!
//! # Invariants
//!
//! Each links to its owner.
//!
//! 1. Readiness is state: an event sets it, only a receive that drained the socket clears it. [`Endpoint`]
//! 2. No datagram, and no error of a single datagram, ends the loop. [`Endpoint`]
//! 3. A socket whose replies wait is not read, so memory is bounded. [`ReplyQueue`]
//! 4. WRITABLE interest is registered exactly while replies wait; replies to one peer leave in order. [`Endpoint`]
//! 5. A turn is bounded: a flood on one socket delays the others by milliseconds. [`reactor`]
//! 6. Every datagram ends in exactly one way, and is counted there. [`Statistics`](server::Statistics)
//! 7. Nothing in the loop blocks. [`LogWriter`](logging::writer::LogWriter)
//! 8. A warm loop allocates nothing per datagram. [`SendBatch`](net::SendBatch), `tests/allocation_server.rs`,
//!    `tests/allocation_relay.rs`
//! 9. A deadline is never early, and gives a turn once. [`reactor`]
//! 10. The same seed and the same arrivals, their times included, give the same impairment. [`impair`]
//!
//! `server::simulation`, a test of the real endpoint over a scripted network, defends the first six together.
//!
//! # Compared with Tokio
//!
//! | Tokio | here | why different |
//! |---|---|---|
//! | reactor (I/O driver) | [`Reactor`] | The loop is the subject, and small enough to be read in one sitting. |
//! | task | a name, and state in a [`Handler`] | A future hides its state and is allocated and pinned; a struct shows its state, and can share buffers with others without locks. |
//! | `.await` | the end of a [turn](reactor::Handler::take_turn) | The fields of an [`Endpoint`] are what an `async fn` would keep across an `.await`. |
//! | run queue | the ready queue | The same, for one thread; a second worker has a reactor of its own, so nothing is stolen or shared. |
//! | cooperative budget | a turn sends at most what waits and handles at most one batch | A batch is the natural unit: one receive and one send. |
//! | `Waker` | the [`Wants`] of a task | Asking a task what it wants, after its events and turns, replaces waking it; a task that changes another one [touches](reactor::Reactor::touch) it. Between threads, [`Shutdown`] has a `mio::Waker`. |
//! | timer wheel | a min-heap with lazy deletion | Most deadlines move later, which only re-pushes an entry when it surfaces. A wheel rounds to milliseconds; a timerfd does not. |
//! | `readable().await`, `try_recv` | [readiness](reactor#readiness-is-state), [`receive`], [`Drained`] | One receive returns a batch and whether the socket is empty, which saves the call that would only report `WouldBlock`. |
//!
//! # Features
//!
//! | feature | default | adds | dependencies |
//! |---|---|---|---|
//! | (none) | | [`reactor`], [`net`], [`server`], [`metrics`] | httparse, libc, log, mio, slab, socket2; nix on Linux |
//! | `serde` | | reports implement `serde::Serialize` | serde |
//! | `client` | | [`client`]: send, ping, bench, report; implies `serde` and `stamp` | base64, console, hdrhistogram, humantime, indicatif, plotters, serde_json; signal-hook on Unix |
//! | `stamp` | yes | [`stamp`]: the service `stamp`; with `client`, which implies it, also `ping --stamp` | hmac, sha2 |
//! | `impair` | yes | [`impair`]: bad links, for the replies of a server and in a [`relay`] | rand_distr, rand_xoshiro |
//! | `cli` | yes | the program, [`logging::writer`], `Shutdown::on_signals`; implies `client` and `impair` | clap, clap_complete, ctrlc, roff, simple_logger |
//!
//! # As a library
//!
//! ```
//! use std::{net::UdpSocket, thread};
//! use udpong::{reactor::shutdown::Shutdown, server::{Options, Server}};
//!
//! let shutdown = Shutdown::new();
//! let server = Server::bind(&["echo@127.0.0.1:0".parse()?], Options::default(), shutdown.clone())?;
//! let address = server.addresses()[0];
//! let running = thread::spawn(move || server.run());
//!
//! let client = UdpSocket::bind("127.0.0.1:0")?;
//! client.send_to(b"ping", address)?;
//! let mut answer = [0; 16];
//! let (length, _) = client.recv_from(&mut answer)?;
//! assert_eq!(&answer[..length], b"ping");
//!
//! shutdown.request();
//! let (report, result) = running.join().expect("no panic");
//! result?;
//! assert_eq!(report.endpoints[0].statistics.answered, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Drained`]: net::Received::Drained
//! [`Endpoint`]: server::endpoint::Endpoint
//! [`Guard`]: guard::Guard
//! [`Handler`]: reactor::Handler
//! [`Reactor`]: reactor::Reactor
//! [`ReceiveBatch`]: net::ReceiveBatch
//! [`ReplyQueue`]: server::reply_queue::ReplyQueue
//! [`ReplyTemplate`]: server::ReplyTemplate
//! [`Shutdown`]: reactor::shutdown::Shutdown
//! [`Wants`]: reactor::Wants
//! [`receive`]: net::Transport::receive

#![deny(unsafe_code)]
// Input must not cause a panic, and only the command line and the clients write output.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)
)]

#[cfg(feature = "client")]
pub mod client;
mod counts;
mod guard;
mod host_port;
pub mod impair;
pub mod logging;
mod lookup;
pub mod metrics;
pub mod net;
mod parse_error;
pub mod reactor;
#[cfg(feature = "impair")]
pub mod relay;
pub mod server;
pub mod service_manager;
#[cfg(feature = "stamp")]
pub mod stamp;
