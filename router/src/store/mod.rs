//! Where messages and locations are kept: [`MessageStore`] and what passes through it here,
//! [`location::LocationStore`] in its own file.
//!
//! Both traits are batch-oriented and asynchronous by completion: the shard hands a batch over and never waits; what
//! became of it arrives later as an event. That shape fits a thread with SQLite as well as a client of a
//! remote cluster.

pub mod checkpoint;
pub mod groups;
pub mod location;
pub mod marks;
pub mod reader;
pub mod retention;
pub mod schema;
pub mod sqlite;
pub mod usage;

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::TrafficMarks;
use moor_wire::identity::{account_hash, group_account, group_of_account};
use moor_wire::session::SessionHandle;
use prost::Message as _;

use crate::lease::Link;
use crate::registry::{AccountIndex, SessionIndex};
use crate::shard::credit::Credit;
use crate::shard::rooms::Pull;
use crate::shard::spread::Part;
use crate::store::groups::{GroupFound, GroupRead, GroupWrite, Purpose, RowDone};
use crate::store::marks::{Asker, Mark, MarkSave, Marked};

/// An account's full name, with its hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey {
    /// `moor_wire::identity::account_hash` of the two names.
    pub hash: u64,
    /// The app.
    pub app: Box<str>,
    /// The account.
    pub account: Box<str>,
}

impl AccountKey {
    /// The key of an account; the name is not checked.
    pub fn new(app: &str, account: &str) -> Self {
        Self { hash: account_hash(app, account), app: app.into(), account: account.into() }
    }

    /// The key under which a group's timeline lies.
    pub fn of_group(app: &str, group: &str) -> Self {
        Self::new(app, &group_account(group))
    }

    /// The group whose timeline this is; `None`: it is an account's.
    pub fn group(&self) -> Option<&str> {
        group_of_account(&self.account)
    }
}

/// What a message is in its timeline. Kept with it, so that a group is spread as was decided when the message
/// was taken, whatever the threshold is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// A message to an account, or a member's copy of a group's.
    #[default]
    Personal,
    /// A message to a group, copied into each member's timeline.
    Copied,
    /// A message to a group that stays in the group's timeline alone.
    Shared,
    /// A change of a group, copied.
    CopiedEvent,
    /// A change of a group, not copied.
    SharedEvent,
    /// A member's copy of what it need not be told of while it is away: its own words, or a change.
    Quiet,
}

impl Entry {
    const ALL: [Self; 6] =
        [Self::Personal, Self::Copied, Self::Shared, Self::CopiedEvent, Self::SharedEvent, Self::Quiet];

    /// Its number in the file.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What a number in the file stands for; one of a later version reads as personal.
    pub fn from_number(number: i64) -> Self {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number).copied()).unwrap_or_default()
    }

    /// A change of the group rather than a message.
    pub const fn is_event(self) -> bool {
        matches!(self, Self::CopiedEvent | Self::SharedEvent)
    }

    /// Each member has a copy.
    pub const fn is_copied(self) -> bool {
        matches!(self, Self::Copied | Self::CopiedEvent)
    }
}

/// Who is answered once a message is stored. The store carries it along and never looks inside.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A client's session behind a gateway.
    Session {
        /// The gateway's link.
        link: Arc<Link>,
        /// The session.
        session: SessionHandle,
        /// Hash of the sending account: finds the session's entry should it be gone.
        hash: u64,
    },
    /// A service.
    Service {
        /// Its link.
        link: Arc<Link>,
        /// Its request.
        cookie: u64,
    },
    /// A group's spreading.
    Spread {
        /// What this is a part of.
        part: Arc<Part>,
        /// Whoever pushes to devices that are away is told of it.
        is_told: bool,
    },
    /// A change of a group: its owner knows who asked for it.
    Change {
        /// It makes the group larger, so that it may be refused for want of room.
        grows: bool,
    },
}

/// A message on its way into the receiver's timeline.
#[derive(Debug)]
pub struct Submit {
    /// The receiver.
    pub to: AccountKey,
    /// The sending account, in the same app.
    pub from: Box<str>,
    /// The sender's own id of it.
    pub client_id: Bytes,
    /// The message.
    pub payload: Bytes,
    /// When it was accepted, wall clock.
    pub sent_at_ms: u64,
    /// Who is answered.
    pub origin: Origin,
    /// What it is in the timeline.
    pub entry: Entry,
    /// Where it comes from.
    pub marks: Marks,
    /// What copies of it will take in the timelines of a group's members.
    pub copies_bytes: u64,
}

/// Traffic marks of a message; most have none.
pub type Marks = Option<Box<TrafficMarks>>;

impl Submit {
    /// What it takes once it is stored.
    pub fn stored_bytes(&self) -> u64 {
        let marks = self.marks.as_ref().map_or(0, |marks| marks.encoded_len() as u64);
        usage::message_bytes(&self.from, &self.client_id, &self.payload) + marks
    }

    /// The message it became in the timeline that it was for.
    pub fn into_message(self, sync_id: u64) -> (AccountKey, Message) {
        let Self { to, from, client_id, payload, sent_at_ms, entry, marks, .. } = self;
        (to, Message { sync_id, from: from.into(), client_id, sent_at_ms, payload, entry, marks })
    }
}

/// A device's acknowledged position.
#[derive(Debug)]
pub struct CursorSave {
    /// The account.
    pub key: AccountKey,
    /// The device.
    pub device: Box<str>,
    /// Everything up to here is acknowledged.
    pub acked: u64,
}

/// One write.
#[derive(Debug)]
pub enum Write {
    /// Append a message, unless its (sender, client id) is known in that timeline.
    Submit(Box<Submit>),
    /// Remember a position.
    Cursor(Box<CursorSave>),
    /// Change what is kept of groups.
    Group(Box<GroupWrite>),
    /// Remember a read mark.
    Mark(Box<MarkSave>),
}

/// A stored message's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sync id.
    pub sync_id: u64,
    /// Oldest sync id the account still has.
    pub floor: u64,
    /// It had been stored before; nothing was written.
    pub is_duplicate: bool,
    /// What the account's older messages took that made way for it.
    pub freed_bytes: u64,
}

/// Why a write or read failed; nothing of its batch was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub Arc<str>);

/// What became of a submit.
#[derive(Debug)]
pub struct Written {
    /// The submit itself, back.
    pub submit: Box<Submit>,
    /// Its place, or why it has none.
    pub outcome: Result<Stored, StoreError>,
}

/// Newest and oldest stored sync id. Nothing stored: 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Newest.
    pub head: u64,
    /// Oldest.
    pub floor: u64,
}

impl Extent {
    /// Of an account that never received anything.
    pub const EMPTY: Self = Self { head: 0, floor: 1 };
}

/// A message read back.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its place.
    pub sync_id: u64,
    /// Sending account.
    pub from: String,
    /// The sender's id.
    pub client_id: Bytes,
    /// When it was accepted, wall clock.
    pub sent_at_ms: u64,
    /// The message.
    pub payload: Bytes,
    /// What it is in the timeline.
    pub entry: Entry,
    /// Where it comes from.
    pub marks: Marks,
}

/// A slot of the registry as it was when something was asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Slot<I> {
    /// Which slot.
    pub index: I,
    /// Its generation then.
    pub generation: u32,
}

/// One read.
#[derive(Debug)]
pub enum Read {
    /// What a new session needs: the account's extent and its device's stored position.
    Load {
        /// The account.
        key: AccountKey,
        /// The device.
        device: Box<str>,
        /// For whom.
        session: Slot<SessionIndex>,
        /// Counted down when done.
        credit: Arc<Credit>,
        /// What the client said it has.
        last_sync_id: Option<u64>,
    },
    /// Messages behind `after`, oldest first, up to a window's worth.
    Range {
        /// The account.
        key: AccountKey,
        /// For whom.
        account: Slot<AccountIndex>,
        /// First sync id is above this.
        after: u64,
    },
    /// Read marks that changed behind a version, up to a page.
    Marks {
        /// The account.
        key: AccountKey,
        /// Who asked.
        asker: Asker,
        /// The version.
        since: u64,
    },
    /// A room's extent, and reliable messages for whoever lacks some.
    Room {
        /// The room, as an account.
        key: AccountKey,
        /// Who lacks them; nobody: the extent alone.
        pull: Option<Box<Pull>>,
    },
    /// The account's extent alone.
    Extent {
        /// The account.
        key: AccountKey,
        /// The service that asked.
        link: Arc<Link>,
        /// Its request.
        cookie: u64,
    },
    /// What is kept of groups, and ranges that somebody asked for.
    Group(Box<GroupRead>),
}

impl Read {
    /// Whether a client or a service asks, and is answered also where the store refuses, if at all.
    pub fn is_question(&self) -> bool {
        match self {
            Self::Extent { .. } | Self::Marks { .. } => true,
            Self::Group(read) => {
                matches!(
                    **read,
                    GroupRead::Conversations { purpose: Purpose::List { .. }, .. } | GroupRead::Sent(_)
                )
            }
            _ => false,
        }
    }
}

/// What a read found.
#[derive(Debug)]
pub struct Found {
    /// Newest and oldest, in the same snapshot as the rest.
    pub extent: Extent,
    /// `Load`: the stored position.
    pub acked: Option<u64>,
    /// `Load`: the highest position of any device of the account.
    pub acked_any: Option<u64>,
    /// `Range` and `Room`: the messages.
    pub messages: Vec<Message>,
    /// `Range`: every stored message above `after` up to this one is among them. `Marks`: every mark above
    /// `since` up to this version is.
    pub through: u64,
    /// `Group`: what that is about.
    pub group: GroupFound,
    /// `Marks`: the marks.
    pub marks: Vec<Mark>,
}

/// A read and what became of it.
#[derive(Debug)]
pub struct ReadDone {
    /// The read, back.
    pub read: Read,
    /// What it found.
    pub outcome: Result<Found, StoreError>,
}

/// What a store tells its shard.
#[derive(Debug)]
pub enum StoreEvent {
    /// A group commit ended, well or not; submits in the order they were handed over.
    Written(Vec<Written>),
    /// What became of read marks, of one group commit.
    Marked(Vec<Marked>),
    /// Reads ended.
    Read(Vec<ReadDone>),
    /// What became of rows of groups that somebody waited for, of one group commit.
    Rows(Vec<RowDone>),
    /// What messages took that retention removed beside commits, by app.
    Freed(Vec<(Box<str>, u64)>),
}

/// The queue to the store is full: the batch comes back untouched.
#[derive(Debug)]
pub struct Full<T>(pub Vec<T>);

/// Keeps messages.
///
/// Promises: a submit answered with a [`Stored`] survives whatever the fsync policy says it survives; sync
/// ids of an account are contiguous and ascend in the order of its submits; a (sender, client id) whose
/// message is retained is never stored twice, also after a restart; a failed batch leaves no trace. Reads
/// handed over after a write's event arrived see that write.
pub trait MessageStore {
    /// Hands writes over; one [`StoreEvent::Written`] and one [`StoreEvent::Marked`] per commit follow, where it
    /// held a submit or a mark.
    fn try_write(&mut self, batch: Vec<Write>) -> Result<(), Full<Write>>;
    /// Hands reads over; their events may overtake those of writes.
    fn try_read(&mut self, batch: Vec<Read>) -> Result<(), Full<Read>>;
    /// What each app's messages took when the store was opened; asked once. What follows is told with every event.
    fn take_usage(&mut self) -> Vec<(Box<str>, u64)>;
    /// Where events arrive.
    fn events(&self) -> flume::Receiver<StoreEvent>;
    /// Commits what it was handed, then ends. Blocks: for the end of a process only.
    fn close(self: Box<Self>);
}
