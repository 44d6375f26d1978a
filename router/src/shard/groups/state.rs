//! What a shard keeps of its groups in memory.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use moor_wire::client::GroupEvent;
use prost::Message as _;

use super::agenda::Agenda;
use crate::group::{Group, MemberKey};
use crate::limits::{
    CURSOR_FLUSH_MS, GROUP_IDLE_MS, SPREAD_BYTES_MAX, SPREAD_ENTRIES_MAX, SPREAD_QUEUE_BYTES_MAX,
    SPREAD_QUEUES_BYTES_MAX,
};
use crate::shard::spread::{Part, SpreadEntry};
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
        match self {
            Self::Submit(submit) => submit.payload.len(),
            Self::Ask(ask) => ask.request.encoded_len(),
            _ => 0,
        }
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
    /// What each shard was handed.
    pub(super) parts: Vec<Arc<Part>>,
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
    /// When somebody last asked for it.
    pub(super) used_ms: u64,
    /// True as long as nobody has: it is here to be spread.
    pub(super) is_resumed: bool,
    /// What the store is to know of `spread` by then.
    pub(super) save_ms: u64,
    /// Where it stands in the agenda; `u64::MAX`: not at all.
    pub(super) wake_ms: u64,
    /// See [`Agenda::number`].
    pub(super) number: u64,
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
    fn new(key: Arc<AccountKey>, number: u64, all_queued: Rc<Cell<usize>>, is_resumed: bool) -> Self {
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
            is_resumed,
            save_ms: 0,
            wake_ms: u64::MAX,
            number,
            lists: Vec::new(),
            all_queued,
            owed: Owed::default(),
        }
    }

    /// When something is to be done about it, if nothing happens until then.
    pub(super) fn due_ms(&self, now_ms: u64) -> u64 {
        let save_ms = (self.saved < self.spread).then_some(self.save_ms);
        let round_ms = self.round.as_ref().map(|round| round.due_ms);
        let retry_ms = Some(self.retry_ms).filter(|retry_ms| *retry_ms > 0);
        let change_ms = self.changing.as_ref().filter(|c| c.submit.is_some()).map(|c| c.due_ms);
        // One that was not idle when it could have left is looked at again.
        let idle_ms = Some(self.used_ms + GROUP_IDLE_MS).filter(|idle_ms| *idle_ms > now_ms);
        let idle_ms = idle_ms.unwrap_or(now_ms + GROUP_IDLE_MS);
        [save_ms, round_ms, retry_ms, change_ms].into_iter().flatten().fold(idle_ms, u64::min)
    }

    /// Everything up to `through` has reached the members, where copies took so many bytes.
    pub(super) fn spread_to(&mut self, through: u64, copied_bytes: u64, now_ms: u64) {
        if self.saved == self.spread {
            self.save_ms = now_ms + CURSOR_FLUSH_MS;
        }
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

    /// Whether it may leave memory.
    pub(super) fn is_unused(&self, now_ms: u64) -> bool {
        let is_dissolved = self.group.as_ref().is_some_and(|group| group.is_dissolved);
        !is_dissolved && self.is_idle() && (self.is_resumed || now_ms >= self.used_ms + GROUP_IDLE_MS)
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
    pub(super) agenda: Agenda,
    /// How many of them nobody has asked for.
    pub(super) resumed: usize,
    /// Where the search goes on for groups that a former process left unspread, unless a page is being read.
    pub(super) unspread_after: Option<i64>,
    /// Groups whose change has ended, to go on with.
    pub(super) ready: Vec<AccountKey>,
    /// Members from which on messages are not copied.
    pub read_threshold: usize,
    pub(super) next_ticket: u64,
    pub(super) next_change: u64,
    pub(super) histories_outstanding: usize,
    /// Bytes of messages and requests that wait for their groups.
    pub(super) waiting_bytes: usize,
    /// Bytes in the groups' queues.
    pub(super) queued: Rc<Cell<usize>>,
}

impl Groups {
    /// None, with the usual threshold.
    pub fn new() -> Self {
        Self {
            states: HashMap::new(),
            agenda: Agenda::default(),
            resumed: 0,
            unspread_after: None,
            ready: Vec::new(),
            read_threshold: crate::limits::GROUP_READ_THRESHOLD_DEFAULT as usize,
            next_ticket: 0,
            next_change: 0,
            histories_outstanding: 0,
            waiting_bytes: 0,
            queued: Rc::default(),
        }
    }

    /// A group that nothing is known of yet.
    pub(super) fn open(&mut self, key: Arc<AccountKey>, is_resumed: bool) {
        let number = self.agenda.number();
        let state = GroupState::new(key.clone(), number, self.queued.clone(), is_resumed);
        self.resumed += usize::from(is_resumed);
        self.states.insert(key, state);
    }

    /// A group leaves memory.
    pub(super) fn close(&mut self, key: &AccountKey) {
        if let Some(state) = self.states.remove(key) {
            self.agenda.forget(&state);
            self.resumed -= usize::from(state.is_resumed);
        }
    }

    /// Looks at a group when something is to be done about it, at the latest.
    pub(super) fn refile(&mut self, key: &AccountKey, now_ms: u64) {
        if let Some(state) = self.states.get_mut(key) {
            let due_ms = state.due_ms(now_ms);
            self.agenda.wake(state, due_ms);
        }
    }
}

#[cfg(test)]
impl Groups {
    /// How many are in memory.
    pub fn loaded(&self) -> usize {
        self.states.len()
    }

    /// How many stand in the agenda.
    pub fn filed(&self) -> usize {
        self.agenda.len()
    }

    /// Whether entries of a group are on their way to its members.
    pub fn is_spreading(&self, key: &AccountKey) -> bool {
        self.states.get(key).is_some_and(|state| state.round.is_some() || state.spread < state.head)
    }

    /// One without members, as if it had been read.
    pub fn open_empty(&mut self, key: AccountKey, now_ms: u64) {
        let key = Arc::new(key);
        self.open(key.clone(), false);
        if let Some(state) = self.states.get_mut(&key) {
            (state.is_loaded, state.group, state.used_ms) = (true, Some(Group::default()), now_ms);
        }
        self.refile(&key, now_ms);
    }
}
