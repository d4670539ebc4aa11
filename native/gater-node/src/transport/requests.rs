//! How many nodes that are not connected another node may have the gateway look for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::HashMap;
use gater_term::Atom;
use parking_lot::Mutex;

/// The greatest number for one node.
const MAX_OF_ONE: usize = 256;
/// Above this number of nodes those without requests are forgotten.
const MANY: usize = 1024;

/// The requests by the node that made them.
#[derive(Default)]
pub struct Requests(Mutex<HashMap<Atom, Arc<AtomicUsize>>>);

/// A request. It counts until it is dropped.
pub struct Request(Arc<AtomicUsize>);

impl Requests {
    /// Counts one more request of the node `by`. Returns `None` if it has made too many.
    pub fn begin(&self, by: &Atom) -> Option<Request> {
        let mut counts = self.0.lock();
        if counts.len() >= MANY && !counts.contains_key(by) {
            counts.retain(|_, count| count.load(Ordering::Relaxed) > 0);
        }
        let count = counts.entry(by.clone()).or_default();
        if count.load(Ordering::Relaxed) >= MAX_OF_ONE {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Some(Request(count.clone()))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_request_so_many_at_a_time_and_others_are_not_concerned() {
        let (requests, node) = (Requests::default(), Atom::new("a@h").unwrap());
        let mut made: Vec<_> = (0..2 * MAX_OF_ONE).filter_map(|_| requests.begin(&node)).collect();
        assert_eq!(made.len(), MAX_OF_ONE);
        assert!(requests.begin(&Atom::new("b@h").unwrap()).is_some());
        made.pop();
        assert!(requests.begin(&node).is_some());
        drop(made);
        assert_eq!(requests.0.lock()[&node].load(Ordering::Relaxed), 0);
    }
}
