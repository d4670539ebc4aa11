//! The registrations of all gateways.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::command::{Change, Command, Outcome, Refusal};
use super::stores::Stores;
use super::unregistered::Unregistered;
use gater_term::{Atom, Pid};

/// The greatest number of registrations. All gateways must agree on it, since it affects the
/// outcome of commands in the log.
pub const MAX_REGISTRATIONS: usize = 1_000_000;

/// The registrations of workers for stores. Every operation takes time logarithmic in the number of
/// registrations, times the number of registrations that it changes.
///
/// Invariants: the three tables hold the same registrations; no store, process or incarnation is
/// kept without a registration; no epoch is used twice, and `last_epoch` is the greatest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    stores: BTreeMap<Atom, BTreeMap<u64, Pid>>,
    pids: BTreeMap<Pid, Stores>,
    /// The number of registrations by node and creation.
    incarnations: BTreeMap<(Atom, u32), usize>,
    len: usize,
    last_epoch: u64,
    pub(super) unregistered: Unregistered,
}

impl State {
    /// Applies the commands of the log entry at `index` and returns one outcome for each.
    ///
    /// The epoch of a registration is `index << 16 | position in the batch`, or one more than the
    /// last epoch if that is not greater. It is therefore unique whatever the size of a batch.
    pub fn apply(&mut self, index: u64, batch: &[Command]) -> Vec<Outcome> {
        let first = index.saturating_mul(1 << 16);
        batch
            .iter()
            .zip(0_u64..)
            .map(|(command, position)| self.apply_one(first.saturating_add(position), command))
            .collect()
    }

    fn apply_one(&mut self, epoch: u64, command: &Command) -> Outcome {
        let mut outcome = Outcome::default();
        match command {
            Command::Reassert { store, pid } if self.unregistered.contains(store, pid) => {
                outcome.refused = Some(Refusal::Unregistered);
            }
            Command::Register { store, pid } | Command::Reassert { store, pid } => {
                let known = self.epoch(store.as_str(), pid).is_some();
                if !known && self.len >= MAX_REGISTRATIONS {
                    outcome.refused = Some(Refusal::Full);
                } else if !known {
                    let epoch = epoch.max(self.last_epoch.saturating_add(1));
                    outcome.changes.push(self.insert(store, pid, epoch));
                }
            }
            Command::Unregister { store, pid, epoch: up_to } => {
                outcome.changes.extend(self.remove(store, pid, *up_to));
                // A disconnected requester that has registered the worker must not do so again.
                if self.epoch(store.as_str(), pid).is_none() {
                    self.unregistered.add(epoch, store, pid);
                }
            }
            Command::Exited { pid, epoch } => {
                self.remove_pid(pid, *epoch, &mut outcome.changes);
                if epoch.is_none() {
                    self.unregistered.remove_pid(pid);
                }
            }
            Command::Purge { node, creation } => {
                let gone: Vec<_> =
                    self.pids_of(node).filter(|pid| pid.creation == *creation).cloned().collect();
                for pid in gone {
                    self.remove_pid(&pid, None, &mut outcome.changes);
                }
            }
        }
        outcome
    }

    /// Returns the workers of a store with their epochs, in the order of registration.
    pub fn workers(&self, store: &str) -> impl Iterator<Item = (u64, &Pid)> {
        self.stores.get(store).into_iter().flatten().map(|(epoch, pid)| (*epoch, pid))
    }

    /// Returns the stores that have workers, by name.
    pub fn stores(&self) -> impl Iterator<Item = &Atom> {
        self.stores.keys()
    }

    /// Returns the stores that a process serves, with the epochs of its registrations.
    pub fn stores_of(&self, pid: &Pid) -> impl Iterator<Item = (&Atom, u64)> {
        self.pids.get(pid).into_iter().flat_map(Stores::iter)
    }

    /// Returns all registrations as store, epoch and worker, ordered by store and then by
    /// registration.
    pub fn iter(&self) -> impl Iterator<Item = (&Atom, u64, &Pid)> {
        self.stores.iter().flat_map(|(store, workers)| {
            workers.iter().map(move |(epoch, pid)| (store, *epoch, pid))
        })
    }

    /// Returns the incarnations of nodes that have workers, as node and creation.
    pub fn nodes(&self) -> impl Iterator<Item = (&Atom, u32)> {
        self.incarnations.keys().map(|(node, creation)| (node, *creation))
    }

    /// Returns the workers on all incarnations of a node.
    pub fn pids_of(&self, node: &Atom) -> impl Iterator<Item = &Pid> {
        let first = Pid { node: node.clone(), id: 0, serial: 0, creation: 0 };
        let last = Pid { node: node.clone(), id: u32::MAX, serial: u32::MAX, creation: u32::MAX };
        self.pids.range(first..=last).map(|(pid, _)| pid)
    }

    /// Returns the epoch in which `pid` was registered for `store`, or `None` if it is not
    /// registered.
    pub fn epoch(&self, store: &str, pid: &Pid) -> Option<u64> {
        self.pids.get(pid)?.epoch(store)
    }

    /// Returns the number of registrations.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the greatest epoch ever assigned, or 0 before the first.
    pub fn last_epoch(&self) -> u64 {
        self.last_epoch
    }

    /// Raises the last epoch to its value at the time of a snapshot.
    pub(super) fn set_last_epoch(&mut self, epoch: u64) {
        self.last_epoch = self.last_epoch.max(epoch);
    }

    /// Adds a registration that does not exist, in an epoch greater than all before.
    pub(super) fn insert(&mut self, store: &Atom, pid: &Pid, epoch: u64) -> Change {
        // Names that the registry holds already are shared and not stored once per registration.
        let store = self.stores.get_key_value(store).map_or(store, |(known, _)| known).clone();
        let incarnation = (pid.node.clone(), pid.creation);
        let pid = match self.incarnations.get_key_value(&incarnation) {
            Some(((node, _), _)) => Pid { node: node.clone(), ..pid.clone() },
            None => pid.clone(),
        };
        self.stores.entry(store.clone()).or_default().insert(epoch, pid.clone());
        match self.pids.entry(pid.clone()) {
            Entry::Occupied(mut stores) => stores.get_mut().insert(store.clone(), epoch),
            Entry::Vacant(place) => {
                place.insert(Stores::One(store.clone(), epoch));
            }
        }
        *self.incarnations.entry((pid.node.clone(), pid.creation)).or_default() += 1;
        self.len += 1;
        self.last_epoch = epoch;
        self.unregistered.remove(&store, &pid);
        Change::Registered { store, pid, epoch }
    }

    fn remove(&mut self, store: &Atom, pid: &Pid, up_to: Option<u64>) -> Option<Change> {
        let epoch = self.epoch(store.as_str(), pid)?;
        if up_to.is_some_and(|up_to| epoch > up_to) {
            return None;
        }
        if let Some((pid, stores)) = self.pids.remove_entry(pid)
            && let Some(rest) = stores.without(store.as_str())
        {
            self.pids.insert(pid, rest);
        }
        if let Some(workers) = self.stores.get_mut(store) {
            workers.remove(&epoch);
            if workers.is_empty() {
                self.stores.remove(store);
            }
        }
        if let Entry::Occupied(mut count) =
            self.incarnations.entry((pid.node.clone(), pid.creation))
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.len -= 1;
        Some(Change::Unregistered { store: store.clone(), pid: pid.clone(), epoch })
    }

    fn remove_pid(&mut self, pid: &Pid, up_to: Option<u64>, changes: &mut Vec<Change>) {
        let stores: Vec<_> = self.stores_of(pid).map(|(store, _)| store.clone()).collect();
        changes.extend(stores.iter().filter_map(|store| self.remove(store, pid, up_to)));
    }
}

#[cfg(test)]
mod tests;
