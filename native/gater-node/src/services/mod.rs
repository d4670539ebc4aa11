//! The services behind the registered names of the gateway.
//!
//! A service handles one request at a time, on the task of the connection on which it arrived, and
//! never waits. A slow operation (such as a write to the registry) continues in the background and
//! answers when it is done.

pub mod census;
pub mod channel;
pub mod cluster;
pub mod observer;
pub mod registry;
pub mod rpc;
pub mod secret;
pub mod session;
mod unwritten;

use gater_term::encode;

/// Returns `{error, Reason}`, encoded.
pub fn error(reason: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    encode::tuple(&mut out, 2);
    encode::atom(&mut out, "error");
    encode::atom(&mut out, reason);
    out
}

/// Returns `{error, {Kind, Detail}}`, encoded. `detail` writes one term.
pub fn error_with(kind: &str, detail: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode::tuple(&mut out, 2);
    encode::atom(&mut out, "error");
    encode::tuple(&mut out, 2);
    encode::atom(&mut out, kind);
    detail(&mut out);
    out
}

/// Returns `{error, {unknown_request, Request}}`, encoded. A long request is not repeated.
pub fn unknown_request(request: &[u8]) -> Vec<u8> {
    const REPEATED_UP_TO_BYTES: usize = 1024;
    error_with("unknown_request", |out| {
        if request.len() <= REPEATED_UP_TO_BYTES {
            out.extend_from_slice(request);
        } else {
            encode::atom(out, "too_long");
        }
    })
}

/// The atom `ok`, encoded.
pub const OK: &[u8] = &[119, 2, b'o', b'k'];

/// Reads a request to each service, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(request: &[u8]) {
    registry::fuzz(request);
    session::fuzz(request);
    cluster::fuzz(request);
}
