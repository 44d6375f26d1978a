//! Decides whether a client's credential is good. Immutable once loaded; now is an argument.

use std::collections::HashMap;
use std::fmt;

use moor_wire::limits::CREDENTIAL_BYTES_MAX;

use crate::algorithm::Algorithm;
use crate::denial::Denial;
use crate::file::LoadError;
use crate::keys::{self, NamedKey};
use crate::limits::{PART_BYTES_MAX, SIGNATURE_BYTES_MAX};
use crate::settings::{Anonymous, AppSettings, Settings};
use crate::token::{self, Claims, Header, Instant, Parts};

/// What a good credential gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// When the channel must end, Unix seconds: `exp` and the leeway, so that whoever was let in stays for a while.
    /// `None` for somebody anonymous.
    pub expires_s: Option<u64>,
}

/// Everything needed to check credentials: the apps with their keys.
///
/// To reload, load another one and put it in place of this one; when that fails, this one goes on.
pub struct Verifier {
    apps: HashMap<Box<str>, App>,
    anonymous: Anonymous,
}

struct App {
    keys: Box<[NamedKey]>,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
    leeway_s: u64,
    lifetime_max_s: Option<u64>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut apps: Vec<_> = self.apps.keys().collect();
        apps.sort_unstable();
        formatter
            .debug_struct("Verifier")
            .field("apps", &apps)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Reads every key file.
    ///
    /// # Errors
    /// [`LoadError`] says which file, what is wrong and what to do.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        settings.check()?;
        let mut apps = HashMap::with_capacity(settings.apps.len());
        for (name, app) in &settings.apps {
            apps.insert(name.as_str().into(), App::load(settings, name, app)?);
        }
        Ok(Self { apps, anonymous: settings.anonymous })
    }

    /// How many apps have keys.
    #[must_use]
    pub fn apps(&self) -> usize {
        self.apps.len()
    }

    /// Whether `credential` lets `device` in as `account` of `app`.
    ///
    /// Takes no lock and waits for nothing; what it costs stands in the crate's documentation. The claims are looked
    /// at only after the signature, so that who cannot sign learns nothing from them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(
        &self,
        app: &str,
        account: &str,
        device: &str,
        credential: &[u8],
        now_s: u64,
    ) -> Result<Admission, Denial> {
        let Some(known) = self.apps.get(app) else {
            return match self.anonymous {
                Anonymous::Everybody => Ok(Admission { expires_s: None }),
                Anonymous::Nobody => Err(Denial::UnknownApp),
            };
        };
        if credential.is_empty() {
            return Err(Denial::Missing);
        }
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return Err(Denial::TooLong);
        }
        let parts = Parts::cut(credential)?;
        let mut room = [0; PART_BYTES_MAX];
        let header: Header<'_> = token::read(token::decode(parts.header, &mut room)?)?;
        known.check_signature(&header, &parts)?;

        let mut room = [0; PART_BYTES_MAX];
        let claims: Claims<'_> = token::read(token::decode(parts.claims, &mut room)?)?;
        known.check_origin(&claims)?;
        check_identity(&claims, app, account, device)?;
        let expires_s = known.check_times(&claims, now_s)?;
        Ok(Admission { expires_s: Some(expires_s) })
    }
}

impl App {
    fn load(settings: &Settings, name: &str, app: &AppSettings) -> Result<Self, LoadError> {
        Ok(Self {
            keys: keys::load(&settings.path, name, &app.keys)?,
            issuer: app.issuer.as_deref().map(Box::from),
            audience: app.audience.as_deref().map(Box::from),
            leeway_s: app.leeway_s,
            lifetime_max_s: app.lifetime_max_s,
        })
    }

    fn check_signature(&self, header: &Header<'_>, parts: &Parts<'_>) -> Result<(), Denial> {
        if header.crit.is_some() {
            return Err(Denial::Malformed);
        }
        let algorithm = Algorithm::from_name(&header.alg).ok_or(Denial::WrongAlgorithm)?;
        let mut room = [0; SIGNATURE_BYTES_MAX];
        let signature = token::decode(parts.signature, &mut room)?;
        let kid = header.kid.as_deref();
        let fitting = |named: &&NamedKey| {
            // A key declared without an id takes any: issuers set one even where there is a single key.
            let same = kid.is_none() || named.kid.is_none() || named.kid.as_deref() == kid;
            same && named.key.algorithm == algorithm
        };
        let mut denial = Denial::UnknownKey;
        for named in self.keys.iter().filter(fitting) {
            if named.key.verifies(parts.message, signature) {
                return Ok(());
            }
            denial = Denial::BadSignature;
        }
        Err(denial)
    }

    fn check_origin(&self, claims: &Claims<'_>) -> Result<(), Denial> {
        if let Some(issuer) = self.issuer.as_deref()
            && claims.iss.as_deref() != Some(issuer)
        {
            return Err(Denial::WrongIssuer);
        }
        // A token meant for somebody must be refused by everybody else (RFC 7519, section 4.1.3).
        let meant_for_us = match (&claims.aud, self.audience.as_deref()) {
            (None, None) => true,
            (Some(named), Some(us)) => named.contains(us),
            _ => false,
        };
        if meant_for_us { Ok(()) } else { Err(Denial::WrongAudience) }
    }

    /// When the channel must end.
    fn check_times(&self, claims: &Claims<'_>, now_s: u64) -> Result<u64, Denial> {
        let Some(Instant(exp)) = claims.exp else { return Err(Denial::NoExpiry) };
        let latest = now_s.saturating_add(self.leeway_s);
        if [claims.nbf, claims.iat].iter().flatten().any(|instant| instant.0 > latest) {
            return Err(Denial::NotYet);
        }
        let expires_s = exp.saturating_add(self.leeway_s);
        if now_s >= expires_s {
            return Err(Denial::Expired);
        }
        if let Some(lifetime_max_s) = self.lifetime_max_s {
            let Some(Instant(iat)) = claims.iat else { return Err(Denial::LivesTooLong) };
            if exp.saturating_sub(iat) > lifetime_max_s {
                return Err(Denial::LivesTooLong);
            }
        }
        Ok(expires_s)
    }
}

fn check_identity(claims: &Claims<'_>, app: &str, account: &str, device: &str) -> Result<(), Denial> {
    if claims.app.as_deref() != Some(app) {
        return Err(Denial::WrongApp);
    }
    // `sub` is often the issuer's own id; where there is an `account`, that is the one.
    if claims.account.as_deref().or(claims.sub.as_deref()) != Some(account) {
        return Err(Denial::WrongAccount);
    }
    match &claims.devices {
        Some(devices) if !devices.contains(device) => Err(Denial::WrongDevice),
        _ => Ok(()),
    }
}
