//! Parsers for the values of options: durations, sizes, counts and percentages.
//!
//! Each returns its error as one line that says what to write instead; clap puts the value and the option before it.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use udpong::client::{EgressSource, LONGEST_PAYLOAD};

/// Parses a duration: `300ms`, `5s`, `1m30s`, `50us`, or a number of seconds such as `0.2`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let duration = match text.parse() {
        Ok(seconds) if is_number => Duration::try_from_secs_f64(seconds).ok(),
        _ => humantime::parse_duration(text).ok(),
    };
    duration.ok_or_else(|| "write a number and a unit, such as 300ms, 5s or 1m30s".to_owned())
}

/// Parses a [`duration`] longer than 0.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Err(why) if !text.starts_with('-') => Err(why),
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("write a duration longer than 0, such as 300ms".to_owned()),
    }
}

/// Parses a size of 1 byte to 1,023 MiB: `65536`, `64k` or `4M`; k is 1,024 bytes, M is 1,024 k.
pub fn size(text: &str) -> Result<usize, String> {
    let size = scaled(text, 1024).filter(|size| (1..1 << 30).contains(size));
    size.and_then(|size| size.try_into().ok())
        .ok_or_else(|| advice(text, 1024, "write 1 to 1023M bytes, such as 65536, 64k or 4M"))
}

/// Parses the size of a payload, 0 to 65,507 bytes: `56` or `8k`; k is 1,024 bytes.
pub fn payload_size(text: &str) -> Result<usize, String> {
    let size = scaled(text, 1024).and_then(|size| usize::try_from(size).ok());
    let size = size.filter(|size| *size <= LONGEST_PAYLOAD);
    size.ok_or_else(|| advice(text, 1024, &format!("write 0 to {LONGEST_PAYLOAD} bytes, such as 56 or 8k")))
}

/// Parses a percentage of 0 to 100: `1%` or `0.5`.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let percent = number.parse().ok().filter(|_| is_number).filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "write 0% to 100%, such as 1% or 0.5%".to_owned())
}

/// Parses a count of at least 1: `1000`, `10k` or `2M`; k is 1,000, M is 1,000 k.
pub fn count(text: &str) -> Result<u64, String> {
    let count = scaled(text, 1000).filter(|count| *count > 0);
    count.ok_or_else(|| advice(text, 1000, "write a whole number of at least 1, such as 1000, 10k or 2M"))
}

/// Parses a [`count`] per second, which may be 0, of at most 4,294,967,295.
pub fn rate(text: &str) -> Result<u32, String> {
    let rate = scaled(text, 1000).and_then(|rate| rate.try_into().ok());
    rate.ok_or_else(|| advice(text, 1000, "write a whole number from 0 to 4294967295, such as 1000 or 10k"))
}

/// Parses a [`rate`] of at least 1.
pub fn positive_rate(text: &str) -> Result<u32, String> {
    let rate = rate(text).ok().filter(|rate| *rate > 0);
    rate.ok_or_else(|| advice(text, 1000, "write a whole number from 1 to 4294967295, such as 1000 or 10k"))
}

/// Parses a number of threads: 1 to 1,024, or `auto` for one per core.
pub fn workers(text: &str) -> Result<NonZeroUsize, String> {
    if text == "auto" {
        return Ok(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    }
    let workers = text.parse().ok().filter(|workers: &NonZeroUsize| workers.get() <= 1024);
    workers.filter(|_| !text.starts_with('+')).ok_or_else(|| "write auto, or 1 to 1024".to_owned())
}

/// Returns a parser for whole numbers in a range.
pub fn within<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = scaled(text, 1000).filter(|number| range.contains(number));
        let number = number.and_then(|number| number.try_into().ok());
        number.ok_or_else(|| format!("write a number from {} to {}", range.start(), range.end()))
    }
}

/// The bytes of a hexadecimal number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

/// Parses bytes: `00ff` or `00:ff`, with `:` and spaces wherever they help to read.
pub fn hex(text: &str) -> Result<Hex, String> {
    let digits = text.chars().filter(|character| !matches!(character, ':' | ' ')).map(|digit| digit.to_digit(16));
    let digits: Option<Vec<u32>> = digits.collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0);
    let digits = digits.ok_or_else(|| "write pairs of hexadecimal digits, such as 00ff".to_owned())?;
    if digits.len() / 2 > LONGEST_PAYLOAD {
        return Err(format!("a datagram carries at most {LONGEST_PAYLOAD} bytes"));
    }
    Ok(Hex(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()))
}

/// Parses [`hex`] bytes, at least one.
pub fn pattern(text: &str) -> Result<Hex, String> {
    match hex(text)? {
        Hex(bytes) if bytes.is_empty() => Err("write at least one byte, such as ff".to_owned()),
        hex => Ok(hex),
    }
}

/// Parses a byte: `184` or `0xb8`.
pub fn byte(text: &str) -> Result<u8, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let byte = u8::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
    byte.ok_or_else(|| "write 0 to 255, or 0x00 to 0xff".to_owned())
}

/// Parses a class of differentiated services: `46`, `0x2e`, `EF`, `AF41` or `CS5`; returns the whole byte.
pub fn dscp(text: &str) -> Result<u8, String> {
    let upper = text.to_ascii_uppercase();
    let number = |digits: &str| digits.parse::<u8>().ok().filter(|_| !digits.starts_with('+'));
    let digits = |prefix: &str| upper.strip_prefix(prefix).and_then(number);
    let class = match (&*upper, digits("CS"), digits("AF")) {
        ("BE" | "DF", ..) => Some(0),
        ("LE", ..) => Some(1),
        ("VA", ..) => Some(44),
        ("EF", ..) => Some(46),
        (_, Some(class @ 0..=7), _) => Some(8 * class),
        (_, _, Some(class @ (11..=13 | 21..=23 | 31..=33 | 41..=43))) => Some(8 * (class / 10) + 2 * (class % 10)),
        _ => byte(text).ok().filter(|class| *class < 64),
    };
    class.map(|class| class << 2).ok_or_else(|| "write 0 to 63, EF, VA, LE, CS0 to CS7 or AF11 to AF43".to_owned())
}

/// Parses what datagrams leave from: an address, or the name of an interface.
pub fn egress_source(text: &str) -> Result<EgressSource, String> {
    match text.parse() {
        Ok(address) => Ok(EgressSource::Address(address)),
        Err(_) if !text.is_empty() && !text.contains([':', '/', ' ']) => Ok(EgressSource::Interface(text.to_owned())),
        Err(_) => Err("write an address without a port, or the name of an interface".to_owned()),
    }
}

/// Returns a parser for the name of a file that is written. It refuses `-`, which would become the name of a file.
pub fn output_file(advice: &'static str) -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(move |path| if path.as_os_str() == "-" { Err(advice) } else { Ok(path) })
}

/// The advice for a file that need not be replaced as a whole.
pub const FILE_OR_STDOUT: &str = "write the name of a file, or /dev/stdout";

/// Parses digits with an optional k or M behind them.
fn scaled(text: &str, step: u64) -> Option<u64> {
    let (digits, factor) = split_factor(text, step);
    let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Returns what to write for a number that is not [`scaled`]: for 1.5k that is 1500.
fn advice(text: &str, step: u64, otherwise: &str) -> String {
    let (digits, factor) = split_factor(text, step);
    let number = digits.parse().ok().map(|number: f64| number * factor as f64).filter(|_| digits.contains('.'));
    match number {
        Some(number) if number >= 1.0 && (number - number.round()).abs() < 1e-6 => format!("write {number:.0}"),
        _ => otherwise.to_owned(),
    }
}

/// Splits a number from the factor behind it.
fn split_factor(text: &str, step: u64) -> (&str, u64) {
    match text.as_bytes() {
        [.., b'k' | b'K'] => (&text[..text.len() - 1], step),
        [.., b'M'] => (&text[..text.len() - 1], step * step),
        _ => (text, 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units_or_are_seconds() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!((duration("0.2"), duration("2")), (Ok(Duration::from_millis(200)), Ok(Duration::from_secs(2))));
        for wrong in ["", "-1", "1e3", ".", "1.2.3", "inf", "NaN", "99999999999999999999", "-1s", "1x", "1e400s", "s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn sizes_scale_by_1024_and_counts_by_1000() {
        assert_eq!(size("4M"), Ok(4 << 20));
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("2M"), Ok(2_000_000));
        for wrong in ["", "k", "M", "0", "-1", "+1", "1.5k", "1G", "1 k", "é", "99999999999999999999"] {
            assert!(size(wrong).is_err() && count(wrong).is_err(), "{wrong}");
        }
        assert!(size("1024M").is_err());
        assert_eq!((rate("0"), rate("10k")), (Ok(0), Ok(10_000)));
        assert!(rate("5000M").is_err() && rate("-1").is_err() && positive_rate("0").is_err());
        assert_eq!((payload_size("0"), payload_size("8k"), payload_size("65507")), (Ok(0), Ok(8192), Ok(65_507)));
        assert!(payload_size("65508").is_err() && payload_size("64k").is_err());
    }

    #[test]
    fn advice_for_a_fraction_is_the_whole_number() {
        assert_eq!((positive_rate("1.5k"), rate("0.1M")), (Err("write 1500".into()), Err("write 100000".into())));
        assert_eq!((count("4.35k"), payload_size("1.5k")), (Err("write 4350".into()), Err("write 1536".into())));
        for neither in ["1.5", "0.0001k", "1.5x", "1..5k", "1e3k", "nan.k", "1.5G"] {
            assert!(count(neither).is_err_and(|error| error.starts_with("write a whole number")), "{neither}");
        }
        let flows = within::<usize>(1..=1024);
        assert!(flows("0").is_err() && flows("1025").is_err() && flows("1024") == Ok(1024));
    }

    #[test]
    fn payloads_are_hexadecimal() {
        let bytes = |bytes: &[u8]| Ok(Hex(bytes.to_vec()));
        assert_eq!((hex("00ff"), hex("00:FF 1a"), hex("")), (bytes(&[0, 255]), bytes(&[0, 255, 26]), bytes(&[])));
        assert!(hex("0").is_err() && hex("0x00").is_err() && hex("é0").is_err() && pattern("").is_err());
        assert!(hex(&"00".repeat(65_507)).is_ok() && hex(&"00".repeat(65_508)).is_err());
        assert_eq!((byte("184"), byte("0xB8"), byte("0")), (Ok(184), Ok(184), Ok(0)));
        assert!(byte("256").is_err() && byte("+1").is_err() && byte("0x").is_err() && byte("0x+1").is_err());
    }

    #[test]
    fn classes_have_names_and_numbers() {
        let names = ["EF", "af41", "CS5", "BE", "LE", "46", "0x2e", "63"].map(|name| dscp(name).map(|byte| byte >> 2));
        assert_eq!(names, [46, 34, 40, 0, 1, 46, 46, 63].map(Ok));
        for wrong in ["", "64", "AF14", "AF51", "CS8", "-1", "+1", "CS", "XX", "CS+5", "AF+11"] {
            assert!(dscp(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn percentages_are_0_to_100() {
        assert_eq!((percent("1%"), percent("0.5"), percent("100%")), (Ok(1.0), Ok(0.5), Ok(100.0)));
        for wrong in ["", "%", "-1", "-0", "+1", "1e1", "101%", "NaN", "inf", "1%%"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
        assert!(workers("+5").is_err() && workers("5").is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[-+0-9.a-zA-Zµ ]*") {
            let _ = (duration(&text), size(&text), count(&text), percent(&text));
            let _ = (hex(&text), byte(&text), dscp(&text), egress_source(&text));
        }
    }
}
