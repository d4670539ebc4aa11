//! The relays that keep subscriptions, and the subscriptions that were ended.
//!
//! The relay of a shim keeps subscriptions: its own, which represents the processes of its node,
//! and those of processes on nodes without a shim. It repeats them after every loss. When any
//! process ends a subscription, the relays that keep it are therefore told, and the ending is
//! remembered for relays that are disconnected.
//!
//! Every ending and every kept subscription has a stamp, in microseconds of Unix time and greater
//! than all earlier stamps. A repeated subscription contains its stamp, and stays ended if the
//! ending is later.

use std::collections::BTreeSet;

use foldhash::HashMap;
use gater_core::channel::Topic;
use gater_term::{LocalPid, Pid};

use crate::transport::peers::PeerRef;

/// The greatest number of endings of one channel that are remembered. The oldest are forgotten
/// first.
const MAX_ENDED: usize = 10_000;
/// The greatest number of relays that keep the same subscription. Further relays are not told of
/// its end.
const MAX_KEEPERS: usize = 16;
/// The greatest difference in microseconds by which a stamp may be ahead of this gateway's clock.
/// The clocks of gateways differ, but no gateway may move the stamps far into the future.
const MAX_AHEAD: u64 = 3_600_000_000;

/// A relay that keeps a subscription.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// The incarnation of its node.
    pub peer: PeerRef,
    /// The process of the relay.
    pub relay: LocalPid,
    /// The latest known stamp of the subscription or of the relay; 0 if it is new.
    pub stamp: u64,
}

/// The relays of a channel, the subscriptions that they keep, and the subscriptions that were
/// ended.
#[derive(Debug, Default)]
pub struct Keepers {
    relays: HashMap<PeerRef, LocalPid>,
    /// The nodes whose relays keep the subscriptions of a process of another node.
    kept: HashMap<(PeerRef, LocalPid), HashMap<Topic, Vec<PeerRef>>>,
    /// The number of processes to which relays pass a topic on, where it is not one.
    weights: HashMap<PeerRef, HashMap<Topic, u32>>,
    ended: HashMap<Topic, HashMap<Pid, u64>>,
    /// The entries of `ended`, the oldest first.
    by_age: BTreeSet<(u64, Topic, Pid)>,
    last_stamp: u64,
}

impl Keepers {
    /// Records the introduction of a relay.
    pub fn announce(&mut self, keeper: &Keeper, now_micros: u64) {
        self.observe(keeper.stamp, now_micros);
        self.relays.insert(keeper.peer.clone(), keeper.relay);
    }

    /// Returns a stamp that is greater than all earlier ones.
    pub fn stamp(&mut self, now_micros: u64) -> u64 {
        self.last_stamp = now_micros.max(self.last_stamp.saturating_add(1));
        self.last_stamp
    }

    /// Records a stamp of another gateway or relay, so that later stamps are greater.
    pub fn observe(&mut self, stamp: u64, now_micros: u64) {
        let believable = stamp.min(now_micros.saturating_add(MAX_AHEAD));
        self.last_stamp = self.last_stamp.max(believable);
    }

    /// Returns the relay of a node, if it has introduced itself.
    pub fn relay(&self, peer: &PeerRef) -> Option<LocalPid> {
        self.relays.get(peer).copied()
    }

    /// Returns whether the process is the relay of its node.
    pub fn is_relay(&self, peer: &PeerRef, local: LocalPid) -> bool {
        self.relays.get(peer) == Some(&local)
    }

    /// Records that the relay of `keeper` keeps the subscription of a process of another node.
    pub fn keep(&mut self, topic: &Topic, process: (PeerRef, LocalPid), keeper: &PeerRef) {
        let keepers = self.kept.entry(process).or_default().entry(topic.clone()).or_default();
        if keepers.len() < MAX_KEEPERS && !keepers.contains(keeper) {
            keepers.push(keeper.clone());
        }
    }

    /// Records the number of processes to which the relay of a node passes a topic on.
    pub fn weigh(&mut self, topic: &Topic, peer: &PeerRef, processes: u32) {
        if processes != 1 {
            self.weights.entry(peer.clone()).or_default().insert(topic.clone(), processes);
        } else if let Some(topics) = self.weights.get_mut(peer) {
            topics.remove(topic);
            if topics.is_empty() {
                self.weights.remove(peer);
            }
        }
    }

    /// Returns the relay of a node and the number of processes to which it passes a topic on, if
    /// that is not one.
    pub fn weight(&self, topic: &[u8], peer: &PeerRef) -> Option<(LocalPid, u32)> {
        let processes = *self.weights.get(peer)?.get(topic)?;
        Some((*self.relays.get(peer)?, processes))
    }

    /// Remembers that the subscription of a process was ended.
    pub fn end(&mut self, topic: &Topic, pid: &Pid, stamp: u64) {
        let of_topic = self.ended.entry(topic.clone()).or_default();
        if let Some(before) = of_topic.insert(pid.clone(), stamp) {
            self.by_age.remove(&(before, topic.clone(), pid.clone()));
        }
        self.by_age.insert((stamp, topic.clone(), pid.clone()));
        while self.by_age.len() > MAX_ENDED {
            let Some((_, topic, pid)) = self.by_age.pop_first() else { break };
            if let Some(of_topic) = self.ended.get_mut(&topic) {
                of_topic.remove(&pid);
                if of_topic.is_empty() {
                    self.ended.remove(&topic);
                }
            }
        }
    }

    /// Returns whether the subscription of a process was ended after `stamp`.
    pub fn ended_after(&self, topic: &Topic, pid: &Pid, stamp: u64) -> bool {
        let of_topic = self.ended.get(topic);
        of_topic.and_then(|pids| pids.get(pid)).is_some_and(|ended| *ended > stamp)
    }

    /// Returns the processes of a node whose subscriptions to a topic were ended, with the stamps.
    pub fn ended_on(&self, topic: &Topic, peer: &PeerRef) -> Vec<(Pid, u64)> {
        let of_topic = self.ended.get(topic).into_iter().flatten();
        of_topic
            .filter(|(pid, _)| pid.node == *peer.node() && pid.creation == peer.creation())
            .map(|(pid, stamp)| (pid.clone(), *stamp))
            .collect()
    }

    /// Returns the relays that have to be told of the end of a subscription: those that keep it,
    /// which stop doing so, and that of the process's own node.
    pub fn tell(&mut self, topic: &Topic, peer: &PeerRef, local: LocalPid) -> Vec<Keeper> {
        let process = (peer.clone(), local);
        let mut nodes = Vec::new();
        if let Some(topics) = self.kept.get_mut(&process) {
            nodes = topics.remove(topic).unwrap_or_default();
            if topics.is_empty() {
                self.kept.remove(&process);
            }
        }
        nodes.push(peer.clone());
        nodes
            .into_iter()
            .filter_map(|peer| {
                let relay = *self.relays.get(&peer)?;
                Some(Keeper { peer, relay, stamp: 0 })
            })
            .collect()
    }

    /// Removes a process that has ended.
    pub fn remove_process(&mut self, peer: &PeerRef, local: LocalPid) {
        self.kept.remove(&(peer.clone(), local));
        if self.is_relay(peer, local) {
            self.relays.remove(peer);
            self.weights.remove(peer);
        }
    }

    /// Removes all processes of an incarnation of a node.
    pub fn remove_peer(&mut self, peer: &PeerRef) {
        self.relays.remove(peer);
        self.weights.remove(peer);
        self.kept.retain(|(of, _), _| of != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gater_term::Atom;

    fn pid(node: &str, id: u32) -> Pid {
        Pid { node: Atom::new(node).unwrap(), id, serial: 0, creation: 1 }
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn a_later_ending_outlasts_a_subscription_and_an_earlier_one_does_not() {
        let (mut keepers, t, p) = (Keepers::default(), topic("t"), pid("plain@h", 1));
        let before = keepers.stamp(1000);
        let ended = keepers.stamp(1000);
        keepers.end(&t, &p, ended);
        let after = keepers.stamp(0);
        assert!(before < ended && ended < after);
        assert!(keepers.ended_after(&t, &p, before));
        assert!(!keepers.ended_after(&t, &p, after));
        assert!(!keepers.ended_after(&topic("other"), &p, before));
    }

    #[test]
    fn stamps_follow_those_of_others_within_reason() {
        let mut keepers = Keepers::default();
        keepers.observe(5_000_000, 1000);
        assert_eq!(keepers.stamp(1000), 5_000_001);
        keepers.observe(u64::MAX, 1000);
        assert!(keepers.stamp(1000) <= 1001 + MAX_AHEAD);
    }

    #[test]
    fn only_so_many_endings_are_remembered_the_latest_of_them() {
        let (mut keepers, t) = (Keepers::default(), topic("t"));
        for id in 0..2 * MAX_ENDED as u32 {
            let stamp = keepers.stamp(1);
            keepers.end(&t, &pid("a@h", id), stamp);
        }
        assert_eq!(keepers.by_age.len(), MAX_ENDED);
        assert!(!keepers.ended_after(&t, &pid("a@h", 0), 0));
        assert!(keepers.ended_after(&t, &pid("a@h", 2 * MAX_ENDED as u32 - 1), 0));
    }
}
