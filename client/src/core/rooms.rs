//! The rooms of one channel: which the app wants to be in, and which reliable messages of each are here.

use std::collections::VecDeque;

use moor_wire::Code;
use moor_wire::client::{
    Kind, RoomAck, RoomBatch, RoomEnter, RoomLeave, RoomLike, RoomMessage, RoomPull, RoomPulled, RoomRefused,
    put_control,
};
use moor_wire::identity::{NameError, check_room};
use moor_wire::limits::ROOM_LIKES_MAX;
use moor_wire::rooms::ack_spread_ms;

use super::event::Event;
use crate::limits::{ROOM_LIKES_MS, ROOM_PULL_REPEAT_MS, ROOM_SPREAD_MS, ROOMS_MAX};

/// Why a room was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// No such channel.
    #[error("channel {0} is not open: open it first")]
    NoChannel(u16),
    /// A name no gateway accepts.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The channel is in as many rooms as it may be.
    #[error("a channel may be in {ROOMS_MAX} rooms: leave one first")]
    TooMany,
}

#[derive(Debug)]
struct Room {
    name: String,
    /// Highest id of a reliable message without a gap; `None` until the first batch says what there was before.
    last_id: Option<u64>,
    newest_id: u64,
    ack_due_ms: Option<u64>,
    pull_due_ms: Option<u64>,
    likes: u32,
    likes_due_ms: Option<u64>,
}

impl Room {
    /// Keeps of these messages what is next, and what has no place.
    fn sift(&mut self, messages: Vec<RoomMessage>) -> Vec<RoomMessage> {
        let mut kept = messages;
        kept.retain(|message| {
            if message.id == 0 {
                return true;
            }
            // Whatever came before the first was said before this session was here.
            let last_id = self.last_id.get_or_insert(message.id - 1);
            let is_next = *last_id == message.id - 1;
            if is_next {
                *last_id = message.id;
            }
            is_next
        });
        kept
    }

    fn is_behind(&self) -> bool {
        self.last_id.is_some_and(|last_id| last_id < self.newest_id)
    }
}

/// Rooms of one channel.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    rooms: Vec<Room>,
}

impl Rooms {
    fn get_mut(&mut self, name: &str) -> Option<&mut Room> {
        self.rooms.iter_mut().find(|room| room.name == name)
    }

    /// Wants to be in a room, of which the app has the reliable messages up to `last_id`. True when that is to be said.
    pub(super) fn enter(&mut self, name: &str, last_id: Option<u64>) -> Result<bool, RoomError> {
        check_room(name)?;
        if self.get_mut(name).is_some() {
            return Ok(false);
        }
        if self.rooms.len() >= ROOMS_MAX {
            return Err(RoomError::TooMany);
        }
        self.rooms.push(Room {
            name: name.to_owned(),
            last_id,
            newest_id: 0,
            ack_due_ms: None,
            pull_due_ms: None,
            likes: 0,
            likes_due_ms: None,
        });
        Ok(true)
    }

    /// The last reliable message of a room that is here without a gap.
    pub(super) fn last_id(&self, name: &str) -> Option<u64> {
        self.rooms.iter().find(|room| room.name == name)?.last_id
    }

    /// Wants to be in it no more. True when that is to be said.
    pub(super) fn leave(&mut self, name: &str) -> bool {
        let before = self.rooms.len();
        self.rooms.retain(|room| room.name != name);
        self.rooms.len() < before
    }

    pub(super) fn put_enter(&self, name: &str, channel: u16, out: &mut Vec<u8>) {
        if let Some(room) = self.rooms.iter().find(|room| room.name == name) {
            let enter = RoomEnter { room: room.name.clone(), last_id: room.last_id };
            put_control(out, Kind::Enter, channel, &enter);
        }
    }

    pub(super) fn put_leave(name: &str, channel: u16, out: &mut Vec<u8>) {
        put_control(out, Kind::Leave, channel, &RoomLeave { room: name.to_owned() });
    }

    /// Says ENTER for every room: a new login is in none.
    pub(super) fn put_all(&mut self, channel: u16, out: &mut Vec<u8>) {
        for room in &self.rooms {
            self.put_enter(&room.name, channel, out);
        }
    }

    pub(super) fn like(&mut self, name: &str, count: u32, now: u64) {
        if let Some(room) = self.get_mut(name) {
            room.likes = room.likes.saturating_add(count);
            room.likes_due_ms.get_or_insert(now + ROOM_LIKES_MS);
        }
    }

    pub(super) fn handle_disconnected(&mut self) {
        for room in &mut self.rooms {
            (room.ack_due_ms, room.pull_due_ms) = (None, None);
        }
    }

    pub(super) fn handle_batch(
        &mut self,
        channel: u16,
        batch: RoomBatch,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        let RoomBatch { room: name, messages, dropped, newest_id, online, likes } = batch;
        let Some(room) = self.get_mut(&name) else { return };
        room.newest_id = room.newest_id.max(newest_id);
        let has_reliable = messages.iter().any(|message| message.id > 0);
        let messages = room.sift(messages);
        // What had been said before is none of this session's business.
        room.last_id.get_or_insert(newest_id);
        if has_reliable {
            room.ack_due_ms.get_or_insert(now + rng.u64(0..ack_spread_ms(online)));
        }
        if room.is_behind() {
            room.pull_due_ms.get_or_insert(now + rng.u64(0..ROOM_SPREAD_MS));
        }
        events.push_back(Event::Room { channel, room: name, messages, dropped, online, likes });
    }

    pub(super) fn handle_pulled(
        &mut self,
        channel: u16,
        pulled: RoomPulled,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        let RoomPulled { room: name, code, messages, through_id, floor_id, newest_id } = pulled;
        // One that has asked for nothing: the answer is to who was here before.
        let Some(room) = self.get_mut(&name).filter(|room| room.pull_due_ms.is_some()) else { return };
        let Some(last_id) = &mut room.last_id else { return };
        if code != Code::Ok as i32 {
            room.pull_due_ms = Some(now + ROOM_PULL_REPEAT_MS + rng.u64(0..ROOM_SPREAD_MS));
            return;
        }
        let before = *last_id;
        // What is past retention will not come.
        *last_id = (*last_id).max(floor_id.saturating_sub(1));
        room.newest_id = room.newest_id.max(newest_id);
        let messages = room.sift(messages);
        room.last_id = room.last_id.max(Some(through_id.min(room.newest_id)));
        room.ack_due_ms.get_or_insert(now + rng.u64(0..ROOM_SPREAD_MS));
        // An answer that brings nothing is no reason to ask at once.
        let pause_ms = if room.last_id > Some(before) { 0 } else { ROOM_PULL_REPEAT_MS };
        room.pull_due_ms = room.is_behind().then_some(now + pause_ms);
        if !messages.is_empty() {
            events.push_back(Event::Room { channel, room: name, messages, dropped: 0, online: 0, likes: 0 });
        }
    }

    pub(super) fn handle_refused(
        &mut self,
        channel: u16,
        refused: RoomRefused,
        events: &mut VecDeque<Event>,
    ) {
        let RoomRefused { room, code, reason } = refused;
        if self.leave(&room) {
            let code = Code::try_from(code).unwrap_or(Code::Internal);
            events.push_back(Event::RoomRefused { channel, room, code, reason });
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        let due =
            |room: &Room| [room.ack_due_ms, room.pull_due_ms, room.likes_due_ms].into_iter().flatten().min();
        self.rooms.iter().filter_map(due).min()
    }

    pub(super) fn handle_timeout(&mut self, channel: u16, now: u64, out: &mut Vec<u8>) {
        let is_due = |due: Option<u64>| due.is_some_and(|due| now >= due);
        for room in &mut self.rooms {
            let last_id = room.last_id.unwrap_or(0);
            if is_due(room.ack_due_ms) {
                room.ack_due_ms = None;
                put_control(out, Kind::RoomAck, channel, &RoomAck { room: room.name.clone(), id: last_id });
            }
            if is_due(room.pull_due_ms) {
                room.pull_due_ms = room.is_behind().then_some(now + ROOM_PULL_REPEAT_MS);
                if room.pull_due_ms.is_some() {
                    let pull = RoomPull { room: room.name.clone(), after_id: last_id };
                    put_control(out, Kind::RoomPull, channel, &pull);
                }
            }
            if is_due(room.likes_due_ms) {
                let count = std::mem::take(&mut room.likes).min(ROOM_LIKES_MAX);
                room.likes_due_ms = None;
                put_control(out, Kind::RoomLike, channel, &RoomLike { room: room.name.clone(), count });
            }
        }
    }
}
