use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{Snapshot, SnapshotError};
use super::*;

fn atom(text: &str) -> Atom {
    Atom::new(text).unwrap()
}

fn pid(node: &str, id: u32, creation: u32) -> Pid {
    Pid { node: atom(node), id, serial: 0, creation }
}

fn register(store: &str, pid: &Pid) -> Command {
    Command::Register { store: atom(store), pid: pid.clone() }
}

fn unregister(store: &str, pid: &Pid, epoch: Option<u64>) -> Command {
    Command::Unregister { store: atom(store), pid: pid.clone(), epoch }
}

fn workers(state: &State, store: &str) -> Vec<Pid> {
    state.workers(store).map(|(_, pid)| pid.clone()).collect()
}

#[test]
fn workers_are_listed_in_the_order_of_registration() {
    let mut state = State::default();
    let (a, b, c) = (pid("z@h", 1, 1), pid("a@h", 2, 1), pid("m@h", 3, 1));
    state.apply(1, &[register("s", &b), register("s", &a)]);
    state.apply(2, &[register("s", &c)]);
    assert_eq!(workers(&state, "s"), [b, a, c]);
    assert_eq!(workers(&state, "unknown"), []);
}

#[test]
fn registering_twice_changes_nothing() {
    let mut state = State::default();
    let a = pid("a@h", 1, 1);
    let outcomes = state.apply(1, &[register("s", &a), register("s", &a)]);
    assert_eq!(outcomes[0].changes.len(), 1);
    assert_eq!(outcomes[1], Outcome::default());
    assert_eq!(state.len(), 1);
}

#[test]
fn every_registration_of_a_batch_has_its_own_epoch() {
    let mut state = State::default();
    let batch: Vec<_> = (0..100_000).map(|id| register("s", &pid("a@h", id, 1))).collect();
    state.apply(7, &batch);
    let next = state.apply(8, &[register("t", &pid("a@h", 0, 1))]);
    let epochs: BTreeSet<_> = state.iter().map(|(_, epoch, _)| epoch).collect();
    assert_eq!(epochs.len(), 100_001);
    assert_eq!(epochs.first(), Some(&(7 << 16)));
    // The epochs of log entry 7 extend into those of entry 8, which begins after them.
    let expected = (7 << 16) + 100_000;
    assert!(matches!(next[0].changes[..], [Change::Registered { epoch, .. }] if epoch == expected));
}

#[test]
fn a_late_unregister_does_not_undo_a_newer_registration() {
    let mut state = State::default();
    let a = pid("a@h", 1, 1);
    state.apply(1, &[register("s", &a)]);
    let first = state.epoch("s", &a);
    state.apply(2, &[unregister("s", &a, None)]);
    state.apply(3, &[register("s", &a)]);
    assert_eq!(state.apply(4, &[unregister("s", &a, first)])[0].changes, []);
    assert_eq!(state.apply(5, &[Command::Exited { pid: a.clone(), epoch: first }])[0].changes, []);
    let second = state.epoch("s", &a);
    assert_eq!(state.apply(6, &[unregister("s", &a, second)])[0].changes.len(), 1);
}

#[test]
fn a_dead_process_serves_no_store() {
    let mut state = State::default();
    let (a, b) = (pid("a@h", 1, 1), pid("a@h", 2, 1));
    state.apply(1, &[register("s", &a), register("t", &a), register("s", &b)]);
    let changes = &state.apply(2, &[Command::Exited { pid: a, epoch: None }])[0].changes;
    assert_eq!(changes.len(), 2);
    assert_eq!(state.stores().cloned().collect::<Vec<_>>(), [atom("s")]);
    assert_eq!(workers(&state, "s"), [b]);
}

#[test]
fn a_purge_takes_one_incarnation_and_no_other() {
    let mut state = State::default();
    let (old, new, other) = (pid("a@h", 1, 1), pid("a@h", 1, 2), pid("a@hh", 1, 1));
    state.apply(1, &[register("s", &old), register("s", &new), register("s", &other)]);
    state.apply(2, &[Command::Purge { node: atom("a@h"), creation: 1 }]);
    assert_eq!(workers(&state, "s"), [new, other]);
    let nodes: Vec<_> = state.nodes().collect();
    assert_eq!(nodes, [(&atom("a@h"), 2), (&atom("a@hh"), 1)]);
}

#[test]
fn a_full_registry_refuses_and_still_removes() {
    let mut state = State::default();
    let (a, b) = (pid("a@h", 1, 1), pid("a@h", 2, 1));
    state.apply(1, &[register("s", &a)]);
    state.len = MAX_REGISTRATIONS;
    let outcome = &state.apply(2, &[register("s", &b)])[0];
    assert_eq!(outcome.refused, Some(Refusal::Full));
    // A worker that is registered already is not refused.
    assert_eq!(state.apply(3, &[register("s", &a)])[0].refused, None);
    state.apply(4, &[unregister("s", &a, None)]);
    assert_eq!(state.apply(5, &[register("s", &b)])[0].refused, None);
}

fn reassert(store: &str, pid: &Pid) -> Command {
    Command::Reassert { store: atom(store), pid: pid.clone() }
}

#[test]
fn what_was_unregistered_is_not_registered_again_by_those_who_were_away() {
    let mut state = State::default();
    let (a, b) = (pid("a@h", 1, 1), pid("a@h", 2, 1));
    // The registry does not know the worker: it is new, or the node was disconnected for too long.
    assert_eq!(state.apply(1, &[reassert("s", &a)])[0].changes.len(), 1);
    state.apply(2, &[Command::Purge { node: atom("a@h"), creation: 1 }]);
    assert_eq!(state.apply(3, &[reassert("s", &a)])[0].changes.len(), 1);
    // The worker was registered here or at another gateway.
    state.apply(4, &[unregister("s", &a, None), unregister("s", &b, None)]);
    for worker in [&a, &b] {
        let outcome = &state.apply(5, &[reassert("s", worker)])[0];
        assert_eq!((&outcome.changes[..], outcome.refused), (&[][..], Some(Refusal::Unregistered)));
    }
    assert_eq!(state.apply(6, &[reassert("t", &a)])[0].refused, None);
    // An explicit registration is always accepted.
    state.apply(7, &[register("s", &a)]);
    assert_eq!(state.apply(8, &[reassert("s", &a)])[0].refused, None);
    assert_eq!(workers(&state, "s"), [a]);
}

#[test]
fn only_so_many_are_remembered_and_none_of_the_dead() {
    let mut state = State::default();
    let most = super::super::unregistered::MAX_UNREGISTERED as u32;
    let batch: Vec<_> = (0..2 * most).map(|id| unregister("s", &pid("a@h", id, 1), None)).collect();
    state.apply(1, &batch);
    assert_eq!(state.unregistered.iter().count(), most as usize);
    assert_eq!(state.apply(2, &[reassert("s", &pid("a@h", 0, 1))])[0].refused, None);
    let last = pid("a@h", 2 * most - 1, 1);
    assert!(state.unregistered.contains(&atom("s"), &last));
    state.apply(3, &[Command::Exited { pid: last.clone(), epoch: None }]);
    assert!(!state.unregistered.contains(&atom("s"), &last));
    assert_eq!(State::restore(&state.snapshot()), Ok(state));
}

#[test]
fn the_last_epoch_survives_a_snapshot_of_nothing() {
    let mut state = State::default();
    let a = pid("a@h", 1, 1);
    state.apply(9, &[register("s", &a), unregister("s", &a, None)]);
    let restored = State::restore(&state.snapshot()).unwrap();
    assert_eq!(restored.last_epoch(), 9 << 16);
    assert_eq!(restored, state);
}

#[test]
fn a_snapshot_that_is_not_one_is_refused() {
    let a = pid("a@h", 1, 1);
    let entry = |epoch| (epoch, atom("s"), a.clone());
    let snapshot = |registrations| Snapshot {
        version: Snapshot::VERSION,
        last_epoch: 5,
        registrations,
        unregistered: vec![],
    };
    let other = Snapshot { version: 1, ..snapshot(vec![]) };
    assert_eq!(State::restore(&other), Err(SnapshotError::Version { found: 1 }));
    for unregistered in [vec![entry(5)], vec![(2, atom("t"), a.clone()), (2, atom("u"), a.clone())]]
    {
        let wrong = Snapshot { unregistered, ..snapshot(vec![entry(5)]) };
        assert_eq!(State::restore(&wrong), Err(SnapshotError::Inconsistent));
    }
    for wrong in
        [vec![entry(1), entry(2)], vec![entry(6)], vec![entry(2), (1, atom("t"), a.clone())]]
    {
        assert_eq!(State::restore(&snapshot(wrong)), Err(SnapshotError::Inconsistent));
    }
    assert!(State::restore(&snapshot(vec![entry(5)])).is_ok());
}

fn pids() -> impl Strategy<Value = Pid> {
    (0_usize..3, 0_u32..4, 1_u32..3)
        .prop_map(|(n, id, creation)| pid(["a@h", "a@hh", "b@h"][n], id, creation))
}

fn command() -> impl Strategy<Value = Command> {
    let store = || (0..3_usize).prop_map(|n| atom(["orders", "users", "x"][n]));
    // The epochs are close to those of the log entries in the test.
    let epoch = || prop::option::of((0_u64..20, 0_u64..4).prop_map(|(i, p)| (i << 16) + p));
    prop_oneof![
        8 => (store(), pids()).prop_map(|(store, pid)| Command::Register { store, pid }),
        4 => (store(), pids(), epoch())
            .prop_map(|(store, pid, epoch)| Command::Unregister { store, pid, epoch }),
        2 => (pids(), epoch()).prop_map(|(pid, epoch)| Command::Exited { pid, epoch }),
        2 => (store(), pids()).prop_map(|(store, pid)| Command::Reassert { store, pid }),
        1 => pids().prop_map(|Pid { node, creation, .. }| Command::Purge { node, creation }),
    ]
}

type Registration = (Atom, Pid, u64);

/// The registry as one list in the order of registration.
#[derive(Default)]
struct Model(Vec<Registration>, BTreeSet<(Atom, Pid)>);

impl Model {
    fn apply(&mut self, epoch: u64, command: &Command) -> Vec<Change> {
        let pair = |store: &Atom, pid: &Pid| (store.clone(), pid.clone());
        let up_to = |limit: &Option<u64>, epoch| limit.is_none_or(|limit| epoch <= limit);
        let gone: Box<dyn Fn(&Registration) -> bool> = match command {
            Command::Reassert { store, pid } if self.1.contains(&pair(store, pid)) => {
                return vec![];
            }
            Command::Register { store, pid } | Command::Reassert { store, pid } => {
                self.1.remove(&pair(store, pid));
                if self.0.iter().any(|(s, p, _)| s == store && p == pid) {
                    return vec![];
                }
                self.0.push((store.clone(), pid.clone(), epoch));
                let (store, pid) = (store.clone(), pid.clone());
                return vec![Change::Registered { store, pid, epoch }];
            }
            Command::Unregister { store, pid, epoch } => {
                let stays =
                    self.0.iter().any(|(s, p, e)| (s, p) == (store, pid) && !up_to(epoch, *e));
                if !stays {
                    self.1.insert(pair(store, pid));
                }
                Box::new(move |(s, p, e)| s == store && p == pid && up_to(epoch, *e))
            }
            Command::Exited { pid, epoch } => {
                if epoch.is_none() {
                    self.1.retain(|(_, p)| p != pid);
                }
                Box::new(move |(_, p, e)| p == pid && up_to(epoch, *e))
            }
            Command::Purge { node, creation } => {
                Box::new(move |(_, p, _)| p.node == *node && p.creation == *creation)
            }
        };
        self.0
            .extract_if(.., |entry| gone(entry))
            .map(|(store, pid, epoch)| Change::Unregistered { store, pid, epoch })
            .collect()
    }
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|change| match change {
        Change::Registered { epoch, .. } | Change::Unregistered { epoch, .. } => *epoch,
    });
    changes
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_list_holds(
        batches in prop::collection::vec(prop::collection::vec(command(), 0..4), 0..20)
    ) {
        let mut state = State::default();
        let mut model = Model::default();
        for (batch, index) in batches.iter().zip(1_u64..) {
            let outcomes = state.apply(index, batch);
            prop_assert_eq!(outcomes.len(), batch.len());
            for ((outcome, command), position) in outcomes.into_iter().zip(batch).zip(0..) {
                let expected = model.apply((index << 16) + position, command);
                prop_assert_eq!(sorted(outcome.changes), sorted(expected));
            }
            for store in ["orders", "users", "x"] {
                let expected: Vec<_> = model.0.iter().filter(|(s, ..)| s.as_str() == store)
                    .map(|(_, p, e)| (*e, p)).collect();
                prop_assert_eq!(state.workers(store).collect::<Vec<_>>(), expected);
            }
            let stores: BTreeSet<_> = model.0.iter().map(|(s, ..)| s).collect();
            prop_assert_eq!(state.stores().collect::<BTreeSet<_>>(), stores);
            let nodes: BTreeSet<_> = model.0.iter().map(|(_, p, _)| (&p.node, p.creation)).collect();
            prop_assert_eq!(state.nodes().collect::<BTreeSet<_>>(), nodes);
            prop_assert_eq!(state.len(), model.0.len());
            for (store, pid, epoch) in &model.0 {
                prop_assert!(state.stores_of(pid).any(|entry| entry == (store, *epoch)));
                prop_assert!(state.pids_of(&pid.node).any(|known| known == pid));
            }
            let restored = State::restore(&state.snapshot());
            prop_assert_eq!(restored.as_ref(), Ok(&state));
        }
    }
}
