//! Terms as the runtime passes them, with one call of the runtime for each access.
//!
//! The types of rustler call the runtime more often, and carry the environment with every term.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::null;
use std::slice::from_raw_parts;

use rustler::sys::{
    ErlNifBinary, ErlNifCharEncoding, ErlNifEnv, ErlNifMapIteratorEntry, ErlNifTerm,
    ErlNifTermType, enif_get_atom, enif_get_double, enif_get_int64, enif_get_list_cell,
    enif_get_map_size, enif_get_tuple, enif_inspect_binary, enif_make_list_from_array,
    enif_map_iterator_create, enif_map_iterator_destroy, enif_map_iterator_get_pair,
    enif_map_iterator_next, enif_term_type,
};
use rustler::{Atom, Env, Term};

/// The longest atom, in characters.
pub const MAX_ATOM: usize = 255;

/// A term of the environment of the call. Only [`Terms`] makes values of this type.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word<'a>(ErlNifTerm, PhantomData<&'a Env<'a>>);

impl Word<'_> {
    /// Returns the machine word of the term. The word of an atom is never that of another term as
    /// long as the runtime lives; the word of any other term may be reused once the call is over.
    pub fn bits(self) -> usize {
        // SAFETY: a term is a number of this size and nothing else.
        unsafe { std::mem::transmute::<ErlNifTerm, usize>(self.0) }
    }

    pub fn is(self, atom: Atom) -> bool {
        self.0 == atom.as_c_arg()
    }
}

/// The environment of a call.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    env: Env<'a>,
    empty: Word<'a>,
}

impl<'a> Terms<'a> {
    /// Returns the environment of a term, and the term as a word of it.
    pub fn of(term: Term<'a>) -> (Self, Word<'a>) {
        let env = term.get_env();
        // SAFETY: the environment is that of the call, and no elements are read.
        let empty = unsafe { enif_make_list_from_array(env.as_c_arg(), null(), 0) };
        let word = |term| Word(term, PhantomData);
        (Self { env, empty: word(empty) }, word(term.as_c_arg()))
    }

    pub fn term(self, word: Word<'a>) -> Term<'a> {
        // SAFETY: words are of this environment.
        unsafe { Term::new(self.env, word.0) }
    }

    fn raw(self) -> *mut ErlNifEnv {
        self.env.as_c_arg()
    }

    pub fn kind(self, word: Word<'a>) -> ErlNifTermType {
        // SAFETY: words are of this environment, here and below.
        unsafe { enif_term_type(self.raw(), word.0) }
    }

    pub fn integer(self, word: Word<'a>) -> Option<i64> {
        let mut value = 0;
        // SAFETY: as above, and the value is written to a variable of its type.
        (unsafe { enif_get_int64(self.raw(), word.0, &mut value) } != 0).then_some(value)
    }

    pub fn float(self, word: Word<'a>) -> Option<f64> {
        let mut value = 0.0;
        // SAFETY: as above.
        (unsafe { enif_get_double(self.raw(), word.0, &mut value) } != 0).then_some(value)
    }

    /// Returns the bytes of a binary, or `None` for any other term, such as a bit string that ends
    /// within a byte.
    pub fn binary(self, word: Word<'a>) -> Option<&'a [u8]> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: as above.
        if unsafe { enif_inspect_binary(self.raw(), word.0, binary.as_mut_ptr()) } == 0 {
            return None;
        }
        // SAFETY: the call has filled it in. The bytes do not change until the call of the NIF is
        // over.
        let (data, size) = unsafe {
            let binary = binary.assume_init_ref();
            (binary.data, binary.size)
        };
        if size == 0 {
            return Some(&[]);
        }
        // SAFETY: `size` bytes are readable at `data`.
        Some(unsafe { from_raw_parts(data, size) })
    }

    /// Writes the text of an atom in Latin-1 and returns its length. Returns `None` if the term is
    /// not such an atom.
    pub fn atom(self, word: Word<'a>, to: &mut [u8; MAX_ATOM + 1]) -> Option<usize> {
        // SAFETY: as above, and at most this many bytes are written. The result is 0 for a term
        // that is not an atom, or has other characters.
        let written = unsafe {
            enif_get_atom(
                self.raw(),
                word.0,
                to.as_mut_ptr().cast(),
                (MAX_ATOM + 1) as u32,
                ErlNifCharEncoding::ERL_NIF_LATIN1,
            )
        };
        // The written length includes a terminating zero.
        usize::try_from(written).ok()?.checked_sub(1)
    }

    pub fn tuple(self, word: Word<'a>) -> Option<&'a [Word<'a>]> {
        let (mut arity, mut elements) = (0, null());
        // SAFETY: as above.
        if unsafe { enif_get_tuple(self.raw(), word.0, &mut arity, &mut elements) } == 0 {
            return None;
        }
        let arity = usize::try_from(arity).ok()?;
        if arity == 0 {
            return Some(&[]);
        }
        // SAFETY: `arity` terms are readable until the call is over, and a word is a term.
        Some(unsafe { from_raw_parts(elements.cast(), arity) })
    }

    /// Returns whether the term is the empty list. The empty list has only one word, so the runtime
    /// need not be asked.
    pub fn is_empty_list(self, word: Word<'a>) -> bool {
        word == self.empty
    }

    /// Returns the head and the tail of a list.
    pub fn cell(self, word: Word<'a>) -> Option<(Word<'a>, Word<'a>)> {
        let (mut head, mut tail) = Default::default();
        // SAFETY: as above.
        (unsafe { enif_get_list_cell(self.raw(), word.0, &mut head, &mut tail) } != 0)
            .then_some((Word(head, PhantomData), Word(tail, PhantomData)))
    }

    /// Appends the pairs of a map that has at most `most` pairs, in the order of the runtime.
    pub fn pairs(
        self,
        map: Word<'a>,
        most: usize,
        to: &mut Vec<(Word<'a>, Word<'a>)>,
    ) -> Option<()> {
        let mut size = 0;
        // SAFETY: as above.
        if unsafe { enif_get_map_size(self.raw(), map.0, &mut size) } == 0 || size > most {
            return None;
        }
        // The sorted pairs are appended behind the unsorted ones.
        to.reserve(2 * size);
        let mut place = MaybeUninit::uninit();
        let entry = ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD;
        // SAFETY: as above.
        if unsafe { enif_map_iterator_create(self.raw(), map.0, place.as_mut_ptr(), entry) } == 0 {
            return None;
        }
        let place = place.as_mut_ptr();
        let (mut key, mut value) = Default::default();
        // SAFETY: the iterator was filled in, and is destroyed once.
        unsafe {
            for left in (0..size).rev() {
                if enif_map_iterator_get_pair(self.raw(), place, &mut key, &mut value) == 0 {
                    break;
                }
                to.push((Word(key, PhantomData), Word(value, PhantomData)));
                if left > 0 {
                    enif_map_iterator_next(self.raw(), place);
                }
            }
            enif_map_iterator_destroy(self.raw(), place);
        }
        Some(())
    }
}
