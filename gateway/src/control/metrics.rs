//! Counters as the outside sees them: where they come from, and their Prometheus text.
//!
//! Workers count into plain memory of their own and publish it with relaxed stores; this side reads and
//! sums. There is no lock between the two, and a reading may mix values of two neighbouring turns.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::admin::AdminState;
use super::process;
use crate::worker::counters::{Board, COUNTERS, Counter};
pub use crate::worker::counters::{CounterInfo, CounterKind};

/// Prefix of every metric of the gateway.
const PREFIX: &str = "gateway";

/// What the workers have published.
pub trait CounterSource: Send + Sync + 'static {
    /// The counters each worker has, in the order of their indexes.
    fn table(&self) -> &'static [CounterInfo];
    /// Number of workers.
    fn workers(&self) -> usize;
    /// The value at `index` of the table.
    fn value(&self, worker: usize, index: usize) -> u64;
    /// Number of turns the worker's loop has made. It must grow at least once a second in a healthy worker:
    /// health and watchdog rest on it.
    fn turns(&self, worker: usize) -> u64;
}

impl CounterSource for Board {
    fn table(&self) -> &'static [CounterInfo] {
        COUNTERS
    }
    fn workers(&self) -> usize {
        Self::workers(self)
    }
    fn value(&self, worker: usize, index: usize) -> u64 {
        Self::value(self, worker, index)
    }
    fn turns(&self, worker: usize) -> u64 {
        // Published with every turn; a clock that stands still is a loop that does.
        Self::value(self, worker, Counter::LastTickMs as usize)
    }
}

/// The value at `index` of all workers together.
pub fn over_workers(source: &dyn CounterSource, index: usize) -> u64 {
    source.table()[index].over_workers((0..source.workers()).map(|worker| source.value(worker, index)))
}

/// The table of metrics in docs/operating.md.
#[must_use]
pub fn metrics_markdown(table: &[CounterInfo]) -> String {
    let mut text = String::from("| metric | kind | meaning |\n|---|---|---|\n");
    for info in table {
        let kind = match info.kind {
            CounterKind::Total => "counter",
            CounterKind::Gauge | CounterKind::Least => "gauge",
        };
        text.push_str(&format!("| `{PREFIX}_{}` | {kind} | {} |\n", info.name, info.help));
    }
    text
}

/// Registries of everything that `/metrics` shows.
pub(super) struct Exposition {
    shared: Registry,
    summed: Registry,
    per_worker: Registry,
}

impl Exposition {
    pub(super) fn new(state: &Arc<AdminState>, collectors: Vec<Box<dyn Collector>>) -> Self {
        let mut shared = Registry::default();
        for collector in collectors {
            shared.register_collector(collector);
        }
        shared.register_collector(Box::new(ProcessCollector(state.clone())));
        let of_workers = |per_worker| {
            let mut registry = Registry::with_prefix(PREFIX);
            registry
                .register_collector(Box::new(WorkerCollector { source: state.source.clone(), per_worker }));
            registry
        };
        Self { shared, summed: of_workers(false), per_worker: of_workers(true) }
    }

    /// OpenMetrics text, with one line per worker instead of sums when `per_worker`.
    pub(super) fn encode(&self, per_worker: bool) -> Result<String, fmt::Error> {
        use prometheus_client::encoding::text::{encode_eof, encode_registry};
        let mut text = String::new();
        encode_registry(&mut text, if per_worker { &self.per_worker } else { &self.summed })?;
        encode_registry(&mut text, &self.shared)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Reads the workers' counters at every scrape.
struct WorkerCollector {
    source: Arc<dyn CounterSource>,
    per_worker: bool,
}

impl fmt::Debug for WorkerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCollector").field("per_worker", &self.per_worker).finish_non_exhaustive()
    }
}

impl Collector for WorkerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (index, info) in self.source.table().iter().enumerate() {
            // The encoder appends `_total` to counters itself.
            let (name, kind) = match info.kind {
                CounterKind::Total => {
                    (info.name.strip_suffix("_total").unwrap_or(info.name), MetricType::Counter)
                }
                CounterKind::Gauge | CounterKind::Least => (info.name, MetricType::Gauge),
            };
            let mut metric = encoder.encode_descriptor(name, info.help, None, kind)?;
            let write =
                |metric: &mut prometheus_client::encoding::MetricEncoder<'_>, value: u64| match info.kind {
                    CounterKind::Total => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
                    CounterKind::Gauge | CounterKind::Least => {
                        metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
                    }
                };
            if self.per_worker {
                for worker in 0..self.source.workers() {
                    let labels = [("worker", worker.to_string())];
                    let mut of_worker = metric.encode_family(&labels)?;
                    write(&mut of_worker, self.source.value(worker, index))?;
                }
            } else {
                write(&mut metric, over_workers(&*self.source, index))?;
            }
        }
        Ok(())
    }
}

/// What concerns the process and not one worker.
struct ProcessCollector(Arc<AdminState>);

impl fmt::Debug for ProcessCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessCollector")
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        let usage = process::Usage::read_quick();
        let seconds = |us: u64| std::time::Duration::from_micros(us).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "exact below 2^53 bytes")]
        let resident = usage.resident_bytes as f64;
        let counts = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let workers = state.source.workers();
        let alive = workers - state.liveness.silent(state.now_ms()).len();
        let gauges = [
            ("gateway_workers", "Workers configured", counts(workers)),
            ("gateway_workers_alive", "Workers whose loop turned within the last 5 s", counts(alive)),
            (
                "gateway_memory_used_percent",
                "Memory in use of what may be: the control group's, the host's or memory.limit_mb, percent",
                i64::try_from(state.memory_used_percent.load(Relaxed)).unwrap_or(i64::MAX),
            ),
            ("gateway_draining", "1 while a drain is under way", i64::from(state.is_draining())),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let reloads = [
            ("gateway_reloads", "SIGHUPs carried out"),
            ("gateway_reloads_failed", "SIGHUPs of which something could not be used and the former stayed"),
        ];
        for ((name, help), count) in reloads.into_iter().zip(&state.reloads) {
            let count = count.load(Relaxed);
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let memory = ConstGauge::new(resident);
        memory.encode(encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            None,
            memory.metric_type(),
        )?)?;
        encoder
            .encode_descriptor("process_cpu_seconds", "User and system CPU time", None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&seconds(usage.user_cpu_us + usage.system_cpu_us), None)
    }
}
