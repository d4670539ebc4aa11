//! The table of the subscriptions of one channel.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use foldhash::HashMap;

use super::dense::DenseSet;
use super::topic::Topic;
use gater_term::LocalPid;

/// The subscriptions of one channel. `P` is the caller's handle of a subscriber's node. It must be
/// cheap to clone, and every incarnation of a node must have a different handle.
///
/// The subscribers of a topic are grouped by node, so that publishing iterates over nodes and not
/// over processes. The subscriptions of a process are indexed too, so that the end of a process or
/// of a node costs as much as it had subscriptions. With ten subscribers per topic a subscription
/// takes 60 to 115 bytes (`tests/subscription_memory.rs` measures it).
///
/// Invariant: `pid` is in the group of `peer` at `topic` if and only if the id of the topic is in
/// the entry of `pid` at `peer`. No topic, group, process or peer is kept without a subscription.
#[derive(Debug)]
pub struct Subscribers<P> {
    ids: HashMap<Topic, TopicId>,
    /// The topics, indexed by [`TopicId`]. An entry without groups is free.
    topics: Vec<TopicEntry<P>>,
    free: Vec<TopicId>,
    peers: HashMap<P, PeerEntry>,
    next_peer: u64,
    len: usize,
}

type TopicId = u32;

#[derive(Debug)]
struct TopicEntry<P> {
    /// The key in `ids`, or `None` for a free entry.
    name: Option<Topic>,
    groups: Vec<Group<P>>,
}

/// The subscribers of one topic on one node.
#[derive(Debug)]
struct Group<P> {
    peer_id: u64,
    peer: P,
    pids: DenseSet<LocalPid>,
}

#[derive(Debug)]
struct PeerEntry {
    /// The id of the peer, which is unique for the life of the table. Comparing it does not
    /// dereference the handle.
    id: u64,
    /// Subscriptions of all its processes.
    len: usize,
    processes: HashMap<LocalPid, DenseSet<TopicId>>,
}

impl<P> Default for Subscribers<P> {
    fn default() -> Self {
        Self {
            ids: HashMap::default(),
            topics: Vec::new(),
            free: Vec::new(),
            peers: HashMap::default(),
            next_peer: 0,
            len: 0,
        }
    }
}

impl<P: Clone + Eq + Hash> Subscribers<P> {
    /// Subscribes a process to a topic. Returns false if it was subscribed already.
    pub fn subscribe(&mut self, topic: &Topic, peer: P, pid: LocalPid) -> bool {
        let Some(id) = self.topic_id(topic) else { return false };
        let peer_entry = self.peers.entry(peer.clone()).or_insert_with(|| {
            self.next_peer += 1;
            PeerEntry { id: self.next_peer, len: 0, processes: HashMap::default() }
        });
        let Some(entry) = self.topics.get_mut(id as usize) else { return false };
        if !entry.group_mut(peer_entry.id, peer).insert(pid) {
            return false;
        }
        peer_entry.processes.entry(pid).or_default().insert(id);
        peer_entry.len += 1;
        self.len += 1;
        true
    }

    /// Ends a subscription. Returns false if it did not exist.
    pub fn unsubscribe(&mut self, topic: &[u8], peer: &P, pid: LocalPid) -> bool {
        let Some(&id) = self.ids.get(topic) else { return false };
        let Some(peer_entry) = self.peers.get_mut(peer) else { return false };
        let peer_id = peer_entry.id;
        let removed = self.topics.get_mut(id as usize).is_some_and(|t| t.remove(peer_id, pid));
        if !removed {
            return false;
        }
        peer_entry.len -= 1;
        let Entry::Occupied(mut process) = peer_entry.processes.entry(pid) else { return false };
        process.get_mut().remove(id);
        if process.get().is_empty() {
            process.remove();
            self.forget_process(peer);
        }
        self.len -= 1;
        self.free_if_empty(id);
        true
    }

    /// Returns the subscribers of a topic, grouped by node.
    pub fn get(&self, topic: &[u8]) -> impl Iterator<Item = (&P, &[LocalPid])> {
        let entry = self.ids.get(topic).and_then(|id| self.topics.get(*id as usize));
        let groups = entry.map_or(&[][..], |entry| &entry.groups);
        groups.iter().map(|group| (&group.peer, group.pids.as_slice()))
    }

    /// Returns the subscribers of a topic.
    pub fn pids(&self, topic: &[u8]) -> impl Iterator<Item = (&P, LocalPid)> {
        self.get(topic).flat_map(|(peer, pids)| pids.iter().map(move |pid| (peer, *pid)))
    }

    /// Ends all subscriptions of a process and returns their number.
    pub fn remove_process(&mut self, peer: &P, pid: LocalPid) -> usize {
        let Some(peer_entry) = self.peers.get_mut(peer) else { return 0 };
        let Some(topics) = peer_entry.processes.remove(&pid) else { return 0 };
        peer_entry.len -= topics.as_slice().len();
        let peer_id = peer_entry.id;
        self.forget_process(peer);
        self.forget(peer_id, pid, &topics)
    }

    /// Ends all subscriptions of all processes of a node and returns their number.
    pub fn remove_peer(&mut self, peer: &P) -> usize {
        let Some(peer_entry) = self.peers.remove(peer) else { return 0 };
        let id = peer_entry.id;
        peer_entry.processes.iter().map(|(pid, topics)| self.forget(id, *pid, topics)).sum()
    }

    /// Returns the number of subscriptions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no subscriptions.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The nodes that have subscribers: how many subscriptions, of how many processes.
    pub fn peers(&self) -> impl Iterator<Item = (&P, usize, usize)> {
        self.peers.iter().map(|(peer, entry)| (peer, entry.len, entry.processes.len()))
    }

    /// Returns the topics that have subscribers, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &Topic> {
        self.ids.keys()
    }

    /// Returns the number of topics that have subscribers.
    pub fn topics(&self) -> usize {
        self.ids.len()
    }

    /// Returns the id of a topic, and assigns one to a new topic. Returns `None` if 2^32 topics
    /// exist.
    fn topic_id(&mut self, topic: &Topic) -> Option<TopicId> {
        if let Some(id) = self.ids.get(topic) {
            return Some(*id);
        }
        let entry = TopicEntry { name: Some(topic.clone()), groups: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                *self.topics.get_mut(id as usize)? = entry;
                id
            }
            None => {
                let id = TopicId::try_from(self.topics.len()).ok()?;
                self.topics.push(entry);
                id
            }
        };
        self.ids.insert(topic.clone(), id);
        Some(id)
    }

    /// Removes the entry of `peer` if its last process was removed.
    fn forget_process(&mut self, peer: &P) {
        let Some(entry) = self.peers.get_mut(peer) else { return };
        if entry.processes.is_empty() {
            self.peers.remove(peer);
        } else {
            shrink(&mut entry.processes);
        }
    }

    /// Removes a process from the groups of `topics`. Its own entry must have been removed already.
    fn forget(&mut self, peer_id: u64, pid: LocalPid, topics: &DenseSet<TopicId>) -> usize {
        let mut removed = 0;
        for id in topics.as_slice() {
            if self.topics.get_mut(*id as usize).is_some_and(|topic| topic.remove(peer_id, pid)) {
                removed += 1;
            }
            self.free_if_empty(*id);
        }
        self.len -= removed;
        removed
    }

    fn free_if_empty(&mut self, id: TopicId) {
        let Some(entry) = self.topics.get_mut(id as usize) else { return };
        if !entry.groups.is_empty() {
            return;
        }
        let Some(name) = entry.name.take() else { return };
        entry.groups = Vec::new();
        self.ids.remove(&name);
        self.free.push(id);
        shrink(&mut self.ids);
        if self.ids.is_empty() {
            self.topics = Vec::new();
            self.free = Vec::new();
        }
    }
}

impl<P> TopicEntry<P> {
    fn group_mut(&mut self, peer_id: u64, peer: P) -> &mut DenseSet<LocalPid> {
        let known = self.groups.iter().position(|group| group.peer_id == peer_id);
        let at = known.unwrap_or_else(|| {
            // Most topics have subscribers on one node, so no room is reserved for more.
            if self.groups.is_empty() {
                self.groups.reserve_exact(1);
            }
            self.groups.push(Group { peer_id, peer, pids: DenseSet::default() });
            self.groups.len() - 1
        });
        &mut self.groups[at].pids
    }

    fn remove(&mut self, peer_id: u64, pid: LocalPid) -> bool {
        let at = self.groups.iter().position(|group| group.peer_id == peer_id);
        let Some((at, group)) = at.and_then(|at| Some((at, self.groups.get_mut(at)?))) else {
            return false;
        };
        let removed = group.pids.remove(pid);
        if group.pids.is_empty() {
            self.groups.swap_remove(at);
        }
        removed
    }
}

/// Frees memory when a table has shrunk to an eighth of its capacity.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests;
