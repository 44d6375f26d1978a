//! The meters added up, for whoever reads them.

use std::collections::HashMap as StdMap;
use std::sync::Arc;

use moor_wire::client::Class;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;

use super::meter::{CLASSES, LATENCY_BOUNDS_MS};
use super::{Apps, OTHER, Slot, State};
use crate::clock::wall_ms;
use crate::hook::class_word;
use crate::limits::{ARRIVAL_MATURE_S, ARRIVAL_WINDOWS_S};
use crate::metrics::{Metrics, Value};

/// What the library wants to be told the type of where there is none.
type NoExemplar = Exemplar<[(&'static str, &'static str); 0], f64>;

type Sums = [[u64; State::ALL.len()]; CLASSES.len()];

/// What readers of arrival rates need besides the shards' meters.
#[derive(Clone, Debug, Default)]
pub struct ArrivalReport {
    /// Which app has which place.
    pub apps: Arc<Apps>,
    /// 1 while an app's alarm is raised.
    pub alarms: Arc<[(Box<str>, Value)]>,
}

/// Messages of an app that are to be acknowledged, accepted in the window that ends [`ARRIVAL_MATURE_S`] ago, and how many of
/// them were acknowledged.
pub fn rate(shards: &[Arc<Metrics>], slot: Slot, window_s: u64, now_s: u64) -> (u64, u64) {
    let sums = window(shards, slot, mature(window_s, now_s));
    let acknowledged = CLASSES.into_iter().filter(|class| is_acknowledged(*class));
    let of = |state: State| acknowledged.clone().map(|class| sums[class as usize][state as usize]).sum();
    (of(State::Accepted), of(State::Acknowledged))
}

/// Messages that nobody keeps are not acknowledged either.
const fn is_acknowledged(class: Class) -> bool {
    matches!(class, Class::Command | Class::Reliable)
}

const fn mature(window_s: u64, now_s: u64) -> (u64, u64) {
    let to_s = now_s.saturating_sub(ARRIVAL_MATURE_S) + 1;
    (to_s.saturating_sub(window_s), to_s)
}

fn window(shards: &[Arc<Metrics>], slot: Slot, seconds: (u64, u64)) -> Sums {
    let mut sums = Sums::default();
    for shard in shards {
        shard.arrival.add_window(slot, seconds, &mut sums);
    }
    sums
}

struct Line {
    labels: Vec<(&'static str, String)>,
    value: u64,
}

/// Every app with a place, and all others together, where anything was counted.
struct Collected {
    totals: Vec<Line>,
    windows: Vec<Line>,
    per_100k: Vec<Line>,
    latencies: Vec<(String, [u64; LATENCY_BOUNDS_MS.len() + 1], u64)>,
}

impl ArrivalReport {
    fn collect(&self, shards: &[Arc<Metrics>]) -> Collected {
        let now_s = wall_ms() / 1000;
        let (mut totals, mut windows) = (Vec::new(), Vec::new());
        let (mut per_100k, mut latencies) = (Vec::new(), Vec::new());
        let names = self.apps.all();
        let named = names.iter().enumerate().map(|(position, name)| (Slot(position + 1), &**name));
        for (slot, app) in std::iter::once((Slot::OTHER, OTHER)).chain(named) {
            let app = app.to_owned();
            let mut sums = Sums::default();
            for shard in shards {
                shard.arrival.add_totals(slot, &mut sums);
            }
            let seen: Vec<Class> =
                CLASSES.into_iter().filter(|class| sums[*class as usize] != [0; State::ALL.len()]).collect();
            let label = |class: Class| vec![("app", app.clone()), ("class", class_word(class).to_owned())];
            for class in &seen {
                for state in State::ALL {
                    let mut labels = label(*class);
                    labels.push(("state", state.word().to_owned()));
                    totals.push(Line { labels, value: sums[*class as usize][state as usize] });
                }
            }
            for window_s in ARRIVAL_WINDOWS_S {
                // Whole seconds that are over, but for what is still on its way to a counter.
                let recent = window(shards, slot, (now_s.saturating_sub(window_s), now_s));
                let ripe = window(shards, slot, mature(window_s, now_s));
                for class in &seen {
                    let mut labels = label(*class);
                    labels.push(("window", format!("{window_s}s")));
                    let (accepted, acknowledged) = (
                        ripe[*class as usize][State::Accepted as usize],
                        ripe[*class as usize][State::Acknowledged as usize],
                    );
                    if is_acknowledged(*class)
                        && let Some(value) = (acknowledged.min(accepted) * 100_000).checked_div(accepted)
                    {
                        per_100k.push(Line { labels: labels.clone(), value });
                    }
                    for state in State::ALL {
                        let mut labels = labels.clone();
                        labels.push(("state", state.word().to_owned()));
                        windows.push(Line { labels, value: recent[*class as usize][state as usize] });
                    }
                }
            }
            let mut buckets = [0; LATENCY_BOUNDS_MS.len() + 1];
            let sum_ms = shards.iter().map(|shard| shard.arrival.add_latency(slot, &mut buckets)).sum();
            if buckets.iter().any(|count| *count > 0) {
                latencies.push((app, buckets, sum_ms));
            }
        }
        Collected { totals, windows, per_100k, latencies }
    }

    /// Every number by name and labels; rates in acknowledged messages of a hundred thousand.
    pub fn snapshot(&self, shards: &[Arc<Metrics>]) -> Vec<(String, u64)> {
        let named = |name: &str, labels: &[(&str, String)]| {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
            format!("{name}{{{}}}", labels.join(","))
        };
        let collected = self.collect(shards);
        let mut all = Vec::new();
        for (name, lines) in [
            ("router_messages_total", &collected.totals),
            ("router_arrival_messages", &collected.windows),
            ("router_arrival_per_100k", &collected.per_100k),
        ] {
            all.extend(lines.iter().map(|line| (named(name, &line.labels), line.value)));
        }
        for (app, buckets, sum_ms) in &collected.latencies {
            let labels = [("app", app.clone())];
            all.push((named("router_acknowledge_ms_sum", &labels), *sum_ms));
            all.push((named("router_acknowledge_ms_count", &labels), buckets.iter().sum()));
        }
        for (app, alarm) in self.alarms.iter() {
            all.push((named("router_arrival_alarm", &[("app", app.to_string())]), alarm.get()));
        }
        all
    }

    /// Likewise for Prometheus, with the histogram's buckets, in its units: ratios and seconds.
    pub fn encode(
        &self,
        shards: &[Arc<Metrics>],
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let collected = self.collect(shards);
        let mut family = encoder.encode_descriptor(
            "router_messages",
            "Messages by what became of them",
            None,
            MetricType::Counter,
        )?;
        for line in &collected.totals {
            ConstCounter::new(line.value).encode(family.encode_family(&line.labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "router_arrival_messages",
            "Messages by what became of them within the window",
            None,
            MetricType::Gauge,
        )?;
        for line in &collected.windows {
            let value = i64::try_from(line.value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&line.labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "router_arrival_ratio",
            "Part of the messages accepted within the window, and old enough, that was acknowledged",
            None,
            MetricType::Gauge,
        )?;
        for line in &collected.per_100k {
            let ratio = f64::from(u32::try_from(line.value).unwrap_or(u32::MAX)) / 100_000.0;
            ConstGauge::new(ratio).encode(family.encode_family(&line.labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "router_arrival_alarm",
            "1 while the arrival rate is below its threshold",
            None,
            MetricType::Gauge,
        )?;
        for (app, alarm) in self.alarms.iter() {
            let labels = [("app", &**app)];
            let value = i64::try_from(alarm.get()).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "router_acknowledge_seconds",
            "Time from accepting a message to its first acknowledgement",
            None,
            MetricType::Histogram,
        )?;
        for (app, counts, sum_ms) in &collected.latencies {
            let seconds = |ms: u64| std::time::Duration::from_millis(ms).as_secs_f64();
            let bounds = LATENCY_BOUNDS_MS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            let labels = [("app", app.as_str())];
            let none: Option<&StdMap<usize, NoExemplar>> = None;
            family.encode_family(&labels)?.encode_histogram(
                seconds(*sum_ms),
                counts.iter().sum(),
                &buckets,
                none,
            )?;
        }
        Ok(())
    }
}
