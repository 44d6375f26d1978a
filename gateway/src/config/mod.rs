//! The gateway's configuration: defaults, then the file, then the environment's token, then flags.
//!
//! Owns [`Config`], plain data that the rest of the program reads. Every setting stands once, in the table of
//! `keys`: the file's parser, the flags, `--help`, `--print-config` and the table in docs/operating.md are
//! made from it. Nothing here opens a socket or starts a thread.

mod file;
mod flags;
mod keys;
mod print;
mod resources;
mod validate;
mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use moor_ring::FeatureMask;
use moor_tls::peer::Files;
use moor_websocket::upgrade::{Origins, Policy};

pub use crate::worker::door::Limits;
use crate::worker::door::Networks;

pub use flags::{Request, request};
pub use keys::{KEYS, Key};
pub use print::{keys_markdown, summary, to_toml};
pub use resources::{descriptors_raise, workers_auto};
pub use validate::{check_clients, validate, warnings};
pub use value::{
    Announce, Auto, Fsync, LogFormat, Names, Paths, RouterChoice, Secret, Setting, Shape, TlsRecords,
};

/// Why the configuration cannot be used. Displays as one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}. Give --config the path of a readable file.", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file, a flag or a value is wrong.
    #[error("{0}")]
    Wrong(String),
    /// The command line is wrong, or asked for help: clap prints this itself.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
}

/// Every setting of the gateway. What each means is said once, in the table of keys (`--help`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented in KEYS, from which the manual is made")]
pub struct Config {
    pub node: Option<String>,
    pub listen: SocketAddr,
    pub internal: SocketAddr,
    pub internal_advertise: Option<String>,
    pub internal_token: Option<Secret>,
    pub internal_token_file: Option<PathBuf>,
    pub admin: SocketAddr,
    pub router: RouterChoice,
    pub router_listen: SocketAddr,
    pub data: PathBuf,
    pub announce: Announce,
    pub workers: Auto,
    pub pin: bool,
    pub connections_per_worker_max: Auto,
    pub channels_per_connection_max: u32,
    pub first_byte_timeout_ms: u64,
    pub plain: bool,
    pub frame_bytes_max: u32,
    pub send_queue_bytes_max: u32,
    pub recv_buffers: u32,
    pub recv_buffer_bytes: u32,
    pub accept_backlog: u32,
    pub disable_features: FeatureMask,
    pub credentials: Credentials,
    pub tls: Tls,
    pub internal_tls: InternalTls,
    pub router_tls: RouterTls,
    pub websocket: WebSocket,
    pub heartbeat: Heartbeat,
    pub hot: Hot,
    pub register: Register,
    pub rooms: Rooms,
    pub limits: Limits,
    pub memory: Memory,
    pub proxy: Proxy,
    pub drain: Drain,
    pub embedded: Embedded,
    pub log: Log,
}

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Credentials {
    pub file: Option<PathBuf>,
    pub anonymous: bool,
}

/// Clients over TLS, on the same port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Tls {
    pub certificates: Paths,
    pub keys: Paths,
    pub tickets: Option<PathBuf>,
    pub records: TlsRecords,
    pub tls12: bool,
    pub required: bool,
}

impl Tls {
    /// Whether TLS is spoken at all.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        !self.certificates.0.is_empty()
    }
}

/// Services over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct InternalTls {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub authorities: Paths,
}

impl InternalTls {
    /// The files; none: clear text.
    #[must_use]
    pub fn files(&self) -> Files {
        Files {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            authorities: self.authorities.0.clone(),
        }
    }
}

/// TLS with the router, whichever side it is on: inside, it is the router's as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct RouterTls {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub authorities: Paths,
    pub name: Option<String>,
    pub names: Names,
}

impl RouterTls {
    /// The files; none: clear text.
    #[must_use]
    pub fn files(&self) -> Files {
        Files {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            authorities: self.authorities.0.clone(),
        }
    }
}

/// Clients over WebSocket, on the same port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct WebSocket {
    pub enabled: bool,
    pub path: String,
    pub origins: Origins,
}

impl WebSocket {
    /// Which upgrades are accepted; `None`: none.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.enabled.then(|| Policy { path: self.path.clone(), origins: self.origins.clone() })
    }
}

/// How often a client must be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Heartbeat {
    pub interval_ms: u64,
    pub min_ms: u64,
}

/// When a connection changes between one-shot poll and multishot receive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Hot {
    pub events: u32,
    pub window_ms: u64,
    pub idle_ms: u64,
}

/// Pace of announcing sessions to a router that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Register {
    pub batch: u32,
    pub per_s: u32,
}

/// Rooms, here and at the embedded router.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Rooms {
    pub per_channel_max: u32,
    pub per_worker_max: u32,
    pub per_app_max: u32,
    pub down_ms: u64,
    pub down_bytes: u32,
    pub types: moor_router::RoomTypes,
    pub buffer_members: u32,
    pub buffer_ms: u64,
    pub buffer_messages: u32,
}

/// When memory counts as short.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Memory {
    pub limit_mb: Auto,
    pub refuse_percent: u32,
    pub shed_percent: u32,
}

/// Load balancers before the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Proxy {
    pub sources: Networks,
}

/// What SIGTERM does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Drain {
    pub deadline_ms: u64,
    pub retry_min_ms: u64,
    pub retry_max_ms: Auto,
}

/// The router inside this process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Embedded {
    pub shards: Auto,
    pub fsync: Fsync,
    pub retention_messages_per_account: u64,
    pub group_read_threshold: u64,
    pub retention_days: u32,
    pub apps: Option<PathBuf>,
    pub hooks: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see KEYS")]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            listen: loopback(7100),
            internal: loopback(7200),
            internal_advertise: None,
            internal_token: None,
            internal_token_file: None,
            admin: loopback(7400),
            router: RouterChoice::Embedded,
            router_listen: loopback(7300),
            data: PathBuf::from("./moor-data"),
            announce: Announce::Banner,
            workers: Auto::Auto,
            pin: true,
            connections_per_worker_max: Auto::Auto,
            channels_per_connection_max: 64,
            first_byte_timeout_ms: 10_000,
            plain: true,
            frame_bytes_max: moor_wire::limits::CLIENT_BODY_BYTES_MAX,
            send_queue_bytes_max: 256 * 1024,
            recv_buffers: 1024,
            recv_buffer_bytes: 2048,
            accept_backlog: 65_535,
            disable_features: FeatureMask::NONE,
            credentials: Credentials::default(),
            tls: Tls { tls12: true, ..Tls::default() },
            internal_tls: InternalTls::default(),
            router_tls: RouterTls::default(),
            websocket: WebSocket { enabled: true, path: "/".to_owned(), origins: Origins::None },
            heartbeat: Heartbeat { interval_ms: 270_000, min_ms: 10_000 },
            hot: Hot { events: 8, window_ms: 2000, idle_ms: 30_000 },
            register: Register { batch: 512, per_s: 20_000 },
            rooms: Rooms {
                per_channel_max: 16,
                per_worker_max: 65_536,
                per_app_max: 0,
                down_ms: 250,
                down_bytes: 8192,
                types: moor_router::RoomTypes::default(),
                buffer_members: 500,
                buffer_ms: 200,
                buffer_messages: 256,
            },
            limits: Limits {
                accepts_per_s: 50_000,
                handshakes_per_s: 5000,
                logins_per_s: 50_000,
                slow_start_ms: 5000,
                connections_per_address: 10_000,
                accepts_per_address_per_s: 1000,
                exempt: [
                    IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
                    IpNet::from(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
                ]
                .into_iter()
                .collect(),
                sessions_per_app: 0,
                logins_per_app_per_s: 0,
                frames_per_connection_per_s: 5000,
                messages_per_channel_per_s: 1000,
            },
            memory: Memory { limit_mb: Auto::Auto, refuse_percent: 90, shed_percent: 95 },
            proxy: Proxy::default(),
            drain: Drain { deadline_ms: 10_000, retry_min_ms: 500, retry_max_ms: Auto::Auto },
            embedded: Embedded {
                shards: Auto::Auto,
                fsync: Fsync::Full,
                retention_messages_per_account: 10_000,
                group_read_threshold: 100,
                retention_days: 0,
                apps: None,
                hooks: None,
            },
            log: Log { level: "info".to_owned(), format: LogFormat::Text },
        }
    }
}

impl Config {
    /// The gateway's name. Made of host name and client port where none is set, so that two gateways on one
    /// host do not take each other's sessions; with port 0 the process id takes the port's place.
    #[must_use]
    pub fn node(&self) -> String {
        if let Some(node) = &self.node {
            return node.clone();
        }
        let number = match self.listen.port() {
            0 => std::process::id(),
            port => u32::from(port),
        };
        let host = resources::host_name().unwrap_or_else(|| "gateway".to_owned());
        format!("{host}-{number}")
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.workers.or_else(workers_auto)
    }

    /// Most connections one worker may hold when a descriptor table has room for `descriptors` (the limit
    /// that [`descriptors_raise`] returned).
    #[must_use]
    pub fn connections_per_worker(&self, descriptors: u64) -> u32 {
        self.connections_per_worker_max.or_else(|| resources::connections_auto(descriptors))
    }

    /// Number of store shards of the embedded router; `None`: what the data directory was made with.
    #[must_use]
    pub fn shards(&self) -> Option<u32> {
        self.embedded.shards.set()
    }

    /// Where backend services reach the internal port bound at `bound`; routers tell it to services.
    #[must_use]
    pub fn internal_address(&self, bound: SocketAddr) -> String {
        self.internal_advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    /// The token of the internal and router ports, empty when none is set.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        self.internal_token.as_ref().map_or(&[], Secret::expose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_embedded_or_a_host_and_port() {
        for right in ["embedded", "router-1:7300", "[::1]:7300"] {
            assert_eq!(RouterChoice::parse(right).unwrap().to_string(), right);
        }
        for wrong in ["router-1", ":7300", "router-1:0", "router-1:70000", "::1:7300", "Embedded"] {
            assert!(RouterChoice::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spaces_between_the_items_of_a_list_mean_nothing() {
        let origins = Origins::parse("https://a.example, https://b.example").unwrap();
        assert_eq!(origins, Origins::Listed(vec!["https://a.example".into(), "https://b.example".into()]));
        assert_eq!(Paths::parse("a.pem, b.pem").unwrap(), Paths(vec!["a.pem".into(), "b.pem".into()]));
    }

    #[test]
    fn names_of_gateways_on_one_host_differ() {
        let named = |port: u16| Config { listen: loopback(port), ..Config::default() }.node();
        assert!(named(7100).ends_with("-7100"));
        assert_ne!(named(7100), named(7101));
        assert!(named(0).ends_with(&format!("-{}", std::process::id())));
        assert_eq!(Config { node: Some("edge".to_owned()), ..Config::default() }.node(), "edge");
    }
}
