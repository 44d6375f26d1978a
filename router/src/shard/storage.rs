//! What each app's messages take in this shard, and whose messages are refused because it is as much as they may.
//!
//! The file has the sum (`store/usage.rs`); here is a copy that every answer of the store carries on, with what is on its
//! way beside it, so that nobody waits for the disk to be refused. Copies and changes of groups are counted and never
//! refused: the message that they stem from was accepted.

use moor_wire::Code;

use crate::registry::AppIndex;
use crate::shard::Shard;
use crate::store::{Stored, Submit};

/// For whoever is refused.
const DETAIL: &str = "the app's messages take as much as its storage_bytes";

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// By messages in the file.
    stored: u64,
    /// By those that the store has not answered.
    pending: u64,
}

/// What each app's messages take.
#[derive(Debug, Default)]
pub struct Storage {
    by_app: Vec<Taken>,
    /// True when some app's storage is limited.
    pub(super) is_limited: bool,
}

impl Storage {
    fn of(&mut self, app: AppIndex) -> &mut Taken {
        let at = usize::from(app.0);
        if at >= self.by_app.len() {
            self.by_app.resize(at + 1, Taken::default());
        }
        &mut self.by_app[at]
    }
}

impl Shard {
    /// Sets what each app's messages take, as the store had it when it was opened. Before anything is offered.
    pub fn set_usage(&mut self, usage: Vec<(Box<str>, u64)>) {
        for (app, bytes) in usage {
            self.change_stored(&app, bytes, 0);
        }
    }

    /// Retention removed messages beside commits.
    pub(super) fn handle_freed(&mut self, freed: &[(Box<str>, u64)]) {
        for (app, bytes) in freed {
            self.change_stored(app, 0, *bytes);
        }
    }

    /// Answers a message that there is no room for in its app's storage, and returns false.
    pub(super) fn has_room(&mut self, app: AppIndex, submit: &Submit) -> bool {
        if !self.storage.is_limited {
            return true;
        }
        let limit = self.apps.of(&submit.to.app).storage_bytes;
        let Taken { stored, pending } = *self.storage.of(app);
        if limit == 0 || stored + pending + submit.stored_bytes() <= limit {
            return true;
        }
        self.metrics.quota_refused.increment();
        let slot = self.arrival_apps.slot(&submit.to.app);
        self.metrics.usage.refused(slot);
        self.answer(submit, Code::Storage, None, DETAIL);
        false
    }

    /// A message was taken in, and will be answered.
    pub(super) fn note_pending(&mut self, app: AppIndex, submit: &Submit) {
        self.storage.of(app).pending += submit.stored_bytes();
    }

    /// It is answered, or was given up.
    pub(super) fn forget_pending(&mut self, submit: &Submit) {
        if let Some(app) = self.registry.app(&submit.to.app) {
            self.storage.of(app).pending -= submit.stored_bytes();
        }
    }

    /// It is in the file.
    pub(super) fn note_stored(&mut self, submit: &Submit, stored: Stored) {
        self.change_stored(&submit.to.app, submit.stored_bytes(), stored.freed_bytes);
    }

    fn change_stored(&mut self, app: &str, added: u64, removed: u64) {
        // More apps than are known have nothing that could be refused.
        let Some(index) = self.registry.intern_app(app) else { return };
        let taken = self.storage.of(index);
        debug_assert!(taken.stored + added >= removed, "{app}: {taken:?} + {added} - {removed}");
        taken.stored = (taken.stored + added).saturating_sub(removed);
        let slot = self.arrival_apps.slot(app);
        self.metrics.usage.change_stored(slot, added, removed);
    }

    /// What an app's messages take: in the file, and on their way. For tests.
    #[cfg(test)]
    pub(super) fn taken(&mut self, app: &str) -> (u64, u64) {
        let index = self.registry.intern_app(app).unwrap();
        let Taken { stored, pending } = *self.storage.of(index);
        (stored, pending)
    }
}
