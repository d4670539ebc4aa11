//! The registry as it is offered to callers: the workers whose nodes can be
//! reached now, in registration order, with an encoded answer per store.
//!
//! It follows the replicated registry change by change and the connections as
//! they come and go. Shims that hold a session get every change pushed; the
//! pushes leave under the same lock that orders the changes, so each link sees
//! consecutive revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use gater_dist::{Lane, Payload, SharedTerm};
use gater_term::{Atom, LocalPid, Pid, encode};
use parking_lot::Mutex;

use crate::transport::peers::PeerRef;

/// What is offered now.
pub struct Directory {
    inner: Mutex<Inner>,
    /// `{ok, []}`.
    no_workers: Arc<SharedTerm>,
}

impl Default for Directory {
    fn default() -> Self {
        let no_workers = SharedTerm::new(|out, _| {
            encode::tuple(out, 2);
            encode::atom(out, "ok");
            encode::nil(out);
        });
        Self { inner: Mutex::default(), no_workers: Arc::new(no_workers) }
    }
}

#[derive(Default)]
struct Inner {
    stores: HashMap<Atom, Store>,
    by_peer: HashMap<PeerRef, BTreeSet<(Atom, u64)>>,
    online: HashSet<PeerRef>,
    /// Grows by one with every change; a reset carries that of the last change before it.
    revision: u64,
    links: Vec<(PeerRef, LocalPid)>,
}

#[derive(Default)]
struct Store {
    /// By epoch, which is the order of registration.
    workers: BTreeMap<u64, Worker>,
    /// The encoded `{ok, [{Node, Pid}]}`, until something changes.
    answer: Option<Arc<SharedTerm>>,
}

struct Worker {
    peer: PeerRef,
    local: LocalPid,
}

impl Directory {
    /// A worker was registered; `peer` is the incarnation it belongs to.
    pub fn registered(&self, store: &Atom, epoch: u64, peer: &PeerRef, local: LocalPid) {
        let mut inner = self.inner.lock();
        let entry = inner.stores.entry(store.clone()).or_default();
        entry.workers.insert(epoch, Worker { peer: peer.clone(), local });
        entry.answer = None;
        inner.by_peer.entry(peer.clone()).or_default().insert((store.clone(), epoch));
        if inner.online.contains(peer) {
            inner.push("added", store, peer, local);
        }
    }

    /// The registration of that epoch is gone.
    pub fn unregistered(&self, store: &Atom, epoch: u64) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.stores.get_mut(store) else { return };
        let Some(Worker { peer, local }) = entry.workers.remove(&epoch) else { return };
        entry.answer = None;
        if entry.workers.is_empty() {
            inner.stores.remove(store);
        }
        if let Some(entries) = inner.by_peer.get_mut(&peer) {
            entries.remove(&(store.clone(), epoch));
            if entries.is_empty() {
                inner.by_peer.remove(&peer);
            }
        }
        if inner.online.contains(&peer) {
            inner.push("removed", store, &peer, local);
        }
    }

    /// The incarnation can be reached: its workers are offered from now on.
    pub fn up(&self, peer: &PeerRef) {
        let mut inner = self.inner.lock();
        // The connection may be gone again by now, and in `down` it may be back.
        if peer.online() && inner.online.insert(peer.clone()) {
            inner.turned(peer, "added");
        }
    }

    /// The incarnation cannot be reached: its workers are not offered until it can.
    pub fn down(&self, peer: &PeerRef) {
        let mut inner = self.inner.lock();
        if !peer.online() && inner.online.remove(peer) {
            inner.turned(peer, "removed");
        }
    }

    /// The encoded `{ok, [{Node, Pid}]}` of a store.
    pub fn workers(&self, store: &str) -> Arc<SharedTerm> {
        let mut inner = self.inner.lock();
        let Inner { stores, online, .. } = &mut *inner;
        let Some(store) = stores.get_mut(store) else {
            return self.no_workers.clone();
        };
        if let Some(answer) = &store.answer {
            return answer.clone();
        }
        let offered: Vec<_> =
            store.workers.values().filter(|worker| online.contains(&worker.peer)).collect();
        let answer = Arc::new(SharedTerm::new(|out, atoms| {
            encode::tuple(out, 2);
            encode::atom(out, "ok");
            encode::list_of(out, offered.iter(), |out, worker| {
                let node = worker.peer.node();
                encode::tuple(out, 2);
                atoms.put(out, node);
                atoms.put_pid(out, node, worker.local);
            });
        }));
        store.answer = Some(answer.clone());
        answer
    }

    /// The encoded `[Pid]` of a store's workers on one node.
    pub fn workers_on(&self, store: &str, node: &str) -> Vec<u8> {
        let inner = self.inner.lock();
        let workers = inner.stores.get(store).map(|store| store.workers.values());
        let local: Vec<_> = workers
            .into_iter()
            .flatten()
            .filter(|w| w.peer.node().as_str() == node && inner.online.contains(&w.peer))
            .collect();
        let mut out = Vec::new();
        encode::list_of(&mut out, local.iter(), |out, worker| {
            encode::pid(out, &worker.peer.pid(worker.local));
        });
        out
    }

    /// The encoded, sorted `[StoreId]` of all stores with a registration.
    pub fn stores(&self) -> Vec<u8> {
        let inner = self.inner.lock();
        let mut names: Vec<_> = inner.stores.keys().collect();
        names.sort();
        let mut out = Vec::new();
        encode::list_of(&mut out, names.iter(), |out, name| encode::atom(out, name.as_str()));
        out
    }

    /// The stores, each with its registrations and with those that are offered.
    pub fn store_sizes(&self) -> Vec<(Atom, usize, usize)> {
        let inner = self.inner.lock();
        let sizes = |(name, store): (&Atom, &Store)| {
            let offered = store.workers.values().filter(|w| inner.online.contains(&w.peer)).count();
            (name.clone(), store.workers.len(), offered)
        };
        inner.stores.iter().map(sizes).collect()
    }

    /// The number of registrations of a store, and the first `limit` of them in the order of
    /// registration: epoch, process, and whether it is offered.
    pub fn registered_workers(&self, store: &str, limit: usize) -> (usize, Vec<(u64, Pid, bool)>) {
        let inner = self.inner.lock();
        let Some(store) = inner.stores.get(store) else { return (0, Vec::new()) };
        let worker = |(epoch, worker): (&u64, &Worker)| {
            (*epoch, worker.peer.pid(worker.local), inner.online.contains(&worker.peer))
        };
        (store.workers.len(), store.workers.iter().take(limit).map(worker).collect())
    }

    /// The number of stores.
    pub fn store_count(&self) -> usize {
        self.inner.lock().stores.len()
    }

    /// Whether any worker of the incarnation is registered, offered or not.
    pub fn has_workers(&self, peer: &PeerRef) -> bool {
        self.inner.lock().by_peer.contains_key(peer)
    }

    /// The number of registrations, offered or not.
    pub fn registrations(&self) -> usize {
        self.inner.lock().stores.values().map(|store| store.workers.len()).sum()
    }

    /// Starts pushing to a shim's link: all that is offered first, then every change.
    /// A link that attaches again starts over.
    pub fn attach(&self, peer: &PeerRef, local: LocalPid) {
        let mut inner = self.inner.lock();
        deliver(peer, local, &inner.reset());
        let link = (peer.clone(), local);
        if !inner.links.contains(&link) {
            inner.links.push(link);
        }
    }

    /// Stops pushing to a link.
    pub fn detach(&self, peer: &PeerRef, local: LocalPid) {
        self.inner.lock().links.retain(|link| *link != (peer.clone(), local));
    }

    /// Stops pushing to every link of an incarnation.
    pub fn detach_peer(&self, peer: &PeerRef) {
        self.inner.lock().links.retain(|(of, _)| of != peer);
    }
}

impl Inner {
    /// All workers of `peer` come or go at once.
    fn turned(&mut self, peer: &PeerRef, what: &str) {
        let entries = self.by_peer.get(peer).cloned().unwrap_or_default();
        for (store, epoch) in entries {
            let Some(entry) = self.stores.get_mut(&store) else { continue };
            entry.answer = None;
            let Some(local) = entry.workers.get(&epoch).map(|worker| worker.local) else {
                continue;
            };
            self.push(what, &store, peer, local);
        }
    }

    fn push(&mut self, what: &str, store: &Atom, worker: &PeerRef, local: LocalPid) {
        self.revision += 1;
        if self.links.is_empty() {
            return;
        }
        let mut out = Vec::with_capacity(128);
        encode::tuple(&mut out, 5);
        encode::atom(&mut out, "esdb_gater_registry");
        encode::atom(&mut out, what);
        encode::uint(&mut out, self.revision);
        encode::atom(&mut out, store.as_str());
        encode::pid(&mut out, &worker.pid(local));
        let payload = Payload::from(Bytes::from(out));
        for (link, pid) in &self.links {
            deliver(link, *pid, &payload);
        }
    }

    /// `{esdb_gater_registry, reset, Revision, [{Store, [Pid]}]}`.
    fn reset(&self) -> Payload {
        let mut out = Vec::with_capacity(256);
        encode::tuple(&mut out, 4);
        encode::atom(&mut out, "esdb_gater_registry");
        encode::atom(&mut out, "reset");
        encode::uint(&mut out, self.revision);
        encode::list_of(&mut out, self.stores.iter(), |out, (name, store)| {
            let offered: Vec<_> =
                store.workers.values().filter(|w| self.online.contains(&w.peer)).collect();
            encode::tuple(out, 2);
            encode::atom(out, name.as_str());
            encode::list_of(out, offered.iter(), |out, worker| {
                encode::pid(out, &worker.peer.pid(worker.local));
            });
        });
        Payload::from(Bytes::from(out))
    }
}

fn deliver(peer: &PeerRef, local: LocalPid, payload: &Payload) {
    if let Some(link) = &*peer.link() {
        link.send(Lane::Control, local, payload);
    }
}
