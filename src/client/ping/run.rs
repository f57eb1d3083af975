//! The reactor's tasks of a ping: for each target one per flow and its schedule, and the status of all.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::event::Source;

use super::Options;
use super::output::Output;
use super::pinged::{End, Observation, Target};
use super::record::Record;
use crate::client::flow::{Flow, arrival};
use crate::client::probe::flows::Choice;
use crate::client::probe::schedule::IntervalSchedule;
use crate::client::report::{Clock, PingReport, table};
use crate::client::status_signal::StatusSignal;
use crate::client::{Error, target, wait_notice};
use crate::metrics::{self as monitor, Monitor, Observed};
use crate::net::{self, IoBackend, ReceiveBatch};
use crate::reactor::shutdown::Shutdown;
use crate::reactor::{Handler, Precision, Reactor, Readiness, Wants};
use crate::stamp::reflector::ClockQuality;

/// At most this many probes per turn, before answers are received again.
const BURST: usize = 64;

/// What the reactor gives turns to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// Receives answers on a flow of a target, by their indices, and times out its probes.
    Flow(usize, usize),
    /// Sends the probes to a target that are due, and ends its part of the run.
    Schedule(usize),
    /// Prints the report so far, and draws the status line.
    Status,
    /// A task of the monitor.
    Monitor(monitor::Task),
}

/// A ping to all targets.
pub(super) struct Run<'a> {
    targets: Vec<Target<'a>>,
    /// How many of them have not ended.
    running: usize,
    options: &'a Options,
    output: Output<'a>,
    received: ReceiveBatch,
    shutdown: Shutdown,
    /// A shutdown was requested: no further probe is sent.
    stopped: bool,
    status: StatusSignal,
    status_pending: bool,
    /// How good the system's clock is, for STAMP, and when that is looked up again.
    quality: ClockQuality,
    quality_until: Instant,
    monitor: Option<Monitor>,
}

impl<'a> Run<'a> {
    /// Creates a ping to targets as they were written, each with at least one address. `make_output` is called with the
    /// first addresses and the start.
    pub(super) fn new(
        targets: Vec<(&'a str, VecDeque<SocketAddr>)>,
        options: &'a Options,
        shutdown: &Shutdown,
        make_output: impl FnOnce(&[SocketAddr], Instant) -> Result<Output<'a>, Error>,
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let count = targets.len();
        let create = |(index, target)| Target::new(target, (index, count), options, start);
        let targets = targets.into_iter().enumerate().map(create).collect::<Result<Vec<_>, Error>>()?;
        let addresses: Vec<_> = targets.iter().map(|target| target.record.target).collect();
        let monitor = Monitor::open(&options.monitor, None, shutdown).map_err(Error::Failed)?;
        Ok(Self {
            running: count,
            targets,
            options,
            output: make_output(&addresses, start)?,
            received: ReceiveBatch::new(),
            shutdown: shutdown.clone(),
            stopped: false,
            status: StatusSignal::new()?,
            status_pending: false,
            quality: ClockQuality::default(),
            quality_until: start,
            monitor,
        })
    }

    /// Runs to the end, and returns what is known of the probes to each target.
    pub(super) fn run(mut self) -> Result<Vec<PingReport>, Error> {
        let mut reactor = Reactor::with_precision(&self.shutdown, Precision::Exact)?;
        for index in 0..self.targets.len() {
            let target = &self.targets[index];
            target.record.begin(target.written, &mut self.output)?;
            self.open_first_flows(index, &mut reactor)?;
            self.targets[index].schedule_key = Some(reactor.insert(Task::Schedule(index), &mut self)?);
        }
        reactor.insert(Task::Status, &mut self)?;
        self.begin_monitor(&mut reactor)?;
        let result = reactor.run(&mut self);
        if let Some(monitor) = &mut self.monitor
            && let Err(error) = monitor.finish(&Observation(&self.targets).metrics())
        {
            self.output.notify(&error);
        }
        let finished = self.output.finish();
        result.and(finished)?;
        Ok(self.targets.into_iter().map(|target| target.record.into_report()).collect())
    }

    /// Lets the monitor watch, if there is one.
    fn begin_monitor(&mut self, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let Some(monitor) = &mut self.monitor else { return Ok(()) };
        monitor.notice().iter().for_each(|notice| self.output.notify(notice));
        monitor.begin(&Observation(&self.targets), Instant::now()).map_err(Error::Failed)?;
        Ok(monitor::insert(self, reactor, Task::Monitor, |run| run.monitor.as_mut())?)
    }

    /// Opens the flows that are asked for, so that it fails before the first probe; otherwise one.
    fn open_first_flows(&mut self, index: usize, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        (0..self.options.flows.unwrap_or(1)).try_for_each(|_| self.ensure_flow(index, Instant::now(), reactor))
    }

    /// Opens a flow if the next probe to a target needs one.
    fn ensure_flow(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let target = &mut self.targets[index];
        let Choice::Open(flow_index) = target.record.tracker.choose_flow(now) else { return Ok(()) };
        let address = target.record.target;
        let mut flow = match Flow::open(address, IoBackend::Auto, &self.options.egress) {
            Ok(flow) => flow,
            Err(error) if target.flows.is_empty() => return Err(target::cannot_reach(address, &error)),
            Err(error) => {
                if let Some(flows) = self.options.flows {
                    return Err(Error::Failed(format!("cannot open flow {} of {flows}: {error}", flow_index + 1)));
                }
                target.record.tracker.cannot_open_flow();
                return Ok(());
            }
        };
        let clock = if flow.socket.enable_timestamps() { Clock::Kernel } else { Clock::User };
        flow.socket.enable_hop_limits();
        target.record.flow_opened(flow_index, flow.port(), clock);
        if let Some(old) = target.flows.get_mut(flow_index) {
            let mut old = std::mem::replace(old, flow);
            old.key.into_iter().for_each(|key| reactor.remove(key, Some(&mut old.socket)));
        } else {
            target.flows.push(flow);
        }
        let key = reactor.insert(Task::Flow(index, flow_index), self)?;
        self.targets[index].flows[flow_index].key = Some(key);
        Ok(())
    }

    /// Receives answers on a flow and times out its probes.
    fn take_flow_turn(
        &mut self,
        index: usize,
        flow_index: usize,
        now: Instant,
        reactor: &mut Reactor<Task>,
    ) -> Result<(), Error> {
        let Self { targets, output, received, .. } = self;
        let Target { record, flows, blocked, schedule_key, .. } = &mut targets[index];
        let flow = &mut flows[flow_index];
        if *blocked && flow.is_writable() {
            *blocked = false;
            schedule_key.iter().for_each(|key| reactor.touch(*key));
        }
        if record.tracker.next_timeout(flow_index).is_some_and(|at| at <= now) {
            // A probe is given up only if its answer is not in the socket.
            flow.expect_answers(now);
        }
        if !flow.is_drained() {
            let time = flow.receive(now, received)?;
            for run in received.runs() {
                let time = arrival(run.envelope, time);
                for datagram in run.datagrams() {
                    record.answer(flow_index, &datagram, time, output)?;
                }
            }
        }
        while let Some(refusal) = flow.next_refusal() {
            record.refused(flow_index, &refusal, now, output)?;
        }
        if let Some(time) = flow.received_by() {
            record.time_out(flow_index, time, output)?;
        }
        Ok(())
    }

    fn send_due(&mut self, index: usize, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let now = Instant::now();
        if self.options.stamp.is_some() && self.quality_until <= now {
            self.quality_until = now + Duration::from_secs(1);
            self.quality = net::clock_error().into();
        }
        for _ in 0..BURST {
            let now = Instant::now();
            if self.targets[index].next_probe(self.stopped).is_none_or(|next| next > now) {
                break;
            }
            self.ensure_flow(index, now, reactor)?;
            let target = &mut self.targets[index];
            let (Choice::Use(flow) | Choice::Open(flow)) = target.record.tracker.choose_flow(now);
            target.blocked = !target.flows[flow].is_writable() || !target.send(flow, self.quality, &mut self.output)?;
            // It has a timeout now, or waits to be writable.
            target.flows[flow].key.into_iter().for_each(|key| reactor.touch(key));
            if target.blocked {
                break;
            }
            target.schedule.advance(now);
        }
        Ok(())
    }

    /// Turns to the next address of a target whose port is closed, before anything was heard of it.
    fn try_next(&mut self, index: usize, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let count = self.targets.len();
        let target = &mut self.targets[index];
        let Some(next) = target.others.pop_front() else { return Ok(()) };
        let closed = target.record.target;
        self.output.notify(&format_args!("nobody listens on {closed} (port unreachable); trying {next}"));
        self.output.replace_target(index, next);
        for flow in &mut target.flows {
            flow.key.into_iter().for_each(|key| reactor.remove(key, Some(&mut flow.socket)));
        }
        target.flows.clear();
        let start = Instant::now();
        target.record = Record::new(next, index, count, self.options, start);
        target.record.expect_refusal(!target.others.is_empty());
        target.schedule =
            IntervalSchedule::new(start, self.options.interval, self.options.count, self.options.deadline);
        (target.blocked, target.end) = (false, End::NotYet);
        target.schedule_key.iter().for_each(|key| reactor.touch(*key));
        target.record.begin(target.written, &mut self.output)?;
        self.open_first_flows(index, reactor)
    }

    /// Advances the end of a target's part, if its probes have ended.
    fn settle(&mut self, index: usize, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        let target = &mut self.targets[index];
        if target.record.is_refused() {
            return self.try_next(index, reactor);
        }
        if target.end == End::Over || target.is_sending(self.stopped) || target.record.tracker.in_flight() > 0 {
            return Ok(());
        }
        match target.end {
            End::NotYet => {
                target.record.end(now);
                target.end = End::At(now.checked_add(target.record.linger()));
                target.schedule_key.iter().for_each(|key| reactor.touch(*key));
            }
            End::At(Some(end)) if end <= now => {
                target.end = End::Receiving(end);
                for flow in &mut target.flows {
                    flow.expect_answers(now);
                    flow.key.into_iter().for_each(|key| reactor.touch(key));
                }
            }
            End::At(Some(_)) => {}
            End::Receiving(end) if !target.has_received(end) => {}
            End::At(None) | End::Receiving(_) | End::Over => {
                target.end = End::Over;
                self.running -= 1;
            }
        }
        Ok(())
    }

    /// Stops sending at a shutdown.
    fn stop(&mut self, reactor: &mut Reactor<Task>) {
        self.stopped = true;
        self.monitor.iter().for_each(Monitor::stopping);
        let in_flight: usize = self.targets.iter().map(|target| target.record.tracker.in_flight()).sum();
        let waits = self.targets.iter().filter(|target| target.record.tracker.in_flight() > 0);
        let left = waits.map(|target| target.record.wait()).max().unwrap_or(Duration::ZERO);
        match in_flight {
            0 => {}
            1 => self.output.notify(&wait_notice(left, "1 probe")),
            probes => self.output.notify(&wait_notice(left, &format!("{probes} probes"))),
        }
        self.targets.iter().filter_map(|target| target.schedule_key).for_each(|key| reactor.touch(key));
    }

    fn print_status(&mut self) -> Result<(), Error> {
        let reports: Vec<_> = self.targets.iter().map(|target| target.record.report()).collect();
        let text = match &*reports {
            [only] => only.text(self.options.terminal),
            several => table(several, self.options.terminal),
        };
        self.output.text(&text)
    }
}

impl Handler for Run<'_> {
    type Task = Task;
    type Error = Error;

    fn note(&mut self, task: Task, readiness: Readiness, now: Instant) {
        match task {
            Task::Flow(target, flow) => self.targets[target].flows[flow].note(readiness, now),
            Task::Schedule(_) => {}
            Task::Status => self.status_pending = true,
            Task::Monitor(task) => self.monitor.iter_mut().for_each(|monitor| monitor.note(task, readiness)),
        }
    }

    fn wants(&self, task: Task) -> Wants {
        match task {
            Task::Flow(index, flow_index) => {
                let target = &self.targets[index];
                let flow = &target.flows[flow_index];
                Wants {
                    turn: !flow.is_drained() || (target.blocked && flow.is_writable()),
                    interest: Some(flow.interest()),
                    deadline: target.record.tracker.next_timeout(flow_index),
                }
            }
            Task::Schedule(index) => {
                let target = &self.targets[index];
                let has_ended = !target.is_sending(self.stopped) && target.record.tracker.in_flight() == 0;
                let deadline = match target.end {
                    End::NotYet => {
                        let end = target.schedule.end().filter(|_| !self.stopped);
                        [target.next_probe(self.stopped), end].into_iter().flatten().min()
                    }
                    End::At(end) => end,
                    End::Receiving(_) | End::Over => None,
                };
                Wants { turn: target.end == End::NotYet && has_ended, deadline, ..Wants::default() }
            }
            Task::Status => Wants {
                turn: self.status_pending,
                interest: Some(Interest::READABLE),
                deadline: self.output.next_status_line(),
            },
            Task::Monitor(task) => self.monitor.as_ref().map(|monitor| monitor.wants(task)).unwrap_or_default(),
        }
    }

    fn take_turn(&mut self, task: Task, now: Instant, reactor: &mut Reactor<Task>) -> Result<(), Error> {
        match task {
            Task::Flow(target, flow) => {
                self.take_flow_turn(target, flow, now, reactor)?;
                self.settle(target, now, reactor)
            }
            Task::Schedule(target) => {
                self.targets[target].schedule.expire(now);
                self.send_due(target, reactor)?;
                self.settle(target, now, reactor)
            }
            Task::Status if !self.status_pending => {
                self.output.draw_status_line(now);
                Ok(())
            }
            Task::Status => {
                self.status_pending = false;
                self.status.clear();
                self.print_status()
            }
            Task::Monitor(task) => {
                let observation = Observation(&self.targets);
                self.monitor.iter_mut().for_each(|monitor| monitor.take_turn(task, now, reactor, &observation));
                Ok(())
            }
        }
    }

    fn source(&mut self, task: Task) -> Option<&mut dyn Source> {
        match task {
            Task::Flow(target, flow) => Some(&mut self.targets[target].flows[flow].socket),
            Task::Schedule(_) => None,
            Task::Status => self.status.source(),
            Task::Monitor(task) => self.monitor.as_mut()?.source(task),
        }
    }

    fn before_wait(&mut self, reactor: &mut Reactor<Task>) -> Result<ControlFlow<()>, Error> {
        if self.running == 0 || reactor.shutdown().is_forced() {
            return Ok(ControlFlow::Break(()));
        }
        if !self.stopped && reactor.shutdown().is_requested() {
            self.stop(reactor);
        }
        Ok(ControlFlow::Continue(()))
    }
}
