//! The domain of esdb-gater: channels, the registry, signatures, capability tokens and rate limits.
//! The gateway program and the NIF share this crate.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: times and seeds are
//! arguments. The only exception is [`limit::SharedLimiter`], whose hash key is random.

pub mod capability;
pub mod channel;
pub mod limit;
pub mod registry;
pub mod sign;
