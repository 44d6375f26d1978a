//! Messages coming in, from the offer to the answer; and the way of all that waits by app to the store.

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Class, Kind, SubmitResult};
use moor_wire::identity::room_of;
use moor_wire::internal::{Push, SendResult, Verb, put_control};
use prost::Message as _;

use crate::arrival::State;
use crate::limits::{
    STORE_AHEAD_BYTES, STORE_AHEAD_WRITES, WRITES_OUTSTANDING_BYTES_MAX, WRITES_OUTSTANDING_MAX,
};
use crate::outbox::{Outbox, Weight};
use crate::registry::AppIndex;
use crate::shard::tenants::payload_bytes;
use crate::shard::{Shard, storage};
use crate::store::groups::GroupWrite;
use crate::store::{Origin, Stored, Submit, Write, Written};

/// Said when a shard holds all that it may hold.
pub(super) const DETAIL: &str = "too much waits for the disk";
/// Said when it knows as many apps as it may.
const APPS_DETAIL: &str = "the router knows no more apps";

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
        let app = if is_own {
            self.open_tenant(&submit.to.app).ok_or((Code::Limit, APPS_DETAIL))
        } else {
            self.try_quota(&submit.to.app, submit.payload.len(), now_ms)
        };
        let app = match app {
            Ok(app) => app,
            Err((code, detail)) => return self.answer(&submit, code, None, detail),
        };
        if !self.take_room(app, &submit) {
            return self.answer(&submit, Code::Storage, None, storage::DETAIL);
        }
        self.put_write(app, Write::Submit(submit));
    }

    /// Where an app's writes wait; `None`: the router knows no more apps.
    pub(super) fn open_tenant(&mut self, app: &str) -> Option<AppIndex> {
        let index = self.registry.intern_app(app)?;
        self.tenants.open(index, || self.apps.of(app));
        Some(index)
    }

    /// Takes something with so many bytes of payload out of an app's quotas, or says why it is refused.
    pub(super) fn try_quota(
        &mut self,
        app: &str,
        bytes: usize,
        now_ms: u64,
    ) -> Result<AppIndex, (Code, &'static str)> {
        let index = self.registry.intern_app(app).ok_or((Code::Limit, APPS_DETAIL))?;
        match self.tenants.try_take(index, || self.apps.of(app), bytes, now_ms) {
            Ok(()) => Ok(index),
            Err(quota) => {
                self.metrics.quota_refused.increment();
                Err((Code::Overloaded, quota.detail()))
            }
        }
    }

    /// The app of a message, which one of its quotas may refuse.
    pub(super) fn take_quota(&mut self, submit: &Submit, now_ms: u64) -> Option<AppIndex> {
        match self.try_quota(&submit.to.app, submit.payload.len(), now_ms) {
            Ok(app) => Some(app),
            Err((code, detail)) => {
                self.answer(submit, code, None, detail);
                None
            }
        }
    }

    /// Whether a write that is no message may wait: within its weight's part of the room, and beyond that as long as
    /// another app has more waiting.
    pub(super) fn has_place(&self, app: AppIndex, weight: Weight) -> bool {
        self.writes_outstanding < weight.share(WRITES_OUTSTANDING_MAX) || self.tenants.has_less(app)
    }

    /// Lets a write wait behind those of its app, which has been opened. Where everything is full, the newest of an app
    /// with more makes way, or it is refused itself.
    pub(super) fn put_write(&mut self, app: AppIndex, write: Write) {
        if self.writes_outstanding >= WRITES_OUTSTANDING_MAX
            || self.writes_outstanding_bytes >= WRITES_OUTSTANDING_BYTES_MAX
        {
            let Some(other) = self.tenants.make_room(app) else {
                let write = self.take_newest(write);
                return self.refuse_write(write, DETAIL);
            };
            self.metrics.made_way.increment();
            let other = self.take_newest(other);
            self.forget_outstanding(payload_bytes(&other));
            self.refuse_write(other, DETAIL);
        }
        self.writes_outstanding += 1;
        self.writes_outstanding_bytes += payload_bytes(&write);
        self.tenants.put(app, write);
        self.supply_store();
    }

    /// Hands the store what it has room for, app by app.
    pub(super) fn supply_store(&mut self) {
        while self.in_store.0 < STORE_AHEAD_WRITES
            && self.in_store.1 < STORE_AHEAD_BYTES
            && let Some(write) = self.tenants.take_next()
        {
            self.in_store.0 += 1;
            self.in_store.1 += payload_bytes(&write);
            let write = self.take_newest(write);
            self.writes.push(write);
        }
    }

    const fn forget_outstanding(&mut self, payload_bytes: usize) {
        self.writes_outstanding -= 1;
        self.writes_outstanding_bytes -= payload_bytes;
    }

    /// The store is done with something that had waited for it.
    pub(super) const fn leave_store(&mut self, payload_bytes: usize) {
        self.in_store.0 -= 1;
        self.in_store.1 -= payload_bytes;
        self.forget_outstanding(payload_bytes);
    }

    /// The store's queue was full.
    pub(super) fn take_back(&mut self, write: Write) {
        let has_waited = match &write {
            Write::Submit(_) | Write::Mark(_) => true,
            Write::Group(group) => matches!(**group, GroupWrite::Preference(_) | GroupWrite::Position(_)),
            Write::Cursor(_) => false,
        };
        if has_waited {
            self.leave_store(payload_bytes(&write));
        }
        self.refuse_write(write, "the store's queue is full");
    }

    /// A write is not taken: whoever waits for it is told.
    fn refuse_write(&mut self, write: Write, detail: &'static str) {
        match write {
            Write::Submit(submit) => {
                self.metrics.refused_overload.increment();
                self.forget_pending(&submit);
                self.answer(&submit, Code::Overloaded, None, detail);
            }
            // Not answered, so the client says it again.
            Write::Mark(_) => self.metrics.marks_refused.increment(),
            Write::Group(write) => {
                if let Some(waiter) = write.into_waiter() {
                    self.row_done(waiter, Err((Code::Overloaded, detail.into())));
                }
            }
            // The next acknowledgement says it again.
            Write::Cursor(_) => {}
        }
    }

    pub(super) fn handle_written(&mut self, written: Vec<Written>, now_ms: u64) {
        for Written { submit, outcome } in written {
            self.leave_store(submit.payload.len());
            self.forget_pending(&submit);
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
    }
}
