//! The canonical form of a map, written from the term itself.
//!
//! For what most messages are made of: atoms in ASCII, integers of 64 bits, floats, binaries,
//! lists, tuples and maps whose keys are all atoms or all binaries. It spares the encoding by
//! `term_to_binary` and its reading; anything else goes that way.

use std::cmp::Ordering;

use gater_core::sign::{Key, Signing};
use rustler::sys::{ErlNifCharEncoding, enif_get_atom};
use rustler::types::tuple::get_tuple;
use rustler::{Binary, MapIterator, Term, TermType};

/// The version byte that starts an external term.
pub const VERSION: u8 = 131;
/// What is longer is for a dirty scheduler: some 50 µs of hashing.
const MAX_BYTES: usize = 64 << 10;
/// So is what has more terms.
const MAX_TERMS: u32 = 4096;
/// Terms inside each other.
const MAX_DEPTH: u32 = 32;
/// The longest atom, in characters.
const MAX_ATOM: usize = 255;

/// A binary of this size and more is hashed where it lies.
const LONG_BYTES: usize = 1024;

/// A map whose canonical form was hashed, and what a signature goes by.
pub struct Canonical<'a> {
    /// The signature over the form.
    pub signing: Signing,
    /// The value of `signature`, which is not among the bytes.
    pub signature: Option<Term<'a>>,
    /// The value of `signed_at`.
    pub signed_at: Option<Term<'a>>,
}

/// The canonical form of `map` without `signature` and with `signed_at` as it is, or as
/// `now` says, hashed with `key`. `None` if it has to be found another way.
pub fn canonical<'a>(map: Term<'a>, key: &Key, now: Option<u64>) -> Option<Canonical<'a>> {
    let mut writer = Writer {
        signing: key.begin(),
        hashed: 0,
        out: Vec::with_capacity(1024),
        names: Vec::with_capacity(512),
        terms: 0,
    };
    let mut pairs = writer.pairs(map)?;
    let (mut signature, mut signed_at) = (None, None);
    let names = &writer.names;
    pairs.retain(|pair| match pair.name(names) {
        b"signature" if pair.is_atom => {
            signature = Some(pair.value);
            false
        }
        b"signed_at" if pair.is_atom => {
            signed_at = Some(pair.value);
            now.is_none()
        }
        _ => true,
    });
    // Keys are of one kind, so a map of binaries has neither of the two.
    if now.is_some() && pairs.iter().any(|pair| !pair.is_atom) {
        return None;
    }
    writer.list(&mut pairs, now)?;
    writer.signing.update(&writer.out);
    Some(Canonical { signing: writer.signing, signature, signed_at })
}

/// A pair of a map. Its key lies among the names of the writer.
struct Pair<'a> {
    from: usize,
    to: usize,
    /// How the name begins, to compare by.
    prefix: u128,
    is_atom: bool,
    value: Term<'a>,
}

impl Pair<'_> {
    fn name<'n>(&self, names: &'n [u8]) -> &'n [u8] {
        names.get(self.from..self.to).unwrap_or_default()
    }

    fn order(&self, other: &Self, names: &[u8]) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| self.name(names).cmp(other.name(names)))
    }
}

struct Writer {
    signing: Signing,
    /// Bytes that were hashed.
    hashed: usize,
    /// What comes after them.
    out: Vec<u8>,
    /// The keys of the maps that are being written.
    names: Vec<u8>,
    terms: u32,
}

impl Writer {
    /// The pairs of a map in the order of their keys.
    fn pairs<'a>(&mut self, map: Term<'a>) -> Option<Vec<Pair<'a>>> {
        let size = map.map_size().ok()?;
        if size > MAX_TERMS as usize {
            return None;
        }
        let mut pairs = Vec::with_capacity(size + 1);
        let mut sorted = true;
        for (key, value) in MapIterator::new(map)? {
            let from = self.names.len();
            let is_atom = key.is_atom();
            if is_atom {
                atom(key, &mut self.names)?;
            } else {
                self.names.extend_from_slice(&key.decode::<Binary<'_>>().ok()?);
            }
            if self.names.len() > MAX_BYTES {
                return None;
            }
            let prefix = prefix(self.names.get(from..)?);
            let pair = Pair { from, to: self.names.len(), prefix, is_atom, value };
            if let Some(last) = pairs.last() {
                let last: &Pair<'_> = last;
                if last.is_atom != is_atom {
                    return None;
                }
                sorted &= last.order(&pair, &self.names).is_lt();
            }
            pairs.push(pair);
        }
        if !sorted {
            let names = &self.names;
            pairs.sort_unstable_by(|one, other| one.order(other, names));
        }
        Some(pairs)
    }

    /// `[{Key, Value}]` of all pairs, and of `signed_at` if there is a time.
    fn list(&mut self, pairs: &mut [Pair<'_>], now: Option<u64>) -> Option<()> {
        let count = pairs.len() + usize::from(now.is_some());
        if count == 0 {
            return None;
        }
        self.out.extend([VERSION, 108]);
        self.out.extend(u32::try_from(count).ok()?.to_be_bytes());
        let mut now = now;
        for pair in pairs {
            if let Some(time) = now
                && pair.name(&self.names) > b"signed_at".as_slice()
            {
                self.time(time);
                now = None;
            }
            self.out.extend([104, 2]);
            self.pair(pair, 1)?;
        }
        if let Some(time) = now {
            self.time(time);
        }
        self.out.push(106);
        Some(())
    }

    /// `{signed_at, Time}`
    fn time(&mut self, time: u64) {
        self.out.extend([104, 2, 119, 9]);
        self.out.extend(b"signed_at");
        match i64::try_from(time) {
            Ok(time) => self.integer(time),
            Err(_) => self.big(0, time),
        }
    }

    fn pair(&mut self, pair: &Pair<'_>, depth: u32) -> Option<()> {
        let name = self.names.get(pair.from..pair.to)?;
        if pair.is_atom {
            self.out.extend([119, u8::try_from(name.len()).ok()?]);
        } else {
            self.out.push(109);
            self.out.extend(u32::try_from(name.len()).ok()?.to_be_bytes());
        }
        self.out.extend_from_slice(name);
        self.term(pair.value, depth)
    }

    fn term(&mut self, term: Term<'_>, depth: u32) -> Option<()> {
        self.terms += 1;
        if depth > MAX_DEPTH || self.terms > MAX_TERMS || self.hashed + self.out.len() > MAX_BYTES {
            return None;
        }
        match term.get_type() {
            TermType::Atom => {
                self.out.extend([119, 0]);
                let length = atom(term, &mut self.out)?;
                let at = self.out.len().checked_sub(length + 1)?;
                *self.out.get_mut(at)? = u8::try_from(length).ok()?;
            }
            TermType::Binary => {
                let bytes = term.decode::<Binary<'_>>().ok()?;
                if bytes.len() > MAX_BYTES {
                    return None;
                }
                self.out.push(109);
                self.out.extend(u32::try_from(bytes.len()).ok()?.to_be_bytes());
                if bytes.len() < LONG_BYTES {
                    self.out.extend_from_slice(&bytes);
                } else {
                    self.hashed += self.out.len() + bytes.len();
                    self.signing.update(&self.out);
                    self.signing.update(&bytes);
                    self.out.clear();
                }
            }
            TermType::Integer => self.integer(term.decode().ok()?),
            TermType::Float => {
                self.out.push(70);
                self.out.extend(term.decode::<f64>().ok()?.to_be_bytes());
            }
            TermType::List => self.elements(term, depth)?,
            TermType::Tuple => {
                let elements = get_tuple(term).ok()?;
                match u8::try_from(elements.len()) {
                    Ok(arity) => self.out.extend([104, arity]),
                    Err(_) => return None,
                }
                for element in elements {
                    self.term(element, depth + 1)?;
                }
            }
            TermType::Map => {
                let names = self.names.len();
                let pairs = self.pairs(term)?;
                self.out.push(116);
                self.out.extend(u32::try_from(pairs.len()).ok()?.to_be_bytes());
                for pair in &pairs {
                    self.pair(pair, depth + 1)?;
                }
                self.names.truncate(names);
            }
            _ => return None,
        }
        Some(())
    }

    /// A proper list; one of bytes alone is a string.
    fn elements(&mut self, list: Term<'_>, depth: u32) -> Option<()> {
        if list.is_empty_list() {
            self.out.push(106);
            return Some(());
        }
        let length = list.list_length().ok()?;
        if length > MAX_TERMS as usize {
            return None;
        }
        let start = self.out.len();
        self.out.push(107);
        self.out.extend(u16::try_from(length).ok()?.to_be_bytes());
        let mut rest = list;
        while let Ok((head, tail)) = rest.list_get_cell() {
            let Some(byte) = head.is_integer().then(|| head.decode::<u8>().ok()).flatten() else {
                break;
            };
            self.out.push(byte);
            rest = tail;
        }
        if rest.is_empty_list() {
            self.terms += u32::try_from(length).ok()?;
            return Some(());
        }
        self.out.truncate(start);
        self.out.push(108);
        self.out.extend(u32::try_from(length).ok()?.to_be_bytes());
        let mut rest = list;
        while let Ok((head, tail)) = rest.list_get_cell() {
            self.term(head, depth + 1)?;
            rest = tail;
        }
        self.out.push(106);
        Some(())
    }

    fn integer(&mut self, value: i64) {
        if let Ok(small) = u8::try_from(value) {
            self.out.extend([97, small]);
        } else if let Ok(word) = i32::try_from(value) {
            self.out.push(98);
            self.out.extend(word.to_be_bytes());
        } else {
            self.big(u8::from(value < 0), value.unsigned_abs());
        }
    }

    fn big(&mut self, sign: u8, magnitude: u64) {
        let used = 8 - magnitude.leading_zeros() as usize / 8;
        self.out.extend([110, used as u8, sign]);
        self.out.extend(magnitude.to_le_bytes().iter().take(used));
    }
}

/// The first bytes of a name as a number of the same order; a shorter name is padded.
fn prefix(name: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name) {
        *to = *from;
    }
    u128::from_be_bytes(bytes)
}

/// Appends the text of an atom to `out`; its length. `None` if it is not ASCII.
fn atom(term: Term<'_>, out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    out.reserve(MAX_ATOM + 1);
    let spare = out.spare_capacity_mut();
    // SAFETY: the spare room is as long as is said, and at most that is written; the term is
    // of its environment. What is no atom, or has characters beyond Latin-1, gives 0.
    let written = unsafe {
        enif_get_atom(
            term.get_env().as_c_arg(),
            term.as_c_arg(),
            spare.as_mut_ptr().cast(),
            (MAX_ATOM + 1) as u32,
            ErlNifCharEncoding::ERL_NIF_LATIN1,
        )
    };
    // The end is written as a zero.
    let length = usize::try_from(written).ok()?.checked_sub(1).filter(|n| *n <= MAX_ATOM)?;
    // SAFETY: so many bytes were written after the first `start`.
    unsafe { out.set_len(start + length) };
    out.get(start..)?.is_ascii().then_some(length)
}
