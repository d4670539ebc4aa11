//! The types that openraft is put together with.

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

/// Names a data directory among all there ever were: drawn at random when it is made.
pub type NodeId = u64;

/// A place in the log.
pub type LogId = openraft::LogId<NodeId>;
/// An entry of the log.
pub type Entry = openraft::Entry<TypeConfig>;
/// The vote of a node in an election.
pub type Vote = openraft::Vote<NodeId>;
/// The members of the cluster as of a place in the log.
pub type Membership = openraft::StoredMembership<NodeId, Member>;
/// What a snapshot is of.
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
/// A fault of the storage. Openraft stops for good when it meets one.
pub type StorageError = openraft::StorageError<NodeId>;
/// The inner part of a [`StorageError`].
pub type StorageIoError = openraft::StorageIOError<NodeId>;

/// A gateway as the others of the cluster reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its node name, `name@host`. Empty for a gateway that has no others.
    pub name: String,
}

/// Commands that share a log entry, and with it one write to the disk. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Which of all batches it is; `None` for one that changes nothing.
    pub origin: Option<Origin>,
    /// The commands.
    pub commands: Arc<[Command]>,
}

/// What became of the commands of an entry: one outcome each, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied(pub Vec<Outcome>);
