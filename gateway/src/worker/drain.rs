//! Leaving gracefully: stop accepting, ask the clients to come back later, wait, deregister, end.
//!
//! GOAWAY goes out in a shuffled order, paced over the first half of the deadline, each with the same retry
//! window from which every client draws its own moment.

use moor_wire::client::{Class, GoAway, Kind};
use moor_wire::frame::put_message;
use moor_wire::{Code, client};

use super::connection::{Phase, Role};
use super::io::{Io, Listener, Slot};
use super::{Now, Worker};

/// What a service is told that cannot stay for a drain.
pub(super) const ABOUT_TO_RESTART: &str = "the gateway is about to restart";

/// How to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPlan {
    /// From now until every connection is closed, milliseconds.
    pub deadline_ms: u64,
}

/// A drain under way.
#[derive(Debug)]
pub struct Drain {
    plan: DrainPlan,
    started_ms: u64,
    /// Slots asked so far, in the shuffled order.
    asked: u32,
    /// Number of slots that may hold a connection.
    slots: u32,
    /// Step of the shuffle, coprime to `slots`.
    stride: u32,
    /// True once what was left has been aborted.
    aborted: bool,
    /// When the clients are told to come back, milliseconds: from, to.
    retry: (u32, u32),
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<I: Io> Worker<I> {
    /// Begins to drain; a second call changes nothing.
    pub(super) fn drain_begin(&mut self, plan: DrainPlan, now: Now) {
        if self.drain.is_some() {
            return;
        }
        tracing::info!(worker = self.id.0, connections = self.clients_open(), "draining");
        self.io.stop_listening(Listener::Clients);
        self.io.stop_listening(Listener::Internal);
        let slots = self.connections.end().max(1);
        // Any stride coprime to the number of slots visits each slot once, in an order that mixes old and new.
        let mut stride = (slots / 2 + self.rng.u32(0..slots.div_ceil(2))).max(1);
        while gcd(stride, slots) != 1 {
            stride += 1;
        }
        let retry = self.retry_window(self.clients);
        self.drain = Some(Drain { plan, started_ms: now.0, asked: 0, slots, stride, aborted: false, retry });
    }

    /// Sends the GOAWAYs that are due and ends what is left at the deadline.
    pub(super) fn drain_step(&mut self, now: Now) {
        let Some(mut drain) = self.drain.take() else { return };
        let elapsed = now.0.saturating_sub(drain.started_ms);
        let pace = (drain.plan.deadline_ms / 2).max(1);
        let due = u64::from(drain.slots) * (elapsed + 1).min(pace) / pace;
        while u64::from(drain.asked) < due {
            let slot = u64::from(drain.asked) * u64::from(drain.stride) % u64::from(drain.slots);
            drain.asked += 1;
            if let Ok(slot) = u32::try_from(slot) {
                self.drain_ask(Slot(slot), drain.retry, now);
            }
        }
        if elapsed >= drain.plan.deadline_ms && !drain.aborted {
            drain.aborted = true;
            for slot in 0..self.connections.end() {
                if self.connections.get(slot).is_some_and(|c| c.phase != Phase::Free && c.role != Role::Link)
                {
                    self.abort(Slot(slot), now);
                }
            }
        }
        self.drain = Some(drain);
    }

    fn drain_ask(&mut self, slot: Slot, retry: (u32, u32), now: Now) {
        let Some(connection) = self.connections.get(slot.0) else { return };
        match (connection.role, connection.phase) {
            (Role::Client(_), Phase::Live) => self.queue_goaway(slot, retry, now),
            (Role::Service, Phase::Live | Phase::Greeting) => {
                self.finish_with(slot, Code::Draining, ABOUT_TO_RESTART, now);
            }
            _ => {}
        }
    }

    /// Sends a client away that has just said who it is. Before that it might not have understood: it may be in the middle
    /// of a handshake.
    pub(super) fn drain_greet(&mut self, slot: Slot, now: Now) {
        if let Some(drain) = &self.drain {
            self.queue_goaway(slot, drain.retry, now);
        }
    }

    fn queue_goaway(&mut self, slot: Slot, (retry_min_ms, retry_max_ms): (u32, u32), now: Now) {
        let code = Code::Draining as i32;
        let goaway = GoAway { code, retry_min_ms, retry_max_ms, alternate: String::new() };
        self.queue_control(slot, Kind::GoAway, 0, &goaway, now);
    }

    /// Whether everything is done and the worker may end.
    pub(super) fn drained(&self) -> bool {
        self.drain.is_some()
            && self.clients_open() == 0
            && self.only_link_is_left()
            && self.link.is_flushed(&self.connections)
    }

    /// Whether everybody else has gone: who has been told something gets it.
    fn only_link_is_left(&self) -> bool {
        let taken = |from| self.connections.next_taken(from);
        let mut all = std::iter::successors(taken(0), |(index, _)| taken(index + 1));
        all.all(|(_, connection)| connection.role == Role::Link)
    }

    /// Whether a drain has been asked for.
    pub(super) const fn is_draining(&self) -> bool {
        self.drain.is_some()
    }
}

/// The frame that refuses a connection before it cost anything.
pub(super) fn refusal(retry_min_ms: u32, retry_max_ms: u32) -> Vec<u8> {
    let goaway = client::GoAway {
        code: Code::Overloaded as i32,
        retry_min_ms,
        retry_max_ms,
        alternate: String::new(),
    };
    let mut frame = Vec::new();
    put_message(&mut frame, Kind::GoAway.byte(), Class::Command.flags(), 0, &goaway);
    frame
}
