//! Reads what a child process writes, line by line, while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::TIMEOUT;

/// The lines that a child has written so far.
pub struct Lines {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The lines so far, and whether the output has ended.
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    /// Starts a thread that reads to the end.
    pub fn read(from: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let written = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                written.state.lock().expect("the lines").0.push(line.expect("UTF-8"));
                written.changed.notify_all();
            }
            written.state.lock().expect("the lines").1 = true;
            written.changed.notify_all();
        });
        Self { shared, reader: Some(reader) }
    }

    /// Waits until the lines so far, and whether the output has ended, give a result.
    pub fn wait_until<T>(&self, mut condition: impl FnMut(&[String], bool) -> Option<T>) -> T {
        let start = Instant::now();
        let mut state = self.shared.state.lock().expect("the lines");
        loop {
            if let Some(result) = condition(&state.0, state.1) {
                return result;
            }
            assert!(start.elapsed() < TIMEOUT, "timed out waiting for a line: {:#?}", state.0);
            state = self.shared.changed.wait_timeout(state, TIMEOUT).expect("the lines").0;
        }
    }

    /// Returns the lines so far.
    pub fn so_far(&self) -> Vec<String> {
        self.shared.state.lock().expect("the lines").0.clone()
    }

    /// Waits for the end and returns all lines.
    pub fn all(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reading thread");
        }
        self.so_far()
    }
}
