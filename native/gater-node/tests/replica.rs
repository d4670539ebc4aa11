//! What the registry keeps, and what it does when it cannot.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gater_core::registry::{Change, Command, State};
use gater_node::registry::replica::{NoNetwork, OpenError, ProposeError, Replica, Settings};
use gater_term::{Atom, Pid};
use parking_lot::Mutex;

/// The first file of a log.
const LOG: &str = "registry-0000000000000000.log";

fn pid(id: u32) -> Pid {
    Pid { node: Atom::new("worker@host").unwrap(), id, serial: 0, creation: 9 }
}

fn register(id: u32) -> Command {
    Command::Register { store: Atom::new("orders").unwrap(), pid: pid(id) }
}

fn workers(state: &State) -> Vec<u32> {
    state.workers("orders").map(|(_, pid)| pid.id).collect()
}

async fn open(path: &Path) -> Replica {
    Replica::open(path, Box::new(|_| {})).await.unwrap()
}

async fn register_all(replica: &Replica, ids: std::ops::Range<u32>) {
    let proposed: Vec<_> = ids.map(|id| replica.propose(register(id))).collect();
    for outcome in proposed {
        assert_eq!(outcome.await.unwrap().changes.len(), 1);
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_survives_a_restart_and_keeps_its_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    register_all(&replica, 0..100).await;
    let before = replica.read(State::clone);
    let id = replica.node_id();
    replica.shutdown().await;

    let replica = open(directory.path()).await;
    assert_eq!(replica.read(State::clone), before);
    assert_eq!(replica.node_id(), id);
    // What is registered already stays as it is.
    assert_eq!(replica.propose(register(7)).await.unwrap().changes, []);
    register_all(&replica, 100..101).await;
    assert_eq!(replica.read(workers), (0..101).collect::<Vec<_>>());
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_alone_takes_commands_at_once_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    register_all(&replica, 0..1).await;
    replica.shutdown().await;
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        let replica = open(directory.path()).await;
        replica.propose(register(1)).await.unwrap();
        fastest = fastest.min(started.elapsed());
        replica.shutdown().await;
    }
    // An election by timer takes a second at the least, each time.
    assert!(fastest < Duration::from_millis(900), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_in_order_and_before_the_answer_and_not_for_what_was_restored() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    register_all(&replica, 0..3).await;
    replica.shutdown().await;

    let told: Arc<Mutex<Vec<Change>>> = Arc::default();
    let follower = told.clone();
    let on_change = Box::new(move |changes: &[Change]| follower.lock().extend_from_slice(changes));
    let replica = Replica::open(directory.path(), on_change).await.unwrap();
    assert_eq!(*told.lock(), []);
    assert_eq!(replica.read(workers), [0, 1, 2]);

    let mut expected = Vec::new();
    for command in [
        register(3),
        register(3),
        Command::Unregister { store: Atom::new("orders").unwrap(), pid: pid(1), epoch: None },
        Command::Exited { pid: pid(0), epoch: None },
        Command::Purge { node: Atom::new("worker@host").unwrap(), creation: 9 },
    ] {
        expected.extend(replica.propose(command).await.unwrap().changes);
        assert_eq!(*told.lock(), expected);
    }
    assert_eq!(expected.len(), 5);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_take_effect_in_the_order_of_propose_and_each_gets_its_own_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let store = Atom::new("orders").unwrap();
    let mut proposed = Vec::new();
    for id in 0..2_000 {
        proposed.push((true, id, replica.propose(register(id))));
        if id % 2 == 0 {
            let store = store.clone();
            let command = Command::Unregister { store, pid: pid(id), epoch: None };
            proposed.push((false, id, replica.propose(command)));
        }
    }
    for (registers, id, outcome) in proposed {
        match &outcome.await.unwrap().changes[..] {
            [Change::Registered { pid, .. }] => assert!(registers && pid.id == id),
            [Change::Unregistered { pid, .. }] => assert!(!registers && pid.id == id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(replica.read(workers), (0..2_000).filter(|id| id % 2 == 1).collect::<Vec<_>>());
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_replaces_the_log_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { snapshot_after: 20, keep_entries: 5, ..Settings::default() };
    let snapshot = directory.path().join("registry.snapshot");
    let replica =
        Replica::open_with(directory.path(), settings.clone(), NoNetwork, Box::new(|_| {})).await;
    let replica = replica.unwrap();
    for id in 0..200 {
        // One at a time: an entry of the log for each.
        replica.propose(register(id)).await.unwrap();
    }
    eventually("a snapshot is written", || snapshot.exists()).await;
    let before = replica.read(State::clone);
    replica.shutdown().await;

    // A torn one beside it does no harm.
    let whole = std::fs::read(&snapshot).unwrap();
    std::fs::write(
        directory.path().join("registry.snapshot-unfinished"),
        &whole[..whole.len() / 2],
    )
    .unwrap();
    let replica =
        Replica::open_with(directory.path(), settings, NoNetwork, Box::new(|_| {})).await.unwrap();
    assert_eq!(replica.read(State::clone), before);
    register_all(&replica, 200..300).await;
    replica.shutdown().await;

    // Without the snapshot the rest of the log is not enough, and that is said.
    std::fs::remove_file(&snapshot).unwrap();
    match Replica::open(directory.path(), Box::new(|_| {})).await {
        Err(OpenError::Corrupt { path, reason }) => {
            assert_eq!(path, snapshot);
            assert!(reason.contains("no snapshot"), "{reason}");
        }
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_made_up_for_by_a_whole_log_and_refused_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("registry.snapshot");
    let keep_all = Settings { snapshot_after: 1, keep_entries: u64::MAX, ..Settings::default() };
    let replica =
        Replica::open_with(directory.path(), keep_all, NoNetwork, Box::new(|_| {})).await.unwrap();
    register_all(&replica, 0..50).await;
    eventually("a snapshot is written", || snapshot.exists()).await;
    replica.shutdown().await;

    std::fs::write(&snapshot, b"not a snapshot").unwrap();
    let replica = open(directory.path()).await;
    assert_eq!(replica.read(workers), (0..50).collect::<Vec<_>>());
    replica.shutdown().await;

    std::fs::write(&snapshot, b"not a snapshot").unwrap();
    std::fs::remove_file(directory.path().join(LOG)).unwrap();
    let refused = Replica::open(directory.path(), Box::new(|_| {})).await.err().unwrap();
    assert!(refused.to_string().contains("registry.snapshot is damaged"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let refused = Replica::open(directory.path(), Box::new(|_| {})).await.err().unwrap();
    assert!(matches!(&refused, OpenError::InUse(path) if path == directory.path()), "{refused}");
    replica.shutdown().await;
    open(directory.path()).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_only_half_made_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join("registry.log-unfinished");
    std::fs::write(&unfinished, b"half of a file").unwrap();
    let replica = open(directory.path()).await;
    register_all(&replica, 0..1).await;
    assert!(!unfinished.exists());
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_directory_comes_back_as_another_node() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let id = replica.node_id();
    replica.shutdown().await;
    std::fs::remove_dir_all(directory.path()).unwrap();
    let replica = open(directory.path()).await;
    assert_ne!(replica.node_id(), id);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join(LOG);
    let replica = open(directory.path()).await;
    register_all(&replica, 0..500).await;
    replica.shutdown().await;
    let whole = std::fs::read(&log).unwrap();

    for damage in ["garbage", "short", "zeroed pages"] {
        let bytes = match damage {
            "garbage" => b"this is no log, and not a short text either".repeat(200),
            "short" => whole[..whole.len() / 2].to_vec(),
            _ => {
                let mut bytes = whole.clone();
                bytes[4096..].fill(0);
                bytes
            }
        };
        std::fs::write(&log, bytes).unwrap();
        let refused = Replica::open(directory.path(), Box::new(|_| {})).await.err().unwrap();
        assert!(refused.to_string().contains(LOG), "{damage}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shutdown_commands_are_refused_for_good_and_look_ups_answered() {
    let directory = tempfile::tempdir().unwrap();
    let replica = open(directory.path()).await;
    let taken = replica.propose(register(1));
    replica.shutdown().await;
    assert_eq!(taken.await.unwrap().changes.len(), 1);
    let refused = replica.propose(register(2)).await.unwrap_err();
    assert_eq!(refused, ProposeError::Stopped);
    assert!(refused.is_final());
    assert_eq!(replica.read(workers), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_commands_than_may_wait_are_refused_as_overload() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { max_waiting: 10, ..Settings::default() };
    let replica =
        Replica::open_with(directory.path(), settings, NoNetwork, Box::new(|_| {})).await.unwrap();
    let proposed: Vec<_> = (0..5_000).map(|id| replica.propose(register(id))).collect();
    let mut accepted = Vec::new();
    for (id, outcome) in (0..).zip(proposed) {
        match outcome.await {
            Ok(_) => accepted.push(id),
            Err(error) => assert_eq!(error, ProposeError::Overloaded),
        }
    }
    assert!(!accepted.is_empty() && accepted.len() < 5_000);
    assert_eq!(replica.read(workers), accepted);
    replica.shutdown().await;
}
