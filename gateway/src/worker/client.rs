//! What a client's frames mean.
//!
//! A violation on the connection itself ends the connection with a typed ERROR; trouble with one channel ends
//! that channel with a CLOSE and touches no other.

use moor_ring::Slot;
use moor_wire::client::{
    Class, Close, Connect, Connected, Kind, Open, Opened, Submit, SubmitResult, put, sync_id,
};
use moor_wire::frame::{HEADER_BYTES, Header};
use moor_wire::identity::{NameError, check_account, check_app, check_device};
use moor_wire::internal::{UP_HEAD_BYTES_MAX, Up};
use moor_wire::limits::{CLIENT_VERSION, CREDENTIAL_BYTES_MAX};
use moor_wire::{Code, client};
use prost::Message;

use super::channels::ChannelIndex;
use super::connection::Phase;
use super::counters::Counter;
use super::io::Io;
use super::timers::death_ms;
use super::transmit::Queued;
use super::wheel::NIL;
use super::{Now, Worker};
use crate::limits::LINK_UPSTREAM_BYTES_MAX;

/// Longest hint or agent name kept or logged, bytes.
const HINT_BYTES_MAX: usize = 64;

impl<I: Io> Worker<I> {
    pub(super) fn handle_client_frame(&mut self, slot: Slot, header: Header, body: &[u8], now: Now) {
        self.counters.add(Counter::FramesReceived);
        let Some(kind) = Kind::from_byte(header.kind) else {
            let detail = format!("unknown frame kind {:#04x}", header.kind);
            return self.refuse_bytes(slot, Code::ProtocolError, &detail, now);
        };
        let greeting = self.connections[slot.0].phase == Phase::Greeting;
        match kind {
            Kind::Connect if greeting => self.handle_connect(slot, body, now),
            _ if greeting => {
                self.refuse_bytes(slot, Code::ProtocolError, "the first frame must be CONNECT", now)
            }
            Kind::Open => self.handle_open(slot, header.channel, body, now),
            Kind::Data | Kind::Ack | Kind::Sync | Kind::Group | Kind::GroupAck | Kind::Pull => {
                self.handle_upstream(slot, kind, header, body, now);
            }
            Kind::Read | Kind::ReadMarks => self.handle_marks(slot, kind, header, body, now),
            Kind::Close => {
                // Not answered: whatever the server still sends on the channel precedes its next OPENED.
                if let Some(channel) = self.channel_of(slot, header.channel) {
                    self.release_channel(slot, channel);
                }
            }
            Kind::Ping => self.queue_pong(slot, body, now),
            Kind::Pong => {}
            Kind::Enter | Kind::Leave | Kind::RoomAck | Kind::RoomLike | Kind::RoomPull => {
                self.handle_room_frame(slot, kind, header, body, now);
            }
            Kind::Connect
            | Kind::Connected
            | Kind::Opened
            | Kind::GoAway
            | Kind::Error
            | Kind::GroupDelivery
            | Kind::GroupHeads
            | Kind::Pulled
            | Kind::DeviceAck
            | Kind::Room
            | Kind::RoomPulled
            | Kind::RoomRefused => {
                let detail = format!("{kind:?} is not for a client to send here");
                self.refuse_bytes(slot, Code::ProtocolError, &detail, now);
            }
        }
    }

    fn handle_connect(&mut self, slot: Slot, body: &[u8], now: Now) {
        let Ok(connect) = Connect::decode(body) else {
            return self.refuse_bytes(slot, Code::ProtocolError, "CONNECT does not decode", now);
        };
        if connect.version != CLIENT_VERSION {
            let detail = format!("this server speaks version {CLIENT_VERSION}, not {}", connect.version);
            return self.refuse_bytes(slot, Code::Version, &detail, now);
        }
        if let Err(error) = check_device(&connect.device) {
            return self.refuse_bytes(slot, Code::Invalid, &error.to_string(), now);
        }
        if connect.agent.len() > HINT_BYTES_MAX || connect.network.len() > HINT_BYTES_MAX {
            return self.refuse_bytes(
                slot,
                Code::Invalid,
                "agent and network have at most 64 bytes each",
                now,
            );
        }
        let Some(device) = self.devices.insert(&connect.device) else {
            return self.refuse_bytes(slot, Code::Overloaded, "there is no room for another device", now);
        };
        let interval_ms = self.settings.heartbeat.propose(connect.heartbeat_max_ms);
        let connection = &mut self.connections[slot.0];
        connection.phase = Phase::Live;
        connection.device = device;
        connection.interval_ms = interval_ms;
        self.file_in(slot, death_ms(interval_ms), now);
        let connected = Connected {
            version: CLIENT_VERSION,
            gateway: self.settings.node.to_string(),
            heartbeat_ms: interval_ms,
            frame_bytes_max: self.settings.frame_bytes_max,
            channels_max: u32::from(self.settings.channels_per_connection_max),
        };
        self.queue_control(slot, Kind::Connected, 0, &connected, now);
        self.drain_greet(slot, now);
    }

    fn queue_pong(&mut self, slot: Slot, body: &[u8], now: Now) {
        self.queue_command(slot, HEADER_BYTES + body.len(), now, |out| {
            put(out, Kind::Pong, Class::Command, 0, body);
        });
    }

    fn handle_open(&mut self, slot: Slot, number: u16, body: &[u8], now: Now) {
        if number == 0 {
            return self.refuse_bytes(slot, Code::ProtocolError, "channel 0 belongs to the connection", now);
        }
        if let Some(channel) = self.channel_of(slot, number) {
            // Whose channel it is now is no longer clear to the client: it ends, the others do not.
            self.release_channel(slot, channel);
            return self.refuse_open(slot, number, Code::ProtocolError, "the channel was open already", now);
        }
        let Ok(open) = Open::decode(body) else {
            return self.refuse_open(slot, number, Code::ProtocolError, "OPEN does not decode", now);
        };
        if self.channels_of(slot) >= usize::from(self.settings.channels_per_connection_max) {
            let detail =
                format!("at most {} channels a connection", self.settings.channels_per_connection_max);
            return self.refuse_open(slot, number, Code::Limit, &detail, now);
        }
        if let Err(error) = check_open(&open) {
            return self.refuse_open(slot, number, Code::Invalid, &error.to_string(), now);
        }
        // Before the credential is looked at: that is what a login costs.
        if !self.door.logins.take(now.0) {
            return self.refuse_pace(slot, number, now);
        }
        if open.credential.len() > CREDENTIAL_BYTES_MAX {
            return self.refuse_open(slot, number, Code::TooLarge, "the credential is too long", now);
        }
        let expires_s = match self.admit_account(slot, &open, now) {
            Ok(expires_s) => expires_s,
            Err(denial) => return self.refuse_open(slot, number, Code::Unauthorized, denial.told(), now),
        };
        if !self.enter_app(slot, number, &open.app, now) {
            return;
        }
        let place = (slot.0, self.connections[slot.0].first_channel);
        let channel = self.channels.insert(place, number, &open.app, &open.account, open.last_sync_id);
        let Some(channel) = channel else {
            self.leave_app(&open.app);
            return self.refuse_open(
                slot,
                number,
                Code::Overloaded,
                "there is no room for another name",
                now,
            );
        };
        let connection = &mut self.connections[slot.0];
        connection.first_channel = channel.0;
        self.counters.add(Counter::Opens);
        let handle = self.channels.handle(channel);
        if let Some(expires_s) = expires_s {
            self.expiries.insert(expires_s, handle, &self.channels);
        }
        self.link.arrive(channel);
        self.queue_control(slot, Kind::Opened, number, &Opened { session: handle.0 }, now);
    }

    pub(super) fn refuse_open(&mut self, slot: Slot, number: u16, code: Code, reason: &str, now: Now) {
        self.counters.add(Counter::OpensRefused);
        self.close_frame(slot, number, code, reason, now);
    }

    /// CLOSE for a channel that is not open: an OPEN is refused, or a frame came too late.
    pub(super) fn close_frame(&mut self, slot: Slot, number: u16, code: Code, reason: &str, now: Now) {
        let close = Close { code: code as i32, reason: reason.to_owned(), session: 0 };
        self.queue_control(slot, Kind::Close, number, &close, now);
    }

    /// DATA, ACK, SYNC and what is about groups go to the router with who sent them.
    fn handle_upstream(&mut self, slot: Slot, kind: Kind, header: Header, body: &[u8], now: Now) {
        let Some(channel) = self.channel_of(slot, header.channel) else {
            return self.close_frame(slot, header.channel, Code::NotFound, "no such channel is open", now);
        };
        if matches!(kind, Kind::Ack | Kind::Sync) {
            let Some(id) = sync_id(body) else {
                return self.refuse_bytes(slot, Code::ProtocolError, "ACK and SYNC carry eight bytes", now);
            };
            if let Some(entry) = self.channels.get_mut(channel) {
                // What a SYNC takes back is behind what was acknowledged: only ever forget, never invent.
                let known = entry.acked().filter(|_| kind == Kind::Ack);
                entry.set_acked(Some(known.map_or(id, |known| known.max(id))));
            }
        }
        // Questions cost the router as much as messages do. One that is dropped is asked again.
        let is_metered = matches!(kind, Kind::Data | Kind::Group | Kind::Pull) && self.is_metered(slot);
        if is_metered && !self.meter_message(slot, header.channel, now) {
            if kind == Kind::Data {
                self.refuse_submit(slot, channel, body, Some("the channel sends too much"), now);
            }
            return;
        }
        if !self.forward(slot, channel, header, body, now) && kind == Kind::Data {
            self.refuse_submit(slot, channel, body, None, now);
        }
    }

    /// Queues a client's frame for the router; false when it cannot be taken now.
    pub(super) fn forward(
        &mut self,
        slot: Slot,
        channel: ChannelIndex,
        header: Header,
        body: &[u8],
        now: Now,
    ) -> bool {
        let Some(link) = self.link.up_slot() else { return false };
        if self.queued_bytes(link) + UP_HEAD_BYTES_MAX + body.len() > link_share(header) {
            return false;
        }
        let (app, account) = self.channels.identity(channel);
        let up = Up {
            session: self.channels.handle(channel),
            kind: header.kind,
            flags: header.flags,
            app,
            account,
            device: self.devices.get(self.connections[slot.0].device),
            body,
        };
        let mut head = [0; UP_HEAD_BYTES_MAX];
        let head = up.write_head(&mut head);
        let queued = self.queue_with(link, Class::Command, head.len() + body.len(), now, |out| {
            out.extend_from_slice(head);
            out.extend_from_slice(body);
        });
        let taken = queued == Queued::Yes;
        if taken {
            self.counters.add(Counter::Upstream);
        }
        taken
    }

    /// Answers a submit that the router cannot get now. Never a faked success: the client keeps it and tries
    /// again with the same client id.
    fn refuse_submit(
        &mut self,
        slot: Slot,
        channel: ChannelIndex,
        body: &[u8],
        limit: Option<&str>,
        now: Now,
    ) {
        let counter = if limit.is_some() { Counter::MessagesLimited } else { Counter::UpstreamRefused };
        self.counters.add(counter);
        let Ok(submit) = Submit::decode(body) else {
            self.close_channel(channel, Code::ProtocolError, "DATA does not decode", now);
            return;
        };
        let Some(number) = self.channels.get(channel).map(|entry| entry.number) else { return };
        let (code, detail) = if let Some(detail) = limit {
            (Code::Overloaded, detail)
        } else if self.link.up_slot().is_some() {
            (Code::Overloaded, "the router is slow")
        } else {
            (Code::Unavailable, "the router is away")
        };
        let result = SubmitResult {
            client_id: submit.client_id,
            code: code as i32,
            detail: detail.to_owned(),
            ..SubmitResult::default()
        };
        self.queue_control(slot, client::Kind::Ack, number, &result, now);
    }

    /// How many channels a connection has.
    fn channels_of(&self, slot: Slot) -> usize {
        self.channels.siblings(self.connections[slot.0].first_channel).count()
    }

    /// The open channel of a connection with a number.
    pub(super) fn channel_of(&self, slot: Slot, number: u16) -> Option<ChannelIndex> {
        let mut at = self.connections[slot.0].first_channel;
        while at != NIL {
            let entry = self.channels.get(ChannelIndex(at))?;
            if entry.number == number {
                return Some(ChannelIndex(at));
            }
            at = entry.next_in_connection;
        }
        None
    }
}

/// Bytes the router link may hold before a frame of this kind and class is refused: what nobody keeps first, so
/// that there is room for what must arrive.
fn link_share(header: Header) -> usize {
    match Class::from_flags(header.flags) {
        Class::Transient if header.kind == Kind::Data.byte() => LINK_UPSTREAM_BYTES_MAX / 2,
        Class::Normal if header.kind == Kind::Data.byte() => LINK_UPSTREAM_BYTES_MAX / 4 * 3,
        _ => LINK_UPSTREAM_BYTES_MAX,
    }
}

fn check_open(open: &Open) -> Result<(), NameError> {
    check_app(&open.app)?;
    check_account(&open.account)
}
