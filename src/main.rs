//! The entry point of the program.

// Input must not cause a panic, and only `cli` writes output.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)
)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
