//! The members' side of groups: what a group's shard hands over is written beside the members' timelines, copied
//! into them, or pushed to their sessions; and sessions are told where they are behind.
//!
//! An entry that is only pushed is not kept here. What is kept per session, while something is unacknowledged, is
//! how far each group was pushed: when no acknowledgement comes, the session is told the head, and pulls.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, GroupAck, GroupAnswer, GroupHead, GroupHeads, GroupRole, Kind, Membership,
};
use moor_wire::identity::account_hash;
use moor_wire::internal::{Push, Up};
use moor_wire::limits::{GROUP_HEADS_MAX, GROUP_PAGE_NAMES_MAX, GROUP_POSITIONS_MAX};
use prost::Message as _;

use crate::group::{MemberKey, NO_GROUP};
use crate::hook::Cause;
use crate::lease::{Link, ShardIndex};
use crate::limits::{
    GROUPS_PER_ACCOUNT_MAX, HEADS_OUTSTANDING_MAX, HEADS_TIMEOUT_MS, POSITIONS_WAITING_MAX,
    REMINDS_OUTSTANDING_MAX, RETRIES_PER_TURN_MAX, RETRY_MS,
};
use crate::outbox::Weight;
use crate::registry::SessionIndex;
use crate::shard::Shard;
use crate::shard::spread::{Part, Spread, SpreadEntry};
use crate::shard::submit::DETAIL;
use crate::shard::work::{GroupAsk, Work};
use crate::store::groups::{
    ConversationRow, GroupRead, GroupWrite, HeadsAsk, PositionSave, Preference, Purpose, VacancyAsk, Waiter,
};
use crate::store::{AccountKey, Entry, Origin, Read, Slot, Submit, Write};

/// A session as it was: its slot and generation.
type SessionKey = (SessionIndex, u32);

/// Whose position in a group it is: the group, the member, its device.
type Place = (AccountKey, Box<str>, Box<str>);

/// How far a group was pushed to a session that has not acknowledged it.
#[derive(Debug)]
struct Tail {
    key: Arc<AccountKey>,
    pushed: u64,
    /// Whoever pushes to devices that are away is told of it.
    is_told: bool,
    due_ms: u64,
    tries: u8,
}

/// Answers about groups' heads that are still to come.
#[derive(Debug)]
struct HeadsWait {
    waiting: usize,
    heads: Vec<GroupHead>,
    due_ms: u64,
}

/// What a shard keeps of its sessions' groups.
#[derive(Debug, Default)]
pub struct Conversations {
    /// By session: there exactly while `due` has an entry for it, and empty where all of it was acknowledged before.
    tails: HashMap<SessionKey, Vec<Tail>>,
    /// When, which session.
    due: BinaryHeap<Reverse<(u64, SessionIndex, u32)>>,
    /// By session and group, until the next flush.
    positions: HashMap<(SessionIndex, u32, u64), PositionSave>,
    /// The newest of each position of members of groups here that waits for the store.
    newest: HashMap<Place, u64>,
    /// Sessions whose accounts' groups are being read to tell them again what they have not acknowledged.
    reminds_outstanding: usize,
    heads: HashMap<SessionKey, HeadsWait>,
    /// Groups that accounts, by their hashes, are members of as soon as it is written.
    pub(super) joining: HashMap<u64, Vec<Joining>>,
    /// Sessions that came meanwhile, until their account's groups are read: what is read may not show these.
    joined: HashMap<SessionKey, Vec<Arc<AccountKey>>>,
}

/// A membership that is being written.
#[derive(Debug)]
pub(super) struct Joining {
    account: Box<str>,
    group: Arc<AccountKey>,
    part: Arc<Part>,
}

#[cfg(test)]
impl Conversations {
    /// Entries in the queue of retries.
    pub(super) fn timed(&self) -> usize {
        self.due.len()
    }
}

impl Shard {
    pub(super) fn shard_of(&self, hash: u64) -> ShardIndex {
        ShardIndex(u16::try_from(hash % self.outbox.shards() as u64).unwrap_or(0))
    }

    pub(super) fn handle_spread(&mut self, spread: &Spread, now_ms: u64) {
        let part = &spread.part;
        let mut shared = Vec::new();
        for entry in spread.entries.iter() {
            if entry.event.is_some() {
                self.spread_event(spread, entry, part, now_ms);
            }
            if entry.entry.is_copied() {
                for member in spread.members.iter().filter(|member| member.since <= entry.sync_id) {
                    self.spread_copy(spread, entry, member, part, now_ms);
                }
            } else {
                shared.push(entry);
            }
        }
        self.fan_out(&spread.key, &shared, &spread.members, now_ms);
        part.finish(true, &mut self.outbox);
    }

    /// Who is in a group from now on, or no longer, and lives here.
    fn spread_event(&mut self, spread: &Spread, entry: &SpreadEntry, part: &Arc<Part>, now_ms: u64) {
        let Some(event) = &entry.event else { return };
        let app = &spread.key.app;
        let set = event.set.iter().map(|member| (&*member.account, Some(member.role())));
        let removed = event.removed.iter().map(|name| (name.as_str(), None));
        for (account, role) in set.chain(removed) {
            let hash = account_hash(app, account);
            if self.shard_of(hash) == self.index {
                self.spread_membership(spread, hash, account, role, part);
            }
        }
        if event.dissolved {
            for member in spread.members.iter() {
                self.spread_membership(spread, member.hash, &member.account, None, part);
            }
        }
        // They are members no more, and are told once, if they are there.
        for account in &event.removed {
            let hash = account_hash(app, account);
            if self.shard_of(hash) == self.index {
                let account = account.as_str().into();
                let former = MemberKey { account, hash, since: entry.sync_id, is_muted: true };
                self.fan_out(&spread.key, &[entry], &[former], now_ms);
            }
        }
    }

    fn spread_membership(
        &mut self,
        spread: &Spread,
        hash: u64,
        account: &str,
        role: Option<GroupRole>,
        part: &Arc<Part>,
    ) {
        let Some(group) = spread.key.group() else { return };
        let key = AccountKey { hash, app: spread.key.app.clone(), account: account.into() };
        part.begin();
        if role.is_some() {
            let joining = Joining { account: account.into(), group: spread.key.clone(), part: part.clone() };
            self.conversations.joining.entry(hash).or_default().push(joining);
        }
        let write = GroupWrite::Membership { key, group: group.into(), role, part: part.clone() };
        self.writes.push(Write::Group(Box::new(write)));
    }

    /// A copy for a member's own timeline. Its sender is the group's reserved name and its client id the place in
    /// the group's timeline, so that it is stored once however often it comes.
    fn spread_copy(
        &mut self,
        spread: &Spread,
        entry: &SpreadEntry,
        member: &MemberKey,
        part: &Arc<Part>,
        now_ms: u64,
    ) {
        part.begin();
        self.metrics.group_copies.increment();
        let (hash, app, account) = (member.hash, spread.key.app.clone(), (*member.account).into());
        let submit = Submit {
            to: AccountKey { hash, app, account },
            from: spread.key.account.clone(),
            client_id: Bytes::copy_from_slice(&entry.sync_id.to_be_bytes()),
            payload: entry.body.clone(),
            sent_at_ms: entry.sent_at_ms,
            origin: Origin::Spread { part: part.clone(), is_told: entry.is_told(member) },
            entry: if entry.is_quiet(member) { Entry::Quiet } else { Entry::Personal },
            // They lie in the body.
            marks: None,
            copies_bytes: 0,
        };
        self.offer(Box::new(submit), now_ms);
    }

    /// A session that does not acknowledge it will be told of the head.
    pub(super) fn note_pushed(
        &mut self,
        index: SessionIndex,
        key: &Arc<AccountKey>,
        sync_id: u64,
        is_told: bool,
        now_ms: u64,
    ) {
        let Some(session) = self.registry.session(index) else { return };
        let session = (index, session.generation());
        let due = &mut self.conversations.due;
        let tails = self.conversations.tails.entry(session).or_insert_with(|| {
            due.push(Reverse((now_ms + RETRY_MS[0], index, session.1)));
            Vec::new()
        });
        match tails.iter_mut().find(|tail| tail.key == *key) {
            Some(tail) => {
                tail.pushed = tail.pushed.max(sync_id);
                tail.is_told |= is_told;
            }
            None => {
                if tails.len() < GROUPS_PER_ACCOUNT_MAX {
                    tails.push(Tail {
                        key: key.clone(),
                        pushed: sync_id,
                        is_told,
                        due_ms: now_ms + RETRY_MS[0],
                        tries: 0,
                    });
                }
            }
        }
    }

    pub(super) fn handle_group_ack(&mut self, link: &Arc<Link>, hash: u64, up: &[u8], now_ms: u64) {
        let Ok(up) = Up::parse(up) else { return };
        let found = self
            .registry
            .find(up.app, up.account, hash)
            .and_then(|account| self.find_session(account, up.session, link));
        let (Some(index), Ok(ack)) = (found, GroupAck::decode(up.body)) else {
            self.metrics.strays.increment();
            return;
        };
        let Some(generation) = self.registry.session(index).map(|session| session.generation()) else {
            return;
        };
        for position in ack.positions.into_iter().take(GROUP_POSITIONS_MAX) {
            let key = AccountKey::of_group(up.app, &position.group);
            self.metrics.group_acks.increment();
            if let Some(tails) = self.conversations.tails.get_mut(&(index, generation))
                && let Some(at) = tails.iter().position(|tail| *tail.key == key)
            {
                if tails[at].pushed <= position.sync_id {
                    tails.swap_remove(at);
                } else {
                    (tails[at].due_ms, tails[at].tries) = (now_ms + RETRY_MS[0], 0);
                }
            }
            let place = (index, generation, key.hash);
            let save = PositionSave {
                key,
                member: up.account.into(),
                device: up.device.into(),
                acked: position.sync_id,
            };
            let kept = self.conversations.positions.entry(place).or_insert_with(|| save.clone());
            kept.acked = kept.acked.max(save.acked);
        }
        if self.conversations.positions.len() >= POSITIONS_WAITING_MAX {
            self.flush_positions();
        }
    }

    /// Sends positions to their groups' shards. Lost ones are given again by the next acknowledgement, or cost a
    /// message that the client knows already.
    pub(super) fn flush_positions(&mut self) {
        let mut by_shard: HashMap<ShardIndex, Vec<PositionSave>> = HashMap::new();
        for (_, save) in std::mem::take(&mut self.conversations.positions) {
            by_shard.entry(self.shard_of(save.key.hash)).or_default().push(save);
        }
        for (shard, saves) in by_shard {
            drop(self.outbox.cross(shard, Work::Positions(saves)));
        }
    }

    /// One write for each place, however often it moves until its turn has come. What a disk that is behind does not take
    /// is lost, like what finds no way here.
    pub(super) fn handle_positions(&mut self, saves: Vec<PositionSave>) {
        for PositionSave { key, member, device, acked } in saves {
            let place = (key, member, device);
            if let Some(newest) = self.conversations.newest.get_mut(&place) {
                *newest = acked.max(*newest);
                continue;
            }
            let app = self.open_tenant(&place.0.app);
            let Some(app) = app.filter(|app| self.has_place(*app, Weight::Transient)) else {
                self.metrics.positions_dropped.increment();
                continue;
            };
            self.conversations.newest.insert(place.clone(), acked);
            let (key, member, device) = place;
            let save = PositionSave { key, member, device, acked };
            self.put_write(app, Write::Group(Box::new(GroupWrite::Position(save))));
        }
    }

    /// A write as it leaves its app's backlog: a position is the newest of its place.
    pub(super) fn take_newest(&mut self, write: Write) -> Write {
        let Write::Group(group) = write else { return write };
        let group = match *group {
            GroupWrite::Position(PositionSave { key, member, device, acked }) => {
                let place = (key, member, device);
                let acked = self.conversations.newest.remove(&place).unwrap_or(acked);
                let (key, member, device) = place;
                GroupWrite::Position(PositionSave { key, member, device, acked })
            }
            other => other,
        };
        Write::Group(Box::new(group))
    }

    /// A session came. Entries by which its account joins a group may have been pushed just before, and the membership
    /// not be written yet when the account's groups are read.
    pub(super) fn note_joining(&mut self, index: SessionIndex, hash: u64) {
        let Some(joining) = self.conversations.joining.get(&hash) else { return };
        let Some(session) = self.registry.session(index) else { return };
        let Some(key) = self.key_of(session.account) else { return };
        let pending =
            joining.iter().filter(|joining| joining.account == key.account && !joining.part.is_over());
        let groups: Vec<_> = pending.map(|joining| joining.group.clone()).collect();
        if !groups.is_empty() {
            self.conversations.joined.insert((index, session.generation()), groups);
        }
    }

    /// Memberships that are written are not waited for.
    pub(super) fn tick_joining(&mut self) {
        self.conversations.joining.retain(|_, joining| {
            joining.retain(|joining| !joining.part.is_over());
            !joining.is_empty()
        });
    }

    /// A session goes: nobody is told its heads any more.
    pub(super) fn forget_conversations(&mut self, session: SessionKey) {
        self.conversations.joined.remove(&session);
        self.conversations.tails.remove(&session);
        self.conversations.heads.remove(&session);
    }

    pub(super) fn tick_conversations(&mut self, now_ms: u64) {
        for _ in 0..RETRIES_PER_TURN_MAX {
            match self.conversations.due.peek() {
                Some(Reverse((due_ms, ..))) if *due_ms <= now_ms => {}
                _ => break,
            }
            if let Some(Reverse((_, index, generation))) = self.conversations.due.pop() {
                self.retry_tails(index, generation, now_ms);
            }
        }
    }

    /// The groups of whose entries a session owes acknowledgements, and up to which.
    pub(super) fn tails_of(&self, session: SessionKey) -> Vec<(Arc<AccountKey>, u64)> {
        let tails = self.conversations.tails.get(&session).into_iter().flatten();
        tails.filter(|tail| tail.is_told).map(|tail| (tail.key.clone(), tail.pushed)).collect()
    }

    /// Tells a session the heads of what it has not acknowledged; three times, then it rests until it speaks of
    /// them, or comes again.
    fn retry_tails(&mut self, index: SessionIndex, generation: u32, now_ms: u64) {
        let Some(tails) = self.conversations.tails.get_mut(&(index, generation)) else { return };
        let (mut heads, mut given_up) = (Vec::new(), Vec::new());
        tails.retain_mut(|tail| {
            if now_ms < tail.due_ms {
                return true;
            }
            let Some(wait_ms) = RETRY_MS.get(usize::from(tail.tries) + 1) else {
                // The last time.
                heads.push((tail.key.clone(), tail.pushed));
                if tail.is_told {
                    given_up.push((tail.key.clone(), tail.pushed));
                }
                return false;
            };
            tail.tries += 1;
            tail.due_ms = now_ms + wait_ms;
            heads.push((tail.key.clone(), tail.pushed));
            true
        });
        match tails.iter().map(|tail| tail.due_ms).min() {
            Some(due_ms) => self.conversations.due.push(Reverse((due_ms, index, generation))),
            None => drop(self.conversations.tails.remove(&(index, generation))),
        }
        self.report_tails(index, &given_up, Cause::Unacknowledged);
        // Which of them its account cares for most stands in the store.
        let session = Slot { index, generation };
        let key = self.registry.session(index).and_then(|session| self.key_of(session.account));
        let Some(key) = key.filter(|_| !heads.is_empty()) else { return };
        self.conversations.reminds_outstanding += 1;
        if self.conversations.reminds_outstanding > REMINDS_OUTSTANDING_MAX {
            return self.remind(session, heads, &[]);
        }
        let purpose = Purpose::Remind { session, heads };
        self.reads.push(Read::Group(Box::new(GroupRead::Conversations { key, purpose })));
    }

    /// Tells a session again what it has not acknowledged; `rows` are its account's groups, by name.
    pub(super) fn remind(
        &mut self,
        session: Slot<SessionIndex>,
        heads: Vec<(Arc<AccountKey>, u64)>,
        rows: &[ConversationRow],
    ) {
        self.conversations.reminds_outstanding -= 1;
        if self.registry.session(session.index).is_none_or(|now| now.generation() != session.generation) {
            return;
        }
        let heads = heads.into_iter().map(|(key, head)| {
            let group = key.group().unwrap_or_default();
            // One that it was removed from is told once more, like any.
            let row = rows.binary_search_by(|row| row.group.as_str().cmp(group)).ok().map(|at| &rows[at]);
            GroupHead {
                group: group.to_owned(),
                head,
                priority: row.map_or(0, |row| u32::from(row.priority)),
                is_muted: row.is_some_and(|row| row.is_muted),
                ..GroupHead::default()
            }
        });
        self.push_heads(session.index, heads.collect());
    }

    /// The most important first; of equal ones by name.
    fn push_heads(&mut self, index: SessionIndex, mut heads: Vec<GroupHead>) {
        heads.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.group.cmp(&b.group)));
        self.metrics.group_heads.add(heads.len() as u64);
        for heads in heads.chunks(GROUP_HEADS_MAX) {
            let Some((session, account)) = self.registry.pair_mut(index) else { return };
            let Some(link) = self.links.get(&session.link).filter(|link| link.is_live()) else { return };
            let body = GroupHeads { heads: heads.to_vec() }.encode_to_vec();
            let (kind, flags) = (Kind::GroupHeads.byte(), Class::Reliable.flags());
            let push = Push { cookie: account.hash, session: session.handle, kind, flags, body: &body };
            // A full link drops it: the tail tells it again.
            self.outbox.put(link, Weight::Reliable, |out| push.put(out, false));
        }
    }

    pub(super) fn handle_conversations(
        &mut self,
        key: &AccountKey,
        purpose: Purpose,
        rows: Vec<ConversationRow>,
        now_ms: u64,
    ) {
        match purpose {
            Purpose::Login { session } => self.ask_heads(key, session, rows, now_ms),
            Purpose::Remind { session, heads } => self.remind(session, heads, &rows),
            Purpose::List { origin, id, after } => {
                let mut rest = rows.into_iter().filter(|row| row.group > after);
                let groups = rest.by_ref().take(GROUP_PAGE_NAMES_MAX).map(|row| Membership {
                    group: row.group,
                    role: row.role.into(),
                    priority: u32::from(row.priority),
                    is_muted: row.is_muted,
                });
                let groups = groups.collect();
                let more = rest.next().is_some();
                self.answer_group(&origin, GroupAnswer { id, groups, more, ..GroupAnswer::default() });
            }
        }
    }

    fn ask_heads(
        &mut self,
        key: &AccountKey,
        slot: Slot<SessionIndex>,
        rows: Vec<ConversationRow>,
        now_ms: u64,
    ) {
        let session = self.registry.session(slot.index).filter(|now| now.generation() == slot.generation);
        let Some(device) = session.map(|session| session.device.clone()) else { return };
        let joined = self.conversations.joined.remove(&(slot.index, slot.generation));
        let joined = joined.unwrap_or_default();
        if rows.is_empty() && joined.is_empty() || self.conversations.heads.len() >= HEADS_OUTSTANDING_MAX {
            return;
        }
        let mut by_shard: HashMap<ShardIndex, Vec<(AccountKey, u8, bool)>> = HashMap::new();
        let joined =
            joined.iter().filter(|joined| rows.iter().all(|row| joined.group() != Some(&*row.group)));
        let joined = joined.map(|group| ((**group).clone(), 0, false));
        let known =
            rows.iter().map(|row| (AccountKey::of_group(&key.app, &row.group), row.priority, row.is_muted));
        for group in known.chain(joined) {
            by_shard.entry(self.shard_of(group.0.hash)).or_default().push(group);
        }
        let mut wait = HeadsWait { waiting: 0, heads: Vec::new(), due_ms: now_ms + HEADS_TIMEOUT_MS };
        for (shard, groups) in by_shard {
            let ask = HeadsAsk {
                home: self.index,
                session: slot,
                member: key.account.clone(),
                device: device.clone(),
                groups,
            };
            wait.waiting += usize::from(self.outbox.cross(shard, Work::Heads(Box::new(ask))).is_ok());
        }
        self.conversations.heads.insert((slot.index, slot.generation), wait);
    }

    pub(super) fn handle_vacancy(&mut self, ask: Box<VacancyAsk>) {
        self.reads.push(Read::Group(Box::new(GroupRead::Vacancy(ask))));
    }

    pub(super) fn handle_heads(&mut self, ask: Box<HeadsAsk>) {
        self.reads.push(Read::Group(Box::new(GroupRead::Heads(ask))));
    }

    pub(super) fn handle_heads_found(&mut self, slot: Slot<SessionIndex>, mut heads: Vec<GroupHead>) {
        let session = (slot.index, slot.generation);
        let Some(wait) = self.conversations.heads.get_mut(&session) else { return };
        wait.heads.append(&mut heads);
        wait.waiting = wait.waiting.saturating_sub(1);
        if wait.waiting == 0 {
            self.tell_heads(session);
        }
    }

    fn tell_heads(&mut self, session: SessionKey) {
        let Some(wait) = self.conversations.heads.remove(&session) else { return };
        if self.registry.session(session.0).is_none_or(|now| now.generation() != session.1) {
            return;
        }
        self.push_heads(session.0, wait.heads);
    }

    /// Answers that do not come any more are not waited for.
    pub(super) fn tick_heads(&mut self, now_ms: u64) {
        let heads = &self.conversations.heads;
        let late = heads.iter().filter(|(_, wait)| now_ms >= wait.due_ms).map(|(session, _)| *session);
        for session in late.collect::<Vec<_>>() {
            self.tell_heads(session);
        }
    }

    pub(super) fn handle_account_ask(&mut self, key: AccountKey, ask: GroupAsk) {
        let id = ask.request.id;
        match &ask.request.act {
            Some(Act::List(page)) => {
                let purpose = Purpose::List { origin: ask.origin.clone(), id, after: page.after.clone() };
                let read = Read::Group(Box::new(GroupRead::Conversations { key, purpose }));
                if !self.try_ask(read) {
                    self.refuse_ask(&ask, Code::Overloaded, "too many lists are asked for");
                }
            }
            Some(Act::Prefer(wish)) => {
                let Ok(priority) = u8::try_from(wish.priority) else {
                    return self.refuse_ask(&ask, Code::Invalid, "a priority is 0 to 255");
                };
                if self.is_stopping {
                    return self.refuse_ask(&ask, Code::Unavailable, "the router is stopping");
                }
                let app = match self.try_quota(&key.app, 0, self.now_ms) {
                    Ok(app) => app,
                    Err((code, detail)) => return self.refuse_ask(&ask, code, detail),
                };
                // A mark's part of the room: it can wait longer than a message.
                if !self.has_place(app, Weight::Normal) {
                    return self.refuse_ask(&ask, Code::Overloaded, DETAIL);
                }
                let (group, is_muted) = (ask.request.group.as_str().into(), wish.is_muted);
                let preference = Preference { key, group, priority, is_muted, origin: ask.origin, id };
                let write = GroupWrite::Preference(Box::new(preference));
                self.put_write(app, Write::Group(Box::new(write)));
            }
            _ => self.refuse_ask(&ask, Code::Invalid, "nothing is asked for"),
        }
    }

    /// The store has written a row of a group, or says why it has not.
    pub(super) fn handle_row(&mut self, waiter: Waiter, outcome: Result<bool, (Code, Arc<str>)>) {
        // What a group's spreading leads to did not wait by app: its entries had.
        if !matches!(waiter, Waiter::Part(_)) {
            self.leave_store(0);
        }
        self.row_done(waiter, outcome);
    }

    /// A row of a group is written, or why it is not.
    pub(super) fn row_done(&mut self, waiter: Waiter, outcome: Result<bool, (Code, Arc<str>)>) {
        match waiter {
            Waiter::Part(part) => part.finish(outcome.is_ok(), &mut self.outbox),
            Waiter::Preference(preference) => self.preference_done(*preference, outcome),
            Waiter::Position => self.metrics.positions_dropped.add(u64::from(outcome.is_err())),
        }
    }

    /// How an account wants a group treated is written. Whom to tell of a message is decided where the group's members are
    /// known.
    fn preference_done(&mut self, preference: Preference, outcome: Result<bool, (Code, Arc<str>)>) {
        let Preference { key, group, is_muted, origin, id, .. } = preference;
        let outcome = outcome.and_then(|is_member| {
            if !is_member {
                return Err((NO_GROUP.0, NO_GROUP.1.into()));
            }
            let (group, member) = (AccountKey::of_group(&key.app, &group), key.account);
            let shard = self.shard_of(group.hash);
            let mute = Work::Mute { key: group, member, is_muted };
            self.outbox
                .cross(shard, mute)
                .map_err(|_| (Code::Overloaded, "too much waits for the group's shard".into()))
        });
        let mut answer = GroupAnswer { id, ..GroupAnswer::default() };
        if let Err((code, detail)) = outcome {
            self.metrics.group_refused.increment();
            (answer.code, answer.detail) = (code.into(), detail.to_string());
        }
        self.answer_group(&origin, answer);
    }
}
