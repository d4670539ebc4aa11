//! A node with processes.

use std::sync::Arc;
use std::time::Duration;

use gater_term::{Atom, Pid, Term};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use super::dispatch::Dispatcher;
use super::inner::Inner;
use super::mailbox::Mailbox;
use super::{Destination, Limits, NodeEvents, Process, SendError, wire};
use crate::{Lane, Settings, StartError};

/// The number of events by which a receiver may be behind.
const EVENTS_KEPT: usize = 1024;

/// A running hidden node with processes. A clone is another handle of the same node. The node stops
/// when the last handle is dropped.
#[derive(Clone)]
pub struct Node(pub(super) Arc<Inner>);

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(self.name()).finish()
    }
}

impl Node {
    /// Starts a node: it listens, registers with EPMD and accepts connections. The node runs on the
    /// current tokio runtime.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let limits = (settings.max_message, control_bytes(&settings));
        Ok(Self::run(crate::Node::prepare(settings).await?, limits))
    }

    /// Starts a node that connects to other nodes but does not accept connections: it does not
    /// listen, and needs no EPMD on its own host. The node runs on the current tokio runtime.
    pub fn start_dial_only(settings: Settings) -> Result<Self, StartError> {
        let limits = (settings.max_message, control_bytes(&settings));
        // The incarnations of one name must differ. Those up to 3 would be taken for those of old
        // nodes.
        let creation = getrandom::u32().unwrap_or(u32::MAX) | 4;
        Ok(Self::run(crate::Node::dial_only(settings, creation)?, limits))
    }

    fn run(prepared: crate::PreparedNode, (max_message, limit): (usize, usize)) -> Self {
        let lower = prepared.handle();
        let inner = Arc::new(Inner {
            caller: lower.new_pid(),
            lower,
            state: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            max_message,
            max_waiting: limit / 2,
            runtime: Handle::current(),
            last_number: Default::default(),
        });
        prepared.run(Arc::new(Dispatcher(Arc::downgrade(&inner))));
        Self(inner)
    }

    /// Returns the full name of the node, `name@host`.
    pub fn name(&self) -> &Atom {
        self.0.lower.name()
    }

    /// Returns the names of the connected nodes.
    pub fn nodes(&self) -> Vec<Atom> {
        let connections = self.0.lower.connections();
        connections.iter().map(|connection| connection.peer().name.clone()).collect()
    }

    /// Creates a process whose mailbox has the default [`Limits`].
    pub fn spawn(&self) -> Process {
        self.spawn_with(Limits::default())
    }

    /// Creates a process whose mailbox has the given limits.
    pub fn spawn_with(&self, limits: Limits) -> Process {
        let (pid, mailbox) = (self.0.lower.new_pid(), Arc::new(Mailbox::new(limits)));
        self.0.state.lock().begin(pid.clone(), mailbox.clone());
        Process::new(self.clone(), pid, mailbox)
    }

    /// Returns the process of this node that has registered `name`.
    pub fn whereis(&self, name: &str) -> Option<Pid> {
        self.0.state.lock().whereis(name).cloned()
    }

    /// Sends `message`, and connects to the node first if necessary. As in Erlang, a missing
    /// process is not an error.
    pub async fn send(&self, to: impl Into<Destination>, message: &Term) -> Result<(), SendError> {
        let to = self.0.resolve(to)?;
        self.0.send(&self.0.caller, &to, message.to_vec()).await
    }

    /// Casts `message` to a `gen_server`.
    pub async fn cast(&self, to: impl Into<Destination>, message: &Term) -> Result<(), SendError> {
        let to = self.0.resolve(to)?;
        self.0.send(&self.0.caller, &to, wire::gen_cast(message)).await
    }

    /// Connects to `node`, as `net_kernel:connect_node/1` does. Sending to a node connects to it
    /// anyway.
    pub async fn connect(&self, node: &str) -> Result<(), SendError> {
        let node = Atom::new(node).map_err(|_| SendError::BadName(node.to_owned()))?;
        self.0.connection(&node).await.map(drop)
    }

    /// Keeps a connection to `node`, and connects again with growing pauses whenever it is lost.
    pub fn keep(&self, node: &str) -> Result<(), SendError> {
        let atom = Atom::new(node).map_err(|_| SendError::BadName(node.to_owned()))?;
        self.0.lower.keep(&atom);
        Ok(())
    }

    /// Returns the events of connections from now on.
    pub fn events(&self) -> NodeEvents {
        NodeEvents(self.0.events.subscribe())
    }

    /// Shuts the node down: unregisters from EPMD, writes queued messages for at most `within`, and
    /// closes all connections. Processes that wait for messages receive `None`, and calls fail.
    pub async fn shutdown(&self, within: Duration) {
        self.0.lower.shutdown(within).await;
        self.0.state.lock().close();
    }
}

/// What may wait in the lane of signals.
fn control_bytes(settings: &Settings) -> usize {
    settings.lanes.get(Lane::Control.index()).map_or(0, |lane| lane.bytes)
}
