//! Which messages are kept: of each account the newest so many, and none older than so long.
//!
//! Too many are removed when one more comes. Too old ones are removed then as well, and by a slow walk over all
//! accounts, so that those nobody writes to lose them too. Where an app's storage is limited the walk also removes what is
//! too many: an app that may store nothing more would keep it for ever. Both remove in slices: no commit waits long.

use moor_wire::identity::{account_hash, group_of_account, room_of};
use rusqlite::{Connection, OptionalExtension, params};

use crate::limits::{
    RETENTION_STEP_ACCOUNTS, RETENTION_STEP_MESSAGES, RETENTION_STEP_MS, TRIM_SLICE_MESSAGES,
};
use crate::store::schema::{rowid, signed, sync_id, unsigned};
use crate::store::{Extent, usage};

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Newest messages of each account.
    pub messages: u64,
    /// Age from which a message is removed, milliseconds; `None`: whatever its age.
    pub age_ms: Option<u64>,
    /// The walk also removes what is too many.
    pub walks_for_room: bool,
}

impl Retention {
    /// So many messages, and none older than so many days; 0: whatever their age.
    pub const fn new(messages: u64, days: u32) -> Self {
        let age_ms = match days {
            0 => None,
            days => Some(days as u64 * 24 * 3600 * 1000),
        };
        Self { messages, age_ms, walks_for_room: false }
    }

    /// Whether there is a walk.
    pub const fn walks(&self) -> bool {
        self.age_ms.is_some() || self.walks_for_room
    }

    /// What the walk keeps at a time of the wall clock.
    pub fn keep(&self, now_ms: u64) -> Keep {
        Keep {
            messages: if self.walks_for_room { self.messages } else { u64::MAX },
            since_ms: self.age_ms.map_or(0, |age_ms| now_ms.saturating_sub(age_ms)),
        }
    }
}

/// What a step of the walk keeps.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Newest messages of each account.
    pub messages: u64,
    /// None accepted before that, wall clock.
    pub since_ms: u64,
}

impl From<u64> for Retention {
    fn from(messages: u64) -> Self {
        Self::new(messages, 0)
    }
}

/// What a slice removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Messages.
    pub removed: u64,
    /// What they took.
    pub bytes: u64,
    /// When the oldest one left was accepted; 0 when the next slice has to say.
    pub oldest_ms: u64,
    /// True when the next slice may find more.
    pub is_more: bool,
}

/// Removes the messages of one slice that were accepted before `before_ms`, and moves the floor.
pub fn trim_expired(
    connection: &Connection,
    account: i64,
    extent: &mut Extent,
    before_ms: u64,
) -> rusqlite::Result<Trimmed> {
    let end = (extent.floor + TRIM_SLICE_MESSAGES).min(extent.head + 1);
    let kept: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT id, sent_at_ms FROM messages WHERE id >= ?1 AND id < ?2 AND sent_at_ms >= ?3 ORDER BY id LIMIT 1",
        )?
        .query_row(params![rowid(account, extent.floor), rowid(account, end), signed(before_ms)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let floor = kept.map_or(end, |(id, _)| sync_id(id));
    let (mut removed, mut bytes) = (0, 0);
    if floor > extent.floor {
        (removed, bytes) = usage::remove(connection, account, extent.floor, floor)?;
        extent.floor = floor;
    }
    Ok(Trimmed {
        removed,
        bytes,
        oldest_ms: kept.map_or(0, |(_, sent_at_ms)| unsigned(sent_at_ms)),
        is_more: kept.is_none() && floor <= extent.head,
    })
}

/// Removes a slice of the messages above the newest `messages`, and moves the floor.
pub fn trim_excess(
    connection: &Connection,
    account: i64,
    extent: &mut Extent,
    messages: u64,
) -> rusqlite::Result<Trimmed> {
    let excess = (extent.head + 1).saturating_sub(extent.floor).saturating_sub(messages);
    let floor = extent.floor + excess.min(TRIM_SLICE_MESSAGES);
    let (removed, bytes) = usage::remove(connection, account, extent.floor, floor)?;
    extent.floor = floor;
    Ok(Trimmed { removed, bytes, oldest_ms: 0, is_more: excess > TRIM_SLICE_MESSAGES })
}

/// Of the messages `from..to` of an account, how many no device has acknowledged. Positions reach the file a moment late.
/// What groups and rooms keep is none of it: devices acknowledge that elsewhere.
pub fn unacknowledged(
    connection: &Connection,
    account: i64,
    name: &str,
    from: u64,
    to: u64,
) -> rusqlite::Result<u64> {
    if group_of_account(name).is_some() || room_of(name).is_some() {
        return Ok(0);
    }
    let acked: Option<i64> = connection
        .prepare_cached("SELECT MAX(acked) FROM cursors WHERE account = ?1")?
        .query_row(params![account], |row| row.get(0))?;
    Ok(to.saturating_sub(from.max(acked.map_or(0, unsigned) + 1)))
}

/// The walk over all accounts.
#[derive(Debug, Default)]
pub struct Walk {
    /// The last account that is done in this round.
    at: i64,
    due_ms: u64,
}

/// What a step of the walk did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Messages removed.
    pub removed: u64,
    /// Those among them that were too many.
    pub excess: u64,
    /// What they took, by app.
    pub freed: Vec<(Box<str>, u64)>,
    /// Accounts whose floor moved: hash, number, floor.
    pub moved: Vec<(u64, i64, u64)>,
    /// Messages removed before any device acknowledged them, by app.
    pub expired: Vec<(String, u64)>,
    /// True when the last account was reached.
    pub is_round_over: bool,
}

impl Walk {
    /// True when it is time for a step; the next one comes later.
    pub const fn is_due(&mut self, now_ms: u64) -> bool {
        let is_due = now_ms >= self.due_ms;
        if is_due {
            self.due_ms = now_ms + RETENTION_STEP_MS;
        }
        is_due
    }

    /// Not before then.
    pub const fn rest_until(&mut self, due_ms: u64) {
        self.due_ms = due_ms;
    }

    /// Looks at a few accounts, within the open transaction.
    pub fn step(&mut self, connection: &Connection, keep: Keep) -> rusqlite::Result<Step> {
        let mut accounts = connection.prepare_cached(
            "SELECT id, head, floor, app, account FROM accounts WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let mut rows = accounts.query(params![self.at, RETENTION_STEP_ACCOUNTS])?;
        let (mut step, mut seen) = (Step::default(), 0);
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let mut extent = Extent { head: unsigned(row.get(1)?), floor: unsigned(row.get(2)?) };
            let (floor, mut bytes) = (extent.floor, 0);
            while extent.floor <= extent.head {
                if step.removed >= RETENTION_STEP_MESSAGES {
                    save_floor(connection, &mut step, id, (floor, bytes), &extent, row)?;
                    return Ok(step);
                }
                let is_excess = extent.head - extent.floor >= keep.messages;
                let trimmed = if is_excess {
                    trim_excess(connection, id, &mut extent, keep.messages)?
                } else if keep.since_ms > 0 {
                    trim_expired(connection, id, &mut extent, keep.since_ms)?
                } else {
                    break;
                };
                bytes += trimmed.bytes;
                step.removed += trimmed.removed;
                step.excess += if is_excess { trimmed.removed } else { 0 };
                if !trimmed.is_more && !is_excess {
                    break;
                }
            }
            save_floor(connection, &mut step, id, (floor, bytes), &extent, row)?;
            self.at = id;
            seen += 1;
        }
        if seen < RETENTION_STEP_ACCOUNTS {
            self.at = 0;
            step.is_round_over = true;
        }
        Ok(step)
    }
}

fn save_floor(
    connection: &Connection,
    step: &mut Step,
    id: i64,
    (before, bytes): (u64, u64),
    extent: &Extent,
    row: &rusqlite::Row<'_>,
) -> rusqlite::Result<()> {
    if extent.floor == before {
        return Ok(());
    }
    let (app, account): (String, String) = (row.get(3)?, row.get(4)?);
    step.moved.push((account_hash(&app, &account), id, extent.floor));
    match step.freed.iter_mut().find(|(known, _)| **known == *app) {
        Some((_, freed)) => *freed += bytes,
        None => step.freed.push((app.as_str().into(), bytes)),
    }
    match unacknowledged(connection, id, &account, before, extent.floor)? {
        0 => {}
        count => step.expired.push((app, count)),
    }
    connection
        .prepare_cached("UPDATE accounts SET floor = ?2 WHERE id = ?1")?
        .execute(params![id, signed(extent.floor)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fsync;
    use crate::store::schema::open_writer;

    /// Accounts with so many messages each, accepted at 1, 2, 3 … milliseconds.
    fn file(directory: &tempfile::TempDir, accounts: &[u64]) -> Connection {
        let connection = open_writer(&directory.path().join("messages.sqlite"), Fsync::Off).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for (number, messages) in accounts.iter().enumerate() {
            let id = i64::try_from(number).unwrap() + 1;
            connection
                .execute(
                    "INSERT INTO accounts VALUES (?1, 'shop', ?2, ?3, 1)",
                    params![id, format!("a{id}"), signed(*messages)],
                )
                .unwrap();
            for message in 1..=*messages {
                connection
                    .execute(
                        "INSERT INTO messages VALUES (?1, ?2, 'bob', ?3, ?4, x'00', 0, NULL)",
                        params![rowid(id, message), id, message.to_be_bytes(), signed(message)],
                    )
                    .unwrap();
            }
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    fn extents(connection: &Connection) -> Vec<(u64, u64, u64)> {
        let mut accounts = connection
            .prepare(
                "SELECT head, floor, (SELECT count(*) FROM messages WHERE account = accounts.id) FROM accounts",
            )
            .unwrap();
        let rows = accounts
            .query_map([], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?))));
        rows.unwrap().map(Result::unwrap).collect()
    }

    const fn since(since_ms: u64) -> Keep {
        Keep { messages: u64::MAX, since_ms }
    }

    #[test]
    fn the_walk_comes_to_every_account_and_leaves_what_is_young() {
        let directory = tempfile::tempdir().unwrap();
        let connection = file(&directory, &[10, 0, 3, 700]);
        let mut walk = Walk::default();
        let step = walk.step(&connection, since(5)).unwrap();
        let hash = |account| account_hash("shop", account);
        assert_eq!(step.moved, [(hash("a1"), 1, 5), (hash("a3"), 3, 4), (hash("a4"), 4, 5)]);
        assert_eq!((step.removed, step.excess, step.is_round_over), (4 + 3 + 4, 0, true));
        let each = usage::message_bytes("bob", &[0; 8], &[0]);
        assert_eq!(step.freed, [("shop".into(), 11 * each)]);
        assert_eq!(extents(&connection), [(10, 5, 6), (0, 1, 0), (3, 4, 0), (700, 5, 696)]);
        assert_eq!(
            walk.step(&connection, since(5)).unwrap(),
            Step { is_round_over: true, ..Step::default() }
        );
        // Several slices of one account; head and floor meet where nothing is left.
        assert_eq!(walk.step(&connection, since(1_000)).unwrap().removed, 6 + 696);
        assert_eq!(extents(&connection), [(10, 11, 0), (0, 1, 0), (3, 4, 0), (700, 701, 0)]);
    }

    #[test]
    fn what_goes_of_groups_and_rooms_is_not_told_as_unacknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let connection = file(&directory, &[3, 4, 5]);
        connection
            .execute_batch(
                "UPDATE accounts SET account = char(1) || 'friends' WHERE id = 1;
                 UPDATE accounts SET account = char(2) || 'live' WHERE id = 2;
                 INSERT INTO cursors VALUES (3, 'phone', 2);",
            )
            .unwrap();
        let step = Walk::default().step(&connection, since(u64::MAX)).unwrap();
        assert_eq!((step.removed, step.expired), (3 + 4 + 5, vec![("shop".to_owned(), 3)]));
    }

    #[test]
    fn a_step_is_bounded_by_messages_and_by_accounts_and_the_next_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let many = RETENTION_STEP_MESSAGES + 10;
        let connection = file(&directory, &[many, 1]);
        let mut walk = Walk::default();
        let first = walk.step(&connection, since(u64::MAX)).unwrap();
        assert_eq!((first.removed, first.is_round_over), (RETENTION_STEP_MESSAGES, false));
        assert_eq!(walk.step(&connection, since(u64::MAX)).unwrap().removed, 11);

        let directory = tempfile::tempdir().unwrap();
        let connection = file(&directory, &vec![1; usize::try_from(RETENTION_STEP_ACCOUNTS).unwrap() + 1]);
        let mut walk = Walk::default();
        assert_eq!(
            walk.step(&connection, since(u64::MAX)).unwrap().removed,
            u64::from(RETENTION_STEP_ACCOUNTS)
        );
        let last = walk.step(&connection, since(u64::MAX)).unwrap();
        assert_eq!((last.removed, last.is_round_over), (1, true));
    }

    #[test]
    fn where_room_is_short_the_walk_also_removes_what_is_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let connection = file(&directory, &[700, 100, 101]);
        let mut retention = Retention::new(100, 0);
        assert!(!retention.walks());
        retention.walks_for_room = true;
        assert!(retention.walks());
        let mut walk = Walk::default();
        let step = walk.step(&connection, retention.keep(1_000_000)).unwrap();
        assert_eq!((step.removed, step.excess, step.is_round_over), (601, 601, true));
        assert_eq!(extents(&connection), [(700, 601, 100), (100, 1, 100), (101, 2, 100)]);
        let keep = Keep { since_ms: 650, ..retention.keep(0) };
        let step = walk.step(&connection, keep).unwrap();
        assert_eq!((step.removed, step.excess), (49 + 100 + 100, 0));
    }

    #[test]
    fn it_rests_between_two_steps() {
        let mut walk = Walk::default();
        assert!(walk.is_due(5_000) && !walk.is_due(5_000 + RETENTION_STEP_MS - 1));
        assert!(walk.is_due(5_000 + RETENTION_STEP_MS));
        walk.rest_until(1_000_000);
        assert!(!walk.is_due(999_999) && walk.is_due(1_000_000));
    }
}
