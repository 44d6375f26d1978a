//! The client protocol `moor.v1`: kinds, classes and control bodies. docs/protocol.md is its reader's text.

use std::ops::RangeInclusive;

use bytes::BufMut;

use crate::frame::{FrameReader, put_frame, put_message};
use crate::limits;
pub use crate::proto::moor::v1::{
    Close, Connect, Connected, ConversationKind, Delivery, DeviceAck, Error, GoAway, GroupAck, GroupAnswer,
    GroupCreate, GroupDelivery, GroupEvent, GroupHead, GroupHeads, GroupMember, GroupNames, GroupNothing,
    GroupPage, GroupPosition, GroupPreference, GroupRequest, GroupRole, Membership, Open, Opened, Pull,
    Pulled, ReadMark, ReadMarks, RoomAck, RoomBatch, RoomEnter, RoomLeave, RoomLike, RoomMessage, RoomPull,
    RoomPulled, RoomRefused, Submit, SubmitResult, TrafficMarks, group_request::Act,
};

impl TrafficMarks {
    /// What each is called.
    pub const NAMES: [&'static str; 3] = ["source", "campaign", "release"];

    /// Their values, in that order; those that are not given are empty.
    #[must_use]
    pub fn values(&self) -> [&str; 3] {
        [&self.source, &self.campaign, &self.release]
    }

    /// Names with values.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        Self::NAMES.into_iter().zip(self.values())
    }
}

/// Kind of a client frame.
///
/// The values avoid 0x16 (a TLS handshake record) and ASCII letters (an HTTP method), so that a listener can
/// tell the transports apart by the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of a client; body [`Connect`]; channel 0.
    Connect = 0x01,
    /// Its answer; body [`Connected`]; channel 0.
    Connected = 0x02,
    /// Logs an account in on a channel; body [`Open`]; channel 1 to 65535.
    Open = 0x03,
    /// Its answer; body [`Opened`].
    Opened = 0x04,
    /// Ends a channel, either way; body [`Close`].
    Close = 0x05,
    /// A message. Client to server body [`Submit`], server to client body [`Delivery`]; opaque to the gateway.
    Data = 0x06,
    /// Client to server: eight bytes, the highest sync id received without a gap. Server to client: body
    /// [`SubmitResult`].
    Ack = 0x07,
    /// Client to server: eight bytes, deliver again from behind this sync id.
    Sync = 0x08,
    /// Heartbeat, up to 16 opaque bytes; channel 0.
    Ping = 0x09,
    /// Its answer with the same bytes.
    Pong = 0x0a,
    /// The server asks the client to come back later or elsewhere; body [`GoAway`]; channel 0.
    GoAway = 0x0b,
    /// The connection is about to be closed by the server; body [`Error`]; channel 0.
    Error = 0x0c,
    /// Client to server: body [`GroupRequest`]. Server to client: body [`GroupAnswer`].
    Group = 0x10,
    /// Server to client: an entry of a group's timeline; body [`GroupDelivery`].
    GroupDelivery = 0x11,
    /// Client to server: positions in groups' timelines; body [`GroupAck`].
    GroupAck = 0x12,
    /// Server to client: conversations the device is behind in; body [`GroupHeads`].
    GroupHeads = 0x13,
    /// Client to server: asks for a range of a timeline; body [`Pull`].
    Pull = 0x14,
    /// Its answer; body [`Pulled`].
    Pulled = 0x15,
    /// The session is in a room from now on; body [`RoomEnter`].
    Enter = 0x18,
    /// Not any more; body [`RoomLeave`].
    Leave = 0x19,
    /// What was said in a room; body [`RoomBatch`].
    Room = 0x1a,
    /// Reliable messages of a room have arrived; body [`RoomAck`].
    RoomAck = 0x1b,
    /// Likes for a room; body [`RoomLike`].
    RoomLike = 0x1c,
    /// Reliable messages of a room are missing; body [`RoomPull`].
    RoomPull = 0x1d,
    /// Its answer; body [`RoomPulled`].
    RoomPulled = 0x1e,
    /// The session is not in a room; body [`RoomRefused`].
    RoomRefused = 0x1f,
    /// An account has read a conversation up to somewhere, either way; body [`ReadMark`].
    Read = 0x28,
    /// Client to server: eight bytes, which version of its read marks a device has. Server to client: body
    /// [`ReadMarks`].
    ReadMarks = 0x29,
    /// Another device of the account has acknowledged; body [`DeviceAck`].
    DeviceAck = 0x2a,
}

/// Kinds of features a client may do without: it passes over those it does not know.
pub const OPTIONAL_KINDS: RangeInclusive<u8> = 0x20..=0x7f;

impl Kind {
    /// The kind a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Connect,
            0x02 => Self::Connected,
            0x03 => Self::Open,
            0x04 => Self::Opened,
            0x05 => Self::Close,
            0x06 => Self::Data,
            0x07 => Self::Ack,
            0x08 => Self::Sync,
            0x09 => Self::Ping,
            0x0a => Self::Pong,
            0x0b => Self::GoAway,
            0x0c => Self::Error,
            0x10 => Self::Group,
            0x11 => Self::GroupDelivery,
            0x12 => Self::GroupAck,
            0x13 => Self::GroupHeads,
            0x14 => Self::Pull,
            0x15 => Self::Pulled,
            0x18 => Self::Enter,
            0x19 => Self::Leave,
            0x1a => Self::Room,
            0x1b => Self::RoomAck,
            0x1c => Self::RoomLike,
            0x1d => Self::RoomPull,
            0x1e => Self::RoomPulled,
            0x1f => Self::RoomRefused,
            0x28 => Self::Read,
            0x29 => Self::ReadMarks,
            0x2a => Self::DeviceAck,
            _ => return None,
        })
    }

    /// The byte of this kind.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// How much a message matters: the lower, the later it is dropped under pressure. In the low three bits of
/// a header's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Class {
    /// Steers the client: close, kick, goaway, answers. Never dropped while the connection lives.
    Command = 0,
    /// Persisted and delivered until acknowledged; a dropped copy comes again.
    #[default]
    Reliable = 1,
    /// Worth a place in the queue, not worth a second try.
    Normal = 2,
    /// First to go.
    Transient = 3,
}

impl Class {
    /// Bits of the flags byte that hold the class.
    pub const FLAGS_MASK: u8 = 0b111;

    /// The class in a flags byte; unknown ones count as transient.
    #[must_use]
    pub const fn from_flags(flags: u8) -> Self {
        match flags & Self::FLAGS_MASK {
            0 => Self::Command,
            1 => Self::Reliable,
            2 => Self::Normal,
            _ => Self::Transient,
        }
    }

    /// The flags byte of a frame of this class.
    #[must_use]
    pub const fn flags(self) -> u8 {
        self as u8
    }
}

/// Longest body the server accepts for a kind byte, where DATA may have `data_bytes_max`.
#[must_use]
pub const fn body_bytes_max(kind: u8, data_bytes_max: u32) -> u32 {
    match Kind::from_byte(kind) {
        Some(Kind::Data | Kind::Group) => data_bytes_max,
        Some(Kind::Ping | Kind::Pong) => limits::PING_BODY_BYTES_MAX,
        _ => limits::CONTROL_BODY_BYTES_MAX,
    }
}

/// Appends a frame with a body that is already bytes.
pub fn put(out: &mut impl BufMut, kind: Kind, class: Class, channel: u16, body: &[u8]) {
    put_frame(out, kind.byte(), class.flags(), channel, body);
}

/// Appends a control frame with a protobuf body, class command.
pub fn put_control<M: prost::Message>(out: &mut impl BufMut, kind: Kind, channel: u16, body: &M) {
    put_message(out, kind.byte(), Class::Command.flags(), channel, body);
}

/// Appends an ACK or SYNC of the client: a sync id in eight bytes.
pub fn put_sync_id(out: &mut impl BufMut, kind: Kind, channel: u16, sync_id: u64) {
    put_frame(out, kind.byte(), Class::Command.flags(), channel, &sync_id.to_be_bytes());
}

/// The sync id in the body of a client's ACK or SYNC; `None` when it is not eight bytes.
#[must_use]
pub fn sync_id(body: &[u8]) -> Option<u64> {
    body.try_into().ok().map(u64::from_be_bytes)
}

/// A [`FrameReader`] for a client.
#[must_use]
pub fn frame_reader() -> FrameReader {
    FrameReader::new(limits::SERVER_BODY_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_its_byte_and_none_looks_like_another_transport() {
        for byte in 0..=u8::MAX {
            if let Some(kind) = Kind::from_byte(byte) {
                assert_eq!(kind.byte(), byte);
                assert!(byte != 0x16 && !byte.is_ascii_alphabetic());
            }
        }
    }

    #[test]
    fn classes_survive_flags_and_unknown_ones_are_cheapest() {
        for class in [Class::Command, Class::Reliable, Class::Normal, Class::Transient] {
            assert_eq!(Class::from_flags(class.flags()), class);
        }
        assert_eq!(Class::from_flags(7), Class::Transient);
    }

    #[test]
    fn only_data_may_be_large() {
        assert_eq!(body_bytes_max(Kind::Data.byte(), 1000), 1000);
        assert_eq!(body_bytes_max(Kind::Ping.byte(), 1000), limits::PING_BODY_BYTES_MAX);
        assert_eq!(body_bytes_max(0xff, 1 << 20), limits::CONTROL_BODY_BYTES_MAX);
    }
}
