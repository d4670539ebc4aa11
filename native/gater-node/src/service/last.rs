//! The last message of every topic, on channels that replay it.

use gater_core::channel::Topic;
use gater_dist::Payload;
use rustc_hash::FxHashMap;

/// Topics whose last message is kept at a time.
const MAX_TOPICS: usize = 10_000;
/// Bytes of last messages that are kept at a time.
const MAX_BYTES: usize = 64 << 20;

/// Last messages by topic, bounded in number and bytes. When a bound is
/// reached, the topic that was written longest ago is forgotten.
#[derive(Default)]
pub struct LastValues {
    by_topic: FxHashMap<Topic, (u64, Payload)>,
    by_age: std::collections::BTreeMap<u64, Topic>,
    bytes: usize,
    clock: u64,
}

impl LastValues {
    /// The last message of a topic.
    pub fn get(&self, topic: &[u8]) -> Option<Payload> {
        self.by_topic.get(topic).map(|(_, payload)| payload.clone())
    }

    /// Keeps `payload` as the last message of `topic`.
    pub fn put(&mut self, topic: &[u8], payload: Payload) {
        let Ok(topic) = Topic::new(topic) else { return };
        self.clock += 1;
        self.bytes += payload.len();
        if let Some((age, old)) = self.by_topic.insert(topic.clone(), (self.clock, payload)) {
            self.by_age.remove(&age);
            self.bytes -= old.len();
        }
        self.by_age.insert(self.clock, topic);
        while self.by_topic.len() > MAX_TOPICS || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some((_, payload)) = self.by_topic.remove(oldest.as_bytes()) {
                self.bytes -= payload.len();
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
    fn a_topic_keeps_its_newest_message() {
        let mut last = LastValues::default();
        last.put(b"a", payload(1));
        last.put(b"a", payload(2));
        assert_eq!(last.get(b"a").unwrap().len(), 2);
        assert_eq!(last.bytes, 2);
        assert_eq!(last.by_age.len(), 1);
    }

    #[test]
    fn the_topic_written_longest_ago_goes_when_the_table_is_full() {
        let mut last = LastValues::default();
        for n in 0..MAX_TOPICS {
            last.put(n.to_string().as_bytes(), payload(1));
        }
        last.put(b"0", payload(1));
        last.put(b"new", payload(1));
        assert!(last.get(b"0").is_some());
        assert!(last.get(b"1").is_none());
        assert_eq!(last.by_topic.len(), MAX_TOPICS);
    }

    #[test]
    fn bytes_are_bounded() {
        let mut last = LastValues::default();
        for n in 0..3 {
            last.put(n.to_string().as_bytes(), payload(MAX_BYTES / 2));
        }
        assert!(last.bytes <= MAX_BYTES);
        assert!(last.get(b"0").is_none());
    }
}
