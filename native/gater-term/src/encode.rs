//! A small encoder that writes terms the way OTP 26 and later write them.
//!
//! Only [`version`] writes the version byte 131. The functions are called in the order of the term:
//! `tuple(b, 2); atom(b, "ok"); int(b, 1)`.

use bytes::BufMut;

use super::tag;
use super::types::{Pid, Reference};

/// Writes the version byte that starts a term outside the distribution protocol.
pub fn version(out: &mut impl BufMut) {
    out.put_u8(tag::VERSION);
}

/// Writes bytes that are already an encoded term.
pub fn raw(out: &mut impl BufMut, term: &[u8]) {
    out.put_slice(term);
}

/// Writes an atom as UTF-8.
///
/// `text` has at most 255 characters, as every [`Atom`](super::Atom) has. A longer text is cut
/// there, so that a receiver never meets an atom that it must refuse.
pub fn atom(out: &mut impl BufMut, text: &str) {
    let text = match text.char_indices().nth(super::Atom::MAX_CHARS) {
        Some((end, _)) if text.len() > super::Atom::MAX_CHARS => text.get(..end).unwrap_or(text),
        _ => text,
    };
    let bytes = text.as_bytes();
    match u8::try_from(bytes.len()) {
        Ok(len) => {
            out.put_u8(tag::SMALL_ATOM_UTF8);
            out.put_u8(len);
        }
        Err(_) => {
            out.put_u8(tag::ATOM_UTF8);
            out.put_u16(bytes.len() as u16);
        }
    }
    out.put_slice(bytes);
}

/// Writes a binary. A term is far below 4 GiB, so the length of the binary fits in 32 bits.
pub fn binary(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u8(tag::BINARY);
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

/// Writes an integer in its shortest form.
pub fn uint(out: &mut impl BufMut, value: u64) {
    match i64::try_from(value) {
        Ok(value) => int(out, value),
        Err(_) => big(out, false, value),
    }
}

/// Writes an integer in its shortest form.
pub fn int(out: &mut impl BufMut, value: i64) {
    if let Ok(value) = u8::try_from(value) {
        out.put_u8(tag::SMALL_INTEGER);
        out.put_u8(value);
    } else if let Ok(value) = i32::try_from(value) {
        out.put_u8(tag::INTEGER);
        out.put_i32(value);
    } else {
        big(out, value < 0, value.unsigned_abs());
    }
}

fn big(out: &mut impl BufMut, negative: bool, magnitude: u64) {
    let len = 8 - magnitude.leading_zeros() as usize / 8;
    out.put_u8(tag::SMALL_BIG);
    out.put_u8(len as u8);
    out.put_u8(u8::from(negative));
    out.put_uint_le(magnitude, len);
}

/// Writes a float. Erlang has no NaN and no infinity, so both become 0.0.
pub fn float(out: &mut impl BufMut, value: f64) {
    out.put_u8(tag::NEW_FLOAT);
    out.put_f64(if value.is_finite() { value } else { 0.0 });
}

/// Starts a tuple; the caller writes its `arity` elements next.
pub fn tuple(out: &mut impl BufMut, arity: u32) {
    match u8::try_from(arity) {
        Ok(arity) => {
            out.put_u8(tag::SMALL_TUPLE);
            out.put_u8(arity);
        }
        Err(_) => {
            out.put_u8(tag::LARGE_TUPLE);
            out.put_u32(arity);
        }
    }
}

/// Starts a list of `len` elements; the caller writes the elements and then the tail, which is
/// [`nil`] for a proper list. An empty list is [`nil`] alone, so for a `len` of 0 this function
/// writes nothing.
pub fn list(out: &mut impl BufMut, len: u32) {
    if len > 0 {
        out.put_u8(tag::LIST);
        out.put_u32(len);
    }
}

/// Writes the empty list, which also ends a proper list.
pub fn nil(out: &mut impl BufMut) {
    out.put_u8(tag::NIL);
}

/// Writes a proper list with the output of `write` for each of `items`.
pub fn list_of<B: BufMut, T>(
    out: &mut B,
    items: impl ExactSizeIterator<Item = T>,
    mut write: impl FnMut(&mut B, T),
) {
    // No frame is large enough for a list of more elements.
    let len = u32::try_from(items.len()).unwrap_or(u32::MAX);
    list(out, len);
    for item in items.take(len as usize) {
        write(out, item);
    }
    nil(out);
}

/// Starts a map; the caller writes `pairs` pairs as key, value, key, value and so on.
pub fn map(out: &mut impl BufMut, pairs: u32) {
    out.put_u8(tag::MAP);
    out.put_u32(pairs);
}

/// Writes a pid.
pub fn pid(out: &mut impl BufMut, pid: &Pid) {
    out.put_u8(tag::NEW_PID);
    atom(out, pid.node.as_str());
    out.put_u32(pid.id);
    out.put_u32(pid.serial);
    out.put_u32(pid.creation);
}

/// Writes a reference.
pub fn reference(out: &mut impl BufMut, reference: &Reference) {
    let words = reference.words();
    out.put_u8(tag::NEWER_REFERENCE);
    out.put_u16(words.len() as u16);
    atom(out, reference.node().as_str());
    out.put_u32(reference.creation());
    for word in words {
        out.put_u32(*word);
    }
}
