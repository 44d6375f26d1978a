//! Each algorithm and each form of a key; which key a token gets.

use std::sync::Arc;

use moor_credentials::issue::{SigningKey, issue_raw};
use moor_credentials::{Admission, Algorithm, Denial, Verifier};
use serde_json::json;

use crate::support::*;

#[test]
fn a_verifier_is_shared_by_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Arc::new(shop(&pairs(Algorithm::Es256)[0])));
}

#[test]
fn each_algorithm_admits_its_own_tokens_alone() {
    for algorithm in Algorithm::ALL {
        let [mine, other] = pairs(algorithm);
        let verifier = shop(mine);
        let admitted =
            verifier.verify("shop", "alice", "phone", token(mine, None, &grant()).as_bytes(), NOW_S);
        assert_eq!(admitted, Ok(Admission { expires_s: Some(NOW_S + 3630) }), "{algorithm}");
        let refused =
            verifier.verify("shop", "alice", "phone", token(other, None, &grant()).as_bytes(), NOW_S);
        assert_eq!(refused, Err(Denial::BadSignature), "{algorithm}");
        for another in Algorithm::ALL.into_iter().filter(|another| *another != algorithm) {
            let foreign = token(&pairs(another)[0], None, &grant());
            let refused = verifier.verify("shop", "alice", "phone", foreign.as_bytes(), NOW_S);
            assert_eq!(refused, Err(Denial::UnknownKey), "{another} to {algorithm}");
        }
    }
}

#[test]
fn a_signature_that_is_cut_is_none() {
    for algorithm in Algorithm::ALL {
        let [pair, _] = pairs(algorithm);
        let good = token(pair, None, &grant());
        let signature = good.rfind('.').unwrap() + 1;
        for length in [0, 4, 40] {
            let refused =
                shop(pair).verify("shop", "alice", "d", &good.as_bytes()[..signature + length], NOW_S);
            assert_eq!(refused, Err(Denial::BadSignature), "{algorithm}, {length} characters");
        }
    }
}

#[test]
fn each_key_comes_in_a_key_set_too() {
    for algorithm in Algorithm::ALL {
        let [mine, other] = pairs(algorithm);
        let mut files = Files::new();
        files.jwks("shop", &json!({"keys": [mine.jwk]}), 0o600);
        let verifier = files.verifier();
        let check = |pair| {
            verifier
                .verify("shop", "alice", "phone", token(pair, None, &grant()).as_bytes(), NOW_S)
                .map(|_| ())
        };
        assert_eq!(check(mine), Ok(()), "{algorithm}");
        assert_eq!(check(other), Err(Denial::BadSignature), "{algorithm}");
    }
}

#[test]
fn a_key_set_of_a_provider_has_keys_for_other_things() {
    let [first, second] = pairs(Algorithm::Rs256);
    let with = |jwk: &serde_json::Value, more: serde_json::Value| {
        let mut jwk = jwk.clone();
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    };
    let mut files = Files::new();
    let set = json!({"keys": [
        with(&first.jwk, json!({"use": "enc", "kid": "enc"})),
        with(&first.jwk, json!({"alg": "RSA-OAEP", "kid": "oaep"})),
        with(&first.jwk, json!({"key_ops": ["encrypt"], "kid": "ops"})),
        {"kty": "EC", "crv": "P-521", "x": "", "y": "", "kid": "large"},
        {"kty": "new", "kid": "new"},
        with(&second.jwk, json!({"use": "sig", "alg": "RS256", "kid": "sig", "x5c": ["ignored"]})),
    ]});
    files.jwks("shop", &set, 0o644);
    let verifier = files.verifier();
    let check = |pair, kid| {
        verifier.verify("shop", "alice", "d", token(pair, Some(kid), &grant()).as_bytes(), NOW_S).map(|_| ())
    };
    assert_eq!(check(second, "sig"), Ok(()));
    for kid in ["enc", "oaep", "ops", "large", "new"] {
        assert_eq!(check(first, kid), Err(Denial::UnknownKey), "{kid}");
    }
}

/// Old and new key side by side, of any algorithms.
fn rotating() -> (Verifier, [&'static Pair; 3]) {
    let [old, new] = pairs(Algorithm::Es256);
    let third = &pairs(Algorithm::EdDsa)[0];
    let mut files = Files::new();
    files.key("shop", Some("old"), old);
    files.key("shop", Some("new"), new);
    files.key("shop", Some("third"), third);
    (files.verifier(), [old, new, third])
}

#[test]
fn the_kid_picks_the_key() {
    let (verifier, [old, new, third]) = rotating();
    let check = |pair, kid| {
        verifier.verify("shop", "alice", "d", token(pair, kid, &grant()).as_bytes(), NOW_S).map(|_| ())
    };
    assert_eq!(check(old, Some("old")), Ok(()));
    assert_eq!(check(new, Some("new")), Ok(()));
    assert_eq!(check(third, Some("third")), Ok(()));
    assert_eq!(check(old, Some("new")), Err(Denial::BadSignature));
    assert_eq!(check(old, Some("nobody's")), Err(Denial::UnknownKey));
    assert_eq!(check(old, Some("third")), Err(Denial::UnknownKey), "the algorithm does not fit");
    // Without one each fitting key is tried.
    assert_eq!(check(old, None), Ok(()));
    assert_eq!(check(new, None), Ok(()));
}

#[test]
fn a_key_declared_without_an_id_takes_any() {
    let [pair, _] = pairs(Algorithm::Es256);
    let check =
        shop(pair).verify("shop", "alice", "d", token(pair, Some("provider-7"), &grant()).as_bytes(), NOW_S);
    assert!(check.is_ok());
}

#[test]
fn a_public_key_is_no_secret() {
    // The classic: whoever knows the public key signs with HMAC over it.
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let [pair, _] = pairs(algorithm);
        let der = pair.public.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        for secret in [pair.public.as_bytes(), pair.public.trim_end().as_bytes(), der.as_bytes()] {
            let forged = SigningKey::from_secret(secret);
            for alg in ["HS256", algorithm.name(), "none"] {
                let header = json!({"alg": alg}).to_string();
                let forged =
                    issue_raw(&forged, header.as_bytes(), claims(&[]).to_string().as_bytes()).unwrap();
                let denial = match alg {
                    "HS256" => Denial::UnknownKey,
                    "none" => Denial::WrongAlgorithm,
                    _ => Denial::BadSignature,
                };
                let refused = shop(pair).verify("shop", "alice", "d", forged.as_bytes(), NOW_S);
                assert_eq!(refused, Err(denial), "{alg} to {algorithm}");
            }
        }
    }
}

#[test]
fn eddsa_has_a_newer_name() {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let token =
        issue_raw(&pair.signing(), br#"{"alg":"Ed25519"}"#, claims(&[]).to_string().as_bytes()).unwrap();
    assert!(shop(pair).verify("shop", "alice", "d", token.as_bytes(), NOW_S).is_ok());
}

#[test]
fn nothing_shows_a_key_or_a_token() {
    let [pair, _] = pairs(Algorithm::Hs256);
    let shown = format!("{:?} {:?}", shop(pair), pair.signing());
    assert!(!shown.contains(&pair.private), "{shown}");
    assert!(shown.contains("shop"), "{shown}");
}
