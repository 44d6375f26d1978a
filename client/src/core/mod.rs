//! The session core: one connection's worth of state, no I/O, no clock.
//!
//! Owns everything that must survive a broken connection: which channels should be open, what each device has
//! received without a gap, which submits are not answered yet. The driver feeds it what happened
//! (`handle_*`, with the time) and takes what to do (`poll_*`). It never waits, and it never reports a message as
//! accepted that the router did not accept.

mod channel;
mod conversations;
mod dial_error;
mod event;
mod marks;
mod rooms;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use moor_router_client::backoff;
use moor_wire::Code;
use moor_wire::client::{
    Class, Close, Connect, Connected, Delivery, DeviceAck, Error, GoAway, GroupAnswer, GroupDelivery,
    GroupHeads, GroupRequest, Kind, OPTIONAL_KINDS, Opened, Pulled, ReadMark, ReadMarks, RoomBatch,
    RoomPulled, RoomRefused, SubmitResult, frame_reader, put, put_control,
};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::identity::{NameError, check_device};
use moor_wire::limits::{CLIENT_BODY_BYTES_MAX, CLIENT_VERSION, PING_BODY_BYTES_MAX};
use prost::Message;

pub use crate::limits::{SUBMITS_PENDING_BYTES_MAX, SUBMITS_PENDING_MAX};
pub use channel::{Sending, SubmitError, Target};
pub use dial_error::{CertificateProblem, DialError};
pub use event::{Disconnect, Event};
pub use marks::Conversation;
pub use moor_wire::client::RoomMessage;
pub use rooms::RoomError;

use crate::limits::{
    AGENT_BYTES_MAX, ANSWER_MS, AWAY_MS_MAX, EVENTS_MAX, GREETING_MS, HEARTBEAT_MS_MIN, NETWORK_CHANGE_MS,
    PONG_MS_MIN, RECONNECT_MS, STABLE_MS, UNSENT_BYTES_MAX,
};
use channel::Channel;
use marks::Marks;

/// How a session presents itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device's stable name, 1 to 128 bytes.
    pub device: String,
    /// Software and version, for the operator's eye; up to 64 bytes.
    pub agent: String,
    /// Longest heartbeat interval this client can keep, milliseconds; 0: the server's proposal.
    pub heartbeat_max_ms: u32,
    /// True: a delivered message counts as processed once its event has been taken, from [`Session::poll_event`] or
    /// [`Events::recv`](crate::Events::recv). False: the app calls [`Session::acknowledge`].
    pub auto_acknowledge: bool,
    /// Whether the app wants to know at each login what its account's other devices have read meanwhile.
    pub read_marks: bool,
}

impl Options {
    /// Defaults for a device.
    #[must_use]
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            agent: concat!("moor-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            heartbeat_max_ms: 0,
            auto_acknowledge: true,
            read_marks: false,
        }
    }

    /// Whether a gateway would take a client that presents itself so. One that it does not take is refused at every
    /// connection again.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn check(&self) -> Result<(), NameError> {
        check_device(&self.device)?;
        match self.agent.len() {
            length if length > AGENT_BYTES_MAX => {
                Err(NameError::TooLong { what: "agent", length, max: AGENT_BYTES_MAX })
            }
            _ => Ok(()),
        }
    }
}

/// A pause that nobody else draws: anywhere between zero and a bound that doubles with every attempt.
#[must_use]
pub fn full_jitter(base_ms: u64, cap_ms: u64, attempt: u32, rng: &mut fastrand::Rng) -> u64 {
    backoff::full_jitter(base_ms, cap_ms, attempt, rng.u64(..))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected; the next try is due at this time.
    Down { retry_ms: u64 },
    /// The driver is connecting.
    Dialling,
    /// CONNECT is said, CONNECTED has not come.
    Greeting { deadline_ms: u64 },
    /// Logged in.
    Live,
    /// The driver is to hang up.
    Leaving,
}

/// One device's session with a gateway.
#[derive(Debug)]
pub struct Session {
    options: Options,
    rng: fastrand::Rng,
    state: State,
    attempt: u32,
    /// From GOAWAY: when to come back.
    return_ms: Option<u64>,
    /// The next try is at the time that a GOAWAY told.
    is_sent_away: bool,
    /// When the last try was due that a change of the network has hastened.
    hastened_ms: Option<u64>,
    reader: FrameReader,
    out: Vec<u8>,
    events: VecDeque<Event>,
    channels: Vec<Channel>,
    /// Whose turn it is to say first what is due, where there is not room for all.
    turn: usize,
    /// Channels that were closed before their OPEN was answered, once per OPEN: the next OPENED or CLOSE for such
    /// a number is that answer and says nothing about the login that came after it.
    answers_owed: Vec<u16>,
    heartbeat_ms: u64,
    /// Longest DATA body the gateway takes.
    data_bytes_max: u32,
    /// When CONNECTED came on this connection.
    live_ms: Option<u64>,
    sent_ms: u64,
    heard_ms: u64,
    /// When the PING was sent, or is to be, that has not been followed by anything yet.
    pinged_ms: Option<u64>,
    /// PING is to be sent, before everything else.
    is_ping_due: bool,
}

impl Session {
    /// A session that wants to be connected at once, with options that [`Options::check`] finds good. Sessions that start together need different seeds.
    #[must_use]
    pub fn new(options: Options, seed: u64) -> Self {
        Self {
            options,
            rng: fastrand::Rng::with_seed(seed),
            state: State::Down { retry_ms: 0 },
            attempt: 0,
            return_ms: None,
            is_sent_away: false,
            hastened_ms: None,
            reader: frame_reader(),
            out: Vec::new(),
            events: VecDeque::new(),
            channels: Vec::new(),
            turn: 0,
            answers_owed: Vec::new(),
            heartbeat_ms: 0,
            data_bytes_max: CLIENT_BODY_BYTES_MAX,
            live_ms: None,
            sent_ms: 0,
            heard_ms: 0,
            pinged_ms: None,
            is_ping_due: false,
        }
    }

    // --- what the app wants -----------------------------------------------------------------------------

    /// Wants an account logged in on a channel, now and after every reconnect. `last_sync_id` is what the app
    /// holds without a gap; `None` leaves it to what the router last saw this device acknowledge. A channel
    /// that exists is replaced. A name or a credential that no gateway takes is answered with [`Event::Closed`].
    pub fn open(
        &mut self,
        number: u16,
        app: &str,
        account: &str,
        credential: Bytes,
        last_sync_id: Option<u64>,
    ) {
        self.close(number);
        let mut channel = Channel::new(number, app, account, credential, last_sync_id);
        channel.marks = Marks::new(self.options.read_marks);
        if let Some((code, reason)) = channel.refusal() {
            self.events.push_back(Event::Closed { channel: number, code, reason, reopens: false });
            return;
        }
        // CONNECT has been said: OPEN may follow it without waiting.
        if matches!(self.state, State::Greeting { .. } | State::Live) {
            channel.put_open(&mut self.out);
        }
        self.channels.push(channel);
    }

    /// Logs a channel out. Its unanswered submits and requests are forgotten. What it heard and nobody has taken is
    /// dropped: messages, unacknowledged, come again at the account's next login.
    pub fn close(&mut self, number: u16) {
        let Some(at) = self.channels.iter().position(|c| c.number == number) else { return };
        let mut channel = self.channels.swap_remove(at);
        self.events.retain(|event| event.login() != Some(number));
        if matches!(self.state, State::Greeting { .. } | State::Live) && channel.is_wanted() {
            if channel.is_opening() {
                self.answers_owed.push(number);
            }
            // What is processed but not acknowledged yet would come again at the next login.
            if channel.is_open() {
                channel.put_ack(&mut self.out);
                channel.conversations.put_acks(&mut self.out);
            }
            put_control(&mut self.out, Kind::Close, number, &close_wish());
        }
    }

    /// Logs every channel out, as [`Self::close`] does.
    pub fn close_all(&mut self) {
        while let Some(number) = self.channels.last().map(|channel| channel.number) {
            self.close(number);
        }
    }

    /// Sends a message; [`Event::Accepted`], [`Event::Refused`] or, when its channel is closed for good,
    /// [`Event::Abandoned`] with the same client id says what became of it. Until then it is kept, over reconnects, and sent again.
    ///
    /// # Errors
    /// [`SubmitError`] when the channel does not exist, holds [`SUBMITS_PENDING_MAX`] unanswered submits or
    /// [`SUBMITS_PENDING_BYTES_MAX`] bytes of them, or when no router or gateway would take the message.
    pub fn submit(
        &mut self,
        number: u16,
        client_id: Bytes,
        to: &str,
        payload: Bytes,
        now: u64,
    ) -> Result<(), SubmitError> {
        self.submit_as(Sending::default(), number, client_id, to, payload, now)
    }

    /// [`Self::submit`] with a class, a business level or traffic marks. Normal and transient messages are for whoever is logged in as the receiver
    /// right now: sent once, accepted with sync id 0 or [`Event::Refused`], whatever the reason.
    ///
    /// # Errors
    /// As [`Self::submit`], and [`SubmitError::Offline`] for those two when the channel is not logged in.
    pub fn submit_as(
        &mut self,
        sending: impl Into<Sending>,
        number: u16,
        client_id: Bytes,
        to: &str,
        payload: Bytes,
        now: u64,
    ) -> Result<(), SubmitError> {
        self.submit_to(sending, number, client_id, Target::Account(to.to_owned()), payload, now)
    }

    /// [`Self::submit_as`] to an account or a group.
    ///
    /// # Errors
    /// As [`Self::submit_as`].
    pub fn submit_to(
        &mut self,
        sending: impl Into<Sending>,
        number: u16,
        client_id: Bytes,
        to: Target,
        payload: Bytes,
        now: u64,
    ) -> Result<(), SubmitError> {
        let channel = numbered(&mut self.channels, number).ok_or(SubmitError::NoChannel(number))?;
        channel.submit(sending.into(), client_id, to, payload, self.data_bytes_max, now, &mut self.out)
    }

    /// Wants to hear what is said in a room of the channel's app, now and after every reconnect: [`Event::Room`].
    ///
    /// # Errors
    /// [`RoomError`].
    pub fn enter(&mut self, number: u16, room: &str) -> Result<(), RoomError> {
        self.enter_room(number, room, None)
    }

    /// [`Self::enter`] of a room that the app was in before: reliable messages behind `last_id` are heard as well. In a
    /// room that it is in already nothing changes.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn enter_behind(&mut self, number: u16, room: &str, last_id: u64) -> Result<(), RoomError> {
        self.enter_room(number, room, Some(last_id))
    }

    /// [`Self::enter`], or [`Self::enter_behind`] where there is something to be behind.
    pub(crate) fn enter_room(
        &mut self,
        number: u16,
        room: &str,
        last_id: Option<u64>,
    ) -> Result<(), RoomError> {
        let channel = numbered(&mut self.channels, number).ok_or(RoomError::NoChannel(number))?;
        channel.enter(room, last_id, &mut self.out)
    }

    /// The last reliable message of a room that was heard without a gap, for the next [`Self::enter_behind`]; `None`
    /// before the first was, and in rooms that the channel is not in.
    #[must_use]
    pub fn room_last_id(&self, number: u16, room: &str) -> Option<u64> {
        self.channels.iter().find(|c| c.number == number)?.rooms.last_id(room)
    }

    /// Wants to hear it no more.
    pub fn leave(&mut self, number: u16, room: &str) {
        if let Some(channel) = numbered(&mut self.channels, number) {
            channel.leave(room, &mut self.out);
        }
    }

    /// Likes a room it is in, so many times. They are collected and counted, not delivered.
    pub fn like(&mut self, number: u16, room: &str, count: u32, now: u64) {
        if let Some(channel) = numbered(&mut self.channels, number) {
            channel.rooms.like(room, count, now);
        }
    }

    /// Says something to everybody in a room, as a message of a type; otherwise like [`Self::submit`]. What is not
    /// reliable there has no sync id (0), and may be heard twice when an answer was lost.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn publish(
        &mut self,
        number: u16,
        client_id: Bytes,
        room: (&str, u32),
        payload: Bytes,
        now: u64,
    ) -> Result<(), SubmitError> {
        self.publish_as(Sending::default(), number, client_id, room, payload, now)
    }

    /// [`Self::publish`] with a business level or traffic marks. The type says what the message is worth: the class is
    /// not looked at.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn publish_as(
        &mut self,
        sending: impl Into<Sending>,
        number: u16,
        client_id: Bytes,
        room: (&str, u32),
        payload: Bytes,
        now: u64,
    ) -> Result<(), SubmitError> {
        let channel = numbered(&mut self.channels, number).ok_or(SubmitError::NoChannel(number))?;
        channel.publish(sending.into(), client_id, room, payload, self.data_bytes_max, now, &mut self.out)
    }

    /// Says that everything up to `sync_id` on a channel is processed and will not be lost.
    pub fn acknowledge(&mut self, number: u16, sync_id: u64, now: u64) {
        if let Some(channel) = numbered(&mut self.channels, number) {
            channel.acknowledge(sync_id, now, &mut self.out);
        }
    }

    /// Says that everything of a group up to `sync_id` is processed and will not be lost.
    pub fn acknowledge_group(&mut self, number: u16, group: &str, sync_id: u64, now: u64) {
        if let Some(channel) = numbered(&mut self.channels, number) {
            channel.conversations.acknowledge(group, sync_id, now);
        }
    }

    /// Tells what the app holds of a group from an earlier run; without it the router's knowledge counts. To be
    /// called right after [`Self::open`]. Of more than 1,024 groups the first are kept.
    pub fn resume_group(&mut self, number: u16, group: &str, sync_id: u64) {
        if let Some(channel) = numbered(&mut self.channels, number) {
            channel.conversations.resume(group, sync_id);
        }
    }

    /// What a channel holds of its groups, for the next [`Self::resume_group`]: 1,024 at most. Beyond, one that nothing was
    /// heard of for the longest time is forgotten, and gone on from by what the router knows.
    #[must_use]
    pub fn group_positions(&self, number: u16) -> Vec<(String, u64)> {
        let channel = self.channels.iter().find(|c| c.number == number);
        let positions = channel.into_iter().flat_map(|channel| channel.conversations.processed());
        positions.map(|(group, sync_id)| (group.to_owned(), sync_id)).collect()
    }

    /// Asks something about groups; [`Event::GroupAnswer`] with the request's id follows, if need be after a
    /// reconnect, and at the latest when the channel is closed for good. Ids are the app's choice and differ among
    /// unanswered requests.
    ///
    /// # Errors
    /// [`SubmitError`] when the channel does not exist or was closed for good, when it has too many unanswered
    /// requests, or when the request is larger than the gateway takes.
    pub fn ask_group(&mut self, number: u16, request: GroupRequest, now: u64) -> Result<(), SubmitError> {
        let channel = numbered(&mut self.channels, number).ok_or(SubmitError::NoChannel(number))?;
        channel.ask(request, self.data_bytes_max, now, &mut self.out)
    }

    /// Says that the account has read a conversation up to `sync_id`, on this device. Kept and said again until the
    /// router has it; [`Event::ReadMark`] tells when. Forgotten when the channel is closed for good.
    ///
    /// # Errors
    /// [`SubmitError`] when the channel does not exist or was closed for good, the name is none, or too many wait.
    pub fn mark_read(
        &mut self,
        number: u16,
        conversation: Conversation,
        sync_id: u64,
        now: u64,
    ) -> Result<(), SubmitError> {
        let channel = numbered(&mut self.channels, number).ok_or(SubmitError::NoChannel(number))?;
        channel.mark_read(conversation, sync_id, now, &mut self.out)
    }

    /// What a channel holds without a gap: to be kept by the app for the next [`Session::open`].
    #[must_use]
    pub fn last_sync_id(&self, number: u16) -> Option<u64> {
        self.channels.iter().find(|c| c.number == number)?.processed()
    }

    /// Submits that are not answered yet, over all channels.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.channels.iter().map(Channel::unanswered).sum()
    }

    /// Channels that are open right now.
    #[must_use]
    pub fn channels_open(&self) -> usize {
        if self.is_live() { self.channels.iter().filter(|c| c.is_open()).count() } else { 0 }
    }

    // --- what the driver asks ---------------------------------------------------------------------------

    /// Whether the driver should connect now.
    #[must_use]
    pub fn wants_connection(&self, now: u64) -> bool {
        matches!(self.state, State::Down { retry_ms } if now >= retry_ms)
    }

    /// Whether the driver should hang up and then call [`Session::handle_disconnected`].
    #[must_use]
    pub fn wants_hang_up(&self) -> bool {
        self.state == State::Leaving
    }

    /// Logged in.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether the driver should leave what the server sends unread until events are taken.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.events.len() >= EVENTS_MAX
    }

    /// Bytes to send, asked for when those before are written: only then does more of what waits find room.
    pub fn poll_transmit(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.out.is_empty() && !self.is_ping_due {
            return None;
        }
        self.sent_ms = now;
        let mut piece = std::mem::take(&mut self.out);
        if std::mem::take(&mut self.is_ping_due) {
            // All before it is written: what follows is the server's silence.
            self.pinged_ms = Some(now);
            let mut ping = Vec::new();
            put(&mut ping, Kind::Ping, Class::Command, 0, &[]);
            piece.splice(0..0, ping);
        }
        Some(piece)
    }

    /// Something the app should know.
    pub fn poll_event(&mut self, now: u64) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let (true, Event::GroupMessage { channel, group, sync_id, .. }) =
            (self.options.auto_acknowledge, &event)
        {
            self.acknowledge_group(*channel, &group.clone(), *sync_id, now);
        }
        if let (true, Event::Message { channel, sync_id: Some(id), .. }) =
            (self.options.auto_acknowledge, &event)
        {
            let (channel, id) = (*channel, *id);
            self.acknowledge(channel, id, now);
        }
        Some(event)
    }

    /// When [`Session::handle_timeout`] (or a connect) is due; `None`: when something happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.state {
            State::Down { retry_ms } => Some(retry_ms),
            State::Dialling | State::Leaving => None,
            State::Greeting { deadline_ms } => Some(deadline_ms),
            State::Live => {
                let beat =
                    self.pinged_ms.map_or_else(|| self.ping_due_ms(), |pinged| pinged + self.pong_ms());
                let has_room = self.out.len() < UNSENT_BYTES_MAX;
                self.channels.iter().filter_map(|channel| channel.next_ms(has_room)).chain([beat]).min()
            }
        }
    }

    // --- what the driver tells --------------------------------------------------------------------------

    /// The driver has begun to connect.
    pub fn handle_dialling(&mut self) {
        self.state = State::Dialling;
    }

    /// The connection stands.
    pub fn handle_connected(&mut self, now: u64) {
        self.reader = frame_reader();
        self.out.clear();
        self.answers_owed.clear();
        self.state = State::Greeting { deadline_ms: now + GREETING_MS };
        self.heard_ms = now;
        (self.pinged_ms, self.is_ping_due) = (None, false);
        let connect = Connect {
            version: CLIENT_VERSION,
            device: self.options.device.clone(),
            agent: self.options.agent.clone(),
            network: String::new(),
            heartbeat_max_ms: self.options.heartbeat_max_ms,
        };
        put_control(&mut self.out, Kind::Connect, 0, &connect);
        for channel in &mut self.channels {
            channel.put_open(&mut self.out);
        }
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: u64) {
        if matches!(self.state, State::Greeting { .. } | State::Live) {
            self.events.push_back(Event::Disconnected(Disconnect::HungUp));
        }
        // Only a connection that lasts shows that all is well: a gateway that takes the login and hangs up is
        // tried less and less often, like one that does not listen.
        if self.live_ms.take().is_some_and(|since| now >= since.saturating_add(STABLE_MS)) {
            self.attempt = 0;
        }
        let (base, cap) = RECONNECT_MS;
        let pause = full_jitter(base, cap, self.attempt, &mut self.rng);
        self.attempt = self.attempt.saturating_add(1);
        self.is_sent_away = self.return_ms.is_some();
        let retry_ms = self.return_ms.take().unwrap_or(now + pause);
        self.state = State::Down { retry_ms };
        self.out.clear();
        for channel in &mut self.channels {
            channel.handle_disconnected(&mut self.events);
        }
    }

    /// The network is back, or another one, as the platform tells. A try that was to wait long is made soon, unless a
    /// GOAWAY said when to come back; its failure counts as ever. A connection that stands is asked whether it does.
    /// Told all the time, it hastens a try every five seconds and keeps one PING on its way.
    pub fn handle_network_change(&mut self, now: u64) {
        match &mut self.state {
            State::Down { retry_ms } if !self.is_sent_away => {
                let soon_ms = self.hastened_ms.map_or(now, |last| now.max(last + NETWORK_CHANGE_MS));
                if *retry_ms > soon_ms + RECONNECT_MS.0 {
                    *retry_ms = soon_ms + self.rng.u64(0..=RECONNECT_MS.0);
                    self.hastened_ms = Some(*retry_ms);
                }
            }
            State::Live if self.pinged_ms.is_none() => self.ping(now),
            _ => {}
        }
    }

    /// The driver could not connect.
    pub fn handle_not_connected(&mut self, address: String, why: DialError, now: u64) {
        self.events.push_back(Event::NotConnected { address, why });
        self.handle_disconnected(now);
    }

    /// Some of what was taken from [`Self::poll_transmit`] has gone on.
    pub fn handle_written(&mut self, now: u64) {
        // PING waits behind it: as long as that moves, somebody takes it.
        if self.is_ping_due {
            self.pinged_ms = Some(now);
        }
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: u64) {
        self.reader.push(bytes);
        while matches!(self.state, State::Greeting { .. } | State::Live) {
            match self.reader.try_next() {
                Ok(Some(frame)) => {
                    self.heard_ms = now;
                    (self.pinged_ms, self.is_ping_due) = (None, false);
                    if self.handle_frame(&frame, now).is_none() {
                        self.part(Disconnect::Garbled);
                    }
                }
                Ok(None) => return,
                Err(_) => self.part(Disconnect::Garbled),
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        match self.state {
            State::Greeting { deadline_ms } if now >= deadline_ms => self.part(Disconnect::Silent),
            State::Live => {
                if self.pinged_ms.is_some_and(|pinged| now >= pinged + self.pong_ms()) {
                    return self.part(Disconnect::Silent);
                }
                let mut overdue = false;
                let had_room = self.out.len() < UNSENT_BYTES_MAX;
                let turn = self.turn.min(self.channels.len());
                let (later, first) = self.channels.split_at_mut(turn);
                for channel in first.iter_mut().chain(later) {
                    overdue |= channel.handle_timeout(now, &mut self.out, &mut self.events);
                }
                if had_room && self.out.len() >= UNSENT_BYTES_MAX {
                    self.turn = (self.turn + 1) % self.channels.len().max(1);
                }
                // Two reasons to ask: the heartbeat, and an answer that should have come.
                let suspicious = overdue && now >= self.heard_ms.saturating_add(ANSWER_MS);
                if self.pinged_ms.is_none() && (suspicious || now >= self.ping_due_ms()) {
                    self.ping(now);
                }
            }
            _ => {}
        }
    }

    const fn ping(&mut self, now: u64) {
        (self.pinged_ms, self.is_ping_due) = (Some(now), true);
    }

    /// The driver hangs up; the next try comes after the usual pause, or GOAWAY's.
    fn part(&mut self, why: Disconnect) {
        self.state = State::Leaving;
        self.events.push_back(Event::Disconnected(why));
    }

    /// A little earlier than promised, so that a late wake-up is still in time.
    const fn beat_ms(&self) -> u64 {
        self.heartbeat_ms * 9 / 10
    }

    /// When this side has been silent for the interval, which the server would take for death; and when the
    /// server has, which nothing else would notice while this side keeps sending.
    fn ping_due_ms(&self) -> u64 {
        self.sent_ms.min(self.heard_ms).saturating_add(self.beat_ms())
    }

    fn pong_ms(&self) -> u64 {
        (self.heartbeat_ms / 2).max(PONG_MS_MIN)
    }

    /// `None`: the server sent what no server sends.
    fn handle_frame(&mut self, frame: &Frame, now: u64) -> Option<()> {
        let number = frame.header.channel;
        let Some(kind) = Kind::from_byte(frame.header.kind) else {
            // Of a later server: not for this client.
            return OPTIONAL_KINDS.contains(&frame.header.kind).then_some(());
        };
        // CONNECTED comes before everything that is about a channel.
        if self.state != State::Live && number != 0 {
            return None;
        }
        if let Some(at) = self.answers_owed.iter().position(|owed| *owed == number)
            && is_answer_to_open(kind, &frame.body)
        {
            self.answers_owed.swap_remove(at);
            return Some(());
        }
        match kind {
            // Else who may say something on one channel could end all of them.
            Kind::Connected | Kind::GoAway | Kind::Error if number != 0 => return None,
            Kind::Connected => {
                let connected = Connected::decode(frame.body.clone()).ok()?;
                if self.state == State::Live {
                    return None;
                }
                self.state = State::Live;
                self.live_ms = Some(now);
                let kept_ms = match self.options.heartbeat_max_ms {
                    0 => connected.heartbeat_ms,
                    wish => connected.heartbeat_ms.min(wish),
                };
                self.heartbeat_ms = u64::from(kept_ms).max(HEARTBEAT_MS_MIN);
                self.data_bytes_max = match connected.frame_bytes_max {
                    0 => CLIENT_BODY_BYTES_MAX,
                    bytes => bytes.min(CLIENT_BODY_BYTES_MAX),
                };
                for channel in &mut self.channels {
                    channel.refuse_larger(self.data_bytes_max, &mut self.events);
                }
                self.events.push_back(Event::Connected {
                    gateway: connected.gateway,
                    heartbeat_ms: self.heartbeat_ms,
                });
            }
            // No gateway takes a longer PONG: it would close the connection over the answer to its own mistake.
            Kind::Ping if frame.header.length > PING_BODY_BYTES_MAX => return None,
            // A server that asks and does not read: what could not be written yet says that somebody is here.
            Kind::Ping if self.out.len() >= UNSENT_BYTES_MAX => {}
            Kind::Ping => put(&mut self.out, Kind::Pong, Class::Command, 0, &frame.body),
            Kind::Pong => {}
            Kind::GoAway => {
                let away = GoAway::decode(frame.body.clone()).ok()?;
                let (min, max) = (u64::from(away.retry_min_ms), u64::from(away.retry_max_ms));
                let (min, max) = (min.min(AWAY_MS_MAX), max.max(min).min(AWAY_MS_MAX));
                let pause = self.rng.u64(min..=max);
                // No window, or hardly one, is none: the pauses grow as after any other connection that did not last.
                self.return_ms = (max >= RECONNECT_MS.0).then(|| now.saturating_add(pause));
                self.part(Disconnect::SentAway { code: code_of(away.code), alternate: away.alternate });
            }
            Kind::Error => {
                let error = Error::decode(frame.body.clone()).ok()?;
                self.part(Disconnect::Refused { code: code_of(error.code), detail: error.detail });
            }
            // Number 0 is the connection's.
            kind if is_about_channel(kind) && number == 0 => return None,
            kind if is_about_channel(kind) => {
                let Some(channel) = numbered(&mut self.channels, number) else {
                    // A channel that was closed meanwhile: what comes for it is of no interest. But nobody owes this
                    // answer: it was held for closed before the app gave it up.
                    if kind == Kind::Opened {
                        // A server that opens without end what nobody asked for, and does not read.
                        if self.out.len() >= UNSENT_BYTES_MAX {
                            return None;
                        }
                        put_control(&mut self.out, Kind::Close, number, &close_wish());
                    }
                    return Some(());
                };
                let (out, events) = (&mut self.out, &mut self.events);
                match kind {
                    Kind::Opened => {
                        channel.handle_opened(&Opened::decode(frame.body.clone()).ok()?, now, out, events);
                    }
                    Kind::Close => {
                        let close = Close::decode(frame.body.clone()).ok()?;
                        channel.handle_close(close, now, &mut self.rng, events);
                    }
                    Kind::Data => {
                        channel.handle_delivery(Delivery::decode(frame.body.clone()).ok()?, now, out, events)
                    }
                    Kind::Group if channel.is_open() => {
                        let answer = GroupAnswer::decode(frame.body.clone()).ok()?;
                        channel.conversations.handle_answer(answer, now, &mut self.rng, events);
                    }
                    Kind::GroupDelivery if channel.is_open() => {
                        let entry = GroupDelivery::decode(frame.body.clone()).ok()?;
                        channel.conversations.handle_entry(entry, now, out, events);
                    }
                    Kind::GroupHeads if channel.is_open() => {
                        let heads = GroupHeads::decode(frame.body.clone()).ok()?;
                        channel.conversations.handle_heads(heads, now, out);
                    }
                    Kind::Pulled if channel.is_open() => {
                        let pulled = Pulled::decode(frame.body.clone()).ok()?;
                        channel.conversations.handle_pulled(pulled, now, out, events);
                    }
                    Kind::Read if channel.is_open() => {
                        let mark = ReadMark::decode(frame.body.clone()).ok()?;
                        channel.marks.handle_read(number, &mark, now, out, events);
                    }
                    Kind::ReadMarks if channel.is_open() => {
                        let page = ReadMarks::decode(frame.body.clone()).ok()?;
                        channel.marks.handle_marks(number, &page, now, events);
                    }
                    Kind::DeviceAck if channel.is_open() => {
                        let ack = DeviceAck::decode(frame.body.clone()).ok()?;
                        let (device, sync_id) = (ack.device, ack.sync_id);
                        events.push_back(Event::DeviceAck { channel: number, device, sync_id });
                    }
                    Kind::Room if channel.is_open() => {
                        let batch = RoomBatch::decode(frame.body.clone()).ok()?;
                        channel.rooms.handle_batch(number, batch, now, &mut self.rng, events);
                    }
                    Kind::RoomPulled if channel.is_open() => {
                        let pulled = RoomPulled::decode(frame.body.clone()).ok()?;
                        channel.rooms.handle_pulled(number, pulled, now, &mut self.rng, events);
                    }
                    Kind::RoomRefused if channel.is_open() => {
                        let refused = RoomRefused::decode(frame.body.clone()).ok()?;
                        channel.rooms.handle_refused(number, refused, events);
                    }
                    Kind::Ack => {
                        let result = SubmitResult::decode(frame.body.clone()).ok()?;
                        channel.handle_result(result, now, &mut self.rng, events);
                    }
                    // Before OPENED it belongs to a login that is over.
                    _ => {}
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// The channel of a number. Not a method: the caller goes on to use the session's other parts.
fn numbered(channels: &mut [Channel], number: u16) -> Option<&mut Channel> {
    channels.iter_mut().find(|channel| channel.number == number)
}

/// Whether a server says this on a channel. Every kind is named, so that a new one cannot be forgotten.
const fn is_about_channel(kind: Kind) -> bool {
    match kind {
        Kind::Opened
        | Kind::Close
        | Kind::Data
        | Kind::Ack
        | Kind::Group
        | Kind::GroupDelivery
        | Kind::GroupHeads
        | Kind::Pulled
        | Kind::Read
        | Kind::ReadMarks
        | Kind::DeviceAck
        | Kind::Room
        | Kind::RoomPulled
        | Kind::RoomRefused => true,
        Kind::Connect
        | Kind::Connected
        | Kind::Open
        | Kind::Sync
        | Kind::Ping
        | Kind::Pong
        | Kind::GoAway
        | Kind::Error
        | Kind::GroupAck
        | Kind::Pull
        | Kind::Enter
        | Kind::Leave
        | Kind::RoomAck
        | Kind::RoomLike
        | Kind::RoomPull => false,
    }
}

/// NOT_FOUND answers a frame that was on its way when its channel ended, never an OPEN; nor does a CLOSE that ends a
/// session.
fn is_answer_to_open(kind: Kind, body: &Bytes) -> bool {
    match kind {
        Kind::Opened => true,
        Kind::Close => Close::decode(body.clone())
            .is_ok_and(|close| close.session == 0 && code_of(close.code) != Code::NotFound),
        _ => false,
    }
}

/// CLOSE, as the app's own wish.
fn close_wish() -> Close {
    Close { code: Code::Normal as i32, ..Close::default() }
}

fn code_of(code: i32) -> Code {
    Code::try_from(code).unwrap_or(Code::Internal)
}
