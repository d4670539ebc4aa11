//! Frames that are collected for one write.

use std::io::{ErrorKind, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use gater_term::LocalPid;
use tokio::net::tcp::OwnedWriteHalf;

use super::item::{Fragments, Item};
use crate::protocol::answer::{Answer, Places, Reply};
use crate::protocol::atom_cache::Outgoing;
use crate::protocol::encode::{Format, Signal, put_numbers};
use crate::{Draft, Payload, Prefix};

/// The number of bytes that are collected for one write: enough to make system calls cheap, and few
/// enough for a message of a higher lane to be sent soon.
const BATCH_BYTES: usize = 256 << 10;
/// The length in bytes up to which parts of a payload are copied between their headers, which is
/// cheaper than a slice for each of them.
const COPY_BELOW: usize = 4 << 10;
/// The greatest number of slices that are passed to one system call.
const MAX_SLICES: usize = 64;
/// The greatest number of prefixes per connection whose frame starts are remembered. It exceeds the
/// number of channels of any gateway.
const MAX_STARTS: usize = 256;
/// An empty frame.
const TICK: [u8; 4] = [0; 4];

/// Frames for one vectored write. Small parts are copied into one buffer, and long payloads are
/// referenced.
pub struct Batch {
    format: Format,
    fragment_bytes: usize,
    next_sequence: u64,
    atoms: Outgoing,
    starts: Vec<FrameStart>,
    /// The start of the body of a frame with an unshared answer, once the peer knows the atoms.
    answer_start: Option<Box<[u8]>>,
    copied: Vec<u8>,
    /// The parts in the order of the wire. Ranges refer to `copied`.
    segments: Vec<Segment>,
    /// The number of bytes in all segments.
    bytes: usize,
    /// The number of segments that are written, and the number of written bytes of the next one.
    first: usize,
    offset: usize,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

enum Segment {
    Copied(Range<usize>),
    Shared(Bytes),
}

/// The start of frames with one prefix, once the peer knows its atoms.
struct FrameStart {
    prefix: Option<Arc<Prefix>>,
    /// The bytes from the first byte of the body up to the node in the pid of the receiver.
    bytes: Box<[u8]>,
}

impl Batch {
    /// Returns an empty batch, the first one of a connection.
    pub fn new(format: Format, fragment_bytes: usize) -> Self {
        Self {
            format,
            fragment_bytes: fragment_bytes.max(1),
            next_sequence: 1,
            atoms: Outgoing::default(),
            starts: Vec::new(),
            answer_start: None,
            copied: Vec::new(),
            segments: Vec::new(),
            bytes: 0,
            first: 0,
            offset: 0,
        }
    }

    /// Removes the frames, which have been written.
    pub fn clear(&mut self) {
        self.copied.clear();
        // One long burst must not keep its memory for good.
        self.copied.shrink_to(2 * BATCH_BYTES);
        self.segments.clear();
        (self.bytes, self.first, self.offset) = (0, 0, 0);
    }

    /// Frees memory that only bursts need.
    pub fn trim(&mut self) {
        if self.is_written() {
            self.clear();
            (self.copied, self.segments) = (Vec::new(), Vec::new());
        }
    }

    /// Adds an empty frame.
    pub fn tick(&mut self) {
        self.bytes(&TICK);
    }

    /// Adds a probe, see the module `window`.
    pub fn probe(&mut self, number: u64) {
        let at = self.copied.len();
        let Signal { control, .. } = self.format.probe(number);
        self.format.put_signal(&mut self.copied, &control, 0);
        self.copied_since(at);
    }

    /// Returns the number of bytes of all frames that were ever added.
    pub fn bytes_added(&self) -> usize {
        self.bytes
    }

    /// Adds the frames of an item. Returns the rest of the item if the batch is full before its
    /// end.
    pub fn add(&mut self, item: Item) -> Option<Item> {
        match item {
            Item::Signal(signal) => {
                let at = self.copied.len();
                self.format.put_signal(&mut self.copied, &signal.control, signal.payload.len());
                self.copied_since(at);
                self.payload(&signal.payload, false, 0..signal.payload.len());
                None
            }
            Item::Monitors { of, from } => self.monitors(of, from),
            Item::Answer(answer) => {
                self.answer(&answer);
                None
            }
            Item::One(to, payload) if self.fragmented(&payload) => {
                self.first_fragment(to, payload, None)
            }
            Item::One(to, payload) => {
                self.message(to, &payload);
                None
            }
            Item::Many { to, from, payload } if self.fragmented(&payload) => {
                match to.get(from).copied() {
                    Some(first) => self.first_fragment(first, payload, Some((to, from + 1))),
                    None => None,
                }
            }
            Item::Many { to, from, payload } => self.messages(to, from, payload),
            Item::Rest(rest) => self.next_fragment(rest),
        }
    }

    /// Adds a message that is not longer than a fragment for one receiver after another while there
    /// is room. Returns the number of receivers for which there was room.
    pub fn add_draft(&mut self, to: &[LocalPid], draft: &Draft<'_>) -> usize {
        for (served, receiver) in to.iter().enumerate() {
            if !self.has_room() {
                return served;
            }
            let at = self.begin();
            let cached = self.start_frame(Some(draft.prefix()), 0);
            put_numbers(&mut self.copied, *receiver);
            self.copied.put_slice(self.format.payload_prefix());
            let (prefix, body) = draft.parts(cached);
            self.copied.put_slice(prefix);
            if body.len() > COPY_BELOW {
                self.finish(at, body.len());
                self.shared(body, 0..body.len());
            } else {
                self.copied.put_slice(body);
                self.finish(at, 0);
            }
        }
        to.len()
    }

    fn fragmented(&self, payload: &Payload) -> bool {
        self.format.fragments && payload.len() > self.fragment_bytes
    }

    fn message(&mut self, to: LocalPid, payload: &Payload) {
        let at = self.begin();
        let cached = self.start_frame(payload.prefix(), 0);
        put_numbers(&mut self.copied, to);
        self.copied.put_slice(self.format.payload_prefix());
        let len = payload.wire_len(cached);
        self.finish(at, len);
        self.payload(payload, cached, 0..len);
    }

    fn messages(&mut self, to: Arc<[LocalPid]>, from: usize, payload: Payload) -> Option<Item> {
        for (next, receiver) in to.iter().enumerate().skip(from) {
            if !self.has_room() {
                return Some(Item::Many { to, from: next, payload });
            }
            self.message(*receiver, &payload);
        }
        None
    }

    fn monitors(&mut self, of: Box<[(LocalPid, u64)]>, from: usize) -> Option<Item> {
        for (next, (process, number)) in of.iter().enumerate().skip(from) {
            if !self.has_room() {
                return Some(Item::Monitors { of, from: next });
            }
            let at = self.copied.len();
            let Signal { control, .. } = self.format.monitor(true, *process, *number);
            self.format.put_signal(&mut self.copied, &control, 0);
            self.copied_since(at);
        }
        None
    }

    fn first_fragment(
        &mut self,
        to: LocalPid,
        payload: Payload,
        then: Option<(Arc<[LocalPid]>, usize)>,
    ) -> Option<Item> {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let at = self.begin();
        self.copied.put_slice(&[131, 69]);
        self.copied.put_u64(sequence);
        let left_at = self.copied.len();
        self.copied.put_u64(0);
        let cached = self.start_frame(payload.prefix(), 2);
        put_numbers(&mut self.copied, to);
        let len = payload.wire_len(cached);
        let left = len.div_ceil(self.fragment_bytes) as u64;
        if let Some(place) = self.copied.get_mut(left_at..left_at + 8) {
            place.copy_from_slice(&left.to_be_bytes());
        }
        let sent = self.fragment_bytes.min(len);
        self.finish(at, sent);
        self.payload(&payload, cached, 0..sent);
        Self::after(Fragments { sequence, left: left - 1, sent, payload, cached, then })
    }

    fn next_fragment(&mut self, mut rest: Fragments) -> Option<Item> {
        let len = self.fragment_bytes.min(rest.payload.wire_len(rest.cached) - rest.sent);
        let at = self.begin();
        self.copied.put_slice(&[131, 70]);
        self.copied.put_u64(rest.sequence);
        self.copied.put_u64(rest.left);
        self.finish(at, len);
        self.payload(&rest.payload, rest.cached, rest.sent..rest.sent + len);
        rest.left -= 1;
        rest.sent += len;
        Self::after(rest)
    }

    /// Returns the rest of an item after a fragment: further fragments, or the next receivers.
    fn after(rest: Fragments) -> Option<Item> {
        if rest.left > 0 {
            return Some(Item::Rest(rest));
        }
        let (to, from) = rest.then?;
        (from < to.len()).then_some(Item::Many { to, from, payload: rest.payload })
    }

    /// Reserves the length of a frame and returns its offset.
    fn begin(&mut self) -> usize {
        let at = self.copied.len();
        self.copied.extend([0; 4]);
        at
    }

    /// Completes the copied part of a frame, which `more` bytes follow.
    fn finish(&mut self, at: usize, more: usize) {
        let len = (self.copied.len() - at - 4 + more) as u32;
        if let Some(place) = self.copied.get_mut(at..at + 4) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        self.copied_since(at);
    }

    /// Writes the start of a frame, without its first `skip` bytes, up to the node in the pid of
    /// the receiver. Returns whether its atoms are references.
    fn start_frame(&mut self, prefix: Option<&Arc<Prefix>>, skip: usize) -> bool {
        let plain = self.format.send_prefix();
        if !self.format.atom_cache {
            self.copied.extend_from_slice(plain.get(skip..).unwrap_or_default());
            return false;
        }
        let known = self.starts.iter().find(|start| match (&start.prefix, prefix) {
            (Some(known), Some(prefix)) => Arc::ptr_eq(known, prefix),
            (None, None) => true,
            _ => false,
        });
        if let Some(known) = known {
            self.copied.extend_from_slice(known.bytes.get(skip..).unwrap_or_default());
            return true;
        }
        let mut bytes = vec![131, 68];
        let atoms: Vec<_> = std::iter::once(&self.format.peer)
            .chain(prefix.into_iter().flat_map(|prefix| prefix.atoms()))
            .collect();
        let Some(all_known) = self.atoms.write(&atoms, &mut bytes) else {
            self.copied.extend_from_slice(plain.get(skip..).unwrap_or_default());
            return false;
        };
        // {2, '', Pid}, in which the node is the first atom of the list.
        bytes.extend([104, 3, 97, 2, 119, 0, 88, 82, 0]);
        self.copied.extend_from_slice(bytes.get(skip..).unwrap_or_default());
        if all_known && self.starts.len() < MAX_STARTS {
            self.starts.push(FrameStart { prefix: prefix.cloned(), bytes: bytes.into() });
        }
        true
    }

    /// Adds the frame of an answer.
    fn answer(&mut self, answer: &Answer) {
        let at = self.begin();
        let places = self.begin_answer(&answer.reply);
        self.format.put_answer(&mut self.copied, &answer.from, places);
        let reply = match &answer.reply {
            Reply::Own(reply) => reply,
            Reply::Shared(term) => match term.cached() {
                Some((_, cached)) if places.is_some() => cached,
                _ => term.plain(),
            },
        };
        self.finish(at, reply.len());
        self.shared(reply, 0..reply.len());
    }

    /// Writes the start of the body of a frame with an answer, up to its control message. Returns
    /// the places of the atoms if they are listed.
    fn begin_answer(&mut self, reply: &Reply) -> Option<Places> {
        let listed = self.list_answer_atoms(reply);
        if listed.is_none() {
            self.copied.extend_from_slice(self.format.frame_start());
        }
        listed
    }

    fn list_answer_atoms(&mut self, reply: &Reply) -> Option<Places> {
        if !self.format.atom_cache {
            return None;
        }
        let of_reply = match reply {
            Reply::Own(_) => &[],
            Reply::Shared(term) => term.cached()?.0,
        };
        // The node of the peer comes first, followed by the atoms to which a shared term refers.
        let own = u8::try_from(1 + of_reply.len()).ok()?;
        let places = Places { own, alias: own.checked_add(1)? };
        if let (Reply::Own(_), Some(start)) = (reply, &self.answer_start) {
            self.copied.extend_from_slice(start);
            return Some(places);
        }
        let Format { peer, ours, alias, .. } = &self.format;
        let atoms: Vec<_> = std::iter::once(peer).chain(of_reply).chain([ours, alias]).collect();
        let at = self.copied.len();
        self.copied.extend([131, 68]);
        let Some(all_known) = self.atoms.write(&atoms, &mut self.copied) else {
            self.copied.truncate(at);
            return None;
        };
        if all_known && matches!(reply, Reply::Own(_)) {
            self.answer_start = self.copied.get(at..).map(Into::into);
        }
        Some(places)
    }

    /// Adds a part of a payload.
    fn payload(&mut self, payload: &Payload, cached: bool, range: Range<usize>) {
        let mut start = 0;
        for part in payload.parts(cached) {
            let end = start + part.len();
            let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
            if from < to {
                self.shared(part, from - start..to - start);
            }
            start = end;
        }
    }

    fn shared(&mut self, bytes: &Bytes, part: Range<usize>) {
        if part.len() > COPY_BELOW {
            self.bytes += part.len();
            self.segments.push(Segment::Shared(bytes.slice(part)));
        } else if let Some(bytes) = bytes.get(part) {
            self.bytes(bytes);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let at = self.copied.len();
        self.copied.extend_from_slice(bytes);
        self.copied_since(at);
    }

    /// Adds the bytes that were copied since `at` as the next segment.
    fn copied_since(&mut self, at: usize) {
        let end = self.copied.len();
        self.bytes += end - at;
        match self.segments.last_mut() {
            Some(Segment::Copied(range)) if range.end == at => range.end = end,
            _ => self.segments.push(Segment::Copied(at..end)),
        }
    }

    fn slice<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        match segment {
            Segment::Copied(range) => self.copied.get(range.clone()).unwrap_or_default(),
            Segment::Shared(bytes) => bytes,
        }
    }

    /// Returns whether everything is written.
    pub fn is_written(&self) -> bool {
        self.first >= self.segments.len()
    }

    /// Returns whether there is room for more frames.
    pub fn has_room(&self) -> bool {
        self.bytes < BATCH_BYTES
    }

    /// Writes as much as the socket takes without waiting. Returns whether everything is written.
    pub fn try_write(&mut self, socket: &OwnedWriteHalf) -> std::io::Result<bool> {
        while let Some(segments) = self.segments.get(self.first..).filter(|rest| !rest.is_empty()) {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slice, segment) in slices.iter_mut().zip(segments) {
                let bytes = self.slice(segment);
                let skip = if count == 0 { self.offset } else { 0 };
                *slice = IoSlice::new(bytes.get(skip..).unwrap_or_default());
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            match socket.try_write_vectored(slices) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Returns the bytes that are still to be written.
    #[cfg(test)]
    pub fn bytes_left(&self) -> Vec<u8> {
        let segments = self.segments.iter().skip(self.first);
        segments.flat_map(|segment| self.slice(segment)).skip(self.offset).copied().collect()
    }

    /// Records that `written` further bytes were written.
    fn advance(&mut self, mut written: usize) {
        while let Some(segment) = self.segments.get(self.first) {
            let left = self.slice(segment).len() - self.offset;
            if written < left {
                self.offset += written;
                break;
            }
            written -= left;
            self.first += 1;
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests;
