//! The groups whose timelines lie on this shard: loaded when somebody asks, changed one change at a time, and
//! spread to their members in rounds.
//!
//! What a group is lies in the store; here is a copy of it, and where its spreading stands. Entries go out in the
//! order of the timeline, a round at a time; the next begins when every shard has confirmed the last. Where the
//! cursor of that is known to be behind (a restart, a failed round), entries go out again: members' shards and
//! clients know them by their ids.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, Delivery, GroupAnswer, GroupDelivery, GroupEvent, GroupMember, GroupRole, Kind, Pulled,
};
use moor_wire::identity::group_of_account;
use moor_wire::internal::{GroupResult, HistoryResult, Push, Verb, put_control};
use moor_wire::limits::{GROUP_PAGE_NAMES_MAX, SERVER_BODY_BYTES_MAX};
use prost::Message as _;

use crate::group::{Group, MemberKey, NO_GROUP, create};
use crate::lease::ShardIndex;
use crate::limits::{
    GROUP_IDLE_MS, GROUP_WAITING_MAX, GROUPS_LOADED_MAX, GROUPS_PER_APP_MAX, GROUPS_WAITING_BYTES_MAX,
    HISTORIES_OUTSTANDING_MAX, HISTORY_MESSAGES_MAX, SPREAD_BYTES_MAX, SPREAD_COPIES_MAX, SPREAD_ENTRIES_MAX,
    SPREAD_QUEUE_BYTES_MAX, SPREAD_QUEUES_BYTES_MAX, SPREAD_RETRY_MS, SPREAD_TIMEOUT_MS,
};
use crate::outbox::Weight;
use crate::shard::Shard;
use crate::shard::spread::{Spread, SpreadEntry};
use crate::shard::work::{GroupAsk, PullAsk, Work};
use crate::store::groups::{GroupFound, GroupRead, GroupWrite, History, RoomAsk};
use crate::store::{AccountKey, Entry, Found, Message, Origin, Read, Stored, Submit, Write};

/// The account that changes of groups come from in their timelines: nobody's.
const CHANGES: &str = "\u{1}";

/// What waits until a group is known, or its change written.
#[derive(Debug)]
enum Waiting {
    Submit(Box<Submit>),
    Ask(Box<GroupAsk>),
    Pull(Box<PullAsk>),
    /// Only that it is loaded, and spread if need be.
    Look,
}

impl Waiting {
    fn bytes(&self) -> usize {
        if let Self::Submit(submit) = self { submit.payload.len() } else { 0 }
    }
}

/// A change on its way to the disk.
#[derive(Debug)]
struct Changing {
    origin: Origin,
    id: u64,
    event: Arc<GroupEvent>,
    /// Waits until the shards of those who are added have said that there is room for them.
    submit: Option<Box<Submit>>,
    ticket: u64,
    /// Shards that have not said so.
    waiting: usize,
    due_ms: u64,
}

/// Entries on their way to the members.
#[derive(Debug)]
struct Round {
    ticket: u64,
    through: u64,
    /// Shards that have not confirmed.
    waiting: usize,
    is_failed: bool,
    due_ms: u64,
}

/// One group.
#[derive(Debug)]
struct GroupState {
    key: Arc<AccountKey>,
    /// `None`: not read yet, or there is none.
    group: Option<Group>,
    is_loaded: bool,
    /// How many groups its app has here; known where a new one was asked for.
    app_groups: Option<u64>,
    head: u64,
    floor: u64,
    /// Everything up to here has reached the members.
    spread: u64,
    /// What the store knows of that.
    saved: u64,
    waiting: VecDeque<Waiting>,
    changing: Option<Changing>,
    /// Entries behind the round, without a gap; what does not fit is read from the store in its time.
    queue: VecDeque<SpreadEntry>,
    queue_bytes: usize,
    is_reading: bool,
    round: Option<Round>,
    /// After a failed round: not before.
    retry_ms: u64,
    used_ms: u64,
    /// The members by shard; empty: to be made.
    lists: Vec<Arc<[MemberKey]>>,
    /// Bytes in the queues of all groups.
    all_queued: Rc<Cell<usize>>,
}

impl Drop for GroupState {
    fn drop(&mut self) {
        self.clear_queue();
    }
}

impl GroupState {
    fn new(key: Arc<AccountKey>, all_queued: Rc<Cell<usize>>) -> Self {
        Self {
            key,
            group: None,
            is_loaded: false,
            app_groups: None,
            head: 0,
            floor: 1,
            spread: 0,
            saved: 0,
            waiting: VecDeque::new(),
            changing: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            is_reading: false,
            round: None,
            retry_ms: 0,
            used_ms: 0,
            lists: Vec::new(),
            all_queued,
        }
    }

    fn clear_queue(&mut self) {
        self.queue.clear();
        self.count_queued(0);
    }

    fn count_queued(&mut self, bytes: usize) {
        self.all_queued.set(self.all_queued.get() + bytes - self.queue_bytes);
        self.queue_bytes = bytes;
    }

    fn is_idle(&self) -> bool {
        self.is_loaded
            && self.waiting.is_empty()
            && self.changing.is_none()
            && self.round.is_none()
            && !self.is_reading
            && (self.group.is_none() || self.spread >= self.head)
    }

    fn enqueue(&mut self, entry: SpreadEntry) {
        let behind = self.queue.back().map(|last| last.sync_id);
        let behind = behind.or(self.round.as_ref().map(|round| round.through)).unwrap_or(self.spread);
        let bytes = entry.body.len();
        if entry.sync_id == behind + 1
            && !self.is_reading
            && self.queue_bytes + bytes <= SPREAD_QUEUE_BYTES_MAX
            && self.all_queued.get() + bytes <= SPREAD_QUEUES_BYTES_MAX
        {
            self.count_queued(self.queue_bytes + bytes);
            self.queue.push_back(entry);
        }
    }

    /// The next entries, if they are at hand.
    fn take_entries(&mut self) -> Vec<SpreadEntry> {
        if self.queue.front().is_some_and(|first| first.sync_id != self.spread + 1) {
            self.clear_queue();
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < SPREAD_ENTRIES_MAX
            && bytes < SPREAD_BYTES_MAX
            && let Some(entry) = self.queue.pop_front()
        {
            bytes += entry.body.len();
            entries.push(entry);
        }
        self.count_queued(self.queue_bytes - bytes);
        entries
    }
}

/// The groups of a shard.
#[derive(Debug)]
pub struct Groups {
    states: HashMap<Arc<AccountKey>, GroupState>,
    /// Members from which on messages are not copied.
    pub read_threshold: usize,
    next_ticket: u64,
    next_change: u64,
    histories_outstanding: usize,
    /// Payload bytes of messages that wait for their groups.
    waiting_bytes: usize,
    /// Bytes in the groups' queues.
    queued: Rc<Cell<usize>>,
    /// Time of the turn: answers are given in places that do not know it.
    pub now_ms: u64,
}

impl Groups {
    /// None, with the usual threshold.
    pub fn new() -> Self {
        Self {
            states: HashMap::new(),
            read_threshold: crate::limits::GROUP_READ_THRESHOLD_DEFAULT as usize,
            next_ticket: 0,
            next_change: 0,
            histories_outstanding: 0,
            waiting_bytes: 0,
            queued: Rc::default(),
            now_ms: 0,
        }
    }
}

/// A message of a timeline as a client is told it: a member's copy of a group's entry is unwrapped.
pub fn delivery_of(message: Message, floor: u64) -> Delivery {
    let Message { sync_id, from, client_id, sent_at_ms, payload, entry } = message;
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
        };
    }
    let is_event = entry.is_event();
    let from = if is_event { String::new() } else { from };
    Delivery { sync_id, from, client_id, sent_at_ms, floor, payload, is_event, ..Delivery::default() }
}

fn spread_entry(group: &str, floor: u64, message: Message) -> SpreadEntry {
    let Message { sync_id, from, client_id, sent_at_ms, payload, entry } = message;
    let event = entry.is_event().then(|| GroupEvent::decode(payload.clone()).ok()).flatten();
    let delivery = GroupDelivery {
        group: group.to_owned(),
        sync_id,
        from: if entry.is_event() { String::new() } else { from },
        client_id,
        sent_at_ms,
        floor,
        payload,
        is_event: entry.is_event(),
    };
    SpreadEntry {
        sync_id,
        entry,
        sent_at_ms,
        body: delivery.encode_to_vec().into(),
        event: event.map(Arc::new),
    }
}

impl Shard {
    /// Looks for groups that a former process left unspread. Called once, before everything else.
    pub fn begin(&mut self) {
        self.reads.push(Read::Group(Box::new(GroupRead::Unspread { after: 0 })));
    }

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
        if !self.groups.states.contains_key(&key) {
            if self.groups.states.len() >= GROUPS_LOADED_MAX {
                return self.refuse_waiting(waiting, (Code::Overloaded, "too many groups are in use"));
            }
            let key = Arc::new(key.clone());
            self.read_group(
                &key,
                matches!(&waiting, Waiting::Ask(ask) if matches!(ask.request.act, Some(Act::Create(_)))),
            );
            let state = GroupState::new(key.clone(), self.groups.queued.clone());
            self.groups.states.insert(key, state);
        }
        let Some(state) = self.groups.states.get_mut(&key) else { return };
        state.used_ms = now_ms;
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
            Waiting::Look => {}
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
                return;
            }
            let Some(waiting) = state.waiting.pop_front() else { break };
            self.groups.waiting_bytes -= waiting.bytes();
            match waiting {
                Waiting::Submit(submit) => self.run_submit(submit, now_ms),
                Waiting::Ask(ask) => self.run_ask(key, ask, now_ms),
                Waiting::Pull(ask) => self.run_pull(key, *ask),
                Waiting::Look => {}
            }
        }
        self.start_round(key, now_ms);
        if let Some(state) = self.groups.states.get(key)
            && state.group.is_none()
            && state.is_idle()
        {
            self.groups.states.remove(key);
        }
    }

    /// The group, if it is there and alive.
    fn living(&self, key: &AccountKey) -> Option<&Group> {
        self.groups.states.get(key)?.group.as_ref().filter(|group| !group.is_dissolved)
    }

    fn run_submit(&mut self, mut submit: Box<Submit>, now_ms: u64) {
        let Some(group) = self.living(&submit.to) else {
            return self.refuse_waiting(Waiting::Submit(submit), NO_GROUP);
        };
        let is_service = matches!(submit.origin, Origin::Service { .. });
        if !is_service && !group.members.contains_key(&*submit.from) {
            return self.refuse_waiting(Waiting::Submit(submit), NO_GROUP);
        }
        submit.entry =
            if group.members.len() >= self.groups.read_threshold { Entry::Shared } else { Entry::Copied };
        self.offer(submit, now_ms);
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
            Ok(Some(event)) => self.change_group(key, *ask, event, now_ms),
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
        self.groups.next_ticket += 1;
        let ticket = self.groups.next_ticket;
        let event = Arc::new(event);
        let submit = Submit {
            to: key.clone(),
            from: CHANGES.into(),
            client_id: client_id.into(),
            payload,
            sent_at_ms: ask.at_ms,
            origin: Origin::Change,
            entry,
        };
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
            let ask = RoomAsk { home: self.index, key: group.clone(), ticket, accounts };
            is_lost |= self.outbox.cross(shard, Work::Room(Box::new(ask))).is_err();
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
    pub(super) fn handle_room_found(
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
        let now_ms = self.groups.now_ms;
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
        // A change that is new is spread first, by `group_stored`.
        if stored.is_none_or(|stored| stored.is_duplicate) {
            self.run_group(key, now_ms);
        }
    }

    /// An entry of a group's timeline is stored: it goes to the members.
    pub(super) fn group_stored(&mut self, submit: Submit, stored: Stored, now_ms: u64) {
        if !submit.entry.is_event() {
            self.metrics.group_messages.increment();
        }
        let key = submit.to;
        let Some(state) = self.groups.states.get_mut(&key) else {
            return self.enter_group(key, Waiting::Look, now_ms);
        };
        state.head = state.head.max(stored.sync_id);
        state.floor = state.floor.max(stored.floor);
        let message = Message {
            sync_id: stored.sync_id,
            from: submit.from.into(),
            client_id: submit.client_id,
            sent_at_ms: submit.sent_at_ms,
            payload: submit.payload,
            entry: submit.entry,
        };
        let entry = spread_entry(key.group().unwrap_or_default(), state.floor, message);
        state.enqueue(entry);
        self.run_group(&key, now_ms);
    }

    /// Hands the next entries to the members' shards, if there are any and no round is under way.
    fn start_round(&mut self, key: &AccountKey, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let is_ready = state.is_loaded && state.group.is_some() && state.round.is_none() && !state.is_reading;
        if !is_ready || now_ms < state.retry_ms || self.is_stopping {
            return;
        }
        if state.spread >= state.head {
            return self.finish_dissolved(key);
        }
        let entries = state.take_entries();
        if entries.is_empty() {
            state.is_reading = true;
            let read = GroupRead::Entries { key: key.clone(), after: state.spread };
            self.reads.push(Read::Group(Box::new(read)));
        } else {
            self.begin_round(key, entries, now_ms);
        }
    }

    /// A dissolved group that is spread to its end is forgotten; its timeline stays as long as any.
    fn finish_dissolved(&mut self, key: &AccountKey) {
        let is_over = self.groups.states.get(key).is_some_and(|state| {
            state.group.as_ref().is_some_and(|group| group.is_dissolved) && state.is_idle()
        });
        if is_over {
            self.groups.states.remove(key);
            self.writes.push(Write::Group(Box::new(GroupWrite::Forget { key: key.clone() })));
        }
    }

    fn begin_round(&mut self, key: &AccountKey, mut entries: Vec<SpreadEntry>, now_ms: u64) {
        let shards = self.outbox.shards();
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let Some(group) = &state.group else { return };
        if state.lists.is_empty() {
            state.lists = lists(group, shards);
        }
        let mut copies = 0;
        let within = entries.iter().take_while(|entry| {
            let is_first = copies == 0;
            copies += if entry.entry.is_copied() { group.members.len() } else { 1 };
            is_first || copies <= SPREAD_COPIES_MAX
        });
        let within = within.count();
        for entry in entries.drain(within..).rev() {
            state.count_queued(state.queue_bytes + entry.body.len());
            state.queue.push_front(entry);
        }
        let Some(last) = entries.last() else { return };
        let has_event = entries.iter().any(|entry| entry.entry.is_event());
        let through = last.sync_id;
        let entries: Arc<[SpreadEntry]> = entries.into();
        self.groups.next_ticket += 1;
        let ticket = self.groups.next_ticket;
        self.metrics.group_rounds.increment();
        let mut round =
            Round { ticket, through, waiting: 0, is_failed: false, due_ms: now_ms + SPREAD_TIMEOUT_MS };
        for (shard, members) in state.lists.iter().enumerate() {
            if members.is_empty() && !has_event {
                continue;
            }
            let spread = Spread {
                key: state.key.clone(),
                home: self.index,
                ticket,
                entries: entries.clone(),
                members: members.clone(),
            };
            let shard = ShardIndex(u16::try_from(shard).unwrap_or(u16::MAX));
            match self.outbox.cross(shard, Work::Spread(Box::new(spread))) {
                Ok(()) => round.waiting += 1,
                Err(_) => round.is_failed = true,
            }
        }
        let is_over = round.waiting == 0;
        state.round = Some(round);
        if is_over {
            self.finish_round(key, now_ms);
        }
    }

    pub(super) fn handle_spread_done(&mut self, key: &AccountKey, ticket: u64, is_done: bool, now_ms: u64) {
        let Some(round) = self.groups.states.get_mut(key).and_then(|state| state.round.as_mut()) else {
            return;
        };
        // Of a round whose time had run out.
        if round.ticket != ticket {
            return;
        }
        round.waiting = round.waiting.saturating_sub(1);
        round.is_failed |= !is_done;
        if round.waiting == 0 {
            self.finish_round(key, now_ms);
        }
    }

    fn finish_round(&mut self, key: &AccountKey, now_ms: u64) {
        let Some(state) = self.groups.states.get_mut(key) else { return };
        let Some(round) = state.round.take() else { return };
        if round.is_failed {
            self.metrics.group_round_failures.increment();
            state.clear_queue();
            state.retry_ms = now_ms + SPREAD_RETRY_MS;
        } else {
            state.spread = state.spread.max(round.through);
            self.start_round(key, now_ms);
        }
    }

    /// Rounds whose time ran out or whose pause is over, cursors to be kept, groups nobody needs.
    pub(super) fn tick_groups(&mut self, now_ms: u64) {
        let (mut due, mut stuck) = (Vec::new(), Vec::new());
        let writes = &mut self.writes;
        self.groups.states.retain(|key, state| {
            save_spread(state, writes);
            if let Some(round) = &mut state.round
                && now_ms >= round.due_ms
            {
                round.is_failed = true;
                due.push((key.clone(), true));
            } else if state.retry_ms > 0 && now_ms >= state.retry_ms {
                state.retry_ms = 0;
                due.push((key.clone(), false));
            }
            if state.changing.as_ref().is_some_and(|c| c.submit.is_some() && now_ms >= c.due_ms) {
                stuck.push(key.clone());
            }
            let is_dissolved = state.group.as_ref().is_some_and(|group| group.is_dissolved);
            is_dissolved || !state.is_idle() || now_ms < state.used_ms + GROUP_IDLE_MS
        });
        for (key, is_late) in due {
            if is_late { self.finish_round(&key, now_ms) } else { self.start_round(&key, now_ms) }
        }
        for key in stuck {
            self.change_done(&key, Code::Overloaded, None, "a member's shard did not answer");
        }
        self.metrics.groups_loaded.set(self.groups.states.len() as u64);
    }

    /// Hands out how far groups are spread.
    pub(super) fn save_spreads(&mut self) {
        for state in self.groups.states.values_mut() {
            save_spread(state, &mut self.writes);
        }
    }

    fn run_pull(&mut self, key: &AccountKey, ask: PullAsk) {
        let since = self.living(key).and_then(|group| match ask.actor.as_deref() {
            None => Some(0),
            Some(actor) => group.members.get(actor).map(|member| member.since),
        });
        match since {
            Some(since) => self.read_history(key.clone(), since, ask),
            None => self.refuse_pull(&ask, NO_GROUP.0, NO_GROUP.1),
        }
    }

    fn read_history(&mut self, key: AccountKey, since: u64, ask: PullAsk) {
        if self.groups.histories_outstanding >= HISTORIES_OUTSTANDING_MAX {
            return self.refuse_pull(&ask, Code::Overloaded, "too many ranges are asked for");
        }
        self.groups.histories_outstanding += 1;
        let limit = match ask.pull.limit as usize {
            0 => HISTORY_MESSAGES_MAX,
            limit => limit.min(HISTORY_MESSAGES_MAX),
        };
        let history = History {
            key,
            after: ask.pull.after,
            since,
            member: ask.actor.unwrap_or_default(),
            device: ask.device,
            limit,
            origin: ask.origin,
            id: ask.pull.id,
        };
        self.reads.push(Read::Group(Box::new(GroupRead::History(Box::new(history)))));
    }

    fn answer_history(&mut self, history: &History, found: Found) {
        self.groups.histories_outstanding -= 1;
        let GroupFound::History { after } = found.group else { return };
        let mut pulled = Pulled {
            id: history.id,
            group: history.key.group().unwrap_or_default().to_owned(),
            after,
            head: found.extent.head,
            floor: found.extent.floor,
            through: found.through.max(after),
            ..Pulled::default()
        };
        // A PULLED is no longer than any other frame; its first message always fits.
        let mut room = SERVER_BODY_BYTES_MAX as usize - 512;
        for message in found.messages {
            let delivery = delivery_of(message, 0);
            let bytes = delivery.encoded_len() + 8;
            if bytes > room && !pulled.messages.is_empty() {
                pulled.through = pulled.messages.last().map_or(after, |last| last.sync_id);
                break;
            }
            room = room.saturating_sub(bytes);
            pulled.messages.push(delivery);
        }
        self.answer_pulled(&history.origin, pulled);
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
                    state.spread = state.spread.max(found.through).max(after);
                    self.start_round(&key, now_ms);
                } else {
                    state.clear_queue();
                    self.begin_round(&key, entries, now_ms);
                }
            }
            (GroupRead::Unspread { .. }, GroupFound::Unspread(keys, end)) => {
                for key in keys {
                    self.enter_group(key, Waiting::Look, now_ms);
                }
                if let Some(after) = end {
                    self.reads.push(Read::Group(Box::new(GroupRead::Unspread { after })));
                }
            }
            (GroupRead::Conversations { key, purpose }, GroupFound::Conversations(rows)) => {
                self.handle_conversations(&key, purpose, rows, now_ms);
            }
            (GroupRead::Heads(ask), GroupFound::Heads(heads)) => {
                let found = Work::HeadsFound { session: ask.session, heads };
                // Lost when that shard's queue is full: it goes on without after a while.
                drop(self.outbox.cross(ask.home, found));
            }
            (GroupRead::Room(ask), GroupFound::Room(full)) => {
                let found = Work::RoomFound { key: ask.key, ticket: ask.ticket, full };
                // Lost when that shard's queue is full: the change's time runs out.
                drop(self.outbox.cross(ask.home, found));
            }
            (GroupRead::History(history), group) => self.answer_history(&history, Found { group, ..found }),
            _ => {}
        }
    }

    /// The store refused a read. True when nobody waits for it any longer.
    pub(super) fn refuse_group_read(&mut self, read: &GroupRead) -> bool {
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
            GroupRead::Conversations {
                purpose: crate::store::groups::Purpose::List { origin, id, .. },
                ..
            } => {
                let (code, id) = (Code::Storage.into(), *id);
                let answer = GroupAnswer { id, code, detail: detail.to_owned(), ..GroupAnswer::default() };
                self.answer_group(origin, answer);
                true
            }
            _ => false,
        }
    }
}

fn save_spread(state: &mut GroupState, writes: &mut Vec<Write>) {
    if state.saved < state.spread && state.group.is_some() {
        state.saved = state.spread;
        let write = GroupWrite::Spread { key: (*state.key).clone(), through: state.spread };
        writes.push(Write::Group(Box::new(write)));
    }
}

/// The members by the shard their accounts fall to.
fn lists(group: &Group, shards: usize) -> Vec<Arc<[MemberKey]>> {
    let mut lists: Vec<Vec<MemberKey>> = vec![Vec::new(); shards];
    for (account, member) in &group.members {
        let shard = usize::try_from(member.hash % shards as u64).unwrap_or(0);
        lists[shard].push(MemberKey { account: account.clone(), hash: member.hash, since: member.since });
    }
    lists.into_iter().map(Into::into).collect()
}
