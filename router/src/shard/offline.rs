//! Messages that nobody fetches: accepted with nobody there, given up on, or left behind by the last who went.

use bytes::Bytes;
use moor_wire::client::Class;

use crate::arrival::State;
use crate::config::OfflineSettings;
use crate::hook::{Cause, Notice, Offline};
use crate::offline::Interest;
use crate::registry::{AccountIndex, SessionIndex};
use crate::shard::Shard;
use crate::store::{Stored, Submit};

impl Shard {
    /// From now on absences are collected for [`Self::take_notices`].
    pub fn tell_offline(&mut self, settings: OfflineSettings, interest: Interest, now_ms: u64) {
        self.offline.open(settings, interest, now_ms);
    }

    /// Notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.offline.take()
    }

    /// True when a session of the account may take messages, now or as soon as it is placed. One on a link that
    /// lingers may: its gateway has its lease's time to come back.
    fn is_listening(&self, account: AccountIndex) -> bool {
        self.registry.sessions_of(account).any(|index| {
            self.registry.session(index).is_some_and(|session| {
                !session.is_resting() && self.links.get(&session.link).is_some_and(|link| !link.is_void())
            })
        })
    }

    /// A message was stored: is anybody there?
    pub(super) fn check_presence(&mut self, account: Option<AccountIndex>, submit: &Submit, stored: Stored) {
        if account.is_some_and(|account| self.is_listening(account)) {
            return;
        }
        self.metrics.offline_messages.increment();
        self.count(&submit.to.app, Class::Reliable, State::Offline, 1, submit.sent_at_ms);
        let Some(payload_bytes_max) = self.offline.payload_bytes_max(&submit.to.app) else { return };
        // Copied: the message may be a slice of all that was read with it.
        let payload = (payload_bytes_max > 0 && submit.payload.len() <= payload_bytes_max)
            .then(|| Bytes::copy_from_slice(&submit.payload));
        let news = Offline {
            app: submit.to.app.clone(),
            account: submit.to.account.clone(),
            device: None,
            first_sync_id: stored.sync_id,
            last_sync_id: stored.sync_id,
            count: 1,
            class: Class::Reliable,
            sent_at_ms: Some(submit.sent_at_ms),
            cause: Cause::Absent,
            marks: submit.marks.clone(),
            payload,
        };
        self.offline.handle_absence(submit.to.hash, news, self.now_ms);
    }

    /// A session was given up on, or is the last of its account and goes: what it has not acknowledged.
    pub(super) fn report_unacknowledged(&mut self, index: SessionIndex, cause: Cause) {
        let Some(session) = self.registry.session(index).filter(|session| session.is_placed()) else {
            return;
        };
        let Some(account) = self.registry.account(session.account) else { return };
        let (first, last) = ((session.acked + 1).max(account.floor), account.head);
        if first > last {
            return;
        }
        let owner = session.account;
        let (hash, device, name) = (account.hash, session.device.clone(), account.name.clone());
        let app = self.registry.app_name(account.app);
        self.metrics.offline_messages.add(last - first + 1);
        self.count_now(owner, Class::Reliable, State::Offline, last - first + 1);
        if self.offline.payload_bytes_max(&app).is_none() {
            return;
        }
        let news = Offline {
            app: (*app).into(),
            account: name,
            device: Some(device),
            first_sync_id: first,
            last_sync_id: last,
            count: last - first + 1,
            class: Class::Reliable,
            sent_at_ms: None,
            cause,
            marks: None,
            payload: None,
        };
        self.offline.handle_absence(hash, news, self.now_ms);
    }

    /// A session is about to be taken out. One that rests has been told of.
    pub(super) fn check_departure(&mut self, index: SessionIndex) {
        let Some(session) = self.registry.session(index) else { return };
        let is_last = self.registry.account(session.account).is_some_and(|account| account.sessions == 1);
        if is_last && !session.is_resting() {
            self.report_unacknowledged(index, Cause::Departed);
        }
    }
}
