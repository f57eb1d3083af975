//! `udpong send`: messages to a UDP responder.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use udpong::client;
use udpong::client::send::{Conversation, Options};

use super::{EgressArgs, Failure, FamilyArgs, PayloadArgs, TEMPLATE, habits, units};

/// Send messages to a UDP responder and print its answers.
///
/// Without MESSAGE every line of the standard input is a message; on a terminal, send prompts for them until Ctrl+D.
/// The next message is sent when the answer to the last one has arrived. An answer is printed on one line, with control
/// characters and invalid UTF-8 escaped; see --raw.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES, after_long_help = format!("{EXIT_STATUS}\n{SIGNALS}"))]
pub struct SendArgs {
    /// Where to send: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET", default_value = "127.0.0.1:5000")]
    target: String,

    /// At most 65507 bytes [default: every line of the standard input]
    #[arg(value_name = "MESSAGE", conflicts_with_all = ["hex", "file", "pattern", "size"])]
    message: Option<OsString>,

    /// Time to wait for an answer (300ms, 5s, 1m30s)
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    #[arg(help_heading = "When to stop")]
    timeout: Duration,

    /// How many times to repeat a message that is not answered
    ///
    /// By default none: not every message may arrive twice.
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(0..=u32::MAX.into()), default_value = "0", help_heading = "When to stop")]
    retries: u32,

    /// Send and do not wait for an answer (syslog, statsd)
    #[arg(long, conflicts_with_all = ["timeout", "retries", "raw"], help_heading = "When to stop")]
    no_wait: bool,

    /// Payload filled by --pattern, 0 to 65507 bytes
    #[arg(short, long, value_name = "BYTES", value_parser = units::payload_size, default_value = "56")]
    #[arg(requires = "pattern", hide_short_help = true, help_heading = "Payload")]
    size: usize,

    #[command(flatten)]
    payload: PayloadArgs,

    /// Print answers as received: not escaped, no line feed added
    #[arg(long, help_heading = "Output")]
    raw: bool,

    #[command(flatten)]
    family: FamilyArgs,

    #[command(flatten)]
    egress: EgressArgs,
}

const EXAMPLES: &str = "\
Examples:
  udpong send                         prompt for messages until Ctrl+D
  udpong send :5000 'Hello, server!'  send one message
  udpong send HOST:7000 < messages    send every line of a file
  udpong send HOST:8125 --no-wait 'requests:1|c'
                                      count with statsd
";

const EXIT_STATUS: &str = "\
Exit status:
  0    every message was answered; with --no-wait: was sent
  1    a message was not answered, or another failure
  2    usage error
  141  the reader of the standard output is gone
";

const SIGNALS: &str = "\
Signals:
  SIGINT (Ctrl+C), SIGTERM, SIGHUP
       End at once, during a look-up or a wait, too. Answers that were
       printed are complete.
";

/// Sends the message, or those of the standard input.
pub fn run(args: &SendArgs) -> Result<(), Failure> {
    let SendArgs { timeout, retries, raw, no_wait, family, .. } = *args;
    let options = Options { timeout, retries, raw, no_wait, family: family.into(), egress: (&args.egress).into() };
    let payload = args.payload.bytes(args.size)?;
    let message = payload.as_deref().or(args.message.as_ref().map(|message| message.as_encoded_bytes()));
    let mut out = io::stdout();
    let result = Conversation::with(&args.target, options).and_then(|mut conversation| match message {
        Some(message) => conversation.say(message, &mut out, &mut io::stderr()),
        None => {
            let input = io::stdin();
            conversation.converse(input.lock(), input.is_terminal(), &mut out, &mut io::stderr())
        }
    });
    result.map_err(|error| match error {
        // Unlike ping and bench: a target that cannot be reached is a message that was not answered.
        client::Error::Failed(why) | client::Error::Unmet(why) => {
            let target = args.message.as_ref().and_then(|message| habits::joined(&args.target, message.to_str()?));
            let hint = target.map(|target| format!(" (the message was a number; to send to that port: {target})"));
            Failure::new(Failure::FAILED, why + &hint.unwrap_or_default())
        }
        error => error.into(),
    })
}
