//! What a worker does when memory is short: first nobody new comes in, then what is cheapest is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use moor_wire::client::Class;
use moor_wire::limits::CLIENT_BODY_BYTES_MAX;

use super::Notice;
use crate::limits::SHED_QUEUE_SHARE;
use crate::worker::counters::Counter;
use crate::worker::io::Io;
use crate::worker::{Now, Worker};

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// There is enough.
    #[default]
    Calm = 0,
    /// Nobody new comes in.
    Refuse = 1,
    /// And queues are cut: transient frames are dropped, slow readers are closed sooner.
    Shed = 2,
}

/// The level, as the control thread measures it and workers read it.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicU8>);

impl Pressure {
    /// As it is.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.0.load(Relaxed) {
            0 => Level::Calm,
            1 => Level::Refuse,
            _ => Level::Shed,
        }
    }

    /// As it has been measured.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Relaxed);
    }
}

/// Bytes that may wait for one client while queues are cut: still a frame of the largest size with its wrapping.
fn shed_queue_bytes(bytes_max: usize) -> usize {
    (bytes_max / SHED_QUEUE_SHARE).max(CLIENT_BODY_BYTES_MAX as usize * 9 / 8).min(bytes_max)
}

impl<I: Io> Worker<I> {
    /// Looks at how much memory is left.
    pub(super) fn pressure_step(&mut self, now: Now) {
        let shed = self.settings.shared.pressure.level() == Level::Shed;
        self.send_queue_bytes_max = self.settings.send_queue_bytes_max;
        if shed {
            self.send_queue_bytes_max = shed_queue_bytes(self.settings.send_queue_bytes_max);
            self.shed(now);
        }
    }

    /// Drops every transient frame that waits, and the memory it waited in. Whatever waits does so behind a send in flight,
    /// whose end looks at what is left.
    fn shed(&mut self, now: Now) {
        let (mut dropped, mut freed) = (0, 0);
        for slot in 0..self.connections.end() {
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            let Some(outbox) = connection.outbox.as_mut().filter(|_| connection.role.is_client()) else {
                continue;
            };
            let before = outbox.bytes();
            dropped += u64::from(outbox.evict(Class::Normal, 0, 0));
            outbox.queued.shrink_to_fit();
            freed += (before - outbox.bytes()) as u64;
        }
        self.counters[Counter::FramesEvicted] += dropped;
        self.counters[Counter::SendQueuedBytes] -= freed;
        if dropped > 0
            && let Some(more) = self.door.notices.due(Notice::Memory, now)
        {
            tracing::warn!(
                worker = self.id.0,
                frames = dropped,
                bytes = freed,
                more_since = more,
                "memory is short: transient frames that waited were dropped"
            );
        }
    }
}
