//! In which direction packets were lost. Pure.
//!
//! A stateful reflector numbers its replies. So a number that is missing is a reply that was lost, and a packet without
//! an answer for which no number is missing did not reach the reflector.
//!
//! ```text
//! sent        16   17   18   19   20   21   22   23
//! reflected    0         1    2    3    4                lost up: 17
//! answered     0              2    3                     lost down: number 1
//!                                       └───────────     direction unknown: 21, 22, 23
//! ```
//!
//! Behind the highest number that came back, a packet may have been lost in either direction. That includes packets
//! which were sent earlier, but could have reached the reflector later, as slow as the slowest of the latest that are
//! known.

use std::collections::VecDeque;

/// How many numbers behind the highest one are distinguished, a power of two.
const WINDOW: u64 = 1 << 18;

/// Of how many answers the slowest packet is sought, at least; at most, of twice as many.
const LATEST: u64 = 1_000;

/// How many packets are remembered.
const MOST_REMEMBERED: usize = 1 << 18;

/// Whether a reflector numbers its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReflectorKind {
    /// It numbers its replies.
    Stateful,
    /// It repeats the sender's numbers.
    Stateless,
}

/// How many packets were lost in which direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossesByDirection {
    /// On the way to the reflector.
    pub up: u64,
    /// On the way back.
    pub down: u64,
    /// On either.
    pub unknown: u64,
}

/// Finds out in which direction the packets of one session were lost.
///
/// The session may have begun before, or count from 1: what the first answer's number exceeds the packets sent by is
/// not counted. A number that occurs again in the answer to another packet shows that the reflector has started over,
/// as do all numbers from there on.
#[derive(Clone, Debug)]
pub struct Losses {
    /// The packets from `first` on.
    packets: VecDeque<Packet>,
    first: u64,
    /// Packets whose direction is unknown, and that are not remembered any more.
    forgotten: u64,
    /// Packets that were sent before the reflector started over, and replies that were missing then.
    missing_before: u64,
    numbers: Option<Numbers>,
    /// The longest time from a packet's departure to its arrival, by clocks that may differ: of the latest answers
    /// since their number was a multiple of [`LATEST`], and of as many before. A longer one, long ago, says nothing
    /// about the end of a run.
    slowest: [i64; 2],
    /// When the packet arrived whose reply has the highest number.
    latest: i64,
    answers: u64,
    is_stateful: bool,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    sent: i64,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    InFlight,
    Lost,
    /// There was an answer, or a report that it did not reach the reflector.
    Known,
}

/// The numbers of the replies that came.
#[derive(Clone, Debug)]
struct Numbers {
    /// The one that counting begins with.
    base: u64,
    highest: u64,
    /// How many different ones came.
    received: u64,
    /// A bit for each of the latest, by number modulo [`WINDOW`].
    seen: Vec<u64>,
}

impl Losses {
    /// Creates the record of a session without packets.
    pub fn new() -> Self {
        Self {
            packets: VecDeque::new(),
            first: 0,
            forgotten: 0,
            missing_before: 0,
            numbers: None,
            slowest: [i64::MIN; 2],
            latest: i64::MIN,
            answers: 0,
            is_stateful: false,
        }
    }

    /// Records that the next packet was sent, by the sender's clock.
    pub fn sent(&mut self, sent: i64) {
        if self.packets.len() >= MOST_REMEMBERED
            && let Some(oldest) = self.packets.pop_front()
        {
            self.first += 1;
            self.forgotten += u64::from(oldest.end == End::Lost && oldest.sent >= self.settled());
        }
        self.packets.push_back(Packet { sent, end: End::InFlight });
    }

    /// Records that a packet had no answer in time, by its index from 0. An answer that came late counts nevertheless.
    pub fn lost(&mut self, packet: u64) {
        if self.index(packet).is_some_and(|index| self.packets[index].end == End::InFlight) {
            self.end(packet, End::Lost);
        }
    }

    /// Records that a packet was reported not to reach the reflector.
    pub fn refused(&mut self, packet: u64) {
        self.end(packet, End::Known);
    }

    /// Records an answer to a packet, the first one or a duplicate. `own` is the number of the packet, `number` that of
    /// the reply, and `arrived` when the packet arrived at the reflector, by its clock.
    pub fn answered(&mut self, packet: u64, is_first: bool, own: u32, number: u32, arrived: i64) {
        self.answers += 1;
        self.is_stateful |= own != number;
        let sent = self.first + self.packets.len() as u64;
        if let Some(index) = self.index(packet) {
            if self.answers.is_multiple_of(LATEST) {
                self.slowest = [i64::MIN, self.slowest[0]];
            }
            self.slowest[0] = self.slowest[0].max(arrived.saturating_sub(self.packets[index].sent));
        }
        self.end(packet, End::Known);
        let number = self.numbers.as_ref().map_or(number.into(), |numbers| numbers.extend(number));
        let numbers = self.numbers.get_or_insert_with(|| Numbers::new(number, sent));
        // An implausible number was altered on the way.
        if number.saturating_sub(numbers.base) >= 2 * sent + 16 {
            return;
        }
        let before = numbers.highest;
        if !numbers.insert(number) && is_first {
            // Not the number of a duplicate: the reflector has started over.
            self.missing_before += numbers.missing();
            let mut restarted = Numbers::new(number, 0);
            restarted.insert(number);
            self.numbers = Some(restarted);
        } else if numbers.highest == before && numbers.received > 1 {
            return;
        }
        self.latest = arrived;
        self.forgotten = 0;
    }

    /// Returns a time before which packets were sent that have reached the reflector before the one with the highest
    /// number, if ever.
    fn settled(&self) -> i64 {
        self.latest.saturating_sub(self.slowest[0].max(self.slowest[1]))
    }

    /// Returns what kind of reflector answers; `None` before the first answer.
    pub fn reflector(&self) -> Option<ReflectorKind> {
        let kind = if self.is_stateful { ReflectorKind::Stateful } else { ReflectorKind::Stateless };
        (self.answers > 0).then_some(kind)
    }

    /// Divides the packets that are `lost` in all by direction.
    pub fn by_direction(&self, lost: u64) -> LossesByDirection {
        let Some(numbers) = self.numbers.as_ref().filter(|_| self.is_stateful) else {
            return LossesByDirection { unknown: lost, ..LossesByDirection::default() };
        };
        let down = lost.min(self.missing_before + numbers.missing());
        let settled = self.settled();
        // Packets are in the order in which they were sent.
        let open = self.packets.iter().rev().take_while(|packet| packet.sent >= settled);
        let open = open.filter(|packet| packet.end == End::Lost).count();
        let unknown = (lost - down).min(self.forgotten + open as u64);
        LossesByDirection { up: lost - down - unknown, down, unknown }
    }

    fn end(&mut self, packet: u64, end: End) {
        if let Some(index) = self.index(packet) {
            self.packets[index].end = end;
        }
    }

    fn index(&self, packet: u64) -> Option<usize> {
        usize::try_from(packet.checked_sub(self.first)?).ok().filter(|index| *index < self.packets.len())
    }
}

impl Numbers {
    /// Begins with the first number that came, when that many packets were sent.
    fn new(number: u64, sent: u64) -> Self {
        // A session that began with the first packet has fewer numbers than packets.
        let base = if sent == 0 { number } else { (number + 1).saturating_sub(sent) };
        Self { base, highest: number, received: 0, seen: vec![0; (WINDOW / 64) as usize] }
    }

    /// Returns the number that the reflector's 32 bits stand for: the nearest one to the highest.
    fn extend(&self, number: u32) -> u64 {
        let ahead = number.wrapping_sub(self.highest as u32) as i32;
        self.highest.saturating_add_signed(ahead.into())
    }

    /// Records a number; returns whether it is new, as far as that is known.
    fn insert(&mut self, number: u64) -> bool {
        if number > self.highest {
            // Each bit stands for another number now.
            for skipped in (self.highest + 1..=number).rev().take(WINDOW as usize) {
                self.clear(skipped);
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW {
            return true;
        }
        let (word, bit) = Self::place(number);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        self.received += u64::from(is_new);
        self.base = self.base.min(number);
        is_new
    }

    /// Returns how many numbers did not come.
    fn missing(&self) -> u64 {
        (self.highest + 1 - self.base).saturating_sub(self.received)
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }

    fn place(number: u64) -> (usize, u64) {
        ((number % WINDOW / 64) as usize, 1 << (number % 64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The sender's first number.
    const FIRST: u32 = 16;

    fn losses(up: u64, down: u64, unknown: u64) -> LossesByDirection {
        LossesByDirection { up, down, unknown }
    }

    /// Sends packets a millisecond apart; each takes as long as its answer. Those without a number are lost.
    fn session(numbers: &[Option<u32>]) -> Losses {
        let mut record = Losses::new();
        (0..).zip(numbers).for_each(|(packet, _)| record.sent(packet * 1_000_000));
        for (packet, number) in (0..).zip(numbers) {
            match number {
                Some(number) => {
                    record.answered(packet, true, FIRST + packet as u32, *number, packet as i64 * 1_000_000 + 500);
                }
                None => record.lost(packet),
            }
        }
        record
    }

    fn by_direction(numbers: &[Option<u32>]) -> (Option<ReflectorKind>, LossesByDirection) {
        let record = session(numbers);
        let lost = numbers.iter().filter(|number| number.is_none()).count();
        (record.reflector(), record.by_direction(lost as u64))
    }

    #[test]
    fn missing_numbers_are_lost_down_and_others_up() {
        // The picture above.
        let numbers = [Some(0), None, None, Some(2), Some(3), None, None, None];
        assert_eq!(by_direction(&numbers), (Some(ReflectorKind::Stateful), losses(1, 1, 3)));
        assert_eq!(by_direction(&[None, None]), (None, losses(0, 0, 2)));
        assert_eq!(by_direction(&[None, Some(0)]), (Some(ReflectorKind::Stateful), losses(1, 0, 0)));
        assert_eq!(by_direction(&[None, Some(1)]), (Some(ReflectorKind::Stateful), losses(0, 1, 0)));
    }

    #[test]
    fn stateless_reflector_copies_what_was_skipped() {
        let numbers = [Some(16), None, Some(18), None];
        assert_eq!(by_direction(&numbers), (Some(ReflectorKind::Stateless), losses(0, 0, 2)));
    }

    #[test]
    fn session_may_have_begun_before() {
        assert_eq!(
            by_direction(&[Some(500), None, Some(501), Some(503)]).1,
            losses(0, 1, 0),
            "as one down, one up or both"
        );
        let mut record = Losses::new();
        record.sent(0);
        record.answered(0, true, FIRST, 500, 1);
        (1..5).for_each(|packet| record.sent(packet));
        record.lost(1);
        record.lost(2);
        record.answered(3, true, FIRST + 3, 502, 4);
        record.answered(4, true, FIRST + 4, 503, 5);
        assert_eq!(record.by_direction(2), losses(1, 1, 0));
    }

    #[test]
    fn reflector_may_start_over() {
        let numbers = [Some(0), None, Some(2), Some(3), Some(0), None, Some(1), None, Some(3)];
        assert_eq!(by_direction(&numbers).1, losses(1, 2, 0));
    }

    #[test]
    fn numbers_continue_when_32_bits_repeat() {
        let mut record = Losses::new();
        record.sent(0);
        record.answered(0, true, FIRST, u32::MAX - 1, 1);
        (1..6).for_each(|packet| record.sent(packet));
        // u32::MAX is lost.
        (1..5).for_each(|packet| record.answered(u64::from(packet) + 1, true, FIRST + packet + 1, packet - 1, 9));
        record.lost(1);
        assert_eq!(record.by_direction(1), losses(0, 1, 0));
    }

    #[test]
    fn altered_number_is_ignored() {
        let numbers = [Some(0), None, Some(1_000_000), Some(2)];
        assert_eq!(by_direction(&numbers).1, losses(0, 1, 0), "its own reply counts as missing");
    }

    #[test]
    fn packet_that_was_slow_long_ago_does_not_matter() {
        let unknown = |answers: u32| {
            let mut record = Losses::new();
            for packet in 0..answers {
                record.sent(packet.into());
                let delay = if packet == 0 { 500 } else { 3 };
                record.answered(packet.into(), true, FIRST + packet, packet, i64::from(packet) + delay);
            }
            // Lost up, each before a packet with an answer.
            (0..10).for_each(|lost| {
                let packet = answers + 2 * lost;
                (0..2).for_each(|packet| record.sent((answers + 2 * lost + packet).into()));
                record.lost(packet.into());
                let (packet, number) = (packet + 1, answers + lost);
                record.answered(packet.into(), true, FIRST + packet, number, i64::from(packet) + 3);
            });
            record.by_direction(10).unknown
        };
        assert_eq!([unknown(500), unknown(2_500)], [10, 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut record = Losses::new();
        record.sent(0);
        record.answered(0, true, FIRST, 0, 1);
        for packet in 1..3 * MOST_REMEMBERED as u64 {
            record.sent(packet as i64 * 1_000);
            record.lost(packet);
        }
        assert!(record.packets.len() <= MOST_REMEMBERED);
        let lost = 3 * MOST_REMEMBERED as u64 - 1;
        assert_eq!(record.by_direction(lost), losses(0, 0, lost));
        record.sent(i64::MAX / 2);
        record.answered(lost + 1, true, FIRST, 3, i64::MAX / 2 + 1);
        assert_eq!(record.by_direction(lost), losses(lost - 2, 2, 0));
    }

    /// What happens to one packet: its delays in milliseconds, and whether it is lost up or down.
    type Fate = (i64, i64, bool, bool);

    proptest! {
        #[test]
        fn directions_are_exact_but_for_the_unknown_whatever_the_reordering(
            fates in vec((0..40_i64, 0..40_i64, prop::bool::weighted(0.2), prop::bool::weighted(0.2)), 1..300),
            offset in -1_000_000_i64..1_000_000,
        ) {
            let mut record = Losses::new();
            let sent = |packet: usize| packet as i64 * 5;
            // In the order of arrival at the reflector, and of the answers.
            let mut arrivals: Vec<(i64, usize, &Fate)> = fates.iter().enumerate().filter(|(_, fate)| !fate.2)
                .map(|(packet, fate)| (sent(packet) + fate.0, packet, fate)).collect();
            arrivals.sort_by_key(|(at, packet, _)| (*at, *packet));
            let mut answers: Vec<_> = (0..).zip(&arrivals).filter(|(_, (.., fate))| !fate.3)
                .map(|(number, (at, packet, fate))| (at + fate.1, *packet, number, *at)).collect();
            answers.sort_by_key(|(at, packet, ..)| (*at, *packet));
            let mut next = 0;
            for (at, packet, number, arrived) in &answers {
                while next < fates.len() && sent(next) <= *at {
                    record.sent(sent(next));
                    next += 1;
                }
                record.answered(*packet as u64, true, FIRST + *packet as u32, *number, arrived + offset);
            }
            (next..fates.len()).for_each(|packet| record.sent(sent(packet)));
            let answered: Vec<_> = answers.iter().map(|(_, packet, ..)| *packet).collect();
            (0..fates.len()).filter(|packet| !answered.contains(packet)).for_each(|packet| record.lost(packet as u64));

            let up = (fates.len() - arrivals.len()) as u64;
            let down = (arrivals.len() - answers.len()) as u64;
            let found = record.by_direction(up + down);
            prop_assert_eq!(found.up + found.down + found.unknown, up + down);
            if record.reflector() == Some(ReflectorKind::Stateful) {
                // A packet that was slower than all with an answer may be taken for one that was lost up.
                let slowest = arrivals.iter().filter(|(_, packet, _)| answered.contains(packet)).map(|(.., fate)| fate.0).max();
                let is_slower = |fate: &Fate| Some(fate.0) > slowest;
                let slower = arrivals.iter().filter(|(_, packet, fate)| is_slower(fate) && !answered.contains(packet)).count();
                prop_assert!(found.down <= down && down <= found.down + found.unknown + slower as u64, "{found:?} {up} {down}");
                prop_assert!(up <= found.up + found.unknown && found.up <= up + slower as u64, "{found:?} {up} {down}");
            }
        }

        #[test]
        fn duplicates_shift_the_directions_by_their_number_at_most(
            copies in vec((prop::sample::select(vec![0_usize, 1, 1, 1, 2]), vec(0..3_usize, 2)), 1..200),
        ) {
            let mut record = Losses::new();
            let (mut number, mut lost_up, mut lost_down, mut duplicated) = (0, 0, 0, 0);
            for (packet, (arrive, answers)) in (0..).zip(&copies) {
                record.sent(packet as i64);
                lost_up += u64::from(*arrive == 0);
                duplicated += arrive.saturating_sub(1);
                let mut is_first = true;
                for answers in answers.iter().take(*arrive) {
                    lost_down += u64::from(*answers == 0);
                    duplicated += answers.saturating_sub(1);
                    for _ in 0..*answers {
                        record.answered(packet, is_first, FIRST + packet as u32, number, packet as i64);
                        is_first = false;
                    }
                    number += 1;
                }
                if is_first {
                    record.lost(packet);
                }
            }
            let lost = record.packets.iter().filter(|packet| packet.end == End::Lost).count() as u64;
            let found = record.by_direction(lost);
            prop_assert_eq!(found.up + found.down + found.unknown, lost);
            if record.reflector() == Some(ReflectorKind::Stateful) {
                let duplicated = duplicated as u64;
                prop_assert!(found.up <= lost_up + duplicated && lost_up <= found.up + found.unknown + duplicated);
                prop_assert!(found.down <= lost_down + duplicated && lost_down <= found.down + found.unknown + duplicated);
            }
        }

        #[test]
        fn no_numbers_make_it_panic(answers in vec((0..20_u64, any::<bool>(), any::<u32>(), any::<i64>()), 0..60)) {
            let mut record = Losses::new();
            for (packet, is_first, number, at) in answers {
                record.sent(at);
                record.answered(packet, is_first, number, number, at);
                record.answered(packet, is_first, 7, number, at);
                let _ = record.by_direction(packet);
            }
        }
    }
}
