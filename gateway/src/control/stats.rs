//! The document behind `/v1/stats`.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::admin::AdminState;
use super::metrics;
use super::process::Usage;

/// Everything known at this moment: `process`, `gateway` (sums), `workers` (each), `router` when embedded.
pub(super) fn collect(state: &AdminState) -> Value {
    let source = &*state.source;
    let now_ms = state.now_ms();
    let silent = state.liveness.silent(now_ms);
    let usage = Usage::read_exact();
    let mut gateway = Map::new();
    gateway.insert("node".to_owned(), json!(state.node));
    gateway.insert("workers".to_owned(), json!(source.workers()));
    gateway.insert("workers_alive".to_owned(), json!(source.workers() - silent.len()));
    let used_percent = state.memory_used_percent.load(Ordering::Relaxed);
    gateway.insert("memory_used_percent".to_owned(), json!(used_percent));
    gateway.insert("draining".to_owned(), json!(state.is_draining()));
    for (name, count) in ["reloads_total", "reloads_failed_total"].into_iter().zip(&state.reloads) {
        gateway.insert(name.to_owned(), json!(count.load(Ordering::Relaxed)));
    }
    gateway.insert("clients_address".to_owned(), json!(state.listening.clients));
    gateway.insert("internal_address".to_owned(), json!(state.internal_address));
    gateway.insert("admin_address".to_owned(), json!(state.listening.admin));
    gateway.insert("router_address".to_owned(), json!(state.listening.router));
    for (index, info) in source.table().iter().enumerate() {
        gateway.insert(info.name.to_owned(), json!(metrics::over_workers(source, index)));
    }
    let workers: Vec<Value> = (0..source.workers())
        .map(|worker| {
            let mut row = Map::new();
            row.insert("worker".to_owned(), json!(worker));
            row.insert("alive".to_owned(), json!(!silent.contains(&worker)));
            row.insert("silence_ms".to_owned(), json!(state.liveness.silence_ms(worker, now_ms)));
            for (index, info) in source.table().iter().enumerate() {
                row.insert(info.name.to_owned(), json!(source.value(worker, index)));
            }
            Value::Object(row)
        })
        .collect();
    let mut document = Map::new();
    document.insert(
        "process".to_owned(),
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_ms": now_ms,
            "resident_bytes": usage.resident_bytes,
            "anonymous_bytes": usage.anonymous_bytes,
            "user_cpu_us": usage.user_cpu_us,
            "system_cpu_us": usage.system_cpu_us,
            "threads": usage.threads,
        }),
    );
    document.insert("gateway".to_owned(), Value::Object(gateway));
    document.insert("workers".to_owned(), Value::Array(workers));
    if let Some(router) = &state.router {
        document.insert("router".to_owned(), router());
    }
    Value::Object(document)
}
