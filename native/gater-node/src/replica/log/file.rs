//! The file of the log: a redb database with the entries and a few facts about them.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::codec;
use super::super::error::OpenError;
use super::super::types::{Entry, LogId, NodeId, Vote};

/// Entries by index.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// The values of [`Facts`] by name.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");

/// The format of the whole file, as the fact `format`.
const FORMAT: u64 = 2;
/// Bytes of the file that redb keeps in memory. The log is read once, at the start.
const CACHE_BYTES: usize = 2 << 20;

/// What is known of the log beside its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose log it is.
    pub node_id: NodeId,
    /// The last vote.
    pub vote: Option<Vote>,
    /// A lower bound of what is committed.
    pub committed: Option<LogId>,
    /// The last entry that was removed because a snapshot holds it.
    pub purged: Option<LogId>,
    /// The last entry; the last purged one if there is no other.
    pub last: Option<LogId>,
}

/// A change of the log.
#[derive(Debug)]
pub enum Change {
    /// Entries, in order, after the last one.
    Append(Vec<Entry>),
    /// The vote.
    Vote(Vote),
    /// Entries from this index on go.
    Truncate(u64),
    /// Entries up to this one go.
    Purge(LogId),
    /// Something to be remembered by name, encoded.
    Note(&'static str, Vec<u8>),
}

/// Why the log could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

impl FileError {
    fn new(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

impl FileError {
    /// The log is closed.
    pub fn closed() -> Self {
        Self("the log is closed".into())
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        Self::other(error)
    }
}

/// The open file. No other process can open it meanwhile.
pub struct LogFile {
    path: PathBuf,
    database: Database,
    /// Locked for as long as it is open: the lock of what lies beside the file as well.
    _lock: Option<File>,
}

impl LogFile {
    /// Opens the file, or makes it with a new random node id. Checks every page of
    /// a file that is there. Blocks.
    pub fn open(path: &Path) -> Result<(Self, Facts), OpenError> {
        let lock = lock(path)?;
        if !path.exists() {
            make(path)?;
        }
        let database = builder().open(path).map_err(|error| open_error(path, error))?;
        let file = Self { path: path.to_owned(), database, _lock: Some(lock) };
        let facts = file.facts()?;
        Ok((file, facts))
    }

    /// Opens a log that is kept in `backend` instead of a file, for tests of failing disks.
    pub fn open_backend(backend: impl StorageBackend) -> Result<(Self, Facts), OpenError> {
        let path = Path::new("(backend)");
        let database =
            builder().create_with_backend(backend).map_err(|error| open_error(path, error))?;
        let file = Self { path: path.to_owned(), database, _lock: None };
        file.found().map_err(|error| OpenError::Io { path: path.into(), error: error.into() })?;
        let facts = file.facts()?;
        Ok((file, facts))
    }

    /// Writes the first facts.
    fn found(&self) -> Result<(), FileError> {
        // Zero is what an id looks like that was never set. One in 63 bits fits every integer type.
        let node_id = (getrandom::u64().map_err(FileError::new)? >> 1).max(1);
        let transaction = self.database.begin_write().map_err(FileError::new)?;
        put(&transaction, "format", &FORMAT)?;
        put(&transaction, "node_id", &node_id)?;
        transaction.open_table(LOG).map_err(FileError::new)?;
        transaction.commit().map_err(FileError::new)
    }

    fn facts(&self) -> Result<Facts, OpenError> {
        let corrupt = |reason: String| OpenError::Corrupt { path: self.path.clone(), reason };
        let found: u64 = self
            .fact("format")
            .map_err(|error| corrupt(error.0))?
            .ok_or_else(|| corrupt("it is not a log of this program".into()))?;
        if found != FORMAT {
            let path = self.path.clone();
            return Err(OpenError::Version { path, found, expected: FORMAT });
        }
        let read = || -> Result<Option<Facts>, FileError> {
            let Some(node_id) = self.fact("node_id")? else { return Ok(None) };
            let purged: Option<LogId> = self.fact("purged")?;
            Ok(Some(Facts {
                node_id,
                vote: self.fact("vote")?,
                committed: self.fact("committed")?,
                purged,
                last: self.last()?.max(purged),
            }))
        };
        read()
            .map_err(|error| corrupt(error.0))?
            .ok_or_else(|| corrupt("it does not say whose log it is".into()))
    }

    /// The fact `name`, if it was ever written. Blocks.
    pub fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FileError> {
        let transaction = self.database.begin_read().map_err(FileError::new)?;
        let table = transaction.open_table(FACTS).map_err(FileError::new)?;
        let value = table.get(name).map_err(FileError::new)?;
        value.map(|value| codec::decode(value.value()).map_err(FileError::new)).transpose()
    }

    fn last(&self) -> Result<Option<LogId>, FileError> {
        let transaction = self.database.begin_read().map_err(FileError::new)?;
        let table = transaction.open_table(LOG).map_err(FileError::new)?;
        let last = table.last().map_err(FileError::new)?;
        last.map(|(index, bytes)| Ok(entry(index.value(), bytes.value())?.log_id)).transpose()
    }

    /// The entries of `range`; fewer where there are none. Blocks.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, FileError> {
        let transaction = self.database.begin_read().map_err(FileError::new)?;
        let table = transaction.open_table(LOG).map_err(FileError::new)?;
        let mut entries = Vec::new();
        for item in table.range(range).map_err(FileError::new)? {
            let (index, bytes) = item.map_err(FileError::new)?;
            entries.push(entry(index.value(), bytes.value())?);
        }
        Ok(entries)
    }

    /// Carries out `changes` in order, all or none. On the disk when it returns. Blocks.
    pub fn write<'a>(
        &self,
        changes: impl Iterator<Item = &'a Change>,
        committed: Option<LogId>,
    ) -> Result<(), FileError> {
        // Redb's default durability is immediate: `commit` returns after the sync.
        let transaction = self.database.begin_write().map_err(FileError::new)?;
        {
            let mut log = transaction.open_table(LOG).map_err(FileError::new)?;
            for change in changes {
                match change {
                    Change::Append(entries) => {
                        for entry in entries {
                            let bytes = codec::encode(entry).map_err(FileError::new)?;
                            log.insert(entry.log_id.index, bytes.as_slice())
                                .map_err(FileError::new)?;
                        }
                    }
                    Change::Vote(vote) => put(&transaction, "vote", vote)?,
                    Change::Truncate(from) => {
                        log.retain_in(*from.., |_, _| false).map_err(FileError::new)?;
                    }
                    Change::Purge(upto) => {
                        log.retain_in(..=upto.index, |_, _| false).map_err(FileError::new)?;
                        put(&transaction, "purged", upto)?;
                    }
                    Change::Note(name, bytes) => put_bytes(&transaction, name, bytes)?,
                }
            }
        }
        if let Some(committed) = committed {
            put(&transaction, "committed", &committed)?;
        }
        transaction.commit().map_err(FileError::new)
    }
}

/// Takes the lock beside the file at `path`.
fn lock(path: &Path) -> Result<File, OpenError> {
    let path = path.with_extension("lock");
    let io = |error| OpenError::Io { path: path.clone(), error };
    let file = File::options().create(true).append(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::InUse(path.parent().map_or(path.clone(), Path::to_owned)))
        }
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Makes the file with its first facts beside its place and moves it there: a crash
/// meanwhile leaves no half of it. Needs the lock.
fn make(path: &Path) -> Result<(), OpenError> {
    let unfinished = path.with_extension("redb-unfinished");
    let io = |error| OpenError::Io { path: unfinished.clone(), error };
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let database = builder().create(&unfinished).map_err(|error| open_error(&unfinished, error))?;
    let file = LogFile { path: unfinished.clone(), database, _lock: None };
    file.found().map_err(|error| io(error.into()))?;
    drop(file);
    fs::rename(&unfinished, path).map_err(io)?;
    if let Some(directory) = path.parent() {
        // The name of the file must survive a crash as its content does.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| OpenError::Directory { path: directory.into(), error })?;
    }
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    // A page that changed behind our back is an error now, not a wrong answer later.
    builder.set_check_integrity_on_open(true);
    builder
}

fn put<T: Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), FileError> {
    put_bytes(transaction, name, &codec::encode(value).map_err(FileError::new)?)
}

fn put_bytes(transaction: &WriteTransaction, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let mut table = transaction.open_table(FACTS).map_err(FileError::new)?;
    table.insert(name, bytes).map_err(FileError::new)?;
    Ok(())
}

fn entry(index: u64, bytes: &[u8]) -> Result<Entry, FileError> {
    let entry: Entry = codec::decode(bytes)
        .map_err(|error| FileError(format!("entry {index} of the log: {error}")))?;
    if entry.log_id.index != index {
        return Err(FileError(format!("entry {index} of the log says it is {}", entry.log_id)));
    }
    Ok(entry)
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse(path.parent().map_or(path.clone(), Path::to_owned))
        }
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData =>
        {
            OpenError::Io { path, error }
        }
        error => OpenError::Corrupt { path, reason: error.to_string() },
    }
}
