//! Tests with chains of tokens that are signed here, and with golden tokens that the application
//! has made.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn did(number: u8) -> String {
    let bytes = [&[0xed, 0x01], key(number).verifying_key().as_bytes().as_slice()].concat();
    let alphabet = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<u32> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 58;
            carry /= 58;
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    let text = digits.iter().rev().map(|digit| char::from(alphabet[*digit as usize]));
    format!("did:key:z{}", text.collect::<String>())
}

/// Returns a token from `issuer` to `audience`, derived from `proof`.
fn token(issuer: u8, audience: u8, grants: &[(&str, &str)], proof: Option<&str>) -> String {
    let att: Vec<_> =
        grants.iter().map(|(with, can)| json!({ "with": with, "can": can })).collect();
    let mut claims = json!({
        "iss": did(issuer), "aud": did(audience), "exp": NOW + 60, "nbf": NOW - 60, "att": att,
    });
    if let Some(proof) = proof {
        claims["prf"] = json!([proof]);
    }
    signed(issuer, &claims)
}

fn signed(issuer: u8, claims: &Value) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"UCAN"}"#);
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key(issuer).sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn authorize(token: &str, resource: &str) -> Result<(), Unauthorized> {
    let chain = Chain::verify(token.as_bytes(), &[did(1)])?;
    chain.authorize(resource.as_bytes(), Action::Publish, &[], NOW)
}

#[test]
fn a_token_of_a_root_allows_what_it_grants() {
    let token = token(1, 2, &[("esdb://a/*", "channel/publish")], None);
    assert_eq!(authorize(&token, "esdb://a/b"), Ok(()));
    assert_eq!(authorize(&token, "esdb://b"), Err(Unauthorized::NotGranted));
    let chain = Chain::verify(token.as_bytes(), &[did(1)]).unwrap();
    let subscribe = chain.authorize(b"esdb://a/b", Action::Subscribe, &[], NOW);
    assert_eq!(subscribe, Err(Unauthorized::NotGranted));
}

#[test]
fn a_token_of_somebody_else_allows_nothing() {
    let token = token(2, 2, &[("*", "*")], None);
    assert_eq!(authorize(&token, "esdb://a"), Err(Unauthorized::UntrustedIssuer));
}

#[test]
fn a_narrower_derived_token_holds_and_a_wider_one_does_not() {
    let parent = token(1, 2, &[("esdb://a/*", "channel/publish")], None);
    let narrower = token(2, 3, &[("esdb://a/b", "channel/publish")], Some(&parent));
    assert_eq!(authorize(&narrower, "esdb://a/b"), Ok(()));
    assert_eq!(authorize(&narrower, "esdb://a/c"), Err(Unauthorized::NotGranted));
    for wider in [("esdb://*", "channel/publish"), ("esdb://a/*", "*"), ("*", "channel/publish")] {
        let wider = token(2, 3, &[("esdb://a/b", "channel/publish"), wider], Some(&parent));
        assert_eq!(authorize(&wider, "esdb://a/b"), Err(Unauthorized::Widened));
    }
}

#[test]
fn only_the_audience_of_a_token_derives_others_from_it() {
    let parent = token(1, 2, &[("*", "*")], None);
    let stolen = token(3, 3, &[("*", "*")], Some(&parent));
    assert_eq!(authorize(&stolen, "esdb://a"), Err(Unauthorized::BrokenChain));
}

#[test]
fn times_of_all_tokens_of_a_chain_count() {
    let grants = json!([{ "with": "*", "can": "*" }]);
    let parent = signed(
        1,
        &json!({ "iss": did(1), "aud": did(2), "exp": NOW, "nbf": NOW - 9, "att": grants }),
    );
    let child = token(2, 3, &[("*", "*")], Some(&parent));
    let chain = Chain::verify(child.as_bytes(), &[did(1)]).unwrap();
    let at = |now| chain.authorize(b"esdb://a", Action::Publish, &[], now);
    assert_eq!(at(NOW), Err(Unauthorized::Expired));
    assert_eq!(at(NOW - 1), Ok(()));
    assert_eq!(at(NOW - 9 - LEEWAY_SECONDS), Ok(()));
    assert_eq!(at(NOW - 10 - LEEWAY_SECONDS), Err(Unauthorized::NotYetValid));
}

#[test]
fn a_token_made_out_to_another_audience_is_refused() {
    let token = token(1, 2, &[("*", "*")], None);
    let chain = Chain::verify(token.as_bytes(), &[did(1)]).unwrap();
    let to = |audience: u8| chain.authorize(b"esdb://a", Action::Publish, &[did(audience)], NOW);
    assert_eq!(to(2), Ok(()));
    assert_eq!(to(3), Err(Unauthorized::WrongAudience));
}

#[test]
fn a_token_with_any_byte_changed_is_refused() {
    let parent = token(1, 2, &[("*", "*")], None);
    let child = token(2, 3, &[("*", "*")], Some(&parent));
    for at in 0..child.len() {
        let mut changed = child.clone().into_bytes();
        changed[at] ^= 1;
        assert!(Chain::verify(&changed, &[did(1)]).is_err(), "byte {at}");
    }
}

#[test]
fn chains_and_tokens_are_bounded() {
    let mut chain = token(1, 1, &[("*", "*")], None);
    for _ in 1..MAX_CHAIN {
        chain = token(1, 1, &[("*", "*")], Some(&chain));
    }
    assert_eq!(authorize(&chain, "esdb://a"), Ok(()));
    let longer = token(1, 1, &[("*", "*")], Some(&chain));
    assert_eq!(authorize(&longer, "esdb://a"), Err(Unauthorized::ChainTooLong));
    let large = vec![b'a'; MAX_TOKEN_BYTES + 1];
    assert_eq!(Chain::verify(&large, &[]).unwrap_err(), Unauthorized::TokenTooLarge);
    let many = token(1, 1, &vec![("*", "*"); MAX_GRANTS + 1], None);
    assert_eq!(authorize(&many, "esdb://a"), Err(Unauthorized::MalformedToken));
}

#[test]
fn what_is_no_token_is_malformed() {
    let good = json!({ "iss": did(1), "aud": did(1), "exp": NOW + 1, "att": [] });
    assert_eq!(authorize(&signed(1, &good), "esdb://a"), Err(Unauthorized::NotGranted));
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        signed(1, &claims)
    };
    let grant = |with: &str| json!([{ "with": with, "can": "*" }]);
    for bad in [
        String::new(),
        "..".into(),
        "a.b.c.d".into(),
        with("exp", json!(1.5)),
        with("exp", json!("1")),
        with("unknown", json!(1)),
        with("att", grant("")),
        with("att", grant("http://a")),
        with("prf", json!(["a", "b"])),
        signed(1, &json!({ "iss": did(1), "aud": did(1), "att": [] })),
        "[".repeat(MAX_TOKEN_BYTES),
        format!("{}.{0}.{0}", BASE64_URL_SAFE_NO_PAD.encode("[".repeat(1000))),
    ] {
        assert_eq!(authorize(&bad, "esdb://a"), Err(Unauthorized::MalformedToken), "{bad}");
    }
}

#[test]
fn the_golden_tokens_are_judged_as_the_application_judges_them() {
    let mut lines = include_str!("../../../../tests/vectors/capabilities.txt").lines();
    let roots = [lines.next().unwrap().strip_prefix("root ").unwrap().to_owned()];
    let audiences = [lines.next().unwrap().strip_prefix("audience ").unwrap().to_owned()];
    let mut count = 0;
    for line in lines {
        let [name, now, expected, token] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let resource = Grant::resource("esdb_channel_events", b"orders-1");
        let judged = Chain::verify(token.as_bytes(), &roots).and_then(|chain| {
            chain.authorize(&resource, Action::Publish, &audiences, now.parse().unwrap())
        });
        let judged = judged.map_or_else(Unauthorized::as_atom, |()| "ok");
        assert_eq!(judged, expected, "{name}");
        count += 1;
    }
    assert!(count >= 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_chain_of_delegations_widens(
        links in proptest::collection::vec(
            proptest::collection::vec(("(esdb://[ab*]{0,3}|\\*)", "(\\*|channel/publish)"), 1..3),
            1..4,
        ),
        resource in "esdb://[ab*]{0,4}",
    ) {
        let mut chain: Option<String> = None;
        for grants in &links {
            let grants: Vec<_> = grants.iter().map(|(w, c)| (w.as_str(), c.as_str())).collect();
            chain = Some(token(1, 1, &grants, chain.as_deref()));
        }
        if authorize(&chain.unwrap(), &resource).is_ok() {
            for grants in &links {
                let allowed = grants.iter().any(|(with, can)| {
                    Grant::new(with, can).matches(resource.as_bytes(), Action::Publish)
                });
                prop_assert!(allowed, "{links:?}");
            }
        }
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert!(Chain::verify(&bytes, &[did(1)]).is_err());
    }
}
