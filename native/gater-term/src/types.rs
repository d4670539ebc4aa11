//! The term types that have a type of their own: atoms, pids and references.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An atom: UTF-8 text of at most [`Atom::MAX_CHARS`] characters, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Atom(Arc<str>);

/// A text is not an atom because it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an atom has at most {} characters", Atom::MAX_CHARS)]
pub struct AtomError;

impl Atom {
    /// The length of the longest atom of Erlang, in Unicode code points.
    pub const MAX_CHARS: usize = 255;

    /// Makes an atom of `text`.
    pub fn new(text: &str) -> Result<Self, AtomError> {
        // A code point takes at most four bytes, so most texts are accepted without counting.
        if text.len() > Self::MAX_CHARS && text.chars().count() > Self::MAX_CHARS {
            return Err(AtomError);
        }
        Ok(Self(text.into()))
    }

    /// Returns the atom `alias`, which calls and their answers carry.
    pub fn alias() -> Self {
        Self("alias".into())
    }

    /// Returns the atom `true` or `false`.
    pub(crate) fn of_bool(value: bool) -> Self {
        Self(if value { "true" } else { "false" }.into())
    }

    /// Returns the text of the atom.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that was checked to be an atom at compile time, for [`term!`](crate::term!).
#[derive(Debug, Clone, Copy)]
pub struct StaticAtom(&'static str);

impl StaticAtom {
    /// Returns the atom. Panics, at compile time in a constant, if `text` has more bytes than an
    /// atom may have characters.
    pub const fn new(text: &'static str) -> Self {
        assert!(text.len() <= Atom::MAX_CHARS, "an atom has at most 255 characters");
        Self(text)
    }

    /// Returns the atom.
    pub fn to_atom(self) -> Atom {
        Atom(self.0.into())
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Atom {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Atom {
    type Error = AtomError;

    fn try_from(text: String) -> Result<Self, AtomError> {
        Self::new(&text)
    }
}

impl From<Atom> for String {
    fn from(atom: Atom) -> Self {
        atom.0.as_ref().to_owned()
    }
}

/// A process identifier with its full creation (`NEW_PID_EXT`).
///
/// Two pids with the same number but from different incarnations of a node differ in `creation` and
/// are different pids.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pid {
    /// The node on which the process runs.
    pub node: Atom,
    /// The process number.
    pub id: u32,
    /// The high part of the process number.
    pub serial: u32,
    /// The incarnation of the node.
    pub creation: u32,
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}.{}.{}/{}>", self.node, self.id, self.serial, self.creation)
    }
}

/// A pid without its node, for use beside a handle of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPid {
    /// The process number.
    pub id: u32,
    /// The high part of the process number.
    pub serial: u32,
    /// The incarnation of the node.
    pub creation: u32,
}

impl LocalPid {
    /// Returns the full pid of this process of `node`.
    pub fn of(self, node: &Atom) -> Pid {
        let Self { id, serial, creation } = self;
        Pid { node: node.clone(), id, serial, creation }
    }
}

impl From<&Pid> for LocalPid {
    fn from(pid: &Pid) -> Self {
        Self { id: pid.id, serial: pid.serial, creation: pid.creation }
    }
}

/// A reference (`NEWER_REFERENCE_EXT`) with one to five words.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    node: Atom,
    creation: u32,
    words: [u32; Self::MAX_WORDS],
    len: u8,
}

impl Reference {
    /// The greatest number of words. OTP 27 and later make alias references with five words, OTP 25
    /// with three.
    pub const MAX_WORDS: usize = 5;

    /// Returns a reference, or `None` unless it has one to [`Self::MAX_WORDS`] words.
    pub fn new(node: Atom, creation: u32, words: &[u32]) -> Option<Self> {
        if words.is_empty() || words.len() > Self::MAX_WORDS {
            return None;
        }
        let mut array = [0; Self::MAX_WORDS];
        for (slot, word) in array.iter_mut().zip(words) {
            *slot = *word;
        }
        Some(Self { node, creation, words: array, len: words.len() as u8 })
    }

    /// Returns the node that made the reference.
    pub fn node(&self) -> &Atom {
        &self.node
    }

    /// Returns the incarnation of that node.
    pub fn creation(&self) -> u32 {
        self.creation
    }

    /// Returns the words that distinguish the references of one node.
    pub fn words(&self) -> &[u32] {
        &self.words[..usize::from(self.len)]
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#Ref<{}/{}{:?}>", self.node, self.creation, self.words())
    }
}
