//! Makes tokens: for tests, first steps and a command line. A gateway never does.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Serialize;

use crate::algorithm::Algorithm;
use crate::keys::one_line;

/// Why no token can be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key cannot sign.
    #[error("the key cannot sign: {0}")]
    Key(&'static str),
    /// The library refused.
    #[error("the token could not be signed")]
    Sign,
}

/// A key that signs.
pub struct SigningKey(Material);

enum Material {
    Secret(Box<hmac::Key>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SigningKey").field(&self.algorithm()).finish()
    }
}

impl SigningKey {
    /// From the content of a key file: a private key in PEM, or the one line of an HS256 secret.
    ///
    /// # Errors
    /// The key is of no known kind.
    pub fn from_file_content(content: &[u8]) -> Result<Self, IssueError> {
        if content.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Self::from_pem(content);
        }
        one_line(content)
            .map(Self::from_secret)
            .ok_or(IssueError::Key("neither PEM nor a secret in one line"))
    }

    /// From an HS256 secret.
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
    }

    /// From the first private key in a PEM file.
    ///
    /// # Errors
    /// There is none, or it is none of P-256, Ed25519 and RSA.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IssueError> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|_| IssueError::Key("it is not PEM"))?;
            match kind {
                SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => {
                    return Self::from_der(&der);
                }
                // "EC PARAMETERS" and the like stand before the key.
                _ => {}
            }
        }
        Err(IssueError::Key("there is no private key in it"))
    }

    fn from_der(der: &[u8]) -> Result<Self, IssueError> {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Ok(Self(Material::Ec(pair)));
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self(Material::Ed(pair)));
        }
        if let Ok(pair) = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)) {
            return Ok(Self(Material::Rsa(pair)));
        }
        Err(IssueError::Key("it is none of P-256, Ed25519 and RSA of 2048 to 8192 bits"))
    }

    /// The algorithm of its signatures.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Ec(_) => Algorithm::Es256,
            Material::Ed(_) => Algorithm::EdDsa,
            Material::Rsa(_) => Algorithm::Rs256,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IssueError> {
        let random = SystemRandom::new();
        Ok(match &self.0 {
            Material::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Material::Ec(pair) => {
                pair.sign(&random, message).map_err(|_| IssueError::Sign)?.as_ref().to_vec()
            }
            Material::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Material::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| IssueError::Sign)?;
                signature
            }
        })
    }
}

/// What a token says. Empty and unset fields are left out of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Grant {
    /// The app.
    pub app: String,
    /// The account in it.
    pub account: String,
    /// Devices that may use it; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Until when, Unix seconds.
    #[serde(rename = "exp")]
    pub expires_s: u64,
    /// From when, Unix seconds.
    #[serde(rename = "nbf", skip_serializing_if = "Option::is_none")]
    pub not_before_s: Option<u64>,
    /// When it was made, Unix seconds.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued_s: Option<u64>,
    /// Who made it.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Whom it is for.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

/// A signed token.
///
/// # Errors
/// The library refused to sign.
pub fn issue(key: &SigningKey, kid: Option<&str>, grant: &Grant) -> Result<String, IssueError> {
    let header = Header { alg: key.algorithm().name(), typ: "JWT", kid };
    let header = serde_json::to_vec(&header).map_err(|_| IssueError::Sign)?;
    let claims = serde_json::to_vec(grant).map_err(|_| IssueError::Sign)?;
    issue_raw(key, &header, &claims)
}

/// A signed token with any header and any claims: for tests of what must be refused.
///
/// # Errors
/// The library refused to sign.
pub fn issue_raw(key: &SigningKey, header: &[u8], claims: &[u8]) -> Result<String, IssueError> {
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}
