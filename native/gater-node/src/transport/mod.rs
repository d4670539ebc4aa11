//! The layer between connections and services: the connected and desired nodes, and the dispatch of
//! their messages. Nothing here parses the requests of a service.

pub mod descriptors;
pub mod mesh;
pub mod peers;
mod requests;
pub mod router;
pub mod tuning;
pub mod unreached;
