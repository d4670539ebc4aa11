//! The file of the last snapshot: the registry as of one position of the log.
//!
//! The file is written under another name, synced and renamed, so that it exists completely or not
//! at all. Layout: [`MAGIC`], the SHA-256 of everything that follows, the length of the head (4
//! bytes, big endian), the head ([`Head`]), and the body ([`Content`]). Head and body are encoded
//! by [`codec`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gater_core::registry::{Proposers, Snapshot, State};
use openraft::AnyError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::codec::{self, DISK};
use super::departed::Departed;
use super::error::OpenError;
use super::form;
use super::log::disk;
use super::log::space::{TRY_AGAIN, is_full};
use super::types::{NodeId, SnapshotMeta};

/// The first bytes of a snapshot file, with the version of its layout.
const MAGIC: &[u8; 8] = b"esdbgsn\x03";
const DIGEST_BYTES: usize = 32;

/// The owner and the position of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// The node to whose data directory the snapshot belongs.
    node_id: NodeId,
    #[serde(with = "form")]
    meta: SnapshotMeta,
}

/// The place where the snapshot is stored.
pub struct SnapshotFile {
    path: PathBuf,
    node_id: NodeId,
    /// The position of the stored snapshot. Locked while the snapshot is replaced.
    current: Mutex<Option<SnapshotMeta>>,
    /// The body, if it is kept in memory instead of a file.
    memory: Option<Mutex<Vec<u8>>>,
}

/// A snapshot that was read from its file.
pub struct Stored {
    /// Its position and members.
    pub meta: SnapshotMeta,
    /// The encoded registry.
    pub body: Vec<u8>,
}

/// The problem with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file does not begin like a snapshot, or ends too early.
    #[error("it is not a whole snapshot")]
    Truncated,
    /// The digest is not that of the content.
    #[error("its digest is wrong")]
    Digest,
    /// The content cannot be decoded.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    /// The snapshot belongs to the log of another node.
    #[error("it is of node {found:016x}, and the log beside it of node {expected:016x}")]
    Stranger {
        /// The node that wrote it.
        found: NodeId,
        /// The node whose log is there.
        expected: NodeId,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SnapshotFile {
    /// Opens the snapshot file at `path` of the node `node_id`, and reads its content. Removes the
    /// remains of a write that a crash interrupted. Blocks.
    pub fn open(
        path: &Path,
        node_id: NodeId,
    ) -> Result<(Self, Result<Option<Stored>, SnapshotError>), OpenError> {
        let path = path.to_owned();
        let file = Self { path, node_id, current: Mutex::new(None), memory: None };
        let unfinished = file.unfinished();
        match fs::remove_file(&unfinished) {
            Ok(()) => tracing::info!(path = %unfinished.display(), "unfinished snapshot removed"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::Io { path: unfinished, error }),
        }
        let stored = file.read();
        if let Ok(Some(stored)) = &stored {
            *file.current.lock() = Some(stored.meta.clone());
        }
        Ok((file, stored))
    }

    /// Returns a place in memory for the snapshot of the node `node_id`. It is empty at first, and
    /// ends with the process.
    pub fn in_memory(node_id: NodeId) -> Self {
        let path = PathBuf::from("(memory)");
        Self { path, node_id, current: Mutex::new(None), memory: Some(Mutex::default()) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames a snapshot that cannot be read, so that an operator can examine it. Blocks.
    pub fn set_aside(&self) -> Result<(), io::Error> {
        fs::rename(&self.path, self.path.with_extension("damaged"))
    }

    /// Replaces the snapshot, unless the stored one has a later position. The snapshot is on the
    /// disk when this returns. Blocks.
    pub fn save(&self, meta: &SnapshotMeta, body: &[u8]) -> Result<(), SnapshotError> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| current.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        if let Some(memory) = &self.memory {
            body.clone_into(&mut memory.lock());
            *current = Some(meta.clone());
            return Ok(());
        }
        let head = codec::encode(DISK, &Head { node_id: self.node_id, meta: meta.clone() })?;
        let length = u32::try_from(head.len()).map_err(|_| SnapshotError::Truncated)?;
        let length = length.to_be_bytes();
        let digest =
            Sha256::new().chain_update(length).chain_update(&head).chain_update(body).finalize();

        let unfinished = self.unfinished();
        let parts = [MAGIC.as_slice(), digest.as_slice(), &length, &head, body];
        if let Err(error) = write_parts(&unfinished, &parts) {
            // It is of no use, and takes room that may be what is missing.
            let _ = fs::remove_file(&unfinished);
            return Err(error.into());
        }
        fs::rename(&unfinished, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        *current = Some(meta.clone());
        Ok(())
    }

    /// As [`SnapshotFile::save`]. While the disk is full it waits and tries again: an older snapshot
    /// and the log that follows it stay as they are.
    pub async fn save_when_there_is_room(
        self: &Arc<Self>,
        meta: &SnapshotMeta,
        body: &Arc<Vec<u8>>,
    ) -> Result<(), AnyError> {
        let mut told = false;
        loop {
            let (file, meta, body) = (self.clone(), meta.clone(), body.clone());
            let saved = tokio::task::spawn_blocking(move || file.save(&meta, &body)).await;
            match saved.map_err(|error| AnyError::new(&error))? {
                Err(SnapshotError::Io(error)) if is_full(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(
                            path = %self.path.display(), %error,
                            "the disk is full: the snapshot is written when there is room, and the log \
                             grows until then"
                        );
                    }
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                saved => {
                    if told {
                        tracing::warn!("the snapshot that found no room on the disk is written");
                    }
                    return saved.map_err(|error| AnyError::new(&error));
                }
            }
        }
    }

    /// Reads the snapshot, if there is one. Blocks.
    pub fn read(&self) -> Result<Option<Stored>, SnapshotError> {
        if let Some(memory) = &self.memory {
            let current = self.current.lock();
            let stored =
                |meta: &SnapshotMeta| Stored { meta: meta.clone(), body: memory.lock().clone() };
            return Ok(current.as_ref().map(stored));
        }
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut file) => {
                disk::keep_private(&file, &self.path);
                file.read_to_end(&mut bytes)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::Truncated)?;
        let (digest, rest) =
            rest.split_first_chunk::<DIGEST_BYTES>().ok_or(SnapshotError::Truncated)?;
        if Sha256::digest(rest).as_slice() != digest {
            return Err(SnapshotError::Digest);
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(SnapshotError::Truncated)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (head, body) = rest.split_at_checked(length).ok_or(SnapshotError::Truncated)?;
        let head: Head = codec::decode(DISK, head)?;
        if head.node_id != self.node_id {
            let (found, expected) = (head.node_id, self.node_id);
            return Err(SnapshotError::Stranger { found, expected });
        }
        Ok(Some(Stored { meta: head.meta, body: body.to_vec() }))
    }

    fn unfinished(&self) -> PathBuf {
        self.path.with_extension("snapshot-unfinished")
    }
}

/// The content of a snapshot's body. `R` is the registry as [`Snapshot`] or [`State`].
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Content<R> {
    /// The registry.
    pub registry: R,
    /// The batches that were carried out last.
    pub proposers: Proposers,
    /// The gateways that have left the cluster.
    pub departed: Departed,
}

/// Decodes the body of a snapshot.
pub fn restore(body: &[u8]) -> Result<Content<State>, SnapshotError> {
    Ok(codec::decode(DISK, body)?)
}

/// Encodes the body of a snapshot.
pub fn body(content: &Content<Snapshot>) -> Result<Vec<u8>, SnapshotError> {
    Ok(codec::encode(DISK, content)?)
}

/// Writes a file of these parts, on the disk when it returns.
fn write_parts(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = disk::create_private(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    fn meta(index: u64) -> SnapshotMeta {
        let log_id = openraft::LogId::new(CommittedLeaderId::new(1, 7), index);
        SnapshotMeta {
            last_log_id: Some(log_id),
            snapshot_id: index.to_string(),
            ..Default::default()
        }
    }

    fn open(path: &Path) -> (SnapshotFile, Result<Option<Stored>, SnapshotError>) {
        SnapshotFile::open(path, 7).unwrap()
    }

    #[test]
    fn what_was_saved_is_there_when_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.snapshot");
        let (file, none) = open(&path);
        assert!(none.unwrap().is_none());
        file.save(&meta(5), b"five").unwrap();
        file.save(&meta(4), b"four is older").unwrap();
        let stored = open(&path).1.unwrap().unwrap();
        assert_eq!((stored.meta, stored.body), (meta(5), b"five".to_vec()));
    }

    #[test]
    fn a_snapshot_in_memory_is_replaced_by_later_ones_only() {
        let memory = SnapshotFile::in_memory(7);
        assert!(memory.read().unwrap().is_none());
        memory.save(&meta(5), b"five").unwrap();
        memory.save(&meta(4), b"four is older").unwrap();
        let stored = memory.read().unwrap().unwrap();
        assert_eq!((stored.meta, stored.body), (meta(5), b"five".to_vec()));
    }

    #[test]
    fn an_unfinished_snapshot_is_ignored_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.snapshot");
        open(&path).0.save(&meta(5), b"five").unwrap();
        let torn = fs::read(&path).unwrap();
        let unfinished = path.with_extension("snapshot-unfinished");
        fs::write(&unfinished, &torn[..torn.len() / 2]).unwrap();
        assert_eq!(open(&path).1.unwrap().unwrap().body, b"five");
        assert!(!unfinished.exists());
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.snapshot");
        open(&path).0.save(&meta(5), b"five").unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert!(open(&path).1.is_err(), "byte {at} changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(open(&path).1.is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_snapshot_of_another_node_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.snapshot");
        open(&path).0.save(&meta(5), b"five").unwrap();
        let (_, stored) = SnapshotFile::open(&path, 8).unwrap();
        assert!(matches!(stored, Err(SnapshotError::Stranger { found: 7, expected: 8 })));
    }

    #[test]
    fn snapshots_are_written_as_they_always_were() {
        use gater_core::registry::{Command, Origin, Outcome, Refusal};
        use gater_term::{Atom, Pid};

        let node = Atom::new("a@h").unwrap();
        let pid = Pid { node, id: 1, serial: 2, creation: u32::MAX };
        let store = Atom::new("Größe").unwrap();
        let mut state = State::default();
        let outcomes = state.apply(3, &[Command::Register { store, pid }]);
        let mut proposers = Proposers::default();
        let refused = Outcome { changes: Vec::new(), refused: Some(Refusal::Full) };
        let origin = Origin { proposer: 77, number: 2 };
        proposers.carried_out(origin, 3, &[outcomes, vec![refused]].concat());
        let mut departed = Departed::default();
        departed.changed(&["gone@h"].into(), &[].into());
        let written = Content {
            registry: state.snapshot(),
            proposers: proposers.clone(),
            departed: departed.clone(),
        };
        let content = body(&written).unwrap();
        let expected = Content { registry: state, proposers, departed };
        assert_eq!(restore(&content).unwrap(), expected);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.snapshot");
        open(&path).0.save(&meta(3), &content).unwrap();
        let vectors = [("body", content), ("file", fs::read(&path).unwrap())];
        crate::vectors::check("snapshot.txt", &vectors);
    }
}
