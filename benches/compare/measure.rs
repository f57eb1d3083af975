//! Starts a server, loads it with `udpong bench`, and reads what that took.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

use super::peers;

/// How long each measurement takes: short, since machines change their speed for seconds at a time, and more rounds
/// tell more of that.
const TIME: &str = "200ms";

/// What the generator does.
pub struct Workload {
    pub name: &'static str,
    pub options: &'static [&'static str],
}

/// What one measurement gave.
pub struct Figures {
    pub answers: f64,
    pub answers_per_second: f64,
    /// Seconds of processor time that the server used.
    pub processor: f64,
    /// The share of that in user space, in clock ticks of all.
    pub user: f64,
    pub ticks: f64,
    /// Round trips in milliseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Figures {
    pub fn answers_per_processor_second(&self) -> f64 {
        self.answers / self.processor
    }
}

/// A running server, which ends with the value.
pub struct Server {
    pub name: &'static str,
    child: Child,
    address: String,
}

impl Server {
    pub fn std() -> io::Result<Option<Self>> {
        Self::peer("std")
    }

    pub fn mio() -> io::Result<Option<Self>> {
        Self::peer("mio")
    }

    pub fn tokio() -> io::Result<Option<Self>> {
        Self::peer("tokio")
    }

    /// The Python exercise, where there is Python.
    pub fn python() -> io::Result<Option<Self>> {
        let mut command = pinned("python3", 0);
        command.args(["-c", peers::PYTHON]).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self::start("python", command).ok())
    }

    fn peer(name: &'static str) -> io::Result<Option<Self>> {
        let this = std::env::current_exe()?;
        let mut command = pinned(&this.to_string_lossy(), 0);
        command.args(["peer", name]).stdout(Stdio::piped());
        Self::start(name, command).map(Some)
    }

    /// `udpong serve`, with its log, if it is on, read by this process as a terminal would.
    pub fn udpong(name: &'static str, options: &[&str]) -> io::Result<Self> {
        let binary = env!("CARGO_BIN_EXE_udpong");
        let mut command = if options.contains(&"--workers") { Command::new(binary) } else { pinned(binary, 0) };
        command.arg("serve").args(options).stderr(Stdio::piped());
        Self::start(name, command)
    }

    fn start(name: &'static str, mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let output: Box<dyn io::Read + Send> = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => Box::new(stdout),
            (None, Some(stderr)) => Box::new(stderr),
            (None, None) => return Err(io::Error::other("no output to read the address from")),
        };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        // The line is the address, or "… listening on ADDRESS (SERVICE)".
        let address = line.split("listening on ").last().and_then(|rest| rest.split_whitespace().next());
        let address = address.ok_or_else(|| io::Error::other(format!("{name} did not start")))?.to_owned();
        thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        Ok(Self { name, child, address })
    }

    /// The most memory that was resident at one time, in MiB.
    pub fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
    }

    /// Processor time of all threads in seconds, to the nanosecond, and ticks in user space and in all.
    fn processor(&self) -> io::Result<(f64, f64, f64)> {
        let mut nanoseconds = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let times = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += times.split(' ').next().and_then(|time| time.parse::<f64>().ok()).unwrap_or(f64::NAN);
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The fields behind the name, which is in parentheses; user and system time are the 14th and 15th of all.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
        Ok((nanoseconds / 1e9, ticks(11), ticks(11) + ticks(12)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command on one processor, where the system can do that: server and generator then do not push each other about.
fn pinned(program: &str, processor: usize) -> Command {
    let can = cores() > 1 && Command::new("taskset").arg("-V").output().is_ok();
    if !can {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &processor.to_string(), program]);
    command
}

/// Loads a server once.
pub fn measure(server: &Server, workload: &Workload) -> io::Result<Figures> {
    let (before, user_before, ticks_before) = server.processor()?;
    let mut generator = pinned(env!("CARGO_BIN_EXE_udpong"), 1);
    generator.args(["bench", &server.address, "--json", "--time", TIME, "--warm-up", "0"]).args(workload.options);
    let output = generator.stderr(Stdio::null()).output()?;
    let (after, user, ticks) = server.processor()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    Ok(Figures {
        answers: number(&report["answered"]),
        answers_per_second: number(&report["answers_per_second"]),
        processor: after - before,
        user: user - user_before,
        ticks: ticks - ticks_before,
        p50: number(&report["latency_ms"]["p50"]),
        p99: number(&report["latency_ms"]["p99"]),
    })
}

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
