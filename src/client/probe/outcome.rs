//! How probes end, and how many ended in which way. Pure.

use serde::Serialize;

/// How a probe ended. Each ends in exactly one way, which its first answer decides if there is one.
///
/// A probe is lost at its timeout; a first answer after that still changes the outcome to late, truncated or altered.
/// Nothing changes a refusal: an answer that comes in spite of it is a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer came within the timeout, and holds the intact probe if it repeats it.
    Answered,
    /// Such an answer came after the timeout.
    Late,
    /// No answer came within the timeout, nor later.
    Lost,
    /// An ICMP error or a failed send reported that the probe will not be delivered.
    Refused,
    /// The answer repeats the probe without its end.
    Truncated,
    /// The answer repeats the probe with changed bytes.
    Altered,
}

/// How many probes ended in which way.
///
/// `sent` = `answered` + `late` + `lost` + `refused` + `truncated` + `altered` + those in flight. A report leaves the
/// latter out of `sent` and shows them apart; it has some only if it was asked for during the run, or the end was
/// forced. `duplicate`, `reordered` and `unmatched` count answers and are not part of the sum. The proptests of
/// [`Tracker`](super::tracker::Tracker) defend this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutcomeCounts {
    /// Probes sent.
    pub sent: u64,
    /// Probes that ended as [`Outcome::Answered`].
    pub answered: u64,
    /// Probes that ended as [`Outcome::Late`].
    pub late: u64,
    /// Probes that ended as [`Outcome::Lost`].
    pub lost: u64,
    /// Probes that ended as [`Outcome::Refused`].
    pub refused: u64,
    /// Probes that ended as [`Outcome::Truncated`].
    pub truncated: u64,
    /// Probes that ended as [`Outcome::Altered`].
    pub altered: u64,
    /// Answers to probes that had ended before.
    pub duplicate: u64,
    /// First answers that came after an answer to a later probe of the same flow.
    pub reordered: u64,
    /// Answers that belong to no probe.
    pub unmatched: u64,
}

impl OutcomeCounts {
    /// Returns how many probes got no answer within the timeout: those that were late, lost or refused.
    pub fn without_timely_answer(&self) -> u64 {
        self.late + self.lost + self.refused
    }

    /// Returns how many probes have ended.
    pub fn ended(&self) -> u64 {
        self.without_timely_answer() + self.answered + self.truncated + self.altered
    }

    /// Returns the percentage of late, lost and refused probes among those that have ended: 0 to 100, and 0 when none
    /// has.
    pub fn loss_percent(&self) -> f64 {
        match self.ended() {
            0 => 0.0,
            ended => 100.0 * self.without_timely_answer() as f64 / ended as f64,
        }
    }

    /// Adds the counts of other probes.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in [
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.late, other.late),
            (&mut self.lost, other.lost),
            (&mut self.refused, other.refused),
            (&mut self.truncated, other.truncated),
            (&mut self.altered, other.altered),
            (&mut self.duplicate, other.duplicate),
            (&mut self.reordered, other.reordered),
            (&mut self.unmatched, other.unmatched),
        ] {
            *sum += count;
        }
    }

    /// Returns the number of probes that ended in this way.
    pub(super) fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Answered => &mut self.answered,
            Outcome::Late => &mut self.late,
            Outcome::Lost => &mut self.lost,
            Outcome::Refused => &mut self.refused,
            Outcome::Truncated => &mut self.truncated,
            Outcome::Altered => &mut self.altered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_of_probes_that_have_ended_and_includes_late_ones() {
        let percent = |counts: OutcomeCounts| counts.loss_percent();
        assert_eq!(percent(OutcomeCounts { sent: 3, ..Default::default() }), 0.0);
        assert_eq!(percent(OutcomeCounts { sent: 9, lost: 1, late: 1, refused: 1, ..Default::default() }), 100.0);
        assert_eq!(percent(OutcomeCounts { sent: 3, answered: 3, duplicate: 9, ..Default::default() }), 0.0);
        assert_eq!(
            percent(OutcomeCounts { sent: 4, answered: 1, altered: 1, truncated: 1, late: 1, ..Default::default() }),
            25.0
        );
    }
}
