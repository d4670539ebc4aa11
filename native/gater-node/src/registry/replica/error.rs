//! Errors of the registry.

use std::io;
use std::path::PathBuf;

/// The reason why the registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be created or used.
    #[error("cannot use the data directory {}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// Another process has opened the directory.
    #[error("the data directory {} is in use by another gateway", .0.display())]
    InUse(PathBuf),
    /// A file was not written by this program, or was damaged afterwards.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The damage.
        reason: String,
    },
    /// A program of another version wrote the file.
    #[error("{} has format {found}, this program reads format {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format that the file claims.
        found: u64,
        /// The format that this program reads.
        expected: u64,
    },
    /// Reading or writing a file failed.
    #[error("cannot read or write {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The directory belongs to another member of the cluster.
    #[error(
        "the data directory is that of {name}, a member of a cluster: {own} must have a directory of \
         its own (data_dir)"
    )]
    OtherName {
        /// The name of the member.
        name: String,
        /// The name of this gateway.
        own: String,
    },
    /// The files are undamaged, but their contents do not form a registry.
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
        /// The problem with the contents.
        reason: String,
    },
    /// Consensus did not start.
    #[error("the replicated log does not start: {0}")]
    Raft(String),
}

/// The reason why a command was not carried out, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No majority of gateways accepted the command in time. It may still be carried out later.
    #[error("no majority of gateways can be reached")]
    NoQuorum,
    /// Too many commands are waiting. The command was not accepted.
    #[error("too many registry commands are waiting")]
    Overloaded,
    /// The disk of this gateway is full. It may be carried out when there is room.
    #[error("the disk is full")]
    DiskFull,
    /// The registry was shut down, or stopped itself because its disk failed.
    #[error("the registry is stopped")]
    Stopped,
}

impl ProposeError {
    /// Returns the reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::NoQuorum | Self::Stopped => "no_quorum",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
        }
    }

    /// Returns whether another attempt on the same registry can never succeed.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Stopped)
    }
}
