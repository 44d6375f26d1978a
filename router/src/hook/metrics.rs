//! What the hook counts: once for the inbox, once per hook under its name.

use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics::Value;

/// The inbox's numbers.
#[derive(Debug, Default)]
pub struct InboxMetrics {
    /// Notices put in.
    pub notices: Value,
    /// Notices dropped from a full inbox.
    pub dropped: Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

macro_rules! hook_metrics {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// One hook's numbers.
        #[derive(Debug, Default)]
        pub struct HookMetrics {
            $(#[doc = $help] pub $field: Value,)*
        }

        const TABLE: &[(&str, &str, Kind, fn(&HookMetrics) -> u64)] =
            &[$(($name, $help, Kind::$kind, |metrics| metrics.$field.get()),)*];
    };
}

hook_metrics! {
    delivered, Counter, "router_hook_delivered_total", "Notices the vendor accepted";
    requests, Counter, "router_hook_requests_total", "Requests sent, retries included";
    failures, Counter, "router_hook_failures_total", "Requests that failed or were answered 5xx";
    throttled, Counter, "router_hook_throttled_total", "Requests answered 429";
    refused, Counter, "router_hook_refused_total", "Notices the vendor refused for good";
    dropped, Counter, "router_hook_dropped_total", "Notices pushed out of a full queue";
    expired, Counter, "router_hook_expired_total", "Notices that waited longer than age_max_ms";
    dead, Counter, "router_hook_dead_letters_total", "Notices given up on, the last three kinds included";
    dead_unwritten, Counter, "router_hook_dead_letters_unwritten_total", "Dead letters that the disk refused";
    opened, Counter, "router_hook_breaker_opened_total", "Times the circuit breaker opened";
    queued, Gauge, "router_hook_queued", "Notices waiting, those between two tries included";
    in_flight, Gauge, "router_hook_requests_in_flight", "Requests waiting for their answer";
    breaker, Gauge, "router_hook_breaker_state", "Circuit breaker: 0 closed, 1 half open, 2 open";
}

const INBOX: [(&str, &str); 2] = [
    ("router_hook_notices_total", "Notices from the shards and alarms"),
    ("router_hook_inbox_dropped_total", "Notices dropped because the hook's thread did not keep up"),
];

/// All numbers of the hook, for whoever reads them.
#[derive(Clone, Debug, Default)]
pub struct HookReport {
    /// The inbox's.
    pub inbox: Arc<InboxMetrics>,
    /// Each hook's, by name.
    pub hooks: Arc<[(Box<str>, Arc<HookMetrics>)]>,
}

impl HookReport {
    fn inbox(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        INBOX
            .into_iter()
            .zip([self.inbox.notices.get(), self.inbox.dropped.get()])
            .map(|((name, help), value)| (name, help, value))
    }

    /// Every number by name and label; nothing where there is no hook.
    pub fn snapshot(&self) -> Vec<(String, u64)> {
        if self.hooks.is_empty() {
            return Vec::new();
        }
        let own = self.inbox().map(|(name, _, value)| (name.to_owned(), value));
        let hooks = self.hooks.iter().flat_map(|(hook, metrics)| {
            TABLE.iter().map(move |(name, _, _, get)| (format!("{name}{{hook=\"{hook}\"}}"), get(metrics)))
        });
        own.chain(hooks).collect()
    }

    /// Likewise for Prometheus.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        for (name, help, value) in self.inbox() {
            let metric = ConstCounter::new(value);
            let name = name.strip_suffix("_total").unwrap_or(name);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        for (name, help, kind, get) in TABLE {
            let counter = ConstCounter::new(0_u64);
            let gauge = ConstGauge::new(0_i64);
            let metric_type = match kind {
                Kind::Counter => counter.metric_type(),
                Kind::Gauge => gauge.metric_type(),
            };
            // The text format appends _total to counters itself.
            let name = name.strip_suffix("_total").unwrap_or(name);
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for (hook, metrics) in self.hooks.iter() {
                let label = [("hook", &**hook)];
                let labelled = family.encode_family(&label)?;
                match kind {
                    Kind::Counter => ConstCounter::new(get(metrics)).encode(labelled)?,
                    Kind::Gauge => {
                        let value = i64::try_from(get(metrics)).unwrap_or(i64::MAX);
                        ConstGauge::new(value).encode(labelled)?;
                    }
                }
            }
        }
        Ok(())
    }
}
