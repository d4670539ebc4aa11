//! The secret with which channel messages are signed.

use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gater_core::sign::{self, KeyRing, VerifyError};

use crate::clock;

/// The current secret and, for a limited time, the one before it.
pub struct Secret {
    /// Verifying a long message holds no lock that others need.
    state: ArcSwap<State>,
    ttl_seconds: u64,
}

#[derive(Clone)]
struct State {
    ring: KeyRing,
    /// When the secret before verifies no longer. This is no time of the day: a clock that was wrong
    /// when the secret changed and is set right must not make it verify for longer.
    until: Option<Instant>,
}

impl Secret {
    /// Starts with `secret`. Messages are valid for `ttl_seconds`.
    pub fn new(secret: &[u8], ttl_seconds: u64) -> Self {
        let state = State { ring: KeyRing::new(secret), until: None };
        Self { state: ArcSwap::from_pointee(state), ttl_seconds }
    }

    /// Changes the secret. The previous one verifies for the time to live of a message.
    pub fn rotate(&self, secret: &[u8]) {
        self.rotate_at(secret, Instant::now());
    }

    fn rotate_at(&self, secret: &[u8], now: Instant) {
        self.state.rcu(|state| {
            let mut ring = state.ring.clone();
            // The ring's own limit is a time of the day.
            let changed = ring.rotate(secret, 0, u64::MAX);
            let until = if changed {
                now.checked_add(Duration::from_secs(self.ttl_seconds))
            } else {
                state.until
            };
            State { ring, until }
        });
    }

    /// Verifies a signed message, which is an encoded term.
    pub fn verify(&self, term: &[u8]) -> Result<(), VerifyError> {
        self.verify_at(term, clock::unix_seconds(), Instant::now())
    }

    fn verify_at(&self, term: &[u8], unix_seconds: u64, now: Instant) -> Result<(), VerifyError> {
        let state = self.state.load();
        if state.until.is_some_and(|until| until < now) {
            self.state.rcu(|state| {
                let mut state = State::clone(state);
                // It may have been changed again.
                if state.until.is_some_and(|until| until < now) {
                    state.ring.forget_previous();
                    state.until = None;
                }
                state
            });
            return sign::verify(term, &self.state.load().ring, unix_seconds, self.ttl_seconds);
        }
        sign::verify(term, &state.ring, unix_seconds, self.ttl_seconds)
    }
}

#[cfg(test)]
mod tests {
    use gater_core::sign::Key;

    use super::*;

    #[test]
    fn the_secret_before_verifies_for_its_time_whatever_the_clock_of_the_day_does() {
        let (secret, start) = (Secret::new(b"old", 300), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let signed = |unix_seconds| {
            let mut signed = Vec::new();
            // The map without pairs.
            let key = Key::new(b"old");
            sign::sign(&[116, 0, 0, 0, 0], &key, unix_seconds, &mut signed).unwrap();
            signed
        };
        // The clock is a year ahead when the secret changes, and is set right then.
        let (ahead, right) = (1_731_536_000, 1_700_000_000);
        assert_eq!(secret.verify_at(&signed(ahead), ahead, start), Ok(()));
        secret.rotate_at(b"new", start);
        // Who tells the same one again changes nothing.
        secret.rotate_at(b"new", after(200));
        assert_eq!(secret.verify_at(&signed(right), right, after(299)), Ok(()));
        assert_eq!(secret.verify_at(&signed(right), right, after(301)), Err(VerifyError::Invalid));
    }
}
