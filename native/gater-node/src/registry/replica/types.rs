//! The types with which openraft is instantiated.

use std::io::Cursor;
use std::sync::Arc;

use gater_core::registry::{Command, Origin, Outcome};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Raft over batches of registry commands.
    pub TypeConfig:
        D = Batch,
        R = Applied,
        NodeId = NodeId,
        Node = Member,
        SnapshotData = Cursor<Vec<u8>>,
);

/// The id of a data directory, which is drawn at random when the directory is created.
pub type NodeId = u64;

/// A position in the log.
pub type LogId = openraft::LogId<NodeId>;
/// An entry of the log.
pub type Entry = openraft::Entry<TypeConfig>;
/// The vote of a node in an election.
pub type Vote = openraft::Vote<NodeId>;
/// The members of the cluster as of a position in the log.
pub type Membership = openraft::StoredMembership<NodeId, Member>;
/// The position and the members of which a snapshot was taken.
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
/// A failure of the storage. Openraft stops for good when it meets one.
pub type StorageError = openraft::StorageError<NodeId>;
/// The inner part of a [`StorageError`].
pub type StorageIoError = openraft::StorageIOError<NodeId>;

/// A gateway as other members of the cluster know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node name, `name@host`. It is empty for a gateway without others.
    pub name: String,
}

/// Commands that share a log entry and therefore one write to the disk. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The identifier of the batch; `None` for a batch that changes nothing.
    pub origin: Option<Origin>,
    /// The commands.
    pub commands: Arc<[Command]>,
}

/// The outcomes of the commands of an entry, one for each command in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied(pub Vec<Outcome>);
