//! The last message of every topic, on channels that replay it.

use foldhash::HashMap;
use gater_core::channel::Topic;
use gater_dist::Payload;

/// The greatest number of topics whose last message is kept.
const MAX_TOPICS: usize = 10_000;
/// The greatest number of bytes of last messages that are kept.
const MAX_BYTES: usize = 64 << 20;

/// The last messages by topic, bounded in number and bytes. When a bound is reached, the topic that
/// was written longest ago is forgotten.
#[derive(Default)]
pub struct LastValues {
    by_topic: HashMap<Topic, Last>,
    by_age: std::collections::BTreeMap<u64, Topic>,
    bytes: usize,
    clock: u64,
}

/// The last message of a topic.
struct Last {
    /// The position in the order of all messages.
    age: u64,
    /// The time of publication in Unix milliseconds.
    at: u64,
    payload: Payload,
}

impl LastValues {
    /// Returns the last message of a topic.
    pub fn get(&self, topic: &[u8]) -> Option<Payload> {
        self.by_topic.get(topic).map(|last| last.payload.clone())
    }

    /// Returns the time at which the last message of a topic was published, in Unix milliseconds.
    pub fn published(&self, topic: &[u8]) -> Option<u64> {
        self.by_topic.get(topic).map(|last| last.at)
    }

    /// Calls `each` with every message and its time of publication, the oldest first.
    pub fn each(&self, mut each: impl FnMut(u64, &Payload)) {
        for last in self.by_age.values().filter_map(|topic| self.by_topic.get(topic.as_bytes())) {
            each(last.at, &last.payload);
        }
    }

    /// Keeps `payload`, published `at` this time in Unix milliseconds, as the last message of
    /// `topic`.
    pub fn put(&mut self, topic: &[u8], at: u64, payload: Payload) {
        let Ok(topic) = Topic::new(topic) else { return };
        // A clock that was set back must not make it older than the one before, which other gateways
        // would then take for the last.
        let at =
            self.published(topic.as_bytes()).map_or(at, |before| at.max(before.saturating_add(1)));
        self.clock += 1;
        self.bytes += payload.len();
        let last = Last { age: self.clock, at, payload };
        if let Some(old) = self.by_topic.insert(topic.clone(), last) {
            self.by_age.remove(&old.age);
            self.bytes -= old.payload.len();
        }
        self.by_age.insert(self.clock, topic);
        while self.by_topic.len() > MAX_TOPICS || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some(last) = self.by_topic.remove(oldest.as_bytes()) {
                self.bytes -= last.payload.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn payload(bytes: usize) -> Payload {
        Payload::from(Bytes::from(vec![b'x'; bytes]))
    }

    #[test]
    fn a_message_is_later_than_the_one_before_whatever_the_clock_does() {
        let mut last = LastValues::default();
        last.put(b"t", 2_000, payload(1));
        last.put(b"t", 1_000, payload(2));
        assert_eq!((last.get(b"t"), last.published(b"t")), (Some(payload(2)), Some(2_001)));
    }

    #[test]
    fn a_topic_keeps_its_newest_message() {
        let mut last = LastValues::default();
        last.put(b"a", 0, payload(1));
        last.put(b"a", 0, payload(2));
        assert_eq!(last.get(b"a").unwrap().len(), 2);
        assert_eq!(last.bytes, 2);
        assert_eq!(last.by_age.len(), 1);
    }

    #[test]
    fn the_topic_written_longest_ago_goes_when_the_table_is_full() {
        let mut last = LastValues::default();
        for n in 0..MAX_TOPICS {
            last.put(n.to_string().as_bytes(), 0, payload(1));
        }
        last.put(b"0", 0, payload(1));
        last.put(b"new", 0, payload(1));
        assert!(last.get(b"0").is_some());
        assert!(last.get(b"1").is_none());
        assert_eq!(last.by_topic.len(), MAX_TOPICS);
    }

    #[test]
    fn bytes_are_bounded() {
        let mut last = LastValues::default();
        for n in 0..3 {
            last.put(n.to_string().as_bytes(), 0, payload(MAX_BYTES / 2));
        }
        assert!(last.bytes <= MAX_BYTES);
        assert!(last.get(b"0").is_none());
    }
}
