//! `ping`: sends one probe after the other on a schedule, and prints a line for each.

mod record;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::event::Source;

use super::Error;
use super::status_signal::StatusSignal;
use super::target::{self, Family};
use crate::client::probe::backlog::Backlog;
use crate::client::probe::limits::Limits;
use crate::client::probe::schedule::IntervalSchedule;
use crate::net::{self, IoBackend, Outgoing, ReceiveBatch, Received, Socket, Transport};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Key, Precision, Reactor, Readiness, Wants};
use record::Record;

/// What is sent, how often, and how results are printed.
#[derive(Clone, Debug)]
pub struct Options {
    /// From one probe to the next.
    pub interval: Duration,
    /// How many probes; `None` for no limit.
    pub count: Option<u64>,
    /// The payload of a probe, in bytes.
    pub size: usize,
    /// An answer that takes longer is late.
    pub timeout: Duration,
    /// No probe is sent after this time.
    pub deadline: Option<Duration>,
    /// Which addresses of the target's name are used.
    pub family: Family,
    /// How results are printed.
    pub format: Format,
    /// What the result must not exceed.
    pub limits: Limits,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line per probe, and a summary.
    Text,
    /// The summary only.
    Summary,
    /// The summary as a JSON object.
    Json,
    /// A JSON object per probe, and one for the summary.
    JsonStream,
}

/// At most this many probes per turn, before answers are received again.
const BURST: usize = 64;

/// Sends probes until the count, the deadline or `shutdown` is reached, then waits for those in flight.
///
/// # Errors
///
/// Returns [`Error::Unmet`] if there was no answer or a limit is exceeded, [`Error::Usage`] if the target is not an
/// address, and [`Error::Failed`] for any other failure.
pub fn ping(target: &str, options: &Options, shutdown: &Shutdown, out: &mut dyn Write) -> Result<(), Error> {
    let address = target::resolve(target, options.family)?;
    let socket = target::open(address, IoBackend::Auto).map_err(|error| target::cannot_reach(address, &error))?;
    let mut record = Record::new(address, options, out);
    record.begin(target)?;
    let mut reactor = Reactor::with_precision(shutdown, Precision::Exact)?;
    let mut ping = Ping {
        backlog: Backlog::new(target::receive_buffer(&socket)),
        socket,
        received: ReceiveBatch::new(),
        probe: record.payload.as_bytes().to_vec(),
        writable: true,
        schedule: IntervalSchedule::new(Instant::now(), options.interval, options.count, options.deadline),
        stopped: false,
        end: End::NotYet,
        probes_key: None,
        status: StatusSignal::new()?,
        status_pending: false,
        record,
    };
    ping.probes_key = Some(reactor.insert(Task::Probes, &mut ping)?);
    reactor.insert(Task::Status, &mut ping)?;
    reactor.run(&mut ping)?;
    ping.record.end(&options.limits)
}

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// Sends probes and receives answers.
    Probes,
    /// Prints the report so far.
    Status,
}

struct Ping<'a> {
    socket: Socket,
    received: ReceiveBatch,
    /// The payload of the next probe.
    probe: Vec<u8>,
    backlog: Backlog,
    writable: bool,
    schedule: IntervalSchedule,
    /// A shutdown was requested: no further probe is sent.
    stopped: bool,
    end: End,
    probes_key: Option<Key>,
    status: StatusSignal,
    status_pending: bool,
    record: Record<'a>,
}

/// When the run is over, after its last probe has ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Probes are due or in flight.
    NotYet,
    /// Duplicates are waited for until then; `None` if that is beyond the clock's range.
    At(Option<Instant>),
}

impl Handler for Ping<'_> {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, now: Instant) {
        match task {
            Task::Probes => {
                if readiness.readable {
                    self.backlog.arrived(now);
                }
                self.writable |= readiness.writable;
            }
            Task::Status => self.status_pending = true,
        }
    }

    fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Probes => Wants {
                turn: !self.backlog.is_empty(),
                interest: Some(if self.writable {
                    Interest::READABLE
                } else {
                    Interest::READABLE | Interest::WRITABLE
                }),
                deadline: [self.next_probe(), self.next_timeout()].into_iter().flatten().min(),
            },
            Task::Status => Wants { turn: self.status_pending, interest: Some(Interest::READABLE), ..Wants::default() },
        }
    }

    fn take_turn(&mut self, task: Task, now: Instant, _: &mut Reactor<Task>) -> Result<(), Error> {
        match task {
            Task::Probes => {
                if self.next_timeout().is_some_and(|at| at <= now) {
                    // A probe is given up only if its answer is not in the socket.
                    self.backlog.arrived(now);
                }
                if !self.backlog.is_empty() {
                    self.receive(now)?;
                }
                if let Some(time) = self.backlog.received_by() {
                    self.record.note_time(time)?;
                }
                self.send_due()
            }
            Task::Status => {
                self.status_pending = false;
                self.status.clear();
                self.record.status()
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Probes => Some(&mut self.socket),
            Task::Status => self.status.source(),
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        self.stopped |= reactor.shutdown().is_requested();
        if self.is_sending() || self.record.tracker.in_flight() > 0 {
            return Ok(ControlFlow::Continue(()));
        }
        match self.end {
            End::NotYet => {
                self.end = End::At(Instant::now().checked_add(self.record.linger()));
                self.probes_key.into_iter().for_each(|key| reactor.touch(key));
                Ok(ControlFlow::Continue(()))
            }
            End::At(Some(end)) if self.backlog.received_by().is_none_or(|time| time < end) => {
                Ok(ControlFlow::Continue(()))
            }
            End::At(_) => Ok(ControlFlow::Break(())),
        }
    }
}

impl Ping<'_> {
    fn is_sending(&self) -> bool {
        !self.stopped && self.schedule.next().is_some()
    }

    /// Returns when to send; `None` while a send would block.
    fn next_probe(&self) -> Option<Instant> {
        self.schedule.next().filter(|_| self.writable && !self.stopped)
    }

    /// Returns when a probe or the run may be over, if nothing arrives before.
    fn next_timeout(&self) -> Option<Instant> {
        match self.end {
            End::NotYet => self.record.tracker.next_timeout(),
            End::At(end) => end,
        }
    }

    /// Receives one batch; `time` is a time before it.
    fn receive(&mut self, time: Instant) -> Result<(), Error> {
        let received = self.socket.receive(&mut self.received);
        let now = Instant::now();
        for datagram in self.received.datagrams() {
            self.record.answer(datagram.payload, now)?;
        }
        match received {
            Received::Drained => {
                self.backlog.drained(time);
                Ok(())
            }
            Received::More => {
                self.backlog.took(self.received.charge(), now);
                Ok(())
            }
            Received::Failed(error) => {
                self.backlog.took(self.received.charge(), now);
                self.record.refused(&error)
            }
        }
    }

    fn send_due(&mut self) -> Result<(), Error> {
        for _ in 0..BURST {
            let now = Instant::now();
            if self.next_probe().is_none_or(|next| next > now) {
                break;
            }
            if self.send()? {
                self.schedule.advance(now);
            }
        }
        Ok(())
    }

    /// Sends the next probe; returns whether it left or failed.
    fn send(&mut self) -> Result<bool, Error> {
        let sequence = self.record.tracker.next_sequence();
        self.record.payload.write_sequence(sequence, &mut self.probe);
        let datagram = Outgoing { to: self.record.target, from: None, parts: [&self.probe, b"", b""] };
        let mut now = Instant::now();
        let mut error = self.socket.send(&[datagram]).error;
        let blocks = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if let Some(first) = error.take_if(|error| !blocks(error) && !net::is_broken(error)) {
            // What ICMP says of an earlier probe is told at the first opportunity, once, and this one did not leave. If
            // it does now, the error was not its own.
            now = Instant::now();
            error = self.socket.send(&[datagram]).error;
            if first.kind() == io::ErrorKind::ConnectionRefused || error.as_ref().is_none_or(blocks) {
                self.record.refused(&first)?;
            }
        }
        match error {
            None => self.record.tracker.record_sent(now, now),
            Some(error) if blocks(&error) => {
                self.writable = false;
                return Ok(false);
            }
            Some(error) => {
                self.record.tracker.record_sent(now, now);
                self.record.refused_to_send(&error)?;
            }
        }
        Ok(true)
    }
}
