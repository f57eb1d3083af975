//! The entry point of the program.

// No input may panic, and output has one place each.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)
)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
