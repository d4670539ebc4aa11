//! The encoded names of all stores: a list whose cost depends on its length, however often names
//! are added and removed between two answers.

use bytes::Bytes;
use gater_term::{Atom, encode};

/// The number of names above which a block is split in two.
const MAX_NAMES: usize = 512;

/// A sorted set of names.
///
/// Invariants: no block is empty; names increase within blocks and from one block to the next;
/// `encoded` of a block is the concatenation of its encoded names; `list`, if present, is the
/// encoding of all names.
#[derive(Debug, Default)]
pub struct StoreNames {
    blocks: Vec<Block>,
    len: usize,
    list: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Block {
    names: Vec<Atom>,
    encoded: Vec<u8>,
}

impl StoreNames {
    /// Adds a name unless it is in the set.
    pub fn insert(&mut self, name: &Atom) {
        if self.blocks.is_empty() {
            self.blocks.push(Block::default());
        }
        let at = self.block_of(name);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Err(place) = block.names.binary_search(name) else { return };
        let offset = block.offset(place);
        block.encoded.splice(offset..offset, encoded(name));
        block.names.insert(place, name.clone());
        if block.names.len() > MAX_NAMES {
            let half = block.names.len() / 2;
            let offset = block.offset(half);
            let names = block.names.split_off(half);
            let encoded = block.encoded.split_off(offset);
            self.blocks.insert(at + 1, Block { names, encoded });
        }
        self.len += 1;
        self.list = None;
    }

    /// Removes a name if it is in the set.
    pub fn remove(&mut self, name: &Atom) {
        let at = self.block_of(name);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Ok(place) = block.names.binary_search(name) else { return };
        let (start, end) = (block.offset(place), block.offset(place + 1));
        block.encoded.drain(start..end);
        block.names.remove(place);
        if block.names.is_empty() {
            self.blocks.remove(at);
        }
        self.len -= 1;
        self.list = None;
    }

    /// Returns the encoded, sorted list of the names.
    pub fn list(&mut self) -> Bytes {
        let Self { blocks, len, list } = self;
        list.get_or_insert_with(|| {
            let bytes: usize = blocks.iter().map(|block| block.encoded.len()).sum();
            let mut out = Vec::with_capacity(bytes + 8);
            if *len > 0 {
                encode::list(&mut out, u32::try_from(*len).unwrap_or(u32::MAX));
                blocks.iter().for_each(|block| out.extend_from_slice(&block.encoded));
            }
            encode::nil(&mut out);
            out.into()
        })
        .clone()
    }

    /// Returns the block that contains the name or would contain it.
    fn block_of(&self, name: &Atom) -> usize {
        let after = |block: &Block| block.names.first().is_some_and(|first| first <= name);
        self.blocks.partition_point(after).saturating_sub(1)
    }
}

impl Block {
    /// Returns the offset of the name at `place` in `encoded`.
    fn offset(&self, place: usize) -> usize {
        let before = self.names.get(..place).unwrap_or(&self.names);
        before.iter().map(encoded_len).sum()
    }
}

/// Returns the length of an encoded name, whose length field takes one byte or two.
fn encoded_len(name: &Atom) -> usize {
    let len = name.as_str().len();
    len + if u8::try_from(len).is_ok() { 2 } else { 3 }
}

fn encoded(name: &Atom) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.as_str().len() + 3);
    encode::atom(&mut out, name.as_str());
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(number: u32) -> Atom {
        // The names have different lengths.
        Atom::new(&format!("{number}{}", "ü".repeat(number as usize % 40 * 6))).unwrap()
    }

    #[test]
    fn the_list_is_that_of_a_plain_set_whatever_comes_and_goes() {
        let (mut names, mut model) = (StoreNames::default(), BTreeSet::new());
        let mut number = 1_u32;
        for step in 0..20_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let name = name((number >> 8) % 3_000);
            // The set first grows and then shrinks.
            if (number >> 28) < if step < 10_000 { 11 } else { 4 } {
                names.insert(&name);
                model.insert(name);
            } else {
                names.remove(&name);
                model.remove(&name);
            }
            if step % 500 == 0 || step > 19_990 {
                let mut out = Vec::new();
                encode::list_of(&mut out, model.iter(), |out, n| encode::atom(out, n.as_str()));
                assert_eq!(names.list(), out, "step {step}");
                assert!(names.blocks.iter().all(|b| (1..=MAX_NAMES).contains(&b.names.len())));
            }
        }
        for name in model {
            names.remove(&name);
        }
        assert_eq!(names.list(), vec![106]);
        assert!(names.blocks.is_empty());
    }
}
