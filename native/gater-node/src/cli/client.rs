//! A node that is there for as long as a command needs it: it asks a gateway and is gone.

use std::time::Duration;

use gater_dist::process::{Node, Term};
use gater_dist::{Settings, term};
use secrecy::SecretSlice;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::error::CommandError;
use super::target::Common;
use crate::config::{self, Config};
use crate::services::observer;

/// How long the connection may take to end.
const END_WITHIN: Duration = Duration::from_secs(1);

/// A connection to a gateway.
pub struct Client {
    node: Node,
    gateway: String,
    within: Duration,
}

impl Client {
    /// Connects to the gateway that `common` names, by flag, variable or configuration file.
    pub async fn connect(common: &Common) -> Result<Self, CommandError> {
        let loaded = config::load(common.gateway.clone().flags(), config::environment())?;
        Self::connect_to(&loaded.config, common.within()).await
    }

    /// Connects to the gateway of a configuration.
    pub async fn connect_to(config: &Config, within: Duration) -> Result<Self, CommandError> {
        Self::connect_as("ctl", config, within).await
    }

    /// As [`Client::connect_to`], by a name for `purpose`.
    pub async fn connect_as(
        purpose: &str,
        config: &Config,
        within: Duration,
    ) -> Result<Self, CommandError> {
        let node = start(purpose, &config.name, config.cookie.clone())?;
        let client = Self { node, gateway: config.name.clone(), within };
        let connecting = client.node.connect(&client.gateway);
        match timeout(within, connecting).await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(error)) => Err(CommandError::of_send(&client.gateway, error)),
            Err(_) => Err(CommandError::Unreachable {
                node: client.gateway.clone(),
                cause: format!("no connection within {} s", within.as_secs()),
            }),
        }
    }

    /// The node name of the gateway.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The node that asks.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// How long a request may take.
    pub fn within(&self) -> Duration {
        self.within
    }

    /// Calls the process that is registered as `name` on the gateway.
    pub async fn call(&self, name: &str, request: Term) -> Result<Term, CommandError> {
        self.node
            .call((name, self.gateway.as_str()), request, self.within)
            .await
            .map_err(|error| CommandError::of_call(&self.gateway, name, error))
    }

    /// As [`Client::call`], for answers `ok`, `{ok, Result}` and `{error, Reason}`; `ok` alone
    /// is the result `ok`.
    pub async fn ask(&self, name: &str, request: Term) -> Result<Term, CommandError> {
        let answer = self.call(name, request).await?;
        if let Some([kind, value]) = answer.as_tuple() {
            match kind.as_atom() {
                Some("ok") => return Ok(value.clone()),
                Some("error") => {
                    let (node, reason) = (self.gateway.clone(), value.to_string());
                    return Err(CommandError::Refused { node, reason });
                }
                _ => {}
            }
        }
        Ok(answer)
    }

    /// Asks for a section of the gateway's report.
    pub async fn report<T: DeserializeOwned>(
        &self,
        section: &str,
        options: Term,
    ) -> Result<T, CommandError> {
        let section =
            Term::atom(section).map_err(|error| CommandError::Usage(error.to_string()))?;
        let answer = self.ask(observer::NAME, term!({report, (section), (options)})).await?;
        let json = answer.as_binary().unwrap_or_default();
        serde_json::from_slice(json).map_err(|_| CommandError::Answer(self.gateway.clone()))
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.node.shutdown(END_WITHIN).await;
    }
}

/// Starts a node that is called after `purpose`, on the host of `other`, and that nobody can find.
/// Its name is the same for a process and a machine, so that a node that is asked often does not
/// learn a new one every time.
pub fn start(purpose: &str, other: &str, cookie: SecretSlice<u8>) -> Result<Node, CommandError> {
    let mut settings = Settings::new(own_name(purpose, other), cookie);
    settings.start_epmd = false;
    Ok(Node::start_dial_only(settings)?)
}

/// The name of a node for `purpose` that talks to the node `other`.
pub fn own_name(purpose: &str, other: &str) -> String {
    let host = other.split_once('@').map_or("127.0.0.1", |(_, host)| host);
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let machine: String =
        Sha256::digest(machine).iter().take(2).map(|byte| format!("{byte:02x}")).collect();
    format!("esdb_gater_{purpose}_{machine}_{}@{host}", std::process::id())
}
