//! Tokens of backend services, and names of their certificates: who may use the internal port, and for which apps.
//!
//! Of tokens only SHA-256 digests are kept. They are compared in constant time, all of them every time.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::denial::Denial;
use crate::file::{self, LoadError};
use crate::limits::{
    CERTIFICATE_NAMES_PER_SERVICE_MAX, SERVICE_TOKEN_BYTES_MAX, SERVICE_TOKEN_BYTES_MIN,
    TOKENS_PER_SERVICE_MAX,
};
use crate::settings::{ServiceSettings, Settings};

type Digest = [u8; SHA256_OUTPUT_LEN];

/// Something a service may do to an app's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Right {
    /// Send to sessions and accounts.
    Push = 1,
    /// End sessions.
    Kick = 2,
    /// Ask where sessions are.
    Query = 4,
    /// Send to every session of an app.
    Broadcast = 8,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Push, Self::Kick, Self::Query, Self::Broadcast];

    /// Its name in the credentials file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Kick => "kick",
            Self::Query => "query",
            Self::Broadcast => "broadcast",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Apps {
    All,
    /// Sorted.
    These(Box<[Box<str>]>),
}

/// A backend service and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    name: Box<str>,
    apps: Apps,
    /// One bit for each [`Right`].
    rights: u8,
}

impl Service {
    /// A service that may do everything: for the one token shared by all, where no file names services.
    #[must_use]
    pub fn unlimited(name: &str) -> Self {
        let rights = Right::ALL.iter().fold(0, |bits, right| bits | *right as u8);
        Self { name: name.into(), apps: Apps::All, rights }
    }

    /// Its name, for logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may do this to accounts of that app.
    #[must_use]
    pub fn allows(&self, app: &str, right: Right) -> bool {
        if self.rights & right as u8 == 0 {
            return false;
        }
        match &self.apps {
            Apps::All => true,
            Apps::These(apps) => apps.binary_search_by(|known| (**known).cmp(app)).is_ok(),
        }
    }
}

/// The services of a credentials file. Immutable; reload by loading again.
#[derive(Default)]
pub struct ServiceKeys {
    tokens: Vec<(Digest, Arc<Service>)>,
    /// In lower case.
    certificates: Vec<(Box<str>, Arc<Service>)>,
}

impl fmt::Debug for ServiceKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.tokens.iter().map(|(_, service)| service.name());
        let certificates = self.certificates.iter().map(|(_, service)| service.name());
        let names: Vec<_> = tokens.chain(certificates).collect();
        formatter.debug_struct("ServiceKeys").field("services", &names).finish_non_exhaustive()
    }
}

impl ServiceKeys {
    /// Reads every token file.
    ///
    /// # Errors
    /// [`LoadError`] says which file, what is wrong and what to do.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        settings.check()?;
        let mut keys = Self::default();
        for (name, declared) in &settings.services {
            let wrong = |what: String| LoadError::new(&settings.path, format!("services.{name}: {what}"));
            let service = Arc::new(service(name, declared).map_err(wrong)?);
            for name in certificate_names(declared).map_err(wrong)? {
                if let Some((_, other)) = keys.certificates.iter().find(|(known, _)| *known == name) {
                    return Err(wrong(format!("certificate_names: {name:?} is {:?} already", other.name())));
                }
                keys.certificates.push((name, Arc::clone(&service)));
            }
            for digest in digests(declared, wrong)? {
                if let Some((_, other)) = keys.tokens.iter().find(|(known, _)| *known == digest) {
                    return Err(wrong(format!("has a token that {:?} has too; make another", other.name())));
                }
                keys.tokens.push((digest, Arc::clone(&service)));
            }
        }
        Ok(keys)
    }

    /// True when no service is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.certificates.is_empty()
    }

    /// The service whose certificate is for these names, in lower case: the first of them that a service has.
    ///
    /// # Errors
    /// [`Denial::Missing`] without any name, else [`Denial::UnknownService`].
    pub fn check_certificate(&self, names: &[String]) -> Result<Arc<Service>, Denial> {
        let of = |name: &String| self.certificates.iter().find(|(known, _)| **known == **name);
        match names.iter().find_map(of) {
            Some((_, service)) => Ok(Arc::clone(service)),
            None if names.is_empty() => Err(Denial::Missing),
            None => Err(Denial::UnknownService),
        }
    }

    /// The service that has this token.
    ///
    /// # Errors
    /// [`Denial::Missing`], [`Denial::TooLong`] or [`Denial::UnknownService`].
    pub fn check(&self, token: &[u8]) -> Result<Arc<Service>, Denial> {
        if token.is_empty() {
            return Err(Denial::Missing);
        }
        if token.len() > SERVICE_TOKEN_BYTES_MAX {
            return Err(Denial::TooLong);
        }
        let digest = sha256(token);
        let mut found = None;
        for (known, service) in &self.tokens {
            if verify_slices_are_equal(known, &digest).is_ok() {
                found = Some(service);
            }
        }
        found.cloned().ok_or(Denial::UnknownService)
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn service(name: &str, declared: &ServiceSettings) -> Result<Service, String> {
    let mut rights = 0;
    for word in &declared.may {
        rights |= match Right::ALL.into_iter().find(|right| right.name() == word) {
            Some(right) => right as u8,
            None if word == "*" => Service::unlimited("").rights,
            None => return Err(format!("may: {word:?} is none of push, kick, query, broadcast and *")),
        };
    }
    if rights == 0 || declared.apps.is_empty() {
        return Err("it may do nothing; give it `apps` and `may`".to_owned());
    }
    if declared.apps.iter().any(|app| app == "*") {
        return Ok(Service { name: name.into(), apps: Apps::All, rights });
    }
    let mut apps: Vec<Box<str>> = declared.apps.iter().map(|app| app.as_str().into()).collect();
    for app in &apps {
        moor_wire::identity::check_app(app).map_err(|error| format!("apps: {app:?}: {error}"))?;
    }
    apps.sort_unstable();
    apps.dedup();
    Ok(Service { name: name.into(), apps: Apps::These(apps.into()), rights })
}

fn certificate_names(declared: &ServiceSettings) -> Result<Vec<Box<str>>, String> {
    if declared.certificate_names.len() > CERTIFICATE_NAMES_PER_SERVICE_MAX {
        return Err(format!("certificate_names: at most {CERTIFICATE_NAMES_PER_SERVICE_MAX}"));
    }
    let name = |name: &String| {
        let usable = !name.is_empty() && !name.chars().any(char::is_control);
        let wrong = || format!("certificate_names: {name:?} is no name that a certificate could have");
        usable.then(|| name.to_ascii_lowercase().into()).ok_or_else(wrong)
    };
    declared.certificate_names.iter().map(name).collect()
}

fn digests(
    declared: &ServiceSettings,
    wrong: impl Fn(String) -> LoadError,
) -> Result<Vec<Digest>, LoadError> {
    let mut digests = Vec::new();
    for hex in &declared.token_sha256 {
        digests.push(from_hex(hex).ok_or_else(|| wrong("token_sha256: not 64 hex digits".to_owned()))?);
    }
    if let Some(path) = &declared.token_file {
        read_tokens(path, &mut digests)?;
    }
    match digests.len() {
        0 if declared.certificate_names.is_empty() => {
            Err(wrong("it has no token; add token_file, token_sha256 or certificate_names".to_owned()))
        }
        0..=TOKENS_PER_SERVICE_MAX => Ok(digests),
        _ => Err(wrong(format!("at most {TOKENS_PER_SERVICE_MAX} tokens; retire old ones"))),
    }
}

fn read_tokens(path: &Path, digests: &mut Vec<Digest>) -> Result<(), LoadError> {
    let content = file::read(path)?;
    content.require_private(path, "a token")?;
    for line in content.bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        match line.len() {
            0 => {}
            SERVICE_TOKEN_BYTES_MIN..=SERVICE_TOKEN_BYTES_MAX => digests.push(sha256(line)),
            bytes => {
                let what = format!(
                    "a token has {SERVICE_TOKEN_BYTES_MIN} to {SERVICE_TOKEN_BYTES_MAX} bytes and this one {bytes}; \
                     make one with: openssl rand -hex 32"
                );
                return Err(LoadError::new(path, what));
            }
        }
    }
    Ok(())
}

fn from_hex(text: &str) -> Option<Digest> {
    let mut out = [0; SHA256_OUTPUT_LEN];
    if text.len() != 2 * out.len() || !text.is_ascii() {
        return None;
    }
    for (index, byte) in out.iter_mut().enumerate() {
        let pair = &text[2 * index..2 * index + 2];
        // A sign would be taken for a digit otherwise.
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(out)
}
