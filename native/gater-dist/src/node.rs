//! The hidden node.

use std::sync::Arc;
use std::time::Duration;

use gater_core::etf::{Atom, Pid};

use crate::{Connection, DialError, Events, Settings, StartError};

/// A running hidden node. Cloning gives another handle of the same node.
#[derive(Clone)]
pub struct Node {}

impl Node {
    /// Listens, registers with EPMD and accepts connections from then on.
    pub async fn start(_settings: Settings, _events: Arc<dyn Events>) -> Result<Self, StartError> {
        Ok(Self {})
    }

    /// The full name, `name@host`.
    pub fn name(&self) -> &Atom {
        unimplemented!()
    }

    /// The incarnation of this node, given by EPMD.
    pub fn creation(&self) -> u32 {
        0
    }

    /// The TCP port connections are accepted on.
    pub fn port(&self) -> u16 {
        0
    }

    /// A pid of this node never handed out before. It lives as long as the node.
    pub fn new_pid(&self) -> Pid {
        unimplemented!()
    }

    /// Keeps a connection to `node`: dials it, and dials it again with growing,
    /// jittered pauses whenever the connection is lost, until [`Node::release`].
    pub fn keep(&self, _node: &Atom) {}

    /// Stops dialling `node`. A connection that stands is left alone.
    pub fn release(&self, _node: &Atom) {}

    /// Connects to `node` once, or gives the connection that stands.
    pub async fn connect(&self, _node: &Atom) -> Result<Arc<Connection>, DialError> {
        Err(DialError::Stopped)
    }

    /// The connection to `node`, if one is established.
    pub fn connection(&self, _node: &str) -> Option<Arc<Connection>> {
        None
    }

    /// All established connections.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        Vec::new()
    }

    /// Stops accepting and dialling, leaves EPMD, writes out what is queued for at
    /// most `deadline`, and closes all connections.
    pub async fn shutdown(&self, _deadline: Duration) {}
}
