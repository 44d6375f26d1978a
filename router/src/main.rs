//! `moor-router`: settings in, a running router until SIGTERM.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use moor_router::{ConfigFile, Driver, Fsync, LogFormat, RoomTypes, RouterConfig, RouterHandle, StartError};
use moor_tls::peer::Files;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Could not start: one sentence on stderr says what to do.
const EXIT_CANNOT_START: u8 = 2;

/// Where sessions are, what was sent to accounts, and the delivery of one to the other.
///
/// Gateways (one link per worker) and backend services connect to --listen. Messages are kept under --data;
/// a message answered OK survives kill -9 and, with --fsync full, power failure. Settings come from the
/// defaults, then the file given with --config, then flags.
#[derive(Debug, Parser)]
#[command(name = "moor-router", version, after_help = EXAMPLES)]
struct Flags {
    /// TOML file with the settings below as keys (listen = "127.0.0.1:7300", shards = 2, ...).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where gateways and services connect; port 0 picks a free one. Default 127.0.0.1:7300. Beyond loopback it
    /// needs a token in the configuration file, or --tls-authorities.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Directory of the message files, made when missing. Default ./moor-data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Serve /healthz, /readyz, /metrics (Prometheus) and /v1/stats (JSON) here. Default: nowhere.
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Shards of a new data directory, each with its own thread and file: about one per core. Fixed once the
    /// directory is made; later starts may leave it out. Default 1.
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// When an accepted message is on disk: before it is answered (full), soon after (normal), when the kernel
    /// likes (off). All survive kill -9; only full survives power failure without loss. Default full.
    #[arg(long, value_name = "POLICY")]
    fsync: Option<Fsync>,
    /// Newest messages kept per account. Default 10000.
    #[arg(long, value_name = "MESSAGES")]
    retention: Option<u64>,
    /// Days a message is kept, also where nobody has fetched it; 0: whatever its age. Default 0.
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// This router's name, as gateways and services see it. Default "router".
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Certificate of this router (PEM, its own first): the port then speaks TLS and nothing else. SIGHUP reads it, its
    /// key and the authorities again.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Its key (PEM). Nobody but its owner may be able to read it.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authorities (PEM, separated by commas) of gateways' and services' certificates: who has none is refused, and one
    /// stands for the token.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tls_authorities: Option<Vec<PathBuf>>,
    /// Names of certificates that may connect, separated by commas. Default: all of the authorities.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tls_names: Option<Vec<String>>,
    /// How threads wait for the kernel: io_uring where there is one, or epoll. Default auto.
    #[arg(long, value_name = "DRIVER")]
    driver: Option<Driver>,
    /// From so many members on a group's messages are stored once, in the group's timeline; below, a copy goes into
    /// each member's. 0: never copied. Default 100.
    #[arg(long, value_name = "MEMBERS")]
    group_read_threshold: Option<u32>,
    /// What types of room messages are worth: [APP:]TYPE=reliable|normal|droppable[/PER_S], separated by commas; the
    /// first that fits holds. Default: 0 normal, 1 reliable, all others droppable.
    #[arg(long, value_name = "LIST")]
    room_types: Option<RoomTypes>,
    /// Sessions in a room from which its messages are collected. Default 500.
    #[arg(long, value_name = "N")]
    room_buffer_members: Option<u32>,
    /// For so long, 0 to 10,000 milliseconds. Default 200.
    #[arg(long, value_name = "MS")]
    room_buffer_ms: Option<u32>,
    /// Or until there are so many, 1 to 4,096. Default 256.
    #[arg(long, value_name = "N")]
    room_buffer_messages: Option<u32>,
    /// What is logged on standard error: error, warn, info, debug, trace, or a filter such as info,moor_router=debug.
    /// Default: what RUST_LOG says, else info.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// A line of the log for people (text) or an object for collectors (json). Default text.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Check the settings, say so and exit.
    #[arg(long)]
    check: bool,
    /// Print one line of JSON with the addresses when ready: {"listening":{"router":"127.0.0.1:7300"}}.
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    announce: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  moor-router                                          loopback, data in ./moor-data
  moor-router --data /var/lib/moor --shards 8          a new directory for an eight-core host
  moor-router --config /etc/moor/router.toml --check   is the file right?
  moor-gateway --router 127.0.0.1:7300                 then: a gateway that uses it

Signals: SIGTERM and SIGINT stop, SIGHUP reads the files of TLS again.
Exit codes: 0 stopped by SIGTERM or SIGINT with everything flushed; 2 cannot start.";

impl Flags {
    /// Defaults, then the file, then the flags.
    fn settle(self) -> Result<RouterConfig, StartError> {
        let mut config = RouterConfig::default();
        if let Some(path) = &self.config {
            ConfigFile::read(path)?.apply_to(&mut config)?;
        }
        let said = ConfigFile {
            listen: self.listen,
            data: self.data,
            admin: self.admin,
            shards: self.shards,
            fsync: self.fsync,
            retention: self.retention,
            retention_days: self.retention_days,
            node: self.node,
            // Not a flag: everybody on the host can read a process's arguments.
            token: None,
            tls_certificate: self.tls_certificate,
            tls_key: self.tls_key,
            tls_authorities: self.tls_authorities,
            tls_names: self.tls_names,
            driver: self.driver,
            log_level: self.log_level,
            log_format: self.log_format,
            group_read_threshold: self.group_read_threshold,
            // Tables: only in the file.
            apps: None,
            room_types: self.room_types,
            room_buffer_members: self.room_buffer_members,
            room_buffer_ms: self.room_buffer_ms,
            room_buffer_messages: self.room_buffer_messages,
            offline: None,
            hook: None,
            arrival: None,
        };
        said.apply_to(&mut config)?;
        config.check()?;
        Ok(config)
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let (check, announce) = (flags.check, flags.announce.is_some());
    match run(flags, check, announce) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moor-router: {error}");
            ExitCode::from(EXIT_CANNOT_START)
        }
    }
}

/// Sets the process's log up.
fn log(config: &RouterConfig) -> Result<(), StartError> {
    let filter = match &config.log_level {
        Some(level) => EnvFilter::try_new(level).map_err(|error| {
            StartError::Setting(format!(
                "log_level is {level:?}, which is no filter ({error}): say error, warn, info, debug or trace"
            ))
        })?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let colours = std::io::stderr().is_terminal();
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

fn run(flags: Flags, check: bool, announce: bool) -> Result<(), StartError> {
    let config = flags.settle()?;
    log(&config)?;
    if check {
        if !config.tls.is_empty() {
            config.tls.acceptor()?;
        }
        config.check_files()?;
        println!("The settings are right: listen on {}, data in {}.", config.listen, config.data.display());
        return Ok(());
    }
    let (data, files) = (config.data.clone(), config.tls.clone());
    let router = moor_router::start(config)?;
    // Its port may have been waited for; from here on a signal means an orderly end.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(StartError::Thread)?;
    if announce {
        announce_json(&router);
    } else {
        println!("moor-router {} listens on {}", env!("CARGO_PKG_VERSION"), router.listen_addr());
        println!("data in {}", data.display());
        if let Some(admin) = router.admin_addr() {
            println!("metrics at http://{admin}/metrics");
        }
        println!("next: moor-gateway --router {}", router.listen_addr());
    }
    notify(&[NotifyState::Ready]);
    let load = router.tls_reloader();
    wait(signals, &router, move || reload(&files, &load));
    tracing::info!("stopping: answering what was offered, flushing what is stored");
    notify(&[NotifyState::Stopping]);
    router.shutdown();
    Ok(())
}

fn announce_json(router: &RouterHandle) {
    let mut listening = serde_json::Map::new();
    listening.insert("router".to_owned(), router.listen_addr().to_string().into());
    if let Some(admin) = router.admin_addr() {
        listening.insert("admin".to_owned(), admin.to_string().into());
    }
    println!("{}", serde_json::json!({ "listening": listening }));
}

/// What SIGHUP does: whoever connects from now on is shown what the files hold now.
fn reload(files: &Files, load: &impl Fn(&Files) -> Result<(), StartError>) {
    if files.is_empty() {
        return tracing::info!("nothing to read again: there is no TLS");
    }
    match load(files) {
        Ok(()) => tracing::info!("certificate, key and authorities are read again"),
        Err(error) => tracing::error!(%error, "the former certificate stays in place"),
    }
}

/// Blocks until a signal says stop; feeds the service manager's watchdog while the shards live.
fn wait(mut signals: Signals, router: &RouterHandle, reload: impl Fn() + Send + 'static) {
    let interval = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
    let (stop, stopped) = flume::bounded::<()>(1);
    let handle = signals.handle();
    let waiter = std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal != SIGHUP {
                stop.send(()).ok();
                return;
            }
            reload();
        }
    });
    let interval_or_long = interval.unwrap_or(Duration::from_secs(3600));
    while stopped.recv_timeout(interval_or_long) == Err(flume::RecvTimeoutError::Timeout) {
        if interval.is_some() && router.is_healthy() {
            notify(&[NotifyState::Watchdog]);
        }
    }
    handle.close();
    waiter.join().ok();
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
