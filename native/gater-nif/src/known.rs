//! What a thread remembers of the terms it has written: the texts of atoms, and the order of
//! sets of keys.
//!
//! Both go by the words of atoms, which are no other atom's, nor any other term's, for as long
//! as the runtime lives. What is remembered is bounded, and the newest displaces the older.

use crate::terms::{MAX_ATOM, Terms, Word};

const ATOMS: usize = 1024;
const ORDERS: usize = 64;
/// Keys in a set whose order is remembered; their places are bytes.
const MAX_KEYS: usize = 128;
/// Bytes of an encoded atom that is remembered: longer ones are rare.
const SHORT: usize = 40;

/// How a pair begins, as it is encoded.
pub const PAIR: [u8; 2] = [104, 2];

/// An atom that begins a pair, as it is encoded: 104, 2, 119, its length and its text.
#[derive(Clone, Copy)]
pub struct Short {
    /// No atom is 0.
    word: usize,
    /// All of them may be copied, which is faster than as many as count.
    pub bytes: [u8; 2 + SHORT],
}

impl Short {
    /// How many bytes count.
    #[inline]
    pub fn len(&self) -> usize {
        4 + usize::from(self.bytes[3])
    }

    /// The atom without the pair.
    #[inline]
    pub fn atom(&self) -> &[u8; SHORT] {
        self.bytes.last_chunk().unwrap_or(&[0; SHORT])
    }

    /// The text.
    pub fn name(&self) -> &[u8] {
        self.bytes.get(4..self.len()).unwrap_or_default()
    }
}

/// Texts of atoms.
pub struct Atoms {
    shorts: Box<[Short]>,
    /// The last one that is longer.
    long: [u8; 2 + MAX_ATOM + 1],
}

/// An atom in ASCII.
pub enum Known<'k> {
    Short(&'k Short),
    /// As it is encoded.
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

    /// `None` if it is not remembered, whatever it is.
    #[inline]
    pub fn known(&self, word: Word<'_>) -> Option<&Short> {
        let short = self.shorts.get(place(word.bits() as u64, ATOMS))?;
        (short.word == word.bits()).then_some(short)
    }

    /// `None` if it is no atom, or not in ASCII.
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

/// The order of a set of keys, all atoms.
#[derive(Default)]
pub struct Order {
    /// As the runtime gives them.
    keys: Vec<usize>,
    /// Their places, in the order of their names.
    pub places: Vec<u8>,
    /// How many names come before a certain one.
    pub before: usize,
}

/// Orders of sets of keys.
pub struct Orders(Box<[Order]>);

impl Orders {
    pub fn new() -> Self {
        Self(std::iter::repeat_with(Order::default).take(ORDERS).collect())
    }

    /// The order of the keys of `pairs`.
    pub fn get(&self, pairs: &[(Word<'_>, Word<'_>)]) -> Option<&Order> {
        let order = self.0.get(slot(pairs))?;
        let same = order.keys.len() == pairs.len()
            && order.keys.iter().zip(pairs).all(|(known, (key, _))| *known == key.bits());
        same.then_some(order)
    }

    /// Remembers an order. The keys must be atoms.
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
    // A sum, for which no product waits for another.
    let hash = pairs.iter().fold(0_u64, |hash, (key, _)| {
        let bits = key.bits() as u64;
        hash.wrapping_add(bits.wrapping_mul(bits))
    });
    place(hash, ORDERS)
}

/// 2^64 over the golden ratio: what follows each other is spread.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn place(bits: u64, places: usize) -> usize {
    (bits.wrapping_mul(SPREAD) >> 32) as usize & (places - 1)
}
