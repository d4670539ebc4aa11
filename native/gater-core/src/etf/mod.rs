//! Erlang's external term format, read in place.

mod types;

pub use types::{Atom, AtomError, Pid, Reference};
