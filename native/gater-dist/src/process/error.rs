//! The errors of sending and calling.

use std::time::Duration;

use gater_term::Term;

/// The reason why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The name is not a valid name of a process or of a node.
    #[error("{0:?} is no name of a process or node")]
    BadName(String),
    /// The message is longer than the settings allow.
    #[error("a message of {bytes} bytes, limit {limit}")]
    TooLong {
        /// The length of the message in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// There is no connection to the node, and connecting failed.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The peer reads too slowly, so the queue to it is full. Try again later.
    #[error("the queue to the node is full: it takes its data too slowly")]
    Busy,
}

/// The reason why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No answer came in time. A later answer is dropped.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The process does not exist.
    #[error("there is no such process")]
    NoProc,
    /// There is no connection to the node, or it was lost before the answer came.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The process ended before it answered.
    #[error("the process ended: {0}")]
    Exit(Term),
    /// The function that was called by `rpc` failed or is not allowed.
    #[error("badrpc: {0}")]
    BadRpc(Term),
    /// The library cannot decode the answer.
    #[error("the answer cannot be read")]
    BadAnswer,
    /// The request was not sent.
    #[error(transparent)]
    Refused(SendError),
}

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NoConnection(cause) => Self::NoConnection(cause),
            other => Self::Refused(other),
        }
    }
}

impl CallError {
    /// Returns the error for the callers of a process that ended with `reason`.
    pub(super) fn of_exit(reason: Term) -> Self {
        match reason.as_atom() {
            Some("noproc") => Self::NoProc,
            Some("noconnection") => Self::NoConnection("the connection was lost".into()),
            _ => Self::Exit(reason),
        }
    }
}

/// The reason why a name was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The name is not valid, or it is reserved.
    #[error("{0:?} cannot be registered")]
    BadName(String),
    /// Another process has registered the name.
    #[error("{0:?} is registered already")]
    Taken(String),
}
