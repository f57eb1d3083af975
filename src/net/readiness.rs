//! Tests that no readiness event is lost: senders race a receiver that, after [`Received::Drained`], receives again
//! only after an event of a real, edge-triggered poll. If an event were missing, the receiver would wait until the
//! time-out.
//!
//! The senders send bursts, and the next one only when everything has been received. So the receiver sees the socket
//! empty again and again, often while the rest of a burst arrives, and no later datagram makes up for a lost event.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::{
    BufferSizes, Egress, IoBackend, Outgoing, PortSharing, ReceiveBatch, Received, Socket, Transport, bind, connect,
};

/// How long the senders of a race send.
const RACE: Duration = Duration::from_millis(1_500);

/// An event that has not come after this time while datagrams wait is lost.
const LOST: Duration = Duration::from_secs(20);

/// How many datagrams a sender sends at most before it waits. They never fill the receive buffer.
const BURST: usize = 4;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

const SIZES: BufferSizes = BufferSizes { receive: 1 << 20, send: 1 << 20 };

/// The datagrams of one sender.
#[derive(Debug, Default)]
struct Flow {
    sent: AtomicUsize,
    received: AtomicUsize,
}

/// Some senders and the end of their race.
#[derive(Debug, Default)]
struct Race {
    flows: [Flow; 3],
    is_over: AtomicBool,
}

impl Race {
    fn in_flight(&self) -> usize {
        // In this order, since both only grow.
        let received: usize = self.flows.iter().map(|flow| flow.received.load(SeqCst)).sum();
        self.flows.iter().map(|flow| flow.sent.load(SeqCst)).sum::<usize>() - received
    }

    /// Waits until nothing is in flight; returns whether the race continues.
    fn wait(&self) -> bool {
        while self.in_flight() > 0 && !self.is_over.load(SeqCst) {
            thread::yield_now();
        }
        !self.is_over.load(SeqCst)
    }

    /// Calls `send` with 1 to 4 whenever nothing is in flight, until the race is over.
    fn send(&self, flow: usize, mut send: impl FnMut(usize)) {
        for count in (1..=BURST).cycle().take_while(|_| self.wait()) {
            // They may be received before `send` returns.
            self.flows[flow].sent.fetch_add(count, SeqCst);
            send(count);
        }
    }

    /// Receives until the senders have ended and everything has arrived; returns how many receives failed.
    fn receive(
        &self,
        mut socket: Socket,
        mut senders: Vec<thread::ScopedJoinHandle<'_, ()>>,
        flow_of: impl Fn(SocketAddr, &[u8]) -> usize,
    ) -> usize {
        let _end = EndOnDrop(&self.is_over);
        let mut poll = Poll::new().expect("a poll");
        poll.registry().register(&mut socket, Token(0), Interest::READABLE).expect("registered");
        let (mut events, mut batch) = (Events::with_capacity(8), ReceiveBatch::new());
        let (start, mut readable, mut failures) = (Instant::now(), false, 0);
        loop {
            if start.elapsed() > RACE {
                self.is_over.store(true, SeqCst);
                senders.drain(..).for_each(|sender| sender.join().expect("a sender"));
                if self.in_flight() == 0 {
                    break;
                }
            }
            if !readable {
                match poll.poll(&mut events, Some(LOST)) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    result => result.expect("polled"),
                }
                let waiting = self.in_flight();
                assert!(!events.is_empty() || waiting == 0, "no event, but {waiting} datagrams wait: {:?}", self.flows);
            }
            let received = socket.receive(&mut batch);
            for datagram in batch.datagrams() {
                self.flows[flow_of(datagram.source, datagram.payload)].received.fetch_add(1, SeqCst);
            }
            readable = !matches!(received, Received::Drained);
            if let Received::Failed(error) = received {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                failures += 1;
            }
        }
        assert!(matches!(socket.kernel_drops(), None | Some(0)), "{:?} dropped", socket.kernel_drops());
        assert!(self.flows.iter().all(|flow| flow.sent.load(SeqCst) > 0));
        failures
    }
}

/// Ends a race, so that its senders end when the receiver panics.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn next_datagram_of_a_drained_socket_raises_an_event() {
    for io in [IoBackend::Portable, IoBackend::Auto] {
        let (socket, _) = bind(LOOPBACK.into(), SIZES, PortSharing::Exclusive, IoBackend::Auto).expect("a free port");
        let target = socket.local_addr().expect("an address");
        let open = || {
            Socket::new(connect(target, SIZES, &Egress::default()).expect("connected"), IoBackend::Auto)
                .expect("a socket")
        };
        let mut peers = [open(), open(), open()];
        let addresses = peers.each_ref().map(|peer| peer.local_addr().expect("an address"));
        let race = Race::default();
        thread::scope(|scope| {
            let senders = (0..).zip(&mut peers).map(|(flow, peer)| {
                let race = &race;
                scope.spawn(move || {
                    race.send(flow, |count| {
                        let datagram = |length| Outgoing::new(target, None, [&[7; 100][..length], b"", b""]);
                        let sent: usize = match flow {
                            // One segmented send, which arrives coalesced.
                            0 => peer.send(&[datagram(100); BURST][..count]).count,
                            // Single datagrams, empty ones among them.
                            _ => (0..count).map(|i| peer.send(&[datagram(i * flow)]).count).sum(),
                        };
                        assert_eq!(sent, count);
                    });
                })
            });
            let senders = senders.collect();
            let flow_of = |source, _: &[u8]| addresses.iter().position(|peer| *peer == source).expect("a peer");
            race.receive(Socket::new(socket, io).expect("a socket"), senders, flow_of);
        });
    }
}

#[test]
fn icmp_errors_of_a_connected_socket_hide_no_datagram() {
    for io in [IoBackend::Portable, IoBackend::Auto] {
        // A peer that is connected elsewhere: it can send to the socket, and what it is sent causes an ICMP error.
        let (peer, _) = bind(LOOPBACK.into(), SIZES, PortSharing::Exclusive, IoBackend::Auto).expect("a free port");
        let elsewhere = UdpSocket::bind(LOOPBACK).expect("a free port");
        peer.connect(elsewhere.local_addr().expect("an address")).expect("connected");
        let socket = connect(peer.local_addr().expect("an address"), SIZES, &Egress::default()).expect("connected");
        let target = socket.local_addr().expect("an address");
        let provoker = socket.try_clone().expect("a copy");
        let race = Race::default();
        let failures = thread::scope(|scope| {
            let (race, peer) = (&race, &peer);
            let send = |flow| {
                let send = move |_| assert_eq!(peer.send_to(&[flow as u8], target).expect("sent"), 1);
                scope.spawn(move || race.send(flow, |count| (0..count).for_each(send)))
            };
            let mut senders = vec![send(0), send(1), send(2)];
            senders.push(scope.spawn(move || {
                while race.wait() {
                    // It fails when it takes the error that the previous one has caused.
                    let _ = provoker.send(b"?");
                    // Linux sends 1,000 ICMP errors per second; other tests need some of them.
                    thread::sleep(Duration::from_millis(4));
                }
            }));
            race.receive(Socket::new(socket, io).expect("a socket"), senders, |_, payload| payload[0].into())
        });
        assert!(failures > 0, "no ICMP error came");
    }
}
