//! `ping`: one probe after the other on a schedule, and a line for each.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::report::{AnswerLine, IN_ORDER, PingReport, ProbeObject};
use super::status_signal::StatusSignal;
use super::target::{self, Family};
use super::{Error, cannot_poll, cannot_write, linger, print_json, wait};
use crate::client::probe::backlog::Backlog;
use crate::client::probe::latency::Latencies;
use crate::client::probe::limits::Limits;
use crate::client::probe::outcome::Outcome;
use crate::client::probe::payload::Payload;
use crate::client::probe::schedule::IntervalSchedule;
use crate::client::probe::tracker::{Answer, Tracker};
use crate::net::{self, IoBackend, Outgoing, ReceiveBatch, Received, Socket, Transport};
use crate::reactor::shutdown::Shutdown;

/// What is sent, how often, and how it is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// From one probe to the next.
    pub interval: Duration,
    /// How many probes; `None` goes on until the end is asked for.
    pub count: Option<u64>,
    /// Their payload, in bytes.
    pub size: usize,
    /// When an answer is late.
    pub timeout: Duration,
    /// No probe is sent after this time.
    pub deadline: Option<Duration>,
    /// Which addresses of the target's name are taken.
    pub family: Family,
    /// How results are told.
    pub format: Format,
    /// What the result must not exceed.
    pub limits: Limits,
}

/// How results are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line a probe, and a summary.
    Text,
    /// The summary only.
    Summary,
    /// The summary as a JSON object.
    Json,
    /// A JSON object a probe, and one for the summary.
    JsonStream,
}

/// How long after its timeout an answer is still told as late.
const LATE_FOR: Duration = Duration::from_secs(60);

/// How many probes one turn sends, before answers are looked for again.
const BURST: usize = 64;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);
const STATUS: Token = Token(2);

/// Pings until the count, the deadline or `shutdown`, and waits for what is in flight then.
///
/// # Errors
///
/// [`Error::Unmet`] when there was no answer or a limit is broken, [`Error::Usage`] and [`Error::Failed`] when
/// something else is in the way.
pub fn ping(target: &str, options: &Options, shutdown: &Shutdown, out: &mut dyn Write) -> Result<(), Error> {
    let address = target::resolve(target, options.family)?;
    let socket = target::open(address, IoBackend::Auto).map_err(|error| target::cannot_reach(address, &error))?;
    let mut record = Record::new(address, options, out);
    record.begin(target)?;
    let mut ping = Ping {
        backlog: Backlog::new(target::receive_buffer(&socket)),
        socket,
        inbox: ReceiveBatch::new(),
        buffer: record.payload.as_bytes().to_vec(),
        writable: true,
        record,
    };
    let schedule = IntervalSchedule::new(Instant::now(), options.interval, options.count, options.deadline);
    ping.run(schedule, shutdown)?;
    ping.record.end(&options.limits)
}

struct Ping<'a> {
    socket: Socket,
    inbox: ReceiveBatch,
    buffer: Vec<u8>,
    backlog: Backlog,
    writable: bool,
    record: Record<'a>,
}

impl Ping<'_> {
    fn run(&mut self, mut schedule: IntervalSchedule, shutdown: &Shutdown) -> Result<(), Error> {
        let mut poll = Poll::new().map_err(cannot_poll)?;
        let mut events = Events::with_capacity(8);
        shutdown.wake(Waker::new(poll.registry(), WAKER).map_err(cannot_poll)?);
        let mut status = StatusSignal::register(poll.registry(), STATUS).map_err(cannot_poll)?;
        // A second wake-up for each probe is nothing here, and spares watching for the rare full send buffer.
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut self.socket, SOCKET, interest).map_err(cannot_poll)?;
        let mut end = None;
        let mut polled = Instant::now();
        loop {
            if !self.backlog.is_empty() {
                self.receive()?;
            }
            // However long this process did not run: a probe is past its timeout only if no answer had come by then.
            let received_by = self.backlog.received_by(polled);
            if let Some(time) = received_by {
                self.record.note_time(time)?;
            }
            let now = Instant::now();
            let sends = shutdown.requested().is_none() && schedule.next().is_some();
            if sends {
                self.send_due(&mut schedule)?;
            } else if self.record.tracker.in_flight() == 0 {
                let end = *end.get_or_insert_with(|| now.checked_add(self.record.linger()));
                if received_by.is_some_and(|time| end.is_none_or(|end| end <= time)) {
                    return Ok(());
                }
            }
            let next = schedule.next().filter(|_| sends && self.writable);
            let at = [next, self.record.tracker.next_timeout(), end.flatten()].into_iter().flatten().min();
            polled = Instant::now();
            let timeout = at.map(|at| at.saturating_duration_since(polled));
            wait(&mut poll, &mut events, if self.backlog.is_empty() { timeout } else { Some(Duration::ZERO) })?;
            for event in events.iter().filter(|event| event.token() == SOCKET) {
                if event.is_readable() || event.is_error() {
                    self.backlog.arrived(Instant::now());
                }
                self.writable |= event.is_writable();
            }
            if status.came() {
                self.record.status()?;
            }
        }
    }

    fn receive(&mut self) -> Result<(), Error> {
        let received = self.socket.receive(&mut self.inbox);
        let now = Instant::now();
        for datagram in self.inbox.datagrams() {
            self.record.answer(datagram.payload, now)?;
        }
        match received {
            Received::Drained => {
                self.backlog.emptied();
                Ok(())
            }
            Received::More => {
                self.backlog.took(self.inbox.charge(), now);
                Ok(())
            }
            Received::Failed(error) => {
                self.backlog.took(self.inbox.charge(), now);
                self.record.refused(&error)
            }
        }
    }

    fn send_due(&mut self, schedule: &mut IntervalSchedule) -> Result<(), Error> {
        for _ in 0..BURST {
            let now = Instant::now();
            if !self.writable || schedule.next().is_none_or(|next| next > now) {
                break;
            }
            if self.send()? {
                schedule.advance(now);
            }
        }
        Ok(())
    }

    /// Sends the next probe; says whether it is over with it.
    fn send(&mut self) -> Result<bool, Error> {
        let sequence = self.record.tracker.next_sequence();
        self.record.payload.write_sequence(sequence, &mut self.buffer);
        let datagram = Outgoing { to: self.record.target, from: None, parts: [&self.buffer, b"", b""] };
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

/// What is known of the probes, and the telling of it.
struct Record<'a> {
    target: SocketAddr,
    format: Format,
    payload: Payload,
    timeout: Duration,
    interval: Duration,
    tracker: Tracker,
    latencies: Latencies,
    out: &'a mut dyn Write,
}

impl<'a> Record<'a> {
    fn new(target: SocketAddr, options: &Options, out: &'a mut dyn Write) -> Self {
        Self {
            target,
            format: options.format,
            payload: Payload::new(options.size),
            timeout: options.timeout,
            interval: options.interval,
            tracker: Tracker::new(options.timeout, LATE_FOR),
            latencies: Latencies::new(),
            out,
        }
    }

    fn begin(&mut self, written: &str) -> Result<(), Error> {
        if !matches!(self.format, Format::Text | Format::Summary) {
            return Ok(());
        }
        let (target, size) = (self.target, self.payload.size());
        let interval = humantime::format_duration(self.interval);
        write!(self.out, "UDP PING {written} ({target}): {size} bytes every {interval}").map_err(cannot_write)?;
        if !self.payload.is_tagged() {
            write!(self.out, ", too short to be recognised in an answer").map_err(cannot_write)?;
        }
        writeln!(self.out).and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    fn answer(&mut self, bytes: &[u8], now: Instant) -> Result<(), Error> {
        let found = self.payload.find_in(bytes, self.tracker.next_sequence());
        let first = self.tracker.counts().with_answer() == 0;
        let answer = self.tracker.match_answer(found, now);
        self.line(&AnswerLine { target: self.target, answer, bytes: bytes.len() })?;
        if let Answer::First { sequence, outcome, round_trip, reordered } = answer {
            self.latencies.record(round_trip);
            if first && found.is_none() {
                self.line(&IN_ORDER)?;
            }
            let rtt_ms = Some(round_trip.as_nanos() as f64 / 1e6);
            self.object(&ProbeObject { seq: sequence + 1, outcome, rtt_ms, bytes: Some(bytes.len()), reordered })?;
        }
        Ok(())
    }

    /// Notes what ICMP brought, for the oldest probe in flight.
    fn refused(&mut self, error: &io::Error) -> Result<(), Error> {
        if net::is_broken(error) {
            return Err(Error::Failed(format!("the socket became unusable: {error}")));
        }
        let sequence = self.tracker.refuse_oldest();
        self.tell_refusal(sequence, error)
    }

    /// Notes that the system would not send the last probe.
    fn refused_to_send(&mut self, error: &io::Error) -> Result<(), Error> {
        if net::is_broken(error) {
            return Err(Error::Failed(format!("the socket became unusable: {error}")));
        }
        let sequence = self.tracker.refuse_last();
        self.tell_refusal(sequence, error)
    }

    fn tell_refusal(&mut self, sequence: Option<u64>, error: &io::Error) -> Result<(), Error> {
        let Some(sequence) = sequence else {
            return Ok(());
        };
        let (seq, target) = (sequence + 1, self.target);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                self.line(&format_args!("seq={seq} refused: nobody listens on {target} (port unreachable)"))?;
            }
            _ => self.line(&format_args!("seq={seq} refused: {error}"))?,
        }
        self.object(&ProbeObject { seq, outcome: Outcome::Refused, rtt_ms: None, bytes: None, reordered: false })
    }

    fn note_time(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.time_out(now) {
            let timeout = humantime::format_duration(self.timeout);
            self.line(&format_args!("seq={} no answer within {timeout}", sequence + 1))?;
        }
        while let Some(sequence) = self.tracker.lose(now) {
            self.lost(sequence)?;
        }
        Ok(())
    }

    fn lost(&mut self, sequence: u64) -> Result<(), Error> {
        self.object(&ProbeObject {
            seq: sequence + 1,
            outcome: Outcome::Lost,
            rtt_ms: None,
            bytes: None,
            reordered: false,
        })
    }

    /// How long second answers are waited for once every probe has ended.
    fn linger(&self) -> Duration {
        linger(&self.latencies, self.timeout)
    }

    /// What is known so far: on stdout, or on stderr where only JSON should stand on stdout.
    fn status(&mut self) -> Result<(), Error> {
        let report = PingReport::new(self.target, self.tracker.counts(), &self.latencies, self.tracker.repeats());
        if matches!(self.format, Format::Json | Format::JsonStream) {
            let _ = write!(io::stderr(), "{report}");
            return Ok(());
        }
        write!(self.out, "{report}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    fn end(mut self, limits: &Limits) -> Result<(), Error> {
        while let Some(sequence) = self.tracker.lose_rest() {
            self.lost(sequence)?;
        }
        let report = PingReport::new(self.target, self.tracker.counts(), &self.latencies, self.tracker.repeats());
        match self.format {
            Format::Text | Format::Summary => {
                write!(self.out, "\n{report}").and_then(|()| self.out.flush()).map_err(cannot_write)?;
            }
            Format::Json | Format::JsonStream => print_json(self.out, &report)?,
        }
        report.check(limits)
    }

    fn line(&mut self, line: &dyn std::fmt::Display) -> Result<(), Error> {
        if self.format != Format::Text {
            return Ok(());
        }
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    fn object(&mut self, probe: &ProbeObject) -> Result<(), Error> {
        if self.format == Format::JsonStream { print_json(self.out, probe) } else { Ok(()) }
    }
}
