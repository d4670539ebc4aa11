//! `did:key` names of Ed25519 keys.

use ed25519_dalek::{Signature, VerifyingKey};

/// The start of the name of an Ed25519 key: the method and the prefix of base58btc.
const PREFIX: &str = "did:key:z";
/// The multicodec of a public Ed25519 key.
const MULTICODEC: [u8; 2] = [0xed, 0x01];
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// The length of the codec and the key, in bytes.
const BYTES: usize = 34;
/// The greatest length of a name in bytes, which leaves room for 34 bytes in base58.
const MAX_DID_BYTES: usize = 64;

/// The error for a text that is not the `did:key` of an Ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the did:key of an Ed25519 key")]
pub struct DidError;

/// A public key with which tokens are verified.
#[derive(Debug, Clone)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Returns the key that the name `did:key:...` encodes.
    pub fn from_did(did: &str) -> Result<Self, DidError> {
        let encoded = did.strip_prefix(PREFIX).ok_or(DidError)?;
        // A leading 1 is a zero byte, for which there is no room.
        if did.len() > MAX_DID_BYTES || encoded.starts_with('1') {
            return Err(DidError);
        }
        let bytes = decode(encoded)?;
        let key = bytes.strip_prefix(&MULTICODEC).ok_or(DidError)?;
        let key: &[u8; 32] = key.try_into().map_err(|_| DidError)?;
        VerifyingKey::from_bytes(key).map(Self).map_err(|_| DidError)
    }

    /// Returns whether `signature` over `message` was made with the private key.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// Decodes base58 of exactly as many bytes as a codec and a key have.
fn decode(text: &str) -> Result<[u8; BYTES], DidError> {
    let mut bytes = [0_u8; BYTES];
    for character in text.bytes() {
        let digit = ALPHABET.iter().position(|known| *known == character).ok_or(DidError)?;
        let mut carry = u32::try_from(digit).map_err(|_| DidError)?;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        if carry > 0 {
            return Err(DidError);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_specification_is_its_key() {
        let key = PublicKey::from_did("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK");
        assert_eq!(key.unwrap().0.as_bytes()[..4], [0x2e, 0x6f, 0xcc, 0xe3]);
    }

    #[test]
    fn what_is_no_name_of_a_key_is_refused() {
        let long = format!("did:key:z{}", "1".repeat(100_000));
        for text in [
            "",
            "did:key:z",
            "did:key:6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
            "did:web:example.org",
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2do0",
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2do",
            "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doKK",
            "did:key:z16MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
            &long,
        ] {
            assert!(PublicKey::from_did(text).is_err(), "{text}");
        }
    }
}
