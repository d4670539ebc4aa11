//! The control messages of processes, and the messages of `gen_server`.
//!
//! Source: "Protocol between Connected Nodes", ERTS User's Guide.

use bytes::Bytes;
use gater_term::{Pid, Reference, Term, encode};

use super::Target;
use crate::protocol::encode::Signal;

fn control(op: i64, arity: u32, rest: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(128);
    encode::tuple(&mut out, arity);
    encode::int(&mut out, op);
    rest(&mut out);
    out.into()
}

fn bare(control: Bytes) -> Signal {
    Signal { control, payload: crate::Payload::default() }
}

/// Writes the encoded pid or name of `target`.
pub fn put_target(out: &mut Vec<u8>, target: &Target) {
    match target {
        Target::Pid(pid) => encode::pid(out, pid),
        Target::Name { name, .. } => encode::atom(out, name.as_str()),
    }
}

/// Returns a message from `from`, with its sender if the peer accepts it (ops 2, 6 and 22).
pub fn send(from: &Pid, with_sender: bool, to: &Target, payload: Vec<u8>) -> Signal {
    let control = match to {
        Target::Pid(pid) => control(if with_sender { 22 } else { 2 }, 3, |out| {
            if with_sender {
                encode::pid(out, from)
            } else {
                encode::atom(out, "")
            }
            encode::pid(out, pid);
        }),
        Target::Name { name, .. } => control(6, 4, |out| {
            encode::pid(out, from);
            encode::atom(out, "");
            encode::atom(out, name.as_str());
        }),
    };
    Signal { control, payload: payload.into() }
}

/// Returns the signal that links `from` and `to` (op 1).
pub fn link(from: &Pid, to: &Pid) -> Signal {
    bare(control(1, 3, |out| {
        encode::pid(out, from);
        encode::pid(out, to);
    }))
}

/// Returns the signal that removes a link; `id` must not be 0 (op 35).
pub fn unlink(id: u64, from: &Pid, to: &Pid) -> Signal {
    bare(control(35, 4, |out| {
        encode::uint(out, id);
        encode::pid(out, from);
        encode::pid(out, to);
    }))
}

/// Returns the signal that begins a monitor (op 19) or ends one (op 20).
pub fn monitor(begin: bool, from: &Pid, to: &Target, reference: &Reference) -> Signal {
    bare(control(if begin { 19 } else { 20 }, 4, |out| {
        encode::pid(out, from);
        put_target(out, to);
        encode::reference(out, reference);
    }))
}

/// Returns the signal that tells a linked process that `from` has ended (ops 24 and 3).
pub fn exit(in_payload: bool, from: &Pid, to: &Pid, reason: &Bytes) -> Signal {
    let pids = |out: &mut Vec<u8>| {
        encode::pid(out, from);
        encode::pid(out, to);
    };
    if in_payload {
        return Signal { control: control(24, 3, pids), payload: reason.clone().into() };
    }
    bare(control(3, 4, |out| {
        pids(out);
        out.extend_from_slice(reason);
    }))
}

/// Returns the signal that tells the monitoring process `to` that the process `of`, encoded as it
/// was monitored, has ended (ops 28 and 21).
pub fn monitor_exit(
    in_payload: bool,
    of: &[u8],
    to: &Pid,
    reference: &Reference,
    reason: &Bytes,
) -> Signal {
    let head = |out: &mut Vec<u8>| {
        out.extend_from_slice(of);
        encode::pid(out, to);
        encode::reference(out, reference);
    };
    if in_payload {
        return Signal { control: control(28, 4, head), payload: reason.clone().into() };
    }
    bare(control(21, 5, |out| {
        head(out);
        out.extend_from_slice(reason);
    }))
}

/// Returns `{'$gen_call', {Pid, [alias|Ref]}, Request}`.
pub fn gen_call(caller: &Pid, alias: &Reference, request: &Term) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode::tuple(&mut out, 3);
    encode::atom(&mut out, "$gen_call");
    encode::tuple(&mut out, 2);
    encode::pid(&mut out, caller);
    encode::list(&mut out, 1);
    encode::atom(&mut out, "alias");
    encode::reference(&mut out, alias);
    request.encode(&mut out);
    out
}

/// Returns `{'$gen_cast', Message}`.
pub fn gen_cast(message: &Term) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode::tuple(&mut out, 2);
    encode::atom(&mut out, "$gen_cast");
    message.encode(&mut out);
    out
}
