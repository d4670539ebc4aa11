//! Conversions between [`Term`]s and values of every type that implements serde's traits.
//!
//! | Rust | Erlang |
//! |---|---|
//! | `bool` | `true`, `false` |
//! | integers | integer |
//! | `f32`, `f64` | float; an integer is read as well |
//! | `char`, `String`, `&str` | binary in UTF-8; an atom is read as well |
//! | bytes (`serde_bytes`, `bytes::Bytes`) | binary |
//! | `None`, `()` | `undefined`; `nil` is read as well |
//! | `Some(value)`, a struct with one unnamed field | the value |
//! | `Vec` and other sequences | list; a binary is read as a sequence of bytes |
//! | tuples and structs with unnamed fields | tuple |
//! | maps | map |
//! | structs | map whose keys are atoms; binaries are read as well |
//! | `Variant` | the atom |
//! | `Variant(value)` | `{'Variant', Value}` |
//! | `Variant(a, b)` | `{'Variant', A, B}` |
//! | `Variant { field }` | `{'Variant', #{field => Value}}` |
//!
//! `#[serde(rename_all = "snake_case")]` gives variants the names that are usual in Erlang. Pids,
//! references, funs and improper lists have no counterpart among serde's types: take the [`Term`]
//! apart where a message contains them.
//!
//! ```
//! use gater_term::convert::{from_term, to_term};
//! use gater_term::term;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! #[serde(rename_all = "snake_case")]
//! enum Event {
//!     Opened { account: u64, owner: String },
//!     Closed,
//! }
//!
//! let opened = Event::Opened { account: 7, owner: "carla".into() };
//! let sent = term!({opened, #{account => 7, owner => "carla"}});
//! assert_eq!(to_term(&opened), Ok(sent.clone()));
//! assert_eq!(from_term(&sent), Ok(opened));
//! assert_eq!(from_term(&term!(closed)), Ok(Event::Closed));
//! ```

mod read;
mod write;

use std::fmt::Display;

use serde::de::Deserialize;
use serde::ser::Serialize;

use crate::{AtomError, Term};

/// The atom that stands for no value.
const UNDEFINED: &str = "undefined";

/// The reason why a value has no term, or a term is no value of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Erlang has no infinity and no NaN.
    #[error("Erlang has no float {0}")]
    NotFinite(String),
    /// The name of a field or a variant is no atom.
    #[error(transparent)]
    Atom(#[from] AtomError),
    /// The term is of another kind than the type needs.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What the type needs.
        expected: &'static str,
        /// The term as the shell of Erlang writes it, shortened.
        found: String,
    },
    /// The type refuses the value.
    #[error("{0}")]
    Refused(String),
}

impl serde::ser::Error for ConvertError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Refused(message.to_string())
    }
}

impl serde::de::Error for ConvertError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Refused(message.to_string())
    }
}

/// Returns the term of a value.
///
/// # Errors
///
/// Fails if the value contains a float that is not finite, or if a name is longer than an atom
/// may be, which is 255 characters.
pub fn to_term<T: Serialize + ?Sized>(value: &T) -> Result<Term, ConvertError> {
    value.serialize(write::Writer)
}

/// Returns the value of a term.
///
/// # Errors
///
/// Fails if the term is not what the type needs, see the table of this module.
pub fn from_term<'a, T: Deserialize<'a>>(term: &'a Term) -> Result<T, ConvertError> {
    T::deserialize(read::Value(term))
}

#[cfg(test)]
mod tests;
