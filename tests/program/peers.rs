//! Responders that are not ours, each on a free port of 127.0.0.1.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use crate::harness::wait_until;

/// A responder that ends with the test.
pub struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    /// A Python program; `server` is its socket, and `answer(n, data, to)` is called for the n-th datagram, from 1.
    pub fn python(body: &str) -> Self {
        let program = format!(
            "
import socket, sys, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
server.bind(('127.0.0.1', 0))
{body}
print(server.getsockname()[1], flush=True)
n = 0
while True:
    data, to = server.recvfrom(65535)
    n += 1
    answer(n, data, to)
"
        );
        let mut command = Command::new("python3");
        let mut child = command.arg("-c").arg(program).stdout(Stdio::piped()).spawn().expect("python3");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut port).expect("a port");
        let port: u16 = port.trim().parse().expect("a port");
        Self { child, address: ([127, 0, 0, 1], port).into() }
    }

    /// A command in whose arguments `PORT` stands for the port that it shall listen on.
    pub fn command(program: &str, arguments: &[&str]) -> Self {
        let address = free_address();
        let port = address.port().to_string();
        let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port));
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().expect("an installed program");
        wait_until("the peer listens", || listens(address.port()).then_some(()));
        Self { child, address }
    }

    /// As a target on the command line.
    pub fn target(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens on yet.
fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

/// An address that nobody listens on, nor will: the other tests, which run meanwhile and take free ports, do so on
/// 127.0.0.1.
pub fn closed_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.99:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

/// Whether some UDP socket of this machine has the port, asked without taking it.
fn listens(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/self/net/udp").expect("a table of sockets");
    table.lines().any(|line| line.split_ascii_whitespace().nth(1).is_some_and(|local| local.ends_with(&wanted)))
}
