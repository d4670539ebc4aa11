//! The tag bytes of the external term format.
//!
//! Source: ERTS User's Guide, "External Term Format".

/// An atom by its index in the atom cache of the distribution header.
pub const ATOM_CACHE_REF: u8 = 82;
/// Unsigned 8-bit integer.
pub const SMALL_INTEGER: u8 = 97;
/// Signed 32-bit integer.
pub const INTEGER: u8 = 98;
/// Float as 31 bytes of text, written by `{minor_version, 0}` only.
pub const FLOAT_TEXT: u8 = 99;
/// IEEE 754 double, big-endian.
pub const NEW_FLOAT: u8 = 70;
/// Latin-1 atom with a 16-bit length.
pub const ATOM_LATIN1: u8 = 100;
/// Latin-1 atom with an 8-bit length.
pub const SMALL_ATOM_LATIN1: u8 = 115;
/// UTF-8 atom with a 16-bit length in bytes.
pub const ATOM_UTF8: u8 = 118;
/// UTF-8 atom with an 8-bit length in bytes.
pub const SMALL_ATOM_UTF8: u8 = 119;
/// Tuple with an 8-bit arity.
pub const SMALL_TUPLE: u8 = 104;
/// Tuple with a 32-bit arity.
pub const LARGE_TUPLE: u8 = 105;
/// The empty list.
pub const NIL: u8 = 106;
/// List of bytes, 16-bit length.
pub const STRING: u8 = 107;
/// List: 32-bit count, elements, tail.
pub const LIST: u8 = 108;
/// Binary, 32-bit length.
pub const BINARY: u8 = 109;
/// Bit string: 32-bit length in bytes, bits used in the last one.
pub const BIT_BINARY: u8 = 77;
/// Big integer with an 8-bit length.
pub const SMALL_BIG: u8 = 110;
/// Big integer with a 32-bit length.
pub const LARGE_BIG: u8 = 111;
/// Fun with its environment.
pub const NEW_FUN: u8 = 112;
/// `fun M:F/A`.
pub const EXPORT: u8 = 113;
/// Map: 32-bit number of pairs.
pub const MAP: u8 = 116;
/// Pid with a 32-bit creation.
pub const NEW_PID: u8 = 88;
/// Port with a 32-bit number and creation.
pub const NEW_PORT: u8 = 89;
/// Port with a 64-bit number.
pub const V4_PORT: u8 = 120;
/// Reference with a 32-bit creation.
pub const NEWER_REFERENCE: u8 = 90;
/// The byte before a term outside the distribution protocol.
pub const VERSION: u8 = 131;
