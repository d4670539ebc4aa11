//! The atom cache of a connection: atoms to which both ends refer by number.
//!
//! Each direction has its own 2048 slots. A frame lists the atoms to which it refers by slot, with
//! their texts if the slots are new, and its terms refer to the list. The references of incoming
//! terms are replaced at once, so no code behind this module knows of the cache. Outgoing frames
//! use references for the few atoms that the gateway itself writes.
//!
//! Source: "Distribution Header", ERTS User's Guide.

use std::sync::Arc;

use bytes::BufMut;
use foldhash::HashMap;
use gater_term::{Atom, encode};

use crate::ProtocolError;

/// The number of slots of one direction.
const SLOTS: usize = 2048;
/// The flag of an atom whose text follows.
const NEW: u8 = 8;

/// An atom, encoded.
pub type Encoded = Arc<[u8]>;

/// The atoms that the peer has put into its slots.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Whether both ends have agreed to use the cache.
    agreed: bool,
    slots: HashMap<u16, Encoded>,
    /// The list that was read last, if reading it again would have the same result; otherwise
    /// empty. Messages of one kind have the same list.
    last: Vec<u8>,
}

impl Incoming {
    /// Returns a cache without atoms.
    pub fn new(agreed: bool) -> Self {
        Self { agreed, slots: HashMap::default(), last: Vec::new() }
    }

    /// Forgets the last list, because `atoms` was replaced after it was read.
    pub fn forget_last(&mut self) {
        self.last.clear();
    }

    /// Reads the list of a frame into `atoms` and returns the bytes after it. `atoms` must hold the
    /// atoms of the last list, unless [`Incoming::forget_last`] was called.
    pub fn read<'a>(
        &mut self,
        header: &'a [u8],
        atoms: &mut Vec<Encoded>,
    ) -> Result<&'a [u8], ProtocolError> {
        if !self.last.is_empty()
            && let Some(rest) = header.strip_prefix(&self.last[..])
        {
            return Ok(rest);
        }
        self.last.clear();
        atoms.clear();
        let cut = || ProtocolError::AtomCache("header cut short");
        let (count, rest) = header.split_first().ok_or_else(cut)?;
        if *count == 0 {
            return Ok(rest);
        }
        if !self.agreed {
            return Err(ProtocolError::AtomCache("not agreed"));
        }
        let count = usize::from(*count);
        let (flags, mut rest) = rest.split_at_checked(count / 2 + 1).ok_or_else(cut)?;
        let half = |at: usize| {
            flags
                .get(at / 2)
                .map_or(0, |byte| if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 })
        };
        let long = half(count) & 1 == 1;
        let mut all_known = true;
        for at in 0..count {
            let flag = half(at);
            let (slot, after) = rest.split_first().ok_or_else(cut)?;
            rest = after;
            let slot = u16::from(flag & 7) << 8 | u16::from(*slot);
            if flag & NEW == 0 {
                let known = self.slots.get(&slot);
                atoms.push(known.ok_or(ProtocolError::AtomCache("empty slot"))?.clone());
                continue;
            }
            let (len, after) = if long {
                let (len, after) = rest.split_first_chunk().ok_or_else(cut)?;
                (usize::from(u16::from_be_bytes(*len)), after)
            } else {
                let (len, after) = rest.split_first().ok_or_else(cut)?;
                (usize::from(*len), after)
            };
            let (text, after) = after.split_at_checked(len).ok_or_else(cut)?;
            rest = after;
            all_known = false;
            let text = std::str::from_utf8(text)
                .ok()
                .filter(|text| text.chars().count() <= Atom::MAX_CHARS)
                .ok_or(ProtocolError::AtomCache("malformed atom"))?;
            let mut encoded = Vec::with_capacity(len + 3);
            encode::atom(&mut encoded, text);
            let encoded = Encoded::from(encoded);
            self.slots.insert(slot, encoded.clone());
            atoms.push(encoded);
        }
        if all_known && let Some(list) = header.get(..header.len() - rest.len()) {
            self.last.extend_from_slice(list);
        }
        Ok(rest)
    }
}

/// The atoms that this node has put into its slots.
#[derive(Debug, Default)]
pub struct Outgoing {
    slots: HashMap<Atom, u16>,
}

impl Outgoing {
    /// Writes the list of a frame that refers to the few `atoms`. Returns whether every atom was
    /// known, in which case the next list of these atoms has the same bytes.
    ///
    /// Returns `None` and writes nothing if the slots do not suffice.
    pub fn write(&mut self, atoms: &[&Atom], out: &mut Vec<u8>) -> Option<bool> {
        let count = u8::try_from(atoms.len()).ok()?;
        if self.slots.len() + atoms.len() > SLOTS {
            return None;
        }
        let mut flags = vec![0_u8; atoms.len() / 2 + 1];
        let mut set = |at: usize, flag: u8| {
            if let Some(byte) = flags.get_mut(at / 2) {
                *byte |= if at.is_multiple_of(2) { flag } else { flag << 4 };
            }
        };
        // If a text has more than 255 bytes, all lengths have two bytes.
        let long = atoms.iter().any(|atom| atom.as_str().len() > 255);
        set(atoms.len(), u8::from(long));
        let mut refs = Vec::new();
        let mut all_known = true;
        for (at, atom) in atoms.iter().enumerate() {
            let next = self.slots.len() as u16;
            let known = self.slots.get(atom.as_str()).copied();
            let slot = known.unwrap_or(next);
            set(at, (slot >> 8) as u8 & 7 | if known.is_none() { NEW } else { 0 });
            refs.push(slot as u8);
            if known.is_none() {
                all_known = false;
                self.slots.insert((*atom).clone(), slot);
                let text = atom.as_str().as_bytes();
                if long {
                    refs.put_u16(text.len() as u16);
                } else {
                    refs.put_u8(text.len() as u8);
                }
                refs.extend_from_slice(text);
            }
        }
        out.push(count);
        out.extend_from_slice(&flags);
        out.extend_from_slice(&refs);
        Some(all_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(text: &str) -> Atom {
        Atom::new(text).unwrap()
    }

    fn texts(atoms: &[Encoded]) -> Vec<String> {
        let text = |atom: &Encoded| gater_term::Reader::new(atom).atom().unwrap().into_owned();
        atoms.iter().map(text).collect()
    }

    #[test]
    fn what_is_written_is_read_the_first_time_and_from_the_slots() {
        let (mut outgoing, mut incoming) = (Outgoing::default(), Incoming::new(true));
        let long = "é".repeat(200);
        let names: Vec<_> = (0..300).map(|n| atom(&format!("atom{n}"))).collect();
        let mut all: Vec<Vec<&Atom>> = names.chunks(7).map(|some| some.iter().collect()).collect();
        let long = atom(&long);
        all.push(vec![&names[3], &long, &names[299]]);
        for known in [false, true] {
            for atoms in &all {
                let mut header = Vec::new();
                let outcome = outgoing.write(atoms, &mut header);
                assert!(outcome == Some(known) || atoms.len() == 3);
                header.push(42);
                let mut read = Vec::new();
                assert_eq!(incoming.read(&header, &mut read), Ok(&[42_u8][..]));
                let expected: Vec<_> = atoms.iter().map(|a| a.as_str().to_owned()).collect();
                assert_eq!(texts(&read), expected);
            }
        }
    }

    #[test]
    fn a_list_read_again_is_the_same_until_a_slot_changes() {
        let mut incoming = Incoming::new(true);
        let mut atoms = Vec::new();
        let mut read = |header: &[u8]| {
            assert_eq!(incoming.read(header, &mut atoms).map(<[u8]>::len), Ok(1));
            texts(&atoms)
        };
        assert_eq!(read(&[1, 8, 5, 1, b'a', 42]), ["a"]);
        for _ in 0..3 {
            assert_eq!(read(&[1, 0, 5, 42]), ["a"]);
        }
        assert_eq!(read(&[2, 0x80, 0, 5, 6, 1, b'b', 42]), ["a", "b"]);
        assert_eq!(read(&[1, 0, 5, 42]), ["a"]);
        assert_eq!(read(&[1, 8, 5, 1, b'c', 42]), ["c"]);
        assert_eq!(read(&[1, 0, 5, 42]), ["c"]);
        assert_eq!(read(&[0, 42]), [""; 0]);
        assert_eq!(read(&[1, 0, 5, 42]), ["c"]);
    }

    #[test]
    fn slots_that_are_full_are_not_written_over() {
        let mut outgoing = Outgoing::default();
        let names: Vec<_> = (0..SLOTS + 1).map(|n| atom(&format!("atom{n}"))).collect();
        for name in &names[..SLOTS] {
            assert_eq!(outgoing.write(&[name], &mut Vec::new()), Some(false));
        }
        assert_eq!(outgoing.write(&[&names[SLOTS]], &mut Vec::new()), None);
    }

    #[test]
    fn lists_out_of_place_are_refused() {
        let mut atoms = Vec::new();
        assert!(Incoming::new(false).read(&[1, 0, 0], &mut atoms).is_err());
        assert!(Incoming::new(true).read(&[1, 0, 7], &mut atoms).is_err());
        for cut in [&[][..], &[1], &[1, 8], &[1, 8, 0], &[1, 8, 0, 5, b'a']] {
            assert!(Incoming::new(true).read(cut, &mut atoms).is_err());
        }
        assert!(Incoming::new(true).read(&[1, 8, 0, 1, 0xff], &mut atoms).is_err());
        assert_eq!(Incoming::new(false).read(&[0, 9], &mut atoms), Ok(&[9_u8][..]));
    }
}
