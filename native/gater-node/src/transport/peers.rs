//! The incarnations of BEAM nodes the gateway knows, and the processes it
//! watches on them.
//!
//! A node that comes back with another creation is another [`Peer`]: nothing
//! that belonged to the old one is ever mixed up with the new.
//!
//! Whoever keeps a process in a table of its own first puts it there and then
//! calls [`Peers::watch`]; the exit of a process is taken from here before the
//! tables are cleaned. In that order no exit is missed, however the two race.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use foldhash::HashMap;
use gater_dist::{Connection, Node};
use gater_term::{Atom, LocalPid, Pid};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

/// Why the gateway watches a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// It is registered as a worker.
    Worker,
    /// It is subscribed to a topic.
    Subscriber,
    /// It is the link process of a shim.
    Session,
}

/// How often each interest in one process was stated and not yet taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interests {
    /// Stores it works for.
    pub worker: u32,
    /// Topics it is subscribed to, over all channels.
    pub subscriber: u32,
    /// Sessions it holds.
    pub session: u32,
}

impl Interests {
    fn of(&mut self, interest: Interest) -> &mut u32 {
        match interest {
            Interest::Worker => &mut self.worker,
            Interest::Subscriber => &mut self.subscriber,
            Interest::Session => &mut self.session,
        }
    }

    fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// One incarnation of a BEAM node.
pub struct Peer {
    id: u64,
    node: Atom,
    creation: u32,
    link: ArcSwapOption<Connection>,
    /// It is another gateway.
    gateway: AtomicBool,
    /// It is connected, and what that means has been made known.
    announced: watch::Sender<bool>,
    watched: Mutex<HashMap<LocalPid, Interests>>,
    /// When the last connection went, or when the incarnation was first heard of.
    lost_since: Mutex<Option<Instant>>,
}

/// A cheap handle of a [`Peer`]; equal if it is the same incarnation.
#[derive(Clone)]
pub struct PeerRef(Arc<Peer>);

impl PartialEq for PeerRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for PeerRef {}

impl Hash for PeerRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl std::fmt::Debug for PeerRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.node, self.0.creation)
    }
}

impl PeerRef {
    /// The name of the node.
    pub fn node(&self) -> &Atom {
        &self.0.node
    }

    /// The incarnation of the node.
    pub fn creation(&self) -> u32 {
        self.0.creation
    }

    /// The connection to this incarnation, if there is one now.
    pub fn link(&self) -> arc_swap::Guard<Option<Arc<Connection>>> {
        self.0.link.load()
    }

    /// Whether the node can be reached now.
    pub fn online(&self) -> bool {
        self.link().is_some()
    }

    /// All that its connection means has been made known: its workers are offered.
    pub fn announce(&self) {
        self.0.announced.send_replace(true);
    }

    fn is_announced(&self) -> bool {
        *self.0.announced.borrow()
    }

    /// The full pid of a process of this node.
    pub fn pid(&self, local: LocalPid) -> Pid {
        Pid {
            node: self.0.node.clone(),
            id: local.id,
            serial: local.serial,
            creation: local.creation,
        }
    }

    /// Whether it is known as another gateway.
    pub fn is_gateway(&self) -> bool {
        self.0.gateway.load(Ordering::Relaxed)
    }

    /// It is another gateway.
    pub fn set_gateway(&self) {
        self.0.gateway.store(true, Ordering::Relaxed);
    }

    /// Whether it has not been connected for `grace`.
    fn is_lost(&self, grace: Duration) -> bool {
        self.0.lost_since.lock().is_some_and(|since| since.elapsed() >= grace)
    }

    /// Takes out all that was watched of `local`: it is gone.
    pub fn take(&self, local: LocalPid) -> Interests {
        self.0.watched.lock().remove(&local).unwrap_or_default()
    }
}

/// What a gateway knows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is connected.
    Connected,
    /// It is not, and is remembered: it may come back.
    Away,
    /// It is not remembered.
    Unknown,
}

/// The number of nodes that may be known at a time is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many nodes")]
pub struct TooManyNodes;

/// What [`Peers::take_lost`] found.
#[derive(Debug, Default)]
pub struct Lost {
    /// Of these nothing is watched any more but workers: their subscriptions and
    /// sessions are to be forgotten.
    pub forgotten: Vec<PeerRef>,
    /// These still have workers.
    pub with_workers: Vec<PeerRef>,
}

/// What a new connection changed.
pub struct Joined {
    /// The incarnation that is connected now.
    pub peer: PeerRef,
    /// Earlier incarnations of the same node: all their processes are gone.
    pub replaced: Vec<PeerRef>,
}

/// All incarnations that are connected or that something is watched on.
pub struct Peers {
    next_id: AtomicU64,
    max_nodes: usize,
    node: Node,
    /// Those that may wait for a node to be reached.
    waiters: Arc<Semaphore>,
    table: Mutex<HashMap<Atom, Vec<PeerRef>>>,
    /// Told when a node is connected or forgotten.
    changed: Notify,
}

impl Peers {
    /// An empty table for at most `max_nodes` nodes that are not connected; `node` is asked to
    /// keep connections to those on which something is watched.
    pub fn new(node: Node, max_nodes: usize) -> Self {
        Self {
            next_id: AtomicU64::new(0),
            max_nodes,
            node,
            waiters: Arc::new(Semaphore::new(MAX_WAITERS)),
            table: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The incarnation that `pid` belongs to, whether or not it is connected.
    pub fn of(&self, pid: &Pid) -> Result<PeerRef, TooManyNodes> {
        let mut table = self.table.lock();
        let known = table.len();
        let peers = match table.get_mut(&pid.node) {
            Some(peers) => peers,
            None if known >= self.max_nodes => return Err(TooManyNodes),
            None => table.entry(pid.node.clone()).or_default(),
        };
        if let Some(peer) = peers.iter().find(|peer| peer.creation() == pid.creation) {
            // Whoever asks is about to watch: the peer stays for a whole grace more.
            if let Some(since) = &mut *peer.0.lost_since.lock() {
                *since = Instant::now();
            }
            return Ok(peer.clone());
        }
        // More incarnations of one node than can be meant honestly.
        if peers.len() >= MAX_INCARNATIONS {
            return Err(TooManyNodes);
        }
        let peer = self.make(&pid.node, pid.creation);
        peers.push(peer.clone());
        Ok(peer)
    }

    /// The incarnation that the worker `pid` belongs to. Workers are in the
    /// registry already, so the limit on nodes does not count for them.
    pub fn known(&self, pid: &Pid) -> PeerRef {
        self.of(pid).unwrap_or_else(|TooManyNodes| {
            let peer = self.make(&pid.node, pid.creation);
            self.table.lock().entry(pid.node.clone()).or_default().push(peer.clone());
            peer
        })
    }

    /// The incarnation that `pid` belongs to, if anything is known of it.
    pub fn find(&self, pid: &Pid) -> Option<PeerRef> {
        let table = self.table.lock();
        table.get(&pid.node)?.iter().find(|peer| peer.creation() == pid.creation).cloned()
    }

    fn make(&self, node: &Atom, creation: u32) -> PeerRef {
        PeerRef(Arc::new(Peer {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            node: node.clone(),
            creation,
            link: ArcSwapOption::empty(),
            gateway: AtomicBool::new(false),
            announced: watch::Sender::new(false),
            watched: Mutex::default(),
            lost_since: Mutex::new(Some(Instant::now())),
        }))
    }

    /// A connection is up: tells what it stands for and watches again what was
    /// watched there before.
    pub fn joined(&self, connection: &Arc<Connection>) -> Joined {
        let name = &connection.peer().name;
        let creation = connection.peer().creation;
        let (peer, replaced) = {
            let mut table = self.table.lock();
            let peers = table.entry(name.clone()).or_default();
            let (mut same, replaced): (Vec<_>, Vec<_>) =
                std::mem::take(peers).into_iter().partition(|peer| peer.creation() == creation);
            let peer = same.pop().unwrap_or_else(|| self.make(name, creation));
            peers.push(peer.clone());
            (peer, replaced)
        };
        for old in &replaced {
            old.0.link.store(None);
        }
        *peer.0.lost_since.lock() = None;
        peer.0.link.store(Some(connection.clone()));
        connection.monitor_all(peer.0.watched.lock().keys().copied());
        self.changed.notify_waiters();
        Joined { peer, replaced }
    }

    /// A connection is gone. The incarnation it stood for, unless a newer
    /// connection has taken its place.
    pub fn left(&self, connection: &Arc<Connection>) -> Option<PeerRef> {
        let name = &connection.peer().name;
        let mut table = self.table.lock();
        let peers = table.get_mut(name)?;
        let at = peers.iter().position(|peer| {
            peer.link().as_ref().is_some_and(|link| Arc::ptr_eq(link, connection))
        })?;
        let peer = peers.get(at)?.clone();
        peer.0.announced.send_replace(false);
        peer.0.link.store(None);
        *peer.0.lost_since.lock() = Some(Instant::now());
        // An idle peer may be about to be watched, so it goes with the next
        // sweep; under a flood of short-lived nodes it goes at once.
        if table.len() > self.max_nodes && peer.0.watched.lock().is_empty() {
            table.remove(name);
        }
        Some(peer)
    }

    /// States one more interest in a process; the first makes the gateway watch
    /// it and keep a connection to its node.
    pub fn watch(&self, peer: &PeerRef, local: LocalPid, interest: Interest) {
        let mut watched = peer.0.watched.lock();
        let first_of_peer = watched.is_empty();
        let interests = watched.entry(local).or_default();
        let first = interests.none();
        *interests.of(interest) += 1;
        if !first {
            return;
        }
        // An incarnation that is not the connected one is asked for over the
        // connected one: the node answers `noproc` for its earlier lives.
        let link = match &*peer.link() {
            Some(link) => Some(link.clone()),
            None => self.node.connection(peer.node().as_str()),
        };
        if let Some(link) = link {
            link.monitor(&peer.pid(local));
        }
        drop(watched);
        if first_of_peer {
            self.node.keep(peer.node());
        }
    }

    /// Takes back one interest in a process; the last ends the watch.
    pub fn unwatch(&self, peer: &PeerRef, local: LocalPid, interest: Interest) {
        let mut watched = peer.0.watched.lock();
        let Some(interests) = watched.get_mut(&local) else { return };
        let count = interests.of(interest);
        *count = count.saturating_sub(1);
        if !interests.none() {
            return;
        }
        watched.remove(&local);
        if let Some(link) = &*peer.link() {
            link.demonitor(&peer.pid(local));
        }
        let idle = watched.is_empty();
        drop(watched);
        if idle {
            self.release(peer);
        }
    }

    /// Lets the connection go its own way when nothing is watched on the node any more.
    fn release(&self, peer: &PeerRef) {
        let table = self.table.lock();
        let of_node = table.get(peer.node());
        let watched =
            of_node.is_some_and(|peers| peers.iter().any(|peer| !peer.0.watched.lock().is_empty()));
        if !watched {
            self.node.release(peer.node());
            // Who began to watch since that look has found the node kept.
            if !peer.0.watched.lock().is_empty() {
                self.node.keep(peer.node());
            }
        }
    }

    /// The incarnations that this gateway has not reached for `grace`. Those without
    /// workers are taken out. Those with workers stay until they have none, as the registry
    /// is not for this gateway to decide on; of them it forgets all but the workers.
    pub fn take_lost(&self, grace: Duration) -> Lost {
        let mut lost = Lost::default();
        self.table.lock().retain(|_, peers| {
            for peer in peers.iter().filter(|peer| peer.is_lost(grace)) {
                let mut watched = peer.0.watched.lock();
                let before = watched.len();
                let mut forgotten = false;
                watched.retain(|_, interests| {
                    forgotten |= interests.subscriber > 0 || interests.session > 0;
                    *interests = Interests { worker: interests.worker, ..Interests::default() };
                    !interests.none()
                });
                if !watched.is_empty() {
                    lost.with_workers.push(peer.clone());
                }
                if forgotten || (before == 0 && watched.is_empty()) {
                    lost.forgotten.push(peer.clone());
                }
            }
            peers.retain(|peer| !peer.is_lost(grace) || !peer.0.watched.lock().is_empty());
            !peers.is_empty()
        });
        for peer in &lost.forgotten {
            self.release(peer);
        }
        self.changed.notify_waiters();
        lost
    }

    /// What to wait for before a process of `peer` is told that it is registered or
    /// subscribed: that its node is connected, or cannot be just now. `None` if there is
    /// nothing to wait for, or too many wait already.
    pub fn reach(&self, peer: &PeerRef) -> Option<impl Future<Output = ()> + Send + use<>> {
        if peer.is_announced() {
            return None;
        }
        let node = self.node.clone();
        let permit = self.waiters.clone().try_acquire_owned().ok()?;
        let peer = peer.clone();
        Some(async move {
            let attempt = async {
                let Ok(connection) = node.connect(peer.node()).await else { return };
                // Another incarnation answers: this one is gone. Else the connection's own
                // task makes it known, right after.
                let same = connection.peer().creation == peer.creation();
                if same {
                    let mut announced = peer.0.announced.subscribe();
                    tokio::select! {
                        _ = announced.wait_for(|announced| *announced) => {}
                        () = connection.closed() => {}
                    }
                }
            };
            // Out of reach is no reason to refuse: the node may come back.
            let _ = timeout(REACH_WITHIN, attempt).await;
            drop(permit);
        })
    }

    /// Whether that incarnation of a node was connected, or first heard of, within `grace`.
    pub fn reached(&self, node: &Atom, creation: u32, grace: Duration) -> bool {
        let table = self.table.lock();
        table.get(node).is_some_and(|peers| {
            peers.iter().any(|peer| peer.creation() == creation && !peer.is_lost(grace))
        })
    }

    /// What is known of a node.
    pub fn presence(&self, node: &Atom) -> Presence {
        match self.table.lock().get(node) {
            None => Presence::Unknown,
            Some(peers) if peers.iter().any(PeerRef::online) => Presence::Connected,
            Some(_) => Presence::Away,
        }
    }

    /// Waits until every node that is known is connected.
    pub async fn all_online(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.table.lock().values().flatten().all(PeerRef::online) {
                return;
            }
            changed.await;
        }
    }

    /// The number of connected nodes.
    pub fn online_count(&self) -> usize {
        self.table.lock().values().flatten().filter(|peer| peer.online()).count()
    }
}

/// How long a registration or subscription waits for the node of its process.
const REACH_WITHIN: Duration = Duration::from_secs(2);
/// Registrations and subscriptions that wait at a time; further ones do not wait.
const MAX_WAITERS: usize = 1024;
/// Incarnations of one node that are remembered at a time: the connected one
/// and a few that pids still speak of.
const MAX_INCARNATIONS: usize = 8;
