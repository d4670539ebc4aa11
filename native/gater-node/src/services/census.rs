//! The BEAM nodes that are connected to any gateway of the cluster.
//!
//! Each gateway tells the others which nodes are connected to it, so that all of them count the
//! same, wherever a node is connected and to however many.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;
use gater_dist::Connection;
use gater_term::Atom;
use parking_lot::Mutex;

/// Names that are taken from one gateway.
const MAX_NODES: usize = 100_000;

/// The nodes by gateway.
#[derive(Default)]
pub struct Census {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    own: BTreeSet<Atom>,
    /// By the address of the connection to the gateway.
    others: HashMap<usize, BTreeSet<Atom>>,
}

fn key(connection: &Arc<Connection>) -> usize {
    Arc::as_ptr(connection) as usize
}

impl Census {
    /// A node that is no gateway is connected to this one.
    pub fn up(&self, node: &Atom) {
        self.inner.lock().own.insert(node.clone());
    }

    /// A node is not connected to this gateway any more; whether it was.
    pub fn down(&self, node: &Atom) -> bool {
        self.inner.lock().own.remove(node)
    }

    /// The nodes that are connected to this gateway.
    pub fn own(&self) -> Vec<Atom> {
        self.inner.lock().own.iter().cloned().collect()
    }

    /// Another gateway tells of nodes that have been connected to it, or are the only ones, and of
    /// nodes that are not any more.
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

    /// Another gateway is gone.
    pub fn lost(&self, gateway: &Arc<Connection>) {
        self.inner.lock().others.remove(&key(gateway));
    }

    /// The number of nodes that are connected to any gateway.
    pub fn count(&self) -> usize {
        let inner = self.inner.lock();
        let mut all: BTreeSet<&Atom> = inner.own.iter().collect();
        all.extend(inner.others.values().flatten());
        all.len()
    }
}
