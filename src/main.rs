//! The command line, the run, the exit code; nothing else.

// No input may panic, and output has one place each.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)
)]

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use cli::{Cli, commands};

fn main() -> ExitCode {
    let Err(failure) = commands::run(Cli::parse().command) else {
        return ExitCode::SUCCESS;
    };
    if let Some(message) = &failure.message {
        say(message);
    }
    ExitCode::from(failure.code)
}

/// Writes an error to stderr, and waits no longer than a second for it: a stuck stderr must not keep the program
/// from ending.
fn say(message: &str) {
    // Not eprintln!, which panics where stderr is closed.
    fn write(line: &str) {
        let _ = io::stderr().write_all(line.as_bytes());
    }
    let line = format!("udpong: {message}\n");
    let (done, finished) = mpsc::channel();
    let copy = line.clone();
    let thread = thread::Builder::new().spawn(move || {
        write(&copy);
        let _ = done.send(());
    });
    match thread {
        Ok(_) => drop(finished.recv_timeout(Duration::from_secs(1))),
        Err(_) => write(&line),
    }
}
