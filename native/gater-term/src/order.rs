//! The order of Erlang terms, on their encoded form.
//!
//! There are two orders ("Term Comparisons", Erlang Reference Manual): the general order, in which
//! 1 and 1.0 are equal, and the order of map keys, in which every integer comes before every float.
//! The order of keys also holds inside compound keys, and for the keys of maps that are compared in
//! the general order.

use std::cmp::Ordering;

pub use super::number::Order;
use super::sort::sort_by;
use super::{ReadError, Reader, number, tag};

/// The greatest depth of nested compound terms that are compared.
pub const MAX_DEPTH: u32 = 256;

const TOO_COMPLEX: ReadError = ReadError::Malformed("term: too complex");

/// The remaining work that may be spent on a term. The unit is the head of a term that is compared
/// or passed, or `Effort::BYTES` bytes of a number.
///
/// Finding the next key of a map or the next element of a list means passing a term, and the parts
/// of that term are passed again one level deeper. Terms can therefore be built that cost their
/// size times their depth. The effort bounds this cost.
#[derive(Debug)]
pub struct Effort(u64);

impl Effort {
    /// Units per byte of the term. Sorting the keys of a map takes about one unit per key and
    /// halving of their number, and few terms are as short as a byte.
    const PER_BYTE: u64 = 32;
    /// Units for any term, which take less than a millisecond.
    const AT_LEAST: u64 = 1 << 16;

    /// The number of bytes that can be examined in the time of one head.
    const BYTES: usize = 16;

    /// Returns the effort that is allowed for a term of `bytes` bytes.
    pub fn for_bytes(bytes: usize) -> Self {
        Self((bytes as u64).saturating_mul(Self::PER_BYTE).saturating_add(Self::AT_LEAST))
    }

    pub(crate) fn spend(&mut self) -> Result<(), ReadError> {
        self.spend_for(0)
    }

    /// Spends the effort for one head and for `bytes` bytes that are examined one by one.
    pub(crate) fn spend_for(&mut self, bytes: usize) -> Result<(), ReadError> {
        let units = 1 + (bytes / Self::BYTES) as u64;
        self.0 = self.0.checked_sub(units).ok_or(TOO_COMPLEX)?;
        Ok(())
    }

    /// Passes lists without elements, each of which is equal to its tail.
    pub(crate) fn pass_empty_lists(&mut self, reader: &mut Reader<'_>) -> Result<(), ReadError> {
        while let [tag::LIST, 0, 0, 0, 0, ..] = reader.rest() {
            self.spend()?;
            reader.pass(5)?;
        }
        Ok(())
    }

    /// Passes a term, as [`Reader::skip`] does.
    pub(crate) fn skip<'a>(&mut self, reader: &mut Reader<'a>) -> Result<&'a [u8], ReadError> {
        let start = *reader;
        let mut left: u64 = 1;
        while left > 0 {
            self.spend()?;
            left = left - 1 + reader.step()?;
        }
        let len = start.rest().len() - reader.rest().len();
        Ok(start.rest().get(..len).unwrap_or_default())
    }
}

/// Compares the terms at the start of `a` and `b`, both of which must have been scanned.
///
/// Returns an error for terms that are nested more than [`MAX_DEPTH`] deep, and for terms that take
/// more than the [`Effort`] for their size.
pub fn compare(a: &[u8], b: &[u8], order: Order) -> Result<Ordering, ReadError> {
    compare_with(&mut Effort::for_bytes(a.len().saturating_add(b.len())), a, b, order)
}

/// Does the same as [`compare`], as one of many comparisons that share an effort.
pub fn compare_with(
    effort: &mut Effort,
    a: &[u8],
    b: &[u8],
    order: Order,
) -> Result<Ordering, ReadError> {
    // Most maps have short atoms as keys.
    if let (Some(a), Some(b)) = (short_atom(a), short_atom(b)) {
        return Ok(a.cmp(b));
    }
    compare_within(effort, &mut Reader::new(a), &mut Reader::new(b), order, MAX_DEPTH)
}

/// Returns the text of an atom in the encoding that nodes use between each other. UTF-8 texts sort
/// in the order of their code points.
fn short_atom(term: &[u8]) -> Option<&[u8]> {
    match term {
        [tag::SMALL_ATOM_UTF8, len, rest @ ..] => rest.get(..usize::from(*len)),
        _ => None,
    }
}

/// The kinds of terms in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Number,
    Atom,
    Reference,
    Fun,
    Port,
    Pid,
    Tuple,
    Map,
    Nil,
    List,
    Bits,
}

/// Returns the kind of the next term, which must not be a list without elements.
fn rank(reader: Reader<'_>) -> Result<Rank, ReadError> {
    Ok(match reader.peek_tag()? {
        tag::SMALL_INTEGER | tag::INTEGER | tag::SMALL_BIG | tag::LARGE_BIG | tag::NEW_FLOAT => {
            Rank::Number
        }
        tag::SMALL_ATOM_UTF8 | tag::ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 | tag::ATOM_LATIN1 => {
            Rank::Atom
        }
        tag::NEWER_REFERENCE => Rank::Reference,
        tag::NEW_FUN | tag::EXPORT => Rank::Fun,
        tag::NEW_PORT | tag::V4_PORT => Rank::Port,
        tag::NEW_PID => Rank::Pid,
        tag::SMALL_TUPLE | tag::LARGE_TUPLE => Rank::Tuple,
        tag::MAP => Rank::Map,
        tag::NIL => Rank::Nil,
        tag::LIST => Rank::List,
        tag::STRING => match { reader }.string()? {
            [] => Rank::Nil,
            _ => Rank::List,
        },
        tag::BINARY | tag::BIT_BINARY => Rank::Bits,
        other => return Err(ReadError::UnknownTag(other)),
    })
}

/// Compares the next terms. If they are equal, both readers are behind them afterwards.
fn compare_within(
    effort: &mut Effort,
    a: &mut Reader<'_>,
    b: &mut Reader<'_>,
    order: Order,
    depth: u32,
) -> Result<Ordering, ReadError> {
    effort.spend()?;
    let deeper = depth.checked_sub(1).ok_or(ReadError::Malformed("term: nested too deep"))?;
    effort.pass_empty_lists(a)?;
    effort.pass_empty_lists(b)?;
    let (kind, other) = (rank(*a)?, rank(*b)?);
    if kind != other {
        return Ok(kind.cmp(&other));
    }
    match kind {
        Rank::Number => {
            effort.spend_for(number::length(a)?.saturating_add(number::length(b)?))?;
            Ok(number::read(a)?.compare(&number::read(b)?, order))
        }
        Rank::Atom => Ok(a.atom()?.cmp(&b.atom()?)),
        Rank::Reference => {
            let (a, b) = (a.reference()?, b.reference()?);
            // The words are compared from the last to the first; missing words are 0.
            let reversed = |words: &[u32]| {
                let mut padded = [0; super::Reference::MAX_WORDS];
                for (to, from) in padded.iter_mut().zip(words) {
                    *to = *from;
                }
                padded.reverse();
                padded
            };
            Ok((a.node(), a.creation())
                .cmp(&(b.node(), b.creation()))
                .then_with(|| reversed(a.words()).cmp(&reversed(b.words()))))
        }
        Rank::Fun => compare_funs(effort, a, b, order, deeper),
        Rank::Port => Ok(port(a)?.cmp(&port(b)?)),
        Rank::Pid => {
            let (a, b) = (a.pid()?, b.pid()?);
            let key = |pid: &super::Pid| (pid.serial, pid.id, pid.node.clone(), pid.creation);
            Ok(key(&a).cmp(&key(&b)))
        }
        Rank::Tuple => {
            let (arity, other) = (a.tuple()?, b.tuple()?);
            if arity != other {
                return Ok(arity.cmp(&other));
            }
            compare_each(effort, a, b, u64::from(arity), order, deeper)
        }
        Rank::Map => compare_maps(effort, a, b, order, deeper),
        Rank::Nil => {
            a.skip()?;
            b.skip()?;
            Ok(Ordering::Equal)
        }
        Rank::List => compare_lists(effort, a, b, order, deeper),
        Rank::Bits => Ok(compare_bits(bits(a)?, bits(b)?)),
    }
}

fn compare_each(
    effort: &mut Effort,
    a: &mut Reader<'_>,
    b: &mut Reader<'_>,
    count: u64,
    order: Order,
    depth: u32,
) -> Result<Ordering, ReadError> {
    for _ in 0..count {
        let outcome = compare_within(effort, a, b, order, depth)?;
        if outcome.is_ne() {
            return Ok(outcome);
        }
    }
    Ok(Ordering::Equal)
}

/// Compares funs. `fun M:F/A` comes after funs with an environment.
fn compare_funs(
    effort: &mut Effort,
    a: &mut Reader<'_>,
    b: &mut Reader<'_>,
    order: Order,
    depth: u32,
) -> Result<Ordering, ReadError> {
    let (tag, other) = (a.peek_tag()?, b.peek_tag()?);
    match (tag, other) {
        (tag::EXPORT, tag::EXPORT) => {
            a.u8()?;
            b.u8()?;
            compare_each(effort, a, b, 3, order, depth)
        }
        (tag::NEW_FUN, tag::NEW_FUN) => {
            let head = |reader: &mut Reader<'_>| -> Result<u32, ReadError> {
                reader.pass(1 + 4 + 1 + 16 + 4)?;
                reader.u32()
            };
            let (free, others) = (head(a)?, head(b)?);
            // The module, the old index and the old unique value are compared; the creator is
            // ignored.
            let outcome = compare_each(effort, a, b, 3, order, depth)?.then(free.cmp(&others));
            if outcome.is_ne() {
                return Ok(outcome);
            }
            a.skip()?;
            b.skip()?;
            compare_each(effort, a, b, u64::from(free), order, depth)
        }
        (tag::NEW_FUN, _) => Ok(Ordering::Less),
        _ => Ok(Ordering::Greater),
    }
}

/// Compares maps by size, then by their keys in key order, then by their values.
fn compare_maps(
    effort: &mut Effort,
    a: &mut Reader<'_>,
    b: &mut Reader<'_>,
    order: Order,
    depth: u32,
) -> Result<Ordering, ReadError> {
    let (count, other) = (a.map()?, b.map()?);
    if count != other {
        return Ok(count.cmp(&other));
    }
    if count == 1 {
        let keys = compare_within(effort, a, b, Order::Keys, depth)?;
        return if keys.is_ne() { Ok(keys) } else { compare_within(effort, a, b, order, depth) };
    }
    let a = sorted_pairs(effort, a, count, depth)?;
    let b = sorted_pairs(effort, b, count, depth)?;
    let mut each = |values: bool, order| {
        for (a, b) in a.iter().zip(&b) {
            let (a, b) = if values { (a.value, b.value) } else { (a.key, b.key) };
            let (mut a, mut b) = (Reader::new(a), Reader::new(b));
            let outcome = compare_within(effort, &mut a, &mut b, order, depth)?;
            if outcome.is_ne() {
                return Ok(outcome);
            }
        }
        Ok(Ordering::Equal)
    };
    let keys = each(false, Order::Keys)?;
    if keys.is_ne() { Ok(keys) } else { each(true, order) }
}

/// An encoded key and its encoded value.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

fn sorted_pairs<'a>(
    effort: &mut Effort,
    reader: &mut Reader<'a>,
    count: u32,
    depth: u32,
) -> Result<Vec<Pair<'a>>, ReadError> {
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push(Pair { key: effort.skip(reader)?, value: effort.skip(reader)? });
    }
    sort_by(&mut pairs, |a, b| {
        let (mut a, mut b) = (Reader::new(a.key), Reader::new(b.key));
        compare_within(effort, &mut a, &mut b, Order::Keys, depth)
    })?;
    Ok(pairs)
}

/// A position in a list. `LIST` and `STRING` may follow each other as tails.
enum Cells<'a> {
    Elements { left: u32, rest: Reader<'a> },
    Bytes { bytes: &'a [u8], rest: Reader<'a> },
    Tail { rest: Reader<'a> },
}

enum Peeked<'a> {
    Element,
    Tail(Reader<'a>),
}

/// The `SMALL_INTEGER` encodings of all bytes, with which the elements of strings are compared.
static BYTES: [[u8; 2]; 256] = {
    let mut all = [[tag::SMALL_INTEGER, 0]; 256];
    let mut byte = 0;
    while byte < 256 {
        all[byte] = [tag::SMALL_INTEGER, byte as u8];
        byte += 1;
    }
    all
};

impl<'a> Cells<'a> {
    fn at(reader: &mut Reader<'a>) -> Result<Self, ReadError> {
        let mut rest = *reader;
        match rest.peek_tag()? {
            tag::LIST => {
                rest.u8()?;
                let left = rest.u32()?;
                Ok(Self::Elements { left, rest })
            }
            tag::STRING => {
                let bytes = rest.string()?;
                Ok(Self::Bytes { bytes, rest })
            }
            _ => Ok(Self::Tail { rest }),
        }
    }

    /// Advances to the next element or to the tail.
    fn peek(&mut self, effort: &mut Effort) -> Result<Peeked<'a>, ReadError> {
        loop {
            match self {
                Self::Elements { left: 0, rest } => {
                    effort.spend()?;
                    *self = Self::at(rest)?;
                }
                Self::Elements { .. } => return Ok(Peeked::Element),
                Self::Bytes { bytes: [], .. } => {
                    return Ok(Peeked::Tail(Reader::new(&[tag::NIL])));
                }
                Self::Bytes { .. } => return Ok(Peeked::Element),
                Self::Tail { rest } => return Ok(Peeked::Tail(*rest)),
            }
        }
    }

    /// Takes the element that [`Cells::peek`] found.
    fn element(&mut self, effort: &mut Effort) -> Result<Reader<'a>, ReadError> {
        match self {
            Self::Elements { left, rest } => {
                *left = left.saturating_sub(1);
                effort.skip(rest).map(Reader::new)
            }
            Self::Bytes { bytes, .. } => {
                let (first, after) = bytes.split_first().ok_or(ReadError::Truncated)?;
                *bytes = after;
                BYTES
                    .get(usize::from(*first))
                    .map(|term| Reader::new(term))
                    .ok_or(ReadError::Truncated)
            }
            Self::Tail { .. } => Err(ReadError::Truncated),
        }
    }

    /// Returns the reader behind the list, given the reader behind its tail.
    fn after(&self, tail: Reader<'a>) -> Reader<'a> {
        match self {
            Self::Bytes { rest, .. } => *rest,
            _ => tail,
        }
    }
}

fn compare_lists(
    effort: &mut Effort,
    a: &mut Reader<'_>,
    b: &mut Reader<'_>,
    order: Order,
    depth: u32,
) -> Result<Ordering, ReadError> {
    let (mut left, mut right) = (Cells::at(a)?, Cells::at(b)?);
    loop {
        match (left.peek(effort)?, right.peek(effort)?) {
            (Peeked::Element, Peeked::Element) => {
                if let (
                    Cells::Elements { left: m, rest: x },
                    Cells::Elements { left: n, rest: y },
                ) = (&mut left, &mut right)
                {
                    // The comparison has already read terms that are equal.
                    (*m, *n) = (m.saturating_sub(1), n.saturating_sub(1));
                    let outcome = compare_within(effort, x, y, order, depth)?;
                    if outcome.is_ne() {
                        return Ok(outcome);
                    }
                    continue;
                }
                let (mut x, mut y) = (left.element(effort)?, right.element(effort)?);
                let outcome = compare_within(effort, &mut x, &mut y, order, depth)?;
                if outcome.is_ne() {
                    return Ok(outcome);
                }
            }
            (Peeked::Tail(mut x), Peeked::Tail(mut y)) => {
                let outcome = compare_within(effort, &mut x, &mut y, order, depth)?;
                *a = left.after(x);
                *b = right.after(y);
                return Ok(outcome);
            }
            // One list has a further element where the other has its tail.
            (Peeked::Element, Peeked::Tail(tail)) => return Ok(Rank::List.cmp(&rank(tail)?)),
            (Peeked::Tail(tail), Peeked::Element) => return Ok(rank(tail)?.cmp(&Rank::List)),
        }
    }
}

type Port<'a> = (std::borrow::Cow<'a, str>, u32, u64);

fn port<'a>(reader: &mut Reader<'a>) -> Result<Port<'a>, ReadError> {
    let wide = reader.u8()? == tag::V4_PORT;
    let node = reader.atom()?;
    let high = if wide { reader.u32()? } else { 0 };
    let low = reader.u32()?;
    Ok((node, reader.u32()?, u64::from(high) << 32 | u64::from(low)))
}

/// Reads bytes and the number of bits that are used in the last byte.
fn bits<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], u8), ReadError> {
    if reader.peek_tag()? == tag::BINARY {
        return Ok((reader.binary()?, 8));
    }
    reader.u8()?;
    let len = reader.len32()?;
    let used = reader.u8()?;
    Ok((reader.bytes(len)?, used))
}

fn compare_bits((a, a_used): (&[u8], u8), (b, b_used): (&[u8], u8)) -> Ordering {
    let bit_len = |bytes: &[u8], used: u8| bytes.len() * 8 - usize::from((8 - used.min(8)) % 8);
    let masked = |bytes: &[u8], used: u8, at: usize| {
        let byte = bytes.get(at).copied().unwrap_or(0);
        if at + 1 == bytes.len() && used < 8 { byte & !(0xff >> used) } else { byte }
    };
    let (a_bits, b_bits) = (bit_len(a, a_used), bit_len(b, b_used));
    let common = a_bits.min(b_bits);
    let whole = common / 8;
    let outcome = a.get(..whole).unwrap_or_default().cmp(b.get(..whole).unwrap_or_default());
    if outcome.is_ne() {
        return outcome;
    }
    let rest = common % 8;
    if rest > 0 {
        let mask = !(0xff_u8 >> rest);
        let (x, y) = (masked(a, a_used, whole) & mask, masked(b, b_used, whole) & mask);
        if x != y {
            return x.cmp(&y);
        }
    }
    a_bits.cmp(&b_bits)
}
