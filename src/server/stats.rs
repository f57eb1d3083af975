//! The statistics, told while the server runs: by one line for each endpoint, whichever loops serve it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::info;

use super::statistics::{EndpointReport, add_up};

/// Keeps the newest report of each loop; the first loop tells their sum.
#[derive(Debug)]
pub struct Stats {
    interval: Duration,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the number of the loop.
    newest: Vec<Vec<EndpointReport>>,
    told: Instant,
    /// What was told then.
    before: Vec<EndpointReport>,
}

impl Stats {
    /// Stats to be told every `interval`, of loops that have done what these reports say.
    pub fn new(interval: Duration, reports: Vec<Vec<EndpointReport>>) -> Self {
        let start = Instant::now();
        Self { interval, start, state: Mutex::new(State { newest: reports, told: start, before: Vec::new() }) }
    }

    /// When to report for the first time.
    pub fn first(&self) -> Option<Instant> {
        self.start.checked_add(self.interval)
    }

    /// Takes what a loop has done, and tells the sum if it is the first loop; returns when to report again.
    ///
    /// The others report at the same times. Where one is behind, its part is an interval old.
    pub fn tell(&self, number: usize, now: Instant, reports: Vec<EndpointReport>) -> Option<Instant> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = state.newest.get_mut(number) {
            *newest = reports;
        }
        if number == 0 {
            Self::tell_sum(&mut state, now);
        }
        now.checked_add(self.interval)
    }

    fn tell_sum(state: &mut MutexGuard<'_, State>, now: Instant) {
        let sum = add_up(state.newest.iter().cloned());
        let seconds = now.saturating_duration_since(state.told).as_secs_f64().max(f64::MIN_POSITIVE);
        for (i, report) in sum.iter().enumerate() {
            let before = state.before.get(i).map(|before| &before.statistics);
            let rate = |now: u64, before: Option<u64>| now.saturating_sub(before.unwrap_or(0)) as f64 / seconds;
            let received = rate(report.statistics.received, before.map(|statistics| statistics.received));
            let answered = rate(report.statistics.answered, before.map(|statistics| statistics.answered));
            info!("{report}; {received:.0} received/s, {answered:.0} answered/s");
        }
        state.told = now;
        state.before = sum;
    }
}
