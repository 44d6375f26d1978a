//! Which app has which place in the meters. The first apps get one each, all others share one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use crate::limits::ARRIVAL_APPS_MAX;

/// What metrics call the apps without a place of their own.
pub const OTHER: &str = "(other)";

/// A place in every shard's meter; 0 is that of all apps without one of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub usize);

impl Slot {
    /// All apps without a place of their own.
    pub const OTHER: Self = Self(0);
}

/// The table of places, one for all shards. Nothing is ever removed.
#[derive(Debug, Default)]
pub struct Apps(Mutex<Vec<Arc<str>>>);

impl Apps {
    /// With places for these apps.
    pub fn new<'a>(apps: impl IntoIterator<Item = &'a str>) -> Self {
        let table = Self::default();
        for app in apps {
            table.find_or_insert(app);
        }
        table
    }

    fn names(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All apps with a place; the first one's is 1.
    pub fn all(&self) -> Vec<Arc<str>> {
        self.names().clone()
    }

    /// An app's place. Locks: for shards [`LocalApps`] asks once.
    pub fn find_or_insert(&self, app: &str) -> Slot {
        // The others' own name, as metrics show it: an app called so is one of them.
        if app == OTHER {
            return Slot::OTHER;
        }
        let mut names = self.names();
        if let Some(position) = names.iter().position(|name| &**name == app) {
            return Slot(position + 1);
        }
        if names.len() >= ARRIVAL_APPS_MAX {
            return Slot::OTHER;
        }
        names.push(app.into());
        Slot(names.len())
    }
}

/// A shard's copy of the table.
#[derive(Debug)]
pub struct LocalApps {
    apps: Arc<Apps>,
    known: HashMap<Arc<str>, Slot>,
    /// True when the table is full and all of it is here: an app that is not has no place.
    is_complete: bool,
}

impl LocalApps {
    /// An empty copy.
    pub fn new(apps: Arc<Apps>) -> Self {
        Self { apps, known: HashMap::new(), is_complete: false }
    }

    /// An app's place.
    pub fn slot(&mut self, app: &str) -> Slot {
        if let Some(slot) = self.known.get(app) {
            return *slot;
        }
        if self.is_complete {
            return Slot::OTHER;
        }
        let slot = self.apps.find_or_insert(app);
        let names = self.apps.all();
        self.is_complete = names.len() >= ARRIVAL_APPS_MAX;
        self.known =
            names.into_iter().enumerate().map(|(position, name)| (name, Slot(position + 1))).collect();
        slot
    }
}
