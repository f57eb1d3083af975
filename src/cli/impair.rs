//! The options for bad links: those of `serve`, and of `relay` for both directions and for each of them.

use std::time::Duration;

use clap::Args;
use udpong::impair::{BitRate, Blackout, Distribution, GilbertElliott, Impairments, Loss, Probability, Seed, duration};

use super::{Failure, units};

/// Declares the impairments of a link, with `$prefix` before the name of each option.
macro_rules! link_args {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $heading:literal) => {
        $(#[$doc])*
        #[derive(Args, Clone, Debug)]
        #[command(next_help_heading = $heading)]
        pub struct $name {
            /// Delay of every datagram (40ms; a number without a unit is in seconds)
            #[arg(id = concat!($prefix, "delay"), long = concat!($prefix, "delay"), value_name = "DURATION")]
            #[arg(value_parser = duration, hide_short_help = true)]
            delay: Option<Duration>,

            /// Variation of the delay (10ms)
            #[arg(id = concat!($prefix, "jitter"), long = concat!($prefix, "jitter"), value_name = "DURATION")]
            #[arg(value_parser = duration, hide_short_help = true)]
            jitter: Option<Duration>,

            /// Distribution of the jitter: uniform, normal or pareto [default: normal]
            #[arg(id = concat!($prefix, "distribution"), long = concat!($prefix, "distribution"))]
            #[arg(value_name = "NAME", hide_short_help = true)]
            distribution: Option<Distribution>,

            /// Datagrams that are lost (2%)
            #[arg(id = concat!($prefix, "loss"), long = concat!($prefix, "loss"), value_name = "PERCENT")]
            #[arg(conflicts_with = concat!($prefix, "loss-model"), hide_short_help = true)]
            loss: Option<Probability>,

            /// Losses in bursts: gemodel:P,R[,1-H[,1-K]] (gemodel:1%,25%)
            #[arg(id = concat!($prefix, "loss-model"), long = concat!($prefix, "loss-model"))]
            #[arg(value_name = "MODEL", hide_short_help = true)]
            loss_model: Option<GilbertElliott>,

            /// Datagrams that get a second copy (1%)
            #[arg(id = concat!($prefix, "duplicate"), long = concat!($prefix, "duplicate"), value_name = "PERCENT")]
            #[arg(hide_short_help = true)]
            duplicate: Option<Probability>,

            /// Datagrams that are not delayed and overtake others (5%)
            #[arg(id = concat!($prefix, "reorder"), long = concat!($prefix, "reorder"), value_name = "PERCENT")]
            #[arg(hide_short_help = true)]
            reorder: Option<Probability>,

            /// Datagrams with one flipped bit (1%)
            #[arg(id = concat!($prefix, "corrupt"), long = concat!($prefix, "corrupt"), value_name = "PERCENT")]
            #[arg(hide_short_help = true)]
            corrupt: Option<Probability>,

            /// Datagrams cut to a random length (1%)
            #[arg(id = concat!($prefix, "truncate"), long = concat!($prefix, "truncate"), value_name = "PERCENT")]
            #[arg(hide_short_help = true)]
            truncate: Option<Probability>,

            /// Bits per second that the link transmits: bit, kbit, mbit or gbit (1mbit)
            #[arg(id = concat!($prefix, "rate"), long = concat!($prefix, "rate"), value_name = "RATE")]
            #[arg(hide_short_help = true)]
            rate: Option<BitRate>,

            /// Time between blackouts, and their length: EVERY,FOR (30s,2s)
            #[arg(id = concat!($prefix, "blackout"), long = concat!($prefix, "blackout"), value_name = "EVERY,FOR")]
            #[arg(hide_short_help = true)]
            blackout: Option<Blackout>,

            /// Datagrams that may wait at the same time [default: 1000]
            #[arg(id = concat!($prefix, "limit"), long = concat!($prefix, "limit"), value_name = "N")]
            #[arg(value_parser = units::count, hide_short_help = true)]
            limit: Option<u64>,
        }

        impl $name {
            /// Returns whether there is an option that impairs anything.
            pub fn is_given(&self) -> bool {
                let Self { delay, jitter, loss, loss_model, rate, blackout, .. } = self;
                let probabilities = [loss, &self.duplicate, &self.reorder, &self.corrupt, &self.truncate];
                delay.or(*jitter).is_some()
                    || probabilities.iter().any(|probability| probability.is_some())
                    || loss_model.is_some()
                    || rate.is_some()
                    || blackout.is_some()
            }

            /// Returns the name of an option that is given and only changes how others impair.
            pub fn dependent_option(&self) -> Option<&'static str> {
                let distribution = self.distribution.map(|_| concat!("--", $prefix, "distribution"));
                distribution.or(self.limit.map(|_| concat!("--", $prefix, "limit")))
            }

            /// Overrides impairments with the options that are given.
            pub fn apply(&self, impairments: Impairments) -> Impairments {
                let loss = self.loss.map(Loss::Independent).or(self.loss_model.map(Loss::Bursts));
                let limit = self.limit.map(|limit| limit.try_into().unwrap_or(usize::MAX));
                Impairments {
                    delay: self.delay.unwrap_or(impairments.delay),
                    jitter: self.jitter.unwrap_or(impairments.jitter),
                    distribution: self.distribution.unwrap_or(impairments.distribution),
                    loss: loss.unwrap_or(impairments.loss),
                    duplicate: self.duplicate.unwrap_or(impairments.duplicate),
                    reorder: self.reorder.unwrap_or(impairments.reorder),
                    corrupt: self.corrupt.unwrap_or(impairments.corrupt),
                    truncate: self.truncate.unwrap_or(impairments.truncate),
                    rate: self.rate.or(impairments.rate),
                    blackout: self.blackout.or(impairments.blackout),
                    limit: limit.unwrap_or(impairments.limit),
                }
            }
        }
    };
}

link_args!(
    /// The impairments of `serve`, and of both directions of `relay`.
    LinkArgs,
    "",
    "Impairments"
);

link_args!(
    /// The impairments of `relay` from clients to the target, which override those of both directions.
    UpArgs,
    "up-",
    "Impairments from the client to the target"
);

link_args!(
    /// The impairments of `relay` from the target to clients, which override those of both directions.
    DownArgs,
    "down-",
    "Impairments from the target to the client"
);

/// The seed of all impairments.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Impairments")]
pub struct SeedArgs {
    /// Seed of all random decisions, 0 to 9007199254740991 [default: random, see the log]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub seed: Option<Seed>,
}

impl SeedArgs {
    /// Returns the name of the option if it is given.
    pub fn dependent_option(self) -> Option<&'static str> {
        self.seed.map(|_| "--seed")
    }
}

/// Returns a usage error if there is an option that needs an impairment, and none is given.
pub fn check_is_impaired(is_given: bool, dependent_option: Option<&str>) -> Result<(), Failure> {
    match dependent_option {
        Some(option) if !is_given => {
            let message = format!("{option} has no effect without an impairment, such as --delay 40ms or --loss 2%");
            Err(Failure::new(Failure::USAGE, message))
        }
        _ => Ok(()),
    }
}

/// The section on impairments in the help of a command.
pub const DETAILS: &str = "\
Stages:
Impairments are applied to each datagram in this order. Names and meanings are
those of tc-netem(8), with a few differences.

  blackout   everything is lost during the last FOR of each EVERY
  duplicate  a second copy, which passes the other stages by itself
  loss       independent losses; or the Gilbert-Elliott model: a good link
             becomes bad with P, a bad one good with R, and datagrams are
             lost with 1-H (default 100%) while it is bad and with 1-K
             (default 0%) while it is good. Bursts have 1/R on average
  corrupt    one bit at a random position of the payload is flipped
  truncate   the payload is cut to 0 to length - 1 bytes
  delay      the jitter is the half-width (uniform), the standard
             deviation (normal) or the scale (pareto: -2/3 to 4 times the
             jitter), and may change the order. No delay is below 0.
             Without a unit, a duration is in seconds; tc takes
             microseconds
  reorder    needs a delay: the datagram is not delayed
  rate       datagrams are transmitted one after the other; counts IP
             packets: the payload and 28 (IPv4) or 48 (IPv6) bytes
  limit      what has to wait while N wait is dropped, also if all that
             waits would take more than 32 MiB of memory

The same seed and the same arrivals, their times included, have the same
outcomes. Changing one impairment does not change the decisions of the others.
";

/// The fields of `impaired` in JSON.
pub const JSON: &str = "    \
    impaired          null without impairments, else:
      lost            lost by loss or in a blackout
      duplicated      second copies
      delayed         that had to wait, by delay or rate
      reordered       that left after a later arrival from the same peer
      corrupted       with a flipped bit
      truncated       cut
      over_limit      dropped because too much waited
";
