//! The tally, told while the server runs: by one line for each endpoint, whichever loops serve it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::info;

use super::tally::{EndpointReport, add_up};

/// Gathers the reports of all loops; the last loop to report at a time tells their sum.
#[derive(Debug)]
pub struct Stats {
    interval: Duration,
    loops: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The reports that came since the sum was last told.
    gathered: Vec<Vec<EndpointReport>>,
    told: Instant,
    /// What was told then.
    before: Vec<EndpointReport>,
}

impl Stats {
    /// Stats of so many loops, to be told every `interval`.
    pub fn new(interval: Duration, loops: usize) -> Self {
        let state = State { gathered: Vec::with_capacity(loops), told: Instant::now(), before: Vec::new() };
        Self { interval, loops, state: Mutex::new(state) }
    }

    /// When to report for the first time.
    pub fn first(&self) -> Option<Instant> {
        self.lock().told.checked_add(self.interval)
    }

    /// Takes the reports of one loop, and tells the sum when all have reported; returns when to report again.
    pub fn tell(&self, now: Instant, reports: Vec<EndpointReport>) -> Option<Instant> {
        let mut state = self.lock();
        state.gathered.push(reports);
        if state.gathered.len() == self.loops {
            let sum = add_up(state.gathered.drain(..));
            let seconds = now.saturating_duration_since(state.told).as_secs_f64();
            for (i, report) in sum.iter().enumerate() {
                let before = state.before.get(i).map(|before| &before.tally);
                let rate = |now: u64, before: Option<u64>| now.saturating_sub(before.unwrap_or(0)) as f64 / seconds;
                let received = rate(report.tally.received, before.map(|tally| tally.received));
                let answered = rate(report.tally.answered, before.map(|tally| tally.answered));
                info!("{report}; {received:.0} received/s, {answered:.0} answered/s");
            }
            state.told = now;
            state.before = sum;
        }
        now.checked_add(self.interval)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
