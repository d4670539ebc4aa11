//! The proof by which gateways show each other that they know the key of their cluster.
//!
//! Each of the two gateways sends a random [`Nonce`], and answers that of the other with a MAC over
//! both nonces, its direction, and the names and incarnations of both nodes. A proof is therefore
//! of no use on another connection, to another gateway or at another time, and cannot be reflected
//! to the gateway from which it came. The key is not revealed. Nothing protects later messages from
//! an attacker who can change the traffic of the network; that requires TLS.

use gater_core::sign::Key;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// The first bytes under the MAC, so that no other use of the key produces the same bytes.
const PURPOSE: &[u8] = b"esdb-gater: proof of a gateway, 1";

/// A number that is drawn at random for one connection.
pub type Nonce = [u8; 32];

/// A proof of the key.
pub type Proof = [u8; 32];

/// A message between two gateways about the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyMessage {
    /// Asks for a proof over this nonce.
    Challenge(Nonce),
    /// Proves the knowledge of the key.
    Proof(Proof),
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The name of the node.
    pub name: &'a str,
    /// The incarnation of the node.
    pub creation: u32,
    /// The nonce that the node has drawn.
    pub nonce: &'a Nonce,
}

/// The key of a cluster.
#[derive(Clone)]
pub struct ClusterKey(Key);

impl ClusterKey {
    /// Returns the key that consists of these bytes.
    pub fn new(bytes: &SecretSlice<u8>) -> Self {
        Self(Key::new(bytes.expose_secret()))
    }

    /// Returns the proof that `prover` sends to `verifier`.
    pub fn prove(&self, prover: End<'_>, verifier: End<'_>) -> Proof {
        self.mac(prover, verifier)
    }

    /// Returns whether `proof` is the one that `prover` sends to `verifier`. The time does not
    /// depend on where they differ.
    pub fn verify(&self, prover: End<'_>, verifier: End<'_>, proof: &Proof) -> bool {
        self.mac(prover, verifier).ct_eq(proof).into()
    }

    fn mac(&self, prover: End<'_>, verifier: End<'_>) -> Proof {
        let mut text = PURPOSE.to_vec();
        for end in [prover, verifier] {
            // The length prevents a name from being confused with the bytes after it.
            text.extend((end.name.len() as u64).to_be_bytes());
            text.extend(end.name.as_bytes());
            text.extend(end.creation.to_be_bytes());
            text.extend(end.nonce);
        }
        self.0.mac(&text)
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ClusterKey {
        ClusterKey::new(&text.as_bytes().to_vec().into())
    }

    fn end<'a>(name: &'a str, creation: u32, nonce: &'a Nonce) -> End<'a> {
        End { name, creation, nonce }
    }

    #[test]
    fn a_proof_holds_for_its_connection_and_direction_only() {
        let (a, b, c) = ([1; 32], [2; 32], [3; 32]);
        let (prover, verifier) = (end("a@h", 1, &a), end("b@h", 2, &b));
        let proof = key("key").prove(prover, verifier);
        assert!(key("key").verify(prover, verifier, &proof));
        assert!(!key("another").verify(prover, verifier, &proof));
        for (prover, verifier) in [
            (verifier, prover),
            (end("c@h", 1, &a), verifier),
            (end("a@h", 3, &a), verifier),
            (end("a@h", 1, &c), verifier),
            (prover, end("c@h", 2, &b)),
            (prover, end("b@h", 3, &b)),
            (prover, end("b@h", 2, &c)),
        ] {
            assert!(!key("key").verify(prover, verifier, &proof));
        }
        let mut changed = proof;
        changed[31] ^= 1;
        assert!(!key("key").verify(prover, verifier, &changed));
    }

    #[test]
    fn the_key_is_not_in_what_is_printed() {
        assert!(!format!("{:?}", key("swordfish")).contains("swordfish"));
    }
}
