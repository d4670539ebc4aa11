//! A message body that is shared by all connections on which it is sent.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use gater_term::{Atom, ScanError, Scanner, encode, tag};

/// The length up to which bodies are copied when a payload is made, in bytes. A longer body shares
/// the buffer from which it was read and keeps the whole buffer, which is at most about four times
/// as long; see [`part_of`].
const COPY_BELOW: usize = 32 << 10;

/// The start of a term that many messages share: a tuple and its first elements, which are atoms.
/// On connections with an atom cache the atoms are sent as references.
#[derive(Debug, PartialEq, Eq)]
pub struct Prefix {
    atoms: Vec<Atom>,
    plain: Bytes,
    /// The start with references to the atoms by their places in the list of the frame, in which
    /// the node of the receiver is the first.
    cached: Bytes,
}

impl Prefix {
    /// Returns a prefix for a tuple of `arity` elements that begins with `atoms`.
    pub fn tuple(arity: u8, atoms: &[Atom]) -> Self {
        let (mut plain, mut cached) = (Vec::new(), Vec::new());
        encode::tuple(&mut plain, arity.into());
        encode::tuple(&mut cached, arity.into());
        for (atom, place) in atoms.iter().zip(1_u8..) {
            encode::atom(&mut plain, atom.as_str());
            cached.extend([tag::ATOM_CACHE_REF, place]);
        }
        Self { atoms: atoms.to_vec(), plain: plain.into(), cached: cached.into() }
    }

    /// Returns the atoms in their order.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }
}

/// One encoded term, without the version byte, in up to three parts: a prefix that many messages
/// share, a part that the sender encoded itself, and a part that it only passes on.
///
/// Clones share all parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    prefix: Option<Arc<Prefix>>,
    head: Bytes,
    body: Bytes,
}

/// A message that is written into frames at once where possible, and becomes a [`Payload`] only if
/// it has to wait in a queue.
#[derive(Debug)]
pub struct Draft<'a> {
    prefix: &'a Arc<Prefix>,
    body: &'a Bytes,
    payload: OnceCell<Payload>,
}

impl<'a> Draft<'a> {
    /// Returns a draft of `prefix` and `body`, which together are one term. `body` may be a slice
    /// of a received message.
    pub fn new(prefix: &'a Arc<Prefix>, body: &'a Bytes) -> Self {
        Self { prefix, body, payload: OnceCell::new() }
    }

    /// Returns the payload, which the first call makes.
    pub fn payload(&self) -> &Payload {
        self.payload.get_or_init(|| Payload::new(self.prefix, [], self.body.clone()))
    }

    /// Returns the length in bytes with the atoms written out.
    pub(crate) fn len(&self) -> usize {
        self.prefix.plain.len() + self.body.len()
    }

    pub(crate) fn prefix(&self) -> &'a Arc<Prefix> {
        self.prefix
    }

    /// Returns the prefix and the body. With `cached`, the atoms of the prefix are references.
    pub(crate) fn parts(&self, cached: bool) -> (&'a Bytes, &'a Bytes) {
        (if cached { &self.prefix.cached } else { &self.prefix.plain }, self.body)
    }
}

static NOTHING: Bytes = Bytes::new();

/// Returns a `part` of `whole` that may be kept: a slice, or a copy where a slice would keep much
/// more than the part.
pub(crate) fn part_of(whole: &Bytes, part: &[u8]) -> Bytes {
    // A short part is copied by whoever keeps it.
    if part.len() > COPY_BELOW && part.len() < whole.len() / 2 {
        Bytes::copy_from_slice(part)
    } else {
        whole.slice_ref(part)
    }
}

impl Payload {
    /// Returns a payload of `prefix`, `head` and `body`, which together are one term.
    ///
    /// `body` may be a slice of a received message. A long body is shared and a short one is
    /// copied.
    pub fn new(prefix: &Arc<Prefix>, head: impl AsRef<[u8]>, body: Bytes) -> Self {
        let (prefix, head) = (Some(prefix.clone()), head.as_ref());
        if body.len() > COPY_BELOW {
            return Self { prefix, head: Bytes::copy_from_slice(head), body };
        }
        let mut whole = BytesMut::with_capacity(head.len() + body.len());
        whole.put_slice(head);
        whole.put_slice(&body);
        Self { prefix, head: whole.freeze(), body: Bytes::new() }
    }

    /// Returns a payload of `term`, or an error unless it is exactly one term that every node
    /// decodes. The conversions from bytes check nothing: a payload that is not a term makes a BEAM
    /// close the connection.
    pub fn checked(term: Bytes) -> Result<Self, ScanError> {
        let length = Scanner::default().scan(&term, 0)?;
        if length < term.len() {
            return Err(ScanError::Malformed("payload: something follows the term"));
        }
        Ok(term.into())
    }

    /// Returns the length in bytes with the atoms written out.
    pub fn len(&self) -> usize {
        self.wire_len(false)
    }

    /// Returns the whole term in one piece with the atoms written out.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts(false).map(|part| &part[..]).concat()
    }

    /// Returns whether the payload is empty, in which case it is not a term.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the prefix, if the payload has one.
    pub(crate) fn prefix(&self) -> Option<&Arc<Prefix>> {
        self.prefix.as_ref()
    }

    /// Returns the length in bytes. With `cached`, the atoms of the prefix are references.
    pub(crate) fn wire_len(&self, cached: bool) -> usize {
        self.parts(cached).iter().map(|part| part.len()).sum()
    }

    /// Returns the three parts in their order. A missing part is empty.
    pub(crate) fn parts(&self, cached: bool) -> [&Bytes; 3] {
        let prefix = self
            .prefix
            .as_ref()
            .map_or(&NOTHING, |prefix| if cached { &prefix.cached } else { &prefix.plain });
        [prefix, &self.head, &self.body]
    }
}

impl From<Vec<u8>> for Payload {
    fn from(term: Vec<u8>) -> Self {
        Bytes::from(term).into()
    }
}

impl From<Bytes> for Payload {
    /// Converts `term` without checking or copying it. It is meant for terms that the program
    /// encoded itself.
    fn from(term: Bytes) -> Self {
        Self { prefix: None, head: Bytes::new(), body: term }
    }
}
