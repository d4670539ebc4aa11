//! How far a gateway has come, as far as its disk knows.

use serde::{Deserialize, Serialize};

use super::Replica;

/// What a disk never loses unless it goes back in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The term of the last vote.
    pub term: u64,
    /// Who the last vote was for.
    pub candidate: u64,
    /// The number of entries from the first on that are committed and on the disk.
    pub settled: u64,
}

impl Progress {
    /// Whether one that has come this far has come as far as `other`.
    pub fn covers(&self, other: &Self) -> bool {
        (self.term, self.candidate) >= (other.term, other.candidate)
            && self.settled >= other.settled
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} committed entries and term {}", self.settled, self.term)
    }
}

impl Replica {
    /// How far this gateway had come when it was opened. Entries count whether or not they are
    /// known to be committed.
    pub fn began(&self) -> Progress {
        self.began
    }

    /// How far it has come now.
    pub fn progress(&self) -> Progress {
        self.log.progress()
    }
}
