//! Counting what becomes of messages.

use moor_wire::client::Class;

use crate::arrival::State;
use crate::registry::{AccountIndex, SessionIndex};
use crate::shard::Shard;
use crate::store::Submit;

impl Shard {
    /// Sets what the wall clock is ahead of the time that events come with.
    pub fn set_wall_offset(&mut self, offset_ms: u64) {
        self.wall_offset_ms = offset_ms;
    }

    fn wall_ms(&self) -> u64 {
        self.now_ms + self.wall_offset_ms
    }

    /// Messages of an app, accepted at `sent_at_ms`, reached a state.
    pub(super) fn count(&mut self, app: &str, class: Class, state: State, count: u64, sent_at_ms: u64) {
        let slot = self.arrival_apps.slot(app);
        let (at_s, now_s) = (sent_at_ms / 1000, self.wall_ms() / 1000);
        // Accepted a moment ago by another thread's clock.
        self.metrics.arrival.count(slot, class, state, count, at_s.min(now_s), now_s);
    }

    /// A message was accepted: its marks are counted.
    pub(super) fn count_marks(&self, submit: &Submit) {
        if let Some(marks) = &submit.marks {
            self.metrics.traffic.count(&submit.to.app, marks);
        }
    }

    /// Likewise now, by the account.
    pub(super) fn count_now(&mut self, account: AccountIndex, class: Class, state: State, count: u64) {
        let Some(account) = self.registry.account(account) else { return };
        let app = self.registry.app_name(account.app);
        self.count(&app, class, state, count, self.wall_ms());
    }

    /// Up to here an account's messages were handed to one of its devices.
    pub(super) fn delivered_through(&self, account: AccountIndex) -> u64 {
        let sessions = self.registry.sessions_of(account);
        sessions
            .filter_map(|index| self.registry.session(index))
            .map(crate::registry::Session::peak)
            .max()
            .unwrap_or(0)
    }

    /// A session acknowledges up to `position`, and had not before: counts what no other device has.
    pub(super) fn count_acknowledged(&mut self, index: SessionIndex, position: u64) {
        let Some(session) = self.registry.session(index) else { return };
        let Some(account) = self.registry.account(session.account) else { return };
        let position = position.min(account.head);
        let others = self.registry.sessions_of(session.account);
        let known = others
            .filter_map(|other| self.registry.session(other))
            .map(crate::registry::Session::known)
            .max();
        let known = known.unwrap_or(0);
        if position <= known {
            return;
        }
        let app = self.registry.app_name(account.app);
        let slot = self.arrival_apps.slot(&app);
        let wall_ms = self.wall_ms();
        let mut timed = 0;
        for sent_at_ms in session.sent_at(known, position) {
            timed += 1;
            self.metrics.arrival.observe(slot, wall_ms.saturating_sub(sent_at_ms));
            let (at_s, now_s) = (sent_at_ms / 1000, wall_ms / 1000);
            self.metrics.arrival.count(slot, Class::Reliable, State::Acknowledged, 1, at_s.min(now_s), now_s);
        }
        // Wound back to be sent again, or past retention: acknowledged, and nobody remembers when it was accepted.
        self.metrics.arrival.count(
            slot,
            Class::Reliable,
            State::Acknowledged,
            (position - known).saturating_sub(timed),
            0,
            wall_ms / 1000,
        );
    }
}
