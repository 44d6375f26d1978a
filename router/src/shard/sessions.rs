//! Sessions coming and going, and the correction of entries that turned out wrong.

use std::sync::Arc;

use moor_wire::Code;
use moor_wire::identity::{check_account, check_app, check_device};
use moor_wire::internal::{Departure, Kick, NotHere, Registration, Verb, put_control};
use moor_wire::session::SessionHandle;

use crate::lease::Link;
use crate::limits::{SESSIONS_PER_ACCOUNT_MAX, SESSIONS_PER_DEVICE_MAX};
use crate::outbox::Weight;
use crate::registry::{AccountIndex, NewSession, Reading, SessionIndex};
use crate::seldom::Seldom;
use crate::shard::Shard;
use crate::shard::credit::Credit;
use crate::store::groups::{GroupFound, Purpose};
use crate::store::{CursorSave, Found, Read, Slot, StoreError, Write};

/// A disk that fails refuses one read after the other.
static READ_REFUSED: Seldom = Seldom::new();

impl Shard {
    pub(super) fn handle_register(
        &mut self,
        link: &Arc<Link>,
        sessions: Vec<(u64, Registration)>,
        credit: &Arc<Credit>,
    ) {
        // Its connection went while its frames were on their way: a newer link says who is there, or nobody will.
        let is_over = !link.is_live();
        if !is_over {
            self.links.entry(link.id).or_insert_with(|| link.clone());
        }
        for (hash, registration) in sessions {
            self.metrics.registers.increment();
            if is_over || !self.register(link, hash, &registration, credit) {
                self.finish(credit);
            }
        }
    }

    /// True when the store was asked and will finish the credit.
    fn register(&mut self, link: &Arc<Link>, hash: u64, new: &Registration, credit: &Arc<Credit>) -> bool {
        let is_named = check_app(&new.app).is_ok()
            && check_account(&new.account).is_ok()
            && check_device(&new.device).is_ok();
        let Some(app) = is_named.then(|| self.registry.intern_app(&new.app)).flatten() else {
            self.refuse(link, new, Code::Invalid);
            return false;
        };
        let handle = SessionHandle(new.session);
        let account = self.registry.find(&new.app, &new.account, hash);
        let known = account.and_then(|account| self.find_session(account, handle, link));
        if let (Some(account), None) = (account, known)
            && !self.make_room(account, &new.device)
        {
            self.refuse(link, new, Code::Limit);
            return false;
        }
        // Again: making room may have taken the account's last entry, and the account with it.
        let account = self.registry.find_or_insert(app, &new.account, hash);
        let index = match known {
            Some(index) => {
                self.move_session(index, link);
                index
            }
            None => {
                let entry = NewSession { handle, link: link.id, device: &new.device };
                let index = self.registry.add_session(account, &entry);
                self.tell_arrived(index);
                // Who was here before is known only of those that log in now: after a restart of ours all come
                // at once, in any order.
                if new.is_new {
                    self.make_way(index);
                }
                index
            }
        };
        self.offline.handle_present(hash);
        self.note_joining(index, hash);
        let Some((session, owner)) = self.registry.pair_mut(index) else { return false };
        // An entry announced again keeps its own cursor where the gateway names none.
        let position = new.last_sync_id.or(session.is_placed().then_some(session.acked));
        if owner.reading != Reading::Unloaded
            && let Some(position) = position
        {
            session.place(position, owner.floor, owner.head);
            self.pump(account);
        } else {
            session.set_placed(false);
        }
        // Also of one that is known: where it is behind in its groups stands in the store, and the batch is answered when
        // that is read, so that no more sessions are asked for than batches are open.
        let Some(session) = self.registry.session(index) else { return false };
        let session = Slot { index, generation: session.generation() };
        let Some(key) = self.key_of(account) else { return false };
        self.metrics.loads.increment();
        self.reads.push(Read::Load {
            key,
            device: new.device.as_str().into(),
            session,
            credit: credit.clone(),
            last_sync_id: new.last_sync_id,
        });
        true
    }

    /// A session announced again goes by the link it was announced on last.
    fn move_session(&mut self, index: SessionIndex, link: &Link) {
        if self.registry.session(index).is_some_and(|session| session.link != link.id) {
            self.tell_left(index);
            if let Some(session) = self.registry.session_mut(index) {
                session.link = link.id;
            }
            self.tell_arrived(index);
        }
    }

    /// Makes room for one more session: entries under void links go first, then the device's oldest session
    /// is closed. False when the account has too many live ones.
    fn make_room(&mut self, account: AccountIndex, device: &str) -> bool {
        let is_crowded = |shard: &Self| {
            shard
                .registry
                .account(account)
                .is_some_and(|account| account.sessions >= SESSIONS_PER_ACCOUNT_MAX)
        };
        if !is_crowded(self) && self.oldest_of_full_device(account, device).is_none() {
            return true;
        }
        let voids: Vec<_> = self
            .registry
            .sessions_of(account)
            .filter(|index| {
                self.registry
                    .session(*index)
                    .is_some_and(|session| self.links.get(&session.link).is_none_or(|link| link.is_void()))
            })
            .collect();
        for index in voids {
            self.drop_session(index);
        }
        if let Some(oldest) = self.oldest_of_full_device(account, device) {
            self.kick_session(oldest, Code::Limit, "the device opened too many sessions");
            self.drop_session(oldest);
        }
        !is_crowded(self)
    }

    /// The oldest session of a device that may have no more.
    fn oldest_of_full_device(&self, account: AccountIndex, device: &str) -> Option<SessionIndex> {
        let (count, oldest) = self
            .registry
            .sessions_of(account)
            .filter(|index| self.registry.session(*index).is_some_and(|session| &*session.device == device))
            .fold((0, None), |(count, _), index| (count + 1, Some(index)));
        oldest.filter(|_| count >= SESSIONS_PER_DEVICE_MAX)
    }

    fn refuse(&mut self, link: &Link, new: &Registration, code: Code) {
        self.metrics.registers_refused.increment();
        let kick = Kick {
            cookie: 0,
            session: new.session,
            app: new.app.clone(),
            account: new.account.clone(),
            device: new.device.clone(),
            code: code.into(),
            reason: "the router refuses this session".to_owned(),
        };
        self.outbox.put(link, Weight::Answer, |out| put_control(out, Verb::Kick, &kick));
    }

    /// An account's session by handle, announced on this link or an earlier one of the same incarnation.
    pub(super) fn find_session(
        &self,
        account: AccountIndex,
        handle: SessionHandle,
        link: &Link,
    ) -> Option<SessionIndex> {
        self.registry.sessions_of(account).find(|index| {
            self.registry.session(*index).is_some_and(|session| {
                session.handle == handle
                    && (session.link == link.id
                        || self.links.get(&session.link).is_some_and(|other| other.is_same_incarnation(link)))
            })
        })
    }

    pub(super) fn handle_loaded(
        &mut self,
        slot: Slot<SessionIndex>,
        last_sync_id: Option<u64>,
        found: &Found,
        credit: &Credit,
    ) {
        self.finish(credit);
        let Some((session, account)) = self.registry.pair_mut(slot.index) else { return };
        if session.generation() != slot.generation {
            return;
        }
        if account.reading == Reading::Unloaded {
            account.reading = Reading::Idle;
        }
        account.head = account.head.max(found.extent.head);
        account.floor = account.floor.max(found.extent.floor);
        if !session.is_placed() {
            let position = last_sync_id.or(found.acked).unwrap_or(account.floor.saturating_sub(1));
            session.place(position, account.floor, account.head);
        }
        if let Some(known) = found.acked_any {
            session.note_known(known.min(account.head));
        }
        let account = session.account;
        self.pump(account);
    }

    pub(super) fn handle_read(&mut self, read: Read, outcome: Result<Found, StoreError>, now_ms: u64) {
        if read.is_question() {
            self.questions_outstanding -= 1;
        }
        let found = match outcome {
            Ok(found) => found,
            Err(error) => {
                self.metrics.read_errors.increment();
                if let Some(more) = READ_REFUSED.due() {
                    tracing::error!(%error, more_since = more, "the store refused a read");
                }
                match read {
                    Read::Extent { link, cookie, key } => {
                        self.find_sessions(link, cookie, key, None, Code::Storage);
                    }
                    // The client asks again.
                    Read::Marks { .. } => {}
                    Read::Room { pull: Some(pull), .. } => self.handle_room_read_failed(&pull),
                    Read::Group(mut read) => {
                        if !self.refuse_group_read(&mut read) {
                            self.failed_reads.push(Read::Group(read));
                        }
                    }
                    // Somebody waits for it; it is tried again with the next flush.
                    read => self.failed_reads.push(read),
                }
                return;
            }
        };
        match read {
            Read::Load { key, session, credit, last_sync_id, .. } => {
                self.handle_loaded(session, last_sync_id, &found, &credit);
                let rows = match found.group {
                    GroupFound::Conversations(rows) => rows,
                    // An account that the store has never heard of.
                    _ => Vec::new(),
                };
                self.handle_conversations(&key, Purpose::Login { session }, rows, now_ms);
            }
            Read::Range { account, after, .. } => self.handle_range(account, after, &found, now_ms),
            Read::Room { key, pull } => self.handle_room_read(&key, pull.as_deref(), found, now_ms),
            Read::Extent { link, cookie, key } => {
                self.find_sessions(link, cookie, key, Some(found.extent), Code::Ok);
            }
            Read::Group(read) => self.handle_group_read(*read, found, now_ms),
            Read::Marks { key, asker, .. } => self.handle_marks_found(key, asker, found),
        }
    }

    pub(super) fn handle_unregister(&mut self, link: &Link, sessions: &[(u64, Departure)]) {
        for (hash, departure) in sessions {
            let found = self
                .registry
                .find(&departure.app, &departure.account, *hash)
                .and_then(|account| self.find_session(account, SessionHandle(departure.session), link));
            if let Some(index) = found {
                self.metrics.unregisters.increment();
                self.drop_session(index);
            }
        }
    }

    /// A gateway does not know a session we thought it had: the entry was wrong.
    pub(super) fn handle_not_here(&mut self, link: &Link, entries: &[NotHere]) {
        for entry in entries {
            let found = self
                .registry
                .find_hash(entry.cookie)
                .find_map(|account| self.find_session(account, entry.session, link));
            if let Some(index) = found {
                self.metrics.not_here.increment();
                self.drop_session(index);
            }
        }
    }

    /// Takes a session out; its position goes to the store if that does not have it.
    pub(super) fn drop_session(&mut self, index: SessionIndex) {
        if let Some(session) = self.registry.session(index)
            && session.is_dirty()
            && let Some(key) = self.key_of(session.account)
        {
            let save = CursorSave { key, device: session.device.clone(), acked: session.acked };
            self.writes.push(Write::Cursor(Box::new(save)));
        }
        self.check_departure(index);
        self.tell_left(index);
        if let Some(session) = self.registry.session(index) {
            self.forget_conversations((index, session.generation()));
        }
        self.registry.remove_session(index);
    }
}
