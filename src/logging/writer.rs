//! The log: `simple_logger` behind a bounded queue, so that a slow, stuck or closed stderr never stops the loop.
//!
//! Whoever logs formats the line into a buffer from a pool of fixed size and leaves it to a thread of this module. When
//! the pool is empty the line is not even formatted; it is counted, and the count is told later. So logging
//! neither waits nor allocates (invariants 7 and 8, defended by `tests/program/log.rs` and
//! `tests/allocation.rs`).

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::server::DATAGRAM_LOG;

/// How many lines may wait.
const LINES: usize = 256;

/// How many of the buffers the lines about single datagrams leave to all others.
const RESERVED: usize = 32;

/// What the longest line of ours needs: 256 characters of a message of four bytes each, and the words around it.
const LINE_CAPACITY: usize = 1280;

/// How often skipped lines are told, and how long a sink that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

const THREAD_NAME: &str = "log-writer";

/// While lines are skipped the sink cannot keep up, and writing as fast as it can would only take processor time from
/// the loop: the thread then rests for so many times as long as it has written, each time it has written for a while.
const REST: u32 = 4;
const A_WHILE: Duration = Duration::from_millis(1);

/// Gives log lines to the writing thread.
#[derive(Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

struct Shared {
    sink: SimpleLogger,
    queue: Mutex<Queue>,
    /// There is something to do for the writing thread.
    work: Condvar,
    /// The writing thread has done all there was.
    done: Condvar,
}

struct Queue {
    free: Vec<Line>,
    /// How many buffers there are by now, of [`LINES`]: a quiet program never needs them all.
    made: usize,
    waiting: VecDeque<Line>,
    skipped: u64,
    /// The last line could not be written.
    failing: bool,
    /// The writing thread waits for `work`.
    idle: bool,
    /// Somebody waits for `done`: skipped lines are told at once.
    flushing: bool,
}

impl Queue {
    /// Whether all is written and told, as far as the sink takes anything.
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.idle && (self.skipped == 0 || self.failing)
    }

    /// An empty buffer, if more than `reserved` are left.
    fn buffer(&mut self, reserved: usize) -> Option<Line> {
        let unmade = LINES - self.made;
        if self.free.len() + unmade <= reserved {
            return None;
        }
        self.free.pop().or_else(|| {
            self.made += 1;
            Some(Line { level: Level::Error, text: String::with_capacity(LINE_CAPACITY), target: 0 })
        })
    }
}

struct Line {
    level: Level,
    /// The target, and the message behind it.
    text: String,
    target: usize,
}

impl LogWriter {
    /// Starts the writing thread. What reaches `sink`, and how it looks there, is for `sink` to say.
    ///
    /// # Errors
    ///
    /// The system has no thread for us.
    pub fn start(sink: SimpleLogger) -> std::io::Result<Self> {
        let queue = Queue {
            free: Vec::with_capacity(LINES),
            made: 0,
            waiting: VecDeque::with_capacity(LINES),
            skipped: 0,
            failing: false,
            idle: false,
            flushing: false,
        };
        let shared = Arc::new(Shared { sink, queue: Mutex::new(queue), work: Condvar::new(), done: Condvar::new() });
        silence_panics_of_the_thread();
        let writer = Arc::clone(&shared);
        thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || writer.write())?;
        Ok(Self { shared })
    }

    /// Starts the writing thread and makes this the program's logger.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), or the program has a logger already.
    pub fn install(sink: SimpleLogger) -> std::io::Result<Self> {
        let max_level = sink.max_level();
        let writer = Self::start(sink)?;
        log::set_boxed_logger(Box::new(writer.clone())).map_err(std::io::Error::other)?;
        log::set_max_level(max_level);
        Ok(writer)
    }

    /// Waits until all lines so far are written, but not beyond `deadline`; says whether they were.
    pub fn flush(&self, deadline: Instant) -> bool {
        let mut queue = self.shared.lock();
        queue.flushing = true;
        self.shared.work.notify_one();
        while !queue.is_done() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.shared.done.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.flushing = false;
        queue.is_done() && !queue.failing
    }
}

impl Log for LogWriter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.shared.sink.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let reserved = if record.target() == DATAGRAM_LOG { RESERVED } else { 0 };
        let mut queue = self.shared.lock();
        let Some(mut line) = queue.buffer(reserved) else {
            queue.skipped += 1;
            return;
        };
        drop(queue);
        line.level = record.level();
        line.text.push_str(record.target());
        line.target = line.text.len();
        // Writing to a String cannot fail; an argument whose Display fails ends its line there.
        let _ = line.text.write_fmt(*record.args());
        let mut queue = self.shared.lock();
        queue.waiting.push_back(line);
        if queue.idle {
            self.shared.work.notify_one();
        }
    }

    /// Waits for as long as a healthy sink can need; [`LogWriter::flush`] says whether it was enough.
    fn flush(&self) {
        if let Some(deadline) = Instant::now().checked_add(PAUSE) {
            LogWriter::flush(self, deadline);
        }
    }
}

enum Work {
    Write(Line),
    TellSkipped(u64),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) {
        let mut told = Instant::now();
        let mut failed = None;
        let mut written_for = Duration::ZERO;
        loop {
            if written_for >= A_WHILE {
                self.rest(std::mem::take(&mut written_for));
            }
            match self.next_work(told) {
                Work::Write(mut line) => {
                    if failed.is_some_and(|at: Instant| at.elapsed() < PAUSE) {
                        self.lock().skipped += 1;
                    } else {
                        let (target, message) = line.text.split_at(line.target);
                        let start = Instant::now();
                        let written = self.print(line.level, target, message);
                        written_for += start.elapsed();
                        failed = (!written).then(Instant::now);
                        self.note_written(written, 1);
                    }
                    line.text.clear();
                    self.lock().free.push(line);
                }
                Work::TellSkipped(count) => {
                    told = Instant::now();
                    let written = self.print(Level::Warn, module_path!(), &format!("{count} log lines skipped"));
                    failed = (!written).then_some(told);
                    self.note_written(written, count);
                }
            }
        }
    }

    /// Notes whether so many lines reached the sink.
    fn note_written(&self, written: bool, lines: u64) {
        let mut queue = self.lock();
        queue.failing = !written;
        queue.skipped += if written { 0 } else { lines };
    }

    fn rest(&self, written_for: Duration) {
        let queue = self.lock();
        if queue.skipped > 0 && !queue.flushing {
            // Not longer after one line that was stuck: it may have been the only one.
            let rest = (written_for * REST).min(10 * A_WHILE);
            drop(self.work.wait_timeout(queue, rest).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits for a line, or for the time to tell how many were skipped.
    fn next_work(&self, told: Instant) -> Work {
        let mut queue = self.lock();
        loop {
            if queue.skipped > 0 && ((queue.flushing && !queue.failing) || told.elapsed() >= PAUSE) {
                return Work::TellSkipped(std::mem::take(&mut queue.skipped));
            }
            if let Some(line) = queue.waiting.pop_front() {
                return Work::Write(line);
            }
            queue.idle = true;
            self.done.notify_all();
            queue = if queue.skipped == 0 {
                self.work.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.work.wait_timeout(queue, PAUSE).unwrap_or_else(PoisonError::into_inner).0
            };
            queue.idle = false;
        }
    }

    /// Says whether it worked: simple_logger panics where stderr cannot be written.
    fn print(&self, level: Level, target: &str, message: &str) -> bool {
        panic::catch_unwind(AssertUnwindSafe(|| {
            self.sink.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
        }))
        .is_ok()
    }
}

/// A panic of the writing thread means that stderr is closed or full: nobody could read about it there.
fn silence_panics_of_the_thread() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(THREAD_NAME) {
            others(info);
        }
    }));
}
