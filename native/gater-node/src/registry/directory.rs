//! The registry as it is offered to callers: the workers whose nodes can be
//! reached now, in registration order, with an encoded answer per store.
//!
//! It follows the replicated registry change by change and the connections as
//! they come and go. Shims that hold a session get every change pushed; the
//! pushes leave under the same lock that orders the changes, so each link sees
//! consecutive revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use gater_dist::{Lane, Payload, SharedTerm};
use gater_term::{Atom, LocalPid, Pid, encode};
use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::store_names::StoreNames;
use crate::transport::peers::PeerRef;

/// Registrations that are looked at while others wait for the directory.
const STEP: usize = 1024;
/// A part of the registry for a link ends when it has so many bytes.
const PART_BYTES: usize = 256 << 10;
/// The next part is sent when no more than this waits for the peer.
const AHEAD_BYTES: usize = 1 << 20;
/// A link for which more than this waits is sent no further changes, but the whole anew when it has
/// taken what there is.
const BEHIND_BYTES: usize = 16 << 20;
/// The pause before a link that has not taken what it was sent is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The most registrations that a link is sent as one message, if it does not take parts.
const MAX_WHOLE: usize = 50_000;
/// Encoding the answer for a store with more workers takes more than a millisecond.
const LONG_ANSWER: usize = 10_000;

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
    stores: BTreeMap<Atom, Store>,
    names: StoreNames,
    by_peer: HashMap<PeerRef, BTreeSet<(Atom, u64)>>,
    /// In all stores.
    registrations: usize,
    online: HashSet<PeerRef>,
    /// Incarnations whose workers are made known as coming or going, those after the last that was.
    turning: HashMap<PeerRef, Option<(Atom, u64)>>,
    /// Grows by one with every change; a reset carries that of the last change before it.
    revision: u64,
    /// Grows by one with every change of a store.
    version: u64,
    links: Vec<Link>,
    last_copy: u64,
}

#[derive(Default)]
struct Store {
    /// By epoch, which is the order of registration.
    workers: BTreeMap<u64, Worker>,
    /// The encoded `{ok, [{Node, Pid}]}`, until something changes.
    answer: Option<Arc<SharedTerm>>,
    /// Of the last change.
    version: u64,
}

struct Worker {
    peer: PeerRef,
    local: LocalPid,
}

/// The process of a shim that the registry is copied to.
struct Link {
    peer: PeerRef,
    local: LocalPid,
    /// Whether it takes the registry in parts.
    parts: bool,
    /// The copying under way, if there is one: else every change is sent.
    copying: Option<Copying>,
}

/// How far a link has been sent the registry. Changes of what it has been sent are sent, all else is
/// still to come.
struct Copying {
    /// Tells it from earlier ones to the same link.
    number: u64,
    /// Up to and including this registration.
    up_to: Option<(Atom, u64)>,
}

impl Link {
    fn is(&self, peer: &PeerRef, local: LocalPid) -> bool {
        self.peer == *peer && self.local == local
    }

    /// Whether it is told of a change of that registration.
    fn hears(&self, store: &Atom, epoch: u64) -> bool {
        self.copying.as_ref().is_none_or(|copying| {
            let up_to = copying.up_to.as_ref();
            up_to.is_some_and(|(last, of)| (last, *of) >= (store, epoch))
        })
    }

    fn waiting(&self) -> usize {
        self.peer.link().as_ref().map_or(0, |link| link.waiting(Lane::Control))
    }
}

/// What became of a part of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It was sent, and there is more.
    More,
    /// The peer has to take what it was sent before.
    Later,
    /// It was the last, or the link is gone, or copied to anew.
    Done,
}

impl Directory {
    /// A worker was registered; `peer` is the incarnation it belongs to.
    pub fn registered(self: &Arc<Self>, store: &Atom, epoch: u64, peer: &PeerRef, local: LocalPid) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        let new = !inner.stores.contains_key(store);
        let entry = inner.stores.entry(store.clone()).or_default();
        let known = entry.workers.insert(epoch, Worker { peer: peer.clone(), local });
        (entry.answer, entry.version) = (None, version);
        inner.registrations += usize::from(known.is_none());
        if new {
            inner.names.insert(store);
        }
        inner.by_peer.entry(peer.clone()).or_default().insert((store.clone(), epoch));
        if inner.online.contains(peer) {
            let behind = inner.push("added", (store, epoch), peer, local);
            self.copy_to(&mut inner, behind);
        }
    }

    /// The registration of that epoch is gone.
    pub fn unregistered(self: &Arc<Self>, store: &Atom, epoch: u64) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        let Some(entry) = inner.stores.get_mut(store) else { return };
        let Some(Worker { peer, local }) = entry.workers.remove(&epoch) else { return };
        (entry.answer, entry.version) = (None, version);
        if entry.workers.is_empty() {
            inner.stores.remove(store);
            inner.names.remove(store);
        }
        inner.registrations -= 1;
        if let Some(entries) = inner.by_peer.get_mut(&peer) {
            entries.remove(&(store.clone(), epoch));
            if entries.is_empty() {
                inner.by_peer.remove(&peer);
            }
        }
        // Of one that has just gone it may not have been told yet.
        if inner.online.contains(&peer) || inner.turning.contains_key(&peer) {
            let behind = inner.push("removed", (store, epoch), &peer, local);
            self.copy_to(&mut inner, behind);
        }
    }

    /// The incarnation can be reached: its workers are offered from now on.
    pub fn up(self: &Arc<Self>, peer: &PeerRef) {
        let mut inner = self.inner.lock();
        // The connection may be gone again by now, and in `down` it may be back.
        if peer.online() && inner.online.insert(peer.clone()) {
            self.turned(&mut inner, peer);
        }
    }

    /// The incarnation cannot be reached: its workers are not offered until it can.
    pub fn down(self: &Arc<Self>, peer: &PeerRef) {
        let mut inner = self.inner.lock();
        if !peer.online() && inner.online.remove(peer) {
            self.turned(&mut inner, peer);
        }
    }

    /// All workers of `peer` come or go: a few at once, and of many the others behind.
    fn turned(self: &Arc<Self>, inner: &mut Inner, peer: &PeerRef) {
        let under_way = inner.turning.insert(peer.clone(), None).is_some();
        let (more, behind) = inner.turn(peer);
        self.copy_to(inner, behind);
        if more && !under_way {
            let (directory, peer) = (self.clone(), peer.clone());
            tokio::spawn(async move {
                while directory.turn(&peer) {
                    yield_now().await;
                }
            });
        }
    }

    fn turn(self: &Arc<Self>, peer: &PeerRef) -> bool {
        let mut inner = self.inner.lock();
        let (more, behind) = inner.turn(peer);
        self.copy_to(&mut inner, behind);
        more
    }

    /// Whether encoding the workers of a store takes long.
    pub fn takes_long(&self, store: &str) -> bool {
        let inner = self.inner.lock();
        let store = inner.stores.get(store);
        store.is_some_and(|store| store.answer.is_none() && store.workers.len() > LONG_ANSWER)
    }

    /// The encoded `{ok, [{Node, Pid}]}` of a store.
    pub fn workers(&self, store: &str) -> Arc<SharedTerm> {
        let mut offered = Vec::new();
        let (mut from, mut version) = (Bound::Unbounded, None);
        // Nobody waits for more than a step.
        loop {
            let inner = self.inner.lock();
            let Some(entry) = inner.stores.get(store) else { break };
            if let Some(answer) = &entry.answer {
                return answer.clone();
            }
            version.get_or_insert(entry.version);
            let before = from;
            for (epoch, worker) in entry.workers.range((from, Bound::Unbounded)).take(STEP) {
                from = Bound::Excluded(*epoch);
                if inner.online.contains(&worker.peer) {
                    offered.push((worker.peer.clone(), worker.local));
                }
            }
            if from == before {
                break;
            }
        }
        let Some(version) = version else { return self.no_workers.clone() };
        let answer = Arc::new(SharedTerm::new(|out, atoms| {
            encode::tuple(out, 2);
            encode::atom(out, "ok");
            encode::list_of(out, offered.iter(), |out, (peer, local)| {
                encode::tuple(out, 2);
                atoms.put(out, peer.node());
                atoms.put_pid(out, peer.node(), *local);
            });
        }));
        if let Some(entry) = self.inner.lock().stores.get_mut(store)
            && entry.version == version
        {
            entry.answer = Some(answer.clone());
        }
        answer
    }

    /// The encoded `[Pid]` of a store's workers on the node of `peer`, if it is connected.
    pub fn workers_on(&self, store: &Atom, peer: &PeerRef) -> Vec<u8> {
        let inner = self.inner.lock();
        let entry = inner.stores.get(store).filter(|_| inner.online.contains(peer));
        let entries = entry.and_then(|entry| Some((entry, inner.by_peer.get(peer)?)));
        let mut local = Vec::new();
        if let Some((entry, of_peer)) = entries {
            let of_store = of_peer.range((store.clone(), 0)..=(store.clone(), u64::MAX));
            let workers = of_store.filter_map(|(_, epoch)| entry.workers.get(epoch));
            local.extend(workers.map(|worker| worker.local));
        }
        drop(inner);
        let mut out = Vec::new();
        encode::list_of(&mut out, local.iter(), |out, local| encode::pid(out, &peer.pid(*local)));
        out
    }

    /// The encoded, sorted `[StoreId]` of all stores with a registration.
    pub fn stores(&self) -> Bytes {
        self.inner.lock().names.list()
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

    /// Workers of the incarnation with up to `most` registrations together, each with the last epoch
    /// among these.
    pub fn some_workers(&self, peer: &PeerRef, most: usize) -> HashMap<LocalPid, u64> {
        let inner = self.inner.lock();
        let mut workers: HashMap<LocalPid, u64> = HashMap::default();
        for (store, epoch) in inner.by_peer.get(peer).into_iter().flatten().take(most) {
            let worker = inner.stores.get(store).and_then(|entry| entry.workers.get(epoch));
            if let Some(worker) = worker {
                let last = workers.entry(worker.local).or_default();
                *last = (*last).max(*epoch);
            }
        }
        workers
    }

    /// The number of registrations of an incarnation, offered or not.
    pub fn registrations_of(&self, peer: &PeerRef) -> usize {
        self.inner.lock().by_peer.get(peer).map_or(0, BTreeSet::len)
    }

    /// The number of registrations, offered or not.
    pub fn registrations(&self) -> usize {
        self.inner.lock().registrations
    }

    /// Whether the registry is too large for a link that does not take it in parts.
    pub fn needs_parts(&self) -> bool {
        self.registrations() > MAX_WHOLE
    }

    /// Starts sending to a shim's link: all that is offered first, then every change. What is more
    /// than one message is sent in `parts`, if it takes them. A link that attaches again starts over.
    pub fn attach(self: &Arc<Self>, peer: &PeerRef, local: LocalPid, parts: bool) {
        let mut inner = self.inner.lock();
        inner.links.retain(|link| !link.is(peer, local));
        inner.links.push(Link { peer: peer.clone(), local, parts, copying: None });
        let at = inner.links.len() - 1;
        self.copy_to(&mut inner, vec![at]);
    }

    /// Sends the whole registry to these links, by their places: the first part at once.
    fn copy_to(self: &Arc<Self>, inner: &mut Inner, links: Vec<usize>) {
        for at in links {
            inner.last_copy += 1;
            let number = inner.last_copy;
            let Some(link) = inner.links.get_mut(at) else { continue };
            link.copying = Some(Copying { number, up_to: None });
            let (peer, local) = (link.peer.clone(), link.local);
            if inner.part(&peer, local, number) != Part::Done {
                let directory = self.clone();
                tokio::spawn(async move { directory.copy(&peer, local, number).await });
            }
        }
    }

    async fn copy(&self, peer: &PeerRef, local: LocalPid, number: u64) {
        loop {
            let part = self.inner.lock().part(peer, local, number);
            match part {
                Part::More => yield_now().await,
                Part::Later => sleep(LOOK_AGAIN).await,
                Part::Done => return,
            }
        }
    }

    /// Stops sending to a link.
    pub fn detach(&self, peer: &PeerRef, local: LocalPid) {
        self.inner.lock().links.retain(|link| !link.is(peer, local));
    }

    /// Stops sending to every link of an incarnation.
    pub fn detach_peer(&self, peer: &PeerRef) {
        self.inner.lock().links.retain(|link| link.peer != *peer);
    }
}

impl Inner {
    /// The next workers of `peer` come or go. Whether there are more, and the links that are behind.
    fn turn(&mut self, peer: &PeerRef) -> (bool, Vec<usize>) {
        let Some(after) = self.turning.get(peer).cloned() else { return (false, Vec::new()) };
        let what = if self.online.contains(peer) { "added" } else { "removed" };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.by_peer.get(peer).map(|of| of.range((from, Bound::Unbounded)));
        let entries: Vec<_> = entries.into_iter().flatten().take(STEP).cloned().collect();
        let more = entries.len() == STEP;
        match entries.last() {
            Some(last) if more => self.turning.insert(peer.clone(), Some(last.clone())),
            _ => self.turning.remove(peer),
        };
        let mut behind = Vec::new();
        for (store, epoch) in entries {
            self.version += 1;
            let Some(entry) = self.stores.get_mut(&store) else { continue };
            (entry.answer, entry.version) = (None, self.version);
            let Some(local) = entry.workers.get(&epoch).map(|worker| worker.local) else {
                continue;
            };
            behind.extend(self.push(what, (&store, epoch), peer, local));
        }
        (more, behind)
    }

    /// Tells the links of a change. Returns the places of those that have to be sent the whole anew.
    fn push(
        &mut self,
        what: &str,
        (store, epoch): (&Atom, u64),
        worker: &PeerRef,
        local: LocalPid,
    ) -> Vec<usize> {
        self.revision += 1;
        let mut behind = Vec::new();
        if self.links.is_empty() {
            return behind;
        }
        let mut out = Vec::with_capacity(128);
        encode::tuple(&mut out, 5);
        encode::atom(&mut out, "esdb_gater_registry");
        encode::atom(&mut out, what);
        encode::uint(&mut out, self.revision);
        encode::atom(&mut out, store.as_str());
        encode::pid(&mut out, &worker.pid(local));
        let payload = Payload::from(Bytes::from(out));
        for (at, link) in self.links.iter_mut().enumerate() {
            if !link.hears(store, epoch) {
                continue;
            }
            if link.parts && link.waiting() > BEHIND_BYTES {
                // Hears of nothing until it is copied to, which the caller sees to.
                link.copying = Some(Copying { number: 0, up_to: None });
                behind.push(at);
                continue;
            }
            deliver(&link.peer, link.local, &payload);
        }
        behind
    }

    /// Sends the next part of the registry to a link: `{esdb_gater_registry, part, Revision,
    /// [{Store, [Pid]}]}`, and `reset` in place of `part` for the last.
    fn part(&mut self, peer: &PeerRef, local: LocalPid, number: u64) -> Part {
        let Self { stores, online, links, revision, .. } = self;
        let link = links.iter_mut().find(|link| link.is(peer, local));
        let Some(link) = link else { return Part::Done };
        let Some(copying) = link.copying.as_mut().filter(|copying| copying.number == number) else {
            return Part::Done;
        };
        if link.parts && waits(&link.peer) {
            return Part::Later;
        }
        let (mut body, mut count, mut looked_at, mut whole) = (Vec::new(), 0_u32, 0, true);
        let up_to = copying.up_to.take();
        let first = up_to.clone().map_or(Bound::Unbounded, |(store, _)| Bound::Included(store));
        'stores: for (name, store) in stores.range((first, Bound::Unbounded)) {
            let sent = up_to.as_ref().filter(|(last, _)| last == name);
            let after = sent.map_or(Bound::Unbounded, |(_, epoch)| Bound::Excluded(*epoch));
            let mut offered = Vec::new();
            for (epoch, worker) in store.workers.range((after, Bound::Unbounded)) {
                if link.parts && (looked_at >= STEP || body.len() >= PART_BYTES) {
                    whole = false;
                    put_store(&mut body, &mut count, name, &offered);
                    break 'stores;
                }
                looked_at += 1;
                copying.up_to = Some((name.clone(), *epoch));
                if online.contains(&worker.peer) {
                    offered.push(worker);
                }
            }
            put_store(&mut body, &mut count, name, &offered);
        }
        let mut out = Vec::with_capacity(body.len() + 64);
        encode::tuple(&mut out, 4);
        encode::atom(&mut out, "esdb_gater_registry");
        encode::atom(&mut out, if whole { "reset" } else { "part" });
        encode::uint(&mut out, *revision);
        encode::list(&mut out, count);
        out.extend_from_slice(&body);
        encode::nil(&mut out);
        deliver(&link.peer, link.local, &Payload::from(out));
        if whole {
            link.copying = None;
        }
        if whole { Part::Done } else { Part::More }
    }
}

/// Whether the peer has yet to take much of what it was sent.
fn waits(peer: &PeerRef) -> bool {
    peer.link().as_ref().is_none_or(|link| link.waiting(Lane::Control) > AHEAD_BYTES)
}

/// Writes `{Store, [Pid]}`, if there are any.
fn put_store(out: &mut Vec<u8>, count: &mut u32, name: &Atom, workers: &[&Worker]) {
    if workers.is_empty() {
        return;
    }
    *count += 1;
    encode::tuple(out, 2);
    encode::atom(out, name.as_str());
    encode::list_of(out, workers.iter(), |out, worker| {
        encode::pid(out, &worker.peer.pid(worker.local));
    });
}

fn deliver(peer: &PeerRef, local: LocalPid, payload: &Payload) {
    if let Some(link) = &*peer.link() {
        link.send(Lane::Control, local, payload);
    }
}
