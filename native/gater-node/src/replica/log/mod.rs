//! The log and the vote of a gateway, on disk.

mod file;
mod tail;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, RaftLogReader};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use self::file::{Change, Facts, FileError, LogFile};
use self::tail::Tail;
use self::writer::{Done, Job};
use super::codec;
use super::error::OpenError;
use super::types::{Entry, LogId, NodeId, StorageError, StorageIoError, TypeConfig, Vote};

/// The log. Clones are handles of the same log.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Option<Writer>>>,
}

/// The writing thread. Dropped, it writes what is queued and ends.
struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the log panicked");
        }
    }
}

/// What the handles and the writing thread share.
struct Shared {
    /// `None` once closed.
    file: RwLock<Option<LogFile>>,
    known: Mutex<Known>,
}

/// The log as it will be when all that is queued is written.
struct Known {
    facts: Facts,
    tail: Tail,
}

impl LogStore {
    /// Opens the log in the file `path` or starts a new one. Blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (file, facts) = LogFile::open(path)?;
        Self::start(path, file, facts)
    }

    /// Opens the log in a `backend` of redb, for tests of failing disks. Blocks.
    pub fn open_backend(backend: impl redb::StorageBackend) -> Result<Self, OpenError> {
        let (file, facts) = LogFile::open_backend(backend)?;
        Self::start(Path::new("(backend)"), file, facts)
    }

    fn start(path: &Path, file: LogFile, facts: Facts) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared {
            file: RwLock::new(Some(file)),
            known: Mutex::new(Known { facts, tail: Tail::default() }),
        });
        let (jobs, thread) = writer::start(shared.clone())
            .map_err(|error| OpenError::Io { path: path.to_owned(), error })?;
        let writer = Writer { jobs: Some(jobs), thread: Some(thread) };
        Ok(Self { shared, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// The id of the node whose log it is.
    pub fn node_id(&self) -> NodeId {
        self.shared.known.lock().facts.node_id
    }

    /// The last entry that was removed because a snapshot holds it.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.known.lock().facts.purged
    }

    /// Whether there are entries, be it in a snapshot.
    pub fn has_entries(&self) -> bool {
        self.shared.known.lock().facts.last.is_some()
    }

    /// Remembers `value` under a `name` that no fact of the log has; on the disk when it returns.
    pub async fn note<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), AnyError> {
        let bytes = codec::encode(value).map_err(|error| AnyError::new(&error))?;
        self.write(Change::Note(name, bytes)).await
    }

    /// What was remembered under `name`. Blocks for a moment.
    pub fn noted<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AnyError> {
        match &*self.shared.file.read() {
            Some(file) => file.fact(name).map_err(|error| AnyError::new(&error)),
            None => Err(AnyError::error("the log is closed")),
        }
    }

    /// Writes what is queued and closes the file, whatever handles there are. Blocks.
    pub fn close(&self) {
        drop(self.writer.lock().take());
        *self.shared.file.write() = None;
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

impl Shared {
    fn committed(&self) -> Option<LogId> {
        self.known.lock().facts.committed
    }

    fn write<'a>(
        &self,
        changes: impl Iterator<Item = &'a Change> + Clone,
        committed: Option<LogId>,
    ) -> Result<(), io::Error> {
        match &*self.file.read() {
            Some(file) => file.write(changes.clone(), committed)?,
            None => return Err(FileError::closed().into()),
        }
        let mut known = self.known.lock();
        for change in changes {
            if let Change::Append(entries) = change
                && let Some(last) = entries.last()
            {
                known.tail.flushed(last.log_id.index);
            }
        }
        Ok(())
    }

    /// The entries of `range` that exist: from the file up to where the tail begins.
    async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<Vec<Entry>, AnyError> {
        let (on_disk, newest) = {
            let known = self.known.lock();
            let first = known.facts.purged.map_or(0, |purged| purged.index + 1);
            let end = known.facts.last.map_or(0, |last| last.index + 1).min(range.end);
            let start = range.start.max(first);
            let split = known.tail.first().unwrap_or(end).clamp(start, end.max(start));
            let newest: Vec<_> = known.tail.get(split..end).cloned().collect();
            (start..split, newest)
        };
        if on_disk.is_empty() {
            return Ok(newest);
        }
        let shared = self.clone();
        let read = tokio::task::spawn_blocking(move || match &*shared.file.read() {
            Some(file) => file.read(on_disk),
            None => Err(FileError::closed()),
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
        Ok(LogState { last_purged_log_id: known.facts.purged, last_log_id: known.facts.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.write(Change::Vote(*vote)).await.map_err(StorageIoError::write_vote)?;
        self.shared.known.lock().facts.vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.shared.known.lock().facts.vote)
    }

    /// Goes to the disk with the next write: a lower bound is all that is asked for.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.shared.known.lock().facts.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared.committed())
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
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut known = self.shared.known.lock();
            for entry in &entries {
                known.tail.push(entry.clone());
                known.facts.last = Some(entry.log_id);
            }
        }
        let queued = self.queue(Change::Append(entries), Done::Flushed(callback));
        Ok(queued.map_err(StorageIoError::write_logs)?)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        let purged = self.purged();
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
        known.facts.last = before;
        Ok(())
    }

    /// Does not wait for the disk: purged entries that come back are purged again.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut known = self.shared.known.lock();
            known.tail.purge(log_id.index);
            known.facts.purged = known.facts.purged.max(Some(log_id));
            known.facts.last = known.facts.last.max(Some(log_id));
        }
        let queued = self.queue(Change::Purge(log_id), Done::Nobody);
        Ok(queued.map_err(StorageIoError::write_logs)?)
    }
}
