//! What a session tells its app.

use bytes::Bytes;
use moor_wire::Code;
use moor_wire::client::{GroupAnswer, RoomMessage, TrafficMarks};

use super::DialError;
use super::marks::Conversation;

/// Something the app should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The connection is logged in.
    Connected {
        /// The gateway's name.
        gateway: String,
        /// The interval the server asked for, milliseconds.
        heartbeat_ms: u64,
    },
    /// The connection is gone; the session comes back by itself.
    Disconnected(Disconnect),
    /// A try to connect failed; the session tries again by itself, less and less often. That goes for a certificate
    /// that is not trusted too, since only its operator can renew it: an app shows this event to whoever can.
    NotConnected {
        /// Where.
        address: String,
        /// Why.
        why: DialError,
    },
    /// A channel is logged in.
    Opened {
        /// Which.
        channel: u16,
        /// The handle by which services reach this very session.
        session: u64,
    },
    /// A channel was closed by the server. What passes is tried again by itself, less and less often: a dependency that is
    /// away, too much at once, a login refused with `LIMIT` because the house is full.
    Closed {
        /// Which.
        channel: u16,
        /// Why.
        code: Code,
        /// In words.
        reason: String,
        /// Whether the session opens it again by itself.
        reopens: bool,
    },
    /// A message, once, in order.
    Message {
        /// On which channel.
        channel: u16,
        /// Its place in the timeline; `None` for a transient one.
        sync_id: Option<u64>,
        /// Who sent it.
        from: String,
        /// The sender's id of it.
        client_id: Bytes,
        /// When the router took it, milliseconds since 1970.
        sent_at_ms: u64,
        /// What it says.
        payload: Bytes,
        /// Where it comes from, as the sender said.
        marks: TrafficMarks,
    },
    /// An entry of a group's timeline, once, in order.
    GroupMessage {
        /// On which channel.
        channel: u16,
        /// The group.
        group: String,
        /// Its place in the group's timeline.
        sync_id: u64,
        /// Who sent it; empty for a change of the group.
        from: String,
        /// The sender's id of it.
        client_id: Bytes,
        /// When the router took it, milliseconds since 1970.
        sent_at_ms: u64,
        /// What it says.
        payload: Bytes,
        /// The payload is a `GroupEvent`.
        is_event: bool,
        /// Where it comes from, as the sender said.
        marks: TrafficMarks,
    },
    /// Entries of a group that are past retention, or from before the account joined, and will not come.
    GroupExpired {
        /// On which channel.
        channel: u16,
        /// The group.
        group: String,
        /// First of them.
        from: u64,
        /// Last of them.
        to: u64,
    },
    /// The account is no member of a group any more, or there is no such group any more.
    GroupLeft {
        /// On which channel.
        channel: u16,
        /// The group.
        group: String,
    },
    /// The answer to a request about groups, or the end of waiting for one.
    GroupAnswer {
        /// On which channel.
        channel: u16,
        /// The answer, with the request's id.
        answer: GroupAnswer,
        /// The channel was closed for good before the router's answer came: the code says why it was closed, and what
        /// was asked may have been done or not. Asked again, it changes nothing that is done.
        is_abandoned: bool,
    },
    /// What was said in a room. Reliable messages (those with an id) come once and in order, the others perhaps.
    Room {
        /// On which channel.
        channel: u16,
        /// In which room.
        room: String,
        /// The messages; none: only the numbers are news.
        messages: Vec<RoomMessage>,
        /// So many droppable messages were left out.
        dropped: u64,
        /// Sessions in the room, about; 0: not said.
        online: u32,
        /// Likes since it was last empty; 0: not said.
        likes: u64,
    },
    /// This session is not in a room, and will not be by itself.
    RoomRefused {
        /// On which channel.
        channel: u16,
        /// Which room.
        room: String,
        /// Why.
        code: Code,
        /// In words.
        reason: String,
    },
    /// Messages that are past retention and will not come.
    Expired {
        /// On which channel.
        channel: u16,
        /// First of them.
        from: u64,
        /// Last of them.
        to: u64,
    },
    /// The account has read a conversation up to here, on this device or another. May be told twice; the highest
    /// holds.
    ReadMark {
        /// On which channel.
        channel: u16,
        /// Which conversation.
        conversation: Conversation,
        /// Everything up to here.
        sync_id: u64,
    },
    /// Another device of the account has acknowledged its messages up to here, where the app wants that told.
    DeviceAck {
        /// On which channel.
        channel: u16,
        /// Which device.
        device: String,
        /// Everything up to here.
        sync_id: u64,
    },
    /// The router has a submit.
    Accepted {
        /// On which channel.
        channel: u16,
        /// Which.
        client_id: Bytes,
        /// Its place in the receiver's timeline.
        sync_id: u64,
        /// The router had it already: an earlier answer was lost.
        duplicate: bool,
    },
    /// The channel was closed for good before this submit's answer came: the router may have it or not. It is
    /// forgotten here; sent again under the same client id it is stored once.
    Abandoned {
        /// On which channel.
        channel: u16,
        /// Which.
        client_id: Bytes,
        /// Why the channel was closed.
        code: Code,
    },
    /// A submit is not accepted for now, because its business level is switched off, say. It is kept and sent again; told
    /// once for each reason.
    Delayed {
        /// On which channel.
        channel: u16,
        /// Which.
        client_id: Bytes,
        /// Why.
        code: Code,
        /// In words.
        detail: String,
    },
    /// A submit will not be accepted; it is forgotten.
    Refused {
        /// On which channel.
        channel: u16,
        /// Which.
        client_id: Bytes,
        /// Why.
        code: Code,
        /// In words.
        detail: String,
    },
}

impl Event {
    /// The channel whose present login this is about. It says nothing to whoever logs in there next, and would be
    /// taken for theirs; what became of messages and requests is worth knowing even then. One that is delayed is
    /// forgotten with its channel.
    pub(crate) const fn login(&self) -> Option<u16> {
        match self {
            Self::Opened { channel, .. }
            | Self::Closed { channel, .. }
            | Self::Message { channel, .. }
            | Self::Expired { channel, .. }
            | Self::GroupMessage { channel, .. }
            | Self::GroupExpired { channel, .. }
            | Self::GroupLeft { channel, .. }
            | Self::Room { channel, .. }
            | Self::RoomRefused { channel, .. }
            | Self::ReadMark { channel, .. }
            | Self::DeviceAck { channel, .. }
            | Self::Delayed { channel, .. } => Some(*channel),
            Self::Connected { .. }
            | Self::Disconnected(_)
            | Self::NotConnected { .. }
            | Self::Accepted { .. }
            | Self::Refused { .. }
            | Self::Abandoned { .. }
            | Self::GroupAnswer { .. } => None,
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The peer hung up or the network broke.
    HungUp,
    /// Nothing was heard in time.
    Silent,
    /// The server sent what no server sends.
    Garbled,
    /// GOAWAY.
    SentAway {
        /// Why.
        code: Code,
        /// Another address to prefer; empty: the same one.
        alternate: String,
    },
    /// ERROR.
    Refused {
        /// Why.
        code: Code,
        /// In words.
        detail: String,
    },
}

impl std::fmt::Display for Disconnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HungUp => f.write_str("the server hung up or the network broke"),
            Self::Silent => f.write_str("nothing was heard in time"),
            Self::Garbled => f.write_str("the server sent what no server sends"),
            Self::SentAway { code, .. } => write!(f, "sent away: {code}"),
            Self::Refused { code, detail } => write!(f, "refused: {code} {detail}"),
        }
    }
}
