//! Read marks in a store: what passes through it, and the embedded engine's part.

use std::sync::Arc;

use moor_wire::session::SessionHandle;
use rusqlite::{Connection, OptionalExtension, params};

use crate::lease::Link;
use crate::limits::{READ_MARKS_PAGE, READ_MARKS_PER_ACCOUNT_MAX};
use crate::store::schema::{signed, unsigned};
use crate::store::{AccountKey, StoreError};

/// How far an account has read a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What kind of conversation; the engine only tells them apart.
    pub kind: u32,
    /// Its name.
    pub conversation: Box<str>,
    /// Read up to here.
    pub sync_id: u64,
    /// The account's how-manieth change of a mark this was.
    pub version: u64,
}

/// Who is answered. The store carries it along and never looks inside.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The gateway's link.
    pub link: Arc<Link>,
    /// The session.
    pub session: SessionHandle,
}

/// A mark to be kept where it is higher than the one known.
#[derive(Debug)]
pub struct MarkSave {
    /// The account.
    pub key: AccountKey,
    /// The mark; its version is the store's to give.
    pub mark: Mark,
    /// Who said so.
    pub asker: Asker,
}

/// The highest mark of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// It.
    pub mark: Mark,
    /// False: a higher or equal one had been known; nothing was written.
    pub is_news: bool,
}

/// What became of a mark.
#[derive(Debug)]
pub struct Marked {
    /// The mark as handed over, back.
    pub save: Box<MarkSave>,
    /// What holds now.
    pub outcome: Result<Saved, StoreError>,
}

/// Keeps a mark of an account, within the open transaction.
pub fn save(connection: &Connection, account: i64, mark: &Mark) -> rusqlite::Result<Saved> {
    let known: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT sync_id, version FROM read_marks WHERE account = ?1 AND kind = ?2 AND conversation = ?3",
        )?
        .query_row(params![account, mark.kind, mark.conversation], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((sync_id, version)) = known
        && unsigned(sync_id) >= mark.sync_id
    {
        let (sync_id, version) = (unsigned(sync_id), unsigned(version));
        return Ok(Saved { mark: Mark { sync_id, version, ..mark.clone() }, is_news: false });
    }
    let version = newest(connection, account)? + 1;
    if known.is_none() {
        // A conversation more: the one whose mark has not moved for the longest time makes room.
        connection
            .prepare_cached(
                "DELETE FROM read_marks WHERE account = ?1 AND version IN (
                     SELECT version FROM read_marks WHERE account = ?1 ORDER BY version DESC LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![account, READ_MARKS_PER_ACCOUNT_MAX - 1])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO read_marks (account, kind, conversation, sync_id, version) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (account, kind, conversation) DO UPDATE SET sync_id = ?4, version = ?5",
        )?
        .execute(params![account, mark.kind, mark.conversation, signed(mark.sync_id), signed(version)])?;
    Ok(Saved { mark: Mark { version, ..mark.clone() }, is_news: true })
}

/// Version of the account's newest change; 0: none.
fn newest(connection: &Connection, account: i64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(max(version), 0) FROM read_marks WHERE account = ?1")?
        .query_row(params![account], |row| row.get(0))
        .map(unsigned)
}

/// A page of the marks behind a version, and the version up to which there are no others.
pub fn read(connection: &Connection, account: i64, since: u64) -> rusqlite::Result<(Vec<Mark>, u64)> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, conversation, sync_id, version FROM read_marks WHERE account = ?1 AND version > ?2
         ORDER BY version LIMIT ?3",
    )?;
    let limit = i64::try_from(READ_MARKS_PAGE).unwrap_or(i64::MAX);
    let marks = statement
        .query_map(params![account, signed(since), limit], |row| {
            Ok(Mark {
                kind: row.get(0)?,
                conversation: row.get::<_, String>(1)?.into(),
                sync_id: unsigned(row.get(2)?),
                version: unsigned(row.get(3)?),
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let through = match marks.last() {
        Some(last) if marks.len() >= READ_MARKS_PAGE => last.version,
        _ => newest(connection, account)?,
    };
    Ok((marks, through))
}
