//! The echo servers that udpong is measured against, as the documentation of each library writes them.

use std::io;
use std::net::UdpSocket;

/// The fifth exercise, which prints its address first.
pub const PYTHON: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 0))
print('127.0.0.1:%d' % server.getsockname()[1], flush=True)
while True:
    data, address = server.recvfrom(65535)
    server.sendto(data, address)
";

/// Prints the address of a baseline and runs it forever.
pub fn run(name: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    match name {
        "std" => run_std(&socket),
        "mio" => run_mio(socket),
        "tokio" => tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(run_tokio(socket)),
        _ => Err(io::Error::other(format!("there is no baseline {name}"))),
    }
}

/// The standard library, blocking.
fn run_std(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}

/// mio, one datagram per system call.
fn run_mio(socket: UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut socket = mio::net::UdpSocket::from_std(socket);
    let mut poll = mio::Poll::new()?;
    let mut events = mio::Events::with_capacity(64);
    poll.registry().register(&mut socket, mio::Token(0), mio::Interest::READABLE)?;
    let mut buffer = vec![0; 65_535];
    loop {
        poll.poll(&mut events, None)?;
        for _ in &events {
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, peer)) => drop(socket.send_to(&buffer[..length], peer)?),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Tokio on one thread.
async fn run_tokio(socket: UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..length], peer).await?;
    }
}
