//! Orders to a running gateway: `drain` and `log`. They take its key, not the cookie alone.

use clap::Args;
use gater_dist::process::Term;
use gater_dist::term;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::error::CommandError;
use super::output::Output;
use super::target::Common;
use crate::config;
use crate::observe::report::Status;
use crate::services::observer::{self, admin_key};

/// The order to stop.
const DRAIN: &str = "drain";
/// The pause between two looks whether a gateway has ended.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// `drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
It does what SIGTERM does: what is queued is written out for at most 10 s, clients go to another
gateway, and the program ends with code 0. The order is sealed with cluster.key, or with the file
admin.key in the gateway's data directory: run it where one of them can be read.

Examples:
  esdb-gater drain --name gater1@10.0.0.1 --config /etc/esdb-gater/esdb-gater.toml
  sudo -u esdb-gater esdb-gater drain --name gater1@10.0.0.1")]
pub struct Drain {
    #[command(flatten)]
    order: Ordered,
}

/// `log`.
#[derive(Debug, Args)]
#[command(after_help = "\
The filter counts until the gateway is started again or reads its configuration (SIGHUP). The order
is sealed with cluster.key, or with the file admin.key in the gateway's data directory.

Examples:
  esdb-gater log gater_dist=debug,info --name gater1@10.0.0.1
  esdb-gater log info --name gater1@10.0.0.1")]
pub struct Log {
    /// What is logged: a level, or a filter such as gater_dist=debug,info
    #[arg(value_name = "FILTER")]
    filter: String,
    #[command(flatten)]
    order: Ordered,
}

#[derive(Debug, Args)]
struct Ordered {
    /// The data directory of the gateway, where its key is [default: as of the gateway itself]
    #[arg(long, value_name = "DIR", help_heading = "Connection")]
    data_dir: Option<std::path::PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Done<'a> {
    node: &'a str,
    done: &'a str,
}

impl Ordered {
    /// Gives an order, and returns the connection to whom it was given.
    async fn give(&self, order: &str) -> Result<Client, CommandError> {
        let mut flags = self.common.gateway.clone().flags();
        flags.data_dir.clone_from(&self.data_dir);
        let loaded = config::load(flags, config::environment())?;
        let key = admin_key::AdminKey::find(&loaded.config).map_err(|error| {
            let place = loaded.config.data_dir.join(admin_key::FILE);
            CommandError::Failed(format!(
                "the key of the gateway cannot be read: {}: {error}\n  next: run this on its \
                 machine as its user, with its --config or --data-dir, or give it cluster.key",
                place.display()
            ))
        })?;
        let number = getrandom::u64().map_err(std::io::Error::from)?;
        let purpose = format!("order_{number:x}");
        let client = Client::connect_as(&purpose, &loaded.config, self.common.within()).await?;
        let status: Status = client.report("status", term!(#{})).await?;
        let seal = key.seal(&admin_key::Sealed {
            gateway: client.gateway(),
            creation: status.creation,
            caller: client.node().name().as_str(),
            order,
        });
        let request = term!({admin, (order), (Term::binary(seal))});
        match client.ask(observer::NAME, request).await {
            Err(CommandError::Refused { node, reason }) if reason == "not_allowed" => {
                Err(CommandError::Refused {
                    node,
                    reason: "the key is not its own\n  next: give its own --data-dir, or its \
                             cluster.key"
                        .into(),
                })
            }
            // It may be gone before its answer is read.
            Err(CommandError::Unreachable { .. }) if order == DRAIN => Ok(client),
            answer => answer.map(|_| client),
        }
    }

    fn print(&self, client: &Client, done: &str) -> Result<u8, CommandError> {
        let output = Output::new(self.common.json);
        match output.is_json() {
            true => output.json(&Done { node: client.gateway(), done })?,
            false => output.text(&format!("{}: {done}\n", client.gateway())),
        }
        Ok(0)
    }
}

impl Log {
    /// Changes what is logged.
    pub async fn run(self) -> Result<u8, CommandError> {
        let client = self.order.give(&format!("log {}", self.filter)).await?;
        let code = self.order.print(&client, &format!("logs {} from now on", self.filter));
        client.close().await;
        code
    }
}

impl Drain {
    /// Has the gateway end, and waits until its connection does.
    pub async fn run(self) -> Result<u8, CommandError> {
        let client = self.order.give(DRAIN).await?;
        let until = Instant::now() + client.within() + std::time::Duration::from_secs(10);
        while !client.node().nodes().is_empty() {
            if Instant::now() > until {
                return Err(CommandError::Failed(format!(
                    "{} was told to stop and has not closed its connection yet\n  next: look at \
                     its log",
                    client.gateway()
                )));
            }
            sleep(LOOK_EVERY).await;
        }
        let code = self.order.print(&client, "drained and stopped");
        client.close().await;
        code
    }
}
