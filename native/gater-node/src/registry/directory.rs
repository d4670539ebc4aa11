//! The registry as it is offered to callers: the workers on nodes that can be reached at present,
//! in registration order, with an encoded answer per store.
//!
//! The directory follows the replicated registry change by change, and the connections as they are
//! established and lost. Shims that hold a session receive every change; changes are sent under the
//! same lock that orders them, so each link receives consecutive revisions.

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

/// The number of registrations that are handled while other tasks wait for the directory.
const STEP: usize = 1024;
/// The length in bytes at which a part of the registry for a link ends.
const PART_BYTES: usize = 256 << 10;
/// The greatest number of bytes that may wait for the peer when the next part is sent.
const AHEAD_BYTES: usize = 1 << 20;
/// The number of waiting bytes beyond which a link receives no further changes, but the whole
/// registry anew when it has received the waiting bytes.
const BEHIND_BYTES: usize = 16 << 20;
/// The pause before another look at a link that has not received what it was sent.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The greatest number of registrations that are sent as one message to a link that does not accept
/// parts.
const MAX_WHOLE: usize = 50_000;
/// The number of workers of a store above which encoding the answer takes more than a millisecond.
const LONG_ANSWER: usize = 10_000;

/// The workers that are offered at present.
pub struct Directory {
    inner: Mutex<Inner>,
    /// `{ok, []}`, encoded.
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
    /// The number of registrations in all stores.
    registrations: usize,
    online: HashSet<PeerRef>,
    /// The incarnations whose workers are being reported as added or removed, with the last one
    /// that was reported.
    turning: HashMap<PeerRef, Option<(Atom, u64)>>,
    /// The revision, which grows by one with every change. A reset contains that of the last change
    /// before it.
    revision: u64,
    /// A number that grows by one with every change of a store.
    version: u64,
    links: Vec<Link>,
    last_copy: u64,
}

#[derive(Default)]
struct Store {
    /// The workers by epoch, which is the order of registration.
    workers: BTreeMap<u64, Worker>,
    /// The encoded `{ok, [{Node, Pid}]}`, until the store changes.
    answer: Option<Arc<SharedTerm>>,
    /// The version of the last change.
    version: u64,
}

struct Worker {
    peer: PeerRef,
    local: LocalPid,
}

/// The process of a shim that receives the registry.
struct Link {
    peer: PeerRef,
    local: LocalPid,
    /// Whether the process accepts the registry in parts.
    parts: bool,
    /// The copying in progress. Without it, every change is sent.
    copying: Option<Copying>,
}

/// The progress of sending the registry to a link. Changes of registrations that were sent are
/// sent, too; all others are still to come.
struct Copying {
    /// The number of the copying, which distinguishes it from earlier ones to the same link.
    number: u64,
    /// The last registration that was sent.
    up_to: Option<(Atom, u64)>,
}

impl Link {
    fn is(&self, peer: &PeerRef, local: LocalPid) -> bool {
        self.peer == *peer && self.local == local
    }

    /// Returns whether the link has to be told of a change of that registration.
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

/// The outcome of sending a part of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The part was sent, and there is more.
    More,
    /// The peer first has to receive what it was sent before.
    Later,
    /// The part was the last, or the link has ended, or another copying has begun.
    Done,
}

impl Directory {
    /// Adds a registration. `peer` is the incarnation to which the worker belongs.
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

    /// Removes the registration of that epoch.
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
        // The removal of an incarnation that was just lost may not have been reported yet.
        if inner.online.contains(&peer) || inner.turning.contains_key(&peer) {
            let behind = inner.push("removed", (store, epoch), &peer, local);
            self.copy_to(&mut inner, behind);
        }
    }

    /// Handles an incarnation that can be reached: its workers are offered from now on.
    pub fn up(self: &Arc<Self>, peer: &PeerRef) {
        let mut inner = self.inner.lock();
        // The connection may have been lost again by now, and in `down` it may have been
        // established again.
        if peer.online() && inner.online.insert(peer.clone()) {
            self.turned(&mut inner, peer);
        }
    }

    /// Handles an incarnation that cannot be reached: its workers are not offered until it can.
    pub fn down(self: &Arc<Self>, peer: &PeerRef) {
        let mut inner = self.inner.lock();
        if !peer.online() && inner.online.remove(peer) {
            self.turned(&mut inner, peer);
        }
    }

    /// Reports all workers of `peer` as added or removed: a few at once, and if there are many the
    /// others in the background.
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

    /// Returns whether encoding the workers of a store takes long.
    pub fn takes_long(&self, store: &str) -> bool {
        let inner = self.inner.lock();
        let store = inner.stores.get(store);
        store.is_some_and(|store| store.answer.is_none() && store.workers.len() > LONG_ANSWER)
    }

    /// Returns the encoded `{ok, [{Node, Pid}]}` of a store.
    pub fn workers(&self, store: &str) -> Arc<SharedTerm> {
        let mut offered = Vec::new();
        let (mut from, mut version) = (Bound::Unbounded, None);
        // No other task waits for more than one step.
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

    /// Returns the encoded `[Pid]` of a store's workers on the node of `peer`, if it is connected.
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

    /// Returns the encoded, sorted `[StoreId]` of all stores with a registration.
    pub fn stores(&self) -> Bytes {
        self.inner.lock().names.list()
    }

    /// Returns the stores, each with the numbers of its registrations and of those that are
    /// offered.
    pub fn store_sizes(&self) -> Vec<(Atom, usize, usize)> {
        let inner = self.inner.lock();
        let sizes = |(name, store): (&Atom, &Store)| {
            let offered = store.workers.values().filter(|w| inner.online.contains(&w.peer)).count();
            (name.clone(), store.workers.len(), offered)
        };
        inner.stores.iter().map(sizes).collect()
    }

    /// Returns the number of registrations of a store, and the first `limit` of them in the order
    /// of registration: epoch, process, and whether it is offered.
    pub fn registered_workers(&self, store: &str, limit: usize) -> (usize, Vec<(u64, Pid, bool)>) {
        let inner = self.inner.lock();
        let Some(store) = inner.stores.get(store) else { return (0, Vec::new()) };
        let worker = |(epoch, worker): (&u64, &Worker)| {
            (*epoch, worker.peer.pid(worker.local), inner.online.contains(&worker.peer))
        };
        (store.workers.len(), store.workers.iter().take(limit).map(worker).collect())
    }

    /// Returns the number of stores.
    pub fn store_count(&self) -> usize {
        self.inner.lock().stores.len()
    }

    /// Returns whether any worker of the incarnation is registered, offered or not.
    pub fn has_workers(&self, peer: &PeerRef) -> bool {
        self.inner.lock().by_peer.contains_key(peer)
    }

    /// Returns workers of the incarnation with up to `most` registrations together, each with its
    /// last epoch among these.
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

    /// Returns the number of registrations of an incarnation, offered or not.
    pub fn registrations_of(&self, peer: &PeerRef) -> usize {
        self.inner.lock().by_peer.get(peer).map_or(0, BTreeSet::len)
    }

    /// Returns the number of registrations, offered or not.
    pub fn registrations(&self) -> usize {
        self.inner.lock().registrations
    }

    /// Returns whether the registry is too large for a link that does not accept parts.
    pub fn needs_parts(&self) -> bool {
        self.registrations() > MAX_WHOLE
    }

    /// Starts sending to a shim's link: first all offered workers, then every change. A registry
    /// that does not fit into one message is sent in `parts` if the link accepts them. A link that
    /// attaches again starts over.
    pub fn attach(self: &Arc<Self>, peer: &PeerRef, local: LocalPid, parts: bool) {
        let mut inner = self.inner.lock();
        inner.links.retain(|link| !link.is(peer, local));
        inner.links.push(Link { peer: peer.clone(), local, parts, copying: None });
        let at = inner.links.len() - 1;
        self.copy_to(&mut inner, vec![at]);
    }

    /// Sends the whole registry to the links at these positions, beginning with the first part.
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
    /// Reports the next workers of `peer` as added or removed. Returns whether there are more, and
    /// the links that are behind.
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

    /// Sends a change to the links. Returns the positions of those that have to receive the whole
    /// registry anew.
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
                // The link receives nothing until it is sent the registry, which the caller starts.
                link.copying = Some(Copying { number: 0, up_to: None });
                behind.push(at);
                continue;
            }
            deliver(&link.peer, link.local, &payload);
        }
        behind
    }

    /// Sends the next part of the registry to a link: `{esdb_gater_registry, part, Revision,
    /// [{Store, [Pid]}]}`, with `reset` in place of `part` for the last one.
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

/// Returns whether the peer still has to receive much of what it was sent.
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
