//! The statistics in the log while the server runs: at an interval, a line for each endpoint.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::info;

use super::statistics::{EndpointReport, sum_of_workers};

/// Collects the statistics of all workers and logs their sum. Shared by the workers.
#[derive(Debug)]
pub struct StatisticsLog {
    interval: Duration,
    started: Instant,
    reports: Mutex<Reports>,
}

#[derive(Debug)]
struct Reports {
    /// The newest ones of each worker.
    newest: Vec<Vec<EndpointReport>>,
    /// Which workers have reported since statistics were last logged.
    is_fresh: Vec<bool>,
    /// When statistics were last logged, and which: the rates are of the time since.
    logged_at: Instant,
    logged: Vec<EndpointReport>,
}

impl StatisticsLog {
    /// Creates a log with a line for each endpoint every `interval`, starting one interval from `now`.
    pub fn new(interval: Duration, workers: usize, now: Instant) -> Self {
        let (newest, is_fresh) = (vec![Vec::new(); workers], vec![false; workers]);
        let reports = Reports { newest, is_fresh, logged_at: now, logged: Vec::new() };
        Self { interval, started: now, reports: Mutex::new(reports) }
    }

    /// Returns when every worker should first call [`record`](Self::record); `None` if that is beyond the range of
    /// `Instant`.
    pub fn first(&self) -> Option<Instant> {
        self.started.checked_add(self.interval)
    }

    /// Returns when to call [`record`](Self::record) next, after it was due at `due`. Without delays the interval does
    /// not drift, so that all workers record at the same times.
    pub fn next(&self, due: Instant, now: Instant) -> Option<Instant> {
        due.checked_add(self.interval).map(|next| next.max(now))
    }

    /// Takes the statistics of a worker, numbered from 0. Logs the sum once all workers have reported since the last
    /// time; a worker that has not reported for a whole interval is not waited for.
    pub fn record(&self, worker: usize, reports: Vec<EndpointReport>, now: Instant) {
        let mut collected = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if collected.is_fresh.get(worker) == Some(&true) {
            collected.log(now);
        }
        collected.newest[worker] = reports;
        collected.is_fresh[worker] = true;
        if collected.is_fresh.iter().all(|is_fresh| *is_fresh) {
            collected.log(now);
        }
    }
}

impl Reports {
    fn log(&mut self, now: Instant) {
        self.is_fresh.fill(false);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Statistics;

    fn reports(received: u64) -> Vec<EndpointReport> {
        let statistics = Statistics { received, ..Statistics::default() };
        vec![EndpointReport {
            service: "hello",
            address: ([127, 0, 0, 1], 5000).into(),
            statistics,
            kernel_dropped: None,
        }]
    }

    /// Returns how many datagrams the newest line reports.
    fn logged(log: &StatisticsLog) -> Option<u64> {
        log.reports.lock().expect("no panic").logged.first().map(|report| report.statistics.received)
    }

    #[test]
    fn line_has_the_news_of_all_workers() {
        let start = Instant::now();
        let log = StatisticsLog::new(Duration::from_secs(1), 2, start);
        log.record(1, reports(10), start);
        assert_eq!(logged(&log), None);
        log.record(0, reports(1), start);
        assert_eq!(logged(&log), Some(11));
        log.record(0, reports(2), start);
        assert_eq!(logged(&log), Some(11));
        log.record(1, reports(20), start);
        assert_eq!(logged(&log), Some(22));
    }

    #[test]
    fn worker_that_does_not_report_is_not_waited_for() {
        let start = Instant::now();
        let log = StatisticsLog::new(Duration::from_secs(1), 2, start);
        log.record(0, reports(1), start);
        log.record(0, reports(2), start);
        assert_eq!(logged(&log), Some(1));
    }

    #[test]
    fn interval_does_not_drift() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let log = StatisticsLog::new(second, 1, start);
        let first = log.first().expect("a time");
        assert_eq!(log.next(first, first + second / 10), Some(start + 2 * second));
        assert_eq!(log.next(first, first + 5 * second), Some(first + 5 * second), "delayed");
    }
}
