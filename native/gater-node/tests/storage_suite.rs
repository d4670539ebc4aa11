//! Log store and state machine: openraft's own suite, and a disk that fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gater_core::etf::{Atom, Pid};
use gater_core::registry::Command;
use gater_node::replica::{Alone, LogStore, Machine, Replica, Settings, SnapshotFile, TypeConfig};
use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<u64>> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::open(&directory.path().join("registry.redb")).unwrap();
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

/// A disk whose syncs can be made to fail.
#[derive(Debug, Default)]
struct Disk {
    memory: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is on fire"));
        }
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_registry_for_good_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let fails = disk.fails.clone();
    let log = LogStore::open_backend(disk).unwrap();
    let path = directory.path().join("registry.snapshot");
    let (file, _) = SnapshotFile::open(&path, log.node_id()).unwrap();
    let machine = Machine::new(file, None, Box::new(|_| {})).unwrap();
    let replica = Replica::open_stores(log, machine, Settings::default(), Alone).await.unwrap();
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
