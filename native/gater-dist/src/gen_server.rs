//! The messages of `gen_server:call` and `gen_server:cast`.
//!
//! The shapes are those of OTP's `gen.erl`: `{'$gen_call', {Pid, Tag}, Request}`, where Tag is
//! `[alias|Ref]`, `[[alias|Ref]|_]` or any other term, and `{'$gen_cast', Message}`.

use bytes::Bytes;
use gater_term::{Atom, Pid, Reader, Reference, encode};

use crate::Payload;

/// A message to a registered name, classified as a `gen_server` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A call, `{'$gen_call', From, Request}`, to be answered with
    /// [`Connection::reply`](crate::Connection::reply).
    Call {
        /// The caller, to which the answer is sent.
        from: From,
        /// The request term.
        request: Bytes,
    },
    /// A cast, `{'$gen_cast', Message}`.
    Cast(Bytes),
    /// A system message, `{system, From, Request}`, which the functions of `sys` and
    /// `gen_server:stop` send. It is to be answered as a call is; see [`system_refused`].
    System {
        /// The caller, to which the answer is sent.
        from: From,
        /// The request term.
        request: Bytes,
    },
    /// Any other message.
    Other(Bytes),
}

/// The caller of a [`Request::Call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The calling process.
    pub pid: Pid,
    /// The tag by which the process knows which of its calls is answered.
    pub tag: Tag,
}

/// The tag of a call, which the answer repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// `[alias|Ref]`, as `gen_server:call` makes it. The answer is sent to the alias.
    Alias(Reference),
    /// Any other term.
    Other {
        /// The encoded term.
        term: Bytes,
        /// The alias to which the answer is sent, if the tag names one.
        alias: Option<Reference>,
    },
}

impl Tag {
    fn parse(tag: &[u8]) -> Self {
        if let Some(reference) = alias(tag) {
            return Self::Alias(reference);
        }
        let nested = tag.strip_prefix(ONE_ELEMENT).and_then(alias);
        Self::Other { term: Bytes::copy_from_slice(tag), alias: nested }
    }

    /// Returns the alias to which the answer is sent, if the tag names one.
    pub fn alias(&self) -> Option<&Reference> {
        match self {
            Self::Alias(reference) => Some(reference),
            Self::Other { alias, .. } => alias.as_ref(),
        }
    }
}

/// The greatest length of a tag in bytes. A tag is kept with every waiting call and repeated in the
/// answer.
const MAX_TAG_BYTES: usize = 1024;

/// The label of a call.
const CALL: &[u8] = b"$gen_call";
/// The label of a request that every OTP process understands.
const SYSTEM: &[u8] = b"system";

/// Returns the answer to a [`Request::System`] of a node whose registered names are not processes
/// that could be inspected, suspended or stopped: `{error, {unknown_system_msg, Request}}`, as OTP
/// answers. The caller of `sys:get_state/1` or `gen_server:stop/1` fails with this reason.
pub fn system_refused(request: &[u8]) -> Vec<u8> {
    const REPEATED_UP_TO_BYTES: usize = 1024;
    let mut out = Vec::with_capacity(64);
    encode::tuple(&mut out, 2);
    encode::atom(&mut out, "error");
    encode::tuple(&mut out, 2);
    encode::atom(&mut out, "unknown_system_msg");
    if request.len() <= REPEATED_UP_TO_BYTES {
        out.extend_from_slice(request);
    } else {
        encode::atom(&mut out, "too_long");
    }
    out
}

/// The encoded start of a list with one element.
const ONE_ELEMENT: &[u8] = &[108, 0, 0, 0, 1];

/// Returns `{'$gen_call', {Pid, Tag}, Request}`, a call to be sent to a name. `tag` and `request`
/// each write one term. The answer, `{Tag, Reply}`, is sent to `pid`.
pub fn call(
    pid: &Pid,
    tag: impl FnOnce(&mut Vec<u8>),
    request: impl FnOnce(&mut Vec<u8>),
) -> Payload {
    let mut out = Vec::with_capacity(128);
    encode::tuple(&mut out, 3);
    encode::atom(&mut out, "$gen_call");
    encode::tuple(&mut out, 2);
    encode::pid(&mut out, pid);
    tag(&mut out);
    request(&mut out);
    Payload::from(out)
}

/// Classifies `payload`, a valid term, as a call, a cast or another message. Requests are slices of
/// `payload`; the tag of a caller is a copy. A call with a tag of more than 1,024 bytes is not
/// treated as a call.
pub fn parse(payload: &Bytes) -> Request {
    sort(payload).unwrap_or_else(|| Request::Other(payload.clone()))
}

fn sort(payload: &Bytes) -> Option<Request> {
    match payload.get(..2)? {
        [104, 2] => {
            let message = atom_is(payload.get(2..)?, "$gen_cast")?;
            Some(Request::Cast(payload.slice_ref(message)))
        }
        [104, 3] => {
            let (label, rest) = read_atom(payload.get(2..)?)?;
            if !matches!(label, CALL | SYSTEM) {
                return None;
            }
            let (pid, rest) = read_pid(rest.strip_prefix(&[104, 2])?)?;
            let mut reader = Reader::new(rest);
            let tag = reader.skip().ok().filter(|tag| tag.len() <= MAX_TAG_BYTES)?;
            let request = payload.slice_ref(reader.rest());
            let from = From { pid, tag: Tag::parse(tag) };
            Some(match label {
                SYSTEM => Request::System { from, request },
                _ => Request::Call { from, request },
            })
        }
        _ => None,
    }
}

/// Returns the bytes after the atom `text` if `term` starts with it.
fn atom_is<'a>(term: &'a [u8], text: &str) -> Option<&'a [u8]> {
    let (found, rest) = read_atom(term)?;
    (found == text.as_bytes()).then_some(rest)
}

/// Returns the text of an encoded atom.
pub(crate) fn atom(term: &[u8]) -> Option<&[u8]> {
    Some(read_atom(term)?.0)
}

fn read_atom(term: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, rest) = term.split_first()?;
    match tag {
        119 | 115 => {
            let (len, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(*len))
        }
        118 | 100 => {
            let (len, rest) = rest.split_first_chunk()?;
            rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
        }
        _ => None,
    }
}

fn read_u32(input: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = input.split_first_chunk()?;
    Some((u32::from_be_bytes(*head), rest))
}

fn node(text: &[u8]) -> Option<Atom> {
    Atom::new(std::str::from_utf8(text).ok()?).ok()
}

fn read_pid(term: &[u8]) -> Option<(Pid, &[u8])> {
    let (tag, rest) = term.split_first()?;
    let (text, rest) = read_atom(rest)?;
    let (id, rest) = read_u32(rest)?;
    let (serial, rest) = read_u32(rest)?;
    let (creation, rest) = match tag {
        88 => read_u32(rest)?,
        103 => rest.split_first().map(|(creation, rest)| (u32::from(*creation), rest))?,
        _ => return None,
    };
    Some((Pid { node: node(text)?, id, serial, creation }, rest))
}

pub(crate) fn read_reference(term: &[u8]) -> Option<Reference> {
    let (tag, rest) = term.split_first()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (text, rest) = read_atom(rest)?;
    let (creation, rest) = match tag {
        90 => read_u32(rest)?,
        114 => rest.split_first().map(|(creation, rest)| (u32::from(*creation), rest))?,
        _ => return None,
    };
    let count = usize::from(u16::from_be_bytes(*count));
    if count > Reference::MAX_WORDS {
        return None;
    }
    let mut words = [0; Reference::MAX_WORDS];
    let mut rest = rest;
    for word in words.iter_mut().take(count) {
        (*word, rest) = read_u32(rest)?;
    }
    Reference::new(node(text)?, creation, words.get(..count)?)
}

/// Returns the reference in `[alias|Ref]`.
fn alias(tag: &[u8]) -> Option<Reference> {
    read_reference(atom_is(tag.strip_prefix(ONE_ELEMENT)?, "alias")?)
}
