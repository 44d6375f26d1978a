//! Rooms: sessions that want to hear what is said in one, for as long as they are there.
//!
//! A session enters and leaves without an answer; when it ends it is in no room any more, and nobody remembers. The
//! router knows how many members a room has on this worker, never who they are. What it sends for a room is merged
//! ([`handout`]), encoded once for each channel number, and handed to the members ([`table`]) out of one shared buffer, a
//! slice of them a turn, so that a large room does not make everybody else wait. The members of a large room get theirs
//! one [`lane`] after the other.

mod handout;
mod lane;
mod table;

use moor_ring::Slot;
use moor_wire::Code;
use moor_wire::client::{Kind, RoomAck, RoomEnter, RoomLeave, RoomLike, RoomPull, RoomPulled, RoomRefused};
use moor_wire::frame::Header;
use moor_wire::internal::{RoomCount, RoomCounts, Verb};
use moor_wire::limits::{APP_BYTES_MAX, ROOM_BYTES_MAX, ROOM_COUNTS_MAX, ROOM_LIKES_MAX};
use moor_wire::rooms::{BatchWriter, RoomPush, RoomState};
use prost::Message;

pub use table::Rooms;

use super::broadcast::Encoded;
use super::channels::ChannelIndex;
use super::counters::Counter;
use super::io::Io;
use super::{Now, Worker};
use crate::limits::{
    LINK_QUEUE_BYTES_MAX, ROOM_BATCHES_PER_TURN_MAX, ROOM_BYTES_PER_TURN_MAX, ROOM_COUNTS_PER_TURN_MAX,
    ROOM_MEMBERS_PER_TURN_MAX, ROOM_PACE_MS, TICK_MS,
};
use handout::Waiting;
use table::{RoomIndex, Taken};

/// Bytes of a full batch of counts at most.
const COUNTS_BYTES_MAX: usize = ROOM_COUNTS_MAX * (APP_BYTES_MAX + ROOM_BYTES_MAX + 32);
const _: () = assert!(2 * COUNTS_BYTES_MAX < LINK_QUEUE_BYTES_MAX / 2);

/// What a turn may still do for rooms.
#[derive(Debug)]
struct Budget {
    /// Batches that begin.
    batches: usize,
    /// Members that are looked at.
    members: usize,
    /// Bytes written for either.
    bytes: usize,
}

impl Budget {
    const fn of_a_turn() -> Self {
        Self {
            batches: ROOM_BATCHES_PER_TURN_MAX,
            members: ROOM_MEMBERS_PER_TURN_MAX,
            bytes: ROOM_BYTES_PER_TURN_MAX,
        }
    }

    const fn has_batch(&self) -> bool {
        self.batches > 0 && self.bytes > 0
    }

    const fn spend_batch(&mut self, bytes: usize) {
        self.batches -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    const fn has_member(&self) -> bool {
        self.members > 0 && self.bytes > 0
    }

    const fn spend_member(&mut self, bytes: usize) {
        self.members -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl<I: Io> Worker<I> {
    /// ENTER, LEAVE, `ROOM_ACK`, `ROOM_LIKE` and `ROOM_PULL` of a client.
    pub(super) fn handle_room_frame(
        &mut self,
        slot: Slot,
        kind: Kind,
        header: Header,
        body: &[u8],
        now: Now,
    ) {
        let number = header.channel;
        let Some(channel) = self.channel_of(slot, number) else {
            return self.close_frame(slot, number, Code::NotFound, "no such channel is open", now);
        };
        let understood = match kind {
            Kind::Enter => RoomEnter::decode(body).map(|enter| self.enter(slot, number, channel, enter, now)),
            Kind::Leave => RoomLeave::decode(body).map(|leave| {
                let (app, _) = self.channels.identity(channel);
                self.rooms.leave(channel, app, &leave.room);
            }),
            Kind::RoomAck => RoomAck::decode(body).map(|ack| {
                if let Some(room) = self.room_of(channel, &ack.room)
                    && let Some(member) = self.rooms.member_mut(channel, room)
                {
                    member.acked_id = member.acked_id.max(ack.id);
                }
            }),
            Kind::RoomLike => RoomLike::decode(body).map(|like| {
                if let Some(room) = self.room_of(channel, &like.room)
                    && self.rooms.member_mut(channel, room).is_some()
                {
                    self.rooms.like(room, like.count.min(ROOM_LIKES_MAX));
                }
            }),
            _ => RoomPull::decode(body).map(|pull| self.pull(slot, channel, header, (pull, body), now)),
        };
        if understood.is_err() {
            self.refuse_bytes(slot, Code::ProtocolError, &format!("{kind:?} does not decode"), now);
        }
    }

    fn room_of(&mut self, channel: ChannelIndex, room: &str) -> Option<RoomIndex> {
        let (app, _) = self.channels.identity(channel);
        self.rooms.find(app, room)
    }

    fn enter(&mut self, slot: Slot, number: u16, channel: ChannelIndex, enter: RoomEnter, now: Now) {
        let RoomEnter { room, last_id } = enter;
        let (app, _) = self.channels.identity(channel);
        match self.rooms.enter(channel, app, &room, last_id, &self.settings.rooms) {
            Ok(index) => {
                let state = self.rooms.get(index).map(|room| room.state).unwrap_or_default();
                // Only who knows an older message has missed one; everybody else hears with the next batch.
                if last_id.is_some_and(|last_id| last_id < state.newest_id) {
                    let mut frames = self.pool.buffer();
                    BatchWriter::new(&mut frames, &room, state, 0).finish();
                    let mut known = Vec::new();
                    let encoded = Encoded::find(&mut known, &frames, number);
                    self.queue_each(slot, &encoded.frames, now);
                    self.pool.give_buffer(frames);
                }
            }
            Err((code, reason)) => {
                self.counters.add(Counter::RoomsRefused);
                let mut room = room;
                super::lifecycle::truncate(&mut room, ROOM_BYTES_MAX);
                let refused = RoomRefused { room, code: code as i32, reason };
                self.queue_control(slot, Kind::RoomRefused, number, &refused, now);
            }
        }
    }

    /// What is missing lies with the router.
    fn pull(
        &mut self,
        slot: Slot,
        channel: ChannelIndex,
        header: Header,
        (pull, body): (RoomPull, &[u8]),
        now: Now,
    ) {
        let is_slow = self.is_metered(slot) && !self.meter_message(slot, header.channel, now);
        if is_slow || !self.forward(slot, channel, header, body, now) {
            let code = if self.link.is_up() { Code::Overloaded } else { Code::Unavailable };
            let pulled = RoomPulled { room: pull.room, code: code as i32, ..RoomPulled::default() };
            self.queue_control(slot, Kind::RoomPulled, header.channel, &pulled, now);
        }
    }

    /// Messages of the router's for a room. False: they are not laid out as they should be.
    pub(super) fn handle_room_push(&mut self, body: &[u8], now: Now) -> bool {
        let Ok(push) = RoomPush::parse(body) else { return false };
        // The last member may just have left.
        let Some(index) = self.rooms.find(push.app, push.room) else { return true };
        let Some(room) = self.rooms.get_mut(index).filter(|room| !room.is_empty()) else {
            return true;
        };
        // A router that has just started does not know yet.
        let newest_id = room.state.newest_id.max(push.state.newest_id);
        room.state = RoomState { newest_id, ..push.state };
        room.waiting().for_each(|waiting| waiting.add_dropped(push.dropped));
        let down_bytes = self.settings.rooms.down_bytes as usize;
        let mut messages = 0;
        for record in push.records() {
            messages += 1;
            let Taken { thinned, forgot } = room.take(&record, down_bytes);
            self.counters[Counter::RoomThinned] += thinned;
            self.counters[Counter::RoomForgotten] += forgot;
        }
        if messages == 0 {
            room.waiting().for_each(Waiting::tell_state);
        }
        self.counters[Counter::RoomMessages] += messages;
        // What is under way is followed by the next when it is done.
        let due_ms = if room.handout.is_some() { u64::MAX } else { room.due_ms() };
        if !std::mem::replace(&mut room.is_active, true) {
            self.rooms.active.push_back(index);
        }
        self.rooms.due_ms = self.rooms.due_ms.min(due_ms.max(now.0));
        true
    }

    /// Tells the router what changed, begins the batches that are due, and hands out a slice of those under way. What is
    /// for one session has been flushed before: a batch is many sends, and they are carried out in this order.
    pub(super) fn rooms_step(&mut self, now: Now) {
        if self.rooms.rooms_open() == 0 {
            return;
        }
        self.rooms_tell(now);
        let mut budget = Budget::of_a_turn();
        if !self.rooms.active.is_empty() && self.rooms.due_ms <= now.0 {
            self.rooms_begin(&mut budget, now);
        }
        if now.0 >= self.rooms.hand_ms {
            self.rooms_go_on(budget, now);
        }
        // To the router, and to members who could not be sent anything at once.
        self.flush(now);
    }

    /// Hands on the batches under way, until all are where they may be by now.
    fn rooms_go_on(&mut self, mut budget: Budget, now: Now) {
        let mut waiting = 0;
        while budget.has_member()
            && waiting < self.rooms.handing.len()
            && let Some(room) = self.rooms.handing.pop_front()
        {
            let looked_at = self.rooms_hand_out(room, &mut budget, now);
            waiting = if looked_at == 0 { waiting + 1 } else { 0 };
        }
        self.rooms.hand_ms = if budget.has_member() { now.0 + ROOM_PACE_MS } else { now.0 };
    }

    fn rooms_tell(&mut self, now: Now) {
        let Some(link) = self.link.up_slot() else {
            return self.rooms.tell_nobody();
        };
        for _ in 0..ROOM_COUNTS_PER_TURN_MAX {
            if !self.rooms.has_news(now.0) {
                return;
            }
            if self.queued_bytes(link) + COUNTS_BYTES_MAX > LINK_QUEUE_BYTES_MAX / 2 {
                return self.rooms.tell_later(now.0 + TICK_MS);
            }
            let news = self.rooms.take_news(self.link.generation(), ROOM_COUNTS_MAX, now.0);
            if news.is_empty() {
                return;
            }
            let count = |told: table::Telling| RoomCount {
                app: told.app,
                room: told.room,
                members: told.members,
                likes: told.likes,
            };
            let rooms = news.into_iter().map(count).collect();
            self.queue_internal(link, Verb::RoomCount, &RoomCounts { rooms }, now);
        }
    }

    /// Begins the batches that are due.
    fn rooms_begin(&mut self, budget: &mut Budget, now: Now) {
        let down_ms = u64::from(self.settings.rooms.down_ms);
        let mut first_ms = u64::MAX;
        for _ in 0..self.rooms.active.len() {
            if !budget.has_batch() {
                // The others follow in the next turn.
                first_ms = now.0;
                break;
            }
            let Some(index) = self.rooms.active.pop_front() else { break };
            let Some(room) = self.rooms.get_mut(index) else { continue };
            if room.handout.is_none() {
                if let Some(bytes) = room.begin_batch(down_ms, now.0) {
                    budget.spend_batch(bytes);
                    self.counters.add(Counter::RoomBatches);
                    self.rooms.handing.push_back(index);
                    self.rooms.hand_ms = now.0;
                } else {
                    let due_ms = room.due_ms();
                    first_ms = first_ms.min(due_ms);
                    room.is_active = due_ms < u64::MAX;
                    if !room.is_active {
                        continue;
                    }
                }
            }
            self.rooms.active.push_back(index);
        }
        self.rooms.due_ms = first_ms;
    }

    /// Hands a batch to some of a lane's members; returns how many were looked at.
    fn rooms_hand_out(&mut self, index: RoomIndex, budget: &mut Budget, now: Now) -> usize {
        let Some(room) = self.rooms.get_mut(index) else { return 0 };
        let Some(mut handout) = room.handout.take() else { return 0 };
        let lane = handout.lane;
        let due = handout.due(room.remaining(lane), now.0);
        let mut looked_at = 0;
        while looked_at < due
            && budget.has_member()
            && let Some(room) = self.rooms.get_mut(index)
            && let Some(member) = room.next_member(lane)
        {
            looked_at += 1;
            let variant = handout.batch.variant_for(member.acked_id);
            budget.spend_member(variant.as_ref().map_or(0, |(variant, _)| variant.frames.len()));
            let Some((variant, is_repeated)) = variant else { continue };
            let Some(channel) = self.channels.get(member.channel) else { continue };
            let (slot, number) = (Slot(channel.connection), channel.number);
            self.counters[Counter::RoomRepeats] += u64::from(is_repeated);
            self.counters.add(Counter::RoomFrames);
            let encoded = Encoded::find(&mut variant.encoded, &variant.frames, number);
            if self.send_shared(slot, encoded, now) {
                self.counters.add(Counter::Deliveries);
            } else {
                self.queue_each(slot, &encoded.frames, now);
            }
        }
        if let Some(room) = self.rooms.get_mut(index)
            && !room.is_empty()
        {
            if room.remaining(lane) > 0 {
                room.handout = Some(handout);
                self.rooms.handing.push_back(index);
            } else {
                let due_ms = room.due_ms();
                self.rooms.due_ms = self.rooms.due_ms.min(due_ms);
            }
        }
        looked_at
    }
}
