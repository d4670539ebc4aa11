//! The pure core of esdb-gater, shared by the gateway program and the NIF.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: times
//! and seeds are arguments.

pub mod canonical;
pub mod channel;
pub mod etf;
pub mod limit;
pub mod registry;
pub mod sign;
