//! The write-ahead log, which consists of all segments. It only grows at its end, and is removed
//! from its beginning.
//!
//! Every frame is written after the frame before it was synced. A crash can therefore tear only the
//! last frame, which was not acknowledged to any caller; it is cut off at the next start. Every
//! other deviation from what was written is damage and results in an error.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::contents::Contents;
use super::disk::Disk;
use super::frame;
use super::record::{self, Change};
use super::recovery::{self, head_frame};
use super::segment::{self, Segment};
use crate::registry::replica::error::OpenError;

/// The length of a segment; a segment has a multiple of it if one frame needs more. Creating a
/// segment takes as long as dozens of writes, for which one write in 20,000 waits. The length is
/// part of the format, since a segment of another length is taken for a truncated one.
pub const SEGMENT_BYTES: u64 = 4 << 20;

/// The log as its writer sees it.
pub struct Wal {
    disk: Box<dyn Disk>,
    segment_bytes: u64,
    /// The segments, which are empty only during a change; the last one is written to.
    segments: VecDeque<Arc<Segment>>,
    /// The length of the last segment.
    length: u64,
    /// The offset of the next frame. All bytes from there on are zero.
    end: u64,
    /// The number of the next frame.
    sequence: u64,
    contents: Arc<Mutex<Contents>>,
    buffer: Vec<u8>,
}

impl Wal {
    /// Opens the log on `disk` in segments of `segment_bytes`, or creates one with a new random
    /// node id. Checks every existing frame. Blocks.
    pub fn open(disk: Box<dyn Disk>, segment_bytes: u64) -> Result<Self, OpenError> {
        let found = recovery::open(&*disk, segment_bytes)?;
        Ok(Self {
            disk,
            segment_bytes,
            segments: found.segments,
            length: found.length,
            end: found.end,
            sequence: found.sequence,
            contents: Arc::new(Mutex::new(found.contents)),
            buffer: Vec::new(),
        })
    }

    /// Returns the contents of the log as of the last completed write.
    pub fn contents(&self) -> Arc<Mutex<Contents>> {
        self.contents.clone()
    }

    /// Returns the path of the log, for messages to people.
    pub fn path(&self) -> PathBuf {
        self.segments.back().map_or_else(PathBuf::new, |last| last.path().to_owned())
    }

    /// Carries out `changes` in order, all or none. They are on the disk when this returns. After an
    /// error nothing may be written any more, except after one that is
    /// [`is_full`](super::space::is_full): then the same changes may be tried again. Blocks.
    pub fn write<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> io::Result<()> {
        let mut records = Vec::new();
        frame::begin(&mut self.buffer);
        for change in changes {
            record::put_change(&mut self.buffer, frame::HEADER_BYTES, change, &mut records)
                .map_err(io::Error::other)?;
        }
        // The check comes now and not at the next start, since everything that is written must be
        // readable.
        self.contents.lock().check(&records).map_err(io::Error::other)?;

        if self.end.saturating_add(self.buffer.len() as u64) > self.length {
            self.begin_segment()?;
        }
        let last = self.segments.back().ok_or_else(|| io::Error::other("there is no segment"))?;
        recovery::seal(&mut self.buffer, self.sequence)?;
        last.write(self.end, &self.buffer)?;

        let payload = self.buffer.get(frame::HEADER_BYTES..).unwrap_or_default();
        let offset = self.end + frame::HEADER_BYTES as u64;
        let applied = self.contents.lock().apply(records, last, offset, payload);
        applied.map_err(io::Error::other)?;
        self.end += self.buffer.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Writes the last `changes` and a record that nothing follows, so that missing records are
    /// detected at the next start. Blocks.
    pub fn close<'a>(mut self, changes: impl Iterator<Item = &'a Change>) -> io::Result<()> {
        self.write(changes.chain([&Change::Closed]))?;
        match self.segments.back() {
            Some(last) => last.cut(self.end),
            None => Ok(()),
        }
    }

    /// Begins a segment with room for the frame in the buffer.
    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.segments.back().map_or(0, |last| last.number().saturating_add(1));
        let head = head_frame(&self.contents.lock(), self.sequence)?;
        let end = (segment::START + head.len()) as u64;
        let needed = end.saturating_add(self.buffer.len() as u64);
        let length = needed.next_multiple_of(self.segment_bytes);
        let segment = Segment::create(&*self.disk, number, &head, length).inspect_err(|_| {
            // It takes room, and is made anew when this is tried again. A start removes it as well.
            let _ = self.disk.remove(segment::UNFINISHED);
        })?;
        self.segments.push_back(Arc::new(segment));
        (self.length, self.end) = (length, end);
        self.sequence += 1;
        Ok(())
    }

    /// Removes the segments that are not needed. The frame that makes them dispensable is on the
    /// disk in a later segment, since the last segment is never removed. Blocks.
    pub fn tidy(&mut self) {
        let Some(last) = self.segments.back().map(|last| last.number()) else { return };
        let keep = self.contents.lock().oldest_segment().unwrap_or(last).min(last);
        while let Some(first) = self.segments.front()
            && first.number() < keep
        {
            // Each removal is synced, so that no crash restores an older segment without its
            // successor.
            let removed = match self.disk.remove(&segment::name(first.number())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
            if let Err(error) = removed.and_then(|()| self.disk.sync()) {
                let path = first.path().display();
                tracing::warn!(%path, %error, "a part of the log that is not needed stays");
                return;
            }
            self.segments.pop_front();
        }
    }
}
