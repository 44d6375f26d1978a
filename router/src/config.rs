//! Settings: what was said (file, flags), then what it means ([`RouterConfig`]).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use moor_tls::peer::Files;
use moor_wire::limits::TOKEN_BYTES_MIN;
use serde::Deserialize;

use crate::apps::{AppTables, Apps};
use crate::arrival::alarm::ArrivalSettings;
use crate::error::StartError;
use crate::hook::HookSettings;
use crate::limits;
use crate::rooms::{RoomSettings, RoomTypes};

/// When an accepted message is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Before it is answered. Survives power failure.
    #[default]
    Full,
    /// Soon after. Survives kill -9; a power failure may lose the last moments.
    Normal,
    /// When the kernel likes. Survives kill -9; a power failure may damage the file.
    Off,
}

/// How a shard thread waits for the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// io_uring where the kernel has it, else epoll.
    #[default]
    Auto,
    /// epoll in any case.
    Epoll,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object each, for collectors.
    Json,
}

/// Everything a router needs to know.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Where gateways and services connect; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Directory of the message files.
    pub data: PathBuf,
    /// Where `/metrics` and its like are served; `None`: nowhere (an embedding process has its own).
    pub admin: Option<SocketAddr>,
    /// Shards; `None`: what the directory was made with, 1 for a new one.
    pub shards: Option<u32>,
    /// When an accepted message is on disk.
    pub fsync: Fsync,
    /// Newest messages kept per account. A client id is remembered as long as its message is kept.
    pub retention: u64,
    /// Days a message is kept; 0: whatever its age.
    pub retention_days: u32,
    /// This router's name.
    pub node: String,
    /// What every HELLO must carry; `None`: nothing.
    pub token: Option<String>,
    /// Certificate, key and authorities of the port; none: it speaks clear text. With authorities whoever connects must
    /// show a certificate of theirs, which stands for the token.
    pub tls: Files,
    /// Certificates that may connect, by name; empty: all of the authorities.
    pub tls_names: Vec<String>,
    /// How the shard threads wait.
    pub driver: Driver,
    /// What `moor-router` logs: a level or a filter; `None`: what RUST_LOG says, else info. An embedding process has a log of
    /// its own.
    pub log_level: Option<String>,
    /// How a line of that log looks.
    pub log_format: LogFormat,
    /// From so many members on a group's messages stay in the group's timeline and are not copied into each
    /// member's. May be changed with any restart: what was accepted before is spread as was decided then.
    pub group_read_threshold: u32,
    /// How each app is treated.
    pub apps: Apps,
    /// Rooms.
    pub rooms: RoomSettings,
    /// Who is told of messages that nobody fetches.
    pub telling: Telling,
}

/// The tables about what is told to others, in the router's file or in one of their own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    /// When messages count as not fetched.
    #[serde(default)]
    pub offline: OfflineSettings,
    /// The webhooks.
    #[serde(default)]
    pub hook: Vec<HookSettings>,
    /// Thresholds of apps' arrival rates.
    #[serde(default)]
    pub arrival: Vec<ArrivalSettings>,
}

/// When messages count as not fetched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfflineSettings {
    /// An account is told of once in this time; what comes meanwhile is told together.
    pub interval_ms: u64,
    /// How long a client that went with messages unacknowledged has to come back before that is told.
    pub departure_ms: u64,
    /// How long after its start the router waits for gateways to announce their sessions before it believes that an
    /// account has none.
    pub settle_ms: u64,
}

impl Default for OfflineSettings {
    fn default() -> Self {
        Self { interval_ms: 60_000, departure_ms: 10_000, settle_ms: 30_000 }
    }
}

impl Telling {
    /// Reads a file with these tables alone.
    ///
    /// # Errors
    /// [`StartError::Setting`] with the file and the place.
    pub fn read(path: &Path) -> Result<Self, StartError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| StartError::Setting(format!("cannot read {} ({error})", path.display())))?;
        toml::from_str(&text).map_err(|error| StartError::Setting(format!("{}: {error}", path.display())))
    }

    /// Checks the bounds of every setting.
    ///
    /// # Errors
    /// One sentence about the first one that is outside.
    pub fn check(&self) -> Result<(), String> {
        let OfflineSettings { interval_ms, departure_ms, settle_ms } = self.offline;
        for (key, value) in
            [("interval_ms", interval_ms), ("departure_ms", departure_ms), ("settle_ms", settle_ms)]
        {
            if value > limits::OFFLINE_WAIT_MS_MAX {
                return Err(format!("offline.{key} is {value}: choose 0 to {}", limits::OFFLINE_WAIT_MS_MAX));
            }
        }
        if self.hook.len() > limits::HOOKS_MAX {
            return Err(format!(
                "there are {} hooks: at most {} are allowed",
                self.hook.len(),
                limits::HOOKS_MAX
            ));
        }
        for (index, hook) in self.hook.iter().enumerate() {
            hook.check()?;
            if self.hook[..index].iter().any(|other| other.name == hook.name) {
                return Err(format!("two hooks have the name \"{}\"", hook.name));
            }
        }
        if self.arrival.len() > limits::ARRIVAL_APPS_MAX {
            return Err(format!(
                "there are {} [[arrival]] tables: at most {} are allowed",
                self.arrival.len(),
                limits::ARRIVAL_APPS_MAX
            ));
        }
        for (index, arrival) in self.arrival.iter().enumerate() {
            arrival.check()?;
            if self.arrival[..index].iter().any(|other| other.app == arrival.app) {
                return Err(format!("two [[arrival]] tables are of the app \"{}\"", arrival.app));
            }
        }
        Ok(())
    }
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7300)),
            data: PathBuf::from("./moor-data"),
            admin: None,
            shards: None,
            fsync: Fsync::Full,
            retention: limits::RETENTION_DEFAULT,
            retention_days: 0,
            node: "router".to_owned(),
            token: None,
            tls: Files::default(),
            tls_names: Vec::new(),
            driver: Driver::Auto,
            log_level: None,
            log_format: LogFormat::Text,
            group_read_threshold: limits::GROUP_READ_THRESHOLD_DEFAULT,
            apps: Apps::default(),
            rooms: RoomSettings::default(),
            telling: Telling::default(),
        }
    }
}

impl RouterConfig {
    /// Checks the bounds of every setting.
    ///
    /// # Errors
    /// [`StartError::Setting`] names the first one that is outside.
    pub fn check(&self) -> Result<(), StartError> {
        let wrong = |text: String| Err(StartError::Setting(text));
        if let Some(shards) = self.shards
            && !(1..=limits::SHARDS_MAX).contains(&shards)
        {
            return wrong(format!("shards is {shards}: choose 1 to {}", limits::SHARDS_MAX));
        }
        if self.retention == 0 {
            return wrong("retention is 0: keep at least 1 message per account".to_owned());
        }
        if self.retention_days > limits::RETENTION_DAYS_MAX {
            return wrong(format!(
                "retention_days is {}: choose 0 to {}",
                self.retention_days,
                limits::RETENTION_DAYS_MAX
            ));
        }
        if self.node.is_empty() || self.node.len() > moor_wire::limits::NODE_BYTES_MAX {
            return wrong(format!("node has {} bytes: choose a name of 1 to 64 bytes", self.node.len()));
        }
        if let Some(token) = &self.token
            && token.len() < TOKEN_BYTES_MIN
        {
            return wrong(format!(
                "token has {} bytes: give it at least {TOKEN_BYTES_MIN}, such as the output of `openssl rand -hex 32`",
                token.len()
            ));
        }
        if self.tls.certificate.is_none() != self.tls.key.is_none() {
            return wrong("tls_certificate and tls_key belong together: set both or none".to_owned());
        }
        if self.tls.certificate.is_none() && !self.tls.authorities.is_empty() {
            return wrong("tls_authorities needs tls_certificate and tls_key".to_owned());
        }
        if self.tls.authorities.is_empty() && !self.tls_names.is_empty() {
            return wrong("tls_names needs tls_authorities, whose certificates have these names".to_owned());
        }
        if !self.listen.ip().is_loopback() && self.token.is_none() && self.tls.authorities.is_empty() {
            return wrong(format!(
                "the router would listen on {}, beyond loopback, and ask nobody who they are: set token in its \
                 configuration file or tls_authorities, or listen on 127.0.0.1:{}",
                self.listen,
                self.listen.port()
            ));
        }
        if let Some(complaint) = self.rooms.complaint() {
            return wrong(complaint);
        }
        self.telling.check().map_err(StartError::Setting)
    }

    /// [`Self::check`], and reads the files that the settings name.
    ///
    /// # Errors
    /// [`StartError::Setting`] names the first thing that is wrong.
    pub fn check_files(&self) -> Result<(), StartError> {
        self.check()?;
        crate::hook::Prepared::load(&self.telling.hook).map(drop)
    }
}

/// What a configuration file may say; every key is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// See [`RouterConfig::listen`].
    pub listen: Option<SocketAddr>,
    /// See [`RouterConfig::data`].
    pub data: Option<PathBuf>,
    /// See [`RouterConfig::admin`].
    pub admin: Option<SocketAddr>,
    /// See [`RouterConfig::shards`].
    pub shards: Option<u32>,
    /// See [`RouterConfig::fsync`].
    pub fsync: Option<Fsync>,
    /// See [`RouterConfig::retention`].
    pub retention: Option<u64>,
    /// See [`RouterConfig::retention_days`].
    pub retention_days: Option<u32>,
    /// See [`RouterConfig::node`].
    pub node: Option<String>,
    /// See [`RouterConfig::token`].
    pub token: Option<String>,
    /// See [`RouterConfig::tls`]: PEM, the router's own certificate first.
    pub tls_certificate: Option<PathBuf>,
    /// See [`RouterConfig::tls`]: PEM, readable by its owner alone.
    pub tls_key: Option<PathBuf>,
    /// See [`RouterConfig::tls`]: PEM files.
    pub tls_authorities: Option<Vec<PathBuf>>,
    /// See [`RouterConfig::tls_names`].
    pub tls_names: Option<Vec<String>>,
    /// See [`RouterConfig::driver`].
    pub driver: Option<Driver>,
    /// See [`RouterConfig::log_level`].
    pub log_level: Option<String>,
    /// See [`RouterConfig::log_format`].
    pub log_format: Option<LogFormat>,
    /// See [`RouterConfig::apps`].
    pub apps: Option<AppTables>,
    /// See [`RouterConfig::group_read_threshold`].
    pub group_read_threshold: Option<u32>,
    /// See [`RoomSettings::types`].
    #[serde(default, deserialize_with = "room_types")]
    pub room_types: Option<RoomTypes>,
    /// See [`RoomSettings::buffer_members`].
    pub room_buffer_members: Option<u32>,
    /// See [`RoomSettings::buffer_ms`].
    pub room_buffer_ms: Option<u32>,
    /// See [`RoomSettings::buffer_messages`].
    pub room_buffer_messages: Option<u32>,
    /// See [`Telling::offline`].
    pub offline: Option<OfflineSettings>,
    /// See [`Telling::hook`].
    pub hook: Option<Vec<HookSettings>>,
    /// See [`Telling::arrival`].
    pub arrival: Option<Vec<ArrivalSettings>>,
}

fn room_types<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<RoomTypes>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

const KEYS: [&str; 25] = [
    "listen",
    "data",
    "admin",
    "shards",
    "fsync",
    "retention",
    "retention_days",
    "node",
    "token",
    "tls_certificate",
    "tls_key",
    "tls_authorities",
    "tls_names",
    "driver",
    "log_level",
    "log_format",
    "apps",
    "group_read_threshold",
    "room_types",
    "room_buffer_members",
    "room_buffer_ms",
    "room_buffer_messages",
    "offline",
    "hook",
    "arrival",
];

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`StartError::Setting`] with the file, the place and, for an unknown key, the nearest known one.
    pub fn read(path: &Path) -> Result<Self, StartError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            StartError::Setting(format!("cannot read the configuration file {} ({error})", path.display()))
        })?;
        let file = Self::parse(&text)
            .map_err(|detail| StartError::Setting(format!("{}: {detail}", path.display())))?;
        if file.token.is_some() {
            moor_credentials::read_secret(path, "the token")
                .map_err(|error| StartError::Setting(error.to_string()))?;
        }
        Ok(file)
    }

    fn parse(text: &str) -> Result<Self, String> {
        // Not the error's own text, which quotes the line: that may be the token's.
        let wrong = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {}: {}", 1 + before.matches('\n').count(), error.message())
        };
        let table: toml::Table = text.parse().map_err(wrong)?;
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                let nearest = KEYS
                    .into_iter()
                    .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)))
                    .unwrap_or_default();
                return Err(format!(
                    "unknown key \"{key}\"; did you mean \"{nearest}\"? Known keys: {}",
                    KEYS.join(", ")
                ));
            }
        }
        // Parsed from the text, not from the table, so that an error shows its line.
        toml::from_str(text).map_err(wrong)
    }

    /// Lays what the file says over `config`.
    ///
    /// # Errors
    /// [`StartError::Setting`] when a table is not one of an app.
    pub fn apply_to(self, config: &mut RouterConfig) -> Result<(), StartError> {
        fn lay<T>(said: Option<T>, over: &mut T) {
            if let Some(value) = said {
                *over = value;
            }
        }
        lay(self.listen, &mut config.listen);
        lay(self.data, &mut config.data);
        lay(self.admin.map(Some), &mut config.admin);
        lay(self.shards.map(Some), &mut config.shards);
        lay(self.fsync, &mut config.fsync);
        lay(self.retention, &mut config.retention);
        lay(self.retention_days, &mut config.retention_days);
        lay(self.node, &mut config.node);
        lay(self.token.map(Some), &mut config.token);
        lay(self.tls_certificate.map(Some), &mut config.tls.certificate);
        lay(self.tls_key.map(Some), &mut config.tls.key);
        lay(self.tls_authorities, &mut config.tls.authorities);
        lay(self.tls_names, &mut config.tls_names);
        lay(self.driver, &mut config.driver);
        lay(self.log_level.map(Some), &mut config.log_level);
        lay(self.log_format, &mut config.log_format);
        lay(self.group_read_threshold, &mut config.group_read_threshold);
        lay(self.room_types, &mut config.rooms.types);
        lay(self.room_buffer_members, &mut config.rooms.buffer_members);
        lay(self.room_buffer_ms, &mut config.rooms.buffer_ms);
        lay(self.room_buffer_messages, &mut config.rooms.buffer_messages);
        lay(self.apps.as_ref().map(Apps::new).transpose()?, &mut config.apps);
        lay(self.offline, &mut config.telling.offline);
        lay(self.hook, &mut config.telling.hook);
        lay(self.arrival, &mut config.telling.arrival);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::apps::DevicePolicy;

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        let error = ConfigFile::parse("retentoin = 5").unwrap_err();
        assert!(error.contains("did you mean \"retention\""), "{error}");
    }

    #[test]
    fn a_token_is_read_from_a_private_file_alone_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.toml");
        let read = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            ConfigFile::read(&path).map(|file| file.token).map_err(|error| error.to_string())
        };
        std::fs::write(&path, "retention = 7\n").unwrap();
        assert_eq!(read(0o644), Ok(None));
        std::fs::write(&path, "token = \"0123456789abcdef\"\n").unwrap();
        assert!(read(0o644).unwrap_err().contains("chmod 600"));
        assert_eq!(read(0o600), Ok(Some("0123456789abcdef".to_owned())));
        // The closing quote is missing.
        std::fs::write(&path, "retention = 7\ntoken = \"0123456789abcdef\n").unwrap();
        let error = read(0o600).unwrap_err();
        assert!(error.contains("line 2") && !error.contains("0123456789"), "{error}");
    }

    #[test]
    fn every_key_is_known_to_both_lists_and_lands() {
        let text = "listen = \"127.0.0.1:1\"\ndata = \"d\"\nadmin = \"127.0.0.1:2\"\nshards = 2\nfsync = \"off\"\n\
                    retention = 7\nretention_days = 30\nnode = \"n\"\ntoken = \"0123456789abcdef\"\ndriver = \"epoll\"\nlog_level = \"debug\"\nlog_format = \"json\"\ngroup_read_threshold = 9\n\
                    tls_certificate = \"c\"\ntls_key = \"k\"\ntls_authorities = [\"a\"]\ntls_names = [\"edge\"]\n\
                    room_types = \"5=normal/7\"\nroom_buffer_members = 3\nroom_buffer_ms = 4\nroom_buffer_messages = 5\n\
                    apps = { shop = { devices = \"latest\" } }\n\
                    offline.interval_ms = 5\n[[hook]]\nname = \"vendor\"\nurl = \"https://vendor.example/\"\nsecret_file = \"s\"\n\
                    [[arrival]]\napp = \"shop\"\npercent_min = 99.5\n";
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table.len(), KEYS.len());
        let mut config = RouterConfig::default();
        ConfigFile::parse(text).unwrap().apply_to(&mut config).unwrap();
        assert_eq!((config.shards, config.fsync, config.retention), (Some(2), Fsync::Off, 7));
        assert_eq!((config.token.as_deref(), config.driver), (Some("0123456789abcdef"), Driver::Epoll));
        assert_eq!((config.log_level.as_deref(), config.log_format), (Some("debug"), LogFormat::Json));
        assert_eq!(config.group_read_threshold, 9);
        assert_eq!(config.retention_days, 30);
        assert_eq!(config.apps.of("shop").devices, DevicePolicy::Latest);
        let files =
            Files { certificate: Some("c".into()), key: Some("k".into()), authorities: vec!["a".into()] };
        assert_eq!((&config.tls, &config.tls_names[..]), (&files, &["edge".to_owned()][..]));
        let rooms = &config.rooms;
        assert_eq!((rooms.buffer_members, rooms.buffer_ms, rooms.buffer_messages), (3, 4, 5));
        assert_eq!(rooms.types.to_string(), "5=normal/7");
        assert_eq!(config.telling.offline, OfflineSettings { interval_ms: 5, ..OfflineSettings::default() });
        assert_eq!(config.telling.hook[0].name, "vendor");
        assert_eq!(config.telling.arrival[0].per_100k(), 99_500);
        config.check().unwrap();
        let error = config.check_files().unwrap_err().to_string();
        assert!(error.contains("the hook \"vendor\": secret_file s: cannot be read"), "{error}");
        config.telling.hook.push(config.telling.hook[0].clone());
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("two hooks have the name \"vendor\""), "{error}");
        config.telling.hook.clear();
        config.shards = Some(0);
        assert!(config.check().is_err());
    }
    #[test]
    fn beyond_loopback_somebody_must_ask_who_comes() {
        let complaint = |change: fn(&mut RouterConfig)| {
            let mut config =
                RouterConfig { listen: "10.0.0.7:7300".parse().unwrap(), ..RouterConfig::default() };
            change(&mut config);
            config.check().err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(complaint(|_| {}).contains("10.0.0.7:7300, beyond loopback"));
        assert_eq!(complaint(|config| config.token = Some("0123456789abcdef".into())), "");
        assert!(
            complaint(|config| config.token = Some("0123456789abcde".into())).contains("token has 15 bytes")
        );
        fn pair(config: &mut RouterConfig) {
            config.tls.certificate = Some("c".into());
            config.tls.key = Some("k".into());
        }
        assert!(complaint(pair).contains("beyond loopback"), "who it is itself is not enough");
        let mutual = |config: &mut RouterConfig| {
            pair(config);
            config.tls.authorities = vec!["a".into()];
        };
        assert_eq!(complaint(mutual), "");
        assert!(complaint(|config| config.tls.key = Some("k".into())).contains("belong together"));
        assert!(
            complaint(|config| config.tls.authorities = vec!["a".into()]).contains("needs tls_certificate")
        );
        assert!(complaint(|config| config.tls_names = vec!["a".into()]).contains("needs tls_authorities"));
    }
}
