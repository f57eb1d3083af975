//! The options of commands that can be watched while they run: metrics, and the service manager.

use std::path::PathBuf;

use clap::Args;
use udpong::metrics::{Address, Options};
use udpong::service_manager::ServiceManager;

use super::units::output_file;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Monitoring")]
pub struct MonitorArgs {
    /// Serve metrics for Prometheus at HOST:PORT, or :PORT (127.0.0.1)
    ///
    /// Over HTTP: /metrics, and /healthz, whose status is 200 while every event loop turns.
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    metrics: Option<Address>,

    /// Keep the metrics in a file, for node_exporter (NAME.prom)
    ///
    /// The file is replaced as a whole, every 15 seconds, or every --stats where there is one, and at the end.
    #[arg(long, value_name = "FILE", value_parser = output_file("write the name of a file"), hide_short_help = true)]
    metrics_file: Option<PathBuf>,
}

impl From<&MonitorArgs> for Options {
    fn from(args: &MonitorArgs) -> Self {
        let (address, file) = (args.metrics.clone(), args.metrics_file.clone());
        Self { address, file, manager: ServiceManager::from_environment() }
    }
}
