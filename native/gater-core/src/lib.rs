//! The domain of esdb-gater: channels, registry, signatures and limits. It is shared by the gateway program and the NIF.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: times
//! and seeds are arguments.

pub mod capability;
pub mod channel;
pub mod limit;
pub mod registry;
pub mod sign;
