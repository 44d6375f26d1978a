//! What checking a token costs: verifications a second on one core, for each algorithm.
//! `cargo run --release -p moor-credentials --example verifications -- [seconds]`
#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not a service")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moor_credentials::issue::{Grant, SigningKey, issue};
use moor_credentials::{Algorithm, Settings, Verifier};

const NOW_S: u64 = 1_800_000_000;
/// Verifications between two looks at the clock.
const BATCH: u32 = 100;

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// What signs and what verifies.
fn pair(algorithm: Algorithm) -> (String, String) {
    let (private, public): (Vec<u8>, PublicKeyX509Der<'_>) = match algorithm {
        Algorithm::Hs256 => {
            let secret = "a secret of more than 32 bytes, for a measurement".to_owned();
            return (secret.clone(), secret);
        }
        Algorithm::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            (pair.to_pkcs8v1().unwrap().as_ref().to_vec(), pair.public_key().as_der().unwrap())
        }
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::generate().unwrap();
            (pair.to_pkcs8v1().unwrap().as_ref().to_vec(), pair.public_key().as_der().unwrap())
        }
        Algorithm::Rs256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
            (private.as_ref().to_vec(), pair.public_key().as_der().unwrap())
        }
    };
    (pem("PRIVATE KEY", &private), pem("PUBLIC KEY", public.as_ref()))
}

fn verifier(folder: &Path, algorithm: Algorithm, public: &str) -> Verifier {
    let path = folder.join("key");
    std::fs::write(&path, public).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let kind = if algorithm == Algorithm::Hs256 { "secret" } else { "public_key" };
    let file = folder.join("credentials.toml");
    std::fs::write(&file, format!("[apps.shop]\nkeys = [{{ {kind} = \"key\" }}]\n")).unwrap();
    Verifier::load(&Settings::read(&file).unwrap()).unwrap()
}

fn main() {
    let seconds: u64 = std::env::args().nth(1).map_or(2, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let grant = Grant {
        app: "shop".into(),
        account: "alice".into(),
        expires_s: NOW_S + 3600,
        issued_s: Some(NOW_S),
        ..Grant::default()
    };
    for algorithm in Algorithm::ALL {
        let (private, public) = pair(algorithm);
        let verifier = verifier(folder.path(), algorithm, &public);
        let signing = SigningKey::from_file_content(private.as_bytes()).unwrap();
        let token = issue(&signing, Some("2026-11"), &grant).unwrap();
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_secs(seconds) {
            for _ in 0..BATCH {
                verifier
                    .verify("shop", "alice", "phone", std::hint::black_box(token.as_bytes()), NOW_S)
                    .unwrap();
            }
            count += BATCH;
        }
        let per_second = f64::from(count) / start.elapsed().as_secs_f64();
        println!(
            "{algorithm:5}  {per_second:9.0} verifications/s  {:6.1} us each  token of {} bytes",
            1e6 / per_second,
            token.len()
        );
    }
}
