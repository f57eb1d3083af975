//! Starts servers, loads them with `udpong bench`, and reads what that cost them.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::baselines;

/// How long a measurement takes. Machines change their speed for seconds at a time: many short rounds show that better
/// than a few long ones.
const TIME: &str = "200ms";

/// The load of a measurement, as options of `udpong bench`.
pub struct Workload {
    pub name: &'static str,
    pub options: &'static [&'static str],
}

/// The result of a measurement.
pub struct Sample {
    pub answers: f64,
    pub answers_per_second: f64,
    /// Processor time that the server used, in seconds.
    pub cpu_seconds: f64,
    /// Clock ticks that the server used, in user space and in all.
    pub user_ticks: f64,
    pub ticks: f64,
    /// Round trips in milliseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Sample {
    pub fn answers_per_cpu_second(&self) -> f64 {
        self.answers / self.cpu_seconds
    }
}

/// A running server, killed when it is dropped.
pub struct Server {
    pub name: &'static str,
    child: Child,
    pub address: String,
}

impl Server {
    /// Starts one of the [`baselines`], in this program.
    pub fn baseline(name: &'static str) -> io::Result<Self> {
        let this = std::env::current_exe()?;
        let mut command = on_processor(0, &this.to_string_lossy());
        command.args(["baseline", name]).stdout(Stdio::piped());
        Self::start(name, command)
    }

    /// Starts the Python exercise, if there is Python.
    pub fn python() -> Option<Self> {
        let mut command = on_processor(0, "python3");
        command.args(["-c", baselines::PYTHON]).stdout(Stdio::piped()).stderr(Stdio::null());
        Self::start("python", command).ok()
    }

    /// Compiles and starts the bare C program, if there is a C compiler and the kernel has what the program uses.
    pub fn bare_c(name: &'static str, text: &str) -> Option<Self> {
        let directory = env!("CARGO_TARGET_TMPDIR");
        let binary = format!("{directory}/bare-c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-o", &binary, concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/echo.c")]);
        if !compiler.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = on_processor(0, &binary);
        command.arg(text).stdout(Stdio::piped());
        Self::start(name, command).ok()
    }

    /// Starts `udpong serve`. This process reads its log.
    pub fn udpong(name: &'static str, options: &[&str]) -> io::Result<Self> {
        let binary = env!("CARGO_BIN_EXE_udpong");
        let mut command = if options.contains(&"--workers") { Command::new(binary) } else { on_processor(0, binary) };
        command.arg("serve").args(options).stderr(Stdio::piped());
        Self::start(name, command)
    }

    /// Starts `udpong serve` with its log on and discarded.
    pub fn udpong_logging(name: &'static str) -> io::Result<Self> {
        let address = free_address()?;
        let mut command = on_processor(0, env!("CARGO_BIN_EXE_udpong"));
        command.args(["serve", &format!("echo@{address}")]).stderr(Stdio::null());
        Self::start_at(name, command, address)
    }

    /// Starts `udpong serve` as the target of relays, beside the generator.
    pub fn target() -> io::Result<Self> {
        let mut command = on_processor(1, env!("CARGO_BIN_EXE_udpong"));
        command.args(["serve", "echo@127.0.0.1:0", "-q"]).stderr(Stdio::piped());
        Self::start("target", command)
    }

    /// Starts `udpong relay`.
    pub fn udpong_relay(name: &'static str, target: &Self, options: &[&str]) -> io::Result<Self> {
        let mut command = on_processor(0, env!("CARGO_BIN_EXE_udpong"));
        command.args(["relay", "127.0.0.1:0", &target.address, "-q"]).args(options).stderr(Stdio::piped());
        Self::start(name, command)
    }

    /// Starts the relay among the [`baselines`], in this program.
    pub fn baseline_relay(name: &'static str, target: &Self) -> io::Result<Self> {
        let this = std::env::current_exe()?;
        let mut command = on_processor(0, &this.to_string_lossy());
        command.args(["baseline", name, &target.address]).stdout(Stdio::piped());
        Self::start(name, command)
    }

    /// Starts socat as a relay, with a process for each client, if there is socat.
    pub fn socat_relay(target: &Self) -> Option<Self> {
        let address = free_address().ok()?;
        let (host, port) = address.split_once(':')?;
        let mut command = on_processor(0, "socat");
        command.arg("-T5").arg(format!("UDP4-LISTEN:{port},bind={host},fork,reuseaddr"));
        command.arg(format!("UDP4:{}", target.address)).stderr(Stdio::null());
        Self::start_at("socat", command, address).ok()
    }

    /// Starts a server that does not print its address.
    fn start_at(name: &'static str, mut command: Command, address: String) -> io::Result<Self> {
        let child = command.spawn()?;
        thread::sleep(Duration::from_millis(300));
        Ok(Self { name, child, address })
    }

    fn start(name: &'static str, mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let output: Box<dyn Read + Send> = match (child.stdout.take(), child.stderr.take()) {
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

    /// Returns the peak of resident memory, in MiB.
    pub fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
    }

    /// Returns the processor time of all threads so far, in seconds, to the nanosecond, and that of its children.
    fn cpu_seconds(&self) -> io::Result<f64> {
        let mut nanoseconds = 0.0;
        for process in self.processes() {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let times = fs::read_to_string(task?.path().join("schedstat"))?;
                nanoseconds += times.split(' ').next().and_then(|time| time.parse::<f64>().ok()).unwrap_or(f64::NAN);
            }
        }
        Ok(nanoseconds / 1e9 + self.ended_children())
    }

    /// Returns the processor time of children that have ended, in seconds, to the clock tick.
    fn ended_children(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // cutime and cstime are the 14th and 15th fields after the name, which is in parentheses.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(13).take(2);
        fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// Returns the process and its children, of which only socat has any.
    fn processes(&self) -> Vec<u32> {
        let this = self.child.id();
        let children = fs::read_to_string(format!("/proc/{this}/task/{this}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|child| child.parse().ok());
        [this].into_iter().chain(children).collect()
    }

    /// Returns the clock ticks so far, in user space and in all.
    fn ticks(&self) -> io::Result<(f64, f64)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // utime and stime are the 12th and 13th fields after the name, which is in parentheses.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
        Ok((ticks(11), ticks(11) + ticks(12)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> io::Result<String> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Returns a command that runs on one processor, if the system can do that, so that server and generator do not
/// compete.
pub fn on_processor(processor: usize, program: &str) -> Command {
    if cores() == 1 || Command::new("taskset").arg("-V").output().is_err() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &processor.to_string(), program]);
    command
}

/// Loads a server once.
pub fn measure(server: &Server, workload: &Workload) -> io::Result<Sample> {
    let (cpu_before, (user_before, ticks_before)) = (server.cpu_seconds()?, server.ticks()?);
    let mut generator = on_processor(1, env!("CARGO_BIN_EXE_udpong"));
    generator.args(["bench", &server.address, "--json", "--time", TIME, "--warm-up", "0"]).args(workload.options);
    let output = generator.stderr(Stdio::null()).output()?;
    let (cpu, (user, ticks)) = (server.cpu_seconds()?, server.ticks()?);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    Ok(Sample {
        answers: number(&report["answered"]),
        answers_per_second: number(&report["answers_per_second"]),
        cpu_seconds: cpu - cpu_before,
        user_ticks: user - user_before,
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

pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
}
