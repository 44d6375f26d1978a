//! What a shard tells and asks the location store.
//!
//! A store that wants changes is told of each in the turn it happens. Where it lost them, or refused so many
//! that they are not kept for it any longer, it is told everything anew in a walk over the registry, a slice
//! per tick, while changes go on beside it.

use std::collections::HashMap;
use std::sync::Arc;

use moor_wire::Code;
use moor_wire::internal::{Location, LookupResult, Verb, put_control};
use moor_wire::limits::LOOKUP_SESSIONS_MAX;

use crate::lease::Link;
use crate::limits::{ANNOUNCE_SESSIONS_PER_TICK, FINDS_OUTSTANDING_MAX, LOCATION_CHANGES_WAITING_MAX};
use crate::outbox::Weight;
use crate::registry::{Session, SessionIndex};
use crate::shard::Shard;
use crate::store::location::{Find, LocationChange, LocationEvent};
use crate::store::{AccountKey, Extent};

/// A LOOKUP whose answer lacks the sessions.
#[derive(Debug)]
struct Asker {
    link: Arc<Link>,
    cookie: u64,
    extent: Option<Extent>,
    code: Code,
}

/// The shard's side of its location store.
#[derive(Debug, Default)]
pub struct Locations {
    /// True when the store wants changes.
    is_told: bool,
    changes: Vec<LocationChange>,
    /// The next slot of the walk that tells everything, while there is one.
    announce_from: Option<u32>,
    finds: Vec<Find>,
    asked: HashMap<u64, Asker>,
    next_ticket: u64,
}

impl Shard {
    /// The store wants to be told of changes, from the first one on.
    pub fn tell_locations(&mut self) {
        self.locations.is_told = true;
        self.tell_anew();
    }

    fn tell_anew(&mut self) {
        if self.locations.is_told {
            self.locations.changes = vec![LocationChange::Cleared];
            self.locations.announce_from = (self.registry.session_count() > 0).then_some(0);
        }
    }

    /// Asks where an account's sessions are, to answer a LOOKUP of which the rest is known.
    pub(super) fn find_sessions(
        &mut self,
        link: Arc<Link>,
        cookie: u64,
        key: AccountKey,
        extent: Option<Extent>,
        code: Code,
    ) {
        let asker = Asker { link, cookie, extent, code };
        if self.locations.asked.len() >= FINDS_OUTSTANDING_MAX {
            self.answer_lookup(&asker, Vec::new(), Code::Overloaded);
            return;
        }
        let ticket = self.locations.next_ticket;
        self.locations.next_ticket += 1;
        self.locations.asked.insert(ticket, asker);
        self.locations.finds.push(Find { ticket, key });
    }

    /// Too much waits for the account's shard.
    pub(super) fn refuse_lookup(&mut self, link: Arc<Link>, cookie: u64) {
        let asker = Asker { link, cookie, extent: None, code: Code::Overloaded };
        self.answer_lookup(&asker, Vec::new(), Code::Overloaded);
    }

    fn answer_lookup(&mut self, asker: &Asker, sessions: Vec<Location>, code: Code) {
        let cookie = asker.cookie;
        // Nothing stored yet reads as 0 and 0.
        let (head, floor) = asker
            .extent
            .filter(|extent| extent.head > 0)
            .map_or((0, 0), |extent| (extent.head, extent.floor));
        let result = LookupResult { cookie, code: code.into(), sessions, head, floor };
        self.outbox.put(&asker.link, Weight::Answer, |out| put_control(out, Verb::LookupResult, &result));
    }

    /// Takes what the store has to say.
    pub fn handle_location(&mut self, event: LocationEvent) {
        match event {
            LocationEvent::Found { ticket, outcome } => {
                let Some(asker) = self.locations.asked.remove(&ticket) else { return };
                let (sessions, code) = match outcome {
                    Ok(mut sessions) if sessions.len() > LOOKUP_SESSIONS_MAX => {
                        self.metrics.lookups_cut.increment();
                        sessions.truncate(LOOKUP_SESSIONS_MAX);
                        (sessions, if asker.code == Code::Ok { Code::Limit } else { asker.code })
                    }
                    Ok(sessions) => (sessions, asker.code),
                    Err(error) => {
                        self.metrics.location_errors.increment();
                        tracing::error!(%error, "the location store refused a question");
                        (Vec::new(), Code::Unavailable)
                    }
                };
                self.answer_lookup(&asker, sessions, code);
            }
            LocationEvent::Lost => self.tell_anew(),
        }
    }

    /// Sessions of an account under links that are not void, as this registry knows them.
    pub fn locate(&self, key: &AccountKey) -> Vec<Location> {
        let account = self.registry.find(&key.app, &key.account, key.hash);
        account
            .into_iter()
            .flat_map(|index| self.registry.sessions_of(index))
            .filter_map(|index| self.location_of(self.registry.session(index)?))
            .collect()
    }

    fn location_of(&self, session: &Session) -> Option<Location> {
        let gateway = self.links.get(&session.link).filter(|link| !link.is_void())?;
        Some(Location {
            device: session.device.to_string(),
            gateway: gateway.node.to_string(),
            epoch: gateway.epoch,
            worker: gateway.worker,
            session: session.handle.0,
            internal_address: gateway.internal_address.to_string(),
            acked: session.acked,
        })
    }

    /// A session is there, or goes by another link from now on.
    pub(super) fn tell_arrived(&mut self, index: SessionIndex) {
        if self.locations.is_told {
            let change = self.arrived(index);
            self.locations.changes.extend(change);
        }
    }

    fn arrived(&self, index: SessionIndex) -> Option<LocationChange> {
        let session = self.registry.session(index)?;
        let (key, location) = (self.key_of(session.account)?, self.location_of(session)?);
        Some(LocationChange::Arrived { key, link: session.link, location })
    }

    /// A session is about to go, or to change its link.
    pub(super) fn tell_left(&mut self, index: SessionIndex) {
        if self.locations.is_told {
            let change = self.left(index);
            self.locations.changes.extend(change);
        }
    }

    fn left(&self, index: SessionIndex) -> Option<LocationChange> {
        // What was announced on a link that is gone went with it.
        let session =
            self.registry.session(index).filter(|session| self.links.contains_key(&session.link))?;
        let key = self.key_of(session.account)?;
        Some(LocationChange::Left { key, link: session.link, session: session.handle })
    }

    /// Forgets void links.
    pub(super) fn drop_void_links(&mut self) {
        let locations = &mut self.locations;
        self.links.retain(|id, link| {
            if locations.is_told && link.is_void() {
                locations.changes.push(LocationChange::Voided { link: *id });
            }
            !link.is_void()
        });
    }

    /// Goes on with telling everything, once the store has taken what it was told.
    pub(super) fn announce(&mut self) {
        let Some(from) = self.locations.announce_from.filter(|_| self.locations.changes.is_empty()) else {
            return;
        };
        let slots = self.registry.session_slots();
        let to = from.saturating_add(ANNOUNCE_SESSIONS_PER_TICK).min(slots);
        for slot in from..to {
            self.tell_arrived(SessionIndex(slot));
        }
        self.locations.announce_from = (to < slots).then_some(to);
    }

    /// Changes collected since the last call.
    pub fn take_changes(&mut self) -> Vec<LocationChange> {
        std::mem::take(&mut self.locations.changes)
    }

    /// Questions collected since the last call.
    pub fn take_finds(&mut self) -> Vec<Find> {
        std::mem::take(&mut self.locations.finds)
    }

    /// The store's queue was full: the changes wait, unless they have become too many.
    pub fn handle_changes_refused(&mut self, mut refused: Vec<LocationChange>) {
        refused.append(&mut self.locations.changes);
        self.locations.changes = refused;
        if self.locations.changes.len() > LOCATION_CHANGES_WAITING_MAX {
            self.tell_anew();
        }
    }

    /// The store's queue was full: whoever asked may ask again.
    pub fn handle_finds_refused(&mut self, finds: Vec<Find>) {
        for find in finds {
            if let Some(asker) = self.locations.asked.remove(&find.ticket) {
                self.answer_lookup(&asker, Vec::new(), Code::Overloaded);
            }
        }
    }
}
