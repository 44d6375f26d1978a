//! Messages coming in: from the offer to the answer.

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Class, Kind, SubmitResult};
use moor_wire::identity::room_of;
use moor_wire::internal::{Push, SendResult, Verb, put_control};
use prost::Message as _;

use crate::arrival::State;
use crate::limits::{
    STORE_AHEAD_BYTES, STORE_AHEAD_MESSAGES, WRITES_OUTSTANDING_BYTES_MAX, WRITES_OUTSTANDING_MAX,
};
use crate::outbox::{Outbox, Weight};
use crate::registry::AppIndex;
use crate::shard::{Shard, storage};
use crate::store::{Origin, Stored, Submit, Write, Written};

/// Said when a shard holds all that it may hold.
const DETAIL: &str = "too many messages wait for the disk";

/// Tells the sender what became of its message.
pub fn answer(
    outbox: &mut Outbox,
    origin: &Origin,
    client_id: &Bytes,
    code: Code,
    stored: Option<Stored>,
    detail: &str,
) {
    let (sync_id, duplicate) = stored.map_or((0, false), |stored| (stored.sync_id, stored.is_duplicate));
    match origin {
        Origin::Session { link, session, hash } => {
            let result = SubmitResult {
                client_id: client_id.clone(),
                code: code.into(),
                sync_id,
                duplicate,
                detail: detail.to_owned(),
            };
            let body = result.encode_to_vec();
            let push = Push {
                cookie: *hash,
                session: *session,
                kind: Kind::Ack.byte(),
                flags: Class::Command.flags(),
                body: &body,
            };
            // Dropped when the gateway does not read: the client asks again under the same id.
            outbox.put(link, Weight::Reliable, |out| push.put(out, false));
        }
        Origin::Service { link, cookie } => {
            let result = SendResult {
                cookie: *cookie,
                code: code.into(),
                sync_id,
                duplicate,
                detail: detail.to_owned(),
            };
            outbox.put(link, Weight::Answer, |out| put_control(out, Verb::SendResult, &result));
        }
        Origin::Spread { part, .. } => part.finish(code == Code::Ok, outbox),
        // Its group's owner answers.
        Origin::Change { .. } => {}
    }
}

impl Shard {
    pub(super) fn answer(&mut self, submit: &Submit, code: Code, stored: Option<Stored>, detail: &str) {
        if matches!(submit.origin, Origin::Change { .. }) {
            return self.change_done(&submit.to, code, stored, detail);
        }
        answer(&mut self.outbox, &submit.origin, &submit.client_id, code, stored, detail);
    }

    pub(super) fn handle_submit(&mut self, submit: Box<Submit>, now_ms: u64) {
        self.metrics.submits.increment();
        if submit.to.group().is_some() {
            self.handle_group_submit(submit, now_ms);
        } else {
            self.offer(submit, now_ms);
        }
    }

    /// Collects a message for the store, if there is room.
    pub(super) fn offer(&mut self, submit: Box<Submit>, now_ms: u64) {
        if self.is_stopping {
            self.answer(&submit, Code::Unavailable, None, "the router is stopping");
            return;
        }
        // Copies and changes are the router's own: the message they stem from was counted.
        let is_own = matches!(submit.origin, Origin::Spread { .. } | Origin::Change { .. });
        let app = if is_own { self.open_tenant(&submit) } else { self.take_quota(&submit, now_ms) };
        let Some(app) = app else { return };
        if !self.take_room(app, &submit) {
            return self.answer(&submit, Code::Storage, None, storage::DETAIL);
        }
        if self.writes_outstanding >= WRITES_OUTSTANDING_MAX
            || self.writes_outstanding_bytes >= WRITES_OUTSTANDING_BYTES_MAX
        {
            self.metrics.refused_overload.increment();
            let Some(other) = self.tenants.make_room(app) else {
                self.forget_pending(&submit);
                return self.answer(&submit, Code::Overloaded, None, DETAIL);
            };
            self.metrics.made_way.increment();
            self.forget_outstanding(&other);
            self.answer(&other, Code::Overloaded, None, DETAIL);
        }
        self.writes_outstanding += 1;
        self.writes_outstanding_bytes += submit.payload.len();
        self.tenants.put(app, submit);
        self.supply_store();
    }

    /// The app of a message that no quota is asked about.
    fn open_tenant(&mut self, submit: &Submit) -> Option<AppIndex> {
        let app = self.registry.intern_app(&submit.to.app);
        match app {
            Some(app) => self.tenants.open(app, || self.apps.of(&submit.to.app)),
            None => self.answer(submit, Code::Limit, None, "the router knows no more apps"),
        }
        app
    }

    /// The app of a message, which one of its quotas may refuse.
    pub(super) fn take_quota(&mut self, submit: &Submit, now_ms: u64) -> Option<AppIndex> {
        let Some(app) = self.registry.intern_app(&submit.to.app) else {
            self.answer(submit, Code::Limit, None, "the router knows no more apps");
            return None;
        };
        let rules = || self.apps.of(&submit.to.app);
        if let Err(quota) = self.tenants.try_take(app, rules, submit.payload.len(), now_ms) {
            self.metrics.quota_refused.increment();
            self.answer(submit, Code::Overloaded, None, quota.detail());
            return None;
        }
        Some(app)
    }

    /// Hands the store what it has room for, app by app.
    pub(super) fn supply_store(&mut self) {
        while self.in_store.0 < STORE_AHEAD_MESSAGES
            && self.in_store.1 < STORE_AHEAD_BYTES
            && let Some(submit) = self.tenants.take_next()
        {
            self.in_store.0 += 1;
            self.in_store.1 += submit.payload.len();
            self.writes.push(Write::Submit(submit));
        }
    }

    fn forget_outstanding(&mut self, submit: &Submit) {
        self.writes_outstanding -= 1;
        self.writes_outstanding_bytes -= submit.payload.len();
        self.forget_pending(submit);
    }

    pub(super) fn take_from_store(&mut self, submit: &Submit) {
        self.in_store.0 -= 1;
        self.in_store.1 -= submit.payload.len();
        self.forget_outstanding(submit);
    }

    pub(super) fn handle_written(&mut self, written: Vec<Written>, now_ms: u64) {
        for Written { submit, outcome } in written {
            self.take_from_store(&submit);
            match outcome {
                Ok(stored) => {
                    if !stored.is_duplicate {
                        self.note_stored(&submit, stored);
                    }
                    self.answer(&submit, Code::Ok, Some(stored), "");
                    let is_copy = matches!(submit.origin, Origin::Spread { .. });
                    if stored.is_duplicate {
                        self.metrics.duplicates.add(u64::from(!is_copy));
                        continue;
                    }
                    self.metrics.accepted.add(u64::from(!is_copy));
                    self.count_marks(&submit);
                    if submit.to.group().is_some() {
                        self.group_stored(*submit, stored, now_ms);
                    } else if room_of(&submit.to.account).is_some() {
                        self.handle_room_stored(*submit, stored, now_ms);
                    } else {
                        self.count(&submit.to.app, Class::Reliable, State::Accepted, 1, submit.sent_at_ms);
                        self.deliver_new(*submit, stored, now_ms);
                    }
                }
                Err(error) => {
                    self.metrics.refused_storage.increment();
                    self.answer(&submit, Code::Storage, None, &error.0);
                }
            }
        }
        self.supply_store();
    }
}
