//! The canonical form of a map, written from the term itself.
//!
//! This path handles the terms of which most messages consist: atoms in ASCII, integers of 64 bits,
//! floats, binaries, lists, tuples, and maps whose keys are all atoms or all binaries. It saves
//! encoding the map with `term_to_binary` and reading the encoding; all other terms take that way.

use std::cell::RefCell;
use std::cmp::Ordering;

use gater_core::sign::{Key, Signing};
use rustler::Term;
use rustler::sys::ErlNifTermType as Kind;

use crate::known::{Atoms, Known, Orders, PAIR};
use crate::terms::{Terms, Word};

/// The version byte that starts an external term.
pub const VERSION: u8 = 131;
/// The greatest number of bytes, about 50 µs of hashing. A longer message is for a dirty scheduler.
const MAX_BYTES: usize = 64 << 10;
/// The greatest number of terms. A message with more terms is for a dirty scheduler, too.
const MAX_TERMS: usize = 4096;
/// The greatest depth of nested terms.
const MAX_DEPTH: u32 = 32;

/// A binary of at least this many bytes is hashed in place.
const LONG_BYTES: usize = 1024;
/// The greatest number of bytes that are written between two checks for room: a list of bytes, and
/// the key that follows it.
const MAX_PIECE: usize = MAX_TERMS + 1024;

const SIGNED_AT: &[u8] = b"signed_at";

rustler::atoms! {
    signature,
    signed_at,
}

/// A map whose canonical form was hashed, and the values that verification needs.
pub struct Canonical<'a> {
    /// The signature over the canonical form.
    pub signing: Signing,
    /// The value of `signature`, which is not part of the signed bytes.
    pub signature: Option<Term<'a>>,
    /// The value of `signed_at`.
    pub signed_at: Option<Term<'a>>,
}

/// The buffers that a thread keeps between calls: about 70 KiB, and 350 KiB at most.
struct Scratch {
    out: Out,
    atoms: Atoms,
    orders: Orders,
    /// The names of keys that are being sorted.
    names: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        out: Out { bytes: vec![0; 2 * MAX_PIECE].into(), used: 0, lacking: false },
        atoms: Atoms::new(),
        orders: Orders::new(),
        names: Vec::new(),
    });
}

/// Hashes the canonical form of `map` with `key`. The form lacks `signature`; its `signed_at` is
/// the value in the map, or `now` if that is given. Returns `None` if the map has to be encoded
/// first.
pub fn canonical<'a>(map: Term<'a>, key: &Key, now: Option<u64>) -> Option<Canonical<'a>> {
    SCRATCH.with(|scratch| {
        let mut scratch = scratch.try_borrow_mut().ok()?;
        let (terms, map) = Terms::of(map);
        scratch.out.used = 0;
        scratch.out.lacking = false;
        Writer {
            env: terms,
            signing: key.begin(),
            hashed: 0,
            scratch: &mut scratch,
            pairs: Vec::with_capacity(128),
            elements: Vec::with_capacity(32),
            terms: 0,
        }
        .message(map, now)
    })
}

/// A buffer of bytes that are still to be hashed.
struct Out {
    bytes: Box<[u8]>,
    used: usize,
    /// Whether a write found no room. Writers check for room beforehand, so this stays false.
    lacking: bool,
}

impl Out {
    fn written(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.put_first(bytes, N);
    }

    /// Writes the first `count` of the bytes. Copying a constant number of them is faster.
    #[inline]
    fn put_first<const N: usize>(&mut self, bytes: &[u8; N], count: usize) {
        match self.bytes.get_mut(self.used..).and_then(|room| room.first_chunk_mut::<N>()) {
            Some(room) => {
                *room = *bytes;
                self.used += count;
            }
            None => self.lacking = true,
        }
    }

    fn put_all(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.used..self.used + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.used += bytes.len();
            }
            None => self.lacking = true,
        }
    }

    /// Writes a tag and a number of 32 bits.
    #[inline]
    fn put_head(&mut self, tag: u8, number: u32) {
        let [a, b, c, d] = number.to_be_bytes();
        self.put(&[tag, a, b, c, d]);
    }

    fn integer(&mut self, value: i64) {
        if let Ok(small) = u8::try_from(value) {
            self.put(&[97, small]);
        } else if let Ok(word) = i32::try_from(value) {
            self.put_head(98, word.cast_unsigned());
        } else {
            self.big(u8::from(value < 0), value.unsigned_abs());
        }
    }

    fn big(&mut self, sign: u8, magnitude: u64) {
        let used = 8 - magnitude.leading_zeros() as usize / 8;
        self.put(&[110, used as u8, sign]);
        self.put_first(&magnitude.to_le_bytes(), used);
    }

    /// Writes `{signed_at, Time}`.
    fn time(&mut self, time: u64) {
        self.put(&[104, 2, 119, SIGNED_AT.len() as u8]);
        self.put_all(SIGNED_AT);
        match i64::try_from(time) {
            Ok(time) => self.integer(time),
            Err(_) => self.big(0, time),
        }
    }
}

struct Writer<'a, 's> {
    env: Terms<'a>,
    signing: Signing,
    /// The number of bytes that were hashed.
    hashed: usize,
    /// The buffers, which hold among other things the bytes to be hashed next.
    scratch: &'s mut Scratch,
    /// The pairs of the maps that are being written: first as they come, then in key order.
    pairs: Vec<(Word<'a>, Word<'a>)>,
    /// The elements of the lists that are being written.
    elements: Vec<Word<'a>>,
    terms: usize,
}

/// The range of a map's sorted pairs among the pairs of the writer.
struct Sorted {
    from: usize,
    to: usize,
    /// The number of pairs before `signed_at`.
    before: usize,
}

impl<'a> Writer<'a, '_> {
    /// Writes `[{Key, Value}]`.
    fn message(mut self, map: Word<'a>, now: Option<u64>) -> Option<Canonical<'a>> {
        let sorted = self.sorted(map)?;
        self.enter(sorted.to - sorted.from, 1)?;
        let (mut signature, mut signed_at) = (None, None);
        let (signature_key, signed_at_key) = (self::signature(), self::signed_at());
        for (key, value) in self.pairs.get(sorted.from..sorted.to)? {
            if key.is(signature_key) {
                signature = Some(*value);
            } else if key.is(signed_at_key) {
                signed_at = Some(*value);
            }
        }
        let count = sorted.to - sorted.from - usize::from(signature.is_some())
            + usize::from(now.is_some() && signed_at.is_none());
        if count == 0 {
            return None;
        }
        // All keys are of the same kind as the first.
        if let (Some(_), Some((key, _))) = (now, self.pairs.get(sorted.from))
            && !matches!(self.env.kind(*key), Kind::ERL_NIF_TERM_TYPE_ATOM)
        {
            return None;
        }
        self.scratch.out.put(&[VERSION]);
        self.scratch.out.put_head(108, u32::try_from(count).ok()?);
        let time_at = sorted.from + sorted.before;
        for at in sorted.from..=sorted.to {
            if let Some(time) = now
                && at == time_at
            {
                self.scratch.out.time(time);
            }
            let Some((key, value)) = self.pairs.get(at).copied().filter(|_| at < sorted.to) else {
                break;
            };
            if key.is(signature_key) || now.is_some() && key.is(signed_at_key) {
                continue;
            }
            self.pair(key, value)?;
        }
        self.scratch.out.put(&[106]);
        self.hash();
        if self.scratch.out.lacking || self.hashed > MAX_BYTES {
            return None;
        }
        let term = |word| self.env.term(word);
        Some(Canonical {
            signature: signature.map(term),
            signed_at: signed_at.map(term),
            signing: self.signing,
        })
    }

    fn hash(&mut self) {
        self.signing.update(self.scratch.out.written());
        self.hashed += self.scratch.out.used;
        self.scratch.out.used = 0;
    }

    /// Appends the pairs of a map to those of the writer, in the order of their keys, and returns
    /// their range.
    fn sorted(&mut self, map: Word<'a>) -> Option<Sorted> {
        let start = self.pairs.len();
        self.env.pairs(map, MAX_TERMS, &mut self.pairs)?;
        let from = self.pairs.len();
        let sorted = |before| Some(Sorted { from, to: 2 * from - start, before });
        let unsorted = self.pairs.get(start..)?;
        if let Some(order) = self.scratch.orders.get(unsorted) {
            for place in &order.places {
                let pair = *self.pairs.get(start + usize::from(*place))?;
                self.pairs.push(pair);
            }
            return sorted(order.before);
        }
        let before = self.sort(start)?;
        sorted(before)
    }

    /// Appends the pairs from `start` on in the order of their keys. Returns the number of pairs
    /// before `signed_at`.
    #[inline(never)]
    fn sort(&mut self, start: usize) -> Option<usize> {
        let unsorted = self.pairs.get(start..)?;
        let names = &mut self.scratch.names;
        names.clear();
        let mut keys = Vec::with_capacity(unsorted.len());
        let mut atoms = None;
        for (place, (key, _)) in unsorted.iter().enumerate() {
            let from = names.len();
            let atom = self.scratch.atoms.get(self.env, *key);
            let is_atom = atom.is_some();
            let name = match &atom {
                Some(atom) => atom.name(),
                None => self.env.binary(*key)?,
            };
            // The size is checked first, since the buffer is kept between calls.
            if names.len() + name.len() > MAX_BYTES || *atoms.get_or_insert(is_atom) != is_atom {
                return None;
            }
            names.extend_from_slice(name);
            keys.push(Name { prefix: prefix(names.get(from..)?), from, to: names.len(), place });
        }
        keys.sort_unstable_by(|one, other| one.order(other, names));
        let before = keys.partition_point(|key| key.text(names) < SIGNED_AT);
        if atoms == Some(true) {
            let places = keys.iter().map(|key| key.place);
            self.scratch.orders.put(unsorted, places, before);
        }
        for key in &keys {
            let pair = *self.pairs.get(start + key.place)?;
            self.pairs.push(pair);
        }
        Some(before)
    }

    /// Writes `{Key, Value}`.
    #[inline]
    fn pair(&mut self, key: Word<'a>, value: Word<'a>) -> Option<()> {
        match self.scratch.atoms.get(self.env, key) {
            Some(Known::Short(short)) => self.scratch.out.put_first(&short.bytes, short.len()),
            Some(Known::Long(bytes)) => {
                self.scratch.out.put(&PAIR);
                self.scratch.out.put_all(bytes);
            }
            None => {
                self.scratch.out.put(&PAIR);
                self.binary(key)?;
            }
        }
        self.term(value, 1)
    }

    #[inline]
    fn atom(&mut self, atom: Word<'a>) -> Option<()> {
        match self.scratch.atoms.get(self.env, atom)? {
            Known::Short(short) => self.scratch.out.put_first(short.atom(), short.len() - 2),
            Known::Long(bytes) => self.scratch.out.put_all(bytes),
        }
        Some(())
    }

    fn binary(&mut self, binary: Word<'a>) -> Option<()> {
        let bytes = self.env.binary(binary)?;
        if bytes.len() > MAX_BYTES {
            return None;
        }
        self.room()?;
        self.scratch.out.put_head(109, u32::try_from(bytes.len()).ok()?);
        if bytes.len() < LONG_BYTES {
            self.scratch.out.put_all(bytes);
        } else {
            self.hash();
            self.hashed += bytes.len();
            self.signing.update(bytes);
        }
        Some(())
    }

    /// Makes room for one piece. Returns `None` if the message has too many bytes.
    #[inline]
    fn room(&mut self) -> Option<()> {
        if self.scratch.out.used > self.scratch.out.bytes.len() - MAX_PIECE {
            self.hash();
        }
        (self.hashed <= MAX_BYTES).then_some(())
    }

    /// Counts `terms` nested terms at a depth. Returns `None` if there are too many or they are too
    /// deep.
    fn enter(&mut self, terms: usize, depth: u32) -> Option<()> {
        self.terms += terms;
        (self.terms <= MAX_TERMS && depth <= MAX_DEPTH).then_some(())
    }

    #[inline]
    fn term(&mut self, term: Word<'a>, depth: u32) -> Option<()> {
        self.room()?;
        // Asking the runtime for the type of a term takes longer than looking it up among known
        // atoms.
        if let Some(short) = self.scratch.atoms.known(term) {
            self.scratch.out.put_first(short.atom(), short.len() - 2);
            return Some(());
        }
        match self.env.kind(term) {
            Kind::ERL_NIF_TERM_TYPE_ATOM => self.atom(term),
            Kind::ERL_NIF_TERM_TYPE_BITSTRING => self.binary(term),
            Kind::ERL_NIF_TERM_TYPE_INTEGER => {
                self.scratch.out.integer(self.env.integer(term)?);
                Some(())
            }
            Kind::ERL_NIF_TERM_TYPE_FLOAT => {
                let [a, b, c, d, e, f, g, h] = self.env.float(term)?.to_be_bytes();
                self.scratch.out.put(&[70, a, b, c, d, e, f, g, h]);
                Some(())
            }
            kind => self.compound(kind, term, depth + 1),
        }
    }

    /// Writes a term that contains terms at this depth.
    #[inline(never)]
    fn compound(&mut self, kind: Kind, term: Word<'a>, depth: u32) -> Option<()> {
        match kind {
            Kind::ERL_NIF_TERM_TYPE_LIST => self.list(term, depth),
            Kind::ERL_NIF_TERM_TYPE_TUPLE => {
                let elements = self.env.tuple(term)?;
                self.enter(elements.len(), depth)?;
                self.scratch.out.put(&[104, u8::try_from(elements.len()).ok()?]);
                for element in elements {
                    self.term(*element, depth)?;
                }
                Some(())
            }
            Kind::ERL_NIF_TERM_TYPE_MAP => {
                let start = self.pairs.len();
                let sorted = self.sorted(term)?;
                let count = sorted.to - sorted.from;
                self.enter(count, depth)?;
                self.scratch.out.put_head(116, u32::try_from(count).ok()?);
                for at in sorted.from..sorted.to {
                    let (key, value) = *self.pairs.get(at)?;
                    if self.atom(key).is_none() {
                        self.binary(key)?;
                    }
                    self.term(value, depth)?;
                }
                self.pairs.truncate(start);
                Some(())
            }
            _ => None,
        }
    }

    /// Writes a proper list. A list of bytes is written as a string.
    fn list(&mut self, list: Word<'a>, depth: u32) -> Option<()> {
        let start = self.elements.len();
        let mut rest = list;
        while !self.env.is_empty_list(rest) {
            let (head, tail) = self.env.cell(rest)?;
            if self.elements.len() > MAX_TERMS {
                return None;
            }
            self.elements.push(head);
            rest = tail;
        }
        let end = self.elements.len();
        let length = end - start;
        if length == 0 {
            self.scratch.out.put(&[106]);
            return Some(());
        }
        self.enter(length, depth)?;
        if !self.string(start)? {
            self.scratch.out.put_head(108, u32::try_from(length).ok()?);
            for at in start..end {
                let element = *self.elements.get(at)?;
                self.term(element, depth)?;
            }
            self.scratch.out.put(&[106]);
        }
        self.elements.truncate(start);
        Some(())
    }

    /// Writes the elements from `start` on as a string if they are all bytes. Returns whether they
    /// are.
    fn string(&mut self, start: usize) -> Option<bool> {
        let used = self.scratch.out.used;
        let bytes = self.elements.get(start..)?;
        if self.scratch.atoms.known(*bytes.first()?).is_some() {
            return Some(false);
        }
        let [high, low] = u16::try_from(bytes.len()).ok()?.to_be_bytes();
        self.scratch.out.put(&[107, high, low]);
        for byte in bytes {
            match self.env.integer(*byte).map(u8::try_from) {
                Some(Ok(byte)) => self.scratch.out.put(&[byte]),
                _ => {
                    self.scratch.out.used = used;
                    return Some(false);
                }
            }
        }
        Some(true)
    }
}

/// The name of a key that is being sorted.
struct Name {
    /// The start of the name, which is compared first.
    prefix: u128,
    from: usize,
    to: usize,
    /// The position of the pair among the unsorted pairs.
    place: usize,
}

impl Name {
    fn text<'n>(&self, names: &'n [u8]) -> &'n [u8] {
        names.get(self.from..self.to).unwrap_or_default()
    }

    fn order(&self, other: &Self, names: &[u8]) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| self.text(names).cmp(other.text(names)))
    }
}

/// Returns the first bytes of a name as a number that sorts as they do. A shorter name is padded.
fn prefix(name: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name) {
        *to = *from;
    }
    u128::from_be_bytes(bytes)
}
