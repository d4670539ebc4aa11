//! Forwards commands to the leader, which is the only gateway that writes.

use std::future::{Future, ready};
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::network::NoNetwork;
use super::types::{Applied, Batch, Member};

/// A batch that a quorum has written to its disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The index of the batch in the log.
    pub index: u64,
    /// The outcomes of its commands.
    pub applied: Applied,
}

/// The reason why a batch was not written, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ForwardError {
    /// The batch was not accepted, since that gateway does not lead.
    #[error("it does not lead")]
    NotLeader,
    /// The outcome is unknown, since the connection broke or the answer took too long.
    #[error("its answer was lost")]
    Lost,
}

/// The future of [`Forward::forward`].
pub type Forwarded = Pin<Box<dyn Future<Output = Result<Written, ForwardError>> + Send>>;

/// Forwards commands to the leader.
pub trait Forward: Send + Sync + 'static {
    /// Asks `leader` to write `batch`. The receiver does not forward it again.
    fn forward(&self, leader: &Member, batch: &Batch) -> Forwarded;
}

impl Forward for NoNetwork {
    fn forward(&self, _leader: &Member, _batch: &Batch) -> Forwarded {
        Box::pin(ready(Err(ForwardError::NotLeader)))
    }
}
