//! Floods a server from sockets that read no replies.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::wait_until;

/// Where the sockets of a flood are bound. Replies may still arrive when such a socket is closed and its port is free
/// again; nearly all other sockets of the tests are bound to 127.0.0.1, which these replies do not reach.
pub const FLOOD_SOURCE: (&str, u16) = ("127.0.0.98", 0);

/// Sends a message `count` times, as fast as possible.
pub fn flood(to: SocketAddr, message: &[u8], count: u64) {
    let socket = UdpSocket::bind(FLOOD_SOURCE).expect("a free port");
    for _ in 0..count {
        socket.send_to(message, to).expect("sent");
    }
}

/// Floods an address from two threads until it is dropped.
pub struct Flood {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Returns when the first datagrams have left, which may take a while on a busy machine.
    pub fn start(to: SocketAddr, message: &'static [u8]) -> Self {
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = || {
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            thread::spawn(move || {
                let socket = UdpSocket::bind(FLOOD_SOURCE).expect("a free port");
                while !over.load(Ordering::Relaxed) {
                    socket.send_to(message, to).expect("sent");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let flood = Self { threads: vec![start(), start()], over, sent };
        wait_until("the flood has begun", || (flood.sent() > 0).then_some(()));
        flood
    }

    /// Returns how many datagrams have been sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the flood and returns how many datagrams were sent.
    pub fn stop(mut self) -> u64 {
        self.join();
        self.sent()
    }

    fn join(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a flooding thread"));
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.join();
    }
}
