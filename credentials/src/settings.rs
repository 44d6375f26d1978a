//! What an operator declares: apps with their keys, services with their tokens. Read from one TOML file, strictly.
//!
//! Nothing here opens a key; [`Verifier::load`](crate::Verifier::load) and
//! [`ServiceKeys::load`](crate::ServiceKeys::load) do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::file::{self, LoadError};
use crate::limits::{APPS_MAX, LEEWAY_S_DEFAULT, LEEWAY_S_MAX, SERVICES_MAX};

/// Below this likeness (Jaro-Winkler, 0 to 1) a known name is no help.
const LIKENESS_MIN: f64 = 0.75;

/// What becomes of an app that the file does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// It is refused.
    #[default]
    Nobody,
    /// Whoever names it comes in under any account. For development on loopback alone. Apps that are listed
    /// still ask for a credential.
    Everybody,
}

/// Everything that is declared about who may come in.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The file the settings came from, for errors; empty when they came from none.
    pub path: PathBuf,
    /// Apps by name.
    pub apps: BTreeMap<String, AppSettings>,
    /// Backend services by name.
    pub services: BTreeMap<String, ServiceSettings>,
    /// What becomes of other apps. No file can say it: only the caller knows where the gateway listens.
    pub anonymous: Anonymous,
}

/// One app.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSettings {
    /// Its keys, at least one.
    pub keys: Vec<KeySettings>,
    /// What `iss` must be; not set: anything.
    pub issuer: Option<String>,
    /// What `aud` must contain; not set: no `aud` at all.
    pub audience: Option<String>,
    /// Clock difference that is forgiven, seconds.
    #[serde(default = "leeway_default")]
    pub leeway_s: u64,
    /// Longest time from `iat` to `exp`, seconds; not set: any.
    pub lifetime_max_s: Option<u64>,
}

/// One key file. Exactly one of the three paths is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// Id by which tokens name the key. Not for `jwks`, which has its own.
    pub kid: Option<String>,
    /// PEM file with one public key: ES256, EdDSA or RS256 by its type.
    pub public_key: Option<PathBuf>,
    /// File with one line, the secret of HS256.
    pub secret: Option<PathBuf>,
    /// JSON Web Key Set.
    pub jwks: Option<PathBuf>,
}

/// One backend service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// File whose lines are the service's tokens.
    pub token_file: Option<PathBuf>,
    /// SHA-256 of its tokens, in hex.
    #[serde(default)]
    pub token_sha256: Vec<String>,
    /// Names of certificates that stand for a token, where the internal port asks for certificates.
    #[serde(default)]
    pub certificate_names: Vec<String>,
    /// Apps it may touch; `["*"]`: all.
    pub apps: Vec<String>,
    /// What it may do there: push, kick, query, broadcast; `["*"]`: all.
    pub may: Vec<String>,
}

fn leeway_default() -> u64 {
    LEEWAY_S_DEFAULT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    apps: BTreeMap<String, AppSettings>,
    #[serde(default)]
    services: BTreeMap<String, ServiceSettings>,
}

const TOP: &[&str] = &["apps", "services"];
const APP: &[&str] = &["keys", "issuer", "audience", "leeway_s", "lifetime_max_s"];
const KEY: &[&str] = &["kid", "public_key", "secret", "jwks"];
const SERVICE: &[&str] = &["token_file", "token_sha256", "certificate_names", "apps", "may"];

impl Settings {
    /// Reads a credentials file. Paths in it are relative to it.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, has an unknown key, a value of the wrong kind or a name that no client
    /// could use.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let content = file::read(path)?;
        let text = String::from_utf8(content.bytes)
            .map_err(|_| LoadError::new(path, "is not UTF-8; a credentials file is TOML"))?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file that errors call `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, LoadError> {
        let table = DeTable::parse(text)
            .map_err(|error| at(path, text, error.span().map_or(0, |span| span.start), error.message()))?;
        check_names(path, text, table.get_ref())?;
        let document: Document = toml::from_str(text)
            .map_err(|error| at(path, text, error.span().map_or(0, |span| span.start), error.message()))?;
        let mut settings = Self {
            path: path.to_owned(),
            apps: document.apps,
            services: document.services,
            anonymous: Anonymous::Nobody,
        };
        settings.check()?;
        settings.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(settings)
    }

    /// Bounds and names. Callers that build settings themselves get the same checks when they load them.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let wrong = |what: String| Err(LoadError::new(&self.path, what));
        if self.apps.len() > APPS_MAX || self.services.len() > SERVICES_MAX {
            return wrong(format!("at most {APPS_MAX} apps and {SERVICES_MAX} services can be declared"));
        }
        for (name, app) in &self.apps {
            if let Err(error) = moor_wire::identity::check_app(name) {
                return wrong(format!("the app {name:?}: {error}"));
            }
            if app.leeway_s > LEEWAY_S_MAX {
                return wrong(format!(
                    "apps.{name}.leeway_s is above {LEEWAY_S_MAX}; set the clocks instead"
                ));
            }
            if app.lifetime_max_s == Some(0) {
                return wrong(format!("apps.{name}.lifetime_max_s is 0, which no token can keep"));
            }
        }
        // Names of services stand in logs, as those of apps do.
        if let Some(name) = self.services.keys().find(|name| moor_wire::identity::check_app(name).is_err()) {
            return wrong(format!(
                "the service {name:?}: a name has 1 to 64 bytes and no control characters"
            ));
        }
        Ok(())
    }

    fn resolve(&mut self, folder: &Path) {
        let keys = self.apps.values_mut().flat_map(|app| &mut app.keys);
        let files = keys.flat_map(|key| [&mut key.public_key, &mut key.secret, &mut key.jwks]);
        let files = files.chain(self.services.values_mut().map(|service| &mut service.token_file));
        for file in files.flatten() {
            *file = folder.join(&*file);
        }
    }
}

fn at(path: &Path, text: &str, offset: usize, what: &str) -> LoadError {
    let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    LoadError::new(path, format!("line {line}: {what}"))
}

/// Walks the tables for names that mean nothing: a misspelt `audience` must not leave a check out.
fn check_names(path: &Path, text: &str, document: &DeTable<'_>) -> Result<(), LoadError> {
    check_table(path, text, "", document, TOP)?;
    for (group, known) in [("apps", APP), ("services", SERVICE)] {
        let Some(DeValue::Table(entries)) = document.get(group).map(|value| value.get_ref()) else {
            continue;
        };
        for (name, entry) in entries {
            let DeValue::Table(entry) = entry.get_ref() else { continue };
            let place = format!("{group}.{}.", name.get_ref());
            check_table(path, text, &place, entry, known)?;
            let Some(DeValue::Array(keys)) = entry.get("keys").map(|value| value.get_ref()) else { continue };
            for key in keys {
                if let DeValue::Table(key) = key.get_ref() {
                    check_table(path, text, &format!("{place}keys."), key, KEY)?;
                }
            }
        }
    }
    Ok(())
}

fn check_table(
    path: &Path,
    text: &str,
    place: &str,
    table: &DeTable<'_>,
    known: &[&str],
) -> Result<(), LoadError> {
    for name in table.keys() {
        if known.contains(&name.get_ref().as_ref()) {
            continue;
        }
        let nearest = known
            .iter()
            .map(|known| (strsim::jaro_winkler(name.get_ref(), known), known))
            .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
            .max_by(|left, right| left.0.total_cmp(&right.0));
        let said = match nearest {
            Some((_, known)) => format!("did you mean `{known}`?"),
            None => format!("known here are {}", known.join(", ")),
        };
        let what = format!("`{place}{}` is not a setting; {said}", name.get_ref());
        return Err(at(path, text, name.span().start, &what));
    }
    Ok(())
}
