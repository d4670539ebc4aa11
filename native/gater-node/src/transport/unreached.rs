//! Nodes that cannot be reached.

use foldhash::HashMap;
use gater_term::Atom;
use parking_lot::Mutex;

/// The greatest number of unreached nodes that are remembered. Failures of further nodes are logged
/// every time.
const MAX_UNREACHED: usize = 4096;

/// Decides which failed attempts are logged: those that fail for another reason than the attempt
/// before, and of those that fail for the same reason each that doubles their number.
#[derive(Default)]
pub struct Unreached(Mutex<HashMap<Atom, (String, u64)>>);

impl Unreached {
    /// Records a failed attempt. Returns the number of attempts since the last success if the
    /// attempt is to be logged.
    pub fn failed(&self, node: &Atom, error: &str) -> Option<u64> {
        let mut nodes = self.0.lock();
        if nodes.len() >= MAX_UNREACHED && !nodes.contains_key(node) {
            return Some(1);
        }
        let (last, attempts) = nodes.entry(node.clone()).or_default();
        *attempts += 1;
        let told = *last == error && !attempts.is_power_of_two();
        if *last != error {
            error.clone_into(last);
        }
        (!told).then_some(*attempts)
    }

    /// Records that the node is connected.
    pub fn reached(&self, node: &Atom) {
        self.0.lock().remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_logged_whenever_the_attempts_have_doubled() {
        let unreached = Unreached::default();
        let node = Atom::new("a@h").unwrap();
        let logged: Vec<_> = (0..10).filter_map(|_| unreached.failed(&node, "gone")).collect();
        assert_eq!(logged, [1, 2, 4, 8]);
        assert_eq!(unreached.failed(&node, "refused"), Some(11));
        assert_eq!(unreached.failed(&node, "refused"), None);
        unreached.reached(&node);
        assert_eq!(unreached.failed(&node, "refused"), Some(1));
    }
}
