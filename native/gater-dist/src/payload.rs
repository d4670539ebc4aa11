//! A message body shared by every connection it goes to.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use gater_term::{Atom, ScanError, Scanner, encode, tag};

/// Bodies up to this many bytes are copied when a payload is made. A longer one shares the
/// buffer it was read from and keeps it whole, which is at the most about four times as
/// long: see [`part_of`].
const COPY_BELOW: usize = 32 << 10;

/// The start of a term that many messages share: a tuple and its first elements,
/// which are atoms. On connections with an atom cache the atoms travel as references.
#[derive(Debug, PartialEq, Eq)]
pub struct Prefix {
    atoms: Vec<Atom>,
    plain: Bytes,
    /// Refers to the atoms by their places in the list, the node of the receiver
    /// being the first there.
    cached: Bytes,
}

impl Prefix {
    /// A tuple of `arity` elements, of which `atoms` are the first.
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

    /// The atoms, in their order.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }
}

/// One encoded term, without the version byte, in up to three parts: a prefix that
/// many messages share, what the sender encoded itself, and what it only passes on.
///
/// Cloning shares all parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    prefix: Option<Arc<Prefix>>,
    head: Bytes,
    body: Bytes,
}

/// A message that is put into frames at once where it can be, and becomes a
/// [`Payload`] only if it has to wait somewhere.
#[derive(Debug)]
pub struct Draft<'a> {
    prefix: &'a Arc<Prefix>,
    body: &'a Bytes,
    payload: OnceCell<Payload>,
}

impl<'a> Draft<'a> {
    /// Makes a draft of `prefix` and `body`, which may be a slice of a received
    /// message; together they are one term.
    pub fn new(prefix: &'a Arc<Prefix>, body: &'a Bytes) -> Self {
        Self { prefix, body, payload: OnceCell::new() }
    }

    /// The payload, made the first time it is asked for.
    pub fn payload(&self) -> &Payload {
        self.payload.get_or_init(|| Payload::new(self.prefix, [], self.body.clone()))
    }

    /// The length in bytes, atoms written out.
    pub(crate) fn len(&self) -> usize {
        self.prefix.plain.len() + self.body.len()
    }

    pub(crate) fn prefix(&self) -> &'a Arc<Prefix> {
        self.prefix
    }

    /// Prefix, its atoms as references or written out, and body.
    pub(crate) fn parts(&self, cached: bool) -> (&'a Bytes, &'a Bytes) {
        (if cached { &self.prefix.cached } else { &self.prefix.plain }, self.body)
    }
}

static NOTHING: Bytes = Bytes::new();

/// A `part` of `whole` that may be kept: a slice, unless it would keep much more than itself.
pub(crate) fn part_of(whole: &Bytes, part: &[u8]) -> Bytes {
    // What is short is copied when it is kept.
    if part.len() > COPY_BELOW && part.len() < whole.len() / 2 {
        Bytes::copy_from_slice(part)
    } else {
        whole.slice_ref(part)
    }
}

impl Payload {
    /// Makes a payload of `prefix`, `head` and `body`; together they are one term.
    ///
    /// `body` may be a slice of a received message: it is shared when it is long
    /// and copied when it is short.
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

    /// Takes `term` if it is exactly one term that every node decodes. The conversions from bytes
    /// check nothing: a payload that is no term makes a BEAM close the connection.
    pub fn checked(term: Bytes) -> Result<Self, ScanError> {
        let length = Scanner::default().scan(&term, 0)?;
        if length < term.len() {
            return Err(ScanError::Malformed("payload: something follows the term"));
        }
        Ok(term.into())
    }

    /// The length in bytes, atoms written out.
    pub fn len(&self) -> usize {
        self.wire_len(false)
    }

    /// All of it in one piece, atoms written out.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts(false).map(|part| &part[..]).concat()
    }

    /// Whether there is nothing in it, which is no term.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prefix, if it has one.
    pub(crate) fn prefix(&self) -> Option<&Arc<Prefix>> {
        self.prefix.as_ref()
    }

    /// The length with the atoms of the prefix as references or written out.
    pub(crate) fn wire_len(&self, cached: bool) -> usize {
        self.parts(cached).iter().map(|part| part.len()).sum()
    }

    /// The parts in their order, empty if they are not there.
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
    /// Takes `term` as it is, unchecked and without copying: meant for bytes of one's own.
    fn from(term: Bytes) -> Self {
        Self { prefix: None, head: Bytes::new(), body: term }
    }
}
