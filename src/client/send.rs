//! `send`: one message, one answer, and the next message.

use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::target::{self, Family};
use super::{Error, cannot_poll, cannot_write, wait};
use crate::logging::escape::Escaped;
use crate::net::{self, IoBackend, LONGEST_PAYLOAD, Outgoing, ReceiveBatch, Received, Socket, Transport};

/// How a conversation is held.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long an answer may take, each time that the message is sent.
    pub timeout: Duration,
    /// How often the message is sent again when no answer comes.
    pub retries: u32,
    /// Whether answers are written as they are, instead of escaped and one a line.
    pub raw: bool,
    /// Which addresses of the target's name are taken.
    pub family: Family,
}

const PROMPT: &str = "Enter message to send: ";

/// Messages to one responder and its answers.
///
/// The socket, and with it the source address, stays the same while every message gets one answer at once: some
/// responders (ncat) serve their first client only. After a retry, a second answer, or none, the next message
/// leaves from a new port: what still comes to the old one is not taken for its answer.
#[derive(Debug)]
pub struct Conversation {
    target: SocketAddr,
    options: Options,
    poll: Poll,
    events: Events,
    inbox: ReceiveBatch,
    socket: Option<Socket>,
}

impl Conversation {
    /// Finds the target; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// As [`target::resolve`], or the system has no poll for us.
    pub fn with(target: &str, options: Options) -> Result<Self, Error> {
        let target = target::resolve(target, options.family)?;
        let poll = Poll::new().map_err(cannot_poll)?;
        let events = Events::with_capacity(8);
        Ok(Self { target, options, poll, events, inbox: ReceiveBatch::new(), socket: None })
    }

    /// Sends one message and writes its answer.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] when the message is too long, nobody listens, or no answer comes in time;
    /// [`Error::Failed`] when it cannot be sent or the answer cannot be written.
    pub fn say(&mut self, message: &[u8], out: &mut dyn Write) -> Result<(), Error> {
        if message.len() > LONGEST_PAYLOAD {
            let length = message.len();
            let why = format!("the message is too long: {length} bytes, and a datagram carries {LONGEST_PAYLOAD}");
            return Err(Error::Unmet(why));
        }
        let mut in_order = self.socket.take();
        let in_order = in_order.take_if(|socket| self.is_quiet(socket));
        let mut socket = in_order.map_or_else(|| self.open(), Ok)?;
        for attempt in 0..=self.options.retries {
            if self.exchange(&mut socket, message)? {
                if attempt == 0 && self.inbox.datagrams().count() == 1 {
                    self.socket = Some(socket);
                }
                return self.write_answer(out).map_err(cannot_write);
            }
        }
        let within = humantime::format_duration(self.options.timeout);
        let times = match self.options.retries {
            0 => "once".to_owned(),
            retries => format!("{} times", u64::from(retries) + 1),
        };
        Err(Error::Unmet(format!("no answer from {} within {within} (sent {times})", self.target)))
    }

    /// Sends every line as a message until the input ends, and tells errors as they come.
    ///
    /// # Errors
    ///
    /// [`Error::Unmet`] when a message was not answered; [`Error::Failed`] when reading or writing failed.
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
            line.clear();
            read_line(&mut input, &mut line)
                .map_err(|error| Error::Failed(format!("cannot read the messages: {error}")))?;
            if line.is_empty() {
                break;
            }
            messages += 1;
            match self.say(line.strip_suffix(b"\n").unwrap_or(&line), out) {
                Ok(()) => {}
                Err(Error::Unmet(why)) => {
                    unanswered += 1;
                    let _ = writeln!(errors, "udpong: {why}");
                }
                Err(error) => return Err(error),
            }
        }
        if prompt {
            // The shell's prompt should not stand behind ours.
            let _ = writeln!(errors);
        }
        if unanswered == 0 {
            Ok(())
        } else {
            Err(Error::Unmet(format!("{unanswered} of {messages} messages were not answered")))
        }
    }

    fn open(&mut self) -> Result<Socket, Error> {
        let mut socket =
            target::open(self.target, IoBackend::Auto).map_err(|error| target::cannot_reach(self.target, &error))?;
        self.poll.registry().register(&mut socket, Token(0), Interest::READABLE).map_err(cannot_poll)?;
        Ok(socket)
    }

    /// Whether nothing came since the last answer.
    fn is_quiet(&mut self, socket: &mut Socket) -> bool {
        let received = socket.receive(&mut self.inbox);
        matches!(received, Received::Drained) && self.inbox.datagrams().next().is_none()
    }

    /// Sends the message once; says whether an answer is in the inbox.
    fn exchange(&mut self, socket: &mut Socket, message: &[u8]) -> Result<bool, Error> {
        let datagram = Outgoing { to: self.target, from: None, parts: [message, b"", b""] };
        match socket.send(&[datagram]).error {
            // A full send buffer counts as a datagram that was lost: it is sent again after the timeout.
            Some(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(self.explain(&error)),
            _ => {}
        }
        let deadline = Instant::now().checked_add(self.options.timeout);
        loop {
            let received = socket.receive(&mut self.inbox);
            if self.inbox.datagrams().next().is_some() {
                return Ok(true);
            }
            if let Received::Failed(error) = received {
                return Err(self.explain(&error));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            wait(&mut self.poll, &mut self.events, left)?;
        }
    }

    fn explain(&self, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            let target = self.target;
            return Error::Unmet(format!("nobody listens on {target} (port unreachable)"));
        }
        if net::is_broken(error) {
            return Error::Failed(format!("the socket became unusable: {error}"));
        }
        if error.raw_os_error() == Some(libc::EMSGSIZE) {
            return Error::Unmet(format!("the message is too long for the way to {}: {error}", self.target));
        }
        Error::Unmet(target::cannot_reach(self.target, error).to_string())
    }

    fn write_answer(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(answer) = self.inbox.datagrams().next() else {
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

/// Reads a line with its end; of one that is too long for a message, only enough to show that it is.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    let length = input.by_ref().take(LONGEST_PAYLOAD as u64 + 2).read_until(b'\n', line)?;
    if length == LONGEST_PAYLOAD + 2 && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
    }
    Ok(())
}
