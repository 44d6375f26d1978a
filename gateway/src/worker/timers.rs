//! What a firing wheel entry means: the true deadline is computed here, from the state, not when it was filed.

use moor_ring::Slot;
use moor_wire::Code;

use super::connection::{Phase, Role};
use super::counters::Counter;
use super::io::Io;
use super::wheel::tick_at;
use super::{Now, Worker};
use crate::limits::{TICK_MS, TURN_EXPIRIES_MAX};

/// Silence after which a peer is dead, milliseconds: one and a half intervals.
#[must_use]
pub const fn death_ms(interval_ms: u32) -> u64 {
    interval_ms as u64 * 3 / 2
}

impl<I: Io> Worker<I> {
    /// Looks at every connection whose time has come.
    pub(super) fn timers_step(&mut self, now: Now) {
        let tick = now.0 / TICK_MS;
        for _ in 0..TURN_EXPIRIES_MAX {
            let Some(index) = self.wheel.pop_expired(&mut self.connections, tick) else { break };
            self.handle_expired(Slot(index), now);
        }
    }

    fn handle_expired(&mut self, slot: Slot, now: Now) {
        let connection = &self.connections[slot.0];
        let silence = connection.silence_ms(now.0);
        let interval = connection.interval_ms;
        match (connection.phase, connection.role) {
            (Phase::Greeting, _) => {
                if silence >= u64::from(interval) {
                    self.counters.add(Counter::LoginTimeout);
                    self.finish_with(slot, Code::HeartbeatLost, "the first frame did not come in time", now);
                } else {
                    self.file_in(slot, u64::from(interval) - silence, now);
                }
            }
            // The link has its own, shorter watch.
            (Phase::Live, Role::Link) => {}
            (Phase::Live, _) => {
                let stalls_in = connection.send_stalls_in_ms(now.0);
                if silence >= death_ms(interval) {
                    self.counters.add(Counter::HeartbeatLost);
                    self.abort(slot, now);
                } else if stalls_in == 0 {
                    self.counters.add(Counter::SlowReadersClosed);
                    self.abort(slot, now);
                } else {
                    self.cool(slot, now);
                    let mut look_in = stalls_in.min(death_ms(interval) - silence);
                    if self.connections[slot.0].hot {
                        look_in = look_in.min(u64::from(self.settings.hot.idle_ms));
                    }
                    self.file_in(slot, look_in, now);
                }
            }
            (Phase::Asking, _) => self.file_in(slot, u64::from(interval), now),
            (Phase::Finishing, _) => self.abort(slot, now),
            (Phase::Free | Phase::Resetting | Phase::Passing | Phase::Closing, _) => {}
        }
    }

    /// More waits behind a send than was sent: its peer may not be reading, and is looked at when that is certain.
    #[cold]
    pub(super) fn watch_send(&mut self, slot: Slot, now: Now) {
        let connection = &self.connections[slot.0];
        if connection.phase == Phase::Live && connection.role != Role::Link {
            let dies_in = death_ms(connection.interval_ms).saturating_sub(connection.silence_ms(now.0));
            self.file_in(slot, dies_in.min(connection.send_stalls_in_ms(now.0)), now);
        }
    }

    /// Files a connection to be looked at in so many milliseconds.
    pub(super) fn file_in(&mut self, slot: Slot, ms: u64, now: Now) {
        self.wheel.file(&mut self.connections, slot.0, tick_at(now.0 + ms));
    }
}
