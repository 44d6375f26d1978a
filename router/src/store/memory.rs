//! The embedded location store: the registry in memory behind [`LocationStore`].
//!
//! It completes everything at once. The shard of a single router works on its registry directly, because the
//! delivery state of a session lives in the same slot; this face is what an engine outside (Valkey, Redis)
//! must equal, and what the contract test below holds such an engine to.

use std::collections::VecDeque;

use crate::registry::{NewSession, Registry, SessionIndex};
use crate::store::{AccountKey, Full, LocationChange, LocationEvent, LocationStore, Whereabouts};

/// Locations of one process.
#[derive(Debug, Default)]
pub struct MemoryLocations {
    registry: Registry,
    events: VecDeque<LocationEvent>,
}

impl MemoryLocations {
    fn find(&self, key: &AccountKey) -> impl Iterator<Item = SessionIndex> + '_ {
        let account = self.registry.find(&key.app, &key.account, key.hash);
        account.into_iter().flat_map(|account| self.registry.sessions_of(account))
    }

    fn apply(&mut self, change: &LocationChange) {
        let (LocationChange::Arrived { key, handle, link, .. } | LocationChange::Left { key, handle, link }) =
            change;
        let known = self.find(key).find(|index| {
            self.registry
                .session(*index)
                .is_some_and(|session| session.handle == *handle && session.link == *link)
        });
        match change {
            LocationChange::Arrived { device, .. } if known.is_none() => {
                let Some(app) = self.registry.intern_app(&key.app) else { return };
                let account = self.registry.find_or_insert(app, &key.account, key.hash);
                self.registry.add_session(account, &NewSession { handle: *handle, link: *link, device });
            }
            LocationChange::Arrived { .. } => {}
            LocationChange::Left { .. } => {
                if let Some(index) = known {
                    self.registry.remove_session(index);
                }
            }
        }
    }
}

impl LocationStore for MemoryLocations {
    fn try_apply(&mut self, ticket: u64, batch: Vec<LocationChange>) -> Result<(), Full<LocationChange>> {
        for change in &batch {
            self.apply(change);
        }
        self.events.push_back(LocationEvent::Applied(ticket));
        Ok(())
    }

    fn try_find(&mut self, ticket: u64, key: &AccountKey) -> Result<(), Full<LocationChange>> {
        let sessions = self
            .find(key)
            .filter_map(|index| self.registry.session(index))
            .map(|session| Whereabouts {
                device: session.device.to_string(),
                handle: session.handle,
                link: session.link,
                acked: session.acked,
            })
            .collect();
        self.events.push_back(LocationEvent::Found { ticket, sessions });
        Ok(())
    }

    fn poll_event(&mut self) -> Option<LocationEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LinkId;
    use moor_wire::identity::account_hash;
    use moor_wire::session::SessionHandle;

    /// What any engine must do.
    fn holds_the_contract(store: &mut impl LocationStore) {
        let key =
            AccountKey { hash: account_hash("shop", "alice"), app: "shop".into(), account: "alice".into() };
        let arrived = |handle, link| LocationChange::Arrived {
            key: key.clone(),
            device: "phone".into(),
            handle: SessionHandle(handle),
            link: LinkId(link),
        };
        let left = |handle, link| LocationChange::Left {
            key: key.clone(),
            handle: SessionHandle(handle),
            link: LinkId(link),
        };
        let mut ticket = 0;
        let mut check = |batch: Vec<LocationChange>, mut expected: Vec<(u64, u32)>| {
            ticket += 2;
            store.try_apply(ticket, batch).unwrap();
            while store.poll_event() != Some(LocationEvent::Applied(ticket)) {}
            store.try_find(ticket + 1, &key).unwrap();
            let sessions = loop {
                if let Some(LocationEvent::Found { ticket: found, sessions }) = store.poll_event() {
                    assert_eq!(found, ticket + 1);
                    break sessions;
                }
            };
            let mut seen: Vec<_> = sessions.iter().map(|at| (at.handle.0, at.link.0)).collect();
            seen.sort_unstable();
            expected.sort_unstable();
            assert_eq!(seen, expected);
        };
        check(vec![arrived(1, 1), arrived(2, 1)], vec![(1, 1), (2, 1)]);
        // Announced again is the same entry; under another link it is another.
        check(vec![arrived(1, 1), arrived(1, 2)], vec![(1, 1), (2, 1), (1, 2)]);
        // A late "left" of the old link must not take the new one's entry.
        check(vec![left(1, 1)], vec![(2, 1), (1, 2)]);
        check(vec![left(1, 1), left(7, 7)], vec![(2, 1), (1, 2)]);
        check(vec![left(2, 1), left(1, 2)], vec![]);
    }

    #[test]
    fn memory_holds_the_contract() {
        holds_the_contract(&mut MemoryLocations::default());
    }
}
