//! The secret that channel messages are signed with.

use gater_core::sign::{self, KeyRing, VerifyError};
use parking_lot::RwLock;

use crate::clock;

/// The current secret and, for a while, the one before it.
pub struct Secret {
    ring: RwLock<KeyRing>,
    ttl_seconds: u64,
}

impl Secret {
    /// Starts with `secret`; messages are good for `ttl_seconds`.
    pub fn new(secret: &[u8], ttl_seconds: u64) -> Self {
        Self { ring: RwLock::new(KeyRing::new(secret)), ttl_seconds }
    }

    /// Changes the secret. The one before verifies for the time to live of a message.
    pub fn rotate(&self, secret: &[u8]) {
        self.ring.write().rotate(secret, clock::unix_seconds(), self.ttl_seconds);
    }

    /// Judges a signed message, a term of the wire.
    pub fn verify(&self, term: &[u8]) -> Result<(), VerifyError> {
        sign::verify(term, &self.ring.read(), clock::unix_seconds(), self.ttl_seconds)
    }
}
