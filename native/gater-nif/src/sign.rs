//! Signatures. Messages are passed as `term_to_binary/1` returns them.
//!
//! Each function exists twice: the variant on a dirty scheduler is for messages that take longer
//! than an ordinary scheduler may be occupied.

use gater_core::sign::{self, Key, KeyRing, SignError, VerifyError};
use rustler::{Atom, Binary, Encoder, Env, NewBinary, NifResult, Resource, ResourceArc, Term};

use crate::direct::{VERSION, canonical};

mod atoms {
    rustler::atoms! {
        ok,
        unsupported,
        local_fun,
        badarg,
        missing_signature,
        missing_timestamp,
        invalid_timestamp,
        message_expired,
        invalid_signature,
    }
}

/// Prepared secrets. A ring never changes; another secret is another ring.
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

/// `sign(Encoded, Ring, NowSeconds) -> Signature | badarg | local_fun | unsupported`
#[rustler::nif]
fn sign<'a>(env: Env<'a>, message: Binary<'a>, ring: ResourceArc<Ring>, now: u64) -> Term<'a> {
    signature(env, &message, ring.0.current(), now)
}

/// Does the same as `sign/3`, on a dirty scheduler.
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

/// Does the same as `verify/4`, on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn verify_dirty(message: Binary<'_>, ring: ResourceArc<Ring>, now: u64, ttl: u64) -> Atom {
    judgement(&message, &ring.0, now, ttl)
}

/// `sign_map(Map, Ring, NowSeconds) -> Signature | unsupported`: signs without an intermediate
/// encoding. It supports messages that are neither large nor deeply nested.
#[rustler::nif]
fn sign_map<'a>(env: Env<'a>, map: Term<'a>, ring: Term<'a>, now: u64) -> NifResult<Term<'a>> {
    // The ring is borrowed from the caller, since counting references takes time.
    let ring: &Ring = ring.decode()?;
    Ok(match canonical(map, ring.0.current(), Some(now)) {
        Some(message) => text(env, &message.signing.finish()),
        None => atoms::unsupported().encode(env),
    })
}

/// `verify_map(Map, Ring, NowSeconds, TtlSeconds) -> ok | Reason | unsupported`: verifies without
/// an intermediate encoding. The result is `unsupported` for a signature that is not that of the
/// current secret over this form, since another secret or another form may match.
#[rustler::nif]
fn verify_map(map: Term<'_>, ring: Term<'_>, now: u64, ttl: u64) -> NifResult<Atom> {
    let ring: &Ring = ring.decode()?;
    let Some(message) = canonical(map, ring.0.current(), None) else {
        return Ok(atoms::unsupported());
    };
    let Some(signature) = message.signature else { return Ok(atoms::missing_signature()) };
    let Some(signed_at) = message.signed_at else { return Ok(atoms::missing_timestamp()) };
    let (Ok(signed_at), Ok(signature)) = (signed_at.decode(), signature.decode::<Binary<'_>>())
    else {
        return Ok(atoms::unsupported());
    };
    Ok(if !sign::is_current(signed_at, now, ttl) {
        atoms::message_expired()
    } else if message.signing.is(&signature) {
        atoms::ok()
    } else {
        atoms::unsupported()
    })
}

fn text<'a>(env: Env<'a>, text: &[u8]) -> Term<'a> {
    let mut binary = NewBinary::new(env, text.len());
    binary.as_mut_slice().copy_from_slice(text);
    binary.into()
}

fn signature<'a>(env: Env<'a>, message: &[u8], key: &Key, now: u64) -> Term<'a> {
    let Some((&VERSION, term)) = message.split_first() else {
        return atoms::badarg().encode(env);
    };
    match sign::signature_at(term, key, now) {
        Ok(signature) => text(env, &signature),
        Err(SignError::NotAMap) => atoms::badarg().encode(env),
        Err(SignError::LocalFun) => atoms::local_fun().encode(env),
        // The term is too complex for the core to sort, so the Erlang implementation has to sort
        // it.
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
