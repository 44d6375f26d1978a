//! JSON Web Key Sets (RFC 7517): what identity providers publish.
//!
//! Keys for something else (encryption, other curves) are passed over; a set without a single usable key is an
//! error. Private members are ignored, but make the file a secret.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::algorithm::{Algorithm, Key};
use crate::file::{self, LoadError};
use crate::keys::{NamedKey, check_kid};

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    /// The secret of a symmetric key.
    k: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private part of every other key.
    d: Option<serde::de::IgnoredAny>,
}

/// Appends the usable keys of the set at `path`.
pub(crate) fn load(path: &Path, keys: &mut Vec<NamedKey>) -> Result<(), LoadError> {
    let content = file::read(path)?;
    // What the parser says would quote the file.
    let set: Set = serde_json::from_slice(&content.bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        LoadError::new(path, format!("is not a JSON Web Key Set ({{\"keys\": [...]}}); see {place}"))
    })?;
    if set.keys.iter().any(|jwk| jwk.kty == "oct" || jwk.k.is_some() || jwk.d.is_some()) {
        content.require_private(path, "symmetric or private keys")?;
    }
    let before = keys.len();
    for (index, jwk) in set.keys.into_iter().enumerate() {
        let wrong = |what: String| LoadError::new(path, format!("key {index}: {what}"));
        let Some(key) = jwk.key().map_err(wrong)? else { continue };
        check_kid(jwk.kid.as_deref()).map_err(wrong)?;
        keys.push(NamedKey { kid: jwk.kid.map(String::into_boxed_str), key });
    }
    if keys.len() == before {
        let what = "has no key for a signature with HS256 (kty oct), ES256 (EC, P-256), EdDSA (OKP, Ed25519) or RS256 \
                    (RSA)";
        return Err(LoadError::new(path, what));
    }
    Ok(())
}

impl Jwk {
    /// The key, `None` when it is for something else.
    fn key(&self) -> Result<Option<Key>, String> {
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let verifies = self
            .key_ops
            .as_ref()
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let Some(algorithm) = self.algorithm() else { return Ok(None) };
        let named = self.alg.as_deref().is_none_or(|name| Algorithm::from_name(name) == Some(algorithm));
        if !(signs && verifies && named) {
            return Ok(None);
        }
        match algorithm {
            Algorithm::Hs256 => Key::from_secret(&member("k", self.k.as_deref())?),
            Algorithm::Es256 => {
                Key::from_p256(&member("x", self.x.as_deref())?, &member("y", self.y.as_deref())?)
            }
            Algorithm::EdDsa => Key::from_ed25519(&member("x", self.x.as_deref())?),
            Algorithm::Rs256 => {
                Key::from_rsa_components(&member("n", self.n.as_deref())?, &member("e", self.e.as_deref())?)
            }
        }
        .map(Some)
    }

    fn algorithm(&self) -> Option<Algorithm> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => Some(Algorithm::Hs256),
            ("EC", Some("P-256")) => Some(Algorithm::Es256),
            ("OKP", Some("Ed25519")) => Some(Algorithm::EdDsa),
            ("RSA", _) => Some(Algorithm::Rs256),
            _ => None,
        }
    }
}

fn member(name: &str, value: Option<&str>) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("{name:?} is missing"))?;
    URL_SAFE_NO_PAD.decode(value).map_err(|_| format!("{name:?} is not base64url without padding"))
}
