//! One token: its claims and the bytes that are signed.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};

use super::did::PublicKey;
use super::grant::Grant;
use super::json::{Facts, Object, present};
use super::{MAX_GRANTS, MAX_TOKEN_BYTES, Unauthorized};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
}

/// The claims of a token. An unknown claim could be a condition, so a token with one is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub exp: i64,
    #[serde(deserialize_with = "grants")]
    pub att: Vec<Grant>,
    #[serde(default, deserialize_with = "present")]
    pub nbf: Option<i64>,
    #[serde(rename = "iat", default, deserialize_with = "present")]
    _iat: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    nnc: Option<String>,
    #[serde(rename = "fct", default)]
    _fct: Facts,
    #[serde(default)]
    prf: Vec<String>,
}

fn grants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Grant>, D::Error> {
    let grants = Vec::<Object<Grant>>::deserialize(deserializer)?;
    Ok(grants.into_iter().map(|Object(grant)| grant).collect())
}

/// A token that was parsed but not verified.
#[derive(Debug)]
pub struct Token {
    pub claims: Claims,
    signed: Vec<u8>,
    signature: [u8; 64],
}

impl Token {
    /// Parses a token without verifying it.
    pub fn parse(token: &[u8]) -> Result<Self, Unauthorized> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Unauthorized::TokenTooLarge);
        }
        Self::read(token).ok_or(Unauthorized::MalformedToken)
    }

    fn read(token: &[u8]) -> Option<Self> {
        let token = std::str::from_utf8(token).ok()?;
        let (signed, signature) = token.rsplit_once('.')?;
        // Base64 contains no dot, so decoding refuses a text with a third dot.
        let (header, claims) = signed.split_once('.')?;
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let Object::<Header>(header) = serde_json::from_slice(&decode(header)?).ok()?;
        if header.alg != "EdDSA" || header.typ != "UCAN" {
            return None;
        }
        let Object::<Claims>(claims) = serde_json::from_slice(&decode(claims)?).ok()?;
        let is_good = claims.att.len() <= MAX_GRANTS
            && claims.att.iter().all(Grant::is_well_formed)
            && claims.prf.len() <= 1
            && !claims.iss.is_empty()
            && !claims.aud.is_empty()
            && claims.nnc.as_deref() != Some("");
        let signature = decode(signature)?.try_into().ok()?;
        is_good.then(|| Self { claims, signed: signed.as_bytes().to_vec(), signature })
    }

    /// Returns the token that this token is derived from.
    pub fn proof(&self) -> Option<&str> {
        self.claims.prf.first().map(String::as_str)
    }

    /// Verifies that the issuer has signed the token.
    pub fn verify(&self) -> Result<(), Unauthorized> {
        match PublicKey::from_did(&self.claims.iss) {
            Ok(key) if key.verify(&self.signed, &self.signature) => Ok(()),
            _ => Err(Unauthorized::InvalidSignature),
        }
    }
}
