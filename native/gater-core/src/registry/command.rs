//! What can be asked of the registry, and what comes of it.

use serde::{Deserialize, Serialize};

use gater_term::{Atom, Pid};

/// A request to change the registry, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// `pid` serves `store`. Nothing changes if it does already.
    Register {
        /// What the worker serves.
        store: Atom,
        /// The worker.
        pid: Pid,
    },
    /// `pid` no longer serves `store`. With an epoch, only if it was registered in
    /// that epoch or before: a late request does not undo a newer registration.
    Unregister {
        /// What the worker served.
        store: Atom,
        /// The worker.
        pid: Pid,
        /// The newest registration that is meant; `None` means any.
        epoch: Option<u64>,
    },
    /// `pid` is dead: it serves no store.
    Exited {
        /// The process.
        pid: Pid,
        /// The newest registration that is meant; `None` means any.
        epoch: Option<u64>,
    },
    /// That incarnation of a node is gone for good, with all its processes.
    /// Other incarnations stay.
    Purge {
        /// The node.
        node: Atom,
        /// Its incarnation.
        creation: u32,
    },
    /// As [`Command::Register`], by somebody who has registered it before and has not heard of it
    /// since: refused if it was unregistered meanwhile.
    Reassert {
        /// What the worker serves.
        store: Atom,
        /// The worker.
        pid: Pid,
    },
}

/// One registration that came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A worker is registered.
    Registered {
        /// What it serves.
        store: Atom,
        /// The worker.
        pid: Pid,
        /// Names this registration among all there ever were; newer is greater.
        epoch: u64,
    },
    /// A registration is gone.
    Unregistered {
        /// What the worker served.
        store: Atom,
        /// The worker.
        pid: Pid,
        /// The epoch it was registered in.
        epoch: u64,
    },
}

/// What one command came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The registrations that came or went, in order.
    pub changes: Vec<Change>,
    /// Why nothing was done, if the command could not be carried out.
    pub refused: Option<Refusal>,
}

/// Why a command could not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There are [`MAX_REGISTRATIONS`](super::MAX_REGISTRATIONS) already.
    #[error("the registry is full")]
    Full,
    /// It was unregistered since whoever asks has registered it.
    #[error("the worker was unregistered meanwhile")]
    Unregistered,
}

impl Refusal {
    /// The reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::Full => "overloaded",
            Self::Unregistered => "unregistered",
        }
    }
}
