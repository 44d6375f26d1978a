//! The keys of an app, from the files an operator names.

use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};

use crate::algorithm::Key;
use crate::file::{self, LoadError};
use crate::jwks;
use crate::limits::{KEYS_PER_APP_MAX, KID_BYTES_MAX};
use crate::settings::KeySettings;

/// A key and the id by which tokens name it.
pub(crate) struct NamedKey {
    pub(crate) kid: Option<Box<str>>,
    pub(crate) key: Key,
}

/// Loads the keys of the app `name`; `declared_in` is for errors that no key file is to blame for.
pub(crate) fn load(
    declared_in: &Path,
    name: &str,
    declared: &[KeySettings],
) -> Result<Box<[NamedKey]>, LoadError> {
    let mut keys = Vec::new();
    for settings in declared {
        load_one(declared_in, name, settings, &mut keys)?;
        if keys.len() > KEYS_PER_APP_MAX {
            let what = format!("the app {name:?} has more than {KEYS_PER_APP_MAX} keys; retire old ones");
            return Err(LoadError::new(declared_in, what));
        }
    }
    if keys.is_empty() {
        let what = format!("the app {name:?} has no key; add [[apps.{name}.keys]] with public_key = \"...\"");
        return Err(LoadError::new(declared_in, what));
    }
    let mut kids: Vec<&str> = keys.iter().filter_map(|key| key.kid.as_deref()).collect();
    kids.sort_unstable();
    if let Some(twice) = kids.windows(2).find(|pair| pair[0] == pair[1]) {
        let what = format!("the app {name:?} has two keys with the kid {:?}; give each its own", twice[0]);
        return Err(LoadError::new(declared_in, what));
    }
    Ok(keys.into())
}

fn load_one(
    declared_in: &Path,
    name: &str,
    settings: &KeySettings,
    keys: &mut Vec<NamedKey>,
) -> Result<(), LoadError> {
    let kid = settings.kid.as_deref().map(Box::from);
    check_kid(kid.as_deref()).map_err(|what| LoadError::new(declared_in, format!("app {name:?}: {what}")))?;
    match (&settings.public_key, &settings.secret, &settings.jwks) {
        (Some(path), None, None) => keys.push(NamedKey { kid, key: public_key(path)? }),
        (None, Some(path), None) => keys.push(NamedKey { kid, key: secret(path)? }),
        (None, None, Some(path)) if kid.is_none() => jwks::load(path, keys)?,
        (None, None, Some(_)) => {
            let what = format!("app {name:?}: a jwks names its keys itself; take `kid` out");
            return Err(LoadError::new(declared_in, what));
        }
        _ => {
            let what = format!("app {name:?}: each key has exactly one of public_key, secret and jwks");
            return Err(LoadError::new(declared_in, what));
        }
    }
    Ok(())
}

/// # Errors
/// What is wrong with the key id.
pub(crate) fn check_kid(kid: Option<&str>) -> Result<(), String> {
    match kid {
        Some(kid) if kid.is_empty() || kid.len() > KID_BYTES_MAX => {
            Err(format!("a kid has 1 to {KID_BYTES_MAX} bytes"))
        }
        _ => Ok(()),
    }
}

fn public_key(path: &Path) -> Result<Key, LoadError> {
    let content = file::read(path)?;
    let wrong = |what: String| LoadError::new(path, what);
    let mut found = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&content.bytes) {
        let (kind, der) = section.map_err(|_| wrong("is not PEM".to_owned()))?;
        match kind {
            SectionKind::PublicKey if found.is_some() => {
                return Err(wrong(
                    "holds two public keys; give each its own file and its own kid".to_owned(),
                ));
            }
            SectionKind::PublicKey => found = Some(der),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                let what = format!(
                    "holds a private key, which stays with whoever issues tokens; make the public half with: openssl \
                     pkey -in {} -pubout",
                    path.display()
                );
                return Err(wrong(what));
            }
            SectionKind::Certificate => {
                let what = format!(
                    "holds a certificate; take its key out with: openssl x509 -in {} -pubkey -noout",
                    path.display()
                );
                return Err(wrong(what));
            }
            _ => {}
        }
    }
    let der = found.ok_or_else(|| {
        wrong("holds no public key; it should begin with -----BEGIN PUBLIC KEY-----".to_owned())
    })?;
    Key::from_der(&der).map_err(wrong)
}

fn secret(path: &Path) -> Result<Key, LoadError> {
    let content = file::read(path)?;
    content.require_private(path, "a secret")?;
    let secret = one_line(&content.bytes).ok_or_else(|| {
        LoadError::new(
            path,
            "is not one line of printable ASCII; a secret of other bytes goes into a jwks, as \"k\" of kty \"oct\"",
        )
    })?;
    Key::from_secret(secret).map_err(|what| LoadError::new(path, what))
}

/// The only line of a text. Anything else would leave open which bytes the secret is.
pub(crate) fn one_line(bytes: &[u8]) -> Option<&[u8]> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.iter().all(|byte| (0x20..0x7f).contains(byte)).then_some(line)
}
