//! The control messages and frames that this node sends.

use bytes::{BufMut, Bytes};
use gater_term::{Atom, Pid, tag};

use super::flags::{self, Watch};
use crate::{LocalPid, Payload, Peer};

/// The atom `''`, for unused elements.
pub(super) const UNUSED: [u8; 2] = [119, 0];
/// The atom `noproc`.
pub const NOPROC: [u8; 8] = *b"\x77\x06noproc";
/// The atom `undefined`, the only atom under which `register/2` registers no process.
const UNDEFINED: [u8; 11] = *b"\x77\x09undefined";
/// A bit that is set in the numbers of probes and never reached by monitors of processes.
const PROBE: u64 = 1 << 63;
/// The number of a probe for whose answer no window waits; see [`Format::liveness_probe`].
const LIVENESS: u64 = 1 << 62;
const NOTSUP: [u8; 8] = *b"\x77\x06notsup";

/// A control message with its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signal {
    /// The control tuple, encoded.
    pub control: Bytes,
    /// The payload, or an empty one if the control message has none.
    pub payload: Payload,
}

/// The negotiated properties of a connection that determine the form of signals and frames.
#[derive(Debug, Clone)]
pub struct Format {
    /// Whether frames have a distribution header.
    pub header: bool,
    /// Whether long messages are fragmented.
    pub fragments: bool,
    /// Whether atoms may be references to the cache.
    pub atom_cache: bool,
    /// The node at the other end.
    pub peer: Atom,
    /// This node.
    pub ours: Atom,
    /// The atom `alias`.
    pub alias: Atom,
    /// Whether exit reasons are in the payload.
    pub exit_payload: bool,
    /// The way in which the end of the peer's processes is detected.
    pub watch: Watch,
    send_prefix: Box<[u8]>,
    payload_prefix: &'static [u8],
    /// The encoded pid of this node in signals that need one.
    our_pid: Box<[u8]>,
    /// The numbers of this pid.
    pub(super) our_local: LocalPid,
    /// The node and the creation of this node, as the end of an encoded reference.
    our_reference: Box<[u8]>,
}

/// Writes an atom of at most 255 characters.
pub fn put_atom(out: &mut impl BufMut, text: &str) {
    if let Ok(len) = u8::try_from(text.len()) {
        out.put_u8(119);
        out.put_u8(len);
    } else {
        out.put_u8(118);
        out.put_u16(text.len() as u16);
    }
    out.put_slice(text.as_bytes());
}

/// Writes a pid.
pub fn put_pid(out: &mut impl BufMut, node: &Atom, pid: LocalPid) {
    out.put_u8(tag::NEW_PID);
    put_atom(out, node.as_str());
    put_numbers(out, pid);
}

/// Writes the numbers of a pid.
pub fn put_numbers(out: &mut impl BufMut, pid: LocalPid) {
    out.put_u32(pid.id);
    out.put_u32(pid.serial);
    out.put_u32(pid.creation);
}

/// Returns an encoded integer of eight bytes.
fn small_big(number: u64) -> Vec<u8> {
    let mut out = vec![tag::SMALL_BIG, 8, 0];
    out.extend(number.to_le_bytes());
    out
}

fn tuple(op: u8, elements: &[&[u8]]) -> Vec<u8> {
    let len = 4 + elements.iter().map(|e| e.len()).sum::<usize>();
    let mut out = Vec::with_capacity(len);
    out.extend([tag::SMALL_TUPLE, 1 + elements.len() as u8, tag::SMALL_INTEGER, op]);
    for element in elements {
        out.extend_from_slice(element);
    }
    out
}

impl Format {
    /// Returns the format for a connection between the node of `our_pid` and `peer`, according to
    /// the flags that both offer.
    pub fn new(our_pid: &Pid, peer: &Peer) -> Self {
        let header = flags::header(peer.flags);
        let mut send_prefix = if header { vec![131, 68, 0] } else { vec![112, 131] };
        send_prefix.extend([tag::SMALL_TUPLE, 3, tag::SMALL_INTEGER, 2]);
        send_prefix.extend(UNUSED);
        send_prefix.push(tag::NEW_PID);
        put_atom(&mut send_prefix, peer.name.as_str());
        let local = LocalPid::from(our_pid);
        let (mut encoded, mut reference) = (Vec::new(), Vec::new());
        put_pid(&mut encoded, &our_pid.node, local);
        put_atom(&mut reference, our_pid.node.as_str());
        reference.put_u32(our_pid.creation);
        Self {
            header,
            fragments: peer.flags & flags::FRAGMENTS != 0,
            atom_cache: flags::atom_cache(peer.flags),
            peer: peer.name.clone(),
            ours: our_pid.node.clone(),
            alias: Atom::alias(),
            exit_payload: peer.flags & flags::EXIT_PAYLOAD != 0,
            watch: flags::watch(peer.flags),
            send_prefix: send_prefix.into(),
            payload_prefix: if header { &[] } else { &[131] },
            our_pid: encoded.into(),
            our_local: local,
            our_reference: reference.into(),
        }
    }

    /// Returns the start of the frame of a message to a pid of the peer, from the first byte of the
    /// body up to the node in the pid.
    pub fn send_prefix(&self) -> &[u8] {
        &self.send_prefix
    }

    /// Returns the start of the body of a frame without references to atoms, up to its control
    /// message.
    pub fn frame_start(&self) -> &'static [u8] {
        if self.header { &[131, 68, 0] } else { &[112, 131] }
    }

    /// Returns the bytes between the control message and the payload.
    pub fn payload_prefix(&self) -> &'static [u8] {
        self.payload_prefix
    }

    /// Returns the length of the frame of a signal.
    pub fn signal_len(&self, control: usize, payload: usize) -> usize {
        let prefix = if payload == 0 { 0 } else { self.payload_prefix.len() };
        4 + self.frame_start().len() + control + prefix + payload
    }

    /// Writes the frame of a signal up to its payload, which has `payload` bytes (0 if there is
    /// none).
    pub fn put_signal(&self, out: &mut impl BufMut, control: &[u8], payload: usize) {
        out.put_u32((self.signal_len(control.len(), payload) - 4) as u32);
        out.put_slice(self.frame_start());
        out.put_slice(control);
        if payload > 0 {
            out.put_slice(self.payload_prefix);
        }
    }

    /// Returns the control message of a message to a registered name.
    pub fn send_name(&self, name: &str) -> Bytes {
        let mut atom = Vec::with_capacity(name.len() + 3);
        put_atom(&mut atom, name);
        tuple(6, &[&self.our_pid, &UNUSED, &atom]).into()
    }

    /// Returns the encoded reference of this node's monitor `number`.
    pub fn monitor_reference(&self, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(15 + self.our_reference.len());
        out.push(tag::NEWER_REFERENCE);
        out.put_u16(3);
        out.put_slice(&self.our_reference);
        // The first word of a reference has 18 bits.
        out.put_u32((number & 0x3_ffff) as u32);
        out.put_u32((number >> 18) as u32);
        out.put_u32((number >> 50) as u32);
        out
    }

    /// Returns the signal that begins or ends monitoring a process of the peer, by the monitor
    /// `number` (ops 19 and 20) or by a link (ops 1 and 35). It must not be called where only the
    /// end of the connection is detected.
    pub fn monitor(&self, begin: bool, process: LocalPid, number: u64) -> Signal {
        let mut pid = Vec::with_capacity(64);
        pid.push(tag::NEW_PID);
        put_atom(&mut pid, self.peer.as_str());
        put_numbers(&mut pid, process);
        let control = match (self.watch, begin) {
            (Watch::Link, true) => tuple(1, &[&self.our_pid, &pid]),
            // Unlink ids have 64 bits and must not be 0; numbers of monitors never are.
            (Watch::Link, false) => tuple(35, &[&small_big(number), &self.our_pid, &pid]),
            (_, true) => tuple(19, &[&self.our_pid, &pid, &self.monitor_reference(number)]),
            (_, false) => tuple(20, &[&self.our_pid, &pid, &self.monitor_reference(number)]),
        };
        Signal { control: control.into(), payload: Payload::default() }
    }

    /// Returns a probe for which no window waits. Its answer shows that a silent peer is alive.
    pub fn liveness_probe(&self) -> Signal {
        self.probe(LIVENESS)
    }

    /// Returns a probe: a monitor of a name that no process can have. Its answer shows that the
    /// peer has read everything before it.
    pub fn probe(&self, number: u64) -> Signal {
        let reference = self.monitor_reference(PROBE | number);
        let control = tuple(19, &[&self.our_pid, &UNDEFINED, &reference]);
        Signal { control: control.into(), payload: Payload::default() }
    }

    /// Returns whether `reference` is the encoded reference of the probe `number`.
    pub fn is_probe(&self, number: u64, reference: &[u8]) -> bool {
        self.monitor_reference(PROBE | number) == reference
    }

    /// Returns the signal that tells a monitoring process that the process does not exist. All
    /// arguments are encoded.
    pub fn monitor_noproc(&self, from: &[u8], to: &[u8], reference: &[u8]) -> Signal {
        if self.exit_payload {
            let control = tuple(28, &[from, to, reference]).into();
            Signal { control, payload: Bytes::from_static(&NOPROC).into() }
        } else {
            let control = tuple(21, &[from, to, reference, &NOPROC]).into();
            Signal { control, payload: Payload::default() }
        }
    }

    /// Returns the signal that tells a linking process that the process does not exist. All
    /// arguments are encoded.
    pub fn link_noproc(&self, from: &[u8], to: &[u8]) -> Signal {
        if self.exit_payload {
            let control = tuple(24, &[from, to]).into();
            Signal { control, payload: Bytes::from_static(&NOPROC).into() }
        } else {
            let control = tuple(3, &[from, to, &NOPROC]).into();
            Signal { control, payload: Payload::default() }
        }
    }

    /// Returns the acknowledgement of the removal of a link. All arguments are encoded.
    pub fn unlink_ack(&self, id: &[u8], from: &[u8], to: &[u8]) -> Signal {
        Signal { control: tuple(36, &[id, from, to]).into(), payload: Payload::default() }
    }

    /// Returns the refusal to spawn a process. All arguments are encoded.
    pub fn spawn_refused(&self, request: &[u8], to: &[u8]) -> Signal {
        let control = tuple(31, &[request, to, &[tag::SMALL_INTEGER, 0], &NOTSUP]);
        Signal { control: control.into(), payload: Payload::default() }
    }
}
