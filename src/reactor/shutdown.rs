//! The flag and the wakers that Ctrl+C sets off.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use mio::Waker;

/// Asks every loop that holds a clone of it to stop.
///
/// The flag is the truth and the waker only brings the loop to look at it: a loop that is not polling finds the
/// flag before it polls again, and one that is gets an event.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requested: OnceLock<Instant>,
    wakers: Mutex<Vec<Waker>>,
}

impl Shutdown {
    /// Nothing requested, nobody to wake.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a stop and wakes the loops. Only the first request counts.
    pub fn request(&self) {
        let _ = self.shared.requested.set(Instant::now());
        for waker in self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // A loop that cannot be woken is one that ended.
            let _ = waker.wake();
        }
    }

    /// When the stop was asked for, if it was.
    pub fn requested(&self) -> Option<Instant> {
        self.shared.requested.get().copied()
    }

    /// Wakes one more loop at a request.
    pub(crate) fn wake(&self, waker: Waker) {
        self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// Lets SIGINT, SIGTERM and SIGHUP ask for a stop; a second one ends the process at once, with status 130.
    ///
    /// The handler runs on a thread of its own, and neither logs nor waits, so it cannot hang.
    ///
    /// # Errors
    ///
    /// When the process has a handler already, or the system refuses it one.
    #[cfg(feature = "cli")]
    pub fn on_signals(&self) -> std::io::Result<()> {
        // Signals so close together are one request: timeout(1) sends one to the process, and one to its whole group.
        const ONE_REQUEST: std::time::Duration = std::time::Duration::from_millis(10);
        let shutdown = self.clone();
        let mut signalled = None;
        ctrlc::set_handler(move || {
            if signalled.get_or_insert_with(Instant::now).elapsed() > ONE_REQUEST {
                std::process::exit(130);
            }
            shutdown.request();
        })
        .map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_request_counts_and_every_clone_sees_it() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert_eq!(other.requested(), None);
        shutdown.request();
        let requested = other.requested().expect("requested");
        other.request();
        assert_eq!(shutdown.requested(), Some(requested));
    }
}
