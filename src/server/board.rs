//! Where workers leave their statistics for the first one, which shows them, and whether each of them still turns.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::statistics::EndpointReport;

/// A worker that has left nothing for this many intervals is stuck.
const STUCK_AFTER: u32 = 4;

/// The newest statistics of every worker.
#[derive(Debug)]
pub struct Board {
    interval: Duration,
    workers: Vec<Mutex<(Instant, Vec<EndpointReport>)>>,
}

impl Board {
    /// Creates a board with the first statistics of all workers. Each has to leave new ones at `interval`.
    pub fn new(interval: Duration, reports: impl IntoIterator<Item = Vec<EndpointReport>>, now: Instant) -> Self {
        Self { interval, workers: reports.into_iter().map(|reports| Mutex::new((now, reports))).collect() }
    }

    /// Leaves the statistics of a worker, numbered from 0; returns when to do so next.
    pub fn leave(&self, worker: usize, reports: Vec<EndpointReport>, now: Instant) -> Option<Instant> {
        if let Some(place) = self.workers.get(worker) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = (now, reports);
        }
        now.checked_add(self.interval)
    }

    /// Returns the statistics of all workers but the first.
    pub fn others(&self) -> impl Iterator<Item = Vec<EndpointReport>> {
        self.workers.iter().skip(1).map(|place| place.lock().unwrap_or_else(PoisonError::into_inner).1.clone())
    }

    /// Checks that every worker but the first still turns.
    ///
    /// # Errors
    ///
    /// A line about the first one that does not.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        for (number, place) in (1..).zip(&self.workers).skip(1) {
            let left = place.lock().unwrap_or_else(PoisonError::into_inner).0;
            let silent = now.saturating_duration_since(left);
            if silent > STUCK_AFTER * self.interval {
                return Err(format!("worker {number} has not turned for {:.1} s", silent.as_secs_f64()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_worker_is_stuck_after_four_intervals() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let board = Board::new(second, [Vec::new(), Vec::new()], start);
        assert_eq!(board.check(start + 4 * second), Ok(()));
        let error = board.check(start + 5 * second).expect_err("a stuck worker");
        assert_eq!(error, "worker 2 has not turned for 5.0 s");
        assert_eq!(board.leave(1, Vec::new(), start + 5 * second), Some(start + 6 * second));
        assert_eq!(board.check(start + 6 * second), Ok(()), "the first one asks, so it turns");
    }
}
