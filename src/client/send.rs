//! `send`: one message, one answer, and the next message.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::event::Source;

use super::flow::check_socket;
use super::target::{self, Family};
use super::{Error, cannot_write, notify};
use crate::logging::escape::Escaped;
use crate::net::{
    Egress, ErrorReport, IcmpError, IoBackend, LONGEST_PAYLOAD, Outgoing, ReceiveBatch, Received, Socket, Transport,
};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Reactor, Readiness, Wants};

/// How messages are sent and answers printed.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long an answer may take, each time the message is sent.
    pub timeout: Duration,
    /// How often the message is sent again while no answer comes.
    pub retries: u32,
    /// Whether answers are written as they are, instead of escaped and one per line.
    pub raw: bool,
    /// Whether messages are sent without waiting for an answer.
    pub no_wait: bool,
    /// Which addresses of the target's name are used.
    pub family: Family,
    /// Where messages leave, and fields of their IP headers.
    pub egress: Egress,
}

impl Default for Options {
    /// One attempt, and a second for the answer: not every message may arrive twice.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            retries: 0,
            raw: false,
            no_wait: false,
            family: Family::default(),
            egress: Egress::default(),
        }
    }
}

/// How often a message is sent again because a router on the way has a smaller MTU than those before.
const SMALLER_MTUS: u32 = 8;

const PROMPT: &str = "Enter message to send: ";

/// Messages to one responder, and its answers.
///
/// The socket, and with it the source address, stays the same while every message gets one prompt answer: some
/// responders (ncat) serve only their first client. After a retry, a second answer or none, the next message leaves
/// from a new port, so that what still comes to the old one is not mistaken for its answer.
#[derive(Debug)]
pub struct Conversation {
    target: SocketAddr,
    /// The other addresses of the target's name, in the order in which they are tried if the port is closed.
    others: VecDeque<SocketAddr>,
    /// Whether any answer came.
    heard: bool,
    options: Options,
    reactor: Reactor<()>,
    received: ReceiveBatch,
    socket: Option<Socket>,
}

impl Conversation {
    /// Finds the target; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// As [`target::resolve`], or if the event loop cannot be created.
    pub fn with(target: &str, options: Options) -> Result<Self, Error> {
        // No handler is installed, so a signal ends the process, in a look-up too.
        let shutdown = Shutdown::new();
        let mut others = VecDeque::from(target::resolve(target, options.family, &options.egress, &shutdown)?);
        let target = others.pop_front().ok_or_else(|| Error::Failed(format!("{target:?} has no address")))?;
        let reactor = Reactor::new(&shutdown)?;
        Ok(Self { target, others, heard: false, options, reactor, received: ReceiveBatch::new(), socket: None })
    }

    /// Sends one message and writes its answer, and notices to `errors`. As long as nothing was heard, a closed port
    /// makes it try the next address of the target's name.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unmet`] if the message is too long, nobody listens, or no answer comes in time;
    /// [`Error::Failed`] if it cannot be sent or the answer cannot be written.
    pub fn say(&mut self, message: &[u8], out: &mut dyn Write, errors: &mut dyn Write) -> Result<(), Error> {
        if message.len() > LONGEST_PAYLOAD {
            return Err(too_long(message.len() as u64));
        }
        let mut quiet = self.socket.take();
        let quiet = quiet.take_if(|socket| self.is_quiet(socket));
        let mut socket = quiet.map_or_else(|| self.open(), Ok)?;
        if self.options.no_wait {
            let result = self.send(&mut socket, message);
            self.socket = Some(socket);
            return result;
        }
        let (mut attempt, mut fragmented) = (0, 0);
        while attempt <= self.options.retries {
            match self.exchange(&mut socket, message)? {
                Outcome::Answered => {
                    self.heard = true;
                    if attempt == 0 && self.received.datagrams().count() == 1 {
                        self.socket = Some(socket);
                    }
                    return self.write_answer(out).map_err(cannot_write);
                }
                Outcome::TimedOut => attempt += 1,
                // The kernel knows the smaller MTU of the path now, and sends fragments.
                Outcome::Failed(error) if is_too_long_for_router(&error) && fragmented < SMALLER_MTUS => {
                    fragmented += 1;
                }
                Outcome::Failed(error) => {
                    self.try_next(&error, errors)?;
                    (socket, attempt) = (self.open()?, 0);
                }
            }
        }
        Err(self.unanswered())
    }

    fn unanswered(&self) -> Error {
        let within = humantime::format_duration(self.options.timeout);
        let times = match self.options.retries {
            0 => "once".to_owned(),
            1 => "twice".to_owned(),
            retries => format!("{} times", u64::from(retries) + 1),
        };
        Error::Unmet(format!("no answer from {} within {within} (sent {times})", self.target))
    }

    /// Sends every line as a message until the input ends, and writes errors as they occur.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unmet`] if a message was not answered; [`Error::Failed`] if reading or writing failed.
    pub fn converse(
        &mut self,
        mut input: impl BufRead,
        prompt: bool,
        out: &mut dyn Write,
        errors: &mut dyn Write,
    ) -> Result<(), Error> {
        let (mut messages, mut unanswered) = (0_u64, 0_u64);
        let mut line = Vec::new();
        loop {
            if prompt {
                let _ = write!(errors, "{PROMPT}").and_then(|()| errors.flush());
            }
            let length = read_line(&mut input, &mut line)
                .map_err(|error| Error::Failed(format!("cannot read the messages: {error}")))?;
            let Some(length) = length else { break };
            messages += 1;
            let result =
                if length > LONGEST_PAYLOAD as u64 { Err(too_long(length)) } else { self.say(&line, out, errors) };
            match result {
                Ok(()) => {}
                Err(Error::Unmet(why)) => {
                    unanswered += 1;
                    let _ = writeln!(errors, "udpong: {why}");
                }
                Err(error) => return Err(error),
            }
        }
        if prompt {
            // The shell's prompt should not follow ours on the same line.
            let _ = writeln!(errors);
        }
        if unanswered == 0 {
            return Ok(());
        }
        let noun = if messages == 1 { "message" } else { "messages" };
        let verb = if unanswered == 1 { "was" } else { "were" };
        Err(Error::Unmet(format!("{unanswered} of {messages} {noun} {verb} not answered")))
    }

    fn open(&self) -> Result<Socket, Error> {
        let mut socket = target::open(self.target, IoBackend::Auto, &self.options.egress)
            .map_err(|error| target::cannot_reach(self.target, &error))?;
        socket.enable_error_reports();
        Ok(socket)
    }

    /// Returns whether nothing came since the last answer.
    fn is_quiet(&mut self, socket: &mut Socket) -> bool {
        let received = socket.receive(&mut self.received);
        matches!(received, Received::Drained) && self.received.datagrams().next().is_none()
    }

    /// Turns to the next address of the target's name after an error; returns the error explained if it is not that of
    /// a closed port, or something was heard before.
    fn try_next(&mut self, error: &io::Error, errors: &mut dyn Write) -> Result<(), Error> {
        let explained = self.explain(error);
        if self.heard || error.kind() != io::ErrorKind::ConnectionRefused {
            return Err(explained);
        }
        self.target = self.others.pop_front().ok_or_else(|| explained.clone())?;
        notify(errors, &format_args!("{explained}; trying {}", self.target));
        Ok(())
    }

    /// Sends the message, without waiting for an answer.
    fn send(&self, socket: &mut Socket, message: &[u8]) -> Result<(), Error> {
        let datagram = Outgoing::new(self.target, None, [message, b"", b""]);
        let deadline = Instant::now().checked_add(self.options.timeout);
        while let Some(error) = socket.send(&[datagram]).error {
            match error.kind() {
                // The system reports that an earlier message met a closed port, and did not send this one.
                io::ErrorKind::ConnectionRefused => {}
                io::ErrorKind::WouldBlock if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    thread::sleep(Duration::from_millis(1));
                }
                _ => return Err(self.explain(&error)),
            }
        }
        Ok(())
    }

    /// Sends the message once and waits for an answer.
    fn exchange(&mut self, socket: &mut Socket, message: &[u8]) -> Result<Outcome, Error> {
        let datagram = Outgoing::new(self.target, None, [message, b"", b""]);
        match socket.send(&[datagram]).error {
            // A full send buffer counts as a lost datagram: it is sent again after the timeout.
            Some(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Ok(Outcome::Failed(reported_error(socket, error)));
            }
            _ => {}
        }
        let deadline = Instant::now().checked_add(self.options.timeout);
        let mut exchange = Exchange { socket, received: &mut self.received, readable: true, deadline, outcome: None };
        let key = self.reactor.insert((), &mut exchange)?;
        let result = self.reactor.run(&mut exchange);
        self.reactor.remove(key, Some(exchange.socket));
        result?;
        Ok(exchange.outcome.unwrap_or(Outcome::TimedOut))
    }

    fn explain(&self, error: &io::Error) -> Error {
        let (target, report) = (self.target, ErrorReport::of(error));
        let is_elsewhere = report.and_then(|report| report.offender).is_some_and(|offender| offender != target.ip());
        if error.kind() == io::ErrorKind::ConnectionRefused && !is_elsewhere {
            return Error::Unmet(format!("nobody listens on {target} (port unreachable)"));
        }
        if let Err(error) = check_socket(error) {
            return error;
        }
        let is_too_long = matches!(report, Some(ErrorReport { error: IcmpError::FragmentationNeeded { .. }, .. }));
        if is_too_long || error.raw_os_error() == Some(libc::EMSGSIZE) {
            return Error::Unmet(format!("the message is too long for the path to {target}: {error}"));
        }
        if report.is_some() {
            return Error::Unmet(format!("cannot reach {target}: {error}"));
        }
        Error::Unmet(target::cannot_reach(self.target, error).to_string())
    }

    fn write_answer(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(answer) = self.received.datagrams().next() else {
            return Ok(());
        };
        if self.options.raw {
            out.write_all(answer.payload)?;
        } else {
            writeln!(out, "{}", Escaped::whole(answer.payload))?;
        }
        out.flush()
    }
}

/// Waits for the answer to a message that was sent.
struct Exchange<'a> {
    socket: &'a mut Socket,
    received: &'a mut ReceiveBatch,
    readable: bool,
    /// `None` if it is beyond the clock's range.
    deadline: Option<Instant>,
    outcome: Option<Outcome>,
}

enum Outcome {
    Answered,
    TimedOut,
    Failed(io::Error),
}

impl Handler for Exchange<'_> {
    type Task = ();
    type Error = io::Error;

    fn note(&mut self, (): (), readiness: Readiness, _: Instant) {
        self.readable |= readiness.readable;
    }

    fn wants(&self, (): ()) -> Wants {
        Wants { turn: self.readable, interest: Some(Interest::READABLE), deadline: self.deadline }
    }

    fn take_turn(&mut self, (): (), now: Instant, _: &mut Reactor<()>) -> io::Result<()> {
        let received = self.socket.receive(self.received);
        self.outcome = match received {
            _ if self.received.datagrams().next().is_some() => Some(Outcome::Answered),
            Received::Failed(error) => Some(Outcome::Failed(reported_error(self.socket, error))),
            Received::More => None,
            Received::Drained => {
                self.readable = false;
                self.deadline.is_some_and(|deadline| deadline <= now).then_some(Outcome::TimedOut)
            }
        };
        Ok(())
    }

    fn source(&mut self, (): ()) -> Option<&mut dyn Source> {
        Some(self.socket)
    }

    fn before_wait(&mut self, _: &mut Reactor<()>) -> io::Result<ControlFlow<()>> {
        Ok(if self.outcome.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// Returns what ICMP reported, in place of the error that a call returned for it. All of it is about the message at
/// hand: a socket with an error of an earlier one is not used again.
fn reported_error(socket: &mut Socket, error: io::Error) -> io::Error {
    std::iter::from_fn(|| socket.take_error_report()).last().map_or(error, io::Error::from)
}

/// Returns whether a router reports that the message must be fragmented.
fn is_too_long_for_router(error: &io::Error) -> bool {
    ErrorReport::of(error).is_some_and(|report| {
        report.offender.is_some() && matches!(report.error, IcmpError::FragmentationNeeded { .. })
    })
}

/// Returns the error for a message of `length` bytes, more than a datagram carries.
fn too_long(length: u64) -> Error {
    Error::Unmet(format!("the message is too long: {length} bytes, and a datagram carries {LONGEST_PAYLOAD}"))
}

/// Reads a line without its line feed and returns its length; `None` at the end of the input. Of a line that is too
/// long for a message only the last part is kept.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
    // The longest message, its line feed, and a byte that shows that it is too long.
    const PART: usize = LONGEST_PAYLOAD + 2;
    let mut length = 0;
    loop {
        line.clear();
        let read = input.by_ref().take(PART as u64).read_until(b'\n', line)?;
        length += read as u64;
        if line.pop_if(|last| *last == b'\n').is_some() {
            return Ok(Some(length - 1));
        }
        if read < PART {
            return Ok((length > 0).then_some(length));
        }
    }
}
