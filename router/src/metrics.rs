//! What the router counts. Each shard thread has a set of its own, so that counting shares no cache line;
//! readers add the sets up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::arrival::Meter;
use crate::arrival::report::ArrivalReport;
use crate::hook::metrics::HookReport;
use crate::traffic::{self, Traffic};
use crate::usage::{self, UsageMeter};

/// One number of one shard.
#[derive(Debug, Default)]
pub struct Value(AtomicU64);

impl Value {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Replaces the value (gauges).
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

macro_rules! metrics {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// The numbers of one shard.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: Value,)*
            /// What became of messages, by app.
            pub arrival: Meter,
            /// Messages by their marks.
            pub traffic: Traffic,
            /// What apps' messages take.
            pub usage: UsageMeter,
        }

        impl Metrics {
            fn each(&self, mut see: impl FnMut(&'static str, &'static str, Kind, u64)) {
                $(see($name, $help, Kind::$kind, self.$field.get());)*
            }
        }
    };
}

metrics! {
    links_open, Gauge, "router_links_open", "Connections of gateways and services that said HELLO";
    links_accepted, Counter, "router_links_accepted_total", "Connections accepted";
    links_refused, Counter, "router_links_refused_total", "Connections closed for a protocol violation, a bad HELLO or a limit";
    links_superseded, Counter, "router_links_superseded_total", "Links voided by a newer incarnation or a successor";
    leases_expired, Counter, "router_leases_expired_total", "Links voided because their lease ended";
    accounts, Gauge, "router_accounts", "Accounts with at least one session";
    sessions, Gauge, "router_sessions", "Registered sessions";
    registers, Counter, "router_registers_total", "Registrations received";
    registers_refused, Counter, "router_registers_refused_total", "Registrations with bad names or above a limit";
    unregisters, Counter, "router_unregisters_total", "Sessions unregistered by their gateway";
    not_here, Counter, "router_not_here_total", "Entries corrected because a gateway did not know the session";
    swept, Counter, "router_sessions_swept_total", "Entries removed because their link was void";
    submits, Counter, "router_submits_total", "Messages offered by clients and services";
    accepted, Counter, "router_submits_accepted_total", "Messages stored and answered OK, for the first time";
    duplicates, Counter, "router_submits_duplicate_total", "Messages whose client id was known already";
    devices_forgotten, Counter, "router_devices_forgotten_total", "Positions forgotten because their account has more devices than are kept";
    subscriptions_refused, Counter, "router_subscriptions_refused_total", "Subscriptions to receipts refused by a shard: too many, or its queue full";
    refused_overload, Counter, "router_submits_overloaded_total", "Messages refused because the store's queue was full";
    refused_storage, Counter, "router_submits_storage_total", "Messages refused because the disk refused";
    refused_invalid, Counter, "router_submits_invalid_total", "Messages refused for a bad name, id or size";
    deliveries, Counter, "router_deliveries_total", "Deliveries handed to gateways, retries included";
    retries, Counter, "router_retries_total", "Times a session was sent its unacknowledged messages again";
    rests, Counter, "router_rests_total", "Sessions given up on until they speak again";
    offline_messages, Counter, "router_offline_messages_total", "Messages that were accepted with nobody there, or left unacknowledged";
    offline_notices, Counter, "router_offline_notices_total", "Notices about absent accounts handed to the hook";
    offline_merged, Counter, "router_offline_merged_total", "Absences told together with others of their account";
    offline_early, Counter, "router_offline_early_total", "Absent accounts told of and forgotten early because there were too many";
    offline_accounts, Gauge, "router_offline_accounts", "Absent accounts that the hook was told of within the interval, or will be";
    acks, Counter, "router_acks_total", "Acknowledgements that moved a cursor";
    syncs, Counter, "router_syncs_total", "SYNC requests";
    rooms, Gauge, "router_rooms", "Rooms with somebody in them";
    rooms_refused, Counter, "router_rooms_refused_total", "Counts of rooms not taken because the router has as many as it may have";
    room_counts, Counter, "router_room_counts_total", "Counts of members received from gateways";
    room_publishes, Counter, "router_room_publishes_total", "Messages for rooms offered by clients and services";
    room_runs, Counter, "router_room_runs_total", "Runs of droppable messages that a shard took for a room of another shard";
    room_limited, Counter, "router_room_limited_total", "Messages for rooms refused or left out because their type came too fast";
    room_batches, Counter, "router_room_batches_total", "Batches of rooms sent, once for all gateways";
    room_batched, Counter, "router_room_batched_total", "Messages in them";
    room_pushes, Counter, "router_room_pushes_total", "Batches of rooms sent, once per gateway worker";
    room_pulls, Counter, "router_room_pulls_total", "Sessions that asked for reliable messages of a room";
    room_pulls_refused, Counter, "router_room_pulls_refused_total", "Those told to ask later because too many asked the store";
    strays, Counter, "router_strays_total", "ACK or SYNC of a session that is not registered";
    pushes_dropped, Counter, "router_pushes_dropped_total", "Pushes not queued, or taken out again for heavier ones, because the link's queue was full";
    pushes_dropped_normal, Counter, "router_pushes_dropped_normal_total", "Pushes of class normal and receipts among them";
    pushes_dropped_transient, Counter, "router_pushes_dropped_transient_total", "Pushes of class transient among them";
    levels_off, Gauge, "router_levels_off", "Business levels switched off: 1 is level 2, 2 is levels 1 and 2";
    degraded, Counter, "router_submits_degraded_total", "Messages refused because their business level is switched off";
    quota_refused, Counter, "router_quota_refused_total", "Messages, changes of groups, read marks and preferences refused because their app had used up a quota";
    made_way, Counter, "router_submits_made_way_total", "Writes refused because everything was full and their app had more waiting than another";
    tenants_waiting, Gauge, "router_submits_waiting", "Messages, read marks, preferences and positions that wait by app until the store has room";
    devices_kicked, Counter, "router_devices_kicked_total", "Sessions closed because their app's policy does not let them beside a newer one";
    device_acks, Counter, "router_device_acks_total", "Acknowledgements told to an account's other devices";
    marks, Counter, "router_read_marks_total", "Read marks received from clients";
    marks_refused, Counter, "router_read_marks_refused_total", "Read marks not stored because a quota was used up, something was full or the disk refused";
    relays, Counter, "router_relays_total", "Messages of class normal or transient offered by clients and services";
    relays_reached, Counter, "router_relays_reached_total", "Sessions such messages were on their way to";
    relays_nobody, Counter, "router_relays_nobody_total", "Such messages answered NOT_FOUND: nobody was logged in";
    relays_refused, Counter, "router_relays_refused_total", "Such messages refused or dropped because something was full";
    slow_links, Counter, "router_links_slow_total", "Links closed because they did not read";
    receipts, Counter, "router_receipts_total", "Receipts sent to services";
    links_overrun, Counter, "router_links_overrun_total", "Links of gateways ended because another shard had no room for what is said once on them";
    crossing_full, Counter, "router_crossing_full_total", "Turns in which another shard's mailbox was full";
    crossing_refused, Counter, "router_crossing_refused_total", "Pieces of work refused or forgotten because too much waited to cross to their shard";
    loads, Counter, "router_store_loads_total", "Accounts loaded from the store";
    ranges, Counter, "router_store_ranges_total", "Ranges of messages read back from the store";
    read_errors, Counter, "router_store_read_errors_total", "Reads the store refused";
    lookups_cut, Counter, "router_lookups_cut_total", "Answers to LOOKUP that named some of an account's sessions only: more do not fit";
    location_errors, Counter, "router_location_errors_total", "Questions the location store refused";
    commits, Counter, "router_store_commits_total", "Group commits";
    commit_ops, Counter, "router_store_commit_ops_total", "Operations in them";
    commit_failures, Counter, "router_store_commit_failures_total", "Group commits rolled back";
    commit_us, Counter, "router_store_commit_us_total", "Time spent in group commits, microseconds";
    trimmed, Counter, "router_store_trimmed_total", "Messages removed by retention";
    trimmed_age, Counter, "router_store_trimmed_age_total", "Messages among them removed for their age";
    retention_rounds, Counter, "router_store_retention_rounds_total", "Times the walk that removes messages past their age has come to every account";
    checkpoints, Counter, "router_store_checkpoints_total", "Copies of the log into the message file";
    groups_loaded, Gauge, "router_groups_loaded", "Groups in memory";
    groups_resumed, Gauge, "router_groups_resumed", "Groups among them that are there only to finish what a former process left";
    group_messages, Counter, "router_group_messages_total", "Messages stored in groups' timelines";
    group_changes, Counter, "router_group_changes_total", "Changes of groups stored";
    group_refused, Counter, "router_group_requests_refused_total", "Requests about groups that were refused";
    group_copies, Counter, "router_group_copies_total", "Copies of groups' entries offered to members' timelines, again with each round that comes again";
    group_pushes, Counter, "router_group_pushes_total", "Entries of groups pushed to sessions from the group's timeline";
    group_rounds, Counter, "router_group_rounds_total", "Rounds in which entries were handed to members' shards";
    group_round_failures, Counter, "router_group_round_failures_total", "Rounds that failed or were lost on their way, and came again";
    group_rounds_late, Counter, "router_group_rounds_late_total", "Times a round was not confirmed within 10 s and was waited for on";
    group_heads, Counter, "router_group_heads_total", "Conversations that sessions were told they are behind in";
    group_acks, Counter, "router_group_acks_total", "Positions in groups acknowledged by devices";
    positions_dropped, Counter, "router_group_positions_dropped_total", "Positions among them not stored because the disk was behind or refused";
    pulls, Counter, "router_pulls_total", "Ranges asked for by clients and services";
    pulls_refused, Counter, "router_pulls_refused_total", "Ranges refused because too many were asked for";
    writes_outstanding, Gauge, "router_store_writes_outstanding", "Messages, read marks, preferences and positions taken in and not yet written";
}

/// The table of metrics in docs/operating.md; those with labels stand where it says what they are about.
#[must_use]
pub fn metrics_markdown() -> String {
    let mut text = String::from("| metric | kind | meaning |\n|---|---|---|\n");
    Metrics::default().each(|name, help, kind, _| {
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        text.push_str(&format!("| `{name}` | {kind} | {help}. |\n"));
    });
    text
}

/// All shards' numbers, and those that have labels.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each shard's.
    pub shards: Arc<[Arc<Metrics>]>,
    /// The hook's.
    pub hook: HookReport,
    /// What is needed to read the shards' arrival rates.
    pub arrival: ArrivalReport,
}

impl Report {
    /// Every number, added up over the shards; those with labels by their Prometheus name and labels.
    pub fn snapshot(&self) -> Vec<(String, u64)> {
        let totals = self.totals().into_iter().map(|(name, _, _, value)| (name.to_owned(), value));
        let labelled = self.hook.snapshot().into_iter().chain(self.arrival.snapshot(&self.shards));
        let totals = totals.chain(labelled).chain(traffic::snapshot(&self.shards));
        totals.chain(usage::snapshot(&self.shards, &self.arrival.apps)).collect()
    }

    fn totals(&self) -> Vec<(&'static str, &'static str, Kind, u64)> {
        let mut totals: Vec<(&'static str, &'static str, Kind, u64)> = Vec::new();
        for shard in self.shards.iter() {
            let mut position = 0;
            shard.each(|name, help, kind, value| {
                match totals.get_mut(position) {
                    Some(total) => total.3 += value,
                    None => totals.push((name, help, kind, value)),
                }
                position += 1;
            });
        }
        totals
    }
}

impl Collector for Report {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, kind, value) in self.totals() {
            // The text format appends _total to counters itself.
            let name = name.strip_suffix("_total").unwrap_or(name);
            match kind {
                Kind::Counter => {
                    let metric = ConstCounter::new(value);
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
                }
                Kind::Gauge => {
                    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
                }
            }
        }
        self.hook.encode(&mut encoder)?;
        self.arrival.encode(&self.shards, &mut encoder)?;
        traffic::encode(&self.shards, &mut encoder)?;
        usage::encode(&self.shards, &self.arrival.apps, &mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::{Apps, Slot, State};
    use crate::hook::metrics::HookMetrics;
    use moor_wire::client::Class;

    #[test]
    fn shards_add_up_and_the_text_names_them_once() {
        let shards: Arc<[Arc<Metrics>]> = Arc::new([Arc::default(), Arc::default()]);
        shards[0].submits.add(2);
        shards[1].submits.add(3);
        let hooks = ["apns", "fcm"].map(|name| (name.into(), Arc::new(HookMetrics::default())));
        hooks[1].1.delivered.add(7);
        let hook = HookReport { hooks: hooks.into(), ..HookReport::default() };
        let slot = Slot(1);
        shards[0].arrival.count(slot, Class::Reliable, State::Accepted, 3, 50, 50);
        shards[1].arrival.observe(slot, 20);
        shards[1].usage.change_stored(slot, 700, 600);
        shards[1].usage.refused(slot);
        let arrival = ArrivalReport { apps: Arc::new(Apps::new(["a \"shop\""])), ..ArrivalReport::default() };
        let report = Report { shards, hook, arrival };
        let labelled = "router_messages_total{app=\"a \\\"shop\\\"\",class=\"reliable\",state=\"accepted\"}";
        assert!(report.snapshot().contains(&(labelled.to_owned(), 3)), "{:?}", report.snapshot());
        assert!(report.snapshot().contains(&("router_submits_total".to_owned(), 5)));
        let labelled = "router_hook_delivered_total{hook=\"fcm\"}".to_owned();
        assert!(report.snapshot().contains(&(labelled, 7)));
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(report));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "router_submits_total 5",
            "router_hook_delivered_total{hook=\"fcm\"} 7",
            "router_hook_breaker_state{hook=\"apns\"} 0",
            "router_messages_total{app=\"a \\\"shop\\\"\",class=\"reliable\",state=\"accepted\"} 3",
            "router_app_stored_bytes{app=\"a \\\"shop\\\"\",shard=\"0\"} 0",
            "router_app_stored_bytes{app=\"a \\\"shop\\\"\",shard=\"1\"} 100",
            "router_app_storage_refused_total{app=\"a \\\"shop\\\"\",shard=\"1\"} 1",
            "router_acknowledge_seconds_sum{app=\"a \\\"shop\\\"\"} 0.02",
            "router_acknowledge_seconds_bucket{le=\"0.025\",app=\"a \\\"shop\\\"\"} 1",
            "router_acknowledge_seconds_bucket{le=\"+Inf\",app=\"a \\\"shop\\\"\"} 1",
        ] {
            assert_eq!(text.matches(&format!("\n{line}\n")).count(), 1, "{line} in {text}");
        }
    }
}
