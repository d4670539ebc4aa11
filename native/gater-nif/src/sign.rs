//! Signatures. Messages come as `term_to_binary/1` gives them.
//!
//! Each function is there twice: the one on a dirty scheduler is for messages that
//! take longer than an ordinary scheduler may be held.

use gater_core::sign::{self, Key, KeyRing, SignError, VerifyError};
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Resource, ResourceArc, Term};

mod atoms {
    rustler::atoms! {
        ok,
        unsupported,
        badarg,
        missing_signature,
        missing_timestamp,
        invalid_timestamp,
        message_expired,
        invalid_signature,
    }
}

/// The version byte that starts an external term.
const VERSION: u8 = 131;

/// Prepared secrets. Never changed: another secret is another ring.
struct Ring(KeyRing);

#[rustler::resource_impl]
impl Resource for Ring {}

/// `ring(Secret) -> Ring`
#[rustler::nif]
fn ring(secret: Binary<'_>) -> ResourceArc<Ring> {
    ResourceArc::new(Ring(KeyRing::new(&secret)))
}

/// `ring(Secret, Previous, ValidUntil) -> Ring`: the previous secret verifies until
/// the Unix second `ValidUntil`.
#[rustler::nif(name = "ring")]
fn ring_with_previous(
    secret: Binary<'_>,
    previous: Binary<'_>,
    until_seconds: u64,
) -> ResourceArc<Ring> {
    let mut ring = KeyRing::new(&previous);
    ring.rotate(&secret, until_seconds, 0);
    ResourceArc::new(Ring(ring))
}

/// `sign(Encoded, Ring, NowSeconds) -> Signature | badarg | unsupported`
#[rustler::nif]
fn sign<'a>(env: Env<'a>, message: Binary<'a>, ring: ResourceArc<Ring>, now: u64) -> Term<'a> {
    signature(env, &message, ring.0.current(), now)
}

/// As `sign/3`.
#[rustler::nif(schedule = "DirtyCpu")]
fn sign_dirty<'a>(
    env: Env<'a>,
    message: Binary<'a>,
    ring: ResourceArc<Ring>,
    now: u64,
) -> Term<'a> {
    signature(env, &message, ring.0.current(), now)
}

/// `verify(Encoded, Ring, NowSeconds, TtlSeconds) -> ok | Reason | unsupported`
#[rustler::nif]
fn verify(message: Binary<'_>, ring: ResourceArc<Ring>, now: u64, ttl: u64) -> Atom {
    judgement(&message, &ring.0, now, ttl)
}

/// As `verify/4`.
#[rustler::nif(schedule = "DirtyCpu")]
fn verify_dirty(message: Binary<'_>, ring: ResourceArc<Ring>, now: u64, ttl: u64) -> Atom {
    judgement(&message, &ring.0, now, ttl)
}

fn signature<'a>(env: Env<'a>, message: &[u8], key: &Key, now: u64) -> Term<'a> {
    let Some((&VERSION, term)) = message.split_first() else {
        return atoms::badarg().encode(env);
    };
    match sign::signature_at(term, key, now) {
        Ok(text) => {
            let mut binary = NewBinary::new(env, text.len());
            binary.as_mut_slice().copy_from_slice(&text);
            binary.into()
        }
        Err(SignError::NotAMap) => atoms::badarg().encode(env),
        // A term more intricate than the core brings in order: Erlang does it.
        Err(SignError::Term(_)) => atoms::unsupported().encode(env),
    }
}

fn judgement(message: &[u8], ring: &KeyRing, now: u64, ttl: u64) -> Atom {
    let Some((&VERSION, term)) = message.split_first() else {
        return atoms::badarg();
    };
    match sign::verify(term, ring, now, ttl) {
        Ok(()) => atoms::ok(),
        Err(VerifyError::NotAMap) => atoms::badarg(),
        Err(VerifyError::MissingSignature) => atoms::missing_signature(),
        Err(VerifyError::MissingTimestamp) => atoms::missing_timestamp(),
        Err(VerifyError::InvalidTimestamp) => atoms::invalid_timestamp(),
        Err(VerifyError::Expired) => atoms::message_expired(),
        Err(VerifyError::Invalid) => atoms::invalid_signature(),
        Err(VerifyError::Term(_)) => atoms::unsupported(),
    }
}
