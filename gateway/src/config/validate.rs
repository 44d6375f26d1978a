//! Whether settings can stand and go together. Each complaint is a sentence that says what to change.

use std::net::SocketAddr;

use moor_wire::limits::{
    CLIENT_BODY_BYTES_MAX, CONTROL_BODY_BYTES_MAX, NODE_BYTES_MAX, REGISTER_BATCH_MAX, TOKEN_BYTES_MIN,
};
use moor_wire::session::WORKERS_MAX;

use super::value::{Auto, RouterChoice, is_host_and_port};
use super::{Config, ConfigError, Credentials, resources};
use crate::limits::{CHANNELS_PER_CONNECTION_MAX, ROOM_RUN_BYTES_MAX};

/// A delivery wraps the largest payload in a body and the body in a frame.
const WRAPPING_BYTES: u32 = 2 * CONTROL_BODY_BYTES_MAX;

/// Checks every bound and every relation.
///
/// # Errors
/// All complaints at once, one a line.
pub fn validate(config: &Config) -> Result<(), ConfigError> {
    let mut complaints = Complaints(Vec::new());
    complaints.names_and_addresses(config);
    complaints.workers(config);
    complaints.sizes(config);
    complaints.times(config);
    if complaints.0.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(complaints.0.join("\n"))) }
}

/// What is allowed and probably not meant.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.admin.ip().is_loopback() {
        warnings.push(format!(
            "admin listens on {}: it has no authentication, keep that network closed",
            config.admin
        ));
    }
    if config.recv_buffer_bytes.is_power_of_two() && config.recv_buffer_bytes > 16 * 1024 {
        let bytes = u64::from(config.recv_buffers) * u64::from(config.recv_buffer_bytes);
        warnings.push(format!("receive buffers take {bytes} bytes per worker; 2048-byte buffers are enough"));
    }
    if config.credentials.anonymous {
        warnings
            .push("credentials.anonymous is on: whoever reaches the clients' port can be anybody".to_owned());
    }
    if config.embedded.fsync.word() == "off" && config.router == RouterChoice::Embedded {
        warnings.push("fsync is off: a power failure loses accepted messages".to_owned());
    }
    for feature in moor_ring::Feature::ALL {
        if config.disable_features.contains(feature) {
            warnings.push(format!("the kernel feature {feature} is disabled: {}", feature.without()));
        }
    }
    warnings
}

/// Whether clients can be served at this address.
///
/// # Errors
/// Nobody would ask them who they are.
pub fn check_clients(address: SocketAddr, credentials: &Credentials) -> Result<(), String> {
    if address.ip().is_loopback() || credentials.file.is_some() || credentials.anonymous {
        return Ok(());
    }
    Err(format!(
        "clients would be served on {address}, beyond loopback, and nobody asks them who they are: set \
         credentials.file (docs/credentials.md), or credentials.anonymous = true where anybody may be anybody"
    ))
}

struct Complaints(Vec<String>);

impl Complaints {
    fn unless(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if !holds {
            self.0.push(sentence());
        }
    }

    fn between(&mut self, path: &str, value: impl Into<u64>, min: u64, max: u64) {
        let value = value.into();
        self.unless((min..=max).contains(&value), || {
            format!("`{path}` is {value}; it must be between {min} and {max}")
        });
    }

    fn names_and_addresses(&mut self, config: &Config) {
        let node = config.node();
        let printable = !node.is_empty() && !node.chars().any(|c| c.is_control() || c.is_whitespace());
        self.unless(printable && node.len() <= NODE_BYTES_MAX, || {
            format!("`node` is {node:?}; it must be 1 to {NODE_BYTES_MAX} bytes without spaces")
        });
        let token = config.internal_token.is_some();
        self.unless(!token || config.token().len() >= TOKEN_BYTES_MIN, || {
            format!(
                "the internal token has {} bytes; give it at least {TOKEN_BYTES_MIN}, such as the output of \
                 `openssl rand -hex 32`",
                config.token().len()
            )
        });
        let embedded = config.router == RouterChoice::Embedded;
        let mut ports = vec![("internal", config.internal)];
        let mut asked = vec![("internal_tls", &config.internal_tls.authorities)];
        if embedded {
            ports.push(("router_listen", config.router_listen));
            asked.push(("router_tls", &config.router_tls.authorities));
        }
        for ((path, address), (table, authorities)) in ports.iter().zip(asked) {
            self.unless(token || !authorities.0.is_empty() || address.ip().is_loopback(), || {
                format!(
                    "`{path}` would listen on {address}, beyond loopback, without a token and without asking for \
                     certificates: set internal_token_file or {table}.authorities, or listen on 127.0.0.1:{}",
                    address.port()
                )
            });
        }
        self.peers(config);
        self.0.extend(check_clients(config.listen, &config.credentials).err());
        self.unless(!config.internal.ip().is_unspecified() || config.internal_advertise.is_some(), || {
            format!(
                "`internal` listens on {}, which is no address others can connect to: set \
                 internal_advertise to this host's name or address and port",
                config.internal
            )
        });
        let advertised = config.internal_advertise.as_deref();
        self.unless(advertised.is_none_or(is_host_and_port), || {
            format!(
                "`internal_advertise` is {:?}; it must be a host and a port such as edge-7:7200",
                advertised.unwrap_or_default()
            )
        });
        ports.extend([("listen", config.listen), ("admin", config.admin)]);
        for (index, (path, address)) in ports.iter().enumerate() {
            for (other_path, other) in &ports[..index] {
                self.unless(!same_port(*address, *other), || {
                    format!("`{path}` ({address}) and `{other_path}` ({other}) are the same port")
                });
            }
        }
    }

    /// TLS with services and the router.
    fn peers(&mut self, config: &Config) {
        let (internal, router) = (config.internal_tls.files(), config.router_tls.files());
        for (table, files) in [("internal_tls", &internal), ("router_tls", &router)] {
            self.unless(files.certificate.is_none() == files.key.is_none(), || {
                format!("`{table}.certificate` and `{table}.key` belong together: set both or none")
            });
        }
        self.unless(internal.authorities.is_empty() || internal.certificate.is_some(), || {
            "`internal_tls.authorities` is set and there is no certificate to show: set internal_tls.certificate and \
             internal_tls.key"
                .to_owned()
        });
        let (name, names) = (&config.router_tls.name, &config.router_tls.names.0);
        let is_meant = !router.is_empty() || name.is_some() || !names.is_empty();
        self.unless(!is_meant || !router.authorities.is_empty(), || {
            "`router_tls` says nothing about whom to trust: set router_tls.authorities".to_owned()
        });
        let is_embedded = config.router == RouterChoice::Embedded;
        self.unless(!is_embedded || router.authorities.is_empty() || router.certificate.is_some(), || {
            "`router_tls.authorities` is set and the embedded router has no certificate to show: set \
             router_tls.certificate and router_tls.key"
                .to_owned()
        });
        self.unless(is_embedded || names.is_empty(), || {
            "`router_tls.names` is for an embedded router: set tls_names in the file of moor-router"
                .to_owned()
        });
    }

    fn workers(&mut self, config: &Config) {
        if let Auto::Set(workers) = config.workers {
            self.between("workers", workers, 1, u64::from(WORKERS_MAX));
        }
        if let Auto::Set(connections) = config.connections_per_worker_max {
            let max = u64::from(resources::connections_max());
            self.between("connections_per_worker_max", connections, 1, max);
        }
        if let Auto::Set(shards) = config.embedded.shards {
            self.between("embedded.shards", shards, 1, 256);
        }
        let channels_max = u64::from(CHANNELS_PER_CONNECTION_MAX);
        self.between("channels_per_connection_max", config.channels_per_connection_max, 1, channels_max);
        self.between("accept_backlog", config.accept_backlog, 1, 1 << 30);
        self.between("register.batch", config.register.batch, 1, REGISTER_BATCH_MAX as u64);
        self.between("register.per_s", config.register.per_s, 100, 10_000_000);
        let rooms = &config.rooms;
        self.between("rooms.per_channel_max", rooms.per_channel_max, 1, 1024);
        self.between("rooms.per_worker_max", rooms.per_worker_max, 1, 1_000_000);
        self.between("rooms.per_app_max", rooms.per_app_max, 0, 1_000_000);
        self.between("rooms.down_ms", rooms.down_ms, 0, 10_000);
        self.between("rooms.down_bytes", rooms.down_bytes, 0, ROOM_RUN_BYTES_MAX as u64);
        self.between("rooms.buffer_ms", rooms.buffer_ms, 0, 10_000);
        self.between("rooms.buffer_messages", rooms.buffer_messages, 1, 4096);
        let retention = config.embedded.retention_messages_per_account;
        self.between("embedded.retention_messages_per_account", retention, 1, 1 << 40);
        let threshold = config.embedded.group_read_threshold;
        self.between("embedded.group_read_threshold", threshold, 0, u64::from(u32::MAX));
        self.between("embedded.retention_days", config.embedded.retention_days, 0, 36_500);
        self.unless(level_is_known(&config.log.level), || {
            format!(
                "`log.level` is {:?}; say error, warn, info, debug or trace, or a filter such as \
                 info,moor_gateway=debug",
                config.log.level
            )
        });
    }

    fn sizes(&mut self, config: &Config) {
        let frame = config.frame_bytes_max;
        let frame_min = u64::from(CONTROL_BODY_BYTES_MAX);
        self.between("frame_bytes_max", frame, frame_min, u64::from(CLIENT_BODY_BYTES_MAX));
        let queue_min = u64::from(CLIENT_BODY_BYTES_MAX + WRAPPING_BYTES);
        self.between("send_queue_bytes_max", config.send_queue_bytes_max, queue_min, 1 << 30);
        self.between("recv_buffers", config.recv_buffers, 8, 32_768);
        self.unless(config.recv_buffers.is_power_of_two(), || {
            format!(
                "`recv_buffers` is {}; the kernel wants a power of two, such as {}",
                config.recv_buffers,
                config.recv_buffers.checked_next_power_of_two().unwrap_or(32_768).min(32_768)
            )
        });
        self.between("recv_buffer_bytes", config.recv_buffer_bytes, 256, 65_536);
        self.between("hot.events", config.hot.events, 1, 255);
        self.unless(config.plain || config.websocket.enabled, || {
            "`plain` and `websocket.enabled` are both false, so that no client could connect: turn one on"
                .to_owned()
        });
        let tls = &config.tls;
        let (certificates, keys) = (tls.certificates.0.len(), tls.keys.0.len());
        self.unless(certificates == keys, || {
            format!(
                "`tls.certificates` names {certificates} files and `tls.keys` {keys}: give each certificate its key, \
                 in the same order"
            )
        });
        self.unless(tls.is_enabled() || !tls.required, || {
            "`tls.required` is true and there is no certificate, so that no client could connect: set \
             tls.certificates and tls.keys"
                .to_owned()
        });
        let path = &config.websocket.path;
        self.unless(path.starts_with('/') && !path.contains(['?', '#', ' ']), || {
            format!("`websocket.path` is {path:?}; it begins with a slash and has no query, such as /moor")
        });
    }

    fn times(&mut self, config: &Config) {
        let heartbeat = &config.heartbeat;
        self.between("first_byte_timeout_ms", config.first_byte_timeout_ms, 100, 300_000);
        self.between("heartbeat.interval_ms", heartbeat.interval_ms, 1000, 3_600_000);
        self.between("heartbeat.min_ms", heartbeat.min_ms, 1000, 3_600_000);
        self.unless(heartbeat.min_ms <= heartbeat.interval_ms, || {
            format!(
                "`heartbeat.min_ms` is {} and larger than heartbeat.interval_ms ({})",
                heartbeat.min_ms, heartbeat.interval_ms
            )
        });
        let hot = &config.hot;
        self.between("hot.window_ms", hot.window_ms, 100, 600_000);
        self.unless(hot.idle_ms >= hot.window_ms && hot.idle_ms <= 3_600_000, || {
            format!(
                "`hot.idle_ms` is {}; it must lie between hot.window_ms ({}) and 3600000, or connections \
                 would be promoted and demoted in turn",
                hot.idle_ms, hot.window_ms
            )
        });
        let drain = &config.drain;
        self.between("drain.deadline_ms", drain.deadline_ms, 0, 600_000);
        self.between("drain.retry_min_ms", drain.retry_min_ms, 0, 3_600_000);
        if let Auto::Set(retry_max_ms) = drain.retry_max_ms {
            self.between("drain.retry_max_ms", retry_max_ms, 0, 3_600_000);
            self.unless(drain.retry_min_ms <= u64::from(retry_max_ms), || {
                format!(
                    "`drain.retry_min_ms` is {} and larger than drain.retry_max_ms ({retry_max_ms})",
                    drain.retry_min_ms
                )
            });
        }
        let limits = &config.limits;
        self.between("limits.slow_start_ms", limits.slow_start_ms, 0, 600_000);
        for (path, rate) in [
            ("limits.accepts_per_s", limits.accepts_per_s),
            ("limits.handshakes_per_s", limits.handshakes_per_s),
            ("limits.logins_per_s", limits.logins_per_s),
            ("limits.accepts_per_address_per_s", limits.accepts_per_address_per_s),
            ("limits.logins_per_app_per_s", limits.logins_per_app_per_s),
            ("limits.frames_per_connection_per_s", limits.frames_per_connection_per_s),
            ("limits.messages_per_channel_per_s", limits.messages_per_channel_per_s),
        ] {
            self.between(path, rate, 0, 1_000_000);
        }
        let memory = &config.memory;
        if let Auto::Set(limit_mb) = memory.limit_mb {
            self.between("memory.limit_mb", limit_mb, 1, u64::from(u32::MAX));
        }
        self.between("memory.refuse_percent", memory.refuse_percent, 1, 100);
        self.between("memory.shed_percent", memory.shed_percent, 1, 100);
        self.unless(memory.refuse_percent <= memory.shed_percent, || {
            format!(
                "`memory.refuse_percent` is {} and larger than memory.shed_percent ({})",
                memory.refuse_percent, memory.shed_percent
            )
        });
    }
}

/// Whether every part of a log filter is a level, or a target with a level. The filter's own parser takes a
/// mistyped level for a target's name and then logs nothing.
fn level_is_known(filter: &str) -> bool {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    filter.split(',').all(|part| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        levels.contains(&level.trim().to_ascii_lowercase().as_str())
    })
}

/// Whether both cannot be bound: the same port, and addresses that are equal or cover each other.
fn same_port(left: SocketAddr, right: SocketAddr) -> bool {
    let (a, b) = (left.ip(), right.ip());
    left.port() != 0 && left.port() == right.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn complaint(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        match validate(&config) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_defaults_stand() {
        assert_eq!(complaint(|_| {}), "");
        assert!(warnings(&Config::default()).is_empty());
    }

    #[test]
    fn ports_beyond_loopback_need_a_token() {
        let open = |config: &mut Config| config.internal = "10.0.0.7:7200".parse().unwrap();
        assert!(complaint(open).contains("beyond loopback, without a token"));
        let closed = |config: &mut Config| {
            open(config);
            config.internal_token = Some(Secret::from("0123456789abcdef".to_owned()));
        };
        assert_eq!(complaint(closed), "");
        assert!(
            complaint(|config| config.router_listen = "[::]:7300".parse().unwrap()).contains("router_listen")
        );
        // Not used, so not refused.
        let elsewhere = |config: &mut Config| {
            config.router = RouterChoice::Address("router-1:7300".to_owned());
            config.router_listen = "[::]:7300".parse().unwrap();
        };
        assert_eq!(complaint(elsewhere), "");
        assert!(
            complaint(|config| config.internal_token = Some(Secret::from("short".to_owned())))
                .contains("5 bytes")
        );
        let nameless = |config: &mut Config| {
            closed(config);
            config.internal = "0.0.0.0:7200".parse().unwrap();
        };
        assert!(complaint(nameless).contains("internal_advertise"));
    }

    #[test]
    fn certificates_stand_for_a_token_and_need_each_other() {
        let open = |config: &mut Config| {
            config.internal = "10.0.0.7:7200".parse().unwrap();
            config.router_listen = "10.0.0.7:7300".parse().unwrap();
        };
        let pairs = |config: &mut Config| {
            open(config);
            let path = || Some("a.pem".into());
            (config.internal_tls.certificate, config.internal_tls.key) = (path(), path());
            (config.router_tls.certificate, config.router_tls.key) = (path(), path());
            config.router_tls.authorities.0 = vec!["ca.pem".into()];
        };
        assert!(complaint(pairs).contains("set internal_token_file or internal_tls.authorities"));
        let mutual = |config: &mut Config| {
            pairs(config);
            config.internal_tls.authorities.0 = vec!["ca.pem".into()];
        };
        assert_eq!(complaint(mutual), "");
        let said = |change: fn(&mut Config)| {
            complaint(|config| {
                mutual(config);
                change(config);
            })
        };
        assert!(said(|c| c.internal_tls.key = None).contains("`internal_tls.key` belong together"));
        assert!(said(|c| c.router_tls.certificate = None).contains("`router_tls.key` belong together"));
        assert!(said(|c| c.router_tls.authorities.0.clear()).contains("whom to trust"));
        let elsewhere = |config: &mut Config| {
            config.router = RouterChoice::Address("router-1:7300".to_owned());
            config.router_tls.authorities.0 = vec!["ca.pem".into()];
        };
        assert_eq!(complaint(elsewhere), "", "who it is need not be shown");
        assert!(
            complaint(|c| c.router_tls.authorities.0 = vec!["ca.pem".into()])
                .contains("embedded router has no")
        );
        assert!(complaint(|c| c.internal_tls.authorities.0 = vec!["ca.pem".into()]).contains("to show"));
        assert!(complaint(|c| c.router_tls.name = Some("x".into())).contains("whom to trust"));
        let names = |config: &mut Config| {
            elsewhere(config);
            config.router_tls.names.0 = vec!["edge-1".into()];
        };
        assert!(complaint(names).contains("for an embedded router"));
    }

    #[test]
    fn the_same_port_twice_is_seen() {
        assert_eq!(
            complaint(|config| config.admin = config.listen),
            "`admin` (127.0.0.1:7100) and `listen` (127.0.0.1:7100) are the same port"
        );
        assert!(complaint(|config| config.listen = "0.0.0.0:7400".parse().unwrap()).contains("same port"));
        let free = |config: &mut Config| {
            config.listen = "127.0.0.1:0".parse().unwrap();
            config.admin = config.listen;
        };
        assert_eq!(complaint(free), "");
    }

    #[test]
    fn each_bound_has_its_sentence() {
        type Case = (fn(&mut Config), &'static str);
        let cases: &[Case] = &[
            (|c| c.node = Some(String::new()), "`node` is"),
            (|c| c.node = Some("a b".to_owned()), "without spaces"),
            (|c| c.workers = Auto::Set(0), "`workers` is 0; it must be between 1 and 4096"),
            (|c| c.connections_per_worker_max = Auto::Set(1 << 20), "`connections_per_worker_max`"),
            (|c| c.embedded.shards = Auto::Set(0), "`embedded.shards`"),
            (|c| c.embedded.retention_messages_per_account = 0, "retention"),
            (|c| c.channels_per_connection_max = 0, "`channels_per_connection_max`"),
            (|c| c.channels_per_connection_max = 257, "it must be between 1 and 256"),
            (|c| c.accept_backlog = 0, "`accept_backlog`"),
            (|c| c.register.batch = 513, "`register.batch` is 513"),
            (|c| c.register.per_s = 0, "`register.per_s`"),
            (|c| c.rooms.down_ms = 10_001, "`rooms.down_ms`"),
            (|c| c.rooms.buffer_messages = 0, "`rooms.buffer_messages`"),
            (|c| c.frame_bytes_max = 65_537, "`frame_bytes_max`"),
            (|c| (c.plain, c.websocket.enabled) = (false, false), "both false"),
            (|c| c.websocket.path = "moor".to_owned(), "begins with a slash"),
            (|c| c.tls.required = true, "there is no certificate"),
            (|c| c.tls.keys.0.push("host.key".into()), "names 0 files and `tls.keys` 1"),
            (|c| c.send_queue_bytes_max = 65_536, "`send_queue_bytes_max`"),
            (|c| c.recv_buffers = 1000, "a power of two, such as 1024"),
            (|c| c.recv_buffers = u32::MAX, "a power of two, such as 32768"),
            (|c| c.recv_buffer_bytes = 0, "`recv_buffer_bytes`"),
            (|c| c.hot.events = 0, "`hot.events`"),
            (|c| c.limits.logins_per_s = 1_000_001, "`limits.logins_per_s`"),
            (|c| c.memory.refuse_percent = 99, "larger than memory.shed_percent"),
            (|c| c.memory.limit_mb = Auto::Set(0), "`memory.limit_mb`"),
            (|c| c.internal_advertise = Some("edge-7".to_owned()), "`internal_advertise` is \"edge-7\""),
            (|c| c.internal_advertise = Some("e".repeat(256) + ":7200"), "`internal_advertise` is \"eeee"),
            (|c| c.hot.idle_ms = 1000, "`hot.idle_ms`"),
            (|c| c.hot.window_ms = 0, "`hot.window_ms`"),
            (|c| c.first_byte_timeout_ms = 0, "`first_byte_timeout_ms`"),
            (|c| c.heartbeat.interval_ms = 4_000_000, "`heartbeat.interval_ms` is 4000000"),
            (|c| c.heartbeat.min_ms = 0, "`heartbeat.min_ms`"),
            (|c| c.heartbeat.min_ms = 300_000, "larger than heartbeat.interval_ms (270000)"),
            (
                |c| (c.drain.retry_min_ms, c.drain.retry_max_ms) = (6000, Auto::Set(5000)),
                "larger than drain.retry_max_ms",
            ),
            (|c| c.drain.deadline_ms = 600_001, "`drain.deadline_ms`"),
            (|c| c.log.level = " ".to_owned(), "`log.level`"),
            (|c| c.log.level = "inof".to_owned(), "`log.level` is \"inof\""),
            (|c| c.log.level = "info,moor=loud".to_owned(), "`log.level`"),
        ];
        for (change, expected) in cases {
            let said = complaint(change);
            assert!(said.contains(expected), "expected {expected:?}, got {said:?}");
        }
    }

    #[test]
    fn what_is_odd_is_only_warned_of() {
        let mut config = Config { admin: "0.0.0.0:7400".parse().unwrap(), ..Config::default() };
        config.disable_features = moor_ring::FeatureMask::of(moor_ring::Feature::MessageRing);
        config.recv_buffer_bytes = 65_536;
        config.embedded.fsync = crate::config::Fsync::Off;
        assert!(validate(&config).is_ok());
        assert_eq!(warnings(&config).len(), 4);
    }
}
