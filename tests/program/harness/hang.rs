//! A worker that hangs.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::wait_until;

/// A thread that makes no progress, until this is dropped.
pub struct Hang(Child);

impl Hang {
    /// Keeps the second worker of a server from returning to its loop.
    pub fn second_worker_of(process: u32) -> Self {
        let thread = wait_until("the worker runs", || {
            let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a process");
            let mut tasks = tasks.map(|task| task.expect("a thread").path());
            let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
            tasks.find(|task| name(task) == "worker 2\n").and_then(|task| Some(task.file_name()?.to_str()?.to_owned()))
        });
        let child = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", "inject=epoll_wait:delay_enter=600000000", "-p", &thread])
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("strace"))
    }

    pub fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        self.end();
    }
}
