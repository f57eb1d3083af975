//! What a ping prints and logs while it runs, for all its targets.

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::{Format, Options};
use crate::client::report::{HdrLog, ProbeObject, StatusLine};
use crate::client::{Error, cannot_write, notify, print_json};

/// Lines, objects, notices, the status line and the log.
pub(super) struct Output<'a> {
    options: &'a Options,
    out: &'a mut dyn Write,
    errors: &'a mut dyn Write,
    status_line: Option<StatusLine>,
    log: Option<HdrLog>,
}

impl<'a> Output<'a> {
    /// Creates the log, if there is one, of targets that are probed from `start`.
    pub(super) fn new(
        options: &'a Options,
        targets: impl Iterator<Item = SocketAddr>,
        start: Instant,
        out: &'a mut dyn Write,
        errors: &'a mut dyn Write,
    ) -> Result<Self, Error> {
        let log = options.hdr.as_ref();
        let log = log.map(|path| HdrLog::create(path, targets.map(|target| target.to_string()).collect(), start));
        let status_line = options.live.map(|terminal| StatusLine::new(terminal, start, options.interval));
        Ok(Self { options, out, errors, status_line, log: log.transpose()? })
    }

    /// Replaces the address of a target, by its index, to which there was no round trip yet.
    pub(super) fn replace_target(&mut self, target: usize, address: SocketAddr) {
        self.log.iter_mut().for_each(|log| log.rename(target, address.to_string()));
    }

    /// Prints text that is not about a single probe: to stdout, or to stderr if stdout is for JSON only.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Error> {
        self.clear_status_line();
        if matches!(self.options.format, Format::Json | Format::JsonStream) {
            let _ = self.errors.write_all(text.as_bytes()).and_then(|()| self.errors.flush());
            return Ok(());
        }
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(cannot_write)
    }

    /// Prints a line about a probe, if there are such lines.
    pub(super) fn line(&mut self, line: &dyn Display) -> Result<(), Error> {
        if self.options.format != Format::Text {
            return Ok(());
        }
        let time = self.options.timestamps.then(|| {
            let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("[{}.{:06}] ", time.as_secs(), time.subsec_micros())
        });
        let line = format!("{}{line}", time.unwrap_or_default());
        self.text(&self.options.terminal.wrap(&line))?;
        self.draw_status_line(Instant::now());
        Ok(())
    }

    /// Prints the object of a probe, if there are such objects.
    pub(super) fn object(&mut self, object: impl FnOnce() -> ProbeObject) -> Result<(), Error> {
        if self.options.format != Format::JsonStream {
            return Ok(());
        }
        self.clear_status_line();
        print_json(self.out, &object())?;
        self.draw_status_line(Instant::now());
        Ok(())
    }

    /// Prints a notice for the user.
    pub(super) fn notify(&mut self, notice: &dyn Display) {
        self.clear_status_line();
        notify(self.errors, notice);
    }

    /// Records that a probe was sent.
    pub(super) fn sent(&mut self) {
        self.status_line.iter_mut().for_each(StatusLine::record_sent);
    }

    /// Records the round trip to a target, by its index, of a probe that was sent at `sent`.
    pub(super) fn answered(
        &mut self,
        target: usize,
        sent: Instant,
        round_trip: Duration,
        now: Instant,
    ) -> Result<(), Error> {
        self.status_line.iter_mut().for_each(|line| line.record(sent, round_trip));
        self.log.as_mut().map_or(Ok(()), |log| log.record(target, round_trip, now))
    }

    /// Records that a probe that was sent at `sent` got no answer in time.
    pub(super) fn lost(&mut self, sent: Instant) {
        self.status_line.iter_mut().for_each(|line| line.lose(sent));
    }

    /// Writes what is due to the log.
    pub(super) fn advance_log(&mut self, now: Instant) -> Result<(), Error> {
        self.log.as_mut().map_or(Ok(()), |log| log.advance(now))
    }

    /// Ends the log and the status line.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.clear_status_line();
        self.log.take().map_or(Ok(()), |log| log.finish(Instant::now()))
    }

    /// Returns when the status line should be drawn.
    pub(super) fn next_status_line(&self) -> Option<Instant> {
        self.status_line.as_ref().map(StatusLine::next)
    }

    pub(super) fn draw_status_line(&mut self, now: Instant) {
        self.status_line.iter_mut().for_each(|line| line.draw(self.errors, now));
    }

    fn clear_status_line(&mut self) {
        self.status_line.iter_mut().for_each(|line| line.clear(self.errors));
    }
}
