//! Messages going out: to the devices that are up to date at once, to those behind from the store.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::{Class, Kind, sync_id};
use moor_wire::internal::{Push, Receipt, Up, Verb, put_control};
use prost::Message as _;

use crate::arrival::State;
use crate::clock::wall_ms;
use crate::delivery::{Due, InFlight};
use crate::hook::Cause;
use crate::lease::Link;
use crate::limits::READS_OUTSTANDING_MAX;
use crate::outbox::Weight;
use crate::registry::{AccountIndex, Reading, SessionIndex};
use crate::shard::Shard;
use crate::shard::groups::delivery_of;
use crate::shard::subscriptions::Wishes;
use crate::store::{Found, Read, Slot, Stored, Submit};

fn size(payload: &Bytes) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}

impl Shard {
    /// A message was stored: hands it to every device that has all before it.
    pub(super) fn deliver_new(&mut self, submit: Submit, stored: Stored, now_ms: u64) {
        let found = self.registry.find(&submit.to.app, &submit.to.account, submit.to.hash);
        self.check_presence(found, &submit, stored);
        let Some(index) = found else { return };
        let Some(account) = self.registry.account_mut(index) else { return };
        account.head = account.head.max(stored.sync_id);
        account.floor = account.floor.max(stored.floor);
        let app = account.app;
        let (bytes, sent_at_ms) = (size(&submit.payload), submit.sent_at_ms);
        let (_, message) = submit.into_message(stored.sync_id);
        let mut delivery = delivery_of(message, stored.floor);
        let wishes = self.subscriptions.met(app, delivery.marks.as_ref());
        let in_flight = InFlight { sync_id: stored.sync_id, bytes, wishes, sent_at_ms };
        let mut body: Option<Bytes> = None;
        let sessions = self.list_sessions(index);
        for session in &sessions {
            let is_next = self.registry.session(*session).is_some_and(|session| {
                session.is_placed() && session.sent() + 1 == stored.sync_id && session.window_is_open()
            });
            if is_next {
                let body = body.get_or_insert_with(|| std::mem::take(&mut delivery).encode_to_vec().into());
                self.push_delivery(*session, body, in_flight, now_ms);
            }
        }
        self.scratch = sessions;
        if body.is_some() {
            self.count_now(index, Class::Reliable, State::Delivered, 1);
        }
        self.pump(index);
    }

    /// The sessions of an account in a list that is kept between calls; the caller gives it back.
    pub(super) fn list_sessions(&mut self, account: AccountIndex) -> Vec<SessionIndex> {
        let mut sessions = std::mem::take(&mut self.scratch);
        sessions.clear();
        sessions.extend(self.registry.sessions_of(account));
        sessions
    }

    fn push_delivery(&mut self, index: SessionIndex, body: &[u8], message: InFlight, now_ms: u64) {
        let Some((session, account)) = self.registry.pair_mut(index) else { return };
        let Some(link) = self.links.get(&session.link).filter(|link| link.is_live()) else { return };
        let push = Push::data(account.hash, session.handle, Class::Reliable, body);
        // A full link drops it; the retry brings it again.
        self.outbox.put(link, Weight::Reliable, |out| push.put(out, false));
        self.metrics.deliveries.increment();
        let generation = session.generation();
        if let Some(due_ms) = session.handle_sent(message, now_ms) {
            self.retries.push(Reverse((due_ms, index, generation)));
        }
    }

    /// Asks the store for messages if a device of the account could take some and none are on their way.
    pub(super) fn pump(&mut self, index: AccountIndex) {
        let Some(account) = self.registry.account(index) else { return };
        if account.reading != Reading::Idle {
            return;
        }
        let head = account.head;
        let is_wanted = self.registry.sessions_of(index).any(|session| {
            self.registry
                .session(session)
                .is_some_and(|session| session.wants_range(head) && self.live_link(session.link).is_some())
        });
        if !is_wanted {
            return;
        }
        let Some(account) = self.registry.account_mut(index) else { return };
        account.reading = Reading::Asked;
        let slot = Slot { index, generation: account.generation };
        if self.ranges_outstanding < READS_OUTSTANDING_MAX {
            self.read_range(slot);
        } else {
            self.backlog.push_back(slot);
        }
    }

    pub(super) fn drain_backlog(&mut self) {
        while self.ranges_outstanding < READS_OUTSTANDING_MAX
            && let Some(slot) = self.backlog.pop_front()
        {
            self.read_range(slot);
        }
    }

    /// Reads from behind the hungry device that is furthest back.
    fn read_range(&mut self, slot: Slot<AccountIndex>) {
        let Some(account) = self.registry.account(slot.index).filter(|now| now.generation == slot.generation)
        else {
            return;
        };
        let (head, below_floor) = (account.head, account.floor.saturating_sub(1));
        let after = self
            .registry
            .sessions_of(slot.index)
            .filter_map(|session| self.registry.session(session))
            .filter(|session| session.wants_range(head) && self.live_link(session.link).is_some())
            .map(|session| session.sent().max(below_floor))
            .min();
        match (after, self.key_of(slot.index)) {
            (Some(after), Some(key)) => {
                self.ranges_outstanding += 1;
                self.metrics.ranges.increment();
                self.reads.push(Read::Range { key, account: slot, after });
            }
            _ => {
                if let Some(account) = self.registry.account_mut(slot.index) {
                    account.reading = Reading::Idle;
                }
            }
        }
    }

    pub(super) fn handle_range(&mut self, slot: Slot<AccountIndex>, after: u64, found: &Found, now_ms: u64) {
        self.ranges_outstanding -= 1;
        let Some(account) =
            self.registry.account_mut(slot.index).filter(|now| now.generation == slot.generation)
        else {
            self.drain_backlog();
            return;
        };
        account.reading = Reading::Idle;
        account.head = account.head.max(found.extent.head);
        account.floor = account.floor.max(found.extent.floor);
        let floor = account.floor;
        let sessions = self.list_sessions(slot.index);
        let mut bodies: Vec<Option<(Bytes, Wishes)>> = vec![None; found.messages.len()];
        let delivered = self.delivered_through(slot.index);
        for index in &sessions {
            // Someone who was wound back behind the range meanwhile waits for the next one.
            let is_served = self.registry.session_mut(*index).is_some_and(|session| {
                if session.is_placed() && session.sent() + 1 < floor {
                    session.skip_to(floor - 1);
                }
                session.is_hungry(found.through) && session.sent() >= after
            });
            if is_served {
                self.serve(*index, found, floor, &mut bodies, now_ms);
            }
        }
        self.scratch = sessions;
        let first_times = found
            .messages
            .iter()
            .zip(&bodies)
            .filter(|(message, body)| message.sync_id > delivered && body.is_some())
            .count();
        if first_times > 0 {
            self.count_now(slot.index, Class::Reliable, State::Delivered, first_times as u64);
        }
        self.pump(slot.index);
        self.drain_backlog();
    }

    /// Hands one device what it lacks of a range, as far as its window goes.
    fn serve(
        &mut self,
        index: SessionIndex,
        found: &Found,
        floor: u64,
        bodies: &mut [Option<(Bytes, Wishes)>],
        now_ms: u64,
    ) {
        for (message, body) in found.messages.iter().zip(bodies) {
            let Some(session) = self.registry.session(index) else { return };
            if message.sync_id <= session.sent() {
                continue;
            }
            if !session.window_is_open() || self.live_link(session.link).is_none() {
                return;
            }
            let app = self.registry.account(session.account).map(|account| account.app);
            let (body, wishes) = body.get_or_insert_with(|| {
                let delivery = delivery_of(message.clone(), floor);
                let marks = delivery.marks.as_ref();
                let wishes = app.map(|app| self.subscriptions.met(app, marks)).unwrap_or_default();
                (delivery.encode_to_vec().into(), wishes)
            });
            let (sync_id, sent_at_ms) = (message.sync_id, message.sent_at_ms);
            let in_flight = InFlight { sync_id, bytes: size(&message.payload), wishes: *wishes, sent_at_ms };
            self.push_delivery(index, body, in_flight, now_ms);
        }
        // Ids that the range covers and the store does not have will not come: never ask for them again.
        if let Some(session) = self.registry.session_mut(index) {
            session.skip_to(found.through);
        }
    }

    /// A client's ACK or SYNC.
    pub(super) fn handle_cursor(&mut self, link: &Arc<Link>, hash: u64, up: &[u8], now_ms: u64) {
        let Ok(up) = Up::parse(up) else { return };
        let Some(position) = sync_id(up.body) else { return };
        let found = self
            .registry
            .find(up.app, up.account, hash)
            .and_then(|account| self.find_session(account, up.session, link));
        let Some(index) = found else {
            // Not announced yet: the announcement will carry the position.
            self.metrics.strays.increment();
            return;
        };
        if !self.registry.session(index).is_some_and(crate::registry::Session::is_placed) {
            self.metrics.strays.increment();
            return;
        }
        if up.kind == Kind::Ack.byte() {
            self.count_acknowledged(index, position);
        }
        let Some((session, account)) = self.registry.pair_mut(index) else { return };
        let was_resting = session.is_resting();
        let news = if up.kind == Kind::Sync.byte() {
            self.metrics.syncs.increment();
            session.place(position, account.floor, account.head);
            Some(Wishes::default())
        } else {
            session.handle_ack(position, account.head, now_ms)
        };
        let (acked, owner) = (session.acked, session.account);
        let wants_range = session.wants_range(account.head);
        if let Some(met) = news {
            if !session.is_dirty() {
                session.set_dirty(true);
                self.dirty.push(Slot { index, generation: session.generation() });
            }
            if up.kind == Kind::Ack.byte() {
                self.metrics.acks.increment();
                self.send_receipts(&up, acked, met);
                self.tell_device_ack(index, acked);
            }
        }
        if wants_range && (news.is_some() || was_resting) {
            self.pump(owner);
        }
    }

    fn send_receipts(&mut self, up: &Up<'_>, acked: u64, met: Wishes) {
        let Some(app) = self.registry.app(up.app) else { return };
        let mut links = self.subscriptions.of(app, met).peekable();
        if links.peek().is_none() {
            return;
        }
        let receipt = Receipt {
            app: up.app.to_owned(),
            account: up.account.to_owned(),
            device: up.device.to_owned(),
            sync_id: acked,
            at_ms: wall_ms(),
        };
        for link in links {
            self.metrics.receipts.increment();
            self.outbox.put(link, Weight::Normal, |out| put_control(out, Verb::Receipt, &receipt));
        }
    }

    /// A session's place in the queue of retries came up.
    pub(super) fn handle_due(&mut self, index: SessionIndex, generation: u32, now_ms: u64) {
        let Some(session) = self.registry.session_mut(index).filter(|now| now.generation() == generation)
        else {
            return;
        };
        let account = session.account;
        match session.handle_due(now_ms) {
            Due::Later(due_ms) => self.retries.push(Reverse((due_ms, index, generation))),
            Due::Retry(due_ms) => {
                self.metrics.retries.increment();
                self.retries.push(Reverse((due_ms, index, generation)));
                self.pump(account);
            }
            Due::Rest => {
                self.metrics.rests.increment();
                self.report_unacknowledged(index, Cause::Unacknowledged);
            }
            Due::Idle => {}
        }
    }
}
