//! A disk in memory: what is written is safe a while later, and a crash loses the rest.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use gater_node::registry::replica::{NodeId, TypeConfig};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, LogId, LogState, RaftLogReader, StorageError, StorageIOError, Vote};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::dice::Dice;

/// What a log holds.
#[derive(Debug, Clone, Default)]
struct Content {
    entries: BTreeMap<u64, Entry<TypeConfig>>,
    vote: Option<Vote<NodeId>>,
    purged: Option<LogId<NodeId>>,
}

enum Write {
    Append(Vec<Entry<TypeConfig>>, LogFlushed<TypeConfig>),
    Vote(Vote<NodeId>, oneshot::Sender<()>),
    Truncate(u64, oneshot::Sender<()>),
}

/// The part of a disk that survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    safe: Arc<Mutex<Content>>,
    /// A disk that lies says that all is safe at once.
    lies: bool,
}

impl Disk {
    /// An empty disk, which may be one that `lies`.
    pub fn new(lies: bool) -> Self {
        Self { safe: Arc::default(), lies }
    }

    /// Opens the log after a start: what was safe when the host crashed.
    pub fn open(&self, mut dice: Dice) -> Log {
        let seen = Arc::new(Mutex::new(self.safe.lock().clone()));
        let (writes, mut queue) = mpsc::unbounded_channel();
        let disk = self.clone();
        tokio::spawn(async move {
            while let Some(write) = queue.recv().await {
                let wait = Duration::from_micros(dice.below(6_000));
                if disk.lies {
                    disk.lie(write, wait).await;
                } else {
                    tokio::time::sleep(wait).await;
                    disk.write(write);
                }
            }
        });
        Log { seen, writes }
    }

    fn write(&self, write: Write) {
        let mut safe = self.safe.lock();
        match write {
            Write::Append(entries, done) => {
                safe.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
                done.log_io_completed(Ok(()));
            }
            Write::Vote(vote, done) => {
                safe.vote = Some(vote);
                let _ = done.send(());
            }
            Write::Truncate(from, done) => {
                safe.entries.split_off(&from);
                let _ = done.send(());
            }
        }
    }

    async fn lie(&self, write: Write, wait: Duration) {
        match write {
            Write::Append(entries, done) => {
                done.log_io_completed(Ok(()));
                tokio::time::sleep(wait * 100).await;
                let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
                self.safe.lock().entries.extend(entries);
            }
            honest => self.write(honest),
        }
    }
}

/// The log of a running host.
#[derive(Clone)]
pub struct Log {
    seen: Arc<Mutex<Content>>,
    writes: mpsc::UnboundedSender<Write>,
}

impl Log {
    async fn waited(
        &self,
        write: impl FnOnce(oneshot::Sender<()>) -> Write,
    ) -> Result<(), StorageError<NodeId>> {
        let (done, written) = oneshot::channel();
        let gone = |_| StorageIOError::write(&io::Error::other("the disk is gone"));
        self.writes.send(write(done)).map_err(|_| gone(()))?;
        Ok(written.await.map_err(|_| gone(()))?)
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<NodeId>> {
        Ok(self.seen.lock().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<NodeId>> {
        let seen = self.seen.lock();
        let last = seen.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: seen.purged, last_log_id: last.or(seen.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<(), StorageError<NodeId>> {
        self.waited(|done| Write::Vote(*vote, done)).await?;
        self.seen.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>, StorageError<NodeId>> {
        Ok(self.seen.lock().vote)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<NodeId>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let shown = entries.iter().map(|entry| (entry.log_id.index, entry.clone()));
        self.seen.lock().entries.extend(shown);
        let gone = |_| StorageIOError::write_logs(&io::Error::other("the disk is gone"));
        Ok(self.writes.send(Write::Append(entries, callback)).map_err(gone)?)
    }

    async fn truncate(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError<NodeId>> {
        self.waited(|done| Write::Truncate(log_id.index, done)).await?;
        self.seen.lock().entries.split_off(&log_id.index);
        Ok(())
    }

    async fn purge(&mut self, _log_id: LogId<NodeId>) -> Result<(), StorageError<NodeId>> {
        // No snapshot is ever taken here.
        Ok(())
    }
}
