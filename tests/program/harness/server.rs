//! A running `udpong serve`, and the report that it leaves.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use super::{Lines, signal, udpong, wait_until};

/// A running server, killed when it is dropped.
pub struct Server {
    child: Child,
    log: Lines,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts `udpong serve` with one socket.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_many(1, arguments)
    }

    /// Starts `udpong serve` and waits until it listens on a number of sockets.
    pub fn start_many(sockets: usize, arguments: &[&str]) -> Self {
        let mut command = udpong(&["serve"]);
        command.args(arguments);
        Self::spawn(sockets, &mut command)
    }

    /// Starts `udpong relay`, which leaves a report of another form than a server.
    pub fn start_relay(arguments: &[&str]) -> Self {
        let mut command = udpong(&["relay"]);
        Self::spawn_relay(command.args(arguments))
    }

    /// Starts a command that becomes `udpong relay …` and waits until it listens.
    pub fn spawn_relay(command: &mut Command) -> Self {
        Self::spawn_listening(1, command.stdin(Stdio::null()), "Relay is listening on ")
    }

    /// Starts a command that ends in `udpong serve …` and waits until it listens on a number of sockets.
    pub fn spawn(sockets: usize, command: &mut Command) -> Self {
        Self::spawn_with_stdin(sockets, command.stdin(Stdio::null()))
    }

    /// Does the same with the standard input that the command has.
    pub fn spawn_with_stdin(sockets: usize, command: &mut Command) -> Self {
        Self::spawn_listening(sockets, command, "Server is listening on ")
    }

    fn spawn_listening(sockets: usize, command: &mut Command, listening: &str) -> Self {
        let mut server = Self::spawn_child(command.stderr(Stdio::piped()));
        let stderr = server.child.stderr.take().expect("a pipe");
        server.log = Lines::read(stderr);
        for _ in 0..sockets {
            let line = server.wait_for_line(listening, server.addresses.len());
            let address =
                line.split("listening on ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
            server.addresses.push(address.parse().expect("an address"));
        }
        server
    }

    /// Starts a command that becomes `udpong serve …` on 127.0.0.1, with the caller's stderr. Asks the kernel where
    /// the server listens, since its log cannot be read.
    pub fn spawn_without_log(command: &mut Command) -> Self {
        let mut server = Self::spawn_child(command.stdin(Stdio::null()));
        let process = server.pid();
        server.addresses.push(wait_until("the server has bound its socket", || bound_address(process)));
        server
    }

    /// Begins to read the log of a server that was [started without one](Self::spawn_without_log).
    pub fn read_log(&mut self, stderr: impl Read + Send + 'static) {
        self.log = Lines::read(stderr);
    }

    fn spawn_child(command: &mut Command) -> Self {
        let child =
            command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, log: Lines::read(std::io::empty()), addresses: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns a field of /proc/PID/status, in the unit used there (kB for memory).
    pub fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("a field");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Returns the processor time used so far, in ticks of 10 ms: utime and stime of /proc/PID/stat.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a process");
        let fields = stat.rsplit_once(')').expect("a name").1;
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    /// Whether no datagram waits in the receive buffer of its first socket.
    pub fn has_read_everything(&self) -> bool {
        // The fifth field is tx_queue:rx_queue.
        self.socket_entry()[4].ends_with(":00000000")
    }

    /// Returns how many datagrams the kernel has dropped at its first socket.
    pub fn kernel_drops(&self) -> u64 {
        self.socket_entry().last().and_then(|drops| drops.parse().ok()).expect("a count")
    }

    /// Returns the fields of its first socket, an IPv4 one, in /proc/net/udp.
    fn socket_entry(&self) -> Vec<String> {
        let SocketAddr::V4(address) = self.address() else { panic!("{} is not IPv4", self.address()) };
        let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
        // A table that changes while it is read may lack some lines.
        wait_until("the socket is in the table", || {
            let table = fs::read_to_string(format!("/proc/{}/net/udp", self.pid())).expect("a table of sockets");
            let mut sockets = table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            sockets.find(|fields| fields[1] == local)
        })
    }

    /// Stops the process (SIGSTOP) until [`resume`](Self::resume); returns when it has stopped.
    pub fn pause(&self) {
        signal("STOP", self.pid());
        wait_until("the server has stopped", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a process");
            // T, or t if it is traced.
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't'])).then_some(())
        });
    }

    pub fn resume(&self) {
        signal("CONT", self.pid());
    }

    /// Waits for a log line that contains `text`, after the first `skip` such lines.
    pub fn wait_for_line(&mut self, text: &str, skip: usize) -> String {
        let find = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).nth(skip).cloned();
        self.log.wait_until(|lines, ended| {
            let line = find(lines);
            assert!(line.is_some() || !ended, "the log ended without {text:?}: {lines:#?}");
            line
        })
    }

    /// Returns the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.so_far()
    }

    /// Sends SIGINT and waits for the exit.
    pub fn stop(self) -> ServerOutput {
        signal("INT", self.pid());
        self.wait()
    }

    /// Stops the server, which must succeed, and checks that each of `sent` datagrams was received, or dropped by the
    /// kernel.
    pub fn stop_and_account_for(self, sent: u64) -> ServerOutput {
        let output = self.stop();
        assert_eq!(output.status.code(), Some(0));
        let endpoint = output.endpoint();
        assert_eq!(endpoint.get("received") + endpoint.get("kernel_dropped"), sent, "{endpoint:?}");
        output
    }

    /// Waits for the exit.
    pub fn wait(mut self) -> ServerOutput {
        let status = wait_until("the server has exited", || self.child.try_wait().expect("the state of a child"));
        let mut stdout = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("text on stdout");
        ServerOutput { status, stdout, log: self.log.all() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns where a process has bound its first IPv4 UDP socket, as an address of 127.0.0.1.
fn bound_address(process: u32) -> Option<SocketAddr> {
    let table = fs::read_to_string(format!("/proc/{process}/net/udp")).ok()?;
    for entry in fs::read_dir(format!("/proc/{process}/fd")).ok()? {
        let link = fs::read_link(entry.ok()?.path()).unwrap_or_default();
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

/// What a server left when it exited.
pub struct ServerOutput {
    pub status: ExitStatus,
    pub stdout: String,
    pub log: Vec<String>,
}

impl ServerOutput {
    /// Returns how many log lines contain `text`.
    pub fn count_lines(&self, text: &str) -> usize {
        self.log.iter().filter(|line| line.contains(text)).count()
    }

    /// Returns the report of `--json`, which must be everything on stdout.
    pub fn report(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "stdout: {:?}", self.stdout);
        serde_json::from_str(&self.stdout).expect("JSON on stdout")
    }

    /// Returns the reports of the endpoints, whose counts must add up.
    pub fn endpoints(&self) -> Vec<EndpointReport> {
        let report = self.report();
        report["endpoints"]
            .as_array()
            .expect("endpoints")
            .iter()
            .cloned()
            .map(|endpoint| EndpointReport::new(endpoint, "answered"))
            .collect()
    }

    /// Returns the report of the only endpoint.
    pub fn endpoint(&self) -> EndpointReport {
        let mut endpoints = self.endpoints();
        assert_eq!(endpoints.len(), 1);
        endpoints.remove(0)
    }
}

impl ServerOutput {
    /// Returns the report of a relay's direction, `up` or `down`, whose counts must add up.
    pub fn direction(&self, name: &str) -> EndpointReport {
        EndpointReport::new(self.report()[name].clone(), "forwarded")
    }
}

/// The statistics of one endpoint, or of one direction of a relay, from the report.
#[derive(Debug)]
pub struct EndpointReport(Value);

impl EndpointReport {
    /// Checks that every received datagram, and every duplicate, has ended in exactly one way (invariant 6). `sent`
    /// counts those that have left.
    fn new(report: Value, sent: &str) -> Self {
        let endpoint = Self(report);
        let ended = endpoint.get(sent) + endpoint.total("refused") + endpoint.total("failed") + endpoint.get("unsent");
        assert_eq!(
            endpoint.get("received") + endpoint.impaired("duplicated"),
            ended + endpoint.impaired("lost") + endpoint.impaired("over_limit"),
            "{endpoint:?}"
        );
        endpoint
    }

    /// Returns a count of the impairments; 0 if there are none.
    pub fn impaired(&self, name: &str) -> u64 {
        match &self.0["impaired"] {
            Value::Null => 0,
            impaired => impaired[name].as_u64().unwrap_or_else(|| panic!("no count {name} in {self:?}")),
        }
    }

    pub fn get(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_else(|| panic!("no count {field} in {self:?}"))
    }

    /// Returns the count of one reason or kind of error; 0 if it is not in the report.
    pub fn count(&self, field: &str, name: &str) -> u64 {
        self.0[field].get(name).map_or(0, |count| count.as_u64().expect("a count"))
    }

    /// Returns the sum of the counts of all reasons or kinds of errors.
    pub fn total(&self, field: &str) -> u64 {
        let counts = self.0[field].as_object().unwrap_or_else(|| panic!("no counts {field} in {self:?}"));
        counts.values().map(|count| count.as_u64().expect("a count")).sum()
    }
}

/// Checks that a server has never used more memory than it may: 6 MB, of which 4 MB besides the binary, whose resident
/// part is larger in a debug build.
pub fn assert_memory_is_small(server: &Server) {
    let (peak, file) = (server.status("VmHWM"), server.status("RssFile"));
    let (peak_anonymous, anonymous) = (peak.saturating_sub(file), server.status("RssAnon"));
    assert!(cfg!(debug_assertions) || peak < 6 << 10, "peak memory: {peak} kB");
    assert!(peak_anonymous < 4 << 10, "peak memory besides the binary: {peak_anonymous} kB");
    // Parsing the command line takes 300 kB of stack in a debug build.
    let most = if cfg!(debug_assertions) { 3_400 } else { 3 << 10 };
    assert!(anonymous < most, "memory besides the binary: {anonymous} kB");
}
