//! The configuration file: TOML, strict, with errors that name file, line, key and the nearest known name.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS};
use super::value::Shape;
use super::{Config, ConfigError};

/// Below this likeness (Jaro-Winkler, 0 to 1) a known name is no help.
const LIKENESS_MIN: f64 = 0.75;

/// Where in which file something stands.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn error(&self, offset: usize, what: impl std::fmt::Display) -> ConfigError {
        let line = 1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        ConfigError::Wrong(format!("{}:{line}: {what}", self.path.display()))
    }
}

/// Applies the file at `path` to `config`.
///
/// # Errors
/// The file cannot be read, is no TOML, or has an unknown key or a value of the wrong kind.
pub(super) fn apply(config: &mut Config, path: &Path) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let token = config.internal_token.clone();
    apply_text(config, path, &text)?;
    if config.internal_token != token {
        moor_credentials::read_secret(path, "the internal token")
            .map_err(|error| ConfigError::Wrong(error.to_string()))?;
    }
    Ok(())
}

/// Applies `text`, which errors call `path`.
pub(super) fn apply_text(config: &mut Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let place = Place { path, text };
    let table = DeTable::parse(text)
        .map_err(|error| place.error(error.span().map_or(0, |span| span.start), error.message()))?;
    apply_table(config, &place, "", table.get_ref())
}

fn apply_table(
    config: &mut Config,
    place: &Place<'_>,
    prefix: &str,
    table: &DeTable<'_>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let path = format!("{prefix}{}", name.get_ref());
        if let Some(key) = keys::find(&path) {
            let text = to_text(key.shape, value).ok_or_else(|| {
                let kind = value.get_ref().type_str();
                place.error(
                    value.span().start,
                    format!("`{path}` must be {}, and is of type {kind}", key.shape.described()),
                )
            })?;
            (key.set)(config, &text)
                .map_err(|what| place.error(value.span().start, format!("`{path}`: {what}")))?;
        } else if let (DeValue::Table(inner), true) = (value.get_ref(), prefix.is_empty() && is_table(&path))
        {
            apply_table(config, place, &format!("{path}."), inner)?;
        } else {
            return Err(place.error(name.span().start, unknown(&path)));
        }
    }
    Ok(())
}

fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(table, _)| table == name))
}

/// The sentence for a key that does not exist.
fn unknown(path: &str) -> String {
    match nearest(path) {
        Some(known) => format!("`{path}` is not a setting; did you mean `{known}`?"),
        None => format!("`{path}` is not a setting; `moor-gateway --help` lists them all"),
    }
}

/// The known key most like `path`. Its last part alone is compared too: a key in the wrong table, or a table
/// forgotten, is the commonest mistake.
fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::jaro_winkler(path, known);
        // An equal last part beats a merely similar path, never an equal one.
        let part = strsim::jaro_winkler(&last(path), &last(known)) - 0.01;
        whole.max(part)
    };
    KEYS.iter()
        .map(|key| (likeness(key.path), key.path))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, path)| path)
}

/// The value as the text a flag would have, or `None` when it is of another kind.
fn to_text(shape: Shape, value: &Spanned<DeValue<'_>>) -> Option<String> {
    match (shape, value.get_ref()) {
        (Shape::Text, DeValue::String(text)) => Some(text.to_string()),
        (Shape::NumberOrAuto, DeValue::String(text)) if text == "auto" => Some(text.to_string()),
        (Shape::Number | Shape::NumberOrAuto, DeValue::Integer(number)) => {
            // A number too large or negative keeps its spelling and is refused with its bounds.
            let plain = u64::from_str_radix(number.as_str(), number.radix());
            Some(plain.map_or_else(|_| number.to_string(), |plain| plain.to_string()))
        }
        (Shape::Switch, DeValue::Boolean(switch)) => Some(switch.to_string()),
        (Shape::List, DeValue::Array(items)) => {
            let words: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            words.map(|words| words.join(","))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Auto;

    fn read(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        apply_text(&mut config, Path::new("moor.toml"), text).map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_file_with_a_token_is_its_owner_s_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.toml");
        let read = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            apply(&mut Config::default(), &path).map_err(|error| error.to_string())
        };
        assert_eq!(read("node = \"edge\"\n", 0o644), Ok(()));
        let token = "internal_token = \"0123456789abcdef\"\n";
        assert!(read(token, 0o640).unwrap_err().contains("chmod 600"));
        assert_eq!(read(token, 0o600), Ok(()));
    }

    #[test]
    fn a_file_sets_plain_keys_and_tables() {
        let config = read(
            "listen = \"0.0.0.0:9100\"\nworkers = 1_2\npin = false\ndisable_features = [\"message-ring\"]\n\
             router = \"router-1:7300\"\n[heartbeat]\ninterval_ms = 0x8000\n[embedded]\nfsync = \"normal\"\n",
        )
        .unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:9100");
        assert_eq!(config.workers, Auto::Set(12));
        assert!(!config.pin);
        assert!(config.disable_features.contains(moor_ring::Feature::MessageRing));
        assert_eq!(config.router.to_string(), "router-1:7300");
        assert_eq!(config.heartbeat.interval_ms, 32_768);
        assert_eq!(config.embedded.fsync.word(), "normal");
    }

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest_name() {
        let error = read("# first\n\n[heartbeat]\nintervall_ms = 5\n").unwrap_err();
        assert_eq!(
            error,
            "moor.toml:4: `heartbeat.intervall_ms` is not a setting; did you mean `heartbeat.interval_ms`?"
        );
        // The table forgotten, and the wrong table.
        assert!(read("interval_ms = 1").unwrap_err().ends_with("did you mean `heartbeat.interval_ms`?"));
        assert!(read("[drain]\nlevel = \"x\"").unwrap_err().ends_with("did you mean `log.level`?"));
        assert!(read("[drian]\ndeadline_ms = 1").unwrap_err().contains("`drian` is not a setting"));
        assert!(read("zzz = 1").unwrap_err().ends_with("`moor-gateway --help` lists them all"));
    }

    #[test]
    fn a_wrong_kind_or_value_names_its_line() {
        assert_eq!(
            read("\nworkers = \"two\"").unwrap_err(),
            "moor.toml:2: `workers` must be a whole number without quotes, or \"auto\", and is of type string"
        );
        assert!(read("listen = 7100").unwrap_err().contains("must be a string in quotes"));
        assert!(read("listen = \"localhost\"").unwrap_err().contains("is not an address and a port"));
        assert!(read("recv_buffers = -1").unwrap_err().contains("is not a whole number between 0"));
        assert!(read("recv_buffers = 99999999999999999999").unwrap_err().contains("between 0"));
        assert!(read("disable_features = [\"warp\"]").unwrap_err().contains("known are defer-taskrun"));
        assert!(read("embedded = 3").unwrap_err().contains("`embedded` is not a setting"));
        assert!(read("a = \n").unwrap_err().starts_with("moor.toml:1: "));
        assert!(read("workers = 1\nworkers = 2").unwrap_err().starts_with("moor.toml:2: "));
    }

    #[test]
    fn a_missing_file_says_so() {
        let error = apply(&mut Config::default(), Path::new("/nowhere/moor.toml")).unwrap_err();
        assert!(error.to_string().contains("cannot read the configuration file /nowhere/moor.toml"));
    }
}
