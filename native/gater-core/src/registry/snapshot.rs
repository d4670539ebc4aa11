//! The form in which the registry is stored and sent.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::state::{MAX_REGISTRATIONS, State};
use super::unregistered::MAX_UNREGISTERED;
use gater_term::{Atom, Pid};

/// The registry at one index of the log. Equal states have equal snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The version of this form, which is [`Snapshot::VERSION`].
    pub version: u32,
    /// The greatest epoch assigned so far.
    pub last_epoch: u64,
    /// The epoch, store and worker of every registration, by epoch.
    pub registrations: Vec<(u64, Atom, Pid)>,
    /// The epoch, store and worker of the most recent unregistrations, by epoch.
    pub unregistered: Vec<(u64, Atom, Pid)>,
}

impl Snapshot {
    /// The version that is written, and the only version that is read.
    pub const VERSION: u32 = 2;
}

/// The reason why a snapshot cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A program of another version wrote the snapshot.
    #[error("the registry snapshot has version {found}, this program reads {}", Snapshot::VERSION)]
    Version {
        /// The version that the snapshot claims.
        found: u32,
    },
    /// Epochs do not increase or go beyond the last one, or a registration occurs twice.
    #[error("the registry snapshot contradicts itself")]
    Inconsistent,
    /// The snapshot has more registrations than [`MAX_REGISTRATIONS`].
    #[error("the registry snapshot has too many registrations")]
    TooLarge,
}

impl State {
    /// Returns a snapshot, from which the state can be restored completely.
    pub fn snapshot(&self) -> Snapshot {
        let mut registrations: Vec<_> =
            self.iter().map(|(store, epoch, pid)| (epoch, store.clone(), pid.clone())).collect();
        registrations.sort_unstable_by_key(|(epoch, _, _)| *epoch);
        let unregistered = self.unregistered.iter();
        let unregistered =
            unregistered.map(|(epoch, store, pid)| (epoch, store.clone(), pid.clone())).collect();
        let (version, last_epoch) = (Snapshot::VERSION, self.last_epoch());
        Snapshot { version, last_epoch, registrations, unregistered }
    }

    /// Returns the state of which a snapshot was taken.
    pub fn restore(snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        if snapshot.version != Snapshot::VERSION {
            return Err(SnapshotError::Version { found: snapshot.version });
        }
        if snapshot.registrations.len() > MAX_REGISTRATIONS
            || snapshot.unregistered.len() > MAX_UNREGISTERED
        {
            return Err(SnapshotError::TooLarge);
        }
        let mut state = Self::default();
        for (epoch, store, pid) in &snapshot.registrations {
            if *epoch <= state.last_epoch() || state.epoch(store.as_str(), pid).is_some() {
                return Err(SnapshotError::Inconsistent);
            }
            state.insert(store, pid, *epoch);
        }
        if state.last_epoch() > snapshot.last_epoch {
            return Err(SnapshotError::Inconsistent);
        }
        state.set_last_epoch(snapshot.last_epoch);
        for (epoch, store, pid) in &snapshot.unregistered {
            let last = state.unregistered.iter().next_back();
            if last.is_some_and(|(last, ..)| last >= *epoch)
                || state.unregistered.contains(store, pid)
                || state.epoch(store.as_str(), pid).is_some()
            {
                return Err(SnapshotError::Inconsistent);
            }
            state.unregistered.add(*epoch, store, pid);
        }
        Ok(state)
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.snapshot().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let snapshot = Snapshot::deserialize(deserializer)?;
        Self::restore(&snapshot).map_err(serde::de::Error::custom)
    }
}
