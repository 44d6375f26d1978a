//! What travels between the shard of a group and those of its members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use bytes::Bytes;
use moor_wire::client::GroupEvent;

use crate::group::MemberKey;
use crate::lease::ShardIndex;
use crate::outbox::Outbox;
use crate::shard::work::Work;
use crate::store::{AccountKey, Entry};

/// Entries of a group's timeline for the members on one shard.
#[derive(Debug)]
pub struct Spread {
    /// The group.
    pub key: Arc<AccountKey>,
    /// What the group's shard waits for.
    pub part: Arc<Part>,
    /// In the order of the timeline.
    pub entries: Arc<[SpreadEntry]>,
    /// The group's members on that shard.
    pub members: Arc<[MemberKey]>,
}

/// An entry on its way to the members.
#[derive(Clone, Debug)]
pub struct SpreadEntry {
    /// Its place in the group's timeline.
    pub sync_id: u64,
    /// What it is.
    pub entry: Entry,
    /// Who said it; of a change nobody.
    pub from: Box<str>,
    /// When it was accepted, wall clock.
    pub sent_at_ms: u64,
    /// An encoded `GroupDelivery`: what members are sent, and what their copies hold.
    pub body: Bytes,
    /// The change that it is.
    pub event: Option<Arc<GroupEvent>>,
}

impl SpreadEntry {
    /// Whether a member is told of it that is not there.
    pub fn is_told(&self, member: &MemberKey) -> bool {
        !member.is_muted && !self.is_quiet(member)
    }

    /// Whether no member need be told of it, or this one has said it.
    pub fn is_quiet(&self, member: &MemberKey) -> bool {
        self.entry.is_event() || *self.from == *member.account
    }
}

/// One shard's part of a round. Finished when everything it led to is on disk.
///
/// It is held by whatever is still to be done of it, and by the group's shard, which so can tell one that takes long from
/// one that was lost.
#[derive(Debug)]
pub struct Part {
    home: ShardIndex,
    key: Arc<AccountKey>,
    ticket: u64,
    remaining: AtomicU32,
    is_failed: AtomicBool,
}

impl Part {
    /// A part of the round `ticket` of a group of shard `home`, with one thing to do: to look at it.
    pub fn new(home: ShardIndex, key: Arc<AccountKey>, ticket: u64) -> Arc<Self> {
        Arc::new(Self { home, key, ticket, remaining: AtomicU32::new(1), is_failed: AtomicBool::new(false) })
    }

    /// One more thing to wait for.
    pub fn begin(&self) {
        self.remaining.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything of it is done, or has failed.
    pub fn is_over(&self) -> bool {
        self.remaining.load(Ordering::Acquire) == 0
    }

    /// Whether everything of it is done; false also where it was lost, `None` as long as somebody has it to do. For the
    /// group's shard alone.
    pub fn outcome(self: &Arc<Self>) -> Option<bool> {
        let is_left = Arc::strong_count(self) == 1;
        // Whoever let go of it meanwhile is seen to have finished it before.
        fence(Ordering::Acquire);
        match self.is_over() {
            true => Some(!self.is_failed.load(Ordering::Relaxed)),
            false => is_left.then_some(false),
        }
    }

    /// One thing is done, or cannot be. With the last one the group's shard is told.
    pub fn finish(&self, is_done: bool, outbox: &mut Outbox) {
        if !is_done {
            self.is_failed.store(true, Ordering::Relaxed);
        }
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            let is_done = !self.is_failed.load(Ordering::Relaxed);
            let work = Work::SpreadDone { key: self.key.clone(), ticket: self.ticket, is_done };
            // Lost when that shard's queue is full: it looks for itself when the round's time is over.
            drop(outbox.cross(self.home, work));
        }
    }
}
