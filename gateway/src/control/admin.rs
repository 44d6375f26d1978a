//! The admin port: health, metrics and statistics over HTTP, on a thread of its own.
//!
//! It only reads: published counters, what the control thread has noted, /proc. Nothing here can change the
//! gateway or wait for a worker.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use moor_router::http_limits::Bounded;
use prometheus_client::collector::Collector;
use tokio::sync::oneshot;

use super::liveness::Liveness;
use super::metrics::{CounterSource, Exposition};
use super::stats;
use super::{ControlError, Listening, RouterStats, WorkerControl};
use crate::worker::door::Pressure;
use crate::worker::door::pressure::Level;

const INDEX: &str = "moor-gateway
  /healthz              200 while every worker turns, else 503 and which do not
  /readyz               200 while clients can log in, else 503 and why not
  /metrics              OpenMetrics text; /metrics?per_worker=1 for each worker
  /v1/stats             the same and more as JSON
";

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the handlers read. Shared with the control thread, never with a worker.
pub(super) struct AdminState {
    pub node: String,
    pub listening: Listening,
    pub internal_address: String,
    pub source: Arc<dyn CounterSource>,
    pub workers: Arc<dyn WorkerControl>,
    pub router: Option<RouterStats>,
    pub liveness: Liveness,
    /// How short memory is, as the workers are told.
    pub pressure: Pressure,
    pub draining: AtomicBool,
    /// SIGHUPs carried out, and those of which something could not be.
    pub reloads: [AtomicU64; 2],
    /// Memory in use, percent.
    pub memory_used_percent: Arc<AtomicU64>,
    pub started: Instant,
}

impl AdminState {
    /// Milliseconds since the control thread's start: its clock.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Why no client should be sent here; empty when ready.
    fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.sickness();
        let (up, workers) = (self.workers.links_up(), self.source.workers());
        if up < workers {
            obstacles.push(format!("the router link is up on {up} of {workers} workers"));
        }
        if self.pressure.level() >= Level::Refuse {
            let used_percent = self.memory_used_percent.load(Ordering::Relaxed);
            obstacles.push(format!("memory is short ({used_percent} % in use): nobody new comes in"));
        }
        if self.is_draining() {
            obstacles.push("draining".to_owned());
        }
        obstacles
    }

    /// Why the process should be restarted; empty when healthy. Workers that have ended one by one during a drain are
    /// silent and not sick, and the drain's deadline sees to the others.
    pub(super) fn sickness(&self) -> Vec<String> {
        if self.is_draining() {
            return Vec::new();
        }
        let now_ms = self.now_ms();
        let silent = self.liveness.silent(now_ms);
        let said = |worker: &usize| {
            format!("worker {worker} has not turned for {} ms", self.liveness.silence_ms(*worker, now_ms))
        };
        silent.iter().map(said).collect()
    }
}

struct Shared {
    state: Arc<AdminState>,
    exposition: Exposition,
}

/// The running admin server.
pub(super) struct Admin {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Admin {
    /// Serves on `listener` from a thread of its own.
    pub(super) fn start(
        listener: TcpListener,
        state: Arc<AdminState>,
        collectors: Vec<Box<dyn Collector>>,
    ) -> Result<Self, ControlError> {
        listener.set_nonblocking(true).map_err(ControlError::Admin)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ControlError::Admin)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(ControlError::Admin)?
        };
        let exposition = Exposition::new(&state, collectors);
        let routes = routes(Arc::new(Shared { state, exposition }));
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                let server = axum::serve(Bounded::new(listener), routes);
                tokio::select! {
                    served = async { server.await } => {
                        if let Err(error) = served {
                            tracing::error!(%error, "the admin port ended");
                        }
                    }
                    // Also when the sender is dropped.
                    _ = stopped => {}
                }
            });
        };
        let thread =
            std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map_err(ControlError::Admin)?;
        Ok(Self { stop, thread })
    }

    /// Ends the server; open admin connections are cut.
    pub(super) fn stop(self) {
        // A server that has ended already needs no word.
        self.stop.send(()).ok();
        if self.thread.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/stats", get(stats_json))
        .fallback(|| async { (StatusCode::NOT_FOUND, INDEX) })
        .with_state(shared)
}

fn verdict(complaints: &[String]) -> (StatusCode, String) {
    if complaints.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, complaints.join("\n") + "\n")
    }
}

async fn healthz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    verdict(&shared.state.sickness())
}

async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    verdict(&shared.state.obstacles())
}

async fn metrics(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let per_worker = uri.query().is_some_and(|query| query.split('&').any(|part| part == "per_worker=1"));
    match shared.exposition.encode(per_worker) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn stats_json(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    Json(stats::collect(&shared.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake::FakeWorkers;
    use crate::control::liveness::SILENCE_MS_MAX;
    use std::time::Duration;

    /// Of two workers that have not turned since the start, so long ago.
    fn state(since_start: Duration) -> AdminState {
        let address = "127.0.0.1:1".parse().unwrap();
        let workers = FakeWorkers::new(2);
        AdminState {
            node: "edge-1".to_owned(),
            listening: Listening { clients: address, internal: address, router: None, admin: address },
            internal_address: String::new(),
            source: workers.clone(),
            workers,
            router: None,
            liveness: Liveness::new(2, 0),
            pressure: Pressure::default(),
            draining: AtomicBool::new(false),
            reloads: [AtomicU64::new(0), AtomicU64::new(0)],
            memory_used_percent: Arc::default(),
            started: Instant::now().checked_sub(since_start).unwrap(),
        }
    }

    #[test]
    fn workers_that_have_ended_in_a_drain_are_no_reason_to_kill_it() {
        let state = state(Duration::from_millis(2 * SILENCE_MS_MAX));
        assert_eq!(state.sickness().len(), 2);
        state.draining.store(true, Ordering::Relaxed);
        assert!(state.sickness().is_empty());
        assert_eq!(state.obstacles(), ["draining"]);
    }

    #[test]
    fn who_lets_nobody_in_for_want_of_memory_is_not_ready() {
        let state = state(Duration::ZERO);
        assert!(state.obstacles().is_empty());
        state.memory_used_percent.store(91, Ordering::Relaxed);
        state.pressure.set(Level::Refuse);
        assert_eq!(state.obstacles(), ["memory is short (91 % in use): nobody new comes in"]);
        assert!(state.sickness().is_empty(), "a restart would not help");
    }
}
