//! The BEAM nodes that are connected to any gateway of the cluster.
//!
//! Each gateway announces the nodes that are connected to it to the others, so that all of them
//! count the same number, wherever a node is connected and to however many gateways.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use gater_dist::Connection;
use gater_term::Atom;
use parking_lot::Mutex;

/// The greatest number of names that are accepted from one gateway.
const MAX_NODES: usize = 100_000;

/// The nodes by gateway.
#[derive(Default)]
pub struct Census {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    own: BTreeSet<Atom>,
    /// The nodes of other gateways, by the address of the connection to the gateway.
    others: HashMap<usize, BTreeSet<Atom>>,
}

fn key(connection: &Arc<Connection>) -> usize {
    Arc::as_ptr(connection) as usize
}

impl Census {
    /// Records that a node that is not a gateway is connected to this gateway.
    pub fn up(&self, node: &Atom) {
        self.inner.lock().own.insert(node.clone());
    }

    /// Records that a node is disconnected from this gateway. Returns whether it was connected.
    pub fn down(&self, node: &Atom) -> bool {
        self.inner.lock().own.remove(node)
    }

    /// Returns the nodes that are connected to this gateway.
    pub fn own(&self) -> Vec<Atom> {
        self.inner.lock().own.iter().cloned().collect()
    }

    /// Handles an announcement of another gateway: the nodes that are newly connected to it, or
    /// with `alone` all of its nodes, and the nodes that are disconnected.
    pub fn told(&self, gateway: &Arc<Connection>, up: Vec<Atom>, down: &[Atom], alone: bool) {
        let mut inner = self.inner.lock();
        let nodes = inner.others.entry(key(gateway)).or_default();
        if alone {
            nodes.clear();
        }
        for node in up {
            if nodes.len() < MAX_NODES {
                nodes.insert(node);
            }
        }
        for node in down {
            nodes.remove(node);
        }
    }

    /// Handles the loss of another gateway.
    pub fn lost(&self, gateway: &Arc<Connection>) {
        self.inner.lock().others.remove(&key(gateway));
    }

    /// Returns the number of nodes that are connected to any gateway.
    pub fn count(&self) -> usize {
        let inner = self.inner.lock();
        let mut all: BTreeSet<&Atom> = inner.own.iter().collect();
        all.extend(inner.others.values().flatten());
        all.len()
    }
}
