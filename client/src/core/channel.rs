//! One channel of a session: its login, its place in the timeline, its unanswered submits.

use std::collections::VecDeque;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Class, Delivery, Kind, Open, Opened, Submit, SubmitResult, put_control, put_sync_id,
};
use moor_wire::frame::put_message;

use super::event::Event;
use super::full_jitter;

/// Submits of one channel that may be unanswered.
pub const SUBMITS_PENDING_MAX: usize = 4096;
/// Submits of one channel on the wire; the rest wait their turn.
const SUBMITS_IN_FLIGHT_MAX: usize = 256;
/// Messages after which an ACK goes out at once.
const ACK_EVERY: u64 = 32;
/// Longest time an ACK is held back to cover more, milliseconds.
const ACK_DELAY_MS: u64 = 20;
/// Time for a submit to be answered before it is sent again, milliseconds.
const ANSWER_MS: u64 = 5000;
/// Base and cap of the pause after a retryable refusal, milliseconds.
const RETRY_MS: (u64, u64) = (50, 5000);
/// A SYNC that brought nothing is repeated after this, milliseconds.
const SYNC_REPEAT_MS: u64 = 2000;

/// The channel does not exist or has too many unanswered submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the channel is not open or has {SUBMITS_PENDING_MAX} unanswered messages; wait for answers")]
pub struct QueueFull;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// OPEN is said or will be; nothing that comes belongs to this login yet.
    Opening,
    /// Logged in.
    Open,
    /// Refused for now; to be opened again at this time.
    Waiting { reopen_ms: u64 },
    /// Refused for good.
    Closed,
}

#[derive(Debug)]
struct Pending {
    client_id: Bytes,
    to: String,
    payload: Bytes,
    attempt: u32,
    /// On the wire: when it is sent again. Not on the wire: when it may be sent.
    due_ms: u64,
    in_flight: bool,
}

/// A channel the app wants.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) number: u16,
    app: Box<str>,
    account: Box<str>,
    credential: Bytes,
    state: State,
    attempt: u32,
    /// Highest sync id handed to the app without a gap; `None` until the first, when the router decides.
    received: Option<u64>,
    /// Highest sync id the app has processed.
    processed: Option<u64>,
    /// Highest sync id acknowledged on this connection.
    acked: u64,
    ack_due_ms: Option<u64>,
    /// Last SYNC: what it asked for, and when.
    synced: Option<(u64, u64)>,
    pending: VecDeque<Pending>,
}

impl Channel {
    pub(super) fn new(
        number: u16,
        app: &str,
        account: &str,
        credential: Bytes,
        last_sync_id: Option<u64>,
    ) -> Self {
        Self {
            number,
            app: app.into(),
            account: account.into(),
            credential,
            state: State::Opening,
            attempt: 0,
            received: last_sync_id,
            processed: last_sync_id,
            acked: 0,
            ack_due_ms: None,
            synced: None,
            pending: VecDeque::new(),
        }
    }

    pub(super) const fn processed(&self) -> Option<u64> {
        self.processed
    }

    pub(super) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    fn in_flight(&self) -> usize {
        self.pending.iter().filter(|p| p.in_flight).count()
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.state, State::Open | State::Opening)
    }

    /// When something is due.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let reopen = match self.state {
            State::Waiting { reopen_ms } => Some(reopen_ms),
            _ => None,
        };
        // What waits for a place on the wire is woken by the answer that frees one.
        let full = self.in_flight() >= SUBMITS_IN_FLIGHT_MAX;
        let waiting = self.pending.iter().filter(|p| p.in_flight || !full);
        let submit = waiting.map(|p| p.due_ms).min().filter(|_| self.is_open());
        [reopen, submit, self.ack_due_ms].into_iter().flatten().min()
    }

    /// Says OPEN on a new connection, or again on this one. What the router has delivered before and was not
    /// processed comes again from there.
    pub(super) fn put_open(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Opening;
        let open = Open {
            app: self.app.to_string(),
            account: self.account.to_string(),
            credential: self.credential.clone(),
            // Not what was received: what an app has not processed may be lost with it.
            last_sync_id: self.processed,
        };
        put_control(out, Kind::Open, self.number, &open);
    }

    pub(super) fn handle_disconnected(&mut self) {
        if self.state != State::Closed {
            self.state = State::Opening;
        }
        self.ack_due_ms = None;
        self.acked = 0;
        self.synced = None;
        for pending in &mut self.pending {
            pending.in_flight = false;
            pending.due_ms = 0;
        }
    }

    pub(super) fn handle_opened(
        &mut self,
        opened: &Opened,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) {
        self.state = State::Open;
        self.attempt = 0;
        events.push_back(Event::Opened { channel: self.number, session: opened.session });
        self.send_due(now, out);
    }

    pub(super) fn handle_close(
        &mut self,
        code: Code,
        reason: String,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        let reopens = is_retryable(code);
        self.handle_disconnected();
        self.state = if reopens {
            self.attempt += 1;
            State::Waiting { reopen_ms: now + full_jitter(RETRY_MS.0, RETRY_MS.1, self.attempt, rng) }
        } else {
            State::Closed
        };
        events.push_back(Event::Closed { channel: self.number, code, reason, reopens });
    }

    // --- receiving --------------------------------------------------------------------------------------

    pub(super) fn handle_delivery(
        &mut self,
        delivery: Delivery,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) {
        // Before OPENED it belongs to a login that is over.
        if self.state != State::Open {
            return;
        }
        let id = delivery.sync_id;
        if id == 0 {
            events.push_back(self.message(delivery, None));
            return;
        }
        if let Some(received) = self.received {
            if id <= received {
                // The router has not heard of what is here: tell it again.
                if let Some(processed) = self.processed {
                    self.acked = self.acked.min(processed.saturating_sub(1));
                    self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
                }
                return;
            }
            let mut next = received + 1;
            if delivery.floor > next {
                events.push_back(Event::Expired { channel: self.number, from: next, to: delivery.floor - 1 });
                next = delivery.floor;
                self.received = Some(next - 1);
                self.processed = Some(next - 1);
            }
            if id > next {
                return self.put_sync(next - 1, now, out);
            }
        }
        self.received = Some(id);
        events.push_back(self.message(delivery, Some(id)));
    }

    fn message(&self, delivery: Delivery, sync_id: Option<u64>) -> Event {
        Event::Message {
            channel: self.number,
            sync_id,
            from: delivery.from,
            client_id: delivery.client_id,
            sent_at_ms: delivery.sent_at_ms,
            payload: delivery.payload,
        }
    }

    /// Asks for what is missing: once, and again when it did not help.
    fn put_sync(&mut self, from: u64, now: u64, out: &mut Vec<u8>) {
        if self.synced.is_some_and(|(asked, at)| asked == from && now < at + SYNC_REPEAT_MS) {
            return;
        }
        self.synced = Some((from, now));
        put_sync_id(out, Kind::Sync, self.number, from);
    }

    pub(super) fn acknowledge(&mut self, sync_id: u64, now: u64, out: &mut Vec<u8>) {
        // What was not received cannot be processed.
        let Some(received) = self.received.filter(|_| self.processed.is_none_or(|p| p < sync_id)) else {
            return;
        };
        let processed = sync_id.min(received);
        self.processed = Some(processed);
        if !self.is_open() {
            return;
        }
        if processed.saturating_sub(self.acked) >= ACK_EVERY && self.acked > 0 {
            self.put_ack(out);
        } else {
            self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
        }
    }

    fn put_ack(&mut self, out: &mut Vec<u8>) {
        self.ack_due_ms = None;
        if let Some(processed) = self.processed.filter(|processed| *processed > self.acked) {
            self.acked = processed;
            put_sync_id(out, Kind::Ack, self.number, processed);
        }
    }

    // --- sending ----------------------------------------------------------------------------------------

    pub(super) fn submit(
        &mut self,
        client_id: Bytes,
        to: &str,
        payload: Bytes,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), QueueFull> {
        if self.pending.len() >= SUBMITS_PENDING_MAX || self.state == State::Closed {
            return Err(QueueFull);
        }
        self.pending.push_back(Pending {
            client_id,
            to: to.to_owned(),
            payload,
            attempt: 0,
            due_ms: 0,
            in_flight: false,
        });
        self.send_due(now, out);
        Ok(())
    }

    fn send_due(&mut self, now: u64, out: &mut Vec<u8>) {
        if self.state != State::Open {
            return;
        }
        let mut places = SUBMITS_IN_FLIGHT_MAX.saturating_sub(self.in_flight());
        for pending in self.pending.iter_mut().filter(|p| p.due_ms <= now) {
            if !pending.in_flight {
                if places == 0 {
                    continue;
                }
                places -= 1;
                pending.in_flight = true;
            }
            pending.due_ms = now + ANSWER_MS;
            let submit = Submit {
                client_id: pending.client_id.clone(),
                to: pending.to.clone(),
                payload: pending.payload.clone(),
            };
            put_message(out, Kind::Data.byte(), Class::Reliable.flags(), self.number, &submit);
        }
    }

    pub(super) fn handle_result(
        &mut self,
        result: SubmitResult,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        // A second answer to a submit that was sent twice finds nothing.
        let Some(at) = self.pending.iter().position(|p| p.client_id == result.client_id) else { return };
        let code = Code::try_from(result.code).unwrap_or(Code::Internal);
        if code != Code::Ok && is_retryable(code) {
            let pending = &mut self.pending[at];
            pending.attempt += 1;
            pending.in_flight = false;
            pending.due_ms = now + 1 + full_jitter(RETRY_MS.0, RETRY_MS.1, pending.attempt, rng);
            return;
        }
        self.pending.remove(at);
        let (channel, client_id) = (self.number, result.client_id);
        events.push_back(if code == Code::Ok {
            Event::Accepted { channel, client_id, sync_id: result.sync_id, duplicate: result.duplicate }
        } else {
            Event::Refused { channel, client_id, code, detail: result.detail }
        });
    }

    pub(super) fn handle_timeout(&mut self, now: u64, out: &mut Vec<u8>) {
        if matches!(self.state, State::Waiting { reopen_ms } if now >= reopen_ms) {
            self.put_open(out);
        }
        if self.ack_due_ms.is_some_and(|due| now >= due) {
            self.put_ack(out);
        }
        self.send_due(now, out);
    }
}

/// Whether the same thing may work later.
fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Overloaded | Code::Storage | Code::Internal | Code::Draining)
}
