//! What can go wrong with the registry.

use std::io;
use std::path::PathBuf;

/// Why the registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made or used.
    #[error("cannot use the data directory {}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// Another process has it open.
    #[error("the data directory {} is in use by another gateway", .0.display())]
    InUse(PathBuf),
    /// What is in it was not written by this program, or was damaged since.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It was written by a program of another version.
    #[error("{} has format {found}, this program reads format {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format it says it has.
        found: u64,
        /// The format that is read.
        expected: u64,
    },
    /// Reading or writing failed.
    #[error("cannot read or write {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// It is the directory of another member of the cluster.
    #[error(
        "the data directory is that of {name}, a member of a cluster: {own} must have a directory of \
         its own (data_dir)"
    )]
    OtherName {
        /// The member.
        name: String,
        /// This gateway.
        own: String,
    },
    /// The files are whole, but no registry comes of what is in them.
    #[error(
        "the data directory {} cannot be used: {reason}. Nothing in it was changed. Keep a copy \
         of it. A member of a cluster gets a new one: move the directory away, start the gateway \
         and let it in with `esdb-gater cluster add`. A gateway alone starts with a backup, or \
         with a new directory, in which case its workers have to register again",
        path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Consensus did not start.
    #[error("the replicated log does not start: {0}")]
    Raft(String),
}

/// Why a command was not carried out, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No majority of gateways took it in time. It may still be carried out later.
    #[error("no majority of gateways can be reached")]
    NoQuorum,
    /// Too many commands are waiting already. It was not taken.
    #[error("too many registry commands are waiting")]
    Overloaded,
    /// The registry is shut down, or stopped itself because its disk failed.
    #[error("the registry is stopped")]
    Stopped,
}

impl ProposeError {
    /// The reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::NoQuorum | Self::Stopped => "no_quorum",
            Self::Overloaded => "overloaded",
        }
    }

    /// Whether trying again on the same registry can never help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Stopped)
    }
}
