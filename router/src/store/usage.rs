//! What each app's messages take in a shard's file: a row per app, changed in the transaction that adds or removes
//! messages. So it is right however a process ended, and no file is ever counted again.

use hashbrown::HashMap;
use rusqlite::{Connection, params};

use crate::limits::{APPS_MAX, STORED_MESSAGE_BYTES};
use crate::store::schema::{rowid, signed, unsigned};

/// What a message without traffic marks takes: payload and names, the latter also in the index, and what a row costs beside
/// them.
pub const fn message_bytes(from: &str, client_id: &[u8], payload: &[u8]) -> u64 {
    (payload.len() + 2 * (from.len() + client_id.len())) as u64 + STORED_MESSAGE_BYTES
}

/// What the open transaction changes.
#[derive(Debug, Default)]
pub struct Changes(HashMap<Box<str>, i64, foldhash::fast::RandomState>);

impl Changes {
    /// An app's messages take so much more, and so much less.
    pub fn add(&mut self, app: &str, added: u64, removed: u64) {
        let change = signed(added) - signed(removed);
        match self.0.get_mut(app) {
            Some(known) => *known += change,
            None => {
                self.0.insert(app.into(), change);
            }
        }
    }

    /// The transaction was rolled back.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Writes them, within the transaction.
    pub fn save(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for (app, change) in self.0.drain() {
            connection
                .prepare_cached(
                    "INSERT INTO usage (app, bytes) VALUES (?1, max(0, ?2))
                     ON CONFLICT (app) DO UPDATE SET bytes = max(0, bytes + ?2)",
                )?
                .execute(params![app, change])?;
        }
        Ok(())
    }
}

/// Removes the messages `from..to` of an account. How many there were, and what they took.
pub fn remove(connection: &Connection, account: i64, from: u64, to: u64) -> rusqlite::Result<(u64, u64)> {
    let (from, to) = (rowid(account, from), rowid(account, to));
    let bytes = connection
        .prepare_cached(
            "SELECT coalesce(sum(length(payload) + 2 * (octet_length(sender) + length(client_id))
                                 + coalesce(length(marks), 0) + ?3), 0)
             FROM messages WHERE id >= ?1 AND id < ?2",
        )?
        .query_row(params![from, to, signed(STORED_MESSAGE_BYTES)], |row| row.get(0).map(unsigned))?;
    let removed = connection
        .prepare_cached("DELETE FROM messages WHERE id >= ?1 AND id < ?2")?
        .execute(params![from, to])?;
    Ok((removed as u64, bytes))
}

/// What each app's messages take, most first.
pub fn read(connection: &Connection) -> rusqlite::Result<Vec<(Box<str>, u64)>> {
    let mut statement =
        connection.prepare("SELECT app, bytes FROM usage WHERE bytes > 0 ORDER BY bytes DESC LIMIT ?1")?;
    let rows = statement.query_map(params![signed(APPS_MAX as u64)], |row| {
        Ok((row.get::<_, String>(0)?.into(), row.get(1).map(unsigned)?))
    })?;
    rows.collect()
}

/// The same by counting every message.
#[cfg(test)]
pub fn recount(connection: &Connection) -> Vec<(Box<str>, u64)> {
    let mut by_app = std::collections::BTreeMap::<Box<str>, u64>::new();
    let mut statement = connection
        .prepare(
            "SELECT a.app, m.sender, m.client_id, m.payload, m.marks FROM messages m JOIN accounts a ON a.id = m.account",
        )
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (app, from): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (client_id, payload): (Vec<u8>, Vec<u8>) = (row.get(2).unwrap(), row.get(3).unwrap());
        let marks: Option<Vec<u8>> = row.get(4).unwrap();
        let marks = marks.map_or(0, |marks| marks.len() as u64);
        *by_app.entry(app.into()).or_default() += message_bytes(&from, &client_id, &payload) + marks;
    }
    let mut all: Vec<_> = by_app.into_iter().collect();
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    all
}
