//! The contract of [`Transport`] as a test suite, run over real sockets with every implementation of the platform.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::receive_batch::SLOTS;
use super::{
    BufferSizes, IoBackend, LONGEST_PAYLOAD, Outgoing, PortSharing, ReceiveBatch, Received, SendBatch, Socket,
    Transport, bind,
};

/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a check with each implementation of this platform.
fn with_each(check: impl Fn(IoBackend)) {
    check(IoBackend::Portable);
    check(IoBackend::Auto);
}

fn bind_socket(address: &str, io: IoBackend) -> Socket {
    let sizes = BufferSizes { receive: 4 << 20, send: 4 << 20 };
    let (socket, _) =
        bind(address.parse().expect("an address"), sizes, PortSharing::Exclusive, io).expect("a free port");
    Socket::new(socket, io).expect("a socket")
}

fn peer(socket: &Socket, address: &str) -> UdpSocket {
    let peer = UdpSocket::bind(format!("{address}:0")).expect("a free port");
    let port = socket.local_addr().expect("an address").port();
    peer.connect(format!("{address}:{port}")).expect("connected");
    peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
    peer
}

fn next(peer: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_535];
    let length = peer.recv(&mut bytes).expect("a datagram");
    bytes.truncate(length);
    bytes
}

/// Receives until `count` datagrams have come: source, local address and payload.
fn receive(socket: &mut Socket, count: usize) -> Vec<(SocketAddr, Option<SocketAddr>, Vec<u8>)> {
    let (mut batch, mut datagrams) = (ReceiveBatch::new(), Vec::new());
    let start = Instant::now();
    while datagrams.len() < count {
        assert!(start.elapsed() < LIMIT, "{} of {count} came", datagrams.len());
        let received = socket.receive(&mut batch);
        assert!(!matches!(received, Received::Failed(_)), "{received:?}");
        datagrams.extend(batch.datagrams().map(|d| (d.source, d.local, d.payload.to_vec())));
    }
    datagrams
}

fn send_all(socket: &mut Socket, datagrams: &[Outgoing<'_>]) {
    let sent = socket.send(datagrams);
    assert_eq!(sent.count, datagrams.len(), "{:?}", sent.error);
}

/// Reports that a check is left out because this platform lacks something, which fails in CI.
fn leave_out(lacks: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{lacks}");
    eprintln!("left out, {lacks}");
}

#[test]
fn datagrams_of_every_length_arrive_whole_and_in_order() {
    with_each(|io| {
        for address in ["127.0.0.1", "[::1]"] {
            let mut socket = bind_socket(&format!("{address}:0"), io);
            let peer = peer(&socket, address);
            let messages: Vec<_> =
                [0, 1, 1472, 1473, 8192, LONGEST_PAYLOAD, 0, 3].iter().map(|n| vec![*n as u8; *n]).collect();
            messages.iter().for_each(|message| assert_eq!(peer.send(message).expect("sent"), message.len()));
            let received = receive(&mut socket, messages.len());
            let source = peer.local_addr().expect("an address");
            assert!(received.iter().all(|(from, _, _)| *from == source));
            assert!(received.iter().map(|(_, _, payload)| payload).eq(&messages));

            let parts = |message| Outgoing::new(source, None, [b"", message, b""]);
            let replies: Vec<_> = messages.iter().map(|message| parts(message.as_slice())).collect();
            send_all(&mut socket, &replies);
            messages.iter().for_each(|message| assert_eq!(&next(&peer), message));
        }
    });
}

#[test]
fn only_an_empty_socket_is_drained() {
    with_each(|io| {
        let mut socket = bind_socket("127.0.0.1:0", io);
        let mut batch = ReceiveBatch::new();
        assert!(matches!(socket.receive(&mut batch), Received::Drained));
        assert_eq!(batch.datagrams().count(), 0);
        let peer = peer(&socket, "127.0.0.1");
        (0..=SLOTS).for_each(|i| assert_eq!(peer.send(&[i as u8]).expect("sent"), 1));
        let (mut received, mut drained) = (Vec::new(), false);
        while !drained {
            drained = matches!(socket.receive(&mut batch), Received::Drained);
            assert!(batch.datagrams().count() <= SLOTS);
            assert!(drained || batch.datagrams().count() > 0);
            received.extend(batch.datagrams().map(|datagram| datagram.payload[0]));
        }
        assert!(received.into_iter().eq(0..=SLOTS as u8), "drained with datagrams left, or out of order");
    });
}

#[test]
fn datagrams_to_each_peer_leave_in_order() {
    with_each(|io| {
        let mut socket = bind_socket("127.0.0.1:0", io);
        let peers = [peer(&socket, "127.0.0.1"), peer(&socket, "127.0.0.1"), peer(&socket, "127.0.0.1")];
        let lengths = [20, 20, 20, 7, 20, 0, 20, 3_000, 3_000, 1, 1];
        let messages: Vec<_> = (0..200_usize).map(|i| vec![i as u8; lengths[i % lengths.len()]]).collect();
        let mut replies: Vec<_> = (messages.iter().enumerate())
            .map(|(i, message)| {
                let to = peers[i * i % 3].local_addr().expect("an address");
                Outgoing::new(to, None, [b"<", message, b">"])
            })
            .collect();
        SendBatch::default().group_by_peer(&mut replies);
        send_all(&mut socket, &replies);
        for (number, peer) in peers.iter().enumerate() {
            for (_, message) in messages.iter().enumerate().filter(|(i, _)| i * i % 3 == number) {
                assert_eq!(next(peer), [b"<", message.as_slice(), b">"].concat());
            }
        }
    });
}

/// As many pieces of memory as several system calls take, in the longest runs.
#[test]
fn many_datagrams_of_three_parts_to_one_peer_leave_in_order() {
    with_each(|io| {
        let mut socket = bind_socket("127.0.0.1:0", io);
        let peer = peer(&socket, "127.0.0.1");
        socket2::SockRef::from(&peer).set_recv_buffer_size(1 << 20).expect("room for all");
        let to = peer.local_addr().expect("an address");
        let numbers: Vec<_> = (0..300_u32).map(u32::to_be_bytes).collect();
        let replies: Vec<_> = numbers.iter().map(|number| Outgoing::new(to, None, [b"<", number, b">"])).collect();
        send_all(&mut socket, &replies);
        numbers.iter().for_each(|number| assert_eq!(next(&peer), [b"<", &number[..], b">"].concat()));
    });
}

#[test]
fn error_costs_only_its_datagram() {
    with_each(|io| {
        let mut socket = bind_socket("127.0.0.1:0", io);
        let peer = peer(&socket, "127.0.0.1");
        let to = peer.local_addr().expect("an address");
        let too_long = vec![0; LONGEST_PAYLOAD + 1];
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let parts = |to, message| Outgoing::new(to, None, [message, b"", b""]);
        let replies = [
            parts(to, &b"first"[..]),
            parts(to, &too_long),
            parts(to, b"second"),
            parts(nowhere, b"lost1"),
            parts(nowhere, b"lost2"),
            parts(to, b"third"),
        ];
        let (mut done, mut errors) = (0, Vec::new());
        while done < replies.len() {
            let sent = socket.send(&replies[done..]);
            done += sent.count;
            if let Some(error) = sent.error {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
                errors.push((done, error.raw_os_error()));
                done += 1;
            }
        }
        assert_eq!(errors, [(1, Some(libc::EMSGSIZE)), (3, Some(libc::EINVAL)), (4, Some(libc::EINVAL))]);
        assert_eq!([next(&peer), next(&peer), next(&peer)], [&b"first"[..], b"second", b"third"]);
    });
}

#[test]
fn replies_leave_from_the_address_that_was_asked() {
    for (wildcard, asked) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "127.0.0.3"), ("[::]:0", "[::1]")] {
        let mut socket = bind_socket(wildcard, IoBackend::Auto);
        if !socket.knows_local_address() {
            leave_out("it needs packet info");
            continue;
        }
        // The peer is connected, so the kernel drops what comes from any other address.
        let peer = peer(&socket, asked);
        (0..3).for_each(|_| assert_eq!(peer.send(b"who are you?").expect("sent"), 12));
        let received = receive(&mut socket, 3);
        // IPv4 peers of an IPv6 socket included.
        assert_eq!(received[0].0, peer.local_addr().expect("an address"));
        assert_eq!(received[0].1.expect("a local address").ip().to_string(), asked.trim_matches(['[', ']']));
        let reply = |(to, from, _): &(_, _, _)| Outgoing::new(*to, *from, [b"it is me", b"", b""]);
        let replies: Vec<_> = received.iter().map(reply).collect();
        send_all(&mut socket, &replies);
        send_all(&mut socket, &replies[..1]);
        (0..4).for_each(|_| assert_eq!(next(&peer), b"it is me"));
    }
}

#[test]
fn socket_bound_to_one_address_asks_for_no_packet_info() {
    with_each(|io| {
        let mut socket = bind_socket("127.0.0.1:0", io);
        assert!(socket.knows_local_address());
        peer(&socket, "127.0.0.1").send(b"x").expect("sent");
        assert_eq!(receive(&mut socket, 1)[0].1, None);
    });
}

#[test]
fn kernel_drops_are_counted() {
    with_each(|io| {
        let sizes = BufferSizes { receive: 4096, send: 4096 };
        let address = "127.0.0.1:0".parse().expect("an address");
        let (bound, _) = bind(address, sizes, PortSharing::Exclusive, io).expect("a free port");
        let mut socket = Socket::new(bound, io).expect("a socket");
        let peer = peer(&socket, "127.0.0.1");
        (0..1000).for_each(|_| assert_eq!(peer.send(b"too many").expect("sent"), 8));
        let Some(dropped) = socket.kernel_drops() else { return leave_out("it needs SO_MEMINFO") };
        let received = receive(&mut socket, 1000 - dropped as usize).len();
        assert!(dropped > 0);
        assert!(matches!(socket.receive(&mut ReceiveBatch::new()), Received::Drained));
        assert_eq!(received + dropped as usize, 1000);
    });
}
