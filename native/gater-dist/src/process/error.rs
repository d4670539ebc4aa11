//! What can go wrong when a program sends or calls.

use std::time::Duration;

use gater_term::Term;

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The name of the process or of its node is none.
    #[error("{0:?} is no name of a process or node")]
    BadName(String),
    /// The message is longer than the settings allow.
    #[error("a message of {bytes} bytes, limit {limit}")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no connection to the node, and none could be made.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The peer takes its data too slowly: too much waits for it. Try again later.
    #[error("the queue to the node is full: it takes its data too slowly")]
    Busy,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No answer came in time. One that comes later is dropped.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// There is no such process.
    #[error("there is no such process")]
    NoProc,
    /// There is no connection to its node, or it was lost before the answer came.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The process ended before it answered.
    #[error("the process ended: {0}")]
    Exit(Term),
    /// The function that was called by `rpc` failed, or must not be called.
    #[error("badrpc: {0}")]
    BadRpc(Term),
    /// The answer is no term that this library decodes.
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
    /// What the end of a process by `reason` means for its callers.
    pub(super) fn of_exit(reason: Term) -> Self {
        match reason.as_atom() {
            Some("noproc") => Self::NoProc,
            Some("noconnection") => Self::NoConnection("the connection was lost".into()),
            _ => Self::Exit(reason),
        }
    }
}

/// Why a name was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It is no name, or one that is reserved.
    #[error("{0:?} cannot be registered")]
    BadName(String),
    /// Another process has it.
    #[error("{0:?} is registered already")]
    Taken(String),
}
