//! The table of the subscriptions of one channel.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, IntoIter};
use std::hash::Hash;

use foldhash::{HashMap, HashSet};

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
    /// The bytes of the names of all topics.
    name_bytes: usize,
    leaving: VecDeque<Leaving>,
    /// The nodes among `leaving`: their groups are not seen any more.
    hidden: HashSet<u64>,
}

/// Processes whose subscriptions are being ended, a few at a time. Until then they keep their places
/// in the groups of topics.
#[derive(Debug)]
struct Leaving {
    peer_id: u64,
    processes: IntoIter<LocalPid, DenseSet<TopicId>>,
    /// The process at hand, and how many of its topics are done.
    current: Option<(LocalPid, DenseSet<TopicId>, usize)>,
}

/// About what a subscription takes, in bytes, and a topic beside its name.
const SUBSCRIPTION_BYTES: usize = 100;
const TOPIC_BYTES: usize = 64;

/// A process with more subscriptions loses them a few at a time.
const REMOVED_AT_ONCE: usize = 256;

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
            name_bytes: 0,
            leaving: VecDeque::new(),
            hidden: HashSet::default(),
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
        // One that is leaving has no entry any more.
        let Entry::Occupied(mut process) = peer_entry.processes.entry(pid) else { return false };
        let removed = self.topics.get_mut(id as usize).is_some_and(|t| t.remove(peer_id, pid));
        if !removed {
            return false;
        }
        peer_entry.len -= 1;
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
        let seen =
            |group: &&Group<P>| self.hidden.is_empty() || !self.hidden.contains(&group.peer_id);
        groups.iter().filter(seen).map(|group| (&group.peer, group.pids.as_slice()))
    }

    /// Returns the subscribers of a topic.
    pub fn pids(&self, topic: &[u8]) -> impl Iterator<Item = (&P, LocalPid)> {
        self.get(topic).flat_map(|(peer, pids)| pids.iter().map(move |pid| (peer, *pid)))
    }

    /// Ends all subscriptions of a process that has ended. If it has many this only begins: returns
    /// true, [`Self::go_on`] is to be called until nothing is left, and until then the process may be
    /// among the subscribers of a topic.
    pub fn remove_process(&mut self, peer: &P, pid: LocalPid) -> bool {
        let Some(peer_entry) = self.peers.get_mut(peer) else { return false };
        let Some(topics) = peer_entry.processes.remove(&pid) else { return false };
        peer_entry.len -= topics.as_slice().len();
        let peer_id = peer_entry.id;
        self.forget_process(peer);
        if topics.as_slice().len() <= REMOVED_AT_ONCE {
            topics.as_slice().iter().for_each(|id| self.forget(peer_id, pid, *id));
            return false;
        }
        let processes = HashMap::default().into_iter();
        self.leaving.push_back(Leaving { peer_id, processes, current: Some((pid, topics, 0)) });
        true
    }

    /// Begins to end all subscriptions of all processes of a node, which is among no subscribers from
    /// now on. Returns whether it had any: then [`Self::go_on`] is to be called until nothing is left.
    pub fn remove_peer(&mut self, peer: &P) -> bool {
        let Some(PeerEntry { id, processes, .. }) = self.peers.remove(peer) else { return false };
        self.hidden.insert(id);
        let processes = processes.into_iter();
        self.leaving.push_back(Leaving { peer_id: id, processes, current: None });
        true
    }

    /// Ends up to `most` of the subscriptions that are to be ended. Returns whether any are left.
    pub fn go_on(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(left) = self.leaving.front_mut() else { return false };
            let (peer_id, next) = (left.peer_id, left.next());
            match next {
                Some((pid, id)) => self.forget(peer_id, pid, id),
                None => {
                    self.leaving.pop_front();
                    self.hidden.remove(&peer_id);
                }
            }
        }
        !self.leaving.is_empty()
    }

    /// Returns the number of subscriptions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns about how many bytes the subscriptions take.
    pub fn bytes(&self) -> usize {
        self.len * SUBSCRIPTION_BYTES + self.ids.len() * TOPIC_BYTES + self.name_bytes
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
        self.name_bytes += topic.as_bytes().len();
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

    /// Takes a process out of a topic, whose own entry is gone already.
    fn forget(&mut self, peer_id: u64, pid: LocalPid, id: TopicId) {
        if self.topics.get_mut(id as usize).is_some_and(|topic| topic.remove(peer_id, pid)) {
            self.len -= 1;
        }
        self.free_if_empty(id);
    }

    fn free_if_empty(&mut self, id: TopicId) {
        let Some(entry) = self.topics.get_mut(id as usize) else { return };
        if !entry.groups.is_empty() {
            return;
        }
        let Some(name) = entry.name.take() else { return };
        entry.groups = Vec::new();
        self.ids.remove(&name);
        self.name_bytes -= name.as_bytes().len();
        self.free.push(id);
        shrink(&mut self.ids);
        if self.ids.is_empty() {
            self.topics = Vec::new();
            self.free = Vec::new();
        }
    }
}

impl Leaving {
    /// The next subscription to end.
    fn next(&mut self) -> Option<(LocalPid, TopicId)> {
        loop {
            if let Some((pid, topics, done)) = &mut self.current
                && let Some(id) = topics.as_slice().get(*done)
            {
                *done += 1;
                return Some((*pid, *id));
            }
            let (pid, topics) = self.processes.next()?;
            self.current = Some((pid, topics, 0));
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
