//! Starts the program, talks to it, reads what it says, and stops it.
//!
//! Waits are for conditions; the time limit on each is only there to end a test that has failed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// When a test gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Leaves the test out when a tool is missing, and says so; fails instead where CI=true.
macro_rules! needs {
    ($($tool:expr),+) => {
        for tool in [$($tool),+] {
            if !$crate::harness::is_installed(tool) {
                eprintln!("{}:{}: left out, it needs {tool}", file!(), line!());
                return;
            }
        }
    };
}
pub(crate) use needs;

pub fn is_installed(tool: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()));
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "{tool} is not installed");
    found
}

/// The program, not started yet.
pub fn udpong(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_udpong"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// Runs a command to its end with `input` on its standard input.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    // A command that ended early does not read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("the output of a command")
}

/// Runs a Python program to its end; gives its standard output.
pub fn python(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = run(Command::new("python3").arg("-c").arg(program).args(arguments), b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs a shell script that has to succeed.
pub fn shell(script: &str) {
    let output = run(Command::new("sh").arg("-ec").arg(script), b"");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends a signal, named as kill(1) does.
pub fn signal(name: &str, process: u32) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status().expect("sh");
    assert!(status.success(), "cannot send {name}");
}

/// Tries again and again until there is a result.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(start.elapsed() < LIMIT, "gave up waiting until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A running `udpong serve`, which ends with the test.
pub struct Server {
    child: Child,
    log: Log,
    addresses: Vec<SocketAddr>,
}

/// What a server left behind.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub log: Vec<String>,
}

impl Finished {
    /// The report of `--json`, which must be all that stands on stdout.
    pub fn report(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "stdout: {:?}", self.stdout);
        serde_json::from_str(&self.stdout).expect("JSON on stdout")
    }

    /// The reports of the endpoints, whose counts must add up.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let report = self.report();
        report["endpoints"].as_array().expect("endpoints").iter().cloned().map(Endpoint::new).collect()
    }

    /// The report of the only endpoint.
    pub fn endpoint(&self) -> Endpoint {
        let mut endpoints = self.endpoints();
        assert_eq!(endpoints.len(), 1);
        endpoints.remove(0)
    }
}

/// The report of one endpoint.
#[derive(Debug)]
pub struct Endpoint(Value);

impl Endpoint {
    /// Checks that the counts add up (invariant 6).
    pub fn new(report: Value) -> Self {
        let endpoint = Self(report);
        let ends =
            endpoint.get("answered") + endpoint.total("refused") + endpoint.total("failed") + endpoint.get("unsent");
        assert_eq!(endpoint.get("received"), ends, "{endpoint:?}");
        endpoint
    }

    pub fn get(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_else(|| panic!("no count {field} in {self:?}"))
    }

    /// The count of one reason or kind; 0 where it is not named.
    pub fn count(&self, field: &str, name: &str) -> u64 {
        self.0[field].get(name).map_or(0, |count| count.as_u64().expect("a count"))
    }

    pub fn total(&self, field: &str) -> u64 {
        let counts = self.0[field].as_object().unwrap_or_else(|| panic!("no counts {field} in {self:?}"));
        counts.values().map(|count| count.as_u64().expect("a count")).sum()
    }
}

impl Server {
    /// Starts `udpong serve` with one service on one address.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_many(1, arguments)
    }

    /// Starts `udpong serve` and waits until it listens on so many addresses.
    pub fn start_many(sockets: usize, arguments: &[&str]) -> Self {
        let mut command = udpong(&["serve"]);
        command.args(arguments);
        Self::spawn(sockets, &mut command)
    }

    /// Starts a command that ends in `udpong serve …`, and waits until it listens on so many addresses.
    pub fn spawn(sockets: usize, command: &mut Command) -> Self {
        let mut server = Self::launch(command.stderr(Stdio::piped()));
        let stderr = server.child.stderr.take().expect("a pipe");
        server.log = Log::read(stderr);
        for _ in 0..sockets {
            let line = server.wait_for_line("Server is listening on ", server.addresses.len());
            let address =
                line.split("listening on ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
            server.addresses.push(address.parse().expect("an address"));
        }
        server
    }

    /// Starts a command that becomes `udpong serve …` on 127.0.0.1, and whose stderr is the caller's affair; the
    /// kernel says when and where it listens.
    pub fn spawn_unheard(command: &mut Command) -> Self {
        let mut server = Self::launch(command);
        let id = server.id();
        server.addresses.push(wait_until("the server has bound its socket", || bound_to(id)));
        server
    }

    /// Begins to read the log, for a server that was [spawned unheard](Self::spawn_unheard).
    pub fn hear(&mut self, stderr: impl Read + Send + 'static) {
        self.log = Log::read(stderr);
    }

    fn launch(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, log: Log::read(std::io::empty()), addresses: Vec::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A field of /proc/PID/status, in the unit that stands there (kB for memory).
    pub fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("a field");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// The processor time that it has used, in ticks of 10 ms: utime and stime of /proc/PID/stat.
    pub fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("a process");
        let behind_name = stat.rsplit_once(')').expect("a name").1;
        behind_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    /// Stops it in its tracks until [`signal`] sends it a CONT.
    pub fn freeze(&self) {
        signal("STOP", self.id());
        wait_until("the server has stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("a process");
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")).then_some(())
        });
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The log line that holds `text`, not counting the first `skip` of them; waits for it.
    pub fn wait_for_line(&mut self, text: &str, skip: usize) -> String {
        let find = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).nth(skip).cloned();
        self.log.wait(|lines, ended| {
            let line = find(lines);
            assert!(line.is_some() || !ended, "the log ended without {text:?}: {lines:#?}");
            line
        })
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Stops it with Ctrl+C and waits for its end.
    pub fn stop(self) -> Finished {
        signal("INT", self.id());
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let status = wait_until("the server has ended", || self.child.try_wait().expect("the state of a child"));
        let mut stdout = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("text on stdout");
        Finished { status, stdout, log: self.log.all() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a child writes, line by line.
pub struct Log {
    written: Arc<Written>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Written {
    /// The lines so far, and whether there will be no more.
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    pub fn read(from: impl Read + Send + 'static) -> Self {
        let written = Arc::new(Written::default());
        let shared = Arc::clone(&written);
        let reader = thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                shared.lines.lock().expect("the log").0.push(line.expect("UTF-8 in the log"));
                shared.changed.notify_all();
            }
            shared.lines.lock().expect("the log").1 = true;
            shared.changed.notify_all();
        });
        Self { written, reader: Some(reader) }
    }

    /// Waits until the lines so far, and whether there will be no more, give a result.
    pub fn wait<T>(&self, mut condition: impl FnMut(&[String], bool) -> Option<T>) -> T {
        let start = Instant::now();
        let mut lines = self.written.lines.lock().expect("the log");
        loop {
            if let Some(result) = condition(&lines.0, lines.1) {
                return result;
            }
            assert!(start.elapsed() < LIMIT, "gave up waiting for the log: {:#?}", lines.0);
            lines = self.written.changed.wait_timeout(lines, LIMIT).expect("the log").0;
        }
    }

    fn lines(&self) -> Vec<String> {
        self.written.lines.lock().expect("the log").0.clone()
    }

    /// All lines, once there will be no more.
    pub fn all(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log's reader");
        }
        self.lines()
    }
}

/// Checks that a server was never larger than it may be: 6 MB.
pub fn assert_memory_is_small(server: &Server) {
    // Of a binary without optimization 4 MB lie in memory, of a release build 1.5 MB.
    let limit = if cfg!(debug_assertions) { 9 << 10 } else { 6 << 10 };
    let (all, own) = (server.status("VmHWM"), server.status("RssAnon"));
    assert!(all < limit, "{all} kB");
    assert!(own < 3 << 10, "{own} kB that are not the binary's");
}

/// Where a process has bound its first IPv4 UDP socket, on 127.0.0.1.
fn bound_to(process: u32) -> Option<SocketAddr> {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/udp")).ok()?;
    for entry in std::fs::read_dir(format!("/proc/{process}/fd")).ok()? {
        let link = std::fs::read_link(entry.ok()?.path()).unwrap_or_default();
        let Some(inode) = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')) else {
            continue;
        };
        let line = table.lines().find(|line| line.split_whitespace().nth(9) == Some(inode));
        if let Some(local) = line.and_then(|line| line.split_whitespace().nth(1)) {
            let port = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok())?;
            return (port != 0).then_some(([127, 0, 0, 1], port).into());
        }
    }
    None
}

/// A client's socket on a free port, which gives up after the [`LIMIT`].
pub fn client(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a free port");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket.connect(reachable(server)).expect("a connected socket");
    socket
}

/// Where a client reaches a server that listens on every address.
pub fn reachable(mut server: SocketAddr) -> SocketAddr {
    if server.ip().is_unspecified() {
        server.set_ip(if server.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    server
}

/// Sends one datagram and waits for one.
pub fn ask(socket: &UdpSocket, message: &[u8]) -> Vec<u8> {
    socket.send(message).expect("sent");
    receive(socket)
}

/// Asks until there is an answer, since a flooded kernel may have no room for the question; says how often.
pub fn insist(server: SocketAddr) -> u64 {
    let socket = client(server);
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut asked = 0;
    wait_until("there is an answer", || {
        socket.send(b"you").expect("sent");
        asked += 1;
        socket.recv(&mut [0; 10]).ok()
    });
    asked
}

/// Waits for one datagram.
pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 65_535];
    // A process that is stopped and continued is interrupted.
    let length = loop {
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => break result.expect("an answer"),
        }
    };
    answer.truncate(length);
    answer
}

/// Where a socket is bound that does not wait for all of its answers. Nearly all tests take free ports on 127.0.0.1, so
/// what comes after it was closed reaches none of them.
pub const AWAY: (&str, u16) = ("127.0.0.98", 0);

/// Sends the same message so often, as fast as it goes, and does not look at the answers.
pub fn flood(to: SocketAddr, message: &[u8], count: u64) {
    let socket = UdpSocket::bind(AWAY).expect("a free port");
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
    pub fn start(to: SocketAddr) -> Self {
        Self::of(to, b"flood")
    }

    /// Comes back when the flood has begun, which takes its threads a while on a busy machine.
    pub fn of(to: SocketAddr, message: &'static [u8]) -> Self {
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = || {
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            thread::spawn(move || {
                let socket = UdpSocket::bind(AWAY).expect("a free port");
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

    /// How many datagrams it has sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and says how many datagrams it has sent.
    pub fn end(mut self) -> u64 {
        self.stop();
        self.sent()
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a flood"));
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A namespace's loopback that is slow until this is dropped.
///
/// What still waits in it then is gone at once. It would keep its namespace in existence for hours, and the errors of
/// ICMP that wait in there would take up the room that a processor has for those of all namespaces: no other test
/// would be told of a closed port.
pub struct SlowLoopback;

impl SlowLoopback {
    /// At a rate and with a burst as tc(8) has them.
    pub fn new(rate: &str, burst: u32) -> Self {
        shell(&format!("tc qdisc add dev lo root tbf rate {rate} burst {burst} limit 4000000"));
        Self
    }

    /// Lets what waits pass.
    pub fn speed_up(&self) {
        shell("tc qdisc change dev lo root tbf rate 1gbit burst 200000 limit 4000000");
    }
}

impl Drop for SlowLoopback {
    fn drop(&mut self) {
        let _ = Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]).status();
    }
}

/// Sends datagrams from sources that are not its own. Only root may, in a namespace for one.
pub struct Forger {
    socket: socket2::Socket,
    /// The checksum of UDP, which nobody computes here; 0 says that there is none.
    pub checksum: u16,
}

impl Forger {
    pub fn new() -> Self {
        // IPPROTO_RAW: the header of IP is ours to write (raw(7)).
        let protocol = socket2::Protocol::from(255);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol));
        Self { socket: socket.expect("a raw socket"), checksum: 0 }
    }

    pub fn send(&self, (source, port): ([u8; 4], u16), to: SocketAddr, message: &[u8]) {
        let std::net::IpAddr::V4(destination) = to.ip() else {
            panic!("{to} is not IPv4");
        };
        let length = 8 + u16::try_from(message.len()).expect("a short message");
        // The kernel fills in the length and the checksum of the header.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source);
        packet.extend(destination.octets());
        for field in [port, to.port(), length, self.checksum] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(message);
        self.socket.send_to(&packet, &to.into()).expect("sent");
    }
}

/// Runs the rest of a test in a network namespace of its own, as root there, with lo up.
///
/// Called first thing in a test with the test's full name: outside a namespace it runs this very test again inside
/// one, checks that it passed, and returns false.
pub fn in_namespace(test: &str) -> bool {
    const INSIDE: &str = "UDPONG_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(status.success(), "cannot set lo up");
        return true;
    }
    let allowed = Command::new("unshare").args(["-rn", "true"]).output().is_ok_and(|output| output.status.success());
    if !allowed {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "network namespaces are not allowed");
        eprintln!("{test}: left out, it needs network namespaces");
        return false;
    }
    let this = std::env::current_exe().expect("the test program");
    let mut command = Command::new("unshare");
    command.arg("-rn").arg(this).args(["--exact", test, "--nocapture", "--include-ignored"]).env(INSIDE, "1");
    let output = run(&mut command, b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{test} in a namespace: {said}");
    print!("{said}");
    false
}
