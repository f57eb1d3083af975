//! The log writer: `simple_logger` behind a bounded queue, so that a slow, stuck or closed stderr never stops the loop.
//!
//! Logging does not wait for the sink unless it is given [patience](LogWriter::set_patience), and allocates nothing
//! once the pool of buffers has grown (invariants 7 and 8, defended by `tests/program/log.rs` and
//! `tests/allocation_server.rs`). The threads that log and the writer thread share a [`LineQueue`] under a mutex, which
//! is never held while a line is formatted or written:
//!
//! 1. A thread that logs takes a buffer from a pool of limited size, formats the line into it and appends it to the
//!    queue. If the pool is empty, the line is counted as skipped and not formatted; with patience, it waits first.
//! 2. The writer thread takes the oldest line, writes it to the sink and returns the buffer to the pool.
//! 3. When there is nothing to do, the writer thread sets `writer_is_idle`, notifies `progress` and waits for `work`.
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
const REST_FACTOR: u32 = 9;
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
    sink: Box<dyn Log>,
    queue: Mutex<LineQueue>,
    /// Notified when the writer thread has something to do.
    work: Condvar,
    /// Notified when the writer thread has nothing left to do, and for each line that it wrote while lines may wait.
    progress: Condvar,
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
    /// How long lines may still wait for a buffer, in total.
    patience: Duration,
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
    /// Starts the writer thread and installs it as the logger of the program. `sink` decides on levels and formats
    /// lines.
    ///
    /// # Errors
    ///
    /// If no thread can be started, or the program has a logger already.
    pub fn install(sink: SimpleLogger) -> io::Result<Self> {
        let max_level = sink.max_level();
        silence_panics_of_the_writer();
        let writer = Self::start(sink)?;
        log::set_boxed_logger(Box::new(writer.clone())).map_err(io::Error::other)?;
        log::set_max_level(max_level);
        Ok(writer)
    }

    /// Starts the writer thread.
    fn start(sink: impl Log + 'static) -> io::Result<Self> {
        let queue = LineQueue {
            pool: Vec::with_capacity(MAX_LINES),
            allocated: 0,
            waiting: VecDeque::with_capacity(MAX_LINES),
            skipped: 0,
            sink_failed: false,
            writer_is_idle: false,
            flushing: false,
            patience: Duration::ZERO,
        };
        let channel = Arc::new(LogChannel {
            sink: Box::new(sink),
            queue: Mutex::new(queue),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let writer = Self { channel: Arc::clone(&channel) };
        thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || channel.run_writer())?;
        Ok(writer)
    }

    /// Lets lines that find the queue full wait for room, for `patience` in total, before any is skipped. The initial
    /// value is zero, as it has to be while datagrams are served.
    ///
    /// For start and stop, which can log a line for each of many services.
    pub fn set_patience(&self, patience: Duration) {
        self.channel.lock().patience = patience;
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
            queue = self.channel.progress.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
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
        let mut queue = self.channel.wait_for_room(self.channel.lock(), reserved);
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

    /// Whether more than `reserved` buffers are left.
    fn has_room(&self, reserved: usize) -> bool {
        self.pool.len() + MAX_LINES - self.allocated > reserved
    }

    /// Takes an empty buffer, if more than `reserved` are left.
    fn take_buffer(&mut self, reserved: usize) -> Option<LogLine> {
        if !self.has_room(reserved) {
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

    /// Waits for more than `reserved` buffers while there is patience.
    fn wait_for_room<'a>(&self, mut queue: MutexGuard<'a, LineQueue>, reserved: usize) -> MutexGuard<'a, LineQueue> {
        while !queue.patience.is_zero() && !queue.has_room(reserved) {
            let start = Instant::now();
            let patience = queue.patience;
            queue = self.progress.wait_timeout(queue, patience).unwrap_or_else(PoisonError::into_inner).0;
            queue.patience = queue.patience.saturating_sub(start.elapsed());
        }
        queue
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
                    if !queue.patience.is_zero() {
                        self.progress.notify_all();
                    }
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
            self.progress.notify_all();
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
        if queue.skipped > 0 && !queue.flushing && queue.patience.is_zero() {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, SyncSender};

    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(500);

    /// Passes each line to the test, which decides when to take it and whether writing it fails.
    struct Sink {
        lines: SyncSender<String>,
        fail: Mutex<Receiver<()>>,
    }

    impl Log for Sink {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            assert!(self.fail.lock().is_ok_and(|fail| fail.try_recv().is_err()), "the sink fails once");
            self.lines.send(record.args().to_string()).expect("the test receives");
        }

        fn flush(&self) {}
    }

    /// A writer, the lines that it has written, and the way to make the next line fail. The sink is stuck until the
    /// first line is received.
    fn writer() -> (LogWriter, Receiver<String>, mpsc::Sender<()>) {
        let (lines, written) = mpsc::sync_channel(0);
        let (fail, failures) = mpsc::channel();
        (LogWriter::start(Sink { lines, fail: Mutex::new(failures) }).expect("a thread"), written, fail)
    }

    fn log(writer: &LogWriter, target: &str, text: &str) {
        writer.log(&Record::builder().level(Level::Info).target(target).args(format_args!("{text}")).build());
    }

    fn skipped(writer: &LogWriter) -> u64 {
        writer.channel.lock().skipped
    }

    #[test]
    fn datagram_lines_leave_room_for_others() {
        let (writer, _stuck, _) = writer();
        (0..MAX_LINES).for_each(|_| log(&writer, DATAGRAM_LOG, "datagram"));
        assert_eq!(skipped(&writer), RESERVED_LINES as u64);
        (0..RESERVED_LINES).for_each(|_| log(&writer, "udpong", "warning"));
        assert_eq!(skipped(&writer), RESERVED_LINES as u64, "the reserve is for these");
        log(&writer, "udpong", "one too many");
        assert_eq!(skipped(&writer), RESERVED_LINES as u64 + 1);
    }

    #[test]
    fn flush_reports_skipped_lines_at_once() {
        let (writer, written, _) = writer();
        (0..MAX_LINES + 7).for_each(|_| log(&writer, "udpong", "line"));
        let reader = thread::spawn(move || written.iter().take(MAX_LINES + 1).collect::<Vec<_>>());
        let start = Instant::now();
        assert!(writer.flush(start + 60 * PAUSE));
        assert!(start.elapsed() < PAUSE, "reported later than at once");
        let mut lines = reader.join().expect("the lines");
        lines.retain(|line| line != "line");
        assert_eq!(lines, ["7 log lines skipped"]);
    }

    #[test]
    fn flush_does_not_wait_longer_than_its_deadline() {
        let (writer, _stuck, _) = writer();
        log(&writer, "udpong", "line");
        assert!(!writer.flush(Instant::now() + Duration::from_millis(20)));
    }

    #[test]
    fn sink_that_failed_is_used_again_after_a_pause() {
        let (writer, written, fail) = writer();
        fail.send(()).expect("the sink lives");
        log(&writer, "udpong", "lost");
        assert!(!writer.flush(Instant::now() + 60 * PAUSE), "it has failed");
        log(&writer, "udpong", "too early");
        assert_eq!(written.recv_timeout(60 * PAUSE).as_deref(), Ok("2 log lines skipped"));
        log(&writer, "udpong", "on time");
        assert_eq!(written.recv_timeout(AT_ONCE).as_deref(), Ok("on time"));
        assert!(writer.flush(Instant::now() + 60 * PAUSE));
    }

    #[test]
    fn with_patience_lines_wait_for_a_slow_sink() {
        let (writer, written, _) = writer();
        writer.set_patience(60 * PAUSE);
        let reader = thread::spawn(move || {
            let slowly = |line| {
                thread::sleep(Duration::from_micros(100));
                line
            };
            written.iter().map(slowly).take(3 * MAX_LINES).collect::<Vec<_>>()
        });
        (0..3 * MAX_LINES).for_each(|i| log(&writer, DATAGRAM_LOG, &i.to_string()));
        let lines = reader.join().expect("the lines");
        assert!((0..).zip(&lines).all(|(i, line): (usize, _)| *line == i.to_string()), "{lines:?}");
        assert_eq!(skipped(&writer), 0);
    }

    #[test]
    fn patience_is_for_all_lines_together() {
        let (writer, _stuck, _) = writer();
        let patience = Duration::from_millis(50);
        writer.set_patience(patience);
        let start = Instant::now();
        (0..2 * MAX_LINES).for_each(|_| log(&writer, "udpong", "line"));
        assert!((patience..100 * patience).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert!(skipped(&writer) >= MAX_LINES as u64 - 1);
    }

    #[test]
    fn only_panics_of_the_writer_are_silent() {
        let default = panic::take_hook();
        let (sender, printed) = mpsc::channel();
        panic::set_hook(Box::new(move |info| match thread::current().name() {
            Some(name) if [THREAD_NAME, "another"].contains(&name) => drop(sender.send(name.to_owned())),
            _ => default(info),
        }));
        silence_panics_of_the_writer();
        for name in [THREAD_NAME, "another"] {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(|| panic!("a test"));
            thread.expect("a thread").join().expect_err("a panic");
        }
        // Other tests' writers may panic as well, silently.
        assert_eq!(printed.try_iter().collect::<Vec<_>>(), ["another"]);
    }
}
