//! Admin HTTP of a router that runs by itself: `/healthz`, `/readyz`, `/metrics`, `/v1/stats`.
//!
//! On a tokio thread of its own, where axum is at home; it reads counters and touches nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;

use crate::error::StartError;
use crate::http_limits::Bounded;
use crate::metrics::Report;
use crate::port;
use crate::threads::Threads;

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
    threads: Threads,
}

impl Admin {
    /// Listens and serves.
    pub fn start(
        address: SocketAddr,
        report: Report,
        router: SocketAddr,
        threads: Threads,
    ) -> Result<Self, StartError> {
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
        let content = Arc::new(Content { report, registry, router, threads });
        let app = axum::Router::new()
            .route("/healthz", get(health))
            .route("/readyz", get(health))
            .route("/metrics", get(metrics))
            .route("/v1/stats", get(stats))
            .with_state(content);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                served = async { axum::serve(Bounded::new(listener), app).await } => served,
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

/// A router without one of its threads serves some accounts and silently not others, or tells vendors nothing.
async fn health(State(content): State<Arc<Content>>) -> (StatusCode, String) {
    let ended = content.threads.ended();
    if ended.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("ended by a fault: {}\n", ended.join(", ")))
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::http_limits::CONNECTIONS_MAX;

    fn start(threads: Threads) -> Admin {
        let report = Report {
            shards: Arc::default(),
            hook: crate::hook::report(&crate::hook::Prepared::default()),
            arrival: crate::arrival::report::ArrivalReport::default(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Admin::start(address, report, address, threads).unwrap()
    }

    fn ask(admin: &Admin, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(admin.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        stream
    }

    fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_router_that_has_lost_a_thread_says_so() {
        let threads = Threads::default();
        let (shard, hook) = (threads.add("router-0"), threads.add("router-hook"));
        let admin = start(threads);
        for path in ["/healthz", "/readyz"] {
            let text = answer(ask(&admin, path));
            assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("ok\n"), "{text}");
        }
        drop(hook);
        for path in ["/healthz", "/readyz"] {
            let text = answer(ask(&admin, path));
            assert!(text.starts_with("HTTP/1.1 503") && text.contains("router-hook"), "{text}");
        }
        drop(shard);
        admin.stop();
    }

    #[test]
    fn silent_connections_take_places_that_are_few() {
        let admin = start(Threads::default());
        let silent: Vec<_> =
            (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(admin.address).unwrap()).collect();
        let mut waits = ask(&admin, "/healthz");
        waits.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(waits.read(&mut [0]).is_err(), "one more than there are places");
        drop(silent);
        waits.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(answer(waits).starts_with("HTTP/1.1 200"));
        admin.stop();
    }
}
