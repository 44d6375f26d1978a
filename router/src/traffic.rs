//! Accepted messages by their traffic marks. Marks are the senders' words, so the number of series is bounded: what comes
//! beyond counts as one other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{Equivalent, HashMap};
use moor_wire::client::TrafficMarks;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::limits::TRAFFIC_SERIES_MAX;
use crate::metrics::Metrics;

/// The text format appends _total to counters itself.
const NAME: &str = "router_traffic_messages";
/// The value of what finds no place.
const OTHER: &str = "other";

/// A series: the app, which of the marks, its value.
type Series = (Box<str>, usize, Box<str>);

/// The same without owning it: to count what is known allocates nothing.
#[derive(Hash)]
struct Key<'a>(&'a str, usize, &'a str);

impl Equivalent<Series> for Key<'_> {
    fn equivalent(&self, (app, mark, value): &Series) -> bool {
        *self.0 == **app && self.1 == *mark && *self.2 == **value
    }
}

/// One shard's counts. The lock is taken for marked messages alone, and by readers.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<HashMap<Series, u64>>);

impl Traffic {
    fn lock(&self) -> MutexGuard<'_, HashMap<Series, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of the app was accepted.
    pub fn count(&self, app: &str, marks: &TrafficMarks) {
        let mut counts = self.lock();
        for (mark, value) in marks.values().into_iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            if let Some(count) = counts.get_mut(&Key(app, mark, value)) {
                *count += 1;
                continue;
            }
            let has_place = counts.len() < TRAFFIC_SERIES_MAX;
            let series = if has_place { (app, value) } else { (OTHER, OTHER) };
            *counts.entry((series.0.into(), mark, series.1.into())).or_default() += 1;
        }
    }
}

/// All shards' counts added up, by name.
fn collect(shards: &[Arc<Metrics>]) -> Vec<(Series, u64)> {
    let mut sums: HashMap<Series, u64> = HashMap::new();
    for shard in shards {
        for (series, count) in &*shard.traffic.lock() {
            *sums.entry(series.clone()).or_default() += count;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort();
    sums
}

/// Every number by name and labels.
pub fn snapshot(shards: &[Arc<Metrics>]) -> Vec<(String, u64)> {
    let named = |(app, mark, value): &Series| {
        format!("{NAME}_total{{app={app:?},mark={:?},value={value:?}}}", TrafficMarks::NAMES[*mark])
    };
    collect(shards).iter().map(|(series, count)| (named(series), *count)).collect()
}

/// Likewise for Prometheus.
pub fn encode(shards: &[Arc<Metrics>], encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let help = "Accepted messages by their traffic marks";
    let mut family = encoder.encode_descriptor(NAME, help, None, MetricType::Counter)?;
    for ((app, mark, value), count) in collect(shards) {
        let labels = [("app", &*app), ("mark", TrafficMarks::NAMES[mark]), ("value", &*value)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(source: &str, release: &str) -> TrafficMarks {
        TrafficMarks { source: source.to_owned(), release: release.to_owned(), ..TrafficMarks::default() }
    }

    #[test]
    fn marks_are_counted_by_app_and_value_over_all_shards() {
        let shards = [Arc::<Metrics>::default(), Arc::default()];
        shards[0].traffic.count("shop", &marks("qr", "canary"));
        shards[1].traffic.count("shop", &marks("qr", ""));
        shards[1].traffic.count("bank", &marks("qr", ""));
        let series = |app: &str, mark: &str, value: &str| {
            format!("router_traffic_messages_total{{app={app:?},mark={mark:?},value={value:?}}}")
        };
        let wanted = [
            (series("bank", "source", "qr"), 1),
            (series("shop", "source", "qr"), 2),
            (series("shop", "release", "canary"), 1),
        ];
        assert_eq!(snapshot(&shards), wanted);
    }

    #[test]
    fn what_senders_make_up_without_end_is_one_other() {
        let shard = [Arc::<Metrics>::default()];
        for number in 0..TRAFFIC_SERIES_MAX as u64 + 5 {
            shard[0].traffic.count("shop", &marks(&number.to_string(), ""));
        }
        shard[0].traffic.count("shop", &marks("0", ""));
        let counts = snapshot(&shard);
        assert_eq!(counts.len(), TRAFFIC_SERIES_MAX + 1);
        let of = |value: &str| counts.iter().find(|(name, _)| name.contains(value)).unwrap().1;
        assert_eq!((of("\"other\""), of("value=\"0\"")), (5, 2));
    }
}
