//! Where sessions are, for whoever asks from outside: the trait, and the engine that comes with the router.
//!
//! A shard delivers from its registry, where a session's place shares a slot with what is in flight to it; no
//! message asks a store. LOOKUP does. The embedded engine answers it from that very registry, so that nothing
//! is kept twice. An engine apart, which other routers and services can read as well, is told of every
//! session that comes or goes, once per turn in one batch. KICK and PUSH_ACCOUNT ask nobody: they act through
//! links, and a router has only its own.

use moor_wire::internal::Location;
use moor_wire::session::SessionHandle;

use crate::lease::LinkId;
use crate::store::{AccountKey, Full, StoreError};

/// A change of whereabouts, as one shard tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum LocationChange {
    /// Nothing that this shard told before counts any more: it begins anew.
    Cleared,
    /// A session is there. Told again it is the same entry; under another link it is another.
    Arrived {
        /// The account.
        key: AccountKey,
        /// The link that announced it.
        link: LinkId,
        /// Where it is. What it had acknowledged is as of now and not told again.
        location: Location,
    },
    /// It is gone. Only the entry of that session under that link goes, never its successor.
    Left {
        /// The account.
        key: AccountKey,
        /// The link that announced it.
        link: LinkId,
        /// The session at its gateway.
        session: SessionHandle,
    },
    /// A link's lease ended, and with it every entry under it.
    Voided {
        /// The link.
        link: LinkId,
    },
}

/// A question: where is this account?
#[derive(Clone, Debug)]
pub struct Find {
    /// Comes back with the answer.
    pub ticket: u64,
    /// The account.
    pub key: AccountKey,
}

/// What a location store tells its shard.
#[derive(Debug)]
pub enum LocationEvent {
    /// The answer to a [`Find`].
    Found {
        /// Its ticket.
        ticket: u64,
        /// The account's sessions, or why nobody knows. Of more than [`moor_wire::limits::LOOKUP_SESSIONS_MAX`] so
        /// many are told.
        outcome: Result<Vec<Location>, StoreError>,
    },
    /// The store lost what it was told. The shard tells everything again, beginning with `Cleared`.
    Lost,
}

/// What the asking shard's own registry says of an account.
pub type Here<'a> = &'a dyn Fn(&AccountKey) -> Vec<Location>;

/// Answers where sessions are. One instance per shard; soft state, told again from the registries.
///
/// Promises: changes apply in the order given; a `Find` handed over after a batch of changes sees them; every
/// `Find` is answered once; nobody waits for it.
pub trait LocationStore {
    /// True when changes shall be told. Asked once. False: `here` is all it knows and needs.
    fn wants_changes(&self) -> bool;
    /// Hands a turn's changes over. Refused, they come again with the next turn's behind them.
    fn try_apply(&mut self, batch: Vec<LocationChange>) -> Result<(), Full<LocationChange>>;
    /// Hands a turn's questions over. `here` may be asked during the call; a store apart has no need to.
    fn try_find(&mut self, batch: Vec<Find>, here: Here<'_>) -> Result<(), Full<Find>>;
    /// Where events arrive.
    fn events(&self) -> flume::Receiver<LocationEvent>;
}

/// The engine that comes with the router: a view of the shard's registry.
#[derive(Debug)]
pub struct Embedded {
    sender: flume::Sender<LocationEvent>,
    events: flume::Receiver<LocationEvent>,
}

impl Default for Embedded {
    fn default() -> Self {
        // Bounded by the shard's questions, of which so many may be open and no more.
        let (sender, events) = flume::unbounded();
        Self { sender, events }
    }
}

impl LocationStore for Embedded {
    fn wants_changes(&self) -> bool {
        false
    }

    fn try_apply(&mut self, _: Vec<LocationChange>) -> Result<(), Full<LocationChange>> {
        Ok(())
    }

    fn try_find(&mut self, batch: Vec<Find>, here: Here<'_>) -> Result<(), Full<Find>> {
        for Find { ticket, key } in batch {
            // Fails when the shard has stopped listening: nobody waits for it.
            self.sender.send(LocationEvent::Found { ticket, outcome: Ok(here(&key)) }).ok();
        }
        Ok(())
    }

    fn events(&self) -> flume::Receiver<LocationEvent> {
        self.events.clone()
    }
}
