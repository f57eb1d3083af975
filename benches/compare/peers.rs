//! Echo servers as their communities write them, to measure udpong against.

use std::io;
use std::net::UdpSocket;

/// The fifth exercise.
pub const PYTHON: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 0))
print('127.0.0.1:%d' % server.getsockname()[1], flush=True)
while True:
    data, address = server.recvfrom(65535)
    server.sendto(data, address)
";

/// Runs the peer of that name for ever, after it has printed its address.
pub fn run(name: &str) -> io::Result<()> {
    match name {
        "std" => blocking(),
        "mio" => polling(),
        "tokio" => tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(awaiting()),
        _ => Err(io::Error::other(format!("there is no peer {name}"))),
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    Ok(socket)
}

/// The standard library alone.
fn blocking() -> io::Result<()> {
    let socket = socket()?;
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}

/// mio, one datagram at a time, as its own example does it.
fn polling() -> io::Result<()> {
    let socket = socket()?;
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

/// Tokio on one thread, as its own example does it.
async fn awaiting() -> io::Result<()> {
    let socket = socket()?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..length], peer).await?;
    }
}
