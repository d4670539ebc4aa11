use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Table = Subscribers<u8>;

fn topic(n: u8) -> Topic {
    Topic::new(&[b't', n]).unwrap()
}

fn pid(id: u32) -> LocalPid {
    LocalPid { id, serial: 0, creation: 1 }
}

fn listed(table: &Table, topic: &Topic) -> BTreeSet<(u8, LocalPid)> {
    table.pids(topic.as_bytes()).map(|(peer, pid)| (*peer, pid)).collect()
}

/// The invariants stated at [`Subscribers`].
fn assert_consistent(table: &Table) {
    let mut forward = BTreeSet::new();
    for (name, id) in &table.ids {
        let entry = &table.topics[*id as usize];
        assert_eq!(entry.name.as_ref(), Some(name));
        assert!(!entry.groups.is_empty());
        for group in &entry.groups {
            assert!(!group.pids.is_empty());
            assert_eq!(table.peers[&group.peer].id, group.peer_id);
            for pid in group.pids.as_slice() {
                assert!(forward.insert((group.peer, *pid, *id)));
            }
        }
    }
    let mut backward = BTreeSet::new();
    for (peer, entry) in &table.peers {
        assert!(!entry.processes.is_empty());
        for (pid, topics) in &entry.processes {
            assert!(!topics.as_slice().is_empty());
            for id in topics.as_slice() {
                assert!(backward.insert((*peer, *pid, *id)));
            }
        }
    }
    assert_eq!(forward, backward);
    assert_eq!(forward.len(), table.len());
    let name_bytes: usize = table.ids.keys().map(|name| name.as_bytes().len()).sum();
    assert_eq!(table.name_bytes, name_bytes);
    assert_eq!(table.ids.len() + table.free.len(), table.topics.len());
    assert_eq!(
        table.peers().map(|(_, subscriptions, _)| subscriptions).sum::<usize>(),
        table.len()
    );
}

#[test]
fn subscribing_twice_is_subscribing_once() {
    let mut table = Table::default();
    assert!(table.subscribe(&topic(1), 1, pid(1)));
    assert!(!table.subscribe(&topic(1), 1, pid(1)));
    assert_eq!(table.pids(topic(1).as_bytes()).count(), 1);
    assert!(table.unsubscribe(topic(1).as_bytes(), &1, pid(1)));
    assert!(!table.unsubscribe(topic(1).as_bytes(), &1, pid(1)));
    assert!(table.is_empty());
}

#[test]
fn pids_of_one_number_and_two_creations_are_two_subscribers() {
    let mut table = Table::default();
    let reborn = LocalPid { creation: 2, ..pid(1) };
    assert!(table.subscribe(&topic(1), 1, pid(1)));
    assert!(table.subscribe(&topic(1), 1, reborn));
    assert!(!table.remove_process(&1, pid(1)));
    assert_eq!(listed(&table, &topic(1)), BTreeSet::from([(1, reborn)]));
}

#[test]
fn subscribers_of_one_node_lie_side_by_side() {
    let mut table = Table::default();
    for id in 0..100 {
        table.subscribe(&topic(1), (id % 2) as u8, pid(id));
    }
    let groups: Vec<_> = table.get(topic(1).as_bytes()).map(|(p, pids)| (*p, pids.len())).collect();
    assert_eq!(groups, [(0, 50), (1, 50)]);
}

#[test]
fn an_unknown_topic_has_no_subscribers_and_takes_no_place() {
    let mut table = Table::default();
    table.subscribe(&topic(1), 1, pid(1));
    for id in 0..10_000 {
        assert!(!table.unsubscribe(topic(2).as_bytes(), &1, pid(id)));
        assert!(!table.unsubscribe(topic(1).as_bytes(), &2, pid(1)));
    }
    assert_eq!(table.get(b"other").count(), 0);
    assert_eq!((table.topics(), table.len()), (1, 1));
}

#[test]
fn what_shrank_gives_its_memory_back() {
    let mut table = Table::default();
    for n in 0..50_000_u32 {
        table.subscribe(&Topic::new(&n.to_be_bytes()).unwrap(), 1, pid(n));
    }
    for n in 1..50_000_u32 {
        table.remove_process(&1, pid(n));
    }
    assert!(table.ids.capacity() < 1000, "{}", table.ids.capacity());
    assert!(table.peers[&1].processes.capacity() < 1000);
    table.remove_peer(&1);
    table.go_on(usize::MAX);
    assert_eq!((table.topics.capacity(), table.free.capacity()), (0, 0));
}

#[test]
fn a_process_with_many_subscriptions_loses_them_in_steps() {
    let mut table = Table::default();
    for n in 0..1000_u32 {
        table.subscribe(&Topic::new(&n.to_be_bytes()).unwrap(), 1, pid(1));
    }
    assert!(table.remove_process(&1, pid(1)));
    assert!(table.go_on(400));
    assert_eq!(table.len(), 600);
    assert!(!table.unsubscribe(&999_u32.to_be_bytes(), &1, pid(1)));
    assert!(!table.go_on(usize::MAX));
    assert!(table.is_empty());
    assert_consistent(&table);
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(u8, u8, u32),
    Unsubscribe(u8, u8, u32),
    RemoveProcess(u8, u32),
    RemovePeer(u8),
    GoOn(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (topic, peer, pid) = (0_u8..6, 0_u8..3, 0_u32..50);
    prop_oneof![
        20 => (topic.clone(), peer.clone(), pid.clone())
            .prop_map(|(t, n, p)| Step::Subscribe(t, n, p)),
        5 => (topic, peer.clone(), pid.clone()).prop_map(|(t, n, p)| Step::Unsubscribe(t, n, p)),
        2 => (peer.clone(), pid).prop_map(|(n, p)| Step::RemoveProcess(n, p)),
        1 => peer.prop_map(Step::RemovePeer),
        2 => (0_usize..20).prop_map(Step::GoOn),
    ]
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec(step(), 0..300)) {
        let mut table = Table::default();
        let mut model: BTreeMap<u8, BTreeSet<(u8, LocalPid)>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Subscribe(t, peer, id) => {
                    let new = model.entry(t).or_default().insert((peer, pid(id)));
                    prop_assert_eq!(table.subscribe(&topic(t), peer, pid(id)), new);
                }
                Step::Unsubscribe(t, peer, id) => {
                    let known = model.entry(t).or_default().remove(&(peer, pid(id)));
                    prop_assert_eq!(table.unsubscribe(topic(t).as_bytes(), &peer, pid(id)), known);
                }
                Step::RemoveProcess(peer, id) => {
                    model.values_mut().for_each(|set| _ = set.take(&(peer, pid(id))));
                    prop_assert!(!table.remove_process(&peer, pid(id)));
                }
                Step::RemovePeer(peer) => {
                    let of_peer = |set: &BTreeSet<_>| set.iter().any(|(of, _)| *of == peer);
                    let any = model.values().any(of_peer);
                    model.values_mut().for_each(|set| set.retain(|(of, _)| *of != peer));
                    prop_assert_eq!(table.remove_peer(&peer), any);
                }
                // What is left of a node that has gone is seen by nobody, however far that is.
                Step::GoOn(most) => prop_assert_eq!(table.go_on(most), !table.leaving.is_empty()),
            }
            if table.leaving.is_empty() {
                assert_consistent(&table);
            }
            for t in 0..6 {
                let expected = model.get(&t).cloned().unwrap_or_default();
                prop_assert_eq!(listed(&table, &topic(t)), expected);
            }
        }
        table.go_on(usize::MAX);
        assert_consistent(&table);
        prop_assert_eq!(table.topics(), model.values().filter(|set| !set.is_empty()).count());
        prop_assert!(table.hidden.is_empty());
    }
}
