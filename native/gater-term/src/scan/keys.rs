//! Checks that the keys of a map are all different.
//!
//! Keys are compared by `=:=`, however they are encoded: 5 may be written in three ways, a list of
//! bytes in two, and a map in any order.

use super::super::tag;
use super::ScanError;

/// The extents of the keys of the maps that are being scanned.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The offsets at which keys start and end, in turn. The keys of an inner map follow those of
    /// the outer map.
    boundaries: Vec<usize>,
    hashes: Vec<u64>,
    open: Vec<Open>,
    /// The number of bytes of keys that may still be hashed. A key of a map that is itself part of
    /// a key is hashed once for each of the two maps.
    effort: usize,
}

/// The effort per byte of the term: the depth of keys in keys that is allowed for a term that
/// contains nothing else.
const EFFORT_PER_BYTE: usize = 8;
/// The effort that any term has.
const EFFORT_AT_LEAST: usize = 1 << 20;

/// The greatest capacity that is kept from one term to the next.
const KEPT: usize = 4096;

/// The greatest number of atom keys that are compared pair by pair.
const PAIRWISE: usize = 16;

impl Keys {
    /// Prepares for a term of at most `bytes` bytes.
    pub(super) fn begin(&mut self, bytes: usize) {
        self.boundaries.clear();
        self.effort = bytes.saturating_mul(EFFORT_PER_BYTE).saturating_add(EFFORT_AT_LEAST);
    }

    /// Frees the memory that a large map took.
    pub(super) fn give_back(&mut self) {
        if self.boundaries.capacity() > KEPT {
            *self = Self::default();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.boundaries.len()
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.boundaries.capacity() + self.hashes.capacity()
    }

    /// Records the start or the end of a key.
    pub(super) fn boundary(&mut self, at: usize) {
        self.boundaries.push(at);
    }

    /// Compares the keys from `first` on, which were recorded last, and forgets them.
    pub(super) fn check(&mut self, input: &[u8], first: usize) -> Result<(), ScanError> {
        let keys = self.boundaries.get(first..).unwrap_or_default();
        let key = |extent: &[usize]| match extent {
            [start, end] => input.get(*start..*end).unwrap_or_default(),
            _ => &[],
        };
        let same = match keys.len() / 2 {
            0 | 1 => false,
            count if count <= PAIRWISE && keys.chunks(2).all(|k| is_plain_atom(key(k))) => {
                (1..count).any(|n| {
                    let (before, from) = keys.split_at(2 * n);
                    let this = key(from.get(..2).unwrap_or_default());
                    before.chunks(2).any(|earlier| key(earlier) == this)
                })
            }
            _ => {
                let Self { boundaries, hashes, open, effort } = self;
                let keys = boundaries.get(first..).unwrap_or_default();
                let bytes: usize = keys.chunks(2).map(|extent| key(extent).len()).sum();
                *effort = effort.checked_sub(bytes).ok_or(ScanError::KeysTooComplex)?;
                hashes.clear();
                hashes.extend(keys.chunks(2).map(|extent| identity(key(extent), open)));
                hashes.sort_unstable();
                hashes.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
            }
        };
        self.boundaries.truncate(first);
        if same { Err(ScanError::DuplicateKey) } else { Ok(()) }
    }
}

/// Returns whether the key is an atom in the encoding that every release sends between nodes.
fn is_plain_atom(key: &[u8]) -> bool {
    key.first() == Some(&tag::SMALL_ATOM_UTF8)
}

/// A container in the key that is being hashed.
#[derive(Debug)]
struct Open {
    left: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Plain,
    /// A list. Every element but the tail counts as a pair of head and tail.
    List,
    /// The hash outside the map, and the sum of the hashes of its pairs.
    Map {
        outside: u64,
        sum: u64,
    },
}

/// Returns a hash that is the same for equal terms and, but for one in 2^64, different for others.
/// `term` must have been scanned.
fn identity(term: &[u8], open: &mut Vec<Open>) -> u64 {
    let mut hash = Hash(0);
    let mut rest = term;
    open.clear();
    while let Some(left) = next(&mut rest, &mut hash) {
        if let Some(container) = left {
            if let Kind::Map { .. } = container.kind {
                hash = Hash(0);
            }
            open.push(container);
        }
        loop {
            let Some(container) = open.last_mut() else { return hash.0 };
            if let Kind::Map { sum, .. } = &mut container.kind
                && container.left.is_multiple_of(2)
            {
                // The pair is complete. The sum makes the hash independent of the order of pairs.
                *sum = sum.wrapping_add(hash.0);
                hash = Hash(0);
            }
            if container.left > 0 {
                container.left -= 1;
                if let (Kind::List, true) = (&container.kind, container.left > 0) {
                    hash.number(u64::from(tag::LIST));
                }
                break;
            }
            if let Some(Open { kind: Kind::Map { outside, sum }, .. }) = open.pop() {
                hash = Hash(outside);
                hash.number(sum);
            }
        }
    }
    // The term is cut short, which does not happen for a scanned term.
    hash.0
}

/// Takes the next head off `rest` into `hash`, in a form that does not depend on its encoding. The
/// outer `None` is the end of the input.
fn next(rest: &mut &[u8], hash: &mut Hash) -> Option<Option<Open>> {
    let plain = |left: u64| (left > 0).then_some(Open { left, kind: Kind::Plain });
    let tag = u8::from_be_bytes(take(rest)?);
    match tag {
        tag::SMALL_INTEGER => {
            let [byte] = take(rest)?;
            hash.integer(false, &[byte]);
        }
        tag::INTEGER => {
            let number = i32::from_be_bytes(take(rest)?);
            hash.integer(number < 0, &number.unsigned_abs().to_le_bytes());
        }
        tag::SMALL_BIG | tag::LARGE_BIG => {
            let len = if tag == tag::SMALL_BIG {
                usize::from(u8::from_be_bytes(take(rest)?))
            } else {
                u32::from_be_bytes(take(rest)?) as usize
            };
            let [sign] = take(rest)?;
            hash.integer(sign != 0, slice(rest, len)?);
        }
        tag::NEW_FLOAT => {
            let float = f64::from_be_bytes(take(rest)?);
            hash.number(u64::from(tag));
            // Up to OTP 26 the two zeros are one key.
            hash.number(if float == 0.0 { 0 } else { float.to_bits() });
        }
        tag::SMALL_ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 => {
            let len = usize::from(u8::from_be_bytes(take(rest)?));
            hash.atom(tag == tag::SMALL_ATOM_LATIN1, slice(rest, len)?);
        }
        tag::ATOM_UTF8 | tag::ATOM_LATIN1 => {
            let len = usize::from(u16::from_be_bytes(take(rest)?));
            hash.atom(tag == tag::ATOM_LATIN1, slice(rest, len)?);
        }
        tag::STRING => {
            let len = usize::from(u16::from_be_bytes(take(rest)?));
            for byte in slice(rest, len)? {
                hash.number(u64::from(tag::LIST));
                hash.integer(false, &[*byte]);
            }
            hash.number(u64::from(tag::NIL));
        }
        tag::LIST => {
            let len = u32::from_be_bytes(take(rest)?);
            return Some(Some(Open { left: u64::from(len) + 1, kind: Kind::List }));
        }
        tag::MAP => {
            let pairs = u32::from_be_bytes(take(rest)?);
            hash.number(u64::from(tag));
            hash.number(pairs.into());
            if pairs > 0 {
                let kind = Kind::Map { outside: hash.0, sum: 0 };
                return Some(Some(Open { left: u64::from(pairs) * 2, kind }));
            }
        }
        tag::SMALL_TUPLE | tag::LARGE_TUPLE => {
            let arity = if tag == tag::SMALL_TUPLE {
                u32::from(u8::from_be_bytes(take(rest)?))
            } else {
                u32::from_be_bytes(take(rest)?)
            };
            hash.number(u64::from(tag::SMALL_TUPLE));
            hash.number(arity.into());
            return Some(plain(arity.into()));
        }
        tag::BINARY => {
            let len = u32::from_be_bytes(take(rest)?) as usize;
            // A bit string of whole bytes is a binary.
            hash.bits(slice(rest, len)?, 8);
        }
        tag::BIT_BINARY => {
            let len = u32::from_be_bytes(take(rest)?) as usize;
            let [bits] = take(rest)?;
            hash.bits(slice(rest, len)?, bits);
        }
        tag::NEW_PID => identifier(rest, hash, tag, 12)?,
        tag::V4_PORT => identifier(rest, hash, tag::NEW_PORT, 12)?,
        tag::NEW_PORT => {
            // The number is the low half of the number in the wide encoding.
            hash.number(u64::from(tag));
            atom(rest, hash)?;
            hash.bytes(&[0; 4]);
            hash.bytes(slice(rest, 8)?);
        }
        tag::NEWER_REFERENCE => {
            let words = usize::from(u16::from_be_bytes(take(rest)?));
            hash.number(u64::from(tag));
            atom(rest, hash)?;
            hash.bytes(slice(rest, 4)?);
            // Missing words are 0.
            let words = slice(rest, 4 * words)?;
            let used = words.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / 4 + 1);
            hash.bytes(words.get(..4 * used).unwrap_or_default());
        }
        tag::NEW_FUN => {
            // The size, the arity and the MD5 of the module are ignored, since not every release
            // compares them; so are the old index and the creator.
            slice(rest, 4 + 1 + 16)?;
            hash.number(u64::from(tag));
            hash.bytes(slice(rest, 4)?);
            let free = u32::from_be_bytes(take(rest)?);
            hash.number(free.into());
            atom(rest, hash)?;
            next(rest, &mut Hash(0))?;
            next(rest, hash)?;
            next(rest, &mut Hash(0))?;
            return Some(plain(free.into()));
        }
        tag::EXPORT => {
            hash.number(u64::from(tag));
            return Some(plain(3));
        }
        _ => hash.number(u64::from(tag)),
    }
    Some(None)
}

/// Hashes an identifier: a node name and numbers.
fn identifier(rest: &mut &[u8], hash: &mut Hash, tag: u8, len: usize) -> Option<()> {
    hash.number(u64::from(tag));
    atom(rest, hash)?;
    hash.bytes(slice(rest, len)?);
    Some(())
}

fn atom(rest: &mut &[u8], hash: &mut Hash) -> Option<()> {
    next(rest, hash).map(|_| ())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    slice(rest, N)?.try_into().ok()
}

fn slice<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

/// A hash that mixes by multiplying to 128 bits and folding.
struct Hash(u64);

impl Hash {
    fn number(&mut self, number: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        const SEED: u64 = 0xd1b5_4a32_d192_ed03;
        let wide = u128::from(self.0 ^ number ^ SEED)
            * u128::from((number.rotate_left(32) ^ self.0.rotate_left(17)) | ODD);
        self.0 = (wide as u64) ^ ((wide >> 64) as u64) ^ self.0.rotate_left(5);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.number(u64::from_le_bytes(word));
        }
        self.number(bytes.len() as u64);
    }

    /// Hashes an integer. The magnitude is little-endian and may have leading zeros.
    fn integer(&mut self, negative: bool, magnitude: &[u8]) {
        let len = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.number(u64::from(tag::INTEGER) + u64::from(negative && len > 0));
        self.bytes(magnitude.get(..len).unwrap_or_default());
    }

    fn atom(&mut self, latin1: bool, text: &[u8]) {
        self.number(u64::from(tag::ATOM_UTF8));
        if latin1 && !text.is_ascii() {
            let text: String = text.iter().map(|byte| char::from(*byte)).collect();
            self.bytes(text.as_bytes());
        } else {
            self.bytes(text);
        }
    }

    /// Hashes a bit string. The unused low bits of the last byte are ignored.
    fn bits(&mut self, bytes: &[u8], used_of_last: u8) {
        self.number(u64::from(tag::BINARY) + u64::from(used_of_last) * 256);
        match bytes.split_last() {
            Some((last, before)) if used_of_last < 8 => {
                self.bytes(before);
                self.number(u64::from(last >> (8 - used_of_last)));
            }
            _ => self.bytes(bytes),
        }
    }
}
