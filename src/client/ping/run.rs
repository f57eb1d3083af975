//! The reactor's tasks of a ping: one per flow, the schedule, and the status signal.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use mio::Interest;
use mio::event::Source;

use super::Options;
use super::record::Record;
use crate::client::flow::{Flow, arrival};
use crate::client::probe::flows::Choice;
use crate::client::probe::schedule::IntervalSchedule;
use crate::client::report::Clock;
use crate::client::status_signal::StatusSignal;
use crate::client::{Error, target};
use crate::net::{IoBackend, Outgoing, ReceiveBatch};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Key, Precision, Reactor, Readiness, Wants};

/// At most this many probes per turn, before answers are received again.
const BURST: usize = 64;

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// Receives answers on a flow, by its index, and times out its probes.
    Flow(usize),
    /// Sends the probes that are due, and ends the run.
    Schedule,
    /// Prints the report so far.
    Status,
}

/// A ping to one address.
pub(super) struct Run<'a> {
    record: Record<'a>,
    flows: Vec<Flow>,
    received: ReceiveBatch,
    /// The payload of the next probe.
    probe: Vec<u8>,
    schedule: IntervalSchedule,
    schedule_key: Option<Key>,
    /// The flow of the next probe is not writable.
    blocked: bool,
    shutdown: Shutdown,
    /// A shutdown was requested: no further probe is sent.
    stopped: bool,
    end: End,
    status: &'a mut StatusSignal,
    status_pending: bool,
}

/// When the run is over, after its last probe has ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Probes are due or in flight.
    NotYet,
    /// Duplicates are waited for until then; `None` if that is beyond the clock's range.
    At(Option<Instant>),
    /// What had arrived by then is received.
    Receiving(Instant),
}

impl<'a> Run<'a> {
    pub(super) fn new(
        record: Record<'a>,
        options: &Options,
        status: &'a mut StatusSignal,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        Ok(Self {
            probe: record.payload.as_bytes().to_vec(),
            record,
            flows: Vec::new(),
            received: ReceiveBatch::new(),
            schedule: IntervalSchedule::new(Instant::now(), options.interval, options.count, options.deadline),
            schedule_key: None,
            blocked: false,
            shutdown: shutdown.clone(),
            stopped: false,
            end: End::NotYet,
            status,
            status_pending: false,
        })
    }

    /// Runs to the end, and returns what is known of the probes.
    pub(super) fn run(mut self) -> Result<Record<'a>, Error> {
        let mut reactor = Reactor::with_precision(&self.shutdown, Precision::Exact)?;
        // Those that are asked for, so that it fails before the first probe; otherwise one.
        for _ in 0..self.record.fixed_flows().unwrap_or(1) {
            self.ensure_flow(Instant::now(), &mut reactor)?;
        }
        self.schedule_key = Some(reactor.insert(Task::Schedule, &mut self)?);
        let status_key = reactor.insert(Task::Status, &mut self)?;
        let result = reactor.run(&mut self);
        reactor.remove(status_key, self.status.source());
        result.map(|()| self.record)
    }

    fn is_sending(&self) -> bool {
        !self.stopped && self.schedule.next().is_some()
    }

    /// Returns when to send; `None` while a send would block.
    fn next_probe(&self) -> Option<Instant> {
        self.schedule.next().filter(|_| !self.blocked && !self.stopped)
    }

    /// Opens a flow if the next probe needs one.
    fn ensure_flow(&mut self, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let Choice::Open(index) = self.record.tracker.choose_flow(now) else { return Ok(()) };
        let target = self.record.target;
        let mut flow = match Flow::open(target, IoBackend::Auto) {
            Ok(flow) => flow,
            Err(error) if self.flows.is_empty() => return Err(target::cannot_reach(target, &error)),
            Err(error) => {
                if let Some(flows) = self.record.fixed_flows() {
                    return Err(Error::Failed(format!("cannot open flow {} of {flows}: {error}", index + 1)));
                }
                self.record.tracker.cannot_open_flow();
                return Ok(());
            }
        };
        let clock = if flow.socket.enable_timestamps() { Clock::Kernel } else { Clock::User };
        self.record.flow_opened(index, flow.port(), clock);
        if let Some(old) = self.flows.get_mut(index) {
            let mut old = std::mem::replace(old, flow);
            old.key.into_iter().for_each(|key| reactor.remove(key, Some(&mut old.socket)));
        } else {
            self.flows.push(flow);
        }
        self.flows[index].key = Some(reactor.insert(Task::Flow(index), self)?);
        Ok(())
    }

    /// Receives answers on a flow and times out its probes.
    fn take_flow_turn(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let flow = &mut self.flows[index];
        if self.blocked && flow.is_writable() {
            self.blocked = false;
            self.schedule_key.into_iter().for_each(|key| reactor.touch(key));
        }
        if self.record.tracker.next_timeout(index).is_some_and(|at| at <= now) {
            // A probe is given up only if its answer is not in the socket.
            flow.expect_answers(now);
        }
        if !flow.is_drained() {
            let received = flow.receive(now, &mut self.received)?;
            for datagram in self.received.datagrams() {
                self.record.answer(index, datagram.payload, arrival(&datagram, received))?;
            }
        }
        while let Some(refusal) = self.flows[index].next_refusal() {
            self.record.refused(index, &refusal, now)?;
        }
        if let Some(time) = self.flows[index].received_by() {
            self.record.time_out(index, time)?;
        }
        Ok(())
    }

    fn send_due(&mut self, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        for _ in 0..BURST {
            let now = Instant::now();
            if self.next_probe().is_none_or(|next| next > now) {
                break;
            }
            self.ensure_flow(now, reactor)?;
            let (Choice::Use(index) | Choice::Open(index)) = self.record.tracker.choose_flow(now);
            self.blocked = !self.flows[index].is_writable() || !self.send(index)?;
            // It has a timeout now, or waits to be writable.
            self.flows[index].key.into_iter().for_each(|key| reactor.touch(key));
            if self.blocked {
                break;
            }
            self.schedule.advance(now);
        }
        Ok(())
    }

    /// Sends the next probe on a flow; returns whether it left or failed.
    fn send(&mut self, index: usize) -> Result<bool, Error> {
        let Self { record, flows, probe, .. } = self;
        let flow = &mut flows[index];
        record.payload.write_sequence(record.tracker.next_sequence(), probe);
        let datagram = Outgoing { to: record.target, from: None, parts: [probe, b"", b""] };
        let now = Instant::now();
        match flow.send(&[datagram], now).error {
            None => record.sent(index, now),
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                flow.would_block();
                return Ok(false);
            }
            Some(error) => {
                record.sent(index, now);
                record.refused_to_send(&error, now)?;
            }
        }
        Ok(true)
    }

    /// Begins the last receive of every flow.
    fn receive_rest(&mut self, end: Instant, now: Instant, reactor: &mut Reactor<Task>) {
        self.end = End::Receiving(end);
        for flow in &mut self.flows {
            flow.expect_answers(now);
            flow.key.into_iter().for_each(|key| reactor.touch(key));
        }
    }
}

impl Handler for Run<'_> {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, now: Instant) {
        match task {
            Task::Flow(index) => self.flows[index].note(readiness, now),
            Task::Schedule => {}
            Task::Status => self.status_pending = true,
        }
    }

    fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Flow(index) => {
                let flow = &self.flows[index];
                Wants {
                    turn: !flow.is_drained() || (self.blocked && flow.is_writable()),
                    interest: Some(flow.interest()),
                    deadline: self.record.tracker.next_timeout(index),
                }
            }
            Task::Schedule => {
                let deadline = match self.end {
                    End::NotYet => {
                        [self.next_probe(), self.schedule.end().filter(|_| !self.stopped)].into_iter().flatten().min()
                    }
                    End::At(end) => end,
                    End::Receiving(_) => None,
                };
                Wants { deadline, ..Wants::default() }
            }
            Task::Status => Wants { turn: self.status_pending, interest: Some(Interest::READABLE), ..Wants::default() },
        }
    }

    fn take_turn(&mut self, task: Task, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        match (task, self.end) {
            (Task::Flow(index), _) => self.take_flow_turn(index, now, reactor),
            (Task::Schedule, End::At(Some(end))) if end <= now => {
                self.receive_rest(end, now, reactor);
                Ok(())
            }
            (Task::Schedule, _) => {
                self.schedule.expire(now);
                self.send_due(reactor)
            }
            (Task::Status, _) => {
                self.status_pending = false;
                self.status.clear();
                self.record.status()
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Flow(index) => Some(&mut self.flows[index].socket),
            Task::Schedule => None,
            Task::Status => self.status.source(),
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        if reactor.shutdown().is_forced() || self.record.is_refused() {
            return Ok(ControlFlow::Break(()));
        }
        if !self.stopped && reactor.shutdown().is_requested() {
            self.stopped = true;
            self.record.stopping();
        }
        if self.is_sending() || self.record.tracker.in_flight() > 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let has_received = |end| self.flows.iter().all(|flow| flow.received_by().is_some_and(|time| time >= end));
        match self.end {
            End::NotYet => {
                self.end = End::At(Instant::now().checked_add(self.record.linger()));
                self.schedule_key.into_iter().for_each(|key| reactor.touch(key));
                Ok(ControlFlow::Continue(()))
            }
            End::At(Some(_)) => Ok(ControlFlow::Continue(())),
            End::Receiving(end) if !has_received(end) => Ok(ControlFlow::Continue(())),
            End::At(None) | End::Receiving(_) => Ok(ControlFlow::Break(())),
        }
    }
}
