//! A shard: the accounts whose hash falls to it, and all that happens to them.
//!
//! One owner, one loop. It does no I/O and reads no clock: work, store events and ticks come in with the
//! time, frames go into the outbox, writes and reads are collected for the store and taken by the thread
//! that drives it. Nothing here waits.

mod arrival;
mod conversations;
pub mod credit;
mod crossing;
mod deliver;
mod devices;
mod fanout;
mod groups;
mod locate;
mod marks;
mod offline;
mod relay;
pub mod rooms;
mod service;
mod sessions;
pub mod spread;
pub mod storage;
mod submit;
pub mod subscriptions;
mod tenants;
#[cfg(test)]
mod tests;
pub mod work;

pub use submit::answer;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use moor_wire::Code;

use crate::apps::Apps;
use crate::arrival::LocalApps;
use crate::lease::{Link, LinkId, ShardIndex};
use crate::limits::{
    CURSOR_FLUSH_MS, QUESTIONS_OUTSTANDING_MAX, RETRIES_PER_TURN_MAX, SWEEP_SESSIONS_PER_TICK,
};
use crate::metrics::Metrics;
use crate::offline::Ledger;
use crate::outbox::{Outbox, Weight};
use crate::registry::{AccountIndex, Registry, SessionIndex};
use crate::shard::conversations::Conversations;
use crate::shard::credit::Credit;
use crate::shard::groups::Groups;
use crate::shard::locate::Locations;
use crate::shard::rooms::Rooms;
use crate::shard::storage::Storage;
use crate::shard::subscriptions::Subscriptions;
use crate::shard::tenants::Tenants;
use crate::shard::work::Work;
use crate::store::groups::RowDone;
use crate::store::{AccountKey, CursorSave, Read, ReadDone, Slot, StoreEvent, Write};

/// One shard's state.
#[derive(Debug)]
pub struct Shard {
    /// Which one.
    pub index: ShardIndex,
    registry: Registry,
    /// Links that sessions here were announced on; void ones go with the next tick.
    links: HashMap<LinkId, Arc<Link>>,
    /// Frames on their way out.
    pub outbox: Outbox,
    /// When, which session, of which generation.
    retries: BinaryHeap<Reverse<(u64, SessionIndex, u32)>>,
    /// Sessions whose acknowledged position the store does not have yet.
    dirty: Vec<Slot<SessionIndex>>,
    cursors_due_ms: u64,
    /// Accounts that wait for a place among the outstanding range reads.
    backlog: VecDeque<Slot<AccountIndex>>,
    /// Reads the store refused; tried again with the next flush of cursors.
    failed_reads: Vec<Read>,
    subscriptions: Subscriptions,
    locations: Locations,
    groups: Groups,
    conversations: Conversations,
    rooms: Rooms,
    offline: Ledger,
    arrival_apps: LocalApps,
    writes: Vec<Write>,
    reads: Vec<Read>,
    writes_outstanding: usize,
    writes_outstanding_bytes: usize,
    /// Writes that had waited by app and their payload bytes, as far as the store has them.
    in_store: (usize, usize),
    tenants: Tenants,
    storage: Storage,
    ranges_outstanding: usize,
    /// Reads that clients and services asked for and that the store has not answered, ranges aside.
    questions_outstanding: usize,
    /// Those about what devices left behind.
    left_outstanding: usize,
    sweep_from: u32,
    is_stopping: bool,
    /// Time of the last event.
    now_ms: u64,
    /// What the wall clock is ahead of that.
    wall_offset_ms: u64,
    scratch: Vec<SessionIndex>,
    targets: Vec<fanout::Target>,
    apps: Arc<Apps>,
    /// True when some app's devices are told of each other's acknowledgements.
    has_device_acks: bool,
    metrics: Arc<Metrics>,
}

impl Shard {
    /// An empty shard.
    pub fn new(index: ShardIndex, outbox: Outbox, metrics: Arc<Metrics>) -> Self {
        Self {
            index,
            registry: Registry::default(),
            links: HashMap::new(),
            outbox,
            retries: BinaryHeap::new(),
            dirty: Vec::new(),
            cursors_due_ms: 0,
            backlog: VecDeque::new(),
            failed_reads: Vec::new(),
            subscriptions: Subscriptions::default(),
            locations: Locations::default(),
            groups: Groups::new(),
            conversations: Conversations::default(),
            rooms: Rooms::default(),
            offline: Ledger::new(metrics.clone()),
            arrival_apps: LocalApps::new(metrics.arrival.apps()),
            writes: Vec::new(),
            reads: Vec::new(),
            writes_outstanding: 0,
            writes_outstanding_bytes: 0,
            in_store: (0, 0),
            tenants: Tenants::default(),
            storage: Storage::default(),
            ranges_outstanding: 0,
            questions_outstanding: 0,
            left_outstanding: 0,
            sweep_from: 0,
            is_stopping: false,
            now_ms: 0,
            wall_offset_ms: 0,
            scratch: Vec::new(),
            targets: Vec::new(),
            apps: Arc::default(),
            has_device_acks: false,
            metrics,
        }
    }

    /// How each app is treated from now on.
    pub fn set_apps(&mut self, apps: Arc<Apps>) {
        self.has_device_acks = apps.have_device_acks();
        self.storage.is_limited = apps.have_storage_limits();
        self.apps = apps;
    }

    /// Carries a piece of work out.
    pub fn apply(&mut self, work: Work, now_ms: u64) {
        self.now_ms = now_ms;
        match work {
            Work::Register { link, sessions, credit } => self.handle_register(&link, sessions, &credit),
            Work::Unregister { link, sessions } => self.handle_unregister(&link, &sessions),
            Work::Synced(synced) => synced.pass(),
            Work::NotHere { link, entries } => self.handle_not_here(&link, &entries),
            Work::Submit(submit) => self.handle_submit(submit, now_ms),
            Work::Relay { submit, class } => self.handle_relay(*submit, class, now_ms),
            Work::Marks { link, hash, up } => self.handle_marks(&link, hash, &up),
            Work::Cursor { link, hash, up } => self.handle_cursor(&link, hash, &up, now_ms),
            Work::Lookup { link, cookie, key } => self.handle_lookup(link, cookie, key),
            Work::Kick { link, hash, kick } => self.handle_kick(&link, hash, &kick),
            Work::PushAccount { link, hash, body } => self.handle_push_account(&link, hash, &body),
            Work::Room(work) => self.handle_room(work, now_ms),
            Work::Subscribe { link, app, marks, credit } => {
                self.handle_subscribe(link, &app, &marks, &credit);
            }
            Work::Group { key, ask } => self.handle_group(key, ask, now_ms),
            Work::Pull { key, ask } => self.handle_pull(key, ask, now_ms),
            Work::Spread(spread) => self.handle_spread(&spread, now_ms),
            Work::Mute { key, member, is_muted } => self.handle_mute(key, member, is_muted),
            Work::SpreadDone { key, ticket, is_done } => {
                self.handle_spread_done(&key, ticket, is_done, now_ms);
            }
            Work::GroupAck { link, hash, up } => self.handle_group_ack(&link, hash, &up, now_ms),
            Work::Positions(saves) => self.handle_positions(saves),
            Work::Vacancy(ask) => self.handle_vacancy(ask),
            Work::VacancyFound { key, ticket, full } => self.handle_vacancy_found(&key, ticket, full, now_ms),
            Work::Heads(ask) => self.handle_heads(ask),
            Work::HeadsFound { session, heads } => self.handle_heads_found(session, heads),
        }
        self.run_ready_groups(now_ms);
    }

    /// Takes what the store has to say.
    pub fn handle_store(&mut self, event: StoreEvent, now_ms: u64) {
        self.now_ms = now_ms;
        match event {
            StoreEvent::Written(written) => self.handle_written(written, now_ms),
            StoreEvent::Rows(rows) => {
                for RowDone { waiter, outcome } in rows {
                    self.handle_row(waiter, outcome.map_err(|error| (Code::Storage, error.0)));
                }
            }
            StoreEvent::Marked(marked) => self.handle_marked(marked),
            StoreEvent::Freed(freed) => self.handle_freed(&freed),
            StoreEvent::Read(done) => {
                for ReadDone { read, outcome } in done {
                    self.handle_read(read, outcome, now_ms);
                }
            }
        }
        self.supply_store();
        self.run_ready_groups(now_ms);
    }

    /// Retries, sweeps, flushes: what time brings.
    pub fn handle_tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.drop_void_links();
        self.subscriptions.drop_void();
        self.retry_due(now_ms);
        self.tick_conversations(now_ms);
        self.tick_groups(now_ms);
        self.run_ready_groups(now_ms);
        self.sweep();
        self.announce();
        if now_ms >= self.cursors_due_ms {
            self.cursors_due_ms = now_ms + CURSOR_FLUSH_MS;
            self.save_cursors();
            self.tick_heads(now_ms);
            self.tick_joining();
            self.flush_positions();
            self.reads.append(&mut self.failed_reads);
        }
        self.drain_backlog();
        self.supply_store();
        self.metrics.tenants_waiting.set(self.tenants.waiting() as u64);
        self.tick_rooms(now_ms);
        self.offline.handle_tick(now_ms);
        self.metrics.accounts.set(self.registry.account_count() as u64);
        self.metrics.sessions.set(self.registry.session_count() as u64);
        self.metrics.writes_outstanding.set(self.writes_outstanding as u64);
    }

    fn retry_due(&mut self, now_ms: u64) {
        for _ in 0..RETRIES_PER_TURN_MAX {
            match self.retries.peek() {
                Some(Reverse((due_ms, ..))) if *due_ms <= now_ms => {}
                _ => return,
            }
            if let Some(Reverse((_, index, generation))) = self.retries.pop() {
                self.handle_due(index, generation, now_ms);
            }
        }
    }

    /// Removes a few of the entries whose link is void. They are dead already; this frees their memory.
    fn sweep(&mut self) {
        let slots = self.registry.session_slots();
        for _ in 0..SWEEP_SESSIONS_PER_TICK.min(slots) {
            if self.sweep_from >= slots {
                self.sweep_from = 0;
            }
            let index = SessionIndex(self.sweep_from);
            self.sweep_from += 1;
            if let Some(session) = self.registry.session(index)
                && !self.links.contains_key(&session.link)
            {
                self.metrics.swept.increment();
                self.drop_session(index);
            }
        }
    }

    /// Hands the acknowledged positions that changed to the store.
    fn save_cursors(&mut self) {
        for slot in std::mem::take(&mut self.dirty) {
            let Some(session) = self.registry.session_mut(slot.index) else { continue };
            if session.generation() != slot.generation || !session.is_dirty() {
                continue;
            }
            session.set_dirty(false);
            let (device, acked, account) = (session.device.clone(), session.acked, session.account);
            if let Some(key) = self.key_of(account) {
                self.writes.push(Write::Cursor(Box::new(CursorSave { key, device, acked })));
            }
        }
    }

    fn key_of(&self, account: AccountIndex) -> Option<AccountKey> {
        let account = self.registry.account(account)?;
        let app = (*self.registry.app_name(account.app)).into();
        Some(AccountKey { hash: account.hash, app, account: account.name.clone() })
    }

    /// The link of a session, if pushes may go out on it.
    fn live_link(&self, link: LinkId) -> Option<&Arc<Link>> {
        self.links.get(&link).filter(|link| link.is_live())
    }

    fn finish(&mut self, credit: &Credit) {
        if credit.finish() {
            self.outbox.put(&credit.link, Weight::Answer, |out| credit.put(out));
        }
    }

    /// Writes collected since the last call.
    pub fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    /// Asks the store on somebody's behalf. False: too many wait for its answers.
    fn try_ask(&mut self, read: Read) -> bool {
        let may = self.questions_outstanding < QUESTIONS_OUTSTANDING_MAX;
        if may {
            self.questions_outstanding += 1;
            self.reads.push(read);
        }
        may
    }

    /// Reads collected since the last call.
    pub fn take_reads(&mut self) -> Vec<Read> {
        std::mem::take(&mut self.reads)
    }

    /// The store's queue was full: submits are refused, positions saved later by the next acknowledgement.
    pub fn handle_writes_refused(&mut self, writes: Vec<Write>) {
        for write in writes {
            self.take_back(write);
        }
        self.run_ready_groups(self.now_ms);
    }

    /// The store's queue was full: the reads wait.
    pub fn handle_reads_refused(&mut self, reads: Vec<Read>) {
        self.failed_reads.extend(reads);
    }

    /// From now on submits are refused as UNAVAILABLE; positions not saved yet are handed out.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.save_cursors();
        self.save_spreads();
        self.flush_positions();
        self.offline.flush();
    }

    /// True after `stop`.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// True when every submit has been answered.
    pub fn is_settled(&self) -> bool {
        self.writes_outstanding == 0
    }
}
