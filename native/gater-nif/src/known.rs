//! A cache of each thread for the terms that it has written: the texts of atoms, and the order of
//! sets of keys.
//!
//! Both caches are keyed by the words of atoms. The word of an atom is never the word of another
//! atom or of any other term, as long as the runtime lives. The caches are bounded, and new entries
//! replace older ones.

use crate::terms::{MAX_ATOM, Terms, Word};

const ATOMS: usize = 1024;
const ORDERS: usize = 64;
/// The greatest number of keys in a set whose order is cached. The positions of keys are stored in
/// bytes.
const MAX_KEYS: usize = 128;
/// The greatest length of an encoded atom that is cached; longer atoms are rare.
const SHORT: usize = 40;

/// The encoded start of a pair.
pub const PAIR: [u8; 2] = [104, 2];

/// An atom that begins a pair, in its encoding: 104, 2, 119, its length and its text.
#[derive(Clone, Copy)]
pub struct Short {
    /// The word of the atom. 0 is not the word of any atom.
    word: usize,
    /// The encoding, padded. Copying all of it is faster than copying the bytes in use.
    pub bytes: [u8; 2 + SHORT],
}

impl Short {
    /// Returns the number of bytes in use.
    #[inline]
    pub fn len(&self) -> usize {
        4 + usize::from(self.bytes[3])
    }

    /// Returns the encoded atom without the start of the pair.
    #[inline]
    pub fn atom(&self) -> &[u8; SHORT] {
        self.bytes.last_chunk().unwrap_or(&[0; SHORT])
    }

    /// Returns the text of the atom.
    pub fn name(&self) -> &[u8] {
        self.bytes.get(4..self.len()).unwrap_or_default()
    }
}

/// A cache of the texts of atoms.
pub struct Atoms {
    shorts: Box<[Short]>,
    /// The last atom that was too long to be cached.
    long: [u8; 2 + MAX_ATOM + 1],
}

/// An atom in ASCII.
pub enum Known<'k> {
    Short(&'k Short),
    /// The encoded atom.
    Long(&'k [u8]),
}

impl Known<'_> {
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Short(short) => short.name(),
            Self::Long(bytes) => bytes.get(2..).unwrap_or_default(),
        }
    }
}

impl Atoms {
    pub fn new() -> Self {
        let mut none = Short { word: 0, bytes: [0; 2 + SHORT] };
        none.bytes[..2].copy_from_slice(&PAIR);
        Self { shorts: vec![none; ATOMS].into(), long: [0; 2 + MAX_ATOM + 1] }
    }

    /// Returns a cached atom. `None` says nothing about the term.
    #[inline]
    pub fn known(&self, word: Word<'_>) -> Option<&Short> {
        let short = self.shorts.get(place(word.bits() as u64, ATOMS))?;
        (short.word == word.bits()).then_some(short)
    }

    /// Returns the text of an atom, from the cache or the runtime. Returns `None` if the term is
    /// not an atom or its text is not ASCII.
    #[inline]
    pub fn get<'a>(&mut self, terms: Terms<'a>, word: Word<'a>) -> Option<Known<'_>> {
        let place = place(word.bits() as u64, ATOMS);
        if self.shorts.get(place)?.word != word.bits() {
            return self.look_up(terms, word, place);
        }
        self.shorts.get(place).map(Known::Short)
    }

    #[cold]
    fn look_up<'a>(&mut self, terms: Terms<'a>, word: Word<'a>, place: usize) -> Option<Known<'_>> {
        let (head, text) = self.long.split_first_chunk_mut::<2>()?;
        let text = text.first_chunk_mut()?;
        let length = terms.atom(word, text)?;
        *head = [119, u8::try_from(length).ok()?];
        let encoded = self.long.get(..2 + length)?;
        if !encoded.get(2..)?.is_ascii() {
            return None;
        }
        let short = self.shorts.get_mut(place)?;
        match short.bytes.get_mut(2..2 + encoded.len()) {
            Some(bytes) => {
                bytes.copy_from_slice(encoded);
                short.word = word.bits();
                Some(Known::Short(short))
            }
            None => Some(Known::Long(encoded)),
        }
    }
}

/// The order of a set of keys, which are all atoms.
#[derive(Default)]
pub struct Order {
    /// The keys in the order in which the runtime iterates over them.
    keys: Vec<usize>,
    /// The positions of the keys, in the order of their names.
    pub places: Vec<u8>,
    /// The number of names before `signed_at`.
    pub before: usize,
}

/// A cache of the orders of sets of keys.
pub struct Orders(Box<[Order]>);

impl Orders {
    pub fn new() -> Self {
        Self(std::iter::repeat_with(Order::default).take(ORDERS).collect())
    }

    /// Returns the cached order of the keys of `pairs`.
    pub fn get(&self, pairs: &[(Word<'_>, Word<'_>)]) -> Option<&Order> {
        let order = self.0.get(slot(pairs))?;
        let same = order.keys.len() == pairs.len()
            && order.keys.iter().zip(pairs).all(|(known, (key, _))| *known == key.bits());
        same.then_some(order)
    }

    /// Caches an order. All keys must be atoms.
    pub fn put(
        &mut self,
        pairs: &[(Word<'_>, Word<'_>)],
        places: impl Iterator<Item = usize>,
        before: usize,
    ) {
        if pairs.len() > MAX_KEYS {
            return;
        }
        if let Some(order) = self.0.get_mut(slot(pairs)) {
            order.keys.clear();
            order.keys.extend(pairs.iter().map(|(key, _)| key.bits()));
            order.places.clear();
            order.places.extend(places.map(|place| place as u8));
            order.before = before;
        }
    }
}

fn slot(pairs: &[(Word<'_>, Word<'_>)]) -> usize {
    // The hash is a sum of squares, so that no product depends on the previous one.
    let hash = pairs.iter().fold(0_u64, |hash, (key, _)| {
        let bits = key.bits() as u64;
        hash.wrapping_add(bits.wrapping_mul(bits))
    });
    place(hash, ORDERS)
}

/// 2^64 divided by the golden ratio, which spreads consecutive values.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn place(bits: u64, places: usize) -> usize {
    (bits.wrapping_mul(SPREAD) >> 32) as usize & (places - 1)
}
