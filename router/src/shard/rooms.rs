//! Rooms: who has members of one, and what is said in it.
//!
//! A room is known here while a gateway's worker has members of it: how many, never who. A message is stored first if its
//! type is reliable; then it goes to the workers, in a small room at once, in a large one in a batch with others. The
//! reliable messages of a room are the timeline of an account that no client can name (`identity::room_account`).

mod runs;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use moor_wire::Code;
use moor_wire::client::{Class, Kind, RoomMessage, RoomPulled};
use moor_wire::identity::{ROOM_MARK, room_of};
use moor_wire::internal::{Push, RoomStatsResult, Verb, put_control};
use moor_wire::limits::CLIENT_BODY_BYTES_MAX;
use moor_wire::rooms::{RoomPush, RoomState, put_record};
use moor_wire::session::SessionHandle;
use prost::Message as _;

use crate::lease::Link;
use crate::limits::{
    ROOM_BATCH_BYTES_MAX, ROOM_BATCH_DROPPABLE_BYTES_MAX, ROOM_HELD_MS, ROOM_PULLS_OUTSTANDING_MAX,
    ROOM_RECENT_BYTES_MAX, ROOM_RECENT_MAX, ROOM_STATE_MS, ROOMS_MAX, ROOMS_REFUSED_LOG_MS,
    SWEEP_ROOMS_PER_TICK,
};
use crate::outbox::Weight;
use crate::rooms::{RoomSettings, RoomType};
use crate::shard::Shard;
use crate::shard::rooms::runs::{Run, Runs};
use crate::store::{AccountKey, Extent, Found, Message, Read, Stored, Submit};

/// One piece of work on a room.
#[derive(Debug)]
pub enum RoomWork {
    /// A worker's members.
    Count {
        /// The worker.
        link: Arc<Link>,
        /// The room, as an account.
        key: AccountKey,
        /// How many.
        members: u32,
        /// Likes since the last count.
        likes: u64,
    },
    /// A message for everybody in it; its receiver is the room, as an account.
    Publish {
        /// The message.
        submit: Box<Submit>,
        /// Its type.
        number: u32,
    },
    /// Droppable messages that another shard has taken.
    Run {
        /// The room, as an account.
        key: AccountKey,
        /// The messages.
        run: Run,
    },
    /// A session lacks reliable messages.
    Pull(Box<Pull>),
    /// A service asks.
    Stats {
        /// The service.
        link: Arc<Link>,
        /// Its request.
        cookie: u64,
        /// The room, as an account.
        key: AccountKey,
    },
}

/// Who lacks reliable messages behind which.
#[derive(Debug)]
pub struct Pull {
    /// The room, as an account.
    pub key: AccountKey,
    /// The gateway's link.
    pub link: Arc<Link>,
    /// The session.
    pub session: SessionHandle,
    /// Hash of its account.
    pub hash: u64,
    /// It has everything up to here.
    pub after_id: u64,
}

/// Messages a second: so many, and a second's worth at once.
#[derive(Debug)]
struct Pace {
    of: Option<u32>,
    /// Thousandths of a message that may come now.
    saved: u64,
    at_ms: u64,
}

impl Pace {
    fn take(&mut self, per_s: u32, now_ms: u64) -> bool {
        let (per_s, elapsed_ms) = (u64::from(per_s), now_ms.saturating_sub(self.at_ms));
        self.saved = self.saved.saturating_add(elapsed_ms.saturating_mul(per_s)).min(per_s * 1000);
        self.at_ms = now_ms;
        let may = self.saved >= 1000;
        if may {
            self.saved -= 1000;
        }
        may
    }
}

#[derive(Debug)]
struct Room {
    key: AccountKey,
    /// Workers with members.
    links: Vec<(Arc<Link>, u32)>,
    state: RoomState,
    floor_id: u64,
    /// As the workers know it, and since when.
    told: RoomState,
    told_ms: u64,
    /// Records for the next batch.
    batch: BytesMut,
    messages: u32,
    dropped: u64,
    /// When the batch goes out, milliseconds.
    due_ms: u64,
    /// Until then what is said waits for what the store has of the room: to a newcomer the first batch says what there was
    /// before it came. 0: that is known.
    held_ms: u64,
    /// True exactly when the room stands in the list of those that collect.
    is_collecting: bool,
    paces: Vec<Pace>,
    /// The newest reliable messages, for those who lack them.
    recent: VecDeque<RoomMessage>,
    recent_bytes: usize,
}

impl Room {
    fn name(&self) -> &str {
        room_of(&self.key.account).unwrap_or_default()
    }

    /// Forgets workers whose link is void.
    fn weed(&mut self) {
        self.links.retain(|(link, _)| !link.is_void());
        self.state.online = self.links.iter().fold(0, |sum, (_, members)| sum.saturating_add(*members));
    }

    fn may_take(&mut self, of: Option<u32>, per_s: u32, now_ms: u64) -> bool {
        if let Some(pace) = self.paces.iter_mut().find(|pace| pace.of == of) {
            return pace.take(per_s, now_ms);
        }
        // One that has been quiet for a second is full, which is what a new one is.
        self.paces.retain(|pace| now_ms < pace.at_ms + 1000);
        let mut pace = Pace { of, saved: u64::from(per_s) * 1000, at_ms: now_ms };
        let may = pace.take(per_s, now_ms);
        self.paces.push(pace);
        may
    }

    fn remember(&mut self, mut message: RoomMessage) {
        // Not with all that was read with it. The payload is an allocation of its own: it was encoded with the type.
        message.client_id = Bytes::copy_from_slice(&message.client_id);
        self.recent_bytes += message.payload.len();
        self.recent.push_back(message);
        while self.recent.len() > ROOM_RECENT_MAX || self.recent_bytes > ROOM_RECENT_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.recent_bytes -= oldest.payload.len();
        }
    }

    /// What a session lacks, if it is at hand.
    fn recall(&self, after_id: u64) -> Option<Vec<RoomMessage>> {
        if after_id >= self.state.newest_id {
            return Some(Vec::new());
        }
        let first = self.recent.front()?;
        (first.id <= after_id + 1)
            .then(|| self.recent.iter().filter(|message| message.id > after_id).cloned().collect())
    }
}

/// The rooms of one shard.
#[derive(Debug, Default)]
pub struct Rooms {
    pub(super) settings: RoomSettings,
    rooms: Vec<Option<Room>>,
    free: Vec<usize>,
    /// By app, mark and name.
    by_key: HashMap<Box<str>, usize>,
    key: String,
    /// Rooms with a batch that waits for its time.
    collecting: Vec<usize>,
    /// For rooms of other shards.
    runs: Runs,
    sweep_from: usize,
    pulls_outstanding: usize,
    /// Rooms of all shards.
    open: Arc<AtomicUsize>,
    /// When a room that was not taken may be logged again.
    log_ms: u64,
}

/// For whoever speaks in a room that was not taken, or would not be.
const FULL: &str = "the router has as many rooms as it may have";

impl Rooms {
    fn find(&mut self, key: &AccountKey) -> Option<usize> {
        self.key.clear();
        self.key.push_str(&key.app);
        // The account begins with the mark, which is in no name.
        self.key.push_str(&key.account);
        debug_assert!(key.account.starts_with(ROOM_MARK), "a room's account begins with the mark");
        self.by_key.get(self.key.as_str()).copied()
    }

    /// True when no room more is taken.
    fn are_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= ROOMS_MAX
    }

    /// Makes the room that was just looked for; `None`: there are too many.
    fn open(&mut self, key: AccountKey, now_ms: u64) -> Option<usize> {
        let one_more = |open: usize| (open < ROOMS_MAX).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let room = Room {
            key,
            links: Vec::new(),
            state: RoomState::default(),
            floor_id: 1,
            told: RoomState::default(),
            told_ms: now_ms,
            batch: BytesMut::new(),
            messages: 0,
            dropped: 0,
            due_ms: u64::MAX,
            held_ms: now_ms + ROOM_HELD_MS,
            is_collecting: false,
            paces: Vec::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.rooms.push(None);
            self.rooms.len() - 1
        });
        self.by_key.insert(self.key.as_str().into(), index);
        self.rooms[index] = Some(room);
        Some(index)
    }

    /// Rooms that stand in the list of those that collect. For tests.
    #[cfg(test)]
    pub(super) fn collecting(&self) -> usize {
        self.collecting.len()
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Room> {
        self.rooms.get_mut(index)?.as_mut()
    }
}

impl Shard {
    /// How rooms are served, and where all shards' are counted. Before anything happens in one.
    pub fn set_rooms(&mut self, settings: RoomSettings, open: Arc<AtomicUsize>) {
        (self.rooms.settings, self.rooms.open) = (settings, open);
    }

    pub(super) fn handle_room(&mut self, work: RoomWork, now_ms: u64) {
        match work {
            RoomWork::Count { link, key, members, likes } => {
                self.handle_count(link, key, members, likes, now_ms);
            }
            RoomWork::Publish { submit, number } => self.handle_publish(submit, number, now_ms),
            RoomWork::Run { key, run } => self.handle_run(&key, &run, now_ms),
            RoomWork::Pull(pull) => self.handle_room_pull(pull),
            RoomWork::Stats { link, cookie, key } => self.handle_room_stats(&link, cookie, &key),
        }
    }

    fn handle_count(&mut self, link: Arc<Link>, key: AccountKey, members: u32, likes: u64, now_ms: u64) {
        self.metrics.room_counts.increment();
        // Its connection went while its frames were on their way: a newer link says how many there are, or nobody will.
        if !link.is_live() {
            return;
        }
        let known = self.rooms.find(&key);
        let index = match known {
            Some(index) => index,
            None if members == 0 => return,
            None => {
                let Some(index) = self.rooms.open(key.clone(), now_ms) else {
                    return self.refuse_room(&key, now_ms);
                };
                self.reads.push(Read::Room { key, pull: None });
                index
            }
        };
        let Some(room) = self.rooms.get_mut(index) else { return };
        room.state.likes = room.state.likes.saturating_add(likes);
        // What the same worker said on an earlier link is void with this word.
        let is_same = |known: &Arc<Link>| known.worker == link.worker && known.is_same_incarnation(&link);
        let is_new = !room.links.iter().any(|(known, _)| known.id == link.id);
        room.links.retain(|(known, _)| !is_same(known));
        if members > 0 {
            room.links.push((link.clone(), members));
        }
        room.weed();
        // A worker that has just got members is told what they may have missed while they were elsewhere.
        if is_new && room.state.newest_id > 0 {
            let push = state_push(room);
            self.outbox.put(&link, Weight::Normal, |out| push.put(out));
        }
    }

    /// Its worker is not told: it says its members again when they change, and on its next link.
    fn refuse_room(&mut self, key: &AccountKey, now_ms: u64) {
        self.metrics.rooms_refused.increment();
        if now_ms >= self.rooms.log_ms {
            self.rooms.log_ms = now_ms + ROOMS_REFUSED_LOG_MS;
            let room = room_of(&key.account).unwrap_or_default();
            tracing::warn!(app = %key.app, %room, rooms = ROOMS_MAX, "{FULL}: nobody hears what is said in this one");
        }
    }

    pub(super) fn tick_rooms(&mut self, now_ms: u64) {
        let mut collecting = std::mem::take(&mut self.rooms.collecting);
        collecting.retain(|index| {
            if self.rooms.get_mut(*index).is_some_and(|room| room.due_ms <= now_ms) {
                self.flush_room(*index, now_ms);
            }
            let Some(room) = self.rooms.get_mut(*index) else { return false };
            room.is_collecting = room.messages > 0;
            room.is_collecting
        });
        self.rooms.collecting.append(&mut collecting);
        let slots = self.rooms.rooms.len();
        for _ in 0..SWEEP_ROOMS_PER_TICK.min(slots) {
            self.rooms.sweep_from = (self.rooms.sweep_from + 1) % slots;
            self.sweep_room(self.rooms.sweep_from, now_ms);
        }
        self.metrics.rooms.set(self.rooms.by_key.len() as u64);
    }

    /// Tells what has changed in a room where nothing is said, and forgets one where nobody is.
    fn sweep_room(&mut self, index: usize, now_ms: u64) {
        let Some(room) = self.rooms.get_mut(index) else { return };
        room.weed();
        if !room.links.is_empty() {
            if room.state != room.told && now_ms >= room.told_ms + ROOM_STATE_MS {
                self.push_batch(index, now_ms);
            }
            return;
        }
        let key = format!("{}{}", room.key.app, room.key.account);
        self.rooms.by_key.remove(key.as_str());
        let is_collecting = self.rooms.rooms[index].take().is_some_and(|room| room.is_collecting);
        self.rooms.open.fetch_sub(1, Ordering::Relaxed);
        if is_collecting {
            self.rooms.collecting.retain(|collecting| *collecting != index);
        }
        self.rooms.free.push(index);
    }

    fn handle_room_stats(&mut self, link: &Link, cookie: u64, key: &AccountKey) {
        let buffer_members = self.rooms.settings.buffer_members;
        let mut result = RoomStatsResult { cookie, ..RoomStatsResult::default() };
        if let Some(index) = self.rooms.find(key)
            && let Some(room) = self.rooms.get_mut(index)
        {
            room.weed();
            result.online = room.state.online;
            result.likes = room.state.likes;
            result.newest_id = room.state.newest_id;
            result.workers = u32::try_from(room.links.len()).unwrap_or(u32::MAX);
            result.buffered = room.state.online >= buffer_members;
        } else if self.rooms.are_full() {
            result.code = Code::Overloaded.into();
        }
        self.outbox.put(link, Weight::Answer, |out| put_control(out, Verb::RoomStatsResult, &result));
    }

    fn handle_publish(&mut self, mut submit: Box<Submit>, number: u32, now_ms: u64) {
        self.metrics.room_publishes.increment();
        let RoomType { class, pace, per_s } = self.rooms.settings.types.of(&submit.to.app, number);
        let known = self.rooms.find(&submit.to);
        if known.is_none() && self.rooms.are_full() {
            self.metrics.refused_overload.increment();
            return self.answer(&submit, Code::Overloaded, None, FULL);
        }
        if let Some(index) = known
            && let Some(room) = self.rooms.get_mut(index)
            && !room.may_take(pace, per_s, now_ms)
        {
            self.metrics.room_limited.increment();
            if class == Class::Transient {
                // Whoever said it has done nothing wrong; the others are told how many are missing.
                room.dropped += 1;
                self.answer(&submit, Code::Ok, None, "");
            } else {
                self.answer(&submit, Code::Overloaded, None, "too many messages of this type in the room");
            }
            return;
        }
        if class == Class::Reliable {
            // The type is kept with the payload; the rest has columns of its own.
            let kept = RoomMessage { r#type: number, payload: submit.payload, ..RoomMessage::default() };
            submit.payload = kept.encode_to_vec().into();
            return self.handle_submit(submit, now_ms);
        }
        if self.take_quota(&submit, now_ms).is_none() {
            return;
        }
        self.answer(&submit, Code::Ok, None, "");
        self.count_marks(&submit);
        // Nobody is there: nobody hears it.
        let Some(index) = known else { return };
        let message = message_of(*submit, number);
        self.collect(index, class, |out| put_record(out, class, &message), now_ms);
    }

    /// A reliable message is stored.
    pub(super) fn handle_room_stored(&mut self, submit: Submit, stored: Stored, now_ms: u64) {
        let Some(index) = self.rooms.find(&submit.to) else { return };
        let Some(message) = read_back(submit.into_message(stored.sync_id).1) else { return };
        let Some(room) = self.rooms.get_mut(index) else { return };
        room.state.newest_id = room.state.newest_id.max(stored.sync_id);
        room.floor_id = room.floor_id.max(stored.floor);
        room.held_ms = 0;
        room.remember(message.clone());
        self.collect(index, Class::Reliable, |out| put_record(out, Class::Reliable, &message), now_ms);
    }

    /// Puts a message into its room's batch, which goes out at once if the room is small.
    fn collect(&mut self, index: usize, class: Class, put: impl FnOnce(&mut BytesMut), now_ms: u64) {
        let settings = &self.rooms.settings;
        let (buffer_members, buffer_ms) = (settings.buffer_members, u64::from(settings.buffer_ms));
        let messages_max = settings.buffer_messages;
        let Some(room) = self.rooms.get_mut(index) else { return };
        if class == Class::Transient && room.batch.len() >= ROOM_BATCH_DROPPABLE_BYTES_MAX {
            self.metrics.room_limited.increment();
            room.dropped += 1;
            return;
        }
        let (is_first, is_held) = (room.messages == 0, now_ms < room.held_ms);
        put(&mut room.batch);
        room.messages += 1;
        let is_full = room.batch.len() >= ROOM_BATCH_BYTES_MAX;
        let is_due = room.messages >= messages_max || room.state.online < buffer_members;
        if is_full || is_due && !is_held {
            return self.flush_room(index, now_ms);
        }
        if is_first {
            room.due_ms = if is_held { room.held_ms } else { now_ms + buffer_ms };
            if !std::mem::replace(&mut room.is_collecting, true) {
                self.rooms.collecting.push(index);
            }
        }
    }

    fn flush_room(&mut self, index: usize, now_ms: u64) {
        if self.rooms.get_mut(index).is_some_and(|room| room.messages > 0) {
            self.push_batch(index, now_ms);
        }
    }

    /// Sends the batch, or the state alone, to every worker with members: encoded once.
    fn push_batch(&mut self, index: usize, now_ms: u64) {
        let Some(room) = self.rooms.rooms.get_mut(index).and_then(Option::as_mut) else { return };
        room.weed();
        let push = RoomPush { dropped: room.dropped, records: &room.batch, ..state_push(room) };
        let mut frame = BytesMut::with_capacity(RoomPush::HEAD_BYTES_MAX + push.records.len() + 8);
        push.put(&mut frame);
        for (link, _) in room.links.iter().filter(|(link, _)| link.is_live()) {
            self.metrics.room_pushes.increment();
            self.outbox.put(link, Weight::Normal, |out| out.extend_from_slice(&frame));
        }
        self.metrics.room_batches.increment();
        self.metrics.room_batched.add(u64::from(room.messages));
        room.batch.clear();
        (room.messages, room.dropped, room.due_ms) = (0, 0, u64::MAX);
        (room.told, room.told_ms) = (room.state, now_ms);
    }

    fn handle_room_pull(&mut self, pull: Box<Pull>) {
        self.metrics.room_pulls.increment();
        if let Some(index) = self.rooms.find(&pull.key)
            && let Some(room) = self.rooms.get_mut(index)
            && let Some(messages) = room.recall(pull.after_id)
        {
            let extent = Extent { head: room.state.newest_id, floor: room.floor_id };
            return self.answer_pull(&pull, Code::Ok, extent, messages);
        }
        if self.rooms.pulls_outstanding >= ROOM_PULLS_OUTSTANDING_MAX {
            self.metrics.room_pulls_refused.increment();
            return self.answer_pull(&pull, Code::Overloaded, Extent::EMPTY, Vec::new());
        }
        self.rooms.pulls_outstanding += 1;
        self.reads.push(Read::Room { key: pull.key.clone(), pull: Some(pull) });
    }

    /// The store has found what was asked of a room.
    pub(super) fn handle_room_read(
        &mut self,
        key: &AccountKey,
        pull: Option<&Pull>,
        found: Found,
        now_ms: u64,
    ) {
        let extent = found.extent;
        if let Some(pull) = pull {
            self.rooms.pulls_outstanding -= 1;
            let messages = found.messages.into_iter().filter_map(read_back).collect();
            return self.answer_pull(pull, Code::Ok, extent, messages);
        }
        let Some(index) = self.rooms.find(key) else { return };
        let Some(room) = self.rooms.get_mut(index) else { return };
        room.floor_id = room.floor_id.max(extent.floor);
        room.held_ms = 0;
        let is_news = extent.head > room.state.newest_id;
        room.state.newest_id = room.state.newest_id.max(extent.head);
        // Whoever was there before is told what there is, and hears what has waited for it.
        if is_news || room.messages > 0 {
            self.push_batch(index, now_ms);
        }
    }

    /// The store refused.
    pub(super) fn handle_room_read_failed(&mut self, pull: &Pull) {
        self.rooms.pulls_outstanding -= 1;
        self.answer_pull(pull, Code::Storage, Extent::EMPTY, Vec::new());
    }

    fn answer_pull(&mut self, pull: &Pull, code: Code, extent: Extent, messages: Vec<RoomMessage>) {
        let mut pulled = RoomPulled {
            room: room_of(&pull.key.account).unwrap_or_default().to_owned(),
            code: code.into(),
            messages: Vec::new(),
            through_id: pull.after_id,
            floor_id: extent.floor,
            newest_id: extent.head,
        };
        let mut bytes = 0;
        for message in messages {
            bytes += message.encoded_len() + 8;
            if bytes > CLIENT_BODY_BYTES_MAX as usize && !pulled.messages.is_empty() {
                break;
            }
            pulled.through_id = message.id;
            pulled.messages.push(message);
        }
        let body = pulled.encode_to_vec();
        let push = Push {
            cookie: pull.hash,
            session: pull.session,
            kind: Kind::RoomPulled.byte(),
            flags: Class::Normal.flags(),
            body: &body,
        };
        self.outbox.put(&pull.link, Weight::Normal, |out| push.put(out, false));
    }

    /// Takes a room's message no further than its shard's full queue.
    pub(super) fn refuse_room_crossing(&mut self, work: RoomWork) {
        match work {
            RoomWork::Publish { submit, .. } => {
                self.metrics.refused_overload.increment();
                self.answer(&submit, Code::Overloaded, None, "too many messages wait for their shard");
            }
            RoomWork::Pull(pull) => self.answer_pull(&pull, Code::Overloaded, Extent::EMPTY, Vec::new()),
            RoomWork::Stats { link, cookie, .. } => {
                let result =
                    RoomStatsResult { cookie, code: Code::Overloaded.into(), ..RoomStatsResult::default() };
                self.outbox
                    .put(&link, Weight::Answer, |out| put_control(out, Verb::RoomStatsResult, &result));
            }
            // A count's link ends; whoever hands runs on sees to it that they are counted.
            RoomWork::Count { .. } | RoomWork::Run { .. } => {}
        }
    }
}

/// What is known of a room, without messages.
fn state_push(room: &Room) -> RoomPush<'_> {
    RoomPush { app: &room.key.app, room: room.name(), state: room.state, dropped: 0, records: &[] }
}

/// What is said and not kept.
fn message_of(submit: Submit, number: u32) -> RoomMessage {
    RoomMessage {
        from: submit.from.into(),
        r#type: number,
        client_id: submit.client_id,
        sent_at_ms: submit.sent_at_ms,
        payload: submit.payload,
        id: 0,
        marks: submit.marks.map(|marks| *marks),
    }
}

/// What was said and kept: type and payload lie in the stored payload.
fn read_back(message: Message) -> Option<RoomMessage> {
    let kept = RoomMessage::decode(message.payload).ok()?;
    Some(RoomMessage {
        from: message.from,
        client_id: message.client_id,
        sent_at_ms: message.sent_at_ms,
        id: message.sync_id,
        marks: message.marks.map(|marks| *marks),
        ..kept
    })
}
