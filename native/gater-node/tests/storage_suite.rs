//! Log store and state machine: openraft's own suite, and a disk that fails.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gater_core::registry::Command;
use gater_node::registry::replica::{
    Disk, DiskFile, Folder, LogStore, Machine, NoNetwork, Replica, Settings, SnapshotFile,
    TypeConfig,
};
use gater_term::{Atom, Pid};
use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<u64>> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::open(directory.path()).unwrap();
        let path = directory.path().join("registry.snapshot");
        let (file, stored) = SnapshotFile::open(&path, log.node_id()).unwrap();
        let machine = Machine::new(file, stored.unwrap(), Box::new(|_| {})).unwrap();
        Ok((directory, log, machine))
    }
}

#[test]
fn log_store_and_state_machine_pass_the_suite_of_openraft() {
    Suite::test_all(Stores).unwrap();
}

/// A folder, or a file in it, whose syncs can be made to fail.
struct Failing<T> {
    inner: T,
    fails: Arc<AtomicBool>,
}

impl<T> Failing<T> {
    fn check(&self) -> io::Result<()> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the disk is on fire")),
            false => Ok(()),
        }
    }

    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(Failing { inner, fails: self.fails.clone() })
    }
}

impl Disk for Failing<Folder> {
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.inner.names()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.check()?;
        self.inner.sync()
    }
}

impl DiskFile for Failing<Arc<dyn DiskFile>> {
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.inner.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.check()?;
        self.inner.sync()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_registry_for_good_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let inner = Folder::open(directory.path()).unwrap();
    let log = LogStore::open_disk(Failing { inner, fails: fails.clone() }).unwrap();
    let path = directory.path().join("registry.snapshot");
    let (file, _) = SnapshotFile::open(&path, log.node_id()).unwrap();
    let machine = Machine::new(file, None, Box::new(|_| {})).unwrap();
    let replica = Replica::open_stores(log, machine, Settings::default(), NoNetwork).await.unwrap();
    replica.propose(register(1)).await.unwrap();

    fails.store(true, Ordering::SeqCst);
    assert!(replica.propose(register(2)).await.unwrap_err().is_final());
    let reason = tokio::time::timeout(Duration::from_secs(30), replica.failed()).await.unwrap();
    assert!(reason.contains("on fire"), "{reason}");

    // A disk that comes back does not bring back what it lost: nothing is taken any more.
    fails.store(false, Ordering::SeqCst);
    assert!(replica.propose(register(3)).await.unwrap_err().is_final());
    assert_eq!(replica.read(|state| state.len()), 1);
    replica.shutdown().await;
}

fn register(id: u32) -> Command {
    let node = Atom::new("worker@host").unwrap();
    let pid = Pid { node, id, serial: 0, creation: 9 };
    Command::Register { store: Atom::new("orders").unwrap(), pid }
}
