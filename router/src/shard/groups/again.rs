//! Messages from whoever may not send to the group. One that was stored while its sender might, and whose answer was lost,
//! comes again under the same client id: it is answered as what it is.

use bytes::Bytes;
use moor_wire::Code;

use super::state::Waiting;
use crate::group::NO_GROUP;
use crate::shard::{Shard, answer};
use crate::store::groups::{GroupFound, GroupRead, Sent};
use crate::store::{Read, Submit};

impl Shard {
    /// Asks the store for a message. It is there if ever it was stored: whoever is no member any more was taken out by a
    /// change that came behind it.
    pub(super) fn look_for_sent(&mut self, submit: Box<Submit>) {
        let sent = Sent {
            key: submit.to.clone(),
            from: submit.from.clone(),
            // Not with all of the frame that it is a part of.
            client_id: Bytes::copy_from_slice(&submit.client_id),
            origin: submit.origin.clone(),
        };
        if !self.try_ask(Read::Group(Box::new(GroupRead::Sent(Box::new(sent))))) {
            let refusal = (Code::Overloaded, "too many messages of strangers are looked for");
            self.refuse_waiting(Waiting::Submit(submit), refusal);
        }
    }

    /// Whoever never sent it is told what any stranger is.
    pub(super) fn answer_sent(&mut self, sent: &Sent, found: &GroupFound) {
        let (code, stored, detail) = match found {
            GroupFound::Sent(Some(stored)) => {
                self.metrics.duplicates.increment();
                (Code::Ok, Some(*stored), "")
            }
            _ => {
                self.metrics.group_refused.increment();
                (NO_GROUP.0, None, NO_GROUP.1)
            }
        };
        answer(&mut self.outbox, &sent.origin, &sent.client_id, code, stored, detail);
    }
}
