//! What a group's timeline shares with all members, on its way to their sessions.
//!
//! A link gets an entry once, with the sessions it is for, however many they are: with five hundred members the names of
//! sessions are most of what is written, and no longer five hundred copies of the message.

use std::sync::Arc;

use moor_wire::client::{Class, Kind};
use moor_wire::internal::{Push, PushMany};
use moor_wire::limits::PUSH_MANY_SESSIONS_MAX;
use moor_wire::session::SessionHandle;

use crate::group::MemberKey;
use crate::lease::LinkId;
use crate::outbox::Weight;
use crate::shard::Shard;
use crate::shard::spread::SpreadEntry;
use crate::store::AccountKey;

/// A session that entries are for, those from `since` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    link: LinkId,
    cookie: u64,
    session: SessionHandle,
    since: u64,
}

impl Shard {
    /// Pushes entries, in their order, to the sessions of members on this shard.
    pub(super) fn fan_out(
        &mut self,
        key: &Arc<AccountKey>,
        entries: &[&SpreadEntry],
        members: &[MemberKey],
        now_ms: u64,
    ) {
        if entries.is_empty() {
            return;
        }
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        for member in members {
            self.add_targets(&mut targets, key, entries, member, now_ms);
        }
        targets.sort_unstable_by_key(|target| (target.link, target.since));
        for of_link in targets.chunk_by(|a, b| a.link == b.link) {
            self.push_entries(of_link, entries);
        }
        self.targets = targets;
    }

    fn add_targets(
        &mut self,
        targets: &mut Vec<Target>,
        key: &Arc<AccountKey>,
        entries: &[&SpreadEntry],
        member: &MemberKey,
        now_ms: u64,
    ) {
        let first = entries.partition_point(|entry| entry.sync_id < member.since);
        let Some(last) = entries[first..].last() else { return };
        let account = self.registry.find(&key.app, &member.account, member.hash);
        if !account.is_some_and(|account| self.is_listening(account)) {
            for entry in &entries[first..] {
                self.report_absence_in_group(key, entry, member);
            }
        }
        let Some(account) = account else { return };
        let is_told = entries[first..].iter().any(|entry| entry.is_told(member));
        let sessions = self.list_sessions(account);
        for index in &sessions {
            if let Some(session) = self.registry.session(*index) {
                let (link, session) = (session.link, session.handle);
                targets.push(Target { link, cookie: member.hash, session, since: member.since });
            }
            self.note_pushed(*index, key, last.sync_id, is_told, now_ms);
        }
        self.scratch = sessions;
    }

    /// To the sessions of one link, by `since`. A full link drops them: the tail of the session brings it back.
    fn push_entries(&mut self, targets: &[Target], entries: &[&SpreadEntry]) {
        let link = targets.first().and_then(|target| self.links.get(&target.link));
        let Some(link) = link.filter(|link| link.is_live()) else { return };
        let (kind, flags) = (Kind::GroupDelivery.byte(), Class::Reliable.flags());
        for entry in entries {
            let body = &entry.body;
            let of_entry = &targets[..targets.partition_point(|target| target.since <= entry.sync_id)];
            self.metrics.group_pushes.add(of_entry.len() as u64);
            for of_frame in of_entry.chunks(if link.takes_push_many { PUSH_MANY_SESSIONS_MAX } else { 1 }) {
                self.outbox.put(link, Weight::Reliable, |out| match of_frame {
                    [Target { cookie, session, .. }] => {
                        Push { cookie: *cookie, session: *session, kind, flags, body }.put(out, false);
                    }
                    _ => {
                        let sessions = of_frame.iter().map(|target| (target.cookie, target.session));
                        PushMany::put(out, kind, flags, sessions, body);
                    }
                });
            }
        }
    }
}
