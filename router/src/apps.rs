//! How each app is treated: the tables `[apps.NAME]` of the configuration file.
//!
//! What an app's table does not say, and every app without a table, follows `[apps."*"]`, key by key.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use moor_wire::limits::LEVEL_MAX;
use serde::Deserialize;

use crate::error::StartError;
use crate::limits::{APP_TABLES_MAX, APP_WEIGHT_MAX};

/// The table that all others follow.
const EVERY_APP: &str = "*";

/// Which devices of an account may be logged in beside each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DevicePolicy {
    /// All of them.
    #[default]
    All,
    /// The one that logged in last.
    Latest,
    /// Of each kind the one that logged in last.
    OnePerKind,
}

/// One table as it is said; every key is optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppTable {
    /// See [`AppRules::devices`].
    pub devices: Option<DevicePolicy>,
    /// See [`AppRules::device_acks`].
    pub device_acks: Option<bool>,
    /// See [`AppRules::messages_per_s`].
    pub messages_per_s: Option<u64>,
    /// See [`AppRules::bytes_per_s`].
    pub bytes_per_s: Option<u64>,
    /// See [`AppRules::storage_bytes`].
    pub storage_bytes: Option<u64>,
    /// See [`AppRules::weight`].
    pub weight: Option<u32>,
    /// See [`AppRules::level`].
    pub level: Option<u32>,
}

/// Tables by the app's name.
pub type AppTables = BTreeMap<String, AppTable>;

/// What holds for one app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppRules {
    /// Which devices of an account may be logged in beside each other.
    pub devices: DevicePolicy,
    /// Whether an account's devices are told what the others have acknowledged.
    pub device_acks: bool,
    /// Messages the app's clients and services may offer a second; 0: no limit.
    pub messages_per_s: u64,
    /// Payload bytes of those; 0: no limit.
    pub bytes_per_s: u64,
    /// Bytes that its stored messages may take; 0: no limit.
    pub storage_bytes: u64,
    /// Its part of the disk, beside the other apps' weights, while messages wait; at least 1.
    pub weight: u32,
    /// Business level of messages that name none.
    pub level: u32,
}

impl Default for AppRules {
    fn default() -> Self {
        Self {
            devices: DevicePolicy::All,
            device_acks: false,
            messages_per_s: 0,
            bytes_per_s: 0,
            storage_bytes: 0,
            weight: 1,
            level: 1,
        }
    }
}

impl AppRules {
    /// The part of one shard of so many: quotas hold for all of them, and accounts are spread evenly. What is stored the
    /// shards add up.
    const fn per_shard(self, shards: u32) -> Self {
        Self {
            messages_per_s: self.messages_per_s.div_ceil(shards as u64),
            bytes_per_s: self.bytes_per_s.div_ceil(shards as u64),
            ..self
        }
    }
}

impl AppTable {
    /// Lays what it says over what holds without it.
    fn over(&self, below: AppRules) -> AppRules {
        AppRules {
            devices: self.devices.unwrap_or(below.devices),
            device_acks: self.device_acks.unwrap_or(below.device_acks),
            messages_per_s: self.messages_per_s.unwrap_or(below.messages_per_s),
            bytes_per_s: self.bytes_per_s.unwrap_or(below.bytes_per_s),
            storage_bytes: self.storage_bytes.unwrap_or(below.storage_bytes),
            weight: self.weight.unwrap_or(below.weight),
            level: self.level.unwrap_or(below.level),
        }
    }
}

/// What holds for every app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apps {
    others: AppRules,
    named: HashMap<Box<str>, AppRules>,
}

impl Apps {
    /// What the tables mean.
    ///
    /// # Errors
    /// [`StartError::Setting`] when a name is none of an app, or there are too many.
    pub fn new(tables: &AppTables) -> Result<Self, StartError> {
        let others =
            tables.get(EVERY_APP).map_or_else(AppRules::default, |table| table.over(AppRules::default()));
        if tables.len() > APP_TABLES_MAX {
            let said = tables.len();
            return Err(StartError::Setting(format!("{said} tables of apps: keep at most {APP_TABLES_MAX}")));
        }
        if let Some((name, weight)) = tables
            .iter()
            .filter_map(|(name, table)| Some((name, table.weight?)))
            .find(|(_, weight)| !(1..=APP_WEIGHT_MAX).contains(weight))
        {
            let text = format!("[apps.{name:?}]: weight is {weight}: choose 1 to {APP_WEIGHT_MAX}");
            return Err(StartError::Setting(text));
        }
        if let Some((name, level)) = tables
            .iter()
            .filter_map(|(name, table)| Some((name, table.level?)))
            .find(|(_, level)| *level > LEVEL_MAX)
        {
            let text = format!("[apps.{name:?}]: level is {level}: choose 0 to {LEVEL_MAX}");
            return Err(StartError::Setting(text));
        }
        let mut named = HashMap::new();
        for (name, table) in tables.iter().filter(|(name, _)| *name != EVERY_APP) {
            moor_wire::identity::check_app(name).map_err(|error| {
                StartError::Setting(format!("[apps.{name:?}]: {error}: name an app or \"*\""))
            })?;
            named.insert(name.as_str().into(), table.over(others));
        }
        Ok(Self { others, named })
    }

    /// Reads a file that holds nothing but such tables.
    ///
    /// # Errors
    /// [`StartError::Setting`] with the file and the place.
    pub fn read(path: &Path) -> Result<Self, StartError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            apps: AppTables,
        }
        let wrong = |detail: String| StartError::Setting(format!("{}: {detail}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Self::new(&file.apps)
    }

    /// What holds for an app.
    pub fn of(&self, app: &str) -> AppRules {
        self.named.get(app).copied().unwrap_or(self.others)
    }

    /// What holds in one shard of so many.
    #[must_use]
    pub fn per_shard(mut self, shards: u32) -> Self {
        self.others = self.others.per_shard(shards);
        for rules in self.named.values_mut() {
            *rules = rules.per_shard(shards);
        }
        self
    }

    fn any(&self, holds: impl Fn(&AppRules) -> bool) -> bool {
        holds(&self.others) || self.named.values().any(holds)
    }

    /// True when some app's devices are told of each other's acknowledgements.
    pub fn have_device_acks(&self) -> bool {
        self.any(|rules| rules.device_acks)
    }

    /// True when some app's storage is limited.
    pub fn have_storage_limits(&self) -> bool {
        self.any(|rules| rules.storage_bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Apps, String> {
        let tables: BTreeMap<String, AppTables> = toml::from_str(text).map_err(|error| error.to_string())?;
        Apps::new(&tables["apps"]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_an_app_does_not_say_follows_the_star_key_by_key() {
        let apps = parse(
            "[apps.\"*\"]\ndevices = \"one-per-kind\"\ndevice_acks = true\n[apps.shop]\ndevice_acks = false\n\
             [apps.bank]\ndevices = \"latest\"\n",
        )
        .unwrap();
        let rules = |devices, device_acks| AppRules { devices, device_acks, ..AppRules::default() };
        assert_eq!(apps.of("shop"), rules(DevicePolicy::OnePerKind, false));
        assert_eq!(apps.of("bank"), rules(DevicePolicy::Latest, true));
        assert_eq!(apps.of("other"), rules(DevicePolicy::OnePerKind, true));
        assert_eq!(Apps::default().of("shop"), rules(DevicePolicy::All, false));
    }

    #[test]
    fn quotas_are_shared_out_over_shards() {
        let apps =
            parse("[apps.shop]\nmessages_per_s = 10\nbytes_per_s = 1000\nstorage_bytes = 9\nweight = 5\n")
                .unwrap();
        assert!(apps.have_storage_limits() && !Apps::default().have_storage_limits());
        let part = apps.per_shard(4);
        let rules = part.of("shop");
        assert_eq!(
            (rules.messages_per_s, rules.bytes_per_s, rules.storage_bytes, rules.weight),
            (3, 250, 9, 5)
        );
        assert_eq!(part.of("other"), AppRules::default());
    }

    #[test]
    fn wrong_names_values_and_keys_say_so() {
        assert!(parse("[apps.\"\"]\ndevices = \"all\"\n").unwrap_err().contains("name an app"));
        assert!(parse("[apps.shop]\ndevices = \"two\"\n").unwrap_err().contains("one-per-kind"));
        assert!(parse("[apps.shop]\ndevice = \"all\"\n").unwrap_err().contains("device_acks"));
        assert!(parse("[apps.shop]\nweight = 0\n").unwrap_err().contains("choose 1 to"));
        assert!(parse("[apps.shop]\nlevel = 3\n").unwrap_err().contains("choose 0 to 2"));
    }
}
