//! What waits for the members of a lane, and how it becomes the frames they get.
//!
//! Between two batches of a lane lie at least `rooms.down_ms`. What the router sends meanwhile is merged; when that
//! grows beyond `rooms.down_bytes` droppable messages are left out. A reliable message goes into the next batch for
//! everybody, and again, up to three times, for whoever has not acknowledged it.

use std::collections::VecDeque;
use std::rc::Rc;

use moor_wire::client::Class;
use moor_wire::rooms::{BatchWriter, Record, Records, RoomState, ack_spread_ms};

use crate::limits::{
    ROOM_RELIABLE_BYTES_MAX, ROOM_RELIABLE_MAX, ROOM_REPEAT_MS, ROOM_RUN_BYTES_MAX, ROOM_TRIES,
};
use crate::worker::broadcast::Encoded;

/// Room in a batch's frames for what is around its messages, bytes: names, numbers, one or two reliable ones.
const FRAMES_SPARE_BYTES: usize = 512;
/// Largest room for messages that is kept for the next batch, bytes.
const RUN_KEPT_BYTES_MAX: usize = 2 * 1024;

/// A reliable message that may be carried again.
#[derive(Debug)]
struct Reliable {
    id: u64,
    /// All lanes of the room share it.
    message: Rc<[u8]>,
    tries: u8,
    /// When it may be carried again, milliseconds.
    again_ms: u64,
}

/// What waits to be handed out in a lane.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Records of messages that are not reliable, back to back.
    run: Vec<u8>,
    /// Bytes of the droppable ones among them.
    droppable_bytes: usize,
    dropped: u64,
    reliable: VecDeque<Reliable>,
    reliable_bytes: usize,
    /// The router said something new about the room itself, with no message.
    is_state_news: bool,
    /// No batch before this time, milliseconds.
    next_ms: u64,
}

/// Frames of one batch, and the same as those channels get them that have asked for one.
#[derive(Debug)]
pub struct Variant {
    /// On channel 0.
    pub frames: Vec<u8>,
    /// For numbers of channels.
    pub encoded: Vec<Encoded>,
}

/// What a lane's members get.
#[derive(Debug)]
pub struct Batch {
    /// For everybody, if there is something.
    plain: Option<Variant>,
    /// For those whose acknowledgement is below this id.
    again: Option<(u64, Variant)>,
}

impl Batch {
    /// Bytes of its frames, once each.
    pub fn bytes(&self) -> usize {
        let again = self.again.as_ref().map(|(_, again)| again);
        self.plain.iter().chain(again).map(|variant| variant.frames.len()).sum()
    }

    /// What a member gets who has acknowledged up to an id, and whether it is carried again; `None`: nothing.
    pub fn variant_for(&mut self, acked_id: u64) -> Option<(&mut Variant, bool)> {
        match (&mut self.again, &mut self.plain) {
            (Some((above, again)), _) if acked_id < *above => Some((again, true)),
            (_, plain) => plain.as_mut().map(|plain| (plain, false)),
        }
    }
}

impl Waiting {
    /// Takes a message that is not reliable. Returns how many were left out, it or older ones.
    pub fn take(&mut self, record: &Record<'_>, down_bytes: usize) -> u64 {
        let is_droppable = record.class >= Class::Transient;
        let bytes_max = if is_droppable { down_bytes.min(ROOM_RUN_BYTES_MAX) } else { ROOM_RUN_BYTES_MAX };
        let mut left_out = 0;
        if self.run.len() - self.droppable_bytes + record.bytes() <= bytes_max {
            // In a live room the newest is what counts: older chatter makes way.
            while self.run.len() + record.bytes() > bytes_max && self.leave_out_oldest() {
                left_out += 1;
            }
            record.put(&mut self.run);
            self.droppable_bytes += if is_droppable { record.bytes() } else { 0 };
        } else {
            left_out = 1;
        }
        self.dropped += left_out;
        left_out
    }

    /// Takes the oldest droppable message out of what waits. False: there is none.
    fn leave_out_oldest(&mut self) -> bool {
        let mut at = 0;
        for record in Records::new(&self.run) {
            let bytes = record.bytes();
            if record.class >= Class::Transient {
                self.run.drain(at..at + bytes);
                self.droppable_bytes -= bytes;
                return true;
            }
            at += bytes;
        }
        false
    }

    /// Takes a reliable message. Returns how many older ones will not be carried again.
    pub fn take_reliable(&mut self, id: u64, message: &Rc<[u8]>) -> u64 {
        // The router says nothing twice on a link; what another link said is not carried twice either.
        if self.reliable.back().is_some_and(|last| last.id >= id) {
            return 0;
        }
        self.reliable_bytes += message.len();
        self.reliable.push_back(Reliable { id, message: Rc::clone(message), tries: 0, again_ms: 0 });
        let mut forgot = 0;
        while self.reliable.len() > ROOM_RELIABLE_MAX || self.reliable_bytes > ROOM_RELIABLE_BYTES_MAX {
            self.forget_first();
            forgot += 1;
        }
        forgot
    }

    fn forget_first(&mut self) {
        if let Some(first) = self.reliable.pop_front() {
            self.reliable_bytes -= first.message.len();
        }
    }

    /// Droppable messages that the router left out.
    pub fn add_dropped(&mut self, dropped: u64) {
        self.dropped = self.dropped.saturating_add(dropped);
    }

    /// The members shall be told the room's state even if there is no message.
    pub fn tell_state(&mut self) {
        self.is_state_news = true;
    }

    /// When there is something to hand out, milliseconds; `u64::MAX`: there is nothing.
    pub fn due_ms(&self) -> u64 {
        let is_new = !self.run.is_empty()
            || self.is_state_news
            || self.reliable.back().is_some_and(|reliable| reliable.tries == 0);
        if is_new {
            return self.next_ms;
        }
        let again = self.reliable.iter().map(|reliable| reliable.again_ms).min();
        again.map_or(u64::MAX, |again_ms| again_ms.max(self.next_ms))
    }

    /// Makes the next batch of what waits; the last member has it after `pace_ms`. `lacking`: whether some member has not
    /// acknowledged an id.
    pub fn begin(
        &mut self,
        (room, state): (&str, RoomState),
        down_ms: u64,
        pace_ms: u64,
        now_ms: u64,
        lacking: impl Fn(u64) -> bool,
    ) -> Option<Batch> {
        self.next_ms = now_ms + down_ms;
        let mut run = std::mem::take(&mut self.run);
        self.droppable_bytes = 0;
        let is_new = !run.is_empty()
            || std::mem::take(&mut self.is_state_news)
            || self.reliable.iter().any(|reliable| reliable.tries == 0);
        let dropped = if is_new { std::mem::take(&mut self.dropped) } else { 0 };
        let repeated = |reliable: &Reliable| reliable.tries > 0 && reliable.again_ms <= now_ms;
        let above = self.reliable.iter().filter(|r| repeated(r)).map(|r| r.id).max().unwrap_or(0);
        let write = |again: bool| {
            let mut frames = Vec::with_capacity(run.len() + FRAMES_SPARE_BYTES);
            let mut writer = BatchWriter::new(&mut frames, room, state, dropped);
            for reliable in &self.reliable {
                if reliable.tries == 0 || again && repeated(reliable) && reliable.tries < ROOM_TRIES {
                    writer.put(Class::Reliable, &reliable.message);
                }
            }
            for record in Records::new(&run) {
                writer.put(record.class, record.message);
            }
            writer.finish();
            Variant { frames, encoded: Vec::new() }
        };
        // Who was given up on is told by the state alone what is the newest, and pulls.
        let again = (above > 0 && lacking(above)).then(|| (above, write(true)));
        let plain = is_new.then(|| write(false));
        let acknowledged_ms = now_ms + pace_ms + ack_spread_ms(state.online);
        for reliable in &mut self.reliable {
            if reliable.tries == 0 || repeated(reliable) {
                reliable.tries += 1;
                reliable.again_ms = acknowledged_ms + ROOM_REPEAT_MS;
            }
        }
        while self.reliable.front().is_some_and(|first| first.tries > ROOM_TRIES || !lacking(first.id)) {
            self.forget_first();
        }
        // In a lively room the next messages are as many.
        run.clear();
        if plain.is_some() && run.capacity() <= RUN_KEPT_BYTES_MAX {
            self.run = run;
        }
        let is_something = plain.is_some() || again.is_some();
        is_something.then_some(Batch { plain, again })
    }
}
