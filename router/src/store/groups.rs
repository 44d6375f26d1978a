//! What a shard's file keeps of groups: attributes, members and their positions beside the group's timeline, and
//! beside each account's the list of groups it is in.
//!
//! A change of a group is an entry of its timeline, and its rows are written in the same transaction; the rest is
//! written when the entry is spread, again if need be: every statement here may run twice.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::{GroupDelivery, GroupEvent, GroupHead, GroupRole, TrafficMarks};
use moor_wire::identity::group_of_account;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension, params};

use crate::hook::Offline;
use crate::limits::{
    DEVICES_PER_ACCOUNT_MAX, GROUP_MEMBERS_MAX, GROUPS_PER_ACCOUNT_MAX, GROUPS_PER_APP_MAX,
    LEFT_MESSAGES_MAX, SPREAD_BYTES_MAX, SPREAD_ENTRIES_MAX, UNSPREAD_PAGE,
};
use crate::registry::SessionIndex;
use crate::shard::spread::Part;
use crate::store::reader::{find_account, find_message, read_range};
use crate::store::schema::{rowid, signed, sync_id, unsigned};
use crate::store::{AccountKey, Entry, Found, Marks, Origin, Slot, StoreError, Stored};

/// A write beside a timeline.
#[derive(Debug)]
pub enum GroupWrite {
    /// An account is in a group from now on, or no longer.
    Membership {
        /// The account.
        key: AccountKey,
        /// The group.
        group: Box<str>,
        /// As what; `None`: no longer.
        role: Option<GroupRole>,
        /// Who waits for it.
        part: Arc<Part>,
    },
    /// How an account wants a conversation treated.
    Preference(Box<Preference>),
    /// Whether a member wants to be told of what is said while it is away.
    Mute {
        /// The group.
        key: AccountKey,
        /// The member.
        member: Box<str>,
        /// It does not.
        is_muted: bool,
    },
    /// What a member's device has processed.
    Position(PositionSave),
    /// Everything up to here has reached the members.
    Spread {
        /// The group.
        key: AccountKey,
        /// The entry.
        through: u64,
    },
    /// A dissolved group has been spread to its end.
    Forget {
        /// The group.
        key: AccountKey,
    },
}

/// How an account wants a conversation treated.
#[derive(Debug)]
pub struct Preference {
    /// The account.
    pub key: AccountKey,
    /// The group.
    pub group: Box<str>,
    /// Higher ones are told first.
    pub priority: u8,
    /// Kept and told.
    pub is_muted: bool,
    /// Who is answered.
    pub origin: Origin,
    /// The request.
    pub id: u64,
}

/// Who waits for a write beside a timeline.
#[derive(Debug)]
pub enum Waiter {
    /// A group's spreading.
    Part(Arc<Part>),
    /// Whoever said so.
    Preference(Box<Preference>),
    /// Nobody, but so many are under way.
    Position,
}

/// A write beside a timeline and what became of it.
#[derive(Debug)]
pub struct RowDone {
    /// Who waits for it.
    pub waiter: Waiter,
    /// Whether there was a row to change, or why nothing was written.
    pub outcome: Result<bool, StoreError>,
}

/// A device's acknowledged position in a group's timeline.
#[derive(Clone, Debug)]
pub struct PositionSave {
    /// The group.
    pub key: AccountKey,
    /// The member.
    pub member: Box<str>,
    /// Its device.
    pub device: Box<str>,
    /// Everything up to here.
    pub acked: u64,
}

impl GroupWrite {
    /// Whose timeline it lies beside.
    pub const fn key(&self) -> &AccountKey {
        match self {
            Self::Membership { key, .. }
            | Self::Mute { key, .. }
            | Self::Spread { key, .. }
            | Self::Forget { key } => key,
            Self::Preference(preference) => &preference.key,
            Self::Position(save) => &save.key,
        }
    }

    /// Whether an account that never received anything gets a row for it.
    pub const fn makes_account(&self) -> bool {
        matches!(self, Self::Membership { .. })
    }

    /// Who waits for it.
    pub fn into_waiter(self) -> Option<Waiter> {
        match self {
            Self::Membership { part, .. } => Some(Waiter::Part(part)),
            Self::Preference(preference) => Some(Waiter::Preference(preference)),
            Self::Position(_) => Some(Waiter::Position),
            Self::Mute { .. } | Self::Spread { .. } | Self::Forget { .. } => None,
        }
    }
}

/// A read about groups, or a range that somebody asked for.
#[derive(Debug)]
pub enum GroupRead {
    /// Everything about a group.
    Group {
        /// It.
        key: AccountKey,
        /// Whether the app's groups are to be counted.
        is_new: bool,
    },
    /// Entries of a group behind `after` that are to be spread.
    Entries {
        /// The group.
        key: AccountKey,
        /// First sync id is above this.
        after: u64,
    },
    /// Of the next groups those whose last entries have not reached all members.
    Unspread {
        /// Number of the account the last page ended with.
        after: i64,
    },
    /// Groups an account is in.
    Conversations {
        /// The account.
        key: AccountKey,
        /// What for.
        purpose: Purpose,
    },
    /// Which of these groups have something that a member's device lacks.
    Heads(Box<HeadsAsk>),
    /// Is one of these accounts in as many groups as it may be?
    Vacancy(Box<VacancyAsk>),
    /// A range of a timeline.
    History(Box<History>),
    /// Which of the messages that a device leaves behind anybody is to be told of.
    Left(Box<Left>),
    /// Whether a message is stored that comes from somebody who may not send to the group.
    Sent(Box<Sent>),
}

/// A message from somebody who may not send to the group, who might when it came for the first time, if it did.
#[derive(Debug)]
pub struct Sent {
    /// The group.
    pub key: AccountKey,
    /// The sending account.
    pub from: Box<str>,
    /// The sender's own id of it.
    pub client_id: Bytes,
    /// Who is answered.
    pub origin: Origin,
}

/// Messages of an account's own timeline that a device left unacknowledged.
#[derive(Debug)]
pub struct Left {
    /// The account.
    pub key: AccountKey,
    /// The device's session.
    pub session: Slot<SessionIndex>,
    /// What would be told if all of them were to be.
    pub news: Offline,
}

/// Those of them that have the same marks.
#[derive(Debug)]
pub struct LeftBehind {
    /// The marks.
    pub marks: Marks,
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How many.
    pub count: u64,
}

/// A question of a group's shard to those of its members to be.
#[derive(Debug)]
pub struct VacancyAsk {
    /// The shard that asks.
    pub home: crate::lease::ShardIndex,
    /// The group.
    pub key: Arc<AccountKey>,
    /// Of the question.
    pub ticket: u64,
    /// Who is to be added.
    pub accounts: Vec<AccountKey>,
}

/// Why an account's groups are read.
#[derive(Debug)]
pub enum Purpose {
    /// A session came: it is told where it is behind.
    Login {
        /// The session.
        session: Slot<SessionIndex>,
    },
    /// A session has not acknowledged these groups: it is told their heads again.
    Remind {
        /// The session.
        session: Slot<SessionIndex>,
        /// Which groups, and how far they were pushed.
        heads: Vec<(Arc<AccountKey>, u64)>,
    },
    /// Somebody asked for the list.
    List {
        /// Who.
        origin: Origin,
        /// The request.
        id: u64,
        /// Names behind this one.
        after: String,
    },
}

/// A question of a member's shard to those of its groups.
#[derive(Debug)]
pub struct HeadsAsk {
    /// The shard that asks.
    pub home: crate::lease::ShardIndex,
    /// For whom.
    pub session: Slot<SessionIndex>,
    /// The member.
    pub member: Box<str>,
    /// Its device.
    pub device: Box<str>,
    /// The groups with what the member prefers.
    pub groups: Vec<(AccountKey, u8, bool)>,
}

/// A range that somebody asked for.
#[derive(Debug)]
pub struct History {
    /// The account or group.
    pub key: AccountKey,
    /// Behind this; `None`: behind what the device has acknowledged.
    pub after: Option<u64>,
    /// Never before this one: where a member joined.
    pub since: u64,
    /// The member and the device that ask; empty for services.
    pub member: Box<str>,
    /// See `member`.
    pub device: Box<str>,
    /// Most messages.
    pub limit: usize,
    /// Who is answered.
    pub origin: Origin,
    /// The request.
    pub id: u64,
}

/// A group as it is kept.
#[derive(Debug)]
pub struct GroupRows {
    /// Its title.
    pub title: String,
    /// Anybody may join.
    pub is_open: bool,
    /// It is over, once that is spread.
    pub is_dissolved: bool,
    /// Everything up to here has reached the members.
    pub spread: u64,
    /// Its members.
    pub members: Vec<MemberRow>,
}

/// A member as it is kept.
#[derive(Debug)]
pub struct MemberRow {
    /// The account.
    pub account: String,
    /// Its role.
    pub role: GroupRole,
    /// The entry with which it joined.
    pub since: u64,
    /// It does not want to be told of what is said while it is away.
    pub is_muted: bool,
}

/// A group an account is in.
#[derive(Debug)]
pub struct ConversationRow {
    /// The group.
    pub group: String,
    /// The account's role.
    pub role: GroupRole,
    /// Higher ones are told first.
    pub priority: u8,
    /// Kept and told.
    pub is_muted: bool,
}

/// What a [`GroupRead`] found.
#[derive(Debug)]
pub enum GroupFound {
    /// Nothing, or it was about messages.
    Nothing,
    /// A group; `None`: there is none. And how many the app has on this shard, when asked.
    Group(Option<Box<GroupRows>>, u64),
    /// Groups to spread, and the number the page ended with; `None`: it was the last.
    Unspread(Vec<AccountKey>, Option<i64>),
    /// An account's groups.
    Conversations(Vec<ConversationRow>),
    /// Where a device is behind.
    Heads(Vec<GroupHead>),
    /// An account that is in as many groups as it may be.
    Vacancy(Option<Box<str>>),
    /// What is to be told of, by its marks.
    Left(Vec<LeftBehind>),
    /// A message that was stored before; `None`: it was not.
    Sent(Option<Stored>),
    /// Where a range begins.
    History {
        /// Messages are behind this.
        after: u64,
    },
}

fn role(number: i64) -> GroupRole {
    i32::try_from(number).ok().and_then(|role| GroupRole::try_from(role).ok()).unwrap_or(GroupRole::Member)
}

fn flag(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<bool> {
    row.get::<_, i64>(column).map(|value| value != 0)
}

/// Writes the rows of a change, with the entry `sync_id` of the group's timeline that it is.
pub fn change(
    connection: &Connection,
    group: i64,
    app: &str,
    sync_id: u64,
    payload: &[u8],
) -> rusqlite::Result<()> {
    // Made by the shard, never by a client: one that does not decode changes nothing.
    let Ok(event) = GroupEvent::decode(payload) else { return Ok(()) };
    if event.created {
        connection
            .prepare_cached(
                "INSERT INTO groups (account, app, title, is_open, is_dissolved, spread) VALUES (?1, ?2, ?3, ?4, 0, ?5)",
            )?
            .execute(params![group, app, event.title, event.is_open, signed(sync_id - 1)])?;
    }
    for member in &event.set {
        connection
            .prepare_cached(
                "INSERT INTO members (account, member, role, since) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (account, member) DO UPDATE SET role = excluded.role",
            )?
            .execute(params![group, member.account, member.role, signed(sync_id)])?;
    }
    for name in &event.removed {
        connection
            .prepare_cached("DELETE FROM members WHERE account = ?1 AND member = ?2")?
            .execute(params![group, name])?;
        connection
            .prepare_cached("DELETE FROM positions WHERE account = ?1 AND member = ?2")?
            .execute(params![group, name])?;
    }
    if event.dissolved {
        connection
            .prepare_cached("UPDATE groups SET is_dissolved = 1 WHERE account = ?1")?
            .execute(params![group])?;
    }
    Ok(())
}

/// Carries a write out; `account` is the number and `head` the newest entry of the timeline it lies beside. False: there
/// was nothing to change.
pub fn write(connection: &Connection, account: i64, head: u64, write: &GroupWrite) -> rusqlite::Result<bool> {
    let changed = match write {
        GroupWrite::Membership { group, role: Some(role), .. } => connection
            .prepare_cached(
                "INSERT INTO memberships (account, name, role, priority, is_muted) VALUES (?1, ?2, ?3, 0, 0)
                 ON CONFLICT (account, name) DO UPDATE SET role = excluded.role",
            )?
            .execute(params![account, group, *role as i32])?,
        GroupWrite::Membership { group, role: None, .. } => connection
            .prepare_cached("DELETE FROM memberships WHERE account = ?1 AND name = ?2")?
            .execute(params![account, group])?,
        GroupWrite::Preference(preference) => connection
            .prepare_cached(
                "UPDATE memberships SET priority = ?3, is_muted = ?4 WHERE account = ?1 AND name = ?2",
            )?
            .execute(params![account, preference.group, preference.priority, preference.is_muted])?,
        GroupWrite::Mute { member, is_muted, .. } => connection
            .prepare_cached("UPDATE members SET is_muted = ?3 WHERE account = ?1 AND member = ?2")?
            .execute(params![account, member, is_muted])?,
        GroupWrite::Position(save) => return save_position(connection, account, head, save).map(|()| true),
        GroupWrite::Spread { through, .. } => connection
            .prepare_cached("UPDATE groups SET spread = ?2 WHERE account = ?1 AND spread < ?2")?
            .execute(params![account, signed(*through)])?,
        GroupWrite::Forget { .. } => {
            let mut changed = 0;
            for table in ["groups", "members", "positions"] {
                changed += connection
                    .execute(&format!("DELETE FROM {table} WHERE account = ?1"), params![account])?;
            }
            changed
        }
    };
    Ok(changed > 0)
}

fn save_position(
    connection: &Connection,
    group: i64,
    head: u64,
    save: &PositionSave,
) -> rusqlite::Result<()> {
    let acked = signed(save.acked.min(head));
    let known = connection
        .prepare_cached(
            "UPDATE positions SET acked = max(acked, ?4) WHERE account = ?1 AND member = ?2 AND device = ?3",
        )?
        .execute(params![group, save.member, save.device, acked])?;
    if known > 0 {
        return Ok(());
    }
    // As with an account's own timeline the device furthest behind makes room.
    connection
        .prepare_cached(
            "DELETE FROM positions WHERE account = ?1 AND member = ?2 AND device IN (
                 SELECT device FROM positions WHERE account = ?1 AND member = ?2
                 ORDER BY acked DESC, device LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![group, save.member, DEVICES_PER_ACCOUNT_MAX - 1])?;
    // Only of members: whoever names a group it is not in leaves nothing behind.
    connection
        .prepare_cached(
            "INSERT INTO positions (account, member, device, acked) SELECT ?1, ?2, ?3, ?4
             WHERE EXISTS (SELECT 1 FROM members WHERE account = ?1 AND member = ?2)",
        )?
        .execute(params![group, save.member, save.device, acked])?;
    Ok(())
}

/// Answers a read from a snapshot.
pub fn find(snapshot: &Connection, read: &GroupRead) -> rusqlite::Result<Found> {
    match read {
        GroupRead::Group { key, is_new } => find_group(snapshot, key, *is_new),
        GroupRead::Entries { key, after } => {
            let Some((account, extent)) = find_account(snapshot, key)? else { return Ok(Found::nothing()) };
            let mut found = Found { extent, through: extent.head, ..Found::nothing() };
            read_range(snapshot, account, *after, SPREAD_ENTRIES_MAX, SPREAD_BYTES_MAX, &mut found)?;
            Ok(found)
        }
        GroupRead::Unspread { after } => find_unspread(snapshot, *after),
        GroupRead::Conversations { key, .. } => find_conversations(snapshot, key),
        GroupRead::Heads(ask) => {
            let mut heads = Vec::new();
            for (key, priority, is_muted) in &ask.groups {
                heads.extend(find_head(snapshot, ask, key, *priority, *is_muted)?);
            }
            Ok(Found { group: GroupFound::Heads(heads), ..Found::nothing() })
        }
        GroupRead::Vacancy(ask) => find_vacancy(snapshot, ask),
        GroupRead::History(history) => find_history(snapshot, history),
        GroupRead::Left(left) => find_left(snapshot, left),
        GroupRead::Sent(sent) => find_sent(snapshot, sent),
    }
}

fn find_sent(snapshot: &Connection, sent: &Sent) -> rusqlite::Result<Found> {
    let Some((account, extent)) = find_account(snapshot, &sent.key)? else { return Ok(Found::nothing()) };
    let place = find_message(snapshot, account, &sent.from, &sent.client_id)?;
    let floor = extent.floor;
    let stored = place.map(|sync_id| Stored { sync_id, floor, is_duplicate: true, freed_bytes: 0 });
    Ok(Found { extent, group: GroupFound::Sent(stored), ..Found::nothing() })
}

/// Of copies nobody is told whose group the account has muted, or which are its own words or a change. Looks at the newest
/// messages alone, and takes those before them for messages to be told of.
fn find_left(snapshot: &Connection, left: &Left) -> rusqlite::Result<Found> {
    let (first, last) = (left.news.first_sync_id, left.news.last_sync_id);
    let Some((account, _)) = find_account(snapshot, &left.key)? else { return Ok(Found::nothing()) };
    let muted = conversations(snapshot, account)?.into_iter().filter(|row| row.is_muted);
    let muted: HashSet<String> = muted.map(|row| row.group).collect();
    let begin = first.max((last + 1).saturating_sub(LEFT_MESSAGES_MAX));
    let mut statement = snapshot.prepare_cached(
        "SELECT id, sender, entry, marks, payload FROM messages WHERE id >= ?1 AND id <= ?2 ORDER BY id",
    )?;
    let mut rows = statement.query(params![rowid(account, begin), rowid(account, last)])?;
    // Those that nobody looks at count as messages without marks.
    let unseen = LeftBehind { marks: None, first, last: begin - 1, count: begin - first };
    let mut parts: Vec<LeftBehind> = Some(unseen).filter(|unseen| unseen.count > 0).into_iter().collect();
    while let Some(row) = rows.next()? {
        let (id, sender): (i64, String) = (row.get(0)?, row.get(1)?);
        let group = group_of_account(&sender);
        if group.is_some_and(|group| muted.contains(group)) || Entry::from_number(row.get(2)?) == Entry::Quiet
        {
            continue;
        }
        let marks = match group {
            // They lie in what was copied.
            Some(_) => {
                let copied = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
                GroupDelivery::decode(copied).ok().and_then(|copied| copied.marks)
            }
            None => {
                let marks = row.get_ref(3)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
                marks.and_then(|marks| TrafficMarks::decode(marks).ok())
            }
        };
        let (id, marks) = (sync_id(id), marks.map(Box::new));
        match parts.iter_mut().find(|part| part.marks == marks) {
            Some(part) => (part.last, part.count) = (id, part.count + 1),
            None => parts.push(LeftBehind { marks, first: id, last: id, count: 1 }),
        }
    }
    Ok(Found { group: GroupFound::Left(parts), ..Found::nothing() })
}

fn find_vacancy(snapshot: &Connection, ask: &VacancyAsk) -> rusqlite::Result<Found> {
    let mut full = None;
    for key in &ask.accounts {
        let Some((account, _)) = find_account(snapshot, key)? else { continue };
        let count: u64 = snapshot
            .prepare_cached("SELECT count(*) FROM memberships WHERE account = ?1")?
            .query_row(params![account], |row| row.get(0).map(unsigned))?;
        if count >= GROUPS_PER_ACCOUNT_MAX as u64 {
            full = Some(key.account.clone());
            break;
        }
    }
    Ok(Found { group: GroupFound::Vacancy(full), ..Found::nothing() })
}

fn find_group(snapshot: &Connection, key: &AccountKey, is_new: bool) -> rusqlite::Result<Found> {
    let account = find_account(snapshot, key)?;
    let (number, extent) = account.map_or((0, Found::nothing().extent), |known| known);
    let rows = snapshot
        .prepare_cached("SELECT title, is_open, is_dissolved, spread FROM groups WHERE account = ?1")?
        .query_row(params![number], |row| {
            Ok(GroupRows {
                title: row.get(0)?,
                is_open: flag(row, 1)?,
                is_dissolved: flag(row, 2)?,
                spread: unsigned(row.get(3)?),
                members: Vec::new(),
            })
        })
        .optional()?;
    let mut group = rows.map(Box::new);
    if let Some(group) = &mut group {
        let mut statement = snapshot.prepare_cached(
            "SELECT member, role, since, is_muted FROM members WHERE account = ?1 ORDER BY member LIMIT ?2",
        )?;
        let members = statement.query_map(params![number, signed(GROUP_MEMBERS_MAX as u64)], |row| {
            Ok(MemberRow {
                account: row.get(0)?,
                role: role(row.get(1)?),
                since: unsigned(row.get(2)?),
                is_muted: flag(row, 3)?,
            })
        })?;
        group.members = members.collect::<Result<_, _>>()?;
    }
    let mut count = 0;
    if is_new {
        count = snapshot
            .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM groups WHERE app = ?1 LIMIT ?2)")?
            .query_row(params![key.app, signed(GROUPS_PER_APP_MAX)], |row| row.get(0).map(unsigned))?;
    }
    Ok(Found { extent, group: GroupFound::Group(group, count), ..Found::nothing() })
}

fn find_unspread(snapshot: &Connection, after: i64) -> rusqlite::Result<Found> {
    let mut statement = snapshot.prepare_cached(
        "SELECT a.id, g.spread < a.head OR g.is_dissolved, a.app, a.account
         FROM groups g JOIN accounts a ON a.id = g.account WHERE g.account > ?1 ORDER BY g.account LIMIT ?2",
    )?;
    let mut rows = statement.query(params![after, signed(UNSPREAD_PAGE as u64)])?;
    let (mut keys, mut count, mut last) = (Vec::new(), 0, after);
    while let Some(row) = rows.next()? {
        (count, last) = (count + 1, row.get(0)?);
        if flag(row, 1)? {
            keys.push(AccountKey::new(&row.get::<_, String>(2)?, &row.get::<_, String>(3)?));
        }
    }
    let end = Some(last).filter(|_| count >= UNSPREAD_PAGE);
    Ok(Found { group: GroupFound::Unspread(keys, end), ..Found::nothing() })
}

fn find_conversations(snapshot: &Connection, key: &AccountKey) -> rusqlite::Result<Found> {
    let mut rows = Vec::new();
    if let Some((account, _)) = find_account(snapshot, key)? {
        rows = conversations(snapshot, account)?;
    }
    Ok(Found { group: GroupFound::Conversations(rows), ..Found::nothing() })
}

/// The groups of an account.
pub fn conversations(snapshot: &Connection, account: i64) -> rusqlite::Result<Vec<ConversationRow>> {
    let mut statement = snapshot.prepare_cached(
        "SELECT name, role, priority, is_muted FROM memberships WHERE account = ?1 ORDER BY name LIMIT ?2",
    )?;
    let found = statement.query_map(params![account, signed(GROUPS_PER_ACCOUNT_MAX as u64)], |row| {
        Ok(ConversationRow {
            group: row.get(0)?,
            role: role(row.get(1)?),
            priority: row.get(2)?,
            is_muted: flag(row, 3)?,
        })
    })?;
    found.collect()
}

/// What a member's device has acknowledged of a group; `None`: it never did.
fn find_position(
    snapshot: &Connection,
    account: i64,
    member: &str,
    device: &str,
) -> rusqlite::Result<Option<u64>> {
    snapshot
        .prepare_cached("SELECT acked FROM positions WHERE account = ?1 AND member = ?2 AND device = ?3")?
        .query_row(params![account, member, device], |row| row.get(0).map(unsigned))
        .optional()
}

fn find_head(
    snapshot: &Connection,
    ask: &HeadsAsk,
    key: &AccountKey,
    priority: u8,
    is_muted: bool,
) -> rusqlite::Result<Option<GroupHead>> {
    let (Some((account, extent)), Some(group)) = (find_account(snapshot, key)?, key.group()) else {
        return Ok(None);
    };
    let since = snapshot
        .prepare_cached("SELECT since FROM members WHERE account = ?1 AND member = ?2")?
        .query_row(params![account, ask.member], |row| row.get(0).map(unsigned))
        .optional()?;
    let Some(since) = since else { return Ok(None) };
    let floor = extent.floor.max(since);
    let acked = find_position(snapshot, account, &ask.member, &ask.device)?;
    let acked = acked.unwrap_or(0).max(floor.saturating_sub(1));
    Ok((extent.head > acked).then(|| GroupHead {
        group: group.to_owned(),
        head: extent.head,
        floor,
        acked: Some(acked),
        priority: u32::from(priority),
        is_muted,
    }))
}

fn find_history(snapshot: &Connection, history: &History) -> rusqlite::Result<Found> {
    let Some((account, extent)) = find_account(snapshot, &history.key)? else {
        let after = history.after.unwrap_or(0);
        return Ok(Found { group: GroupFound::History { after }, ..Found::nothing() });
    };
    let is_group = history.key.group().is_some();
    let after = match history.after {
        Some(after) => after,
        None if is_group => find_position(snapshot, account, &history.member, &history.device)?.unwrap_or(0),
        None => snapshot
            .prepare_cached("SELECT acked FROM cursors WHERE account = ?1 AND device = ?2")?
            .query_row(params![account, history.device], |row| row.get(0).map(unsigned))
            .optional()?
            .unwrap_or(0),
    };
    let after = after.max(history.since.max(extent.floor).saturating_sub(1));
    let mut found =
        Found { extent, through: extent.head, group: GroupFound::History { after }, ..Found::nothing() };
    found.extent.floor = extent.floor.max(history.since);
    read_range(snapshot, account, after, history.limit, crate::limits::HISTORY_BYTES, &mut found)?;
    Ok(found)
}
