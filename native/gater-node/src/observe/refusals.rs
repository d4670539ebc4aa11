//! Counts of refused publications and subscriptions, by channel, publishing node and reason.
//!
//! The publisher learns of a refusal from the answer. The counts show it to the operator of the
//! gateway, for example for a node with another secret, or one that publishes too much.

use std::collections::{BTreeMap, BTreeSet};

use gater_term::{Atom, encode};
use parking_lot::Mutex;

use crate::observe::drops::{OTHERS, fold};
use crate::services::channel::local::Refusal;
use crate::transport::peers::Presence;

/// The greatest number of counts. Refusals of further nodes are counted under `OTHERS`.
const MAX_COUNTS: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    channel: Atom,
    node: Atom,
    reason: &'static str,
}

/// The counts since the start of the gateway.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<Key, u64>>);

impl Refusals {
    /// Counts a request of `node` that was refused on `channel`. Refusals because of signatures and
    /// capabilities are logged whenever their number has doubled. An exhausted rate is not logged,
    /// since the publisher has to slow down.
    pub fn count(&self, channel: &Atom, node: &Atom, refusal: Refusal) {
        let reason = refusal.as_atom();
        let count = self.add(Key { channel: channel.clone(), node: node.clone(), reason });
        if !count.is_power_of_two() {
            return;
        }
        let advice = match refusal {
            Refusal::RateLimited => return,
            Refusal::SignatureRequired | Refusal::Signature(_) => {
                "messages were refused for their signature: the node has another secret or clock, \
                 or does not sign"
            }
            Refusal::Unauthorized(_) => {
                "requests were refused for their capability token: the node has none, or one that \
                 does not allow this; capabilities.roots names who may grant"
            }
        };
        tracing::info!(
            channel = channel.as_str(),
            node = node.as_str(),
            reason,
            since_start = count,
            "{advice}"
        );
    }

    fn add(&self, mut key: Key) -> u64 {
        let mut counts = self.0.lock();
        if counts.len() >= MAX_COUNTS
            && !counts.contains_key(&key)
            && let Ok(others) = Atom::new(OTHERS)
        {
            key.node = others;
        }
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Merges the counts of nodes that are no longer known into those of `OTHERS`.
    pub fn sweep(&self, presence: impl Fn(&Atom) -> Presence) {
        // The lock is released during the call of `presence`, which takes a lock of its own.
        let nodes: BTreeSet<Atom> = self.0.lock().keys().map(|key| key.node.clone()).collect();
        let departed: BTreeSet<Atom> = nodes
            .into_iter()
            .filter(|node| node.as_str() != OTHERS && presence(node) == Presence::Unknown)
            .collect();
        fold(&mut self.0.lock(), |key| {
            let node = Atom::new(OTHERS).ok().filter(|_| departed.contains(&key.node))?;
            Some(Key { node, ..key.clone() })
        });
    }

    /// Returns all counts: channel, publishing node or `others`, reason, and number.
    pub fn counts(&self) -> Vec<(Atom, Atom, &'static str, u64)> {
        let counts = self.0.lock();
        counts.iter().map(|(k, n)| (k.channel.clone(), k.node.clone(), k.reason, *n)).collect()
    }

    /// Writes `[#{channel, node, reason, count}]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let counts = self.0.lock();
        encode::list_of(out, counts.iter(), |out, (key, count)| {
            encode::map(out, 4);
            let pairs = [
                ("channel", key.channel.as_str()),
                ("node", key.node.as_str()),
                ("reason", key.reason),
            ];
            for (name, value) in pairs {
                encode::atom(out, name);
                encode::atom(out, value);
            }
            encode::atom(out, "count");
            encode::uint(out, *count);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_any_number_of_nodes_are_counted_in_bounded_memory() {
        let refusals = Refusals::default();
        let channel = Atom::new("esdb_channel_security").unwrap();
        let nodes = 2 * MAX_COUNTS as u64;
        for n in 0..nodes {
            let node = Atom::new(&format!("node{n}@h")).unwrap();
            refusals.count(&channel, &node, Refusal::SignatureRequired);
        }
        let counts = refusals.0.lock();
        assert_eq!(counts.len(), MAX_COUNTS + 1);
        assert_eq!(counts.values().sum::<u64>(), nodes);
    }

    #[test]
    fn refusals_of_departed_nodes_are_folded_into_one() {
        let refusals = Refusals::default();
        let channel = Atom::new("esdb_channel_security").unwrap();
        for n in 0..100 {
            let node = Atom::new(&format!("node{n}@h")).unwrap();
            refusals.count(&channel, &node, Refusal::SignatureRequired);
        }
        refusals.sweep(|_| Presence::Connected);
        assert_eq!(refusals.0.lock().len(), 100);
        refusals.sweep(|_| Presence::Unknown);
        refusals.sweep(|_| Presence::Unknown);
        assert_eq!(refusals.0.lock().values().copied().collect::<Vec<_>>(), [100]);
    }
}
