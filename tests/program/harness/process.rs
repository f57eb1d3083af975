//! Runs commands, the program among them.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::TIMEOUT;

/// Returns a command that starts the program.
pub fn udpong(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_udpong"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// Runs a command to its end, with `input` on its standard input.
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

/// Runs a Python program, which must succeed; returns its standard output.
pub fn python(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = run(Command::new("python3").arg("-c").arg(program).args(arguments), b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs a shell script, which must succeed.
pub fn shell(script: &str) {
    let output = run(Command::new("sh").arg("-ec").arg(script), b"");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends a signal, named as kill(1) names it.
pub fn signal(name: &str, process: u32) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status().expect("sh");
    assert!(status.success(), "cannot send {name}");
}

/// Repeats a check until it gives a result.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(start.elapsed() < TIMEOUT, "timed out waiting until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
