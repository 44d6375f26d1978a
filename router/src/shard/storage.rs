//! What each app's messages take, and whose messages are refused because it is as much as they may.
//!
//! The files have the sums (`store/usage.rs`); here are copies that every answer of the store carries on. Beside them
//! there is one number for each app, which all shards share: what is stored, what is on its way, and what copies of
//! groups' entries will take. So nobody waits for the disk to be refused, and a copy is never refused: there was room
//! for it when its entry was accepted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::registry::AppIndex;
use crate::shard::Shard;
use crate::store::{Origin, Stored, Submit};

/// For whoever is refused.
pub const DETAIL: &str = "the app's messages take as much as its storage_bytes";

/// What an app's messages take in all shards.
#[derive(Clone, Debug, Default)]
struct Total(Arc<AtomicU64>);

impl Total {
    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Adds, where it does not become more than `limit`; 0: in any case.
    fn try_add(&self, bytes: u64, limit: u64) -> bool {
        let fits = |taken: u64| Some(taken + bytes).filter(|taken| limit == 0 || *taken <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// What apps' messages take in all shards, by the app's name. Looked up once by each shard.
#[derive(Debug, Default)]
pub struct Totals(Mutex<HashMap<Box<str>, Total>>);

impl Totals {
    fn of(&self, app: &str) -> Total {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(app.into()).or_default().clone()
    }

    /// What a shard's file has, before anything is offered to any shard.
    pub fn add(&self, usage: &[(Box<str>, u64)]) {
        for (app, bytes) in usage {
            self.of(app).add(*bytes);
        }
    }

    /// How many apps it knows. For tests.
    #[cfg(test)]
    pub fn apps(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What an app's messages take. For tests.
    #[cfg(test)]
    pub fn taken(&self, app: &str) -> u64 {
        self.of(app).0.load(Ordering::Relaxed)
    }
}

/// What copies of a group's entries will take in its members' timelines: charged since the entries were accepted.
#[derive(Debug, Default)]
pub struct Owed {
    /// Its app's; `None` until an entry is stored, so that a group that somebody makes up leaves nothing behind.
    total: Option<Total>,
    bytes: u64,
}

impl Owed {
    /// So much of it is in the members' timelines.
    pub fn settle(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        if let Some(total) = &self.total {
            total.remove(bytes);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.settle(self.bytes);
    }
}

#[derive(Debug)]
struct Taken {
    /// By messages in this shard's file.
    stored: u64,
    /// By those that its store has not answered, and by the copies that they lead to.
    pending: u64,
    total: Total,
}

/// What each app's messages take.
#[derive(Debug, Default)]
pub struct Storage {
    by_app: Vec<Option<Taken>>,
    totals: Arc<Totals>,
    /// True when some app's storage is limited.
    pub(super) is_limited: bool,
}

impl Storage {
    fn of(&mut self, app: AppIndex, name: &str) -> &mut Taken {
        let at = usize::from(app.0);
        if at >= self.by_app.len() {
            self.by_app.resize_with(at + 1, || None);
        }
        let totals = &self.totals;
        self.by_app[at].get_or_insert_with(|| Taken { stored: 0, pending: 0, total: totals.of(name) })
    }

    /// An entry more of a group is stored, whose copies will take so much.
    pub(super) fn owe(&self, owed: &mut Owed, app: &str, bytes: u64) {
        owed.total.get_or_insert_with(|| self.totals.of(app)).add(bytes);
        owed.bytes += bytes;
    }
}

/// What is charged for a message while the store has it.
fn pending_bytes(submit: &Submit) -> u64 {
    match submit.origin {
        // Charged with the entry that it is a copy of, until all copies of that are stored.
        Origin::Spread { .. } => 0,
        _ => submit.stored_bytes() + submit.copies_bytes,
    }
}

impl Shard {
    /// Sets what each app's messages take, as the store had it when it was opened, and the totals that have it already.
    /// Before anything is offered.
    pub fn set_usage(&mut self, usage: Vec<(Box<str>, u64)>, totals: Arc<Totals>) {
        self.storage.totals = totals;
        for (app, bytes) in usage {
            let Some(index) = self.registry.intern_app(&app) else { return };
            self.storage.of(index, &app).stored = bytes;
            let slot = self.arrival_apps.slot(&app);
            self.metrics.usage.change_stored(slot, bytes, 0);
        }
    }

    /// Retention removed messages beside commits.
    pub(super) fn handle_freed(&mut self, freed: &[(Box<str>, u64)]) {
        for (app, bytes) in freed {
            self.change_stored(app, 0, *bytes);
        }
    }

    /// Charges a message that is taken in, until it is answered. False: there is no room for it in its app's storage.
    pub(super) fn take_room(&mut self, app: AppIndex, submit: &Submit) -> bool {
        let is_refusable = !matches!(submit.origin, Origin::Change { grows: false });
        let limit = match self.storage.is_limited && is_refusable {
            true => self.apps.of(&submit.to.app).storage_bytes,
            false => 0,
        };
        let bytes = pending_bytes(submit);
        let taken = self.storage.of(app, &submit.to.app);
        // A copy, which is charged already, is taken however full it is.
        if bytes > 0 && !taken.total.try_add(bytes, limit) {
            self.metrics.quota_refused.increment();
            let slot = self.arrival_apps.slot(&submit.to.app);
            self.metrics.usage.refused(slot);
            return false;
        }
        taken.pending += bytes;
        true
    }

    /// It is answered, or was given up.
    pub(super) fn forget_pending(&mut self, submit: &Submit) {
        if let Some(app) = self.registry.app(&submit.to.app) {
            let bytes = pending_bytes(submit);
            let taken = self.storage.of(app, &submit.to.app);
            taken.pending -= bytes;
            taken.total.remove(bytes);
        }
    }

    /// It is in the file.
    pub(super) fn note_stored(&mut self, submit: &Submit, stored: Stored) {
        self.change_stored(&submit.to.app, submit.stored_bytes(), stored.freed_bytes);
    }

    fn change_stored(&mut self, app: &str, added: u64, removed: u64) {
        // More apps than are known have nothing that could be refused.
        let Some(index) = self.registry.intern_app(app) else { return };
        let taken = self.storage.of(index, app);
        debug_assert!(taken.stored + added >= removed, "{app}: {taken:?} + {added} - {removed}");
        let before = taken.stored;
        taken.stored = (before + added).saturating_sub(removed);
        taken.total.add(taken.stored.saturating_sub(before));
        taken.total.remove(before.saturating_sub(taken.stored));
        let slot = self.arrival_apps.slot(app);
        self.metrics.usage.change_stored(slot, added, removed);
    }

    /// What an app's messages take: in the file, and on their way. For tests.
    #[cfg(test)]
    pub(super) fn taken(&mut self, app: &str) -> (u64, u64) {
        let index = self.registry.intern_app(app).unwrap();
        let taken = self.storage.of(index, app);
        (taken.stored, taken.pending)
    }
}
