//! When an app's arrival rate is an alarm. No I/O, no clock.

use serde::Deserialize;

use crate::hook::{Alarm, Notice};
use crate::limits::{ARRIVAL_ALARM_HOLD_MS, ARRIVAL_WINDOWS_S};

/// One app's threshold, a table `[[arrival]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArrivalSettings {
    /// The app.
    pub app: String,
    /// Below this part of messages acknowledged it is an alarm, percent.
    pub percent_min: f64,
    /// Fewer messages in the window say nothing.
    pub messages_min: u64,
    /// The window, seconds: 10, 60 or 300.
    pub window_s: u64,
}

impl Default for ArrivalSettings {
    fn default() -> Self {
        Self { app: String::new(), percent_min: 95.0, messages_min: 100, window_s: 60 }
    }
}

impl ArrivalSettings {
    /// Checks every bound.
    ///
    /// # Errors
    /// One sentence about the first setting that is outside.
    pub fn check(&self) -> Result<(), String> {
        if let Err(error) = moor_wire::identity::check_app(&self.app) {
            return Err(format!("an [[arrival]]: app \"{}\": {error}", self.app));
        }
        let wrong = |what: String| Err(format!("the [[arrival]] of \"{}\": {what}", self.app));
        if !(0.001..=100.0).contains(&self.percent_min) {
            return wrong(format!("percent_min is {}: choose 0.001 to 100", self.percent_min));
        }
        if self.messages_min == 0 {
            return wrong("messages_min is 0: choose at least 1".to_owned());
        }
        if !ARRIVAL_WINDOWS_S.contains(&self.window_s) {
            return wrong(format!("window_s is {}: choose 10, 60 or 300", self.window_s));
        }
        Ok(())
    }

    /// The threshold in acknowledged messages of a hundred thousand.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 100,000")]
    pub fn per_100k(&self) -> u64 {
        (self.percent_min * 1000.0).round() as u64
    }
}

/// One threshold's state.
#[derive(Debug)]
pub struct Watcher {
    settings: ArrivalSettings,
    is_raised: bool,
    changed_ms: Option<u64>,
}

impl Watcher {
    /// Nothing raised.
    pub const fn new(settings: ArrivalSettings) -> Self {
        Self { settings, is_raised: false, changed_ms: None }
    }

    /// What it watches.
    pub const fn settings(&self) -> &ArrivalSettings {
        &self.settings
    }

    /// True exactly while the alarm is raised.
    pub const fn is_raised(&self) -> bool {
        self.is_raised
    }

    /// Compares. A change is told, and holds for a while: a rate at the threshold is no storm of alarms.
    pub fn handle_rate(
        &mut self,
        accepted: u64,
        acknowledged: u64,
        now_ms: u64,
        wall_ms: u64,
    ) -> Option<Notice> {
        let acknowledged = acknowledged.min(accepted);
        let arrival_per_100k = (acknowledged * 100_000).checked_div(accepted).unwrap_or(100_000);
        let threshold_per_100k = self.settings.per_100k();
        let is_low = accepted >= self.settings.messages_min && arrival_per_100k < threshold_per_100k;
        let is_held = self.changed_ms.is_some_and(|since_ms| now_ms < since_ms + ARRIVAL_ALARM_HOLD_MS);
        if is_low == self.is_raised || is_held {
            return None;
        }
        self.is_raised = is_low;
        self.changed_ms = Some(now_ms);
        Some(Notice::Alarm(Alarm {
            app: self.settings.app.as_str().into(),
            is_raised: is_low,
            arrival_per_100k,
            threshold_per_100k,
            window_ms: self.settings.window_s * 1000,
            accepted,
            acknowledged,
            at_ms: wall_ms,
        }))
    }
}
