//! Admin HTTP of a router that runs by itself: `/healthz`, `/readyz`, `/metrics`, `/v1/stats`.
//!
//! On a tokio thread of its own, where axum is at home; it reads counters and touches nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;

use crate::error::StartError;
use crate::metrics::Report;
use crate::port;

/// The running server.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

struct Content {
    report: Report,
    registry: Registry,
    router: SocketAddr,
}

impl Admin {
    /// Listens and serves.
    pub fn start(address: SocketAddr, report: Report, router: SocketAddr) -> Result<Self, StartError> {
        let failed = |source: std::io::Error| StartError::Listen { address, source };
        let listener = port::claim(address, || std::net::TcpListener::bind(address))
            .map_err(|why| StartError::port(address, why))?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(report.clone()));
        let content = Arc::new(Content { report, registry, router });
        let app = axum::Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(async || "ok\n"))
            .route("/metrics", get(metrics))
            .route("/v1/stats", get(stats))
            .with_state(content);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                served = async { axum::serve(listener, app).await } => served,
                _ = stopped => Ok(()),
            }
        };
        let thread = std::thread::Builder::new()
            .name("router-admin".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve) {
                    tracing::error!(%error, "admin HTTP ended");
                }
            })
            .map_err(StartError::Thread)?;
        Ok(Self { address, stop, thread })
    }

    /// Stops serving and joins.
    pub fn stop(self) {
        self.stop.send(()).ok();
        self.thread.join().ok();
    }
}

async fn metrics(State(content): State<Arc<Content>>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing to a string does not fail.
    prometheus_client::encoding::text::encode(&mut text, &content.registry).ok();
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

async fn stats(State(content): State<Arc<Content>>) -> impl IntoResponse {
    let stats: serde_json::Map<String, serde_json::Value> =
        content.report.snapshot().into_iter().map(|(name, value)| (name, value.into())).collect();
    axum::Json(serde_json::json!({ "router": content.router.to_string(), "stats": stats }))
}
