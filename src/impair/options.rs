//! What a link does to datagrams, and how it is written: probabilities, durations, rates, the models of loss.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use crate::parse_error::ParseError;

/// What a link does to the datagrams that pass through it. The default does nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairments {
    /// Added to every datagram.
    pub delay: Duration,
    /// How much the delay varies; what it measures depends on the distribution.
    pub jitter: Duration,
    /// How the jitter is distributed.
    pub distribution: Distribution,
    /// Which datagrams are lost.
    pub loss: Loss,
    /// How many datagrams get a second copy.
    pub duplicate: Probability,
    /// How many datagrams are not delayed, and overtake those that are.
    pub reorder: Probability,
    /// How many datagrams have one bit flipped.
    pub corrupt: Probability,
    /// How many datagrams are cut to a random length.
    pub truncate: Probability,
    /// How fast the link transmits; `None`: in no time.
    pub rate: Option<BitRate>,
    /// When everything is lost.
    pub blackout: Option<Blackout>,
    /// How many datagrams may wait at the same time. Default: 1,000.
    pub limit: usize,
}

impl Default for Impairments {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            distribution: Distribution::default(),
            loss: Loss::default(),
            duplicate: Probability::NEVER,
            reorder: Probability::NEVER,
            corrupt: Probability::NEVER,
            truncate: Probability::NEVER,
            rate: None,
            blackout: None,
            limit: 1_000,
        }
    }
}

impl Impairments {
    /// Returns whether every datagram passes unchanged and at once.
    pub fn is_none(&self) -> bool {
        let Self { distribution, limit, .. } = *self;
        *self == Self { distribution, limit, ..Self::default() }
    }

    /// Checks that the impairments work together.
    ///
    /// # Errors
    ///
    /// Returns an error if datagrams are to overtake others, and none is delayed.
    pub fn check(&self) -> Result<(), ParseError> {
        if self.reorder > Probability::NEVER && self.delay.is_zero() {
            return Err(ParseError::new(
                "reordering needs a delay: a datagram that leaves at once overtakes those that are delayed".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Lists the impairments, as in `delay 40ms ± 10ms (normal), loss 2%`.
impl Display for Impairments {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { delay, jitter, distribution, loss, rate, blackout, limit, .. } = self;
        let mut list = Vec::new();
        match (delay.is_zero(), jitter.is_zero()) {
            (true, true) => {}
            (false, true) => list.push(format!("delay {delay:?}")),
            (true, false) => list.push(format!("jitter {jitter:?} ({distribution})")),
            (false, false) => list.push(format!("delay {delay:?} ± {jitter:?} ({distribution})")),
        }
        if *loss != Loss::default() {
            list.push(format!("loss {loss}"));
        }
        for (name, probability) in [
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
            ("truncate", self.truncate),
        ] {
            if probability > Probability::NEVER {
                list.push(format!("{name} {probability}"));
            }
        }
        list.extend(rate.map(|rate| format!("rate {rate}")));
        list.extend(blackout.map(|Blackout { every, lasts }| format!("blackout every {every:?} for {lasts:?}")));
        if list.is_empty() {
            return f.write_str("nothing");
        }
        if *limit != Self::default().limit {
            list.push(format!("limit {limit}"));
        }
        f.write_str(&list.join(", "))
    }
}

/// A probability from 0 to 1. Written in per cent: `2%` or `0.5`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Probability(f64);

impl Probability {
    /// 0.
    pub const NEVER: Self = Self(0.0);
    /// 1.
    pub const ALWAYS: Self = Self(1.0);

    /// Returns the probability as a number from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Probability {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let percent = decimal(text.strip_suffix('%').unwrap_or(text)).filter(|percent| *percent <= 100.0);
        let percent = percent.ok_or_else(|| error(text, "a percentage: write 0% to 100%, such as 2% or 0.5%"))?;
        Ok(Self(percent / 100.0))
    }
}

impl Display for Probability {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // As it was written: 0.07 × 100 is not 7.
        write!(f, "{}%", (self.0 * 1e11).round() / 1e9)
    }
}

/// How the jitter is distributed around the delay. No delay is negative: where it would be, it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// All deviations up to the jitter are equally likely.
    Uniform,
    /// The jitter is the standard deviation.
    #[default]
    Normal,
    /// A long tail: the jitter is the scale of netem's Pareto table. Deviations are -2/3 to 4 times the jitter, with a
    /// mean of -0.03, a median of -0.32 and a standard deviation of 0.82 times the jitter.
    Pareto,
}

impl Distribution {
    const NAMES: [(&str, Self); 3] = [("uniform", Self::Uniform), ("normal", Self::Normal), ("pareto", Self::Pareto)];
}

impl FromStr for Distribution {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, distribution)| *distribution)
            .ok_or_else(|| error(text, "a distribution: write uniform, normal or pareto"))
    }
}

impl Display for Distribution {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Self::NAMES.iter().filter(|(_, distribution)| distribution == self).try_for_each(|(name, _)| f.write_str(name))
    }
}

/// Which datagrams are lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each with the same probability.
    Independent(Probability),
    /// In bursts.
    Bursts(GilbertElliott),
}

impl Default for Loss {
    fn default() -> Self {
        Self::Independent(Probability::NEVER)
    }
}

impl Display for Loss {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Independent(probability) => probability.fmt(f),
            Self::Bursts(model) => model.fmt(f),
        }
    }
}

/// The model of Gilbert and Elliott: a link that is either *good* or *bad*, and starts good. Written as netem does,
/// `gemodel:P,R[,1-H[,1-K]]`, in per cent.
///
/// Each datagram is lost or not by the state that it meets, and then the state may change. With the defaults, losses
/// come in bursts of 1/R datagrams on average, and P/(P+R) of all datagrams are lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// P: a good link becomes bad.
    pub to_bad: Probability,
    /// R: a bad link becomes good.
    pub to_good: Probability,
    /// 1-H: a datagram is lost while the link is bad. Default: 100%.
    pub loss_in_bad: Probability,
    /// 1-K: a datagram is lost while the link is good. Default: 0%.
    pub loss_in_good: Probability,
}

impl FromStr for GilbertElliott {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || error(text, "a model of loss: write gemodel:P,R[,1-H[,1-K]], such as gemodel:1%,25%");
        let numbers = text.strip_prefix("gemodel:").ok_or_else(malformed)?;
        let numbers: Vec<Probability> = numbers.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let (to_bad, to_good, rest) = match numbers[..] {
            [to_bad, to_good, ref rest @ ..] if rest.len() <= 2 => (to_bad, to_good, rest),
            _ => return Err(malformed()),
        };
        let or = |index: usize, default| rest.get(index).copied().unwrap_or(default);
        let (loss_in_bad, loss_in_good) = (or(0, Probability::ALWAYS), or(1, Probability::NEVER));
        Ok(Self { to_bad, to_good, loss_in_bad, loss_in_good })
    }
}

impl Display for GilbertElliott {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { to_bad, to_good, loss_in_bad, loss_in_good } = self;
        write!(f, "gemodel:{to_bad},{to_good},{loss_in_bad},{loss_in_good}")
    }
}

/// How many bits per second a link transmits, at least 1. Written with a unit: `500kbit` or `1.5mbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRate(u64);

impl BitRate {
    /// By size, so that the first one that divides a rate is the best to write it with.
    const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

    /// Returns how long a packet of this many bytes takes.
    pub fn transmission_time(self, bytes: usize) -> Duration {
        let nanoseconds = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX))
    }
}

impl FromStr for BitRate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let lower = text.to_ascii_lowercase();
        let parsed = Self::UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor as f64)));
        let bits = parsed.and_then(|(number, factor)| Some((decimal(number)? * factor).round()));
        let bits = bits.filter(|bits| (1.0..=1e15).contains(bits));
        bits.map(|bits| Self(bits as u64)).ok_or_else(|| {
            error(text, "a bit rate: write a number and bit, kbit, mbit or gbit (per second), such as 500kbit")
        })
    }
}

impl Display for BitRate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor));
        unit.map_or(Ok(()), |(unit, factor)| write!(f, "{}{unit}", self.0 / factor))
    }
}

/// Passes everything first, then drops everything during the last part of each period. Written `EVERY,FOR`: `30s,2s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blackout {
    /// The length of a period.
    pub every: Duration,
    /// How long a blackout lasts, at the end of each period; shorter than the period, and not 0.
    pub lasts: Duration,
}

impl Blackout {
    /// Returns whether everything is lost this long after the start.
    pub fn is_at(self, elapsed: Duration) -> bool {
        let into = elapsed.as_nanos() % self.every.as_nanos().max(1);
        into >= self.every.saturating_sub(self.lasts).as_nanos()
    }
}

impl FromStr for Blackout {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || error(text, "a blackout: write EVERY,FOR with FOR shorter than EVERY, such as 30s,2s");
        let (every, lasts) = text.split_once(',').ok_or_else(malformed)?;
        let (every, lasts) = (duration(every)?, duration(lasts)?);
        if lasts.is_zero() || lasts >= every { Err(malformed()) } else { Ok(Self { every, lasts }) }
    }
}

/// Longer durations are refused, so that sums of several stay within the range of `Instant`.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a duration: `40ms`, `1.5s`, `1m30s`, `100us`. A number without a unit is in seconds (tc's are in
/// microseconds).
///
/// # Errors
///
/// Returns an error for another form, and for more than 366 days.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    let malformed = || error(text, "a duration: write a number and ns, us, ms, s, m or h, such as 40ms or 1m30s");
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let (number, unit, after) = split_unit(rest);
        let seconds = match unit {
            "" if number.len() == text.len() => 1.0,
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(malformed()),
        };
        let part = decimal(number).and_then(|number| Duration::try_from_secs_f64(number * seconds).ok());
        sum = part.and_then(|part| sum.checked_add(part)).filter(|sum| *sum <= LONGEST).ok_or_else(malformed)?;
        rest = after;
    }
    Ok(sum)
}

/// Splits off a number and the letters behind it.
fn split_unit(text: &str) -> (&str, &str, &str) {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !is_number(c)).unwrap_or(text.len()));
    let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
    (number, unit, rest)
}

/// Parses digits with at most one point among them.
fn decimal(text: &str) -> Option<f64> {
    // `f64::from_str` accepts signs, exponents and names, too.
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| text.parse().ok()).flatten()
}

fn error(text: &str, what: &str) -> ParseError {
    ParseError::new(format!("{text:?} is not {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse<T: FromStr<Err = ParseError>>(text: &str) -> Result<T, String> {
        text.parse().map_err(|error: ParseError| error.to_string())
    }

    #[test]
    fn durations_without_unit_are_seconds() {
        for (text, nanoseconds) in [
            ("40ms", 40_000_000),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90_000_000_000),
            ("100us", 100_000),
            ("100µs", 100_000),
            ("7ns", 7),
            ("2", 2_000_000_000),
            ("0.04", 40_000_000),
            ("0", 0),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for wrong in ["", "s", "-1s", "+1", "1x", "1 s", "1s2", "1e3", "1..5s", ".", "NaN", "9000h", "1s "] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn probabilities_are_per_cent() {
        assert_eq!(parse::<Probability>("2%").map(Probability::get), Ok(0.02));
        assert_eq!(parse::<Probability>("0.5").map(Probability::get), Ok(0.005));
        assert_eq!(parse::<Probability>("100").map(Probability::get), Ok(1.0));
        for wrong in ["", "%", "-1", "101%", "100.1", "NaN", "inf", "1e1", "1%%", "+1"] {
            assert!(parse::<Probability>(wrong).is_err(), "{wrong}");
        }
        for text in ["0%", "7%", "0.1%", "33.3%", "12.345678%", "100%"] {
            assert_eq!(parse::<Probability>(text).map(|p| p.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn bit_rates_need_a_unit() {
        for (text, rate, shown) in [
            ("1bit", 1, "1bit"),
            ("500kbit", 500_000, "500kbit"),
            ("1.5mbit", 1_500_000, "1500kbit"),
            ("10Mbit", 10_000_000, "10mbit"),
            ("2gbit", 2_000_000_000, "2gbit"),
        ] {
            assert_eq!(parse(text), Ok(BitRate(rate)));
            assert_eq!(BitRate(rate).to_string(), shown);
        }
        for wrong in ["", "1000", "0bit", "1mb", "1mbps", "-1kbit", "mbit", "1e9gbit", "9999999999gbit", "1 mbit"] {
            assert!(parse::<BitRate>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(BitRate(8_000).transmission_time(1_000), Duration::from_secs(1));
        assert_eq!(BitRate(1).transmission_time(usize::MAX), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn gilbert_elliott_has_the_defaults_of_netem() {
        let probability = |text: &str| parse::<Probability>(text).expect(text);
        let model = GilbertElliott {
            to_bad: probability("1"),
            to_good: probability("25"),
            loss_in_bad: Probability::ALWAYS,
            loss_in_good: Probability::NEVER,
        };
        assert_eq!(parse("gemodel:1%,25%"), Ok(model));
        assert_eq!(parse("gemodel:1,25,70"), Ok(GilbertElliott { loss_in_bad: probability("70"), ..model }));
        assert_eq!(parse("gemodel:1,25,100,2").map(|model: GilbertElliott| model.loss_in_good), Ok(probability("2")));
        for wrong in ["", "1,2", "gemodel", "gemodel:", "gemodel:1", "gemodel:1,2,3,4,5", "gemodel:1,x", "gemodel:1,"] {
            assert!(parse::<GilbertElliott>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn blackout_is_the_last_part_of_each_period() {
        let blackout: Blackout = "30s,2s".parse().expect("a blackout");
        for (millis, lost) in
            [(0, false), (27_999, false), (28_000, true), (29_999, true), (30_000, false), (58_500, true)]
        {
            assert_eq!(blackout.is_at(Duration::from_millis(millis)), lost, "{millis}");
        }
        for wrong in ["", "30s", "2s,2s", "2s,3s", "2s,0", "0,0", "1s,2s,3s", ",", "1s,"] {
            assert!(parse::<Blackout>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_name_what_to_write_instead() {
        let error = |text: &str| parse::<BitRate>(text).expect_err("no rate");
        assert_eq!(
            error("1000"),
            "\"1000\" is not a bit rate: write a number and bit, kbit, mbit or gbit (per second), such as 500kbit"
        );
        let reorder = Impairments { reorder: Probability::ALWAYS, ..Impairments::default() };
        assert!(reorder.check().is_err());
        assert!(Impairments { delay: Duration::from_millis(1), ..reorder }.check().is_ok());
    }

    #[test]
    fn impairments_are_listed() {
        let mut impairments = Impairments::default();
        assert!(impairments.is_none() && impairments.to_string() == "nothing");
        impairments.limit = 5;
        impairments.distribution = Distribution::Uniform;
        assert!(impairments.is_none() && impairments.to_string() == "nothing");
        impairments.jitter = Duration::from_millis(10);
        assert_eq!(impairments.to_string(), "jitter 10ms (uniform), limit 5");
        impairments.delay = Duration::from_millis(40);
        impairments.loss = Loss::Independent("2%".parse().expect("a probability"));
        impairments.rate = "1mbit".parse().ok();
        impairments.blackout = "30s,2s".parse().ok();
        assert_eq!(
            impairments.to_string(),
            "delay 40ms ± 10ms (uniform), loss 2%, rate 1mbit, blackout every 30s for 2s, limit 5"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_error_is_one_line(text in "(gemodel:)?[-+0-9.,%a-zA-Zµé \n]*") {
            let errors = [
                duration(&text).err(),
                text.parse::<Probability>().err(),
                text.parse::<BitRate>().err(),
                text.parse::<GilbertElliott>().err(),
                text.parse::<Blackout>().err(),
                text.parse::<Distribution>().err(),
            ];
            prop_assert!(errors.iter().flatten().all(|error| !error.to_string().contains('\n')));
        }
    }
}
