//! The table of settings: the one source of the file's parser, the flags, the help and the manual.
//!
//! A new setting is a field of [`Config`](super::Config), its default, and one entry here.

use super::Config;
use super::value::{Setting, Shape};

/// One setting.
pub struct Key {
    /// Its place in the file: `table.key` or `key`.
    pub path: &'static str,
    /// Its flag without dashes; empty when it has none.
    pub flag: &'static str,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// What is said: the setting in a few words.
    pub said: &'static str,
    /// What it means: unit, bounds, consequences.
    pub means: &'static str,
    /// The TOML form.
    pub shape: Shape,
    /// Sets it from text.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// Its TOML value; `None` when not set.
    pub(super) get: fn(&Config) -> Option<String>,
}

const fn shape_of<T: Setting>(_: fn(&Config) -> &T) -> Shape {
    T::SHAPE
}

macro_rules! key {
    (@entry $path:expr, [$($field:tt)+], $flag:literal, $value:literal, $said:literal, $means:literal) => {
        Key {
            path: $path,
            flag: $flag,
            value_name: $value,
            said: $said,
            means: $means,
            shape: shape_of(|config| &config.$($field)+),
            set: |config, text| {
                config.$($field)+ = Setting::parse(text)?;
                Ok(())
            },
            get: |config| config.$($field)+.to_toml(),
        }
    };
    ($table:ident . $field:ident, $($rest:tt)+) => {
        key!(@entry concat!(stringify!($table), ".", stringify!($field)), [$table.$field], $($rest)+)
    };
    ($field:ident, $($rest:tt)+) => { key!(@entry stringify!($field), [$field], $($rest)+) };
}

/// Every setting, in the order of the file and of `--help`.
pub const KEYS: &[Key] = &[
    key!(
        node,
        "node",
        "NAME",
        "Name of this gateway",
        "Routers keep sessions under it. It must differ from every other gateway's and stay the same over \
         restarts: a gateway that starts under a name makes all sessions of the former holder void. Unset, \
         it is host name and client port, such as edge-7-7100."
    ),
    key!(
        listen,
        "listen",
        "ADDR:PORT",
        "Where clients connect",
        "Port 0 takes any free port and the start message says which. 0.0.0.0:7100 or [::]:7100 accepts \
         from everywhere."
    ),
    key!(
        internal,
        "internal",
        "ADDR:PORT",
        "Where backend services connect to push, kick and query",
        "Beyond loopback it needs a token or `internal_tls.authorities`."
    ),
    key!(
        internal_advertise,
        "internal-advertise",
        "HOST:PORT",
        "Where services on other hosts reach `internal`",
        "Routers tell it to services that look a session up. Needed when `internal` listens on 0.0.0.0 or [::]. At \
         most 260 bytes."
    ),
    key!(
        internal_token,
        "",
        "TOKEN",
        "Secret that services, gateways and routers show each other",
        "At least 16 bytes. Only in the file, which nobody but its owner may then be able to read, or in the variable \
         MOOR_INTERNAL_TOKEN: a flag could be read by every user of the host."
    ),
    key!(
        internal_token_file,
        "internal-token-file",
        "FILE",
        "File with the secret of the internal and router ports",
        "Its first line is the token, and nobody but its owner may be able to read it; under systemd use \
         LoadCredential."
    ),
    key!(
        admin,
        "admin",
        "ADDR:PORT",
        "Where health, metrics and statistics are served over HTTP",
        "Read-only and without authentication: keep it on loopback or on a management network."
    ),
    key!(
        router,
        "router",
        "embedded|HOST:PORT",
        "The router: inside this process, or an address",
        "`embedded` starts a router with its store under `data`; any other gateway may connect to it. A name is \
         looked up once, at start."
    ),
    key!(
        router_listen,
        "router-listen",
        "ADDR:PORT",
        "Where the embedded router listens",
        "For other gateways and for services. Beyond loopback it needs a token or `router_tls.authorities`."
    ),
    key!(
        data,
        "data",
        "DIR",
        "Directory of the embedded router's messages",
        "Made when it is missing. Not used when the router is an address."
    ),
    key!(
        announce,
        "announce",
        "none|json",
        "What standard output says when everything listens",
        "`none` prints a few lines for people, `json` one line for programs: \
         {\"listening\":{\"clients\":\"127.0.0.1:7100\",...}}."
    ),
    key!(
        workers,
        "workers",
        "N|auto",
        "Threads that serve connections",
        "`auto`: one for each core this process may use. More is legal and is the way around a limit of open \
         descriptors that cannot be raised, since that limit holds per worker; they do not interrupt each other then \
         (SCHED_BATCH). At most 4096."
    ),
    key!(
        pin,
        "pin",
        "true|false",
        "Bind each worker to a core",
        "Turn it off when other busy programs share the host."
    ),
    key!(
        connections_per_worker_max,
        "connections-per-worker-max",
        "N|auto",
        "Most connections of one worker",
        "`auto`: the limit of open descriptors (raised to its hard value) or 1,048,576, whichever is less, \
         minus the few slots a worker needs for itself. Beyond it new connections are refused and the \
         others are unharmed."
    ),
    key!(
        channels_per_connection_max,
        "channels-per-connection-max",
        "N",
        "Most logged-in accounts on one connection",
        "Between 1 and 256."
    ),
    key!(
        first_byte_timeout_ms,
        "first-byte-timeout-ms",
        "MS",
        "Time a new connection has for its CONNECT frame",
        "Milliseconds, 100 to 300,000. Then it is closed."
    ),
    key!(
        plain,
        "plain",
        "true|false",
        "Whether clients may speak the protocol straight over TCP",
        "Turn it off where only browsers come."
    ),
    key!(
        frame_bytes_max,
        "frame-bytes-max",
        "BYTES",
        "Longest body of a frame from a client",
        "Bytes, 4096 to 65,536."
    ),
    key!(
        send_queue_bytes_max,
        "send-queue-bytes-max",
        "BYTES",
        "Most bytes waiting for one client",
        "At least one frame of the largest size with its wrapping (73,728). A client that lets more pile up \
         is a slow reader and is closed."
    ),
    key!(
        recv_buffers,
        "recv-buffers",
        "N",
        "Receive buffers of one worker",
        "Shared by its hot connections. A power of two, 8 to 32,768."
    ),
    key!(
        recv_buffer_bytes,
        "recv-buffer-bytes",
        "BYTES",
        "Size of a receive buffer",
        "Bytes, 256 to 65,536."
    ),
    key!(
        accept_backlog,
        "accept-backlog",
        "N",
        "Connections the kernel holds before they are accepted",
        "The kernel lowers it to net.core.somaxconn; tuning/check says whether that is enough."
    ),
    key!(
        disable_features,
        "disable-features",
        "LIST",
        "Kernel features to do without",
        "Forces the ways that older kernels need, to test or to avoid a kernel fault. Names separated by \
         commas: defer-taskrun, no-sq-array, registered-ring, message-ring, fixed-fd-install, \
         direct-connect, prompt-close; or all."
    ),
    key!(
        credentials.file,
        "credentials-file",
        "FILE",
        "Which apps' tokens let clients in, and which tokens services have",
        "TOML; docs/credentials.md says how. Without it every client is whoever it says it is, which is refused beyond \
         loopback. SIGHUP reads it again; one that cannot be used leaves the former in place."
    ),
    key!(
        credentials.anonymous,
        "credentials-anonymous",
        "true|false",
        "Whether anybody may be anybody in apps that the file does not list",
        "Or in all apps where there is no file. For development, and for networks where everybody is trusted."
    ),
    key!(
        tls.certificates,
        "tls-certificates",
        "LIST",
        "Certificates for clients over TLS",
        "PEM files, separated by commas, each with the host's own certificate first. TLS is spoken as soon as there \
         is one, on the same port: the first byte tells. A client is shown the one for the name it asks for, else \
         the first. SIGHUP reads them again; a pair that cannot be used leaves the old ones in place."
    ),
    key!(
        tls.keys,
        "tls-keys",
        "LIST",
        "The certificates' keys",
        "PEM files in the same order. Nobody but their owner may be able to read them. ECDSA P-256 keys make the \
         cheapest handshakes."
    ),
    key!(
        tls.tickets,
        "tls-tickets",
        "FILE",
        "Keys that session tickets are sealed with",
        "64 hexadecimal digits a line (`openssl rand -hex 32`), up to 8 lines; the first seals, all open. With the \
         same file clients resume on every host and after a restart; without one each start and each SIGHUP makes a key of its own. \
         SIGHUP reads it again."
    ),
    key!(
        tls.records,
        "tls-records",
        "FORM",
        "What a TLS connection keeps after its handshake",
        "compact: secrets and sequence numbers, 216 bytes, and this project's own record layer for TLS 1.3; TLS 1.2 \
         connections keep rustls's. rustls: the library's connection in any case, some 2,200 bytes."
    ),
    key!(
        tls.tls12,
        "tls-tls12",
        "true|false",
        "Whether TLS 1.2 is spoken beside 1.3",
        "Its sessions are larger and its handshakes take a round trip more."
    ),
    key!(
        tls.required,
        "tls-required",
        "true|false",
        "Whether clients without TLS are turned away",
        "Needs a certificate."
    ),
    key!(
        internal_tls.certificate,
        "internal-tls-certificate",
        "FILE",
        "Certificate of the internal port",
        "PEM, the host's own first. With it the port speaks TLS 1.3 and nothing else. SIGHUP reads it, its key and the \
         authorities again, for services that come from then on; files that cannot be used leave the old ones in place."
    ),
    key!(
        internal_tls.key,
        "internal-tls-key",
        "FILE",
        "Its key",
        "PEM. Nobody but its owner may be able to read it."
    ),
    key!(
        internal_tls.authorities,
        "internal-tls-authorities",
        "LIST",
        "Authorities of services' certificates",
        "PEM files, separated by commas. A service without a certificate of theirs is refused; one with it needs no \
         token. Unless the credentials file declares services, it may do everything."
    ),
    key!(
        router_tls.certificate,
        "router-tls-certificate",
        "FILE",
        "Certificate shown to the router",
        "PEM. With an embedded router also the one it shows, and then needed. SIGHUP reads it, its key and the \
         authorities again, for connections made from then on."
    ),
    key!(
        router_tls.key,
        "router-tls-key",
        "FILE",
        "Its key",
        "PEM. Nobody but its owner may be able to read it."
    ),
    key!(
        router_tls.authorities,
        "router-tls-authorities",
        "LIST",
        "Authorities of the router's certificate",
        "PEM files, separated by commas. With them TLS 1.3 is spoken with the router. An embedded router asks whoever \
         connects for a certificate of theirs, which stands for the token and for everything it allows: have an authority \
         for it alone."
    ),
    key!(
        router_tls.name,
        "router-tls-name",
        "NAME",
        "Name that the router's certificate must be for",
        "Unset, it is the host of `router`; with an embedded router the first name of its certificate."
    ),
    key!(
        router_tls.names,
        "router-tls-names",
        "LIST",
        "Names of certificates that may connect to the embedded router",
        "Separated by commas. Empty: all of the authorities. This gateway's own must be among them. Taking one out takes \
         a restart."
    ),
    key!(
        websocket.enabled,
        "websocket-enabled",
        "true|false",
        "Whether clients may come over WebSocket",
        "On the same port: the first byte tells. Subprotocol moor.v1, binary messages."
    ),
    key!(
        websocket.path,
        "websocket-path",
        "PATH",
        "Path of the WebSocket endpoint",
        "Begins with a slash. Requests for another path are answered 404."
    ),
    key!(
        websocket.origins,
        "websocket-origins",
        "LIST",
        "Pages that may connect from a browser",
        "Origins as a browser writes them, such as https://shop.example, separated by commas; * for every page. \
         Empty: no page. Clients that are no browsers send no origin and are not affected."
    ),
    key!(
        heartbeat.interval_ms,
        "heartbeat-interval-ms",
        "MS",
        "Heartbeat interval proposed to clients",
        "Milliseconds, at most 3,600,000. Any frame counts as one; a client not heard for one and a half intervals is closed. \
         270,000 is below what nearly all mobile networks forget."
    ),
    key!(
        heartbeat.min_ms,
        "heartbeat-min-ms",
        "MS",
        "Shortest interval a client may ask for",
        "Milliseconds, at least 1000: what a client wishes is raised to it."
    ),
    key!(
        hot.events,
        "hot-events",
        "N",
        "Events within `hot.window_ms` that make a connection hot",
        "A hot connection keeps a multishot receive armed: 610 bytes more of kernel memory, 1.7 µs less per \
         event (measured on kernel 6.18)."
    ),
    key!(
        hot.window_ms,
        "hot-window-ms",
        "MS",
        "The window in which these events are counted",
        "Milliseconds."
    ),
    key!(
        hot.idle_ms,
        "hot-idle-ms",
        "MS",
        "Silence after which a connection is cold again",
        "Milliseconds, at least the window: going back costs a cancelled request."
    ),
    key!(register.batch, "register-batch", "N", "Sessions in one registration message", "Between 1 and 512."),
    key!(
        register.per_s,
        "register-per-s",
        "N",
        "Sessions announced to a returned router",
        "Per worker and second; protects a router that has just started. At least 100."
    ),
    key!(
        rooms.per_channel_max,
        "rooms-per-channel-max",
        "N",
        "Most rooms a session may be in",
        "Between 1 and 1024. Further ones are refused."
    ),
    key!(
        rooms.per_worker_max,
        "rooms-per-worker-max",
        "N",
        "Most rooms of one worker",
        "Rooms with a session in them, 1 to 1,000,000. Further ones are refused."
    ),
    key!(
        rooms.per_app_max,
        "rooms-per-app-max",
        "N",
        "Most rooms of one app on one worker",
        "Of those with a session of the worker in them. 0: no limit but `rooms.per_worker_max`; at most 1,000,000. Entering \
         further ones is refused with LIMIT, and no other app notices."
    ),
    key!(
        rooms.down_ms,
        "rooms-down-ms",
        "MS",
        "Time from one batch of a room to the next",
        "Milliseconds, at most 10,000; 0: no time. What is said meanwhile is merged, so that no client is written to more \
         often for one room. Beyond its first 256 members on a worker a room is served over three quarters of this time, \
         beyond 1,024 over all of it, 1,024 after the other, each with what is the newest by then."
    ),
    key!(
        rooms.down_bytes,
        "rooms-down-bytes",
        "BYTES",
        "Size of a batch from which droppable messages are left out",
        "Bytes, at most 131,072; the newest stay. With `rooms.down_ms` it bounds what a phone in a busy room has to take: \
         32 KB a second."
    ),
    key!(
        rooms.types,
        "rooms-types",
        "LIST",
        "What types of room messages are worth, at the embedded router",
        "[APP:]TYPE=reliable|normal|droppable[/PER_S], separated by commas, such as shop:1=reliable/20; the first that \
         fits holds. PER_S: messages of the type in one room a second. Where nothing is said 0 is normal, 1 reliable, \
         and all others are droppable."
    ),
    key!(
        rooms.buffer_members,
        "rooms-buffer-members",
        "N",
        "Sessions in a room from which the embedded router collects its messages",
        "Smaller rooms get each message at once."
    ),
    key!(
        rooms.buffer_ms,
        "rooms-buffer-ms",
        "MS",
        "How long they are collected",
        "Milliseconds, at most 10,000."
    ),
    key!(
        rooms.buffer_messages,
        "rooms-buffer-messages",
        "N",
        "How many are collected at most",
        "Between 1 and 4096."
    ),
    key!(
        limits.accepts_per_s,
        "limits-accepts-per-s",
        "N",
        "Connections accepted a second",
        "Per worker; 0: no limit, here and in all of `limits`. Faster ones wait in the kernel's queue \
         (`accept_backlog`)."
    ),
    key!(
        limits.handshakes_per_s,
        "limits-handshakes-per-s",
        "N",
        "TLS handshakes begun a second",
        "Per worker; one takes some 80 µs of a core. Faster ones wait for two seconds' worth, more are reset."
    ),
    key!(
        limits.logins_per_s,
        "limits-logins-per-s",
        "N",
        "Channels opened a second",
        "Per worker; a second's worth may come at once. Faster ones are closed with OVERLOADED, and clients try again."
    ),
    key!(
        limits.slow_start_ms,
        "limits-slow-start-ms",
        "MS",
        "Time from the start until these three hold in full",
        "Milliseconds, at most 600,000. They begin with a quarter: after a restart everybody comes at once."
    ),
    key!(
        limits.connections_per_address,
        "limits-connections-per-address",
        "N",
        "Most connections of one address",
        "Over all workers; of IPv6 a /64 is one address. More are reset. Thousands of people may share an address of \
         a mobile network."
    ),
    key!(
        limits.accepts_per_address_per_s,
        "limits-accepts-per-address-per-s",
        "N",
        "Connections of one address accepted a second",
        "Over all workers; a second's worth may come at once. More are reset."
    ),
    key!(
        limits.exempt,
        "limits-exempt",
        "LIST",
        "Addresses and networks that neither holds for",
        "Such as 10.0.0.0/8, separated by commas."
    ),
    key!(
        limits.sessions_per_app,
        "limits-sessions-per-app",
        "N",
        "Most sessions of one app",
        "Over all workers. More are closed with LIMIT."
    ),
    key!(
        limits.logins_per_app_per_s,
        "limits-logins-per-app-per-s",
        "N",
        "Channels of one app opened a second",
        "Over all workers; a second's worth may come at once. Faster ones are closed with OVERLOADED."
    ),
    key!(
        limits.frames_per_connection_per_s,
        "limits-frames-per-connection-per-s",
        "N",
        "Frames of one connection a second",
        "Of any kind; a second's worth may come at once. A connection that sends more is closed with LIMIT."
    ),
    key!(
        limits.messages_per_channel_per_s,
        "limits-messages-per-channel-per-s",
        "N",
        "Messages of one channel a second",
        "A second's worth may come at once. More are answered OVERLOADED and not stored."
    ),
    key!(
        memory.limit_mb,
        "memory-limit-mb",
        "MB|auto",
        "Memory that may be used",
        "Of this process, in megabytes, at least 1. `auto`: what the control group allows and what the host has left, whichever is \
         shorter."
    ),
    key!(
        memory.refuse_percent,
        "memory-refuse-percent",
        "N",
        "Part of it in use from which nobody new comes in",
        "Percent. New connections are told to come back later; who is in is not harmed."
    ),
    key!(
        memory.shed_percent,
        "memory-shed-percent",
        "N",
        "Part of it in use from which queues are cut",
        "Percent. Transient frames that wait are dropped, and a client's send queue may hold a quarter of its limit."
    ),
    key!(
        proxy.sources,
        "proxy-sources",
        "LIST",
        "Load balancers that say who is behind them",
        "Addresses and networks, separated by commas. Their connections must begin with a PROXY header, version 1 or 2; \
         limits per address then hold for the client's. Nobody else's header is believed."
    ),
    key!(
        drain.deadline_ms,
        "drain-deadline-ms",
        "MS",
        "Time a drain may take",
        "Milliseconds, at most 600,000. What is still connected then is cut. Keep TimeoutStopSec of the unit above it."
    ),
    key!(
        drain.retry_min_ms,
        "drain-retry-min-ms",
        "MS",
        "Earliest return of a client sent away",
        "Milliseconds. Each client picks a random moment of the window."
    ),
    key!(
        drain.retry_max_ms,
        "drain-retry-max-ms",
        "MS|auto",
        "Latest return of a client sent away or refused",
        "Milliseconds. `auto`: connections divided by `limits.accepts_per_s`, or by 10,000 a worker and second, so that \
         nobody comes back sooner than a gateway like this one can take them."
    ),
    key!(
        embedded.shards,
        "shards",
        "N|auto",
        "Shards of the embedded router's store",
        "Each has a file and a thread; fixed when the data directory is made. `auto`: what the directory was \
         made with, 1 for a new one."
    ),
    key!(
        embedded.fsync,
        "fsync",
        "full|normal|off",
        "When the embedded store writes through to the disk",
        "`full`: before each answer, nothing accepted is lost at a power failure. `normal`: survives kill -9, \
         may lose the last moments at a power failure. `off`: for tests."
    ),
    key!(
        embedded.retention_messages_per_account,
        "retention",
        "N",
        "Messages kept for one account",
        "The oldest beyond it are removed, also when a device has not fetched them. At least 1."
    ),
    key!(
        embedded.group_read_threshold,
        "group-read-threshold",
        "MEMBERS",
        "From so many members on a group's messages are stored once",
        "Smaller groups have a copy in each member's timeline. 0: never copied. May be changed with any restart."
    ),
    key!(
        embedded.retention_days,
        "retention-days",
        "DAYS",
        "Days a message is kept",
        "Older ones are removed, also when a device has not fetched them. At most 36,500; 0: whatever their age."
    ),
    key!(
        embedded.apps,
        "embedded-apps",
        "FILE",
        "How the embedded router treats each app",
        "A TOML file with tables [apps.NAME]: which devices of an account may be logged in together, and more. The \
         section on apps has the keys. A moor-router has the same tables in its own file."
    ),
    key!(
        embedded.hooks,
        "embedded-hooks",
        "FILE",
        "File that says who is told of messages that nobody fetches",
        "TOML with `[[hook]]`, `[[arrival]]` and `[offline]` tables, as in a `moor-router`'s own file; docs/operating.md \
         says how. Not used when the router is an address."
    ),
    key!(
        log.level,
        "log-level",
        "FILTER",
        "What is logged to standard error",
        "error, warn, info, debug or trace, or a filter such as info,moor_gateway=debug. SIGHUP reads it \
         again from the file."
    ),
    key!(
        log.format,
        "log-format",
        "text|json",
        "How log lines are written",
        "`json`: one object a line, for collectors."
    ),
];

/// The setting at `path`.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_flags_are_unique() {
        for (index, key) in KEYS.iter().enumerate() {
            for other in &KEYS[..index] {
                assert_ne!(key.path, other.path);
                assert!(key.flag.is_empty() || key.flag != other.flag, "{} twice", key.flag);
            }
        }
    }

    #[test]
    fn flags_are_spelled_like_their_keys() {
        // The embedded router's flags are those of the moor-router binary.
        let own = ["shards", "fsync", "retention", "retention-days", "group-read-threshold", ""];
        for key in KEYS.iter().filter(|key| !own.contains(&key.flag)) {
            assert_eq!(key.flag, key.path.replace(['.', '_'], "-"));
        }
    }

    #[test]
    fn keys_without_a_table_come_first() {
        // TOML reads a bare key after a table header as that table's.
        let first_in_table = KEYS.iter().position(|key| key.path.contains('.')).unwrap();
        assert!(KEYS[first_in_table..].iter().all(|key| key.path.contains('.')));
    }

    #[test]
    fn the_help_names_every_feature() {
        let means = find("disable_features").unwrap().means;
        for feature in moor_ring::Feature::ALL {
            assert!(means.contains(feature.name()), "{feature} is missing");
        }
    }
}
