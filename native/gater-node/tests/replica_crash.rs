//! A registry whose process is killed in the middle of its work.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use gater_core::registry::Command;
use gater_node::registry::replica::{NoNetwork, Replica, Settings};
use gater_term::{Atom, Pid};

/// Where the child works. This test, started with it in a process of its own, is the child.
const DIRECTORY: &str = "REPLICA_CRASH_DIRECTORY";
/// The name of this test.
const NAME: &str = "all_1000_acknowledged_registrations_survive_being_killed_again_and_again";
const WORKERS: u32 = 1_000;

fn register(id: u32) -> Command {
    let node = Atom::new("worker@host").unwrap();
    let pid = Pid { node, id, serial: 0, creation: 9 };
    Command::Register { store: Atom::new("orders").unwrap(), pid }
}

async fn open(path: &Path) -> Replica {
    // Snapshots and purges all the while, so that the kill meets those as well.
    let settings = Settings { snapshot_after: 10, keep_entries: 3, ..Settings::default() };
    Replica::open_with(path, settings, NoNetwork, Box::new(|_| {})).await.unwrap()
}

/// The child: registers what is not registered yet, and prints each worker once it is acknowledged,
/// until it is killed.
async fn register_all(directory: &Path) -> ! {
    let replica = open(directory).await;
    let known: BTreeSet<u32> =
        replica.read(|state| state.workers("orders").map(|(_, pid)| pid.id).collect());
    let missing: Vec<u32> = (0..WORKERS).filter(|id| !known.contains(id)).collect();
    for ids in missing.chunks(3) {
        let proposed: Vec<_> = ids.iter().map(|id| (id, replica.propose(register(*id)))).collect();
        for (id, outcome) in proposed {
            outcome.await.unwrap();
            // Past the capture of test output.
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {id}").and_then(|()| out.flush()).unwrap();
        }
    }
    std::process::exit(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_1000_acknowledged_registrations_survive_being_killed_again_and_again() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        register_all(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut rounds = 0;
    while acknowledged.len() < WORKERS as usize {
        rounds += 1;
        assert!(rounds < 100, "no progress");
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Another number each round, so that the kill meets different moments.
        let enough = 90 + 17 * rounds;
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            if let Some((_, id)) = line.split_once("acknowledged ") {
                acknowledged.insert(id.trim().parse::<u32>().unwrap());
                seen += 1;
            }
            if seen == enough {
                // SIGKILL; what it had printed by then is read on, and counts.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();

        let replica = open(directory.path()).await;
        let workers: Vec<u32> =
            replica.read(|state| state.workers("orders").map(|(_, pid)| pid.id).collect());
        let distinct: BTreeSet<u32> = workers.iter().copied().collect();
        assert_eq!(workers.len(), distinct.len(), "a command was applied twice");
        assert!(acknowledged.is_subset(&distinct), "lost: {:?}", &acknowledged - &distinct);
        // Restored is as good as registered: the child leaves those alone.
        acknowledged = distinct;
        replica.shutdown().await;
    }
    assert!(rounds > 3, "killed too seldom to mean anything");
}
