//! What a shard keeps of its groups in memory.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use moor_wire::client::GroupEvent;

use crate::group::{Group, MemberKey};
use crate::limits::{SPREAD_BYTES_MAX, SPREAD_ENTRIES_MAX, SPREAD_QUEUE_BYTES_MAX, SPREAD_QUEUES_BYTES_MAX};
use crate::shard::spread::SpreadEntry;
use crate::shard::storage::Owed;
use crate::shard::work::{GroupAsk, PullAsk};
use crate::store::{AccountKey, Origin, Submit};

/// What waits until a group is known, or its change written.
#[derive(Debug)]
pub(super) enum Waiting {
    Submit(Box<Submit>),
    Ask(Box<GroupAsk>),
    Pull(Box<PullAsk>),
    Mute {
        member: Box<str>,
        is_muted: bool,
    },
    /// Only that it is loaded, and spread if need be.
    Look,
}

impl Waiting {
    pub(super) fn bytes(&self) -> usize {
        if let Self::Submit(submit) = self { submit.payload.len() } else { 0 }
    }
}

/// A change on its way to the disk.
#[derive(Debug)]
pub(super) struct Changing {
    pub(super) origin: Origin,
    pub(super) id: u64,
    pub(super) event: Arc<GroupEvent>,
    /// Waits until the shards of those who are added have said that there is room for them.
    pub(super) submit: Option<Box<Submit>>,
    pub(super) ticket: u64,
    /// Shards that have not said so.
    pub(super) waiting: usize,
    pub(super) due_ms: u64,
}

/// Entries on their way to the members.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) ticket: u64,
    pub(super) through: u64,
    /// Shards that have not confirmed.
    pub(super) waiting: usize,
    pub(super) is_failed: bool,
    pub(super) due_ms: u64,
    /// What the copies take that it leads to.
    pub(super) copied_bytes: u64,
}

/// One group.
#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) key: Arc<AccountKey>,
    /// `None`: not read yet, or there is none.
    pub(super) group: Option<Group>,
    pub(super) is_loaded: bool,
    /// How many groups its app has here; known where a new one was asked for.
    pub(super) app_groups: Option<u64>,
    pub(super) head: u64,
    pub(super) floor: u64,
    /// Everything up to here has reached the members.
    pub(super) spread: u64,
    /// What the store knows of that.
    pub(super) saved: u64,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) changing: Option<Changing>,
    /// Entries behind the round, without a gap; what does not fit is read from the store in its time.
    pub(super) queue: VecDeque<SpreadEntry>,
    pub(super) queue_bytes: usize,
    pub(super) is_reading: bool,
    pub(super) round: Option<Round>,
    /// After a failed round: not before.
    pub(super) retry_ms: u64,
    pub(super) used_ms: u64,
    /// The members by shard; empty: to be made.
    pub(super) lists: Vec<Arc<[MemberKey]>>,
    /// Bytes in the queues of all groups.
    pub(super) all_queued: Rc<Cell<usize>>,
    /// What copies of entries behind `spread` will take.
    pub(super) owed: Owed,
}

impl Drop for GroupState {
    fn drop(&mut self) {
        self.clear_queue();
    }
}

impl GroupState {
    pub(super) fn new(key: Arc<AccountKey>, all_queued: Rc<Cell<usize>>, owed: Owed) -> Self {
        Self {
            key,
            group: None,
            is_loaded: false,
            app_groups: None,
            head: 0,
            floor: 1,
            spread: 0,
            saved: 0,
            waiting: VecDeque::new(),
            changing: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            is_reading: false,
            round: None,
            retry_ms: 0,
            used_ms: 0,
            lists: Vec::new(),
            all_queued,
            owed,
        }
    }

    /// Everything up to `through` has reached the members, where copies took so many bytes.
    pub(super) fn spread_to(&mut self, through: u64, copied_bytes: u64) {
        self.spread = self.spread.max(through);
        // What was owed is about what it took: it ends with the last entry.
        self.owed.settle(if self.spread >= self.head { u64::MAX } else { copied_bytes });
    }

    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.count_queued(0);
    }

    pub(super) fn count_queued(&mut self, bytes: usize) {
        self.all_queued.set(self.all_queued.get() + bytes - self.queue_bytes);
        self.queue_bytes = bytes;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_loaded
            && self.waiting.is_empty()
            && self.changing.is_none()
            && self.round.is_none()
            && !self.is_reading
            && (self.group.is_none() || self.spread >= self.head)
    }

    pub(super) fn enqueue(&mut self, entry: SpreadEntry) {
        let behind = self.queue.back().map(|last| last.sync_id);
        let behind = behind.or(self.round.as_ref().map(|round| round.through)).unwrap_or(self.spread);
        let bytes = entry.body.len();
        if entry.sync_id == behind + 1
            && !self.is_reading
            && self.queue_bytes + bytes <= SPREAD_QUEUE_BYTES_MAX
            && self.all_queued.get() + bytes <= SPREAD_QUEUES_BYTES_MAX
        {
            self.count_queued(self.queue_bytes + bytes);
            self.queue.push_back(entry);
        }
    }

    /// The next entries, if they are at hand.
    pub(super) fn take_entries(&mut self) -> Vec<SpreadEntry> {
        if self.queue.front().is_some_and(|first| first.sync_id != self.spread + 1) {
            self.clear_queue();
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < SPREAD_ENTRIES_MAX
            && bytes < SPREAD_BYTES_MAX
            && let Some(entry) = self.queue.pop_front()
        {
            bytes += entry.body.len();
            entries.push(entry);
        }
        self.count_queued(self.queue_bytes - bytes);
        entries
    }
}

/// The groups of a shard.
#[derive(Debug)]
pub struct Groups {
    pub(super) states: HashMap<Arc<AccountKey>, GroupState>,
    /// Members from which on messages are not copied.
    pub read_threshold: usize,
    pub(super) next_ticket: u64,
    pub(super) next_change: u64,
    pub(super) histories_outstanding: usize,
    /// Payload bytes of messages that wait for their groups.
    pub(super) waiting_bytes: usize,
    /// Bytes in the groups' queues.
    pub(super) queued: Rc<Cell<usize>>,
    /// Time of the turn: answers are given in places that do not know it.
    pub now_ms: u64,
}

impl Groups {
    /// None, with the usual threshold.
    pub fn new() -> Self {
        Self {
            states: HashMap::new(),
            read_threshold: crate::limits::GROUP_READ_THRESHOLD_DEFAULT as usize,
            next_ticket: 0,
            next_change: 0,
            histories_outstanding: 0,
            waiting_bytes: 0,
            queued: Rc::default(),
            now_ms: 0,
        }
    }
}
