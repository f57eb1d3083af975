//! A UDP responder on a hand-rolled [mio](https://docs.rs/mio) poll loop, and the other end to test it with. This page is the tour.
//!
//! # The path of a datagram
//! | poll ──> | [`Reactor`] ──> | [`Endpoint`] ──> | [`receive`] ──> | [`Guard`] ──> | [`ReplyTemplate`] ──> | [`send`] ──> wire |
//! |-|-|-|-|-|-|-|
//! | | who is ready | one socket | a batch into the [`ReceiveBatch`] | may it be answered? | what is the answer? | runs of equal replies as one |
//! | | | ↑ writable again | | | [`ReplyQueue`] <── | ↓ would block |
//!
//! # In which order to read
//! 1. [`reactor`]: one turn of the loop, top to bottom. Then [`shutdown`](reactor::shutdown): how Ctrl+C gets in.
//! 2. [`server::endpoint`]: the state table, and what a turn does with one socket.
//! 3. [`net`]: the contract, first in its [`portable`](net::portable) form, then in its [`linux`](net::linux)
//!    one, with [`gso`](net::gso) for what leaves as one.
//! 4. [`guard`], [`server::reply`], [`server::reply_queue`], [`server::statistics`]: pure, each on its own.
//! 5. [`logging::writer`]: a log that the loop cannot be stopped by. [`client`]: the other end, on the same [`net`].
//!
//! # What always holds
//! 1. Readiness is state, which only a drained socket clears: [`Endpoint`]; and why a short batch means that it is:
//!    [`linux`](net::linux).
//! 2. No datagram, and no error of one, ends the loop: [`Endpoint`].
//! 3. A socket whose replies wait is not read, so memory is bounded: [`ReplyQueue`].
//! 4. WRITABLE is wanted exactly while replies wait, and they leave in order, to each peer: [`Endpoint`].
//! 5. A turn is bounded, so a flood on one socket delays the others by milliseconds: [`Reactor`].
//! 6. Every datagram ends in exactly one way, and is counted there: [`Statistics`](server::Statistics).
//! 7. Nothing in the loop blocks: [`LogWriter`](logging::writer::LogWriter), and the sockets do not by themselves.
//! 8. A warm loop allocates nothing for a datagram: [`SendBatch`](net::SendBatch), `tests/allocation.rs`.
//!
//! The types say more, and name the tests that would notice; `server/simulation.rs` defends the first six at once.
//!
//! # Compared with Tokio
//! | Tokio | here |
//! |---|---|
//! | the reactor | the [`Reactor`]'s poll, and a slab of endpoints by token |
//! | a task | an [`Endpoint`]: its fields are what an `async fn` would keep across `.await` |
//! | the run queue | the line of endpoints that want a turn |
//! | the cooperative budget | one [`ReceiveBatch`] a turn |
//! | a `Waker` | the `readable` and `writable` flags, set by events; between threads, [`Shutdown`](reactor::shutdown::Shutdown)'s `mio::Waker` |
//! | `readable().await`, `try_recv`, `WouldBlock` | readable, [`receive`], [`Drained`](net::Received::Drained) |
//!
//! A runtime would add timers, tasks that wait for each other, and many kinds of them in one program. This one waits
//! for sockets only, and pays neither for a task per datagram nor, where datagrams come
//! together, for one read too many to learn that a socket is empty.
//!
//! # As a library
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
//! [`Reactor`]: reactor::Reactor
//! [`Endpoint`]: server::endpoint::Endpoint
//! [`receive`]: net::Transport::receive
//! [`send`]: net::Transport::send
//! [`ReceiveBatch`]: net::ReceiveBatch
//! [`Guard`]: guard::Guard
//! [`ReplyTemplate`]: server::ReplyTemplate
//! [`ReplyQueue`]: server::reply_queue::ReplyQueue

pub mod client;
mod guard;
mod host_port;
pub mod logging;
mod lookup;
mod net;
pub mod reactor;
pub mod server;
