//! Timestamps and error estimates as they stand in a packet. Pure.
//!
//! A time outside a packet is the number of nanoseconds since 1970, in UTC. A timestamp has 64 bits, the upper half of
//! which is seconds modulo 2^32, so it stands for the time nearest to another one that is known.

use std::time::Duration;

/// From 1900, where NTP begins to count, to 1970, in seconds.
const NTP_EPOCH: u64 = 2_208_988_800;

const NANOS: i64 = 1_000_000_000;

/// How a timestamp expresses a time (RFC 8186).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampFormat {
    /// Seconds since 1900, and a binary fraction (RFC 5905).
    #[default]
    Ntp,
    /// Seconds since 1970, and nanoseconds: a truncated IEEE 1588 timestamp.
    Ptp,
}

impl TimestampFormat {
    /// Returns the timestamp of a time, in nanoseconds since 1970.
    pub fn encode(self, time: i64) -> u64 {
        let (seconds, nanos) = (time.div_euclid(NANOS) as u64, time.rem_euclid(NANOS) as u64);
        match self {
            // 10^9 × 2^32 fits.
            Self::Ntp => (seconds.wrapping_add(NTP_EPOCH) << 32) | ((nanos << 32) / NANOS as u64),
            Self::Ptp => (seconds << 32) | nanos,
        }
    }

    /// Returns the time of a timestamp, the one that is nearest to `near`.
    pub fn decode(self, timestamp: u64, near: i64) -> i64 {
        let (seconds, fraction) = ((timestamp >> 32) as u32, timestamp & 0xffff_ffff);
        let (seconds, nanos) = match self {
            // Rounded, which restores every nanosecond that was encoded.
            Self::Ntp => (seconds.wrapping_sub(NTP_EPOCH as u32), (fraction * NANOS as u64 + (1 << 31)) >> 32),
            Self::Ptp => (seconds, fraction),
        };
        let near = near.div_euclid(NANOS);
        let difference = seconds.wrapping_sub(near as u32) as i32;
        (near.saturating_add(difference.into())).saturating_mul(NANOS).saturating_add(nanos as i64)
    }
}

/// The quality of a sender's or a reflector's timestamps (RFC 4656, section 4.1.2; RFC 8186).
///
/// ```text
/// │ S │ Z │ scale 6 │ multiplier 8 │    error in seconds: multiplier × 2^(scale - 32)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

impl ErrorEstimate {
    const SYNCHRONIZED: u16 = 1 << 15;
    const PTP: u16 = 1 << 14;

    /// Creates an estimate. The error is rounded up to what can be expressed, and never zero, which would declare the
    /// packet corrupt.
    pub fn new(is_synchronized: bool, format: TimestampFormat, error: Duration) -> Self {
        // In units of 2^-32 seconds, rounded up: less than 2^96.
        let units = (error.as_nanos() << 32).div_ceil(NANOS as u128).max(1);
        let scale = (0..63).find(|scale| units.div_ceil(1 << scale) <= 0xff).unwrap_or(63);
        let multiplier = units.div_ceil(1 << scale).min(0xff) as u16;
        let synchronized = if is_synchronized { Self::SYNCHRONIZED } else { 0 };
        let ptp = if format == TimestampFormat::Ptp { Self::PTP } else { 0 };
        Self(synchronized | ptp | ((scale as u16) << 8) | multiplier)
    }

    /// Returns whether the clock is synchronized to UTC by an external source.
    pub fn is_synchronized(self) -> bool {
        self.0 & Self::SYNCHRONIZED != 0
    }

    /// Returns the format of the timestamps.
    pub fn format(self) -> TimestampFormat {
        if self.0 & Self::PTP == 0 { TimestampFormat::Ntp } else { TimestampFormat::Ptp }
    }

    /// Returns the error in seconds.
    pub fn seconds(self) -> f64 {
        let (scale, multiplier) = (i32::from(self.0 >> 8 & 0x3f), f64::from(self.0 & 0xff));
        multiplier * 2_f64.powi(scale - 32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_timestamps() {
        // 2036-02-07 06:28:16 is the beginning of the second era of NTP.
        let second_era = 2_085_978_496 * NANOS;
        assert_eq!(TimestampFormat::Ntp.encode(0), 0x83aa_7e80_0000_0000);
        assert_eq!(TimestampFormat::Ntp.encode(NANOS / 2), 0x83aa_7e80_8000_0000);
        assert_eq!(TimestampFormat::Ntp.encode(second_era), 0);
        assert_eq!(TimestampFormat::Ntp.decode(0, second_era - NANOS), second_era);
        assert_eq!(TimestampFormat::Ptp.encode(3 * NANOS + 7), (3 << 32) | 7);
    }

    #[test]
    fn known_error_estimates() {
        let estimate = |error| ErrorEstimate::new(false, TimestampFormat::Ntp, error);
        assert_eq!(estimate(Duration::ZERO), ErrorEstimate(0x0001));
        // 2^-8 s is 1 × 2^24 units; as 128 × 2^17 it needs the least scale.
        assert_eq!(estimate(Duration::from_nanos(3_906_250)), ErrorEstimate(0x1180));
        assert_eq!(estimate(Duration::from_secs(16)), ErrorEstimate(0x1d80));
        assert_eq!(estimate(Duration::from_secs(16)).seconds(), 16.0);
        assert_eq!(ErrorEstimate::new(true, TimestampFormat::Ptp, Duration::ZERO), ErrorEstimate(0xc001));
    }

    proptest! {
        #[test]
        fn time_survives_either_format(
            time in -3_000_000_000 * NANOS..4_000_000_000 * NANOS, off in -2_000_000_000 * NANOS..2_000_000_000 * NANOS
        ) {
            for format in [TimestampFormat::Ntp, TimestampFormat::Ptp] {
                prop_assert_eq!(format.decode(format.encode(time), time + off), time);
            }
        }

        #[test]
        fn no_timestamp_makes_decode_panic(timestamp: u64, near: i64) {
            let _ = (TimestampFormat::Ntp.decode(timestamp, near), TimestampFormat::Ptp.decode(timestamp, near));
        }

        #[test]
        fn error_is_rounded_up_and_by_less_than_a_hundredth(error in 0..u64::MAX / 4, synchronized: bool) {
            let error = Duration::from_nanos(error);
            let estimate = ErrorEstimate::new(synchronized, TimestampFormat::Ptp, error);
            prop_assert_eq!((estimate.is_synchronized(), estimate.format()), (synchronized, TimestampFormat::Ptp));
            prop_assert_ne!(estimate.0 & 0xff, 0);
            // A unit of 2^-32 seconds is the least that can be expressed.
            let (exact, unit) = (error.as_secs_f64(), 2_f64.powi(-32));
            prop_assert!(estimate.seconds() >= exact * (1.0 - 1e-9), "{} {exact}", estimate.seconds());
            prop_assert!(estimate.seconds() <= exact * 1.01 + unit, "{} {exact}", estimate.seconds());
        }
    }
}
