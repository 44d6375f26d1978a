//! The embedded message store: one SQLite file per shard, a committing, a reading and a checkpointing thread.
//!
//! Group commit comes by itself: the committer takes all that was queued while the last commit ran, up to a
//! bound. A commit that fails is rolled back as a whole and answered as failed; nothing of it was
//! acknowledged, and the committer goes on with the next.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use moor_wire::client::Class;
use prost::Message as _;
use rusqlite::{Connection, params};

use crate::arrival::State;
use crate::clock::wall_ms;
use crate::config::Fsync;
use crate::error::StartError;
use crate::limits::{
    COMMIT_BYTES_MAX, COMMIT_OPS_MAX, DEVICES_PER_ACCOUNT_MAX, HEADS_CACHED_MAX, RETENTION_REST_MS,
    RETENTION_STEP_MS, TRIM_SLICE_MESSAGES, WRITES_OUTSTANDING_MAX,
};
use crate::metrics::Metrics;
use crate::seldom::Seldom;
use crate::store::checkpoint::{self, Progress};
use crate::store::groups::{self, GroupWrite, RowDone};
use crate::store::marks::{self, MarkSave, Marked, Saved};
use crate::store::retention::{Retention, Step, Walk, trim_excess, trim_expired, unacknowledged};
use crate::store::schema::{self, ACCOUNT_MAX, SYNC_ID_MAX, rowid, signed};
use crate::store::{
    AccountKey, CursorSave, Extent, Full, MessageStore, Read, StoreError, StoreEvent, Stored, Submit, Write,
    Written, reader, usage,
};

/// A full disk refuses one commit after the other.
static COMMIT_REFUSED: Seldom = Seldom::new();

/// A handle on the three threads of one file.
#[derive(Debug)]
pub struct SqliteStore {
    writes: flume::Sender<Vec<Write>>,
    reads: flume::Sender<Vec<Read>>,
    events: flume::Receiver<StoreEvent>,
    /// See [`MessageStore::take_usage`].
    usage: Vec<(Box<str>, u64)>,
    threads: Vec<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens or makes the file and starts its threads.
    pub fn open(
        path: &Path,
        name: &str,
        fsync: Fsync,
        retention: impl Into<Retention>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let writer = schema::open_writer(path, fsync)?;
        let usage = usage::read(&writer).map_err(schema::failed(path))?;
        let mut read_connection = schema::open_reader(path)?;
        let checkpoint_connection = schema::open_writer(path, fsync)?;
        // One batch holds at least one operation, and those are counted by the shard: never full in practice.
        let (writes, write_queue) = flume::bounded(WRITES_OUTSTANDING_MAX);
        let (reads, read_queue) = flume::bounded(WRITES_OUTSTANDING_MAX);
        let (event_sender, events) = flume::bounded(1024);
        let spawn = |what: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(format!("{what}-{name}")).spawn(run).map_err(StartError::Thread)
        };

        let progress = Arc::new(Progress::default());
        let checkpointer = {
            let (progress, metrics) = (progress.clone(), metrics.clone());
            spawn("log", Box::new(move || checkpoint::run(&checkpoint_connection, &progress, &metrics)))?
        };
        let reader_events = event_sender.clone();
        let reading =
            spawn("read", Box::new(move || reader::run(&mut read_connection, &read_queue, &reader_events)))?;
        let mut committer = Committer {
            connection: writer,
            retention: retention.into(),
            walk: Walk::default(),
            heads: HashMap::default(),
            touched: Vec::new(),
            usage: usage::Changes::default(),
            removed: Removed::default(),
            metrics: metrics.clone(),
        };
        let checkpoint_thread = checkpointer.thread().clone();
        let writing = spawn(
            "commit",
            Box::new(move || {
                committer.run(&write_queue, &event_sender, &progress, &checkpoint_thread);
                progress.end();
                checkpoint_thread.unpark();
            }),
        )?;
        Ok(Self { writes, reads, events, usage, threads: vec![writing, reading, checkpointer] })
    }
}

/// Hands a thread a batch.
///
/// # Panics
/// When the thread has ended: it did so by a fault, and a shard without it would refuse everything for ever.
fn hand<T>(thread: &flume::Sender<Vec<T>>, batch: Vec<T>) -> Result<(), Full<T>> {
    thread.try_send(batch).map_err(|error| match error {
        flume::TrySendError::Full(batch) => Full(batch),
        flume::TrySendError::Disconnected(_) => panic!("a storage thread has ended"),
    })
}

impl MessageStore for SqliteStore {
    fn try_write(&mut self, batch: Vec<Write>) -> Result<(), Full<Write>> {
        hand(&self.writes, batch)
    }

    fn try_read(&mut self, batch: Vec<Read>) -> Result<(), Full<Read>> {
        hand(&self.reads, batch)
    }

    fn take_usage(&mut self) -> Vec<(Box<str>, u64)> {
        std::mem::take(&mut self.usage)
    }

    fn events(&self) -> flume::Receiver<StoreEvent> {
        self.events.clone()
    }

    fn close(self: Box<Self>) {
        let Self { writes, reads, events, threads, .. } = *self;
        drop((writes, reads));
        // The threads may be waiting to hand over an event nobody will read.
        let drain = std::thread::spawn(move || while events.recv().is_ok() {});
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a storage thread ended in a panic");
            }
        }
        drain.join().ok();
    }
}

/// What the committer remembers of an account.
#[derive(Debug)]
struct Head {
    key: AccountKey,
    id: i64,
    extent: Extent,
    /// When the oldest message was accepted, where age counts; 0: not known.
    oldest_ms: u64,
    /// True exactly when `extent` is newer than the accounts table, within the open transaction.
    is_dirty: bool,
}

/// What became of a batch's submits, its marks, and the rows of groups that somebody waits for.
type Committed = (Vec<Written>, Vec<Marked>, Vec<RowDone>);

struct Committer {
    connection: Connection,
    retention: Retention,
    walk: Walk,
    /// By account hash. Emptied when a commit fails, since it may hold what was rolled back.
    heads: HashMap<u64, Head, foldhash::fast::RandomState>,
    touched: Vec<u64>,
    /// Of the open transaction.
    usage: usage::Changes,
    removed: Removed,
    metrics: Arc<Metrics>,
}

/// What the open transaction removes: counted when it is committed.
#[derive(Debug, Default)]
struct Removed {
    messages: u64,
    /// Those among them that were too old.
    aged: u64,
    /// Positions of devices.
    positions: u64,
    /// Messages that went before any device acknowledged them: of which app, how many, when.
    expired: Vec<(Box<str>, u64, u64)>,
}

/// What became of the submits, of the marks and of the rows of groups of a commit, each in their order.
type Outcomes = (Vec<Result<Stored, StoreError>>, Vec<Result<Saved, StoreError>>, Vec<bool>);

/// Sorts what was written by who waits for it.
fn tell(batch: Vec<Write>, outcome: Result<Outcomes, StoreError>) -> Committed {
    let (outcomes, error) = match outcome {
        Ok(outcomes) => (outcomes, None),
        Err(error) => (Outcomes::default(), Some(error)),
    };
    let (mut places, mut saved, mut rows) =
        (outcomes.0.into_iter(), outcomes.1.into_iter(), outcomes.2.into_iter());
    // In a batch that was committed each has its outcome.
    let refused = || error.clone().unwrap_or_else(|| StoreError("not written".into()));
    let (mut written, mut marked, mut done) = Committed::default();
    for write in batch {
        match write {
            Write::Submit(submit) => {
                let outcome = places.next().unwrap_or_else(|| Err(refused()));
                written.push(Written { submit, outcome });
            }
            Write::Mark(save) => {
                let outcome = saved.next().unwrap_or_else(|| Err(refused()));
                marked.push(Marked { save, outcome });
            }
            Write::Group(group) => {
                let outcome = rows.next().ok_or_else(refused);
                done.extend(group.into_waiter().map(|waiter| RowDone { waiter, outcome }));
            }
            Write::Cursor(_) => {}
        }
    }
    (written, marked, done)
}

fn bytes_of(batch: &[Write]) -> usize {
    batch.iter().map(|write| if let Write::Submit(submit) = write { submit.payload.len() } else { 0 }).sum()
}

/// Counts messages that went before any device acknowledged them.
fn count_expired(metrics: &Metrics, app: &str, count: u64, at_ms: u64) {
    let slot = metrics.arrival.apps().find_or_insert(app);
    metrics.arrival.count(slot, Class::Reliable, State::Expired, count, at_ms / 1000, at_ms / 1000);
}

impl Committer {
    fn run(
        &mut self,
        queue: &flume::Receiver<Vec<Write>>,
        events: &flume::Sender<StoreEvent>,
        progress: &Progress,
        checkpointer: &std::thread::Thread,
    ) {
        // A row touches its leaf, an index leaf and its account: an estimate is enough here.
        let note = |committer: &Self, operations: u64| {
            progress.handle_commit(
                operations * 2 + 2,
                &committer.connection,
                checkpointer,
                &committer.metrics,
            );
        };
        while let Some(mut batch) = self.next(queue, events, note) {
            let mut bytes = bytes_of(&batch);
            while batch.len() < COMMIT_OPS_MAX
                && bytes < COMMIT_BYTES_MAX
                && let Ok(more) = queue.try_recv()
            {
                bytes += bytes_of(&more);
                batch.extend(more);
            }
            let mut batch = batch.into_iter();
            loop {
                let slice: Vec<Write> = batch.by_ref().take(COMMIT_OPS_MAX).collect();
                if slice.is_empty() {
                    break;
                }
                let operations = slice.len() as u64;
                let (written, marked, rows) = self.commit(slice);
                if !written.is_empty() && events.send(StoreEvent::Written(written)).is_err() {
                    return;
                }
                if !marked.is_empty() && events.send(StoreEvent::Marked(marked)).is_err() {
                    return;
                }
                if !rows.is_empty() && events.send(StoreEvent::Rows(rows)).is_err() {
                    return;
                }
                note(self, operations);
            }
        }
    }

    /// What is to be written next; between two commits, and while there is nothing, the walk takes its steps.
    /// `None`: the queue's senders are gone. `note` is told how much of the log a step took.
    fn next(
        &mut self,
        queue: &flume::Receiver<Vec<Write>>,
        events: &flume::Sender<StoreEvent>,
        note: impl Fn(&Self, u64),
    ) -> Option<Vec<Write>> {
        if !self.retention.walks() {
            return queue.recv().ok();
        }
        loop {
            let now_ms = wall_ms();
            if self.walk.is_due(now_ms) {
                let Step { removed, freed, .. } = self.walk_on(now_ms);
                if removed > 0 {
                    note(self, removed);
                }
                if !freed.is_empty() && events.send(StoreEvent::Freed(freed)).is_err() {
                    return None;
                }
            }
            match queue.recv_timeout(Duration::from_millis(RETENTION_STEP_MS)) {
                Ok(batch) => return Some(batch),
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Removes messages past their age, or too many, from a few accounts.
    fn walk_on(&mut self, now_ms: u64) -> Step {
        let connection = &self.connection;
        let walked = connection.execute_batch("BEGIN IMMEDIATE").and_then(|()| {
            let step = self.walk.step(connection, self.retention.keep(now_ms))?;
            for (app, bytes) in &step.freed {
                self.usage.add(app, 0, *bytes);
            }
            self.usage.save(connection)?;
            connection.execute_batch("COMMIT")?;
            Ok(step)
        });
        match walked {
            Ok(step) => {
                for (app, count) in &step.expired {
                    count_expired(&self.metrics, app, *count, now_ms);
                }
                self.metrics.trimmed.add(step.removed);
                self.metrics.trimmed_age.add(step.removed - step.excess);
                self.metrics.retention_rounds.add(u64::from(step.is_round_over));
                for (hash, id, floor) in &step.moved {
                    if let Some(head) = self.heads.get_mut(hash).filter(|head| head.id == *id) {
                        (head.extent.floor, head.oldest_ms) = (*floor, 0);
                    }
                }
                step
            }
            Err(error) => {
                tracing::warn!(%error, "messages past their age cannot be removed now");
                self.roll_back();
                self.walk.rest_until(now_ms + RETENTION_REST_MS);
                Step::default()
            }
        }
    }

    /// One group commit. Submits and marks come back with their outcomes, in order; then those who wait for rows of
    /// groups.
    fn commit(&mut self, batch: Vec<Write>) -> Committed {
        let started = Instant::now();
        let outcome = self.try_commit(&batch);
        let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.metrics.commit_us.add(us);
        let outcome = match outcome {
            Ok(outcomes) => {
                self.metrics.commits.increment();
                self.metrics.commit_ops.add(batch.len() as u64);
                Ok(outcomes)
            }
            Err(error) => {
                self.metrics.commit_failures.increment();
                if let Some(more) = COMMIT_REFUSED.due() {
                    tracing::error!(
                        %error,
                        writes = batch.len(),
                        more_since = more,
                        "the disk refused a commit; nothing of it was acknowledged"
                    );
                }
                self.roll_back();
                self.cut_off();
                Err(StoreError(error.to_string().into()))
            }
        };
        tell(batch, outcome)
    }

    fn roll_back(&mut self) {
        self.heads.clear();
        self.touched.clear();
        self.usage.clear();
        self.removed = Removed::default();
        // SQLite ends the transaction itself on some errors; then there is nothing left to roll back.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rollback failed");
        }
    }

    /// Makes sure that a refused batch does not come back. Where only the flush failed, all of it stands in the
    /// log, and a process killed now would find it there and take it for committed. A small commit overwrites
    /// its beginning, and the checksums, which build on each other, end there. If that cannot be flushed
    /// either, a kill of the process finds it in the kernel's cache all the same.
    fn cut_off(&self) {
        if let Err(error) = self.connection.pragma_update(None, "user_version", schema::VERSION) {
            tracing::debug!(%error, "the cut behind the last good commit could not be written and flushed");
        }
    }

    /// Carries writes out in the order they were handed over: what forgets a group must not meet its successor.
    fn try_commit(&mut self, batch: &[Write]) -> rusqlite::Result<Outcomes> {
        if self.heads.len() > HEADS_CACHED_MAX {
            self.heads.clear();
        }
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let (mut places, mut saved, mut rows) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
        for write in batch {
            match write {
                Write::Submit(submit) => places.push(self.append(submit)?),
                Write::Cursor(cursor) => self.save_cursor(cursor)?,
                Write::Group(group) => rows.push(self.write_group(group)?),
                Write::Mark(mark) => saved.push(self.save_mark(mark)?),
            }
        }
        self.save_heads()?;
        self.usage.save(&self.connection)?;
        self.connection.execute_batch("COMMIT")?;
        self.count_removed();
        Ok((places, saved, rows))
    }

    fn count_removed(&mut self) {
        let Removed { messages, aged, positions, expired } = std::mem::take(&mut self.removed);
        self.metrics.trimmed.add(messages);
        self.metrics.trimmed_age.add(aged);
        self.metrics.devices_forgotten.add(positions);
        for (app, count, at_ms) in expired {
            count_expired(&self.metrics, &app, count, at_ms);
        }
    }

    fn write_group(&mut self, group: &GroupWrite) -> rusqlite::Result<bool> {
        self.remember(group.key(), group.makes_account())?;
        match self.heads.get(&group.key().hash) {
            Some(head) => groups::write(&self.connection, head.id, head.extent.head, group),
            None => Ok(false),
        }
    }

    fn save_mark(&mut self, save: &MarkSave) -> rusqlite::Result<Result<Saved, StoreError>> {
        self.remember(&save.key, true)?;
        let Some(head) = self.heads.get(&save.key.hash) else {
            return Ok(Err(StoreError("too many accounts in one shard".into())));
        };
        marks::save(&self.connection, head.id, &save.mark).map(Ok)
    }

    fn append(&mut self, submit: &Submit) -> rusqlite::Result<Result<Stored, StoreError>> {
        self.remember(&submit.to, true)?;
        let Some(head) = self.heads.get_mut(&submit.to.hash) else {
            return Ok(Err(StoreError("too many accounts in one shard".into())));
        };
        let next = head.extent.head + 1;
        if next > SYNC_ID_MAX {
            return Ok(Err(StoreError("the account's timeline is full".into())));
        }
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO messages (id, account, sender, client_id, sent_at_ms, payload, entry, marks)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (account, sender, client_id) DO NOTHING",
            )?
            .execute(params![
                rowid(head.id, next),
                head.id,
                submit.from,
                &submit.client_id[..],
                signed(submit.sent_at_ms),
                &submit.payload[..],
                submit.entry.number(),
                submit.marks.as_ref().map(|marks| marks.encode_to_vec()),
            ])?;
        if inserted == 0 {
            let known = reader::find_message(&self.connection, head.id, &submit.from, &submit.client_id)?;
            return Ok(Ok(Stored {
                sync_id: known.ok_or(rusqlite::Error::QueryReturnedNoRows)?,
                floor: head.extent.floor,
                is_duplicate: true,
                freed_bytes: 0,
            }));
        }
        head.extent.head = next;
        if submit.entry.is_event() {
            groups::change(&self.connection, head.id, &submit.to.app, next, &submit.payload)?;
        }
        if !head.is_dirty {
            head.is_dirty = true;
            self.touched.push(submit.to.hash);
        }
        let (oldest, mut freed_bytes) = (head.extent.floor, 0);
        // Late and in slices, so that one account above its limit costs each commit only a little.
        let excess = (next + 1 - head.extent.floor).saturating_sub(self.retention.messages);
        if excess > TRIM_SLICE_MESSAGES.min(self.retention.messages / 10) {
            let trimmed = trim_excess(&self.connection, head.id, &mut head.extent, self.retention.messages)?;
            head.oldest_ms = 0;
            freed_bytes += trimmed.bytes;
            self.removed.messages += trimmed.removed;
        }
        if let Some(age_ms) = self.retention.age_ms {
            let before_ms = submit.sent_at_ms.saturating_sub(age_ms);
            if head.oldest_ms < before_ms {
                let trimmed = trim_expired(&self.connection, head.id, &mut head.extent, before_ms)?;
                head.oldest_ms = trimmed.oldest_ms;
                freed_bytes += trimmed.bytes;
                self.removed.messages += trimmed.removed;
                self.removed.aged += trimmed.removed;
            }
        }
        if head.extent.floor > oldest {
            let (name, floor) = (&submit.to.account, head.extent.floor);
            let expired = unacknowledged(&self.connection, head.id, name, oldest, floor)?;
            if expired > 0 {
                self.removed.expired.push((submit.to.app.clone(), expired, submit.sent_at_ms));
            }
        }
        self.usage.add(&submit.to.app, submit.stored_bytes(), freed_bytes);
        Ok(Ok(Stored { sync_id: next, floor: head.extent.floor, is_duplicate: false, freed_bytes }))
    }

    /// Brings an account's head to hand; makes the account where `make` says so.
    fn remember(&mut self, key: &AccountKey, make: bool) -> rusqlite::Result<()> {
        match self.heads.get(&key.hash) {
            Some(head) if head.key == *key => return Ok(()),
            Some(_) => {
                // Two names with one hash: the other one's head goes to the file and out of the cache.
                self.save_heads()?;
                self.heads.remove(&key.hash);
            }
            None => {}
        }
        let (id, extent) = match reader::find_account(&self.connection, key)? {
            Some(known) => known,
            None if make => {
                self.connection
                    .prepare_cached("INSERT INTO accounts (app, account, head, floor) VALUES (?1, ?2, 0, 1)")?
                    .execute(params![key.app, key.account])?;
                (self.connection.last_insert_rowid(), Extent::EMPTY)
            }
            None => return Ok(()),
        };
        if id <= ACCOUNT_MAX {
            self.heads.insert(key.hash, Head { key: key.clone(), id, extent, oldest_ms: 0, is_dirty: false });
        }
        Ok(())
    }

    fn save_cursor(&mut self, cursor: &CursorSave) -> rusqlite::Result<()> {
        self.remember(&cursor.key, false)?;
        let Some(head) = self.heads.get(&cursor.key.hash) else { return Ok(()) };
        let known = self
            .connection
            .prepare_cached("UPDATE cursors SET acked = ?3 WHERE account = ?1 AND device = ?2")?
            .execute(params![head.id, cursor.device, signed(cursor.acked)])?;
        if known > 0 {
            return Ok(());
        }
        // A device more: the one furthest behind makes room. Should it come back it is served from the oldest
        // message kept, like a device never seen.
        let forgotten = self
            .connection
            .prepare_cached(
                "DELETE FROM cursors WHERE account = ?1 AND device IN (
                     SELECT device FROM cursors WHERE account = ?1 ORDER BY acked DESC, device LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![head.id, DEVICES_PER_ACCOUNT_MAX - 1])?;
        self.removed.positions += forgotten as u64;
        self.connection
            .prepare_cached("INSERT INTO cursors (account, device, acked) VALUES (?1, ?2, ?3)")?
            .execute(params![head.id, cursor.device, signed(cursor.acked)])?;
        Ok(())
    }

    fn save_heads(&mut self) -> rusqlite::Result<()> {
        for hash in self.touched.drain(..) {
            let Some(head) = self.heads.get_mut(&hash) else { continue };
            self.connection
                .prepare_cached("UPDATE accounts SET head = ?2, floor = ?3 WHERE id = ?1")?
                .execute(params![head.id, signed(head.extent.head), signed(head.extent.floor)])?;
            head.is_dirty = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_ended_is_no_full_queue() {
        let (thread, queue) = flume::bounded(1);
        assert!(hand(&thread, vec![1]).is_ok());
        assert_eq!(hand(&thread, vec![2]).unwrap_err().0, [2]);
        drop(queue);
        let hand = std::panic::AssertUnwindSafe(|| hand(&thread, vec![3]).is_ok());
        assert!(std::panic::catch_unwind(hand).is_err());
    }
}
