//! The registry in memory, to which the log is applied.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use gater_core::registry::{Change, Proposers, State};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, RaftSnapshotBuilder, Snapshot};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::OnChange;
use super::departed::Departed;
use super::snapshot::{self, Content, SnapshotError, SnapshotFile, Stored};
use super::types::{
    Applied, Batch, Entry, LogId, Membership, SnapshotMeta, StorageError, StorageIoError,
    TypeConfig,
};

/// The state machine. Clones are handles of the same one.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    core: RwLock<Core>,
    on_change: OnChange,
    file: Arc<SnapshotFile>,
    /// The index of the last entry that was applied and whose changes were reported.
    told: watch::Sender<u64>,
}

#[derive(Default)]
struct Core {
    state: State,
    proposers: Proposers,
    departed: Departed,
    applied: Option<LogId>,
    membership: Membership,
    /// Whether changes are reported.
    live: bool,
}

impl Machine {
    /// Returns the machine in the state of `stored`, or empty. It reports no changes until
    /// [`Machine::go_live`] is called.
    pub fn new(
        file: SnapshotFile,
        stored: Option<Stored>,
        on_change: OnChange,
    ) -> Result<Self, SnapshotError> {
        let core = match stored {
            None => Core::default(),
            Some(stored) => {
                let content = snapshot::restore(&stored.body)?;
                Core {
                    state: content.registry,
                    proposers: content.proposers,
                    departed: content.departed,
                    applied: stored.meta.last_log_id,
                    membership: stored.meta.last_membership,
                    live: false,
                }
            }
        };
        let told = watch::Sender::new(core.applied.map_or(0, |id| id.index));
        let shared = Shared { core: RwLock::new(core), on_change, file: Arc::new(file), told };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reports changes from here on: each change is either in the state that `restored` reads now
    /// or is reported later. Nothing is applied during the call.
    pub fn go_live(&self, restored: impl FnOnce(&State)) {
        let mut core = self.shared.core.write();
        restored(&core.state);
        core.live = true;
    }

    /// Waits until the entry at `index` is applied on this gateway and its changes were reported.
    pub async fn has_told(&self, index: u64) {
        // The sender lives as long as this machine, so this does not fail.
        let _ = self.shared.told.subscribe().wait_for(|told| *told >= index).await;
    }

    /// Calls `look` with the registry.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared.core.read().state)
    }

    /// Returns whether the gateway `name` was removed from the cluster and has not returned.
    pub fn has_departed(&self, name: &str) -> bool {
        self.shared.core.read().departed.contains(name)
    }

    /// All that a snapshot taken now would hold, encoded.
    pub(super) fn body(&self) -> Result<Vec<u8>, SnapshotError> {
        let core = self.shared.core.read();
        snapshot::body(&Content {
            registry: core.state.snapshot(),
            proposers: core.proposers.clone(),
            departed: core.departed.clone(),
        })
    }

    /// Returns the last entry that was applied.
    pub fn applied(&self) -> Option<LogId> {
        self.shared.core.read().applied
    }
}

impl Core {
    /// Applies a batch unless it was applied before.
    fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        let Some(origin) = batch.origin else {
            return Applied(self.state.apply(index, &batch.commands));
        };
        if let Some(outcomes) = self.proposers.earlier(origin, batch.commands.len()) {
            return Applied(outcomes);
        }
        let outcomes = self.state.apply(index, &batch.commands);
        self.proposers.carried_out(origin, index, &outcomes);
        Applied(outcomes)
    }

    fn change_members(&mut self, now: Membership) {
        let before = std::mem::replace(&mut self.membership, now);
        self.departed.changed(&names(&before), &names(&self.membership));
    }
}

fn names(membership: &Membership) -> BTreeSet<&str> {
    membership.nodes().map(|(_, member)| member.name.as_str()).collect()
}

impl Shared {
    fn tell_index(&self) {
        let index = self.core.read().applied.map_or(0, |id| id.index);
        self.told.send_replace(index);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let core = self.shared.core.read();
        Ok((core.applied, core.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut results = Vec::new();
        let live = {
            let mut core = self.shared.core.write();
            for entry in entries {
                let applied = match entry.payload {
                    EntryPayload::Blank => Applied::default(),
                    EntryPayload::Normal(batch) => core.apply(entry.log_id.index, &batch),
                    EntryPayload::Membership(members) => {
                        core.change_members(Membership::new(Some(entry.log_id), members));
                        Applied::default()
                    }
                };
                core.applied = Some(entry.log_id);
                results.push(applied);
            }
            core.live
        };
        // The lock is released, since receivers of the changes may read the state.
        if live {
            // Messages that these changes cause are written together.
            let _cork = gater_dist::cork();
            for outcome in results.iter().flat_map(|applied| &applied.0) {
                if !outcome.changes.is_empty() {
                    (self.shared.on_change)(&outcome.changes);
                }
            }
        }
        self.shared.tell_index();
        Ok(results)
    }

    /// Takes the state at once, and leaves the encoding to the builder.
    async fn get_snapshot_builder(&mut self) -> Builder {
        let core = self.shared.core.read();
        let snapshot_id = core.applied.map_or_else(|| "empty".into(), |id| id.to_string());
        Builder {
            shared: self.shared.clone(),
            meta: SnapshotMeta {
                last_log_id: core.applied,
                last_membership: core.membership.clone(),
                snapshot_id,
            },
            content: Content {
                registry: core.state.snapshot(),
                proposers: core.proposers.clone(),
                departed: core.departed.clone(),
            },
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let signature = meta.signature();
        let body = snapshot.into_inner();
        let content = snapshot::restore(&body).map_err(|error| {
            StorageIoError::read_snapshot(Some(signature.clone()), AnyError::new(&error))
        })?;
        self.shared
            .file
            .save_when_there_is_room(meta, &Arc::new(body))
            .await
            .map_err(|error| StorageIoError::write_snapshot(Some(signature), error))?;

        let (live, changes) = {
            let mut core = self.shared.core.write();
            let changes =
                if core.live { differences(&core.state, &content.registry) } else { Vec::new() };
            core.state = content.registry;
            core.proposers = content.proposers;
            core.departed = content.departed;
            core.applied = meta.last_log_id;
            core.membership = meta.last_membership.clone();
            (core.live, changes)
        };
        if live && !changes.is_empty() {
            (self.shared.on_change)(&changes);
        }
        self.shared.tell_index();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let shared = self.shared.clone();
        let stored = tokio::task::spawn_blocking(move || shared.file.read())
            .await
            .map_err(|error| AnyError::new(&error))
            .and_then(|stored| stored.map_err(|error| AnyError::new(&error)))
            .map_err(|error| StorageIoError::read_snapshot(None, error))?;
        Ok(stored.map(|stored| Snapshot {
            meta: stored.meta,
            snapshot: Box::new(Cursor::new(stored.body)),
        }))
    }
}

/// Writes a snapshot of one moment.
pub struct Builder {
    shared: Arc<Shared>,
    meta: SnapshotMeta,
    content: Content<gater_core::registry::Snapshot>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let (shared, meta) = (self.shared.clone(), self.meta.clone());
        let empty = gater_core::registry::Snapshot {
            version: self.content.registry.version,
            last_epoch: 0,
            registrations: Vec::new(),
            unregistered: Vec::new(),
        };
        let content = Content {
            registry: std::mem::replace(&mut self.content.registry, empty),
            proposers: std::mem::take(&mut self.content.proposers),
            departed: std::mem::take(&mut self.content.departed),
        };
        let signature = meta.signature();
        let failed = |error| StorageIoError::write_snapshot(Some(signature.clone()), error);
        let body = tokio::task::spawn_blocking(move || snapshot::body(&content))
            .await
            .map_err(|error| AnyError::new(&error))
            .and_then(|body| body.map_err(|error| AnyError::new(&error)))
            .map_err(failed)?;
        let body = Arc::new(body);
        shared.file.save_when_there_is_room(&meta, &body).await.map_err(failed)?;
        let body = Arc::unwrap_or_clone(body);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(body)) })
    }
}

/// Returns the registrations that were removed and added between two states.
fn differences(before: &State, after: &State) -> Vec<Change> {
    let (mut gone, mut came) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    // Both iterate by store and epoch, and an epoch belongs to one registration only.
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.cmp(new),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some((store, epoch, pid)), None) => {
                gone.push(Change::Unregistered { store: store.clone(), pid: pid.clone(), epoch });
            }
            (None, Some((store, epoch, pid))) => {
                came.push(Change::Registered { store: store.clone(), pid: pid.clone(), epoch });
            }
            _ => {}
        }
    }
    // Additions are reported in the order of registration, as they were before.
    came.sort_by_key(|change| match change {
        Change::Registered { epoch, .. } | Change::Unregistered { epoch, .. } => *epoch,
    });
    gone.extend(came);
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use gater_core::registry::Command;
    use gater_term::{Atom, Pid};

    fn register(store: &str, id: u32) -> Command {
        let node = Atom::new("a@h").unwrap();
        let pid = Pid { node, id, serial: 0, creation: 1 };
        Command::Register { store: Atom::new(store).unwrap(), pid }
    }

    #[test]
    fn differences_lead_from_one_state_to_the_other() {
        let mut before = State::default();
        before.apply(1, &[register("a", 1), register("b", 2), register("c", 3)]);
        let mut after = before.clone();
        let Command::Register { store, pid } = register("b", 2) else { unreachable!() };
        let gone = after.apply(2, &[Command::Unregister { store, pid, epoch: None }]);
        let came = after.apply(3, &[register("c", 4), register("a", 5), register("d", 6)]);
        let expected: Vec<_> =
            gone.into_iter().chain(came).flat_map(|outcome| outcome.changes).collect();
        assert_eq!(differences(&before, &after), expected);
        assert_eq!(differences(&after, &after), []);
        assert_eq!(differences(&State::default(), &before).len(), 3);
        assert_eq!(differences(&before, &State::default()).len(), 3);
    }
}
