//! Commands that one gateway has another write for it: only the leader writes.

use std::future::{Future, ready};
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::network::NoNetwork;
use super::types::{Applied, Batch, Member};

/// A batch that a quorum has on its disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Where it stands in the log.
    pub index: u64,
    /// What became of its commands.
    pub applied: Applied,
}

/// Why a batch was not written, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ForwardError {
    /// It was not taken: that gateway does not lead.
    #[error("it does not lead")]
    NotLeader,
    /// There is no telling: the way there broke, or it took too long.
    #[error("its answer was lost")]
    Lost,
}

/// What [`Forward::forward`] comes to.
pub type Forwarded = Pin<Box<dyn Future<Output = Result<Written, ForwardError>> + Send>>;

/// A way to have commands written by the leader.
pub trait Forward: Send + Sync + 'static {
    /// Asks `leader` to write `batch`. One hop: it does not ask a third.
    fn forward(&self, leader: &Member, batch: &Batch) -> Forwarded;
}

impl Forward for NoNetwork {
    fn forward(&self, _leader: &Member, _batch: &Batch) -> Forwarded {
        Box::pin(ready(Err(ForwardError::NotLeader)))
    }
}
