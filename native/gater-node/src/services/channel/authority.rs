//! Checks the capability tokens of publishers and subscribers.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use gater_core::capability::{Action, Chain, Grant, Unauthorized};
use parking_lot::Mutex;

use crate::clock;
use crate::config::{Capabilities, Mode};

/// The number of verified tokens that are remembered. When it is reached, all of them are
/// forgotten.
const MAX_VERIFIED: usize = 1024;

/// Authorizes requests by their tokens.
pub struct Authority {
    capabilities: Capabilities,
    /// The verified tokens. A signature stays valid, so each token is verified once.
    verified: Mutex<HashMap<Bytes, Arc<Chain>>>,
}

impl Authority {
    /// Returns a value that applies this configuration.
    pub fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, verified: Mutex::default() }
    }

    /// Checks that a caller with this token, or without one, may do `action` on a topic.
    pub fn authorize(
        &self,
        channel: &str,
        topic: &[u8],
        action: Action,
        token: Option<&[u8]>,
    ) -> Result<(), Unauthorized> {
        let token = match (self.capabilities.mode, token) {
            (Mode::Disabled, _) | (Mode::Optional, None) => return Ok(()),
            (Mode::Required, None) => return Err(Unauthorized::CapabilityRequired),
            (Mode::Optional | Mode::Required, Some(token)) => token,
        };
        let resource = Grant::resource(channel, topic);
        let now = i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX);
        self.chain(token)?.authorize(&resource, action, &self.capabilities.audience, now)
    }

    fn chain(&self, token: &[u8]) -> Result<Arc<Chain>, Unauthorized> {
        if let Some(chain) = self.verified.lock().get(token) {
            return Ok(chain.clone());
        }
        let chain = Arc::new(Chain::verify(token, &self.capabilities.roots)?);
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(Bytes::copy_from_slice(token), chain.clone());
        Ok(chain)
    }
}
