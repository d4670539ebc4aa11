//! Why a command has no answer.

use std::io;

use gater_dist::Chain;
use gater_dist::process::{CallError, SendError};

use super::{EXIT_FAILURE, EXIT_USAGE};
use crate::config::ConfigError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An argument cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused something.
    #[error("the operating system refused what is needed")]
    System(#[from] io::Error),
    /// The node that asks could not be started.
    #[error("cannot start a node to ask with")]
    Start(#[from] gater_dist::StartError),
    /// There is no connection to the gateway.
    #[error(
        "cannot reach {node}: {cause}\n  next: `esdb-gater doctor {node}` tells which step fails and what mends it"
    )]
    Unreachable {
        /// The gateway.
        node: String,
        /// Why.
        cause: String,
    },
    /// The gateway does not answer.
    #[error(
        "{node} does not answer within {seconds} s\n  next: `esdb-gater doctor {node}` measures the round trip; --timeout allows more"
    )]
    Silent {
        /// The gateway.
        node: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The node is no gateway, or one that does not know the request.
    #[error(
        "{node} does not know {what}: it is no gateway, or one of an older version\n  next: `esdb-gater doctor {node}` tells what runs there"
    )]
    Unknown {
        /// The node.
        node: String,
        /// What was asked.
        what: String,
    },
    /// The gateway says no, for a reason.
    #[error("{node} refuses: {reason}")]
    Refused {
        /// The gateway.
        node: String,
        /// Its reason.
        reason: String,
    },
    /// The answer is none that is known.
    #[error("the answer of {0} is not understood: it may be of another version")]
    Answer(String),
    /// Something that was to hold does not.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    /// The exit code that goes with it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }

    /// The whole of it, for people.
    pub fn text(&self) -> String {
        Chain(self).to_string()
    }

    /// What a failed call of `what` on `node` means.
    pub fn of_call(node: &str, what: &str, error: CallError) -> Self {
        let node = node.to_owned();
        match error {
            CallError::Timeout(within) => Self::Silent { node, seconds: within.as_secs() },
            CallError::NoProc => Self::Unknown { node, what: what.to_owned() },
            CallError::NoConnection(cause) => Self::Unreachable { node, cause },
            CallError::BadAnswer => Self::Answer(node),
            other => Self::Refused { node, reason: other.to_string() },
        }
    }

    /// What a failed attempt to connect to `node` means.
    pub fn of_send(node: &str, error: SendError) -> Self {
        let cause = match error {
            SendError::NoConnection(cause) => cause,
            other => other.to_string(),
        };
        Self::Unreachable { node: node.to_owned(), cause }
    }
}
