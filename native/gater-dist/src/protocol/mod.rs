//! The distribution protocol without I/O, clock or randomness.
//!
//! Source: "Erlang Distribution Protocol", ERTS User's Guide, OTP 25 to 29.

pub mod answer;
pub mod atom_cache;
pub mod control;
pub mod encode;
pub mod flags;
pub mod fragment;
pub mod frame;
pub mod handshake;
pub mod name;
pub mod session;
