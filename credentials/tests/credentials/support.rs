//! Keys made for the test, in every form an operator may have them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use moor_credentials::issue::{Grant, SigningKey, issue, issue_raw};
use moor_credentials::{Algorithm, AppSettings, KeySettings, Settings, Verifier};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The tests' now.
pub const NOW_S: u64 = 1_800_000_000;

/// A pair of keys, or a secret, in files' forms.
#[derive(Clone)]
pub struct Pair {
    pub algorithm: Algorithm,
    /// What signs: PEM, or the secret.
    pub private: String,
    /// What verifies: PEM, or the secret.
    pub public: String,
    /// The public JWK without `kid`.
    pub jwk: Value,
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Pair {
    pub fn make(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::secret(),
            Algorithm::Es256 => Self::p256(),
            Algorithm::EdDsa => Self::ed25519(),
            Algorithm::Rs256 => Self::rsa(),
        }
    }

    fn secret() -> Self {
        let mut bytes = [0; 33];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let secret = STANDARD.encode(bytes);
        let jwk = json!({"kty": "oct", "k": base64url(secret.as_bytes())});
        Self { algorithm: Algorithm::Hs256, private: secret.clone(), public: secret, jwk }
    }

    fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let point = pair.public_key().as_ref();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])
        });
        Self {
            algorithm: Algorithm::Es256,
            private: pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
            public: pem("PUBLIC KEY", public.as_ref()),
            jwk,
        }
    }

    fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            algorithm: Algorithm::EdDsa,
            private: pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
            public: pem("PUBLIC KEY", public.as_ref()),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())}),
        }
    }

    fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let n = base64url(pair.public_key().modulus().big_endian_without_leading_zero());
        let e = base64url(pair.public_key().exponent().big_endian_without_leading_zero());
        Self {
            algorithm: Algorithm::Rs256,
            private: pem("PRIVATE KEY", private.as_ref()),
            public: pem("PUBLIC KEY", public.as_ref()),
            jwk: json!({"kty": "RSA", "n": n, "e": e}),
        }
    }

    pub fn signing(&self) -> SigningKey {
        SigningKey::from_file_content(self.private.as_bytes()).unwrap()
    }
}

/// Two pairs of each algorithm, made once: an RSA key takes a while.
pub fn pairs(algorithm: Algorithm) -> &'static [Pair; 2] {
    static PAIRS: OnceLock<Vec<[Pair; 2]>> = OnceLock::new();
    let all = PAIRS.get_or_init(|| {
        Algorithm::ALL.iter().map(|algorithm| [Pair::make(*algorithm), Pair::make(*algorithm)]).collect()
    });
    all.iter().find(|pair| pair[0].algorithm == algorithm).unwrap()
}

/// A folder with key files and the settings that name them.
pub struct Files {
    folder: TempDir,
    pub settings: Settings,
}

impl Files {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), settings: Settings::default() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    /// Gives an app one more key.
    pub fn key(&mut self, app: &str, kid: Option<&str>, pair: &Pair) -> &mut AppSettings {
        let count = self.settings.apps.get(app).map_or(0, |app| app.keys.len());
        let path = self.write(&format!("{app}-{count}"), &pair.public, 0o600);
        let mut key = KeySettings { kid: kid.map(str::to_owned), ..KeySettings::default() };
        if pair.algorithm == Algorithm::Hs256 {
            key.secret = Some(path);
        } else {
            key.public_key = Some(path);
        }
        self.add(app, key)
    }

    /// Gives an app a key set.
    pub fn jwks(&mut self, app: &str, set: &Value, mode: u32) -> &mut AppSettings {
        let jwks = Some(self.write(&format!("{app}.jwks"), set.to_string(), mode));
        self.add(app, KeySettings { jwks, ..KeySettings::default() })
    }

    pub fn add(&mut self, app: &str, key: KeySettings) -> &mut AppSettings {
        let settings = self.settings.apps.entry(app.to_owned()).or_insert_with(|| AppSettings {
            keys: Vec::new(),
            issuer: None,
            audience: None,
            leeway_s: 30,
            lifetime_max_s: None,
        });
        settings.keys.push(key);
        settings
    }

    pub fn verifier(&self) -> Verifier {
        Verifier::load(&self.settings).unwrap()
    }

    pub fn error(&self) -> String {
        Verifier::load(&self.settings).unwrap_err().to_string()
    }
}

/// A verifier with one app, `shop`, and one key.
pub fn shop(pair: &Pair) -> Verifier {
    let mut files = Files::new();
    files.key("shop", None, pair);
    files.verifier()
}

/// Good for alice of shop for an hour.
pub fn grant() -> Grant {
    Grant { app: "shop".to_owned(), account: "alice".to_owned(), expires_s: NOW_S + 3600, ..Grant::default() }
}

pub fn token(pair: &Pair, kid: Option<&str>, grant: &Grant) -> String {
    issue(&pair.signing(), kid, grant).unwrap()
}

/// A signed token with these claims.
pub fn signed(pair: &Pair, claims: &Value) -> String {
    let header = json!({"alg": pair.algorithm.name()}).to_string();
    issue_raw(&pair.signing(), header.as_bytes(), claims.to_string().as_bytes()).unwrap()
}

/// The claims of [`grant`], with some set (or, with null, taken out).
pub fn claims(changes: &[(&str, Value)]) -> Value {
    let mut claims: BTreeMap<String, Value> =
        serde_json::from_value(serde_json::to_value(grant()).unwrap()).unwrap();
    for (name, value) in changes {
        if value.is_null() {
            claims.remove(*name);
        } else {
            claims.insert((*name).to_owned(), value.clone());
        }
    }
    serde_json::to_value(claims).unwrap()
}
