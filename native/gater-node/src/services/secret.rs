//! The secret that channel messages are signed with.

use arc_swap::ArcSwap;
use gater_core::sign::{self, KeyRing, VerifyError};

use crate::clock;

/// The current secret and, for a while, the one before it.
pub struct Secret {
    /// Nobody waits for who is verifying a long message.
    ring: ArcSwap<KeyRing>,
    ttl_seconds: u64,
}

impl Secret {
    /// Starts with `secret`; messages are good for `ttl_seconds`.
    pub fn new(secret: &[u8], ttl_seconds: u64) -> Self {
        Self { ring: ArcSwap::from_pointee(KeyRing::new(secret)), ttl_seconds }
    }

    /// Changes the secret. The one before verifies for the time to live of a message.
    pub fn rotate(&self, secret: &[u8]) {
        let now = clock::unix_seconds();
        self.ring.rcu(|ring| {
            let mut ring = KeyRing::clone(ring);
            ring.rotate(secret, now, self.ttl_seconds);
            ring
        });
    }

    /// Judges a signed message, a term of the wire.
    pub fn verify(&self, term: &[u8]) -> Result<(), VerifyError> {
        sign::verify(term, &self.ring.load(), clock::unix_seconds(), self.ttl_seconds)
    }
}
