//! Delivery to one session: cursors, window and retries. No I/O, no clock.
//!
//! A session's timeline is cut by two cursors: everything up to `acked` is done, everything up to `sent` is
//! at the gateway. What lies between is its flight, bounded by the window. A flight that makes no progress
//! in time is sent again from `acked + 1`; after the last retry the session rests.

use std::collections::VecDeque;

use moor_wire::limits::CLIENT_BODY_BYTES_MAX;

use crate::limits::{RETRY_MS, WINDOW_BYTES, WINDOW_MESSAGES};
use crate::registry::Session;
use crate::shard::subscriptions::Wishes;

/// One message on its way.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// Its place.
    pub sync_id: u64,
    /// Of its payload.
    pub bytes: u32,
    /// The subscriptions' wishes that it meets.
    pub wishes: Wishes,
    /// When it was accepted, wall clock.
    pub sent_at_ms: u64,
}

/// What a session has been sent and has not acknowledged.
#[derive(Debug, Default)]
pub struct Flight {
    /// Highest sync id handed to the gateway.
    sent: u64,
    /// Each, by ascending sync id.
    messages: VecDeque<InFlight>,
    bytes: u32,
    /// Highest sync id that was ever handed to the gateway, or that another device had acknowledged when this one came:
    /// up to it nothing is delivered for the first time.
    peak: u64,
    /// Highest sync id that another device had acknowledged when this one came.
    known: u64,
    /// When it is sent again.
    pub due_ms: u64,
    /// How often it has been sent again.
    tries: u8,
    /// True exactly when the shard's queue holds an entry for this session.
    pub is_timed: bool,
}

/// What a due flight asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing: it is not due before this time.
    Later(u64),
    /// It was wound back; send again and look again at this time.
    Retry(u64),
    /// All tries are used: the session rests.
    Rest,
    /// Nothing is in flight.
    Idle,
}

impl Session {
    /// Highest sync id handed to the gateway. Without a flight that is what was acknowledged.
    pub fn sent(&self) -> u64 {
        self.flight.as_ref().map_or(self.acked, |flight| flight.sent.max(self.acked))
    }

    /// What lies between `sent` and `sync_id` is past retention and will not come.
    pub fn skip_to(&mut self, sync_id: u64) {
        match &mut self.flight {
            Some(flight) => flight.sent = flight.sent.max(sync_id),
            None => self.acked = self.acked.max(sync_id),
        }
    }

    /// True when one more message, however long, may be sent now. Asked without its length, so that the
    /// answer is the same before a message is read from the store and after: else a device with a nearly full
    /// window would have it read for ever.
    pub fn window_is_open(&self) -> bool {
        !self.is_resting()
            && self.flight.as_ref().is_none_or(|flight| {
                flight.messages.len() < WINDOW_MESSAGES
                    && flight.bytes <= WINDOW_BYTES - CLIENT_BODY_BYTES_MAX
            })
    }

    /// True when the session could take the message behind `sent`, were it at hand.
    pub fn is_hungry(&self, head: u64) -> bool {
        self.is_placed() && self.sent() < head && self.window_is_open()
    }

    /// True when it is worth reading messages for it: at least half of its window is free. A read per
    /// acknowledged message would fetch a window's worth to hand out one.
    pub fn wants_range(&self, head: u64) -> bool {
        self.is_hungry(head)
            && self.flight.as_ref().is_none_or(|flight| {
                flight.messages.len() <= WINDOW_MESSAGES / 2 && flight.bytes <= WINDOW_BYTES / 2
            })
    }

    /// A message was handed to the gateway. Returns when to look at the flight, if nobody does yet.
    pub fn handle_sent(&mut self, message: InFlight, now_ms: u64) -> Option<u64> {
        let InFlight { sync_id, bytes, .. } = message;
        let flight = self.flight.get_or_insert_with(Box::default);
        flight.sent = sync_id;
        flight.peak = flight.peak.max(sync_id);
        if flight.messages.is_empty() {
            flight.due_ms = now_ms + RETRY_MS[usize::from(flight.tries).min(RETRY_MS.len() - 1)];
        }
        flight.messages.push_back(message);
        flight.bytes += bytes;
        let wanted = !flight.is_timed;
        flight.is_timed = true;
        wanted.then_some(flight.due_ms)
    }

    /// The device has everything up to `sync_id`. What those messages meet that were in flight; `None`: it is no news.
    pub fn handle_ack(&mut self, sync_id: u64, head: u64, now_ms: u64) -> Option<Wishes> {
        let sync_id = sync_id.min(head);
        self.set_resting(false);
        if sync_id <= self.acked {
            return None;
        }
        self.acked = sync_id;
        let mut met = Wishes::default();
        if let Some(flight) = &mut self.flight {
            while let Some(message) = flight.messages.front().copied()
                && message.sync_id <= sync_id
            {
                flight.messages.pop_front();
                flight.bytes -= message.bytes;
                met = met.with(message.wishes);
            }
            flight.tries = 0;
            flight.due_ms = now_ms + RETRY_MS[0];
            // A flight with an entry in the queue stays until that fires: the next message will be along.
            if flight.messages.is_empty() && !flight.is_timed {
                self.flight = None;
            }
        }
        Some(met)
    }

    /// Another device had acknowledged everything up to here when this session came.
    pub fn note_known(&mut self, sync_id: u64) {
        if sync_id > self.acked {
            let flight = self.flight.get_or_insert_with(Box::default);
            flight.sent = flight.sent.max(self.acked);
            flight.known = flight.known.max(sync_id);
            flight.peak = flight.peak.max(sync_id);
        }
    }

    /// Up to here messages are known to have been handed to some device.
    pub fn peak(&self) -> u64 {
        self.flight.as_ref().map_or(self.acked, |flight| flight.peak.max(self.acked))
    }

    /// Up to here messages are known to have been acknowledged by some device.
    pub fn known(&self) -> u64 {
        self.flight.as_ref().map_or(self.acked, |flight| flight.known.max(self.acked))
    }

    /// When the messages in flight above `known` and up to `sync_id` were accepted.
    pub fn sent_at(&self, known: u64, sync_id: u64) -> impl Iterator<Item = u64> + '_ {
        let messages = self.flight.iter().flat_map(|flight| &flight.messages);
        messages
            .filter(move |message| message.sync_id > known && message.sync_id <= sync_id)
            .map(|message| message.sent_at_ms)
    }

    /// Puts the cursor behind `sync_id`, forward or back, and forgets what was in flight.
    pub fn place(&mut self, sync_id: u64, floor: u64, head: u64) {
        self.acked = sync_id.clamp(floor.saturating_sub(1).min(head), head);
        self.wind_back();
        self.set_placed(true);
        self.set_resting(false);
        if let Some(flight) = &mut self.flight {
            flight.tries = 0;
        }
    }

    fn wind_back(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.sent = self.acked;
            flight.messages.clear();
            flight.bytes = 0;
        }
    }

    /// The session's place in the queue came up.
    pub fn handle_due(&mut self, now_ms: u64) -> Due {
        let Some(flight) = &mut self.flight else { return Due::Idle };
        if flight.messages.is_empty() {
            self.flight = None;
            return Due::Idle;
        }
        if now_ms < flight.due_ms {
            return Due::Later(flight.due_ms);
        }
        if usize::from(flight.tries) >= RETRY_MS.len() {
            self.flight = None;
            self.set_resting(true);
            return Due::Rest;
        }
        flight.tries += 1;
        let tries = usize::from(flight.tries);
        flight.due_ms = now_ms + RETRY_MS[tries.min(RETRY_MS.len() - 1)];
        let due_ms = flight.due_ms;
        self.wind_back();
        Due::Retry(due_ms)
    }
}
