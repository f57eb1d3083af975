//! A request to stop, from Ctrl+C, another signal or another thread, that wakes the loops it concerns.

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
    /// Weak, because a loop may have ended.
    wakers: Mutex<Vec<Weak<Waker>>>,
}

impl Shutdown {
    /// Creates a shutdown that is not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the stop and wakes the loops. Only the first request counts.
    pub fn request(&self) {
        if self.state.requested.set(Instant::now()).is_ok() {
            self.wake();
        }
    }

    /// Requests a stop that waits for nothing, and wakes the loops.
    pub fn force(&self) {
        self.state.forced.store(true, Ordering::Release);
        let _ = self.state.requested.set(Instant::now());
        self.wake();
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

    /// Registers another waker.
    pub(super) fn register_waker(&self, waker: &Arc<Waker>) {
        let mut wakers = self.state.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(Arc::downgrade(waker));
    }

    /// Makes SIGINT, SIGTERM and SIGHUP request the stop; a second signal ends the process at once, with status 130.
    ///
    /// A signal that is ignored at the start stays ignored, as the parent process intends: nohup(1) ignores SIGHUP, and
    /// a shell without job control ignores SIGINT for a command with `&`. On systems other than Linux this is not
    /// known, and all three request the stop. On Windows, Ctrl+C and closing the console do.
    ///
    /// The handler runs on threads of its own. It does not log and waits only for a short lock, so it cannot hang.
    /// Signals within 10 ms of each other count as one.
    ///
    /// # Errors
    ///
    /// Returns an error if the process has a handler already, or if the system refuses a handler or a thread.
    #[cfg(feature = "cli")]
    pub fn on_signals(&self) -> std::io::Result<()> {
        self.handle_signals(false)
    }

    /// Does the same as [`on_signals`](Self::on_signals), except that a second signal [forces](Self::force) the stop,
    /// and the third one ends the process.
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
        // Signals this close together are one request: timeout(1) sends one to the process and one to its process
        // group.
        const SAME_REQUEST: std::time::Duration = std::time::Duration::from_millis(10);
        let shutdown = self.clone();
        let latest = Arc::new(Mutex::new(None::<Instant>));
        let handler = move || {
            let now = Instant::now();
            let previous = latest.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
            match previous {
                None => shutdown.request(),
                Some(previous) if now.saturating_duration_since(previous) <= SAME_REQUEST => {}
                Some(_) if second_forces && !shutdown.is_forced() => shutdown.force(),
                Some(_) => std::process::exit(130),
            }
        };
        let ignored = ignored_signals();
        let is_ignored = |signal: libc::c_int| ignored >> (signal - 1) & 1 == 1;
        #[cfg(unix)]
        {
            let handled = [libc::SIGTERM, libc::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
            let mut arrivals = signal_hook::iterator::Signals::new(handled)?;
            let handler = handler.clone();
            let wait = move || arrivals.forever().for_each(|_| handler());
            std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        }
        // Not with its feature `termination`, which would replace the handlers of all three signals regardless.
        if is_ignored(libc::SIGINT) {
            return Ok(());
        }
        ctrlc::set_handler(handler).map_err(|error| match error {
            ctrlc::Error::System(error) => error,
            error => std::io::Error::other(error),
        })
    }
}

/// Returns the signals that the process ignores: bit N-1 stands for signal N (proc(5), `SigIgn`). Returns 0 on systems
/// other than Linux.
#[cfg(feature = "cli")]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
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

    #[test]
    fn forced_stop_is_a_request_too() {
        let shutdown = Shutdown::new();
        shutdown.request();
        assert!(!shutdown.is_forced());
        let other = Shutdown::new();
        other.clone().force();
        assert!(other.is_forced() && other.is_requested());
    }
}
