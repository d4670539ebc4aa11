//! A set whose elements are adjacent in memory.

use std::hash::Hash;

use foldhash::HashMap;

/// The number of elements above which the set keeps an index of their positions. Below it, a search
/// through adjacent memory is as fast and needs no index.
const INDEXED_ABOVE: usize = 32;

/// A set of small values that can be read as one slice, in no particular order. Insertion and
/// removal take constant time at any size. A set with one element allocates nothing.
#[derive(Debug, Clone)]
pub struct DenseSet<T>(Elements<T>);

#[derive(Debug, Clone)]
enum Elements<T> {
    None,
    One(T),
    /// Two or more elements.
    Many(Box<Many<T>>),
}

/// Invariant: an index, if present, maps every element to its position.
#[derive(Debug, Clone)]
struct Many<T> {
    elements: Vec<T>,
    positions: Option<HashMap<T, u32>>,
}

impl<T> Default for DenseSet<T> {
    fn default() -> Self {
        Self(Elements::None)
    }
}

impl<T: Copy + Eq + Hash> DenseSet<T> {
    /// Adds an element. Returns false if the set contained it.
    pub fn insert(&mut self, element: T) -> bool {
        match &mut self.0 {
            Elements::None => {
                self.0 = Elements::One(element);
                true
            }
            Elements::One(only) if *only == element => false,
            Elements::One(only) => {
                let elements = vec![*only, element];
                self.0 = Elements::Many(Box::new(Many { elements, positions: None }));
                true
            }
            Elements::Many(many) => many.insert(element),
        }
    }

    /// Removes an element. Returns false if the set did not contain it.
    pub fn remove(&mut self, element: T) -> bool {
        match &mut self.0 {
            Elements::One(only) if *only == element => {
                self.0 = Elements::None;
                true
            }
            Elements::None | Elements::One(_) => false,
            Elements::Many(many) => {
                let removed = many.remove(element);
                if let [only] = many.elements[..] {
                    self.0 = Elements::One(only);
                }
                removed
            }
        }
    }

    /// Returns the elements.
    pub fn as_slice(&self) -> &[T] {
        match &self.0 {
            Elements::None => &[],
            Elements::One(only) => std::slice::from_ref(only),
            Elements::Many(many) => &many.elements,
        }
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Elements::None)
    }
}

impl<T: Copy + Eq + Hash> Many<T> {
    fn insert(&mut self, element: T) -> bool {
        if self.position(element).is_some() {
            return false;
        }
        // Positions are 32 bits wide.
        let Ok(position) = u32::try_from(self.elements.len()) else { return false };
        self.elements.push(element);
        match &mut self.positions {
            Some(positions) => {
                positions.insert(element, position);
            }
            None if self.elements.len() > INDEXED_ABOVE => {
                self.positions = Some(self.elements.iter().copied().zip(0..).collect());
            }
            None => {}
        }
        true
    }

    fn remove(&mut self, element: T) -> bool {
        let Some(position) = self.position(element) else { return false };
        self.elements.swap_remove(position);
        if let Some(positions) = &mut self.positions {
            positions.remove(&element);
            if let Some(moved) = self.elements.get(position) {
                positions.insert(*moved, position as u32);
            }
        }
        self.give_back_memory();
        true
    }

    fn position(&self, element: T) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(&element).map(|position| *position as usize),
            None => self.elements.iter().position(|known| *known == element),
        }
    }

    fn give_back_memory(&mut self) {
        let len = self.elements.len();
        // The threshold is halved, so that a set whose size varies around it is not indexed again
        // and again.
        if len <= INDEXED_ABOVE / 2 {
            self.positions = None;
        }
        if self.elements.capacity() > 8 && len < self.elements.capacity() / 4 {
            self.elements.shrink_to(len * 2);
            if let Some(positions) = &mut self.positions {
                positions.shrink_to(len * 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_set_holds(
            steps in prop::collection::vec((any::<bool>(), 0_u32..80), 0..600)
        ) {
            let mut set = DenseSet::default();
            let mut model = BTreeSet::new();
            for (insert, element) in steps {
                if insert {
                    prop_assert_eq!(set.insert(element), model.insert(element));
                } else {
                    prop_assert_eq!(set.remove(element), model.remove(&element));
                }
                let elements: BTreeSet<_> = set.as_slice().iter().copied().collect();
                prop_assert_eq!(set.as_slice().len(), model.len());
                prop_assert_eq!(&elements, &model);
                prop_assert_eq!(set.is_empty(), model.is_empty());
                match &set.0 {
                    Elements::Many(many) => {
                        prop_assert!(model.len() > 1);
                        let indexed = many.positions.as_ref().map(HashMap::len);
                        prop_assert!(indexed.is_none_or(|len| len == model.len()));
                    }
                    _ => prop_assert!(model.len() < 2),
                }
            }
        }
    }

    #[test]
    fn a_set_that_shrank_gives_its_memory_back() {
        let mut set = DenseSet::default();
        for element in 0..100_000_u32 {
            set.insert(element);
        }
        for element in 10..100_000 {
            set.remove(element);
        }
        let Elements::Many(many) = &set.0 else { panic!("ten elements") };
        assert!(many.elements.capacity() <= 64, "{}", many.elements.capacity());
        assert!(many.positions.is_none());
    }
}
