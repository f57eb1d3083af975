//! `udpong send`: messages to a UDP responder.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use udpong::client;
use udpong::client::send::{Conversation, Options};

use super::{Failure, FamilyArgs, TEMPLATE, units};

/// Send messages to a UDP responder and print its answers.
///
/// Without MESSAGE every line of the standard input is a message; on a terminal, send prompts for them until Ctrl+D. The
/// next message is sent when the answer to the last one has arrived. An answer is printed on one line, with control
/// characters and invalid UTF-8 escaped; see --raw.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = EXAMPLES, after_long_help = EXIT_STATUS)]
pub struct SendArgs {
    /// Where to send: HOST:PORT, HOST (port 5000) or :PORT (127.0.0.1)
    #[arg(value_name = "TARGET", default_value = "127.0.0.1:5000")]
    target: String,

    /// At most 65507 bytes [default: every line of the standard input]
    #[arg(value_name = "MESSAGE")]
    message: Option<OsString>,

    /// Time to wait for an answer (300ms, 5s, 1m30s)
    #[arg(short = 'W', long, value_name = "DURATION", value_parser = units::positive_duration, default_value = "1s")]
    #[arg(help_heading = "When to stop")]
    timeout: Duration,

    /// How many times to repeat a message that is not answered
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "When to stop")]
    retries: u32,

    /// Print answers as received: not escaped, no line feed added
    #[arg(long, help_heading = "Output")]
    raw: bool,

    #[command(flatten)]
    family: FamilyArgs,
}

const EXAMPLES: &str = "\
Examples:
  udpong send                         prompt for messages until Ctrl+D
  udpong send :5000 'Hello, server!'  send one message
  udpong send HOST:7000 < messages    send every line of a file
";

const EXIT_STATUS: &str = "\
Exit status:
  0    every message was answered
  1    a message was not answered, or another failure
  2    usage error
  141  the reader of the standard output is gone
";

/// Sends the message, or those of the standard input.
pub fn run(args: &SendArgs) -> Result<(), Failure> {
    let SendArgs { timeout, retries, raw, family, .. } = *args;
    let options = Options { timeout, retries, raw, family: family.into() };
    let mut out = io::stdout();
    let result = Conversation::with(&args.target, options).and_then(|mut conversation| match &args.message {
        Some(message) => conversation.say(message.as_encoded_bytes(), &mut out, &mut io::stderr()),
        None => {
            let input = io::stdin();
            conversation.converse(input.lock(), input.is_terminal(), &mut out, &mut io::stderr())
        }
    });
    result.map_err(|error| match error {
        // Unlike ping and bench: a target that cannot be reached is a message that was not answered.
        client::Error::Failed(message) => Failure::new(Failure::FAILED, message),
        error => error.into(),
    })
}
