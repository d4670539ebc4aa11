//! The answer to a call, as it is sent to the caller.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use gater_term::{Atom, Reference, tag};

use super::encode::{Format, UNUSED, put_atom, put_numbers};
use crate::gen_server::{From, Tag};
use crate::{LocalPid, SharedTerm};

/// The approximate number of bytes of an answer besides the reply and a tag that is not an alias.
const HEAD_BYTES: usize = 128;
const SEND: u8 = 2;
const ALIAS_SEND: u8 = 33;

/// An answer: `{Tag, Reply}` for a caller.
#[derive(Debug)]
pub struct Answer {
    /// The caller to which the answer is sent.
    pub from: From,
    /// The reply.
    pub reply: Reply,
}

/// The reply to a call.
#[derive(Debug)]
pub enum Reply {
    /// An encoded term for this caller alone.
    Own(Bytes),
    /// An encoded term that other callers receive as well.
    Shared(Arc<SharedTerm>),
}

impl Answer {
    /// Returns the approximate number of bytes that are sent.
    pub fn bytes(&self) -> usize {
        let tag = match &self.from.tag {
            Tag::Alias(_) => 0,
            Tag::Other { term, .. } => term.len(),
        };
        HEAD_BYTES + tag + self.reply.bytes()
    }
}

impl Reply {
    /// The bytes of the term.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Own(reply) => reply.len(),
            Self::Shared(reply) => reply.len(),
        }
    }
}

/// The places of the atoms of an answer in the atom list of a frame, in which the node of the peer
/// comes first.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// The place of the name of this node.
    pub own: u8,
    /// The place of the atom `alias`.
    pub alias: u8,
}

impl Format {
    /// Writes the control message of an answer, and its payload up to the reply. The atoms are
    /// written as references if their `places` are known.
    pub fn put_answer(&self, out: &mut Vec<u8>, from: &From, places: Option<Places>) {
        match from.tag.alias() {
            Some(alias) => {
                out.extend([tag::SMALL_TUPLE, 3, tag::SMALL_INTEGER, ALIAS_SEND]);
                out.push(tag::NEW_PID);
                put_place(out, &self.ours, places.map(|places| places.own));
                put_numbers(out, self.our_local);
                self.put_reference(out, alias, places);
            }
            None => {
                out.extend([tag::SMALL_TUPLE, 3, tag::SMALL_INTEGER, SEND]);
                out.extend(UNUSED);
                out.push(tag::NEW_PID);
                self.put_node(out, &from.pid.node, places);
                put_numbers(out, LocalPid::from(&from.pid));
            }
        }
        out.extend_from_slice(self.payload_prefix());
        out.extend([tag::SMALL_TUPLE, 2]);
        match &from.tag {
            Tag::Alias(alias) => {
                out.extend([tag::LIST, 0, 0, 0, 1]);
                put_place(out, &self.alias, places.map(|places| places.alias));
                self.put_reference(out, alias, places);
            }
            Tag::Other { term, .. } => out.extend_from_slice(term),
        }
    }

    fn put_reference(&self, out: &mut Vec<u8>, reference: &Reference, places: Option<Places>) {
        out.push(tag::NEWER_REFERENCE);
        out.put_u16(reference.words().len() as u16);
        self.put_node(out, reference.node(), places);
        out.put_u32(reference.creation());
        for word in reference.words() {
            out.put_u32(*word);
        }
    }

    /// Writes the name of a node, which usually is the peer.
    fn put_node(&self, out: &mut Vec<u8>, node: &Atom, places: Option<Places>) {
        put_place(out, node, places.filter(|_| *node == self.peer).map(|_| 0));
    }
}

fn put_place(out: &mut Vec<u8>, atom: &Atom, place: Option<u8>) {
    match place {
        Some(place) => out.extend([tag::ATOM_CACHE_REF, place]),
        None => put_atom(out, atom.as_str()),
    }
}
