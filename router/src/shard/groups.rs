//! The groups whose timelines lie on this shard: loaded when somebody asks, changed one change at a time, and
//! spread to their members in rounds.
//!
//! What a group is lies in the store; here is a copy of it, and where its spreading stands. Entries go out in the
//! order of the timeline, a round at a time; the next begins when every shard has confirmed the last. Where the
//! cursor of that is known to be behind (a restart, a failed round), entries go out again: members' shards and
//! clients know them by their ids.

mod again;
mod agenda;
mod history;
mod resume;
mod rounds;
mod state;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, Delivery, GroupAnswer, GroupDelivery, GroupEvent, GroupMember, GroupRole, Kind, Pulled,
};
use moor_wire::identity::group_of_account;
use moor_wire::internal::{GroupResult, HistoryResult, Push, Verb, put_control};
use moor_wire::limits::GROUP_PAGE_NAMES_MAX;
use prost::Message as _;

use crate::group::{Group, NO_GROUP, create};
use crate::lease::ShardIndex;
use crate::limits::{
    GROUP_WAITING_MAX, GROUPS_LOADED_MAX, GROUPS_PER_APP_MAX, GROUPS_WAITING_BYTES_MAX, SPREAD_TIMEOUT_MS,
};
use crate::outbox::Weight;
use crate::shard::work::{GroupAsk, PullAsk, Work};
use crate::shard::{Shard, answer};
use crate::store::groups::{GroupFound, GroupRead, GroupWrite, Purpose, VacancyAsk};
use crate::store::{AccountKey, Entry, Found, Message, Origin, Read, Stored, Submit, Write, usage};
use rounds::spread_entry;
use state::{Changing, Waiting};

pub use state::Groups;

/// The account that changes of groups come from in their timelines: nobody's.
const CHANGES: &str = "\u{1}";
/// What a `GroupDelivery` takes beside names, marks and payload.
const GROUP_DELIVERY_HEAD_BYTES: usize = 40;

/// What copies of an entry will take in its members' timelines, a few bytes less or more.
fn copies_bytes(submit: &Submit, members: usize) -> u64 {
    if !submit.entry.is_copied() {
        return 0;
    }
    let marks = submit.marks.as_ref().map_or(0, |marks| marks.encoded_len());
    let names = submit.to.account.len() + submit.from.len() + submit.client_id.len();
    let body = submit.payload.len() + names + marks + GROUP_DELIVERY_HEAD_BYTES;
    members as u64 * copy_bytes(&submit.to, body)
}

/// What a copy of a group's entry takes whose body is so long.
fn copy_bytes(group: &AccountKey, body: usize) -> u64 {
    usage::message_bytes(&group.account, &[0; 8], &[]) + body as u64
}

/// A message of a timeline as a client is told it: a member's copy of a group's entry is unwrapped.
pub fn delivery_of(message: Message, floor: u64) -> Delivery {
    let Message { sync_id, from, client_id, sent_at_ms, payload, entry, marks } = message;
    if let Some(group) = group_of_account(&from).filter(|group| !group.is_empty())
        && let Ok(inner) = GroupDelivery::decode(payload.clone())
    {
        return Delivery {
            sync_id,
            from: inner.from,
            client_id: inner.client_id,
            sent_at_ms: inner.sent_at_ms,
            floor,
            payload: inner.payload,
            group: group.to_owned(),
            group_sync_id: inner.sync_id,
            is_event: inner.is_event,
            marks: inner.marks,
        };
    }
    let is_event = entry.is_event();
    let from = if is_event { String::new() } else { from };
    let marks = marks.map(|marks| *marks);
    Delivery { sync_id, from, client_id, sent_at_ms, floor, payload, is_event, marks, ..Delivery::default() }
}

impl Shard {
    /// From so many members on messages are not copied.
    pub fn set_group_read_threshold(&mut self, members: u32) {
        self.groups.read_threshold = members as usize;
    }

    pub(super) fn handle_group(&mut self, key: AccountKey, ask: Box<GroupAsk>, now_ms: u64) {
        if key.group().is_some() {
            self.enter_group(key, Waiting::Ask(ask), now_ms);
        } else {
            self.handle_account_ask(key, *ask);
        }
    }

    pub(super) fn handle_pull(&mut self, key: AccountKey, ask: Box<PullAsk>, now_ms: u64) {
        self.metrics.pulls.increment();
        if key.group().is_some() {
            self.enter_group(key, Waiting::Pull(ask), now_ms);
        } else {
            self.read_history(key, 0, *ask);
        }
    }

    pub(super) fn handle_group_submit(&mut self, submit: Box<Submit>, now_ms: u64) {
        self.enter_group(submit.to.clone(), Waiting::Submit(submit), now_ms);
    }

    /// Puts something in line for a group, which is read from the store if it is not here.
    fn enter_group(&mut self, key: AccountKey, waiting: Waiting, now_ms: u64) {
        let is_used = !matches!(waiting, Waiting::Look);
        if !self.groups.states.contains_key(&key) {
            if is_used && self.groups.states.len() - self.groups.resumed >= GROUPS_LOADED_MAX {
                return self.refuse_waiting(waiting, (Code::Overloaded, "too many groups are in use"));
            }
            let key = Arc::new(key.clone());
            self.read_group(
                &key,
                matches!(&waiting, Waiting::Ask(ask) if matches!(ask.request.act, Some(Act::Create(_)))),
            );
            self.groups.open(key, !is_used);
        }
        let Some(state) = self.groups.states.get_mut(&key) else { return };
        if is_used {
            state.used_ms = now_ms;
            self.groups.resumed -= usize::from(std::mem::take(&mut state.is_resumed));
        }
        let bytes = waiting.bytes();
        if state.waiting.len() >= GROUP_WAITING_MAX
            || self.groups.waiting_bytes + bytes > GROUPS_WAITING_BYTES_MAX
        {
            return self.refuse_waiting(waiting, (Code::Overloaded, "too much waits for this group"));
        }
        self.groups.waiting_bytes += bytes;
        state.waiting.push_back(waiting);
        self.run_group(&key, now_ms);
    }

    fn read_group(&mut self, key: &AccountKey, is_new: bool) {
        self.reads.push(Read::Group(Box::new(GroupRead::Group { key: key.clone(), is_new })));
    }

    fn refuse_waiting(&mut self, waiting: Waiting, (code, detail): (Code, &str)) {
        match waiting {
            Waiting::Submit(submit) => {
                self.metrics.group_refused.increment();
                self.answer(&submit, code, None, detail);
            }
            Waiting::Ask(ask) => self.refuse_ask(&ask, code, detail),
            Waiting::Pull(ask) => self.refuse_pull(&ask, code, detail),
            Waiting::Mute { .. } | Waiting::Look => {}
        }
    }

    pub fn refuse_ask(&mut self, ask: &GroupAsk, code: Code, detail: &str) {
        self.metrics.group_refused.increment();
        let id = ask.request.id;
        let answer =
            GroupAnswer { id, code: code.into(), detail: detail.to_owned(), ..GroupAnswer::default() };
        self.answer_group(&ask.origin, answer);
    }

    pub fn refuse_pull(&mut self, ask: &PullAsk, code: Code, detail: &str) {
        self.metrics.pulls_refused.increment();
        let pulled = Pulled {
            id: ask.pull.id,
            code: code.into(),
            detail: detail.to_owned(),
            group: ask.pull.group.clone(),
            ..Pulled::default()
        };
        self.answer_pulled(&ask.origin, pulled);
    }

    pub fn answer_group(&mut self, origin: &Origin, answer: GroupAnswer) {
        match origin {
            Origin::Service { link, cookie } => {
                let result = GroupResult { cookie: *cookie, answer: Some(answer) };
                self.outbox.put(link, Weight::Answer, |out| put_control(out, Verb::GroupResult, &result));
            }
            _ => self.answer_session(origin, Kind::Group, &answer.encode_to_vec()),
        }
    }

    fn answer_pulled(&mut self, origin: &Origin, pulled: Pulled) {
        match origin {
            Origin::Service { link, cookie } => {
                let result = HistoryResult { cookie: *cookie, pulled: Some(pulled) };
                self.outbox.put(link, Weight::Answer, |out| put_control(out, Verb::HistoryResult, &result));
            }
            _ => self.answer_session(origin, Kind::Pulled, &pulled.encode_to_vec()),
        }
    }

    /// Dropped when the gateway does not read: the client asks again.
    fn answer_session(&mut self, origin: &Origin, kind: Kind, body: &[u8]) {
        let Origin::Session { link, session, hash } = origin else { return };
        let push =
            Push { cookie: *hash, session: *session, kind: kind.byte(), flags: Class::Command.flags(), body };
        self.outbox.put(link, Weight::Reliable, |out| push.put(out, false));
    }

    /// Does what is in line, as far as the group is known and not being changed.
    fn run_group(&mut self, key: &AccountKey, now_ms: u64) {
        loop {
            let Some(state) = self.groups.states.get_mut(key) else { return };
            if !state.is_loaded || state.changing.is_some() {
                return self.groups.refile(key, now_ms);
            }
            let Some(waiting) = state.waiting.pop_front() else { break };
            self.groups.waiting_bytes -= waiting.bytes();
            match waiting {
                Waiting::Submit(submit) => self.run_submit(submit, now_ms),
                Waiting::Ask(ask) => self.run_ask(key, ask, now_ms),
                Waiting::Pull(ask) => self.run_pull(key, *ask),
                Waiting::Mute { member, is_muted } => self.handle_mute(key.clone(), member, is_muted),
                Waiting::Look => {}
            }
        }
        self.start_round(key, now_ms);
        if let Some(state) = self.groups.states.get(key)
            && (state.group.is_none() || (state.is_resumed && state.saved >= state.spread))
            && state.is_idle()
        {
            self.groups.close(key);
        }
        self.groups.refile(key, now_ms);
    }

    /// The group, if it is there and alive.
    fn living(&self, key: &AccountKey) -> Option<&Group> {
        self.groups.states.get(key)?.group.as_ref().filter(|group| !group.is_dissolved)
    }

    fn run_submit(&mut self, mut submit: Box<Submit>, now_ms: u64) {
        let is_service = matches!(submit.origin, Origin::Service { .. });
        let may_send = |group: &&Group| is_service || group.members.contains_key(&*submit.from);
        let Some(group) = self.living(&submit.to).filter(may_send) else {
            return self.look_for_sent(submit);
        };
        let members = group.members.len();
        submit.entry = if members >= self.groups.read_threshold { Entry::Shared } else { Entry::Copied };
        submit.copies_bytes = copies_bytes(&submit, members);
        self.offer(submit, now_ms);
    }

    /// The group need not be in memory for it, and is not read for it.
    pub(super) fn handle_mute(&mut self, key: AccountKey, member: Box<str>, is_muted: bool) {
        if let Some(state) = self.groups.states.get_mut(&key) {
            if state.is_loaded {
                let known = state.group.as_mut().and_then(|group| group.members.get_mut(&*member));
                let Some(known) = known.filter(|known| known.is_muted != is_muted) else { return };
                known.is_muted = is_muted;
                state.lists.clear();
            } else {
                // What is being read may not show it.
                state.waiting.push_front(Waiting::Mute { member: member.clone(), is_muted });
            }
        }
        self.writes.push(Write::Group(Box::new(GroupWrite::Mute { key, member, is_muted })));
    }

    fn run_ask(&mut self, key: &AccountKey, ask: Box<GroupAsk>, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let actor = ask.actor.as_deref();
        if matches!(ask.request.act, Some(Act::Members(_))) {
            return self.answer_members(key, &ask);
        }
        let event = match &state.group {
            Some(group) if group.is_dissolved && matches!(ask.request.act, Some(Act::Create(_))) => {
                Err((Code::Unavailable, "the group of that name is being dissolved"))
            }
            Some(group) if group.is_dissolved => Err(NO_GROUP),
            Some(group) => group.decide(actor, &ask.request),
            None => match state.app_groups {
                None if matches!(ask.request.act, Some(Act::Create(_))) => {
                    // It was read for another reason: read it again and count.
                    state.is_loaded = false;
                    state.waiting.push_front(Waiting::Ask(ask));
                    return self.read_group(key, true);
                }
                Some(GROUPS_PER_APP_MAX..) => Err((Code::Limit, "the app has as many groups as it may have")),
                _ => create(actor, &ask.request).map(Some),
            },
        };
        match event {
            Err((code, detail)) => self.refuse_ask(&ask, code, detail),
            Ok(None) => {
                let answer =
                    GroupAnswer { id: ask.request.id, sync_id: state.head, ..GroupAnswer::default() };
                self.answer_group(&ask.origin, answer);
            }
            Ok(Some(event)) => match self.try_quota(&key.app, event.encoded_len(), now_ms) {
                Ok(_) => self.change_group(key, *ask, event, now_ms),
                Err((code, detail)) => self.refuse_ask(&ask, code, detail),
            },
        }
    }

    fn answer_members(&mut self, key: &AccountKey, ask: &GroupAsk) {
        let Some(Act::Members(page)) = &ask.request.act else { return };
        let Some(group) = self.living(key).filter(|g| g.role(ask.actor.as_deref()) != GroupRole::None) else {
            return self.refuse_ask(ask, NO_GROUP.0, NO_GROUP.1);
        };
        let behind = (std::ops::Bound::Excluded(page.after.as_str()), std::ops::Bound::Unbounded);
        let mut rest = group.members.range::<str, _>(behind);
        let members = rest
            .by_ref()
            .take(GROUP_PAGE_NAMES_MAX)
            .map(|(account, member)| GroupMember { account: account.to_string(), role: member.role.into() });
        let members = members.collect();
        let more = rest.next().is_some();
        let (title, is_open) = (group.title.clone(), group.is_open);
        let sync_id = self.groups.states.get(key).map_or(0, |state| state.head);
        let id = ask.request.id;
        let answer = GroupAnswer { id, sync_id, members, more, title, is_open, ..GroupAnswer::default() };
        self.answer_group(&ask.origin, answer);
    }

    /// Offers a change to the store; whoever asked is answered when it is written.
    fn change_group(&mut self, key: &AccountKey, ask: GroupAsk, event: GroupEvent, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let members = state.group.as_ref().map_or(0, |group| group.members.len()) + event.set.len();
        let entry =
            if members >= self.groups.read_threshold { Entry::SharedEvent } else { Entry::CopiedEvent };
        let payload: Bytes = event.encode_to_vec().into();
        // Unlike any other change's, also those of processes before this one.
        let mut client_id = Vec::with_capacity(16);
        client_id.extend_from_slice(&ask.at_ms.to_be_bytes());
        client_id.extend_from_slice(&self.groups.next_change.to_be_bytes());
        self.groups.next_change += 1;
        let known = state.group.as_ref().map(|group| &group.members);
        let new = event.set.iter().map(|member| member.account.as_str());
        let new = new.filter(|name| known.is_none_or(|known| !known.contains_key(*name)));
        let new: Vec<AccountKey> = new.map(|name| AccountKey::new(&key.app, name)).collect();
        let grows = !new.is_empty();
        self.groups.next_ticket += 1;
        let ticket = self.groups.next_ticket;
        let event = Arc::new(event);
        let mut submit = Submit {
            to: key.clone(),
            from: CHANGES.into(),
            client_id: client_id.into(),
            payload,
            sent_at_ms: ask.at_ms,
            origin: Origin::Change { grows },
            entry,
            marks: None,
            copies_bytes: 0,
        };
        submit.copies_bytes = copies_bytes(&submit, members);
        let mut changing = Changing {
            origin: ask.origin,
            id: ask.request.id,
            event,
            submit: None,
            ticket,
            waiting: 0,
            due_ms: now_ms + SPREAD_TIMEOUT_MS,
        };
        if new.is_empty() {
            state.changing = Some(changing);
            return self.offer(Box::new(submit), now_ms);
        }
        changing.submit = Some(Box::new(submit));
        let group = state.key.clone();
        let mut by_shard: HashMap<ShardIndex, Vec<AccountKey>> = HashMap::new();
        for account in new {
            by_shard.entry(self.shard_of(account.hash)).or_default().push(account);
        }
        let mut is_lost = false;
        for (shard, accounts) in by_shard {
            let ask = VacancyAsk { home: self.index, key: group.clone(), ticket, accounts };
            is_lost |= self.outbox.cross(shard, Work::Vacancy(Box::new(ask))).is_err();
            changing.waiting += 1;
        }
        if let Some(state) = self.groups.states.get_mut(key) {
            state.changing = Some(changing);
        }
        if is_lost {
            self.change_done(key, Code::Overloaded, None, "too much waits for a member's shard");
        }
    }

    /// A shard says whether those who are to be added have room for one more group.
    pub(super) fn handle_vacancy_found(
        &mut self,
        key: &AccountKey,
        ticket: u64,
        full: Option<Box<str>>,
        now_ms: u64,
    ) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let Some(changing) = state.changing.as_mut().filter(|changing| changing.ticket == ticket) else {
            return;
        };
        if let Some(full) = full {
            let detail = format!("{full} is in as many groups as an account may be");
            return self.change_done(key, Code::Limit, None, &detail);
        }
        changing.waiting = changing.waiting.saturating_sub(1);
        if changing.waiting == 0
            && let Some(submit) = changing.submit.take()
        {
            self.offer(submit, now_ms);
        }
    }

    /// A change is written, or refused.
    pub(super) fn change_done(&mut self, key: &AccountKey, code: Code, stored: Option<Stored>, detail: &str) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let Some(Changing { origin, id, event, .. }) = state.changing.take() else { return };
        let mut answer =
            GroupAnswer { id, code: code.into(), detail: detail.to_owned(), ..GroupAnswer::default() };
        if let Some(stored) = stored {
            self.metrics.group_changes.increment();
            answer.sync_id = stored.sync_id;
            state.head = state.head.max(stored.sync_id);
            if event.created {
                state.group = Some(Group::default());
                (state.spread, state.saved) = (stored.sync_id - 1, stored.sync_id - 1);
                state.app_groups = None;
            }
            if let Some(group) = &mut state.group {
                group.apply(&key.app, &event, stored.sync_id);
            }
            state.lists.clear();
        } else {
            self.metrics.group_refused.increment();
        }
        self.answer_group(&origin, answer);
        // A change that is new is spread first, by `group_stored`. Any other may have been refused in the midst of what
        // goes on with the group.
        if stored.is_none_or(|stored| stored.is_duplicate) && self.groups.ready.last() != Some(key) {
            self.groups.ready.push(key.clone());
        }
    }

    /// Goes on with groups whose change has ended. At the end of each event: what waits may be refused as well, in a loop
    /// and not ever deeper.
    pub(super) fn run_ready_groups(&mut self, now_ms: u64) {
        while let Some(key) = self.groups.ready.pop() {
            self.run_group(&key, now_ms);
        }
    }

    /// An entry of a group's timeline is stored: it goes to the members.
    pub(super) fn group_stored(&mut self, submit: Submit, stored: Stored, now_ms: u64) {
        if !submit.entry.is_event() {
            self.metrics.group_messages.increment();
        }
        let copies_bytes = submit.copies_bytes;
        let (key, message) = submit.into_message(stored.sync_id);
        let Some(state) = self.groups.states.get_mut(&key) else {
            return self.enter_group(key, Waiting::Look, now_ms);
        };
        self.storage.owe(&mut state.owed, &key.app, copies_bytes);
        state.head = state.head.max(stored.sync_id);
        state.floor = state.floor.max(stored.floor);
        let entry = spread_entry(key.group().unwrap_or_default(), state.floor, message);
        state.enqueue(entry);
        self.run_group(&key, now_ms);
    }

    /// A read about groups ended.
    pub(super) fn handle_group_read(&mut self, read: GroupRead, found: Found, now_ms: u64) {
        match (read, found.group) {
            (GroupRead::Group { key, is_new }, GroupFound::Group(rows, count)) => {
                let Some(state) = self.groups.states.get_mut(&key) else { return };
                if !state.is_loaded {
                    state.is_loaded = true;
                    state.app_groups = is_new.then_some(count);
                    state.head = state.head.max(found.extent.head);
                    state.floor = state.floor.max(found.extent.floor);
                    if let Some(rows) = rows {
                        (state.spread, state.saved) = (rows.spread, rows.spread);
                        state.group = Some(Group::from_rows(&key.app, &rows));
                    }
                }
                self.run_group(&key, now_ms);
            }
            (GroupRead::Entries { key, after }, _) => {
                let Some(state) = self.groups.states.get_mut(&key) else { return };
                state.is_reading = false;
                state.head = state.head.max(found.extent.head);
                state.floor = state.floor.max(found.extent.floor);
                let group = key.group().unwrap_or_default();
                let floor = state.floor;
                let entries = found.messages.into_iter().map(|message| spread_entry(group, floor, message));
                let entries: Vec<_> = entries.collect();
                if entries.is_empty() {
                    // What retention took before it was spread.
                    state.spread_to(found.through.max(after), 0, now_ms);
                    self.start_round(&key, now_ms);
                    self.groups.refile(&key, now_ms);
                } else {
                    state.clear_queue();
                    self.begin_round(&key, entries, now_ms);
                }
            }
            (GroupRead::Unspread { .. }, GroupFound::Unspread(keys, end)) => {
                self.handle_unspread(keys, end, now_ms);
            }
            (GroupRead::Conversations { key, purpose }, GroupFound::Conversations(rows)) => {
                self.handle_conversations(&key, purpose, rows, now_ms);
            }
            (GroupRead::Heads(ask), GroupFound::Heads(heads)) => {
                let found = Work::HeadsFound { session: ask.session, heads };
                // Lost when that shard's queue is full: it goes on without after a while.
                drop(self.outbox.cross(ask.home, found));
            }
            (GroupRead::Vacancy(ask), GroupFound::Vacancy(full)) => {
                let found = Work::VacancyFound { key: ask.key, ticket: ask.ticket, full };
                // Lost when that shard's queue is full: the change's time runs out.
                drop(self.outbox.cross(ask.home, found));
            }
            (GroupRead::Left(left), found) => self.tell_left_behind(&left, &found),
            (GroupRead::Sent(sent), found) => self.answer_sent(&sent, &found),
            (GroupRead::History(history), group) => self.answer_history(&history, Found { group, ..found }),
            _ => {}
        }
    }

    /// The store refused a read. True when nobody waits for it any longer.
    pub(super) fn refuse_group_read(&mut self, read: &mut GroupRead) -> bool {
        let detail = "the disk refuses";
        match read {
            GroupRead::History(history) => {
                self.groups.histories_outstanding -= 1;
                let pulled = Pulled {
                    id: history.id,
                    code: Code::Storage.into(),
                    detail: detail.to_owned(),
                    group: history.key.group().unwrap_or_default().to_owned(),
                    ..Pulled::default()
                };
                self.answer_pulled(&history.origin, pulled);
                true
            }
            GroupRead::Left(left) => {
                self.tell_left_behind(left, &GroupFound::Nothing);
                true
            }
            GroupRead::Sent(sent) => {
                self.metrics.refused_storage.increment();
                answer(&mut self.outbox, &sent.origin, &sent.client_id, Code::Storage, None, detail);
                true
            }
            GroupRead::Conversations { purpose: Purpose::Remind { session, heads }, .. } => {
                self.remind(*session, std::mem::take(heads), &[]);
                true
            }
            GroupRead::Conversations { purpose: Purpose::List { origin, id, .. }, .. } => {
                let (code, id) = (Code::Storage.into(), *id);
                let answer = GroupAnswer { id, code, detail: detail.to_owned(), ..GroupAnswer::default() };
                self.answer_group(origin, answer);
                true
            }
            _ => false,
        }
    }
}
