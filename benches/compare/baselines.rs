//! The echo servers and the relay that udpong is measured against, as the documentation of each library writes them.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

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

/// Prints the address of a baseline and runs it forever. A relay has a target.
pub fn run(name: &str, target: Option<&str>) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    match name {
        "std" => run_std(&socket),
        "mio" => run_mio(socket),
        "tokio" => tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(run_tokio(socket)),
        "tokio relay" => {
            let target = target.and_then(|target| target.parse().ok()).ok_or_else(|| io::Error::other("no target"))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(run_tokio_relay(socket, target))
        }
        _ => Err(io::Error::other(format!("there is no baseline {name}"))),
    }
}

/// A relay on Tokio and one thread: for each client a connected socket, and a task for the answers.
async fn run_tokio_relay(socket: UdpSocket, target: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
    let mut sessions: HashMap<SocketAddr, Arc<tokio::net::UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        let session = match sessions.get(&client) {
            Some(session) => session,
            None => {
                let session = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await?);
                session.connect(target).await?;
                tokio::spawn(answer(Arc::clone(&socket), Arc::clone(&session), client));
                sessions.entry(client).or_insert(session)
            }
        };
        session.send(&buffer[..length]).await?;
    }
}

async fn answer(socket: Arc<tokio::net::UdpSocket>, session: Arc<tokio::net::UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; 65_535];
    while let Ok(length) = session.recv(&mut buffer).await {
        let _ = socket.send_to(&buffer[..length], client).await;
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
