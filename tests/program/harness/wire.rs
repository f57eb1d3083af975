//! A wire with delay between two servers: a TUN device and a forwarder in user space (`wire.py`).
//!
//! Both ends are in one network namespace, so each server needs an address that is not local to reach the other one:
//! the left end has 10.0.1.1 and is 10.0.1.2 for the right end, which has 10.0.2.1 and is 10.0.2.2 for the left one.
//! The forwarder translates.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::wait_until;

/// Where servers at the left end listen, and the address that the right end knows them by.
pub const LEFT: &str = "10.0.1.1";
pub const LEFT_FROM_RIGHT: &str = "10.0.1.2";

/// Where servers at the right end listen, and the address that the left end knows them by.
pub const RIGHT: &str = "10.0.2.1";
pub const RIGHT_FROM_LEFT: &str = "10.0.2.2";

/// A wire that is cut when this is dropped. Needs python3 and root, in a namespace for one.
pub struct Wire {
    forwarder: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Wire {
    /// Connects the two ends; each packet takes `delay` one way.
    pub fn new(delay: Duration) -> Self {
        let mut forwarder = Command::new("python3")
            .args(["-c", include_str!("wire.py"), &delay.as_secs_f64().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let commands = forwarder.stdin.take().expect("a pipe");
        let answers = BufReader::new(forwarder.stdout.take().expect("a pipe"));
        let mut wire = Self { forwarder, commands, answers };
        wire.state();
        wire
    }

    /// Delivers a datagram to one end that seems to come from the other one.
    pub fn spoof(&mut self, source: (&str, u16), destination: (&str, u16), payload: &[u8]) {
        self.command(&json!([source.0, source.1, destination.0, destination.1, payload]));
    }

    /// Waits until nothing has been in flight for a second; returns how many datagrams each pair of ports, in
    /// ascending order, has exchanged. Fragments of one datagram count once, spoofed datagrams do not count.
    pub fn wait_until_idle(&mut self) -> impl Fn(u16, u16) -> u64 + use<> {
        let carried = wait_until("the wire is idle", || {
            let mut state = self.state();
            (state["idle"].as_f64().expect("seconds") >= 1.0).then(|| state["carried"].take())
        });
        move |low, high| carried.get(format!("{low} {high}")).map_or(0, |count| count.as_u64().expect("a count"))
    }

    fn state(&mut self) -> Value {
        self.command(&json!("state"));
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the forwarder's state");
        serde_json::from_str(&answer).expect("JSON")
    }

    fn command(&mut self, command: &Value) {
        writeln!(self.commands, "{command}").expect("the forwarder takes commands");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.forwarder.kill();
        let _ = self.forwarder.wait();
    }
}
