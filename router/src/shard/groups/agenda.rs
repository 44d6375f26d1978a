//! When to look at which group, so that no tick walks them all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::GroupState;
use crate::store::AccountKey;

/// One entry for each group, at the first time that something is to be done about it, or would be if nothing happened
/// until then: looked at too early it is put in again.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeMap<(u64, u64), Arc<AccountKey>>,
    next_number: u64,
}

impl Agenda {
    /// A number for a new group, which tells apart those of one time.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A group is to be looked at by then.
    pub(super) fn wake(&mut self, state: &mut GroupState, at_ms: u64) {
        if at_ms < state.wake_ms {
            self.forget(state);
            state.wake_ms = at_ms;
            self.by_time.insert((at_ms, state.number), state.key.clone());
        }
    }

    /// A group leaves memory.
    pub(super) fn forget(&mut self, state: &GroupState) {
        self.by_time.remove(&(state.wake_ms, state.number));
    }

    /// How many groups stand here. For tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// The next group whose time has come.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<Arc<AccountKey>> {
        let next = self.by_time.first_entry().filter(|next| next.key().0 <= now_ms)?;
        Some(next.remove())
    }
}
