//! Runs tests in network namespaces, where they are root, have every port, and can shape the traffic.

use std::env;
use std::process::Command;

use super::{run, shell};

/// Runs the rest of the test as root in its own network namespace, with lo up. Takes further tools that it needs.
///
/// Stands first and directly in the test's function.
macro_rules! run_in_namespace {
    ($($tool:expr),*) => {
        $crate::harness::needs!("unshare", "ip" $(, $tool)*);
        if !$crate::harness::in_namespace($crate::harness::test_name!()) {
            return;
        }
    };
}
pub(crate) use run_in_namespace;

/// The environment variable that is set inside.
const INSIDE: &str = "UDPONG_TEST_NAMESPACE";

pub fn is_inside_namespace() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether this process is already inside a namespace. If not, runs the test of this name again inside one, checks
/// that it passed, and returns `false`.
pub fn in_namespace(test: &str) -> bool {
    if is_inside_namespace() {
        shell("ip link set lo up");
        return true;
    }
    let this = env::current_exe().expect("the test program");
    let mut command = Command::new("unshare");
    command.arg("-rn").arg(this).args(["--exact", test, "--nocapture", "--include-ignored"]).env(INSIDE, "1");
    let output = run(&mut command, b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{test} in a namespace: {text}");
    print!("{text}");
    false
}

/// Slows the namespace's loopback down until it is dropped.
///
/// Dropping it also discards the datagrams that still wait in it. They would keep the namespace alive for hours, and
/// ICMP errors among them would use up the room that a processor has for those of all namespaces: other tests would
/// not learn of closed ports.
pub struct SlowLoopback;

impl SlowLoopback {
    /// Takes a rate and a burst as tc(8) does.
    pub fn new(rate: &str, burst: u32) -> Self {
        shell(&format!("tc qdisc add dev lo root tbf rate {rate} burst {burst} limit 4000000"));
        Self
    }

    /// Lets the waiting datagrams pass.
    pub fn speed_up(&self) {
        shell("tc qdisc change dev lo root tbf rate 1gbit burst 200000 limit 4000000");
    }
}

impl Drop for SlowLoopback {
    fn drop(&mut self) {
        let _ = Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]).status();
    }
}
