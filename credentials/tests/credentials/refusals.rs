//! Everything that can be wrong with a token, one at a time, and the denial it gives.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moor_credentials::issue::issue_raw;
use moor_credentials::{Algorithm, Anonymous, Denial, Verifier, limits};
use moor_wire::limits::CREDENTIAL_BYTES_MAX;
use serde_json::{Value, json};

use crate::support::*;

fn strict() -> (Verifier, &'static Pair) {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let mut files = Files::new();
    let app = files.key("shop", None, pair);
    app.issuer = Some("https://login.example".to_owned());
    app.audience = Some("moor".to_owned());
    app.leeway_s = 10;
    app.lifetime_max_s = Some(7200);
    (files.verifier(), pair)
}

fn check(verifier: &Verifier, token: &str) -> Result<u64, Denial> {
    verifier.verify("shop", "alice", "phone", token.as_bytes(), NOW_S).map(|good| good.expires_s.unwrap())
}

#[test]
fn each_claim_wrong_gives_its_denial() {
    let (verifier, pair) = strict();
    let base = [
        ("iss", json!("https://login.example")),
        ("aud", json!("moor")),
        ("iat", json!(NOW_S)),
        ("devices", json!(["phone", "desktop"])),
    ];
    let many = |count: usize| json!((0..count).map(|index| format!("d{index}")).collect::<Vec<_>>());
    let with = |last: &str, count: usize| {
        let mut list = many(count - 1);
        list.as_array_mut().unwrap().push(json!(last));
        list
    };
    type Row = (&'static str, Value, Result<u64, Denial>);
    let end = |exp: u64| Ok(exp + 10);
    let usual = end(NOW_S + 3600);
    let table: Vec<Row> = vec![
        ("nothing", json!("changed"), usual),
        ("app", Value::Null, Err(Denial::WrongApp)),
        ("app", json!("shop2"), Err(Denial::WrongApp)),
        ("app", json!("sho"), Err(Denial::WrongApp)),
        ("app", json!("SHOP"), Err(Denial::WrongApp)),
        ("app", json!(["shop"]), Err(Denial::Malformed)),
        ("account", Value::Null, Err(Denial::WrongAccount)),
        ("account", json!("bob"), Err(Denial::WrongAccount)),
        ("account", json!(""), Err(Denial::WrongAccount)),
        ("account", json!(7), Err(Denial::Malformed)),
        ("sub", json!("somebody else"), usual),
        ("devices", Value::Null, usual),
        ("devices", json!([]), Err(Denial::WrongDevice)),
        ("devices", json!(["phone2"]), Err(Denial::WrongDevice)),
        ("devices", json!("phone"), Err(Denial::Malformed)),
        ("devices", json!([1]), Err(Denial::Malformed)),
        ("devices", with("phone", limits::DEVICES_MAX), usual),
        ("devices", with("phone", limits::DEVICES_MAX + 1), Err(Denial::Malformed)),
        ("exp", Value::Null, Err(Denial::NoExpiry)),
        ("exp", json!(NOW_S - 10), Err(Denial::Expired)),
        ("exp", json!(NOW_S - 9), end(NOW_S - 9)),
        ("exp", json!(0), Err(Denial::Expired)),
        ("exp", json!(-1), Err(Denial::Malformed)),
        ("exp", json!((NOW_S + 5) as f64 + 0.9), end(NOW_S + 5)),
        ("exp", json!(1e300), Err(Denial::Malformed)),
        ("exp", json!(-0.5), Err(Denial::Malformed)),
        ("nbf", json!(-1.5), Err(Denial::Malformed)),
        ("exp", json!("1900000000"), Err(Denial::Malformed)),
        ("exp", json!(NOW_S + 7200), end(NOW_S + 7200)),
        ("exp", json!(NOW_S + 7201), Err(Denial::LivesTooLong)),
        ("exp", json!(u64::MAX), Err(Denial::LivesTooLong)),
        ("nbf", json!(NOW_S + 10), usual),
        ("nbf", json!(NOW_S + 11), Err(Denial::NotYet)),
        ("nbf", json!(u64::MAX), Err(Denial::NotYet)),
        ("nbf", json!("soon"), Err(Denial::Malformed)),
        ("iat", json!(NOW_S + 10), usual),
        ("iat", json!(NOW_S + 11), Err(Denial::NotYet)),
        ("iat", json!(NOW_S - 3601), Err(Denial::LivesTooLong)),
        ("iat", Value::Null, Err(Denial::LivesTooLong)),
        ("iss", Value::Null, Err(Denial::WrongIssuer)),
        ("iss", json!("https://login.example/"), Err(Denial::WrongIssuer)),
        ("aud", Value::Null, Err(Denial::WrongAudience)),
        ("aud", json!("other"), Err(Denial::WrongAudience)),
        ("aud", json!(["other", "moor"]), usual),
        ("aud", json!(["other"]), Err(Denial::WrongAudience)),
        ("aud", json!([]), Err(Denial::WrongAudience)),
        ("aud", with("moor", limits::AUDIENCES_MAX), usual),
        ("aud", with("moor", limits::AUDIENCES_MAX + 1), Err(Denial::Malformed)),
        ("aud", json!({"moor": 1}), Err(Denial::Malformed)),
        ("roles", json!({"admin": [["deep"]]}), usual),
    ];
    for (name, value, expected) in table {
        let mut changes = base.to_vec();
        changes.push((name, value.clone()));
        let token = signed(pair, &claims(&changes));
        assert!(token.len() <= CREDENTIAL_BYTES_MAX);
        assert_eq!(check(&verifier, &token), expected, "{name} = {value}");
    }
}

#[test]
fn the_subject_is_the_account_where_there_is_no_other() {
    let (_, pair) = strict();
    let verifier = shop(pair);
    let token = |sub| signed(pair, &claims(&[("account", Value::Null), ("sub", json!(sub))]));
    assert!(check(&verifier, &token("alice")).is_ok());
    assert_eq!(check(&verifier, &token("bob")), Err(Denial::WrongAccount));
}

#[test]
fn an_audience_for_somebody_else_is_refused_even_where_none_is_asked_for() {
    let (_, pair) = strict();
    let token = signed(pair, &claims(&[("aud", json!("billing"))]));
    assert_eq!(check(&shop(pair), &token), Err(Denial::WrongAudience));
}

#[test]
fn without_a_longest_lifetime_a_token_may_live_for_ever() {
    let (_, pair) = strict();
    let token = signed(pair, &claims(&[("exp", json!(u64::MAX))]));
    assert_eq!(check(&shop(pair), &token), Ok(u64::MAX));
    assert_eq!(shop(pair).verify("shop", "alice", "phone", token.as_bytes(), u64::MAX), Err(Denial::Expired));
}

#[test]
fn headers_and_claims_that_are_not_what_they_should_be() {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let good_header = r#"{"alg":"EdDSA"}"#.to_owned();
    let good_claims = claims(&[]).to_string();
    let nested =
        |depth: usize| format!("{{\"x\":{}{},{}", "[".repeat(depth), "]".repeat(depth), &good_claims[1..]);
    let rows: Vec<(String, String, Result<(), Denial>)> = vec![
        (good_header.clone(), good_claims.clone(), Ok(())),
        (r#"{"alg":"EdDSA","typ":"at+jwt","x":{"y":1}}"#.into(), good_claims.clone(), Ok(())),
        (r#"{"alg":"none"}"#.into(), good_claims.clone(), Err(Denial::WrongAlgorithm)),
        (r#"{"alg":"None"}"#.into(), good_claims.clone(), Err(Denial::WrongAlgorithm)),
        (r#"{"alg":"eddsa"}"#.into(), good_claims.clone(), Err(Denial::WrongAlgorithm)),
        (r#"{"alg":"HS512"}"#.into(), good_claims.clone(), Err(Denial::WrongAlgorithm)),
        (r#"{"alg":""}"#.into(), good_claims.clone(), Err(Denial::WrongAlgorithm)),
        (r#"{"alg":null}"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#"{"alg":["EdDSA"]}"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#"{"kid":"x"}"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#"{"alg":"EdDSA","alg":"EdDSA"}"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#"{"alg":"EdDSA","crit":["exp"]}"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#"{"alg":"EdDSA","kid":7}"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#"["EdDSA",null,null]"#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (r#""EdDSA""#.into(), good_claims.clone(), Err(Denial::Malformed)),
        (String::new(), good_claims.clone(), Err(Denial::Malformed)),
        (good_header.clone(), String::new(), Err(Denial::Malformed)),
        (good_header.clone(), "null".into(), Err(Denial::Malformed)),
        (
            good_header.clone(),
            r#"["shop","alice",null,null,1900000000,null,null,null,null]"#.into(),
            Err(Denial::Malformed),
        ),
        (good_header.clone(), format!("{good_claims}x"), Err(Denial::Malformed)),
        (good_header.clone(), good_claims.replace("alice", "a\\u006cice"), Ok(())),
        (good_header.clone(), good_claims.replacen('{', "{\"app\":\"shop\",", 1), Err(Denial::Malformed)),
        (good_header.clone(), good_claims.replacen('{', "{\"exp\":1900000000,", 1), Err(Denial::Malformed)),
        (good_header.clone(), nested(limits::JSON_DEPTH_MAX - 1), Ok(())),
        (good_header.clone(), nested(limits::JSON_DEPTH_MAX), Err(Denial::Malformed)),
        (good_header.clone(), nested(500), Err(Denial::Malformed)),
        // Brackets in a string are no nesting, and an escaped quote does not end it.
        (good_header.clone(), good_claims.replacen('{', r#"{"x":"\"[[[[[[[[[[[[[[[[","#, 1), Ok(())),
    ];
    let verifier = shop(pair);
    for (header, claims, expected) in rows {
        let token = issue_raw(&pair.signing(), header.as_bytes(), claims.as_bytes()).unwrap();
        assert_eq!(check(&verifier, &token).map(|_| ()), expected, "{header} {claims}");
    }
    let not_utf8 = [&good_claims.as_bytes()[..good_claims.len() - 1], b",\"x\":\"\xff\"}"].concat();
    let token = issue_raw(&pair.signing(), good_header.as_bytes(), &not_utf8).unwrap();
    assert_eq!(check(&verifier, &token), Err(Denial::Malformed));
}

#[test]
fn a_token_that_is_cut_or_padded() {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let verifier = shop(pair);
    let good = token(pair, None, &grant());
    assert!(check(&verifier, &good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    // The last character of 64 bytes carries four spare bits.
    let (head, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.as_bytes()[alphabet.find(last).unwrap() + 1] as char;
    for (bad, denial) in [
        (format!("{head}{next}"), Denial::Malformed),
        (format!("{good}="), Denial::Malformed),
        (format!("{good}."), Denial::Malformed),
        (format!(".{good}"), Denial::Malformed),
        (format!("{good}\n"), Denial::Malformed),
        (format!(" {good}"), Denial::Malformed),
        (format!("Bearer {good}"), Denial::Malformed),
        (format!("{}.{}", parts[0], parts[1]), Denial::Malformed),
        (format!("{}.{}.", parts[0], parts[1]), Denial::BadSignature),
        (format!("{}.{}.AAAA", parts[0], parts[1]), Denial::BadSignature),
        (format!("{}..{}", parts[0], parts[2]), Denial::BadSignature),
        ("..".to_owned(), Denial::Malformed),
        (".".to_owned(), Denial::Malformed),
        ("x".to_owned(), Denial::Malformed),
        (String::new(), Denial::Missing),
        ("a".repeat(CREDENTIAL_BYTES_MAX), Denial::Malformed),
        ("a".repeat(CREDENTIAL_BYTES_MAX + 1), Denial::TooLong),
    ] {
        assert_eq!(check(&verifier, &bad), Err(denial), "{bad}");
    }
}

#[test]
fn a_token_of_the_longest_credential_is_good_and_one_byte_more_is_not() {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let verifier = shop(pair);
    let with = |count: usize| signed(pair, &claims(&[("x", json!("x".repeat(count)))]));
    let (mut count, mut token) = (0, String::new());
    while with(count).len() <= CREDENTIAL_BYTES_MAX {
        token = with(count);
        count += 1;
    }
    assert!(token.len() + 2 >= CREDENTIAL_BYTES_MAX, "{}", token.len());
    assert!(check(&verifier, &token).is_ok());
    assert_eq!(check(&verifier, &with(count)), Err(Denial::TooLong));
}

#[test]
fn the_signature_is_checked_before_the_claims() {
    let [pair, other] = pairs(Algorithm::EdDsa);
    let token = signed(other, &claims(&[("account", json!("bob")), ("exp", json!(1))]));
    assert_eq!(check(&shop(pair), &token), Err(Denial::BadSignature));
    let parts: Vec<&str> = token.split('.').collect();
    let junk = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode("{"), parts[2]);
    assert_eq!(check(&shop(pair), &junk), Err(Denial::BadSignature));
}

#[test]
fn an_unknown_app_is_refused_unless_everybody_may_come() {
    let [pair, _] = pairs(Algorithm::EdDsa);
    let mut files = Files::new();
    files.key("shop", None, pair);
    let token = token(pair, None, &grant());
    let other = |verifier: Verifier| verifier.verify("chat", "alice", "phone", token.as_bytes(), NOW_S);
    assert_eq!(other(files.verifier()), Err(Denial::UnknownApp));
    files.settings.anonymous = Anonymous::Everybody;
    assert_eq!(other(files.verifier()).unwrap().expires_s, None);
    // An app with keys is not open to everybody.
    assert_eq!(files.verifier().verify("shop", "alice", "phone", b"", NOW_S), Err(Denial::Missing));
}
