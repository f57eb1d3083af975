//! Shows the state of a running command: metrics over HTTP and in a file, and notifications to the service manager.
//!
//! A [`Monitor`] is a few tasks of the reactor that serves datagrams, so it costs nothing between requests, and nothing
//! has to be shared between threads. The command implements [`Observed`].
//!
//! | file | responsibility |
//! |---|---|
//! | `exposition` | the text format of Prometheus; pure |
//! | `request` | the request of an HTTP client and the response; pure |
//! | `http` | the listener and its connections |
//! | `file` | the file for node_exporter's textfile collector |
//! | `address` | where metrics are served |

mod address;
mod exposition;
mod file;
mod http;
mod request;

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::event::Source;

pub use address::Address;
pub use exposition::{CONTENT_TYPE, Exposition, Family, Histograms, Kind, Label};

use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Reactor, Readiness, Wants};
use crate::service_manager::ServiceManager;
use file::MetricsFile;
use http::Http;
use request::Response;

/// How often the file is replaced and the status updated if no interval is given.
const INTERVAL: Duration = Duration::from_secs(15);

/// What watches a command.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Serve metrics over HTTP here. Default: `None`, nowhere.
    pub address: Option<Address>,
    /// Keep a file with the metrics. Default: `None`, no file.
    pub file: Option<PathBuf>,
    /// Notify this service manager. Default: `None`, none.
    pub manager: Option<ServiceManager>,
}

impl Options {
    /// Returns whether anything watches.
    pub fn is_any(&self) -> bool {
        self.address.is_some() || self.file.is_some() || self.manager.is_some()
    }
}

/// What a command shows. Every call is made by the reactor's thread.
pub trait Observed {
    /// Returns the metrics.
    fn metrics(&self) -> Exposition;

    /// Returns a line about the work so far.
    fn status(&self) -> String;

    /// Returns whether every event loop still turns. The calling one does.
    ///
    /// # Errors
    ///
    /// A line about one that does not.
    fn health(&self, now: Instant) -> Result<(), String> {
        let _ = now;
        Ok(())
    }
}

/// A task of the monitor.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// The times of the file and of the notifications.
    Timer,
    /// A task of the HTTP server.
    Http(http::Task),
}

/// The tasks that let others watch a command.
#[derive(Debug)]
pub struct Monitor {
    http: Option<Http>,
    path: Option<PathBuf>,
    file: Option<MetricsFile>,
    manager: Option<ServiceManager>,
    interval: Duration,
    /// When the file and the status are due, and when the watchdog is.
    next_update: Option<Instant>,
    next_watchdog: Option<Instant>,
}

impl Monitor {
    /// Listens where metrics are to be served; returns `None` if nothing watches. The file and the status are updated
    /// at `interval`, or every 15 s.
    ///
    /// # Errors
    ///
    /// One line, with a remedy where there is one.
    pub fn open(options: &Options, interval: Option<Duration>, shutdown: &Shutdown) -> Result<Option<Self>, String> {
        if !options.is_any() {
            return Ok(None);
        }
        let http = options.address.as_ref().map(|address| Ok::<_, String>(Http::new(address.listen(shutdown)?)));
        Ok(Some(Self {
            http: http.transpose()?,
            path: options.file.clone(),
            file: None,
            manager: options.manager.clone(),
            interval: interval.unwrap_or(INTERVAL),
            next_update: None,
            next_watchdog: None,
        }))
    }

    /// Returns a line about where metrics are served, if they are.
    pub fn notice(&self) -> Option<String> {
        let address = self.http.as_ref()?.address().ok()?;
        Some(format!("Metrics are served on http://{address}/metrics"))
    }

    /// Begins once every socket listens: writes the file and notifies the service manager.
    ///
    /// # Errors
    ///
    /// One line, if the file cannot be written.
    pub fn begin(&mut self, observed: &impl Observed, now: Instant) -> Result<(), String> {
        if let Some(path) = self.path.take() {
            self.file = Some(MetricsFile::create(&path, &observed.metrics().to_string())?);
        }
        if let Some(manager) = &self.manager {
            manager.notify(&format!("READY=1\nSTATUS={}", observed.status()));
            self.next_watchdog = manager.watchdog_period().and_then(|period| now.checked_add(period));
        }
        let updates = self.file.is_some() || self.manager.is_some();
        self.next_update = updates.then(|| now.checked_add(self.interval)).flatten();
        Ok(())
    }

    /// Returns how often another event loop has to report that it turns: more often than the watchdog is due.
    pub fn watchdog_period(&self) -> Option<Duration> {
        self.manager.as_ref().and_then(ServiceManager::watchdog_period)
    }

    /// Notifies the service manager that the command is about to end.
    pub fn stopping(&self) {
        self.manager.iter().for_each(|manager| manager.notify("STOPPING=1"));
    }

    /// Writes the file for the last time.
    ///
    /// # Errors
    ///
    /// One line, if it cannot be written.
    pub fn finish(&mut self, metrics: &Exposition) -> Result<(), String> {
        self.file.take().map_or(Ok(()), |file| file.finish(&metrics.to_string()))
    }

    /// Records an event.
    pub fn note(&mut self, task: Task, readiness: Readiness) {
        if let (Task::Http(task), Some(http)) = (task, &mut self.http) {
            http.note(task, readiness);
        }
    }

    /// Returns what a task wants.
    pub fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Timer => Wants {
                deadline: [self.next_update, self.next_watchdog].into_iter().flatten().min(),
                ..Wants::default()
            },
            Task::Http(task) => self.http.as_ref().map(|http| http.wants(task)).unwrap_or_default(),
        }
    }

    /// Returns what the poll should watch for a task.
    pub fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Timer => None,
            Task::Http(task) => self.http.as_mut()?.source(task),
        }
    }

    /// Does what is due for a task.
    pub fn take_turn<T: Copy + Debug>(
        &mut self,
        task: Task,
        now: Instant,
        reactor: &mut Reactor<T>,
        observed: &impl Observed,
    ) {
        match task {
            Task::Timer => self.tick(now, observed),
            Task::Http(task) => {
                let touch = &mut |key| reactor.touch(key);
                self.http
                    .iter_mut()
                    .for_each(|http| http.take_turn(task, now, touch, |path| respond(path, now, observed)));
            }
        }
    }

    fn tick(&mut self, now: Instant, observed: &impl Observed) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.next_update) {
            self.next_update = now.checked_add(self.interval);
            self.file.iter().for_each(|file| file.update(observed.metrics().to_string()));
            self.manager.iter().for_each(|manager| manager.notify(&format!("STATUS={}", observed.status())));
        }
        if is_due(self.next_watchdog)
            && let Some(manager) = &self.manager
        {
            self.next_watchdog = manager.watchdog_period().and_then(|period| now.checked_add(period));
            // A service whose peers are partly unanswered is better restarted.
            match observed.health(now) {
                Ok(()) => manager.notify("WATCHDOG=1"),
                Err(why) => log::warn!("The service manager is not notified: {why}"),
            }
        }
    }
}

/// Inserts the tasks of the monitor of a handler, which `monitor` returns, as tasks that `task` makes of them.
///
/// # Errors
///
/// As [`Reactor::insert`].
pub fn insert<H: Handler>(
    handler: &mut H,
    reactor: &mut Reactor<H::Task>,
    task: fn(Task) -> H::Task,
    monitor: fn(&mut H) -> Option<&mut Monitor>,
) -> std::io::Result<()> {
    let Some(this) = monitor(handler) else { return Ok(()) };
    let has_http = this.http.is_some();
    reactor.insert(task(Task::Timer), handler)?;
    if has_http {
        let keys = Http::tasks().map(|http| reactor.insert(task(Task::Http(http)), handler));
        let keys = keys.collect::<std::io::Result<Vec<_>>>()?;
        let http = monitor(handler).and_then(|monitor| monitor.http.as_mut());
        http.into_iter().for_each(|http| http.set_keys(keys.clone()));
    }
    Ok(())
}

fn respond(path: &str, now: Instant, observed: &impl Observed) -> Response {
    match path {
        "/metrics" => Response::ok(CONTENT_TYPE, observed.metrics().to_string()),
        "/healthz" => match observed.health(now) {
            Ok(()) => Response::ok("text/plain; charset=utf-8", "ok\n".to_owned()),
            Err(why) => Response::other("503 Service Unavailable", &why),
        },
        _ => Response::other("404 Not Found", "there are /metrics and /healthz"),
    }
}
