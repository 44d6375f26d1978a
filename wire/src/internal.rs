//! The internal protocol: gateway worker to router, backend service to router or gateway.
//!
//! Every frame has the header of [`crate::frame`]. Control verbs carry protobuf; the verbs on the path of a
//! message have a fixed layout, so that a gateway touches no protobuf and allocates nothing per message.

use bytes::BufMut;

use crate::Code;
use crate::client::{Class, Kind};
use crate::frame::{FrameReader, HEADER_BYTES, Header, put_message};
use crate::limits::{
    ACCOUNT_BYTES_MAX, APP_BYTES_MAX, DEVICE_BYTES_MAX, INTERNAL_BODY_BYTES_MAX, PUSH_MANY_SESSIONS_MAX,
    SERVER_BODY_BYTES_MAX,
};
pub use crate::proto::moor::internal::v1::{
    Degrade, Departure, Failure, Group, GroupResult, Hello, History, HistoryResult, Kick, Location, Lookup,
    LookupResult, Receipt, Register, Registered, Registration, Role, RoomCount, RoomCounts, RoomPublish,
    RoomStats, RoomStatsResult, Send, SendResult, Stat, Stats, StatsResult, Subscribe, Unregister, Welcome,
};
use crate::session::SessionHandle;

/// Kind of an internal frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verb {
    /// First frame of whoever connects; body [`Hello`].
    Hello = 0x01,
    /// Its answer; body [`Welcome`].
    Welcome = 0x02,
    /// Keeps the connection and the lease; empty body.
    Ping = 0x03,
    /// Its answer; empty body.
    Pong = 0x04,
    /// The connection is about to be closed; body [`Failure`].
    Failure = 0x05,
    /// Gateway to router; body [`Register`].
    Register = 0x10,
    /// Router to gateway; body [`Registered`].
    Registered = 0x11,
    /// Gateway to router; body [`Unregister`].
    Unregister = 0x12,
    /// Gateway to router: every session of this worker has been announced on this link; empty body.
    Synced = 0x13,
    /// Gateway to router: a client's frame; layout [`Up`].
    Up = 0x20,
    /// Router or service to gateway: a frame for one session; layout [`Push`].
    Push = 0x21,
    /// Gateway to router: sessions that are gone; layout [`NotHere`], repeated.
    NotHere = 0x22,
    /// Service to gateway or router: a frame for every session of an account; layout [`PushAccount`].
    PushAccount = 0x23,
    /// Answer to PUSH (when asked for), PUSH_ACCOUNT, BROADCAST, KICK and SUBSCRIBE; layout [`Outcome`].
    Outcome = 0x24,
    /// Service to gateway: a frame for every session of an app; layout [`Broadcast`].
    Broadcast = 0x25,
    /// Router to gateway: one frame for many sessions; layout [`PushMany`].
    PushMany = 0x26,
    /// Service to router; body [`Send`].
    Send = 0x30,
    /// Its answer; body [`SendResult`].
    SendResult = 0x31,
    /// Service to router or gateway; body [`Lookup`].
    Lookup = 0x32,
    /// Its answer; body [`LookupResult`].
    LookupResult = 0x33,
    /// Service to router or gateway, router to gateway; body [`Kick`].
    Kick = 0x34,
    /// Service to router or gateway; body [`Stats`].
    Stats = 0x35,
    /// Its answer; body [`StatsResult`].
    StatsResult = 0x36,
    /// Service to router; body [`Subscribe`]; answered with [`Outcome`].
    Subscribe = 0x37,
    /// Router to service; body [`Receipt`].
    Receipt = 0x38,
    /// Service to router; body [`Group`].
    Group = 0x40,
    /// Its answer; body [`GroupResult`].
    GroupResult = 0x41,
    /// Service to router; body [`History`].
    History = 0x42,
    /// Its answer; body [`HistoryResult`].
    HistoryResult = 0x43,
    /// Gateway to router; body [`RoomCounts`].
    RoomCount = 0x50,
    /// Router to gateway: messages for a room's members; layout [`crate::rooms::RoomPush`].
    RoomPush = 0x51,
    /// Service to router; body [`RoomPublish`]; answered with [`SendResult`].
    RoomPublish = 0x52,
    /// Service to router; body [`RoomStats`].
    RoomStats = 0x53,
    /// Its answer; body [`RoomStatsResult`].
    RoomStatsResult = 0x54,
    /// Service to router; body [`Degrade`]; answered with [`Outcome`].
    Degrade = 0x68,
}

impl Verb {
    /// The verb a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Hello,
            0x02 => Self::Welcome,
            0x03 => Self::Ping,
            0x04 => Self::Pong,
            0x05 => Self::Failure,
            0x10 => Self::Register,
            0x11 => Self::Registered,
            0x12 => Self::Unregister,
            0x13 => Self::Synced,
            0x20 => Self::Up,
            0x21 => Self::Push,
            0x22 => Self::NotHere,
            0x23 => Self::PushAccount,
            0x24 => Self::Outcome,
            0x25 => Self::Broadcast,
            0x26 => Self::PushMany,
            0x30 => Self::Send,
            0x31 => Self::SendResult,
            0x32 => Self::Lookup,
            0x33 => Self::LookupResult,
            0x34 => Self::Kick,
            0x35 => Self::Stats,
            0x36 => Self::StatsResult,
            0x37 => Self::Subscribe,
            0x38 => Self::Receipt,
            0x40 => Self::Group,
            0x41 => Self::GroupResult,
            0x42 => Self::History,
            0x43 => Self::HistoryResult,
            0x50 => Self::RoomCount,
            0x51 => Self::RoomPush,
            0x52 => Self::RoomPublish,
            0x53 => Self::RoomStats,
            0x54 => Self::RoomStatsResult,
            0x68 => Self::Degrade,
            _ => return None,
        })
    }

    /// The byte of this verb.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// Header flag of PUSH and BROADCAST: answer with an [`Outcome`] in any case. Without it only a PUSH that missed is
/// answered, with NOT_HERE.
pub const FLAG_WANT_OUTCOME: u8 = 0b1000_0000;

/// Why a service may not push this to clients, if it may not: it brings them messages, and does not speak for the gateway or
/// the router. `None`: it may.
#[must_use]
pub const fn refusal_of_pushed(kind: u8, body: &[u8]) -> Option<Code> {
    if kind != Kind::Data.byte() {
        Some(Code::Invalid)
    } else if body.len() > SERVER_BODY_BYTES_MAX as usize {
        // Clients would close the connection over it.
        Some(Code::TooLarge)
    } else {
        None
    }
}

/// Appends a frame with a protobuf body.
pub fn put_control<M: prost::Message>(out: &mut impl BufMut, verb: Verb, body: &M) {
    put_message(out, verb.byte(), 0, 0, body);
}

/// Appends a frame with an empty body (PING, PONG, SYNCED).
pub fn put_empty(out: &mut impl BufMut, verb: Verb) {
    put_header(out, verb, 0, 0);
}

/// A [`FrameReader`] for internal frames.
#[must_use]
pub fn frame_reader() -> FrameReader {
    FrameReader::new(INTERNAL_BODY_BYTES_MAX)
}

pub(crate) fn put_header(out: &mut impl BufMut, verb: Verb, flags: u8, body_bytes: usize) {
    let length = u32::try_from(body_bytes).expect("internal bodies are bounded far below 4 GiB");
    out.put_slice(&Header { kind: verb.byte(), flags, channel: 0, length }.to_bytes());
}

/// A body too short for its layout, or with a name that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body of {verb:?} does not have the layout of that verb")]
pub struct LayoutError {
    /// Whose body it was.
    pub verb: Verb,
}

/// Takes fixed parts off the front of a body.
pub(crate) struct Cursor<'a> {
    pub(crate) rest: &'a [u8],
    pub(crate) verb: Verb,
}

impl<'a> Cursor<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(LayoutError { verb: self.verb })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, LayoutError> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(crate) fn text(&mut self, length: u8) -> Result<&'a str, LayoutError> {
        let (head, rest) =
            self.rest.split_at_checked(usize::from(length)).ok_or(LayoutError { verb: self.verb })?;
        self.rest = rest;
        std::str::from_utf8(head).map_err(|_| LayoutError { verb: self.verb })
    }
}

pub(crate) fn short_length(name: &str) -> u8 {
    u8::try_from(name.len()).expect("names are checked against limits below 256 bytes")
}

/// Longest part of an UP frame before the client's body, bytes: header, fixed part and names.
pub const UP_HEAD_BYTES_MAX: usize =
    HEADER_BYTES + Up::FIXED_BYTES + APP_BYTES_MAX + ACCOUNT_BYTES_MAX + DEVICE_BYTES_MAX;

/// UP: a client's DATA, ACK or SYNC on its way to the router, with who sent it.
///
/// ```text
/// session u64 | kind u8 | flags u8 | app_len u8 | account_len u8 | device_len u8 | 0 u8 ×3 | app | account | device | body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Up<'a> {
    /// The session that sent it: where an answer goes.
    pub session: SessionHandle,
    /// Kind byte of the client frame.
    pub kind: u8,
    /// Flags byte of the client frame.
    pub flags: u8,
    /// App of the channel.
    pub app: &'a str,
    /// Account of the channel.
    pub account: &'a str,
    /// Device of the connection.
    pub device: &'a str,
    /// Body of the client frame, untouched.
    pub body: &'a [u8],
}

impl<'a> Up<'a> {
    const FIXED_BYTES: usize = 16;

    /// Appends the whole frame.
    ///
    /// # Panics
    /// When a name is longer than 255 bytes, which the limits exclude.
    pub fn put(&self, out: &mut impl BufMut) {
        self.put_head(out);
        out.put_slice(self.body);
    }

    /// Writes what comes before the body, which is to follow; returns it.
    ///
    /// # Panics
    /// When a name is longer than the limits allow.
    pub fn write_head<'b>(&self, head: &'b mut [u8; UP_HEAD_BYTES_MAX]) -> &'b [u8] {
        let mut out = &mut head[..];
        self.put_head(&mut out);
        let left = out.len();
        &head[..UP_HEAD_BYTES_MAX - left]
    }

    fn put_head(&self, out: &mut impl BufMut) {
        let names = self.app.len() + self.account.len() + self.device.len();
        put_header(out, Verb::Up, 0, Self::FIXED_BYTES + names + self.body.len());
        out.put_u64(self.session.0);
        out.put_slice(&[
            self.kind,
            self.flags,
            short_length(self.app),
            short_length(self.account),
            short_length(self.device),
            0,
            0,
            0,
        ]);
        out.put_slice(self.app.as_bytes());
        out.put_slice(self.account.as_bytes());
        out.put_slice(self.device.as_bytes());
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short or a name is not UTF-8.
    pub fn parse(body: &'a [u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor { rest: body, verb: Verb::Up };
        let session = SessionHandle(cursor.u64()?);
        let [kind, flags, app, account, device, ..] = cursor.bytes::<8>()?;
        Ok(Self {
            session,
            kind,
            flags,
            app: cursor.text(app)?,
            account: cursor.text(account)?,
            device: cursor.text(device)?,
            body: cursor.rest,
        })
    }
}

/// PUSH: a frame for one session.
///
/// ```text
/// cookie u64 | session u64 | kind u8 | flags u8 | 0 u16 | body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push<'a> {
    /// Comes back in NOT_HERE or OUTCOME; the sender's own meaning.
    pub cookie: u64,
    /// Whom it is for.
    pub session: SessionHandle,
    /// Kind of the client frame to send.
    pub kind: u8,
    /// Flags (class) of the client frame to send.
    pub flags: u8,
    /// Its body, untouched.
    pub body: &'a [u8],
}

impl<'a> Push<'a> {
    /// Bytes before the body.
    pub const FIXED_BYTES: usize = 20;

    /// A push of `body` as DATA of a class.
    #[must_use]
    pub const fn data(cookie: u64, session: SessionHandle, class: Class, body: &'a [u8]) -> Self {
        Self { cookie, session, kind: Kind::Data.byte(), flags: class.flags(), body }
    }

    /// Appends the whole frame; `want_outcome` asks for an answer in any case.
    pub fn put(&self, out: &mut impl BufMut, want_outcome: bool) {
        let flags = if want_outcome { FLAG_WANT_OUTCOME } else { 0 };
        put_header(out, Verb::Push, flags, Self::FIXED_BYTES + self.body.len());
        out.put_u64(self.cookie);
        out.put_u64(self.session.0);
        out.put_slice(&[self.kind, self.flags, 0, 0]);
        out.put_slice(self.body);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short.
    pub fn parse(body: &'a [u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor { rest: body, verb: Verb::Push };
        let cookie = cursor.u64()?;
        let session = SessionHandle(cursor.u64()?);
        let [kind, flags, ..] = cursor.bytes::<4>()?;
        Ok(Self { cookie, session, kind, flags, body: cursor.rest })
    }
}

/// PUSH_MANY: one frame for many sessions of a gateway's worker. Whoever is not here is named in NOT_HERE, with the
/// cookie that stands beside it.
///
/// ```text
/// kind u8 | flags u8 | count u16 | cookie u64, session u64: count times | body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushMany<'a> {
    /// Kind of the client frame to send.
    pub kind: u8,
    /// Flags (class) of the client frame to send.
    pub flags: u8,
    /// Its body, untouched.
    pub body: &'a [u8],
    targets: &'a [[u8; NotHere::BYTES]],
}

impl<'a> PushMany<'a> {
    const FIXED_BYTES: usize = 4;

    /// Appends the whole frame, for [`PUSH_MANY_SESSIONS_MAX`] sessions at most.
    ///
    /// # Panics
    /// When there are more.
    pub fn put<T>(out: &mut impl BufMut, kind: u8, flags: u8, targets: T, body: &[u8])
    where
        T: ExactSizeIterator<Item = (u64, SessionHandle)>,
    {
        let count = targets.len();
        assert!(count <= PUSH_MANY_SESSIONS_MAX, "{count} sessions in one frame");
        put_header(out, Verb::PushMany, 0, Self::FIXED_BYTES + count * NotHere::BYTES + body.len());
        out.put_slice(&[kind, flags]);
        out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
        for (cookie, session) in targets {
            out.put_u64(cookie);
            out.put_u64(session.0);
        }
        out.put_slice(body);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short, or for too many sessions.
    pub fn parse(body: &'a [u8]) -> Result<Self, LayoutError> {
        let wrong = LayoutError { verb: Verb::PushMany };
        let mut cursor = Cursor { rest: body, verb: Verb::PushMany };
        let [kind, flags, high, low] = cursor.bytes::<4>()?;
        let count = usize::from(u16::from_be_bytes([high, low]));
        let (targets, body) = cursor.rest.split_at_checked(count * NotHere::BYTES).ok_or(wrong)?;
        if count > PUSH_MANY_SESSIONS_MAX {
            return Err(wrong);
        }
        Ok(Self { kind, flags, body, targets: targets.as_chunks().0 })
    }

    /// The frame as a push to each of its sessions.
    pub fn pushes(&self) -> impl Iterator<Item = Push<'a>> {
        let Self { kind, flags, body, targets } = *self;
        targets.iter().map(move |target| {
            let NotHere { cookie, session } = NotHere::from_bytes(target);
            Push { cookie, session, kind, flags, body }
        })
    }
}

/// PUSH_ACCOUNT: a frame for every session of an account that the receiver knows.
///
/// ```text
/// cookie u64 | kind u8 | flags u8 | app_len u8 | account_len u8 | app | account | body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushAccount<'a> {
    /// Comes back in OUTCOME.
    pub cookie: u64,
    /// Kind of the client frame to send.
    pub kind: u8,
    /// Flags (class) of the client frame to send.
    pub flags: u8,
    /// App.
    pub app: &'a str,
    /// Account.
    pub account: &'a str,
    /// Its body, untouched.
    pub body: &'a [u8],
}

impl<'a> PushAccount<'a> {
    const FIXED_BYTES: usize = 12;

    /// Appends the whole frame.
    ///
    /// # Panics
    /// When a name is longer than 255 bytes, which the limits exclude.
    pub fn put(&self, out: &mut impl BufMut) {
        let names = self.app.len() + self.account.len();
        put_header(out, Verb::PushAccount, 0, Self::FIXED_BYTES + names + self.body.len());
        out.put_u64(self.cookie);
        out.put_slice(&[self.kind, self.flags, short_length(self.app), short_length(self.account)]);
        out.put_slice(self.app.as_bytes());
        out.put_slice(self.account.as_bytes());
        out.put_slice(self.body);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short or a name is not UTF-8.
    pub fn parse(body: &'a [u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor { rest: body, verb: Verb::PushAccount };
        let cookie = cursor.u64()?;
        let [kind, flags, app, account] = cursor.bytes::<4>()?;
        Ok(Self {
            cookie,
            kind,
            flags,
            app: cursor.text(app)?,
            account: cursor.text(account)?,
            body: cursor.rest,
        })
    }
}

/// BROADCAST: a frame for every session of an app on the gateway. With [`FLAG_WANT_OUTCOME`] an OUTCOME tells how
/// many it was queued for.
///
/// ```text
/// cookie u64 | kind u8 | flags u8 | app_len u8 | 0 u8 | app | body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broadcast<'a> {
    /// Comes back in OUTCOME.
    pub cookie: u64,
    /// Kind of the client frame to send.
    pub kind: u8,
    /// Flags (class) of the client frame to send.
    pub flags: u8,
    /// App.
    pub app: &'a str,
    /// Its body, untouched.
    pub body: &'a [u8],
}

impl<'a> Broadcast<'a> {
    const FIXED_BYTES: usize = 12;

    /// Appends the whole frame; `want_outcome` asks for an answer.
    ///
    /// # Panics
    /// When the name is longer than 255 bytes, which the limits exclude.
    pub fn put(&self, out: &mut impl BufMut, want_outcome: bool) {
        let flags = if want_outcome { FLAG_WANT_OUTCOME } else { 0 };
        put_header(out, Verb::Broadcast, flags, Self::FIXED_BYTES + self.app.len() + self.body.len());
        out.put_u64(self.cookie);
        out.put_slice(&[self.kind, self.flags, short_length(self.app), 0]);
        out.put_slice(self.app.as_bytes());
        out.put_slice(self.body);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short or the name is not UTF-8.
    pub fn parse(body: &'a [u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor { rest: body, verb: Verb::Broadcast };
        let cookie = cursor.u64()?;
        let [kind, flags, app, _] = cursor.bytes::<4>()?;
        Ok(Self { cookie, kind, flags, app: cursor.text(app)?, body: cursor.rest })
    }
}

/// One entry of NOT_HERE, whose body is a sequence of them: `cookie u64 | session u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHere {
    /// The cookie of the push that missed.
    pub cookie: u64,
    /// The session that is not here.
    pub session: SessionHandle,
}

impl NotHere {
    const BYTES: usize = 16;

    /// Appends a frame with one entry.
    pub fn put(&self, out: &mut impl BufMut) {
        put_header(out, Verb::NotHere, 0, Self::BYTES);
        out.put_u64(self.cookie);
        out.put_u64(self.session.0);
    }

    /// The entries in a body.
    ///
    /// # Errors
    /// [`LayoutError`] when the length is not a multiple of an entry's.
    pub fn parse(body: &[u8]) -> Result<impl Iterator<Item = Self> + '_, LayoutError> {
        let (entries, rest) = body.as_chunks::<{ Self::BYTES }>();
        if !rest.is_empty() {
            return Err(LayoutError { verb: Verb::NotHere });
        }
        Ok(entries.iter().map(Self::from_bytes))
    }

    fn from_bytes(entry: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, s @ ..] = *entry;
        Self {
            cookie: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            session: SessionHandle(u64::from_be_bytes(s)),
        }
    }
}

/// OUTCOME: what became of a push or a kick: `cookie u64 | code u16 | 0 u16 | reached u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The cookie of the request.
    pub cookie: u64,
    /// What became of it.
    pub code: Code,
    /// Sessions it reached: queued for sending to that many.
    pub reached: u32,
}

impl Outcome {
    const BYTES: usize = 16;

    /// Appends the whole frame.
    pub fn put(&self, out: &mut impl BufMut) {
        put_header(out, Verb::Outcome, 0, Self::BYTES);
        out.put_u64(self.cookie);
        out.put_u16(u16::try_from(self.code as i32).unwrap_or(Code::Internal as u16));
        out.put_u16(0);
        out.put_u32(self.reached);
    }

    /// Reads the body of a frame; a code this side does not know reads as INTERNAL.
    ///
    /// # Errors
    /// [`LayoutError`] when it is too short.
    pub fn parse(body: &[u8]) -> Result<Self, LayoutError> {
        let mut cursor = Cursor { rest: body, verb: Verb::Outcome };
        let cookie = cursor.u64()?;
        let [c0, c1, _, _] = cursor.bytes::<4>()?;
        let reached = u32::from_be_bytes(cursor.bytes::<4>()?);
        let code = Code::try_from(i32::from(u16::from_be_bytes([c0, c1]))).unwrap_or(Code::Internal);
        Ok(Self { cookie, code, reached })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Split, split};
    use proptest::prelude::*;

    fn body(bytes: &[u8], verb: Verb) -> &[u8] {
        let Split::Frame { header, body, rest } = split(bytes, |_| INTERNAL_BODY_BYTES_MAX).unwrap() else {
            panic!("a whole frame")
        };
        assert_eq!((header.kind, rest.len()), (verb.byte(), 0));
        body
    }

    proptest! {
        #[test]
        fn layouts_survive(
            cookie: u64, session: u64, kind: u8, flags: u8, reached: u32,
            app in "[a-z]{1,64}", account in "\\PC{1,32}", device in "[a-z]{1,128}",
            payload in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let session = SessionHandle(session);
            let up = Up { session, kind, flags, app: &app, account: &account, device: &device, body: &payload };
            let mut out = Vec::new();
            up.put(&mut out);
            prop_assert_eq!(Up::parse(body(&out, Verb::Up)).unwrap(), up);
            let mut head = [0; UP_HEAD_BYTES_MAX];
            prop_assert_eq!([up.write_head(&mut head), &payload].concat(), out.clone());

            let push = Push { cookie, session, kind, flags, body: &payload };
            out.clear();
            push.put(&mut out, true);
            prop_assert_eq!(Push::parse(body(&out, Verb::Push)).unwrap(), push);

            let all = PushAccount { cookie, kind, flags, app: &app, account: &account, body: &payload };
            out.clear();
            all.put(&mut out);
            prop_assert_eq!(PushAccount::parse(body(&out, Verb::PushAccount)).unwrap(), all);

            let everybody = Broadcast { cookie, kind, flags, app: &app, body: &payload };
            out.clear();
            everybody.put(&mut out, true);
            prop_assert_eq!(Broadcast::parse(body(&out, Verb::Broadcast)).unwrap(), everybody);

            out.clear();
            let targets = (0..u64::from(flags)).map(|n| (cookie ^ n, SessionHandle(session.0 ^ n)));
            let targets: Vec<_> = targets.collect();
            PushMany::put(&mut out, kind, flags, targets.iter().copied(), &payload);
            let many = PushMany::parse(body(&out, Verb::PushMany)).unwrap();
            let wanted = targets.into_iter().map(|(cookie, session)| Push { cookie, session, ..push });
            prop_assert!(many.pushes().eq(wanted));

            let gone = NotHere { cookie, session };
            out.clear();
            gone.put(&mut out);
            prop_assert_eq!(NotHere::parse(body(&out, Verb::NotHere)).unwrap().collect::<Vec<_>>(), vec![gone]);

            let outcome = Outcome { cookie, code: Code::NotHere, reached };
            out.clear();
            outcome.put(&mut out);
            prop_assert_eq!(Outcome::parse(body(&out, Verb::Outcome)).unwrap(), outcome);
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            std::hint::black_box(Up::parse(&bytes).is_ok());
            std::hint::black_box(Push::parse(&bytes).is_ok());
            std::hint::black_box(PushMany::parse(&bytes).is_ok());
            std::hint::black_box(PushAccount::parse(&bytes).is_ok());
            std::hint::black_box(Broadcast::parse(&bytes).is_ok());
            std::hint::black_box(NotHere::parse(&bytes).is_ok());
            std::hint::black_box(Outcome::parse(&bytes).is_ok());
        }
    }

    #[test]
    fn a_push_for_more_sessions_than_a_frame_may_name_is_refused() {
        let count = u16::try_from(PUSH_MANY_SESSIONS_MAX).unwrap();
        let of = |count: u16| [&[1, 2], &count.to_be_bytes()[..], &vec![0; usize::from(count) * 16]].concat();
        assert_eq!(PushMany::parse(&of(count)).unwrap().pushes().count(), usize::from(count));
        PushMany::parse(&of(count + 1)).unwrap_err();
        let mut cut = of(count);
        cut.pop();
        PushMany::parse(&cut).unwrap_err();
    }

    #[test]
    fn every_verb_survives_its_byte() {
        for byte in 0..=u8::MAX {
            if let Some(verb) = Verb::from_byte(byte) {
                assert_eq!(verb.byte(), byte);
            }
        }
    }
}
