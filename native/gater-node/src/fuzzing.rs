//! The ways in to the program, each as a function of bytes: for the fuzz targets in `native/fuzz`, and
//! for a test that mutates the golden vectors of what is sent and stored.
//!
//! A function here must return for every input, without a panic.

use std::path::PathBuf;
use std::sync::LazyLock;

use bytes::Bytes;
use gater_core::registry::Command;
use gater_term::{Atom, Pid, Scanner, encode};
use tokio::runtime::Runtime;

use crate::config::{self, Environment, Flags};
use crate::registry::cluster::wire::{Content, Envelope, Question};
use crate::registry::replica::{
    Disk, LogStore, Memory, NoNetwork, Replica, Settings, SnapshotFile,
};
use crate::services;
use crate::services::channel::message::RelayMessage;
use crate::transport;

/// A way in, by the name of its fuzz target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("members", members),
    ("consensus", consensus),
    ("relay", relay),
    ("requests", requests),
    ("answers", answers),
    ("config", configuration),
    ("log", log),
    ("snapshot", snapshot),
];

/// A message between gateways. What is taken can be sent again.
pub fn members(input: &[u8]) {
    if let Some(envelope) = Envelope::decode(&binary(input)) {
        assert!(envelope.encode().is_ok());
    }
}

/// A message between gateways for consensus, to a gateway that leads a cluster of its own: whoever
/// sends it, no worker that is registered is lost.
pub fn consensus(input: &[u8]) {
    static ALONE: LazyLock<Option<(Runtime, Replica, Pid)>> = LazyLock::new(alone);
    let Some((runtime, replica, worker)) = &*ALONE else { return };
    let envelope = Envelope::decode(&binary(input));
    let Some(Envelope { from, content: Content::Ask(question), .. }) = envelope else { return };
    runtime.block_on(async {
        match question {
            Question::Vote(_, request) => drop(replica.take_vote(from, request).await),
            Question::Append(_, request) => drop(replica.take_entries(from, request).await),
            Question::Snapshot(_, request) => drop(replica.take_snapshot(from, request).await),
            _ => {}
        }
    });
    replica.follow(|state| assert_eq!(state.workers("fuzzed").map(|w| w.1).next(), Some(worker)));
}

/// A registry in memory with one worker.
fn alone() -> Option<(Runtime, Replica, Pid)> {
    let runtime = Runtime::new().ok()?;
    let settings = Settings { found_alone: true, ..Settings::default() };
    let replica = Replica::open_in_memory(settings, NoNetwork, Box::new(|_| {}));
    let replica = runtime.block_on(replica).ok()?;
    let pid = Pid { node: Atom::new("worker@h").ok()?, id: 1, serial: 0, creation: 1 };
    let store = Atom::new("fuzzed").ok()?;
    runtime.block_on(replica.propose(Command::Register { store, pid: pid.clone() })).ok()?;
    Some((runtime, replica, pid))
}

/// A message of the relays of two gateways.
pub fn relay(input: &[u8]) {
    drop(RelayMessage::decode(&binary(input)));
}

/// The request of a `gen_server:call` or cast, to each service that reads one, as a valid term.
pub fn requests(input: &[u8]) {
    if let Some(term) = term(input) {
        drop(gater_dist::gen_server::parse(&term));
        services::fuzz(&term);
    }
}

/// The answer of another node to a call of this gateway, as a valid term.
pub fn answers(input: &[u8]) {
    if let Some(term) = term(input) {
        services::rpc::fuzz(&term);
        transport::fuzz(&term);
    }
}

/// A configuration file.
pub fn configuration(input: &[u8]) {
    let path = scratch("config.toml");
    if std::fs::write(&path, input).is_ok() {
        let flags = Flags {
            name: Some("gater@127.0.0.1".into()),
            cookie: Some("cookie".into()),
            config: Some(path),
            ..Flags::default()
        };
        drop(config::load(flags, Environment::new([])));
    }
}

/// The first file of the log.
pub fn log(input: &[u8]) {
    let disk = Memory::default();
    let file = disk.create("registry-0000000000000000.log");
    if file.is_ok_and(|file| file.write_at(0, input).is_ok()) {
        drop(LogStore::open_disk(disk));
    }
}

/// The file of a snapshot.
pub fn snapshot(input: &[u8]) {
    let path = scratch("registry.snapshot");
    if std::fs::write(&path, input).is_ok() {
        drop(SnapshotFile::open(&path, 1));
    }
}

/// The term of the wire that a message between gateways is: a binary of these bytes.
fn binary(input: &[u8]) -> Vec<u8> {
    let mut term = Vec::with_capacity(input.len() + 8);
    encode::binary(&mut term, input);
    term
}

/// The input if it is one valid term, as all are that reach a service.
fn term(input: &[u8]) -> Option<Bytes> {
    let length = Scanner::default().scan(input, 0).ok()?;
    Some(Bytes::copy_from_slice(input.get(..length)?))
}

/// A file of this process.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gater-fuzz-{}-{name}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Set, the seeds are written to `native/fuzz/corpus`, a folder for each target.
    const WRITE: &str = "GATER_WRITE_CORPUS";
    /// Set, so many mutations of each seed are made.
    const MUTATIONS: &str = "GATER_MUTATIONS";
    const FEW: usize = 300;

    /// What a target starts from: the golden vectors of messages and files, and examples.
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let vectors = |file: &str| -> Vec<Vec<u8>> {
            let text = std::fs::read_to_string(root.join("tests/vectors").join(file)).unwrap();
            let seeds: Vec<_> =
                text.lines().filter_map(|line| unhex(line.split_once(' ')?.1)).collect();
            assert!(!seeds.is_empty(), "{file}");
            seeds
        };
        match target {
            "members" | "consensus" => vectors(MEMBERS),
            "relay" => vectors(RELAY),
            "requests" => examples(&REQUESTS),
            "answers" => examples(&ANSWERS),
            "config" => vec![std::fs::read(root.join("docs/esdb-gater.toml")).unwrap()],
            "log" => vec![log_file()],
            "snapshot" => vectors(SNAPSHOT),
            other => panic!("no seeds for {other}"),
        }
    }

    /// The file of a log that was closed.
    fn log_file() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let log = LogStore::open(folder.path()).unwrap();
        Runtime::new().unwrap().block_on(log.set_metadata("name", &"gater@h")).unwrap();
        log.close();
        std::fs::read(folder.path().join("registry-0000000000000000.log")).unwrap()
    }

    const MEMBERS: &str = "gateways.txt";
    const RELAY: &str = "relay.txt";
    const SNAPSHOT: &str = "snapshot.txt";

    /// Terms in the external format, without the version byte.
    const REQUESTS: [&[u8]; 8] = [
        b"\x77\x0blist_stores",
        b"\x77\x04info",
        b"\x77\x06counts",
        b"\x77\x06status",
        b"\x68\x02\x77\x0bget_workers\x77\x06orders",
        b"\x68\x03\x77\x08register\x77\x06ordersX\x77\x03a@h\0\0\0\x01\0\0\0\0\0\0\0\x07",
        b"\x68\x04\x77\x06attach\x61\x01X\x77\x03a@h\0\0\0\x01\0\0\0\0\0\0\0\x07\x74\0\0\0\x01\x77\x05parts\x77\x04true",
        b"\x68\x03\x77\x07publishm\0\0\0\x01t\x61\x01",
    ];
    const ANSWERS: [&[u8]; 2] =
        [b"\x6c\0\0\0\x02\x77\x03a@h\x77\x03b@h\x6a", b"\x68\x02\x77\x03rex\x77\x02ok"];

    fn examples(examples: &[&[u8]]) -> Vec<Vec<u8>> {
        examples.iter().map(|example| example.to_vec()).collect()
    }

    fn unhex(hex: &str) -> Option<Vec<u8>> {
        (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok())
            .collect()
    }

    /// The same for every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as usize % bound.max(1)
        }
    }

    fn mutated(seed: &[u8], others: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
        let mut input = seed.to_vec();
        for _ in 0..=dice.below(4) {
            let at = dice.below(input.len());
            match dice.below(6) {
                0 => input.truncate(at),
                1 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
                2 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
                3 => input.insert(at, dice.below(256) as u8),
                4 if !input.is_empty() => drop(input.remove(at)),
                _ => {
                    let other = &others[dice.below(others.len())];
                    input.extend_from_slice(&other[dice.below(other.len())..]);
                }
            }
        }
        input
    }

    #[test]
    fn no_way_in_panics_at_what_is_nearly_right() {
        let mutations = std::env::var(MUTATIONS).map_or(FEW, |number| number.parse().unwrap());
        for (target, run) in TARGETS {
            let seeds = seeds(target);
            if std::env::var_os(WRITE).is_some() {
                let folder =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
                std::fs::create_dir_all(&folder).unwrap();
                for (number, seed) in seeds.iter().enumerate() {
                    std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
                }
            }
            let mut dice = Dice(1);
            for seed in &seeds {
                run(seed);
                for _ in 0..mutations {
                    run(&mutated(seed, &seeds, &mut dice));
                }
            }
        }
    }
}
