//! Counts of messages that were published but not delivered, by channel, node, lane and reason.
//!
//! No message is lost silently: each loss is counted here ([`Drops::encode`] returns the counts)
//! and reported to telemetry handlers. The log reports once per node that messages to it are being
//! lost, and the number of lost messages when that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gater_dist::{Lane, LossReason};
use gater_term::{Atom, encode};
use parking_lot::Mutex;

use crate::observe::telemetry::{Event, Telemetry};
use crate::transport::peers::Presence;

/// The greatest number of counts. Losses beyond it are counted under `OTHERS`.
const MAX_COUNTS: usize = 4096;
/// The name that replaces the node where there are too many counts, and for nodes that are no
/// longer known.
pub(super) const OTHERS: &str = "others";
/// The time without a loss after which the outage of a connected node has ended.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// The reason why a message did not reach its subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The lane of its connection was full.
    QueueFull,
    /// The message waited on a connection that ended.
    ConnectionLost,
    /// There was no connection to the node when the message was published.
    NotConnected,
}

impl Reason {
    /// Returns the name of the reason for telemetry handlers.
    pub fn as_atom(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ConnectionLost => "connection_lost",
            Self::NotConnected => "not_connected",
        }
    }
}

impl From<LossReason> for Reason {
    fn from(reason: LossReason) -> Self {
        match reason {
            LossReason::QueueFull => Self::QueueFull,
            LossReason::ConnectionLost => Self::ConnectionLost,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    channel: Atom,
    node: Atom,
    lane: Lane,
    reason: Reason,
}

/// Messages that did not reach their subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropCount {
    /// The channel.
    pub channel: Atom,
    /// The node of the subscribers, or `others`.
    pub node: Atom,
    /// The lane.
    pub lane: Lane,
    /// Why.
    pub reason: Reason,
    /// How many.
    pub messages: u64,
}

/// The counts since the start of the gateway.
pub struct Drops {
    inner: Mutex<Inner>,
    telemetry: Arc<Telemetry>,
}

#[derive(Default)]
struct Inner {
    counts: BTreeMap<Key, u64>,
    /// The outages by node. There are never more outages than counts.
    outages: BTreeMap<Atom, Outage>,
}

/// A period in which messages to a node are lost.
struct Outage {
    lost: u64,
    last: Instant,
}

impl Drops {
    /// Returns counts without losses.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { inner: Mutex::default(), telemetry }
    }

    /// Counts `messages` messages of a channel that did not reach their subscribers on `node`.
    pub fn count(&self, channel: &Atom, node: &Atom, lane: Lane, reason: Reason, messages: u64) {
        let key = Key { channel: channel.clone(), node: node.clone(), lane, reason };
        if self.add(key, messages, Instant::now()) {
            tracing::warn!(
                channel = channel.as_str(),
                node = node.as_str(),
                lane = lane.name(),
                reason = reason.as_atom(),
                "messages to the node are not delivered; their number is logged when that is over"
            );
        }
        self.telemetry.emit(Event::Dropped, |out| {
            encode::map(out, 1);
            encode::atom(out, "count");
            encode::uint(out, messages);
            encode_key(out, channel, node, lane, reason, 0);
        });
    }

    /// Adds to a count. Returns whether an outage of the node begins with this loss.
    fn add(&self, mut key: Key, messages: u64, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        let Inner { counts, outages } = &mut *inner;
        if counts.len() >= MAX_COUNTS
            && !counts.contains_key(&key)
            && let Ok(others) = Atom::new(OTHERS)
        {
            key.node = others;
        }
        let begins = !outages.contains_key(&key.node);
        let outage = outages.entry(key.node.clone()).or_insert(Outage { lost: 0, last: now });
        outage.lost = outage.lost.saturating_add(messages);
        outage.last = now;
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(messages);
        begins
    }

    /// Merges the counts of nodes that are no longer known into those of `OTHERS`, so that they do
    /// not grow with every node that ever existed, and logs the ends of outages.
    pub fn sweep(&self, now: Instant, presence: impl Fn(&Atom) -> Presence) {
        for (node, lost) in self.settle(now, presence) {
            tracing::info!(
                node = node.as_str(),
                lost,
                "messages to the node were not delivered; that is over, or the node is given up"
            );
        }
    }

    /// Returns the outages that have ended, with the number of messages that were lost in each.
    fn settle(&self, now: Instant, presence: impl Fn(&Atom) -> Presence) -> Vec<(Atom, u64)> {
        let nodes: BTreeSet<Atom> = {
            let inner = self.inner.lock();
            inner.counts.keys().map(|key| &key.node).chain(inner.outages.keys()).cloned().collect()
        };
        // The lock is released during this call, since `presence` takes a lock of its own.
        let known: BTreeMap<Atom, Presence> = nodes
            .into_iter()
            .filter(|node| node.as_str() != OTHERS)
            .map(|node| (node.clone(), presence(&node)))
            .collect();
        let mut inner = self.inner.lock();
        let Inner { counts, outages } = &mut *inner;
        fold(counts, |key| {
            let departed = known.get(&key.node) == Some(&Presence::Unknown);
            Some(Key { node: Atom::new(OTHERS).ok()?, ..key.clone() }).filter(|_| departed)
        });
        let over: Vec<Atom> = outages
            .iter()
            .filter(|(node, outage)| match known.get(*node) {
                Some(Presence::Unknown) => true,
                Some(Presence::Away) => false,
                Some(Presence::Connected) | None => now.duration_since(outage.last) >= OVER_AFTER,
            })
            .map(|(node, _)| node.clone())
            .collect();
        let ended = |node: Atom| outages.remove(&node).map(|outage| (node, outage.lost));
        over.into_iter().filter_map(ended).collect()
    }

    /// Returns all counts.
    pub fn counts(&self) -> Vec<DropCount> {
        let inner = self.inner.lock();
        let count = |(key, count): (&Key, &u64)| DropCount {
            channel: key.channel.clone(),
            node: key.node.clone(),
            lane: key.lane,
            reason: key.reason,
            messages: *count,
        };
        inner.counts.iter().map(count).collect()
    }

    /// Returns the nodes to which messages are being lost, with their number since that began.
    pub fn outages(&self) -> BTreeMap<Atom, u64> {
        let inner = self.inner.lock();
        inner.outages.iter().map(|(node, outage)| (node.clone(), outage.lost)).collect()
    }

    /// Writes `[#{channel, node, lane, reason, count}]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let inner = self.inner.lock();
        encode::list_of(out, inner.counts.iter(), |out, (key, count)| {
            encode_key(out, &key.channel, &key.node, key.lane, key.reason, 1);
            encode::atom(out, "count");
            encode::uint(out, *count);
        });
    }
}

/// Merges the counts for which `into` returns another key into the count of that key.
pub(super) fn fold<K: Ord + Clone>(counts: &mut BTreeMap<K, u64>, into: impl Fn(&K) -> Option<K>) {
    let moved: Vec<(K, K)> =
        counts.keys().filter_map(|key| Some((key.clone(), into(key)?))).collect();
    for (from, to) in moved {
        if let Some(count) = counts.remove(&from) {
            let sum = counts.entry(to).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

/// Writes `#{channel, node, lane, reason}` for a map of `more` further pairs, which the caller
/// writes.
fn encode_key(
    out: &mut Vec<u8>,
    channel: &Atom,
    node: &Atom,
    lane: Lane,
    reason: Reason,
    more: u32,
) {
    encode::map(out, 4 + more);
    let pairs = [
        ("channel", channel.as_str()),
        ("node", node.as_str()),
        ("lane", lane.name()),
        ("reason", reason.as_atom()),
    ];
    for (name, value) in pairs {
        encode::atom(out, name);
        encode::atom(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(text: &str) -> Atom {
        Atom::new(text).unwrap()
    }

    fn counts(drops: &Drops) -> Vec<(String, u64)> {
        let inner = drops.inner.lock();
        inner.counts.iter().map(|(key, count)| (key.node.as_str().to_owned(), *count)).collect()
    }

    #[test]
    fn losses_add_up_by_channel_node_lane_and_reason() {
        let drops = Drops::new(Arc::default());
        let channel = atom("esdb_channel_logging");
        for (node, reason) in
            [("a@h", Reason::QueueFull), ("a@h", Reason::QueueFull), ("a@h", Reason::NotConnected)]
        {
            drops.count(&channel, &atom(node), Lane::Low, reason, 3);
        }
        drops.count(&channel, &atom("b@h"), Lane::Low, Reason::QueueFull, u64::MAX);
        drops.count(&channel, &atom("b@h"), Lane::Low, Reason::QueueFull, 1);
        let found = counts(&drops);
        assert_eq!(found, [("a@h".into(), 6), ("a@h".into(), 3), ("b@h".into(), u64::MAX)]);
    }

    #[test]
    fn there_are_only_so_many_counts_and_no_loss_is_left_out() {
        let drops = Drops::new(Arc::default());
        let channel = atom("esdb_channel_logging");
        for n in 0..2 * MAX_COUNTS {
            let node = atom(&format!("node{n}@h"));
            drops.count(&channel, &node, Lane::Low, Reason::QueueFull, 1);
        }
        let found = counts(&drops);
        assert_eq!(found.len(), MAX_COUNTS + 1);
        assert_eq!(found.iter().map(|(_, count)| count).sum::<u64>(), 2 * MAX_COUNTS as u64);
    }

    #[test]
    fn counts_of_departed_nodes_are_folded_into_one_and_no_loss_is_left_out() {
        let drops = Drops::new(Arc::default());
        let channel = atom("esdb_channel_logging");
        for n in 0..100 {
            let node = atom(&format!("node{n}@h"));
            drops.count(&channel, &node, Lane::Low, Reason::NotConnected, 2);
        }
        let stays = atom("node7@h");
        let presence = |node: &Atom| match *node == stays {
            true => Presence::Away,
            false => Presence::Unknown,
        };
        for _ in 0..2 {
            drops.sweep(Instant::now(), presence);
            assert_eq!(counts(&drops), [("node7@h".into(), 2), (OTHERS.into(), 198)]);
        }
    }

    #[test]
    fn an_outage_begins_once_and_ends_with_its_total_when_the_node_gets_messages_again() {
        let drops = Drops::new(Arc::default());
        let start = Instant::now();
        let key = |channel: &str, reason| Key {
            channel: atom(channel),
            node: atom("a@h"),
            lane: Lane::Low,
            reason,
        };
        assert!(drops.add(key("one", Reason::ConnectionLost), 5, start));
        for n in 0..50 {
            assert!(!drops.add(key("two", Reason::NotConnected), n, start));
        }
        let later = start + OVER_AFTER;
        assert!(drops.settle(later, |_| Presence::Away).is_empty());
        assert!(drops.settle(start, |_| Presence::Connected).is_empty());
        assert_eq!(drops.settle(later, |_| Presence::Connected), [(atom("a@h"), 1230)]);
        assert!(drops.settle(later, |_| Presence::Connected).is_empty());
        assert!(drops.add(key("one", Reason::QueueFull), 1, later));
        // The outage of a node that was given up has ended.
        assert_eq!(drops.settle(later, |_| Presence::Unknown), [(atom("a@h"), 1)]);
    }
}
