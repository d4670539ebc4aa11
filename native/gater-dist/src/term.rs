//! A term that is encoded once and sent to many receivers.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::HashMap;
use gater_term::{Atom, encode, expand, tag};

use crate::LocalPid;

/// The greatest number of atoms that a frame can list, less three to which an answer itself refers.
const MAX_ATOMS: usize = 252;

/// An encoded term, without the version byte. On connections with an atom cache its atoms are sent
/// as references, which a receiver reads in a fraction of the time that names take.
#[derive(Debug)]
pub struct SharedTerm {
    /// The atoms in the order of their places; the first has place 1.
    atoms: Vec<Atom>,
    /// The term with references to atoms, or `None` if there are too many atoms.
    cached: Option<Bytes>,
    /// The term with its atoms written out, which is made on first use.
    plain: OnceLock<Bytes>,
}

/// Writes the atoms of a [`SharedTerm`].
#[derive(Debug)]
pub struct Atoms {
    references: bool,
    places: HashMap<Atom, u8>,
    order: Vec<Atom>,
}

impl Atoms {
    fn new(references: bool) -> Self {
        Self { references, places: HashMap::default(), order: Vec::new() }
    }

    /// Writes an atom.
    pub fn put(&mut self, out: &mut Vec<u8>, atom: &Atom) {
        if !self.references || self.order.len() > MAX_ATOMS {
            return encode::atom(out, atom.as_str());
        }
        let place = match self.places.get(atom.as_str()) {
            Some(place) => *place,
            None => {
                self.order.push(atom.clone());
                // At most one atom too many is counted here; then the references are not used.
                let place = u8::try_from(self.order.len()).unwrap_or(u8::MAX);
                self.places.insert(atom.clone(), place);
                place
            }
        };
        out.extend([tag::ATOM_CACHE_REF, place]);
    }

    /// Writes the pid of a process of `node`.
    pub fn put_pid(&mut self, out: &mut Vec<u8>, node: &Atom, pid: LocalPid) {
        out.put_u8(tag::NEW_PID);
        self.put(out, node);
        out.put_u32(pid.id);
        out.put_u32(pid.serial);
        out.put_u32(pid.creation);
    }
}

impl SharedTerm {
    /// Returns the term that `write` writes with [`encode`], and with [`Atoms`] for all atoms.
    pub fn new(write: impl Fn(&mut Vec<u8>, &mut Atoms)) -> Self {
        let (mut out, mut atoms) = (Vec::new(), Atoms::new(true));
        write(&mut out, &mut atoms);
        if atoms.order.len() <= MAX_ATOMS {
            return Self { atoms: atoms.order, cached: Some(out.into()), plain: OnceLock::new() };
        }
        out.clear();
        write(&mut out, &mut Atoms::new(false));
        Self { atoms: Vec::new(), cached: None, plain: Bytes::from(out).into() }
    }

    /// Returns the atoms that a frame has to list after the node of the receiver, and the term with
    /// references to that list. Returns `None` if there are too many atoms.
    pub(crate) fn cached(&self) -> Option<(&[Atom], &Bytes)> {
        self.cached.as_ref().map(|cached| (self.atoms.as_slice(), cached))
    }

    /// Returns the term with its atoms written out.
    pub fn plain(&self) -> &Bytes {
        self.plain.get_or_init(|| {
            let encoded = |atom: &Atom| {
                let mut out = Vec::new();
                encode::atom(&mut out, atom.as_str());
                out
            };
            // Place 0 is the node of the receiver, to which the term does not refer.
            let atoms: Vec<_> =
                std::iter::once(Vec::new()).chain(self.atoms.iter().map(encoded)).collect();
            let mut out = BytesMut::new();
            let term = self.cached.as_deref().unwrap_or_default();
            if let Err(error) = expand(term, &atoms, usize::MAX, &mut out) {
                tracing::error!(%error, "what was written as a shared term is none");
            }
            out.freeze()
        })
    }

    /// Returns the approximate number of bytes that are sent.
    pub(crate) fn len(&self) -> usize {
        self.cached.as_ref().unwrap_or_else(|| self.plain()).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(text: &str) -> Atom {
        Atom::new(text).unwrap()
    }

    fn nodes(count: usize) -> Vec<Atom> {
        (0..count).map(|n| atom(&format!("node{n}@host"))).collect()
    }

    /// Writes a list that contains each name twice.
    fn write(names: &[Atom], out: &mut Vec<u8>, atoms: &mut Atoms) {
        let twice: Vec<_> = names.iter().chain(names).collect();
        encode::list_of(out, twice.into_iter(), |out, name| {
            atoms.put_pid(out, name, LocalPid { id: 1, serial: 2, creation: 3 });
        });
    }

    fn list(names: &[Atom]) -> SharedTerm {
        SharedTerm::new(|out, atoms| write(names, out, atoms))
    }

    fn written_out(names: &[Atom]) -> Vec<u8> {
        let mut out = Vec::new();
        write(names, &mut out, &mut Atoms::new(false));
        out
    }

    #[test]
    fn atoms_are_listed_once_and_can_be_written_out() {
        let names = nodes(MAX_ATOMS);
        let term = list(&names);
        let (listed, cached) = term.cached().unwrap();
        assert_eq!(listed, names);
        // The length is the sum of the tag, the length and the end of the list, and of the pids.
        assert_eq!(cached.len(), 6 + 2 * MAX_ATOMS * (1 + 2 + 12));
        assert_eq!(term.plain(), &written_out(&names));
    }

    #[test]
    fn more_atoms_than_a_frame_can_list_are_written_out() {
        let names = nodes(MAX_ATOMS + 1);
        let term = list(&names);
        assert!(term.cached().is_none());
        assert_eq!(term.plain(), &written_out(&names));
        assert_eq!(list(&nodes(1000)).plain(), &written_out(&nodes(1000)));
    }
}
