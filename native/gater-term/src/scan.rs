//! Finds where a term ends, and validates that every node would decode it.
//!
//! A BEAM drops the whole connection over one term that does not decode. OTP 25 to 29 decode every
//! term that the scanner accepts. The scanner is stricter than they are about forms that no release
//! writes any more although all of them still read them: compressed terms, the old pids, ports and
//! references, and floats as text.

mod keys;
#[cfg(test)]
mod tests;

use self::keys::Keys;
use super::tag;

/// The bounds on the size of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The greatest depth of nested terms. The last part of a container adds no depth, so a list of
    /// any length has depth 1.
    pub max_depth: u32,
    /// The greatest number of terms, including nested ones.
    pub max_terms: u32,
    /// The greatest number of encoded bytes.
    pub max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: 10_000, max_terms: 16 << 20, max_bytes: 64 << 20 }
    }
}

/// The reason why a term was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes end inside the term.
    #[error("the term is cut short")]
    Truncated,
    /// The tag does not exist or is not accepted.
    #[error("tag {0} is not accepted")]
    UnknownTag(u8),
    /// The contents are not the contents of a valid term.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A map has the same key twice.
    #[error("a map has a key twice")]
    DuplicateKey,
    /// Maps are nested as keys of maps so deeply that comparing the keys would take too long.
    #[error("keys of maps too complex")]
    KeysTooComplex,
    /// The term is nested deeper than the limit.
    #[error("terms nested more than {0} deep")]
    TooDeep(u32),
    /// The term has more parts than the limit.
    #[error("more than {0} terms")]
    TooManyTerms(u32),
    /// The term has more bytes than the limit.
    #[error("longer than {0} bytes")]
    TooLong(usize),
}

/// Validates terms. A scanner keeps its scratch space, so one scanner should be used for many
/// terms.
#[derive(Debug, Default)]
pub struct Scanner {
    limits: Limits,
    open: Vec<Container>,
    keys: Keys,
}

/// A container with parts that have not been scanned.
#[derive(Debug, Clone, Copy)]
struct Container {
    /// The number of terms to come. Invariant for a map: a key is next if and only if the number is
    /// even.
    left: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// The offset of the map's first key among the remembered keys.
    Map(usize),
    /// The offset at which the encoding of the fun must end.
    Fun(usize),
}

impl Scanner {
    /// Returns a scanner that refuses terms that exceed `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Returns the length of the term at the start of `input`, which has no version byte. Indices
    /// into the atom cache below `cached_atoms` are legal.
    pub fn scan(&mut self, input: &[u8], cached_atoms: u8) -> Result<usize, ScanError> {
        self.open.clear();
        let within = input.get(..self.limits.max_bytes).unwrap_or(input);
        self.keys.begin(within.len());
        let result = self.run(&mut Cursor { input: within, at: 0, cached_atoms });
        self.keys.give_back();
        match result {
            Err(ScanError::Truncated) if within.len() < input.len() => {
                Err(ScanError::TooLong(self.limits.max_bytes))
            }
            other => other,
        }
    }

    fn run(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, ScanError> {
        let mut terms_left = self.limits.max_terms;
        loop {
            terms_left =
                terms_left.checked_sub(1).ok_or(ScanError::TooManyTerms(self.limits.max_terms))?;
            let inner = cursor.head()?;
            if inner.left > 0 {
                self.enter(inner, cursor)?;
            }
            while let Some(container) = self.open.last() {
                if container.left > 0 {
                    break;
                }
                if let Kind::Fun(end) = container.kind
                    && end != cursor.at
                {
                    return Err(ScanError::Malformed("fun size"));
                }
                self.open.pop();
            }
            let Some(container) = self.open.last_mut() else {
                return Ok(cursor.at);
            };
            if let Kind::Map(first_key) = container.kind {
                self.keys.boundary(cursor.at);
                if container.left == 1 {
                    // Only the last value is missing, so all keys are known.
                    self.keys.check(cursor.input, first_key)?;
                    container.kind = Kind::Plain;
                }
            }
            container.left -= 1;
        }
    }

    /// Enters a container of which no part has been read.
    fn enter(&mut self, mut inner: Container, cursor: &Cursor<'_>) -> Result<(), ScanError> {
        // A term takes at least one byte, so a greater number of terms than bytes is invalid.
        if inner.left > (cursor.input.len() - cursor.at) as u64 {
            return Err(ScanError::Truncated);
        }
        if let Kind::Map(first_key) = &mut inner.kind {
            *first_key = self.keys.len();
        }
        if let Some(Container { left: 0, kind: Kind::Plain }) = self.open.last() {
            self.open.pop();
        }
        if self.open.len() >= self.limits.max_depth as usize {
            return Err(ScanError::TooDeep(self.limits.max_depth));
        }
        self.open.push(inner);
        Ok(())
    }
}

/// A place in the input.
struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
    cached_atoms: u8,
}

/// A term without parts.
const LEAF: Container = Container { left: 0, kind: Kind::Plain };

fn plain(left: impl Into<u64>) -> Container {
    Container { left: left.into(), kind: Kind::Plain }
}

impl<'a> Cursor<'a> {
    /// Reads the head of a term, which is the whole term if it has no parts.
    fn head(&mut self) -> Result<Container, ScanError> {
        match self.u8()? {
            tag::SMALL_INTEGER => self.pass(1),
            tag::INTEGER => self.pass(4),
            tag::NEW_FLOAT => {
                let float = f64::from_be_bytes(self.array()?);
                if float.is_finite() { Ok(LEAF) } else { Err(ScanError::Malformed("float")) }
            }
            tag::NIL => Ok(LEAF),
            tag::SMALL_TUPLE => Ok(plain(self.u8()?)),
            tag::LARGE_TUPLE => Ok(plain(self.u32()?)),
            tag::LIST => Ok(plain(u64::from(self.u32()?) + 1)),
            tag::MAP => {
                // The offset of its keys is set when the map is entered.
                Ok(Container { left: u64::from(self.u32()?) * 2, kind: Kind::Map(0) })
            }
            tag::STRING => {
                let len = self.u16()?;
                self.pass(usize::from(len))
            }
            tag::BINARY => {
                let len = self.u32()?;
                self.pass(len as usize)
            }
            tag::BIT_BINARY => {
                let len = self.u32()?;
                match self.u8()? {
                    1..=8 if len > 0 => self.pass(len as usize),
                    _ => Err(ScanError::Malformed("bit string")),
                }
            }
            tag::SMALL_BIG => {
                let len = self.u8()?;
                self.big(u32::from(len))
            }
            tag::LARGE_BIG => {
                let len = self.u32()?;
                self.big(len)
            }
            tag::NEW_PID | tag::V4_PORT => self.node_and(12),
            tag::NEW_PORT => self.node_and(8),
            tag::NEWER_REFERENCE => {
                let words = self.u16()?;
                if !(1..=MAX_REFERENCE_WORDS).contains(&words) {
                    return Err(ScanError::Malformed("reference"));
                }
                self.node_and(4 + 4 * usize::from(words))
            }
            tag::EXPORT => {
                self.atom()?;
                self.atom()?;
                match self.u8()? {
                    tag::SMALL_INTEGER => self.pass(1),
                    _ => Err(ScanError::Malformed("export fun")),
                }
            }
            tag::NEW_FUN => self.fun(),
            other => {
                if !is_atom(other) {
                    return Err(ScanError::UnknownTag(other));
                }
                self.at -= 1;
                self.atom().map(|()| LEAF)
            }
        }
    }

    fn fun(&mut self) -> Result<Container, ScanError> {
        let start = self.at;
        let size = self.u32()?;
        let end = start.checked_add(size as usize).ok_or(ScanError::Truncated)?;
        // The arity, the MD5 of the module and the index precede the number of free variables.
        self.pass(1 + 16 + 4)?;
        let free = self.u32()?;
        if free > MAX_FREE {
            return Err(ScanError::Malformed("fun"));
        }
        self.atom()?;
        for _ in 0..2 {
            match self.u8()? {
                tag::SMALL_INTEGER => self.pass(1)?,
                tag::INTEGER => self.pass(4)?,
                _ => return Err(ScanError::Malformed("fun")),
            };
        }
        match self.u8()? {
            tag::NEW_PID => self.node_and(12)?,
            _ => return Err(ScanError::Malformed("fun")),
        };
        if free == 0 && self.at != end {
            return Err(ScanError::Malformed("fun size"));
        }
        Ok(Container { left: u64::from(free), kind: Kind::Fun(end) })
    }

    fn big(&mut self, len: u32) -> Result<Container, ScanError> {
        match self.u8()? {
            0 | 1 if (1..=MAX_BIG_BYTES).contains(&len) => self.pass(len as usize),
            _ => Err(ScanError::Malformed("integer")),
        }
    }

    /// Passes a node name and `bytes` bytes of any value.
    fn node_and(&mut self, bytes: usize) -> Result<Container, ScanError> {
        self.atom()?;
        self.pass(bytes)
    }

    fn atom(&mut self) -> Result<(), ScanError> {
        match self.u8()? {
            tag::SMALL_ATOM_UTF8 => {
                let len = self.u8()?;
                self.utf8(usize::from(len))
            }
            tag::ATOM_UTF8 => {
                let len = self.u16()?;
                self.utf8(usize::from(len))
            }
            tag::SMALL_ATOM_LATIN1 => {
                let len = self.u8()?;
                self.pass(usize::from(len)).map(|_| ())
            }
            tag::ATOM_LATIN1 => match self.u16()? {
                len @ 0..=255 => self.pass(usize::from(len)).map(|_| ()),
                _ => Err(ScanError::Malformed("atom")),
            },
            tag::ATOM_CACHE_REF if self.u8()? < self.cached_atoms => Ok(()),
            tag::ATOM_CACHE_REF => Err(ScanError::Malformed("atom cache reference")),
            _ => Err(ScanError::Malformed("atom")),
        }
    }

    /// Passes the text of an atom, which has at most 255 characters.
    fn utf8(&mut self, len: usize) -> Result<(), ScanError> {
        let text = self.take(len)?;
        if text.is_ascii() && len <= 255 {
            return Ok(());
        }
        match std::str::from_utf8(text) {
            Ok(text) if len <= 255 || text.chars().count() <= 255 => Ok(()),
            _ => Err(ScanError::Malformed("atom")),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ScanError> {
        let end = self.at.checked_add(len).ok_or(ScanError::Truncated)?;
        let taken = self.input.get(self.at..end).ok_or(ScanError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn pass(&mut self, len: usize) -> Result<Container, ScanError> {
        self.take(len).map(|_| LEAF)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ScanError> {
        self.take(N)?.try_into().map_err(|_| ScanError::Truncated)
    }

    fn u8(&mut self) -> Result<u8, ScanError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, ScanError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, ScanError> {
        self.array().map(u32::from_be_bytes)
    }
}

/// The greatest number of words of a reference. OTP 24 to 29 write 3 or 5 words, older releases
/// fewer.
const MAX_REFERENCE_WORDS: u16 = 5;
/// The greatest number of free variables of a fun. With its arguments a fun has no more than a call
/// accepts.
const MAX_FREE: u32 = 255;
/// The greatest length of an integer in bytes. From OTP 26 on integers have at most 4 Mbit less one
/// word.
const MAX_BIG_BYTES: u32 = 8 * 0xffff;

fn is_atom(tag: u8) -> bool {
    matches!(
        tag,
        tag::SMALL_ATOM_UTF8
            | tag::ATOM_UTF8
            | tag::SMALL_ATOM_LATIN1
            | tag::ATOM_LATIN1
            | tag::ATOM_CACHE_REF
    )
}
