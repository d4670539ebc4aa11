//! An owned term, for programs that take terms apart and build them.
//!
//! A [`Term`] is valid by construction: [`Term::encode`] writes bytes that every node decodes,
//! whatever its variants hold. The gateway works on encoded terms instead, which is faster.

mod display;
mod macros;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::types::{Atom, AtomError, Pid, Reference};
use super::{Limits, ReadError, Reader, ScanError, Scanner, encode, tag};

/// The greatest depth of nested terms in a term that is decoded. It bounds the stack that
/// displaying, comparing and dropping a term takes.
pub const MAX_DECODED_DEPTH: u32 = 256;

/// An Erlang term.
///
/// The order is total, so that terms can be keys of maps. It is Erlang's order between the kinds of
/// terms; within numbers it differs from Erlang's, since 1 and 1.0 are different keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    /// An integer of 64 bits.
    Integer(i64),
    /// An integer that does not fit in 64 bits with its sign.
    BigInteger(BigInteger),
    /// A finite float.
    Float(Float),
    /// An atom.
    Atom(Atom),
    /// A reference.
    Reference(Reference),
    /// A fun, a port or a bit string, which is passed on as it came.
    Opaque(Opaque),
    /// A pid.
    Pid(Pid),
    /// A tuple.
    Tuple(Vec<Term>),
    /// A map.
    Map(BTreeMap<Term, Term>),
    /// A proper list.
    List(Vec<Term>),
    /// An improper list: its elements and a tail that is not a list.
    ImproperList(Vec<Term>, Box<Term>),
    /// A binary.
    Binary(Bytes),
}

/// A finite float. Erlang has no infinity and no NaN.
///
/// Both zeros are equal, as they are to a BEAM before OTP 27, which refuses a map with both as keys.
#[derive(Debug, Clone, Copy)]
pub struct Float(f64);

impl Float {
    /// Returns `value` as a float of Erlang, unless it is infinite or not a number.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value))
    }

    /// Returns the value.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Float {}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> Ordering {
        // The sum of both zeros is the positive one.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

/// An integer that does not fit in an `i64`, as sign and magnitude.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BigInteger {
    negative: bool,
    /// The magnitude, little-endian and without leading zeros.
    magnitude: Vec<u8>,
}

impl BigInteger {
    /// Returns the integer with this sign and magnitude, little-endian. The caller has seen that it
    /// does not fit in an `i64`.
    #[cfg(feature = "serde")]
    pub(crate) fn new(negative: bool, magnitude: &[u8]) -> Self {
        let length = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Self { negative, magnitude: magnitude.iter().take(length).copied().collect() }
    }

    /// Returns whether the integer is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Returns the bytes of the magnitude, the least significant first.
    pub fn magnitude(&self) -> &[u8] {
        &self.magnitude
    }
}

/// An encoded term that was validated and is only passed on: a fun, a port or a bit string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opaque(Bytes);

impl Opaque {
    /// Returns the encoded term, without the version byte.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The reason why bytes are not a [`Term`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No node would decode the bytes.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The reader refuses a term that the scanner accepts, which is a mistake of this crate.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Bytes follow the term.
    #[error("{0} bytes follow the term")]
    Trailing(usize),
    /// Terms are nested more than [`MAX_DECODED_DEPTH`] deep.
    #[error("terms nested more than {MAX_DECODED_DEPTH} deep")]
    TooDeep,
}

impl Term {
    /// Returns the atom `text`.
    pub fn atom(text: &str) -> Result<Self, AtomError> {
        Atom::new(text).map(Self::Atom)
    }

    /// Returns a binary of `bytes`.
    pub fn binary(bytes: impl AsRef<[u8]>) -> Self {
        Self::Binary(Bytes::copy_from_slice(bytes.as_ref()))
    }

    /// Returns the list of the Unicode code points of `text`, which is what `"text"` is in Erlang.
    pub fn charlist(text: &str) -> Self {
        Self::List(text.chars().map(|char| Self::Integer(i64::from(u32::from(char)))).collect())
    }

    /// Decodes one term without the version byte. Nothing may follow the term.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let limits = Limits { max_depth: MAX_DECODED_DEPTH, ..Limits::default() };
        let length = Scanner::new(limits).scan(bytes, 0)?;
        if length < bytes.len() {
            return Err(DecodeError::Trailing(bytes.len() - length));
        }
        read(&mut Reader::new(bytes), 0)
    }

    /// Appends the encoded term, without the version byte.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(value) => encode::int(out, *value),
            Self::BigInteger(value) => put_big(out, value),
            Self::Float(value) => encode::float(out, value.0),
            Self::Atom(atom) => encode::atom(out, atom.as_str()),
            Self::Reference(reference) => encode::reference(out, reference),
            Self::Opaque(opaque) => encode::raw(out, &opaque.0),
            Self::Pid(pid) => encode::pid(out, pid),
            Self::Tuple(elements) => {
                encode::tuple(out, elements.len() as u32);
                elements.iter().for_each(|element| element.encode(out));
            }
            Self::Map(pairs) => {
                encode::map(out, pairs.len() as u32);
                for (key, value) in pairs {
                    key.encode(out);
                    value.encode(out);
                }
            }
            Self::List(elements) => {
                encode::list(out, elements.len() as u32);
                elements.iter().for_each(|element| element.encode(out));
                encode::nil(out);
            }
            Self::ImproperList(elements, tail) => {
                encode::list(out, elements.len() as u32);
                elements.iter().for_each(|element| element.encode(out));
                tail.encode(out);
            }
            Self::Binary(bytes) => encode::binary(out, bytes),
        }
    }

    /// Returns the encoded term, without the version byte.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Returns the value of an integer of 64 bits, or `None` for any other term.
    pub fn as_integer(&self) -> Option<i64> {
        if let Self::Integer(value) = self { Some(*value) } else { None }
    }

    /// Returns the text of an atom, or `None` for any other term.
    pub fn as_atom(&self) -> Option<&str> {
        if let Self::Atom(atom) = self { Some(atom.as_str()) } else { None }
    }

    /// Returns the bytes of a binary, or `None` for any other term.
    pub fn as_binary(&self) -> Option<&[u8]> {
        if let Self::Binary(bytes) = self { Some(bytes) } else { None }
    }

    /// Returns the pid, or `None` for any other term.
    pub fn as_pid(&self) -> Option<&Pid> {
        if let Self::Pid(pid) = self { Some(pid) } else { None }
    }

    /// Returns the elements of a tuple, or `None` for any other term.
    pub fn as_tuple(&self) -> Option<&[Term]> {
        if let Self::Tuple(elements) = self { Some(elements) } else { None }
    }

    /// Returns the elements of a proper list, or `None` for any other term.
    pub fn as_list(&self) -> Option<&[Term]> {
        if let Self::List(elements) = self { Some(elements) } else { None }
    }

    /// Returns the value of `key` in a map. Returns `None` if the map lacks the key or the term is
    /// not a map.
    pub fn get(&self, key: &Term) -> Option<&Term> {
        if let Self::Map(pairs) = self { pairs.get(key) } else { None }
    }
}

fn put_big(out: &mut Vec<u8>, value: &BigInteger) {
    match u8::try_from(value.magnitude.len()) {
        Ok(length) => out.extend([tag::SMALL_BIG, length]),
        Err(_) => {
            out.push(tag::LARGE_BIG);
            out.extend((value.magnitude.len() as u32).to_be_bytes());
        }
    }
    out.push(u8::from(value.negative));
    out.extend_from_slice(&value.magnitude);
}

/// Reads a term that the scanner has accepted. The scanner has checked that all elements it claims
/// are there, so no more room is reserved than there are bytes.
fn read(reader: &mut Reader<'_>, depth: u32) -> Result<Term, DecodeError> {
    if depth > MAX_DECODED_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    let several = |reader: &mut Reader<'_>, count: u32| {
        (0..count).map(|_| read(reader, depth + 1)).collect::<Result<Vec<_>, _>>()
    };
    let term = match reader.peek_tag()? {
        tag::SMALL_INTEGER | tag::INTEGER => Term::Integer(reader.integer()?),
        tag::SMALL_BIG | tag::LARGE_BIG => match reader.integer() {
            Ok(value) => Term::Integer(value),
            Err(_) => Term::BigInteger(read_big(reader.skip()?)?),
        },
        tag::NEW_FLOAT => {
            let bytes = reader.skip()?.get(1..).and_then(|bytes| bytes.try_into().ok());
            let value = Float::new(f64::from_be_bytes(bytes.ok_or(ReadError::Truncated)?));
            Term::Float(value.ok_or(ReadError::Malformed("float"))?)
        }
        tag::SMALL_ATOM_UTF8 | tag::ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 | tag::ATOM_LATIN1 => {
            let atom = Atom::new(&reader.atom()?).map_err(|_| ReadError::Malformed("atom"))?;
            Term::Atom(atom)
        }
        tag::NEW_PID => Term::Pid(reader.pid()?),
        tag::NEWER_REFERENCE => Term::Reference(reader.reference()?),
        tag::SMALL_TUPLE | tag::LARGE_TUPLE => {
            let arity = reader.tuple()?;
            Term::Tuple(several(reader, arity)?)
        }
        tag::MAP => {
            let count = reader.map()?;
            let pair = |_| Ok((read(reader, depth + 1)?, read(reader, depth + 1)?));
            Term::Map((0..count).map(pair).collect::<Result<_, DecodeError>>()?)
        }
        tag::NIL | tag::STRING => {
            let bytes = reader.string()?;
            Term::List(bytes.iter().map(|byte| Term::Integer(i64::from(*byte))).collect())
        }
        tag::LIST => {
            let count = reader.list()?;
            let mut elements = several(reader, count)?;
            match if count == 0 { Term::List(Vec::new()) } else { read(reader, depth + 1)? } {
                Term::List(rest) => {
                    elements.extend(rest);
                    Term::List(elements)
                }
                Term::ImproperList(rest, tail) => {
                    elements.extend(rest);
                    Term::ImproperList(elements, tail)
                }
                tail => Term::ImproperList(elements, Box::new(tail)),
            }
        }
        tag::BINARY => Term::binary(reader.binary()?),
        _ => Term::Opaque(Opaque(Bytes::copy_from_slice(reader.skip()?))),
    };
    Ok(term)
}

fn read_big(term: &[u8]) -> Result<BigInteger, ReadError> {
    let head = if term.first() == Some(&tag::SMALL_BIG) { 2 } else { 5 };
    let (sign, digits) =
        term.get(head..).and_then(<[u8]>::split_first).ok_or(ReadError::Truncated)?;
    let significant = digits.iter().rposition(|digit| *digit != 0).map_or(0, |at| at + 1);
    let magnitude = digits.get(..significant).unwrap_or_default().to_vec();
    Ok(BigInteger { negative: *sign != 0, magnitude })
}

macro_rules! from_integers {
    ($($kind:ty)*) => {
        $(impl From<$kind> for Term {
            fn from(value: $kind) -> Self {
                Self::Integer(i64::from(value))
            }
        })*
    };
}

from_integers! { i8 i16 i32 i64 u8 u16 u32 }

impl From<u64> for Term {
    fn from(value: u64) -> Self {
        match i64::try_from(value) {
            Ok(value) => Self::Integer(value),
            Err(_) => Self::BigInteger(BigInteger {
                negative: false,
                magnitude: value.to_le_bytes().to_vec(),
            }),
        }
    }
}

impl From<bool> for Term {
    fn from(value: bool) -> Self {
        Self::Atom(Atom::of_bool(value))
    }
}

/// Converts a text to a binary in UTF-8, as in Elixir; see [`Term::charlist`] for a list.
impl From<&str> for Term {
    fn from(text: &str) -> Self {
        Self::binary(text)
    }
}

impl From<String> for Term {
    fn from(text: String) -> Self {
        Self::Binary(text.into())
    }
}

impl From<Bytes> for Term {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Atom> for Term {
    fn from(atom: Atom) -> Self {
        Self::Atom(atom)
    }
}

impl From<Pid> for Term {
    fn from(pid: Pid) -> Self {
        Self::Pid(pid)
    }
}

impl From<&Pid> for Term {
    fn from(pid: &Pid) -> Self {
        Self::Pid(pid.clone())
    }
}

impl From<Reference> for Term {
    fn from(reference: Reference) -> Self {
        Self::Reference(reference)
    }
}

impl<T: Into<Term>> From<Vec<T>> for Term {
    fn from(elements: Vec<T>) -> Self {
        Self::List(elements.into_iter().map(Into::into).collect())
    }
}

impl From<&Term> for Term {
    fn from(term: &Term) -> Self {
        term.clone()
    }
}

#[cfg(test)]
mod tests;
