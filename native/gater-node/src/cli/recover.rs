//! `esdb-gater cluster recover`: makes a stopped gateway a cluster of one, when the majority of its
//! cluster is lost for good.

use std::path::PathBuf;

use clap::Args;

use super::error::CommandError;
use super::output::Output;
use super::target::Gateway;
use crate::config;
use crate::registry::cluster;

/// `esdb-gater cluster recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// The data directory of the gateway, which must not run [default: as `esdb-gater start` has it]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Registrations that only the lost gateways had are lost, and none of the old members may ever
    /// be started again with its data directory
    #[arg(long, required = true)]
    i_know_what_this_means: bool,
}

/// `esdb-gater cluster recover`, and which gateway is meant.
#[derive(Debug)]
pub struct Recovery {
    /// The options of the command.
    pub command: Recover,
    /// The gateway that becomes a cluster of one.
    pub gateway: Gateway,
}

impl Recovery {
    /// Carries out the command, and prints what came of it.
    pub async fn run(self) -> Result<u8, CommandError> {
        let mut flags = self.gateway.flags();
        flags.data_dir = self.command.data_dir;
        let config = config::load(flags, config::environment())?.config;
        let recovered = cluster::recover(&config.data_dir, &config.name)
            .await
            .map_err(|error| CommandError::Failed(gater_dist::Chain(&error).to_string()))?;
        let lost: Vec<_> =
            recovered.members.iter().filter(|name| **name != config.name).cloned().collect();
        Output::new(false).text(&format!(
            "{} is a cluster of one now, with {} registrations.\n\
             Entries that the lost gateways may not have had, and that count now: {}.\n\
             The old files are in {}.\n\
             Never start {} again with the data directory it had: empty it first.\n",
            config.name,
            recovered.registrations,
            recovered.uncertain,
            recovered.kept_in.display(),
            lost.join(" or "),
        ));
        Ok(0)
    }
}
