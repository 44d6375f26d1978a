//! Moor's router: where sessions are, what was sent to accounts, and the delivery of one to the other.
//!
//! [`start`] runs a router on threads of its own inside any process; the binary `moor-router` is little more
//! than that. Per shard (accounts by hash) there is one event-loop thread that owns the shard and the links
//! it accepted, and three storage threads of one SQLite file.
//!
//! * [`port`]: a port that a killed process left is waited for, who has one is named
//! * [`http_limits`]: an admin port's bounds
//! * `gate`: who may connect, by token or certificate
//! * `link`: connections, their HELLO, what each verb means
//! * `lease`: links, their leases, incarnations of gateways
//! * `registry`: (app, account) → sessions
//! * `delivery`: cursors, window and retries of one session
//! * `group`: who is in a group, and who may change it
//! * `shard`: the owner of all that, without I/O or clock
//! * `offline`: whose messages nobody fetches, once per interval
//! * `hook`: tells vendors of pushes who has messages that nobody fetches; a thread of its own
//! * `arrival`: what became of messages, per app, over sliding windows; alarms
//! * `traffic`: accepted messages by their traffic marks
//! * `usage`: what apps' stored messages take, per shard, for metrics
//! * `store`: the traits behind which messages and locations are kept, and the engines
#![forbid(unsafe_code)]

mod admin;
mod apps;
mod arrival;
mod clock;
mod config;
mod datadir;
mod delivery;
mod error;
mod gate;
mod group;
mod hook;
#[doc(hidden)]
pub mod http_limits;
mod lease;
mod levels;
mod limits;
mod link;
mod metrics;
mod offline;
mod outbox;
pub mod port;
mod queue;
#[doc(hidden)]
pub mod registry;
mod rooms;
mod seldom;
mod shard;
#[doc(hidden)]
pub mod store;
mod thread;
mod threads;
mod traffic;
mod usage;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;

use moor_tls::peer::Files;

pub use apps::{AppRules, AppTable, AppTables, Apps, DevicePolicy};
pub use arrival::alarm::ArrivalSettings;
pub use config::{ConfigFile, Driver, Fsync, LogFormat, OfflineSettings, RouterConfig, Telling};
pub use error::StartError;
pub use hook::{Event, HookSettings};
#[doc(hidden)]
pub use lease::LinkId;
#[doc(hidden)]
pub use metrics::metrics_markdown;
pub use rooms::{RoomSettings, RoomTypes};

use crate::admin::Admin;
use crate::arrival::report::ArrivalReport;
use crate::datadir::DataDir;
use crate::gate::Gate;
use crate::hook::{Hook, Prepared};
use crate::lease::{LeaseTable, ShardIndex};
use crate::levels::Levels;
use crate::limits::{LEASE_MS, MAILBOX_PARCELS_MAX};
use crate::metrics::{Metrics, Report, Value};
use crate::offline::Interest;
use crate::store::MessageStore as _;
use crate::store::location::Embedded;
use crate::store::retention::Retention;
use crate::store::sqlite::SqliteStore;
use crate::thread::{Mail, Seed, Shared};
use crate::threads::Threads;

#[doc(hidden)]
pub use crate::thread::LocationHandle;

/// A running router. Dropping it stops the router gracefully, as [`RouterHandle::shutdown`] does.
#[derive(Debug)]
pub struct RouterHandle {
    listen_addr: SocketAddr,
    report: Report,
    mailboxes: Vec<flume::Sender<Mail>>,
    threads: Vec<JoinHandle<()>>,
    /// Those and the hook's.
    running: Threads,
    admin: Option<Admin>,
    shared: Arc<Shared>,
    hook: Option<Hook>,
    /// Holds the directory's lock until the last thread is done.
    data: DataDir,
}

impl RouterHandle {
    /// Where gateways and services connect.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Where `/metrics` and its like are served, if they are.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// Every counter and gauge by its Prometheus name, added up over the shards. Costs some loads per shard.
    #[must_use]
    pub fn stats(&self) -> Vec<(String, u64)> {
        self.report.snapshot()
    }

    /// What [`Self::stats`] reads, from any thread and as long as wanted.
    pub fn stats_source(&self) -> impl Fn() -> Vec<(String, u64)> + Send + Sync + use<> {
        let report = self.report.clone();
        move || report.snapshot()
    }

    /// The router's metrics, for the registry of an embedding process.
    #[must_use]
    pub fn collector(&self) -> Box<dyn prometheus_client::collector::Collector> {
        Box::new(self.report.clone())
    }

    /// Reads certificate, key and authorities again, for whoever connects from then on; from any thread and as often as
    /// wanted. What cannot be used is not taken.
    pub fn tls_reloader(&self) -> impl Fn(&Files) -> Result<(), StartError> + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move |files| Ok(shared.gate.reload(files)?)
    }

    /// True while every shard's thread and the hook's run. For health checks and watchdogs.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.running.ended().is_empty()
    }

    /// Stops: no new links, what was offered is committed and answered, files are closed. Blocks until done,
    /// a few seconds at most.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.running.dismiss();
        for mailbox in self.mailboxes.drain(..) {
            // Fails only when the thread has ended already.
            mailbox.send(Mail::Stop).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
        // After the shards: what they had to tell lies in its inbox.
        if let Some(hook) = self.hook.take() {
            hook.stop();
        }
        if let Some(admin) = self.admin.take() {
            admin.stop();
        }
    }
}

impl Drop for RouterHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a router on threads of its own and returns when it accepts connections.
///
/// # Errors
/// [`StartError`]: its text is one sentence that says what to do.
pub fn start(config: RouterConfig) -> Result<RouterHandle, StartError> {
    start_with(config, |_| Box::new(Embedded::default()))
}

/// [`start`] with a location store of the caller's: `locations` makes one for each shard, by its number.
///
/// # Errors
/// As [`start`].
#[doc(hidden)]
pub fn start_with(
    config: RouterConfig,
    mut locations: impl FnMut(u16) -> Box<dyn LocationHandle>,
) -> Result<RouterHandle, StartError> {
    config.check()?;
    let gate = Gate::new(config.token.clone(), &config.tls, &config.tls_names)?;
    let prepared = Prepared::load(&config.telling.hook)?;
    // The port first: on a port in use nothing should have been made on disk.
    let listener = listen(config.listen)?;
    let listen_addr =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
    let data = DataDir::open(&config.data, config.shards)?;
    let shards = data.shards;
    let report = Report {
        shards: (0..shards).map(|_| Arc::new(Metrics::default())).collect(),
        hook: hook::report(&prepared),
        arrival: ArrivalReport {
            apps: Arc::new(arrival::Apps::new(config.telling.arrival.iter().map(|arrival| &*arrival.app))),
            alarms: config
                .telling
                .arrival
                .iter()
                .map(|arrival| (arrival.app.as_str().into(), Value::default()))
                .collect(),
        },
    };
    for shard in report.shards.iter() {
        shard.arrival.open(report.arrival.apps.clone());
    }
    let epoch = clock::wall_ms();
    let running = Threads::default();
    let hook = if config.telling.hook.is_empty() && config.telling.arrival.is_empty() {
        None
    } else {
        let watch = arrival::watch::new(&config.telling.arrival, &report);
        let token = running.add("router-hook");
        Some(Hook::start(prepared, report.hook.clone(), &config.data, epoch, watch, token)?)
    };
    let shared = Arc::new(Shared {
        leases: Arc::new(LeaseTable::new(LEASE_MS)),
        shards,
        name: config.node.clone(),
        epoch,
        gate,
        apps: Arc::new(config.apps.clone().per_shard(shards)),
        totals: Arc::default(),
        levels: Levels::open(&data)?,
        rooms: config.rooms.clone(),
        rooms_open: Arc::default(),
        report: report.clone(),
        settled: AtomicU32::new(0),
    });
    let (mailboxes, receivers): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| flume::bounded(MAILBOX_PARCELS_MAX)).unzip();
    let mut handle = RouterHandle {
        listen_addr,
        report,
        mailboxes: mailboxes.clone(),
        threads: Vec::new(),
        running,
        admin: None,
        shared: Arc::clone(&shared),
        hook,
        data,
    };
    // All files before the first thread: a broken one must not leave half a router to be stopped.
    let mut stores = Vec::new();
    for (position, metrics) in handle.report.shards.iter().enumerate() {
        let index = u16::try_from(position).unwrap_or(u16::MAX);
        let path = handle.data.messages(u32::from(index));
        let mut retention = Retention::new(config.retention, config.retention_days);
        retention.walks_for_room = config.apps.have_storage_limits();
        let mut store = SqliteStore::open(&path, &index.to_string(), config.fsync, retention, metrics)?;
        let usage = store.take_usage();
        shared.totals.add(&usage);
        stores.push((ShardIndex(index), store, usage));
    }
    let interest = Interest::new(&config.telling);
    for ((index, store, usage), mailbox) in stores.into_iter().zip(receivers) {
        let seed = Seed {
            index,
            shared: shared.clone(),
            metrics: handle.report.shards[usize::from(index.0)].clone(),
            listener: listener.try_clone().map_err(StartError::Thread)?,
            store: Box::new(store),
            usage,
            locations: locations(index.0),
            mailbox,
            peers: mailboxes.clone(),
            driver: config.driver,
            group_read_threshold: config.group_read_threshold,
            inbox: handle.hook.as_ref().map(|hook| hook.inbox.clone()),
            offline: config.telling.offline.clone(),
            interest: interest.clone(),
        };
        handle.threads.push(spawn_shard(seed, &handle.running)?);
    }
    // Last: who answers on /readyz is ready.
    if let Some(address) = config.admin {
        handle.admin =
            Some(Admin::start(address, handle.report.clone(), listen_addr, handle.running.clone())?);
    }
    Ok(handle)
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    // Without SO_REUSEPORT, on purpose: a second router must learn that the port is taken. The shard threads
    // accept from copies of one socket; links are few.
    let open = || {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok::<TcpListener, std::io::Error>(socket.into())
    };
    port::claim(address, open).map_err(|why| StartError::port(address, why))
}

fn spawn_shard(seed: Seed, threads: &Threads) -> Result<JoinHandle<()>, StartError> {
    let (ready, is_ready) = flume::bounded(1);
    let name = format!("router-{}", seed.index.0);
    let running = threads.add(&name);
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let _running = running;
            let run = std::panic::AssertUnwindSafe(|| thread::run(seed, &ready));
            if std::panic::catch_unwind(run).is_err() {
                // A broken invariant of a shard: going on would serve some accounts and silently not others.
                tracing::error!("a router thread panicked; the process stops");
                std::process::abort();
            }
        })
        .map_err(StartError::Thread)?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(StartError::Thread(error)),
        Err(_) => Err(StartError::Thread(std::io::Error::other("the thread ended at once"))),
    }
}
