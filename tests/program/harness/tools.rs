//! Leaves tests out where a tool is missing, and notes that for the summary (`tests/summary.rs`).

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::process::Command;
use std::sync::OnceLock;

use super::is_inside_namespace;

/// Leaves the test out, by returning from it, unless all of these tools can be used. With CI=true it fails instead.
///
/// Stands directly in the test's function.
macro_rules! needs {
    ($($tool:expr),+) => {
        if $crate::harness::leave_out($crate::harness::test_name!(), &[$($tool),+]) {
            return;
        }
    };
}
pub(crate) use needs;

/// The full name of the test in whose function this stands (`guard::own_ports_are_refused`).
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::harness::name_from_path(std::any::type_name_of_val(&here))
    }};
}
pub(crate) use test_name;

/// Where tests that are left out are noted, one a line; see [`note`].
const NOTES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/left-out");

/// Returns the name of a test from the path of the function `here` in it.
pub fn name_from_path(path: &'static str) -> &'static str {
    path.strip_prefix("program::").and_then(|path| path.strip_suffix("::here")).unwrap_or(path)
}

/// Whether a test is left out because something that it needs is missing; if so, notes it.
pub fn leave_out(test: &str, tools: &[&str]) -> bool {
    // A test that runs in a namespace has been checked outside.
    if is_inside_namespace() {
        return false;
    }
    let missing: Vec<&str> = tools.iter().filter_map(|tool| missing_for(tool)).collect();
    if missing.is_empty() {
        return false;
    }
    assert_ne!(env::var("CI").as_deref(), Ok("true"), "missing: {}", missing.join(", "));
    eprintln!("{test} is left out. Missing: {}", missing.join(", "));
    note(test, &missing);
    true
}

/// Returns what is missing to use a tool: the tool itself, or a permission.
fn missing_for(tool: &str) -> Option<&str> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_installed = env::split_paths(&path).any(|folder| folder.join(tool).is_file());
    let succeeds = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let imports = |tool| {
        let module = match tool {
            "hdrhistogram" => "hdrh.log",
            "scapy" => "scapy.contrib.stamp",
            module => module,
        };
        succeeds("python3", &["-c", &format!("import {module}")])
    };
    match tool {
        // Modules of Python, from PyPI.
        "aioquic" | "hdrhistogram" | "scapy" => (!imports(tool)).then_some(tool),
        _ if !is_installed => Some(tool),
        "unshare" if !succeeds(tool, &["-rn", "true"]) => Some("permission to create network namespaces"),
        "strace" if !succeeds(tool, &["-D", "-qq", "-o", "/dev/null", "true"]) => Some("permission to trace processes"),
        _ => None,
    }
}

/// Appends a line to the notes, whose fields `tests/summary.rs` describes. Several tests may do so at the same time.
fn note(test: &str, missing: &[&str]) {
    let line = format!("{}\t{}\t{test}\t{}\n", parent_id(), number_of_tests(), missing.join("\t"));
    let notes = OpenOptions::new().create(true).append(true).open(NOTES);
    if let Err(error) = notes.and_then(|mut notes| notes.write_all(line.as_bytes())) {
        // Written directly, since libtest captures what the macros print.
        let _ = writeln!(io::stderr(), "{test} is left out, which cannot be noted in {NOTES}: {error}");
    }
}

/// Returns how many tests this run of the test program has, without ignored ones.
fn number_of_tests() -> usize {
    static NUMBER: OnceLock<usize> = OnceLock::new();
    let count = |options: &[&str]| {
        let mut list = Command::new(env::current_exe().expect("the test program"));
        let output = list.args(env::args().skip(1)).args(options).output().expect("a list of tests");
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with(": test")).count()
    };
    *NUMBER.get_or_init(|| count(&["--list"]) - count(&["--list", "--ignored"]))
}
