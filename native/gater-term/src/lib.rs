//! Erlang's external term format, read in place.
//!
//! Terms are byte slices without the version byte 131, as the distribution protocol carries them. A
//! term that came from outside is validated by a [`Scanner`] first; [`Reader`] then decodes it in
//! place, and the functions of [`encode`] write new terms. Programs that prefer values to bytes use
//! [`Term`] and [`term!`]. With the feature `serde`, `convert` turns terms into values of Rust types
//! and back.

pub mod canonical;
#[cfg(feature = "serde")]
pub mod convert;
pub mod encode;
mod expand;
pub(crate) mod number;
pub mod order;
mod read;
mod scan;
pub(crate) mod sort;
pub mod tag;
mod term;
mod types;

pub use expand::{ExpandError, expand, expand_start};
pub use read::{ReadError, Reader};
pub use scan::{Limits, ScanError, Scanner};
pub use term::{BigInteger, DecodeError, Float, MAX_DECODED_DEPTH, Opaque, Term};
pub use types::{Atom, AtomError, LocalPid, Pid, Reference, StaticAtom};
