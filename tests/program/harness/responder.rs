//! Responders other than udpong, each on a free port of 127.0.0.1.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use super::wait_until;

/// A running responder, killed when it is dropped.
pub struct Responder {
    child: Child,
    address: SocketAddr,
}

impl Responder {
    /// Starts a Python program that calls `answer(n, data, to)` for the n-th datagram, from 1. Its socket is `server`.
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

    /// Starts dnsmasq, which answers queries for `domain` and what is below it with 192.0.2.7.
    pub fn name_server(domain: &str) -> Self {
        let address = format!("--address=/{domain}/192.0.2.7");
        let fixed = ["--keep-in-foreground", "--port=PORT", "--listen-address=127.0.0.1", "--bind-interfaces"];
        let files = ["--no-resolv", "--no-hosts", "--pid-file=", "--conf-file=/dev/null", &address];
        Self::command("dnsmasq", &[&fixed[..], &files[..]].concat())
    }

    /// Starts a command. `PORT` in its arguments stands for the port to listen on.
    pub fn command(program: &str, arguments: &[&str]) -> Self {
        let address = free_address("127.0.0.1:0");
        let port = address.port().to_string();
        let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port));
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().expect("an installed program");
        wait_until("the responder listens", || is_bound(address.port()).then_some(()));
        Self { child, address }
    }

    /// Returns its address as a target on the command line.
    pub fn target(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns an address that nobody listens on. Not one of 127.0.0.1, whose free ports other tests take meanwhile.
pub fn closed_address() -> SocketAddr {
    free_address("127.0.0.99:0")
}

fn free_address(any_port: &str) -> SocketAddr {
    UdpSocket::bind(any_port).and_then(|socket| socket.local_addr()).expect("a free port")
}

/// Whether an IPv4 UDP socket is bound to a port, without taking it.
fn is_bound(port: u16) -> bool {
    let port = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/self/net/udp").expect("a table of sockets");
    table.lines().any(|line| line.split_ascii_whitespace().nth(1).is_some_and(|local| local.ends_with(&port)))
}
