//! What the peers of a node have begun to send and not finished: a bound for all together.
//!
//! A frame is kept until its end has come, and a message until its last fragment has. One peer may
//! keep as much as the longest message takes; all of them together may not.

use std::sync::{Arc, Weak};

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::{Connection, DownReason};

/// Less than this is not counted: connections are bounded in their number.
const COUNTED_FROM: usize = 64 << 10;

/// The unfinished messages of all connections of a node.
#[derive(Debug)]
pub struct Unfinished {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Invariant: the sum of what the holders have.
    bytes: usize,
    holders: HashMap<usize, Holder>,
}

#[derive(Debug)]
struct Holder {
    bytes: usize,
    connection: Weak<Connection>,
}

/// What one connection has unfinished. Counts as nothing when dropped.
#[derive(Debug)]
pub struct Share<'a> {
    all: &'a Unfinished,
    connection: &'a Arc<Connection>,
    bytes: usize,
}

impl Unfinished {
    /// Returns a count that may reach `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, table: Mutex::default() }
    }

    /// Returns the share of a connection, which is nothing as yet.
    pub fn share<'a>(&'a self, connection: &'a Arc<Connection>) -> Share<'a> {
        Share { all: self, connection, bytes: 0 }
    }

    /// Sets what a connection has. Returns those that have to end: the largest first, as many as it
    /// takes to be below the limit.
    fn set(&self, connection: &Arc<Connection>, bytes: usize) -> Vec<Arc<Connection>> {
        let key = Arc::as_ptr(connection) as usize;
        let mut table = self.table.lock();
        let Table { bytes: all, holders } = &mut *table;
        if let Some(before) = holders.remove(&key) {
            *all -= before.bytes;
        }
        if bytes > 0 {
            *all += bytes;
            holders.insert(key, Holder { bytes, connection: Arc::downgrade(connection) });
        }
        let mut over = Vec::new();
        while *all > self.limit {
            let largest = holders.iter().max_by_key(|(_, holder)| holder.bytes);
            let Some(holder) = largest.map(|(key, _)| *key).and_then(|key| holders.remove(&key))
            else {
                break;
            };
            *all -= holder.bytes;
            over.extend(holder.connection.upgrade());
        }
        over
    }
}

impl Share<'_> {
    /// The connection has so many bytes. Connections that have too many are ended.
    pub fn set(&mut self, bytes: usize) {
        let bytes = if bytes < COUNTED_FROM { 0 } else { bytes };
        // Most of the time there is nothing, and nothing changes.
        if bytes != self.bytes {
            self.bytes = bytes;
            for over in self.all.set(self.connection, bytes) {
                over.end(DownReason::Unfinished(self.all.limit));
            }
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.all.set(self.connection, 0);
        }
    }
}
