//! Handles the frames that arrive on an established connection.
//!
//! A session remembers no monitors or links: the pids of a node without processes never end before
//! the connection does, so a peer cannot make any table grow. A node with processes handles their
//! signals itself, see [`Sink::process`].

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gater_term::{Atom, Pid, Reference, Scanner};

use super::atom_cache::{Encoded, Incoming};
use super::control::{self, Control, Process, RawPid};
use super::encode::{Format, Signal};
use super::flags;
use super::fragment::{Limits, ROOM, Reassembly};
use super::frame::{self, Frame};
use crate::gen_server::{self, From, Request};
use crate::payload::part_of;
use crate::{LocalPid, Peer, ProtocolError, Target};

/// The name that every node has, and that answers `net_adm:ping`.
pub const NET_KERNEL: &str = "net_kernel";

/// The capacity of the expansion buffer that is kept after a long message, in bytes.
const KEPT_BYTES: usize = 512 << 10;
/// The number of bytes that the atoms of a message usually take.
const ROOM_FOR_ATOMS: usize = 256;

/// Receives what a [`Session`] has decoded.
pub trait Sink {
    /// Returns whether a name is registered on this node.
    fn knows(&mut self, name: &str) -> bool;
    /// Returns whether a pid of this incarnation was handed out.
    fn lives(&mut self, id: u32, serial: u32) -> bool;
    /// Sends a signal to the peer.
    fn signal(&mut self, signal: Signal);
    /// Sends the answer to a call.
    fn reply(&mut self, from: &From, reply: Bytes);
    /// Handles an empty frame, which shows that the peer is alive.
    fn tick(&mut self);
    /// Handles a message. The payload is one valid term.
    fn message(&mut self, to: Target<'_>, payload: Bytes);
    /// Handles the end of a process of the peer that is monitored by the encoded `reference`.
    fn exited(&mut self, pid: LocalPid, reference: &[u8], reason: Bytes);
    /// Handles the end of a process of the peer that may be linked to this node.
    fn link_broken(&mut self, pid: LocalPid, reason: Bytes);
    /// Handles the answer of the peer to the probe with this encoded reference.
    fn probe_answered(&mut self, reference: &[u8]);
    /// Handles a control message with its payload before the session does. Returns whether nothing
    /// is left to do. A node without processes leaves everything to the session.
    fn process(&mut self, _control: &Control<'_>, _payload: &Bytes) -> bool {
        false
    }
    /// Handles an operation that was not negotiated.
    fn unknown_operation(&mut self, op: u64);
    /// A frame of so many bytes is about to be handled.
    fn frame(&mut self, _bytes: usize) {}
    /// Whether to stop after the message at hand: the connection is over, or others have their turn.
    fn pauses(&mut self) -> bool {
        false
    }
    /// Does `work`, which takes time in proportion to a message of `bytes` bytes, without blocking
    /// other tasks.
    fn run_blocking<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
        let _ = bytes;
        work()
    }
}

/// Handles control messages to processes, for nodes that have processes.
pub trait Processes: Send + Sync {
    /// Handles a control message of `peer`. Returns whether nothing is left to do. The method must
    /// not block.
    fn control(
        &self,
        peer: &std::sync::Arc<crate::Connection>,
        control: &Control<'_>,
        payload: &Bytes,
    ) -> bool;
}

/// The incoming half of an established connection.
#[derive(Debug)]
pub struct Session {
    ours: Atom,
    our_creation: u32,
    peer: Atom,
    peer_creation: u32,
    max_message: usize,
    format: Format,
    reassembly: Reassembly,
    scanner: Scanner,
    cache: Incoming,
    /// The atoms to which the current frame refers.
    atoms: Vec<Encoded>,
    /// The buffer for terms whose atoms are written out.
    expanded: BytesMut,
}

impl Session {
    /// Returns the session between the node of `our_pid` and `peer`.
    pub fn new(our_pid: &Pid, peer: &Peer, limits: Limits) -> Self {
        Self {
            ours: our_pid.node.clone(),
            our_creation: our_pid.creation,
            peer: peer.name.clone(),
            peer_creation: peer.creation,
            max_message: limits.message,
            cache: Incoming::new(flags::atom_cache(peer.flags)),
            atoms: Vec::new(),
            expanded: BytesMut::new(),
            format: Format::new(our_pid, peer),
            reassembly: Reassembly::new(limits),
            scanner: Scanner::new(gater_term::Limits {
                max_bytes: limits.message,
                ..Default::default()
            }),
        }
    }

    /// Returns the format of frames for this peer.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Returns the unfinished fragmented messages.
    pub fn reassembly(&self) -> &Reassembly {
        &self.reassembly
    }

    /// Handles every frame of `frames`, which holds whole frames only, unless `sink` pauses. `now`
    /// counts from any fixed time. Returns where the first frame starts that was not handled.
    pub fn frames<S: Sink>(
        &mut self,
        frames: &Bytes,
        now: Duration,
        sink: &mut S,
    ) -> Result<usize, ProtocolError> {
        self.frames_from(0, frames, now, sink)
    }

    /// As [`Session::frames`], for those that start `at` or later. What is kept of a message keeps all of
    /// `frames`, so it is given whole.
    pub fn frames_from<S: Sink>(
        &mut self,
        at: usize,
        frames: &Bytes,
        now: Duration,
        sink: &mut S,
    ) -> Result<usize, ProtocolError> {
        let mut rest = frames.get(at..).unwrap_or_default();
        while let Some((body, after)) = frame::first(rest) {
            rest = after;
            sink.frame(body.len());
            match frame::parse(body)? {
                Frame::Tick => sink.tick(),
                Frame::Whole(data) => {
                    let data = self.cache.read(data, &mut self.atoms)?;
                    S::run_blocking(data.len(), || self.message(frames, data, sink))?;
                }
                Frame::First { sequence, id, data } => {
                    let data = self.cache.read(data, &mut self.atoms)?;
                    let whole = self.reassembly.first(sequence, id, data, &self.atoms, now)?;
                    if let Some(whole) = whole {
                        S::run_blocking(whole.len(), || self.message(&whole, &whole, sink))?;
                    }
                }
                Frame::Next { sequence, id, data } => {
                    if let Some((whole, atoms)) = self.reassembly.next(sequence, id, data, now)? {
                        self.atoms = atoms;
                        self.cache.forget_last();
                        S::run_blocking(whole.len(), || self.put_together(whole, sink))?;
                    }
                }
                Frame::PassThrough(data) => {
                    S::run_blocking(data.len(), || self.pass_through(frames, data, sink))?;
                }
            }
            if sink.pauses() {
                break;
            }
        }
        Ok(frames.len() - rest.len())
    }

    /// Handles a reassembled message, which begins after [`ROOM`] bytes. A long message stays where
    /// it is: only its start is rewritten with its atoms written out.
    fn put_together(
        &mut self,
        mut whole: BytesMut,
        sink: &mut impl Sink,
    ) -> Result<(), ProtocolError> {
        let data = whole.get(ROOM..).unwrap_or_default();
        let mut start = ROOM;
        if !self.atoms.is_empty() {
            self.expanded.clear();
            let limit = self.max_message.saturating_mul(2);
            let mut copied = gater_term::expand(data, &self.atoms, limit, &mut self.expanded)?;
            if let Some(payload) = data.get(copied..).filter(|payload| !payload.is_empty()) {
                copied +=
                    gater_term::expand_start(payload, &self.atoms, limit, &mut self.expanded)?;
            }
            let end = ROOM + copied;
            if let Some(at) = end.checked_sub(self.expanded.len())
                && let Some(place) = whole.get_mut(at..end)
            {
                place.copy_from_slice(&self.expanded);
                start = at;
            } else {
                let rest = whole.get(end..).unwrap_or_default();
                if self.expanded.len().saturating_add(rest.len()) > limit {
                    return Err(ProtocolError::MessageTooLong(self.max_message));
                }
                self.expanded.extend_from_slice(rest);
                whole = self.expanded.split();
                start = 0;
            }
            self.keep_little(self.expanded.capacity());
        }
        let whole = whole.freeze().slice(start..);
        let (control, payload) = self.split(&whole)?;
        self.dispatch(&whole, control, payload, sink)
    }

    /// Handles a control message and its payload without version bytes. `data` is part of `buffer`.
    fn message(
        &mut self,
        buffer: &Bytes,
        data: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ProtocolError> {
        if let Some(CachedSend { name, sender, payload }) = cached_send(data, &self.atoms) {
            return self.cached_name(name, sender, payload, sink);
        }
        if !self.atoms.is_empty() {
            let whole = self.expand(data)?;
            let (control, payload) = self.split(&whole)?;
            return self.dispatch(&whole, control, payload, sink);
        }
        let (control, payload) = self.split(data)?;
        self.dispatch(buffer, control, payload, sink)
    }

    /// Handles a control message and its payload with version bytes.
    fn pass_through(
        &mut self,
        buffer: &Bytes,
        data: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ProtocolError> {
        let (control, rest) = self.split(unversioned(data)?)?;
        let payload = if rest.is_empty() { rest } else { unversioned(rest)? };
        self.dispatch(buffer, control, payload, sink)
    }

    fn dispatch(
        &mut self,
        buffer: &Bytes,
        control: &[u8],
        payload: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ProtocolError> {
        let control = control::parse(control).ok_or(ProtocolError::Control)?;
        let payload = if control.needs_payload() {
            if payload.is_empty() {
                return Err(ProtocolError::PayloadMissing);
            }
            if payload.len() > self.max_message {
                return Err(ProtocolError::MessageTooLong(self.max_message));
            }
            // Bytes after the term are ignored, as a BEAM does.
            let (payload, _) =
                self.split(payload).map_err(|error| error.sent_by(control.sender()))?;
            part_of(buffer, payload)
        } else {
            Bytes::new()
        };
        if sink.process(&control, &payload) {
            return Ok(());
        }
        match control {
            Control::Send { to: Process::Pid(to), .. } => self.to_pid(to, payload, sink),
            Control::Send { to: Process::Name { text, .. }, .. } => {
                self.to_name(text, payload, sink);
            }
            Control::SendAlias { to, .. } => {
                if let Some(alias) = reference(to) {
                    sink.message(Target::Alias(alias), payload);
                }
            }
            Control::Link { from, to } => {
                if self.is_of_peer(&from) && !self.is_alive(&to, sink) && self.is_ours(&to) {
                    sink.signal(self.format.link_noproc(to.raw, from.raw));
                }
            }
            Control::Exit { from, reason, .. } => {
                let reason = reason.map_or(payload, Bytes::copy_from_slice);
                let pid = LocalPid { id: from.id, serial: from.serial, creation: from.creation };
                sink.link_broken(pid, reason);
            }
            Control::UnlinkId { id, from, to } => {
                // An acknowledgement to another incarnation would make the peer cut the connection.
                if self.is_of_peer(&from) {
                    sink.signal(self.format.unlink_ack(id, to.raw, from.raw));
                }
            }
            Control::Monitor { from, to, reference } => {
                let known = match &to {
                    Process::Pid(pid) => self.is_alive(pid, sink),
                    Process::Name { text, .. } => known(text, sink),
                };
                if !known && self.is_of_peer(&from) {
                    sink.signal(self.format.monitor_noproc(to.raw(), from.raw, reference));
                }
            }
            Control::MonitorExit { from: Process::Pid(from), reference, reason, .. } => {
                let reason = reason.map_or(payload, Bytes::copy_from_slice);
                let pid = LocalPid { id: from.id, serial: from.serial, creation: from.creation };
                sink.exited(pid, reference, reason);
            }
            Control::SpawnRequest { request, from } => {
                if self.is_of_peer(&from) {
                    sink.signal(self.format.spawn_refused(request, from.raw));
                }
            }
            // Only probes monitor names, so this is the answer to a probe.
            Control::MonitorExit { from: Process::Name { .. }, reference, .. } => {
                sink.probe_answered(reference);
            }
            Control::Ignored { .. } | Control::ExitSignal { .. } | Control::Demonitor { .. } => {}
            Control::Unknown { op } => sink.unknown_operation(op),
        }
        Ok(())
    }

    /// Handles a message to a name that is an atom of the list.
    fn cached_name(
        &mut self,
        name: Encoded,
        sender: RawPid<'_>,
        payload: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), ProtocolError> {
        self.expanded.clear();
        self.expanded.reserve(payload.len() + ROOM_FOR_ATOMS);
        gater_term::expand(payload, &self.atoms, self.max_message, &mut self.expanded)?;
        let payload = self.expanded.split().freeze();
        self.keep_little(payload.len());
        let len = self.scanner.scan(&payload, 0).map_err(|error| {
            let node = self.peer.as_str().as_bytes();
            ProtocolError::Term(error).sent_by(Some(&RawPid { node, ..sender }))
        })?;
        if len != payload.len() {
            return Err(ProtocolError::Control);
        }
        if let Some(text) = gen_server::atom(&name) {
            let from = Some(RawPid { node: self.peer.as_str().as_bytes(), ..sender });
            let to = Process::Name { raw: &name, text };
            if !sink.process(&Control::Send { from, to }, &payload) {
                self.to_name(text, payload, sink);
            }
        }
        Ok(())
    }

    fn keep_little(&mut self, used: usize) {
        if used > KEPT_BYTES {
            self.expanded = BytesMut::new();
        }
    }

    /// Returns the control message and the payload with their atoms written out.
    fn expand(&mut self, data: &[u8]) -> Result<Bytes, ProtocolError> {
        self.expanded.clear();
        self.expanded.reserve(data.len() + ROOM_FOR_ATOMS);
        // Each of the two parts may be as long as the limit.
        let limit = self.max_message.saturating_mul(2);
        let control = gater_term::expand(data, &self.atoms, limit, &mut self.expanded)?;
        if let Some(payload) = data.get(control..).filter(|rest| !rest.is_empty()) {
            gater_term::expand(payload, &self.atoms, limit, &mut self.expanded)?;
        }
        let expanded = self.expanded.split().freeze();
        self.keep_little(expanded.len());
        Ok(expanded)
    }

    /// Returns the valid term at the start of `data`, and the bytes after it.
    fn split<'a>(&mut self, data: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ProtocolError> {
        let len = self.scanner.scan(data, 0).map_err(ProtocolError::Term)?;
        data.split_at_checked(len).ok_or(ProtocolError::Control)
    }

    fn is_ours(&self, pid: &RawPid<'_>) -> bool {
        pid.node == self.ours.as_str().as_bytes()
    }

    /// Returns whether the pid belongs to this incarnation of this node and was handed out. Pids of
    /// earlier incarnations arrive for as long as a peer remembers them.
    fn is_alive(&self, pid: &RawPid<'_>, sink: &mut impl Sink) -> bool {
        self.is_ours(pid) && pid.creation == self.our_creation && sink.lives(pid.id, pid.serial)
    }

    fn is_of_peer(&self, pid: &RawPid<'_>) -> bool {
        pid.node == self.peer.as_str().as_bytes() && pid.creation == self.peer_creation
    }

    fn to_pid(&self, to: RawPid<'_>, payload: Bytes, sink: &mut impl Sink) {
        if self.is_alive(&to, sink) {
            let RawPid { id, serial, creation, .. } = to;
            let to = Pid { node: self.ours.clone(), id, serial, creation };
            sink.message(Target::Pid(to), payload);
        }
    }

    fn to_name(&self, text: &[u8], payload: Bytes, sink: &mut impl Sink) {
        let Ok(name) = std::str::from_utf8(text) else { return };
        if name == NET_KERNEL {
            match gen_server::parse(&payload) {
                Request::Call { from, request } => {
                    sink.reply(&from, Bytes::from_static(net_kernel(&request)));
                }
                Request::System { from, request } => {
                    sink.reply(&from, gen_server::system_refused(&request).into());
                }
                Request::Cast(_) | Request::Other(_) => {}
            }
        } else if sink.knows(name) {
            sink.message(Target::Name(name), payload);
        }
    }
}

/// Returns the name and the payload of `{6, Pid, '', Name}` as a BEAM sends it, with all atoms as
/// references. Nearly all messages have this control message.
fn cached_send<'a>(data: &'a [u8], atoms: &[Encoded]) -> Option<CachedSend<'a>> {
    // A pid consists of its tag, its node and twelve bytes.
    let (control, payload) = data.split_first_chunk::<23>()?;
    let &[104, 4, 97, 6, 88, 82, node, ref numbers @ .., 82, unused, 82, name] = control else {
        return None;
    };
    let known = |at: u8| atoms.get(usize::from(at));
    known(node)?;
    known(unused)?;
    let number = |at: usize| {
        let bytes = numbers.get(at..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    };
    let raw = control.get(4..19)?;
    let sender =
        RawPid { raw, node: &[], id: number(0)?, serial: number(4)?, creation: number(8)? };
    let send = CachedSend { name: known(name)?.clone(), sender, payload };
    Some(send).filter(|send| !send.payload.is_empty())
}

/// A message to a name; see [`cached_send`].
struct CachedSend<'a> {
    name: Encoded,
    /// The sender. Its node, which is not written out, is the peer.
    sender: RawPid<'a>,
    payload: &'a [u8],
}

fn known(text: &[u8], sink: &mut impl Sink) -> bool {
    std::str::from_utf8(text).is_ok_and(|name| name == NET_KERNEL || sink.knows(name))
}

/// Returns the answer to a request of `net_kernel`. `{is_auth, Node}` is `net_adm:ping`; any answer
/// but `yes` would make the BEAM drop the connection.
fn net_kernel(request: &[u8]) -> &'static [u8] {
    if request.starts_with(b"\x68\x02\x77\x07is_auth")
        || request.starts_with(b"\x68\x02\x64\x00\x07is_auth")
        || request.starts_with(b"\x68\x02\x73\x07is_auth")
    {
        b"\x77\x03yes"
    } else {
        b"\x68\x02\x77\x05error\x77\x0funknown_request"
    }
}

fn unversioned(data: &[u8]) -> Result<&[u8], ProtocolError> {
    match data {
        [131, rest @ ..] => Ok(rest),
        _ => Err(ProtocolError::FrameType),
    }
}

/// Reads a reference. Returns `None` if it has too many words, or a node in Latin-1 that is not
/// ASCII.
pub(crate) fn reference(term: &[u8]) -> Option<Reference> {
    gen_server::read_reference(term)
}

#[cfg(test)]
mod tests;
