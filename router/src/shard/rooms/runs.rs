//! What is said in rooms of other shards: a droppable message is checked, answered and encoded on the shard of the link it
//! came on, and goes to its room's shard with the others of the same turn. So as many shards work on what is said in a hot
//! room as it is said to, and its own merely puts the pieces together.
//!
//! What one sender says stays in order: it comes on one link, whose shard adds to the end of one run.

use std::collections::HashMap;

use bytes::BytesMut;
use moor_wire::Code;
use moor_wire::client::Class;
use moor_wire::rooms::{Records, put_record};

use super::{RoomWork, message_of};
use crate::limits::ROOM_BATCH_DROPPABLE_BYTES_MAX;
use crate::rooms::RoomType;
use crate::shard::Shard;
use crate::shard::work::Work;
use crate::store::{AccountKey, Submit};

/// Droppable messages for one room.
#[derive(Debug, Default)]
pub struct Run {
    /// As records, back to back.
    records: BytesMut,
    /// The type of each.
    numbers: Vec<u32>,
    /// So many more were left out.
    dropped: u64,
}

impl Run {
    /// What its messages take.
    pub fn bytes(&self) -> usize {
        self.records.len()
    }
}

/// The runs of one turn, by room.
pub type Runs = HashMap<AccountKey, Run>;

impl Shard {
    /// Whether a message for a room of another shard is taken here.
    pub fn takes_for_another(&self, app: &str, number: u32) -> bool {
        // Whoever says something normal is told whether the room takes it, which only the room's shard knows.
        self.rooms.settings.types.of(app, number).class == Class::Transient
    }

    /// Takes a droppable message for a room of another shard.
    pub fn take_for_another(&mut self, submit: Submit, number: u32, now_ms: u64) {
        self.metrics.room_publishes.increment();
        if self.take_quota(&submit, now_ms).is_none() {
            return;
        }
        self.answer(&submit, Code::Ok, None, "");
        self.count_marks(&submit);
        let run = self.rooms.runs.entry(submit.to.clone()).or_default();
        if run.records.len() >= ROOM_BATCH_DROPPABLE_BYTES_MAX {
            self.metrics.room_limited.increment();
            run.dropped += 1;
            return;
        }
        run.numbers.push(number);
        put_record(&mut run.records, Class::Transient, &message_of(submit, number));
    }

    /// Sends what was taken in this turn to the rooms' shards.
    pub fn hand_runs(&mut self) {
        // As in most turns: a new map costs more than a look.
        if self.rooms.runs.is_empty() {
            return;
        }
        for (key, run) in std::mem::take(&mut self.rooms.runs) {
            self.metrics.room_runs.increment();
            let shard = self.shard_of(key.hash);
            if let Err(Work::Room(RoomWork::Run { run, .. })) =
                self.outbox.cross(shard, Work::Room(RoomWork::Run { key, run }))
            {
                self.metrics.room_limited.add(run.numbers.len() as u64);
            }
        }
    }

    pub(super) fn handle_run(&mut self, key: &AccountKey, run: &Run, now_ms: u64) {
        let Some(index) = self.rooms.find(key) else { return };
        for (record, number) in Records::new(&run.records).zip(&run.numbers) {
            let RoomType { pace, per_s, .. } = self.rooms.settings.types.of(&key.app, *number);
            let Some(room) = self.rooms.get_mut(index) else { return };
            if room.may_take(pace, per_s, now_ms) {
                self.collect(index, Class::Transient, |out| record.put(out), now_ms);
            } else {
                self.metrics.room_limited.increment();
                room.dropped += 1;
            }
        }
        if let Some(room) = self.rooms.get_mut(index) {
            room.dropped += run.dropped;
        }
    }
}
