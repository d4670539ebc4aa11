//! The secret with which channel messages are signed.

use arc_swap::ArcSwap;
use gater_core::sign::{self, KeyRing, VerifyError};

use crate::clock;

/// The current secret and, for a limited time, the previous one.
pub struct Secret {
    /// The keys, which can be replaced without waiting for a verification in progress.
    ring: ArcSwap<KeyRing>,
    ttl_seconds: u64,
}

impl Secret {
    /// Returns a value with `secret`. Messages are valid for `ttl_seconds`.
    pub fn new(secret: &[u8], ttl_seconds: u64) -> Self {
        Self { ring: ArcSwap::from_pointee(KeyRing::new(secret)), ttl_seconds }
    }

    /// Changes the secret. The previous one verifies for the time to live of a message.
    pub fn rotate(&self, secret: &[u8]) {
        let now = clock::unix_seconds();
        self.ring.rcu(|ring| {
            let mut ring = KeyRing::clone(ring);
            ring.rotate(secret, now, self.ttl_seconds);
            ring
        });
    }

    /// Verifies a signed message, which is an encoded term.
    pub fn verify(&self, term: &[u8]) -> Result<(), VerifyError> {
        sign::verify(term, &self.ring.load(), clock::unix_seconds(), self.ttl_seconds)
    }
}
