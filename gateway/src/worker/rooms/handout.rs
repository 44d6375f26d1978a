//! What waits for a room's members, and how it becomes the frames they get.
//!
//! Between two batches of a room lie at least `rooms.down_ms`. What the router sends meanwhile is merged; when that
//! grows beyond `rooms.down_bytes` droppable messages are left out. A reliable message goes into the next batch for
//! everybody, and again, up to three times, for whoever has not acknowledged it.

use std::collections::VecDeque;

use moor_wire::client::Class;
use moor_wire::rooms::{BatchWriter, Record, Records, RoomState, ack_spread_ms};

use crate::limits::{
    ROOM_AT_ONCE_MEMBERS, ROOM_RELIABLE_BYTES_MAX, ROOM_RELIABLE_MAX, ROOM_REPEAT_MS, ROOM_RUN_BYTES_MAX,
    ROOM_TRIES,
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
    message: Box<[u8]>,
    tries: u8,
    /// When it may be carried again, milliseconds.
    again_ms: u64,
}

/// What waits to be handed out in a room.
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
    /// True exactly when the room stands in the list of rooms with something to hand out.
    pub is_active: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It waits.
    Yes,
    /// So many were left out, it or older ones.
    Thinned(u64),
    /// It waits, and an older reliable message will not be carried again.
    Forgot,
}

/// Frames of one batch, and the same as those channels get them that have asked for one.
#[derive(Debug)]
pub struct Variant {
    /// On channel 0.
    pub frames: Vec<u8>,
    /// For numbers of channels.
    pub encoded: Vec<Encoded>,
}

/// A batch on its way to a room's members.
#[derive(Debug)]
pub struct Handout {
    /// For everybody, if there is something.
    pub plain: Option<Variant>,
    /// For those whose acknowledgement is below this id.
    pub again: Option<(u64, Variant)>,
    /// Members of the room when it began.
    pub members: usize,
    /// When that was, milliseconds.
    pub began_ms: u64,
}

/// Time until the last member of a large room has a batch, milliseconds. Measured with 50,000 members on two cores: over
/// half of the interval pushes to single sessions took 23 ms at the 99th percentile, over three quarters 3 ms.
pub const fn pace_ms(down_ms: u64) -> u64 {
    down_ms / 4 * 3
}

impl Handout {
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

    /// How many members may have it by now. In a large room all of them at once would be a moment in which nobody else is
    /// served, here and on the way to the clients: it takes three quarters of the time to the next batch.
    pub fn reach(&self, down_ms: u64, now_ms: u64) -> usize {
        let elapsed_ms = usize::try_from(now_ms.saturating_sub(self.began_ms)).unwrap_or(usize::MAX);
        let pace_ms = usize::try_from(pace_ms(down_ms)).unwrap_or(usize::MAX);
        let paced = self.members.saturating_mul(elapsed_ms).checked_div(pace_ms);
        paced.map_or(usize::MAX, |paced| paced.saturating_add(ROOM_AT_ONCE_MEMBERS))
    }
}

impl Waiting {
    /// Takes a message of the router's.
    pub fn take(&mut self, record: &Record<'_>, down_bytes: usize) -> Taken {
        if record.id > 0 {
            return self.take_reliable(record);
        }
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
        if left_out > 0 { Taken::Thinned(left_out) } else { Taken::Yes }
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

    fn take_reliable(&mut self, record: &Record<'_>) -> Taken {
        // The router says nothing twice on a link; what another link said is not carried twice either.
        if self.reliable.back().is_some_and(|last| last.id >= record.id) {
            return Taken::Yes;
        }
        let mut taken = Taken::Yes;
        self.reliable_bytes += record.message.len();
        let (id, message) = (record.id, record.message.into());
        self.reliable.push_back(Reliable { id, message, tries: 0, again_ms: 0 });
        while self.reliable.len() > ROOM_RELIABLE_MAX || self.reliable_bytes > ROOM_RELIABLE_BYTES_MAX {
            self.forget_first();
            taken = Taken::Forgot;
        }
        taken
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

    /// Makes the next batch of what waits. `lacking`: whether some member has not acknowledged an id.
    pub fn begin(
        &mut self,
        room: &str,
        state: RoomState,
        down_ms: u64,
        now_ms: u64,
        lacking: impl Fn(u64) -> bool,
    ) -> Option<Handout> {
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
        let acknowledged_ms = now_ms + pace_ms(down_ms) + ack_spread_ms(state.online);
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
        is_something.then_some(Handout { plain, again, members: 0, began_ms: now_ms })
    }
}
