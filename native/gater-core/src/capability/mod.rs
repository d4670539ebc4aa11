//! Capability tokens, which say who may publish to and subscribe to which topics.
//!
//! A token is a JWT (RFC 7515, compact) that is signed with Ed25519 and modelled on UCAN. Its
//! issuer, which is named by a `did:key`, grants its audience actions on resources for a limited
//! time. A token may be derived from another token, which it contains as its only proof; it then
//! grants no more than that token.
//!
//! A [`Chain`] is a token that was verified as far as this does not depend on the time: every token
//! of it is signed by its issuer, the first issuer is a root key, and no token grants more than its
//! proof. [`Chain::authorize`] decides one request with it. The module `esdb_gater_verifier` of the
//! application applies the same rules.

mod did;
mod grant;
mod json;
mod token;

pub use self::did::{DidError, PublicKey};
pub use self::grant::{Action, Grant};
use self::token::Token;

/// The greatest length of a token, including its proofs, in bytes.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;
/// The greatest number of tokens in a chain. Each token costs the verification of a signature.
pub const MAX_CHAIN: usize = 8;
/// The greatest number of grants in one token.
pub const MAX_GRANTS: usize = 64;
/// The greatest difference between the clocks of two hosts that is tolerated, in seconds.
pub const LEEWAY_SECONDS: i64 = 5;

/// The reason why a request is not authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unauthorized {
    /// The request has no token, but the configuration requires one.
    #[error("a capability token is required")]
    CapabilityRequired,
    /// The token is not a JWT of this form.
    #[error("the token is malformed")]
    MalformedToken,
    /// The token is larger than [`MAX_TOKEN_BYTES`].
    #[error("the token is too large")]
    TokenTooLarge,
    /// The token is derived through more than [`MAX_CHAIN`] tokens.
    #[error("the chain of tokens is too long")]
    ChainTooLong,
    /// The issuer of a token is not the audience of the token that it is derived from.
    #[error("a token was not issued by the audience of its proof")]
    BrokenChain,
    /// A token grants more than the token that it is derived from.
    #[error("a token grants more than its proof")]
    Widened,
    /// The issuer of the first token is not a root key.
    #[error("the issuer is no root")]
    UntrustedIssuer,
    /// A token was not signed by its issuer or was changed afterwards.
    #[error("a signature does not hold")]
    InvalidSignature,
    /// A token has expired.
    #[error("a token has expired")]
    Expired,
    /// A token is not valid yet.
    #[error("a token is not valid yet")]
    NotYetValid,
    /// The audience of the token is not the caller.
    #[error("the token is made out to another audience")]
    WrongAudience,
    /// The token does not grant the action on the resource.
    #[error("the token does not grant this")]
    NotGranted,
}

impl Unauthorized {
    /// Returns the reason as callers see it in `{error, {unauthorized, Reason}}`.
    pub fn as_atom(self) -> &'static str {
        match self {
            Self::CapabilityRequired => "capability_required",
            Self::MalformedToken => "malformed_token",
            Self::TokenTooLarge => "token_too_large",
            Self::ChainTooLong => "chain_too_long",
            Self::BrokenChain => "broken_chain",
            Self::Widened => "widened",
            Self::UntrustedIssuer => "untrusted_issuer",
            Self::InvalidSignature => "invalid_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongAudience => "wrong_audience",
            Self::NotGranted => "not_granted",
        }
    }
}

/// A token that was verified as far as this depends neither on the time nor on the request: its
/// tokens are signed by their issuers, and none of them grants more than its proof.
#[derive(Debug, Clone)]
pub struct Chain {
    grants: Vec<Grant>,
    audience: String,
    /// The validity in Unix seconds, from the latest start to the earliest end of all tokens.
    not_before: i64,
    expires: i64,
}

impl Chain {
    /// Verifies a token and all tokens that it is derived from, up to one of the `roots`.
    pub fn verify(token: &[u8], roots: &[String]) -> Result<Self, Unauthorized> {
        let tokens = chain(token)?;
        let (Some(leaf), Some(root)) = (tokens.first(), tokens.last()) else {
            return Err(Unauthorized::MalformedToken);
        };
        if !roots.contains(&root.claims.iss) {
            return Err(Unauthorized::UntrustedIssuer);
        }
        // The verification starts at the root, so a forged token costs no more verifications than
        // the genuine tokens before it.
        for token in tokens.iter().rev() {
            token.verify()?;
        }
        Ok(Self {
            grants: leaf.claims.att.clone(),
            audience: leaf.claims.aud.clone(),
            not_before: tokens.iter().filter_map(|t| t.claims.nbf).max().unwrap_or(i64::MIN),
            expires: tokens.iter().map(|t| t.claims.exp).min().unwrap_or(i64::MIN),
        })
    }

    /// Checks that the token allows `action` on `resource` at the time `now`, in Unix seconds. If
    /// `audiences` is empty, the token may have any audience.
    pub fn authorize(
        &self,
        resource: &[u8],
        action: Action,
        audiences: &[String],
        now: i64,
    ) -> Result<(), Unauthorized> {
        if self.expires <= now {
            Err(Unauthorized::Expired)
        } else if self.not_before > now.saturating_add(LEEWAY_SECONDS) {
            Err(Unauthorized::NotYetValid)
        } else if !audiences.is_empty() && !audiences.contains(&self.audience) {
            Err(Unauthorized::WrongAudience)
        } else if !self.grants.iter().any(|grant| grant.matches(resource, action)) {
            Err(Unauthorized::NotGranted)
        } else {
            Ok(())
        }
    }
}

/// Returns the token, then the token that it is derived from, and so on.
fn chain(token: &[u8]) -> Result<Vec<Token>, Unauthorized> {
    let mut tokens: Vec<Token> = vec![Token::parse(token)?];
    while let Some(child) = tokens.last()
        && let Some(proof) = child.proof()
    {
        if tokens.len() >= MAX_CHAIN {
            return Err(Unauthorized::ChainTooLong);
        }
        let parent = Token::parse(proof.as_bytes())?;
        if parent.claims.aud != child.claims.iss {
            return Err(Unauthorized::BrokenChain);
        }
        let is_covered = |grant: &Grant| parent.claims.att.iter().any(|wider| wider.covers(grant));
        if !child.claims.att.iter().all(is_covered) {
            return Err(Unauthorized::Widened);
        }
        tokens.push(parent);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
