//! Records, of which the payload of a frame consists. Each record is a kind (1 byte), the length of
//! the rest (4 bytes, big endian), and the rest, which is encoded by [`codec`].

use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::registry::replica::codec::{self, CodecError, DISK};
use crate::registry::replica::form::{self, Formed};
use crate::registry::replica::types::{Entry, LogId, NodeId, Vote};

/// The metadata of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The node to which the log belongs.
    pub node_id: NodeId,
    /// The last vote.
    #[serde(with = "form")]
    pub vote: Option<Vote>,
    /// A lower bound of the committed position.
    #[serde(with = "form")]
    pub committed: Option<LogId>,
    /// The last entry that was removed because a snapshot contains it.
    #[serde(with = "form")]
    pub purged: Option<LogId>,
    /// Further metadata by name, encoded.
    pub named: BTreeMap<String, Vec<u8>>,
}

/// The first record of a segment, which makes earlier segments dispensable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The metadata before the other frames of the segment.
    pub metadata: Metadata,
    /// The index of the next entry, or `None` before the first one.
    pub next: Option<u64>,
}

/// A change of the log.
#[derive(Debug)]
pub enum Change {
    /// Appends entries, in order, after the last one.
    Append(Vec<Entry>),
    /// Sets the vote.
    Vote(Vote),
    /// Removes the entries from this index on.
    Truncate(u64),
    /// Removes the entries up to this one.
    Purge(LogId),
    /// Sets a lower bound of the committed position.
    Committed(LogId),
    /// Sets further metadata by name, encoded.
    Named(String, Vec<u8>),
    /// Closes the log: nothing follows until the log is opened again.
    Closed,
}

/// The content of a record. For an entry it is the place of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The head of a segment.
    Head(Head),
    /// The entry `index`, whose bytes are at `place` of the payload.
    Entry { index: u64, place: Range<usize> },
    /// See [`Change::Vote`].
    Vote(Vote),
    /// See [`Change::Truncate`].
    Truncate(u64),
    /// See [`Change::Purge`].
    Purge(LogId),
    /// See [`Change::Committed`].
    Committed(LogId),
    /// See [`Change::Named`].
    Named(String, Vec<u8>),
    /// See [`Change::Closed`].
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

/// The reason why bytes cannot be decoded to records, or a record cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The end of the record is missing.
    #[error("a record is cut off")]
    Truncated,
    /// The kind of the record is unknown.
    #[error("a record is of the unknown kind {0}")]
    Kind(u8),
    /// The record has 4 GiB or more.
    #[error("a record is too long")]
    TooLong,
    /// The content cannot be decoded or encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Appends the head of a segment to `buffer`.
pub fn put_head(buffer: &mut Vec<u8>, head: &Head) -> Result<(), RecordError> {
    put(buffer, HEAD, head).map(drop)
}

/// Appends `change` to `buffer`, whose payload begins at `start`, and its decoded form to
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
                let place = put(buffer, ENTRY, &entry.form())?;
                let place = place.start.saturating_sub(start)..place.end.saturating_sub(start);
                records.push(Record::Entry { index: entry.log_id.index, place });
            }
            return Ok(());
        }
        Change::Vote(vote) => (Record::Vote(*vote), put(buffer, VOTE, &vote.form())?),
        Change::Truncate(from) => (Record::Truncate(*from), put(buffer, TRUNCATE, from)?),
        Change::Purge(upto) => (Record::Purge(*upto), put(buffer, PURGE, &upto.form())?),
        Change::Committed(upto) => {
            (Record::Committed(*upto), put(buffer, COMMITTED, &upto.form())?)
        }
        Change::Named(name, value) => {
            (Record::Named(name.clone(), value.clone()), put(buffer, NOTE, &(name, value))?)
        }
        Change::Closed => (Record::Closed, put(buffer, CLOSED, &())?),
    };
    records.push(record);
    Ok(())
}

/// Returns the records of a `payload`.
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
                let entry = Entry::of(value(body)?);
                Record::Entry { index: entry.log_id.index, place: end - length..end }
            }
            VOTE => Record::Vote(Vote::of(value(body)?)),
            TRUNCATE => Record::Truncate(value(body)?),
            PURGE => Record::Purge(LogId::of(value(body)?)),
            COMMITTED => Record::Committed(LogId::of(value(body)?)),
            NOTE => {
                let (name, bytes) = value(body)?;
                Record::Named(name, bytes)
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
    let bytes = codec::encode(DISK, value)?;
    let length = u32::try_from(bytes.len()).map_err(|_| RecordError::TooLong)?;
    buffer.push(kind);
    buffer.extend(length.to_be_bytes());
    let start = buffer.len();
    buffer.extend(bytes);
    Ok(start..buffer.len())
}

fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    Ok(codec::decode(DISK, bytes)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gater_core::registry::{Command, Origin};
    use gater_term::{Atom, Pid};
    use openraft::{CommittedLeaderId, EntryPayload, LeaderId, Membership};

    use super::*;
    use crate::registry::replica::types::{Batch, Member};

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(3, u64::MAX), index)
    }

    fn entries() -> Vec<Entry> {
        let store = Atom::new("Größe").unwrap();
        let node = Atom::new("a@h").unwrap();
        let pid = Pid { node: node.clone(), id: 1, serial: 2, creation: u32::MAX };
        let commands = vec![
            Command::Register { store: store.clone(), pid: pid.clone() },
            Command::Unregister { store, pid: pid.clone(), epoch: Some(300) },
            Command::Exited { pid, epoch: None },
            Command::Purge { node, creation: 7 },
        ];
        let origin = Some(Origin { proposer: u64::MAX, number: 2 });
        let voters = vec![BTreeSet::from([1, 2]), BTreeSet::from([2])];
        let member = |name: &str| Member { name: name.into() };
        let members = BTreeMap::from([(1, member("a@h")), (2, member("b@h")), (3, member("c@h"))]);
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Batch { origin, commands: commands.into() }),
            EntryPayload::Membership(Membership::new(voters, members)),
        ];
        let entry = |(index, payload)| Entry { log_id: log_id(index), payload };
        (7..).zip(payloads).map(entry).collect()
    }

    #[test]
    fn the_records_of_the_log_are_written_as_they_always_were() {
        let vote = Vote { leader_id: LeaderId::new(5, 9), committed: true };
        let metadata = Metadata {
            node_id: 9,
            vote: Some(vote),
            committed: Some(log_id(6)),
            purged: None,
            named: BTreeMap::from([("cluster".to_owned(), vec![1, 42])]),
        };
        let head = Head { metadata, next: Some(7) };
        let mut bytes = Vec::new();
        put_head(&mut bytes, &head).unwrap();
        assert_eq!(decode(&bytes).unwrap(), [Record::Head(head)]);
        let mut vectors = vec![("head", bytes)];
        for (name, change) in [
            ("append", Change::Append(entries())),
            ("vote", Change::Vote(vote)),
            ("truncate", Change::Truncate(300)),
            ("purge", Change::Purge(log_id(5))),
            ("committed", Change::Committed(log_id(6))),
            ("note", Change::Named("cluster".into(), vec![1, 42])),
            ("closed", Change::Closed),
        ] {
            let (mut bytes, mut records) = (Vec::new(), Vec::new());
            put_change(&mut bytes, 0, &change, &mut records).unwrap();
            assert_eq!(decode(&bytes).unwrap(), records, "{name}");
            vectors.push((name, bytes));
        }
        crate::vectors::check("log.txt", &vectors);
    }
}
