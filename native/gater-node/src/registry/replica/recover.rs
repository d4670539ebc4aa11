//! A member of a cluster whose majority is lost for good becomes a cluster of one.
//!
//! What the gateway knows, entries that are not known to be committed among it, becomes the first
//! snapshot of a new data directory: with a new id, so that no member of the old cluster takes it
//! for the member it was, and a new cluster. The old files are kept beside the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{AnyError, Membership, RaftLogReader, StoredMembership};

use super::log::LogStore;
use super::snapshot::SnapshotFile;
use super::types::{LogId, Member, SnapshotMeta, StorageError, Vote};
use super::{OpenError, SNAPSHOT_FILE, open_files};

/// The folder in a data directory in which the new files are made.
const NEW: &str = "recovering";
/// The folder in a data directory in which the old files are kept, with a number behind it.
const OLD: &str = "before-recovery";

/// What came of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The registrations that the new cluster begins with.
    pub registrations: usize,
    /// The gateways of the old cluster, this one among them.
    pub members: Vec<String>,
    /// The entries that were not known to be committed: they count now.
    pub uncertain: u64,
    /// Where the old files are.
    pub kept_in: PathBuf,
}

/// Why a data directory was not recovered. Nothing in it was changed, unless it is said.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is no data directory.
    #[error("{} is no data directory of a gateway", .0.display())]
    NoDirectory(PathBuf),
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It has never belonged to a cluster.
    #[error("{} has no registry yet: start the gateway", .0.display())]
    Empty(PathBuf),
    /// It belongs to a gateway alone.
    #[error("{} belongs to a gateway without others, which needs no recovery", .0.display())]
    Alone(PathBuf),
    /// It belongs to a gateway of another name.
    #[error("{} is the data directory of {name}, not of {own}", path.display())]
    OtherName {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        name: String,
        /// The name that was given.
        own: String,
    },
    /// The old log cannot be read, or the new files cannot be made.
    #[error("the registry could not be carried over")]
    Storage(#[source] AnyError),
    /// The files could not be put in their places.
    #[error("the files of {} could not be moved: the old ones are in {}", path.display(), kept_in.display())]
    Move {
        /// The directory.
        path: PathBuf,
        /// Where the old files are, as far as they were moved.
        kept_in: PathBuf,
        /// What the operating system says.
        #[source]
        error: io::Error,
    },
}

impl From<AnyError> for RecoverError {
    fn from(error: AnyError) -> Self {
        Self::Storage(error)
    }
}

impl From<StorageError> for RecoverError {
    fn from(error: StorageError) -> Self {
        Self::Storage(AnyError::new(&error))
    }
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        Self::Storage(AnyError::new(&error))
    }
}

/// Makes the stopped gateway `name`, whose data directory is `directory`, a cluster of one. The new
/// directory remembers `notes`.
pub async fn recover(
    directory: &Path,
    name: &str,
    notes: &[(&'static str, &MetadataValue)],
) -> Result<Recovered, RecoverError> {
    let has_log =
        fs::read_dir(directory).is_ok_and(|files| files.flatten().any(|file| is_log(&file)));
    if !has_log {
        return Err(RecoverError::NoDirectory(directory.to_owned()));
    }
    let new = directory.join(NEW);
    if new.exists() {
        // What an earlier attempt did not complete.
        fs::remove_dir_all(&new)?;
    }
    let (mut log, mut machine) = open_files(directory, Box::new(|_| ()))?;
    let applied = machine.applied();
    let first = applied.map_or(0, |applied| applied.index.saturating_add(1));
    let entries = log.try_get_log_entries(first..).await?;
    let local = log.local(applied);
    let settled = local.settled.map_or(0, |settled| settled.index.saturating_add(1));
    machine.apply(entries).await?;
    let (_, before) = machine.applied_state().await?;
    let Some(last) = machine.applied() else {
        log.close();
        return Err(RecoverError::Empty(directory.to_owned()));
    };
    let members: Vec<String> = before.nodes().map(|(_, member)| member.name.clone()).collect();
    let own = before.nodes().find(|(id, _)| **id == log.node_id()).map(|(_, member)| &member.name);
    if let Some(problem) = refusal(directory, name, members.len(), own) {
        log.close();
        return Err(problem);
    }
    let body = machine.body().map_err(|error| AnyError::new(&error))?;
    let registrations = machine.read(|state| state.iter().count());
    let term = local.vote.leader_id.term.max(last.leader_id.term);
    make(&new, name, last, term, &body, notes).await?;
    log.close();
    drop((log, machine));
    let uncertain = last.index.saturating_add(1).saturating_sub(settled);
    let kept_in = replace(directory, &new)?;
    Ok(Recovered { registrations, members, uncertain, kept_in })
}

/// A value that the data directory remembers by name.
pub enum MetadataValue {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

fn is_log(file: &fs::DirEntry) -> bool {
    let name = file.file_name();
    let name = name.to_string_lossy();
    name.starts_with("registry-") && name.ends_with(".log")
}

/// Why a directory with so many members, in which this gateway is called `own`, is not recovered.
fn refusal(
    directory: &Path,
    name: &str,
    members: usize,
    own: Option<&String>,
) -> Option<RecoverError> {
    let path = directory.to_owned();
    match own {
        _ if members <= 1 => Some(RecoverError::Alone(path)),
        Some(own) if own != name => {
            Some(RecoverError::OtherName { path, name: own.clone(), own: name.to_owned() })
        }
        _ => None,
    }
}

/// Makes a data directory whose log begins behind `last`, with `body` as its snapshot.
async fn make(
    new: &Path,
    name: &str,
    last: LogId,
    term: u64,
    body: &[u8],
    notes: &[(&'static str, &MetadataValue)],
) -> Result<(), RecoverError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(new)?;
    let mut log = LogStore::open(new)?;
    let id = log.node_id();
    let nodes = BTreeMap::from([(id, Member { name: name.to_owned() })]);
    let members = Membership::new(vec![BTreeSet::from([id])], nodes);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), members),
        snapshot_id: format!("recovered-{last}"),
    };
    let (file, _) = SnapshotFile::open(&new.join(SNAPSHOT_FILE), id)?;
    file.save(&meta, body).map_err(|error| AnyError::new(&error))?;
    // Terms go on from where they were, as entries do.
    log.save_vote(&Vote::new(term, id)).await?;
    log.purge(last).await?;
    for (name, value) in notes {
        match value {
            MetadataValue::Number(number) => log.set_metadata(name, number).await?,
            MetadataValue::Text(text) => log.set_metadata(name, text).await?,
        }
    }
    log.close();
    Ok(())
}

/// Keeps the old files of a data directory in a folder of it, and puts the new ones in their place.
fn replace(directory: &Path, new: &Path) -> Result<PathBuf, RecoverError> {
    let free = (1..u32::MAX).map(|number| directory.join(format!("{OLD}-{number}")));
    let kept_in =
        free.into_iter().find(|path| !path.exists()).unwrap_or_else(|| directory.join(OLD));
    let moved = || -> io::Result<()> {
        fs::create_dir(&kept_in)?;
        move_files(directory, &kept_in)?;
        // The snapshot first: without it, its log would be one that has lost its beginning.
        move_files(new, directory)?;
        fs::remove_dir_all(new)?;
        File::open(directory)?.sync_all()
    };
    match moved() {
        Ok(()) => Ok(kept_in),
        Err(error) => Err(RecoverError::Move { path: directory.to_owned(), kept_in, error }),
    }
}

/// Moves the files of a registry from one folder to another: the snapshot first, then the log. The
/// lock stays.
fn move_files(from: &Path, to: &Path) -> io::Result<()> {
    let mut files: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    files.retain(|file| is_log(file) || file.file_name() == SNAPSHOT_FILE);
    files.sort_by_key(|file| (is_log(file), file.file_name()));
    for file in files {
        fs::rename(file.path(), to.join(file.file_name()))?;
    }
    File::open(to)?.sync_all()
}
