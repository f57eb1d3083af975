//! Options of send, ping and bench for what leaves: the payload, the source, the IP headers.

use std::path::PathBuf;

use clap::Args;
use udpong::client;

use super::units::{self, Hex};
use super::{Failure, about_file, read};

/// The user's own payload.
#[derive(Args, Clone, Debug)]
pub struct PayloadArgs {
    /// Send exactly these bytes (00ff)
    ///
    /// Answers are then matched by source port: there is no room for a number.
    #[arg(long, value_name = "HEX", value_parser = units::hex, conflicts_with_all = ["size", "file", "pattern"])]
    #[arg(hide_short_help = true)]
    #[arg(help_heading = "Payload")]
    hex: Option<Hex>,

    /// Send exactly the bytes of a file; - is the standard input
    ///
    /// As with --hex, answers are matched by source port.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["size", "pattern"], hide_short_help = true)]
    #[arg(help_heading = "Payload")]
    file: Option<PathBuf>,

    /// Fill --size with these bytes (ff)
    ///
    /// As with --hex, answers are matched by source port.
    #[arg(long, value_name = "HEX", value_parser = units::pattern, hide_short_help = true)]
    #[arg(help_heading = "Payload")]
    pattern: Option<Hex>,
}

impl PayloadArgs {
    /// Returns the payload, if it is the user's own; one from a pattern has `size` bytes.
    pub fn bytes(&self, size: usize) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(Hex(pattern)) = &self.pattern {
            return Ok(Some(pattern.iter().copied().cycle().take(size).collect()));
        }
        let Some(file) = &self.file else {
            return Ok(self.hex.clone().map(|Hex(bytes)| bytes));
        };
        // One byte more shows that there are too many, of a device that never ends, too.
        let bytes = read(file, client::LONGEST_PAYLOAD as u64 + 1)?;
        if bytes.len() > client::LONGEST_PAYLOAD {
            let most = client::LONGEST_PAYLOAD;
            return Err(about_file(file, &format_args!("it is too long: a datagram carries at most {most} bytes")));
        }
        Ok(Some(bytes))
    }
}

/// Where datagrams leave, and fields of their IP headers.
#[derive(Args, Clone, Debug)]
pub struct EgressArgs {
    /// Send from this local address, or through this interface
    #[arg(short = 'I', long, value_name = "ADDR|IFACE", value_parser = units::egress_source, hide_short_help = true)]
    #[arg(help_heading = "Network")]
    bind: Option<client::EgressSource>,

    /// Type of service, the whole byte (184 or 0xb8)
    #[arg(short = 'Q', long, value_name = "BYTE", value_parser = units::byte, hide_short_help = true)]
    #[arg(help_heading = "Network")]
    tos: Option<u8>,

    /// Differentiated services: 0 to 63, EF, AF41, CS5, ...
    #[arg(long, value_name = "CLASS", value_parser = units::dscp, conflicts_with = "tos", hide_short_help = true)]
    #[arg(help_heading = "Network")]
    dscp: Option<u8>,

    /// Time to live (IPv4) or hop limit (IPv6), 1 to 255
    #[arg(long, value_name = "HOPS", value_parser = units::within::<u8>(1..=255), hide_short_help = true)]
    #[arg(help_heading = "Network")]
    ttl: Option<u8>,

    /// Never fragment datagrams: those that exceed the path MTU fail
    #[arg(long, hide_short_help = true)]
    #[arg(help_heading = "Network")]
    dont_fragment: bool,
}

impl From<&EgressArgs> for client::Egress {
    fn from(args: &EgressArgs) -> Self {
        Self {
            source: args.bind.clone(),
            tos: args.tos.or(args.dscp),
            hop_limit: args.ttl,
            dont_fragment: args.dont_fragment,
        }
    }
}
