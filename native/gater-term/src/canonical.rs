//! The canonical form of a message: the bytes that are signed.
//!
//! For a map `M` these are exactly the bytes that OTP 26 and later return for
//! `term_to_binary(lists:sort(maps:to_list(M)), [deterministic, {minor_version, 2}])`:
//! atoms are in UTF-8, the pairs are in term order, and every nested map has its keys in key order.
//! Equal terms have equal canonical bytes, however they came encoded. (Source: "External Term
//! Format", ERTS User's Guide.)

use crate::order::{self, Effort, Order, Pair};
use crate::sort::sort_by;
use crate::{ReadError, Reader, number, tag};

/// The encoding of atoms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atoms {
    /// UTF-8, as OTP 26 and later write them.
    Utf8,
    /// Latin-1 where the text allows it, as OTP 25 and earlier write them.
    Latin1,
}

/// The encoding of ports. Equal ports have two encodings, and the release of a node decides which
/// of them it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The encoding in which the port arrived, which is the one of the node that holds the term.
    AsTheyCame,
    /// The encoding of OTP 25 and earlier, which is wide only if the number of the port needs it.
    Narrow,
    /// The encoding of OTP 26 and later, which is always wide.
    Wide,
}

/// The choices that the canonical form leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The encoding of the atoms.
    pub atoms: Atoms,
    /// The encoding of the ports.
    pub ports: Ports,
}

/// The parts of a term that have more than one canonical form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether the term contains a port, so that it has more than one form.
    pub ports: bool,
    /// Whether the term contains a local fun. The bytes of a local fun name the process and the
    /// node that write it, so no other writer produces the same bytes.
    pub local_funs: bool,
}

/// Writes the canonical form of a map and leaves its ports as they came; see [`write_form`].
pub fn write(out: &mut Vec<u8>, pairs: &mut [Pair<'_>], atoms: Atoms) -> Result<(), ReadError> {
    write_form(out, pairs, Form { atoms, ports: Ports::AsTheyCame }).map(drop)
}

/// Writes the canonical form of a map, beginning with the version byte, and returns which of its
/// parts have several forms.
///
/// `pairs` are the pairs of the map, encoded and scanned, in any order; the function sorts them. It
/// refuses terms that are nested more than [`order::MAX_DEPTH`] deep inside keys, and terms that
/// take more than the [`Effort`] for their size.
pub fn write_form(
    out: &mut Vec<u8>,
    pairs: &mut [Pair<'_>],
    form: Form,
) -> Result<Found, ReadError> {
    let size: usize = pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
    let mut effort = Effort::for_bytes(size);
    sort_as_tuples(&mut effort, pairs)?;
    out.push(tag::VERSION);
    let Some(count) = u32::try_from(pairs.len()).ok().filter(|count| *count > 0) else {
        out.push(tag::NIL);
        return Ok(Found::default());
    };
    let found = Found::default();
    let mut writer = Writer { out, form, found, open: Vec::new(), effort };
    writer.out.push(tag::LIST);
    writer.out.extend(count.to_be_bytes());
    for pair in pairs {
        writer.out.extend([tag::SMALL_TUPLE, 2]);
        writer.term(pair.key)?;
        writer.term(pair.value)?;
    }
    writer.out.push(tag::NIL);
    Ok(writer.found)
}

/// Sorts `{Key, Value}` tuples as `lists:sort/1` does. Keys that are equal but not identical (1 and
/// 1.0) are sorted by their values; if the values are equal too, the integer comes first.
fn sort_as_tuples(effort: &mut Effort, pairs: &mut [Pair<'_>]) -> Result<(), ReadError> {
    sort_by(pairs, |a, b| {
        let keys = order::compare_with(effort, a.key, b.key, Order::General)?;
        if keys.is_ne() {
            return Ok(keys);
        }
        let values = order::compare_with(effort, a.value, b.value, Order::General)?;
        if values.is_ne() {
            return Ok(values);
        }
        order::compare_with(effort, a.key, b.key, Order::Keys)
    })
}

struct Writer<'o, 'a> {
    out: &'o mut Vec<u8>,
    form: Form,
    found: Found,
    open: Vec<Open<'a>>,
    effort: Effort,
}

/// A container that has been begun and whose remaining parts are read from the cursor.
enum Open<'a> {
    /// The number of terms that are still to be written.
    Plain(u64),
    /// A list, whose elements are written before its tail.
    List { left: u32, written: u32, count_at: usize },
    /// A map, whose pairs are in key order. The cursor continues at `after`, behind the map.
    Map { pairs: Vec<Pair<'a>>, next: usize, after: Reader<'a> },
    /// As `Plain`, but the size of the fun is filled in at the end.
    Fun { left: u64, size_at: usize },
}

impl<'a> Writer<'_, 'a> {
    /// Writes one term.
    fn term(&mut self, term: &'a [u8]) -> Result<(), ReadError> {
        let mut cursor = Reader::new(term);
        let base = self.open.len();
        self.head(&mut cursor)?;
        while self.open.len() > base {
            self.next(&mut cursor)?;
        }
        Ok(())
    }

    /// Continues with the innermost container.
    fn next(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        match self.open.last_mut() {
            Some(Open::Plain(0)) => {
                self.open.pop();
                Ok(())
            }
            Some(Open::Plain(left)) => {
                *left -= 1;
                self.head(cursor)
            }
            Some(Open::List { left: left @ 1.., .. }) => {
                *left -= 1;
                self.head(cursor)
            }
            Some(Open::List { .. }) => self.tail(cursor),
            Some(Open::Map { pairs, next, after }) => {
                let at = *next;
                *next += 1;
                match pairs.get(at / 2) {
                    None => {
                        *cursor = *after;
                        self.open.pop();
                        Ok(())
                    }
                    Some(pair) => {
                        *cursor = Reader::new(if at % 2 == 0 { pair.key } else { pair.value });
                        self.head(cursor)
                    }
                }
            }
            Some(Open::Fun { left: 0, size_at }) => {
                let at = *size_at;
                self.open.pop();
                self.patch(at, (self.out.len() - at) as u32);
                Ok(())
            }
            Some(Open::Fun { left, .. }) => {
                *left -= 1;
                self.head(cursor)
            }
            None => Ok(()),
        }
    }

    /// Continues after the elements of a list with its tail, which is more of the list, the end of
    /// the list, or a term that makes the list improper.
    fn tail(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        let Some(Open::List { left, written, count_at }) = self.open.last_mut() else {
            return Ok(());
        };
        match cursor.peek_tag()? {
            tag::LIST => {
                cursor.u8()?;
                *left = cursor.u32()?;
                *written = written.saturating_add(*left);
                Ok(())
            }
            tag::STRING => {
                let bytes = cursor.string()?;
                let (count, at) = (written.saturating_add(bytes.len() as u32), *count_at);
                self.open.pop();
                for byte in bytes {
                    self.out.extend([tag::SMALL_INTEGER, *byte]);
                }
                self.out.push(tag::NIL);
                self.patch(at, count);
                Ok(())
            }
            _ => {
                let (count, at) = (*written, *count_at);
                self.open.pop();
                self.patch(at, count);
                self.head(cursor)
            }
        }
    }

    fn patch(&mut self, at: usize, number: u32) {
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&number.to_be_bytes());
        }
    }

    /// Writes a term without parts, or begins a term with parts.
    fn head(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        let tag = cursor.peek_tag()?;
        match tag {
            tag::SMALL_ATOM_UTF8 | tag::ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 | tag::ATOM_LATIN1 => {
                self.atom(cursor)?;
            }
            tag::SMALL_INTEGER | tag::INTEGER | tag::SMALL_BIG | tag::LARGE_BIG => {
                self.integer(cursor)?;
            }
            tag::BINARY | tag::NEW_FLOAT | tag::NIL => {
                let term = cursor.skip()?;
                self.out.extend_from_slice(term);
            }
            tag::BIT_BINARY => self.bits(cursor)?,
            tag::SMALL_TUPLE | tag::LARGE_TUPLE => {
                let arity = cursor.tuple()?;
                crate::encode::tuple(self.out, arity);
                self.begin(Open::Plain(u64::from(arity)));
            }
            tag::STRING | tag::LIST => self.list(cursor)?,
            tag::MAP => self.map(cursor)?,
            tag::NEW_PID => {
                cursor.u8()?;
                self.out.push(tag);
                self.atom(cursor)?;
                self.out.extend_from_slice(cursor.bytes(12)?);
            }
            tag::NEW_PORT | tag::V4_PORT => self.port(cursor, tag)?,
            tag::NEWER_REFERENCE => {
                cursor.u8()?;
                let words = cursor.u16()?;
                self.out.push(tag);
                self.out.extend(words.to_be_bytes());
                self.atom(cursor)?;
                self.out.extend_from_slice(cursor.bytes(4 + 4 * usize::from(words))?);
            }
            tag::EXPORT => {
                cursor.u8()?;
                self.out.push(tag);
                self.begin(Open::Plain(3));
            }
            tag::NEW_FUN => {
                self.found.local_funs = true;
                cursor.u8()?;
                cursor.u32()?;
                self.out.push(tag);
                let size_at = self.out.len();
                self.out.extend([0; 4]);
                self.out.extend_from_slice(cursor.bytes(1 + 16 + 4)?);
                let free = cursor.u32()?;
                self.out.extend(free.to_be_bytes());
                self.begin(Open::Fun { left: u64::from(free) + 4, size_at });
            }
            other => return Err(ReadError::UnknownTag(other)),
        }
        Ok(())
    }

    /// Begins a container. It replaces a container of which it is the last part, so that long
    /// chains need no room.
    fn begin(&mut self, container: Open<'a>) {
        if let Some(Open::Plain(0)) = self.open.last() {
            self.open.pop();
        }
        self.open.push(container);
    }

    fn port(&mut self, cursor: &mut Reader<'a>, came: u8) -> Result<(), ReadError> {
        /// The number of bits of the largest port number that OTP 25 writes in the narrow encoding.
        const NARROW_BITS: u32 = 28;
        self.found.ports = true;
        cursor.u8()?;
        let mut after = *cursor;
        after.skip()?;
        let number = match came {
            tag::NEW_PORT => u64::from(after.u32()?),
            _ => u64::from(after.u32()?) << 32 | u64::from(after.u32()?),
        };
        let wide = match self.form.ports {
            Ports::AsTheyCame => came == tag::V4_PORT,
            Ports::Narrow => number >> NARROW_BITS != 0,
            Ports::Wide => true,
        };
        self.out.push(if wide { tag::V4_PORT } else { tag::NEW_PORT });
        self.atom(cursor)?;
        *cursor = after;
        match u32::try_from(number) {
            Ok(number) if !wide => self.out.extend(number.to_be_bytes()),
            _ => self.out.extend(number.to_be_bytes()),
        }
        // The creation.
        self.out.extend_from_slice(cursor.bytes(4)?);
        Ok(())
    }

    fn atom(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        if self.form.atoms == Atoms::Utf8 && cursor.peek_tag()? == tag::SMALL_ATOM_UTF8 {
            let term = cursor.skip()?;
            self.out.extend_from_slice(term);
            return Ok(());
        }
        let text = cursor.atom()?;
        if self.form.atoms == Atoms::Latin1 && text.chars().all(|c| u32::from(c) < 256) {
            self.out.push(tag::ATOM_LATIN1);
            self.out.extend((text.chars().count() as u16).to_be_bytes());
            // The check above has found every character to be below 256.
            self.out.extend(text.chars().map(|c| c as u8));
        } else {
            crate::encode::atom(self.out, &text);
        }
        Ok(())
    }

    fn integer(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        let mut small = *cursor;
        if let Ok(value) = small.integer() {
            *cursor = small;
            crate::encode::int(self.out, value);
            return Ok(());
        }
        let tag = cursor.u8()?;
        let len = match tag {
            tag::SMALL_BIG => usize::from(cursor.u8()?),
            _ => cursor.len32()?,
        };
        let sign = cursor.u8()?;
        let magnitude = cursor.bytes(len)?;
        let used = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match u8::try_from(used) {
            Ok(used) => self.out.extend([tag::SMALL_BIG, used]),
            Err(_) => {
                self.out.push(tag::LARGE_BIG);
                self.out.extend((used as u32).to_be_bytes());
            }
        }
        self.out.push(u8::from(sign != 0));
        self.out.extend_from_slice(magnitude.get(..used).unwrap_or_default());
        Ok(())
    }

    /// Writes a bit string. The unused bits of its last byte are written as 0, and whole bytes are
    /// written as a binary.
    fn bits(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        cursor.u8()?;
        let len = cursor.len32()?;
        let used = cursor.u8()?;
        let bytes = cursor.bytes(len)?;
        if used >= 8 {
            crate::encode::binary(self.out, bytes);
            return Ok(());
        }
        self.out.push(tag::BIT_BINARY);
        self.out.extend((len as u32).to_be_bytes());
        self.out.push(used);
        self.out.extend_from_slice(bytes);
        if let Some(last) = self.out.last_mut() {
            *last &= !(0xff >> used);
        }
        Ok(())
    }

    /// Writes a list. A proper list of up to 65535 bytes is written as a string.
    fn list(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        // A list without elements is equal to its tail, which may be such a list again.
        self.effort.pass_empty_lists(cursor)?;
        if !matches!(cursor.peek_tag()?, tag::LIST | tag::STRING) {
            return self.head(cursor);
        }
        let start = self.out.len();
        self.out.extend([tag::STRING, 0, 0]);
        let mut ahead = *cursor;
        if self.string(&mut ahead)? {
            let len = self.out.len() - start - 3;
            match u16::try_from(len) {
                Ok(0) => {
                    self.out.truncate(start);
                    self.out.push(tag::NIL);
                }
                Ok(len) => {
                    if let Some(place) = self.out.get_mut(start + 1..start + 3) {
                        place.copy_from_slice(&len.to_be_bytes());
                    }
                }
                Err(_) => {
                    let bytes = self.out.split_off(start + 3);
                    self.out.truncate(start);
                    self.out.push(tag::LIST);
                    self.out.extend((len as u32).to_be_bytes());
                    for byte in bytes {
                        self.out.extend([tag::SMALL_INTEGER, byte]);
                    }
                    self.out.push(tag::NIL);
                }
            }
            *cursor = ahead;
            return Ok(());
        }
        self.out.truncate(start);
        if cursor.peek_tag()? == tag::STRING {
            // This is not reached for a scanned term, in which a string tag always begins a string.
            return Err(ReadError::Malformed("string"));
        }
        cursor.u8()?;
        let left = cursor.u32()?;
        self.out.push(tag::LIST);
        let count_at = self.out.len();
        self.out.extend([0; 4]);
        self.begin(Open::List { left, written: left, count_at });
        Ok(())
    }

    /// Copies the bytes of a list. Returns false if an element is not a byte.
    fn string(&mut self, cursor: &mut Reader<'a>) -> Result<bool, ReadError> {
        loop {
            match cursor.peek_tag()? {
                tag::NIL => {
                    cursor.u8()?;
                    return Ok(true);
                }
                tag::STRING => {
                    let bytes = cursor.string()?;
                    self.out.extend_from_slice(bytes);
                    return Ok(true);
                }
                tag::LIST => {
                    self.effort.spend()?;
                    cursor.u8()?;
                    for _ in 0..cursor.u32()? {
                        self.effort.spend_for(number::length(cursor)?)?;
                        let Ok(byte) = integer_byte(cursor) else { return Ok(false) };
                        self.out.push(byte);
                    }
                }
                _ => return Ok(false),
            }
        }
    }

    fn map(&mut self, cursor: &mut Reader<'a>) -> Result<(), ReadError> {
        let count = cursor.map()?;
        self.out.push(tag::MAP);
        self.out.extend(count.to_be_bytes());
        if count < 2 {
            self.begin(Open::Plain(u64::from(count) * 2));
            return Ok(());
        }
        let mut after = *cursor;
        let mut sorted = true;
        let mut pairs: Vec<Pair<'a>> = Vec::new();
        for _ in 0..count {
            let pair =
                Pair { key: self.effort.skip(&mut after)?, value: self.effort.skip(&mut after)? };
            if let Some(last) = pairs.last() {
                sorted = sorted
                    && order::compare_with(&mut self.effort, last.key, pair.key, Order::Keys)?
                        .is_lt();
            }
            pairs.push(pair);
        }
        if sorted {
            self.begin(Open::Plain(u64::from(count) * 2));
            return Ok(());
        }
        let effort = &mut self.effort;
        sort_by(&mut pairs, |a, b| order::compare_with(effort, a.key, b.key, Order::Keys))?;
        self.begin(Open::Map { pairs, next: 0, after });
        Ok(())
    }
}

fn integer_byte(cursor: &mut Reader<'_>) -> Result<u8, ReadError> {
    let mut ahead = *cursor;
    let byte = u8::try_from(ahead.integer()?).map_err(|_| ReadError::IntegerRange)?;
    *cursor = ahead;
    Ok(byte)
}
