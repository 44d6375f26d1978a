//! The appliance: puts listeners, router, workers and control thread together, and takes them apart again.
//!
//! Order matters. Everything that can be refused (ports, directory, kernel) is asked for first, so that a start
//! that fails leaves nothing behind; workers take their first turn only when every ring stands.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use moor_credentials::LoadError;
use moor_ring::socket::{ListenOptions, listen};
use moor_ring::{Doorbell, Feature, RingConfig, RingError};
use moor_router::port::{self, Unavailable};
use moor_router::{RouterConfig, RouterHandle, Telling};

use crate::config::{self, Config, RouterChoice};
use crate::control::logging::{self, LogHandle};
use crate::control::memory::Watch;
use crate::control::{self, ControlContext, Listening, signals, systemd};
use crate::credential_files;
use crate::limits::{COMPLETION_ENTRIES, RESERVED_SLOTS, SUBMISSION_ENTRIES};
use crate::remote::{self, Remote};
use crate::tls_files::{self, TlsError};
use crate::worker::access::Access;
use crate::worker::counters::Board;
use crate::worker::door::Shared;
use crate::worker::drain::DrainPlan;
use crate::worker::io::WorkerId;
use crate::worker::mailbox::Mailboxes;
use crate::worker::settings::{Heartbeat, HotTier, RoomSettings, Settings};
use crate::worker::{Wakeable, WorkerParts, WorkerSpec, run as run_worker};

/// Exit code of a start that was refused.
const EXIT_REFUSED: u8 = 2;

/// Why the appliance cannot start. Displays as one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel lacks io_uring or refuses a ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A port.
    #[error("{what} cannot listen on {address}: {reason}")]
    Listen {
        /// Which port.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What is the matter and what to do.
        reason: String,
    },
    /// The router's name.
    #[error("the router {name} is not known ({reason}); give --router an address such as 10.0.0.5:7300")]
    RouterName {
        /// As configured.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// The embedded router.
    #[error("{0}")]
    Router(#[from] moor_router::StartError),
    /// systemd's sockets.
    #[error(transparent)]
    Activation(#[from] systemd::ActivationError),
    /// More of systemd's sockets than there is somebody to accept from.
    #[error(
        "the socket unit hands over {handed} listeners to {workers} workers, so that connections to some would wait for ever: give it at most one ListenStream= for each worker, or set workers to {handed}"
    )]
    TooManyListeners {
        /// By the unit.
        handed: usize,
        /// Here.
        workers: u32,
    },
    /// The control plane.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// The credentials file.
    #[error("{0}")]
    Credentials(#[from] LoadError),
    /// Clients from anywhere, and nobody asks who they are.
    #[error("{0}")]
    OpenToAnybody(String),
    /// Certificates, keys or tickets.
    #[error("TLS cannot be spoken: {0}")]
    Tls(#[from] TlsError),
    /// A kernel that does not say where clients come from, and balancers that must be told apart from them.
    #[error(
        "proxy.sources needs to know where connections come from, which takes Linux 6.8 (and the feature fixed-fd-install): take the balancers off the list, or start on a newer kernel"
    )]
    AddressesUnknown,
    /// A descriptor, a thread or a signal handler is refused.
    #[error("{what} is refused by the system ({source}); raise the limit it names and start again")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Runs the appliance until it is asked to end.
#[must_use]
pub fn run(config: Config, log: LogHandle) -> ExitCode {
    match start_and_serve(&config, log) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("moor-gateway: {error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn start_and_serve(config: &Config, log: LogHandle) -> Result<u8, StartError> {
    let features = moor_ring::probe()?;
    if let Err(error) = moor_ring::memory::ordinary_pages_only() {
        tracing::warn!(%error, "huge pages could not be switched off; memory grows in steps of 2 MiB");
    }
    if features.has(Feature::PromptClose) {
        tracing::info!("kernel features: {features}");
    } else {
        tracing::warn!("kernel features: {features}");
    }
    let tells_addresses =
        features.has(Feature::FixedFdInstall) && !config.disable_features.contains(Feature::FixedFdInstall);
    if !config.proxy.sources.is_empty() && !tells_addresses {
        return Err(StartError::AddressesUnknown);
    }
    let tls = tls_files::load(&config.tls)?;
    let (internal_tls, router_tls) = (tls_files::internal(config)?, tls_files::router(config)?);
    let access = credential_files::load(&config.credentials)?;
    let descriptors = config::descriptors_raise();
    let workers = config.workers();

    let clients = match systemd::listeners()? {
        activated if activated.is_empty() => listen_group("clients", config.listen, workers, config)?,
        activated => share(activated, workers)?,
    };
    // systemd's listeners are not where the configuration says.
    let bound = local(&clients[0])?;
    config::check_clients(bound, &config.credentials).map_err(StartError::OpenToAnybody)?;
    let internal = listen_group("the internal port", config.internal, workers, config)?;
    let admin = listen_alone("admin HTTP", config.admin)?;
    let router = match config.router {
        RouterChoice::Embedded => Some(moor_router::start(router_config(config)?)?),
        RouterChoice::Address(_) => None,
    };
    // Ports may have been waited for; from here on a signal means an orderly end.
    let signals =
        signals::watch().map_err(|source| StartError::System { what: "a signal handler", source })?;
    let listening = Listening {
        clients: bound,
        internal: local(&internal[0])?,
        router: router.as_ref().map(RouterHandle::listen_addr),
        admin: local(&admin)?,
    };

    let board = Board::new(workers as usize);
    let settings = Settings {
        access,
        tls,
        internal_tls,
        router_tls,
        ..worker_settings(config, router_address(config, &listening)?, descriptors, &listening)
    };
    let ring = ring_config(config, &settings);
    let crew = Crew::start(config, &ring, &settings, &board, clients, internal)?;

    print!("{}", control::banner(config, &listening));
    // Whoever started this may have closed its end; that is no reason to stop.
    std::io::stdout().flush().unwrap_or_default();

    let outcome = control::run(ControlContext {
        node: config.node(),
        listening,
        internal_address: settings.internal_address.to_string(),
        admin,
        drain: DrainPlan { deadline_ms: config.drain.deadline_ms },
        memory: Watch::new(&config.memory, settings.shared.pressure.clone()),
        source: Arc::new(board.clone()),
        workers: Arc::new(crew.remote(board.clone())),
        router: router.as_ref().map(router_stats),
        collectors: router.as_ref().map(|router| router.collector()).into_iter().collect(),
        signals,
        reload: logging::reload(
            log,
            vec![
                remote::reload_tls(crew.remote(board.clone()), settings.tls.is_some()),
                remote::reload_internal_tls(crew.remote(board.clone()), settings.internal_tls.clone()),
                remote::reload_router_tls(
                    crew.remote(board.clone()),
                    router.as_ref(),
                    settings.router_tls.is_some(),
                ),
                remote::reload_credentials(crew.remote(board.clone()), bound),
            ],
        ),
    })?;
    crew.join();
    // The router goes last: workers deregister with it.
    if let Some(router) = router {
        router.shutdown();
    }
    Ok(outcome.exit_code())
}

/// The workers' threads.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    mailboxes: Mailboxes,
    doorbells: Arc<[Doorbell]>,
}

impl Crew {
    fn start(
        config: &Config,
        ring: &RingConfig,
        settings: &Settings,
        board: &Board,
        clients: Vec<TcpListener>,
        internal: Vec<TcpListener>,
    ) -> Result<Self, StartError> {
        let refused = |what| move |source| StartError::System { what, source };
        let mailboxes = Mailboxes::new(config.workers());
        let cpus = moor_ring::thread::cpus_allowed().unwrap_or_default();
        let started = Instant::now();
        let (mut threads, mut doorbells, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (clients, internal)) in (0..).zip(clients.into_iter().zip(internal)) {
            let doorbell = Doorbell::new().map_err(refused("an eventfd"))?;
            let spec = WorkerSpec {
                id: WorkerId(index),
                cpu: cpus.get(index as usize % cpus.len().max(1)).copied().filter(|_| config.pin),
                crowded: config.workers() as usize > cpus.len(),
                ring: ring.clone(),
                clients,
                internal,
                settings: settings.clone(),
                mailboxes: mailboxes.clone(),
                board: board.clone(),
                doorbell: doorbell.clone(),
                started,
            };
            let (ready, became_ready) = mpsc::channel();
            let (tell_peers, peers) = mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run_worker(spec, WorkerParts { ready, peers }))
                .map_err(refused("a thread"))?;
            threads.push(thread);
            doorbells.push(doorbell);
            waiting.push((became_ready, tell_peers));
        }
        // A worker whose `peers` sender is dropped unheard ends before its first turn.
        let mut peers: Vec<Wakeable> = Vec::new();
        let mut tell: Vec<Sender<Vec<Wakeable>>> = Vec::new();
        for ((became_ready, tell_peers), doorbell) in waiting.into_iter().zip(&doorbells) {
            let (ring, _) = became_ready.recv().unwrap_or_else(|_| {
                Err(RingError::Setup { what: "start a worker", errno: moor_ring::Errno::OWNERDEAD })
            })?;
            peers.push(Wakeable { ring, doorbell: doorbell.clone() });
            tell.push(tell_peers);
        }
        for sender in tell {
            // A worker that is gone already has said why in the log.
            sender.send(peers.clone()).unwrap_or_default();
        }
        Ok(Self { threads, mailboxes, doorbells: doorbells.into() })
    }

    fn remote(&self, board: Board) -> Remote {
        Remote::new(self.mailboxes.clone(), Arc::clone(&self.doorbells), board)
    }

    /// Waits for the workers, except for those that did not stop when they were told to: they would never come.
    fn join(self) {
        let stuck = self.mailboxes.running();
        if stuck > 0 {
            tracing::error!(workers = stuck, "workers did not stop; the process ends without them");
        }
        for thread in self.threads {
            if (stuck == 0 || thread.is_finished()) && thread.join().is_err() {
                tracing::error!("a worker panicked; its message is above");
            }
        }
    }
}

/// One listener per worker on the same address; the kernel spreads connections over them.
fn listen_group(
    what: &'static str,
    address: SocketAddr,
    workers: u32,
    config: &Config,
) -> Result<Vec<TcpListener>, StartError> {
    // Two processes of one user could share the port unnoticed with SO_REUSEPORT, and one that was killed would still be
    // given its share of the connections: ask without it first.
    drop(listen_alone(what, address)?);
    let options = ListenOptions { backlog: config.accept_backlog, ..ListenOptions::default() };
    let first = listen(address, &options).map_err(|error| listen_error(what, address, &error))?;
    let bound = local(&first)?;
    let mut group = vec![first];
    for _ in 1..workers {
        group.push(listen(bound, &options).map_err(|error| listen_error(what, bound, &error))?);
    }
    Ok(group)
}

/// A listener that nobody shares.
fn listen_alone(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let options = ListenOptions { reuse_port: false, ..ListenOptions::default() };
    port::claim(address, || listen(address, &options)).map_err(|why| match why {
        Unavailable::InUse(holder) => {
            let reason = format!("the port is in use by {holder}; stop that or choose another port");
            StartError::Listen { what, address, reason }
        }
        Unavailable::Refused(error) => listen_error(what, address, &error),
    })
}

/// Spreads handed-over listeners over the workers; where there are fewer, several workers share a queue.
fn share(activated: Vec<TcpListener>, workers: u32) -> Result<Vec<TcpListener>, StartError> {
    let handed = activated.len();
    if handed > workers as usize {
        return Err(StartError::TooManyListeners { handed, workers });
    }
    let clone = |index: u32| activated[index as usize % activated.len()].try_clone();
    (0..workers)
        .map(clone)
        .collect::<Result<_, _>>()
        .map_err(|source| StartError::System { what: "a duplicate of a listener", source })
}

fn listen_error(what: &'static str, address: SocketAddr, error: &std::io::Error) -> StartError {
    let reason = match error.kind() {
        ErrorKind::AddrNotAvailable => "this host has no such address; choose one of its own".to_owned(),
        ErrorKind::PermissionDenied => {
            "permission denied; choose a port above 1023 or grant CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => format!("{error}"),
    };
    StartError::Listen { what, address, reason }
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::System { what: "a listener's address", source })
}

fn router_config(config: &Config) -> Result<RouterConfig, moor_router::StartError> {
    let apps = config.embedded.apps.as_deref().map(moor_router::Apps::read).transpose()?;
    let telling = config.embedded.hooks.as_deref().map(Telling::read).transpose()?.unwrap_or_default();
    Ok(RouterConfig {
        telling,
        listen: config.router_listen,
        data: config.data.clone(),
        admin: None,
        shards: config.shards(),
        fsync: match config.embedded.fsync {
            config::Fsync::Full => moor_router::Fsync::Full,
            config::Fsync::Normal => moor_router::Fsync::Normal,
            config::Fsync::Off => moor_router::Fsync::Off,
        },
        rooms: moor_router::RoomSettings {
            types: config.rooms.types.clone(),
            buffer_members: config.rooms.buffer_members,
            buffer_ms: u32::try_from(config.rooms.buffer_ms).unwrap_or(u32::MAX),
            buffer_messages: config.rooms.buffer_messages,
        },
        retention: config.embedded.retention_messages_per_account,
        group_read_threshold: u32::try_from(config.embedded.group_read_threshold).unwrap_or(u32::MAX),
        retention_days: config.embedded.retention_days,
        token: config.internal_token.as_ref().map(|_| String::from_utf8_lossy(config.token()).into_owned()),
        tls: config.router_tls.files(),
        tls_names: config.router_tls.names.0.clone(),
        apps: apps.unwrap_or_default(),
        ..RouterConfig::default()
    })
}

fn router_stats(router: &RouterHandle) -> control::RouterStats {
    let stats = router.stats_source();
    Arc::new(move || {
        stats().into_iter().map(|(name, value)| (name, serde_json::Value::from(value))).collect()
    })
}

/// Where the workers connect to. A name is looked up once, at start.
fn router_address(config: &Config, listening: &Listening) -> Result<SocketAddr, StartError> {
    let RouterChoice::Address(name) = &config.router else {
        return Ok(listening.router.unwrap_or(config.router_listen));
    };
    let unknown = |reason: String| StartError::RouterName { name: name.clone(), reason };
    let mut found = name.to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("it has no address".to_owned()))
}

fn worker_settings(config: &Config, router: SocketAddr, descriptors: u64, listening: &Listening) -> Settings {
    let ms = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Settings {
        node: config.node().into(),
        epoch: epoch(),
        router,
        internal_address: config.internal_address(listening.internal).into(),
        internal_token: config.internal_token.as_ref().map(|_| config.token().into()),
        router_token: config.token().into(),
        connections_max: config.connections_per_worker(descriptors),
        frame_bytes_max: config.frame_bytes_max,
        channels_per_connection_max: u16::try_from(config.channels_per_connection_max).unwrap_or(u16::MAX),
        send_queue_bytes_max: config.send_queue_bytes_max as usize,
        first_byte_timeout_ms: ms(config.first_byte_timeout_ms),
        plain: config.plain,
        access: Access::default(),
        tls: None,
        internal_tls: None,
        router_tls: None,
        tls_required: config.tls.required,
        websocket: config.websocket.policy().map(Arc::new),
        heartbeat: Heartbeat {
            interval_ms: ms(config.heartbeat.interval_ms),
            min_ms: ms(config.heartbeat.min_ms),
        },
        hot: HotTier {
            events: u8::try_from(config.hot.events).unwrap_or(u8::MAX),
            window_ms: ms(config.hot.window_ms),
            idle_ms: ms(config.hot.idle_ms),
        },
        register_batch: config.register.batch as usize,
        register_per_s: config.register.per_s,
        retry_min_ms: ms(config.drain.retry_min_ms),
        retry_max_ms: config.drain.retry_max_ms.set(),
        rooms: RoomSettings {
            per_channel_max: config.rooms.per_channel_max,
            per_worker_max: config.rooms.per_worker_max,
            per_app_max: config.rooms.per_app_max,
            down_ms: ms(config.rooms.down_ms),
            down_bytes: config.rooms.down_bytes,
        },
        limits: config.limits.clone(),
        proxies: config.proxy.sources.clone(),
        shared: Shared::default(),
    }
}

fn ring_config(config: &Config, settings: &Settings) -> RingConfig {
    RingConfig {
        submission_entries: SUBMISSION_ENTRIES,
        completion_entries: COMPLETION_ENTRIES,
        direct_slots: settings.connections_max + RESERVED_SLOTS,
        recv_buffers: u16::try_from(config.recv_buffers).unwrap_or(1 << 15),
        recv_buffer_bytes: config.recv_buffer_bytes,
        features: config.disable_features,
    }
}

/// Grows with every start: milliseconds since 1970. A clock that was set back further than the last run was
/// long would make a router take the new process for an old one until the lease ends.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_of_a_socket_unit_has_a_worker() {
        let listeners =
            |count| -> Vec<_> { (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect() };
        for (handed, workers) in [(1, 3), (2, 2)] {
            assert_eq!(share(listeners(handed), workers).unwrap().len(), workers as usize);
        }
        let said = share(listeners(3), 2).unwrap_err().to_string();
        assert!(said.contains("3 listeners to 2 workers") && said.contains("set workers to 3"), "{said}");
    }
}
