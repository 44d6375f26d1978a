//! What apps' messages take, and what was refused because it is as much as they may, for whoever reads metrics: by app and
//! shard, so that it shows whose file grows. Apps have the places that they have in the meters of `arrival`.

use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::arrival::{Apps, OTHER, Slot};
use crate::limits::ARRIVAL_APPS_MAX;
use crate::metrics::{Metrics, Value};

/// One shard's numbers.
#[derive(Debug)]
pub struct UsageMeter {
    stored: [Value; ARRIVAL_APPS_MAX + 1],
    refused: [Value; ARRIVAL_APPS_MAX + 1],
}

impl Default for UsageMeter {
    fn default() -> Self {
        let values = || std::array::from_fn(|_| Value::default());
        Self { stored: values(), refused: values() }
    }
}

impl UsageMeter {
    /// An app's messages take so much more, and so much less. Only the shard says so.
    pub fn change_stored(&self, slot: Slot, added: u64, removed: u64) {
        let stored = &self.stored[slot.0.min(ARRIVAL_APPS_MAX)];
        stored.set((stored.get() + added).saturating_sub(removed));
    }

    /// A message was refused.
    pub fn refused(&self, slot: Slot) {
        self.refused[slot.0.min(ARRIVAL_APPS_MAX)].increment();
    }

    fn get(&self, slot: Slot) -> (u64, u64) {
        let at = slot.0.min(ARRIVAL_APPS_MAX);
        (self.stored[at].get(), self.refused[at].get())
    }
}

struct Line {
    app: Arc<str>,
    shard: usize,
    stored: u64,
    refused: u64,
}

/// Apps with messages, or with some refused.
fn lines(shards: &[Arc<Metrics>], apps: &Apps) -> Vec<Line> {
    let names = std::iter::once(Arc::from(OTHER)).chain(apps.all());
    let mut lines = Vec::new();
    for (slot, app) in names.enumerate() {
        let of = |shard: &Arc<Metrics>| shard.usage.get(Slot(slot));
        if shards.iter().all(|shard| of(shard) == (0, 0)) {
            continue;
        }
        lines.extend(shards.iter().enumerate().map(|(shard, metrics)| {
            let (stored, refused) = of(metrics);
            Line { app: app.clone(), shard, stored, refused }
        }));
    }
    lines
}

/// Every number by name and labels.
pub fn snapshot(shards: &[Arc<Metrics>], apps: &Apps) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for Line { app, shard, stored, refused } in lines(shards, apps) {
        all.push((format!("router_app_stored_bytes{{app={app:?},shard=\"{shard}\"}}"), stored));
        all.push((format!("router_app_storage_refused_total{{app={app:?},shard=\"{shard}\"}}"), refused));
    }
    all
}

/// Likewise for Prometheus.
pub fn encode(
    shards: &[Arc<Metrics>],
    apps: &Apps,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let lines = lines(shards, apps);
    let labels = |line: &Line| [("app", line.app.to_string()), ("shard", line.shard.to_string())];
    let what = "Bytes that the app's stored messages take in the shard's file";
    let mut family = encoder.encode_descriptor("router_app_stored_bytes", what, None, MetricType::Gauge)?;
    for line in &lines {
        let value = i64::try_from(line.stored).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&labels(line))?)?;
    }
    let what = "Messages refused because the app's messages take as much as its storage_bytes";
    let mut family =
        encoder.encode_descriptor("router_app_storage_refused", what, None, MetricType::Counter)?;
    for line in &lines {
        ConstCounter::new(line.refused).encode(family.encode_family(&labels(line))?)?;
    }
    Ok(())
}
