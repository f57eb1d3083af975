//! The log writer: `simple_logger` behind a bounded queue, so that a slow, stuck or closed stderr never stops the loop.
//!
//! Logging never waits for the sink, and allocates nothing once the pool of buffers has grown (invariants 7 and 8,
//! defended by `tests/program/log.rs` and `tests/allocation_server.rs`). The threads that log and the writer thread share a
//! [`LineQueue`] under a mutex, which is never held while a line is formatted or written:
//!
//! 1. A thread that logs takes a buffer from a pool of limited size, formats the line into it and appends it to the
//!    queue. If the pool is empty, the line is counted as skipped and not formatted.
//! 2. The writer thread takes the oldest line, writes it to the sink and returns the buffer to the pool.
//! 3. When there is nothing to do, the writer thread sets `writer_is_idle`, notifies `drained` and waits for `work`.
//!    Only an idle writer needs to be notified, so most lines cost no system call.
//! 4. The number of skipped lines is logged at most once a second, but at once when [`LogWriter::flush`] waits.
//! 5. A sink that failed is not used for a second. Lines that would have been written meanwhile count as skipped.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use super::DATAGRAM_LOG;

/// The size of the pool, 320 KiB in all: enough for a few turns of the server, which log two lines for each datagram.
const MAX_LINES: usize = 256;

/// The buffers that lines about single datagrams leave to all others, so that a flood does not displace warnings.
const RESERVED_LINES: usize = 32;

/// The initial size of a buffer, which fits the longest line: 256 characters of payload, up to four bytes each, and the
/// words around them.
const LINE_CAPACITY: usize = 1280;

/// The time between reports of skipped lines, and from a failure of the sink to the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// While lines are skipped, the sink is slower than the loop, and writing without a pause would only take processor
/// time from the loop. So each time the writer has written for `WRITING_TIME`, it rests `REST_FACTOR` times as long.
const WRITING_TIME: Duration = Duration::from_millis(1);
const REST_FACTOR: u32 = 4;
/// The longest rest: a single line that took long may have been an exception.
const MAX_REST: Duration = Duration::from_millis(10);

const THREAD_NAME: &str = "log-writer";

/// A logger that hands lines to the writer thread. Clones share the thread.
#[derive(Clone)]
pub struct LogWriter {
    channel: Arc<LogChannel>,
}

/// What the threads that log and the writer thread share.
struct LogChannel {
    sink: SimpleLogger,
    queue: Mutex<LineQueue>,
    /// Notified when the writer thread has something to do.
    work: Condvar,
    /// Notified when the writer thread has nothing left to do.
    drained: Condvar,
}

struct LineQueue {
    /// Empty buffers.
    pool: Vec<LogLine>,
    /// How many buffers exist, at most [`MAX_LINES`]. They are allocated when needed: most programs log little.
    allocated: usize,
    waiting: VecDeque<LogLine>,
    /// Lines skipped since the last report of them.
    skipped: u64,
    /// The last attempt to write failed.
    sink_failed: bool,
    writer_is_idle: bool,
    /// A thread is waiting in [`LogWriter::flush`].
    flushing: bool,
}

struct LogLine {
    level: Level,
    /// The target, followed by the message.
    text: String,
    target_length: usize,
}

/// What the writer thread does next.
enum Job {
    Write(LogLine),
    ReportSkipped(u64),
}

impl LogWriter {
    /// Starts the writer thread and installs it as the logger of the program. `sink` decides on levels and formats lines.
    ///
    /// # Errors
    ///
    /// If no thread can be started, or the program has a logger already.
    pub fn install(sink: SimpleLogger) -> io::Result<Self> {
        let max_level = sink.max_level();
        let queue = LineQueue {
            pool: Vec::with_capacity(MAX_LINES),
            allocated: 0,
            waiting: VecDeque::with_capacity(MAX_LINES),
            skipped: 0,
            sink_failed: false,
            writer_is_idle: false,
            flushing: false,
        };
        let channel =
            Arc::new(LogChannel { sink, queue: Mutex::new(queue), work: Condvar::new(), drained: Condvar::new() });
        let writer = Self { channel: Arc::clone(&channel) };
        silence_panics_of_the_writer();
        thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || channel.run_writer())?;
        log::set_boxed_logger(Box::new(writer.clone())).map_err(io::Error::other)?;
        log::set_max_level(max_level);
        Ok(writer)
    }

    /// Waits until all lines logged so far are written, at most until `deadline`. Returns whether they were.
    pub fn flush(&self, deadline: Instant) -> bool {
        let mut queue = self.channel.lock();
        queue.flushing = true;
        self.channel.work.notify_one();
        while !queue.is_drained() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.channel.drained.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.flushing = false;
        queue.is_drained() && !queue.sink_failed
    }
}

impl Log for LogWriter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.channel.sink.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let reserved = if record.target() == DATAGRAM_LOG { RESERVED_LINES } else { 0 };
        let mut queue = self.channel.lock();
        let Some(mut line) = queue.take_buffer(reserved) else {
            queue.skipped += 1;
            return;
        };
        drop(queue);
        line.level = record.level();
        line.text.push_str(record.target());
        line.target_length = line.text.len();
        // Writing to a String cannot fail. An argument whose `Display` fails cuts its line short.
        let _ = line.text.write_fmt(*record.args());
        let mut queue = self.channel.lock();
        queue.waiting.push_back(line);
        if queue.writer_is_idle {
            self.channel.work.notify_one();
        }
    }

    /// Waits for at most a second; [`LogWriter::flush`] takes a deadline and returns whether it was met.
    fn flush(&self) {
        if let Some(deadline) = Instant::now().checked_add(PAUSE) {
            Self::flush(self, deadline);
        }
    }
}

impl LineQueue {
    /// Whether everything is written and reported, as far as the sink accepts it.
    fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.writer_is_idle && (self.skipped == 0 || self.sink_failed)
    }

    /// Takes an empty buffer, if more than `reserved` are left.
    fn take_buffer(&mut self, reserved: usize) -> Option<LogLine> {
        if self.pool.len() + MAX_LINES - self.allocated <= reserved {
            return None;
        }
        self.pool.pop().or_else(|| {
            self.allocated += 1;
            Some(LogLine { level: Level::Error, text: String::with_capacity(LINE_CAPACITY), target_length: 0 })
        })
    }

    /// Records whether an attempt to write a line, which stands for `lines`, succeeded.
    fn note_result(&mut self, written: bool, lines: u64) {
        self.sink_failed = !written;
        self.skipped += if written { 0 } else { lines };
    }
}

impl LogChannel {
    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer thread.
    fn run_writer(&self) {
        let mut reported = Instant::now();
        let mut failed: Option<Instant> = None;
        let mut written_for = Duration::ZERO;
        loop {
            if written_for >= WRITING_TIME {
                self.rest(mem::take(&mut written_for));
            }
            match self.next_job(reported) {
                Job::Write(mut line) => {
                    let start = Instant::now();
                    let may_write = failed.is_none_or(|at| start.duration_since(at) >= PAUSE);
                    let (target, message) = line.text.split_at(line.target_length);
                    let written = may_write && self.write(line.level, target, message);
                    if may_write {
                        written_for += start.elapsed();
                        failed = (!written).then(Instant::now);
                    }
                    line.text.clear();
                    let mut queue = self.lock();
                    queue.note_result(written, 1);
                    queue.pool.push(line);
                }
                Job::ReportSkipped(count) => {
                    reported = Instant::now();
                    let written = self.write(Level::Warn, module_path!(), &format!("{count} log lines skipped"));
                    failed = (!written).then_some(reported);
                    self.lock().note_result(written, count);
                }
            }
        }
    }

    /// Waits for a line, or for the time to report skipped ones.
    fn next_job(&self, reported: Instant) -> Job {
        let mut queue = self.lock();
        loop {
            let may_report = (queue.flushing && !queue.sink_failed) || reported.elapsed() >= PAUSE;
            if queue.skipped > 0 && may_report {
                return Job::ReportSkipped(mem::take(&mut queue.skipped));
            }
            if let Some(line) = queue.waiting.pop_front() {
                return Job::Write(line);
            }
            queue.writer_is_idle = true;
            self.drained.notify_all();
            queue = if queue.skipped == 0 {
                self.work.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.work.wait_timeout(queue, PAUSE).unwrap_or_else(PoisonError::into_inner).0
            };
            queue.writer_is_idle = false;
        }
    }

    /// Writes a line to the sink. Returns `false` if that failed: `simple_logger` panics when stderr cannot be written.
    fn write(&self, level: Level, target: &str, message: &str) -> bool {
        panic::catch_unwind(AssertUnwindSafe(|| {
            self.sink.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
        }))
        .is_ok()
    }

    fn rest(&self, written_for: Duration) {
        let queue = self.lock();
        if queue.skipped > 0 && !queue.flushing {
            let rest = (written_for * REST_FACTOR).min(MAX_REST);
            drop(self.work.wait_timeout(queue, rest).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// A panic of the writer thread means that stderr is closed or full, so its message could not be printed.
fn silence_panics_of_the_writer() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(THREAD_NAME) {
            hook(info);
        }
    }));
}
