//! The layer between connections and services: the connected and desired nodes, and the dispatch of
//! their messages. Nothing here parses the requests of a service.

pub mod descriptors;
pub mod mesh;
pub mod peers;
mod requests;
pub mod router;
pub mod tuning;
pub mod unreached;

/// Reads the answer of a node, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(answer: &[u8]) {
    drop(mesh::read(answer, 4096));
    tuning::fuzz(answer);
}
