//! Recovers the log from its segments at the start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::contents::Contents;
use super::disk::Disk;
use super::frame;
use super::record::{self, Head, Metadata, Record};
use super::segment::{self, Beginning, FORMAT, START, Segment, UNFINISHED};
use crate::registry::replica::error::OpenError;
use crate::registry::replica::guard;

/// A log that was found or created.
pub struct Recovered {
    pub segments: VecDeque<Arc<Segment>>,
    pub length: u64,
    pub end: u64,
    pub sequence: u64,
    pub contents: Contents,
}

/// Opens the log on `disk`, or creates one. Blocks.
pub fn open(disk: &dyn Disk, segment_bytes: u64) -> Result<Recovered, OpenError> {
    let folder = |error| OpenError::Directory { path: disk.path(""), error };
    let names = disk.names().map_err(folder)?;
    if names.iter().any(|name| name == UNFINISHED) {
        disk.remove(UNFINISHED).map_err(folder)?;
    }
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    let Some(&newest) = numbers.last() else {
        let path = disk.path(&segment::name(0));
        return make(disk, segment_bytes).map_err(|error| OpenError::Io { path, error });
    };

    let mut replay = Replay { contents: None, sequence: 0, closed: false };
    let mut segments = VecDeque::new();
    let mut ending = Ending { end: START, length: 0, is_clear: true };
    for (at, &number) in (numbers.first().copied().unwrap_or(newest)..).zip(&numbers) {
        if number != at {
            let reason = "it is missing".into();
            return Err(OpenError::Corrupt { path: disk.path(&segment::name(at)), reason });
        }
        let (segment, bytes) = open_segment(disk, number)?;
        let corrupt = |reason| OpenError::Corrupt { path: segment.path().to_owned(), reason };
        let end = replay.read(&segment, &bytes).map_err(corrupt)?;
        let rest = bytes.get(end..).unwrap_or_default();
        ending = Ending { end, length: bytes.len(), is_clear: rest.iter().all(|byte| *byte == 0) };
        let is_right = match number == newest {
            true => replay.may_end(&ending, rest, segment_bytes),
            false => ending.is_clear,
        };
        if !is_right {
            return Err(corrupt(replay.damage(end)));
        }
        segments.push_back(segment);
    }

    let path = disk.path(&segment::name(newest));
    let corrupt = |reason| OpenError::Corrupt { path: path.clone(), reason };
    let contents = replay.contents.ok_or_else(|| corrupt("it holds nothing".into()))?;
    check(&contents, numbers.first() == Some(&0)).map_err(corrupt)?;
    check_places(&contents).map_err(|error| match error {
        PlaceError::Io(error) => OpenError::Io { path: path.clone(), error },
        PlaceError::Unusable(reason) => OpenError::Unusable {
            path: disk.path(""),
            reason: format!("the log ({}) cannot be gone on with: {reason}", path.display()),
        },
    })?;
    let length = (ending.length as u64).next_multiple_of(segment_bytes);
    if let Some(last) = segments.back() {
        let mended = mend(last, &ending, length);
        mended.map_err(|error| OpenError::Io { path: path.clone(), error })?;
    }
    disk.sync().map_err(folder)?;
    let (end, sequence) = (ending.end as u64, replay.sequence);
    Ok(Recovered { segments, length, end, sequence, contents })
}

/// Opens a segment, checks its beginning, and reads it.
fn open_segment(disk: &dyn Disk, number: u64) -> Result<(Arc<Segment>, Vec<u8>), OpenError> {
    let path = disk.path(&segment::name(number));
    let (segment, bytes) =
        Segment::open(disk, number).map_err(|error| OpenError::Io { path: path.clone(), error })?;
    match segment::beginning(&bytes) {
        Beginning::Known => Ok((Arc::new(segment), bytes)),
        Beginning::Format(found) => {
            let (found, expected) = (found.into(), FORMAT.into());
            Err(OpenError::Version { path, found, expected })
        }
        Beginning::Unknown => {
            let reason = "it is not a log of this program".into();
            Err(OpenError::Corrupt { path, reason })
        }
    }
}

/// Prepares the last segment for the next frame: the bytes after its last frame are set to zero.
fn mend(last: &Segment, ending: &Ending, length: u64) -> io::Result<()> {
    if !ending.is_clear {
        let (path, offset) = (last.path().display(), ending.end);
        tracing::warn!(%path, offset, "the last write was not finished; it is cut off");
    }
    if ending.is_clear && ending.length as u64 == length {
        // A process that was killed may have written bytes that are visible here without syncing
        // them.
        return last.sync();
    }
    last.clear(ending.end as u64, length)
}

/// Creates a log with its first segment.
fn make(disk: &dyn Disk, segment_bytes: u64) -> io::Result<Recovered> {
    // Zero would look like an id that was never set. An id of 63 bits fits every integer type.
    let node_id = (getrandom::u64().map_err(io::Error::other)? >> 1).max(1);
    let named = BTreeMap::new();
    let metadata = Metadata { node_id, vote: None, committed: None, purged: None, named };
    let contents = Contents::new(Head { metadata, next: None });
    let head = head_frame(&contents, 0)?;
    let end = (START + head.len()) as u64;
    let length = end.next_multiple_of(segment_bytes);
    let first = Segment::create(disk, 0, &head, length)?;
    let segments = VecDeque::from([Arc::new(first)]);
    Ok(Recovered { segments, length, end, sequence: 1, contents })
}

/// Returns the frame `sequence` that begins a segment which follows `contents`.
pub fn head_frame(contents: &Contents, sequence: u64) -> io::Result<Vec<u8>> {
    let mut frame = Vec::new();
    frame::begin(&mut frame);
    record::put_head(&mut frame, &contents.head()).map_err(io::Error::other)?;
    seal(&mut frame, sequence)?;
    Ok(frame)
}

/// Numbers the frame in the buffer and completes it.
pub fn seal(buffer: &mut [u8], sequence: u64) -> io::Result<()> {
    frame::seal(buffer, sequence).ok_or_else(|| io::Error::other("a write is too long"))
}

/// The end of a segment.
struct Ending {
    /// The offset of the end of the last frame.
    end: usize,
    /// The length of the file.
    length: usize,
    /// Whether all bytes between these two are zero.
    is_clear: bool,
}

/// The state after the frames that were read so far.
struct Replay {
    contents: Option<Contents>,
    /// The number of the next frame. Any number is accepted before the first frame.
    sequence: u64,
    /// Whether the last frame closes the log.
    closed: bool,
}

impl Replay {
    /// Applies the frames of a segment, and returns the offset of their end.
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

    /// Applies the head of a segment, which repeats the state after the earlier segments.
    fn begin(&mut self, head: Head) -> Result<(), String> {
        match &self.contents {
            None => self.contents = Some(Contents::new(head)),
            Some(known) if known.head() == head => {}
            Some(_) => return Err("it does not follow from the segment before it".into()),
        }
        Ok(())
    }

    /// Returns whether a crash or the end of the process can have left the log with this end, and
    /// with `rest` after its last frame.
    fn may_end(&self, ending: &Ending, rest: &[u8], segment_bytes: u64) -> bool {
        // A crash leaves a segment with its full length. A segment of another length belongs to a
        // log that was closed.
        let is_whole = (ending.length as u64).is_multiple_of(segment_bytes);
        if !is_whole {
            return self.closed && rest.is_empty();
        }
        // A torn frame is the last one. Whether it was complete once and was damaged later cannot
        // be determined.
        ending.is_clear || frame::find(rest).is_none()
    }

    fn damage(&self, at: usize) -> String {
        format!("frame {} at {at} is cut off or damaged", self.sequence)
    }
}

/// The reason why an undamaged log cannot be used.
enum PlaceError {
    Io(io::Error),
    Unusable(String),
}

/// Checks that consensus can continue from the terms and indices. Changes nothing.
fn check_places(contents: &Contents) -> Result<(), PlaceError> {
    let metadata = contents.metadata();
    let last = contents.last().map(|(index, place)| place.read(index)).transpose();
    let last = last.map_err(PlaceError::Io)?.map(|entry| entry.log_id);
    for last in [last, metadata.purged] {
        guard::at_start(&metadata.vote.unwrap_or_default(), last.as_ref())
            .map_err(PlaceError::Unusable)?;
    }
    Ok(())
}

/// Checks that everything that must exist does. `is_whole` tells that no segment was ever removed.
fn check(contents: &Contents, is_whole: bool) -> Result<(), String> {
    let metadata = contents.metadata();
    let purged = metadata.purged.map_or(0, |purged| purged.index.saturating_add(1));
    if let Some(first) = contents.first()
        && first > purged
        && !is_whole
    {
        return Err(format!("entries from {purged} to before {first} are missing"));
    }
    // A committed position is recorded only when all entries up to it are in the log.
    let next = contents.head().next.unwrap_or(0);
    if let Some(committed) = metadata.committed
        && committed.index >= next
    {
        return Err(format!("{committed} is committed, and the log ends before entry {next}"));
    }
    Ok(())
}
