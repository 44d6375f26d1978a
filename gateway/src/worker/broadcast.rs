//! One frame for every session of an app.
//!
//! What services broadcast is collected and handed out a slice of the sessions a turn, apps in turn, so that neither other
//! apps nor single sessions wait for a large one. Broadcasts that arrive while earlier ones are on their way leave
//! together: one write per connection, however many they are, and one buffer for all connections on which the channel
//! has the same number. What waits is bounded for each app; beyond that the service is told to come again.

use std::collections::VecDeque;
use std::rc::Rc;

use moor_ring::Slot;
use moor_websocket::Kind;
use moor_websocket::encode::{frame_bytes, put_message};
use moor_wire::Code;
use moor_wire::client::Class;
use moor_wire::frame::{HEADER_BYTES, Header, put_frame};

use super::channels::ChannelIndex;
use super::connection::Phase;
use super::counters::Counter;
use super::io::Io;
use super::transmit::Queued;
use super::{Now, Worker};
use crate::limits::{
    BROADCAST_APP_BYTES_MAX, BROADCAST_BYTES_MAX, BROADCAST_NUMBERS_MAX, BROADCAST_RUN_BYTES_MAX,
    BROADCAST_SESSIONS_PER_TURN_MAX, BROADCAST_WALK_PER_TURN_MAX,
};

/// Broadcasts not yet handed out to everybody.
#[derive(Debug, Default)]
pub struct Broadcasts {
    /// Those with something, in turn.
    apps: VecDeque<Pending>,
    bytes: usize,
}

/// Broadcasts of one app, in order.
#[derive(Debug)]
struct Pending {
    app: Box<str>,
    /// The first is on its way as soon as `from` is above zero; the others follow when it has reached everybody.
    runs: VecDeque<Run>,
    bytes: usize,
    /// Channels from this index on have not got the first run.
    from: u32,
    /// The first run, encoded.
    known: Vec<Encoded>,
}

/// Broadcasts that leave together.
#[derive(Debug, Default)]
struct Run {
    /// Whole frames, back to back, on channel 0.
    frames: Vec<u8>,
    count: u32,
}

/// What a turn may still do for broadcasts.
#[derive(Debug)]
struct Budget {
    /// Sessions that are sent something.
    sessions: usize,
    /// Entries of the table of channels that are looked at.
    looks: u32,
}

impl Broadcasts {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Adds a frame to what waits for an app. False: too much waits.
    fn add(&mut self, app: &str, kind: u8, flags: u8, body: &[u8]) -> bool {
        let bytes = HEADER_BYTES + body.len();
        let at = self.apps.iter().position(|pending| *pending.app == *app);
        let waiting = at.map_or(0, |at| self.apps[at].bytes);
        if waiting + bytes > BROADCAST_APP_BYTES_MAX || self.bytes + bytes > BROADCAST_BYTES_MAX {
            return false;
        }
        let at = at.unwrap_or_else(|| {
            let (runs, known) = (VecDeque::new(), Vec::new());
            self.apps.push_back(Pending { app: app.into(), runs, bytes: 0, from: 0, known });
            self.apps.len() - 1
        });
        let pending = &mut self.apps[at];
        let run = pending.open_run(bytes);
        put_frame(&mut run.frames, kind, flags, 0, body);
        run.count += 1;
        pending.bytes += bytes;
        self.bytes += bytes;
        true
    }
}

impl Pending {
    /// The run that so many more bytes belong to.
    fn open_run(&mut self, bytes: usize) -> &mut Run {
        let is_under_way = self.from > 0 && self.runs.len() == 1;
        let is_full = |run: &Run| run.frames.len() + bytes > BROADCAST_RUN_BYTES_MAX;
        if is_under_way || self.runs.back().is_none_or(is_full) {
            self.runs.push_back(Run::default());
        }
        let last = self.runs.len() - 1;
        &mut self.runs[last]
    }

    /// Everybody has the first run. Returns its bytes.
    fn end_run(&mut self) -> usize {
        self.from = 0;
        self.known.clear();
        let bytes = self.runs.pop_front().map_or(0, |run| run.frames.len());
        self.bytes -= bytes;
        bytes
    }
}

/// Frames as a channel of that number gets them.
fn on_channel(frames: &[u8], number: u16) -> Rc<[u8]> {
    let mut frames: Rc<[u8]> = frames.into();
    if let Some(bytes) = Rc::get_mut(&mut frames) {
        let mut rest = bytes;
        while let Some((head, tail)) = rest.split_first_chunk_mut::<HEADER_BYTES>() {
            let header = Header { channel: number, ..Header::parse(*head) };
            *head = header.to_bytes();
            rest = &mut tail[header.length as usize..];
        }
    }
    frames
}

/// Frames as channels of one number get them, shared by all their connections.
#[derive(Debug)]
pub(super) struct Encoded {
    number: u16,
    pub(super) frames: Rc<[u8]>,
    /// The same as one message of a WebSocket, once somebody wants it.
    message: Option<Rc<[u8]>>,
}

impl Encoded {
    /// Frames for channels of a number: what is known already, or encoded now.
    pub(super) fn find<'a>(known: &'a mut Vec<Self>, frames: &[u8], number: u16) -> &'a mut Self {
        let at = known.iter().position(|encoded| encoded.number == number).unwrap_or_else(|| {
            known.truncate(BROADCAST_NUMBERS_MAX - 1);
            known.push(Self { number, frames: on_channel(frames, number), message: None });
            known.len() - 1
        });
        &mut known[at]
    }

    fn message(&mut self) -> &Rc<[u8]> {
        let frames = &self.frames;
        self.message.get_or_insert_with(|| {
            let mut message = Vec::with_capacity(frame_bytes(frames.len()));
            put_message(&mut message, Kind::Binary, frames);
            message.into()
        })
    }
}

impl<I: Io> Worker<I> {
    /// Collects a frame for every session of an app; returns how many there are, or that too much waits already.
    pub(super) fn collect_broadcast(
        &mut self,
        app: &str,
        kind: u8,
        flags: u8,
        body: &[u8],
    ) -> Result<u32, Code> {
        let sessions = self.channels.count_of_app(app);
        if sessions == 0 {
            return Err(Code::NotHere);
        }
        if !self.broadcasts.add(app, kind, flags, body) {
            self.counters.add(Counter::BroadcastsRefused);
            return Err(Code::Overloaded);
        }
        self.counters.add(Counter::Broadcasts);
        Ok(sessions)
    }

    /// Hands on what was collected.
    pub(super) fn broadcast_step(&mut self, now: Now) {
        let mut budget =
            Budget { sessions: BROADCAST_SESSIONS_PER_TURN_MAX, looks: BROADCAST_WALK_PER_TURN_MAX };
        while budget.sessions > 0
            && budget.looks > 0
            && let Some(mut pending) = self.broadcasts.apps.pop_front()
        {
            self.hand_out(&mut pending, &mut budget, now);
            if !pending.runs.is_empty() {
                self.broadcasts.apps.push_back(pending);
            }
        }
    }

    /// Hands an app's broadcasts to some of its sessions.
    fn hand_out(&mut self, pending: &mut Pending, budget: &mut Budget, now: Now) {
        // Asked anew in each turn: the number may be another app's once the last session has gone.
        let Some(app) = self.channels.app(&pending.app) else {
            pending.runs.clear();
            self.broadcasts.bytes -= pending.bytes;
            return;
        };
        while let Some(run) = pending.runs.front() {
            let end = self.channels.end();
            let until = pending.from.saturating_add(budget.looks).min(end);
            let mut from = pending.from;
            while budget.sessions > 0
                && let Some((ChannelIndex(index), channel)) = self.channels.next_of_app(app, from, until)
            {
                budget.sessions -= 1;
                from = index + 1;
                let (slot, number) = (Slot(channel.connection), channel.number);
                let encoded = Encoded::find(&mut pending.known, &run.frames, number);
                if self.send_shared(slot, encoded, now) {
                    self.counters[Counter::Deliveries] += u64::from(run.count);
                } else {
                    self.queue_each(slot, &encoded.frames, now);
                }
            }
            if budget.sessions == 0 {
                pending.from = from;
                return;
            }
            // Nobody else up to there.
            budget.looks -= until.saturating_sub(pending.from);
            pending.from = until;
            if until < end {
                return;
            }
            self.broadcasts.bytes -= pending.end_run();
        }
    }

    /// Queues frames one by one, each by its own class.
    pub(super) fn queue_each(&mut self, slot: Slot, mut frames: &[u8], now: Now) {
        while let Some(header) = frames.first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(*header);
            let (frame, rest) = frames.split_at(header.frame_bytes());
            let class = Class::from_flags(header.flags);
            match self.queue_with(slot, class, frame.len(), now, |out| out.extend_from_slice(frame)) {
                Queued::Yes => self.counters.add(Counter::Deliveries),
                Queued::Dropped => {}
                Queued::Gone => return,
            }
            frames = rest;
        }
    }

    /// Sends frames that connections share, if this one has nothing queued and room for them.
    pub(super) fn send_shared(&mut self, slot: Slot, encoded: &mut Encoded, now: Now) -> bool {
        let connection = &self.connections[slot.0];
        if connection.phase != Phase::Live
            || connection.outbox.is_some()
            // Nobody's records are another's.
            || connection.tls
            || encoded.frames.len() > self.settings.send_queue_bytes_max
        {
            return false;
        }
        let frames = if connection.role.is_websocket() { encoded.message() } else { &encoded.frames };
        self.send_now(slot, frames.clone().into(), now);
        true
    }
}
