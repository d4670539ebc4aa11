//! Signs messages and verifies their signatures.
//!
//! A signed message is a map with the atom keys `signed_at`, in Unix seconds, and `signature`, the
//! base64 of an HMAC-SHA256 (RFC 2104) over the [canonical form](gater_term::canonical) of the map
//! without `signature`. Terms have no version byte in either direction, and the caller has scanned
//! them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use gater_term::canonical::{self, Atoms, Form, Ports};
use gater_term::order::Pair;
use gater_term::{ReadError, Reader, encode};

const SIGNATURE: &str = "signature";
const SIGNED_AT: &str = "signed_at";
const MAC_BYTES: usize = 32;
/// The length of a signature in bytes: base64 of 32 bytes, padded.
pub const SIGNATURE_BYTES: usize = 44;

/// The greatest number of seconds by which the time of a message may be in the future.
pub const MAX_AHEAD_SECONDS: u64 = 5;

/// A prepared secret: the part of the computation that does not depend on the message is done.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Prepares a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        // A key of up to one block is padded, and the block type takes any such length; a longer
        // key is hashed to 32 bytes first (RFC 2104, section 2).
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        if secret.len() <= block.len() {
            block[..secret.len()].copy_from_slice(secret);
        } else {
            use sha2::Digest;
            let digest = Sha256::digest(secret);
            block[..digest.len()].copy_from_slice(&digest);
        }
        Self(Hmac::new(&block))
    }

    /// Begins a signature over canonical bytes that are passed in pieces.
    pub fn begin(&self) -> Signing {
        Signing(self.0.clone())
    }

    /// Returns the MAC of `bytes`.
    pub fn mac(&self, bytes: &[u8]) -> [u8; MAC_BYTES] {
        let mut hmac = self.0.clone();
        hmac.update(bytes);
        hmac.finalize().into_bytes().into()
    }
}

/// A signature that is being computed.
pub struct Signing(Hmac<Sha256>);

impl Signing {
    /// Adds `bytes` to the signed bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the signature in base64.
    pub fn finish(self) -> [u8; SIGNATURE_BYTES] {
        text(&self.0.finalize().into_bytes())
    }

    /// Returns whether `signature`, in base64, is the expected one. The time does not depend on
    /// where they differ.
    pub fn is(self, signature: &[u8]) -> bool {
        self.finish().as_slice().ct_eq(signature).into()
    }
}

/// The secret in use and, for a limited time, the previous one.
#[derive(Debug, Clone)]
pub struct KeyRing {
    current: Key,
    /// The previous key, and the last Unix second in which it verifies.
    previous: Option<(Key, u64)>,
}

impl KeyRing {
    /// Returns a ring with one secret.
    pub fn new(secret: &[u8]) -> Self {
        Self { current: Key::new(secret), previous: None }
    }

    /// Changes the secret at `now_seconds`. The previous secret verifies for `ttl_seconds` more,
    /// which is the longest time for which a message that was signed with it is valid.
    ///
    /// Setting the secret that is in use changes nothing. Several nodes may announce the same
    /// secret, and this must not displace the previous one.
    ///
    /// Returns whether the secret has changed.
    pub fn rotate(&mut self, secret: &[u8], now_seconds: u64, ttl_seconds: u64) -> bool {
        let new = Key::new(secret);
        // Equal keys have equal MACs. The comparison is not in constant time, but nobody can
        // measure it.
        if new.mac(b"") == self.current.mac(b"") {
            return false;
        }
        let old = std::mem::replace(&mut self.current, new);
        self.previous = Some((old, now_seconds.saturating_add(ttl_seconds)));
        true
    }

    /// Returns the key that signs.
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// Forgets the secret before the one in use.
    pub fn forget_previous(&mut self) {
        self.previous = None;
    }

    fn previous(&self, now_seconds: u64) -> Option<&Key> {
        self.previous.as_ref().filter(|(_, until)| now_seconds <= *until).map(|(key, _)| key)
    }
}

/// The reason why a message was not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The message is not a map.
    #[error("not a map")]
    NotAMap,
    /// The message contains a local fun. No other node or process writes the same bytes for it, so
    /// nobody could verify the signature.
    #[error("a local fun")]
    LocalFun,
    /// The message has no canonical form.
    #[error(transparent)]
    Term(#[from] ReadError),
}

/// The reason why a signed message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The message is not a map.
    #[error("not a map")]
    NotAMap,
    /// The message has no `signature`.
    #[error("no signature")]
    MissingSignature,
    /// The message has no `signed_at`.
    #[error("no time of signing")]
    MissingTimestamp,
    /// The value of `signed_at` is not an integer.
    #[error("the time of signing is not an integer")]
    InvalidTimestamp,
    /// The message is older than its time to live or too far in the future.
    #[error("expired")]
    Expired,
    /// The signature is not valid for the message.
    #[error("wrong signature")]
    Invalid,
    /// The message has no canonical form.
    #[error("no canonical form: {0}")]
    Term(ReadError),
}

impl VerifyError {
    /// Returns the reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::NotAMap => "badarg",
            Self::MissingSignature => "missing_signature",
            Self::MissingTimestamp => "missing_timestamp",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::Expired => "message_expired",
            Self::Invalid | Self::Term(_) => "invalid_signature",
        }
    }
}

/// Returns whether a term is a map with a `signature`, whatever its value.
pub fn has_signature(term: &[u8]) -> bool {
    let mut reader = Reader::new(term);
    let Ok(count) = reader.map() else { return false };
    for _ in 0..count {
        if reader.is_atom(SIGNATURE) {
            return true;
        }
        if reader.skip().and_then(|_| reader.skip()).is_err() {
            break;
        }
    }
    false
}

/// Writes the map `term` with `signed_at` and `signature` put, which replace any values that it has
/// for them.
pub fn sign(term: &[u8], key: &Key, now_seconds: u64, out: &mut Vec<u8>) -> Result<(), SignError> {
    let time = SignedAt::new(now_seconds);
    let mut pairs = unsigned(term)?;
    encode::map(out, (pairs.len() + 2) as u32);
    pairs.push(time.pair());
    for pair in &pairs {
        out.extend_from_slice(pair.key);
        out.extend_from_slice(pair.value);
    }
    let signature = signature_of(&mut pairs, key, term.len())?;
    encode::atom(out, SIGNATURE);
    encode::binary(out, &signature);
    Ok(())
}

/// Returns the signature that [`sign`] puts into the map `term`, for callers that put it
/// themselves.
pub fn signature_at(
    term: &[u8],
    key: &Key,
    now_seconds: u64,
) -> Result<[u8; SIGNATURE_BYTES], SignError> {
    let time = SignedAt::new(now_seconds);
    let mut pairs = unsigned(term)?;
    pairs.push(time.pair());
    signature_of(&mut pairs, key, term.len())
}

/// Returns the pairs of the map `term` without time and signature.
fn unsigned(term: &[u8]) -> Result<Vec<Pair<'_>>, SignError> {
    let message = Message::read(term).map_err(|error| error.unwrap_or(SignError::NotAMap))?;
    let mut pairs = message.pairs;
    pairs.retain(|pair| !Reader::new(pair.key).is_atom(SIGNED_AT));
    Ok(pairs)
}

fn signature_of(
    pairs: &mut [Pair<'_>],
    key: &Key,
    size: usize,
) -> Result<[u8; SIGNATURE_BYTES], SignError> {
    let mut canonical = Vec::with_capacity(size + 64);
    let form = Form { atoms: Atoms::Utf8, ports: Ports::AsTheyCame };
    if canonical::write_form(&mut canonical, pairs, form)?.local_funs {
        return Err(SignError::LocalFun);
    }
    Ok(signature(key, &canonical))
}

/// The encoded pair of `signed_at`.
struct SignedAt {
    name: Vec<u8>,
    time: Vec<u8>,
}

impl SignedAt {
    fn new(now_seconds: u64) -> Self {
        let (mut name, mut time) = (Vec::with_capacity(16), Vec::with_capacity(16));
        encode::atom(&mut name, SIGNED_AT);
        encode::uint(&mut time, now_seconds);
        Self { name, time }
    }

    fn pair(&self) -> Pair<'_> {
        Pair { key: &self.name, value: &self.time }
    }
}

/// Returns the signature over canonical bytes.
pub fn signature(key: &Key, canonical: &[u8]) -> [u8; SIGNATURE_BYTES] {
    text(&key.mac(canonical))
}

fn text(mac: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut text = [0; SIGNATURE_BYTES];
    // The buffer has the length of 32 bytes in base64, so encoding cannot fail.
    let _ = STANDARD.encode_slice(mac, &mut text);
    text
}

/// Returns whether a message that was signed at `signed_at` is still valid: not older than
/// `ttl_seconds`, and not more than [`MAX_AHEAD_SECONDS`] in the future.
pub fn is_current(signed_at: u64, now_seconds: u64, ttl_seconds: u64) -> bool {
    now_seconds.saturating_sub(signed_at) <= ttl_seconds
        && signed_at.saturating_sub(now_seconds) <= MAX_AHEAD_SECONDS
}

/// Verifies a signed message.
///
/// The age is checked before the MAC, which is compared in constant time. The canonical form with
/// atoms in Latin-1, as OTP 25 and earlier write them, is accepted as well, and so are both
/// encodings of ports.
pub fn verify(
    term: &[u8],
    ring: &KeyRing,
    now_seconds: u64,
    ttl_seconds: u64,
) -> Result<(), VerifyError> {
    let mut message = Message::read(term).map_err(|error| match error {
        None | Some(SignError::NotAMap) => VerifyError::NotAMap,
        // Reading a message does not look for local funs, so it never returns this error.
        Some(SignError::LocalFun) => VerifyError::Invalid,
        Some(SignError::Term(error)) => VerifyError::Term(error),
    })?;
    let signature = message.signature.ok_or(VerifyError::MissingSignature)?;
    let signed_at = message.signed_at.ok_or(VerifyError::MissingTimestamp)?;
    let signed_at = match Reader::new(signed_at).integer() {
        Ok(seconds) => u64::try_from(seconds).map_err(|_| VerifyError::Expired)?,
        Err(ReadError::IntegerRange) => return Err(VerifyError::Expired),
        Err(_) => return Err(VerifyError::InvalidTimestamp),
    };
    if !is_current(signed_at, now_seconds, ttl_seconds) {
        return Err(VerifyError::Expired);
    }
    let claimed = Reader::new(signature).binary().map_err(|_| VerifyError::Invalid)?;
    let mut canonical = Vec::with_capacity(term.len() + 64);
    for atoms in [Atoms::Utf8, Atoms::Latin1] {
        for ports in [Ports::Wide, Ports::Narrow] {
            canonical.clear();
            let form = Form { atoms, ports };
            let found = canonical::write_form(&mut canonical, &mut message.pairs, form)
                .map_err(VerifyError::Term)?;
            for key in [Some(&ring.current), ring.previous(now_seconds)].into_iter().flatten() {
                if bool::from(self::signature(key, &canonical).as_slice().ct_eq(claimed)) {
                    return Ok(());
                }
            }
            if !found.ports {
                break;
            }
        }
    }
    Err(VerifyError::Invalid)
}

/// The parts of a signed map.
struct Message<'a> {
    /// All pairs except the signature.
    pairs: Vec<Pair<'a>>,
    signature: Option<&'a [u8]>,
    signed_at: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    /// Reads a map. The error is `None` for a term that is not a map.
    fn read(term: &'a [u8]) -> Result<Self, Option<SignError>> {
        let mut reader = Reader::new(term);
        let count = reader.map().map_err(|_| None)?;
        // A pair takes at least two bytes.
        let mut pairs = Vec::with_capacity((count as usize).min(term.len() / 2) + 1);
        let (mut signature, mut signed_at) = (None, None);
        let broken = |error| Some(SignError::Term(error));
        for _ in 0..count {
            let key = reader.skip().map_err(broken)?;
            let value = reader.skip().map_err(broken)?;
            if Reader::new(key).is_atom(SIGNATURE) {
                signature = Some(value);
                continue;
            }
            if Reader::new(key).is_atom(SIGNED_AT) {
                signed_at = Some(value);
            }
            pairs.push(Pair { key, value });
        }
        Ok(Self { pairs, signature, signed_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gater_term::order;

    /// `#{type => alert, level => critical, signed_at => 1700000000}`
    fn alert() -> Vec<u8> {
        let mut out = Vec::new();
        encode::map(&mut out, 3);
        encode::atom(&mut out, "type");
        encode::atom(&mut out, "alert");
        encode::atom(&mut out, "level");
        encode::atom(&mut out, "critical");
        encode::atom(&mut out, "signed_at");
        encode::int(&mut out, 1_700_000_000);
        out
    }

    fn with_signature(map: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut out = map.to_vec();
        out[4] += 1;
        encode::atom(&mut out, SIGNATURE);
        encode::binary(&mut out, signature);
        out
    }

    #[test]
    fn the_known_answer_in_latin_1_holds_and_verifies() {
        let map = alert();
        let mut pairs = Message::read(&map).unwrap_or_else(|_| panic!("no map")).pairs;
        let mut canonical = Vec::new();
        canonical::write(&mut canonical, &mut pairs, Atoms::Latin1).unwrap();
        let known = b"8j3TWvslGwqiO0rhDd+P4mR9Q1USZUdOuvHKzWxpGo4=";
        assert_eq!(&signature(&Key::new(b"secret"), &canonical), known);
        let signed = with_signature(&map, known);
        assert_eq!(verify(&signed, &KeyRing::new(b"secret"), 1_700_000_000, 300), Ok(()));
    }

    #[test]
    fn what_was_signed_verifies_until_it_expires() {
        let ring = KeyRing::new(b"secret");
        let mut signed = Vec::new();
        sign(&alert(), ring.current(), 1000, &mut signed).unwrap();
        assert!(has_signature(&signed));
        for (now, outcome) in [
            (1000, Ok(())),
            (1300, Ok(())),
            (1301, Err(VerifyError::Expired)),
            (995, Ok(())),
            (994, Err(VerifyError::Expired)),
        ] {
            assert_eq!(verify(&signed, &ring, now, 300), outcome, "at {now}");
        }
    }

    /// `#{port => Port}` with the port in either form.
    fn with_port(wide: bool, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode::map(&mut out, 1);
        encode::atom(&mut out, "port");
        out.push(if wide { 120 } else { 89 });
        encode::atom(&mut out, "a@h");
        match u32::try_from(number) {
            Ok(number) if !wide => out.extend(number.to_be_bytes()),
            _ => out.extend(number.to_be_bytes()),
        }
        out.extend([0, 0, 0, 7]);
        out
    }

    #[test]
    fn a_port_verifies_in_both_of_its_forms() {
        let ring = KeyRing::new(b"secret");
        let signature = |message: &[u8]| signature_at(message, ring.current(), 1000).unwrap();
        let signed = |message: &[u8], signature: &[u8]| {
            // The last pair is the one of the time; both are moved behind the port.
            let mut out = Vec::new();
            encode::map(&mut out, 3);
            out.extend_from_slice(message.strip_prefix(&[116, 0, 0, 0, 1][..]).unwrap());
            encode::atom(&mut out, SIGNED_AT);
            encode::uint(&mut out, 1000);
            encode::atom(&mut out, SIGNATURE);
            encode::binary(&mut out, signature);
            out
        };
        let (narrow, wide) = (with_port(false, 5), with_port(true, 5));
        assert_ne!(signature(&narrow), signature(&wide));
        for by in [&narrow, &wide] {
            for at in [&narrow, &wide] {
                let message = signed(at, &signature(by));
                assert_eq!(verify(&message, &ring, 1000, 300), Ok(()));
                let forged = signed(&with_port(true, 6), &signature(by));
                assert_eq!(verify(&forged, &ring, 1000, 300), Err(VerifyError::Invalid));
            }
        }
        // A port whose number needs the wide encoding has no other.
        let large = with_port(true, 1 << 40);
        let message = signed(&large, &signature(&large));
        assert_eq!(verify(&message, &ring, 1000, 300), Ok(()));
    }

    #[test]
    fn a_local_fun_is_not_signed() {
        let mut message = Vec::new();
        encode::map(&mut message, 1);
        encode::atom(&mut message, "fun");
        let mut fun = vec![0];
        fun.extend([1; 16]);
        fun.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        encode::atom(&mut fun, "m");
        encode::uint(&mut fun, 1);
        encode::uint(&mut fun, 2);
        fun.push(88);
        encode::atom(&mut fun, "a@h");
        fun.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        message.push(112);
        message.extend((fun.len() as u32 + 4).to_be_bytes());
        message.extend(fun);
        let key = Key::new(b"secret");
        assert_eq!(signature_at(&message, &key, 1000), Err(SignError::LocalFun));
    }

    #[test]
    fn signing_again_replaces_time_and_signature() {
        let ring = KeyRing::new(b"secret");
        let (mut once, mut twice, mut later) = (Vec::new(), Vec::new(), Vec::new());
        sign(&alert(), ring.current(), 1000, &mut once).unwrap();
        sign(&once, ring.current(), 1000, &mut twice).unwrap();
        assert_eq!(once, twice);
        sign(&once, ring.current(), 2000, &mut later).unwrap();
        assert_eq!(verify(&later, &ring, 2000, 300), Ok(()));
    }

    #[test]
    fn the_secret_before_verifies_for_the_time_to_live() {
        let mut ring = KeyRing::new(b"old");
        let mut signed = Vec::new();
        sign(&alert(), ring.current(), 1000, &mut signed).unwrap();
        ring.rotate(b"new", 1100, 300);
        assert_eq!(verify(&signed, &ring, 1300, 500), Ok(()));
        assert_eq!(verify(&signed, &ring, 1401, 500), Err(VerifyError::Invalid));
    }

    #[test]
    fn telling_the_same_secret_again_keeps_the_one_before() {
        let mut ring = KeyRing::new(b"old");
        let mut signed = Vec::new();
        sign(&alert(), ring.current(), 1000, &mut signed).unwrap();
        ring.rotate(b"new", 1100, 300);
        ring.rotate(b"new", 1200, 300);
        assert_eq!(verify(&signed, &ring, 1300, 500), Ok(()));
        assert_eq!(verify(&signed, &ring, 1401, 500), Err(VerifyError::Invalid));
    }

    #[test]
    fn a_map_cut_short_has_no_signature_however_many_pairs_it_claims() {
        assert!(!has_signature(b"\x74\xff\xff\xff\xff\x77\x01a\x6a\x6d\0"));
    }

    #[test]
    fn no_byte_can_be_changed() {
        let ring = KeyRing::new(b"secret");
        let mut signed = Vec::new();
        sign(&alert(), ring.current(), 1000, &mut signed).unwrap();
        for at in 0..signed.len() {
            let mut forged = signed.clone();
            forged[at] ^= 1;
            assert!(verify(&forged, &ring, 1000, 300).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_judgement_goes_from_shape_to_age_to_signature() {
        let ring = KeyRing::new(b"secret");
        let map = |pairs: &[(&str, &[u8])]| {
            let mut out = Vec::new();
            encode::map(&mut out, pairs.len() as u32);
            for (key, value) in pairs {
                encode::atom(&mut out, key);
                out.extend_from_slice(value);
            }
            out
        };
        let text = &b"\x6d\0\0\0\x01x"[..];
        let (old, now) = (&b"\x61\x01"[..], &b"\x62\0\0\x03\xe8"[..]);
        let cases = [
            (vec![97, 1], VerifyError::NotAMap),
            (map(&[]), VerifyError::MissingSignature),
            (map(&[("signature", text)]), VerifyError::MissingTimestamp),
            (map(&[("signature", text), ("signed_at", text)]), VerifyError::InvalidTimestamp),
            (map(&[("signature", text), ("signed_at", old)]), VerifyError::Expired),
            (map(&[("signature", text), ("signed_at", now)]), VerifyError::Invalid),
            (map(&[("signature", now), ("signed_at", now)]), VerifyError::Invalid),
        ];
        for (message, reason) in cases {
            assert_eq!(verify(&message, &ring, 1000, 300), Err(reason));
        }
    }

    /// Returns `#{{...{Key}...} => [], ...}` with the given number of tuples around each key and an
    /// invalid signature.
    fn with_keys(keys: impl Iterator<Item = (usize, i64)>) -> Vec<u8> {
        let (mut pairs, mut count) = (Vec::new(), 2);
        for (depth, key) in keys {
            (0..depth).for_each(|_| encode::tuple(&mut pairs, 1));
            encode::int(&mut pairs, key);
            encode::nil(&mut pairs);
            count += 1;
        }
        let mut out = Vec::new();
        encode::map(&mut out, count);
        encode::atom(&mut out, SIGNED_AT);
        encode::int(&mut out, 1000);
        encode::atom(&mut out, SIGNATURE);
        encode::binary(&mut out, b"forged");
        out.extend(pairs);
        out
    }

    #[test]
    fn keys_that_cannot_be_compared_end_the_judgement_without_a_panic() {
        let ring = KeyRing::new(b"secret");
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..2000 {
            // These keys differ too deep inside, and stand among others in any order.
            let count = 20 + random() % 60;
            let keys: Vec<_> = (0..count as i64)
                .map(|n| match random() % 8 {
                    0 => (301, n),
                    _ => (1, (random() % 100_000) as i64 * 100 + n),
                })
                .collect();
            let verdict = verify(&with_keys(keys.into_iter()), &ring, 1000, 300);
            assert!(matches!(verdict, Err(VerifyError::Term(_) | VerifyError::Invalid)));
        }
    }

    #[test]
    fn keys_made_to_take_for_ever_are_given_up() {
        // Nested maps of two pairs differ only at the bottom.
        let keys = [2, 1].map(|key| {
            let mut pairs = Vec::new();
            for _ in 0..200 {
                encode::map(&mut pairs, 2);
                encode::atom(&mut pairs, "a");
                encode::nil(&mut pairs);
                encode::atom(&mut pairs, "b");
            }
            encode::list(&mut pairs, 200_000);
            (0..200_000).for_each(|_| encode::nil(&mut pairs));
            encode::int(&mut pairs, key);
            encode::nil(&mut pairs);
            pairs
        });
        let [a, b] = &keys;
        let outcome = order::compare(a, b, order::Order::General);
        assert_eq!(outcome, Err(ReadError::Malformed("term: too complex")));
    }

    /// Returns `term` as the tail of `count` nested lists without elements.
    fn as_tail(count: usize, term: i64) -> Vec<u8> {
        let mut out = [108, 0, 0, 0, 0].repeat(count);
        encode::int(&mut out, term);
        out
    }

    #[test]
    fn lists_without_elements_are_their_tails_however_many() {
        let ring = KeyRing::new(b"secret");
        let signature = |value: &[u8]| {
            let mut message = Vec::new();
            encode::map(&mut message, 1);
            encode::atom(&mut message, "x");
            message.extend_from_slice(value);
            let mut signed = Vec::new();
            sign(&message, ring.current(), 1000, &mut signed).unwrap();
            assert_eq!(verify(&signed, &ring, 1000, 300), Ok(()));
            signed.split_off(signed.len() - 60)
        };
        let plain = signature(&as_tail(0, 7));
        assert_eq!(signature(&as_tail(1, 7)), plain);
        assert_eq!(signature(&as_tail(1_000_000, 7)), plain);
    }

    #[test]
    fn long_heads_that_are_compared_again_and_again_are_given_up() {
        let padded = [&[111, 0, 7, 0, 0, 0, 5][..], &vec![0; (7 << 16) - 1][..]].concat();
        for long in [as_tail(100_000, 5), padded] {
            let mut effort = order::Effort::for_bytes(long.len());
            let mut compare =
                |_| order::compare_with(&mut effort, &long, &[97, 4], order::Order::Keys);
            assert_eq!(compare(0), Ok(std::cmp::Ordering::Greater));
            let given_up = (1..1000).map(&mut compare).find(Result::is_err);
            assert_eq!(given_up, Some(Err(ReadError::Malformed("term: too complex"))));
        }
    }

    #[test]
    fn many_maps_as_keys_are_no_trouble() {
        let ring = KeyRing::new(b"secret");
        let mut message = Vec::new();
        encode::map(&mut message, 10_000);
        for key in 0..10_000_i64 {
            encode::map(&mut message, 3);
            for name in ["region", "account", "order"] {
                encode::atom(&mut message, name);
                encode::int(&mut message, if name == "order" { key * 7919 % 10_000 } else { 1 });
            }
            encode::nil(&mut message);
        }
        let mut signed = Vec::new();
        sign(&message, ring.current(), 1000, &mut signed).unwrap();
        assert_eq!(verify(&signed, &ring, 1000, 300), Ok(()));
    }
}
