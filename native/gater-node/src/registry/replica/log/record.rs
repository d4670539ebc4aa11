//! Records: what the payload of a frame consists of. Each is a kind (1 byte), the length of
//! the rest (4 bytes, big endian), and the rest, in the form of [`codec`].

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::registry::replica::codec::{self, CodecError};
use crate::registry::replica::types::{Entry, LogId, NodeId, Vote};

/// What is known of the log beside its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Whose log it is.
    pub node_id: NodeId,
    /// The last vote.
    pub vote: Option<Vote>,
    /// A lower bound of what is committed.
    pub committed: Option<LogId>,
    /// The last entry that was removed because a snapshot holds it.
    pub purged: Option<LogId>,
    /// What is to be remembered by name, encoded.
    pub notes: BTreeMap<String, Vec<u8>>,
}

/// What a segment begins with, so that those before it can go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The facts as they are before the other frames of the segment.
    pub facts: Facts,
    /// The index of the entry that would come next. `None` before the first one.
    pub next: Option<u64>,
}

/// A change of the log.
#[derive(Debug)]
pub enum Change {
    /// Entries, in order, after the last one.
    Append(Vec<Entry>),
    /// The vote.
    Vote(Vote),
    /// Entries from this index on go.
    Truncate(u64),
    /// Entries up to this one go.
    Purge(LogId),
    /// A lower bound of what is committed.
    Committed(LogId),
    /// Something to be remembered by name, encoded.
    Note(String, Vec<u8>),
    /// Nothing follows until the log is opened again.
    Closed,
}

/// What a record says; of an entry, where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The head of a segment.
    Head(Head),
    /// The entry `index`, whose bytes are at `place` of the payload.
    Entry { index: u64, place: Range<usize> },
    /// As in [`Change`].
    Vote(Vote),
    /// As in [`Change`].
    Truncate(u64),
    /// As in [`Change`].
    Purge(LogId),
    /// As in [`Change`].
    Committed(LogId),
    /// As in [`Change`].
    Note(String, Vec<u8>),
    /// As in [`Change`].
    Closed,
}

const HEAD: u8 = 1;
const ENTRY: u8 = 2;
const VOTE: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;
const NOTE: u8 = 7;
const CLOSED: u8 = 8;

/// Why there are no records in bytes, or no bytes of a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Its end is missing.
    #[error("a record is cut off")]
    Truncated,
    /// This program writes no such record.
    #[error("a record is of the unknown kind {0}")]
    Kind(u8),
    /// It has 4 GiB.
    #[error("a record is too long")]
    TooLong,
    /// Its content cannot be read or written.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Puts the head of a segment behind `buffer`.
pub fn put_head(buffer: &mut Vec<u8>, head: &Head) -> Result<(), RecordError> {
    put(buffer, HEAD, head).map(drop)
}

/// Puts `change` behind `buffer`, whose payload begins at `start`, and what it says behind
/// `records`.
pub fn put_change(
    buffer: &mut Vec<u8>,
    start: usize,
    change: &Change,
    records: &mut Vec<Record>,
) -> Result<(), RecordError> {
    let (record, _) = match change {
        Change::Append(entries) => {
            for entry in entries {
                let place = put(buffer, ENTRY, entry)?;
                let place = place.start.saturating_sub(start)..place.end.saturating_sub(start);
                records.push(Record::Entry { index: entry.log_id.index, place });
            }
            return Ok(());
        }
        Change::Vote(vote) => (Record::Vote(*vote), put(buffer, VOTE, vote)?),
        Change::Truncate(from) => (Record::Truncate(*from), put(buffer, TRUNCATE, from)?),
        Change::Purge(upto) => (Record::Purge(*upto), put(buffer, PURGE, upto)?),
        Change::Committed(upto) => (Record::Committed(*upto), put(buffer, COMMITTED, upto)?),
        Change::Note(name, value) => {
            (Record::Note(name.clone(), value.clone()), put(buffer, NOTE, &(name, value))?)
        }
        Change::Closed => (Record::Closed, put(buffer, CLOSED, &())?),
    };
    records.push(record);
    Ok(())
}

/// The records of a `payload`.
pub fn decode(payload: &[u8]) -> Result<Vec<Record>, RecordError> {
    let mut records = Vec::new();
    let mut rest = payload;
    while let Some((&kind, after)) = rest.split_first() {
        let (&length, after) = after.split_first_chunk::<4>().ok_or(RecordError::Truncated)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let (body, after) = after.split_at_checked(length).ok_or(RecordError::Truncated)?;
        records.push(match kind {
            HEAD => Record::Head(value(body)?),
            ENTRY => {
                let end = payload.len() - after.len();
                let entry: Entry = value(body)?;
                Record::Entry { index: entry.log_id.index, place: end - length..end }
            }
            VOTE => Record::Vote(value(body)?),
            TRUNCATE => Record::Truncate(value(body)?),
            PURGE => Record::Purge(value(body)?),
            COMMITTED => Record::Committed(value(body)?),
            NOTE => {
                let (name, bytes) = value(body)?;
                Record::Note(name, bytes)
            }
            CLOSED => Record::Closed,
            kind => return Err(RecordError::Kind(kind)),
        });
        rest = after;
    }
    Ok(records)
}

fn put<T: Serialize>(
    buffer: &mut Vec<u8>,
    kind: u8,
    value: &T,
) -> Result<Range<usize>, RecordError> {
    let bytes = codec::encode(value)?;
    let length = u32::try_from(bytes.len()).map_err(|_| RecordError::TooLong)?;
    buffer.push(kind);
    buffer.extend(length.to_be_bytes());
    let start = buffer.len();
    buffer.extend(bytes);
    Ok(start..buffer.len())
}

fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    Ok(codec::decode(bytes)?)
}
