//! The known incarnations of BEAM nodes, and the processes that are watched on them.
//!
//! A node that returns with another creation is another [`Peer`], so the state of the old
//! incarnation is never mixed with that of the new one.
//!
//! A service that keeps a process in a table of its own adds it to the table first and then calls
//! [`Peers::watch`]. When a process exits, it is removed here before the tables are cleaned. In
//! this order no exit is missed, whatever the timing.

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

use super::requests::{Request, Requests};

/// The reason why the gateway watches a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// The process is registered as a worker.
    Worker,
    /// The process is subscribed to a topic.
    Subscriber,
    /// The process is the link process of a shim.
    Session,
}

/// The number of times each interest in one process was stated and not withdrawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interests {
    /// The number of stores for which it works.
    pub worker: u32,
    /// The number of topics to which it is subscribed, over all channels.
    pub subscriber: u32,
    /// The number of sessions that it holds.
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
    /// Whether the node is another gateway.
    gateway: AtomicBool,
    /// Whether the node is connected and its connection was announced to all parts.
    announced: watch::Sender<bool>,
    watched: Mutex<HashMap<LocalPid, Interests>>,
    /// The end of the last connection, or the time at which the incarnation was first mentioned.
    lost_since: Mutex<Option<Instant>>,
    /// The request of another node by which it is known, until it is connected.
    request: Mutex<Option<Request>>,
}

/// A cheap handle of a [`Peer`]. Handles are equal if they refer to the same incarnation.
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
    /// Returns the name of the node.
    pub fn node(&self) -> &Atom {
        &self.0.node
    }

    /// Returns the incarnation of the node.
    pub fn creation(&self) -> u32 {
        self.0.creation
    }

    /// Returns the connection to this incarnation, if it is connected now.
    pub fn link(&self) -> arc_swap::Guard<Option<Arc<Connection>>> {
        self.0.link.load()
    }

    /// Returns whether the node is connected now.
    pub fn online(&self) -> bool {
        self.link().is_some()
    }

    /// Records that the connection was announced to all parts, so that its workers are offered.
    pub fn announce(&self) {
        self.0.announced.send_replace(true);
    }

    fn is_announced(&self) -> bool {
        *self.0.announced.borrow()
    }

    /// Returns the full pid of a process of this node.
    pub fn pid(&self, local: LocalPid) -> Pid {
        Pid {
            node: self.0.node.clone(),
            id: local.id,
            serial: local.serial,
            creation: local.creation,
        }
    }

    /// Returns whether the node is known to be another gateway.
    pub fn is_gateway(&self) -> bool {
        self.0.gateway.load(Ordering::Relaxed)
    }

    /// Records that the node is another gateway.
    pub fn set_gateway(&self) {
        self.0.gateway.store(true, Ordering::Relaxed);
    }

    /// For how long it has not been connected, if it is not.
    pub fn away(&self) -> Option<Duration> {
        self.0.lost_since.lock().map(|since| since.elapsed())
    }

    /// The number of processes that are watched there.
    pub fn watched(&self) -> usize {
        self.0.watched.lock().len()
    }

    /// Returns whether the node has not been connected for `grace`.
    fn is_lost(&self, grace: Duration) -> bool {
        self.0.lost_since.lock().is_some_and(|since| since.elapsed() >= grace)
    }

    /// Removes and returns the interests in `local`, which has ended.
    pub fn take(&self, local: LocalPid) -> Interests {
        self.0.watched.lock().remove(&local).unwrap_or_default()
    }
}

/// The knowledge that a gateway has of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The node is connected.
    Connected,
    /// The node is not connected, but is remembered and may return.
    Away,
    /// The node is not remembered.
    Unknown,
}

/// The error for a new node when the greatest number of known nodes is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many nodes")]
pub struct TooManyNodes;

/// The nodes that [`Peers::take_lost`] found.
#[derive(Debug, Default)]
pub struct Lost {
    /// Nodes without workers, on which nothing is watched any more: their subscriptions and
    /// sessions are to be forgotten.
    pub forgotten: Vec<PeerRef>,
    /// Nodes that still have workers.
    pub with_workers: Vec<PeerRef>,
}

/// The changes that a new connection causes.
pub struct Joined {
    /// The incarnation that is connected now.
    pub peer: PeerRef,
    /// Earlier incarnations of the same node, whose processes have all ended.
    pub replaced: Vec<PeerRef>,
}

/// All incarnations that are connected or on which something is watched.
pub struct Peers {
    next_id: AtomicU64,
    max_nodes: usize,
    node: Node,
    /// The permits of the tasks that wait for a node to be reached.
    waiters: Arc<Semaphore>,
    table: Mutex<HashMap<Atom, Vec<PeerRef>>>,
    requests: Requests,
    /// Notified when a node is connected or forgotten.
    changed: Notify,
}

impl Peers {
    /// Returns an empty table for at most `max_nodes` nodes that are not connected. It requests
    /// `node` to keep connections to nodes on which something is watched.
    pub fn new(node: Node, max_nodes: usize) -> Self {
        Self {
            next_id: AtomicU64::new(0),
            max_nodes,
            node,
            waiters: Arc::new(Semaphore::new(MAX_WAITERS)),
            table: Mutex::default(),
            requests: Requests::default(),
            changed: Notify::new(),
        }
    }

    /// Returns the incarnation to which `pid` belongs, whether or not it is connected. The node `by`
    /// requests that it be known: one node may do so for a limited number of nodes that are not
    /// connected.
    pub fn of(&self, pid: &Pid, by: &Atom) -> Result<PeerRef, TooManyNodes> {
        self.get_or_make(pid, Some(by).filter(|by| **by != pid.node))
    }

    fn get_or_make(&self, pid: &Pid, by: Option<&Atom>) -> Result<PeerRef, TooManyNodes> {
        let mut table = self.table.lock();
        let known = table.len();
        let peers = match table.get_mut(&pid.node) {
            Some(peers) => peers,
            None if known >= self.max_nodes => return Err(TooManyNodes),
            None => table.entry(pid.node.clone()).or_default(),
        };
        if let Some(peer) = peers.iter().find(|peer| peer.creation() == pid.creation) {
            // The caller is about to watch a process, so the peer is kept for another grace time.
            if let Some(since) = &mut *peer.0.lost_since.lock() {
                *since = Instant::now();
            }
            return Ok(peer.clone());
        }
        // An honest node does not have so many incarnations.
        if peers.len() >= MAX_INCARNATIONS {
            return Err(TooManyNodes);
        }
        let peer = self.make(&pid.node, pid.creation);
        if let Some(by) = by {
            let Some(request) = self.requests.begin(by) else {
                if peers.is_empty() {
                    table.remove(&pid.node);
                }
                return Err(TooManyNodes);
            };
            *peer.0.request.lock() = Some(request);
        }
        peers.push(peer.clone());
        Ok(peer)
    }

    /// Returns the incarnation to which the worker `pid` belongs. Workers are in the registry
    /// already, so the limit on nodes does not apply to them.
    pub fn known(&self, pid: &Pid) -> PeerRef {
        self.get_or_make(pid, None).unwrap_or_else(|TooManyNodes| {
            let peer = self.make(&pid.node, pid.creation);
            self.table.lock().entry(pid.node.clone()).or_default().push(peer.clone());
            peer
        })
    }

    /// Returns the incarnation to which `pid` belongs, if it is known.
    pub fn find(&self, pid: &Pid) -> Option<PeerRef> {
        let table = self.table.lock();
        table.get(&pid.node)?.iter().find(|peer| peer.creation() == pid.creation).cloned()
    }

    /// The incarnation that a connection stands for.
    pub fn connected(&self, connection: &Connection) -> Option<PeerRef> {
        let of = connection.peer();
        let table = self.table.lock();
        table.get(&of.name)?.iter().find(|peer| peer.creation() == of.creation).cloned()
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
            request: Mutex::default(),
        }))
    }

    /// Handles a new connection. Returns the incarnations that it affects, and watches again the
    /// processes that were watched on it before.
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
        *peer.0.request.lock() = None;
        peer.0.link.store(Some(connection.clone()));
        connection.monitor_all(peer.0.watched.lock().keys().copied());
        self.changed.notify_waiters();
        Joined { peer, replaced }
    }

    /// Handles the end of a connection. Returns its incarnation, unless a newer connection has
    /// taken its place.
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
        // An idle peer may be about to be watched, so it is removed by the next sweep; under a
        // flood of short-lived nodes it is removed at once.
        if table.len() > self.max_nodes && peer.0.watched.lock().is_empty() {
            table.remove(name);
        }
        Some(peer)
    }

    /// States one more interest in a process. The first interest makes the gateway watch the
    /// process and keep a connection to its node.
    pub fn watch(&self, peer: &PeerRef, local: LocalPid, interest: Interest) {
        let mut watched = peer.0.watched.lock();
        let first_of_peer = watched.is_empty();
        let interests = watched.entry(local).or_default();
        let first = interests.none();
        *interests.of(interest) += 1;
        if !first {
            return;
        }
        // An incarnation that is not the connected one is monitored over the connection of the
        // connected one: the node answers `noproc` for its earlier incarnations.
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

    /// Withdraws one interest in a process. The last one ends the watch.
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

    /// Stops keeping the connection when nothing is watched on the node any more.
    fn release(&self, peer: &PeerRef) {
        let table = self.table.lock();
        let of_node = table.get(peer.node());
        let watched =
            of_node.is_some_and(|peers| peers.iter().any(|peer| !peer.0.watched.lock().is_empty()));
        if !watched {
            self.node.release(peer.node());
            // A caller that has begun to watch since the check above has found the node kept.
            if !peer.0.watched.lock().is_empty() {
                self.node.keep(peer.node());
            }
        }
    }

    /// Returns the incarnations that this gateway has not reached for `grace`. Incarnations without
    /// workers are removed. Those with workers stay until they have none, since this gateway does
    /// not decide alone about the registry; everything but the workers is forgotten.
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

    /// Returns a future to await before the caller is told that a process of `peer` is registered
    /// or subscribed. It resolves when the node is connected or cannot be connected at present.
    /// Returns `None` if there is nothing to wait for, or if too many tasks wait already.
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
                // If another incarnation answers, this one has ended. Otherwise the task of the
                // connection announces it immediately afterwards.
                let same = connection.peer().creation == peer.creation();
                if same {
                    let mut announced = peer.0.announced.subscribe();
                    tokio::select! {
                        _ = announced.wait_for(|announced| *announced) => {}
                        () = connection.closed() => {}
                    }
                }
            };
            // An unreachable node is not refused, since it may return.
            let _ = timeout(REACH_WITHIN, attempt).await;
            drop(permit);
        })
    }

    /// Returns whether the incarnation of the node was connected, or first mentioned, within
    /// `grace`.
    pub fn reached(&self, node: &Atom, creation: u32, grace: Duration) -> bool {
        let table = self.table.lock();
        table.get(node).is_some_and(|peers| {
            peers.iter().any(|peer| peer.creation() == creation && !peer.is_lost(grace))
        })
    }

    /// Returns the knowledge of a node.
    pub fn presence(&self, node: &Atom) -> Presence {
        match self.table.lock().get(node) {
            None => Presence::Unknown,
            Some(peers) if peers.iter().any(PeerRef::online) => Presence::Connected,
            Some(_) => Presence::Away,
        }
    }

    /// Waits until every known node is connected.
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

    /// All incarnations that are connected or that something is watched on.
    pub fn all(&self) -> Vec<PeerRef> {
        self.table.lock().values().flatten().cloned().collect()
    }

    /// Returns the number of connected nodes.
    pub fn online_count(&self) -> usize {
        self.table.lock().values().flatten().filter(|peer| peer.online()).count()
    }
}

/// The time for which a registration or subscription waits for the node of its process.
const REACH_WITHIN: Duration = Duration::from_secs(2);
/// The greatest number of registrations and subscriptions that wait at a time; further ones do not
/// wait.
const MAX_WAITERS: usize = 1024;
/// The greatest number of incarnations of one node that are remembered: the connected one and a few
/// that occur in pids.
const MAX_INCARNATIONS: usize = 8;
