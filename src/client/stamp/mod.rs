//! The Session-Sender of STAMP: what `ping --stamp` puts into probes and learns from answers. Pure.
//!
//! | file | responsibility |
//! |---|---|
//! | [`losses`] | in which direction packets were lost |
//! | [`delays`] | the delays of one direction |
//! | [`report`] | both as text and JSON |

pub mod delays;
pub mod losses;
pub mod report;

use std::collections::VecDeque;
use std::time::Duration;

use super::probe::payload::{Integrity, ProbeMatch};
use super::probe::tracker::Answer;
use crate::stamp::auth::{DIGEST, Key};
use crate::stamp::packet::{self, Mode, Reply, Request};
use crate::stamp::reflector::ClockQuality;
use crate::stamp::time::{ErrorEstimate, TimestampFormat};
use crate::stamp::tlv;
use delays::Delays;
use losses::Losses;
pub use losses::ReflectorKind;
pub use report::StampReport;

/// The number of the first packet, as if those before it were lost: a reflector that numbers its replies begins with 0,
/// and one that returns this number copies it.
const FIRST_NUMBER: u32 = 16;

/// The size of the digest's TLV in bytes.
const HMAC_TLV: usize = tlv::HEADER + DIGEST;

/// What a reflector writes for a time to live that it does not know.
const UNKNOWN_TTL: u8 = 255;

/// How probes become packets of STAMP.
#[derive(Clone, Debug, Default)]
pub struct StampOptions {
    /// Packets are signed with this key, and answers must be. Default: `None`, the open mode.
    pub key: Option<Key>,
}

impl StampOptions {
    /// Returns the shortest size of a packet, in bytes.
    pub fn base_size(&self) -> usize {
        Mode::of(self.key.as_ref()).base_length()
    }

    /// Returns whether a packet can have this size: the base, or with room for the header of padding; with a key, for a
    /// TLV with a digest as well.
    pub fn has_size(&self, size: usize) -> bool {
        let base = self.base_size();
        size == base || size >= base + tlv::HEADER + self.key.as_ref().map_or(0, |_| HMAC_TLV)
    }
}

/// One session: the packets to one reflector from one port.
#[derive(Clone, Debug)]
pub struct Session {
    key: Option<Key>,
    mode: Mode,
    ssid: u16,
    /// An answer had the identifier.
    is_known: bool,
    /// The hop limit that packets leave with, if it was chosen.
    hop_limit: Option<u8>,
    /// T1 of the packet that was written last.
    written: i64,
    /// T1 as it stands in the packets that may still be answered, by sequence number from `first` on.
    timestamps: VecDeque<u64>,
    first: u64,
    losses: Losses,
    up: Direction,
    down: Direction,
    processing: Delays,
}

/// What is known of one direction, apart from losses.
#[derive(Clone, Debug)]
struct Direction {
    delays: Delays,
    /// The hops of the latest packet.
    hops: Option<u8>,
    /// The largest error of both clocks together in seconds; `None` once one of them was not synchronized.
    error: Option<f64>,
}

/// What an answer says about one probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// What the delays exceed the shortest so far by, up and down, in nanoseconds.
    pub variations: [u64; 2],
    /// The time in the reflector.
    pub processing: Duration,
}

/// How many timestamps are remembered.
const MOST_REMEMBERED: usize = 1 << 18;

impl Session {
    /// Creates a session with an identifier, which should be random and not 0. `hop_limit` is that of its packets, if
    /// it was chosen.
    pub fn new(options: &StampOptions, ssid: u16, hop_limit: Option<u8>) -> Self {
        let direction = || Direction { delays: Delays::new(), hops: None, error: Some(0.0) };
        Self {
            mode: Mode::of(options.key.as_ref()),
            key: options.key.clone(),
            ssid,
            is_known: false,
            hop_limit,
            written: 0,
            timestamps: VecDeque::new(),
            first: 0,
            losses: Losses::new(),
            up: direction(),
            down: direction(),
            processing: Delays::new(),
        }
    }

    /// Returns a packet of `size` bytes, a [valid](StampOptions::has_size) one, to be [written](Self::write).
    pub fn packet(&self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.mode.base_length()];
        let digest = self.key.as_ref().map_or(0, |_| HMAC_TLV);
        if let Some(padding) = size.checked_sub(bytes.len() + tlv::HEADER + digest) {
            tlv::push(&mut bytes, tlv::EXTRA_PADDING, &vec![0; padding]);
            if digest > 0 {
                tlv::push(&mut bytes, tlv::HMAC, &[0; DIGEST]);
            }
        }
        bytes
    }

    /// Writes what is different in the packet of each probe. `time` is T1, in nanoseconds since 1970.
    pub fn write(&mut self, sequence: u64, time: i64, clock: ClockQuality, packet: &mut [u8]) {
        self.written = time;
        let format = TimestampFormat::Ntp;
        let error = ErrorEstimate::new(clock.is_synchronized, format, clock.error);
        let (sequence, timestamp) = (number(sequence), format.encode(time));
        Request { sequence, timestamp, error, ssid: self.ssid }.write(self.mode, packet);
        let Some(key) = &self.key else { return };
        let (base, tlvs) = packet.split_at_mut(self.mode.base_length());
        if let Some((text, digest)) = tlvs.len().checked_sub(DIGEST).and_then(|at| tlvs.split_at_mut_checked(at)) {
            let text = &text[..text.len() - tlv::HEADER];
            digest.copy_from_slice(&key.digest(&[&packet::sequence_bytes(base), text]));
        }
        packet::sign(base, key);
    }

    /// Records that the packet that was written last was sent.
    pub fn sent(&mut self) {
        if self.timestamps.len() >= MOST_REMEMBERED {
            self.timestamps.pop_front();
            self.first += 1;
        }
        self.timestamps.push_back(TimestampFormat::Ntp.encode(self.written));
        self.losses.sent(self.written);
    }

    /// Records that a probe had no answer in time.
    pub fn lost(&mut self, sequence: u64) {
        self.losses.lost(sequence);
    }

    /// Records that a probe was reported not to be deliverable.
    pub fn refused(&mut self, sequence: u64) {
        self.losses.refused(sequence);
    }

    /// Finds the probe that an answer belongs to. Returns `None` if it is not the answer of a reflector in this
    /// session, as far as that can be known. `next` is the sequence number of the next probe.
    pub fn find_in(&self, answer: &[u8], next: u64) -> Option<(ProbeMatch, Reply)> {
        if self.key.as_ref().is_some_and(|key| !packet::is_authentic(answer, key)) {
            return None;
        }
        let reply = Reply::read(answer, self.mode)?;
        // A reflector that knows no sessions, as of TWAMP Light, has zero here; from one that knows ours, that is the
        // answer to a request that was cut, and its number belongs to another session.
        if reply.ssid != self.ssid && (reply.ssid != 0 || self.is_known) {
            return None;
        }
        let sequence = sequence(reply.sender_sequence, next)?;
        let sent = sequence.checked_sub(self.first).and_then(|index| self.timestamps.get(usize::try_from(index).ok()?));
        let is_intact = sent.is_none_or(|timestamp| *timestamp == reply.sender_timestamp);
        let integrity = if is_intact { Integrity::Intact } else { Integrity::Altered };
        Some((ProbeMatch { sequence: Some(sequence), integrity }, reply))
    }

    /// Finds the probe whose first bytes an ICMP error repeats.
    pub fn find_request(&self, packet: &[u8], next: u64) -> Option<u64> {
        let request = Request::read(packet, self.mode);
        sequence(request.sequence, next).filter(|_| packet.len() >= 4)
    }

    /// Records an answer that belongs to this session. `arrived` is T4, in nanoseconds since 1970, and `hop_limit` that
    /// of the answer. Subtracts the time in the reflector from the round trip.
    pub fn answered(
        &mut self,
        answer: &mut Answer,
        reply: &Reply,
        arrived: i64,
        hop_limit: Option<u8>,
    ) -> Option<Trip> {
        let format = reply.error.format();
        let (received, transmitted) = (format.decode(reply.received, arrived), format.decode(reply.timestamp, arrived));
        let sent = reply.sender_error.format().decode(reply.sender_timestamp, arrived);
        let (sequence, is_first) = match answer {
            Answer::First { sequence, .. } => (*sequence, true),
            Answer::Duplicate(Some(sequence)) => (*sequence, false),
            Answer::Duplicate(None) | Answer::Unmatched => return None,
        };
        self.is_known |= reply.ssid == self.ssid;
        self.losses.answered(sequence, is_first, reply.sender_sequence, reply.sequence, received);
        let Answer::First { round_trip, .. } = answer else { return None };
        let processing = u64::try_from(transmitted.saturating_sub(received)).map(Duration::from_nanos);
        // Unless its clock was set meanwhile.
        let processing = processing.ok().filter(|processing| processing <= round_trip)?;
        *round_trip -= processing;
        self.processing.record(transmitted - received);
        let is_synchronized = reply.error.is_synchronized() && reply.sender_error.is_synchronized();
        let error = is_synchronized.then(|| reply.error.seconds() + reply.sender_error.seconds());
        let hops = (reply.sender_ttl != UNKNOWN_TTL || self.hop_limit == Some(255)).then_some(reply.sender_ttl);
        let up = self.up.record(received.saturating_sub(sent), hops_from(hops, self.hop_limit), error);
        let down = self.down.record(arrived.saturating_sub(transmitted), hops_from(hop_limit, None), error);
        Some(Trip { variations: [up, down], processing })
    }

    /// Returns the report on `sent` probes, of which `lost` had no answer.
    pub fn report(&self, sent: u64, lost: u64) -> StampReport {
        StampReport::new(self, sent, lost)
    }
}

impl Direction {
    fn record(&mut self, delay: i64, hops: Option<u8>, error: Option<f64>) -> u64 {
        self.hops = hops;
        self.error = self.error.zip(error).map(|(largest, error)| largest.max(error));
        self.delays.record(delay)
    }
}

/// Returns how many routers have decremented the hop limit: from the `initial` one or, if that is not known, from the
/// usual one that is nearest.
fn hops_from(left: Option<u8>, initial: Option<u8>) -> Option<u8> {
    let left = left?;
    let usual = || [64, 128, 255].into_iter().find(|initial| *initial >= left);
    initial.or_else(usual)?.checked_sub(left)
}

/// Returns the number of a probe's packet.
fn number(sequence: u64) -> u32 {
    (sequence as u32).wrapping_add(FIRST_NUMBER)
}

/// Returns the latest probe before `next` whose packet has this number.
fn sequence(number: u32, next: u64) -> Option<u64> {
    let last = next.checked_sub(1)?;
    let age = (last as u32).wrapping_sub(number.wrapping_sub(FIRST_NUMBER));
    last.checked_sub(age.into())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::client::probe::outcome::Outcome;
    use crate::stamp::reflector::{Arrival, Reflector, ReflectorOptions};

    const T1: i64 = 1_700_000_000_000_000_000;

    fn options(signed: bool) -> StampOptions {
        StampOptions { key: signed.then(|| Key::new(b"secret").expect("a key")) }
    }

    fn first(sequence: u64, round_trip: i64) -> Answer {
        let round_trip = Duration::from_nanos(round_trip as u64);
        Answer::First { sequence, outcome: Outcome::Answered, round_trip, reordered: false, overdue: false }
    }

    /// A session and the reflector at the other end, whose clock is `offset` ahead.
    struct Pair {
        session: Session,
        reflector: Reflector,
        size: usize,
        offset: i64,
        clock: ClockQuality,
        sent: u64,
    }

    impl Pair {
        fn new(signed: bool, stateless: bool, size: usize) -> Self {
            let options = options(signed);
            assert!(options.has_size(size));
            let reflector = Reflector::new(ReflectorOptions { key: options.key.clone(), stateless }, Instant::now());
            let session = Session::new(&options, 7, None);
            Self { session, reflector, size, offset: 0, clock: ClockQuality::default(), sent: 0 }
        }

        fn send(&mut self) -> (u64, i64, Vec<u8>) {
            let time = T1 + self.sent as i64 * 1_000_000;
            let mut packet = self.session.packet(self.size);
            assert_eq!(packet.len(), self.size);
            self.session.write(self.sent, time, self.clock, &mut packet);
            self.session.sent();
            self.sent += 1;
            (self.sent - 1, time, packet)
        }

        /// Sends a packet and returns the reply, with the time at which it leaves.
        fn reflect(&mut self, [up, processing]: [i64; 2]) -> (u64, i64, Vec<u8>) {
            let (sequence, time, packet) = self.send();
            assert!(self.reflector.is_authentic(&packet));
            let received = time + up + self.offset;
            let source = ([192, 0, 2, 1], 4000).into();
            let arrival = Arrival { source, local: None, received, hop_limit: Some(61) };
            let mut reply = Vec::new();
            self.reflector.reflect(&packet, &arrival, self.clock, Instant::now(), &mut reply);
            self.reflector.transmit(&mut reply, received + processing);
            (sequence, time + up + processing, reply)
        }

        fn exchange(&mut self, up: i64, processing: i64, down: i64) -> (Duration, Option<Trip>) {
            let (sequence, time, reply) = self.reflect([up, processing]);
            let (found, reply) = self.session.find_in(&reply, self.sent).expect("found");
            assert_eq!(found, ProbeMatch { sequence: Some(sequence), integrity: Integrity::Intact });
            let mut answer = first(sequence, up + processing + down);
            let trip = self.session.answered(&mut answer, &reply, time + down, Some(126));
            let Answer::First { round_trip, .. } = answer else { unreachable!() };
            (round_trip, trip)
        }
    }

    #[test]
    fn answer_of_another_session_of_the_reflector_is_unmatched() {
        let mut pair = Pair::new(false, false, 44);
        // Without the identifier, as if the request had been cut.
        let cut = |mut reply: Vec<u8>| {
            reply[14..16].fill(0);
            reply
        };
        let (.., reply) = pair.reflect([1_000, 1_000]);
        assert!(pair.session.find_in(&cut(reply.clone()), pair.sent).is_some(), "perhaps of TWAMP Light");
        let (_, found) = pair.session.find_in(&reply, pair.sent).expect("an answer");
        pair.session.answered(&mut first(0, 3_000), &found, T1 + 3_000, None);
        let (.., reply) = pair.reflect([1_000, 1_000]);
        assert!(pair.session.find_in(&reply, pair.sent).is_some());
        assert!(pair.session.find_in(&cut(reply), pair.sent).is_none());
    }

    #[test]
    fn round_trip_is_without_the_time_in_the_reflector() {
        for (signed, size) in [(false, 44), (false, 48), (false, 1_000), (true, 112), (true, 136), (true, 1_000)] {
            let mut pair = Pair::new(signed, false, size);
            pair.offset = -5_000_000_000;
            assert_eq!(pair.exchange(3_000, 50_000, 7_000).0, Duration::from_nanos(10_000));
            let (_, trip) = pair.exchange(4_000, 60_000, 6_500);
            assert_eq!(trip, Some(Trip { variations: [1_000, 0], processing: Duration::from_nanos(60_000) }));
            let report = serde_json::to_value(pair.session.report(2, 0)).expect("JSON");
            assert_eq!(report["reflector"], "stateful");
            assert_eq!(report["up"]["delay_variation_ms"]["max"], 0.001);
            assert_eq!(report["down"]["delay_variation_ms"]["max"], 0.000_5);
            assert_eq!((&report["up"]["hops"], &report["down"]["hops"]), (&3.into(), &2.into()));
            assert!(report["up"]["one_way_ms"].is_null() && report["down"]["one_way_ms"].is_null());
        }
    }

    #[test]
    fn one_way_delays_need_two_synchronized_clocks_and_are_not_clamped() {
        let mut pair = Pair::new(false, false, 44);
        pair.clock = ClockQuality { is_synchronized: true, error: Duration::from_millis(1) };
        pair.offset = -2_000_000;
        pair.exchange(500_000, 10_000, 700_000);
        let report = serde_json::to_value(pair.session.report(1, 0)).expect("JSON");
        assert_eq!(report["up"]["one_way_ms"]["min"], -1.5);
        assert_eq!(report["down"]["one_way_ms"]["max"], 2.7);
        let error = report["up"]["one_way_ms"]["error"].as_f64().expect("an error");
        assert!((2.0..2.02).contains(&error), "{error}");
        // One answer with a clock that is not.
        pair.clock.is_synchronized = false;
        pair.exchange(500_000, 10_000, 700_000);
        let report = serde_json::to_value(pair.session.report(2, 0)).expect("JSON");
        assert!(report["up"]["one_way_ms"].is_null(), "{report}");
    }

    #[test]
    fn answers_of_other_sessions_keys_and_echoes_are_not_found() {
        let mut pair = Pair::new(false, false, 44);
        let (_, _, packet) = pair.send();
        assert_eq!(pair.session.find_in(&packet, 1), None, "an echo");
        let (_, _, mut reply) = pair.reflect([1, 1]);
        assert!(pair.session.find_in(&reply, 2).is_some());
        assert!(pair.session.find_in(&reply[..41], 2).is_some(), "TWAMP Light");
        assert_eq!(pair.session.find_in(&reply[..40], 2), None);
        assert_eq!(pair.session.find_in(&reply, 1), None, "not sent yet");
        reply[28] ^= 1;
        assert_eq!(pair.session.find_in(&reply, 2).map(|found| found.0.integrity), Some(Integrity::Altered));
        reply[15] ^= 1;
        assert_eq!(pair.session.find_in(&reply, 2), None, "another SSID");
        let mut signed = Pair::new(true, false, 112);
        let (_, _, mut reply) = signed.reflect([1, 1]);
        assert!(signed.session.find_in(&reply, 1).is_some());
        reply[90] ^= 1;
        assert_eq!(signed.session.find_in(&reply, 1), None);
        assert_eq!(signed.session.find_in(&reply[..44], 1), None);
    }

    #[test]
    fn processing_of_a_clock_that_was_set_is_ignored() {
        let mut pair = Pair::new(false, false, 44);
        for processing in [-5, 1_000_000] {
            let (sequence, time, reply) = pair.reflect([1_000, processing]);
            let (_, reply) = pair.session.find_in(&reply, pair.sent).expect("found");
            let mut answer = first(sequence, 2_000);
            assert_eq!(pair.session.answered(&mut answer, &reply, time, None), None);
            assert_eq!(answer, first(sequence, 2_000));
        }
    }

    #[test]
    fn sizes_leave_room_for_tlvs() {
        let valid = |signed| (0..200).filter(|size| options(signed).has_size(*size)).take(3).collect::<Vec<_>>();
        assert_eq!((valid(false), valid(true)), (vec![44, 48, 49], vec![112, 136, 137]));
    }

    #[test]
    fn hops_are_counted_from_the_usual_hop_limits() {
        let hops = |left| hops_from(Some(left), None);
        assert_eq!([64, 60, 65, 128, 129, 255, 0].map(hops), [0, 4, 63, 0, 126, 0, 64].map(Some));
        assert_eq!(
            (hops_from(Some(9), Some(10)), hops_from(Some(11), Some(10)), hops_from(None, None)),
            (Some(1), None, None)
        );
    }

    proptest! {
        #[test]
        fn numbers_survive_the_way_through_32_bits(next in 1..u64::MAX / 2, age in 0..1_000_u64) {
            let sent = next.saturating_sub(1 + age);
            prop_assert_eq!(sequence(number(sent), next), Some(sent));
        }

        #[test]
        fn any_answer_is_accepted(answer in vec(any::<u8>(), 0..200), next in 0..100_u64, signed: bool) {
            let mut session = Session::new(&options(signed), 7, None);
            (0..next).for_each(|_| session.sent());
            let _ = session.find_request(&answer, next);
            let reply = Reply::read(&answer, session.mode).unwrap_or_default();
            let mut kinds = [first(next, 5), Answer::Duplicate(Some(next)), Answer::Unmatched];
            kinds.iter_mut().for_each(|kind| { session.answered(kind, &reply, T1, None); });
            let _ = (session.find_in(&answer, next), session.report(next, next).to_string());
        }
    }
}
