//! `esdb-gater pub`: publishes one message.

use clap::Args;
use gater_core::sign::{self, Key};
use gater_dist::process::Term;
use gater_dist::term;
use serde::Serialize;

use super::client::Client;
use super::error::CommandError;
use super::output::Output;
use super::target::Common;
use super::term_text;
use crate::{clock, config};

/// The arguments of `pub`.
#[derive(Debug, Args)]
#[command(after_help = "\
JSON texts and keys become binaries, null the atom null. A term is written as in Erlang's shell.

Examples:
  esdb-gater pub esdb_channel_events orders '{\"id\": 1}' --name gater1@10.0.0.1
  esdb-gater pub esdb_channel_events orders '#{id => 1}' --name gater1@10.0.0.1
  ESDB_GATER_SECRET=... esdb-gater pub esdb_channel_alerts disk '#{level => critical}' --sign \\
      --name gater1@10.0.0.1")]
pub struct Publish {
    /// The channel, such as esdb_channel_events
    #[arg(value_name = "CHANNEL")]
    channel: String,
    /// The topic, 1 to 255 bytes
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// The message: JSON, or a term of Erlang
    #[arg(value_name = "JSON|TERM")]
    message: String,
    /// Take the message for a term of Erlang even if it is JSON: "x" is then a list
    #[arg(long)]
    term: bool,
    /// Sign the message, a map, with the secret of the configuration (ESDB_GATER_SECRET)
    #[arg(long)]
    sign: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Published<'a> {
    channel: &'a str,
    topic: &'a str,
    published: bool,
}

impl Publish {
    /// Publishes, and waits until the gateway has the message.
    pub async fn run(self) -> Result<u8, CommandError> {
        let message = match self.term {
            true => term_text::parse_erlang(&self.message),
            false => term_text::parse(&self.message),
        };
        let mut message = message.map_err(|error| {
            CommandError::Usage(format!("the message is neither JSON nor a term: {error}"))
        })?;
        let loaded = config::load(self.common.gateway.clone().flags(), config::environment())?;
        if self.sign {
            if loaded.config.random_secret {
                return Err(CommandError::Usage(
                    "--sign needs the secret: set ESDB_GATER_SECRET, or name the gateway's \
                     configuration with --config"
                        .into(),
                ));
            }
            message = signed(&message, loaded.config.secret_bytes())?;
        }
        let client = Client::connect_to(&loaded.config, self.common.within()).await?;
        let request = term!({publish, (self.topic.as_str()), (message)});
        let published = client.ask(&self.channel, request).await;
        client.close().await;
        published.map_err(advise)?;
        let output = Output::new(self.common.json);
        let (channel, topic) = (self.channel.as_str(), self.topic.as_str());
        match output.is_json() {
            true => output.json(&Published { channel, topic, published: true })?,
            false => output.text("published\n"),
        }
        Ok(0)
    }
}

/// Adds the next step to reasons that have one.
fn advise(error: CommandError) -> CommandError {
    let CommandError::Refused { node, reason } = error else { return error };
    let next = match reason.as_str() {
        "signature_required" => "; next: --sign signs it",
        "invalid_signature" => "; next: use the secret of that gateway, ESDB_GATER_SECRET",
        "message_expired" | "invalid_timestamp" => {
            "; next: `esdb-gater doctor` compares the clocks"
        }
        "rate_limited" => "; next: publish more slowly, or raise channels.NAME.max_rate",
        _ => "",
    };
    CommandError::Refused { node, reason: format!("{reason}{next}") }
}

fn signed(message: &Term, secret: &[u8]) -> Result<Term, CommandError> {
    let refused = |error: &dyn std::error::Error| {
        CommandError::Usage(format!("the message cannot be signed: {error}"))
    };
    let mut out = Vec::new();
    sign::sign(&message.to_vec(), &Key::new(secret), clock::unix_seconds(), &mut out)
        .map_err(|error| refused(&error))?;
    Term::decode(&out).map_err(|error| refused(&error))
}
