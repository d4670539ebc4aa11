//! Reading the segments at the start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::contents::Contents;
use super::disk::Disk;
use super::frame;
use super::record::{self, Facts, Head, Record};
use super::segment::{self, Beginning, FORMAT, START, Segment, UNFINISHED};
use super::wal::{Recovered, head_frame};
use crate::replica::error::OpenError;

/// Where the log was in format 2.
const FORMER_FILE: &str = "registry.redb";
const FORMER_FORMAT: u64 = 2;

/// Opens the log on `disk`, or makes one. Blocks.
pub fn open(disk: &dyn Disk, segment_bytes: u64) -> Result<Recovered, OpenError> {
    let folder = |error| OpenError::Directory { path: disk.path(""), error };
    let names = disk.names().map_err(folder)?;
    if names.iter().any(|name| name == UNFINISHED) {
        disk.remove(UNFINISHED).map_err(folder)?;
    }
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    let Some(&newest) = numbers.last() else {
        if names.iter().any(|name| name == FORMER_FILE) {
            let (path, expected) = (disk.path(FORMER_FILE), FORMAT.into());
            return Err(OpenError::Version { path, found: FORMER_FORMAT, expected });
        }
        let path = disk.path(&segment::name(0));
        return make(disk, segment_bytes).map_err(|error| OpenError::Io { path, error });
    };

    let mut replay = Replay { contents: None, sequence: 0, closed: false };
    let mut segments = VecDeque::new();
    let (mut length, mut end) = (0, 0);
    for (at, &number) in (numbers.first().copied().unwrap_or(newest)..).zip(&numbers) {
        if number != at {
            let reason = "it is missing".into();
            return Err(OpenError::Corrupt { path: disk.path(&segment::name(at)), reason });
        }
        let path = disk.path(&segment::name(number));
        let io = |error| OpenError::Io { path: path.clone(), error };
        let corrupt = |reason| OpenError::Corrupt { path: path.clone(), reason };
        let (segment, bytes) = Segment::open(disk, number).map_err(io)?;
        match segment::beginning(&bytes) {
            Beginning::Known => {}
            Beginning::Format(found) => {
                let (found, expected) = (found.into(), FORMAT.into());
                return Err(OpenError::Version { path, found, expected });
            }
            Beginning::Unknown => {
                return Err(corrupt("it is not a log of this program".into()));
            }
        }
        let segment = Arc::new(segment);
        let read = replay.read(&segment, &bytes).map_err(corrupt)?;
        let rest = bytes.get(read..).unwrap_or_default();
        let is_clear = rest.iter().all(|byte| *byte == 0);
        if number < newest {
            if !is_clear {
                return Err(corrupt(replay.damage(read)));
            }
        } else {
            (length, end) = ((bytes.len() as u64).next_multiple_of(segment_bytes), read as u64);
            let is_whole = length == bytes.len() as u64;
            // A crash leaves a segment in its full length. Another one is of a log that was closed.
            // Whether a last frame was torn, or whole once and damaged since, cannot be told.
            let may_end_here = is_whole || (replay.closed && rest.is_empty());
            if !may_end_here || (!is_clear && frame::find(rest).is_some()) {
                return Err(corrupt(replay.damage(read)));
            }
            if !is_clear {
                let (path, offset) = (path.display(), read);
                tracing::warn!(%path, offset, "the last write was not finished; it is cut off");
            }
            if is_whole && is_clear {
                // A process that was killed may have written without syncing what is seen here.
                segment.sync().map_err(io)?;
            } else {
                segment.clear(end, length).map_err(io)?;
            }
        }
        segments.push_back(segment);
    }
    disk.sync().map_err(folder)?;

    let path = disk.path(&segment::name(newest));
    let corrupt = |reason| OpenError::Corrupt { path: path.clone(), reason };
    let contents = replay.contents.ok_or_else(|| corrupt("it holds nothing".into()))?;
    check(&contents, numbers.first() == Some(&0)).map_err(corrupt)?;
    Ok(Recovered { segments, length, end, sequence: replay.sequence, contents })
}

/// Makes a log with its first segment.
fn make(disk: &dyn Disk, segment_bytes: u64) -> io::Result<Recovered> {
    // Zero is what an id looks like that was never set. One in 63 bits fits every integer type.
    let node_id = (getrandom::u64().map_err(io::Error::other)? >> 1).max(1);
    let notes = BTreeMap::new();
    let facts = Facts { node_id, vote: None, committed: None, purged: None, notes };
    let contents = Contents::new(Head { facts, next: None });
    let head = head_frame(&contents, 0)?;
    let end = (START + head.len()) as u64;
    let length = end.next_multiple_of(segment_bytes);
    let first = Segment::create(disk, 0, &head, length)?;
    let segments = VecDeque::from([Arc::new(first)]);
    Ok(Recovered { segments, length, end, sequence: 1, contents })
}

/// What is known from the frames read so far.
struct Replay {
    contents: Option<Contents>,
    /// The number of the next frame; any before the first one.
    sequence: u64,
    /// Whether the last frame says that the log was closed.
    closed: bool,
}

impl Replay {
    /// Takes over the frames of a segment, and tells where they end.
    fn read(&mut self, segment: &Arc<Segment>, bytes: &[u8]) -> Result<usize, String> {
        let mut at = START;
        while let Some(found) = bytes.get(at..).and_then(frame::decode) {
            if self.contents.is_some() && found.sequence != self.sequence {
                let (found, next) = (found.sequence, self.sequence);
                return Err(format!("frame {found} at {at} follows where frame {next} should"));
            }
            let records = record::decode(found.payload);
            let mut records =
                records.map_err(|error| format!("the frame at {at} cannot be read: {error}"))?;
            self.closed = records.last() == Some(&Record::Closed);
            if at == START {
                let Some(Record::Head(head)) = records.pop() else {
                    return Err("it does not begin with what is known of the log".into());
                };
                self.begin(head)?;
            } else if let Some(contents) = &mut self.contents {
                let offset = (at + frame::HEADER_BYTES) as u64;
                contents
                    .check(&records)
                    .and_then(|()| contents.apply(records, segment, offset, found.payload))
                    .map_err(|error| format!("the frame at {at}: {error}"))?;
            }
            self.sequence = found.sequence.saturating_add(1);
            at = at.saturating_add(found.bytes());
        }
        if at == START { Err(self.damage(at)) } else { Ok(at) }
    }

    /// Takes over the head of a segment, which repeats what those before it say.
    fn begin(&mut self, head: Head) -> Result<(), String> {
        match &self.contents {
            None => self.contents = Some(Contents::new(head)),
            Some(known) if known.head() == head => {}
            Some(_) => return Err("it does not follow from the segment before it".into()),
        }
        Ok(())
    }

    fn damage(&self, at: usize) -> String {
        format!("frame {} at {at} is cut off or damaged", self.sequence)
    }
}

/// Whether all is there that should be; `is_whole` if no segment was ever removed.
fn check(contents: &Contents, is_whole: bool) -> Result<(), String> {
    let facts = contents.facts();
    let purged = facts.purged.map_or(0, |purged| purged.index.saturating_add(1));
    if let Some(first) = contents.first()
        && first > purged
        && !is_whole
    {
        return Err(format!("entries from {purged} to before {first} are missing"));
    }
    // What is committed is said only when all up to there is in the log.
    let next = contents.head().next.unwrap_or(0);
    if let Some(committed) = facts.committed
        && committed.index >= next
    {
        return Err(format!("{committed} is committed, and the log ends before entry {next}"));
    }
    Ok(())
}
