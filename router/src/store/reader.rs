//! The reading thread of a shard's file: takes what is queued, answers it from one snapshot.

use bytes::Bytes;
use moor_wire::client::TrafficMarks;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension, params};

use crate::limits::{READ_OPS_PER_SNAPSHOT, WINDOW_BYTES, WINDOW_MESSAGES};
use crate::store::groups::{self, GroupFound};
use crate::store::schema::{SYNC_ID_MAX, rowid, sync_id, unsigned};
use crate::store::{
    AccountKey, Entry, Extent, Found, Message, Read, ReadDone, StoreError, StoreEvent, marks,
};

/// Runs until the queue's senders are gone.
pub fn run(
    connection: &mut Connection,
    queue: &flume::Receiver<Vec<Read>>,
    events: &flume::Sender<StoreEvent>,
) {
    while let Ok(mut batch) = queue.recv() {
        while batch.len() < READ_OPS_PER_SNAPSHOT
            && let Ok(more) = queue.try_recv()
        {
            batch.extend(more);
        }
        let mut batch = batch.into_iter();
        loop {
            let slice: Vec<Read> = batch.by_ref().take(READ_OPS_PER_SNAPSHOT).collect();
            if slice.is_empty() {
                break;
            }
            let done = answer(connection, slice);
            if events.send(StoreEvent::Read(done)).is_err() {
                return;
            }
        }
    }
}

/// One snapshot for all, so that an extent and the messages beside it agree.
fn answer(connection: &mut Connection, batch: Vec<Read>) -> Vec<ReadDone> {
    let failed = |error: rusqlite::Error| StoreError(error.to_string().into());
    match connection.transaction() {
        Ok(snapshot) => batch
            .into_iter()
            .map(|read| ReadDone { outcome: find(&snapshot, &read).map_err(failed), read })
            .collect(),
        Err(error) => {
            let error = failed(error);
            batch.into_iter().map(|read| ReadDone { read, outcome: Err(error.clone()) }).collect()
        }
    }
}

fn find(snapshot: &Connection, read: &Read) -> rusqlite::Result<Found> {
    let key = match read {
        Read::Load { key, .. }
        | Read::Range { key, .. }
        | Read::Room { key, .. }
        | Read::Extent { key, .. }
        | Read::Marks { key, .. } => key,
        Read::Group(read) => return groups::find(snapshot, read),
    };
    let Some((account, extent)) = find_account(snapshot, key)? else { return Ok(Found::nothing()) };
    let mut found = Found { extent, through: extent.head, ..Found::nothing() };
    match read {
        Read::Load { device, .. } => {
            // All of an account's positions lie together, and are few.
            let (own, any): (Option<i64>, Option<i64>) = snapshot
                .prepare_cached(
                    "SELECT MAX(CASE WHEN device = ?2 THEN acked END), MAX(acked) FROM cursors WHERE account = ?1",
                )?
                .query_row(params![account, device], |row| Ok((row.get(0)?, row.get(1)?)))?;
            found.acked = own.map(unsigned);
            found.acked_any = any.map(unsigned);
            found.group = GroupFound::Conversations(groups::conversations(snapshot, account)?);
        }
        Read::Range { after, .. } => {
            read_range(snapshot, account, *after, WINDOW_MESSAGES, WINDOW_BYTES as usize, &mut found)?;
        }
        Read::Marks { since, .. } => {
            (found.marks, found.through) = marks::read(snapshot, account, *since)?;
        }
        Read::Room { pull: Some(pull), .. } => {
            let (messages, bytes) = (WINDOW_MESSAGES, WINDOW_BYTES as usize);
            read_range(snapshot, account, pull.after_id, messages, bytes, &mut found)?;
        }
        Read::Room { pull: None, .. } | Read::Extent { .. } | Read::Group(_) => {}
    }
    Ok(found)
}

impl Found {
    /// Of an account that never received anything.
    pub const fn nothing() -> Self {
        Self {
            extent: Extent::EMPTY,
            acked: None,
            acked_any: None,
            messages: Vec::new(),
            through: 0,
            marks: Vec::new(),
            group: GroupFound::Nothing,
        }
    }
}

/// An account's number and extent.
pub fn find_account(connection: &Connection, key: &AccountKey) -> rusqlite::Result<Option<(i64, Extent)>> {
    connection
        .prepare_cached("SELECT id, head, floor FROM accounts WHERE app = ?1 AND account = ?2")?
        .query_row(params![key.app, key.account], |row| {
            let extent = Extent { head: unsigned(row.get(1)?), floor: unsigned(row.get(2)?) };
            Ok((row.get(0)?, extent))
        })
        .optional()
}

/// The place of a message in an account's timeline, if it is there.
pub fn find_message(
    connection: &Connection,
    account: i64,
    from: &str,
    client_id: &[u8],
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT id FROM messages WHERE account = ?1 AND sender = ?2 AND client_id = ?3")?
        .query_row(params![account, from, client_id], |row| row.get(0).map(sync_id))
        .optional()
}

/// Reads messages behind `after`: up to so many, and until they have so many bytes.
pub fn read_range(
    snapshot: &Connection,
    account: i64,
    after: u64,
    messages_max: usize,
    bytes_max: usize,
    found: &mut Found,
) -> rusqlite::Result<()> {
    let mut statement = snapshot.prepare_cached(
        "SELECT id, sender, client_id, sent_at_ms, payload, entry, marks FROM messages
         WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
    )?;
    let from = rowid(account, after.min(SYNC_ID_MAX));
    let limit = i64::try_from(messages_max).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![from, rowid(account, SYNC_ID_MAX), limit])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let payload: Vec<u8> = row.get(4)?;
        bytes += payload.len();
        let marks = row.get_ref(6)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
        let message = Message {
            sync_id: sync_id(row.get(0)?),
            from: row.get(1)?,
            client_id: Bytes::from(row.get::<_, Vec<u8>>(2)?),
            sent_at_ms: unsigned(row.get(3)?),
            payload: Bytes::from(payload),
            entry: Entry::from_number(row.get(5)?),
            marks: marks.and_then(|marks| TrafficMarks::decode(marks).ok()).map(Box::new),
        };
        found.through = message.sync_id;
        found.messages.push(message);
        if bytes >= bytes_max {
            return Ok(());
        }
    }
    if found.messages.len() < messages_max {
        found.through = found.extent.head;
    }
    Ok(())
}
