//! The contents of the log: the metadata, and the place of each entry.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::record::{Head, Metadata, Record};
use super::segment::Segment;
use crate::registry::replica::codec::{self, DISK};
use crate::registry::replica::form::Formed;
use crate::registry::replica::types::{Entry, LogId};

/// The place of an entry, and its expected checksum.
#[derive(Clone)]
pub struct Place {
    segment: Arc<Segment>,
    offset: u64,
    length: u32,
    checksum: u32,
}

impl Place {
    /// Reads the entry, which must have the given index. A page that was damaged results in an
    /// error. Blocks.
    pub fn read(&self, index: u64) -> io::Result<Entry> {
        let bad = |reason: String| {
            let reason = format!("entry {index} in {}: {reason}", self.segment.path().display());
            io::Error::new(io::ErrorKind::InvalidData, reason)
        };
        // The length was checked when the entry was written or recovered, so it is bounded by what
        // was in memory then.
        let mut bytes = vec![0; self.length as usize];
        self.segment.read_at(self.offset, &mut bytes)?;
        if crc32fast::hash(&bytes) != self.checksum {
            return Err(bad("it is damaged".into()));
        }
        let entry = codec::decode(DISK, &bytes).map(Entry::of);
        let entry = entry.map_err(|error| bad(error.to_string()))?;
        if entry.log_id.index != index {
            return Err(bad(format!("it says it is {}", entry.log_id)));
        }
        Ok(entry)
    }
}

/// The contents of the log as of its last frame.
pub struct Contents {
    metadata: Metadata,
    /// The index of the first of `places`, or `None` before the first entry.
    first: Option<u64>,
    /// The places of the entries. The segments never decrease from one entry to the next.
    places: VecDeque<Place>,
}

/// A record that does not follow from the records before it.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// An entry is not the successor of the last entry.
    #[error("entry {index} follows where entry {next} should")]
    Gap { index: u64, next: u64 },
    /// A head is not at the beginning of a segment.
    #[error("the head of a segment is in the middle of one")]
    Head,
    /// The bytes of an entry are not in the frame.
    #[error("entry {0} is outside its frame")]
    Place(u64),
}

impl Contents {
    /// Returns the contents of the log after the `head` of its oldest segment.
    pub fn new(head: Head) -> Self {
        Self { metadata: head.metadata, first: head.next, places: VecDeque::new() }
    }

    /// Returns the metadata of the log.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the head of the next segment.
    pub fn head(&self) -> Head {
        Head { metadata: self.metadata.clone(), next: self.next() }
    }

    /// Returns the last entry with its index.
    pub fn last(&self) -> Option<(u64, Place)> {
        Some((self.next()?.checked_sub(1)?, self.places.back()?.clone()))
    }

    /// Returns the index of the first entry that exists or would exist.
    pub fn first(&self) -> Option<u64> {
        self.first
    }

    /// Returns the existing entries of `range`.
    pub fn get(&self, range: Range<u64>) -> Vec<(u64, Place)> {
        let first = self.first.unwrap_or(0);
        let skip = usize::try_from(range.start.saturating_sub(first)).unwrap_or(usize::MAX);
        let places = (first..).zip(&self.places).skip(skip);
        places.take_while(|(index, _)| *index < range.end).map(|(i, p)| (i, p.clone())).collect()
    }

    /// Returns the segment of the oldest entry. Earlier segments are not needed.
    pub fn oldest_segment(&self) -> Option<u64> {
        self.places.front().map(|place| place.segment.number())
    }

    /// Checks that `records` can come next.
    pub fn check(&self, records: &[Record]) -> Result<(), OrderError> {
        let mut next = self.next();
        for record in records {
            match record {
                Record::Entry { index, .. } => {
                    if let Some(next) = next
                        && next != *index
                    {
                        return Err(OrderError::Gap { index: *index, next });
                    }
                    next = Some(index.saturating_add(1));
                }
                Record::Truncate(from) => next = next.map(|next| next.min(*from)),
                Record::Purge(upto) => next = next.max(Some(after(upto))),
                Record::Head(_) => return Err(OrderError::Head),
                _ => {}
            }
        }
        Ok(())
    }

    /// Applies `records`, which belong to the `payload` at `offset` of `segment` and have been
    /// checked.
    pub fn apply(
        &mut self,
        records: Vec<Record>,
        segment: &Arc<Segment>,
        offset: u64,
        payload: &[u8],
    ) -> Result<(), OrderError> {
        for record in records {
            match record {
                Record::Entry { index, place } => {
                    let outside = || OrderError::Place(index);
                    let bytes = payload.get(place.clone()).ok_or_else(outside)?;
                    self.first.get_or_insert(index);
                    self.places.push_back(Place {
                        segment: segment.clone(),
                        offset: offset.saturating_add(place.start as u64),
                        length: u32::try_from(bytes.len()).map_err(|_| outside())?,
                        checksum: crc32fast::hash(bytes),
                    });
                }
                Record::Vote(vote) => self.metadata.vote = Some(vote),
                Record::Truncate(from) => self.truncate(from),
                Record::Purge(upto) => self.purge(upto),
                Record::Committed(upto) => self.metadata.committed = Some(upto),
                Record::Named(name, bytes) => {
                    self.metadata.named.insert(name, bytes);
                }
                Record::Head(_) => return Err(OrderError::Head),
                Record::Closed => {}
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<u64> {
        self.first.map(|first| first.saturating_add(self.places.len() as u64))
    }

    fn truncate(&mut self, from: u64) {
        if let Some(first) = self.first {
            let keep = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
            self.places.truncate(keep);
            // Entries before `first` may have been in segments that were removed.
            self.first = Some(first.min(from));
        }
    }

    fn purge(&mut self, upto: LogId) {
        let start = after(&upto);
        if let Some(first) = self.first {
            let gone = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
            self.places.drain(..gone.min(self.places.len()));
        }
        self.first = self.first.max(Some(start));
        self.metadata.purged = self.metadata.purged.max(Some(upto));
    }
}

fn after(entry: &LogId) -> u64 {
    entry.index.saturating_add(1)
}
