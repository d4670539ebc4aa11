//! The newest entries of the log, in memory, since most reads are for entries that were just
//! written.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::EntryPayload;

use super::super::types::Entry;

/// The greatest number of commands and entries together that are kept once they are on the disk.
const MAX_WEIGHT: usize = 4096;

/// A sequence of entries without gaps, up to the last one of the log.
#[derive(Debug, Default)]
pub struct Tail {
    entries: VecDeque<Entry>,
    weight: usize,
}

impl Tail {
    /// Adds the entry after the last one.
    pub fn push(&mut self, entry: Entry) {
        self.weight += weight(&entry);
        self.entries.push_back(entry);
    }

    /// Returns the index of the first entry in memory.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    /// Returns the entries of `range` that are in memory.
    pub fn get(&self, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        let first = self.first().unwrap_or(0);
        let skip = usize::try_from(range.start.saturating_sub(first)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).take_while(move |entry| entry.log_id.index < range.end)
    }

    /// Records that the entries up to `index` are on the disk, so that the oldest of them may be
    /// removed.
    pub fn flushed(&mut self, index: u64) {
        while self.weight > MAX_WEIGHT && self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// Removes the entries up to `index`.
    pub fn purge(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// Removes the entries from `index` on.
    pub fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.log_id.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.weight -= weight(&entry);
            }
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.weight -= weight(&entry);
        }
    }
}

fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => 1 + batch.commands.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::types::LogId;
    use super::*;
    use openraft::CommittedLeaderId;

    fn tail(indices: Range<u64>) -> Tail {
        let mut tail = Tail::default();
        for index in indices {
            let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
            tail.push(Entry { log_id, payload: EntryPayload::Blank });
        }
        tail
    }

    fn indices(tail: &Tail, range: Range<u64>) -> Vec<u64> {
        tail.get(range).map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn a_range_is_cut_to_what_is_here() {
        let tail = tail(5..10);
        assert_eq!(indices(&tail, 0..7), [5, 6]);
        assert_eq!(indices(&tail, 8..100), [8, 9]);
        assert!(indices(&tail, 10..11).is_empty());
    }

    #[test]
    fn entries_not_yet_on_the_disk_stay_however_many_there_are() {
        let count = 3 * MAX_WEIGHT as u64;
        let mut tail = tail(0..count);
        tail.flushed(9);
        assert_eq!(tail.first(), Some(10));
        tail.flushed(count - 1);
        assert_eq!(tail.first(), Some(count - MAX_WEIGHT as u64));
    }

    #[test]
    fn both_ends_can_be_cut() {
        let mut tail = tail(0..10);
        tail.purge(2);
        tail.truncate(8);
        assert_eq!(indices(&tail, 0..100), [3, 4, 5, 6, 7]);
        tail.truncate(0);
        assert_eq!(tail.first(), None);
        assert_eq!(tail.weight, 0);
    }
}
