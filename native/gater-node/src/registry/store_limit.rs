//! A bound on the names of stores that a gateway ever makes known.
//!
//! The name of a store is an atom on every BEAM with a shim, and a BEAM never forgets an atom: at
//! 1,048,576 of them it ends. So the distinct names of a gateway's lifetime are bounded, and those
//! that one node may bring are a part of them.

use std::hash::{BuildHasher, RandomState};

use foldhash::{HashMap, HashSet};
use gater_term::Atom;
use parking_lot::Mutex;

/// The part of the names that one node may bring: one in so many.
const PEER_SHARE: usize = 4;
/// A warning is logged when this percentage of the names is used.
const WARN_AT_PERCENT: usize = 80;

/// The names of stores that were seen since the gateway started.
pub struct StoreLimit {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Hashes of names with a random key: one in 2^64 is taken for another.
    seen: HashSet<u64>,
    hasher: RandomState,
    /// The names that each node has brought.
    brought: HashMap<Atom, usize>,
    refused: u64,
}

/// A store has a new name, and there are as many as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many names of stores")]
pub struct TooManyNames;

impl StoreLimit {
    /// Returns a bound of `limit` names.
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Counts the name of a store that is registered already, here or at another gateway.
    pub fn seen(&self, name: &Atom) {
        let mut inner = self.inner.lock();
        let hash = inner.hasher.hash_one(name.as_str());
        if inner.seen.insert(hash) {
            self.warn(inner.seen.len());
        }
    }

    /// Decides whether the node `by` may register a worker for the store `name`, and counts the name
    /// if it is new.
    pub fn admit(&self, name: &Atom, by: &Atom) -> Result<(), TooManyNames> {
        let mut inner = self.inner.lock();
        let hash = inner.hasher.hash_one(name.as_str());
        if inner.seen.contains(&hash) {
            return Ok(());
        }
        let share = (self.limit / PEER_SHARE).max(1);
        let brought = inner.brought.get(by).copied().unwrap_or_default();
        if inner.seen.len() >= self.limit || brought >= share {
            inner.refused += 1;
            if inner.refused.is_power_of_two() {
                tracing::warn!(
                    node = %by, brought, refused = inner.refused, limit = self.limit,
                    "a registration was refused: its store has a new name, and the node has brought as \
                     many as one may, or there are as many as limits.store_names allows. A BEAM never \
                     forgets a name: use few stores, or raise limits.store_names and the BEAMs' +t"
                );
            }
            return Err(TooManyNames);
        }
        inner.seen.insert(hash);
        *inner.brought.entry(by.clone()).or_default() += 1;
        self.warn(inner.seen.len());
        Ok(())
    }

    /// Returns the number of names that were seen.
    pub fn count(&self) -> usize {
        self.inner.lock().seen.len()
    }

    fn warn(&self, names: usize) {
        if names == (self.limit.saturating_mul(WARN_AT_PERCENT) / 100).max(1) {
            tracing::warn!(
                names,
                limit = self.limit,
                "many names of stores were used since the start: further ones will be refused with \
                 overloaded when there are as many as limits.store_names. Each is an atom on every BEAM \
                 with the application, and is never forgotten there"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(text: &str) -> Atom {
        Atom::new(text).unwrap()
    }

    #[test]
    fn one_node_brings_no_more_than_its_share_and_all_no_more_than_the_limit() {
        let limit = StoreLimit::new(100);
        let admitted = |node: &str| {
            let names = (0..1000).map(|n| atom(&format!("{node}{n}")));
            names.filter(|name| limit.admit(name, &atom(node)).is_ok()).count()
        };
        assert_eq!(admitted("a@h"), 25);
        assert_eq!((0..10).map(|n| admitted(&format!("b{n}@h"))).sum::<usize>(), 75);
        assert_eq!(limit.count(), 100);
        // What is known may be registered by everybody.
        assert_eq!(limit.admit(&atom("a@h3"), &atom("late@h")), Ok(()));
        assert_eq!(limit.admit(&atom("other"), &atom("late@h")), Err(TooManyNames));
        limit.seen(&atom("other"));
        assert_eq!(limit.admit(&atom("other"), &atom("late@h")), Ok(()));
    }
}
