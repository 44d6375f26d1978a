//! Messages that nobody fetches: accepted with nobody there, given up on, or left behind by the last who went.

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::{Class, GroupDelivery};
use prost::Message as _;

use crate::arrival::State;
use crate::config::OfflineSettings;
use crate::group::MemberKey;
use crate::hook::{Cause, Notice, Offline};
use crate::limits::LEFT_OUTSTANDING_MAX;
use crate::offline::Interest;
use crate::registry::{AccountIndex, SessionIndex};
use crate::shard::Shard;
use crate::shard::spread::SpreadEntry;
use crate::store::groups::{GroupFound, GroupRead, Left};
use crate::store::{AccountKey, Origin, Read, Slot, Stored, Submit};

/// A payload that rides along, copied: the message may be a slice of all that was read with it.
fn kept(payload: &Bytes, bytes_max: usize) -> Option<Bytes> {
    (bytes_max > 0 && payload.len() <= bytes_max).then(|| Bytes::copy_from_slice(payload))
}

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
    pub(super) fn is_listening(&self, account: AccountIndex) -> bool {
        self.registry.sessions_of(account).any(|index| {
            self.registry.session(index).is_some_and(|session| {
                !session.is_resting() && self.links.get(&session.link).is_some_and(|link| !link.is_void())
            })
        })
    }

    /// Counts a message that was accepted with nobody there. The longest payload that is told with it; `None`: nothing is.
    fn count_absent(&mut self, app: &str, sent_at_ms: u64) -> Option<usize> {
        self.metrics.offline_messages.increment();
        self.count(app, Class::Reliable, State::Offline, 1, sent_at_ms);
        self.offline.payload_bytes_max(app)
    }

    /// A message was stored: is anybody there?
    pub(super) fn check_presence(&mut self, account: Option<AccountIndex>, submit: &Submit, stored: Stored) {
        if account.is_some_and(|account| self.is_listening(account)) {
            return;
        }
        let Some(payload_bytes_max) = self.count_absent(&submit.to.app, submit.sent_at_ms) else { return };
        let (mut payload, mut marks, mut group) = (submit.payload.clone(), submit.marks.clone(), None);
        if let Origin::Spread { is_told, .. } = submit.origin {
            let Ok(copied) = GroupDelivery::decode(submit.payload.clone()) else { return };
            if !is_told {
                return;
            }
            (payload, marks, group) = (copied.payload, copied.marks.map(Box::new), Some(copied.group.into()));
        }
        let news = Offline {
            app: submit.to.app.clone(),
            account: submit.to.account.clone(),
            device: None,
            group,
            first_sync_id: stored.sync_id,
            last_sync_id: stored.sync_id,
            count: 1,
            class: Class::Reliable,
            sent_at_ms: Some(submit.sent_at_ms),
            cause: Cause::Absent,
            marks,
            payload: kept(&payload, payload_bytes_max),
        };
        self.offline.handle_absence(submit.to.hash, news, self.now_ms);
    }

    /// A message of a group was written once for all, and this member is not there.
    pub(super) fn report_absence_in_group(
        &mut self,
        group: &AccountKey,
        entry: &SpreadEntry,
        member: &MemberKey,
    ) {
        if entry.entry.is_event() {
            return;
        }
        let Some(payload_bytes_max) = self.count_absent(&group.app, entry.sent_at_ms) else { return };
        if !entry.is_told(member) {
            return;
        }
        let Ok(said) = GroupDelivery::decode(entry.body.clone()) else { return };
        let news = Offline {
            app: group.app.clone(),
            account: (*member.account).into(),
            device: None,
            group: Some(said.group.into()),
            first_sync_id: entry.sync_id,
            last_sync_id: entry.sync_id,
            count: 1,
            class: Class::Reliable,
            sent_at_ms: Some(entry.sent_at_ms),
            cause: Cause::Absent,
            marks: said.marks.map(Box::new),
            payload: kept(&said.payload, payload_bytes_max),
        };
        self.offline.handle_absence(member.hash, news, self.now_ms);
    }

    /// A session was given up on in these groups, or is the last of its account and goes.
    pub(super) fn report_tails(
        &mut self,
        index: SessionIndex,
        tails: &[(Arc<AccountKey>, u64)],
        cause: Cause,
    ) {
        for (group, pushed) in tails {
            if let Some((key, news)) = self.news_of_left(index, group.group(), (*pushed, *pushed), cause) {
                self.offline.handle_absence(key.hash, news, self.now_ms);
            }
        }
    }

    /// What is told of what a session leaves behind, of its account's timeline or of a group's; `None`: nothing is.
    fn news_of_left(
        &self,
        index: SessionIndex,
        group: Option<&str>,
        (first_sync_id, last_sync_id): (u64, u64),
        cause: Cause,
    ) -> Option<(AccountKey, Offline)> {
        let session = self.registry.session(index)?;
        let key = self.key_of(session.account)?;
        self.offline.payload_bytes_max(&key.app)?;
        let news = Offline {
            app: key.app.clone(),
            account: key.account.clone(),
            device: Some(session.device.clone()),
            group: group.map(Into::into),
            first_sync_id,
            last_sync_id,
            count: last_sync_id - first_sync_id + 1,
            class: Class::Reliable,
            sent_at_ms: None,
            cause,
            marks: None,
            payload: None,
        };
        Some((key, news))
    }

    /// A session was given up on, or is the last of its account and goes: what it has not acknowledged. Which of it is to
    /// be told of is asked of the store.
    pub(super) fn report_unacknowledged(&mut self, index: SessionIndex, cause: Cause) {
        let Some(session) = self.registry.session(index).filter(|session| session.is_placed()) else {
            return;
        };
        let Some(account) = self.registry.account(session.account) else { return };
        let (first, last) = ((session.acked + 1).max(account.floor), account.head);
        if first > last {
            return;
        }
        let (owner, session) = (session.account, Slot { index, generation: session.generation() });
        self.metrics.offline_messages.add(last - first + 1);
        self.count_now(owner, Class::Reliable, State::Offline, last - first + 1);
        let Some((key, news)) = self.news_of_left(index, None, (first, last), cause) else { return };
        if self.left_outstanding >= LEFT_OUTSTANDING_MAX {
            // Rather told of too much than kept waiting.
            return self.offline.handle_absence(key.hash, news, self.now_ms);
        }
        self.left_outstanding += 1;
        self.reads.push(Read::Group(Box::new(GroupRead::Left(Box::new(Left { key, session, news })))));
    }

    /// The store has said which of what a device left behind is to be told of; nothing: it refused.
    pub(super) fn tell_left_behind(&mut self, left: &Left, found: &GroupFound) {
        self.left_outstanding -= 1;
        let news = &left.news;
        let told = match found {
            GroupFound::Left(parts) => parts
                .iter()
                .map(|part| Offline {
                    first_sync_id: part.first,
                    last_sync_id: part.last,
                    count: part.count,
                    marks: part.marks.clone(),
                    ..news.clone()
                })
                .collect(),
            _ => vec![news.clone()],
        };
        let account = self.registry.find(&left.key.app, &left.key.account, left.key.hash);
        let session = self.registry.session(left.session.index);
        let is_over = match news.cause {
            // It has spoken meanwhile.
            Cause::Unacknowledged => {
                session.is_some_and(|now| now.generation() == left.session.generation && !now.is_resting())
            }
            // Somebody has come meanwhile.
            _ => account.is_some_and(|account| self.is_listening(account)),
        };
        if !is_over {
            self.offline.handle_absences(left.key.hash, told, self.now_ms);
        }
    }

    /// A session is about to be taken out. One that rests has been told of.
    pub(super) fn check_departure(&mut self, index: SessionIndex) {
        let Some(session) = self.registry.session(index) else { return };
        let is_last = self.registry.account(session.account).is_some_and(|account| account.sessions == 1);
        if is_last && !session.is_resting() {
            let tails = self.tails_of((index, session.generation()));
            self.report_unacknowledged(index, Cause::Departed);
            self.report_tails(index, &tails, Cause::Departed);
        }
    }
}
