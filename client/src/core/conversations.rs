//! The groups of one channel: what of each has been received, what the app has processed, what is being pulled.
//!
//! Entries come by three ways: copied into the account's own timeline, pushed from the group's, and pulled. All of
//! them carry the place in the group's timeline, and only that counts here: the next one is handed on, a known one
//! is dropped, and anything further ahead is pulled up to.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Act, Class, GroupAck, GroupAnswer, GroupDelivery, GroupEvent, GroupHeads, GroupPosition, GroupRequest,
    Kind, Pull, Pulled, put_control,
};
use moor_wire::frame::put_message;
use moor_wire::limits::GROUP_POSITIONS_MAX;
use prost::Message as _;

use super::channel::{SubmitError, is_retryable};
use super::event::Event;
use super::{code_of, full_jitter};
use crate::limits::{
    ACK_DELAY_MS, ANSWER_MS, CONVERSATIONS_MAX, GROUP_REQUESTS_PENDING_MAX, PULL_RETRY_MS,
    PULLS_IN_FLIGHT_MAX, RETRY_MS, UNSENT_BYTES_MAX,
};

#[derive(Debug, Default)]
struct Conversation {
    /// Handed to the app without a gap; `None` until the router has said where this device left off.
    received: Option<u64>,
    /// The app has processed.
    processed: Option<u64>,
    /// The router has it from this device, as far as is known: it tells where it has less than `head` at each login.
    acked: u64,
    /// The newest entry heard of.
    head: u64,
    priority: u32,
    /// Something is to be pulled, not before this time.
    wanted_ms: Option<u64>,
    pull: Option<Pulling>,
    /// The greater, the later something was last heard of it.
    heard: u64,
}

impl Conversation {
    fn is_behind(&self) -> bool {
        self.received.is_none_or(|received| received < self.head)
    }

    /// Goes on behind this entry, of which the router knows.
    fn begin(&mut self, after: u64) {
        (self.received, self.processed, self.acked) = (Some(after), Some(after), after);
    }

    /// Whether nothing is to come, as far as is known, and the app has processed all that came.
    fn is_settled(&self) -> bool {
        let is_quiet = self.wanted_ms.is_none() && self.pull.is_none() && !self.is_behind();
        is_quiet && self.processed == self.received
    }
}

/// A PULL under way.
#[derive(Clone, Copy, Debug)]
struct Pulling {
    id: u64,
    /// When it is said again.
    due_ms: u64,
    /// The newest entry heard of before it was said.
    heard: u64,
}

#[derive(Debug)]
struct Ask {
    request: GroupRequest,
    /// On the wire, or refused for now: when it is said again. Otherwise it waits for the login, or for room to write.
    due_ms: Option<u64>,
    /// How often it was refused for now.
    attempt: u32,
}

impl Ask {
    /// Whether it changes nothing.
    const fn is_look(&self) -> bool {
        matches!(self.request.act, Some(Act::Members(_) | Act::List(_)))
    }
}

/// A channel's groups.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    channel: u16,
    account: Box<str>,
    list: BTreeMap<String, Conversation>,
    /// Groups that are followed no more, and up to where they are to be acknowledged.
    left: BTreeMap<String, u64>,
    /// Groups that were told of when every place was taken by one of which something is owed, in that order.
    waiting: VecDeque<String>,
    ack_due_ms: Option<u64>,
    next_id: u64,
    /// What was last given to `heard` of a conversation.
    heard: u64,
    asks: VecDeque<Ask>,
}

impl Conversations {
    pub(super) fn new(channel: u16, account: &str) -> Self {
        Self { channel, account: account.into(), ..Self::default() }
    }

    /// When something is due, while the channel is open. `has_room` for requests that were not said yet.
    pub(super) fn next_ms(&self, has_room: bool) -> Option<u64> {
        let is_full = self.pulls() >= PULLS_IN_FLIGHT_MAX;
        // What is wanted beyond a PULL that is under way waits for its answer.
        let pulls = self.list.values().filter_map(|conversation| match conversation.pull {
            Some(pull) => Some(pull.due_ms),
            None => conversation.wanted_ms.filter(|_| !is_full),
        });
        let asks = self.asks.iter().filter_map(|ask| ask.due_ms.or(has_room.then_some(0)));
        pulls.chain(asks).chain(self.ack_due_ms).min()
    }

    fn pulls(&self) -> usize {
        self.list.values().filter(|conversation| conversation.pull.is_some()).count()
    }

    pub(super) fn handle_disconnected(&mut self) {
        self.ack_due_ms = None;
        self.left.clear();
        self.waiting.clear();
        for conversation in self.list.values_mut() {
            if conversation.pull.take().is_some() {
                conversation.wanted_ms = Some(0);
            }
        }
        for ask in &mut self.asks {
            ask.due_ms = None;
        }
    }

    /// The channel is closed for good: nothing that was asked will be answered.
    pub(super) fn handle_closed(&mut self, code: Code, events: &mut VecDeque<Event>) {
        for ask in std::mem::take(&mut self.asks) {
            let detail = "the channel was closed before the answer came: it may have been done".to_owned();
            let answer = failed(&ask.request, code, detail);
            events.push_back(Event::GroupAnswer { channel: self.channel, answer, is_abandoned: true });
        }
    }

    /// What an app holds of a group from an earlier run.
    pub(super) fn resume(&mut self, group: &str, sync_id: u64) {
        if self.list.len() < CONVERSATIONS_MAX || self.list.contains_key(group) {
            self.conversation(group).begin(sync_id);
        }
    }

    pub(super) fn processed(&self) -> impl Iterator<Item = (&str, u64)> {
        self.list.iter().filter_map(|(group, conversation)| Some((group.as_str(), conversation.processed?)))
    }

    /// A group's, a new one where a place is free or can be made; otherwise it waits for one.
    fn place(&mut self, group: &str, out: &mut Vec<u8>) -> Option<&mut Conversation> {
        if !self.list.contains_key(group) {
            if !self.make_room(out) {
                self.wait(group);
                return None;
            }
            self.waiting.retain(|waiting| waiting != group);
        }
        Some(self.conversation(group))
    }

    /// A group's, a new one where there is none. Whoever calls it knows of a place.
    fn conversation(&mut self, group: &str) -> &mut Conversation {
        self.heard += 1;
        let conversation = self.list.entry(group.to_owned()).or_default();
        conversation.heard = self.heard;
        conversation
    }

    /// Makes a place where there is none: of groups that were left while the device was away nobody tells, so that they
    /// gather here. The settled one goes of which nothing was heard for the longest time; should there be more of it, the
    /// router knows where this device left off. False: none is settled, or what would have to be said cannot be written.
    fn make_room(&mut self, out: &mut Vec<u8>) -> bool {
        if self.list.len() < CONVERSATIONS_MAX {
            return true;
        }
        // What cannot be written must not pile up, whatever the server sends.
        if out.len() >= UNSENT_BYTES_MAX {
            return false;
        }
        let settled = self.list.iter().filter(|(_, conversation)| conversation.is_settled());
        let oldest = settled.min_by_key(|(_, conversation)| conversation.heard);
        let Some((group, processed)) = oldest.map(|(group, oldest)| (group.clone(), oldest.processed)) else {
            return false;
        };
        self.list.remove(&group);
        // Or the router might go on from an earlier place than the app has reached.
        self.left.extend(processed.map(|processed| (group, processed)));
        self.put_acks(out);
        true
    }

    /// What is told of a group is dropped, unacknowledged, while there is no place for it; then it is pulled. So many
    /// wait; the others are told of again at the next login.
    fn wait(&mut self, group: &str) {
        if self.waiting.len() < CONVERSATIONS_MAX && !self.waiting.iter().any(|waiting| waiting == group) {
            self.waiting.push_back(group.to_owned());
        }
    }

    /// Gives the places that have become free to groups that wait for one.
    fn admit(&mut self, now: u64, out: &mut Vec<u8>) {
        while !self.waiting.is_empty() && self.make_room(out) {
            if let Some(group) = self.waiting.pop_front() {
                self.conversation(&group).wanted_ms = Some(now);
            }
        }
    }

    /// An entry came, pushed or in the account's own timeline.
    pub(super) fn handle_entry(
        &mut self,
        entry: GroupDelivery,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) {
        let id = entry.sync_id;
        let Some(conversation) = self.place(&entry.group, out) else { return };
        conversation.head = conversation.head.max(id);
        match conversation.received {
            Some(received) if id <= received => {
                // The router has not heard of what is here: tell it again.
                if let Some(processed) = conversation.processed {
                    conversation.acked = conversation.acked.min(processed.saturating_sub(1));
                    self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
                }
            }
            Some(received) if id == received + 1 => self.hand_on(entry, now, events),
            _ => {
                conversation.wanted_ms.get_or_insert(now);
                self.send_pulls(now, out);
            }
        }
    }

    /// The next entry of a group goes to the app.
    fn hand_on(&mut self, entry: GroupDelivery, now: u64, events: &mut VecDeque<Event>) {
        if let Some(conversation) = self.list.get_mut(&entry.group) {
            conversation.received = Some(entry.sync_id);
            // A range that was to be pulled has come by itself.
            if !conversation.is_behind() {
                conversation.wanted_ms = None;
            }
        }
        let is_last = entry.is_event && self.ends_here(&entry.payload);
        let (group, sync_id) = (entry.group.clone(), entry.sync_id);
        events.push_back(Event::GroupMessage {
            channel: self.channel,
            group: entry.group,
            sync_id,
            from: entry.from,
            client_id: entry.client_id,
            sent_at_ms: entry.sent_at_ms,
            payload: entry.payload,
            is_event: entry.is_event,
            marks: entry.marks.unwrap_or_default(),
        });
        if is_last {
            self.forget(group, sync_id, now, events);
        }
    }

    /// The account is no member any more. What was heard of the group is acknowledged, or the router would tell of it
    /// again, and each time it would be found to be no group of the account's. Nothing can come behind it that the app
    /// might lose.
    fn forget(&mut self, group: String, heard: u64, now: u64, events: &mut VecDeque<Event>) {
        self.list.remove(&group);
        self.left.insert(group.clone(), heard);
        self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
        events.push_back(Event::GroupLeft { channel: self.channel, group });
    }

    fn ends_here(&self, payload: &Bytes) -> bool {
        GroupEvent::decode(payload.clone())
            .is_ok_and(|event| event.dissolved || event.removed.iter().any(|name| **name == *self.account))
    }

    /// Where the device is behind, the most important first.
    pub(super) fn handle_heads(&mut self, heads: GroupHeads, now: u64, out: &mut Vec<u8>) {
        for head in heads.heads {
            let Some(conversation) = self.place(&head.group, out) else { continue };
            conversation.head = conversation.head.max(head.head);
            conversation.priority = head.priority;
            if let (Some(acked), None) = (head.acked, conversation.received) {
                conversation.begin(acked);
            }
            if conversation.is_behind() {
                conversation.wanted_ms.get_or_insert(now);
            }
            let is_told_less =
                conversation.processed.is_some_and(|processed| head.acked.unwrap_or(0) < processed);
            if is_told_less {
                conversation.acked = 0;
                self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
            }
        }
        self.send_pulls(now, out);
    }

    /// A range came.
    pub(super) fn handle_pulled(
        &mut self,
        pulled: Pulled,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) {
        let group = pulled.group.clone();
        let Some(conversation) = self.list.get_mut(&group) else { return };
        // The answer to one that was said again finds nothing.
        let Some(pull) = conversation.pull.take_if(|pull| pull.id == pulled.id) else { return };
        match code_of(pulled.code) {
            Code::Ok => {}
            Code::NotFound | Code::Unauthorized => {
                self.forget(group, pull.heard, now, events);
                return self.send_pulls(now, out);
            }
            _ => {
                conversation.wanted_ms = Some(now + PULL_RETRY_MS);
                return;
            }
        }
        conversation.head = conversation.head.max(pulled.head);
        let before = conversation.received;
        if conversation.received.is_none() {
            conversation.begin(pulled.after);
        }
        self.skip_to(&group, pulled.after, events);
        for message in pulled.messages {
            let received = self.list.get(&group).and_then(|conversation| conversation.received);
            if received.is_none_or(|received| message.sync_id <= received) {
                continue;
            }
            self.skip_to(&group, message.sync_id - 1, events);
            let entry = GroupDelivery {
                group: group.clone(),
                sync_id: message.sync_id,
                from: message.from,
                client_id: message.client_id,
                sent_at_ms: message.sent_at_ms,
                floor: 0,
                payload: message.payload,
                is_event: message.is_event,
                marks: message.marks,
            };
            self.hand_on(entry, now, events);
        }
        self.skip_to(&group, pulled.through, events);
        if let Some(conversation) = self.list.get_mut(&group) {
            // What was wanted while the range was under way has come with it, or is wanted still.
            let pause_ms = if conversation.received > before { 0 } else { PULL_RETRY_MS };
            conversation.wanted_ms = conversation.is_behind().then_some(now + pause_ms);
        }
        self.send_pulls(now, out);
    }

    /// What lies between is past retention, or from before the account joined, and will not come.
    fn skip_to(&mut self, group: &str, sync_id: u64, events: &mut VecDeque<Event>) {
        let channel = self.channel;
        let Some(conversation) = self.list.get_mut(group) else { return };
        let Some(received) = conversation.received.filter(|received| *received < sync_id) else { return };
        events.push_back(Event::GroupExpired {
            channel,
            group: group.to_owned(),
            from: received + 1,
            to: sync_id,
        });
        conversation.received = Some(sync_id);
        // Only when nothing the app still works on would be acknowledged with it.
        if conversation.processed == Some(received) {
            conversation.processed = Some(sync_id);
        }
    }

    /// Asks for ranges, of the most important conversations first.
    fn send_pulls(&mut self, now: u64, out: &mut Vec<u8>) {
        self.admit(now, out);
        while self.pulls() < PULLS_IN_FLIGHT_MAX {
            let due = self.list.iter_mut().filter(|(_, conversation)| {
                conversation.pull.is_none() && conversation.wanted_ms.is_some_and(|wanted| wanted <= now)
            });
            let Some((group, conversation)) = due.max_by_key(|(_, conversation)| conversation.priority)
            else {
                return;
            };
            let id = self.next_id;
            self.next_id += 1;
            conversation.wanted_ms = None;
            conversation.pull = Some(Pulling { id, due_ms: now + ANSWER_MS, heard: conversation.head });
            let pull = Pull { id, group: group.clone(), after: conversation.received, limit: 0 };
            put_control(out, Kind::Pull, self.channel, &pull);
        }
    }

    /// The app has processed everything up to here.
    pub(super) fn acknowledge(&mut self, group: &str, sync_id: u64, now: u64) {
        let Some(conversation) = self.list.get_mut(group) else { return };
        let Some(received) = conversation.received else { return };
        let processed = sync_id.min(received);
        if conversation.processed.is_none_or(|known| known < processed) {
            conversation.processed = Some(processed);
            self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
        }
    }

    pub(super) fn put_acks(&mut self, out: &mut Vec<u8>) {
        self.ack_due_ms = None;
        let position = |(group, sync_id)| GroupPosition { group, sync_id };
        let mut positions: Vec<_> = std::mem::take(&mut self.left).into_iter().map(position).collect();
        for (group, conversation) in &mut self.list {
            if let Some(sync_id) = conversation.processed.filter(|processed| *processed > conversation.acked)
            {
                conversation.acked = sync_id;
                positions.push(GroupPosition { group: group.clone(), sync_id });
            }
        }
        for positions in positions.chunks(GROUP_POSITIONS_MAX) {
            let ack = GroupAck { positions: positions.to_vec() };
            put_control(out, Kind::GroupAck, self.channel, &ack);
        }
    }

    /// Takes a request about groups; [`Self::handle_timeout`] says it, again and again until it is answered.
    pub(super) fn ask(&mut self, request: GroupRequest, body_bytes_max: u32) -> Result<(), SubmitError> {
        let length = request.encoded_len();
        if length > body_bytes_max as usize {
            return Err(SubmitError::TooLarge { length, max: body_bytes_max });
        }
        if self.asks.len() >= GROUP_REQUESTS_PENDING_MAX {
            return Err(SubmitError::QueueFull);
        }
        self.asks.push_back(Ask { request, due_ms: None, attempt: 0 });
        Ok(())
    }

    /// The new gateway takes bodies up to this size: it would close the connection over a larger one.
    pub(super) fn refuse_larger(&mut self, body_bytes_max: u32, events: &mut VecDeque<Event>) {
        let channel = self.channel;
        self.asks.retain(|ask| {
            let length = ask.request.encoded_len();
            if length <= body_bytes_max as usize {
                return true;
            }
            let detail = SubmitError::TooLarge { length, max: body_bytes_max }.to_string();
            let answer = failed(&ask.request, Code::TooLarge, detail);
            events.push_back(Event::GroupAnswer { channel, answer, is_abandoned: false });
            false
        });
    }

    /// What came of a request. A look that is refused for now is said again; of a change the app is told, which may have
    /// better to do than to wait until there is storage for it.
    pub(super) fn handle_answer(
        &mut self,
        answer: GroupAnswer,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        let Some(at) = self.asks.iter().position(|ask| ask.request.id == answer.id) else { return };
        let (code, ask) = (code_of(answer.code), &mut self.asks[at]);
        if is_retryable(code) && ask.is_look() {
            ask.attempt = ask.attempt.saturating_add(1);
            ask.due_ms = Some(now + 1 + full_jitter(RETRY_MS.0, RETRY_MS.1, ask.attempt, rng));
            return;
        }
        self.asks.remove(at);
        let answer = GroupAnswer { code: code as i32, ..answer };
        events.push_back(Event::GroupAnswer { channel: self.channel, answer, is_abandoned: false });
    }

    /// Says what is due; called while the channel is open only.
    pub(super) fn handle_timeout(&mut self, now: u64, out: &mut Vec<u8>) {
        // Before the acknowledgements: it says them where a place is left for another group.
        self.admit(now, out);
        if self.ack_due_ms.is_some_and(|due| now >= due) {
            self.put_acks(out);
        }
        for conversation in self.list.values_mut() {
            if conversation.pull.take_if(|pull| now >= pull.due_ms).is_some() {
                conversation.wanted_ms = Some(now);
            }
        }
        self.send_pulls(now, out);
        for ask in self.asks.iter_mut().filter(|ask| ask.due_ms.is_none_or(|due| now >= due)) {
            if out.len() < UNSENT_BYTES_MAX {
                ask.due_ms = Some(now + ANSWER_MS);
                put_message(out, Kind::Group.byte(), Class::Command.flags(), self.channel, &ask.request);
            } else if let Some(due_ms) = &mut ask.due_ms {
                // What the driver could not write yet is not written again on top.
                *due_ms = now + ANSWER_MS;
            }
        }
    }
}

/// The answer to a request that no router will answer.
fn failed(request: &GroupRequest, code: Code, detail: String) -> GroupAnswer {
    GroupAnswer { id: request.id, code: code as i32, detail, ..GroupAnswer::default() }
}
