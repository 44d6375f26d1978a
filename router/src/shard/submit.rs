//! Messages coming in: from the offer to the answer.

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{Class, Kind, SubmitResult};
use moor_wire::internal::{Push, SendResult, Verb, put_control};
use prost::Message as _;

use crate::limits::{WRITES_OUTSTANDING_BYTES_MAX, WRITES_OUTSTANDING_MAX};
use crate::outbox::{Outbox, Weight};
use crate::shard::Shard;
use crate::store::{Origin, Stored, Submit, Write, Written};

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
    }
}

impl Shard {
    pub(super) fn answer(&mut self, submit: &Submit, code: Code, stored: Option<Stored>, detail: &str) {
        answer(&mut self.outbox, &submit.origin, &submit.client_id, code, stored, detail);
    }

    pub(super) fn handle_submit(&mut self, submit: Box<Submit>) {
        self.metrics.submits.increment();
        if self.is_stopping {
            self.answer(&submit, Code::Unavailable, None, "the router is stopping");
            return;
        }
        if self.writes_outstanding >= WRITES_OUTSTANDING_MAX
            || self.writes_outstanding_bytes >= WRITES_OUTSTANDING_BYTES_MAX
        {
            self.metrics.refused_overload.increment();
            self.answer(&submit, Code::Overloaded, None, "too many messages wait for the disk");
            return;
        }
        self.writes_outstanding += 1;
        self.writes_outstanding_bytes += submit.payload.len();
        self.writes.push(Write::Submit(submit));
    }

    pub(super) fn forget_outstanding(&mut self, submit: &Submit) {
        self.writes_outstanding -= 1;
        self.writes_outstanding_bytes -= submit.payload.len();
    }

    pub(super) fn handle_written(&mut self, written: Vec<Written>, now_ms: u64) {
        for Written { submit, outcome } in written {
            self.forget_outstanding(&submit);
            match outcome {
                Ok(stored) => {
                    self.answer(&submit, Code::Ok, Some(stored), "");
                    if stored.is_duplicate {
                        self.metrics.duplicates.increment();
                    } else {
                        self.metrics.accepted.increment();
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
