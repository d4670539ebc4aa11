//! What was published and not delivered, counted by channel, node, lane and reason.
//!
//! Nothing is lost in silence: each loss is counted here ([`Drops::encode`] shows the counts),
//! told to telemetry handlers, and logged whenever a count has doubled.

use std::collections::BTreeMap;
use std::sync::Arc;

use gater_dist::{Lane, LossReason};
use gater_term::{Atom, encode};
use parking_lot::Mutex;

use crate::observe::telemetry::{Event, Telemetry};

/// Counts that are kept. Losses of further ones are counted as those of [`OTHERS`].
const MAX_COUNTS: usize = 4096;
/// In the place of the node where there are too many.
const OTHERS: &str = "others";

/// Why a message did not reach its subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The lane of its connection was full.
    QueueFull,
    /// It waited on a connection that ended.
    ConnectionLost,
    /// There was no connection to the node when it was published.
    NotConnected,
}

impl Reason {
    /// The reason as telemetry handlers see it.
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

/// The counts since the start.
pub struct Drops {
    counts: Mutex<BTreeMap<Key, u64>>,
    telemetry: Arc<Telemetry>,
}

impl Drops {
    /// No losses yet.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { counts: Mutex::default(), telemetry }
    }

    /// So many messages of a channel did not reach their subscribers on `node`.
    pub fn count(&self, channel: &Atom, node: &Atom, lane: Lane, reason: Reason, messages: u64) {
        let key = Key { channel: channel.clone(), node: node.clone(), lane, reason };
        let (before, after) = self.add(key, messages);
        if before.leading_zeros() != after.leading_zeros() {
            tracing::warn!(
                channel = channel.as_str(),
                node = node.as_str(),
                lane = lane.name(),
                reason = reason.as_atom(),
                since_start = after,
                "messages were not delivered"
            );
        }
        self.telemetry.emit(Event::Dropped, |out| {
            encode::map(out, 1);
            encode::atom(out, "count");
            encode::uint(out, messages);
            encode_key(out, channel, node, lane, reason, 0);
        });
    }

    /// The count before and after.
    fn add(&self, mut key: Key, messages: u64) -> (u64, u64) {
        let mut counts = self.counts.lock();
        if counts.len() >= MAX_COUNTS
            && !counts.contains_key(&key)
            && let Ok(others) = Atom::new(OTHERS)
        {
            key.node = others;
        }
        let count = counts.entry(key).or_default();
        let before = *count;
        *count = before.saturating_add(messages);
        (before, *count)
    }

    /// `[#{channel, node, lane, reason, count}]`
    pub fn encode(&self, out: &mut Vec<u8>) {
        let counts = self.counts.lock();
        encode::list_of(out, counts.iter(), |out, (key, count)| {
            encode_key(out, &key.channel, &key.node, key.lane, key.reason, 1);
            encode::atom(out, "count");
            encode::uint(out, *count);
        });
    }
}

/// `#{channel, node, lane, reason}`, to be followed by `more` pairs.
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
        let counts = drops.counts.lock();
        counts.iter().map(|(key, count)| (key.node.as_str().to_owned(), *count)).collect()
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
}
