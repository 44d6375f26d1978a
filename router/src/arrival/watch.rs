//! Compares arrival rates with their thresholds, once a second, on the hook's thread.

use crate::arrival::alarm::{ArrivalSettings, Watcher};
use crate::arrival::report::rate;
use crate::clock::{now_ms, wall_ms};
use crate::hook::Notice;
use crate::limits::ARRIVAL_ALARM_LOG_MS;
use crate::metrics::Report;

/// What the hook's thread calls: sets the alarms' gauges, logs, returns what hooks are told.
pub fn new(settings: &[ArrivalSettings], report: &Report) -> Box<dyn FnMut() -> Vec<Notice> + Send> {
    let report = report.clone();
    let mut watchers: Vec<_> = settings.iter().map(|settings| (Watcher::new(settings.clone()), 0)).collect();
    Box::new(move || {
        let (now_ms, wall_ms) = (now_ms(), wall_ms());
        let mut notices = Vec::new();
        for ((watcher, logged_ms), (app, gauge)) in watchers.iter_mut().zip(report.arrival.alarms.iter()) {
            let slot = report.arrival.apps.find_or_insert(app);
            let window_s = watcher.settings().window_s;
            let (accepted, acknowledged) = rate(&report.shards, slot, window_s, wall_ms / 1000);
            let notice = watcher.handle_rate(accepted, acknowledged, now_ms, wall_ms);
            let is_raised = watcher.is_raised();
            gauge.set(u64::from(is_raised));
            if is_raised && (notice.is_some() || now_ms >= *logged_ms + ARRIVAL_ALARM_LOG_MS) {
                *logged_ms = now_ms;
                tracing::warn!(%app, accepted, acknowledged, window_s, "too few messages are acknowledged");
            } else if notice.is_some() {
                tracing::info!(%app, accepted, acknowledged, window_s, "messages are acknowledged again");
            }
            notices.extend(notice);
        }
        notices
    })
}
