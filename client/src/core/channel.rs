//! One channel of a session: its login, its place in the timeline, its unanswered submits.

use std::collections::VecDeque;

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{
    Class, Close, Delivery, GroupDelivery, GroupRequest, Kind, Open, Opened, Submit, SubmitResult,
    TrafficMarks, put_control, put_sync_id,
};
use moor_wire::frame::put_message;
use moor_wire::identity::{NameError, check_account, check_app, check_group, check_room};
use moor_wire::limits::{CLIENT_ID_BYTES_MAX, CREDENTIAL_BYTES_MAX};
use prost::Message;

use super::conversations::Conversations;
use super::event::Event;
use super::marks::{Conversation, Marks};
use super::rooms::{RoomError, Rooms};
use super::{close_wish, code_of, full_jitter};
use crate::limits::{
    ACK_DELAY_MS, ACK_EVERY, ANSWER_MS, RECONNECT_MS, RETRY_MS, SUBMITS_IN_FLIGHT_MAX,
    SUBMITS_PENDING_BYTES_MAX, SUBMITS_PENDING_MAX, SYNC_REPEAT_MS, UNSENT_BYTES_MAX,
};

/// Why a submit was not even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No such channel, or it was closed for good.
    #[error("channel {0} is not open: open it first")]
    NoChannel(u16),
    /// The channel holds as many unanswered submits, or as many bytes of them, as it may; or a message that is sent once
    /// would wait behind others that cannot be written yet.
    #[error(
        "{SUBMITS_PENDING_MAX} messages or {SUBMITS_PENDING_BYTES_MAX} bytes wait for their answers, or the network \
         does not take what is sent once: wait too"
    )]
    QueueFull,
    /// A name no router accepts.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A message that is sent once needs a channel that is logged in now.
    #[error("channel {0} is not logged in: a message that is not kept cannot wait for it")]
    Offline(u16),
    /// A client id no router accepts.
    #[error("the client id has {length} bytes; 1 to {CLIENT_ID_BYTES_MAX} are allowed")]
    ClientId {
        /// Its length, bytes.
        length: usize,
    },
    /// More than the gateway takes. It would close the connection over it, and every channel with it.
    #[error("the message has {length} bytes with its envelope; the gateway takes at most {max}: send less")]
    TooLarge {
        /// Its length, bytes.
        length: usize,
        /// What is taken, bytes.
        max: u32,
    },
}

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

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An account.
    Account(String),
    /// A group.
    Group(String),
}

/// How a message is to be treated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sending {
    /// Reliable: sent until it is answered, and kept. Normal and transient: sent once, to whoever is there.
    pub class: Class,
    /// Business level, 0 (core) to 2 (the rest); `None`: the app's.
    pub level: Option<u32>,
    /// Where it comes from: carried to the receiver, counted and routed by.
    pub marks: Option<TrafficMarks>,
}

impl From<Class> for Sending {
    fn from(class: Class) -> Self {
        Self { class, ..Self::default() }
    }
}

#[derive(Debug)]
struct Pending {
    sending: Sending,
    client_id: Bytes,
    to: Target,
    /// The room it is for, and as what; empty: it is for an account.
    room: String,
    room_type: u32,
    payload: Bytes,
    attempt: u32,
    /// On the wire: when it is sent again. Not on the wire: when it may be sent.
    due_ms: u64,
    in_flight: bool,
    /// What the app was told of why it is not accepted yet.
    delay: Option<(Code, String)>,
}

impl Pending {
    const fn is_kept(&self) -> bool {
        matches!(self.sending.class, Class::Command | Class::Reliable)
    }

    fn new(sending: Sending, client_id: Bytes, payload: Bytes) -> Self {
        let (to, room) = (Target::Account(String::new()), String::new());
        let (room_type, attempt, due_ms, in_flight, delay) = (0, 0, 0, false, None);
        Self { sending, client_id, to, room, room_type, payload, attempt, due_ms, in_flight, delay }
    }

    /// Says it; it is to be answered within [`ANSWER_MS`].
    fn put(&mut self, channel: u16, now: u64, out: &mut Vec<u8>) {
        (self.in_flight, self.due_ms) = (true, now + ANSWER_MS);
        put_message(out, Kind::Data.byte(), self.sending.class.flags(), channel, &self.body());
    }

    fn body(&self) -> Submit {
        let (to, group) = match &self.to {
            Target::Account(account) => (account.clone(), String::new()),
            Target::Group(group) => (String::new(), group.clone()),
        };
        Submit {
            client_id: self.client_id.clone(),
            to,
            payload: self.payload.clone(),
            level: self.sending.level,
            group,
            room: self.room.clone(),
            room_type: self.room_type,
            marks: self.sending.marks.clone(),
        }
    }
}

/// A channel the app wants.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) number: u16,
    app: Box<str>,
    account: Box<str>,
    credential: Bytes,
    state: State,
    /// The handle of the session that is open, or was last.
    session: u64,
    attempt: u32,
    /// Highest sync id handed to the app without a gap; `None` until the first, when the router decides.
    received: Option<u64>,
    /// Highest sync id the app has processed.
    processed: Option<u64>,
    /// Behind this the first message came: where a SYNC goes back to while nothing is processed.
    begun: u64,
    /// Highest sync id acknowledged on this connection.
    acked: u64,
    ack_due_ms: Option<u64>,
    /// Last SYNC: behind which id the gap was, and when.
    synced: Option<(u64, u64)>,
    pending: VecDeque<Pending>,
    /// Payload bytes in `pending`.
    pending_bytes: usize,
    /// Received ids that hold copies of groups' entries: they wait for nobody, because the group's own timeline
    /// says what is processed of it.
    copies: VecDeque<u64>,
    pub(super) conversations: Conversations,
    pub(super) marks: Marks,
    pub(super) rooms: Rooms,
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
            session: 0,
            attempt: 0,
            received: last_sync_id,
            processed: last_sync_id,
            begun: 0,
            acked: 0,
            ack_due_ms: None,
            synced: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            copies: VecDeque::new(),
            conversations: Conversations::new(number, account),
            marks: Marks::default(),
            rooms: Rooms::default(),
        }
    }

    pub(super) fn enter(
        &mut self,
        room: &str,
        last_id: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), RoomError> {
        if self.state == State::Closed {
            return Err(RoomError::NoChannel(self.number));
        }
        if self.rooms.enter(room, last_id)? && self.is_open() {
            self.rooms.put_enter(room, self.number, out);
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, room: &str, out: &mut Vec<u8>) {
        if self.rooms.leave(room) && self.is_open() {
            Rooms::put_leave(room, self.number, out);
        }
    }

    pub(super) fn ask(
        &mut self,
        request: GroupRequest,
        body_bytes_max: u32,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SubmitError> {
        self.check_wanted()?;
        self.conversations.ask(request, body_bytes_max)?;
        if self.is_open() {
            self.conversations.handle_timeout(now, out);
        }
        Ok(())
    }

    pub(super) fn mark_read(
        &mut self,
        conversation: Conversation,
        sync_id: u64,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SubmitError> {
        self.check_wanted()?;
        self.marks.set(conversation, sync_id)?;
        if self.is_open() {
            self.marks.handle_timeout(self.number, now, out);
        }
        Ok(())
    }

    /// What is said on a channel that was closed for good would wait for ever.
    fn check_wanted(&self) -> Result<(), SubmitError> {
        if self.state == State::Closed { Err(SubmitError::NoChannel(self.number)) } else { Ok(()) }
    }

    /// Whether a gateway would take this login; `None`: it would. What it would not take could cost the whole
    /// connection, so it is never said.
    pub(super) fn refusal(&self) -> Option<(Code, String)> {
        if self.number == 0 {
            return Some((Code::Invalid, "channel 0 belongs to the connection: take 1 to 65535".into()));
        }
        if let Err(error) = check_app(&self.app).and_then(|()| check_account(&self.account)) {
            return Some((Code::Invalid, error.to_string()));
        }
        let length = self.credential.len();
        (length > CREDENTIAL_BYTES_MAX).then(|| {
            let reason =
                format!("the credential has {length} bytes; at most {CREDENTIAL_BYTES_MAX} are allowed");
            (Code::TooLarge, reason)
        })
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

    /// Whether an OPEN said on this connection has not been answered.
    pub(super) fn is_opening(&self) -> bool {
        self.state == State::Opening
    }

    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.state, State::Open | State::Opening)
    }

    /// When something is due. `has_room`: what waits to be written is less than [`UNSENT_BYTES_MAX`].
    pub(super) fn next_ms(&self, has_room: bool) -> Option<u64> {
        let reopen = match self.state {
            State::Waiting { reopen_ms } => Some(reopen_ms),
            _ => None,
        };
        // What waits for a place on the wire is woken by the answer that frees one, or by the driver that writes.
        let has_place = has_room && self.in_flight() < SUBMITS_IN_FLIGHT_MAX;
        let waiting = self.pending.iter().filter(|p| p.in_flight || has_place);
        let submit = waiting.map(|p| p.due_ms).min().filter(|_| self.is_open());
        let groups = self.conversations.next_ms(has_room).filter(|_| self.is_open());
        let marks = self.marks.next_ms().filter(|_| self.is_open());
        let rooms = self.rooms.next_ms().filter(|_| self.is_open());
        [reopen, submit, marks, groups, rooms, self.ack_due_ms].into_iter().flatten().min()
    }

    /// Says OPEN on a new connection, or again on this one. It says what was processed, not what was received:
    /// the router takes the named id for safe, and the app may die before the rest is. What comes again between
    /// the two is dropped as a duplicate.
    pub(super) fn put_open(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Opening;
        let open = Open {
            app: self.app.to_string(),
            account: self.account.to_string(),
            credential: self.credential.clone(),
            last_sync_id: self.processed,
        };
        put_control(out, Kind::Open, self.number, &open);
    }

    pub(super) fn handle_disconnected(&mut self, events: &mut VecDeque<Event>) {
        self.give_up("the connection broke before the answer came", |_| true, events);
        if self.state != State::Closed {
            self.state = State::Opening;
        }
        self.marks.handle_disconnected();
        self.ack_due_ms = None;
        self.acked = 0;
        self.synced = None;
        self.conversations.handle_disconnected();
        self.rooms.handle_disconnected();
        for pending in &mut self.pending {
            pending.in_flight = false;
            pending.due_ms = 0;
        }
    }

    /// Forgets messages that are sent once and were not answered: they may have arrived or not.
    fn give_up(&mut self, why: &str, is_over: impl Fn(&Pending) -> bool, events: &mut VecDeque<Event>) {
        let (channel, bytes) = (self.number, &mut self.pending_bytes);
        self.pending.retain(|pending| {
            if pending.is_kept() || !is_over(pending) {
                return true;
            }
            *bytes -= pending.payload.len();
            let (client_id, code) = (pending.client_id.clone(), Code::Unavailable);
            let detail = format!("{why}; it may have arrived");
            events.push_back(Event::Refused { channel, client_id, code, detail });
            false
        });
    }

    pub(super) fn handle_opened(
        &mut self,
        opened: &Opened,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) {
        match self.state {
            State::Opening => {}
            State::Open => return,
            // From a gateway that does not name the session in a CLOSE: that of the login before this one came when its
            // CLOSE was said already, and was taken for this one's refusal. What the gateway has opened there is not
            // wanted any more, and stands in the way of the next OPEN.
            State::Waiting { .. } | State::Closed => {
                return put_control(out, Kind::Close, self.number, &close_wish());
            }
        }
        self.state = State::Open;
        self.session = opened.session;
        self.attempt = 0;
        events.push_back(Event::Opened { channel: self.number, session: opened.session });
        self.marks.handle_opened(self.number, now, out);
        self.rooms.put_all(self.number, out);
        self.send_due(now, out);
        self.conversations.handle_timeout(now, out);
    }

    pub(super) fn handle_close(
        &mut self,
        close: Close,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        let Close { code, reason, session } = close;
        let code = code_of(code);
        // One of a login that is over here; it has crossed its CLOSE.
        if session != 0 && !(self.is_open() && session == self.session) {
            return;
        }
        // A channel ends once. NOT_FOUND answers a frame that was on its way when the channel ended, never an
        // OPEN, whose own answer is still to come.
        match self.state {
            State::Waiting { .. } | State::Closed => return,
            State::Opening if code == Code::NotFound => return,
            State::Opening | State::Open => {}
        }
        let pauses = pauses_before_reopening(code, self.state == State::Opening);
        self.handle_disconnected(events);
        self.state = if let Some((base, cap)) = pauses {
            self.attempt = self.attempt.saturating_add(1);
            State::Waiting { reopen_ms: now + full_jitter(base, cap, self.attempt, rng) }
        } else {
            for pending in std::mem::take(&mut self.pending) {
                let (channel, client_id) = (self.number, pending.client_id);
                events.push_back(Event::Abandoned { channel, client_id, code });
            }
            self.pending_bytes = 0;
            self.conversations.handle_closed(code, events);
            State::Closed
        };
        let reopens = pauses.is_some();
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
            // Not above u64::MAX: id is larger than received. A floor above the message itself is nonsense.
            let mut next = received + 1;
            let floor = delivery.floor.min(id);
            if floor > next {
                events.push_back(Event::Expired { channel: self.number, from: next, to: floor - 1 });
                next = floor;
                self.received = Some(floor - 1);
                // Only when nothing the app still works on would be acknowledged with it.
                if self.processed == Some(received) {
                    self.processed = self.received;
                }
            }
            if id > next {
                return self.put_sync(now, out);
            }
        }
        if self.received.is_none() {
            self.begun = id - 1;
        }
        self.received = Some(id);
        if delivery.group.is_empty() {
            events.push_back(self.message(delivery, Some(id)));
        } else {
            self.handle_copy(delivery, now, out, events);
        }
    }

    /// A copy of a group's entry. Lost after this, it is pulled from the group's timeline.
    fn handle_copy(&mut self, delivery: Delivery, now: u64, out: &mut Vec<u8>, events: &mut VecDeque<Event>) {
        let id = delivery.sync_id;
        let entry = GroupDelivery {
            group: delivery.group,
            sync_id: delivery.group_sync_id,
            from: delivery.from,
            client_id: delivery.client_id,
            sent_at_ms: delivery.sent_at_ms,
            floor: 0,
            payload: delivery.payload,
            is_event: delivery.is_event,
            marks: delivery.marks,
        };
        self.conversations.handle_entry(entry, now, out, events);
        self.copies.push_back(id);
        let before = self.processed;
        self.pass_copies();
        if self.processed != before {
            self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
        }
    }

    /// Copies right behind what is processed are processed as well.
    fn pass_copies(&mut self) {
        while let Some(first) = self.copies.front().copied() {
            let next = self.processed.unwrap_or(self.begun).saturating_add(1);
            if first > next {
                return;
            }
            if first == next {
                self.processed = Some(first);
            }
            self.copies.pop_front();
        }
    }

    fn message(&self, delivery: Delivery, sync_id: Option<u64>) -> Event {
        Event::Message {
            channel: self.number,
            sync_id,
            from: delivery.from,
            client_id: delivery.client_id,
            sent_at_ms: delivery.sent_at_ms,
            payload: delivery.payload,
            marks: delivery.marks.unwrap_or_default(),
        }
    }

    /// Asks for what is missing: once, and again when it did not help.
    /// Like an OPEN it names what is processed, because the router takes that for safe; what comes again up to
    /// the gap is dropped as a duplicate.
    fn put_sync(&mut self, now: u64, out: &mut Vec<u8>) {
        let behind = self.received.unwrap_or(0);
        if self.synced.is_some_and(|(gap, at)| gap == behind && now < at + SYNC_REPEAT_MS) {
            return;
        }
        self.synced = Some((behind, now));
        put_sync_id(out, Kind::Sync, self.number, self.processed.unwrap_or(self.begun));
    }

    pub(super) fn acknowledge(&mut self, sync_id: u64, now: u64, out: &mut Vec<u8>) {
        // What was not received cannot be processed.
        let Some(received) = self.received.filter(|_| self.processed.is_none_or(|p| p < sync_id)) else {
            return;
        };
        self.processed = Some(sync_id.min(received));
        self.pass_copies();
        let processed = self.processed.unwrap_or(received);
        if !self.is_open() {
            return;
        }
        if processed.saturating_sub(self.acked) >= ACK_EVERY && self.acked > 0 {
            self.put_ack(out);
        } else {
            self.ack_due_ms.get_or_insert(now + ACK_DELAY_MS);
        }
    }

    pub(super) fn put_ack(&mut self, out: &mut Vec<u8>) {
        self.ack_due_ms = None;
        if let Some(processed) = self.processed.filter(|processed| *processed > self.acked) {
            self.acked = processed;
            put_sync_id(out, Kind::Ack, self.number, processed);
        }
    }

    // --- sending ----------------------------------------------------------------------------------------

    #[allow(clippy::too_many_arguments, reason = "a message's parts, and the session's")]
    pub(super) fn submit(
        &mut self,
        sending: Sending,
        client_id: Bytes,
        to: Target,
        payload: Bytes,
        data_bytes_max: u32,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SubmitError> {
        match &to {
            Target::Account(account) => check_account(account)?,
            Target::Group(group) => check_group(group)?,
        }
        let pending = Pending::new(sending, client_id, payload);
        self.offer(Pending { to, ..pending }, data_bytes_max, now, out)
    }

    /// A message for everybody in a room.
    #[allow(clippy::too_many_arguments, reason = "a message's parts, and the session's")]
    pub(super) fn publish(
        &mut self,
        sending: Sending,
        client_id: Bytes,
        (room, room_type): (&str, u32),
        payload: Bytes,
        data_bytes_max: u32,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SubmitError> {
        check_room(room)?;
        // Kept until it is answered, whatever the router's settings say it is worth.
        let sending = Sending { class: Class::Reliable, ..sending };
        let pending = Pending::new(sending, client_id, payload);
        let pending = Pending { room: room.to_owned(), room_type, ..pending };
        self.offer(pending, data_bytes_max, now, out)
    }

    fn offer(
        &mut self,
        mut pending: Pending,
        data_bytes_max: u32,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), SubmitError> {
        self.check_wanted()?;
        let client_id = &pending.client_id;
        if !(1..=CLIENT_ID_BYTES_MAX).contains(&client_id.len()) {
            return Err(SubmitError::ClientId { length: client_id.len() });
        }
        let bytes = pending.payload.len();
        let length = pending.body().encoded_len();
        if length > data_bytes_max as usize {
            return Err(SubmitError::TooLarge { length, max: data_bytes_max });
        }
        if self.pending.len() >= SUBMITS_PENDING_MAX || self.pending_bytes + bytes > SUBMITS_PENDING_BYTES_MAX
        {
            return Err(SubmitError::QueueFull);
        }
        if !pending.is_kept() {
            if !self.is_open() {
                return Err(SubmitError::Offline(self.number));
            }
            // It waits for nobody's answer, and behind nothing that cannot be written.
            if self.in_flight() >= SUBMITS_IN_FLIGHT_MAX || out.len() >= UNSENT_BYTES_MAX {
                return Err(SubmitError::QueueFull);
            }
        }
        self.pending_bytes += bytes;
        if pending.is_kept() {
            self.pending.push_back(pending);
            self.send_due(now, out);
        } else {
            pending.put(self.number, now, out);
            self.pending.push_back(pending);
        }
        Ok(())
    }

    /// The new gateway takes bodies up to this size: what is larger will not be accepted there.
    pub(super) fn refuse_larger(&mut self, data_bytes_max: u32, events: &mut VecDeque<Event>) {
        self.conversations.refuse_larger(data_bytes_max, events);
        let channel = self.number;
        let bytes = &mut self.pending_bytes;
        self.pending.retain(|pending| {
            let length = pending.body().encoded_len();
            if length <= data_bytes_max as usize {
                return true;
            }
            *bytes -= pending.payload.len();
            let detail = SubmitError::TooLarge { length, max: data_bytes_max }.to_string();
            let client_id = pending.client_id.clone();
            events.push_back(Event::Refused { channel, client_id, code: Code::TooLarge, detail });
            false
        });
    }

    /// Sends what is kept and due, as far as there is room for it. True when something had been sent before and was not
    /// answered in time.
    fn send_due(&mut self, now: u64, out: &mut Vec<u8>) -> bool {
        if self.state != State::Open {
            return false;
        }
        let mut overdue = false;
        let mut places = SUBMITS_IN_FLIGHT_MAX.saturating_sub(self.in_flight());
        for pending in self.pending.iter_mut().filter(|pending| pending.due_ms <= now && pending.is_kept()) {
            let has_room = out.len() < UNSENT_BYTES_MAX;
            if pending.in_flight {
                overdue = true;
                // What the driver could not write yet is not written again on top.
                if !has_room {
                    pending.due_ms = now + ANSWER_MS;
                    continue;
                }
            } else {
                if places == 0 || !has_room {
                    continue;
                }
                places -= 1;
            }
            pending.put(self.number, now, out);
        }
        overdue
    }

    pub(super) fn handle_result(
        &mut self,
        result: SubmitResult,
        now: u64,
        rng: &mut fastrand::Rng,
        events: &mut VecDeque<Event>,
    ) {
        // Before OPENED it may belong to another account's login, which may use the same client ids. Should it
        // have been ours, the submit goes out again and is answered as a duplicate.
        if self.state != State::Open {
            return;
        }
        // A second answer to a submit that was sent twice finds nothing.
        let Some(at) = self.pending.iter().position(|p| p.client_id == result.client_id) else { return };
        let code = Code::try_from(result.code).unwrap_or(Code::Internal);
        if code != Code::Ok && is_retryable(code) && self.pending[at].is_kept() {
            let pending = &mut self.pending[at];
            pending.attempt = pending.attempt.saturating_add(1);
            pending.in_flight = false;
            pending.due_ms = now + 1 + full_jitter(RETRY_MS.0, RETRY_MS.1, pending.attempt, rng);
            let reason = (code, result.detail);
            if pending.delay.as_ref() != Some(&reason) {
                let (channel, client_id, detail) = (self.number, result.client_id, reason.1.clone());
                events.push_back(Event::Delayed { channel, client_id, code, detail });
                pending.delay = Some(reason);
            }
            return;
        }
        if let Some(answered) = self.pending.remove(at) {
            self.pending_bytes -= answered.payload.len();
        }
        let (channel, client_id) = (self.number, result.client_id);
        events.push_back(if code == Code::Ok {
            Event::Accepted { channel, client_id, sync_id: result.sync_id, duplicate: result.duplicate }
        } else {
            Event::Refused { channel, client_id, code, detail: result.detail }
        });
    }

    /// True when a submit was not answered in time.
    pub(super) fn handle_timeout(
        &mut self,
        now: u64,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) -> bool {
        if matches!(self.state, State::Waiting { reopen_ms } if now >= reopen_ms) {
            self.put_open(out);
        }
        if self.ack_due_ms.is_some_and(|due| now >= due) {
            self.put_ack(out);
        }
        if self.is_open() {
            self.conversations.handle_timeout(now, out);
            self.marks.handle_timeout(self.number, now, out);
            self.rooms.handle_timeout(self.number, now, out);
        }
        self.give_up("no answer came in time", |pending| pending.in_flight && pending.due_ms <= now, events);
        self.send_due(now, out)
    }
}

/// Base and cap of the pauses before a channel that was closed with this code is opened again; `None`: it stays closed.
fn pauses_before_reopening(code: Code, is_refused: bool) -> Option<(u64, u64)> {
    match code {
        // A full house, in which others make room sooner or later. A session that is ended with it is one too many of its
        // own device: coming back would only end another.
        Code::Limit if is_refused => Some(RECONNECT_MS),
        code if is_retryable(code) => Some(RETRY_MS),
        _ => None,
    }
}

/// Whether the same thing may work later.
pub(super) fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Overloaded | Code::Storage | Code::Internal | Code::Draining)
}
