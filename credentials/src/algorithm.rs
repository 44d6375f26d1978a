//! The four signature algorithms and what a key of each verifies.
//!
//! A key has one algorithm, fixed when it is loaded; a token's `alg` only chooses among the app's keys. So a public
//! key can never serve as the secret of an HMAC.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};

use crate::limits::{RSA_BITS_MAX, RSA_BITS_MIN, SECRET_BYTES_MIN};

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256: one secret for both sides.
    Hs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Es256, Self::EdDsa, Self::Rs256];

    /// Its name in a token's `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    /// The algorithm a token's `alg` names. `Ed25519` is the newer name of the same (RFC 9864).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "Ed25519" => Some(Self::EdDsa),
            _ => Self::ALL.into_iter().find(|algorithm| algorithm.name() == name),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A key that verifies.
pub(crate) struct Key {
    pub(crate) algorithm: Algorithm,
    material: Material,
}

enum Material {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Key {
    /// A secret for HS256.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_secret(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "the secret has {} bytes and HS256 needs {SECRET_BYTES_MIN} or more; make one with: openssl rand \
                 -base64 48",
                secret.len()
            ));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Ok(Self { algorithm: Algorithm::Hs256, material: Material::Secret(Box::new(key)) })
    }

    /// A public key in DER (SubjectPublicKeyInfo); its type decides the algorithm.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, String> {
        if let Ok(key) = ParsedPublicKey::new(&ED25519, der) {
            return Ok(Self::public(Algorithm::EdDsa, key));
        }
        if let Ok(key) = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der) {
            return Ok(Self::public(Algorithm::Es256, key));
        }
        match ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der) {
            Ok(key) => Self::from_rsa(key),
            Err(_) => Err("the key is none of P-256 (ES256), Ed25519 (EdDSA) and RSA (RS256)".to_owned()),
        }
    }

    /// A point of P-256, coordinates of 32 bytes each.
    pub(crate) fn from_p256(x: &[u8], y: &[u8]) -> Result<Self, String> {
        if x.len() != 32 || y.len() != 32 {
            return Err("the coordinates of a P-256 key have 32 bytes each".to_owned());
        }
        let point = [&[4], x, y].concat();
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .map_err(|_| "the coordinates are no point of P-256".to_owned())?;
        Ok(Self::public(Algorithm::Es256, key))
    }

    /// A public key of Ed25519 in its 32 bytes.
    pub(crate) fn from_ed25519(x: &[u8]) -> Result<Self, String> {
        if x.len() != 32 {
            return Err("a public key of Ed25519 has 32 bytes".to_owned());
        }
        let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| "x is no key of Ed25519".to_owned())?;
        Ok(Self::public(Algorithm::EdDsa, key))
    }

    /// Modulus and exponent, big-endian without leading zeros.
    pub(crate) fn from_rsa_components(n: &[u8], e: &[u8]) -> Result<Self, String> {
        let key = RsaPublicKeyComponents { n, e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| "n and e are no RSA key".to_owned())?;
        Self::from_rsa(key)
    }

    /// Parsing does not check the size; each verification would fail instead, long after the start.
    fn from_rsa(key: ParsedPublicKey) -> Result<Self, String> {
        let bits = PublicEncryptingKey::from_der(key.as_ref()).map(|key| key.key_size_bits());
        match bits {
            Ok(RSA_BITS_MIN..=RSA_BITS_MAX) => Ok(Self::public(Algorithm::Rs256, key)),
            _ => Err(format!("an RSA key must have {RSA_BITS_MIN} to {RSA_BITS_MAX} bits; make a new pair")),
        }
    }

    fn public(algorithm: Algorithm, key: ParsedPublicKey) -> Self {
        Self { algorithm, material: Material::Public(key) }
    }

    /// Whether `signature` is this key's over `message`. Constant time for secrets.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}
