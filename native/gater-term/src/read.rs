//! A cursor over a term that the [`Scanner`](super::Scanner) has accepted.
//!
//! On other bytes it returns errors. It never panics and never recurses.

use std::borrow::Cow;

use super::tag;
use super::types::{Atom, Pid, Reference};

/// The reason why a read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes end inside the term.
    #[error("the term is cut short")]
    Truncated,
    /// The next term is of another kind than the caller asked for.
    #[error("expected {expected}, found tag {found}")]
    Unexpected {
        /// The kind that the caller asked for.
        expected: &'static str,
        /// The tag that was found.
        found: u8,
    },
    /// An integer does not fit in 64 bits.
    #[error("the integer does not fit in 64 bits")]
    IntegerRange,
    /// The contents are not the contents of a valid term.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The tag does not exist or is not accepted.
    #[error("unknown tag {0}")]
    UnknownTag(u8),
}

/// A cursor over encoded terms (without the version byte 131).
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Returns a reader at the first byte of `terms`.
    pub fn new(terms: &'a [u8]) -> Self {
        Self { rest: terms }
    }

    /// Returns the bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the tag of the next term.
    pub fn peek_tag(&self) -> Result<u8, ReadError> {
        self.rest.first().copied().ok_or(ReadError::Truncated)
    }

    /// Passes the next term, whatever it is, and returns its bytes. The time is linear in its
    /// number of terms, and there is no recursion.
    pub fn skip(&mut self) -> Result<&'a [u8], ReadError> {
        let start = self.rest;
        let mut cursor = *self;
        let mut left: u64 = 1;
        while left > 0 {
            left = left - 1 + cursor.step()?;
        }
        *self = cursor;
        Ok(start.get(..start.len() - cursor.rest.len()).unwrap_or(start))
    }

    /// Passes the head of the next term and returns the number of terms that belong to it.
    pub(crate) fn step(&mut self) -> Result<u64, ReadError> {
        let tag = self.u8()?;
        let inner = match tag {
            tag::SMALL_INTEGER | tag::ATOM_CACHE_REF => self.pass(1),
            tag::INTEGER => self.pass(4),
            tag::NEW_FLOAT => self.pass(8),
            tag::FLOAT_TEXT => self.pass(31),
            tag::SMALL_ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 => {
                let len = self.u8()?;
                self.pass(usize::from(len))
            }
            tag::ATOM_UTF8 | tag::ATOM_LATIN1 | tag::STRING => {
                let len = self.u16()?;
                self.pass(usize::from(len))
            }
            tag::BINARY => {
                let len = self.len32()?;
                self.pass(len)
            }
            tag::BIT_BINARY => {
                let len = self.len32()?;
                self.pass(1)?;
                self.pass(len)
            }
            tag::SMALL_BIG => {
                let len = self.u8()?;
                self.pass(usize::from(len) + 1)
            }
            tag::LARGE_BIG => {
                let len = self.len32()?;
                self.pass(1)?;
                self.pass(len)
            }
            tag::NIL => Ok(()),
            tag::SMALL_TUPLE => return self.u8().map(u64::from),
            tag::LARGE_TUPLE => return self.u32().map(u64::from),
            tag::LIST => return self.u32().map(|len| u64::from(len) + 1),
            tag::MAP => return self.u32().map(|pairs| u64::from(pairs) * 2),
            tag::NEW_PID => {
                self.step()?;
                self.pass(12)
            }
            tag::NEW_PORT => {
                self.step()?;
                self.pass(8)
            }
            tag::V4_PORT => {
                self.step()?;
                self.pass(12)
            }
            tag::NEWER_REFERENCE => {
                let words = self.u16()?;
                self.step()?;
                self.pass(4 + 4 * usize::from(words))
            }
            tag::EXPORT => return Ok(3),
            tag::NEW_FUN => {
                // The size, the arity, the unique value and the index precede the number of free
                // variables.
                self.pass(4 + 1 + 16 + 4)?;
                return self.u32().map(|free| u64::from(free) + 4);
            }
            other => Err(ReadError::UnknownTag(other)),
        };
        inner.map(|()| 0)
    }

    /// Enters a tuple and returns its arity. The reader continues with its elements.
    pub fn tuple(&mut self) -> Result<u32, ReadError> {
        let mut cursor = *self;
        let arity = match cursor.u8()? {
            tag::SMALL_TUPLE => u32::from(cursor.u8()?),
            tag::LARGE_TUPLE => cursor.u32()?,
            found => return Err(ReadError::Unexpected { expected: "a tuple", found }),
        };
        *self = cursor;
        Ok(arity)
    }

    /// Enters a tuple that must have exactly `arity` elements.
    pub fn tuple_of(&mut self, arity: u32) -> Result<(), ReadError> {
        let mut cursor = *self;
        if cursor.tuple()? != arity {
            return Err(ReadError::Malformed("tuple: another arity"));
        }
        *self = cursor;
        Ok(())
    }

    /// Enters a list and returns the number of elements before its tail.
    ///
    /// The reader continues with the elements and then the tail. The empty list has no elements and
    /// its tail is already read, so nothing follows after 0. A `STRING_EXT` is not entered; see
    /// [`Reader::string`].
    pub fn list(&mut self) -> Result<u32, ReadError> {
        let mut cursor = *self;
        let len = match cursor.u8()? {
            tag::NIL => 0,
            tag::LIST => {
                let len = cursor.u32()?;
                if len == 0 {
                    cursor.nil()?;
                }
                len
            }
            found => return Err(ReadError::Unexpected { expected: "a list", found }),
        };
        *self = cursor;
        Ok(len)
    }

    /// Reads a list of small integers that is encoded with one byte each.
    pub fn string(&mut self) -> Result<&'a [u8], ReadError> {
        let mut cursor = *self;
        let bytes = match cursor.u8()? {
            tag::NIL => &[],
            tag::STRING => {
                let len = cursor.u16()?;
                cursor.bytes(usize::from(len))?
            }
            found => return Err(ReadError::Unexpected { expected: "a string", found }),
        };
        *self = cursor;
        Ok(bytes)
    }

    /// Reads the empty list.
    pub fn nil(&mut self) -> Result<(), ReadError> {
        let mut cursor = *self;
        match cursor.u8()? {
            tag::NIL => {
                *self = cursor;
                Ok(())
            }
            found => Err(ReadError::Unexpected { expected: "the empty list", found }),
        }
    }

    /// Enters a map and returns its number of pairs. The reader continues with key, value, key,
    /// value and so on.
    pub fn map(&mut self) -> Result<u32, ReadError> {
        let mut cursor = *self;
        match cursor.u8()? {
            tag::MAP => {
                let pairs = cursor.u32()?;
                *self = cursor;
                Ok(pairs)
            }
            found => Err(ReadError::Unexpected { expected: "a map", found }),
        }
    }

    /// Reads an atom in any of its four encodings.
    pub fn atom(&mut self) -> Result<Cow<'a, str>, ReadError> {
        let mut cursor = *self;
        let tag = cursor.u8()?;
        let len = match tag {
            tag::SMALL_ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 => usize::from(cursor.u8()?),
            tag::ATOM_UTF8 | tag::ATOM_LATIN1 => usize::from(cursor.u16()?),
            found => return Err(ReadError::Unexpected { expected: "an atom", found }),
        };
        let bytes = cursor.bytes(len)?;
        let text = match tag {
            tag::SMALL_ATOM_UTF8 | tag::ATOM_UTF8 => {
                Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| ReadError::Malformed("atom"))?)
            }
            _ => match std::str::from_utf8(bytes) {
                Ok(text) if bytes.is_ascii() => Cow::Borrowed(text),
                _ => Cow::Owned(bytes.iter().copied().map(char::from).collect()),
            },
        };
        *self = cursor;
        Ok(text)
    }

    /// Returns whether the next term is the atom `text`, and passes the term only if it is.
    pub fn is_atom(&mut self, text: &str) -> bool {
        // Most atoms have this encoding, and most of them have another text.
        if let [tag::SMALL_ATOM_UTF8, len, rest @ ..] = self.rest {
            let found = match rest.strip_prefix(text.as_bytes()) {
                Some(after) if usize::from(*len) == text.len() => after,
                _ => return false,
            };
            self.rest = found;
            return true;
        }
        let mut cursor = *self;
        match cursor.atom() {
            Ok(found) if found == text => {
                *self = cursor;
                true
            }
            _ => false,
        }
    }

    /// Reads a binary that consists of whole bytes.
    pub fn binary(&mut self) -> Result<&'a [u8], ReadError> {
        let mut cursor = *self;
        let bytes = match cursor.u8()? {
            tag::BINARY => {
                let len = cursor.len32()?;
                cursor.bytes(len)?
            }
            found => return Err(ReadError::Unexpected { expected: "a binary", found }),
        };
        *self = cursor;
        Ok(bytes)
    }

    /// Reads an integer that fits in an `i64`.
    pub fn integer(&mut self) -> Result<i64, ReadError> {
        let mut cursor = *self;
        let value = match cursor.u8()? {
            tag::SMALL_INTEGER => i64::from(cursor.u8()?),
            tag::INTEGER => i64::from(cursor.u32()? as i32),
            tag @ (tag::SMALL_BIG | tag::LARGE_BIG) => {
                let len = match tag {
                    tag::SMALL_BIG => usize::from(cursor.u8()?),
                    _ => cursor.len32()?,
                };
                let negative = cursor.u8()? != 0;
                let digits = cursor.bytes(len)?;
                let (low, high) = digits.split_at_checked(8).unwrap_or((digits, &[]));
                if high.iter().any(|digit| *digit != 0) {
                    return Err(ReadError::IntegerRange);
                }
                let magnitude =
                    low.iter().rev().fold(0_u64, |sum, digit| (sum << 8) | u64::from(*digit));
                let value = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
                i64::try_from(value).map_err(|_| ReadError::IntegerRange)?
            }
            found => return Err(ReadError::Unexpected { expected: "an integer", found }),
        };
        *self = cursor;
        Ok(value)
    }

    /// Reads a pid.
    pub fn pid(&mut self) -> Result<Pid, ReadError> {
        let mut cursor = *self;
        match cursor.u8()? {
            tag::NEW_PID => {}
            found => return Err(ReadError::Unexpected { expected: "a pid", found }),
        }
        let node = cursor.node()?;
        let pid = Pid { node, id: cursor.u32()?, serial: cursor.u32()?, creation: cursor.u32()? };
        *self = cursor;
        Ok(pid)
    }

    /// Reads a reference.
    pub fn reference(&mut self) -> Result<Reference, ReadError> {
        let mut cursor = *self;
        match cursor.u8()? {
            tag::NEWER_REFERENCE => {}
            found => return Err(ReadError::Unexpected { expected: "a reference", found }),
        }
        let len = usize::from(cursor.u16()?);
        let node = cursor.node()?;
        let creation = cursor.u32()?;
        let mut words = [0; Reference::MAX_WORDS];
        let words = words.get_mut(..len).ok_or(ReadError::Malformed("reference"))?;
        for word in words.iter_mut() {
            *word = cursor.u32()?;
        }
        let reference =
            Reference::new(node, creation, words).ok_or(ReadError::Malformed("reference"))?;
        *self = cursor;
        Ok(reference)
    }

    fn node(&mut self) -> Result<Atom, ReadError> {
        Atom::new(&self.atom()?).map_err(|_| ReadError::Malformed("atom"))
    }

    pub(crate) fn pass(&mut self, len: usize) -> Result<(), ReadError> {
        self.bytes(len).map(|_| ())
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], ReadError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn len32(&mut self) -> Result<usize, ReadError> {
        // A length beyond the address space is beyond the end of the input too.
        self.u32().map(|len| usize::try_from(len).unwrap_or(usize::MAX))
    }
}
