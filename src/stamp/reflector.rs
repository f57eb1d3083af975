//! The Session-Reflector: makes a reply of a request. Pure: time, and what is known of the request, are arguments.

use std::hash::Hash;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::auth::Key;
use super::packet::{self, Mode, Reply, Request};
use super::sessions::Sessions;
use super::time::ErrorEstimate;
use super::tlv;

/// What stands for a time to live that is not known.
const UNKNOWN_TTL: u8 = 255;

/// How a reflector behaves.
#[derive(Clone, Debug, Default)]
pub struct ReflectorOptions {
    /// Requests must be signed with this key, and replies are. Default: `None`, the open mode.
    pub key: Option<Key>,
    /// Replies repeat the sequence numbers of their requests; no session is remembered. Default: `false`.
    pub stateless: bool,
}

/// Reflects the packets of any number of senders.
#[derive(Debug)]
pub struct Reflector {
    key: Option<Key>,
    /// `None` if it is stateless.
    sessions: Option<Sessions>,
}

/// What is known of a request besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The sender, and the local address that it sent to, which are part of the session's identity.
    pub source: SocketAddr,
    /// The local address, if it is known.
    pub local: Option<SocketAddr>,
    /// T2, in nanoseconds since 1970.
    pub received: i64,
    /// The time to live or hop limit with which it arrived.
    pub hop_limit: Option<u8>,
}

/// How good the clock is that times are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockQuality {
    /// The system's clock is synchronized to UTC by an external source.
    pub is_synchronized: bool,
    /// The largest error that is to be expected.
    pub error: Duration,
}

impl Default for ClockQuality {
    /// A clock of which nothing is known: 16 seconds, what NTP calls unsynchronized.
    fn default() -> Self {
        Self { is_synchronized: false, error: Duration::from_secs(16) }
    }
}

impl From<Option<Duration>> for ClockQuality {
    /// Converts what [`clock_error`](crate::net::clock_error) returns.
    fn from(error: Option<Duration>) -> Self {
        error.map_or_else(Self::default, |error| Self { is_synchronized: true, error })
    }
}

impl Reflector {
    /// Creates a reflector that has seen no packet.
    pub fn new(options: ReflectorOptions, start: Instant) -> Self {
        let sessions = (!options.stateless).then(|| Sessions::new(start));
        Self { key: options.key, sessions }
    }

    /// Returns whether a request may be processed at all: in authenticated mode it must be signed.
    pub fn is_authentic(&self, request: &[u8]) -> bool {
        self.key.as_ref().is_none_or(|key| packet::is_authentic(request, key))
    }

    /// Returns the length of the reply to a request of a length: the same, but at least the base packet's.
    pub fn reply_length(&self, request: usize) -> usize {
        request.max(self.mode().base_length())
    }

    /// Returns whether a request may be the reply of another reflector.
    pub fn may_be_reply(&self, request: &[u8]) -> bool {
        packet::may_be_reply(request, self.mode())
    }

    /// Records that an [authentic](Self::is_authentic) request has arrived, whether it is replied to or not.
    pub fn note(&mut self, request: &[u8], arrival: &Arrival, now: Instant) {
        let session = session(Request::read(request, self.mode()).ssid, arrival);
        self.sessions.iter_mut().for_each(|sessions| sessions.receive(&session, now));
    }

    /// Appends the reply to a [noted](Self::note) request to `replies`, complete but for what
    /// [`transmit`](Self::transmit) adds.
    pub fn reflect(
        &mut self,
        request: &[u8],
        arrival: &Arrival,
        clock: ClockQuality,
        now: Instant,
        replies: &mut Vec<u8>,
    ) {
        let mode = self.mode();
        let Request { sequence: sender_sequence, timestamp: sender_timestamp, error: sender_error, ssid } =
            Request::read(request, mode);
        let session = session(ssid, arrival);
        let counters = self.sessions.as_mut().and_then(|sessions| sessions.transmit(&session, now));
        let reply = Reply {
            // The first reply has number 0.
            sequence: counters.map_or(sender_sequence, |counters| counters.transmitted.wrapping_sub(1)),
            timestamp: 0,
            error: ErrorEstimate::new(clock.is_synchronized, sender_error.format(), clock.error),
            ssid,
            received: sender_error.format().encode(arrival.received),
            sender_sequence,
            sender_timestamp,
            sender_error,
            sender_ttl: arrival.hop_limit.unwrap_or(UNKNOWN_TTL),
        };
        let start = replies.len();
        replies.resize(start + mode.base_length(), 0);
        reply.write(mode, &mut replies[start..]);
        if let Some(tlvs) = request.get(mode.base_length()..) {
            let at = replies.len();
            replies.extend_from_slice(tlvs);
            let numbers = [sender_sequence, reply.sequence].map(u32::to_be_bytes);
            tlv::reflect(&mut replies[at..], numbers[0], numbers[1], counters, self.key.as_ref());
        }
    }

    /// Writes T3, the time in nanoseconds since 1970, into a reply that is about to be sent, and signs it.
    pub fn transmit(&self, reply: &mut [u8], time: i64) {
        let mode = self.mode();
        let format = Request::read(reply, mode).error.format();
        packet::put_timestamp(reply, mode, format.encode(time));
        self.key.iter().for_each(|key| packet::sign(reply, key));
    }

    fn mode(&self) -> Mode {
        Mode::of(self.key.as_ref())
    }
}

/// Returns what identifies a session (RFC 8972, section 3).
fn session(ssid: u16, arrival: &Arrival) -> impl Hash + use<> {
    (ssid, arrival.source, arrival.local)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::stamp::time::TimestampFormat;

    const T2: i64 = 1_700_000_000_123_456_789;
    const T3: i64 = T2 + 5_000;

    fn key() -> Key {
        Key::new(b"secret").expect("a key")
    }

    fn arrival(port: u16) -> Arrival {
        Arrival { source: ([192, 0, 2, 1], port).into(), local: None, received: T2, hop_limit: Some(61) }
    }

    fn reflect_from(reflector: &mut Reflector, port: u16, request: &[u8], clock: ClockQuality) -> Vec<u8> {
        let (now, arrival) = (Instant::now(), arrival(port));
        // Behind something else.
        let mut replies = b"before".to_vec();
        reflector.note(request, &arrival, now);
        reflector.reflect(request, &arrival, clock, now, &mut replies);
        let mut reply = replies.split_off(6);
        reflector.transmit(&mut reply, T3);
        reply
    }

    fn reflect(reflector: &mut Reflector, request: &[u8]) -> Vec<u8> {
        reflect_from(reflector, 4000, request, ClockQuality::default())
    }

    fn open(stateless: bool) -> Reflector {
        Reflector::new(ReflectorOptions { key: None, stateless }, Instant::now())
    }

    fn request(sequence: u32, error: u16, ssid: u16, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let request = Request { sequence, timestamp: 77, error: ErrorEstimate(error), ssid };
        request.write(Mode::Open, &mut bytes);
        bytes
    }

    #[test]
    fn reply_repeats_the_request_and_adds_times_and_ttl() {
        let reply = reflect(&mut open(false), &request(9, 0x8123, 0x4567, 44));
        let ntp = TimestampFormat::Ntp;
        assert_eq!(
            Reply::read(&reply, Mode::Open),
            Some(Reply {
                sequence: 0,
                timestamp: ntp.encode(T3),
                error: ErrorEstimate::new(false, ntp, Duration::from_secs(16)),
                ssid: 0x4567,
                received: ntp.encode(T2),
                sender_sequence: 9,
                sender_timestamp: 77,
                sender_error: ErrorEstimate(0x8123),
                sender_ttl: 61,
            })
        );
        let mut unknown = Vec::new();
        let arrival = Arrival { hop_limit: None, ..arrival(1) };
        open(true).reflect(&[], &arrival, ClockQuality::default(), Instant::now(), &mut unknown);
        assert_eq!(unknown[40], 255);
    }

    #[test]
    fn reply_has_the_timestamp_format_of_the_request_and_the_quality_of_the_clock() {
        let clock = ClockQuality { is_synchronized: true, error: Duration::from_millis(1) };
        let reply = reflect_from(&mut open(false), 1, &request(0, 0x4001, 0, 44), clock);
        let reply = Reply::read(&reply, Mode::Open).expect("a reply");
        let ptp = TimestampFormat::Ptp;
        assert_eq!((reply.received, reply.timestamp), (ptp.encode(T2), ptp.encode(T3)));
        assert_eq!(reply.error, ErrorEstimate::new(true, ptp, Duration::from_millis(1)));
    }

    #[test]
    fn stateful_reflector_numbers_the_replies_of_each_session() {
        let mut reflector = open(false);
        let mut number = |port, sequence, ssid| {
            let reply = reflect_from(&mut reflector, port, &request(sequence, 0, ssid, 44), ClockQuality::default());
            Reply::read(&reply, Mode::Open).expect("a reply").sequence
        };
        assert_eq!(
            [number(1, 5, 1), number(1, 9, 1), number(1, 9, 2), number(2, 9, 1), number(1, 11, 1)],
            [0, 1, 0, 0, 2]
        );
    }

    #[test]
    fn stateless_reflector_copies_the_numbers() {
        let mut reflector = open(true);
        for sequence in [5, 9, 9, u32::MAX] {
            let reply = reflect(&mut reflector, &request(sequence, 0, 1, 44));
            assert_eq!(Reply::read(&reply, Mode::Open).expect("a reply").sequence, sequence);
        }
    }

    #[test]
    fn signed_reply_needs_a_signed_request() {
        let mut reflector = Reflector::new(ReflectorOptions { key: Some(key()), stateless: false }, Instant::now());
        let mut request = vec![0; 112];
        Request { sequence: 3, timestamp: 77, ..Request::default() }.write(Mode::Authenticated, &mut request);
        assert!(!reflector.is_authentic(&request) && !reflector.is_authentic(&[0; 44]));
        packet::sign(&mut request, &key());
        assert!(reflector.is_authentic(&request));
        let reply = reflect(&mut reflector, &request);
        assert!(packet::is_authentic(&reply, &key()));
        let read = Reply::read(&reply, Mode::Authenticated).expect("a reply");
        assert_eq!((read.sender_sequence, read.sender_timestamp), (3, 77));
        assert_eq!(read.timestamp, TimestampFormat::Ntp.encode(T3));
    }

    proptest! {
        #[test]
        fn any_request_gets_a_reply_of_its_size(bytes in vec(any::<u8>(), 0..300), signed: bool, stateless: bool) {
            let options = ReflectorOptions { key: signed.then(key), stateless };
            let mut reflector = Reflector::new(options, Instant::now());
            let _ = (reflector.is_authentic(&bytes), reflector.may_be_reply(&bytes));
            let reply = reflect(&mut reflector, &bytes);
            prop_assert_eq!(reply.len(), bytes.len().max(reflector.mode().base_length()));
            prop_assert_eq!(reply.len(), reflector.reply_length(bytes.len()));
            let (sent, read) = (Request::read(&bytes, reflector.mode()), Reply::read(&reply, reflector.mode()));
            let read = read.expect("a reply");
            let copied = (read.sender_sequence, read.sender_timestamp, read.sender_error, read.ssid);
            prop_assert_eq!(copied, (sent.sequence, sent.timestamp, sent.error, sent.ssid));
        }
    }
}
