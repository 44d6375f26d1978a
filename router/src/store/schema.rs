//! The SQLite file: its tables, its settings, its version.
//!
//! A message's rowid is its account's number above its sync id, so one integer B-tree holds all timelines,
//! each contiguous. The unique index is the memory of client ids; it goes with the message.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::config::Fsync;
use crate::error::StartError;

/// Version of the tables: how many of the steps below made them.
#[allow(clippy::cast_possible_truncation, reason = "a handful of steps")]
pub const VERSION: u32 = STEPS.len() as u32;

/// Bits of a rowid that hold the sync id: 3.4e10 messages per account, a year at 1,000 a second.
pub const SYNC_ID_BITS: u32 = 35;
/// Highest sync id.
pub const SYNC_ID_MAX: u64 = (1 << SYNC_ID_BITS) - 1;
/// Highest account number: 2.7e8 accounts per shard.
pub const ACCOUNT_MAX: i64 = (1 << (63 - SYNC_ID_BITS)) - 1;

const TABLES: &str = "
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    app TEXT NOT NULL,
    account TEXT NOT NULL,
    head INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    UNIQUE (app, account)
) STRICT;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    sender TEXT NOT NULL,
    client_id BLOB NOT NULL,
    sent_at_ms INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_client_id ON messages (account, sender, client_id);
CREATE TABLE cursors (
    account INTEGER NOT NULL,
    device TEXT NOT NULL,
    acked INTEGER NOT NULL,
    PRIMARY KEY (account, device)
) STRICT, WITHOUT ROWID;
";

/// `version` grows with every change within an account; read by it, marks come in the order they changed.
const READ_MARKS: &str = "
CREATE TABLE read_marks (
    account INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    conversation TEXT NOT NULL,
    sync_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (account, kind, conversation)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX read_marks_version ON read_marks (account, version);
";

/// A group is an account with a reserved name. `members` and `positions` lie beside its timeline, `memberships`
/// beside the member's.
const GROUPS: &str = "
ALTER TABLE messages ADD COLUMN entry INTEGER NOT NULL DEFAULT 0;
CREATE TABLE groups (
    account INTEGER PRIMARY KEY,
    app TEXT NOT NULL,
    title TEXT NOT NULL,
    is_open INTEGER NOT NULL,
    is_dissolved INTEGER NOT NULL,
    spread INTEGER NOT NULL
) STRICT;
CREATE INDEX groups_app ON groups (app);
CREATE TABLE members (
    account INTEGER NOT NULL,
    member TEXT NOT NULL,
    role INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (account, member)
) STRICT, WITHOUT ROWID;
CREATE TABLE positions (
    account INTEGER NOT NULL,
    member TEXT NOT NULL,
    device TEXT NOT NULL,
    acked INTEGER NOT NULL,
    PRIMARY KEY (account, member, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE memberships (
    account INTEGER NOT NULL,
    name TEXT NOT NULL,
    role INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    is_muted INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;
";

/// Traffic marks of a message, encoded; most have none.
const TRAFFIC_MARKS: &str = "ALTER TABLE messages ADD COLUMN marks BLOB;";

/// What each app's messages take (`store/usage.rs`). The one time that a whole file is counted.
const USAGE: &str = "
CREATE TABLE usage (
    app TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO usage (app, bytes)
    SELECT a.app, sum(length(m.payload) + 2 * (octet_length(m.sender) + length(m.client_id))
                      + coalesce(length(m.marks), 0) + 48)
    FROM messages m CROSS JOIN accounts a ON a.id = m.account GROUP BY a.app;
";

/// What a member wants of its group, where the group's shard needs it.
const MUTED: &str = "ALTER TABLE members ADD COLUMN is_muted INTEGER NOT NULL DEFAULT 0;";

/// What each version added. A file is brought up step by step, in one transaction; a step once released never
/// changes.
const STEPS: [&str; 6] = [TABLES, READ_MARKS, GROUPS, TRAFFIC_MARKS, USAGE, MUTED];

/// The rowid of a message.
pub fn rowid(account: i64, sync_id: u64) -> i64 {
    debug_assert!(sync_id <= SYNC_ID_MAX && account <= ACCOUNT_MAX);
    (account << SYNC_ID_BITS) | i64::try_from(sync_id).unwrap_or(i64::MAX)
}

/// The sync id in a rowid.
pub fn sync_id(rowid: i64) -> u64 {
    rowid.cast_unsigned() & SYNC_ID_MAX
}

/// A count from the file; negative ones cannot be and read as 0.
pub fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A count for the file.
pub fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// An error of SQLite's about a file.
pub fn failed(path: &Path) -> impl FnOnce(rusqlite::Error) -> StartError + '_ {
    |error| StartError::Store { path: path.to_owned(), detail: error.to_string() }
}

/// Opens the file for writing, making what its tables lack.
pub fn open_writer(path: &Path, fsync: Fsync) -> Result<Connection, StartError> {
    let mut connection = Connection::open(path).map_err(failed(path))?;
    prepare(&mut connection, fsync).map_err(failed(path))?;
    let stored: u32 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed(path))?;
    if stored != VERSION {
        return Err(StartError::Format { path: path.to_owned(), stored, known: VERSION });
    }
    Ok(connection)
}

fn prepare(connection: &mut Connection, fsync: Fsync) -> rusqlite::Result<()> {
    let synchronous = match fsync {
        Fsync::Full => "FULL",
        Fsync::Normal => "NORMAL",
        Fsync::Off => "OFF",
    };
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    // 8 KiB pages: the size the notes' 35-41 k rows/s were measured with.
    connection.execute_batch(&format!(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
         PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768;"
    ))?;
    let transaction = connection.transaction()?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version < VERSION {
        for step in STEPS.iter().skip(version as usize) {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// Opens the file for reading beside the writer.
pub fn open_reader(path: &Path) -> Result<Connection, StartError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("PRAGMA cache_size = -32768;")?;
        Ok(connection)
    };
    open().map_err(failed(path))
}

/// Copies what it can of the log into the file without stopping anyone. Returns the log's frames and how
/// many of them are copied.
pub fn checkpoint(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((unsigned(row.get(1)?), unsigned(row.get(2)?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::usage;

    #[test]
    fn a_file_of_the_first_version_keeps_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("messages.sqlite");
        {
            let old = Connection::open(&path).unwrap();
            old.execute_batch(TABLES).unwrap();
            old.execute_batch(
                "INSERT INTO accounts VALUES (7, 'shop', 'alice', 1, 1);
                 INSERT INTO messages VALUES (240518168577, 7, 'bob', x'01', 5, x'6869');
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        }
        for _ in 0..2 {
            let new = open_writer(&path, Fsync::Off).unwrap();
            let (payload, entry): (Vec<u8>, i64) = new
                .query_row("SELECT payload, entry FROM messages WHERE id = ?1", [rowid(7, 1)], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .unwrap();
            assert_eq!((&payload[..], entry), (&b"hi"[..], 0));
            new.query_row("SELECT count(*) FROM members", [], |row| row.get::<_, i64>(0)).unwrap();
            let usage = usage::read(&new).unwrap();
            assert_eq!(usage, [("shop".into(), usage::message_bytes("bob", &[1], b"hi"))]);
            assert_eq!(usage, usage::recount(&new));
        }
    }

    #[test]
    fn a_file_of_a_later_version_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("messages.sqlite");
        drop(open_writer(&path, Fsync::Off).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert!(
            matches!(open_writer(&path, Fsync::Off), Err(StartError::Format { stored, .. }) if stored == VERSION + 1)
        );
    }
}
