//! Messages to everybody in a room, and how they are put together without being encoded again.
//!
//! The router encodes each message once, as a [`RoomMessage`]. It travels to the gateways' workers as a record of a
//! [`RoomPush`], beside what must be known about it without decoding, and from there to the clients as an element of a
//! [`RoomBatch`]: repeated fields lie behind each other, so a batch is made by copying. Which records a batch takes is
//! the worker's to decide.
//!
//! [`RoomBatch`]: crate::client::RoomBatch

use bytes::BufMut;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::client::{Class, Kind, RoomMessage};
use crate::frame::{HEADER_BYTES, Header};
use crate::internal::{Cursor, LayoutError, Verb, put_header, short_length};
use crate::limits::{APP_BYTES_MAX, CLIENT_BODY_BYTES_MAX, ROOM_BYTES_MAX, SERVER_BODY_BYTES_MAX};

/// Numbers of `RoomBatch`'s fields; a test compares them with the generated code.
const ROOM: u32 = 1;
const MESSAGES: u32 = 2;
const DROPPED: u32 = 3;
const NEWEST_ID: u32 = 4;
const ONLINE: u32 = 5;
const LIKES: u32 = 6;

/// Longest batch body from which on another message goes into the next frame, bytes.
pub const BATCH_BYTES_MAX: usize = CLIENT_BODY_BYTES_MAX as usize;
/// What a batch has around its messages at most: name, counts, and the head of each message's field.
const BATCH_WRAPPING_BYTES: usize = ROOM_BYTES_MAX + 64;
/// Longest message of a room as it is encoded, bytes: a payload of the largest size with its names and marks.
pub const ROOM_MESSAGE_BYTES_MAX: usize = CLIENT_BODY_BYTES_MAX as usize + 384;

// A single message fits a frame, whatever it is.
const _: () = assert!(ROOM_MESSAGE_BYTES_MAX + BATCH_WRAPPING_BYTES <= SERVER_BODY_BYTES_MAX as usize);
const _: () = assert!(BATCH_BYTES_MAX + BATCH_WRAPPING_BYTES <= SERVER_BODY_BYTES_MAX as usize);

/// What is known of a room beside its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomState {
    /// Id of its newest reliable message.
    pub newest_id: u64,
    /// Likes since it was last empty.
    pub likes: u64,
    /// Sessions in it.
    pub online: u32,
}

/// Within what time a member acknowledges what everybody in its room got in the same instant, at a random moment,
/// milliseconds: up to 200,000 of them send no more than 10,000 acknowledgements a second together, and one of them is for
/// all that came meanwhile. Nobody waits for them: whoever has missed something learns so from the next batch.
#[must_use]
pub fn ack_spread_ms(online: u32) -> u64 {
    (u64::from(online) / ACKS_PER_MS).clamp(ACK_SPREAD_MS_MIN, ACK_SPREAD_MS_MAX)
}

const ACKS_PER_MS: u64 = 10;
/// [`ack_spread_ms`] of a small room.
pub const ACK_SPREAD_MS_MIN: u64 = 400;
/// And of the largest, whose members are on many gateways.
const ACK_SPREAD_MS_MAX: u64 = 20_000;

/// `ROOM_PUSH`: what was said in a room, for one worker's members.
///
/// ```text
/// app_len u8 | room_len u8 | 0 u16 | online u32 | newest_id u64 | likes u64 | dropped u64 | app | room | records
/// record: length u32 | class u8 | 0 u8 ×3 | id u64 | RoomMessage
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomPush<'a> {
    /// App.
    pub app: &'a str,
    /// Room.
    pub room: &'a str,
    /// What is known of it.
    pub state: RoomState,
    /// Droppable messages that were left out.
    pub dropped: u64,
    /// The records, back to back.
    pub records: &'a [u8],
}

/// One message of a [`RoomPush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is worth.
    pub class: Class,
    /// Reliable messages: their id; else 0.
    pub id: u64,
    /// The encoded [`RoomMessage`].
    pub message: &'a [u8],
}

const RECORD_HEAD_BYTES: usize = 16;

impl Record<'_> {
    /// Bytes it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.message.len()
    }

    /// Appends it.
    ///
    /// # Panics
    /// When the message is longer than 4 GiB; the limits are far below.
    pub fn put(&self, out: &mut impl BufMut) {
        put_record_head(out, self.class, self.id, self.message.len());
        out.put_slice(self.message);
    }
}

impl<'a> RoomPush<'a> {
    const FIXED_BYTES: usize = 32;
    /// Bytes beside the records at most.
    pub const HEAD_BYTES_MAX: usize = Self::FIXED_BYTES + APP_BYTES_MAX + ROOM_BYTES_MAX;

    /// Appends the whole frame.
    ///
    /// # Panics
    /// When a name is longer than 255 bytes, which the limits exclude.
    pub fn put(&self, out: &mut impl BufMut) {
        let names = self.app.len() + self.room.len();
        put_header(out, Verb::RoomPush, 0, Self::FIXED_BYTES + names + self.records.len());
        out.put_slice(&[short_length(self.app), short_length(self.room), 0, 0]);
        out.put_u32(self.state.online);
        out.put_u64(self.state.newest_id);
        out.put_u64(self.state.likes);
        out.put_u64(self.dropped);
        out.put_slice(self.app.as_bytes());
        out.put_slice(self.room.as_bytes());
        out.put_slice(self.records);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short, a name is not UTF-8 or a record is not whole.
    pub fn parse(body: &'a [u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor { rest: body, verb: Verb::RoomPush };
        let [app, room, ..] = cursor.bytes::<4>()?;
        let online = u32::from_be_bytes(cursor.bytes::<4>()?);
        let (newest_id, likes, dropped) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let (app, room) = (cursor.text(app)?, cursor.text(room)?);
        let push =
            Self { app, room, state: RoomState { newest_id, likes, online }, dropped, records: cursor.rest };
        let mut records = push.records();
        records.by_ref().for_each(drop);
        if records.rest.is_empty() { Ok(push) } else { Err(LayoutError { verb: Verb::RoomPush }) }
    }

    /// The records, in order.
    #[must_use]
    pub const fn records(&self) -> Records<'a> {
        Records { rest: self.records }
    }
}

/// Appends a record.
///
/// # Panics
/// When the message is longer than 4 GiB; the limits are far below.
pub fn put_record(out: &mut impl BufMut, class: Class, message: &RoomMessage) {
    put_record_head(out, class, message.id, message.encoded_len());
    message.encode_raw(out);
}

fn put_record_head(out: &mut impl BufMut, class: Class, id: u64, length: usize) {
    out.put_u32(u32::try_from(length).expect("a message is bounded far below 4 GiB"));
    out.put_slice(&[class.flags(), 0, 0, 0]);
    out.put_u64(id);
}

/// Records back to back. Ends at the first that is not whole.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Those in these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (head, tail) = self.rest.split_first_chunk::<RECORD_HEAD_BYTES>()?;
        let [l0, l1, l2, l3, class, _, _, _, id @ ..] = *head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let (message, rest) = tail.split_at_checked(length)?;
        self.rest = rest;
        Some(Record { class: Class::from_flags(class), id: u64::from_be_bytes(id), message })
    }
}

/// Puts messages together to ROOM frames, on channel 0, as many as are needed.
#[derive(Debug)]
pub struct BatchWriter<'a> {
    out: &'a mut Vec<u8>,
    room: &'a str,
    state: RoomState,
    dropped: u64,
    /// Where the frame being written begins; `None`: none is.
    frame: Option<usize>,
    class: Class,
}

impl<'a> BatchWriter<'a> {
    /// Frames of a room, behind what is in `out`.
    #[must_use]
    pub const fn new(out: &'a mut Vec<u8>, room: &'a str, state: RoomState, dropped: u64) -> Self {
        Self { out, room, state, dropped, frame: None, class: Class::Transient }
    }

    /// Adds an encoded [`RoomMessage`]. A frame is as droppable as the least droppable message in it, but never so
    /// little that a client who does not read would be closed for it: reliable messages come again.
    pub fn put(&mut self, class: Class, message: &[u8]) {
        let bytes = key_len(MESSAGES) + encoded_len_varint(message.len() as u64) + message.len();
        if self.frame.is_some_and(|start| self.out.len() - start + bytes > BATCH_BYTES_MAX) {
            self.end_frame();
        }
        self.begin_frame();
        self.class = self.class.min(class).max(Class::Normal);
        encode_key(MESSAGES, WireType::LengthDelimited, self.out);
        encode_varint(message.len() as u64, self.out);
        self.out.extend_from_slice(message);
    }

    /// Ends the last frame. Without a message there is one that tells the state.
    pub fn finish(mut self) {
        self.begin_frame();
        self.end_frame();
    }

    fn begin_frame(&mut self) {
        if self.frame.is_some() {
            return;
        }
        self.frame = Some(self.out.len());
        self.class = Class::Transient;
        self.out.extend_from_slice(&[0; HEADER_BYTES]);
        encode_key(ROOM, WireType::LengthDelimited, self.out);
        encode_varint(self.room.len() as u64, self.out);
        self.out.extend_from_slice(self.room.as_bytes());
    }

    fn end_frame(&mut self) {
        let Some(start) = self.frame.take() else { return };
        let numbers = [
            // Told once.
            (DROPPED, std::mem::take(&mut self.dropped)),
            (NEWEST_ID, self.state.newest_id),
            (ONLINE, u64::from(self.state.online)),
            (LIKES, self.state.likes),
        ];
        for (field, value) in numbers {
            if value > 0 {
                encode_key(field, WireType::Varint, self.out);
                encode_varint(value, self.out);
            }
        }
        let length = u32::try_from(self.out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
        let header = Header { kind: Kind::Room.byte(), flags: self.class.flags(), channel: 0, length };
        if let Some(head) = self.out[start..].first_chunk_mut() {
            *head = header.to_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::RoomBatch;
    use crate::frame::{Split, split};
    use crate::limits::INTERNAL_BODY_BYTES_MAX;
    use proptest::prelude::*;

    fn message(number: u64, bytes: usize) -> RoomMessage {
        RoomMessage {
            from: "alice".into(),
            r#type: 3,
            client_id: number.to_be_bytes().to_vec().into(),
            sent_at_ms: 5,
            payload: vec![7; bytes].into(),
            id: number % 3,
            marks: None,
        }
    }

    fn batches(mut frames: &[u8]) -> Vec<(Class, RoomBatch)> {
        let mut seen = Vec::new();
        while let Ok(Split::Frame { header, body, rest }) = split(frames, |_| SERVER_BODY_BYTES_MAX) {
            assert_eq!((header.kind, header.channel), (Kind::Room.byte(), 0));
            seen.push((Class::from_flags(header.flags), RoomBatch::decode(body).unwrap()));
            frames = rest;
        }
        assert!(frames.is_empty());
        seen
    }

    #[test]
    fn a_batch_put_together_is_what_the_generated_code_would_have_written() {
        let messages = vec![message(1, 10), message(2, 0)];
        let state = RoomState { newest_id: 9, likes: 300, online: 200_000 };
        let mut out = Vec::new();
        let mut writer = BatchWriter::new(&mut out, "live", state, 4);
        writer.put(Class::Transient, &messages[0].encode_to_vec());
        writer.put(Class::Reliable, &messages[1].encode_to_vec());
        writer.finish();
        let whole = RoomBatch {
            room: "live".into(),
            messages,
            dropped: 4,
            newest_id: 9,
            online: 200_000,
            likes: 300,
        };
        assert_eq!(out[HEADER_BYTES..], whole.encode_to_vec());
        assert_eq!(batches(&out), [(Class::Normal, whole)]);
    }

    #[test]
    fn what_does_not_fit_a_frame_goes_into_the_next_and_state_alone_is_one() {
        let mut out = Vec::new();
        let largest = message(1, CLIENT_BODY_BYTES_MAX as usize);
        let mut writer = BatchWriter::new(&mut out, "live", RoomState::default(), 2);
        for message in [&message(2, 10), &largest, &message(3, 10), &message(4, 10)] {
            writer.put(Class::Normal, &message.encode_to_vec());
        }
        writer.finish();
        let seen: Vec<_> = batches(&out).iter().map(|(_, b)| (b.messages.len(), b.dropped)).collect();
        assert_eq!(seen, [(1, 2), (1, 0), (2, 0)]);
        out.clear();
        BatchWriter::new(&mut out, "live", RoomState { online: 1, ..RoomState::default() }, 0).finish();
        let state = batches(&out);
        assert_eq!((state.len(), state[0].0, state[0].1.online), (1, Class::Transient, 1));
    }

    proptest! {
        #[test]
        fn the_layout_survives(
            app in "[a-z]{1,64}", room in "\\PC{1,32}", dropped: u64, newest_id: u64, likes: u64, online: u32,
            lengths in prop::collection::vec(0usize..300, 0..6),
        ) {
            let mut records = Vec::new();
            let messages: Vec<_> = (0..).zip(&lengths).map(|(number, bytes)| message(number, *bytes)).collect();
            for message in &messages {
                put_record(&mut records, Class::Reliable, message);
            }
            let state = RoomState { newest_id, likes, online };
            let push = RoomPush { app: &app, room: &room, state, dropped, records: &records };
            let mut out = Vec::new();
            push.put(&mut out);
            let Ok(Split::Frame { body, .. }) = split(&out, |_| INTERNAL_BODY_BYTES_MAX) else { panic!() };
            let parsed = RoomPush::parse(body).unwrap();
            prop_assert_eq!(parsed, push);
            let seen: Vec<_> = parsed.records().map(|r| RoomMessage::decode(r.message).unwrap()).collect();
            prop_assert_eq!(seen, messages);
            // Cut anywhere it is an error or has fewer records, never a panic.
            for end in 0..body.len() {
                if let Ok(cut) = RoomPush::parse(&body[..end]) {
                    prop_assert!(cut.records().count() < lengths.len());
                }
            }
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(push) = RoomPush::parse(&bytes) {
                push.records().for_each(drop);
            }
        }
    }
}
