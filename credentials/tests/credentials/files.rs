//! What an operator may write, and what the errors say.

use std::path::{Path, PathBuf};

use moor_credentials::issue::SigningKey;
use moor_credentials::{Algorithm, KeySettings, ServiceKeys, Settings, Verifier, limits};
use serde_json::json;

use crate::support::*;

/// An RSA key of 1024 bits, made with openssl.
const SMALL_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCp1oDQvovVyi5SpWliJDbc4x6y
btDcyMCjpXa58AaEkozo/hasDykTdAWf2xLrG0sEfuPZd3+F5b/5oSBdONWq7iGx
hLpOE7v3xXgHtK8/ZXZzliWDZ+T99sYZFPFAxGu3pK3Bt7pIWP8mzbpI5Z1BBSzI
IK7HQyjPyngUO5wpRQIDAQAB
-----END PUBLIC KEY-----
";

/// A certificate of an Ed25519 key, made with openssl.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBLjCB4aADAgECAhRsXk5Dw5uX753p9G17tDHkS4da2TAFBgMrZXAwDDEKMAgG
A1UEAwwBeDAgFw0yNjExMjMyMTAxNDhaGA8yMDU0MDQwOTIxMDE0OFowDDEKMAgG
A1UEAwwBeDAqMAUGAytlcAMhABH9G+U27ugkHzfbaidG2riAGRhA0/mlvdpqy2XS
1r3lo1MwUTAdBgNVHQ4EFgQU1TENfpj40kKAU8LKNYCSY/dDQYwwHwYDVR0jBBgw
FoAU1TENfpj40kKAU8LKNYCSY/dDQYwwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD
QQDqEinX8HcnOtKOMvw0BTCgN80mvY8cpYhftNb9+hzLEr7trbXvTcI0kjO5amhl
b+8WbRxsHd/7iuMLKQkw6kYH
-----END CERTIFICATE-----
";

fn public_key(path: PathBuf) -> KeySettings {
    KeySettings { public_key: Some(path), ..KeySettings::default() }
}

fn secret(path: PathBuf) -> KeySettings {
    KeySettings { secret: Some(path), ..KeySettings::default() }
}

fn read(text: &str) -> Result<Settings, String> {
    let files = Files::new();
    let path = files.write("credentials.toml", text, 0o644);
    Settings::read(&path)
        .map_err(|error| error.to_string().replace(&format!("{}/", files.path().display()), ""))
}

#[test]
fn one_file_declares_apps_and_services() {
    let files = Files::new();
    let [old, new] = pairs(Algorithm::Es256);
    let [shared, _] = pairs(Algorithm::Hs256);
    std::fs::create_dir(files.path().join("keys")).unwrap();
    files.write("keys/old.pem", &old.public, 0o644);
    files.write("keys/new.pem", &new.public, 0o644);
    files.write("keys/chat.secret", format!("{}\n", shared.public), 0o600);
    let token = files.write("keys/billing.token", "billing-token-0123456789\n", 0o400);
    let path = files.write(
        "credentials.toml",
        format!(
            "[apps.shop]\nissuer = \"us\"\nleeway_s = 5\nkeys = [\n  {{ kid = \"old\", public_key = \"keys/old.pem\" }},\n  \
             {{ kid = \"new\", public_key = \"keys/new.pem\" }},\n]\n\n[[apps.chat.keys]]\nsecret = \
             \"keys/chat.secret\"\n\n[services.billing]\ntoken_file = {:?}\napps = [\"shop\"]\nmay = [\"push\"]\n",
            token.display().to_string(),
        ),
        0o644,
    );
    let settings = Settings::read(&path).unwrap();
    let shop = &settings.apps["shop"];
    assert_eq!((shop.leeway_s, shop.issuer.as_deref(), shop.audience.as_deref()), (5, Some("us"), None));
    assert_eq!(settings.apps["chat"].leeway_s, limits::LEEWAY_S_DEFAULT);
    let verifier = Verifier::load(&settings).unwrap();
    assert_eq!(verifier.apps(), 2);
    for (pair, kid) in [(old, "old"), (new, "new")] {
        let grant = moor_credentials::issue::Grant { issuer: Some("us".into()), ..grant() };
        let good = verifier.verify("shop", "alice", "d", token_of(pair, kid, &grant).as_bytes(), NOW_S);
        assert_eq!(good.unwrap().expires_s, Some(NOW_S + 3605));
    }
    let grant = moor_credentials::issue::Grant { app: "chat".into(), ..grant() };
    let good = crate::support::token(shared, None, &grant);
    assert!(verifier.verify("chat", "alice", "d", good.as_bytes(), NOW_S).is_ok());
    assert!(ServiceKeys::load(&settings).unwrap().check(b"billing-token-0123456789").is_ok());
}

fn token_of(pair: &Pair, kid: &str, grant: &moor_credentials::issue::Grant) -> String {
    crate::support::token(pair, Some(kid), grant)
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_name() {
    for (text, said) in [
        (
            "[apps.shop]\nkeys = []\naudiense = \"x\"\n",
            "credentials.toml: line 3: `apps.shop.audiense` is not a setting; did you mean `audience`?",
        ),
        (
            "\n[[apps.shop.keys]]\npublickey = \"x\"\n",
            "credentials.toml: line 3: `apps.shop.keys.publickey` is not a setting; did you mean `public_key`?",
        ),
        ("[app.shop]\n", "credentials.toml: line 1: `app` is not a setting; did you mean `apps`?"),
        (
            "[services.x]\nrights = []\n",
            "credentials.toml: line 2: `services.x.rights` is not a setting; known here are token_file, token_sha256, \
             certificate_names, apps, may",
        ),
        (
            "anonymous = \"everybody\"\n",
            "credentials.toml: line 1: `anonymous` is not a setting; known here are apps, services",
        ),
        (
            "[apps.shop]\nkeys = 7\n",
            "credentials.toml: line 2: invalid type: integer `7`, expected a sequence",
        ),
        ("[apps.shop\n", "credentials.toml: line 1: unclosed table, expected `]`"),
        ("\n\n[apps.shop]\n", "credentials.toml: line 3: missing field `keys`"),
        (
            "[apps.shop]\nkeys = []\nleeway_s = 601\n",
            "credentials.toml: apps.shop.leeway_s is above 600; set the clocks instead",
        ),
        (
            "[apps.shop]\nkeys = []\nleeway_s = -1\n",
            "credentials.toml: line 3: invalid value: integer `-1`, expected u64",
        ),
        (
            "[apps.shop]\nkeys = []\nlifetime_max_s = 0\n",
            "credentials.toml: apps.shop.lifetime_max_s is 0, which no token can keep",
        ),
        (
            "[apps.\"a\\nb\"]\nkeys = []\n",
            "credentials.toml: the app \"a\\nb\": app contains a control character",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), said);
    }
}

#[test]
fn apps_and_services_are_counted() {
    let apps = |count| (0..count).map(|app| format!("[apps.a{app}]\nkeys = []\n")).collect::<String>();
    assert_eq!(read(&apps(limits::APPS_MAX)).unwrap().apps.len(), limits::APPS_MAX);
    assert!(read(&apps(limits::APPS_MAX + 1)).unwrap_err().contains("at most 4096 apps and 256 services"));
    let services = |count| {
        (0..count).map(|name| format!("[services.s{name}]\napps = []\nmay = []\n")).collect::<String>()
    };
    assert!(read(&services(limits::SERVICES_MAX)).is_ok());
    assert!(read(&services(limits::SERVICES_MAX + 1)).unwrap_err().contains("at most"));
}

#[test]
fn a_missing_or_absurd_file_says_so() {
    let error = Settings::read(Path::new("/nowhere/credentials.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/credentials.toml: cannot be read: No such file"), "{error}");
    assert!(Settings::read(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
    let mut files = Files::new();
    let size = usize::try_from(limits::FILE_BYTES_MAX).unwrap();
    let path = files.write("large", vec![b'#'; size + 1], 0o600);
    assert!(Settings::read(&path).unwrap_err().to_string().contains("longer than 1048576 bytes"));
    files.write("large", vec![b'#'; size], 0o600);
    assert!(Settings::read(&path).is_ok());
    let binary = files.write("binary", b"\xff", 0o600);
    assert!(Settings::read(&binary).unwrap_err().to_string().contains("not UTF-8"));
    files.add("shop", public_key(files.path().join("gone.pem")));
    assert!(files.error().contains("gone.pem: cannot be read"));
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let [pair, _] = pairs(Algorithm::Hs256);
    for mode in [0o600, 0o400, 0o700] {
        let mut files = Files::new();
        let path = files.write("secret", &pair.public, mode);
        files.add("shop", secret(path));
        files.verifier();
    }
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601] {
        let mut files = Files::new();
        let path = files.write("secret", &pair.public, mode);
        files.add("shop", secret(path));
        let error = files.error();
        assert!(error.contains(&format!("mode {mode:04o}); run: chmod 600 ")), "{error}");
        assert!(!error.contains(&pair.public), "{error}");
    }
}

#[test]
fn a_credential_of_systemd_is_private_though_its_group_may_read() {
    use std::os::unix::fs::MetadataExt;
    let mut files = Files::new();
    let path = files.write("secret", &pairs(Algorithm::Hs256)[0].public, 0o440);
    let metadata = std::fs::metadata(&path).unwrap();
    files.add("shop", secret(path));
    let of_root = metadata.uid() == 0 && metadata.gid() == 0;
    assert_eq!(Verifier::load(&files.settings).is_ok(), of_root);
}

#[test]
fn a_key_set_is_a_secret_when_it_holds_one() {
    let mut private = pairs(Algorithm::Es256)[0].jwk.clone();
    private["d"] = json!("AAAA");
    let public = &pairs(Algorithm::Es256)[1].jwk;
    let symmetric = &pairs(Algorithm::Hs256)[0].jwk;
    for (set, is_secret) in [
        (json!({"keys": [public]}), false),
        (json!({"keys": [public, private]}), true),
        (json!({"keys": [public, symmetric]}), true),
        (json!({"keys": [public, {"kty": "RSA", "use": "enc", "d": "x"}]}), true),
    ] {
        let mut files = Files::new();
        files.jwks("shop", &set, 0o600);
        files.verifier();
        let mut files = Files::new();
        files.jwks("shop", &set, 0o644);
        assert_eq!(Verifier::load(&files.settings).is_err(), is_secret, "{set}");
        assert!(!is_secret || files.error().contains("symmetric or private keys"));
    }
}

#[test]
fn a_key_set_that_is_wrong_says_where() {
    let short = json!({"kty": "oct", "k": "c2hvcnQ"});
    let mut point = pairs(Algorithm::Es256)[0].jwk.clone();
    point["y"] = point["x"].clone();
    let mut padded = pairs(Algorithm::EdDsa)[0].jwk.clone();
    padded["x"] = json!(format!("{}=", padded["x"].as_str().unwrap()));
    for (set, said) in [
        (json!([]), "not a JSON Web Key Set"),
        (json!({"keys": {}}), "not a JSON Web Key Set"),
        (json!({"keys": []}), "has no key for a signature"),
        (json!({"keys": [{"kty": "EC", "crv": "P-384", "x": "", "y": ""}]}), "has no key for a signature"),
        (json!({"keys": [short]}), "key 0: the secret has 5 bytes"),
        (json!({"keys": [point]}), "key 0: the coordinates are no point of P-256"),
        (json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA"}]}), "key 0: \"y\" is missing"),
        (json!({"keys": [padded]}), "key 0: \"x\" is not base64url without padding"),
        (json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}]}), "has 32 bytes"),
        (json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}), "key 0: "),
        (json!({"keys": [{"kty": "RSA", "e": "AQAB"}]}), "\"n\" is missing"),
    ] {
        let mut files = Files::new();
        files.jwks("shop", &set, 0o600);
        let error = files.error();
        assert!(error.contains(said) && error.contains("shop.jwks"), "{set}: {error}");
    }
}

#[test]
fn a_secret_is_one_line_of_enough_bytes() {
    for (content, said) in [
        (&b"0123456789abcdef0123456789abcde"[..], "31 bytes and HS256 needs 32"),
        (b"0123456789abcdef0123456789abcde\n", "31 bytes"),
        (b"", "0 bytes"),
        (b"0123456789abcdef\n0123456789abcdef\n", "not one line"),
        (b"0123456789abcdef\xff0123456789abcdef", "not one line"),
    ] {
        let mut files = Files::new();
        let path = files.write("secret", content, 0o600);
        files.add("shop", secret(path));
        let error = files.error();
        assert!(error.contains(said) && !error.contains("0123456789"), "{error}");
    }
}

#[test]
fn a_key_file_that_is_something_else_says_what_to_do() {
    let [ec, other] = pairs(Algorithm::Es256);
    let p384 = {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        pem("PUBLIC KEY", der.as_ref())
    };
    for (content, said) in [
        (
            ec.private.clone(),
            "private key, which stays with whoever issues tokens; make the public half with: openssl pkey",
        ),
        (pairs(Algorithm::Rs256)[0].private.clone(), "private key"),
        (format!("{}{}", ec.public, ec.private), "private key"),
        (CERTIFICATE.to_owned(), "openssl x509 -in"),
        (format!("{}{}", ec.public, other.public), "two public keys"),
        (SMALL_RSA.to_owned(), "2048 to 8192 bits"),
        (p384, "none of P-256 (ES256), Ed25519 (EdDSA) and RSA (RS256)"),
        (String::new(), "no public key"),
        ("ssh-ed25519 AAAA me".to_owned(), "no public key"),
        (ec.public.replace("-----END PUBLIC KEY-----", ""), "not PEM"),
        (pem("PUBLIC KEY", b"junk"), "none of P-256"),
    ] {
        let mut files = Files::new();
        let path = files.write("key.pem", &content, 0o644);
        files.add("shop", public_key(path));
        let error = files.error();
        assert!(error.contains(said) && error.contains("key.pem"), "{error}");
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let [first, second] = pairs(Algorithm::EdDsa);
    let path = |files: &Files| files.write("key", &first.public, 0o600);

    let mut files = Files::new();
    files.key("shop", None, first).keys.clear();
    assert!(files.error().contains("\"shop\" has no key"), "{}", files.error());

    let mut files = Files::new();
    files.key("shop", Some("a"), first);
    files.key("shop", Some("a"), second);
    assert!(files.error().contains("two keys with the kid \"a\""), "{}", files.error());

    let mut files = Files::new();
    for _ in 0..limits::KEYS_PER_APP_MAX {
        files.key("shop", None, first);
    }
    files.verifier();
    files.key("shop", None, first);
    assert!(files.error().contains("more than 8 keys"), "{}", files.error());

    let mut files = Files::new();
    let key = path(&files);
    files.add("shop", KeySettings { secret: Some(key.clone()), ..public_key(key) });
    assert!(files.error().contains("exactly one of"), "{}", files.error());

    let mut files = Files::new();
    files.add("shop", KeySettings::default());
    assert!(files.error().contains("exactly one of"), "{}", files.error());

    let mut files = Files::new();
    let key = path(&files);
    files.add("shop", KeySettings { kid: Some("x".into()), jwks: Some(key), ..KeySettings::default() });
    assert!(files.error().contains("take `kid` out"), "{}", files.error());

    for kid in [String::new(), "x".repeat(limits::KID_BYTES_MAX + 1)] {
        let mut files = Files::new();
        files.key("shop", Some(&kid), first);
        assert!(files.error().contains("a kid has 1 to 128 bytes"), "{}", files.error());
    }
}

#[test]
fn a_signing_key_is_known_by_its_file() {
    for algorithm in Algorithm::ALL {
        let [pair, _] = pairs(algorithm);
        assert_eq!(pair.signing().algorithm(), algorithm);
        if algorithm != Algorithm::Hs256 {
            let error = SigningKey::from_file_content(pair.public.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("no private key"), "{error}");
        }
    }
    assert!(SigningKey::from_file_content(b"\xff\xfe").is_err());
    assert!(SigningKey::from_pem(pem("PRIVATE KEY", b"junk").as_bytes()).is_err());
}
