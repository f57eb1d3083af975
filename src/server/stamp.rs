//! The service `stamp`: a Session-Reflector, and what the socket knows about the datagrams that it reflects.
//!
//! Unlike a template's, its replies depend on when a request arrived and with which hop limit, on earlier requests, and
//! on the time. So they are built in a buffer of their own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::guard::{Guard, Refusal};
use crate::net::{self, Datagram, Outgoing, Socket, WallClock};
use crate::stamp::ReflectorOptions;
use crate::stamp::reflector::{Arrival, ClockQuality, Reflector};

/// How often the quality of the system's clock is looked up.
const QUALITY_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the replies of one endpoint, one turn at a time.
#[derive(Debug)]
pub struct StampService {
    reflector: Reflector,
    quality: ClockQuality,
    /// When the quality is looked up again.
    quality_until: Instant,
    clock: WallClock,
    /// The replies of this turn, one after the other.
    bytes: Vec<u8>,
    /// The flow of each reply, and where it ends.
    replies: Vec<(SocketAddr, Option<SocketAddr>, usize)>,
}

impl StampService {
    /// Creates the service of one endpoint.
    pub fn new(options: ReflectorOptions, start: Instant) -> Self {
        Self {
            reflector: Reflector::new(options, start),
            quality: ClockQuality::default(),
            quality_until: start,
            clock: WallClock::read(),
            bytes: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Makes a socket learn what replies depend on, as far as it can: when requests arrive, and with which hop limit.
    pub fn prepare(socket: &mut Socket) {
        socket.enable_timestamps();
        socket.enable_hop_limits();
    }

    /// Begins a turn, after its receive.
    pub fn begin(&mut self, now: Instant) {
        self.bytes.clear();
        self.replies.clear();
        self.clock = WallClock::read();
        if self.quality_until <= now {
            self.quality_until = now + QUALITY_INTERVAL;
            self.quality = net::clock_error().into();
        }
    }

    /// Makes the reply to a datagram, which is refused unless it is authentic and the guard allows it.
    ///
    /// # Errors
    ///
    /// The reason for not replying.
    pub fn reflect(&mut self, datagram: &Datagram<'_>, guard: &Guard, now: Instant) -> Result<(), Refusal> {
        let &Datagram { source, local, arrival, hop_limit, payload, .. } = datagram;
        if !self.reflector.is_authentic(payload) {
            return Err(Refusal::Hmac);
        }
        let received = self.clock.at(arrival.unwrap_or(self.clock.instant()));
        let arrival = Arrival { source, local, received, hop_limit };
        self.reflector.note(payload, &arrival, now);
        let may_be_reply = self.reflector.may_be_reply(payload);
        guard.check_reflection(datagram, self.reflector.reply_length(payload.len()), may_be_reply, now)?;
        self.reflector.reflect(payload, &arrival, self.quality, now, &mut self.bytes);
        self.replies.push((source, local, self.bytes.len()));
        Ok(())
    }

    /// Completes the replies with the time at which they leave, and returns them in order.
    pub fn transmit(&mut self) -> impl Iterator<Item = Outgoing<'_>> {
        let mut start = 0;
        for (.., end) in &self.replies {
            self.reflector.transmit(&mut self.bytes[start..*end], WallClock::read().now());
            start = *end;
        }
        let mut rest = &self.bytes[..];
        let mut start = 0;
        self.replies.iter().map(move |&(to, from, end)| {
            let (reply, behind) = rest.split_at(end - start);
            (rest, start) = (behind, end);
            // The second part is what the reply queue keeps; the template of this service adds nothing to it.
            Outgoing::new(to, from, [b"", reply, b""])
        })
    }
}
