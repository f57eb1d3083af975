//! `serve` under a service manager: notifications, the watchdog, inherited sockets.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{
    Hang, Server, TIMEOUT, connect, needs, request, run, run_in_namespace, signal, udpong, wait_until,
};

/// The side of systemd in sd_notify(3).
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        Self { socket, folder }
    }

    fn watch<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"))
    }

    /// Waits for the next notification.
    fn next(&self) -> String {
        receive(&self.socket)
    }

    /// Waits for a notification that begins like this; the others are ignored.
    fn wait_for(&self, start: &str) -> String {
        let begins = |text: String| text.starts_with(start).then_some(text);
        wait_until(start, || begins(self.next()))
    }
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a notification");
    String::from_utf8(buffer[..length].to_vec()).expect("UTF-8")
}

#[test]
fn start_status_and_stop_are_notified() {
    let manager = Manager::new();
    let mut command = udpong(&["serve", "hello@127.0.0.1:0", "--stats", "50ms"]);
    let server = Server::spawn(1, manager.watch(&mut command));
    let ready = manager.next();
    assert_eq!(ready, "READY=1\nSTATUS=received 0, answered 0, refused 0, failed 0");
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    manager.wait_for("STATUS=received 1, answered 1, refused 0, failed 0");
    signal("TERM", server.pid());
    manager.wait_for("STOPPING=1");
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn abstract_address_is_notified_too() {
    let name = format!("udpong-test-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let mut command = udpong(&["serve", "hello@127.0.0.1:0"]);
    let _server = Server::spawn(1, command.env("NOTIFY_SOCKET", format!("@{name}")));
    assert!(receive(&socket).starts_with("READY=1\n"));
}

#[test]
fn server_is_not_ready_before_every_socket_listens() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let manager = Manager::new();
    let service = format!("echo@{}", taken.local_addr().expect("an address"));
    let output = run(manager.watch(&mut udpong(&["serve", "hello@127.0.0.1:0", &service])), b"");
    assert_eq!(output.status.code(), Some(1));
    manager.socket.set_nonblocking(true).expect("a socket");
    let error = manager.socket.recv(&mut [0; 100]).expect_err("no notification");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn manager_that_does_not_read_delays_nothing() {
    let manager = Manager::new();
    let mut command = udpong(&["serve", "echo@127.0.0.1:0", "--stats", "1ms"]);
    let server = Server::spawn(1, manager.watch(&mut command));
    let client = connect(server.address());
    // The queue of such a socket has room for some notifications only.
    let start = Instant::now();
    let mut number = 0_u32;
    while start.elapsed() < Duration::from_millis(500) {
        number += 1;
        assert_eq!(request(&client, &number.to_be_bytes()), number.to_be_bytes());
    }
    assert_eq!(server.stop().status.code(), Some(0));
}

#[test]
fn watchdog_is_notified_unless_a_worker_hangs() {
    needs!("strace");
    let manager = Manager::new();
    let mut command = udpong(&["serve", "echo@127.0.0.1:0", "--workers", "2"]);
    let server = Server::spawn(1, manager.watch(&mut command).env("WATCHDOG_USEC", "400000"));
    (0..3).for_each(|_| drop(manager.wait_for("WATCHDOG=1")));
    let mut hang = Hang::second_worker_of(server.pid());
    let quiet = Duration::from_millis(1_200);
    manager.socket.set_read_timeout(Some(quiet)).expect("a timeout");
    // The service manager would end a service that is silent for 400 ms.
    wait_until("the notifications end", || manager.socket.recv(&mut [0; 100]).err());
    hang.end();
    manager.socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn watchdog_of_another_process_is_not_notified() {
    let manager = Manager::new();
    let mut command = udpong(&["serve", "hello@127.0.0.1:0", "--for", "200ms"]);
    manager.watch(&mut command).env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let server = Server::spawn(1, &mut command);
    assert!(manager.next().starts_with("READY=1\n"));
    assert_eq!(manager.next(), "STOPPING=1");
    assert_eq!(server.wait().status.code(), Some(0));
}

#[test]
fn relay_is_watched_too() {
    let manager = Manager::new();
    let mut command = udpong(&["relay", "127.0.0.1:0", "127.0.0.1:9"]);
    let server = Server::spawn_relay(manager.watch(&mut command).env("WATCHDOG_USEC", "200000"));
    assert_eq!(manager.next(), "READY=1\nSTATUS=forwarded up 0, down 0; 0 sessions");
    manager.wait_for("WATCHDOG=1");
    signal("TERM", server.pid());
    manager.wait_for("STOPPING=1");
    assert_eq!(server.wait().status.code(), Some(0));
}

/// Returns a command that becomes `udpong serve …` with a copy of a socket as file 3.
fn serve_on(socket: &UdpSocket, name: &str, arguments: &[&str]) -> Command {
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$0\" serve \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_udpong")]).args(arguments).env_remove("RUST_LOG");
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    command.stdin(OwnedFd::from(socket.try_clone().expect("a copy")));
    command
}

fn bound() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Starts a server on a socket that this process holds.
fn start_on(socket: &UdpSocket, name: &str, arguments: &[&str]) -> Server {
    Server::spawn_with_stdin(1, &mut serve_on(socket, name, arguments))
}

#[test]
fn service_takes_the_socket_of_its_name() {
    for (name, services) in [
        ("echo", &["hello@127.0.0.1:0", "echo"][..]),
        ("other", &["hello@127.0.0.1:0", "echo@fd:other"]),
        ("udpong.socket", &["echo"]),
        ("unknown", &["echo"]),
        ("", &["echo"]),
        ("udpong.socket", &["echo@fd:udpong.socket"]),
    ] {
        let (socket, address) = bound();
        let mut command = serve_on(&socket, name, services);
        let server = Server::spawn_with_stdin(services.len(), command.arg("--json"));
        assert_eq!(server.addresses().last(), Some(&address), "{name}");
        assert_eq!(request(&connect(address), b"you"), b"you");
        let output = server.stop();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.endpoints().last().expect("an endpoint").get("answered"), 1);
        let open_after = connect(address).send(b"still open");
        assert!(open_after.is_ok(), "the socket is the holder's");
    }
}

fn refused(command: &mut Command) -> (Option<i32>, String) {
    // If it is not refused, it ends nevertheless.
    let child = command.arg("--for=10s").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sh");
    let output = child.wait_with_output().expect("its output");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn socket_that_no_service_takes_is_an_error() {
    let (socket, _) = bound();
    let error = |name: &str, arguments: &[&str]| refused(&mut serve_on(&socket, name, arguments));
    let none = "udpong: no service takes the inherited socket other: write one as hello@fd:other";
    assert_eq!(error("other", &["echo"]), (Some(2), none.to_owned()));
    assert_eq!(error("echo", &["echo@127.0.0.1:0"]).0, Some(2));
    let unnamed = "udpong: no service takes the inherited socket udpong.socket: write one as hello@fd:udpong.socket";
    assert_eq!(error("udpong.socket", &["echo", "ack"]), (Some(2), unnamed.to_owned()));
    let missing = "udpong: no socket named \"b\" is inherited for echo (LISTEN_FDS and LISTEN_FDNAMES)";
    assert_eq!(error("hello", &["hello", "echo@fd:b"]), (Some(2), missing.to_owned()));
    let workers = "udpong: inherited sockets need a single worker: the system would not share the peers of one";
    assert_eq!(error("echo", &["echo", "--workers", "2"]), (Some(2), workers.to_owned()));
}

#[test]
fn what_is_no_udp_socket_is_an_error() {
    let stream = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let (socket, _) = bound();
    let mut command = serve_on(&socket, "web", &["echo"]);
    let error = refused(command.stdin(OwnedFd::from(stream)));
    let message = "udpong: the inherited socket 3 (web) is no UDP socket: udpong needs a bound one";
    assert_eq!(error, (Some(1), message.to_owned()));
    let closed = refused(serve_on(&socket, "a", &["echo@fd:a"]).env("LISTEN_FDS", "500"));
    assert_eq!(closed.0, Some(1));
    assert!(closed.1.starts_with("udpong: cannot take inherited sockets: Bad file descriptor"), "{}", closed.1);
}

#[test]
fn sockets_for_another_process_are_ignored() {
    let mut command = udpong(&["serve", "hello@127.0.0.1:0"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "other");
    let server = Server::spawn(1, &mut command);
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
}

#[test]
fn what_the_kernel_dropped_before_is_not_counted() {
    let (socket, address) = bound();
    let client = connect(address);
    // More than the receive buffer of a socket has room for.
    (0..2_000).for_each(|_| drop(client.send(&[b'x'; 1_000])));
    let server = start_on(&socket, "echo", &["echo", "--json", "-q"]);
    wait_until("what has arrived is answered", || server.has_read_everything().then_some(()));
    let dropped = server.kernel_drops();
    assert!(dropped > 0, "the kernel dropped some");
    let endpoint = server.stop().endpoint();
    assert_eq!(endpoint.get("kernel_dropped"), 0);
    assert_eq!(endpoint.get("received") + dropped, 2_000);
}

#[test]
fn restarts_lose_nothing() {
    const DATAGRAMS: usize = 10_000;
    const RESTARTS: usize = 5;
    let (socket, address) = bound();
    let start = || start_on(&socket, "echo", &["echo", "-q"]);
    let mut server = start();
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        let exchange = scope.spawn(|| exchange(address, DATAGRAMS, &sent));
        for restart in 1..=RESTARTS {
            let due = restart * DATAGRAMS / (RESTARTS + 1);
            wait_until("a restart is due", || (sent.load(Ordering::Relaxed) >= due).then_some(()));
            signal("TERM", server.pid());
            assert_eq!(server.wait().status.code(), Some(0));
            assert!(sent.load(Ordering::Relaxed) < DATAGRAMS, "datagrams are still sent");
            server = start();
        }
        exchange.join().expect("every datagram is answered");
    });
}

/// Sends numbered datagrams steadily, and waits until each of them is answered once.
fn exchange(server: SocketAddr, datagrams: usize, sent: &AtomicUsize) {
    /// As many wait in the socket while no server runs.
    const MOST_WAITING: usize = 200;
    let client = connect(server);
    client.set_nonblocking(true).expect("a socket");
    let mut is_answered = vec![false; datagrams];
    let mut answered = 0;
    wait_until("every datagram is answered", || {
        let mut buffer = [0; 64];
        while let Ok(length) = client.recv(&mut buffer) {
            let number: usize =
                std::str::from_utf8(&buffer[..length]).ok().and_then(|n| n.parse().ok()).expect("a number");
            assert!(!std::mem::replace(&mut is_answered[number], true), "{number} is answered twice");
            answered += 1;
        }
        // A few every 2 ms.
        for _ in 0..5 {
            let number = sent.load(Ordering::Relaxed);
            if number < datagrams && number - answered < MOST_WAITING {
                client.send(number.to_string().as_bytes()).expect("a send");
                sent.store(number + 1, Ordering::Relaxed);
            }
        }
        (answered == datagrams).then_some(())
    });
}

#[test]
fn systemd_socket_activate_starts_it() {
    run_in_namespace!("systemd-socket-activate");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-d", "-l", "127.0.0.1:5000", "-l", "127.0.0.1:7000", "--fdname=hello:echo"]);
    command.args([env!("CARGO_BIN_EXE_udpong"), "serve", "hello", "echo"]).stderr(Stdio::null());
    let mut child: Child = command.spawn().expect("systemd-socket-activate");
    let ask = |port: u16, answer: &[u8]| {
        let client = connect(([127, 0, 0, 1], port).into());
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        wait_until("a datagram is answered", || {
            let _ = client.send(b"you");
            let mut buffer = [0; 64];
            client.recv(&mut buffer).ok().map(|length| assert_eq!(&buffer[..length], answer))
        });
    };
    ask(5000, b"Hello you");
    ask(7000, b"you");
    signal("TERM", child.id());
    let status = wait_until("it has ended", || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0));
}
