//! The progress of a gateway according to its disk.

use serde::{Deserialize, Serialize};

use super::Replica;

/// The state that a disk never loses unless it goes back in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The term of the last vote.
    pub term: u64,
    /// The candidate of the last vote.
    pub candidate: u64,
    /// The number of entries from the first on that are committed and on the disk.
    pub settled: u64,
}

impl Progress {
    /// Returns whether this progress includes `other`.
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
    /// Returns the progress of this gateway when it was opened. Entries count whether or not they
    /// are known to be committed.
    pub fn began(&self) -> Progress {
        self.began
    }

    /// Returns the present progress.
    pub fn progress(&self) -> Progress {
        self.log.progress()
    }
}
