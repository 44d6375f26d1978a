//! Tokens of independent implementations, and ours before theirs.
//!
//! `vectors.json` was made by PyJWT (see `vectors.py`); jsonwebtoken runs here; the HS256 token is RFC 7515's.

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use moor_credentials::issue::Grant;
use moor_credentials::{Algorithm, Denial, KeySettings};
use serde_json::{Value, json};

use crate::support::*;

fn theirs(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    algorithm.name().parse().unwrap()
}

/// The DER between the lines of a PEM file.
fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::{PemObject, SectionKind};
    <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()).unwrap().1
}

#[test]
fn tokens_of_jsonwebtoken_are_good_and_ours_are_good_to_it() {
    for algorithm in Algorithm::ALL {
        let [pair, _] = pairs(algorithm);
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(pair.jwk.clone()).unwrap();
        let mut validation = Validation::new(theirs(algorithm));
        // It reads a clock; the tests' now is another.
        validation.validate_exp = false;
        let ours = token(pair, Some("k"), &grant());
        let read =
            jsonwebtoken::decode::<Value>(&ours, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
        assert_eq!(read.claims, claims(&[]), "{algorithm}");
        assert_eq!(read.header.kid.as_deref(), Some("k"));

        let key = match algorithm {
            Algorithm::Hs256 => EncodingKey::from_secret(pair.private.as_bytes()),
            Algorithm::Es256 => EncodingKey::from_ec_der(&der(&pair.private)),
            Algorithm::EdDsa => EncodingKey::from_ed_der(&der(&pair.private)),
            // It wants the key inside PKCS #8, which begins behind a head of fixed length for 2048 bits.
            Algorithm::Rs256 => EncodingKey::from_rsa_der(&der(&pair.private)[26..]),
        };
        let token = jsonwebtoken::encode(&Header::new(theirs(algorithm)), &claims(&[]), &key).unwrap();
        assert!(
            shop(pair).verify("shop", "alice", "d", token.as_bytes(), NOW_S).is_ok(),
            "{algorithm}: {token}"
        );
    }
}

#[test]
fn everything_a_grant_can_say_is_in_the_token() {
    let [pair, _] = pairs(Algorithm::Hs256);
    let grant = Grant {
        app: "shop".into(),
        account: "alice".into(),
        devices: vec!["phone".into(), "desktop".into()],
        expires_s: NOW_S,
        not_before_s: Some(1),
        issued_s: Some(2),
        issuer: Some("us".into()),
        audience: Some("moor".into()),
    };
    let key = DecodingKey::from_secret(pair.private.as_bytes());
    let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.validate_exp = false;
    validation.set_audience(&["moor"]);
    let read = jsonwebtoken::decode::<Value>(token(pair, None, &grant), &key, &validation).unwrap();
    assert_eq!(
        read.claims,
        json!({
            "app": "shop", "account": "alice", "devices": ["phone", "desktop"], "exp": NOW_S, "nbf": 1, "iat": 2,
            "iss": "us", "aud": "moor"
        })
    );
    assert_eq!(read.header, Header::default());
}

#[test]
fn tokens_of_pyjwt_are_good() {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let vectors = vectors.as_array().unwrap();
    assert_eq!(vectors.len(), 8);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        let mut files = Files::new();
        let path = files.write("key", text("key"), 0o600);
        let key = if text("alg") == "HS256" {
            KeySettings { secret: Some(path), ..KeySettings::default() }
        } else {
            KeySettings { public_key: Some(path), ..KeySettings::default() }
        };
        let app = files.add("shop", key);
        app.issuer = Some("https://login.example".to_owned());
        app.audience = Some("moor".to_owned());
        let verify = |files: &Files, account: &str| {
            files.verifier().verify("shop", account, "phone", text("token").as_bytes(), NOW_S)
        };
        assert_eq!(verify(&files, "алиса").map(|good| good.expires_s), Ok(Some(NOW_S + 630)), "{vector}");
        assert_eq!(verify(&files, "alice"), Err(Denial::WrongAccount));
        // The same key as PyJWT writes it into a key set.
        let mut files = Files::new();
        let app = files.jwks("shop", &json!({"keys": [vector["jwk"]]}), 0o600);
        app.issuer = Some("https://login.example".to_owned());
        app.audience = Some("moor".to_owned());
        assert!(verify(&files, "алиса").is_ok(), "{vector}");
    }
}

#[test]
fn the_token_of_rfc_7515_has_a_good_signature() {
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGF\
                 tcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let mut files = Files::new();
    files.jwks("shop", &json!({"keys": [{"kty": "oct", "k": key}]}), 0o600);
    let verify = |token: &str| files.verifier().verify("shop", "joe", "d", token.as_bytes(), 1_300_819_000);
    // It names no app: what is wrong is found behind the signature.
    assert_eq!(verify(token), Err(Denial::WrongApp));
    assert_eq!(verify(&token.replace("dBjf", "dBjg")), Err(Denial::BadSignature));
}
