//! What a platform implements to move the datagrams of a socket.

use std::fmt::Debug;

use mio::net::UdpSocket;

use super::{Outgoing, ReceiveBatch, Received, Sent};

/// What a platform implements: the two verbs of [`Transport`](super::Transport), and what it can do.
pub trait Datapath: Debug + Send {
    /// See [`Transport::receive`](super::Transport::receive).
    fn receive(&mut self, socket: &UdpSocket, inbox: &mut ReceiveBatch) -> Received;

    /// See [`Transport::arrange`](super::Transport::arrange).
    fn arrange(&mut self, _datagrams: &mut [Outgoing<'_>]) {}

    /// See [`Transport::send`](super::Transport::send).
    fn send(&mut self, socket: &UdpSocket, datagrams: &[Outgoing<'_>]) -> Sent;

    /// Whether it learns which address a datagram was sent to, wherever that is in doubt.
    fn knows_local_address(&self) -> bool;

    /// What it does, in a few words for the log.
    fn describe(&self) -> String;
}
