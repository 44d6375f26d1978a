//! Logins: at a pace, and within the limits of their app; and what a channel may say afterwards.

use moor_ring::Slot;
use moor_wire::Code;

use super::Notice;
use crate::worker::counters::Counter;
use crate::worker::io::Io;
use crate::worker::{Now, Worker};

impl<I: Io> Worker<I> {
    /// A login came faster than they may.
    pub(in crate::worker) fn refuse_pace(&mut self, slot: Slot, number: u16, now: Now) {
        self.counters.add(Counter::OpensPaced);
        let what = "logins come faster than limits.logins_per_s: they are told to come back";
        self.notice_rate(Notice::Logins, self.settings.limits.logins_per_s, what, now);
        self.refuse_open(slot, number, Code::Overloaded, "too many log in at the moment: try again", now);
    }

    /// Counts a session at its app, or refuses it.
    pub(in crate::worker) fn enter_app(&mut self, slot: Slot, number: u16, app: &str, now: Now) -> bool {
        let (limits, apps) = (&self.settings.limits, &self.settings.shared.apps);
        if !limits.counts_apps() {
            return true;
        }
        let key = apps.app(app);
        let per_s = limits.logins_per_app_per_s;
        let max = if limits.sessions_per_app > 0 { limits.sessions_per_app } else { u32::MAX };
        let (code, reason) = if per_s > 0 && !apps.take(key, per_s, now.0) {
            (Code::Overloaded, "too many of this app log in at the moment: try again")
        } else if !apps.enter(key, max) {
            (Code::Limit, "the app has as many sessions as it may")
        } else {
            return true;
        };
        self.counters.add(Counter::OpensLimited);
        if let Some(more) = self.door.notices.due(Notice::App, now) {
            tracing::warn!(
                worker = self.id.0,
                app,
                reason,
                more_since = more,
                "logins of an app are refused"
            );
        }
        self.refuse_open(slot, number, code, reason, now);
        false
    }

    /// A session of an app did not come about, or is over.
    pub(in crate::worker) fn leave_app(&self, app: &str) {
        if self.settings.limits.counts_apps() {
            let apps = &self.settings.shared.apps;
            apps.leave(apps.app(app));
        }
    }

    /// Whether a channel of a busy connection may say one more message.
    pub(in crate::worker) fn meter_message(&mut self, slot: Slot, channel: u16, now: Now) -> bool {
        let per_s = self.settings.limits.messages_per_channel_per_s;
        let may = per_s == 0 || self.door.meters.message(slot, channel, per_s, now.0);
        if !may {
            let what =
                "a channel sends more than limits.messages_per_channel_per_s: its messages are refused";
            self.notice_rate(Notice::Messages, per_s, what, now);
        }
        may
    }
}
