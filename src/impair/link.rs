//! A link: the stages that a datagram passes, and what waits in between.

#[cfg(test)]
mod simulation;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use slab::Slab;

use super::random::{CopyDraws, Draws};
use super::waiting::{Waiting, charge};
use super::{Generator, Impaired, Impairments, Loss};

/// One direction of a network path. See the [module's documentation](super).
///
/// `F` identifies the flow of a datagram: where it is sent, and within which reordering is counted.
///
/// What waits is bounded by [`Impairments::limit`] and by a number of bytes, both checked as datagrams enter; what is
/// ready is bounded by the same number of bytes. The caller sends what is ready, and lets no datagram enter while it
/// cannot.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use udpong::impair::{Generator, Impairments, Link, Seed};
///
/// let impairments = Impairments { delay: Duration::from_millis(40), ..Impairments::default() };
/// let start = Instant::now();
/// let mut link = Link::new(impairments, Generator::new("7".parse()?, 0), 1 << 20, start);
///
/// let left_at_once = link.handle(start, "client", 28, [b"hello", b"", b""]);
/// assert_eq!(left_at_once, [None, None]);
///
/// let deadline = link.next_deadline().expect("one datagram waits");
/// assert_eq!(deadline, start + Duration::from_millis(40));
/// link.advance(deadline);
/// assert_eq!(link.ready().next(), Some(("client", &b"hello"[..])));
/// link.release(1);
/// assert_eq!(link.waiting(), 0);
/// # Ok::<(), udpong::impair::ParseError>(())
/// ```
#[derive(Debug)]
pub struct Link<F> {
    impairments: Impairments,
    generator: Generator,
    start: Instant,
    /// How many bytes may wait.
    max_bytes: usize,
    /// The state of the Gilbert-Elliott model.
    is_bad: bool,
    /// How many datagrams have entered.
    arrivals: u64,
    /// When the last transmission ends.
    busy_until: Instant,
    /// What waits, inside or ready, by key.
    waiting: Slab<Waiting<F>>,
    /// When delays end; of datagrams with the same time, the one that came first is first.
    delayed: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    /// Numbers the entries of `delayed`.
    inserted: u64,
    /// When transmissions end, in order.
    transmitting: VecDeque<(Instant, usize)>,
    /// What has left the link, in order.
    ready: VecDeque<usize>,
    /// What is charged for `delayed` and `transmitting`, which is decided by arrivals and times alone.
    bytes: usize,
    /// What is charged for `ready`.
    ready_bytes: usize,
    /// The flows with datagrams in `delayed` or `transmitting`: only those can be reordered.
    flows: HashMap<F, FlowState>,
    impaired: Impaired,
}

#[derive(Debug)]
struct FlowState {
    waiting: usize,
    /// The latest arrival that has left.
    latest: u64,
}

/// What becomes of a copy that is not lost.
#[derive(Debug)]
struct Planned {
    /// In the order of arrival: the original, or the duplicate.
    index: usize,
    /// The bit to flip.
    flip: Option<usize>,
    length: usize,
    delay: Duration,
}

impl<F: Copy + Eq + Hash> Link<F> {
    /// Creates a link in which `max_bytes` may wait. Blackouts count from `start`.
    pub fn new(impairments: Impairments, generator: Generator, max_bytes: usize, start: Instant) -> Self {
        Self {
            impairments,
            generator,
            start,
            max_bytes,
            is_bad: false,
            arrivals: 0,
            busy_until: start,
            waiting: Slab::new(),
            delayed: BinaryHeap::new(),
            inserted: 0,
            transmitting: VecDeque::new(),
            ready: VecDeque::new(),
            bytes: 0,
            ready_bytes: 0,
            flows: HashMap::new(),
            impaired: Impaired::default(),
        }
    }

    /// Lets a datagram enter, whose payload is `parts`, one after the other, and whose packet has `headers` bytes more.
    /// Returns the copies that leave at once, as the parts to send.
    ///
    /// They leave before what is [ready](Self::ready). `now` must not be earlier than in calls before.
    pub fn handle<'a>(
        &mut self,
        now: Instant,
        flow: F,
        headers: usize,
        parts: [&'a [u8]; 3],
    ) -> [Option<[&'a [u8]; 3]>; 2] {
        self.advance(now);
        self.arrivals += 1;
        let Draws { duplicate, copies } = self.generator.draws();
        let mut left = [None, None];
        if self.impairments.blackout.is_some_and(|blackout| blackout.is_at(now.saturating_duration_since(self.start))) {
            self.impaired.lost += 1;
            return left;
        }
        let is_duplicated = duplicate.happens(self.impairments.duplicate);
        self.impaired.duplicated += u64::from(is_duplicated);
        let length = parts.iter().map(|part| part.len()).sum();
        let original = self.impair(0, &copies[0], length);
        let duplicate = if is_duplicated { self.impair(1, &copies[1], length) } else { None };
        let mut copies = [original, duplicate];
        if let [Some(original), Some(duplicate)] = &copies
            && duplicate.delay < original.delay
        {
            copies.reverse();
        }
        let mut second = false;
        for copy in copies.into_iter().flatten() {
            let index = copy.index;
            match self.place(now, flow, headers, parts, copy, second) {
                Place::Dropped => self.impaired.over_limit += 1,
                Place::Inside => second = true,
                Place::Left(parts) => {
                    left[index] = Some(parts);
                    second = true;
                }
            }
        }
        left
    }

    /// Moves on to `now`: what has left the link by then is ready.
    pub fn advance(&mut self, now: Instant) {
        // In the order of time, so that the link transmits in that order.
        while let Some(Reverse((at, _, key))) = self.delayed.peek().copied().filter(|Reverse((at, ..))| *at <= now) {
            self.delayed.pop();
            self.transmit(at, key);
        }
        while let Some((_, key)) = self.transmitting.front().copied().filter(|(at, _)| *at <= now) {
            self.transmitting.pop_front();
            self.leave(key);
        }
    }

    /// Returns what has left the link and is to be sent, in order.
    pub fn ready(&self) -> impl Iterator<Item = (F, &[u8])> {
        self.ready
            .iter()
            .filter_map(|key| self.waiting.get(*key))
            .map(|datagram| (datagram.flow, &datagram.payload[..]))
    }

    /// Removes the first `count` datagrams of those that are ready.
    pub fn release(&mut self, count: usize) {
        let count = count.min(self.ready.len());
        for key in self.ready.drain(..count) {
            self.ready_bytes -= self.waiting.try_remove(key).map_or(0, |datagram| datagram.charge());
        }
        // A burst should not keep its memory. A table that stays, however small, can prevent the allocator from
        // returning what lies below it.
        if self.waiting.is_empty() {
            self.waiting = Slab::new();
            self.delayed = BinaryHeap::new();
            self.transmitting = VecDeque::new();
            self.ready = VecDeque::new();
            self.flows = HashMap::new();
        }
    }

    /// Returns how many of the first datagrams with these lengths can be [put back](Self::put_back).
    pub fn room_for(&self, lengths: impl Iterator<Item = usize>) -> usize {
        let mut bytes = self.ready_bytes;
        let fits = |length: &usize| {
            bytes += charge(*length);
            bytes <= self.max_bytes
        };
        lengths.take_while(fits).count()
    }

    /// Takes back a datagram that has left, could not be sent, and will be the first of what is ready.
    pub fn put_back(&mut self, flow: F, parts: [&[u8]; 3]) {
        let payload = parts.concat();
        // It has been counted.
        let datagram = Waiting { flow, arrival: 0, second: true, packet_length: 0, payload };
        self.ready_bytes += datagram.charge();
        self.ready.push_front(self.waiting.insert(datagram));
    }

    /// Returns whether anything is ready.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns when the next datagram may become ready; `None` if nothing waits inside.
    pub fn next_deadline(&self) -> Option<Instant> {
        let delayed = self.delayed.peek().map(|Reverse((at, ..))| *at);
        let transmitted = self.transmitting.front().map(|(at, _)| *at);
        delayed.into_iter().chain(transmitted).min()
    }

    /// Returns how many datagrams wait inside or are ready.
    pub fn waiting(&self) -> usize {
        self.delayed.len() + self.transmitting.len() + self.ready.len()
    }

    /// Returns whether datagrams of this flow wait inside.
    pub fn waits_for(&self, flow: F) -> bool {
        self.flows.contains_key(&flow)
    }

    /// Returns the counts so far.
    pub fn impaired(&self) -> Impaired {
        self.impaired
    }

    /// The stages loss to reorder; `None` if the copy is lost.
    fn impair(&mut self, index: usize, draws: &CopyDraws, length: usize) -> Option<Planned> {
        if self.is_lost(draws) {
            self.impaired.lost += 1;
            return None;
        }
        let Impairments { delay, jitter, distribution, reorder, corrupt, truncate, .. } = self.impairments;
        let mut copy = Planned { index, flip: None, length, delay };
        if length > 0 && draws.corrupt.happens(corrupt) {
            copy.flip = Some(draws.bit.below(8 * length));
            self.impaired.corrupted += 1;
        }
        if length > 0 && draws.truncate.happens(truncate) {
            copy.length = draws.length.below(length);
            self.impaired.truncated += 1;
        }
        if draws.reorder.happens(reorder) {
            copy.delay = Duration::ZERO;
        } else if !jitter.is_zero() {
            let seconds = delay.as_secs_f64() + jitter.as_secs_f64() * draws.jitter.deviation(distribution);
            // Not below 0.
            copy.delay = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        }
        Some(copy)
    }

    fn is_lost(&mut self, draws: &CopyDraws) -> bool {
        match self.impairments.loss {
            Loss::Independent(probability) => draws.loss.happens(probability),
            Loss::Bursts(model) => {
                let (loss, change) = match self.is_bad {
                    false => (model.loss_in_good, model.to_bad),
                    true => (model.loss_in_bad, model.to_good),
                };
                self.is_bad ^= draws.transition.happens(change);
                draws.loss.happens(loss)
            }
        }
    }

    /// The stages delay to limit.
    fn place<'a>(
        &mut self,
        now: Instant,
        flow: F,
        headers: usize,
        parts: [&'a [u8]; 3],
        copy: Planned,
        second: bool,
    ) -> Place<'a> {
        let waits = !copy.delay.is_zero() || self.impairments.rate.is_some();
        // Unless it would overtake what is ready.
        if !waits && copy.flip.is_none() && self.ready.is_empty() {
            self.note_leaving(flow, self.arrivals, second);
            return Place::Left(cut(parts, copy.length));
        }
        let has_room = if waits { self.has_room(copy.length) } else { self.has_room_to_be_ready(copy.length) };
        if !has_room {
            return Place::Dropped;
        }
        let payload = copy.payload(parts);
        let datagram = Waiting { flow, arrival: self.arrivals, second, packet_length: copy.length + headers, payload };
        if waits {
            self.hold(now, copy.delay, datagram);
        } else {
            self.note_leaving(flow, self.arrivals, second);
            self.ready_bytes += datagram.charge();
            self.ready.push_back(self.waiting.insert(datagram));
        }
        Place::Inside
    }

    /// Delays a datagram, or transmits it.
    fn hold(&mut self, now: Instant, delay: Duration, datagram: Waiting<F>) {
        self.impaired.delayed += 1;
        self.bytes += datagram.charge();
        self.flows.entry(datagram.flow).or_insert(FlowState { waiting: 0, latest: 0 }).waiting += 1;
        let key = self.waiting.insert(datagram);
        if delay.is_zero() {
            self.transmit(now, key);
        } else {
            // Beyond the clock's range only for a delay of centuries.
            let until = now.checked_add(delay).unwrap_or(now);
            self.delayed.push(Reverse((until, self.inserted, key)));
            self.inserted += 1;
        }
    }

    fn has_room_to_be_ready(&self, length: usize) -> bool {
        self.ready_bytes + charge(length) <= self.max_bytes
    }

    fn has_room(&self, length: usize) -> bool {
        self.delayed.len() + self.transmitting.len() < self.impairments.limit
            && self.bytes + charge(length) <= self.max_bytes
    }

    /// Transmits a datagram that has waited until `at`.
    fn transmit(&mut self, at: Instant, key: usize) {
        let Some(rate) = self.impairments.rate else { return self.leave(key) };
        let packet_length = self.waiting.get(key).map_or(0, |datagram| datagram.packet_length);
        let begins = self.busy_until.max(at);
        self.busy_until = begins.checked_add(rate.transmission_time(packet_length)).unwrap_or(begins);
        self.transmitting.push_back((self.busy_until, key));
    }

    /// Makes a datagram ready that has waited.
    fn leave(&mut self, key: usize) {
        self.ready.push_back(key);
        let Some(datagram) = self.waiting.get(key) else { return };
        let Waiting { flow, arrival, second, .. } = *datagram;
        self.bytes -= datagram.charge();
        self.ready_bytes += datagram.charge();
        self.note_leaving(flow, arrival, second);
        if let Some(state) = self.flows.get_mut(&flow) {
            state.waiting -= 1;
            if state.waiting == 0 {
                self.flows.remove(&flow);
            }
        }
    }

    fn note_leaving(&mut self, flow: F, arrival: u64, second: bool) {
        // Without anything that waits there is nothing to overtake.
        if self.flows.is_empty() {
            return;
        }
        if let Some(state) = self.flows.get_mut(&flow) {
            self.impaired.reordered += u64::from(arrival < state.latest && !second);
            state.latest = state.latest.max(arrival);
        }
    }
}

impl Planned {
    /// Returns the payload, damaged as planned.
    fn payload(&self, parts: [&[u8]; 3]) -> Vec<u8> {
        let mut payload = cut(parts, self.length).concat();
        if let Some(bit) = self.flip
            && let Some(byte) = payload.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        payload
    }
}

/// Where a copy is after it has entered.
enum Place<'a> {
    /// Nowhere: too much waits.
    Dropped,
    /// Inside, or ready.
    Inside,
    /// It has left at once, as these parts.
    Left([&'a [u8]; 3]),
}

/// Returns the first `length` bytes of all parts together.
fn cut(parts: [&[u8]; 3], mut length: usize) -> [&[u8]; 3] {
    parts.map(|part| {
        let (kept, _) = part.split_at(length.min(part.len()));
        length -= kept.len();
        kept
    })
}
