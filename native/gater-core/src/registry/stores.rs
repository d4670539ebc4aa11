//! The stores that one process serves.

use std::collections::BTreeMap;

use gater_term::Atom;

/// Stores with the epochs of their registrations, in the order of names. A process usually serves
/// one store, which takes no memory beside the table that holds this value.
///
/// Invariant: `More` has at least two stores, so equal content compares equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stores {
    One(Atom, u64),
    More(BTreeMap<Atom, u64>),
}

impl Stores {
    /// Returns the epoch of a store.
    pub fn epoch(&self, store: &str) -> Option<u64> {
        match self {
            Self::One(known, epoch) => (known.as_str() == store).then_some(*epoch),
            Self::More(stores) => stores.get(store).copied(),
        }
    }

    /// Adds a store or changes its epoch.
    pub fn insert(&mut self, store: Atom, epoch: u64) {
        match self {
            Self::One(known, of) if *known == store => *of = epoch,
            Self::One(known, of) => {
                let both = BTreeMap::from([(known.clone(), *of), (store, epoch)]);
                *self = Self::More(both);
            }
            Self::More(stores) => {
                stores.insert(store, epoch);
            }
        }
    }

    /// Returns the value without a store, or `None` if no other store is left.
    pub fn without(self, store: &str) -> Option<Self> {
        match self {
            Self::One(known, _) if known.as_str() == store => None,
            Self::One(..) => Some(self),
            Self::More(mut stores) => {
                stores.remove(store);
                match stores.len() {
                    0 | 1 => stores.pop_first().map(|(store, epoch)| Self::One(store, epoch)),
                    _ => Some(Self::More(stores)),
                }
            }
        }
    }

    /// Returns all stores with their epochs.
    pub fn iter(&self) -> impl Iterator<Item = (&Atom, u64)> {
        let (one, more) = match self {
            Self::One(store, epoch) => (Some((store, *epoch)), None),
            Self::More(stores) => (None, Some(stores)),
        };
        let more = more.into_iter().flat_map(|stores| stores.iter());
        one.into_iter().chain(more.map(|(store, epoch)| (store, *epoch)))
    }
}
