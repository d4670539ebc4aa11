//! The state that all tasks of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::HashMap;
use gater_term::{Atom, Pid};
use parking_lot::Mutex;
use secrecy::SecretSlice;
use tokio::runtime::Handle;
use tokio::sync::{Notify, SetOnce};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::notices::Notices;
use super::places::Places;
use super::polling::Spinning;
use super::unfinished::Unfinished;
use super::work::Blocking;
use crate::protocol::handshake::{Local, Status};
use crate::{Connection, DialError, Events, Peer, Settings};

/// The number of bits of a process number. Higher bits are stored in the serial.
const ID_BITS: u32 = 28;

/// The state of a node.
pub struct Shared {
    /// The settings that the node was started with.
    pub settings: Settings,
    /// The node's side of handshakes.
    pub local: Local,
    /// The cookie that replaces the one in `local` and in `settings` for new handshakes.
    new_cookie: Mutex<Option<SecretSlice<u8>>>,
    /// Whether this node dials other nodes.
    pub dialing: bool,
    /// The port at which the node accepts connections.
    pub port: u16,
    /// The receiver of events, which is set when the node begins to run. Nothing is accepted or
    /// dialled before.
    pub events: SetOnce<Arc<dyn Events>>,
    /// Cancelled when the node is to stop.
    pub stop: CancellationToken,
    /// All tasks of the node.
    pub tasks: TaskTracker,
    /// The runtime on which the tasks run.
    pub runtime: Handle,
    /// Notified whenever a connection or a dial begins or ends.
    pub changed: Notify,
    /// Locked by the reader that polls or pauses.
    pub spinning: Spinning,
    /// Limits the log lines about refused peers.
    pub notices: Notices,
    /// A place for each dial that may have a socket open.
    pub dials: Places<Atom>,
    /// What peers have begun to send.
    pub unfinished: Unfinished,
    /// Does what takes long.
    pub blocking: Blocking,
    last_pid: AtomicU64,
    table: Mutex<HashMap<Atom, Entry>>,
}

/// The state of this node's relation to one other node.
#[derive(Default)]
struct Entry {
    link: Option<Arc<Connection>>,
    /// The token that cancels the dial in progress.
    dialing: Option<CancellationToken>,
    /// The token whose cancellation ends keeping the connection.
    keeping: Option<CancellationToken>,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.link.is_none() && self.dialing.is_none() && self.keeping.is_none()
    }

    fn live_link(&self) -> Option<&Arc<Connection>> {
        self.link.as_ref().filter(|link| !link.is_closed())
    }
}

/// The step that leads to a connection with a node.
pub enum DialStep {
    /// The node is connected.
    Connected(Arc<Connection>),
    /// Another task is dialling the node.
    UnderWay,
    /// The caller dials the node, unless the token is cancelled in between.
    Dial(CancellationToken),
}

impl Shared {
    /// Returns the state of a node that is about to start. `port` is 0 if it accepts no
    /// connections.
    pub fn new(settings: Settings, local: Local, port: u16, dialing: bool) -> Self {
        let dials = Places::new(settings.max_dials);
        let unfinished = Unfinished::new(settings.max_unfinished);
        Self {
            settings,
            local,
            dials,
            unfinished,
            blocking: Blocking::new(std::thread::available_parallelism().map_or(1, usize::from)),
            new_cookie: Mutex::default(),
            dialing,
            port,
            events: SetOnce::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            changed: Notify::new(),
            spinning: Spinning::default(),
            notices: Notices::default(),
            last_pid: AtomicU64::new(0),
            table: Mutex::default(),
        }
    }

    /// Returns the identity of this node for a handshake that begins now.
    pub fn identity(&self) -> Local {
        let mut local = self.local.clone();
        if let Some(cookie) = &*self.new_cookie.lock() {
            local.cookie = cookie.clone();
        }
        local
    }

    /// Changes the cookie for handshakes that begin from now on.
    pub fn set_cookie(&self, cookie: SecretSlice<u8>) {
        *self.new_cookie.lock() = Some(cookie);
    }

    /// Returns a pid that was never handed out before.
    pub fn new_pid(&self) -> Pid {
        let number = self.last_pid.fetch_add(1, Ordering::Relaxed) + 1;
        Pid {
            node: self.local.name.clone(),
            id: (number & ((1 << ID_BITS) - 1)) as u32,
            serial: (number >> ID_BITS) as u32,
            creation: self.local.creation,
        }
    }

    /// Returns whether a pid was handed out.
    pub fn has_pid(&self, id: u32, serial: u32) -> bool {
        let number = u64::from(serial) << ID_BITS | u64::from(id);
        id >> ID_BITS == 0 && (1..=self.last_pid.load(Ordering::Relaxed)).contains(&number)
    }

    /// Returns the connection to a node.
    pub fn connection(&self, node: &str) -> Option<Arc<Connection>> {
        self.table.lock().get(node)?.live_link().cloned()
    }

    /// Returns all connections.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.table.lock().values().filter_map(Entry::live_link).cloned().collect()
    }

    /// Decides about a peer that wants to connect.
    pub fn judge(&self, peer: &Peer) -> Status {
        let mut table = self.table.lock();
        if let Some(entry) = table.get_mut(peer.name.as_str()) {
            if entry.live_link().is_some() {
                return Status::Alive;
            }
            if entry.dialing.is_some() {
                // Both nodes dial, and the one with the greater name takes precedence
                // (`net_kernel.erl`). The peer has not proved its name yet, so the dial is given up
                // only after the proof.
                return if self.local.name.as_str() > peer.name.as_str() {
                    Status::Nok
                } else {
                    Status::OkSimultaneous
                };
            }
        }
        let links = table.values().filter(|entry| entry.link.is_some()).count();
        if self.stop.is_cancelled() || links >= self.settings.max_connections {
            return Status::NotAllowed;
        }
        Status::Ok
    }

    /// Registers a new connection and gives up a dial in progress. Returns the connection that it
    /// replaces. Returns an error if there are as many connections as the settings allow, since
    /// many handshakes may have begun while there was room for one more.
    pub fn linked(
        &self,
        connection: &Arc<Connection>,
    ) -> Result<Option<Arc<Connection>>, DialError> {
        let mut table = self.table.lock();
        let replaces =
            table.get(connection.peer().name.as_str()).is_some_and(|entry| entry.link.is_some());
        let links = table.values().filter(|entry| entry.link.is_some()).count();
        if !replaces && links >= self.settings.max_connections {
            return Err(DialError::TooManyConnections);
        }
        let entry = table.entry(connection.peer().name.clone()).or_default();
        let replaced = entry.link.replace(connection.clone());
        if let Some(dialing) = &entry.dialing {
            dialing.cancel();
        }
        drop(table);
        self.dials.ended(&connection.peer().name, true);
        self.changed.notify_waiters();
        Ok(replaced)
    }

    /// Removes a connection that has ended.
    pub fn unlinked(&self, connection: &Arc<Connection>) {
        self.update(&connection.peer().name, |entry| {
            if entry.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, connection)) {
                entry.link = None;
            }
        });
    }

    /// Returns the step that leads to a connection with `node`.
    pub fn dial_step(&self, node: &Atom) -> Result<DialStep, DialError> {
        if self.stop.is_cancelled() {
            return Err(DialError::Stopped);
        }
        let mut table = self.table.lock();
        let links = table.values().filter(|entry| entry.link.is_some()).count();
        let entry = table.entry(node.clone()).or_default();
        if let Some(link) = entry.live_link() {
            return Ok(DialStep::Connected(link.clone()));
        }
        if entry.dialing.is_some() {
            return Ok(DialStep::UnderWay);
        }
        if !self.dialing {
            if entry.is_idle() {
                table.remove(node);
            }
            return Err(DialError::Unlisted);
        }
        if links >= self.settings.max_connections {
            if entry.is_idle() {
                table.remove(node);
            }
            return Err(DialError::TooManyConnections);
        }
        let token = self.stop.child_token();
        entry.dialing = Some(token.clone());
        Ok(DialStep::Dial(token))
    }

    /// Records that a dial has ended.
    pub fn dialed(&self, node: &Atom) {
        self.update(node, |entry| entry.dialing = None);
    }

    /// Marks a node to be kept connected. Returns `None` if it is marked already.
    pub fn start_keeping(&self, node: &Atom) -> Option<CancellationToken> {
        let mut table = self.table.lock();
        let entry = table.entry(node.clone()).or_default();
        if entry.keeping.is_some() {
            return None;
        }
        let token = self.stop.child_token();
        entry.keeping = Some(token.clone());
        Some(token)
    }

    /// Stops keeping a node connected.
    pub fn stop_keeping(&self, node: &Atom) {
        self.update(node, |entry| {
            if let Some(token) = entry.keeping.take() {
                token.cancel();
            }
        });
    }

    fn update(&self, node: &Atom, change: impl FnOnce(&mut Entry)) {
        let mut table = self.table.lock();
        if let Some(entry) = table.get_mut(node.as_str()) {
            change(entry);
            if entry.is_idle() {
                table.remove(node.as_str());
            }
        }
        drop(table);
        self.changed.notify_waiters();
    }
}
