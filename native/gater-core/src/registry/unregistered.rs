//! Recent deliberate unregistrations, which a gateway that was disconnected must not undo.

use std::collections::BTreeMap;

use gater_term::{Atom, Pid};

/// The greatest number of pairs that are remembered. All gateways must agree on it.
pub(super) const MAX_UNREGISTERED: usize = 4096;

/// The pairs of store and worker that were unregistered most recently.
///
/// Invariants: both tables hold the same pairs; no worker is kept without a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unregistered {
    by_pid: BTreeMap<Pid, BTreeMap<Atom, u64>>,
    by_epoch: BTreeMap<u64, (Atom, Pid)>,
}

impl Unregistered {
    /// Adds a pair, and forgets the pair that was unregistered longest ago if there are too many.
    /// The epoch is raised if it is not greater than the last.
    pub fn add(&mut self, epoch: u64, store: &Atom, pid: &Pid) {
        self.remove(store, pid);
        let last = self.by_epoch.last_key_value().map_or(0, |(epoch, _)| epoch.saturating_add(1));
        let epoch = epoch.max(last);
        self.by_pid.entry(pid.clone()).or_default().insert(store.clone(), epoch);
        self.by_epoch.insert(epoch, (store.clone(), pid.clone()));
        if self.by_epoch.len() > MAX_UNREGISTERED
            && let Some((_, (store, pid))) = self.by_epoch.pop_first()
        {
            self.remove(&store, &pid);
        }
    }

    /// Forgets a pair that is registered again.
    pub fn remove(&mut self, store: &Atom, pid: &Pid) {
        let Some(stores) = self.by_pid.get_mut(pid) else { return };
        if let Some(epoch) = stores.remove(store) {
            self.by_epoch.remove(&epoch);
        }
        if stores.is_empty() {
            self.by_pid.remove(pid);
        }
    }

    /// Forgets all pairs of a worker that is dead.
    pub fn remove_pid(&mut self, pid: &Pid) {
        for epoch in self.by_pid.remove(pid).unwrap_or_default().values() {
            self.by_epoch.remove(epoch);
        }
    }

    /// Returns whether the pair was unregistered and has not been registered since.
    pub fn contains(&self, store: &Atom, pid: &Pid) -> bool {
        self.by_pid.get(pid).is_some_and(|stores| stores.contains_key(store))
    }

    /// Returns all pairs with their epochs, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &Atom, &Pid)> {
        self.by_epoch.iter().map(|(epoch, (store, pid))| (*epoch, store, pid))
    }
}
