//! Capability tokens: who may publish to and subscribe to which topics.
//!
//! A token is a JWT (RFC 7515, compact) signed with Ed25519, modelled on UCAN: its issuer, named by
//! a `did:key`, grants its audience actions with resources, for a time. A token may be derived from
//! another one, which is then in it as its only proof; it grants no more than that.
//!
//! A [`Chain`] is a token that holds whatever the time is: signed by those who issue it, from a
//! root key on, and nowhere widened. [`Chain::authorize`] judges one request with it. The module
//! `esdb_gater_verifier` of the application judges by the same rules.

mod did;
mod grant;
mod json;
mod token;

pub use self::did::{DidError, PublicKey};
pub use self::grant::{Action, Grant};
use self::token::Token;

/// Bytes of a token, those of its proofs included.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;
/// Tokens of a chain, at most. Each costs the verification of a signature.
pub const MAX_CHAIN: usize = 8;
/// Grants of one token, at most.
pub const MAX_GRANTS: usize = 64;
/// Seconds by which the clocks of two hosts may differ.
pub const LEEWAY_SECONDS: i64 = 5;

/// Why a request is not authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unauthorized {
    /// There is no token, and there has to be one.
    #[error("a capability token is required")]
    CapabilityRequired,
    /// The token is no such JWT.
    #[error("the token is malformed")]
    MalformedToken,
    /// The token is larger than [`MAX_TOKEN_BYTES`].
    #[error("the token is too large")]
    TokenTooLarge,
    /// The token is derived over more than [`MAX_CHAIN`] tokens.
    #[error("the chain of tokens is too long")]
    ChainTooLong,
    /// A token was issued by somebody else than the audience of the one it is derived from.
    #[error("a token was not issued by the audience of its proof")]
    BrokenChain,
    /// A token grants what the one it is derived from does not.
    #[error("a token grants more than its proof")]
    Widened,
    /// The first token was not issued by a root key.
    #[error("the issuer is no root")]
    UntrustedIssuer,
    /// A token was not signed by its issuer, or was changed since.
    #[error("a signature does not hold")]
    InvalidSignature,
    /// A token has ended.
    #[error("a token has expired")]
    Expired,
    /// A token is not valid yet.
    #[error("a token is not valid yet")]
    NotYetValid,
    /// The token is made out to somebody else.
    #[error("the token is made out to another audience")]
    WrongAudience,
    /// The token does not grant the action with the resource.
    #[error("the token does not grant this")]
    NotGranted,
}

impl Unauthorized {
    /// The reason as callers see it in `{error, {unauthorized, Reason}}`.
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

/// A token that is signed by those who issue it and that widens nothing, as far as that does not
/// depend on the time or on what is asked for.
#[derive(Debug, Clone)]
pub struct Chain {
    grants: Vec<Grant>,
    audience: String,
    /// In Unix seconds: from the latest beginning to the earliest end of all tokens.
    not_before: i64,
    expires: i64,
}

impl Chain {
    /// Verifies a token and all it is derived from, up to one of the `roots`.
    pub fn verify(token: &[u8], roots: &[String]) -> Result<Self, Unauthorized> {
        let tokens = chain(token)?;
        let (Some(leaf), Some(root)) = (tokens.first(), tokens.last()) else {
            return Err(Unauthorized::MalformedToken);
        };
        if !roots.contains(&root.claims.iss) {
            return Err(Unauthorized::UntrustedIssuer);
        }
        // From the root on: a forged token costs no more verifications than there are true ones.
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

    /// Whether the token allows `action` with `resource` at the time `now`, in Unix seconds.
    /// Without `audiences` it may be made out to anybody.
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

/// The token, then the one it is derived from, and so on.
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
