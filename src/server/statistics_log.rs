//! The statistics in the log while the server runs: at an interval, a line for each endpoint.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::info;

use super::statistics::{EndpointReport, sum_of_workers};

/// Collects the statistics of all workers; the first worker logs their sum. Shared by the workers.
#[derive(Debug)]
pub struct StatisticsLog {
    interval: Duration,
    reports: Mutex<Reports>,
}

#[derive(Debug)]
struct Reports {
    /// The newest ones of each worker.
    newest: Vec<Vec<EndpointReport>>,
    /// When statistics were last logged, and which: the rates are of the time since.
    logged_at: Instant,
    logged: Vec<EndpointReport>,
}

impl StatisticsLog {
    /// Creates a log with a line for each endpoint every `interval`, starting one interval from `now`.
    pub fn new(interval: Duration, workers: usize, now: Instant) -> Self {
        let reports = Reports { newest: vec![Vec::new(); workers], logged_at: now, logged: Vec::new() };
        Self { interval, reports: Mutex::new(reports) }
    }

    /// Returns when [`record`](Self::record) should next be called; `None` if that is beyond the range of `Instant`.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        now.checked_add(self.interval)
    }

    /// Takes the statistics of a worker, numbered from 0; logs the sum of all if it is worker 0.
    ///
    /// All workers record at the same interval, so the part of a late one is at most about one interval old.
    pub fn record(&self, worker: usize, reports: Vec<EndpointReport>, now: Instant) {
        let mut collected = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = collected.newest.get_mut(worker) {
            *newest = reports;
        }
        if worker == 0 {
            collected.log(now);
        }
    }
}

impl Reports {
    fn log(&mut self, now: Instant) {
        let before = mem::replace(&mut self.logged, sum_of_workers(self.newest.iter().cloned()));
        let seconds = now.saturating_duration_since(mem::replace(&mut self.logged_at, now)).as_secs_f64();
        for (i, report) in self.logged.iter().enumerate() {
            let rate = |count: fn(&EndpointReport) -> u64| {
                let new = count(report).saturating_sub(before.get(i).map_or(0, count));
                new as f64 / seconds.max(f64::MIN_POSITIVE)
            };
            let received = rate(|report| report.statistics.received);
            let answered = rate(|report| report.statistics.answered);
            info!("{report}; {received:.0} received/s, {answered:.0} answered/s");
        }
    }
}
