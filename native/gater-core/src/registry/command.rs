//! The commands of the registry and their outcomes.

use serde::{Deserialize, Serialize};

use gater_term::{Atom, Pid};

/// A request to change the registry, as it is written to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Registers `pid` as a worker of `store`. The command changes nothing if it is registered
    /// already.
    Register {
        /// The store that the worker serves.
        store: Atom,
        /// The worker.
        pid: Pid,
    },
    /// Unregisters `pid` as a worker of `store`. With an epoch, it applies only to a registration
    /// of that epoch or an earlier one, so that a late request does not undo a newer registration.
    Unregister {
        /// The store that the worker served.
        store: Atom,
        /// The worker.
        pid: Pid,
        /// The newest epoch to which the command applies; `None` means any.
        epoch: Option<u64>,
    },
    /// Unregisters the dead process `pid` from all its stores.
    Exited {
        /// The process.
        pid: Pid,
        /// The newest epoch to which the command applies; `None` means any.
        epoch: Option<u64>,
    },
    /// Unregisters all processes of one incarnation of a node, which is gone for good. Other
    /// incarnations are unaffected.
    Purge {
        /// The node.
        node: Atom,
        /// The incarnation of the node.
        creation: u32,
    },
    /// Does the same as [`Command::Register`], for a requester that has registered the worker
    /// before and has been disconnected since. It is refused if the worker was unregistered in
    /// between.
    Reassert {
        /// The store that the worker serves.
        store: Atom,
        /// The worker.
        pid: Pid,
    },
}

/// One registration that was added or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A worker was registered.
    Registered {
        /// The store that the worker serves.
        store: Atom,
        /// The worker.
        pid: Pid,
        /// The epoch of the registration, which is unique among all registrations ever made; newer
        /// registrations have greater epochs.
        epoch: u64,
    },
    /// A registration was removed.
    Unregistered {
        /// The store that the worker served.
        store: Atom,
        /// The worker.
        pid: Pid,
        /// The epoch in which the worker was registered.
        epoch: u64,
    },
}

/// The outcome of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The registrations that were added or removed, in order.
    pub changes: Vec<Change>,
    /// The reason why the command was refused, if it was.
    pub refused: Option<Refusal>,
}

/// The reason why a command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The registry holds [`MAX_REGISTRATIONS`](super::MAX_REGISTRATIONS) already.
    #[error("the registry is full")]
    Full,
    /// The worker was unregistered after the requester had registered it.
    #[error("the worker was unregistered meanwhile")]
    Unregistered,
}

impl Refusal {
    /// Returns the reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::Full => "overloaded",
            Self::Unregistered => "unregistered",
        }
    }
}
