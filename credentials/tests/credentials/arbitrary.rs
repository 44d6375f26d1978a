//! Any bytes at all, good tokens with something changed, and what they make the verifier allocate.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moor_credentials::issue::issue_raw;
use moor_credentials::{Algorithm, ServiceKeys, Verifier};
use moor_wire::limits::CREDENTIAL_BYTES_MAX;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::*;

fn algorithm() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(Algorithm::ALL.to_vec())
}

fn admits(verifier: &Verifier, token: &[u8]) -> bool {
    verifier.verify("shop", "alice", "phone", token, NOW_S).is_ok()
}

/// Values that a claim may have, good ones among them.
fn claim() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        Just(json!(NOW_S + 60)),
        Just(json!("shop")),
        Just(json!("alice")),
        Just(json!(["phone"])),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(12, 24, 4, |inner| proptest::collection::vec(inner, 0..4).prop_map(Value::from))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_are_refused(
        algorithm in algorithm(),
        token in proptest::collection::vec(any::<u8>(), 0..CREDENTIAL_BYTES_MAX + 2),
    ) {
        prop_assert!(!admits(&shop(&pairs(algorithm)[0]), &token));
        prop_assert!(ServiceKeys::default().check(&token).is_err());
    }

    #[test]
    fn three_arbitrary_parts_are_refused(
        algorithm in algorithm(), header in ".{0,40}", claims in ".{0,200}",
        signature in proptest::collection::vec(any::<u8>(), 0..600), named in any::<bool>(),
    ) {
        let header = if named { format!(r#"{{"alg":"{algorithm}"}}"#) } else { header };
        let parts = [header.as_bytes(), claims.as_bytes(), &signature].map(|part| URL_SAFE_NO_PAD.encode(part));
        prop_assert!(!admits(&shop(&pairs(algorithm)[0]), parts.join(".").as_bytes()));
    }

    #[test]
    fn a_signature_is_not_enough(header in ".{0,60}", claims in ".{0,200}") {
        let [pair, _] = pairs(Algorithm::EdDsa);
        let header = if header.len() % 2 == 0 { r#"{"alg":"EdDSA"}"#.to_owned() } else { header };
        let token = issue_raw(&pair.signing(), header.as_bytes(), claims.as_bytes()).unwrap();
        prop_assert!(!admits(&shop(pair), token.as_bytes()));
    }

    /// An oracle that reads the claims as a tree.
    #[test]
    fn signed_claims_are_judged_as_a_tree_of_values_would_be(
        app in claim(), account in claim(), sub in claim(), devices in claim(), exp in claim(), nbf in claim(),
        keep in any::<[bool; 4]>(),
    ) {
        let [pair, _] = pairs(Algorithm::EdDsa);
        let mut all = claims(&[]);
        let drawn = [("app", app), ("account", account), ("exp", exp), ("sub", sub)];
        for ((name, value), keep) in drawn.into_iter().zip(keep) {
            if !keep { all[name] = value; }
        }
        if keep[0] { all["devices"] = devices; all["nbf"] = nbf; }
        let text = |name: &str| all.get(name).filter(|value| !value.is_null());
        let is_text = |name: &str| text(name).is_none_or(Value::is_string);
        let second = |name: &str| match text(name) {
            None => Some(None),
            Some(value) => value.as_f64().filter(|number| *number >= 0.0 && *number < 9.2e18 || value.is_u64()).map(Some),
        };
        let listed = match text("devices") {
            None => true,
            Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(|item| item == "phone"),
            Some(_) => false,
        };
        let now = NOW_S as f64;
        let good = text("app") == Some(&json!("shop"))
            && is_text("account") && is_text("sub")
            && text("account").or(text("sub")) == Some(&json!("alice"))
            && listed
            && matches!(second("exp"), Some(Some(exp)) if exp.floor() + 30.0 > now)
            && matches!(second("nbf"), Some(nbf) if nbf.is_none_or(|nbf| nbf.floor() <= now + 30.0));
        let token = signed(pair, &all);
        prop_assert_eq!(admits(&shop(pair), token.as_bytes()), good && token.len() <= CREDENTIAL_BYTES_MAX, "{}", all);
    }

    #[test]
    fn a_changed_token_is_refused(
        algorithm in algorithm(), place in any::<proptest::sample::Index>(), byte in any::<u8>(), kind in 0..4,
    ) {
        let [pair, _] = pairs(algorithm);
        let good = token(pair, None, &grant()).into_bytes();
        let mut bad = good.clone();
        let at = place.index(good.len());
        match kind {
            0 => bad[at] = byte,
            1 => bad.insert(at, byte),
            2 => { bad.remove(at); }
            _ => bad.truncate(at),
        }
        prop_assume!(bad != good);
        prop_assert!(admits(&shop(pair), &good));
        prop_assert!(!admits(&shop(pair), &bad), "{} at {at}", String::from_utf8_lossy(&bad));
    }
}

#[test]
fn every_changed_bit_is_refused() {
    for algorithm in [Algorithm::Hs256, Algorithm::EdDsa, Algorithm::Es256] {
        let [pair, _] = pairs(algorithm);
        let verifier = shop(pair);
        let good = token(pair, None, &grant()).into_bytes();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(!admits(&verifier, &bad), "{algorithm}: bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn a_plain_token_allocates_nothing() {
    for algorithm in Algorithm::ALL {
        let [pair, _] = pairs(algorithm);
        let verifier = shop(pair);
        let token = token(pair, Some("id"), &grant());
        let used = allocation_counter::measure(|| assert!(admits(&verifier, token.as_bytes())));
        assert_eq!(used.count_total, 0, "{algorithm}: {used:?}");
    }
}

#[test]
fn what_a_token_makes_the_verifier_allocate_is_bounded_by_its_length() {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let verifier = shop(pair);
    let escaped = "\\u0061".repeat(200);
    let objects = "{\"a\":".repeat(240);
    let list = vec!["\"\\u0061\""; 32].join(",");
    for claims in [
        claims(&[("devices", json!(vec!["phone"; 32]))]).to_string(),
        format!("{{\"account\":\"{escaped}\"}}"),
        format!("{{\"{escaped}\":1}}"),
        format!("{{\"x\":{objects}"),
        format!("{{\"devices\":[{list}],\"aud\":[{list}]}}"),
        format!("{{\"x\":\"{}\"}}", "x".repeat(1300)),
        format!("{{\"x\":{}}}", "9".repeat(1300)),
    ] {
        let token = issue_raw(&pair.signing(), br#"{"alg":"EdDSA"}"#, claims.as_bytes()).unwrap();
        assert!(token.len() <= CREDENTIAL_BYTES_MAX, "{}", token.len());
        let used = allocation_counter::measure(|| {
            std::hint::black_box(admits(&verifier, token.as_bytes()));
        });
        assert!(used.bytes_max <= 2 * CREDENTIAL_BYTES_MAX as u64, "{claims}: {used:?}");
        assert!(used.count_total <= 64, "{claims}: {used:?}");
    }
}
