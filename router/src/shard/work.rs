//! What a link's task decodes and a shard carries out.

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::{Class, GroupHead, GroupRequest, Pull};
use moor_wire::internal::{Departure, Kick, NotHere, Registration};
use prost::Message as _;

use crate::lease::{Link, Synced};
use crate::outbox::Weight;
use crate::registry::SessionIndex;
use crate::shard::credit::Credit;
use crate::shard::rooms::RoomWork;
use crate::shard::spread::Spread;
use crate::store::groups::{HeadsAsk, PositionSave, VacancyAsk};
use crate::store::{AccountKey, Marks, Origin, Slot, Submit};

/// Something asked about a group, or about an account's groups.
#[derive(Debug)]
pub struct GroupAsk {
    /// Who is answered.
    pub origin: Origin,
    /// As whom; `None`: as the operator.
    pub actor: Option<Box<str>>,
    /// What.
    pub request: GroupRequest,
    /// When, wall clock.
    pub at_ms: u64,
}

/// A range that is asked for.
#[derive(Debug)]
pub struct PullAsk {
    /// Who is answered.
    pub origin: Origin,
    /// As whom; `None`: as the operator.
    pub actor: Option<Box<str>>,
    /// From which device.
    pub device: Box<str>,
    /// What.
    pub pull: Pull,
}

/// One piece of work for the shard that owns the account concerned.
#[derive(Debug)]
pub enum Work {
    /// Sessions are there; each with its account's hash.
    Register {
        /// Who says so.
        link: Arc<Link>,
        /// The sessions.
        sessions: Vec<(u64, Registration)>,
        /// One part per session.
        credit: Arc<Credit>,
    },
    /// Sessions are gone; each with its account's hash.
    Unregister {
        /// Who says so.
        link: Arc<Link>,
        /// The sessions.
        sessions: Vec<(u64, Departure)>,
    },
    /// A worker has announced everything.
    Synced(Arc<Synced>),
    /// A push met no session.
    NotHere {
        /// Who says so.
        link: Arc<Link>,
        /// Which.
        entries: Vec<NotHere>,
    },
    /// A message for an account's timeline.
    Submit(Box<Submit>),
    /// A message for whoever is there: it is not stored.
    Relay {
        /// The message.
        submit: Box<Submit>,
        /// Normal or transient.
        class: Class,
    },
    /// A client's READ or READ_MARKS, as the body of its UP.
    Marks {
        /// The gateway's link.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the UP frame.
        up: Bytes,
    },
    /// A client's ACK or SYNC, as the body of its UP.
    Cursor {
        /// The gateway's link.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the UP frame.
        up: Bytes,
    },
    /// Where is an account?
    Lookup {
        /// The service that asks.
        link: Arc<Link>,
        /// Its request.
        cookie: u64,
        /// The account.
        key: AccountKey,
    },
    /// Close sessions of an account.
    Kick {
        /// The service that asks.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// The request.
        kick: Box<Kick>,
    },
    /// Push to all sessions of an account, as the body of PUSH_ACCOUNT.
    PushAccount {
        /// The service that asks.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the frame.
        body: Bytes,
    },
    /// Something about a room.
    Room(RoomWork),
    /// Send receipts of an app from now on.
    Subscribe {
        /// The service that asks.
        link: Arc<Link>,
        /// The app.
        app: Box<str>,
        /// Only of messages with these; none: of all.
        marks: Marks,
        /// One part per shard.
        credit: Arc<Credit>,
    },
    /// For the shard of a group, or of an account whose groups are meant.
    Group {
        /// The group's or the account's key.
        key: AccountKey,
        /// What is asked.
        ask: Box<GroupAsk>,
    },
    /// A range of a timeline is asked for.
    Pull {
        /// The group's or the account's key.
        key: AccountKey,
        /// What is asked.
        ask: Box<PullAsk>,
    },
    /// Entries of a group for its members here.
    Spread(Box<Spread>),
    /// For the shard of a group: whether a member wants to be told of what is said while it is away.
    Mute {
        /// The group.
        key: AccountKey,
        /// The member.
        member: Box<str>,
        /// It does not.
        is_muted: bool,
    },
    /// A shard has done its part of a round.
    SpreadDone {
        /// The group.
        key: Arc<AccountKey>,
        /// Of the round.
        ticket: u64,
        /// All of it is on disk.
        is_done: bool,
    },
    /// A client's GROUP_ACK, as the body of its UP.
    GroupAck {
        /// The gateway's link.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the UP frame.
        up: Bytes,
    },
    /// Positions of members' devices, for the shard of their groups.
    Positions(Vec<PositionSave>),
    /// Is one of these accounts in as many groups as it may be?
    Vacancy(Box<VacancyAsk>),
    /// The answer.
    VacancyFound {
        /// The group.
        key: Arc<AccountKey>,
        /// Of the question.
        ticket: u64,
        /// One that is.
        full: Option<Box<str>>,
    },
    /// In which of these groups is a device behind?
    Heads(Box<HeadsAsk>),
    /// The answer.
    HeadsFound {
        /// For whom it was asked.
        session: Slot<SessionIndex>,
        /// Where it is behind.
        heads: Vec<GroupHead>,
    },
}

impl Work {
    /// Whether its sender does not say it again on the same link.
    pub const fn is_said_once(&self) -> bool {
        matches!(
            self,
            Self::Register { .. }
                | Self::Unregister { .. }
                | Self::Synced(_)
                | Self::Room(RoomWork::Count { .. })
        )
    }

    /// What of it is as long as its sender likes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Submit(submit) | Self::Relay { submit, .. } => submit.payload.len(),
            Self::Room(RoomWork::Publish { submit, .. }) => submit.payload.len(),
            Self::Room(RoomWork::Run { run, .. }) => run.bytes(),
            Self::PushAccount { body, .. } => body.len(),
            Self::Marks { up, .. } | Self::GroupAck { up, .. } => up.len(),
            Self::Group { ask, .. } => ask.request.encoded_len(),
            _ => 0,
        }
    }

    /// How much it matters where too much of it waits to cross to another shard.
    pub const fn weight(&self) -> Weight {
        match self {
            Self::Relay { class, .. } => Weight::of(*class),
            Self::Room(RoomWork::Run { .. }) => Weight::Transient,
            _ => Weight::Reliable,
        }
    }
}
