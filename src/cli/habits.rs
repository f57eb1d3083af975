//! What to write instead of arguments that similar programs take. Pure, but for the arguments of the process.

use std::ffi::OsString;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{Cli, units};

/// Options that a command does not have, and what to write instead.
type Hints = &'static [(&'static [&'static str], &'static str)];

const SERVE: Hints = &[(&["-p", "--port"], "the port is part of the service, as in hello@:5000")];

/// Those of ping(8), fping(8) and irtt(1). Where they disagree, the hint has an answer for each.
const PING: Hints = &[
    (&["-A", "--adaptive", "--flood"], "\"udpong bench\" sends as fast as answers come"),
    (&["-f"], "\"udpong bench\" sends as fast as answers come; targets from a file are $(cat FILE)"),
    (&["-l"], "the size is -s; \"udpong bench --in-flight\" keeps several in flight; ping runs until Ctrl+C"),
    (&["-t"], "the hop limit is --ttl, the time to wait for an answer -W"),
    (&["-H", "--hop-limit"], "the hop limit is --ttl"),
    (&["-M", "--df"], "--dont-fragment forbids fragmentation"),
    (&["-p", "--period"], "the pattern is --pattern, the time between probes -i"),
    (&["--fill"], "the pattern is --pattern"),
    (&["-b", "--length"], "the size is -s"),
    (&["-C", "--vcount"], "the number of probes is -c"),
    (&["-d", "--duration"], "the time to send is -w"),
    (&["--wait", "--timeouts"], "the time to wait for an answer is -W"),
    (&["-S", "--src", "--local"], "the source address is -I"),
    (&["-r", "--retry"], "each probe is sent once, and -c is their number"),
    (&["-x", "--reachable"], "--max-loss sets above which loss ping fails"),
    (&["-J", "-o", "--output"], "write --json, --json-stream or --hdr FILE"),
    (&["-a", "--alive", "-u", "--unreach"], "with several targets and -q, a table shows which ones answer"),
    (&["-g", "--generate"], "write each target, in many shells as in 192.0.2.{1..9}:5000"),
    (&["-n", "--numeric"], "addresses are always numeric"),
    (&["-O"], "probes without an answer are always reported; the type of service is -Q"),
    (&["-e", "--elapsed", "-v", "--verbose"], "every answer is shown with its round trip"),
];

/// Those of oha, wrk, hey and iperf3(1).
const BENCH: Hints = &[
    (&["-z", "-d", "--duration"], "the time to measure is -t"),
    (&["--requests"], "the number of datagrams is -n"),
    (&["-p", "-P", "--parallel", "--connections", "--concurrency"], "the number of sockets is -c"),
    (&["-R", "-b", "-i", "--qps", "--bitrate", "--interval"], "the rate is -r, in datagrams per second"),
    (&["-D", "--body-file"], "the payload from a file is --file"),
    (&["-l", "--length"], "the size is -s"),
    (&["-j", "-J", "-o", "--output", "--output-format"], "write --json or --hdr FILE"),
    (&["--no-tui"], "-q draws no progress bar"),
    (&["--latency-correction"], "with --rate, latency always counts from when a datagram was due"),
    (&["-w"], "answers to what is in flight are always awaited, for -W"),
    (&["-u", "--udp"], "it always sends UDP"),
];

/// Those of nc(1), ncat(1), socat(1) and nping(1).
const SEND: Hints = &[
    (&["-u", "--udp"], "it always sends UDP"),
    (
        &["-w", "--wait", "-t", "-T", "--idle-timeout"],
        "the time to wait for an answer is -W, and --no-wait waits for none",
    ),
    (&["-q", "-N"], "it ends after the last answer, or at once with --no-wait"),
    (&["-i", "--delay"], "each line is sent when the one before it was answered or -W has passed"),
    (
        &["-p", "-g", "--source-port"],
        "the port is part of the target, as in HOST:5000, and the source port is any free one",
    ),
    (&["-l", "--listen"], "\"udpong serve\" listens"),
    (&["-z"], "\"udpong ping -c 1\" shows whether there is an answer"),
    (&["-c", "--count"], "\"udpong ping -c\" sends several"),
    (&["-n", "--nodns"], "addresses are always numeric"),
    (&["-v", "--verbose"], "a message without an answer is always reported"),
    (&["-b"], "broadcast is not supported"),
    (&["--data"], "exact bytes are --hex"),
    (&["--data-string"], "write the message after the target"),
    (&["--data-length"], "the size is -s, with --pattern"),
];

/// Those of socat(1), and words of netem(8) and similar programs.
const RELAY: Hints = &[
    (
        &["-l", "--listen", "-p", "--port", "--to", "--target", "--upstream", "--remote"],
        "write where to listen and where to forward to, as in :7000 HOST:5000",
    ),
    (&["-u", "--udp"], "it always forwards UDP"),
    (&["-t", "-T", "-w", "--timeout"], "the time after which a session ends is --idle, the time to run --for"),
    (&["-c", "-n"], "the number of datagrams is --count"),
    (&["-v", "--verbose"], "every datagram is logged unless there is -q"),
    (&["--max-clients", "--max-connections"], "the number of clients is --max-sessions"),
    (&["--latency", "--lag"], "the delay is --delay, --up-delay or --down-delay"),
    (&["--drop", "--packet-loss"], "the loss is --loss, --up-loss or --down-loss"),
    (&["--bandwidth", "--bw", "--target-bw", "--throttle"], "the bandwidth is --rate, --up-rate or --down-rate"),
    (&["--out-of-order", "--gap"], "the share that overtakes others is --reorder"),
    (&["--tamper"], "the share with a flipped bit is --corrupt"),
];

const REPORT: Hints = &[
    (&["-o", "--output"], "write > FILE for the report, and --plot FILE for a picture"),
    (&["-j", "-J"], "write --json"),
    (&["--hdr"], "write the names of logs without an option"),
];

const COMMANDS: [(&str, Hints); 6] =
    [("serve", SERVE), ("ping", PING), ("bench", BENCH), ("send", SEND), ("relay", RELAY), ("report", REPORT)];

/// Removes the parser's tip to write `--` before an unknown option, unless it may be a message or the name of a file: of
/// these the tip shows everything, and not the first letter only.
pub fn correct_tip(mut error: clap::Error) -> clap::Error {
    let usage = context(&error, ContextKind::Usage);
    if !["udpong send", "udpong report"].iter().any(|command| usage.contains(command)) {
        error.remove(ContextKind::Suggested);
    } else if error.get(ContextKind::Suggested).is_some()
        && let Some(value) = short_option(&arguments(), &context(&error, ContextKind::InvalidArg))
    {
        let tip = format!("to pass '{value}' as a value, write -- before it");
        error.insert(ContextKind::InvalidArg, ContextValue::String(value));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Returns the argument that begins with an option of one letter.
fn short_option(arguments: &[String], option: &str) -> Option<String> {
    let is_short = option.chars().count() == 2;
    arguments.iter().find(|argument| is_short && argument.starts_with(option)).cloned()
}

/// Returns a better error for an argument that the command does not have, if another program has it.
pub fn explain(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    explain_option(error).or_else(|| separate_port(&arguments())).or_else(|| explain_words(error))
}

/// Returns a better error for a message of several words.
fn explain_words(error: &clap::Error) -> Option<String> {
    let is_message = context(error, ContextKind::Usage).contains("udpong send");
    let word = context(error, ContextKind::InvalidArg);
    (is_message && !word.starts_with('-'))
        .then(|| format!("{word:?} is one word too many: write a message of several words in quotes"))
}

/// Returns the error about a negative number behind an option. The parser takes such a number for an option of its own,
/// and advises to write `--` before it.
pub fn explain_negative_number(arguments: impl Iterator<Item = OsString>) -> Option<clap::Error> {
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        match (argument.as_encoded_bytes(), joined.last_mut()) {
            ([b'-', b'0'..=b'9' | b'.', ..], Some(option)) if option.as_encoded_bytes().starts_with(b"-") => {
                option.push(if option.as_encoded_bytes().starts_with(b"--") { "=" } else { "" });
                option.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    Cli::try_parse_from(joined).err().filter(|error| error.kind() == ErrorKind::ValueValidation)
}

/// Returns a better error for an unknown option.
fn explain_option(error: &clap::Error) -> Option<String> {
    let usage = context(error, ContextKind::Usage);
    let (command, hints) = COMMANDS.into_iter().find(|(command, _)| usage.contains(&format!("udpong {command}")))?;
    if command == "bench"
        && let Some(rate) = rate_after_quiet(&arguments())
    {
        return Some(format!("the rate is -r {rate}, and -q draws no progress bar"));
    }
    let option = context(error, ContextKind::InvalidArg);
    let (_, hint) = hints.iter().find(|(options, _)| options.contains(&&*option))?;
    Some(format!("there is no option {option}: {hint}"))
}

/// Returns what the parser knows about an error.
fn context(error: &clap::Error, kind: ContextKind) -> String {
    error.get(kind).map(ToString::to_string).unwrap_or_default()
}

/// Returns a better error for `HOST PORT` where only one target is expected.
fn separate_port(arguments: &[String]) -> Option<String> {
    let mut words = arguments.windows(3).filter(|words| !words[0].starts_with('-'));
    words.find_map(|words| joined(&words[1], &words[2])).map(|target| one_word(&target))
}

/// Returns `HOST:PORT` of a target without a port and a word behind it that is one.
pub fn joined(host: &str, port: &str) -> Option<String> {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = !host.starts_with('-') && !is_number(host) && (host.ends_with(']') || !host.contains([':', ' ']));
    (is_host && is_number(port) && port.parse::<u16>().is_ok()).then(|| format!("{host}:{port}"))
}

/// Returns the error for `HOST PORT`.
pub fn one_word(target: &str) -> String {
    format!("a host and its port are one word: write {target}")
}

/// Returns the arguments of the process, the command first.
fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// Returns the rate that follows `-q`, which is an option with a value in oha and hey.
fn rate_after_quiet(arguments: &[String]) -> Option<String> {
    let rate = |(index, argument): (usize, &String)| match argument.strip_prefix("-q")? {
        "" => arguments.get(index + 1).cloned(),
        rate => Some(rate.to_owned()),
    };
    arguments.iter().enumerate().filter_map(rate).find(|rate| units::rate(rate).is_ok())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn explained(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from([&["udpong"], arguments].concat()).expect_err("an unknown option");
        explain(&error).unwrap_or_default()
    }

    #[test]
    fn unknown_option_of_another_program_is_explained() {
        assert_eq!(explained(&["bench", ":1", "-z", "5s"]), "there is no option -z: the time to measure is -t");
        assert!(explained(&["ping", ":1", "-M", "do"]).contains("--dont-fragment"));
        assert!(explained(&["serve", "--port=7"]).contains("part of the service"));
        assert!(explained(&["send", "-u", "-w1", ":1", "hi"]).ends_with("-u: it always sends UDP"));
        assert!(explained(&["send", ":1", "-w1"]).contains("-w: the time to wait for an answer is -W"));
        assert!(explained(&["report", "a.hdr", "-o", "x"]).contains("--plot FILE for a picture"));
        assert!(explained(&["send", ":1", "two", "words"]).starts_with("\"words\" is one word too many"));

        assert!(explained(&["send", "localhost", "-p", "7"]).contains("part of the target, as in HOST:5000"));
        assert!(explained(&["relay", ":1", ":2", "--latency=40ms"]).contains("the delay is --delay"));
        assert!(explained(&["relay", ":1", ":2", "--drop", "1%"]).contains("the loss is --loss"));
        assert!(explained(&["relay", "-l", "7", ":2"]).contains("as in :7000 HOST:5000"));
        assert_eq!(explained(&["ping", ":1", "--unheard-of"]), "");
        assert_eq!((explained(&["report", "-z"]), explained(&["bench", ":1", "x"])), (String::new(), String::new()));
    }

    #[test]
    fn negative_number_is_a_value_of_the_option_before_it() {
        let error = |line: &str| explain_negative_number(line.split(' ').map(OsString::from)).map(|e| e.to_string());
        for line in ["ping :1 -c -1", "ping -q --count -1 :1", "ping :1 -qc -4 -n", "bench -n -1 -h"] {
            let error = error(&format!("udpong {line}")).unwrap_or_else(|| panic!("no error in {line}"));
            assert!(error.contains("invalid value '-") && error.contains("a whole number of at least 1"), "{error}");
        }
        for line in ["send :1 -1", "send :1 -- -1", "ping -4 :1", "ping -q -1 :1", "ping --json -1 :1", "ping --no -1"]
        {
            assert_eq!(error(&format!("udpong {line}")), None, "{line}");
        }
    }

    #[test]
    fn number_after_quiet_is_the_rate() {
        let rate = |text: &str| rate_after_quiet(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(rate("bench -q 100 :1"), Some("100".to_owned()));
        assert_eq!(rate("bench :1 -q10k"), Some("10k".to_owned()));
        assert_eq!((rate("bench -q :1"), rate("bench :1 -q")), (None, None));
    }

    #[test]
    fn hints_are_about_options_that_do_not_exist() {
        for (name, hints) in COMMANDS {
            let cli = Cli::command();
            let command = cli.find_subcommand(name).expect("a command");
            let mut known: Vec<String> = Vec::new();
            for argument in command.get_arguments() {
                known.extend(argument.get_short().map(|short| format!("-{short}")));
                known.extend(argument.get_long().map(|long| format!("--{long}")));
            }
            let options: Vec<_> = hints.iter().flat_map(|(options, _)| *options).collect();
            for (index, option) in options.iter().enumerate() {
                assert!(!known.iter().any(|known| known == *option), "{name} {option}");
                assert!(!options[..index].contains(option), "{name} {option} twice");
            }
        }
    }
}
