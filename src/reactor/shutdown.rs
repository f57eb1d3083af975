//! A request to stop, from a signal or another thread, that wakes the loops it concerns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use mio::Waker;

/// Asks every [`Reactor`](super::Reactor) that was created with it, or with a clone of it, to stop.
///
/// The flag is authoritative; the waker only makes the loop check it. A loop that is not polling finds the flag before
/// it polls again; one that is polling gets an event.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    requested: OnceLock<Instant>,
    forced: AtomicBool,
    /// Of loops that may have ended in the meantime.
    wakers: Mutex<Vec<Weak<Waker>>>,
}

impl Shutdown {
    /// Creates a shutdown that is not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the stop and wakes the loops. Only the first request counts.
    pub fn request(&self) {
        let _ = self.state.requested.set(Instant::now());
        self.wake();
    }

    /// Requests a stop that waits for nothing, and wakes the loops.
    pub fn force(&self) {
        self.state.forced.store(true, Ordering::Release);
        self.request();
    }

    /// Returns whether the stop should wait for nothing.
    pub fn is_forced(&self) -> bool {
        self.state.forced.load(Ordering::Acquire)
    }

    fn wake(&self) {
        for waker in self.state.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // A failure is not fatal: without the event, the loop checks the flag after its next event or deadline.
            let _ = waker.upgrade().map(|waker| waker.wake());
        }
    }

    /// Returns whether the stop was requested.
    pub fn is_requested(&self) -> bool {
        self.requested_at().is_some()
    }

    /// Returns when the stop was first requested.
    pub fn requested_at(&self) -> Option<Instant> {
        self.state.requested.get().copied()
    }

    /// Wakes one more loop at a request.
    pub(super) fn register_waker(&self, waker: &Arc<Waker>) {
        let mut wakers = self.state.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(Arc::downgrade(waker));
    }

    /// Makes SIGINT, SIGTERM and SIGHUP request the stop; a second signal ends the process at once, with status 130.
    ///
    /// The handler runs on a thread of its own, and neither logs nor waits, so it cannot hang.
    ///
    /// # Errors
    ///
    /// Returns an error if the process has a handler already, or if the system refuses one.
    #[cfg(feature = "cli")]
    pub fn on_signals(&self) -> std::io::Result<()> {
        self.handle_signals(false)
    }

    /// Does the same as [`on_signals`](Self::on_signals), except that a second signal [forces](Self::force) the stop, and
    /// the third one ends the process.
    ///
    /// # Errors
    ///
    /// As [`on_signals`](Self::on_signals).
    #[cfg(feature = "cli")]
    pub fn on_signals_then_force(&self) -> std::io::Result<()> {
        self.handle_signals(true)
    }

    #[cfg(feature = "cli")]
    fn handle_signals(&self, second_forces: bool) -> std::io::Result<()> {
        // Signals this close together are one request: timeout(1) sends one to the process and one to its process group.
        const SAME_REQUEST: std::time::Duration = std::time::Duration::from_millis(10);
        let shutdown = self.clone();
        let mut latest: Option<Instant> = None;
        ctrlc::set_handler(move || {
            let is_repeated = latest.is_some_and(|latest| latest.elapsed() <= SAME_REQUEST);
            if is_repeated {
                return;
            }
            if latest.replace(Instant::now()).is_none() {
                shutdown.request();
            } else if second_forces && !shutdown.is_forced() {
                shutdown.force();
            } else {
                std::process::exit(130);
            }
        })
        .map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_sees_the_first_request_only() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_requested());
        shutdown.request();
        let requested_at = other.requested_at();
        assert!(requested_at.is_some());
        other.request();
        assert_eq!(shutdown.requested_at(), requested_at);
    }
}
