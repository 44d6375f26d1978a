//! What can be asked and what is answered.

use moor_wire::client::{Act, Class, Delivery, GroupAnswer, GroupRequest, Kind, Pulled, TrafficMarks};
use moor_wire::identity::{check_account, check_app, check_device, check_group, check_room};
use moor_wire::internal::{
    Broadcast, Degrade, Group, History, Kick, Lookup, LookupResult, Push, PushAccount, RoomPublish,
    RoomStats, RoomStatsResult, Send, Stats, Subscribe, Verb, put_control,
};
use moor_wire::limits::{
    CLIENT_BODY_BYTES_MAX, CLIENT_ID_BYTES_MAX, INTERNAL_BODY_BYTES_MAX, LEVEL_MAX, REASON_BYTES_MAX,
    TRAFFIC_MARK_BYTES_MAX,
};
use moor_wire::session::SessionHandle;
use prost::Message;

use super::Error;

/// The answer to SEND.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The id the message was sent under, given or made up.
    pub client_id: Vec<u8>,
    /// Its place in the receiver's timeline.
    pub sync_id: u64,
    /// The router already had this client id.
    pub duplicate: bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Of SEND and `ROOM_PUBLISH`.
    Sent(Sent),
    /// Of LOOKUP.
    Lookup(LookupResult),
    /// Of PUSH, `PUSH_ACCOUNT`, BROADCAST, KICK and SUBSCRIBE: how many sessions it reached.
    Reached(u32),
    /// Of STATS.
    Stats(Vec<(String, u64)>),
    /// Of GROUP.
    Group(GroupAnswer),
    /// Of HISTORY.
    History(Pulled),
    /// Of `ROOM_STATS`.
    RoomStats(RoomStatsResult),
}

fn other<T>() -> Result<T, Error> {
    Err(Error::Protocol("the answer belongs to another kind of request".into()))
}

impl Answer {
    /// Of SEND and `ROOM_PUBLISH`.
    ///
    /// # Errors
    /// [`Error::Protocol`] when it is the answer to something else.
    pub fn into_sent(self) -> Result<Sent, Error> {
        if let Self::Sent(sent) = self { Ok(sent) } else { other() }
    }

    pub(crate) fn into_lookup(self) -> Result<LookupResult, Error> {
        if let Self::Lookup(found) = self { Ok(found) } else { other() }
    }

    pub(crate) fn into_reached(self) -> Result<u32, Error> {
        if let Self::Reached(reached) = self { Ok(reached) } else { other() }
    }

    pub(crate) fn into_group(self) -> Result<GroupAnswer, Error> {
        if let Self::Group(answer) = self { Ok(answer) } else { other() }
    }

    pub(crate) fn into_history(self) -> Result<Pulled, Error> {
        if let Self::History(pulled) = self { Ok(pulled) } else { other() }
    }

    pub(crate) fn into_room_stats(self) -> Result<RoomStatsResult, Error> {
        if let Self::RoomStats(stats) = self { Ok(stats) } else { other() }
    }

    pub(crate) fn into_stats(self) -> Result<Vec<(String, u64)>, Error> {
        if let Self::Stats(stats) = self { Ok(stats) } else { other() }
    }
}

/// A request whose names and lengths have been checked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// Store and deliver a reliable message.
    Send(Send),
    /// Find an account's sessions.
    Lookup(Lookup),
    /// Transient message to one session of a gateway.
    Push {
        /// Whom it is for.
        session: u64,
        /// The process of the gateway the session belongs to; `None`: whichever is there.
        epoch: Option<u64>,
        /// The finished client body.
        body: Vec<u8>,
    },
    /// Transient message to every session of an account.
    PushAccount {
        /// App.
        app: String,
        /// Account.
        account: String,
        /// The finished client body.
        body: Vec<u8>,
    },
    /// Transient message to every session of an app on a gateway.
    Broadcast {
        /// App.
        app: String,
        /// The finished client body.
        body: Vec<u8>,
    },
    /// Close sessions.
    Kick(Kick),
    /// Read the counters.
    Stats,
    /// Ask for receipts.
    Subscribe(Subscribe),
    /// Make, change or look at a group.
    Group(Group),
    /// Read a range of a timeline.
    History(History),
    /// Switch business levels off or on.
    Degrade(Degrade),
    /// A message for everybody in a room.
    RoomPublish(RoomPublish),
    /// Read a room's numbers.
    RoomStats(RoomStats),
}

/// A cookie as a field of protobuf, bytes.
const COOKIE_BYTES_MAX: usize = 11;

fn length(what: &'static str, length: usize, min: usize, max: usize) -> Result<(), Error> {
    if (min..=max).contains(&length) { Ok(()) } else { Err(Error::Length { what, length, min, max }) }
}

/// The body of a transient push: an encoded `Delivery` that is not stored and not acknowledged.
#[must_use]
pub fn transient_body(from: &str, payload: &[u8]) -> Vec<u8> {
    let sent_at_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let payload = bytes::Bytes::copy_from_slice(payload);
    Delivery { sync_id: 0, from: from.into(), sent_at_ms, payload, ..Delivery::default() }.encode_to_vec()
}

fn checked_body(from: &str, payload: &[u8]) -> Result<Vec<u8>, Error> {
    check_account(from)?;
    let body = transient_body(from, payload);
    length("the push", body.len(), 0, CLIENT_BODY_BYTES_MAX as usize)?;
    Ok(body)
}

impl Request {
    /// SEND; without a client id one is made up.
    ///
    /// # Errors
    /// When a name or a length is not allowed.
    pub fn send(
        app: &str,
        from: &str,
        to: &str,
        client_id: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<Self, Error> {
        check_app(app)?;
        check_account(from)?;
        check_account(to)?;
        let client_id = client_id.map_or_else(|| uuid::Uuid::now_v7().into_bytes().to_vec(), <[u8]>::to_vec);
        length("the client id", client_id.len(), 1, CLIENT_ID_BYTES_MAX)?;
        length("the payload", payload.len(), 0, CLIENT_BODY_BYTES_MAX as usize)?;
        Ok(Self::Send(Send {
            cookie: 0,
            app: app.into(),
            from: from.into(),
            to: to.into(),
            client_id: client_id.into(),
            class: u32::from(Class::Reliable.flags()),
            payload: bytes::Bytes::copy_from_slice(payload),
            group: String::new(),
            level: None,
            marks: None,
        }))
    }

    /// Gives a message for an account, a group or a room its traffic marks, or a subscription those that it is about;
    /// other requests have none.
    ///
    /// # Errors
    /// When a mark is too long.
    pub fn marked(mut self, marks: TrafficMarks) -> Result<Self, Error> {
        for value in marks.values() {
            length("a traffic mark", value.len(), 0, TRAFFIC_MARK_BYTES_MAX)?;
        }
        match &mut self {
            Self::Send(send) => send.marks = Some(marks),
            Self::RoomPublish(publish) => publish.marks = Some(marks),
            Self::Subscribe(subscribe) => subscribe.marks = Some(marks),
            _ => {}
        }
        Ok(self)
    }

    /// Says what the business loses without a message for an account, a group or a room, 0 (its core) to 2 (the rest);
    /// other requests have no level. Left out, it is the app's own.
    ///
    /// # Errors
    /// When there is no such level.
    pub fn at_level(mut self, level: u32) -> Result<Self, Error> {
        if level > LEVEL_MAX {
            return Err(Error::Level { level });
        }
        match &mut self {
            Self::Send(send) => send.level = Some(level),
            Self::RoomPublish(publish) => publish.level = Some(level),
            _ => {}
        }
        Ok(self)
    }

    /// SEND to a group; without a client id one is made up.
    ///
    /// # Errors
    /// When a name or a length is not allowed.
    pub fn send_group(
        app: &str,
        from: &str,
        group: &str,
        client_id: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<Self, Error> {
        check_group(group)?;
        // Checked as a message to its sender, then readdressed.
        let mut request = Self::send(app, from, from, client_id, payload)?;
        if let Self::Send(send) = &mut request {
            send.to.clear();
            send.group = group.into();
        }
        Ok(request)
    }

    /// GROUP, on behalf of an account or, without one, as the operator.
    ///
    /// # Errors
    /// When a name or the length of all of it is not allowed.
    pub fn group(app: &str, account: Option<&str>, group: &str, act: Act) -> Result<Self, Error> {
        check_app(app)?;
        if let Some(account) = account {
            check_account(account)?;
        }
        if !matches!(act, Act::List(_)) {
            check_group(group)?;
        } else if account.is_none() {
            // Whose list it is stands in the account.
            check_account("")?;
        }
        let group = Group {
            cookie: 0,
            app: app.into(),
            account: account.unwrap_or_default().into(),
            request: Some(GroupRequest { id: 0, group: group.into(), act: Some(act) }),
        };
        // A larger one would end the connection, and everybody's requests with it, again and again.
        let bytes = group.encoded_len() + COOKIE_BYTES_MAX;
        length("the request", bytes, 0, INTERNAL_BODY_BYTES_MAX as usize)?;
        Ok(Self::Group(group))
    }

    /// HISTORY of an account's timeline.
    ///
    /// # Errors
    /// When a name is not allowed.
    pub fn history(app: &str, account: &str, after: u64, limit: u32) -> Result<Self, Error> {
        check_app(app)?;
        check_account(account)?;
        let (app, account) = (app.into(), account.into());
        Ok(Self::History(History { app, account, after, limit, ..History::default() }))
    }

    /// HISTORY of a group's timeline.
    ///
    /// # Errors
    /// When a name is not allowed.
    pub fn group_history(app: &str, group: &str, after: u64, limit: u32) -> Result<Self, Error> {
        check_app(app)?;
        check_group(group)?;
        let (app, group) = (app.into(), group.into());
        Ok(Self::History(History { app, group, after, limit, ..History::default() }))
    }

    /// DEGRADE: messages of this business level and above are refused from now on, 1 or 2; `None`: all are taken.
    #[must_use]
    pub fn degrade(from_level: Option<u32>) -> Self {
        Self::Degrade(Degrade { cookie: 0, from_level: from_level.unwrap_or(LEVEL_MAX + 1) })
    }

    /// LOOKUP.
    ///
    /// # Errors
    /// When a name is not allowed.
    pub fn lookup(app: &str, account: &str) -> Result<Self, Error> {
        check_app(app)?;
        check_account(account)?;
        Ok(Self::Lookup(Lookup { cookie: 0, app: app.into(), account: account.into() }))
    }

    /// PUSH, to the process with this `epoch` only where one is given.
    ///
    /// # Errors
    /// When a name or a length is not allowed.
    pub fn push(session: u64, epoch: Option<u64>, from: &str, payload: &[u8]) -> Result<Self, Error> {
        Ok(Self::Push { session, epoch, body: checked_body(from, payload)? })
    }

    /// `PUSH_ACCOUNT`.
    ///
    /// # Errors
    /// When a name or a length is not allowed.
    pub fn push_account(app: &str, account: &str, from: &str, payload: &[u8]) -> Result<Self, Error> {
        check_app(app)?;
        check_account(account)?;
        let body = checked_body(from, payload)?;
        Ok(Self::PushAccount { app: app.into(), account: account.into(), body })
    }

    /// BROADCAST.
    ///
    /// # Errors
    /// When a name or a length is not allowed.
    pub fn broadcast(app: &str, from: &str, payload: &[u8]) -> Result<Self, Error> {
        check_app(app)?;
        let body = checked_body(from, payload)?;
        Ok(Self::Broadcast { app: app.into(), body })
    }

    /// KICK of an account's sessions, or of one device's.
    ///
    /// # Errors
    /// When a name or the reason is not allowed.
    pub fn kick(app: &str, account: &str, device: Option<&str>, reason: &str) -> Result<Self, Error> {
        check_app(app)?;
        check_account(account)?;
        if let Some(device) = device {
            check_device(device)?;
        }
        length("the reason", reason.len(), 0, REASON_BYTES_MAX)?;
        Ok(Self::Kick(Kick {
            app: app.into(),
            account: account.into(),
            device: device.unwrap_or_default().into(),
            code: moor_wire::Code::Kicked as i32,
            reason: reason.into(),
            ..Kick::default()
        }))
    }

    /// SUBSCRIBE.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn subscribe(app: &str) -> Result<Self, Error> {
        check_app(app)?;
        Ok(Self::Subscribe(Subscribe { cookie: 0, app: app.into(), marks: None }))
    }

    /// `ROOM_PUBLISH`; without a client id one is made up.
    ///
    /// # Errors
    /// When a name or a length is not allowed.
    pub fn room_publish(
        app: &str,
        from: &str,
        (room, number): (&str, u32),
        client_id: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<Self, Error> {
        check_room(room)?;
        let Self::Send(Send { client_id, payload, .. }) = Self::send(app, from, from, client_id, payload)?
        else {
            return Err(Error::Protocol("SEND is made of a message".into()));
        };
        let (app, room, from) = (app.into(), room.into(), from.into());
        let publish =
            RoomPublish { app, room, from, r#type: number, client_id, payload, ..RoomPublish::default() };
        Ok(Self::RoomPublish(publish))
    }

    /// `ROOM_STATS`.
    ///
    /// # Errors
    /// When a name is not allowed.
    pub fn room_stats(app: &str, room: &str) -> Result<Self, Error> {
        check_app(app)?;
        check_room(room)?;
        Ok(Self::RoomStats(RoomStats { cookie: 0, app: app.into(), room: room.into() }))
    }

    /// The verb, as errors name it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Send(_) => "SEND",
            Self::Lookup(_) => "LOOKUP",
            Self::Push { .. } => "PUSH",
            Self::PushAccount { .. } => "PUSH_ACCOUNT",
            Self::Broadcast { .. } => "BROADCAST",
            Self::Kick(_) => "KICK",
            Self::Stats => "STATS",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::Group(_) => "GROUP",
            Self::History(_) => "HISTORY",
            Self::Degrade(_) => "DEGRADE",
            Self::RoomPublish(_) => "ROOM_PUBLISH",
            Self::RoomStats(_) => "ROOM_STATS",
        }
    }

    /// Whether it is for whoever is there, so that reaching nobody is an answer like any other.
    pub(super) const fn may_reach_nobody(&self) -> bool {
        matches!(self, Self::PushAccount { .. } | Self::Broadcast { .. } | Self::Kick(_))
    }

    /// Whether asking twice does no harm.
    pub(super) const fn repeatable(&self) -> bool {
        matches!(
            self,
            Self::Send(_)
                | Self::Lookup(_)
                | Self::Stats
                | Self::Subscribe(_)
                | Self::Group(_)
                | Self::History(_)
                | Self::Degrade(_)
                | Self::RoomPublish(_)
                | Self::RoomStats(_)
        )
    }

    /// Whether it is asked again after a refusal that may pass: reads, and what happens once however often it is asked.
    /// Whoever subscribes or switches levels off decides that: the answer says more than that nothing was done.
    pub(super) const fn outlasts_refusals(&self) -> bool {
        matches!(
            self,
            Self::Send(_)
                | Self::Lookup(_)
                | Self::Group(_)
                | Self::History(_)
                | Self::RoomPublish(_)
                | Self::RoomStats(_)
        )
    }

    /// Appends the frame under a cookie.
    pub(super) fn put(&mut self, cookie: u64, out: &mut bytes::BytesMut) {
        let (kind, flags) = (Kind::Data.byte(), Class::Transient.flags());
        match self {
            Self::Send(send) => {
                send.cookie = cookie;
                put_control(out, Verb::Send, send);
            }
            Self::Lookup(lookup) => {
                lookup.cookie = cookie;
                put_control(out, Verb::Lookup, lookup);
            }
            Self::Push { session, body, .. } => {
                Push::data(cookie, SessionHandle(*session), Class::Transient, body).put(out, true);
            }
            Self::PushAccount { app, account, body } => {
                PushAccount { cookie, kind, flags, app, account, body }.put(out);
            }
            Self::Broadcast { app, body } => Broadcast { cookie, kind, flags, app, body }.put(out, true),
            Self::Kick(kick) => {
                kick.cookie = cookie;
                put_control(out, Verb::Kick, kick);
            }
            Self::Stats => put_control(out, Verb::Stats, &Stats { cookie }),
            Self::Subscribe(subscribe) => {
                subscribe.cookie = cookie;
                put_control(out, Verb::Subscribe, subscribe);
            }
            Self::Group(group) => {
                group.cookie = cookie;
                put_control(out, Verb::Group, group);
            }
            Self::History(history) => {
                history.cookie = cookie;
                put_control(out, Verb::History, history);
            }
            Self::Degrade(degrade) => {
                degrade.cookie = cookie;
                put_control(out, Verb::Degrade, degrade);
            }
            Self::RoomPublish(publish) => {
                publish.cookie = cookie;
                put_control(out, Verb::RoomPublish, publish);
            }
            Self::RoomStats(stats) => {
                stats.cookie = cookie;
                put_control(out, Verb::RoomStats, stats);
            }
        }
    }
}
