//! Messages that nobody keeps: classes normal and transient, from the offer to whoever is there.
//!
//! They touch no store, so they are answered in the same turn, and they are the first to be refused when the
//! shard has more to do than it manages.

use moor_wire::Code;
use moor_wire::client::{Class, Delivery};
use moor_wire::internal::Push;
use prost::Message as _;

use crate::arrival::State;
use crate::limits::{WRITES_OUTSTANDING_BYTES_MAX, WRITES_OUTSTANDING_MAX};
use crate::outbox::Weight;
use crate::shard::Shard;
use crate::store::{Stored, Submit};

/// What is answered for a message that is on its way and has no place in a timeline.
const RELAYED: Stored = Stored { sync_id: 0, floor: 0, is_duplicate: false, freed_bytes: 0 };

impl Shard {
    /// Hands a message to every session of the receiver, once.
    pub(super) fn handle_relay(&mut self, submit: Submit, class: Class, now_ms: u64) {
        self.metrics.relays.increment();
        let weight = Weight::of(class);
        if self.is_stopping {
            return self.answer(&submit, Code::Unavailable, None, "the router is stopping");
        }
        let Some(app) = self.take_quota(&submit, now_ms) else { return };
        // A shard that is behind with what an app must not lose has no time for what it may. Apps that have
        // nothing waiting did not fill it.
        if (self.writes_outstanding >= weight.share(WRITES_OUTSTANDING_MAX)
            || self.writes_outstanding_bytes >= weight.share(WRITES_OUTSTANDING_BYTES_MAX))
            && self.tenants.is_behind(app)
        {
            return self.refuse_relay(&submit, "too many messages wait for the disk");
        }
        let account = self.registry.find(&submit.to.app, &submit.to.account, submit.to.hash);
        let delivery = Delivery {
            from: submit.from.to_string(),
            client_id: submit.client_id.clone(),
            sent_at_ms: submit.sent_at_ms,
            payload: submit.payload.clone(),
            marks: submit.marks.as_deref().cloned(),
            ..Delivery::default()
        };
        let body = delivery.encode_to_vec();
        let (mut there, mut reached) = (0, 0);
        for index in account.into_iter().flat_map(|account| self.registry.sessions_of(account)) {
            let Some(session) = self.registry.session(index) else { continue };
            let Some(link) = self.links.get(&session.link).filter(|link| link.is_live()) else { continue };
            there += 1;
            let push = Push::data(submit.to.hash, session.handle, class, &body);
            reached += u64::from(self.outbox.put(link, weight, |out| push.put(out, false)));
        }
        self.metrics.relays_reached.add(reached);
        if there == 0 {
            self.metrics.relays_nobody.increment();
            self.answer(&submit, Code::NotFound, None, "nobody is logged in as the receiver");
        } else if reached == 0 {
            self.refuse_relay(&submit, "the receiver's gateways do not read fast enough");
        } else {
            self.count(&submit.to.app, class, State::Accepted, 1, submit.sent_at_ms);
            self.count(&submit.to.app, class, State::Delivered, 1, submit.sent_at_ms);
            self.count_marks(&submit);
            self.answer(&submit, Code::Ok, Some(RELAYED), "");
        }
    }

    pub(super) fn refuse_relay(&mut self, submit: &Submit, detail: &str) {
        self.metrics.relays_refused.increment();
        self.answer(submit, Code::Overloaded, None, detail);
    }
}
