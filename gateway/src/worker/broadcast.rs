//! One frame for every session of an app.
//!
//! What services broadcast is collected during a turn and handed out once, before the turn's sends. Broadcasts that
//! arrive while earlier ones are being written therefore leave together: one write per connection, however many
//! they are, and one buffer for all connections on which the channel has the same number.

use std::rc::Rc;

use moor_ring::Slot;
use moor_websocket::Kind;
use moor_websocket::encode::{frame_bytes, put_message};
use moor_wire::client::Class;
use moor_wire::frame::{HEADER_BYTES, Header, put_frame};

use super::channels::ChannelIndex;
use super::connection::Phase;
use super::counters::Counter;
use super::io::Io;
use super::transmit::Queued;
use super::{Now, Worker};
use crate::limits::{BROADCAST_NUMBERS_MAX, BROADCAST_RUN_BYTES_MAX};

/// Broadcasts not yet handed out.
#[derive(Debug, Default)]
pub struct Broadcasts {
    runs: Vec<Run>,
}

/// Broadcasts of one app, in order.
#[derive(Debug)]
struct Run {
    app: Box<str>,
    /// Whole frames, back to back, on channel 0.
    frames: Vec<u8>,
    count: u32,
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
    /// Collects a frame for every session of an app; returns how many there are.
    pub(super) fn collect_broadcast(&mut self, app: &str, kind: u8, flags: u8, body: &[u8], now: Now) -> u32 {
        let sessions = self.channels.count_of_app(app);
        if sessions == 0 {
            return 0;
        }
        let bytes = HEADER_BYTES + body.len();
        let room = self
            .broadcasts
            .runs
            .iter()
            .all(|run| *run.app != *app || run.frames.len() + bytes <= BROADCAST_RUN_BYTES_MAX);
        if !room {
            self.broadcast_step(now);
        }
        let runs = &mut self.broadcasts.runs;
        let at = runs.iter().position(|run| *run.app == *app).unwrap_or_else(|| {
            runs.push(Run { app: app.into(), frames: Vec::new(), count: 0 });
            runs.len() - 1
        });
        put_frame(&mut runs[at].frames, kind, flags, 0, body);
        runs[at].count += 1;
        self.counters.add(Counter::Broadcasts);
        sessions
    }

    /// Hands out what was collected.
    pub(super) fn broadcast_step(&mut self, now: Now) {
        for run in std::mem::take(&mut self.broadcasts.runs) {
            self.hand_out(&run, now);
        }
    }

    fn hand_out(&mut self, run: &Run, now: Now) {
        // Nobody logs in while this runs: the number stays the app's as long as one of its channels is open.
        let Some(app) = self.channels.app(&run.app) else { return };
        let mut known: Vec<Encoded> = Vec::new();
        let mut from = 0;
        while let Some((ChannelIndex(index), channel)) = self.channels.next_of_app(app, from) {
            from = index + 1;
            let (slot, number) = (Slot(channel.connection), channel.number);
            let encoded = Encoded::find(&mut known, &run.frames, number);
            if self.send_shared(slot, encoded, now) {
                self.counters[Counter::Deliveries] += u64::from(run.count);
            } else {
                self.queue_each(slot, &encoded.frames, now);
            }
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
