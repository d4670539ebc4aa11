//! The log and the vote of a gateway on disk.
//!
//! [`frame`] and [`record`] define the format, [`segment`] is one file, [`wal`] all files together,
//! [`writer`] the only thread that writes, and [`tail`] holds the entries that need not be read
//! back.

mod contents;
pub(super) mod disk;
mod frame;
mod memory;
mod record;
mod recovery;
mod segment;
pub(super) mod space;
mod tail;
mod wal;
mod writer;

// This is a unit test because it needs private items. It is in another directory because of its
// length.
#[cfg(test)]
#[path = "../../../../tests/log_crash/mod.rs"]
mod crash;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, RaftLogReader};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use self::contents::Contents;
pub use self::disk::{Disk, DiskFile, Folder};
pub use self::memory::Memory;
use self::record::{Change, Metadata};
use self::space::Space;
use self::tail::Tail;
use self::wal::{SEGMENT_BYTES, Wal};
use self::writer::{Done, Job};
use super::codec::{self, DISK};
use super::error::OpenError;
use super::guard::Local;
use super::progress::Progress;
use super::types::{Entry, LogId, NodeId, StorageError, StorageIoError, TypeConfig, Vote};

/// The log. Clones are handles of the same log.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    space: Arc<Space>,
    writer: Arc<Mutex<Option<Writer>>>,
}

/// The thread that writes. When the value is dropped, the thread writes what is queued and ends.
struct Writer {
    space: Arc<Space>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.space.close();
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the log panicked");
        }
    }
}

/// The state that the handles share with the thread that writes.
struct Shared {
    /// The log as it is on the disk. It is locked only briefly, and after `known` if both are
    /// locked.
    contents: Arc<Mutex<Contents>>,
    known: Mutex<Known>,
}

/// The log as it will be when everything that is queued is written.
struct Known {
    metadata: Metadata,
    /// The last entry, or the last purged one if the log is empty.
    last: Option<LogId>,
    tail: Tail,
}

impl LogStore {
    /// Opens the log in the directory `path`, or creates a new one. Blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_disk(Folder::open(path)?)
    }

    /// Opens the log on a `disk`, such as one in [`Memory`]. Blocks.
    pub fn open_disk(disk: impl Disk) -> Result<Self, OpenError> {
        let wal = Wal::open(Box::new(disk), SEGMENT_BYTES)?;
        let path = wal.path();
        let io = |error| OpenError::Io { path: path.clone(), error };
        let contents = wal.contents();
        let (metadata, last) = {
            let contents = contents.lock();
            (contents.metadata().clone(), contents.last())
        };
        let last = last.map(|(index, place)| place.read(index)).transpose().map_err(io)?;
        let last = last.map(|entry| entry.log_id).max(metadata.purged);
        let known = Mutex::new(Known { metadata, last, tail: Tail::default() });
        let shared = Arc::new(Shared { contents, known });
        let space = Arc::new(Space::default());
        let (jobs, thread) = writer::start(shared.clone(), space.clone(), wal).map_err(io)?;
        let writer = Writer { space: space.clone(), jobs: Some(jobs), thread: Some(thread) };
        Ok(Self { shared, space, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Whether there is room for the log.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Returns the id of the node to which the log belongs.
    pub fn node_id(&self) -> NodeId {
        self.shared.known.lock().metadata.node_id
    }

    /// Returns the last entry that was removed because a snapshot contains it.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.known.lock().metadata.purged
    }

    /// Returns whether there are entries in the log or in a snapshot.
    pub fn has_entries(&self) -> bool {
        self.shared.known.lock().last.is_some()
    }

    /// Returns the state of the log that is known without reading it. `applied` is the last entry
    /// that is applied to the registry.
    pub(crate) fn local(&self, applied: Option<LogId>) -> Local {
        let known = self.shared.known.lock();
        Local {
            vote: known.metadata.vote.unwrap_or_default(),
            last: known.last,
            settled: known.metadata.committed.max(applied),
            purged: known.metadata.purged,
        }
    }

    /// Returns the progress of the log and of a snapshot that holds `applied`, right after the log
    /// was opened.
    pub(crate) fn opened_at(&self, applied: Option<LogId>) -> Progress {
        let known = self.shared.known.lock();
        let last = known.last.map(|last| last.index);
        let settled = last.max(applied.map(|applied| applied.index)).map_or(0, count);
        Progress { settled, ..voted(&known.metadata) }
    }

    /// Returns the progress of the log on the disk.
    pub(crate) fn progress(&self) -> Progress {
        let known = self.shared.known.lock();
        let on_disk = self.shared.contents.lock().last().map(|(index, _)| index);
        let purged = known.metadata.purged.map(|purged| purged.index);
        let committed = known.metadata.committed.map(|committed| committed.index);
        // Only entries that a snapshot on the disk contains are purged.
        let settled = committed.min(on_disk).max(purged).map_or(0, count);
        Progress { settled, ..voted(&known.metadata) }
    }

    /// Returns the ids of the entries at `indices`, as far as they exist.
    pub(crate) async fn ids_at(
        &self,
        mut indices: Vec<u64>,
    ) -> Result<BTreeMap<u64, LogId>, AnyError> {
        indices.sort_unstable();
        indices.dedup();
        let mut ids = BTreeMap::new();
        if let Some(purged) = self.purged() {
            ids.insert(purged.index, purged);
        }
        for index in indices {
            let read = self.shared.read(index..index.saturating_add(1)).await?;
            ids.extend(read.first().map(|entry| (index, entry.log_id)));
        }
        Ok(ids)
    }

    /// Stores `value` as the metadata `name`. It is on the disk when this returns.
    pub async fn set_metadata<T: Serialize>(
        &self,
        name: &'static str,
        value: &T,
    ) -> Result<(), AnyError> {
        let bytes = codec::encode(DISK, value).map_err(|error| AnyError::new(&error))?;
        self.write(Change::Named(name.into(), bytes)).await
    }

    /// Returns the metadata `name`, if it was stored.
    pub fn metadata<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AnyError> {
        let contents = self.shared.contents.lock();
        let bytes = contents.metadata().named.get(name);
        bytes
            .map(|bytes| codec::decode(DISK, bytes).map_err(|error| AnyError::new(&error)))
            .transpose()
    }

    /// Writes what is queued and closes the log, whatever handles exist: they can read, but not
    /// write any more. Blocks.
    pub fn close(&self) {
        drop(self.writer.lock().take());
    }

    fn queue(&self, change: Change, done: Done) -> Result<(), AnyError> {
        let closed = || AnyError::error("the log is closed");
        let writer = self.writer.lock();
        let jobs = writer.as_ref().and_then(|writer| writer.jobs.as_ref()).ok_or_else(closed)?;
        jobs.send(Job { change, done }).map_err(|_| closed())
    }

    async fn write(&self, change: Change) -> Result<(), AnyError> {
        let (done, written) = oneshot::channel();
        self.queue(change, Done::Waiting(done))?;
        let result = written.await.map_err(|_| AnyError::error("the log is closed"))?;
        result.map_err(|error| AnyError::new(&error))
    }
}

/// Returns the number of entries up to the one at `index`.
fn count(index: u64) -> u64 {
    index.saturating_add(1)
}

fn voted(metadata: &Metadata) -> Progress {
    let leader = metadata.vote.unwrap_or_default().leader_id;
    Progress { term: leader.term, candidate: leader.node_id, settled: 0 }
}

impl Shared {
    /// Returns the committed position, unless the log ends before it. All entries up to it were
    /// queued before this call, so it may be written with the end of that queue, and not earlier.
    fn committed(&self) -> Option<LogId> {
        let known = self.known.lock();
        let last = known.last.map(|last| last.index);
        known.metadata.committed.filter(|committed| Some(committed.index) <= last)
    }

    /// Records that `changes` are on the disk.
    fn written<'a>(&self, changes: impl Iterator<Item = &'a Change>) {
        let mut known = self.known.lock();
        for change in changes {
            if let Change::Append(entries) = change
                && let Some(last) = entries.last()
            {
                known.tail.flushed(last.log_id.index);
            }
        }
    }

    /// Returns the entries of `range` that exist: from the disk up to the start of the tail, and
    /// then from the tail.
    async fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, AnyError> {
        let (on_disk, newest) = {
            let known = self.known.lock();
            let first = known.metadata.purged.map_or(0, |purged| purged.index + 1);
            let end = known.last.map_or(0, |last| last.index + 1).min(range.end);
            let start = range.start.max(first);
            let split = known.tail.first().unwrap_or(end).clamp(start, end.max(start));
            let newest: Vec<_> = known.tail.get(split..end).cloned().collect();
            (start..split, newest)
        };
        if on_disk.is_empty() {
            return Ok(newest);
        }
        let places = self.contents.lock().get(on_disk);
        let read = tokio::task::spawn_blocking(move || {
            places
                .into_iter()
                .map(|(index, place)| place.read(index))
                .collect::<Result<Vec<_>, _>>()
        });
        let mut entries = read
            .await
            .map_err(|error| AnyError::new(&error))?
            .map_err(|error| AnyError::new(&error))?;
        entries.extend(newest);
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.shared.read(start..end).await.map_err(StorageIoError::read_logs)?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let known = self.shared.known.lock();
        Ok(LogState { last_purged_log_id: known.metadata.purged, last_log_id: known.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.write(Change::Vote(*vote)).await.map_err(StorageIoError::write_vote)?;
        self.shared.known.lock().metadata.vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.shared.known.lock().metadata.vote)
    }

    /// Queues the committed position for the next write. It is only a lower bound, so this does not
    /// wait for the disk.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.shared.known.lock().metadata.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared.known.lock().metadata.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut known = self.shared.known.lock();
            // Entries that a snapshot contains are not needed, and would not follow the last entry.
            let purged = known.metadata.purged.map(|purged| purged.index);
            entries.retain(|entry| Some(entry.log_id.index) > purged);
            for entry in &entries {
                known.tail.push(entry.clone());
                known.last = Some(entry.log_id);
            }
        }
        let queued = self.queue(Change::Append(entries), Done::Flushed(callback));
        Ok(queued.map_err(StorageIoError::write_logs)?)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        let purged = self.purged();
        // Committed entries are never removed, whoever requests it.
        let committed = self.shared.known.lock().metadata.committed;
        if committed.is_some_and(|committed| from <= committed.index) {
            let text = format!("entries from {from} on are to go, and {committed:?} is committed");
            return Err(StorageIoError::write_logs(AnyError::error(text)).into());
        }
        let before = match from.checked_sub(1) {
            None => None,
            Some(index) if purged.is_some_and(|purged| purged.index == index) => purged,
            Some(index) => {
                let read = self.shared.read(index..from).await;
                read.map_err(StorageIoError::read_logs)?.first().map(|entry| entry.log_id)
            }
        };
        self.write(Change::Truncate(from)).await.map_err(StorageIoError::write_logs)?;
        let mut known = self.shared.known.lock();
        known.tail.truncate(from);
        known.last = before;
        Ok(())
    }

    /// Queues the purge without waiting for the disk. Entries that come back after a crash are
    /// purged again.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut known = self.shared.known.lock();
            known.tail.purge(log_id.index);
            known.metadata.purged = known.metadata.purged.max(Some(log_id));
            known.last = known.last.max(Some(log_id));
        }
        let queued = self.queue(Change::Purge(log_id), Done::Nobody);
        Ok(queued.map_err(StorageIoError::write_logs)?)
    }
}
