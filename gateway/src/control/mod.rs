//! The control plane: signals, drain, health, metrics, systemd. One thread decides, one serves HTTP.
//!
//! It reads what workers publish and tells them to drain or stop; it never takes a lock that a worker takes
//! and is never on the path of a message. A worker that hangs is seen here and reported.

mod admin;
mod banner;
#[cfg(test)]
mod fake;
mod lifecycle;
mod liveness;
pub mod logging;
pub mod memory;
pub mod metrics;
mod process;
pub mod signals;
mod stats;
pub mod systemd;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;

pub use banner::{Listening, banner};
pub use lifecycle::{Outcome, Signal};
pub use liveness::SILENCE_MS_MAX;

use admin::{Admin, AdminState};
use lifecycle::{Action, Lifecycle};
use liveness::Liveness;
use memory::Watch;
use metrics::CounterSource;
use systemd::Notifier;

use crate::worker::drain::DrainPlan;

/// Between two looks at the workers while nothing happens.
const STEP: Duration = Duration::from_millis(250);
/// Between two looks while they drain: the process should end soon after its last connection.
const STEP_DRAINING: Duration = Duration::from_millis(10);

/// What the control thread can ask of the workers. None of it waits for them.
pub trait WorkerControl: Send + Sync + 'static {
    /// Stop accepting, send everybody away, end when done.
    fn drain(&self, plan: DrainPlan);
    /// End now.
    fn stop(&self);
    /// Every worker has ended.
    fn finished(&self) -> bool;
    /// Workers whose link to the router is up.
    fn links_up(&self) -> usize;
}

/// Statistics of the embedded router, as JSON; called at every `/v1/stats`.
pub type RouterStats = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What SIGHUP does; it answers with one line for the log.
pub type Reload = Box<dyn FnMut() -> Result<String, String> + Send>;

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The admin port.
    #[error("the admin port cannot be served: {0}")]
    Admin(std::io::Error),
}

/// What the control plane is made of. Everything listens already when it is handed over.
pub struct ControlContext {
    /// The gateway's name.
    pub node: String,
    /// Bound addresses.
    pub listening: Listening,
    /// Where services reach the internal port (`Config::internal_address`).
    pub internal_address: String,
    /// The bound admin port.
    pub admin: TcpListener,
    /// How SIGTERM drains.
    pub drain: DrainPlan,
    /// What looks at memory.
    pub memory: Watch,
    /// What the workers publish.
    pub source: Arc<dyn CounterSource>,
    /// What the workers obey.
    pub workers: Arc<dyn WorkerControl>,
    /// The embedded router's statistics.
    pub router: Option<RouterStats>,
    /// More metrics, such as the embedded router's.
    pub collectors: Vec<Box<dyn Collector>>,
    /// From [`signals::watch`]; a test holds the other end itself. When the sender is gone, nothing asks for an
    /// end any more.
    pub signals: Receiver<Signal>,
    /// What SIGHUP does.
    pub reload: Reload,
}

/// Runs the control plane on the calling thread until the gateway has ended.
///
/// # Errors
/// [`ControlError`] when the admin port cannot be served; the workers are untouched then.
pub fn run(context: ControlContext) -> Result<Outcome, ControlError> {
    let ControlContext { source, workers, signals, drain, mut memory, mut reload, .. } = context;
    let started = Instant::now();
    let state = Arc::new(AdminState {
        node: context.node,
        listening: context.listening,
        internal_address: context.internal_address,
        liveness: Liveness::new(source.workers(), 0),
        source,
        workers,
        router: context.router,
        draining: AtomicBool::new(false),
        reloads: [AtomicU64::new(0), AtomicU64::new(0)],
        memory_used_percent: memory.used_percent(),
        pressure: memory.pressure(),
        started,
    });
    let admin = Admin::start(context.admin, state.clone(), context.collectors)?;
    let mut notifier = Notifier::new();
    notifier.ready(&format!("serving clients on {}", state.listening.clients));
    let mut life = Lifecycle::new(drain.deadline_ms);
    let outcome = loop {
        let signal = next_signal(&signals, if life.is_running() { STEP } else { STEP_DRAINING });
        let now_ms = state.now_ms();
        state.liveness.sample(&*state.source, now_ms);
        memory.look(now_ms);
        notifier.stroke(now_ms, state.sickness().is_empty());
        let of_signal = signal.and_then(|signal| life.handle_signal(signal, now_ms));
        let of_time = life.handle_time(now_ms, state.workers.finished());
        for action in of_signal.into_iter().chain(of_time) {
            match action {
                Action::Drain => {
                    tracing::info!(deadline_ms = drain.deadline_ms, "draining");
                    state.draining.store(true, Ordering::Relaxed);
                    notifier.stopping("draining");
                    state.workers.drain(drain);
                }
                Action::Stop => {
                    tracing::warn!("stopping at once");
                    state.workers.stop();
                }
                Action::Reload => {
                    let outcome = reload();
                    match &outcome {
                        Ok(said) => tracing::info!("reloaded: {said}"),
                        Err(said) => tracing::error!("not reloaded: {said}"),
                    }
                    state.reloads[usize::from(outcome.is_err())].fetch_add(1, Ordering::Relaxed);
                }
                Action::End(_) => {}
            }
        }
        if let Some(Action::End(outcome)) = of_time {
            break outcome;
        }
    };
    if outcome == Outcome::WorkersGone {
        tracing::error!("the workers ended without being asked; the log above says why");
    } else {
        tracing::info!(?outcome, "ended");
    }
    admin.stop();
    Ok(outcome)
}

fn next_signal(signals: &Receiver<Signal>, wait: Duration) -> Option<Signal> {
    match signals.recv_timeout(wait) {
        Ok(signal) => Some(signal),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            std::thread::sleep(wait);
            None
        }
    }
}

#[cfg(test)]
mod tests;
