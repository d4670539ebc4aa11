//! Whether there is room on the disk.
//!
//! A full disk is a state and no failure: what needs room is tried again until there is some. Nothing
//! is lost by that, as what is written to a segment has had its room since the segment was made.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The pause before what found no room is tried again.
pub const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Whether the log waits for room on its disk.
#[derive(Debug, Default)]
pub struct Space {
    full: AtomicBool,
    closing: AtomicBool,
}

/// Whether an error says that there is no room on the disk.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Space {
    /// Whether the log waits for room.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The log at `path` found no room. Returns whether it is to be tried again.
    pub fn found_none(&self, path: &Path, error: &io::Error) -> bool {
        if self.closing.load(Ordering::Relaxed) {
            return false;
        }
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::error!(
                path = %path.display(), %error,
                "the disk is full: registrations are answered disk_full, look-ups and channels go on. \
                 Make room; the gateway goes on by itself"
            );
        }
        true
    }

    /// The log was written.
    pub fn found_some(&self) {
        if self.is_full() && self.full.swap(false, Ordering::Relaxed) {
            tracing::warn!("there is room on the disk again: registrations are carried out");
        }
    }

    /// The log is being closed: nothing waits for room any more.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}
