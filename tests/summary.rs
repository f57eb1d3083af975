//! Prints how many tests of `program` were left out, and what they need. Contains no tests itself: cargo runs the
//! test programs by name, this one last.
//!
//! `needs!` in `program/harness/tools.rs` notes each test that it leaves out in a file, which this program removes.
//! The fields of a line: the process that runs the test programs, how many tests `program` has, the test, and what is
//! missing, each after a tab.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::parent_id;

const NOTES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/left-out");

fn main() {
    let text = fs::read_to_string(NOTES).unwrap_or_default();
    let _ = fs::remove_file(NOTES);
    // Other lines are from runs that did not get here.
    let this_run = format!("{}\t", parent_id());
    let lines = text.lines().filter_map(|line| line.strip_prefix(&this_run));
    let notes: Vec<Vec<&str>> = lines.map(|line| line.split('\t').collect()).collect();
    if let Some([total, _, ..]) = notes.first().map(Vec::as_slice) {
        let missing: BTreeSet<&str> = notes.iter().flat_map(|note| &note[2..]).copied().collect();
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        println!("\n{} of {total} tests left out. Missing: {missing}\n", notes.len());
    } else {
        println!("\nNo tests left out\n");
    }
}
